/** Options of the workers that a bus starts itself: their defaults, their ranges, and the one error each wrong value gets. */

import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { checkInteger, checkOptions, shown } from "../check.ts";
import { MAX_TIMER_MS } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import { checkCount, type PoolOptions, resolvePool } from "./options.ts";

/** Workers that the bus starts, keeps alive and stops itself. The rest as for any supervised pool. */
export interface WorkersOptions extends Omit<PoolOptions, "name" | "command" | "instances"> {
  /**
   * The program: a file that Bun runs, which opens a worker with `SlotWorker.open()`. It finds name and directory of the bus
   * in its environment (`SLOTBUS_NAME`, `SLOTBUS_DIR`), and is ready when it has attached.
   */
  entry: string | URL;
  /** Workers there are at least, 0 to 64. Default 1. */
  min?: number;
  /** Workers there are at most: more are started while requests wait. Default: `min`, or one per processor if that is more. */
  max?: number;
  /** After so many ms in which fewer workers would have done, the others are stopped. Default 30 000. */
  idle?: number;
  /**
   * A worker that has requests and whose event loop does not turn for so many ms is killed and started again: its handler hangs, or
   * its process is stopped. A worker that the bus did not start is reported (`workerUnresponsive`) and chosen last. 100 or more;
   * `Infinity`: never. Default 30 000, also without this section.
   */
  unresponsive?: number;
  /** Default `"inherit"`. `"log"`: only the event `log` of `bus.supervisor` has it. */
  stderr?: "log" | "inherit";
}

/** Options of the workers of a bus, with their defaults filled in. */
export type ResolvedWorkers = Readonly<{
  min: number;
  max: number;
  idle: number;
  unresponsive: number;
  pool: PoolOptions;
}>;

/**
 * Fills in defaults; a bus has `limit` workers at most, and `stalledAfter` is its default of `unresponsive`.
 * Throws {@link InvalidConfigError}. @internal
 */
export function resolveWorkers(given: WorkersOptions, limit: number, stalledAfter: number): ResolvedWorkers {
  const {
    entry,
    min: least,
    max: most,
    idle,
    unresponsive = stalledAfter,
    args = [],
    ...rest
  } = checkOptions("workers", given, '{ entry: "worker.ts" }');
  const file: unknown = entry instanceof URL && entry.protocol === "file:" ? Bun.fileURLToPath(entry) : entry;
  if (typeof file !== "string") {
    throw new InvalidConfigError(`workers.entry is ${shown(entry)}; it must be a path or a file: URL.`);
  }
  const path = resolve(rest.cwd ?? ".", file);
  if (!existsSync(path)) throw new InvalidConfigError(`workers.entry is ${shown(path)}; there is no such file.`);
  if (!Array.isArray(args)) throw new InvalidConfigError(`args is ${shown(args)}; it must be an array of texts.`);
  const min = checkInteger("workers.min", least ?? 1, 0, limit);
  const usual = Math.min(limit, Math.max(min, availableParallelism()));
  const max = checkInteger("workers.max", most ?? usual, Math.max(min, 1), limit);
  for (const key of ["name", "command", "instances"]) {
    if (key in rest) throw new InvalidConfigError(`workers has no option "${key}"; the bus gives it.`);
  }
  const pool: PoolOptions = { stderr: "inherit", ...rest, command: process.execPath, args: [path, ...args] };
  resolvePool(pool); // says what is wrong with it before anything is opened
  return {
    min,
    max,
    idle: checkInteger("workers.idle", idle ?? 30_000, 1, MAX_TIMER_MS, " ms"),
    unresponsive: checkCount("workers.unresponsive", unresponsive, 100, " ms"),
    pool,
  };
}
