/** Events and diagnostics of a bus, and the interface through which a bus starts workers. */

import type { ExitReport, SlotbusError, WorkerFailedError } from "../errors.ts";
import type { WireKind } from "./via.ts";
import type { Connection } from "./wire.ts";

/** An attached worker. */
export interface WorkerInfo {
  /** Id of this attachment, unique on the bus: a worker that attaches again gets a new id. */
  id: number;
  pid: number;
  uid: number;
  /** Number of requests that the worker runs at once. */
  concurrency: number;
  /** What carries its requests. */
  wire: WireKind;
  /** Over NATS: id of the worker among all machines, as `nats micro` shows it. Process ids of two machines can be the same. */
  instance?: string | undefined;
}

/** @internal */
export function infoOf({ id, pid, uid, concurrency, wire, instance }: Connection): WorkerInfo {
  return { id, pid, uid, concurrency, wire, ...(instance === undefined ? {} : { instance }) };
}

/** Events of a bus, with the arguments of their listeners. */
export interface SlotBusEvents {
  /** A worker attached. */
  joined: [worker: WorkerInfo];
  /** A worker left: it was closed, or the bus stopped it. */
  left: [worker: WorkerInfo];
  /** A worker's connection ended unexpectedly, or the bus evicted the worker; `reason` says which. */
  died: [worker: WorkerInfo, reason: string];
  /**
   * A worker that the bus did not start has requests, but its event loop has been blocked for `workers.unresponsive` ms. The bus
   * chooses this worker last until the event loop runs again. (A worker that the bus started is evicted and replaced: `died`.)
   */
  unresponsive: [worker: WorkerInfo];
  /** The event loop of an unresponsive worker runs again. */
  responsive: [worker: WorkerInfo];
  /** A connection was refused, for example because of its user, its protocol version or an invalid handshake. */
  refused: [peer: { pid: number; uid: number }, reason: string];
  /** The NATS server cannot be reached; its workers have `died`. The bus connects again by itself. */
  disconnected: [reason: SlotbusError];
  /** The NATS server can be reached again. Workers that are there attach at once. */
  connected: [];
}

/** One slot in `SlotBus.diagnostics`. */
export interface SlotDiagnostics {
  /** Number of the client that the slot belongs to: {@link SlotBus.clientNumber}; `null` for the owner of a bus. */
  client: number | null;
  workerPid: number;
  slot: number;
  state: string;
  /** Time since the bus last changed the state, in ms. */
  ageMs: number;
  /** Id of the request in the slot; `null` for none. */
  requestId: string | null;
  /** Whether the response in the slot is borrowed. */
  borrowed: boolean;
}

/** @internal */
export function slotsOf(connection: Connection, client: number | null): SlotDiagnostics[] {
  return connection.slots().map(({ state, ageMs, exchange }, slot) => ({
    client,
    workerPid: connection.pid,
    slot,
    state,
    ageMs,
    requestId: exchange?.id ?? null,
    borrowed: exchange !== null && exchange.kind === "borrow" && exchange.isSettled,
  }));
}

/** All slots and all queued requests: the result of `SlotBus.diagnostics`. */
export interface Diagnostics {
  slots: SlotDiagnostics[];
  queued: { requestId: string; ageMs: number }[];
}

/** Counts the responses of one worker. */
export interface Counted {
  served(): void;
}

/** Starts and stops the workers of a bus with the option `workers`: the pool. */
export interface WorkerSupply {
  /** Why no worker runs and none is starting; `null` while a worker runs or is starting. */
  readonly downFor: WorkerFailedError | null;
  /** Why the worker that was given up last had ended. */
  readonly givenUp: WorkerFailedError | null;
  readonly lastFailure: SlotbusError | null;
  /** Called when requests wait for a worker. `count`: those that wait or run, also if their callers have given up. */
  grow(count: number): void;
  /** Returns the counter of the worker's responses; `null` if they are not counted. */
  joined(connection: Connection): Counted | null;
  left(connection: Connection): void;
  /** Resolves to the exit report of a worker's process; `null` for a worker that the pool did not start. */
  exitOf(connection: Connection): Promise<ExitReport> | null;
  /** Whether the pool started the worker of a connection. */
  owns(connection: Connection): boolean;
}

/** Emits an event of the bus; its listeners run in a microtask. */
export type Tell = <Name extends keyof SlotBusEvents>(event: Name, ...args: SlotBusEvents[Name]) => void;
