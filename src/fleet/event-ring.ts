/**
 * What carries the events of a bus: a ring of a fleet, or a ring in the memory of this thread. Another engine comes in here,
 * by a ring and a reader of its own. A ring carries bytes; topics, filters, queues and bindings are the business of the bus.
 */

import { InvalidConfigError } from "../errors.ts";

/** A place in a ring that can be kept, and given to a later cursor. */
export interface Bookmark {
  /** Of the fleet's file. */
  readonly epoch: number;
  /** Of the next frame. */
  readonly position: number;
  /** Number of the next event: what was lost in between is counted by it. */
  readonly event?: number;
}

/** Where to begin: what comes, the oldest that is there, or a place. A number is a position of this epoch. */
export type From = "head" | "oldest" | number | Bookmark;

/** @internal Where events are published, and read from. All calls throw {@link ClosedError} once it has ended. */
export interface EventRing {
  /** Size of the largest event, in bytes. */
  readonly payloadBytes: number;
  /** Whether it can only be looked at: nothing can be published, and no reader can sleep. */
  readonly isObserver: boolean;
  /** Position behind the newest event. */
  readonly head: number;
  /** Returns memory for the next event, `bytes` long at least. Valid until the next call. */
  draft(bytes: number): Buffer;
  /** Publishes the first bytes of the draft. No reader is called before the next turn of the event loop. */
  send(bytes: number, kind: number): void;
  reader(from: From): EventReader;
  /** Calls `listener` when the ring ends; the function that it returns takes that back. */
  onClose(listener: () => void): () => void;
}

/** @internal The event that a reader stands at: `memory` from `start` to `end`, until the next poll. */
export interface EventRecord {
  readonly memory: Buffer;
  readonly start: number;
  readonly end: number;
  readonly time: number;
  readonly writer: number;
  readonly incarnation: number;
  readonly position: number;
}

/** @internal A place in a ring that moves on as events are read. It slows no publisher down. */
export interface EventReader extends EventRecord {
  readonly closed: boolean;
  /** Events of the last batch that {@link next} has not come to. */
  readonly left: number;
  /** Events that were overwritten before the first one of the last batch. */
  readonly lost: number;
  /** Position behind the last batch. */
  readonly nextPosition: number;
  /** Takes a batch of at most `max` events out of the ring; returns how many. */
  poll(max: number): number;
  /** Goes to the next event of the batch; `false` at its end. */
  next(): boolean;
  /** An epoch that is to be told, once; else `null`. */
  takeNewEpoch(): number | null;
  /**
   * Calls `wake` once when there may be more to poll, or when the reader is closed. `false`: look again on the next turn of
   * the event loop. The process does not stay alive for it.
   */
  listen(wake: () => void): boolean;
  close(): void;
}

/** Where a reader begins; `event`: number of the first one, -1: unknown. */
interface Start {
  start: "head" | "oldest" | number;
  event: number;
  /** Whether the place is one of another epoch: the reader begins at the oldest event, and tells the epoch first. */
  isNewEpoch: boolean;
}

/** @internal Where a reader begins in a ring of this epoch. @throws {InvalidConfigError} */
export function startOf(from: From, epoch: number, head: () => number): Start {
  if (from === "head" || from === "oldest") return { start: from, event: -1, isNewEpoch: false };
  const place: Partial<Bookmark> = typeof from === "number" ? { epoch, position: from } : (from ?? {});
  const { epoch: whose, position, event = -1 } = place;
  if (!isCount(whose) || !isCount(position) || !(event === -1 || isCount(event))) {
    throw new InvalidConfigError(`from is ${Bun.inspect(from).slice(0, 80)}; a cursor cannot begin there.`, {
      hint: 'Pass "head", "oldest", a position or a bookmark.',
    });
  }
  if (whose !== epoch) return { start: "oldest", event: -1, isNewEpoch: true };
  if (position > head()) {
    throw new InvalidConfigError(`from is position ${position}; the ring's head is ${head()}.`, {
      hint: "Keep bookmarks: they tell positions of an earlier epoch.",
    });
  }
  return { start: position, event, isNewEpoch: false };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
