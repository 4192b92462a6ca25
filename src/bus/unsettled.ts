/** How many requests are under way, and who waits until none is. */

import { type Clock, startTimer } from "../clock.ts";

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

  /** Most of them at one time, since it was asked last. */
  takePeak(): number {
    const peak = this.#peak;
    this.#peak = this.count;
    return peak;
  }

  /** Resolves when there is none, or after `limit` ms, 0 for never. */
  async none(limit: number): Promise<void> {
    if (this.count === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    const timer = startTimer(this.#clock, limit, resolve);
    await promise;
    timer.close();
  }
}
