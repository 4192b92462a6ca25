/** Errors of hubs, of worker processes and of the stdio bus. */

import { asGiven, define, type ErrorDetails } from "./base.ts";
import { describeExit, type ExitReport } from "./exit.ts";

/**
 * A hub refused what a worker asked of it, or does not answer.
 * @cure `status` and `reason` are the hub's answer (docs/hub.md). A status of 0: it does not run, or has another name.
 */
export class HubError extends define(
  "HUB",
  (message: string, { status = 0, reason = "", ...details }: ErrorDetails & { status?: number; reason?: string }) => ({
    ...asGiven(message, details),
    fields: {
      /** HTTP status of its answer; 0: there was none. */
      status,
      /** The hub's own code: `"ROUTE_TAKEN"`, … */
      reason,
    },
  }),
) {}

/**
 * A worker ended, or took too long, before it was ready.
 * @cure Read the end of its standard error in the message. Its program must attach: call `SlotWorker.open()` in the entry of a
 * bus's workers. Raise `startupTimeout` if it is only slow.
 */
export class WorkerStartError extends define(
  "WORKER_START",
  (
    pool: string,
    worker: number,
    why: string,
    report: ExitReport | null,
    /** `hint`: what the program must do to get ready. */
    details: Pick<ErrorDetails, "cause" | "hint"> = {},
  ) => {
    const ended = report && report.how === "itself" ? `: it ${describeExit(report)}` : "";
    return {
      ...details,
      message: `worker ${worker} of pool "${pool}" ${why}${ended}.`,
      fields: {
        worker,
        /** How its process ended; `null`: it had none. */
        report,
      },
    };
  },
) {}

/**
 * A worker ended more often than its restart policy allows. It is paused and tried again after pauses that grow; or, with
 * `restart: { giveUp: true }`, it is not started again.
 * @cure Fix the program. Then call `resize` with the size that the pool has; paused workers come back without that.
 */
export class WorkerFailedError extends define(
  "WORKER_FAILED",
  (pool: string, report: ExitReport, why: string, isGivenUp: boolean) => {
    const state = isGivenUp ? "given up" : "paused";
    return {
      message: `worker ${report.worker} of pool "${pool}" is ${state} (${why}): it ${describeExit(report)}.`,
      hint: isGivenUp
        ? "Fix the program, then call `resize` with the size that the pool has."
        : "Fix the program. The worker is tried again after pauses that grow; `resize` tries at once.",
      retryable: !isGivenUp,
      fields: { worker: report.worker, report },
    };
  },
) {}

/**
 * A worker answered with an error of JSON-RPC. Never retried: the handler ran and said no.
 * @cure Read `rpcCode` and `data`: it is the worker's own answer.
 */
export class RpcError extends define("RPC", (rpcCode: number, message: string, data?: unknown, whose = "") => ({
  // A handler throws one to answer with that code, message and data.
  message: whose ? `${whose} answered with error ${rpcCode}: ${message}` : message,
  mayHaveExecuted: true,
  fields: {
    /** As the worker sent it: -32601 when it has no such method, … */
    rpcCode,
    /** As the worker sent it. */
    rpcMessage: message,
    /** As the worker sent it; `undefined`: it sent none. */
    data,
  },
})) {}
