/** Options of a worker, and their defaults. */

import type { Backoff } from "../backoff.ts";
import { checkInteger, checkOptions, checkTimeout } from "../check.ts";
import type { SlotbusError } from "../errors.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { DEFAULT_SPIN_US, SLOTS_MAX } from "./options.ts";

/** What `SlotWorker.open` takes. */
export interface SlotWorkerOptions {
  /** Name of the bus. Default `$SLOTBUS_NAME`, which a bus sets for the workers that it starts. */
  name?: string;
  /** Requests taken at once, 1-256. Default: as many as the bus has slots. */
  concurrency?: number;
  /** How long to wait for the bus to appear, in ms. Default 5000; 0: reject at once. */
  wait?: number;
  /**
   * Attach again when the client ends. Default: 10 ms, doubling to 1000 ms, with jitter; not when the name was taken from the
   * environment. `false`: don't.
   */
  reconnect?: false | { min?: number; max?: number };
  /** Longest spin on the event loop before parking, in µs. Default 50, or 0 on one processor. */
  spin?: number;
  /** On SIGTERM: finish what runs, leave the bus, then let the signal do what it would have done. Default `false`. */
  drainOnSigterm?: boolean;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
}

/** Events of a worker, with the arguments of their listeners. */
export interface SlotWorkerEvents {
  /** Attached, for the first time or again. */
  connected: [];
  /** The client ended or closed the connection. */
  disconnected: [reason: SlotbusError];
  /** A handler failed; its caller was told too. Without a listener a {NoAnswerError} is one line on standard error. */
  handlerError: [error: unknown, request: { id: string; path: string }];
}

/** Options of a worker with their defaults filled in. */
export interface ResolvedWorkerOptions {
  readonly name: string;
  readonly directory: string;
  /** The directory was named: it may belong to another user. */
  readonly shared: boolean;
  readonly concurrency: number;
  readonly wait: number;
  /** Pauses between attempts to attach again; `null`: it is not attached again. */
  readonly reconnect: Backoff | null;
  readonly spin: number;
}

/** Fills in defaults. Throws {InvalidConfigError} or {InvalidNameError}. */
export function resolveWorkerOptions(given: SlotWorkerOptions): ResolvedWorkerOptions {
  const { name, directory, concurrency = SLOTS_MAX, wait = 5_000, reconnect, spin } = checkOptions("a worker", given);
  checkTimeout("wait", wait);
  return {
    name: checkName(name ?? process.env["SLOTBUS_NAME"]),
    directory: resolveDirectory(directory),
    shared: directory !== undefined,
    concurrency: checkInteger("concurrency", concurrency, 1, SLOTS_MAX),
    wait,
    reconnect: resolveReconnect(reconnect ?? (name === undefined ? false : {})),
    spin: checkInteger("spin", spin ?? DEFAULT_SPIN_US, 0, 10_000, " µs"),
  };
}

function resolveReconnect(given: false | { min?: number; max?: number }): Backoff | null {
  if (given === false) return null;
  const min = checkInteger("reconnect.min", given.min ?? 10, 1, 3_600_000, " ms");
  return { initial: min, max: checkInteger("reconnect.max", given.max ?? 1000, min, 3_600_000, " ms") };
}
