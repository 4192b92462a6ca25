/** State that only a few exchanges need. */

import type { Streams } from "./streams.ts";

/** Most workers that may leave a request unclaimed; the next one keeps it. */
export const MOVES_MAX = 3;

/** State of exchanges that queue, move, have a signal, or stream. */
export class Extra<Exchange> {
  /** `clock.now()` of the call; 0 if the request never queued. */
  startedAt = 0;
  sentAt = 0;
  /** Whether the request ran, or may have run, on a worker that died. */
  retried = false;
  /** Number of workers that did not claim the request in time. */
  moves = 0;
  /** Whether the exchange is in the queue; `next` and `previous` are its neighbours. */
  queued = false;
  next: Exchange | null = null;
  previous: Exchange | null = null;
  /** Head, encoded before the exchange queued. */
  head: Uint8Array | null = null;
  onAbort: (() => void) | null = null;
  streams: Streams | null = null;
}
