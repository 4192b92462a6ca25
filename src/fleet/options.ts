/** Options of a fleet and of a cursor; the sizes of a fleet, and how two of them differ. */

import { shown } from "../check.ts";
import { type FleetDifference, InvalidConfigError } from "../errors.ts";
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

/** A size of a ring that must be a multiple of a step, or a power of two. It is `null` when it is left out. */
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
  /** Frames of the ring. */
  frames: optional(
    size(frames, "", "a power of two", (value) => (value & (value - 1)) === 0),
    "1024",
  ),
  /** Payload of a frame, in bytes. A longer event takes several frames. */
  frameBytes: optional(
    size(frameBytes, " bytes", "a multiple of 8", (value) => value % 8 === 0),
    "512",
  ),
};

/** Size of a ring. */
export interface RingOptions extends Given<typeof ringRows> {}

/** @internal */
export const ringOptions = new Options("a ring", ringRows);

type Rings = Readonly<Record<string, RingOptions>>;
type ResolvedRings = Readonly<Record<string, Resolved<typeof ringRows>>>;

const RING_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/;

function checkRings(rings: Rings, option: string): ResolvedRings {
  if (typeof rings !== "object" || rings === null || Array.isArray(rings)) {
    throw new InvalidConfigError(`${option} is ${shown(rings)}; it must be an object of rings by name.`, {
      hint: "Pass `{ events: {} }`.",
    });
  }
  const all = Object.entries(rings);
  if (all.length > FLEET_LIMITS.rings) {
    throw new InvalidConfigError(`a fleet of ${all.length} rings; it has at most ${FLEET_LIMITS.rings}.`);
  }
  return Object.fromEntries(
    all.map(([name, ring]) => {
      if (!RING_NAME.test(name)) throw invalidName(name, "ring");
      return [name, ringOptions.resolve(ring, { at: `${option}.${name}` })];
    }),
  );
}

const placeRows = {
  /** Name of the fleet. */
  name: needed(
    custom<string>(undefined, "1 to 64 of A-Z a-z 0-9 . _ -", (value: unknown) => checkName(value, "fleet")),
  ),
  /** Runtime directory. It is made when it is absent. */
  directory: custom<string>(undefined, "a path", resolveDirectory, "$SLOTBUS_DIR, else /dev/shm/slotbus-<euid>"),
};

const fleetRows = {
  ...placeRows,
  /** Members at once. */
  maxMembers: optional(integer(undefined, 1, FLEET_LIMITS.maxMembers), "64"),
  /** Leases held at once. */
  maxLeases: optional(integer(undefined, 1, FLEET_LIMITS.maxLeases), "256"),
  /** Rings of the fleet, by name. */
  rings: optional(custom<Rings, ResolvedRings>(undefined, `at most ${FLEET_LIMITS.rings}, by name`, checkRings)),
};

/** What a member asks of its fleet. A size that is left out is the one of the fleet that is there. */
export interface FleetOptions extends Given<typeof fleetRows> {}

/** Which fleet is observed. */
export interface FleetObserveOptions extends Given<typeof placeRows> {}

/** The sizes among the options of a fleet. */
export type FleetSizes = Pick<FleetOptions, "maxMembers" | "maxLeases" | "rings">;

/** @internal The sizes that a member named; `null`: it did not. */
export type WantedSizes = Pick<Resolved<typeof fleetRows>, "maxMembers" | "maxLeases" | "rings">;

/** @internal */
export const fleetOptions = new Options("a fleet", fleetRows);

/** @internal */
export const fleetObserveOptions = new Options("an observer of a fleet", placeRows);

const FROM = '"head", "oldest", a position, a bookmark';

/** @internal Where a cursor or a subscription begins. */
export const from = optional(
  custom<From>(undefined, FROM, (place, name) => place ?? refuse(name, place, FROM)),
  '"head"',
);

const cursorRows = {
  /**
   * Where the cursor begins. `"head"`: what is published from now on. `"oldest"`: everything that is still there. A
   * position or a {@link Cursor.bookmark}: from there on. Of events lost behind a plain position the frames are counted.
   */
  from,
  /** Events that `for await` copies out of the ring at once. */
  batch: integer(64, 1, 65_536),
  /** Ends the cursor: `for await` rejects with `signal.reason`. */
  signal,
};

/** Where a cursor begins, and how it reads. */
export interface CursorOptions extends Given<typeof cursorRows> {}

/** @internal */
export const cursorOptions = new Options("a cursor", cursorRows);

/** @internal Options of `ring.publish`. */
export const ringPublishOptions = new Options("a publish", {
  /** A number that travels with the event. */
  kind: integer(0, 0, 0xffff_ffff),
});

/** What is asked for of a fleet that is not there yet. */
export function withDefaults({ maxMembers, maxLeases, rings }: WantedSizes): FleetGeometry {
  const list = Object.entries(rings ?? {}).map(([name, ring]) => ({
    name,
    frames: ring.frames ?? 1_024,
    frameBytes: ring.frameBytes ?? 512,
  }));
  return { maxMembers: maxMembers ?? 64, maxLeases: maxLeases ?? 256, rings: list };
}

/** In what a fleet differs from the sizes that were named. Rings that nobody asks for are no difference. */
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
