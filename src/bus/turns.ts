/** Lets the event loop run while streams never have to wait. */

import type { Clock } from "../clock.ts";

/** Longest time for which streams may block the event loop, in ms. */
const TURN_MS = 0.2;
/** Number of steps without a wait after which a stream checks the clock. */
export const TURN_STEPS = 8;

/** Shared by all streams of a bus or a worker. */
export class Turns {
  readonly clock: Clock;
  #began = 0;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /** Whether a stream should yield to the event loop, so that timers, sockets and other streams can run. */
  get isOver(): boolean {
    const now = this.clock.now();
    if (this.#began === 0) {
      this.#began = now;
      this.clock.immediate(this.#over);
    }
    return now - this.#began >= TURN_MS;
  }

  readonly #over = (): void => {
    this.#began = 0;
  };
}
