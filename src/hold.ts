/**
 * What keeps the process alive: one mechanism for every promise that is pending and every object that is to hold the process.
 *
 * Bun ends a process in which nothing is ref'd, also in the middle of an `await`; at top level it polls its event loop without
 * a pause instead (oven-sh/bun#14951). Sockets, children and timers of ours are unref'd, and while anybody holds one timer is
 * ref'd. It is due in 24 days: no tick, no wake-up.
 */

import { MAX_TIMER_MS } from "./clock.ts";

let holds = 0;
let timer: ReturnType<typeof setInterval> | null = null;

/** Keeps the process alive while it is set. */
export class Hold {
  #isSet = false;

  /** Sets or ends the hold. Does nothing if it is so already. */
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

/** Keeps the process alive while `promise` is pending; returns a promise that settles as it does. */
export function holdWhile<T>(promise: Promise<T>): Promise<T> {
  const hold = new Hold();
  hold.set(true);
  return promise.finally(() => hold.set(false));
}
