/** Options: their defaults, their ranges, and the one error each wrong value gets. */

import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { checkChoice, checkInteger, checkOptions, checkTimeout, shown } from "../check.ts";
import { MAX_TIMER_MS } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import { C } from "../native/abi.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { type PoolOptions, resolvePool } from "../supervisor/options.ts";
import { DEFAULT_SPIN_US } from "./driver.ts";

/** Receives one line of timing per request; see {@link SlotBusOptions.instrumentation}. */
export interface RequestTiming {
  id: string;
  path: string;
  workerPid: number;
  /** From publication to the worker's claim, in microseconds. */
  claimUs: number;
  /** From publication to delivery, in microseconds. */
  roundTripUs: number;
}

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

/** Default of `workers.unresponsive`, in ms. */
export const UNRESPONSIVE_MS = 30_000;

/** What `SlotBus.create` takes; all but the name have defaults. */
export interface SlotBusOptions {
  /** Name under which workers find the bus: 1-64 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit. */
  name: string;
  /** Slots per worker: requests that can be with one worker at once. 1-256, default 32. */
  slots?: number;
  /** Largest body in bytes, either direction. Default 16 MiB, at most 1 GiB. Memory is used when it is touched. */
  payloadLimit?: number;
  /** Largest head (path, query, parameters, headers) in bytes. Default 128 KiB, 1 KiB to 16 MiB. */
  headLimit?: number;
  /** Bytes of an arena that are kept warm, and up to which a worker copies a body when it comes. Default 16 KiB. */
  inlineSize?: number;
  /** Default timeout of a request in ms, `Infinity` for none. Default 30 000. */
  timeout?: number;
  queue?: {
    /** Requests that may wait for a free worker. Default 1024. */
    limit?: number;
    /** What happens beyond that: `"reject"` with BusOverloadedError (default), or `"wait"`. */
    policy?: "reject" | "wait";
  };
  /** Longest spin on the event loop before parking, in µs; 0 never spins. Default 50, or 0 on one processor. */
  spin?: number;
  /** Users that may attach, besides our own. Needs an explicit `directory` of mode 0711. */
  allowedUids?: readonly number[];
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
  /** Called with the claim and round-trip time of each answered request. Default: nothing is measured. */
  instrumentation?: (timing: RequestTiming) => void;
  /** Workers that the bus starts itself. Default: none; they are started by others. */
  workers?: WorkersOptions;
}

/** Options with their defaults filled in. */
export type ResolvedBusOptions = Readonly<{
  name: string;
  slots: number;
  payloadLimit: number;
  headLimit: number;
  inlineSize: number;
  timeout: number;
  queue: Readonly<{ limit: number; policy: "reject" | "wait" }>;
  spin: number;
  allowedUids: readonly number[];
  directory: string;
  instrumentation: ((timing: RequestTiming) => void) | null;
  workers: ResolvedWorkers | null;
}>;

function pageUp(bytes: number): number {
  return Math.ceil(bytes / C.SB_PAGE) * C.SB_PAGE;
}

/** Fills in defaults. Throws {@link InvalidConfigError} or {@link InvalidNameError}. */
export function resolveBusOptions(given: SlotBusOptions): ResolvedBusOptions {
  const name = checkName(given?.name);
  const policy = checkChoice("queue.policy", given.queue?.policy ?? "reject", ["reject", "wait"]);
  const allowedUids = (given.allowedUids ?? []).map((uid) => checkInteger("allowedUids", uid, 0, 0xffff_fffe));
  if (allowedUids.length > 0 && !given.directory) {
    throw new InvalidConfigError("allowedUids needs an explicit `directory`.", {
      hint: "Make one of mode 0711 that belongs to the hub's user: others may enter it, not list it.",
    });
  }
  const headLimit = checkInteger("headLimit", given.headLimit ?? 131_072, C.SB_HEAD_MIN, C.SB_HEAD_MAX, " bytes");
  return {
    name,
    slots: checkInteger("slots", given.slots ?? 32, 1, C.SB_SLOTS_MAX),
    payloadLimit: checkInteger("payloadLimit", given.payloadLimit ?? 16_777_216, 1, C.SB_PAYLOAD_MAX, " bytes"),
    headLimit: Math.ceil(headLimit / C.SB_LINE) * C.SB_LINE,
    inlineSize: pageUp(checkInteger("inlineSize", given.inlineSize ?? 16_384, 1, C.SB_HEAD_MAX, " bytes")),
    timeout: checkTimeout("timeout", given.timeout ?? 30_000),
    queue: { limit: checkInteger("queue.limit", given.queue?.limit ?? 1024, 0, 1_000_000), policy },
    spin: checkInteger("spin", given.spin ?? DEFAULT_SPIN_US, 0, 10_000, " µs"),
    allowedUids,
    directory: resolveDirectory(given.directory),
    instrumentation: given.instrumentation ?? null,
    workers: given.workers === undefined ? null : resolveWorkers(given.workers),
  };
}

function resolveWorkers(given: WorkersOptions): ResolvedWorkers {
  const {
    entry,
    min: least,
    max: most,
    idle,
    unresponsive = UNRESPONSIVE_MS,
    args = [],
    ...rest
  } = checkOptions("workers", given, '{ entry: "worker.ts" }');
  const file: unknown = entry instanceof URL && entry.protocol === "file:" ? fileURLToPath(entry) : entry;
  if (typeof file !== "string") {
    throw new InvalidConfigError(`workers.entry is ${shown(entry)}; it must be a path or a file: URL.`);
  }
  const path = resolve(rest.cwd ?? ".", file);
  if (!existsSync(path)) throw new InvalidConfigError(`workers.entry is ${shown(path)}; there is no such file.`);
  if (!Array.isArray(args)) throw new InvalidConfigError(`args is ${shown(args)}; it must be an array of texts.`);
  const min = checkInteger("workers.min", least ?? 1, 0, C.SB_LINKS_MAX);
  const usual = Math.min(C.SB_LINKS_MAX, Math.max(min, availableParallelism()));
  const max = checkInteger("workers.max", most ?? usual, Math.max(min, 1), C.SB_LINKS_MAX);
  for (const key of ["name", "command", "instances"]) {
    if (key in rest) throw new InvalidConfigError(`workers has no option "${key}"; the bus gives it.`);
  }
  const pool: PoolOptions = { stderr: "inherit", ...rest, command: process.execPath, args: [path, ...args] };
  resolvePool(pool); // says what is wrong with it before anything is opened
  return {
    min,
    max,
    idle: checkInteger("workers.idle", idle ?? 30_000, 1, MAX_TIMER_MS, " ms"),
    unresponsive:
      unresponsive === Infinity
        ? Infinity
        : checkInteger("workers.unresponsive", unresponsive, 100, MAX_TIMER_MS, " ms, or Infinity"),
    pool,
  };
}
