/** What workers of a stdio bus say, and what the bus tells of them. */

import type { ExitReport, WorkerFailedError } from "../errors.ts";
import type { RpcMessage } from "./rpc.ts";
import { type SlotbusError } from "../errors.ts";

/** Who a worker is. */
export interface LinkIdentity {
  /** Id of its pool. */
  readonly pool: string;
  /** Its index in the pool. */
  readonly worker: number;
  /** 1 for its first process, 2 for the next, … */
  readonly life: number;
  readonly pid: number;
}

/** Something a worker tells without having been asked. */
export interface WorkerNotification {
  readonly method: string;
  readonly params: unknown;
  /** Id of the pool. */
  readonly pool: string;
  /** Index of the worker in its pool. */
  readonly worker: number;
  readonly pid: number;
  /** All of it, as it came. */
  readonly message: RpcMessage;
}

/** What a handler of {@link StdioBus.onRequest} knows of a worker's request besides its params. */
export interface WorkerRequestContext {
  readonly method: string;
  readonly pool: string;
  readonly worker: number;
  readonly pid: number;
  /** Aborts when the worker gives up or ends. */
  readonly signal: AbortSignal;
  /** All of it, as it came. */
  readonly message: RpcMessage;
}

/** Answers a worker's request; what it throws reaches the worker as an error, an {@link RpcError} with its code and data. */
export type WorkerRequestHandler = (params: unknown, context: WorkerRequestContext) => unknown;

/**
 * Events of a `StdioBus`, with what their listeners get. What happens before `start` has resolved is told in the turn after that, so
 * listeners that are added at once hear it.
 */
export interface StdioBusEvents {
  /** A worker takes requests. */
  joined: [worker: LinkIdentity];
  /** A process ended that was asked to: by `close`, `resize`, its age. */
  left: [worker: LinkIdentity, report: ExitReport];
  /** A process ended that was not asked to. Unless its pool says otherwise, it is started again. */
  died: [worker: LinkIdentity, report: ExitReport];
  /** A line that a worker wrote to standard error. */
  log: [worker: Omit<LinkIdentity, "life">, line: string];
  /** A worker is given up; the others go on. */
  failed: [error: WorkerFailedError, pool: string];
  /** A pool is paused, because its workers end too often. Without a listener a warning says so. */
  paused: [error: WorkerFailedError, pool: string];
  /** A pool is no longer paused. */
  resumed: [pool: string];
  /** A worker wrote what is not a message, or no message that fits. */
  fault: [error: SlotbusError, worker: LinkIdentity];
  /** A server closed a connection. Without a listener it is one line on standard error. */
  refused: [reason: string];
}

/** Tells the listeners of a bus. */
export type Tell = <K extends keyof StdioBusEvents>(event: K, ...args: StdioBusEvents[K]) => void;
