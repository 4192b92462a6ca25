/** Keeps worker processes alive: `import { Supervisor } from "slotbus/supervisor"`. */

export type { PoolOptions, RecycleOptions, RestartOptions, StopOptions } from "./options.ts";
export type { Transport, WorkerLink, WorkerProcess } from "./process.ts";
export { Supervisor, type SupervisorEvents, type WorkerState, type WorkerStatus } from "./supervisor.ts";
export * from "../errors.ts";
