/** A claim over NATS that waits. */

import { systemClock } from "../../clock.ts";

/** The wait of a claim: for a wake-up, a time, its timeout, its signal or the close of the contest. */
export class Wait {
  readonly timeout: number;
  readonly #controller = new AbortController();
  readonly #timer: { close(): unknown } | null;
  readonly #from: readonly AbortSignal[];
  isTimeout = false;
  #isWoken = false;
  #wake: (() => void) | null = null;

  constructor(timeout: number, given: AbortSignal | null, closing: AbortSignal) {
    this.timeout = timeout;
    this.#from = given ? [given, closing] : [closing];
    for (const signal of this.#from) signal.addEventListener("abort", this.#onAbort);
    const onTime = (): void => {
      this.isTimeout = !this.signal.aborted;
      this.#abort(null);
    };
    if (timeout === 0) onTime();
    this.#timer = timeout > 0 && timeout < Infinity ? systemClock.after(timeout, onTime) : null;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  readonly #onAbort = (event: Event): void => this.#abort((event.target as AbortSignal).reason);

  #abort(reason: unknown): void {
    this.#controller.abort(reason);
    this.wake();
  }

  /** Ends the present wait, or the next one if there is none. */
  wake(): void {
    this.#isWoken = true;
    this.#wake?.();
  }

  /** Waits for {@link wake}, at most `ms`. */
  async next(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (!this.#isWoken && !this.signal.aborted) {
      this.#wake = resolve;
      const timer = systemClock.after(ms, resolve);
      await promise;
      timer.close();
      this.#wake = null;
    }
    this.#isWoken = false;
  }

  close(): void {
    this.#timer?.close();
    for (const signal of this.#from) signal.removeEventListener("abort", this.#onAbort);
  }
}
