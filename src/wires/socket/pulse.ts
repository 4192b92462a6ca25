/** Detects a worker whose event loop does not run: it answers no ping. */

import type { Clock } from "../../clock.ts";

/** Silence of a busy worker after which it gets a ping, in ms. */
const PING_MS = 100;
/** Time without an answer to a ping after which the worker is chosen last, in ms. */
const LATE_MS = 60;

/** Measures for how long one worker has been silent while it had requests. */
export class Pulse {
  /** Whether the worker has been silent for longer than the limit. */
  isLong = false;
  readonly #clock: Clock;
  readonly #ping: () => void;
  #heardAt: number;
  /** `clock.now()` of a ping without an answer; 0: none. */
  #pingedAt = 0;
  /** Silence in ms, as the sum of the bus's ticks. */
  #ms = 0;

  constructor(clock: Clock, ping: () => void) {
    this.#clock = clock;
    this.#ping = ping;
    this.#heardAt = clock.now();
  }

  get isLate(): boolean {
    return this.isLong || (this.#pingedAt > 0 && this.#clock.now() - this.#pingedAt > LATE_MS);
  }

  /** Bytes arrived from the worker. */
  beat(): void {
    this.#pingedAt = 0;
    this.#ms = 0;
  }

  /**
   * Called by each tick, `ms` after the last. Pings a busy worker that is silent. Returns `limit` when its silence reaches the limit, 0
   * when a worker that was silent for so long is heard again, and `null` otherwise.
   */
  watch(ms: number, isBusy: boolean, limit: number): number | null {
    const now = this.#clock.now();
    if (this.#ms === 0) this.#heardAt = now;
    const wasLong = this.isLong;
    if (wasLong && this.#pingedAt === 0) {
      this.isLong = false;
      return 0;
    }
    if (!isBusy && !wasLong) return null;
    this.#ms += ms;
    if (this.#pingedAt === 0 && now - this.#heardAt >= PING_MS) {
      this.#pingedAt = now;
      this.#ping();
    }
    if (wasLong || this.#ms < limit || this.#pingedAt === 0) return null;
    this.isLong = true;
    return limit;
  }
}
