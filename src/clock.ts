/** Time, chance and turns of the event loop. Whatever waits in bus, contracts, supervisor and stdio asks the {@link Clock} it was given. */

/** Longest wait of a timer of JavaScript: 24 days, in ms. A longer one would end at once. */
export const MAX_TIMER_MS = 0x7fff_ffff;

/** A timer of a {@link Clock}. It keeps the process alive until it is unref'd. */
export interface Timer {
  /** The timer does not fire any more. */
  close(): unknown;
  ref(): unknown;
  unref(): unknown;
}

/** Where time, turns and chance come from. A test may give one whose time it sets itself. */
export interface Clock {
  /** Monotonic time in ms. */
  now(): number;
  /** Calls `done` once after `ms`, or after {@link MAX_TIMER_MS} when that is less: a caller that waits longer waits again. */
  after(ms: number, done: () => void): Timer;
  /** Calls `done` in the next turn of the event loop: timers, sockets and other work come first. */
  immediate(done: () => void): void;
  /** A number from 0 up to, not including, 1. */
  random(): number;
  /** Runs the microtasks that wait, without leaving the turn. */
  drain(): void;
}

const jsc = process.getBuiltinModule("bun:jsc" as "fs") as unknown as { drainMicrotasks(): void } | undefined;

/** The time of this machine, the event loop of this thread. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after: (ms, done) => setTimeout(done, Math.min(MAX_TIMER_MS, Math.max(0, Math.ceil(ms)))),
  immediate: setImmediate,
  random: Math.random,
  drain: jsc?.drainMicrotasks ?? (() => {}),
};

/**
 * Calls `done` after `ms`; never for 0 (no limit) and for more than {@link MAX_TIMER_MS}. The timer does not keep the process
 * alive: a caller that waits holds it (`hold.ts`).
 */
export function startTimer(clock: Clock, ms: number, done: () => void): { close(): unknown } {
  if (ms === 0 || ms > MAX_TIMER_MS) return { close: () => {} };
  const timer = clock.after(ms, done);
  timer.unref();
  return timer;
}

/** Resolves on the next turn of the event loop. */
export function nextTurn(clock: Clock): Promise<void> {
  return new Promise((resolve) => clock.immediate(resolve));
}

/** Blocks the thread for `ms`. */
export function blockFor(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
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
