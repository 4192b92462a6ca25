/** Calls back every 20 ms while the bus has work. An idle bus has no timer. */

import type { Clock, Timer } from "../clock.ts";

/** Time between two checks of deadlines, in ms. */
const TICK_MS = 20;

/** Result of a tick: a caller waits, there is work that no caller waits for, or there is nothing to do. */
export type Found = "waiting" | "leftover" | "nothing";

/** A timer that runs only while ticks find work. */
export class Ticker {
  readonly #clock: Clock;
  readonly #look: () => Found;
  #timer: Timer | null = null;
  /** Whether the scheduled tick lets the process exit. */
  #isUnref = false;

  constructor(clock: Clock, look: () => Found) {
    this.#clock = clock;
    this.#look = look;
  }

  /** Whether a tick is scheduled. */
  get isRunning(): boolean {
    return this.#timer !== null;
  }

  /** Schedules a tick that keeps the process alive, because a caller waits. */
  start(): void {
    if (this.#timer === null) this.#timer = this.#clock.after(TICK_MS, this.#onTick);
    else if (this.#isUnref) this.#ref();
  }

  #ref(): void {
    this.#isUnref = false;
    this.#timer?.ref();
  }

  stop(): void {
    this.#timer?.close();
    this.#timer = null;
  }

  readonly #onTick = (): void => {
    this.#timer = null;
    const found = this.#look();
    if (found === "nothing") return;
    this.#timer ??= this.#clock.after(TICK_MS, this.#onTick);
    this.#isUnref = found === "leftover";
    if (this.#isUnref) this.#timer.unref();
  };
}
