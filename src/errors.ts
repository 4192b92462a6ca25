/**
 * All errors that slotbus throws. Each message says what failed, with the values and limits, and what to do next.
 *
 * There is no error for aborts: an aborted call rejects with `signal.reason`, as `fetch` does.
 */

export { type ErrorDetails, SlotbusError } from "./errors/base.ts";
export type { ExitReport } from "./errors/exit.ts";
export * from "./errors/bus.ts";
export * from "./errors/fleet.ts";
export * from "./errors/process.ts";
