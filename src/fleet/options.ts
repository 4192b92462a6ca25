/** What a member asks of a fleet, what a file has, and in what the two differ. */

import { checkInteger, shown } from "../check.ts";
import { type FleetDifference, InvalidConfigError, InvalidNameError } from "../errors.ts";
import { FLEET_LIMITS, type FleetGeometry } from "../native/fleet-geometry.ts";

/** Size of a ring. */
export interface RingOptions {
  /** Frames of the ring, a power of two from 8 to 1 048 576. Default 1024. */
  frames?: number | undefined;
  /** Payload bytes of a frame, a multiple of 8 from 64 to 65 536. Default 512. A longer event has several frames. */
  payload?: number | undefined;
}

/** Sizes; what is left out is taken from the fleet that is there. */
export interface FleetSizes {
  /** Members at once. Default 64, at most 256. */
  members?: number | undefined;
  /** Rings by name, at most 16. Default: none. */
  rings?: Readonly<Record<string, RingOptions>> | undefined;
  /** Leases held at once. Default 256, at most 4096. */
  leases?: number | undefined;
}

const RING_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/;

/** Throws {@link InvalidConfigError}, {@link InvalidNameError}. */
export function checkSizes(sizes: FleetSizes): FleetSizes {
  const { members, leases, rings } = sizes;
  if (members !== undefined) checkInteger("members", members, 1, FLEET_LIMITS.members);
  if (leases !== undefined) checkInteger("leases", leases, 1, FLEET_LIMITS.leases);
  if (rings === undefined) return { members, leases };
  if (typeof rings !== "object" || rings === null || Array.isArray(rings)) {
    throw new InvalidConfigError("rings is not an object of rings by name.", { hint: "Pass `{ events: {} }`." });
  }
  const names = Object.keys(rings);
  if (names.length > FLEET_LIMITS.rings) {
    throw new InvalidConfigError(`a fleet of ${names.length} rings; it has at most ${FLEET_LIMITS.rings}.`);
  }
  for (const name of names) checkRing(name, rings[name]);
  return { members, leases, rings };
}

function checkRing(name: string, ring: RingOptions | undefined): void {
  if (!RING_NAME.test(name)) throw new InvalidNameError(name, "ring");
  if (typeof ring !== "object" || ring === null) {
    throw new InvalidConfigError(`rings.${name} is ${shown(ring)}; it must be { frames?, payload? }.`);
  }
  const { frames, payload } = ring;
  if (frames !== undefined) {
    checkInteger(`rings.${name}.frames`, frames, ...FLEET_LIMITS.frames);
    if ((frames & (frames - 1)) !== 0) {
      throw new InvalidConfigError(`rings.${name}.frames is ${frames}; it must be a power of two.`);
    }
  }
  if (payload !== undefined) {
    checkInteger(`rings.${name}.payload`, payload, ...FLEET_LIMITS.payload, " bytes");
    if (payload % 8 !== 0) {
      throw new InvalidConfigError(`rings.${name}.payload is ${payload}; it must be a multiple of 8.`);
    }
  }
}

/** What is asked for of a fleet that is not there yet. */
export function withDefaults({ members = 64, leases = 256, rings = {} }: FleetSizes): FleetGeometry {
  const list = Object.entries(rings).map(([name, { frames = 1024, payload = 512 }]) => ({ name, frames, payload }));
  return { members, leases, rings: list };
}

/** In what a fleet differs from the sizes that were named. Rings that nobody asks for are no difference. */
export function differences(theirs: FleetGeometry, ours: FleetSizes): FleetDifference[] {
  const found: FleetDifference[] = [];
  const compare = (what: string, a: number, b: number | undefined): void => {
    if (b !== undefined && a !== b) found.push({ what, theirs: String(a), ours: String(b) });
  };
  compare("members", theirs.members, ours.members);
  compare("leases", theirs.leases, ours.leases);
  for (const [name, { frames, payload }] of Object.entries(ours.rings ?? {})) {
    const ring = theirs.rings.find((one) => one.name === name);
    if (!ring) {
      found.push({ what: `rings.${name}`, theirs: "none", ours: "one" });
      continue;
    }
    compare(`rings.${name}.frames`, ring.frames, frames);
    compare(`rings.${name}.payload`, ring.payload, payload);
  }
  return found;
}
