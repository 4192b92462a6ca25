/** Calls back every 20 ms while anything is under way. An idle bus has no timer. */

import type { Clock, Timer } from "../clock.ts";

/** Time between two checks of deadlines, in ms. */
const TICK_MS = 20;

/** What a tick found: a caller that waits, something under way that no caller waits for, or nothing. */
export type Found = "waiting" | "leftover" | "nothing";

/** One timer, which runs only while a tick finds something. */
export class Ticker {
  readonly #clock: Clock;
  readonly #look: () => Found;
  #timer: Timer | null = null;
  /** The tick that is due does not keep the process alive. */
  #isUnref = false;

  constructor(clock: Clock, look: () => Found) {
    this.#clock = clock;
    this.#look = look;
  }

  /** Whether a tick is due. */
  get isRunning(): boolean {
    return this.#timer !== null;
  }

  /** A caller waits: makes a tick due, which keeps the process alive. */
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
