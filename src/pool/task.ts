/** What a running task knows about its call. */

import { AsyncLocalStorage } from "node:async_hooks";
import { InvalidConfigError } from "../errors.ts";
import { kept } from "../hot.ts";

/** The call that runs a task. */
export interface Task {
  /** Name of the function. */
  readonly name: string;
  /** Id of the call, as errors show it. */
  readonly id: string;
  /** Aborted when the caller aborts the call, times out, stops reading the stream, or has ended. */
  readonly signal: AbortSignal;
  /** Time at which the call times out, in ms since the epoch; `Infinity` without a timeout. */
  readonly deadline: number;
}

/** @internal The call of each running task. */
export const running = kept("pool", () => new AsyncLocalStorage<Task>());

/**
 * Returns the call that runs the current task: `const response = await fetch(url, { signal: task().signal })`.
 *
 * @throws {InvalidConfigError} outside of a task of a pool.
 */
export function task(): Task {
  const current = running.getStore();
  if (current) return current;
  throw new InvalidConfigError("task() was called outside of a task of a pool.", {
    hint: "Call it in a function that `pool.run` or `pool.stream` runs.",
  });
}
