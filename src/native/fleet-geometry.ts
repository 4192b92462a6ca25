/** The sizes of a fleet: their limits, and how they are encoded in a join and in the header of the fleet's file. */

import { C, FIELDS, view } from "./library.ts";

/** Sizes of a fleet. */
export interface FleetGeometry {
  readonly maxMembers: number;
  readonly maxLeases: number;
  readonly rings: readonly { readonly name: string; readonly frames: number; readonly frameBytes: number }[];
}

/** Largest sizes of a fleet, and the smallest where it is not 1. */
export const FLEET_LIMITS = {
  maxMembers: C.SB_MEMBERS_MAX,
  maxLeases: C.SB_LEASES_MAX,
  rings: C.SB_RINGS_MAX,
  frames: [C.SB_FRAMES_MIN, C.SB_FRAMES_MAX],
  frameBytes: [C.SB_FRAME_MIN, C.SB_FRAME_MAX],
} as const;

const RING_BYTES = FIELDS["sb_fleet_want.ring"][1] / C.SB_RINGS_MAX;
const HEADER_BYTES = FIELDS["sb_fleet_header.ring"][0] + FIELDS["sb_fleet_header.ring"][1];

/** Encodes a `struct sb_fleet_want`. */
export function encodeWant({ maxMembers, maxLeases, rings }: FleetGeometry): Buffer {
  const [start, bytes] = FIELDS["sb_fleet_want.ring"];
  const want = Buffer.alloc(start + bytes);
  want.writeUInt32LE(maxMembers, FIELDS["sb_fleet_want.members"][0]);
  want.writeUInt32LE(maxLeases, FIELDS["sb_fleet_want.leases"][0]);
  want.writeUInt32LE(rings.length, FIELDS["sb_fleet_want.rings"][0]);
  for (const [index, { name, frames, frameBytes }] of rings.entries()) {
    const at = start + index * RING_BYTES;
    want.write(name, at, "latin1");
    want.writeUInt32LE(frames, at + FIELDS["sb_ring_geometry.frames"][0]);
    want.writeUInt32LE(frameBytes, at + FIELDS["sb_ring_geometry.frame_bytes"][0]);
  }
  return want;
}

/** Decodes a `struct sb_fleet_header`. */
export function readHeader(address: unknown): FleetGeometry & { readonly epoch: number } {
  const header = Buffer.from(view(address as number, HEADER_BYTES).slice(0));
  const word = (name: keyof typeof FIELDS, at = 0): number => header.readUInt32LE(at + FIELDS[name][0]);
  const rings = Array.from({ length: word("sb_fleet_header.rings") }, (_, index) => {
    const at = FIELDS["sb_fleet_header.ring"][0] + index * RING_BYTES;
    const name = header.toString("latin1", at, at + C.SB_RING_NAME_MAX).replace(/\0+$/, "");
    return { name, frames: word("sb_ring_geometry.frames", at), frameBytes: word("sb_ring_geometry.frame_bytes", at) };
  });
  return {
    epoch: Number(header.readBigUInt64LE(FIELDS["sb_fleet_header.epoch"][0])),
    maxMembers: word("sb_fleet_header.members"),
    maxLeases: word("sb_fleet_header.leases"),
    rings,
  };
}
