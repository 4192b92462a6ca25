/** Errors of hubs, worker processes and the stdio bus. */

import { asGiven, define, type ErrorDetails } from "./base.ts";
import { describeExit, endOfOutput, type ExitReport } from "./exit.ts";

/**
 * A hub rejected a worker's call, or does not answer.
 * @cure Read `status` and `reason`, which are the hub's response (docs/hub.md). Status 0: no hub of this name is
 * running.
 */
export class HubError extends define(
  "HUB",
  (message: string, { status = 0, reason = "", ...details }: ErrorDetails & { status?: number; reason?: string }) => ({
    ...asGiven(message, details),
    fields: {
      /** HTTP status of the hub's response; 0: it did not respond. */
      status,
      /** The hub's own code: `"ROUTE_TAKEN"`, … */
      reason,
    },
  }),
) {}

/**
 * A worker process ended or timed out before it was ready.
 * @cure Read the end of its standard error in the message. A worker of a bus must call `SlotWorker.open()` in its
 * entry. Raise `startupTimeout` if the program is only slow.
 */
export class WorkerStartError extends define(
  "WORKER_START",
  (
    pool: string,
    worker: number,
    why: string,
    report: ExitReport | null,
    /** `hint`: what the program must do to become ready. */
    details: Pick<ErrorDetails, "cause" | "hint"> = {},
  ) => {
    const ended = report && report.how === "itself" ? `: it ${describeExit(report)}` : "";
    return {
      ...details,
      message: `Worker ${worker} of pool "${pool}" ${why}${ended}.`,
      output: report ? endOfOutput(report) : "",
      fields: {
        worker,
        /** How its process ended; `null`: no process was started. */
        report,
      },
    };
  },
) {}

/**
 * A worker ended more often than its restart policy allows. It is paused and retried after growing delays; with
 * `restart: { giveUp: true }` it is given up instead.
 * @cure Fix the program. Paused workers restart by themselves; for given-up workers, call `resize` with the current
 * size.
 */
export class WorkerFailedError extends define(
  "WORKER_FAILED",
  (pool: string, report: ExitReport, why: string, isGivenUp: boolean) => {
    const state = isGivenUp ? "given up" : "paused";
    return {
      message: `Worker ${report.worker} of pool "${pool}" is ${state} (${why}): it ${describeExit(report)}.`,
      hint: isGivenUp
        ? "Fix the program, then call `resize` with the current size to start the worker again."
        : "Fix the program. The worker is retried after growing delays; call `resize` to retry at once.",
      output: endOfOutput(report),
      retryable: !isGivenUp,
      fields: { worker: report.worker, report },
    };
  },
) {}

/**
 * A worker answered with a JSON-RPC error. Never retried, because the handler ran.
 * @cure Read `rpcCode`, `rpcMessage` and `data`: they are the worker's own error.
 */
export class RpcError extends define("RPC", (rpcCode: number, message: string, data?: unknown, whose = "") => ({
  // A handler can throw this error to answer with its code, message and data.
  message: whose ? `${whose} answered with error ${rpcCode}: ${message}` : message,
  mayHaveExecuted: true,
  fields: {
    /** Error code from the worker; -32601: it does not have the method. */
    rpcCode,
    /** Error message from the worker. */
    rpcMessage: message,
    /** Error data from the worker; `undefined`: it sent none. */
    data,
  },
})) {}
