/**
 * The storage below an event bus: a ring of a fleet, or a ring in the memory of this thread. Another engine implements
 * {@link EventRing} and {@link EventReader}. A ring carries bytes; the bus adds topics, filters, queues and bindings.
 */

import { InvalidConfigError } from "../errors.ts";
import { inspect } from "../runtime.ts";

/** A place in a ring. Save it and pass it to a later cursor as `from`. */
export interface Bookmark {
  /** Epoch of the fleet's file. */
  readonly epoch: number;
  /** Position of the next frame. */
  readonly position: number;
  /** Number of the next event. With it, the cursor can count the events that were overwritten in between. */
  readonly event?: number;
}

/** Where a cursor starts: at new events, at the oldest event in the ring, at a position of this epoch or a bookmark. */
export type From = "head" | "oldest" | number | Bookmark;

/** @internal Publishes and reads events. All methods throw {@link ClosedError} after the ring is closed. */
export interface EventRing {
  /** Size of the largest event, in bytes. */
  readonly payloadBytes: number;
  /** Whether the ring is read-only: `send` fails, and readers cannot sleep. */
  readonly isObserver: boolean;
  /** Position after the newest event. */
  readonly head: number;
  /** Returns memory of at least `bytes` bytes for the next event. Valid until the next call. */
  draft(bytes: number): Buffer;
  /**
   * Publishes the first `bytes` bytes of the draft, an event of this topic. Calls readers on the next turn of the event loop at the
   * earliest.
   */
  send(bytes: number, kind: number, topic: string): void;
  /** `patterns`: topics that the reader wants at least. A ring of memory ignores them. */
  reader(from: From, patterns?: readonly string[]): EventReader;
  /** Calls `listener` when the ring closes. The returned function removes the listener. */
  onClose(listener: () => void): () => void;
}

/** @internal The current event of a reader: `memory` from `start` to `end`. Valid until the next poll. */
export interface EventRecord {
  readonly memory: Buffer;
  readonly start: number;
  readonly end: number;
  readonly time: number;
  readonly writer: number;
  readonly incarnation: number;
  readonly position: number;
}

/** @internal Reads a ring from a place that advances with each event. Does not slow down publishers. */
export interface EventReader extends EventRecord {
  readonly closed: boolean;
  /** Number of events in the last batch that {@link next} has not reached. */
  readonly left: number;
  /** Number of events that were overwritten between the last batch and the batch before it. */
  readonly lost: number;
  /** Position after the last batch. */
  readonly nextPosition: number;
  /** Copies a batch of at most `max` events out of the ring. Returns the number of events. */
  poll(max: number): number;
  /** Moves to the next event of the batch. Returns `false` at the end of the batch. */
  next(): boolean;
  /** Returns a new epoch that the subscriber must see, once; otherwise `null`. */
  takeNewEpoch(): number | null;
  /**
   * Calls `wake` once when there may be more events to poll, or when the reader is closed. Returns `false` if the
   * reader cannot sleep yet: poll again on the next turn of the event loop. Does not keep the process alive.
   */
  listen(wake: () => void): boolean;
  close(): void;
}

/** Where a reader starts. `event` is the number of the first event, or -1 if it is unknown. */
interface Start {
  start: "head" | "oldest" | number;
  event: number;
  /** Whether the bookmark has another epoch. The reader then reports the new epoch and starts at the oldest event. */
  isNewEpoch: boolean;
}

/** @internal Resolves `from` to a start in a ring of this epoch. @throws {InvalidConfigError} */
export function startOf(from: From, epoch: number, head: () => number): Start {
  if (from === "head" || from === "oldest") return { start: from, event: -1, isNewEpoch: false };
  const place: Partial<Bookmark> = typeof from === "number" ? { epoch, position: from } : (from ?? {});
  const { epoch: whose, position, event = -1 } = place;
  if (!isCount(whose) || !isCount(position) || !(event === -1 || isCount(event))) {
    throw new InvalidConfigError(
      `from is ${inspect(from).slice(0, 80)}; it must be "head", "oldest", a position or a bookmark.`,
    );
  }
  if (whose !== epoch) return { start: "oldest", event: -1, isNewEpoch: true };
  if (position > head()) {
    throw new InvalidConfigError(`from is position ${position}, but the head of the ring is ${head()}.`, {
      hint: "Pass a bookmark instead of a number: it also records the epoch of its position.",
    });
  }
  return { start: position, event, isNewEpoch: false };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
