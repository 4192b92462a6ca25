/** Time, random numbers and turns of the event loop, as a {@link Clock} that tests can replace. */

/** Longest delay of a JavaScript timer, in ms: 24 days. A timer with a longer delay would fire at once. */
export const MAX_TIMER_MS = 0x7fff_ffff;

/** A timer of a {@link Clock}. Keeps the process alive unless it is unref'd. */
export interface Timer {
  /** Cancels the timer. */
  close(): unknown;
  ref(): unknown;
  unref(): unknown;
}

/** Source of time, turns of the event loop and random numbers. Tests can pass a clock that they control. */
export interface Clock {
  /** Monotonic time in ms. */
  now(): number;
  /** Calls `done` once after `ms`, at most {@link MAX_TIMER_MS}; a caller with a longer wait starts another timer. */
  after(ms: number, done: () => void): Timer;
  /** Calls `done` in the next turn of the event loop, after timers, sockets and other work. */
  immediate(done: () => void): void;
  /** Returns a random number from 0 (inclusive) to 1 (exclusive). */
  random(): number;
  /** Runs all pending microtasks at once. */
  drain(): void;
}

const jsc = process.getBuiltinModule("bun:jsc" as "fs") as unknown as { drainMicrotasks(): void } | undefined;

/** The clock of this machine and the event loop of this thread. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after: (ms, done) => setTimeout(done, Math.min(MAX_TIMER_MS, Math.max(0, Math.ceil(ms)))),
  immediate: setImmediate,
  random: Math.random,
  drain: jsc?.drainMicrotasks ?? (() => {}),
};

/**
 * Calls `done` after `ms`; never if `ms` is 0 (no limit) or more than {@link MAX_TIMER_MS}. The timer does not keep the
 * process alive; a waiting caller uses `hold.ts` for that.
 */
export function startTimer(clock: Clock, ms: number, done: () => void): { close(): unknown } {
  if (ms === 0 || ms > MAX_TIMER_MS) return { close: () => {} };
  const timer = clock.after(ms, done);
  timer.unref();
  return timer;
}

/** Resolves in the next turn of the event loop. */
export function nextTurn(clock: Clock): Promise<void> {
  return new Promise((resolve) => clock.immediate(resolve));
}

/** Resolves after `ms`. */
export function sleep(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => void clock.after(ms, resolve));
}

/** Resolves after `ms`, or when `signal` aborts. Unlike {@link sleep}, it does not keep the process alive. */
export async function pause(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = clock.after(ms, resolve);
  timer.unref();
  const onAbort = (): void => resolve();
  signal.addEventListener("abort", onAbort);
  await promise;
  signal.removeEventListener("abort", onAbort);
  timer.close();
}
