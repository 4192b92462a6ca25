/** How soon a worker is started again, and how often. */

import { backoff } from "../backoff.ts";
import type { ResolvedRestart } from "./options.ts";

/** The restarts of one worker. The clock is the caller's. @internal */
export class Restarts {
  readonly #options: ResolvedRestart;
  readonly #random: () => number;
  /** When each restart within the window was granted. */
  #granted: number[] = [];
  /** Pauses since the worker was last healthy. */
  #pauses = 0;

  constructor(options: ResolvedRestart, random: () => number) {
    this.#options = options;
    this.#random = random;
  }

  /**
   * Asks for a restart at `now` (ms) of a worker that was ready for `readyMs`: the pause before it in ms, or `null` when the
   * window has had all its restarts.
   */
  grant(now: number, readyMs: number): number | null {
    const { maxRestarts, window, healthyAfter } = this.#options;
    this.#granted = this.#granted.filter((at) => now - at < window);
    if (this.#granted.length >= maxRestarts) return null;
    if (readyMs >= healthyAfter) this.#pauses = 0;
    const pause = this.pause();
    // It is counted when it happens; with no limit nothing needs to be kept.
    if (maxRestarts !== Infinity) this.#granted.push(now + pause);
    return pause;
  }

  /** The next pause in ms, longer each time. */
  pause(): number {
    return Math.round(backoff(this.#pauses++, this.#options.backoff, this.#random));
  }
}
