/** Options of the workers that a bus starts itself, as a table. */

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

/** Workers of a bus at most. */
const WORKERS_MAX = 64;

function checkEntry(value: unknown, name: string): string {
  const must = "a path or a file: URL";
  const text = value instanceof URL && value.protocol === "file:" ? value.href : value;
  if (typeof text !== "string") return refuse(name, value, must);
  if (!text.startsWith("file:")) return text;
  try {
    return Bun.fileURLToPath(text);
  } catch {
    return refuse(name, value, must); // of another host
  }
}

const { name: _, command: __, instances: ___, ...poolRows } = poolOptions.rows;

/** Options of the workers that a bus starts, keeps alive and stops itself. */
export const workersOptions = new Options("workers", {
  /**
   * The program: a file that Bun runs, which opens a worker with `SlotWorker.open()`. It finds name and directory of the bus
   * in its environment (`SLOTBUS_NAME`, `SLOTBUS_DIR`), and is ready when it has attached. In a compiled
   * program: one of its other entries.
   */
  entry: needed(row<string | URL, string>(undefined, "a path or a file: URL", checkEntry)),
  /** Workers that always run. */
  min: integer(1, 0, WORKERS_MAX),
  /** Workers at most: more are started while requests wait. */
  max: optional(integer(undefined, 1, WORKERS_MAX), "`min`, or one per processor if that is more"),
  /** After so many ms in which fewer workers would have done, the others are stopped. */
  idle: integer(30_000, 1, MAX_TIMER_MS, " ms"),
  /**
   * A worker that has requests and whose event loop does not turn for so many ms is killed and started again: its handler hangs, or
   * its process is stopped. A worker that the bus did not start is reported (`unresponsive`) and chosen last. `Infinity`: never.
   */
  unresponsive: endless(30_000, 100, MAX_TIMER_MS, " ms"),
  /**
   * Replaces the workers one by one when `entry` or a file that it imports changes, outside of `node_modules`: the new one is ready
   * before the old one drains. When the new code does not start, the old workers stay until the next change.
   */
  watch: optional(boolean(false), "true under `bun --watch` and `bun --hot`, else false"),
  ...poolRows,
  /** `"inherit"`: that of this process. `"log"`: only the event `log` of `bus.supervisor` has it. */
  stderr: choice("inherit", ["log", "inherit"]),
});

/** Workers that the bus starts, keeps alive and stops itself. The rest as for any supervised pool. */
export interface WorkersOptions extends Given<typeof workersOptions.rows> {}

/** Options of the workers of a bus, with their defaults filled in. */
export type ResolvedWorkers = Readonly<{
  min: number;
  max: number;
  idle: number;
  unresponsive: number;
  /** The program, when its changes are watched. */
  watch: string | null;
  /** Of the supervisor; the bus adds its name and the environment. */
  pool: ResolvedPool;
}>;

/** Fills in defaults. `find`: where the program is compiled. @throws {InvalidConfigError} @internal */
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
