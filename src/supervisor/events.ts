/** Events of a supervisor, and the states of its workers. */

import type { ExitReport, WorkerFailedError } from "../errors.ts";

/**
 * State of a worker.
 *
 *     starting ──▶ ready ──▶ draining ──▶ stopped
 *        ▲  │        │
 *        │  └────┬───┘ its process ended
 *     backoff ◀──┴──▶ failed, or stopped
 *     paused
 */
export type WorkerState = "starting" | "ready" | "draining" | "stopped" | "failed" | "backoff" | "paused";

/** A worker of a pool and its current state. */
export interface WorkerStatus {
  /** Index in the pool. */
  readonly id: number;
  /** Number of its process: 1 for the first, 2 for the next, … */
  readonly life: number;
  /** Process id; 0 without a process. */
  readonly pid: number;
  readonly state: WorkerState;
  /** Number of restarts. */
  readonly restarts: number;
}

/** Events of a {@link Supervisor} and the arguments of their listeners. */
export interface SupervisorEvents {
  /** A worker is ready. */
  joined: [worker: WorkerStatus];
  /** A process ended as requested: by `close`, `resize` or a replacement. `worker` describes that process: it is `stopped`. */
  left: [worker: WorkerStatus, report: ExitReport];
  /** A process ended unexpectedly, or was killed because it hung or was not ready in time; it is `stopped`, too. */
  died: [worker: WorkerStatus, report: ExitReport];
  /** The state of a worker changed. */
  state: [worker: WorkerStatus, previous: WorkerState];
  /** A worker wrote a line to standard error. */
  log: [worker: { id: number; pid: number }, line: string];
  /** A worker will not be restarted. Other workers continue. */
  failed: [error: WorkerFailedError];
  /**
   * A worker ended too often, so the pool is paused. Of the workers that ended too often, one at a time is restarted after
   * growing pauses. Other workers continue. Without a listener, a warning is emitted.
   */
  paused: [error: WorkerFailedError];
  /** The pool is no longer paused: a worker stayed up, or `resize` was called. All paused workers are restarted. */
  resumed: [];
}
