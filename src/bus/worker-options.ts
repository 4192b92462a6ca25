/** The options of a worker, and its events. */

import type { Backoff } from "../backoff.ts";
import type { SlotbusError } from "../errors.ts";
import { boolean, type Given, group, integer, Options, orFalse, refuse, type Resolved, timeout } from "../options.ts";
import { directoryRow, nameRow } from "../runtime-directory.ts";
import { SLOTS_MAX, spinRow } from "./options.ts";

const reconnectRows = {
  /** First pause, in ms. */
  initial: integer(10, 1, 3_600_000, " ms"),
  /** Longest pause, in ms. */
  max: integer(1_000, 1, 3_600_000, " ms"),
};

const rows = {
  /** Name of the bus. A bus sets `SLOTBUS_NAME` for the workers that it starts. */
  name: nameRow("bus", "SLOTBUS_NAME"),
  /** Requests taken at once; never more than the bus has slots. */
  concurrency: integer(SLOTS_MAX, 1, SLOTS_MAX),
  /** How long `open` waits for the bus to appear, in ms; 0 rejects at once, `Infinity` waits without a limit. */
  timeout: timeout(5_000, 0),
  /** Pauses, which double, before it attaches again when the client ends. `false`, or a name from the environment: it does not. */
  reconnect: orFalse(group(reconnectRows)),
  /** Longest spin on the event loop before the process sleeps, in µs; 0 never spins. */
  spin: spinRow,
  /** Runtime directory. */
  directory: directoryRow,
};

/** The options of a worker. */
export const workerOptions = new Options("a worker", rows);

/** What `SlotWorker.open` takes. */
export interface SlotWorkerOptions extends Given<typeof rows> {}

const serveRows = {
  /** The handler takes the place of the one before; requests that run end with that one. */
  replace: boolean(false),
};

/** The options of `SlotWorker.serve`. */
export const serveOptions = new Options("serve", serveRows);

/** Pauses between the attempts of a worker to attach again. */
export interface ReconnectOptions extends Given<typeof reconnectRows> {}

/** What `SlotWorker.serve` takes besides the handler. */
export interface ServeOptions extends Given<typeof serveRows> {}

/** Events of a worker, with the arguments of their listeners. */
export interface SlotWorkerEvents {
  /** Attached, for the first time or again. */
  connected: [];
  /** The client ended or closed the connection. */
  disconnected: [reason: SlotbusError];
  /** A handler failed; its caller was told too. Without a listener an error `NO_ANSWER` is one line on standard error. */
  handlerError: [error: unknown, request: { id: string; path: string }];
}

/** Options of a worker with their defaults filled in. */
export interface ResolvedWorkerOptions extends Omit<Resolved<typeof rows>, "reconnect"> {
  /** The directory was named: it may belong to another user. */
  readonly shared: boolean;
  /** Pauses between attempts to attach again; `null`: it is not attached again. */
  readonly reconnect: Backoff | null;
}

/** Fills in defaults. @throws {InvalidConfigError} */
export function resolveWorkerOptions(given: SlotWorkerOptions): ResolvedWorkerOptions {
  const options = workerOptions.resolve(given);
  const isOfBus = given.reconnect === undefined && given.name === undefined;
  const reconnect = isOfBus ? null : options.reconnect;
  if (reconnect && reconnect.max < reconnect.initial)
    refuse("reconnect.max", reconnect.max, `at least reconnect.initial, which is ${reconnect.initial} ms`);
  return { ...options, reconnect, shared: given.directory !== undefined };
}
