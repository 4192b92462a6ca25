/** A fleet: equal processes that share a named file of rings and leases. */

import { closeSync } from "node:fs";
import { shown } from "../check.ts";
import {
  FleetClosedError,
  FleetGeometryError,
  FleetNotFoundError,
  InvalidConfigError,
  ResourceError,
} from "../errors.ts";
import { openDirectory } from "../native/directory.ts";
import type { FleetPlace } from "../native/fleet-failure.ts";
import type { FleetGeometry } from "../native/fleet-geometry.ts";
import { createFleetMemory, FleetHandle, type FleetMember } from "../native/fleet.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { checkSizes, differences, type FleetSizes, withDefaults } from "./options.ts";
import { Ring } from "./ring.ts";
import { Wake } from "./wake.ts";

export interface FleetOptions extends FleetSizes {
  /** 1-64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit. */
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. Made when it is absent. */
  directory?: string | undefined;
  /** No file: all joins of that name in this thread share it, until the last has left. Nobody can observe it. */
  memory?: boolean | undefined;
}

/** Which fleet is observed. */
export interface FleetObserveOptions {
  name: string;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string | undefined;
}

/** Times a join looks again at a fleet whose geometry it takes over. */
const ATTEMPTS = 20;

/**
 * Membership in a fleet. The same object serves events and leases.
 *
 *     await using fleet = await Fleet.join({ name: "shop", rings: { events: {} } });
 *     fleet.ring("events").publish("hello");
 */
export class Fleet implements AsyncDisposable {
  readonly name: string;
  /** Whether it only looks: no member, nothing is written. */
  readonly isObserver: boolean;
  /** Of the file: the next one of that name has a higher one. */
  readonly epoch: number;
  /** Own place; -1 for an observer. */
  readonly index: number;
  /** Differs between two members that had one index; 0 for an observer. */
  readonly incarnation: number;
  /** @internal */
  readonly geometry: FleetGeometry;
  /** @internal */
  readonly wake: Wake;
  /** @internal Its methods throw {@link FleetClosedError} once the fleet is left. */
  readonly handle: FleetHandle;
  readonly #rings = new Map<string, Ring>();
  readonly #leavers = new Set<() => void>();
  readonly #release: () => void;

  /**
   * Joins the fleet of that name; makes it when it is absent, or when all its members have ended. Blocks the thread for
   * microseconds, for 2 s when a member is stopped while it joins or leaves.
   *
   * @throws (rejects) {InvalidConfigError}, {@link InvalidNameError}; {@link FleetGeometryError} when the living fleet has
   * other sizes; {@link FleetFullError}; {@link FleetBusyError}; {@link FleetCorruptError}; {@link PermissionDeniedError}
   * for a file or a directory that is not ours alone; {@link NoSpaceError}, {@link ResourceError}; {@link VersionMismatchError}.
   */
  static async join(options: FleetOptions): Promise<Fleet> {
    return Fleet.joinNow(options);
  }

  /** @internal The same at once. */
  static joinNow(options: FleetOptions): Fleet {
    const name = checkName(options?.name, "fleet");
    const sizes = checkSizes(options);
    if (options.memory) {
      const memory = shareMemory(name, sizes);
      try {
        return new Fleet(negotiate({ name, directory: null, fd: memory.fd }, sizes), memory.release);
      } catch (error) {
        memory.release();
        throw error;
      }
    }
    const directory = resolveDirectory(options.directory);
    const fd = openDirectory(directory, { create: true })!;
    try {
      return new Fleet(negotiate({ name, directory, fd }, sizes));
    } finally {
      closeSync(fd);
    }
  }

  /**
   * Looks at a fleet without joining it: members, rings and leases can be read. It does not sleep for events. It stays
   * with the file that it opened: when {@link isCurrent} is `false`, observe again.
   *
   * @throws (rejects) {FleetNotFoundError}; otherwise as {@link join}.
   */
  static async observe(options: FleetObserveOptions): Promise<Fleet> {
    const name = checkName(options?.name, "fleet");
    if ((options as FleetOptions).memory) {
      throw new InvalidConfigError("a fleet in memory has no file to observe.", { hint: "Join it." });
    }
    const directory = resolveDirectory(options.directory);
    const fd = openDirectory(directory);
    if (fd === null) throw new FleetNotFoundError(name, directory);
    try {
      return new Fleet(FleetHandle.observe({ name, directory, fd }));
    } finally {
      closeSync(fd);
    }
  }

