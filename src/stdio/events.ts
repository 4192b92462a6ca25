/** Messages of workers, and the events of a stdio bus. */

import type { ExitReport, WorkerFailedError } from "../errors.ts";
import type { RpcMessage } from "./rpc.ts";
import { type SlotbusError } from "../errors.ts";

/** A worker and its current process. */
export interface LinkIdentity {
  /** Id of the worker's pool. */
  readonly pool: string;
  /** Index of the worker in its pool. */
  readonly worker: number;
  /** Number of the worker's process: 1 for the first, 2 for the next, … */
  readonly life: number;
  /** Process id. */
  readonly pid: number;
}

/** A notification from a worker. */
export interface WorkerNotification {
  readonly method: string;
  readonly params: unknown;
  /** Id of the pool. */
  readonly pool: string;
  /** Index of the worker in its pool. */
  readonly worker: number;
  readonly pid: number;
  /** The whole message as it was received. */
  readonly message: RpcMessage;
}

/** Context of a worker's request, for a handler of {@link StdioBus.onRequest}. */
export interface WorkerRequestContext {
  readonly method: string;
  readonly pool: string;
  readonly worker: number;
  readonly pid: number;
  /** Aborted when the worker cancels the request or ends. */
  readonly signal: AbortSignal;
  /** The whole message as it was received. */
  readonly message: RpcMessage;
}

/** Responds to a worker's request. If it throws, the worker gets an error; an {@link RpcError} keeps its code and data. */
export type WorkerRequestHandler = (params: unknown, context: WorkerRequestContext) => unknown;

/**
 * Events of a `StdioBus` and the arguments of their listeners. Events from before `start` resolved are emitted in the next turn
 * of the event loop, so listeners that are added right after `await` receive them.
 */
export interface StdioBusEvents {
  /** A worker started to take requests. */
  joined: [worker: LinkIdentity];
  /** A process ended as requested: by `close`, `resize`, `reload` or `recycle`. */
  left: [worker: LinkIdentity, report: ExitReport];
  /** A process ended unexpectedly. It is restarted according to the `restart` option of its pool. */
  died: [worker: LinkIdentity, report: ExitReport];
  /** A line that a worker wrote to standard error. */
  log: [worker: Omit<LinkIdentity, "life">, line: string];
  /** A worker will not be restarted (`restart.giveUp` or `restart.policy`). Other workers continue. */
  failed: [error: WorkerFailedError, pool: string];
  /** A pool is paused because its workers end too often. Without a listener, a warning is emitted. */
  paused: [error: WorkerFailedError, pool: string];
  /** A pool is no longer paused. */
  resumed: [pool: string];
  /** A worker wrote something that is not a message, or an unexpected message. */
  fault: [error: SlotbusError, worker: LinkIdentity];
  /** A server closed a connection. Without a listener, a line is written to standard error. */
  refused: [reason: string];
}

/** Emits an event of a bus. */
export type Tell = <K extends keyof StdioBusEvents>(event: K, ...args: StdioBusEvents[K]) => void;
