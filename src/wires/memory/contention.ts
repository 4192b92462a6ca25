/**
 * Finds out whether this thread waits for a processor for too much of the time that it could run. Then spinning does harm: the
 * scheduler prefers threads that have slept, and a thread that spun away its share must wait for others before it can handle work.
 */

import { readFileSync } from "node:fs";

/** When contention is high. A thread may wait for a part of the time in which it could run. */
interface Limits {
  /** Time between two looks, in ms. A look takes about 10 µs. */
  readonly windowMs: number;
  readonly mostWaiting: number;
  /** Time from the first look to the first window, in ms. */
  readonly warmUpMs: number;
}

/** For single messages: each wake-up that spinning saves is worth more than a time slice, beside up to three competitors. */
export const SINGLE: Limits = { windowMs: 20, mostWaiting: 0.75, warmUpMs: 0 };
/**
 * For batches, which share their wake-ups: beside one competitor, two sides that sleep handle them faster. At first the
 * threads of the runtime are competitors: they compile what the process runs.
 */
export const BATCH: Limits = { windowMs: 500, mostWaiting: 0.3, warmUpMs: 2_000 };

/** Shorter waits do not count, in ms: the threads of the runtime itself take a processor for some milliseconds. */
const LEAST_WAIT_MS = 10;
/** Pause before the thread tries to spin again, in ms. Each vain try doubles it, up to the longest one. */
const PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 32_000;

/** Times of a thread since it started, in ms. */
export interface ThreadTimes {
  /** On a processor. */
  ran: number;
  /** Ready to run, and waiting for a processor. */
  waited: number;
}

/** Returns the times of the calling thread; `null` where the system does not count them. */
function readTimes(): ThreadTimes | null {
  try {
    const [ran, waited] = readFileSync("/proc/thread-self/schedstat", "latin1").split(" ");
    return { ran: Number(ran) / 1e6, waited: Number(waited) / 1e6 };
  } catch {
    return null;
  }
}

/** Whether other threads take the processors from this one. */
export class Contention {
  /** Whether spinning does harm now. */
  isHigh = false;
  readonly #limits: Limits;
  readonly #onHigh: () => void;
  readonly #read: () => ThreadTimes | null;
  #last: ThreadTimes | null = null;
  #lookAt = -Infinity;
  #pauseMs = PAUSE_MS;

  /** `onHigh` is called when contention becomes high. `read` returns the times of this thread. */
  constructor(limits: Limits, onHigh: () => void = () => {}, read: () => ThreadTimes | null = readTimes) {
    this.#limits = limits;
    this.#onHigh = onHigh;
    this.#read = read;
  }

  /** Updates {@link isHigh}. Called often while the thread spins, or wants to; `now` is `clock.now()`. */
  look(now: number): void {
    const { windowMs, mostWaiting, warmUpMs } = this.#limits;
    if (this.#lookAt === -Infinity) this.#lookAt = now + warmUpMs;
    if (now < this.#lookAt) return;
    const last = this.isHigh ? null : this.#last; // after a pause, a new try begins
    const times = this.#read();
    this.#last = times;
    this.#lookAt = times ? now + windowMs : Infinity;
    this.isHigh = false;
    if (!times || !last) return;
    const waited = times.waited - last.waited;
    if (waited < LEAST_WAIT_MS) return;
    if (waited < mostWaiting * (waited + times.ran - last.ran)) {
      this.#pauseMs = PAUSE_MS;
      return;
    }
    this.isHigh = true;
    this.#lookAt = now + this.#pauseMs;
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, 2 * this.#pauseMs);
    this.#onHigh();
  }
}