  private constructor(handle: FleetHandle, release: () => void = () => {}) {
    this.name = handle.name;
    this.isObserver = handle.isObserver;
    this.epoch = handle.epoch;
    this.geometry = handle.geometry;
    this.index = handle.index;
    this.incarnation = handle.incarnation;
    this.handle = handle;
    this.#release = release;
    this.wake = new Wake(handle);
  }

  get isOpen(): boolean {
    return this.handle.isOpen;
  }

  /**
   * Whether the name still leads to the file of this fleet. `false` when that was removed, or replaced by the one of a
   * later epoch, and when the fleet was left. Looks at the file system. @throws {ResourceError}
   */
  get isCurrent(): boolean {
    return this.isOpen && this.handle.fileEpoch() === this.epoch;
  }

  /** Members that live, this one among them. @throws {FleetClosedError} */
  members(): FleetMember[] {
    return this.handle.members();
  }

  /** The ring of that name. @throws {InvalidConfigError} when the fleet has none; {@link FleetClosedError}. */
  ring(name: string): Ring {
    if (!this.isOpen) throw new FleetClosedError(`fleet "${this.name}"`);
    const known = this.#rings.get(name);
    if (known) return known;
    const index = this.geometry.rings.findIndex((one) => one.name === name);
    if (index < 0) {
      const names = this.geometry.rings.map((one) => one.name).join(", ");
      throw new InvalidConfigError(`fleet "${this.name}" has no ring ${shown(name)}.`, {
        hint: `It has ${names || "none"}; the first to join names them in \`rings\`.`,
      });
    }
    const ring = new Ring(this, index);
    this.#rings.set(name, ring);
    return ring;
  }

  /** @internal Calls `listener` when the fleet is left, while its memory is still there. */
  onLeave(listener: () => void): () => void {
    this.#leavers.add(listener);
    return () => void this.#leavers.delete(listener);
  }

  /**
   * Leaves the fleet: cursors and subscriptions end, leases are given back. Never fails; may be called again. Blocks as
   * {@link join} does; the file of a last member that could not have the lock stays, for the next to join.
   */
  async leave(): Promise<void> {
    if (!this.isOpen) return;
    this.handle.leave(() => {
      for (const listener of this.#leavers) listener();
      this.wake.close();
    });
    this.#release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.leave();
  }
}

// ---- joining --------------------------------------------------------------------------------------------------------

/** Asks for the sizes that were named, and otherwise for those that are there. */
function negotiate(place: FleetPlace, sizes: FleetSizes): FleetHandle {
  let want = withDefaults(sizes);
  for (let attempt = 0; ; attempt++) {
    const found = FleetHandle.join(place, want);
    if (found instanceof FleetHandle) return found;
    const differing = differences(found, sizes);
    if (differing.length > 0) throw new FleetGeometryError(place.name, differing);
    if (attempt === ATTEMPTS) {
      throw new ResourceError(`fleet "${place.name}" changed ${ATTEMPTS} times while it was joined.`);
    }
    want = found;
  }
}

/** Fleets without a file, by name: their memory, and how many joins of this thread share it. */
const memories = new Map<string, { fd: number; joins: number }>();

/** Memory of the fleet of that name, until `release` is called. */
function shareMemory(name: string, sizes: FleetSizes): { fd: number; release: () => void } {
  const shared = memories.get(name) ?? { fd: createFleetMemory(name, withDefaults(sizes)), joins: 0 };
  memories.set(name, shared);
  shared.joins++;
  const release = (): void => {
    if (--shared.joins > 0) return;
    memories.delete(name);
    closeSync(shared.fd);
  };
  return { fd: shared.fd, release };
}
