/** Errors of hubs, of worker processes and of the stdio bus. */

import { asGiven, define, type ErrorDetails } from "./base.ts";

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

/** How a worker process ended. */
export interface ExitReport {
  /** Index of the worker in its pool. */
  readonly worker: number;
  /** 1 for its first process, 2 for the next, … */
  readonly life: number;
  /** 0: the program never ran. */
  readonly pid: number;
  /** `null` when a signal ended it, or nothing did. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly uptimeMs: number;
  /**
   * What ended it: `"itself"`, `"drain"` (while it answered its last requests, when it was asked to stop), `"end of input"`,
   * `"SIGTERM"`, `"SIGKILL"`, or `"nothing"`: it survived SIGKILL for 5 s, as a process in an uninterruptible call does.
   */
  readonly how: "itself" | "drain" | "end of input" | "SIGTERM" | "SIGKILL" | "nothing";
  /** The last 64 KiB of what it wrote to standard error, `""` when that is inherited. */
  readonly stderrTail: string;
}

/** `"exited with code 3 after 120 ms"`, and the end of what it wrote to standard error. */
function describeExit({ exitCode, signal, uptimeMs, stderrTail }: ExitReport): string {
  const how = signal ? `was ended by ${signal}` : exitCode === null ? "does not end" : `exited with code ${exitCode}`;
  const tail = stderrTail.trimEnd().slice(-512).trimStart();
  return `${how} after ${Math.round(uptimeMs)} ms${tail && `; its standard error ends with:\n${tail}\n`}`;
}

/**
 * The program of a pool does not exist, or may not be executed.
 * @cure Install it, or correct `command`, `cwd` or `env.PATH`.
 */
export class ProgramNotFoundError extends define(
  "PROGRAM_NOT_FOUND",
  (pool: string, program: string, where: string, cause?: unknown) => ({
    message: `pool "${pool}": there is no program ${JSON.stringify(program)} (${where}).`,
    hint: "Install it, correct `command`, or set `env.PATH` of the pool.",
    cause,
    fields: { program },
  }),
) {}

/**
 * A worker ended, or took too long, before it was ready.
 * @cure Read the end of its standard error in the message; raise `startupTimeout` if it is only slow.
 */
export class WorkerStartError extends define(
  "WORKER_START",
  (pool: string, worker: number, why: string, report: ExitReport | null, cause?: unknown) => {
    const ended = report && report.how === "itself" ? `: it ${describeExit(report)}` : "";
    return {
      message: `worker ${worker} of pool "${pool}" ${why}${ended}.`,
      cause,
      fields: {
        worker,
        /** How its process ended; `null`: it had none. */
        report,
      },
    };
  },
) {}

/**
 * The process of a worker ended while it had this request.
 * @cure Look at exit code, signal and standard error in `report`.
 */
export class WorkerExitedError extends define(
  "WORKER_EXITED",
  (what: string, pool: string, report: ExitReport, mayHaveExecuted: boolean = true) => ({
    message: `${what}: worker ${report.worker} of pool "${pool}" (pid ${report.pid}) ${describeExit(report)}.`,
    hint: mayHaveExecuted
      ? "It may have run; retry only what is safe to run twice (`idempotent: true`)."
      : "It did not run.",
    retryable: !mayHaveExecuted,
    mayHaveExecuted,
    fields: {
      /** `null` when a signal ended it. */
      exitCode: report.exitCode,
      /** Such as `"SIGKILL"`; `null` when it exited by itself. */
      signal: report.signal,
      /** The last 64 KiB of what it wrote to standard error, `""` when that is inherited. */
      stderrTail: report.stderrTail,
      /** All that is known of its end, these three too. */
      report,
    },
  }),
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
 * The operation is not possible in this state.
 * @cure Wait for what is under way, then call again.
 */
export class InvalidStateError extends define(
  "INVALID_STATE",
  (what: string, operation: string, state: string, expected: string) => ({
    message: `${operation} needs ${what} to be ${expected}; it is ${state}.`,
    fields: { state, expected },
  }),
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

/**
 * Workers have as much as they may have, and the request was not to wait, or too many waited already.
 * @cure Add workers, or set `limits.queue.policy` to `"wait"`.
 */
export class BackpressureError extends define("BACKPRESSURE", (what: string, waiting: number, limit: number) => ({
  message: `${what} takes no more now: its workers are full and ${waiting} of ${limit} requests wait.`,
  hint: 'Add workers, raise `limits.queue.limit`, or set `limits.queue.policy` to "wait".',
  retryable: true,
})) {}

/**
 * The bus has no pool of that id; or it has several, and none was named.
 * @cure Name one of the pools that the message lists.
 */
export class UnknownPoolError extends define("UNKNOWN_POOL", (pool: string | undefined, pools: readonly string[]) => {
  const what = pool === undefined ? `no pool was named, and there are ${pools.length}` : `there is no pool "${pool}"`;
  const shown = pools.slice(0, 10).map((id) => `"${id}"`);
  return {
    message: `${what}.`,
    hint: `Pools: ${shown.join(", ")}.`,
    fields: {
      /** `undefined`: none was named. */
      pool,
    },
  };
}) {}

/**
 * Every worker of a pool was given up, so nobody will take the request.
 * @cure Fix the program; `cause` says why its last process ended. Then call `bus.resize` with the pool's id and current size.
 */
export class PoolFailedError extends define(
  "POOL_FAILED",
  (pool: string, cause: unknown, mayHaveExecuted: boolean) => ({
    message: `pool "${pool}" has no worker left: all were given up or have ended.`,
    hint: "Fix the program; `cause` says why its last process ended. Then call `bus.resize` with the pool's id and current size.",
    cause,
    mayHaveExecuted,
    fields: { pool },
  }),
) {}

/**
 * A subscription with the policy `"close"` was full.
 * @cure Read faster, raise `queue`, or drop instead of closing.
 */
export class SubscriptionFullError extends define("SUBSCRIPTION_FULL", (queue: number) => ({
  message: `the subscription had ${queue} unread items and was closed.`,
  hint: "Read faster, raise `queue`, or choose another policy.",
})) {}

/**
 * Somebody listens there already.
 * @cure Stop who listens there, or choose another address.
 */
export class AddressInUseError extends define("ADDRESS_IN_USE", (address: string, why: string, cause?: unknown) => ({
  message: `${address} ${why}.`,
  hint: "Choose another one, or stop who has it.",
  cause,
  fields: { address },
})) {}
