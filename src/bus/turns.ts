/** Gives the event loop its turn now and then while streams run that never have to wait. */

import type { Clock } from "../clock.ts";

/** Streams may keep the event loop for so long, in ms, */
const TURN_MS = 0.2;
/** and after so many steps without a wait they look at the clock. */
export const TURN_STEPS = 8;

/** Shared by all streams of a bus or a worker. */
export class Turns {
  readonly clock: Clock;
  #began = 0;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /** Whether the event loop is due its turn: timers, sockets and other streams wait for it. */
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
