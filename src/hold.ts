/**
 * Keeps the process alive, with one mechanism for all pending promises and open objects.
 *
 * Without a ref'd handle, Bun exits even during an `await`; at top level it polls its event loop without a pause
 * instead (oven-sh/bun#14951). All sockets, children and timers of slotbus are unref'd. A single timer is ref'd while
 * anything holds the process; it fires every 24 days, so it causes no wake-ups.
 */

import { MAX_TIMER_MS } from "./clock.ts";

let holds = 0;
let timer: ReturnType<typeof setInterval> | null = null;

/** A hold keeps the process alive while it is set. */
export class Hold {
  #isSet = false;

  /** Sets or clears the hold. Does nothing if its state is unchanged. */
  set(isSet: boolean): void {
    if (this.#isSet === isSet) return;
    this.#isSet = isSet;
    if (!isSet) {
      if (--holds === 0) timer?.unref();
    } else if (++holds === 1) {
      timer ??= setInterval(() => {}, MAX_TIMER_MS);
      timer.ref();
    }
  }
}

/** Keeps the process alive while `promise` is pending. Returns a promise with the same result. */
export function holdWhile<T>(promise: Promise<T>): Promise<T> {
  const hold = new Hold();
  hold.set(true);
  return promise.finally(() => hold.set(false));
}
