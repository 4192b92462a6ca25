/** Options of a pool. */

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { busOptions, SLOTS_MAX } from "../bus/options.ts";
import { InvalidConfigError } from "../errors.ts";
import {
  bytes,
  choice,
  endless,
  type Given,
  group,
  integer,
  Options,
  optional,
  refuse,
  type Resolved,
  timeout,
} from "../options.ts";
import { nameRow } from "../runtime-directory.ts";
import { workersOptions } from "../supervisor/workers.ts";

const { min, max, idle, env, cwd, startupTimeout, recycle } = workersOptions.rows;

const rows = {
  /** Module whose exported functions the pool runs: `new URL("./work.ts", import.meta.url)`, or a path. */
  module: workersOptions.rows.entry,
  /** Name of the pool in errors, and of its bus in `slotbus top` and `slotbus ls`. */
  name: optional(nameRow("bus"), "`pool-<pid>-<random>`"),
  min,
  max,
  idle,
  /** Number of tasks that one process runs at the same time. More than 1 is for tasks that wait. */
  concurrency: integer(1, 1, SLOTS_MAX),
  /** Default timeout of a task, in ms, from the call to the result; `Infinity` sets no limit. */
  timeout: timeout(Infinity),
  /**
   * Time that a task has to end after its caller aborted it, timed out or stopped reading, in ms. Then its process is killed and
   * replaced. `Infinity`: never.
   */
  kill: endless(1_000, 0, 86_400_000, " ms"),
  /** Queue of the tasks that wait for a free process. */
  queue: group({
    /** Largest number of queued tasks, with the policy `"reject"`. */
    limit: integer(1_024, 0, 1_000_000),
    /** Behavior beyond the limit: `"wait"` queues without a limit, `"reject"` rejects with BusOverloadedError. */
    policy: choice("wait", ["wait", "reject"]),
  }),
  /** Largest size of the arguments, of a result or of an item, in bytes. Memory is allocated only when a task uses it. */
  payloadBytes: bytes(67_108_864, 1, 1_073_741_824),
  recycle,
  startupTimeout,
  env,
  cwd,
  directory: busOptions.rows.directory,
};

/** The options of a pool. */
export const poolOptions = new Options("a pool", rows);

/** Options of `Pool.start`. All except `module` have defaults. */
export interface PoolOptions extends Given<typeof rows> {}

/** Options with their defaults filled in. */
export type ResolvedPoolOptions = Omit<Resolved<typeof rows>, "name" | "module"> & { name: string; module: URL };

/** Fills in defaults. @throws {InvalidConfigError} */
export function resolvePoolOptions(given: PoolOptions): ResolvedPoolOptions {
  const options = poolOptions.resolve(given);
  const path = resolve(options.cwd, options.module);
  if (!existsSync(path)) refuse("module", path, "a file that exists");
  if (path === Bun.main) {
    throw new InvalidConfigError(`module is ${path}, the program itself: each process would start it again.`, {
      hint: "Move the functions to a file of their own.",
    });
  }
  const random = crypto.getRandomValues(new Uint32Array(1))[0]!.toString(36);
  return { ...options, module: pathToFileURL(path), name: options.name ?? `pool-${process.pid}-${random}` };
}
