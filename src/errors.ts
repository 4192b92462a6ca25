/**
 * Every error slotbus raises. A message states the fact, the numbers and the next step.
 *
 * An abort is not among them: an aborted call rejects with `signal.reason`, as on the web.
 */

export { type ErrorDetails, SlotbusError } from "./errors/base.ts";
export type { ExitReport } from "./errors/exit.ts";
export * from "./errors/bus.ts";
export * from "./errors/fleet.ts";
export * from "./errors/process.ts";
