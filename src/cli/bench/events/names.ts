/** What publisher and subscribers agree on. */

import type { Kind } from "./tally.ts";

/** What a subscriber is told when it starts. */
export interface Order {
  address: string;
  /** File of the {@link Tallies}. */
  tallies: string;
  subscriber: number;
}

/** A fleet of its own for each kind: who sleeps in one is not woken for the other. */
export const FLEETS: Record<Kind, string> = { poll: "bench-bytes", "for-await": "bench-items" };
export const RING = "events";
export const TOPICS: Record<Kind, string> = { poll: "bench.bytes", "for-await": "bench.items" };
/** More than the publisher may be ahead. */
export const FRAMES = 65_536;
export const FRAME_BYTES = 128;
