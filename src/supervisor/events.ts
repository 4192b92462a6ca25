/** What a supervisor tells of its workers. */

import type { ExitReport, WorkerFailedError } from "../errors.ts";

/**
 * Where a worker stands.
 *
 *     starting ──▶ ready ──▶ draining ──▶ stopped
 *        ▲  │        │
 *        │  └────┬───┘ its process ended
 *     backoff ◀──┴──▶ failed, or stopped
 *     paused
 */
export type WorkerState = "starting" | "ready" | "draining" | "stopped" | "failed" | "backoff" | "paused";

/** A worker of a pool, as it is now. */
export interface WorkerStatus {
  /** Index in the pool. */
  readonly id: number;
  /** 1 for its first process, 2 for the next, … */
  readonly life: number;
  /** Of its process; 0: it has none. */
  readonly pid: number;
  readonly state: WorkerState;
  /** Times it was started again after its process had ended. */
  readonly restarts: number;
}

/** Events of a {@link Supervisor}, with what their listeners get. */
export interface SupervisorEvents {
  /** A worker takes requests. */
  joined: [worker: WorkerStatus];
  /** A process ended that had been asked to: by `close`, `resize` or a replacement. */
  left: [worker: WorkerStatus, report: ExitReport];
  /** A process ended that had not been asked to, or was killed because it hung or was not ready in time. */
  died: [worker: WorkerStatus, report: ExitReport];
  /** The state of a worker changed. */
  state: [worker: WorkerStatus, previous: WorkerState];
  /** A line of standard error. */
  log: [worker: { id: number; pid: number }, line: string];
  /** A worker is given up; the others go on. */
  failed: [error: WorkerFailedError];
  /**
   * A worker ended too often, so the pool is paused: of the workers that end too often one is tried at a time, after pauses that
   * grow. The other workers go on. Without a listener a warning says so.
   */
  paused: [error: WorkerFailedError];
  /** The pool is no longer paused: a worker stayed up, or `resize` was called. Its paused workers are started again. */
  resumed: [];
}
