/** Limits the restarts of a worker, and computes the pauses before them. */

import { backoff } from "../backoff.ts";
import type { ResolvedRestart } from "./options.ts";

/** Restarts of one worker. The caller passes the time. @internal */
export class Restarts {
  readonly #options: ResolvedRestart;
  readonly #random: () => number;
  /** Times of the restarts within the window, in ms. */
  #granted: number[] = [];
  /** Number of pauses since the worker was healthy. */
  #pauses = 0;

  constructor(options: ResolvedRestart, random: () => number) {
    this.#options = options;
    this.#random = random;
  }

  /**
   * Requests a restart at `now` (ms) of a worker that was ready for `readyMs`, 0 if it never was. Returns the pause before it in
   * ms, or `null` if there were `maxRestarts` restarts within the window.
   */
  grant(now: number, readyMs: number): number | null {
    const { maxRestarts, counts, window, healthyAfter } = this.#options;
    const isCounted = counts === "all" || readyMs === 0;
    this.#granted = this.#granted.filter((at) => now - at < window);
    if (isCounted && this.#granted.length >= maxRestarts) return null;
    if (readyMs >= healthyAfter) this.#pauses = 0;
    const pause = this.pause();
    // The restart counts from when it happens. Without a limit nothing is kept.
    if (isCounted && maxRestarts !== Infinity) this.#granted.push(now + pause);
    return pause;
  }

  /** Returns the next pause in ms, which grows each time. */
  pause(): number {
    return Math.round(backoff(this.#pauses++, this.#options.backoff, this.#random));
  }
}
