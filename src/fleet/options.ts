/** Options of fleets and cursors. Compares the sizes of a fleet with the sizes that a member asks for. */

import { shown } from "../check.ts";
import { type FleetDifference, InvalidConfigError, UnsupportedError } from "../errors.ts";
import { FLEET_LIMITS, type FleetGeometry } from "../native/fleet-geometry.ts";
import {
  custom,
  type Given,
  integer,
  needed,
  Options,
  optional,
  refuse,
  type Resolved,
  row,
  signal,
} from "../options.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import type { From } from "./event-ring.ts";
import { invalidName } from "../errors/plain.ts";

/** An optional size of a ring with an additional condition, such as a power of two. */
function size([low, high]: readonly [number, number], unit: string, shape: string, fits: (value: number) => boolean) {
  const range = `${low} to ${high}${unit}, ${shape}`;
  const check = (value: unknown, name: string): number => {
    const isSize = Number.isInteger(value) && (value as number) >= low && (value as number) <= high;
    return isSize && fits(value as number) ? (value as number) : refuse(name, value, range);
  };
  return row<number, number>(undefined, range, check);
}

const { frames, frameBytes } = FLEET_LIMITS;

const ringRows = {
  /** Number of frames of the ring. */
  frames: optional(
    size(frames, "", "a power of two", (value) => (value & (value - 1)) === 0),
    "1024",
  ),
  /** Payload of a frame, in bytes. A longer event takes several frames, at most a quarter of the ring. */
  frameBytes: optional(
    size(frameBytes, " bytes", "a multiple of 8", (value) => value % 8 === 0),
    "512",
  ),
};

/** Sizes of a ring. */
export interface RingOptions extends Given<typeof ringRows> {}

/** @internal */
export const ringOptions = new Options("a ring", ringRows);

type Rings = Readonly<Record<string, RingOptions>>;
type ResolvedRings = Readonly<Record<string, Resolved<typeof ringRows>>>;

const RING_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/;

/** @internal Returns `name` if it is a valid name of a ring. @throws {InvalidConfigError} */
export function checkRingName(name: string): string {
  if (RING_NAME.test(name)) return name;
  throw invalidName(name, "ring");
}

function checkRings(rings: Rings, option: string): ResolvedRings {
  if (typeof rings !== "object" || rings === null || Array.isArray(rings)) {
    throw new InvalidConfigError(`${option} is ${shown(rings)}; it must be an object with an entry for each ring.`, {
      hint: "Pass for example `{ events: {} }`.",
    });
  }
  const all = Object.entries(rings);
  if (all.length > FLEET_LIMITS.rings) {
    throw new InvalidConfigError(`${option} has ${all.length} rings; the limit is ${FLEET_LIMITS.rings}.`);
  }
  return Object.fromEntries(
    all.map(([name, ring]) => {
      checkRingName(name);
      return [name, ringOptions.resolve(ring, { at: `${option}.${name}` })];
    }),
  );
}

const placeRows = {
  /** Name of the fleet. */
  name: needed(
    custom<string>(undefined, "1 to 64 of A-Z a-z 0-9 . _ -", (value: unknown) => checkName(value, "fleet")),
  ),
  /** Runtime directory. `Fleet.join` creates it if it does not exist. */
  directory: custom<string>(undefined, "a path", resolveDirectory, "$SLOTBUS_DIR, else /dev/shm/slotbus-<euid>"),
};

/** What carries a fleet: `memory()`, or `nats(…)` of `slotbus/nats`. */
export interface FleetVia {
  readonly wire: "memory" | "socket" | "nats";
}

const VIA = "`memory()` or `nats()`";

/** Fleets over a unix socket do not exist: the type leaves them out only where it can. */
function checkVia(via: FleetVia, name: string): FleetVia {
  const wire: unknown = typeof via === "object" && via !== null ? via.wire : undefined;
  if (wire === "memory" || (wire === "nats" && "link" in via)) return via;
  if (wire !== "socket") return refuse(name, via, VIA);
  throw new UnsupportedError("A fleet needs shared memory or a NATS server; `via` is `socket()`.", {
    hint: "Leave out `via`, or pass `nats(…)`.",
  });
}

