/** Timers and turns of the event loop. */

/** Longest wait of a timer of JavaScript: 24 days, in ms. A longer one would end at once. */
export const MAX_TIMER_MS = 0x7fff_ffff;

/** A timer of the event loop. */
export type Timer = ReturnType<typeof setTimeout>;

/** Calls `done` after `ms`, or earlier when that is beyond {@link MAX_TIMER_MS}: the caller checks the time and waits again. */
export function after(ms: number, done: () => void): Timer {
  return setTimeout(done, Math.min(MAX_TIMER_MS, Math.max(1, Math.ceil(ms))));
}

/**
 * Calls `done` after `ms`; never for 0 (no limit) and for more than {@link MAX_TIMER_MS}. The timer does not keep the process
 * alive: a caller that waits holds it (`hold.ts`).
 */
export function startTimer(ms: number, done: () => void): { clear(): void } {
  if (ms === 0 || ms > MAX_TIMER_MS) return { clear: () => {} };
  const timer = setTimeout(done, ms);
  timer.unref();
  return { clear: () => clearTimeout(timer) };
}

/** Resolves on the next turn of the event loop: timers, sockets and other work come first. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
