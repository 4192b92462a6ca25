/** Names and sizes that publisher and subscribers share. */

import type { Kind } from "./tally.ts";

/** Argument of a subscriber, as JSON. */
export interface Order {
  address: string;
  /** File of the {@link Tallies}. */
  tallies: string;
  subscriber: number;
}

/** Each kind has its own fleet, so that an event of one kind does not wake subscribers of the other. */
export const FLEETS: Record<Kind, string> = { poll: "bench-bytes", "for-await": "bench-items" };
export const RING = "events";
export const TOPICS: Record<Kind, string> = { poll: "bench.bytes", "for-await": "bench.items" };
/** More events than the publisher may be ahead. */
export const FRAMES = 65_536;
export const FRAME_BYTES = 128;
