/** slotbus/supervisor: starts, restarts and stops worker processes. */

export type { SupervisorEvents, WorkerState, WorkerStatus } from "./events.ts";
export type { PoolOptions, RecycleOptions, RestartOptions, StopOptions } from "./options.ts";
export type { Transport, WorkerLink, WorkerProcess } from "./process.ts";
export { Supervisor } from "./supervisor.ts";
export * from "../errors.ts";
