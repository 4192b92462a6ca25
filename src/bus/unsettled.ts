/** Counts unsettled requests, and lets `drain` wait until there are none. */

import { type Clock, startTimer } from "../clock.ts";

/** Counts unsettled requests. */
export class Unsettled {
  count = 0;
  readonly #clock: Clock;
  #peak = 0;
  #waiting: (() => void)[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  begin(): void {
    if (++this.count > this.#peak) this.#peak = this.count;
  }

  end(): void {
    if (--this.count === 0 && this.#waiting.length > 0) for (const done of this.#waiting.splice(0)) done();
  }

  /** Returns the largest number of concurrent requests since the last call. */
  takePeak(): number {
    const peak = this.#peak;
    this.#peak = this.count;
    return peak;
  }

  /** Resolves when no request is unsettled, or after `limit` ms. */
  async none(limit: number): Promise<void> {
    if (this.count === 0 || limit === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    const timer = startTimer(this.#clock, limit, resolve);
    await promise;
    timer.close();
  }
}