const fleetRows = {
  ...placeRows,
  /** What carries the fleet. With `nats(…)` the options below have no meaning, and are only checked. */
  via: optional(custom<FleetVia>(undefined, VIA, checkVia), "memory"),
  /** Largest number of members at the same time. */
  maxMembers: optional(integer(undefined, 1, FLEET_LIMITS.maxMembers), "64"),
  /** Largest number of leases that are held at the same time. */
  maxLeases: optional(integer(undefined, 1, FLEET_LIMITS.maxLeases), "256"),
  /** Rings of the fleet, by name. A ring is created by the first member of the fleet. */
  rings: optional(custom<Rings, ResolvedRings>(undefined, `at most ${FLEET_LIMITS.rings}, by name`, checkRings)),
};

/** Name and sizes of a fleet to join, on any engine. */
export interface PortableFleetOptions extends Given<typeof fleetRows> {}

/** Name and sizes of the fleet to join. A size that you leave out is taken from the existing fleet. */
export interface FleetOptions extends Omit<PortableFleetOptions, "via"> {
  /** What carries the fleet: shared memory. */
  via?: { readonly wire: "memory" } | undefined;
}

/** Name and directory of the fleet to observe. */
export interface FleetObserveOptions extends Given<typeof placeRows> {}

/** The sizes among the options of a fleet. */
export type FleetSizes = Pick<FleetOptions, "maxMembers" | "maxLeases" | "rings">;

/** @internal The sizes in the options; `null` for a size that was left out. */
export type WantedSizes = Pick<Resolved<typeof fleetRows>, "maxMembers" | "maxLeases" | "rings">;

/** @internal */
export const fleetOptions = new Options("a fleet", fleetRows);

/** @internal */
export const fleetObserveOptions = new Options("an observer of a fleet", placeRows);

const FROM = '"head", "oldest", a position, a bookmark';

/** @internal Where a cursor or a subscription starts. */
export const from = optional(
  custom<From>(undefined, FROM, (place, name) => place ?? refuse(name, place, FROM)),
  '"head"',
);

const cursorRows = {
  /**
   * Where the cursor starts. `"head"`: at events published from now on. `"oldest"`: at the oldest event still in the
   * ring. A {@link Cursor.bookmark} or a position: at that place. If events were overwritten after a plain position,
   * the cursor reports the number of their frames instead of the number of events.
   */
  from,
  /** Number of events that `for await` copies out of the ring at once. */
  batch: integer(64, 1, 65_536),
  /** Closes the cursor when it aborts; `for await` then rejects with `signal.reason`. */
  signal,
};

/** Where a cursor starts and how it reads. */
export interface CursorOptions extends Given<typeof cursorRows> {}

/** @internal */
export const cursorOptions = new Options("a cursor", cursorRows);

/** @internal Options of `ring.publish`. */
export const ringPublishOptions = new Options("publish()", {
  /** Number that readers get with the event, as {@link Frame.kind}. */
  kind: integer(0, 0, 0xffff_ffff),
});

/** Returns the sizes of a new fleet: the given sizes, and the defaults. */
export function withDefaults({ maxMembers, maxLeases, rings }: WantedSizes): FleetGeometry {
  const list = Object.entries(rings ?? {}).map(([name, ring]) => ({
    name,
    frames: ring.frames ?? 1_024,
    frameBytes: ring.frameBytes ?? 512,
  }));
  return { maxMembers: maxMembers ?? 64, maxLeases: maxLeases ?? 256, rings: list };
}

/** Returns the differences between the sizes of a fleet and the given sizes. Other rings of the fleet are ignored. */
export function differences(theirs: FleetGeometry, ours: WantedSizes): FleetDifference[] {
  const found: FleetDifference[] = [];
  const compare = (what: string, a: number, b: number | null): void => {
    if (b !== null && a !== b) found.push({ what, theirs: String(a), ours: String(b) });
  };
  compare("maxMembers", theirs.maxMembers, ours.maxMembers);
  compare("maxLeases", theirs.maxLeases, ours.maxLeases);
  for (const [name, wanted] of Object.entries(ours.rings ?? {})) {
    const ring = theirs.rings.find((one) => one.name === name);
    if (!ring) {
      found.push({ what: `rings.${name}`, theirs: "none", ours: "one" });
      continue;
    }
    compare(`rings.${name}.frames`, ring.frames, wanted.frames);
    compare(`rings.${name}.frameBytes`, ring.frameBytes, wanted.frameBytes);
  }
  return found;
}
