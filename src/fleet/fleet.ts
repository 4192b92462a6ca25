/** A fleet: processes on one machine that share a named file with event rings and leases. */

import { closeSync } from "node:fs";
import { shown } from "../check.ts";
import { SlotbusError, ClosedError, FleetGeometryError, FleetNotFoundError, InvalidConfigError } from "../errors.ts";
import { closeOlder, kept, noteOpened } from "../hot.ts";
import type { NatsLink } from "../nats/link.ts";
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
  type FleetVia,
  type PortableFleetOptions,
  type WantedSizes,
  withDefaults,
} from "./options.ts";
import { NatsFleet } from "./nats.ts";
import type { PortableFleet } from "./portable.ts";
import { Ring } from "./ring.ts";
import { Wake } from "./wake.ts";

/** All fleets of this process. After a hot reload, `instanceof` fails for a fleet that was kept. */
const fleets = kept("fleets", () => new WeakSet<Fleet | NatsFleet>());

/** Joins a fleet on a NATS server. `via` comes from `nats()`: it has the connection. */
async function joinOver(name: string, via: FleetVia): Promise<NatsFleet> {
  const { link } = via as FleetVia & { link: NatsLink };
  const fleet = await NatsFleet.join(name, link);
  fleets.add(fleet);
  return fleet;
}

/** @internal The option `fleet` of an event bus and of a contest. */
export const aFleet = needed(
  custom<Fleet>(undefined, "a Fleet", (fleet, name) =>
    fleets.has(fleet) ? fleet : refuse(name, fleet, "a Fleet from Fleet.join or Fleet.observe"),
  ),
);

/** Number of times a join retries because the geometry of the fleet has changed. */
const ATTEMPTS = 20;

/**
 * A fleet that this process has joined or observes. An `EventBus` and a `Contest` can use the same `Fleet`.
 *
 *     await using fleet = await Fleet.join({ name: "shop", rings: { events: {} } });
 *     fleet.ring("events").publish("hello");
 */
export class Fleet implements AsyncDisposable {
  readonly name: string;
  /** Whether this process only observes the fleet: it is not a member and writes nothing. */
  readonly isObserver: boolean;
  /** Epoch of the fleet's file. The next file with this name has a higher epoch. */
  readonly epoch: number;
  /** Index of this member; -1 for an observer. */
  readonly index: number;
  /** Distinguishes this member from earlier members with the same index; 0 for an observer. */
  readonly incarnation: number;
  /** @internal */
  readonly geometry: FleetGeometry;
  /** @internal */
  readonly wake: Wake;
  /** @internal Its methods throw {@link ClosedError} after the fleet is closed. */
  readonly handle: FleetHandle;
  readonly #rings = new Map<string, Ring>();
  readonly #listeners = new Set<() => void>();

  /**
   * Joins the fleet with this name. Creates the fleet if it does not exist or has no living member. Blocks the thread
   * for microseconds; for up to 2 s if another member was stopped (SIGSTOP) while it joined or left.
   *
   * @throws (rejects) {InvalidConfigError}; {@link FleetGeometryError} if the living fleet has other sizes;
   * {@link FleetFullError}; {@link FleetBusyError}; `FLEET_CORRUPT`; `PERMISSION_DENIED` if other users own or can
   * access the file or the directory; `NO_SPACE`, `RESOURCE`; {@link VersionMismatchError}.
   */
  static join(options: FleetOptions): Promise<Fleet>;
  /**
   * Joins a fleet on any engine: with `via: nats(…)`, on many machines. Events and claims work; rings and members do not exist there.
   *
   *     await using fleet = await Fleet.join({ name: "shop", via: nats({ servers: "nats://10.0.0.5" }) });
   *
   * @throws (rejects) as above; `DISCONNECTED`; {@link UnsupportedError} without the NATS client.
   */
  static join(options: PortableFleetOptions): Promise<PortableFleet>;
  static async join(options: PortableFleetOptions): Promise<Fleet | PortableFleet> {
    const { name, directory, via, ...sizes } = fleetOptions.resolve(options);
    if (via?.wire === "nats") return joinOver(name, via);
    await closeOlder(`fleet ${directory}/${name}`);
    const fd = openDirectory(directory, { create: true })!;
    try {
      return noted(`fleet ${directory}/${name}`, new Fleet(negotiate({ name, directory, fd }, sizes)));
    } finally {
      closeSync(fd);
    }
  }

  /**
   * Opens a fleet read-only, without joining it. An observer can read members, rings and leases, but it cannot wait for
   * events. It keeps reading the file that it opened: when {@link isCurrent} is `false`, call `observe` again.
   *
   * @throws (rejects) {FleetNotFoundError}; otherwise the errors of {@link join}.
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

  /** Whether this process has left the fleet or is leaving it. */
  get closed(): boolean {
    return !this.handle.isOpen;
  }

  /**
   * Whether the fleet's name still refers to the file of this object. `false` if the file was removed or replaced by a
   * file with a later epoch, or if the fleet is closed. Each read opens the file. @throws `RESOURCE`
   */
  get isCurrent(): boolean {
    return !this.closed && this.handle.fileEpoch() === this.epoch;
  }

  /** Returns the living members, including this one. @throws {ClosedError} */
  members(): FleetMember[] {
    return this.handle.members();
  }

  /** Returns the ring with this name. @throws {InvalidConfigError} if it does not exist; {@link ClosedError}. */
  ring(name: string): Ring {
    if (this.closed) throw new ClosedError(`Fleet "${this.name}"`);
    const known = this.#rings.get(name);
    if (known) return known;
    const index = this.geometry.rings.findIndex((one) => one.name === name);
    if (index < 0) {
      const names = this.geometry.rings.map((one) => one.name).join(", ");
      throw new InvalidConfigError(`Fleet "${this.name}" has no ring ${shown(name)}.`, {
        hint: names
          ? `Use one of its rings: ${names}. The first member creates them, from its option \`rings\`.`
          : "Name the ring in the option `rings` of the first member: it creates the fleet.",
      });
    }
    const ring = new Ring(this, index);
    this.#rings.set(name, ring);
    return ring;
  }

  /** @internal Calls `listener` when the fleet closes, before its memory is unmapped. */
  onClose(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Leaves the fleet: closes cursors and subscriptions, and releases leases. Never fails. Calling it again does
   * nothing. Blocks the thread like {@link join}. The last member removes the file, except if it cannot get the lock:
   * then the next join reuses the file.
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

/** Joins with the sizes that the options name, and the sizes of the existing fleet for the rest. */
function negotiate(place: FleetPlace, sizes: WantedSizes): FleetHandle {
  let want = withDefaults(sizes);
  for (let attempt = 0; ; attempt++) {
    const found = FleetHandle.join(place, want);
    if (found instanceof FleetHandle) return found;
    const differing = differences(found, sizes);
    if (differing.length > 0) throw new FleetGeometryError(place.name, differing);
    if (attempt === ATTEMPTS) {
      throw new SlotbusError(
        "RESOURCE",
        `Cannot join fleet "${place.name}": its sizes changed ${ATTEMPTS} times meanwhile.`,
      );
    }
    want = found;
  }
}
