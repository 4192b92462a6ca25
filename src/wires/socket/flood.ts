/** Counts what a peer sends without work. */

import type { Clock } from "../../clock.ts";
import { IDLE_FRAMES_PER_SECOND } from "./frames.ts";

/** Counts events per second. */
export class Flood {
  readonly #clock: Clock;
  readonly #limit: number;
  #count = 0;
  #since = 0;

  constructor(clock: Clock, limit = IDLE_FRAMES_PER_SECOND) {
    this.#clock = clock;
    this.#limit = limit;
  }

  /** Counts one event. Returns whether there were more than the limit within a second. */
  isOver(): boolean {
    if (this.#count === 0) this.#since = this.#clock.now();
    if (++this.#count <= this.#limit) return false;
    if (this.#clock.now() - this.#since < 1_000) return true;
    this.#count = 0;
    return false;
  }
}
