/** What a bus tells, and what it asks of those who start its workers. */

import type { ExitReport, SlotbusError, WorkerFailedError } from "../errors.ts";
import type { Connection } from "./wire.ts";

/** A worker in an event of the bus. */
export interface WorkerInfo {
  /** Of this attachment; no other of the bus has it. */
  id: number;
  pid: number;
  uid: number;
  /** Requests it takes at once. */
  concurrency: number;
}

/** @internal */
export function infoOf({ id, pid, uid, concurrency }: Connection): WorkerInfo {
  return { id, pid, uid, concurrency };
}

/** Events of a bus, with the arguments of their listeners. */
export interface SlotBusEvents {
  /** A worker attached. */
  joined: [worker: WorkerInfo];
  /** A worker closed in good order. */
  left: [worker: WorkerInfo];
  /** A worker's connection ended without a goodbye, or the bus evicted it; `reason` says which. */
  died: [worker: WorkerInfo, reason: string];
  /**
   * A worker that the bus did not start has requests, and its event loop has not turned for `workers.unresponsive` ms. It is chosen
   * last until it turns. (A worker that the bus started is evicted and its process replaced: `died`.)
   */
  unresponsive: [worker: WorkerInfo];
  /** The event loop of such a worker turns again. */
  responsive: [worker: WorkerInfo];
  /** A connection was turned away: another user, another version, silence, garbage. */
  refused: [peer: { pid: number; uid: number }, reason: string];
}

/** One slot in `SlotBus.diagnostics`. */
export interface SlotDiagnostics {
  workerPid: number;
  slot: number;
  state: string;
  /** Since the bus last moved it, in ms. */
  ageMs: number;
  /** Of the request in it. */
  requestId: string | null;
  /** Its response is lent out. */
  borrowed: boolean;
}

/** @internal */
export function slotsOf(connection: Connection): SlotDiagnostics[] {
  return connection.slots().map(({ state, ageMs, exchange }, slot) => ({
    workerPid: connection.pid,
    slot,
    state,
    ageMs,
    requestId: exchange?.id ?? null,
    borrowed: exchange !== null && exchange.kind === "borrow" && exchange.isSettled,
  }));
}

/** What waits and what runs: the result of `SlotBus.diagnostics`. */
export interface Diagnostics {
  slots: SlotDiagnostics[];
  queued: { requestId: string; ageMs: number }[];
}

/** Counts the answers of one worker. */
export interface Counted {
  served(): void;
}

/** Starts and stops the workers of a bus that has its own: the pool. */
export interface WorkerSupply {
  /** Why no worker takes requests or is about to; `null` while one does or is. */
  readonly downFor: WorkerFailedError | null;
  /** Why the last worker that was given up had ended. */
  readonly givenUp: WorkerFailedError | null;
  readonly lastFailure: SlotbusError | null;
  /** Requests wait for a worker. `unsettled`: their number, with those that run. */
  grow(unsettled: number): void;
  /** Returns what counts the answers of a worker that it started, if they are counted. */
  joined(connection: Connection): Counted | null;
  left(connection: Connection): void;
  /** How the process of a worker that it started ends, when it has; `null`: it did not start it. */
  exitOf(connection: Connection): Promise<ExitReport> | null;
  /** Whether it started the worker of a connection. */
  owns(connection: Connection): boolean;
}

/** Emits an event of the bus; its listeners run in a microtask. */
export type Tell = <Name extends keyof SlotBusEvents>(event: Name, ...args: SlotBusEvents[Name]) => void;
