/** Options of the workers that a bus starts. */

import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { checkOptions } from "../check.ts";
import { MAX_TIMER_MS } from "../clock.ts";
import { ENTRY_VARIABLE, type findEmbedded } from "../compiled.ts";
import { InvalidConfigError } from "../errors.ts";
import { boolean, choice, endless, type Given, integer, needed, Options, optional, refuse, row } from "../options.ts";
import { isReloading } from "../hot.ts";
import { completePool, poolOptions, type ResolvedPool } from "./options.ts";

/** Maximum number of workers of a bus. */
const WORKERS_MAX = 64;

function checkEntry(value: unknown, name: string): string {
  const must = "a path or a file: URL";
  const text = value instanceof URL && value.protocol === "file:" ? value.href : value;
  if (typeof text !== "string") return refuse(name, value, must);
  if (!text.startsWith("file:")) return text;
  try {
    return Bun.fileURLToPath(text);
  } catch {
    return refuse(name, value, must); // a URL with another host
  }
}

const { name: _, command: __, instances: ___, ...poolRows } = poolOptions.rows;

/** Options of the workers that a bus starts, restarts and stops. */
export const workersOptions = new Options("workers", {
  /**
   * Program of the workers: a file that Bun runs and that calls `SlotWorker.open()`. The worker reads name and directory of the
   * bus from its environment (`SLOTBUS_NAME`, `SLOTBUS_DIR`), and is ready when it has attached. In a compiled program: another
   * entry of that program.
   */
  entry: needed(row<string | URL, string>(undefined, "a path or a file: URL", checkEntry)),
  /** Minimum number of workers. */
  min: integer(1, 0, WORKERS_MAX),
  /** Maximum number of workers. Up to this number, workers are started while requests wait. */
  max: optional(integer(undefined, 1, WORKERS_MAX), "`min`, or one per processor if that is more"),
  /** Time after which workers that were not needed are stopped, in ms. */
  idle: integer(30_000, 1, MAX_TIMER_MS, " ms"),
  /**
   * Time for which the event loop of a worker with requests may be blocked, in ms; `Infinity`: no limit. After that the worker
   * is killed and restarted. A worker that the bus did not start only causes an event `unresponsive`, and is chosen last.
   */
  unresponsive: endless(30_000, 100, MAX_TIMER_MS, " ms"),
  /**
   * Replaces the workers one by one when `entry` or an imported file outside of `node_modules` changes. A new worker is ready
   * before the old one drains. If the new code does not start, the old workers stay until the next change.
   */
  watch: optional(boolean(false), "true under `bun --watch` and `bun --hot`, else false"),
  ...poolRows,
  /**
   * Standard error of workers. `"inherit"`: that of this process. `"log"`: lines become events `log` of `bus.supervisor` only.
   */
  stderr: choice("inherit", ["log", "inherit"]),
});

/** Options of the workers that a bus starts, restarts and stops: the options of every supervised pool and some more. */
export interface WorkersOptions extends Given<typeof workersOptions.rows> {}

/** Options of the workers of a bus, with their defaults filled in. */
export type ResolvedWorkers = Readonly<{
  min: number;
  max: number;
  idle: number;
  unresponsive: number;
  /** Path of the program if its changes are watched; otherwise `null`. */
  watch: string | null;
  /** Options of the supervisor; the bus adds its name and the environment. */
  pool: ResolvedPool;
}>;

/** Fills in defaults. `find`: finds entries of a compiled program; `null` otherwise. @throws {InvalidConfigError} @internal */
export function resolveWorkers(given: WorkersOptions, find: typeof findEmbedded): ResolvedWorkers {
  if ("instances" in checkOptions("workers", given, '{ entry: "worker.ts" }')) {
    throw new InvalidConfigError("workers has no option `instances`.", { hint: "Use `min` and `max`." });
  }
  const {
    entry,
    min,
    max: most,
    idle,
    unresponsive,
    watch,
    ...pool
  } = workersOptions.resolve(given, { at: "workers" });
  const path = find ? find(entry) : resolve(pool.cwd, entry);
  if (!existsSync(path)) refuse("workers.entry", path, "a file that exists");
  const max = most ?? Math.min(WORKERS_MAX, Math.max(min, availableParallelism()));
  if (max < min) refuse("workers.max", max, `at least workers.min, ${min}`);
  const program = { name: null, command: process.execPath, instances: min, args: [path, ...pool.args] };
  const env = find ? { ...pool.env, [ENTRY_VARIABLE]: path } : pool.env;
  const watched = !find && (watch ?? isReloading) ? path : null;
  return { min, max, idle, unresponsive, watch: watched, pool: completePool({ ...pool, ...program, env }, "workers.") };
}
