/** The options and events of a worker. */

import type { Backoff } from "../backoff.ts";
import type { SlotbusError } from "../errors.ts";
import { boolean, type Given, group, integer, Options, orFalse, refuse, type Resolved, timeout } from "../options.ts";
import { directoryRow, nameRow } from "../runtime-directory.ts";
import { SLOTS_MAX, spinRow, viaRow } from "./options.ts";

const reconnectRows = {
  /** Pause before the first attempt, in ms. */
  initial: integer(10, 1, 3_600_000, " ms"),
  /** Longest pause, in ms. */
  max: integer(1_000, 1, 3_600_000, " ms"),
};

const rows = {
  /** Name of the bus. Default: the environment variable `SLOTBUS_NAME`, which a bus sets for the workers that it starts. */
  name: nameRow("bus", "SLOTBUS_NAME"),
  /** Number of requests that the worker runs at once, at most the `slots` of the bus. */
  concurrency: integer(SLOTS_MAX, 1, SLOTS_MAX),
  /**
   * Longest wait of `open` for the bus, in ms; 0 rejects at once, `Infinity` waits without a limit. Default for a worker of
   * `slotbus run`: `Infinity`.
   */
  timeout: timeout(5_000, 0),
  /**
   * Pauses between attempts to attach again after the client has ended; each pause is twice as long as the last. `false` does not
   * attach again. Default for a worker that a bus started and that gets its name from the environment: `false`.
   */
  reconnect: orFalse(group(reconnectRows)),
  /** Longest time that the event loop spins before the process sleeps, in µs; 0 never spins. */
  spin: spinRow,
  /** Runtime directory, which holds the socket of the bus. */
  directory: directoryRow,
  /** What carries the requests. */
  via: viaRow,
};

/** The options of a worker. */
export const workerOptions = new Options("a worker", rows);

/** Options of `SlotWorker.open`. */
export interface SlotWorkerOptions extends Given<typeof rows> {}

const serveRows = {
  /** Whether the handler replaces the previous handler. Running requests finish with the previous handler. */
  replace: boolean(false),
};

/** The options of `SlotWorker.serve`. */
export const serveOptions = new Options("serve", serveRows);

/** Pauses between attempts of a worker to attach again. */
export interface ReconnectOptions extends Given<typeof reconnectRows> {}

/** Options of `SlotWorker.serve`. */
export interface ServeOptions extends Given<typeof serveRows> {}

/** Events of a worker, with the arguments of their listeners. */
export interface SlotWorkerEvents {
  /** The worker attached to a client: each one of a shared bus, and again after its end. */
  connected: [];
  /** A client ended or closed the connection. */
  disconnected: [reason: SlotbusError];
  /** The worker is attached to a client of a shared bus, and another client refused it or speaks another version. */
  refused: [error: SlotbusError];
  /** A handler failed. The caller gets the error too. Without a listener, a `NO_ANSWER` error is printed to standard error. */
  handlerError: [error: unknown, request: { id: string; path: string }];
}

/** Options of a worker with their defaults filled in. */
export interface ResolvedWorkerOptions extends Omit<Resolved<typeof rows>, "reconnect"> {
  /** Whether `directory` was set explicitly: it may then belong to another user. */
  readonly shared: boolean;
  /** Pauses between attempts to attach again; `null`: the worker does not attach again. */
  readonly reconnect: Backoff | null;
}

/** Fills in defaults. `isRun`: the worker was started by `slotbus run`. @throws {InvalidConfigError} */
export function resolveWorkerOptions(given: SlotWorkerOptions, isRun = false): ResolvedWorkerOptions {
  const options = workerOptions.resolve(given, isRun ? { base: { timeout: Infinity } } : {});
  const isOfBus = !isRun && given.reconnect === undefined && given.name === undefined;
  const reconnect = isOfBus ? null : options.reconnect;
  if (reconnect && reconnect.max < reconnect.initial)
    refuse("reconnect.max", reconnect.max, `at least reconnect.initial, which is ${reconnect.initial} ms`);
  return { ...options, reconnect, shared: given.directory !== undefined };
}
