/** A fleet: equal processes that share a named file of rings and leases. */

import { closeSync } from "node:fs";
import { shown } from "../check.ts";
import { SlotbusError, ClosedError, FleetGeometryError, FleetNotFoundError, InvalidConfigError } from "../errors.ts";
import { closeOlder, kept, noteOpened } from "../hot.ts";
import { openDirectory } from "../native/directory.ts";
import type { FleetPlace } from "../native/fleet-failure.ts";
import type { FleetGeometry } from "../native/fleet-geometry.ts";
import { FleetHandle, type FleetMember } from "../native/fleet.ts";
import { custom, needed, refuse } from "../options.ts";
import {
  differences,
  fleetObserveOptions,
  type FleetObserveOptions,
  type FleetOptions,
  fleetOptions,
  type WantedSizes,
  withDefaults,
} from "./options.ts";
import { Ring } from "./ring.ts";
import { Wake } from "./wake.ts";

/** All of them: one that a program keeps across a reload is of the class of an earlier evaluation. */
const fleets = kept("fleets", () => new WeakSet<Fleet>());

/** @internal The option `fleet` of what stands on one. */
export const aFleet = needed(
  custom<Fleet>(undefined, "a Fleet", (fleet, name) =>
    fleets.has(fleet) ? fleet : refuse(name, fleet, "a Fleet, of Fleet.join"),
  ),
);

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
  /** @internal Its methods throw {@link ClosedError} once the fleet is closed. */
  readonly handle: FleetHandle;
  readonly #rings = new Map<string, Ring>();
  readonly #listeners = new Set<() => void>();

  /**
   * Joins the fleet of that name; makes it when it is absent, or when all its members have ended. Blocks the thread for
   * microseconds, for 2 s when a member is stopped while it joins or leaves.
   *
   * @throws (rejects) {InvalidConfigError}; {@link FleetGeometryError} when the living fleet has
   * other sizes; {@link FleetFullError}; {@link FleetBusyError}; `FLEET_CORRUPT`; `PERMISSION_DENIED`
   * for a file or a directory that is not ours alone; `NO_SPACE`, `RESOURCE`; {@link VersionMismatchError}.
   */
  static async join(options: FleetOptions): Promise<Fleet> {
    const { name, directory, ...sizes } = fleetOptions.resolve(options);
    await closeOlder(`fleet ${directory}/${name}`);
    const fd = openDirectory(directory, { create: true })!;
    try {
      return noted(`fleet ${directory}/${name}`, new Fleet(negotiate({ name, directory, fd }, sizes)));
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
    const { name, directory } = fleetObserveOptions.resolve(options);
    await closeOlder(`observer ${directory}/${name}`);
    const fd = openDirectory(directory);
    if (fd === null) throw new FleetNotFoundError(name, directory);
    try {
      return noted(`observer ${directory}/${name}`, new Fleet(FleetHandle.observe({ name, directory, fd })));
    } finally {
      closeSync(fd);
    }
  }

  private constructor(handle: FleetHandle) {
    this.name = handle.name;
    this.isObserver = handle.isObserver;
    this.epoch = handle.epoch;
    this.geometry = handle.geometry;
    this.index = handle.index;
    this.incarnation = handle.incarnation;
    this.handle = handle;
    this.wake = new Wake(handle);
    fleets.add(this);
  }

  /** Whether this process has left the fleet, or begins to. */
  get closed(): boolean {
    return !this.handle.isOpen;
  }

  /**
   * Whether the name still leads to the file of this fleet. `false` when that was removed, or replaced by the one of a
   * later epoch, and when the fleet is closed. Looks at the file system. @throws `RESOURCE`
   */
  get isCurrent(): boolean {
    return !this.closed && this.handle.fileEpoch() === this.epoch;
  }

  /** Members that live, this one among them. @throws {ClosedError} */
  members(): FleetMember[] {
    return this.handle.members();
  }

  /** The ring of that name. @throws {InvalidConfigError} when the fleet has none; {@link ClosedError}. */
  ring(name: string): Ring {
    if (this.closed) throw new ClosedError(`fleet "${this.name}"`);
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

  /** @internal Calls `listener` when the fleet is closed, while its memory is still there. */
  onClose(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Leaves the fleet: cursors and subscriptions end, leases are given back. Never fails; may be called again. Blocks as
   * {@link join} does; the file of a last member that could not have the lock stays, for the next to join.
   */
  async close(): Promise<void> {
    this.handle.leave(() => {
      for (const listener of this.#listeners) listener();
      this.wake.close();
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function noted(key: string, fleet: Fleet): Fleet {
  noteOpened(key, fleet);
  return fleet;
}

// ---- joining --------------------------------------------------------------------------------------------------------

/** Asks for the sizes that were named, and otherwise for those that are there. */
function negotiate(place: FleetPlace, sizes: WantedSizes): FleetHandle {
  let want = withDefaults(sizes);
  for (let attempt = 0; ; attempt++) {
    const found = FleetHandle.join(place, want);
    if (found instanceof FleetHandle) return found;
    const differing = differences(found, sizes);
    if (differing.length > 0) throw new FleetGeometryError(place.name, differing);
    if (attempt === ATTEMPTS) {
      throw new SlotbusError("RESOURCE", `fleet "${place.name}" changed ${ATTEMPTS} times while it was joined.`);
    }
    want = found;
  }
}
