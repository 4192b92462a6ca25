/** `slotbus/pool`: the functions of a module, run in processes. */

export type { CloseOptions, DrainOptions } from "../closing.ts";
export type { PoolOptions } from "./options.ts";
export { Pool, type PoolEvents, type PoolStats, type RunName, type RunOptions, type StreamName } from "./pool.ts";
export { type Task, task } from "./task.ts";
export * from "../errors.ts";
