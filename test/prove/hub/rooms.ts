/** Shared by the programs of the hub's proof: its streams, its events and the orders to its processes. */

import type { Common } from "../actor.ts";
import type { Counted } from "../memory.ts";
import type { RequestBooks } from "../soak/request-books.ts";

export const HUB = "proof";
export const WORKER = "work";
export const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"] as const;

/** Longest time from a request to the head of its response, in ms. */
export const TIMEOUT_MS = 3_000;
/** Buffer of one subscriber at the hub, in bytes; the events of one flood are more than it and the sockets hold. */
const CLIENT_BYTES = 256 * 1024;
export const FLOOD_BYTES = 64 * 1024;
export const FLOOD_EVENTS = 150;

/** Kept events of a stream: few, so that the hub's memory is full before it is judged. */
export const SSE = { clientBytes: CLIENT_BYTES, maxReplay: 60, replayBytes: CLIENT_BYTES };

/** Streams of events: `all` is `/events`, and subscribers of `flood` do not always read. */
export const ROOMS = ["all", "flood", "a", "b", "c", "d", "e", "f"] as const;
export type Room = (typeof ROOMS)[number];

/** Orders to a worker. `still` ends its publications; `mark` publishes one event in each room. */
export type Order = "go" | "end" | "still" | "mark" | "flood" | "resume" | "count";

export type WorkerReport = Common | Counted | { is: "open" | "still" | "flooded" } | { is: "marked"; events: number[] };
export type HubReport = Common | Counted | { is: "open"; port: number };

/** Events that one worker process may publish. Its event n has the number `life * EVENTS + n`. */
export const EVENTS = 16_384;

/**
 * Bits of an event in `runs` of the books, written by its publisher; the five bits above them are the hub's life. `outcome` has
 * the index of its room.
 */
export const INTENT = 1;
/** The hub of that life has accepted it. */
export const DONE = 2;
/** The hub did not get it. */
export const REFUSED = 4;
export const LIFE = 8;
export const LIVES = 32;

/** The hub's life, which the books of events keep in place of a next number. */
export function lifeOf(events: RequestBooks): number {
  return events.next % LIVES;
}

/** Data of an event: its number, its room, its publisher, and text of a length that follows from the number. */
export function dataOf(event: number, room: Room): string {
  const bytes = room === "flood" ? FLOOD_BYTES : (event * 37) % 300;
  return `${event} ${room} ${Math.floor(event / EVENTS)} ${String.fromCharCode(97 + (event % 26)).repeat(bytes)}`;
}
