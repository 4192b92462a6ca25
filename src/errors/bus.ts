/** Errors of the bus, its workers and typed calls; other parts throw some of them too. */

import { asGiven, define, type ErrorDetails, inMs, SlotbusError } from "./base.ts";
import { describeExit, endOfOutput, type ExitReport } from "./exit.ts";

/**
 * An option or argument is outside its documented range.
 * @cure Correct the option that the message names.
 */
export class InvalidConfigError extends define("INVALID_CONFIG", asGiven) {}

/**
 * `taken`: `create` met an owner; `owned`: `connect` met an owner; `shared`: `create` met clients that share the name.
 */
type NameConflict = "taken" | "owned" | "shared";

function describeConflict(name: string, owner: string, isOurs: boolean, conflict: NameConflict): [string, string] {
  if (conflict === "shared") {
    return [
      `Clients share the bus "${name}", so SlotBus.create cannot own it.`,
      "Call SlotBus.connect to join them, or choose another name.",
    ];
  }
  if (conflict === "owned") {
    return [
      `SlotBus.create or a hub owns the name "${name}"${owner}, so SlotBus.connect cannot share it.`,
      "Call SlotBus.connect in all its clients, or choose another name.",
    ];
  }
  return [
    `A bus, hub or pool named "${name}" is already running${owner}.`,
    isOurs ? "Close it first, or choose another name." : "Choose another name, or stop that process.",
  ];
}

/**
 * Other clients hold this name: a running bus or hub owns it, or clients of `SlotBus.connect` share it.
 * @cure Call `SlotBus.connect` in all clients that share a bus. Otherwise find the process with `slotbus ls` and stop it, or
 * choose another name. In one process, close the first.
 */
export class BusExistsError extends define(
  "BUS_EXISTS",
  (name: string, ownerPid: number, isOurs: boolean = false, conflict: NameConflict = "taken") => {
    const owner = ownerPid ? ` (pid ${ownerPid}${isOurs ? ", this process" : ""})` : "";
    const [message, hint] = describeConflict(name, owner, isOurs, conflict);
    return {
      message,
      hint,
      retryable: true,
      fields: {
        /** Process id that the owner wrote into its lock file; 0 when unknown or shared. For information only. */
        ownerPid,
      },
    };
  },
) {}

/**
 * No client listens on this name.
 * @cure Start the client with the same name and SLOTBUS_DIR; `slotbus ls` lists the running ones. Or raise `timeout`.
 */
export class BusNotFoundError extends define("BUS_NOT_FOUND", (name: string, directory: string, waitedMs: number) => ({
  message: `Cannot find bus "${name}" in ${directory}${waitedMs > 0 ? ` after ${inMs(waitedMs)}` : ""}.`,
  hint: "Start the client (SlotBus.create) with the same name and directory, or raise `timeout`.",
  retryable: true,
})) {}

/**
 * The bus, worker, hub, pool, fleet, cursor or subscription is closed. Pending calls reject with this error.
 * @cure Nothing, if you closed it. Otherwise create, open, join or start a new one.
 */
export class ClosedError extends define("CLOSED", (what: string, details?: ErrorDetails) =>
  asGiven(`${what} is closed.`, details),
) {}

/**
 * All workers are busy up to their `concurrency`, and the queue is full (with the policy `"reject"`) or the request may
 * not wait.
 * @cure Add workers or raise `concurrency`; raise `queue.limit` only for short peaks.
 */
export class BusOverloadedError extends define(
  "BUS_OVERLOADED",
  (message: string, waiting: number = 0, limit: number = 0) => ({
    message,
    hint: 'Add workers, raise `queue.limit`, or pass `queue: { policy: "wait" }`.',
    retryable: true,
    fields: {
      /** Number of requests in the queue. */
      waiting,
      /** Size of the queue; 0 for a request that may not wait. */
      limit,
    },
  }),
) {}

/**
 * No worker took the request: none was attached before the request timed out, the worker that it named is not attached,
 * or all workers are paused or were given up.
 * @cure Start a worker; `slotbus ls` shows how many are attached. `cause` says why the last worker process ended.
 */
export class NoWorkerError extends define(
  "NO_WORKER",
  (
    name: string,
    waitedMs: number,
    what: "bus" | "pool" = "bus",
    /** Why the last worker process that this bus or pool started was paused, was given up or ended. */
    failure: SlotbusError | null = null,
    mayHaveExecuted: boolean = false,
    /** Id of the worker that the request named, which is not attached. */
    worker: number | null = null,
  ) => {
    const isPaused = failure?.retryable === true;
    const resize = what === "bus" ? "bus.supervisor.resize()" : "bus.resize()";
    const states = {
      absent: `has no worker with the id ${worker}`,
      none: waitedMs > 0 ? `had no worker for ${inMs(waitedMs)}` : "has no worker",
      paused: "has no worker: its workers are paused",
      over: "has no worker left: all were given up or have ended",
    };
    const hints = {
      absent: "Use the `id` of a worker in `bus.workers`. The worker may have ended.",
      none: `${what === "bus" ? "Start one with SlotWorker.open, or raise" : "Raise"} the request's timeout.`,
      paused: `Fix the error in \`cause\`. The ${what} restarts one worker at a time until one stays up.`,
      over: `Fix the error in \`cause\`, then call \`${resize}\` to start workers again.`,
    };
    const state = worker !== null ? "absent" : isPaused ? "paused" : failure ? "over" : "none";
    return {
      message: `${what === "bus" ? "Bus" : "Pool"} "${name}" ${states[state]}.`,
      hint: hints[state],
      retryable: state !== "over",
      mayHaveExecuted,
      cause: failure ?? undefined,
      fields: { waitedMs },
    };
  },
) {}

/**
 * `ready` timed out before enough workers were attached.
 * @cure Read `failures` (workers that were refused or ended meanwhile) and `cause` (why a process that the bus started
 * failed).
 */
export class NotReadyError extends define(
  "NOT_READY",
  (
    name: string,
    timeoutMs: number,
    attached: number,
    wanted: number,
    failures: readonly string[],
    lastFailure: SlotbusError | null,
  ) => {
    const reasons = failures.length > 0 ? ` Meanwhile: ${failures.join("; ")}.` : "";
    return {
      message: `Bus "${name}" has ${attached} of ${wanted} workers after ${inMs(timeoutMs)}.${reasons}`,
      hint: lastFailure
        ? "The last worker process failed: see `cause`."
        : `Start workers in the same directory (\`slotbus run worker.ts --name ${name}\`, or SlotWorker.open), or raise \`timeout\`.`,
      retryable: true,
      cause: lastFailure ?? undefined,
      fields: {
        /** Number of workers that were attached. */
        attached,
        /** Number of workers that `ready` waited for. */
        wanted,
        /** Workers that were refused or ended meanwhile, each with its process id and the reason; at most 8. */
        failures,
      },
    };
  },
) {}

/**
 * The request timed out.
 * @cure Compare `queuedMs` and `ranMs`: a large `queuedMs` means too few workers, a large `ranMs` a slow handler.
 */
export class RequestTimeoutError extends define(
  "TIMEOUT",
  (id: string, timeoutMs: number, queuedMs: number, ranMs: number, mayHaveExecuted: boolean) => {
    const where = mayHaveExecuted
      ? `${inMs(queuedMs)} in the queue, ${inMs(ranMs)} with a worker; the handler may have run`
      : `${inMs(queuedMs)} in the queue; the handler did not run`;
    const message = `Request ${id} timed out after ${inMs(timeoutMs)} (${where}).`;
    return { message, retryable: !mayHaveExecuted, mayHaveExecuted, fields: { queuedMs, ranMs } };
  },
) {}

/**
 * The worker died while it had the request.
 * @cure Read `exitCode`, `signal` and `report`. They are `null` for a worker that the bus did not start: read that
 * worker's log and the kernel's. Mark requests that may run twice as `idempotent`.
 */
export class WorkerDiedError extends define(
  "WORKER_DIED",
  (
    /** Id or method of the request; `null`: the worker had none. */
    request: string | null,
    pid: number,
    /** A verb phrase such as `"closed its connection"`; or the report, for a process that was started here. */
    how: string | ExitReport,
    mayHaveExecuted: boolean,
  ) => {
    const report = typeof how === "string" ? null : how;
    const during = request === null ? "" : ` while request ${request} was in flight`;
    return {
      message: `Worker pid ${pid} ${typeof how === "string" ? how + during : describeExit(how, during)}.`,
      hint: mayHaveExecuted
        ? "The handler may have run. Retry only requests that are safe to run twice (`idempotent: true`)."
        : "The handler did not run.",
      output: report ? endOfOutput(report) : "",
      retryable: !mayHaveExecuted,
      mayHaveExecuted,
      fields: {
        pid,
        /** Exit code of the process; `null` when a signal killed it, or when unknown. */
        exitCode: report?.exitCode ?? null,
        /** Signal that killed the process; `null` when it exited by itself, or when unknown. */
        signal: report?.signal ?? null,
        /**
         * How the process ended. `null` when it was not started here, when the bus evicted the worker, and for a
         * response whose body was streaming.
         */
        report,
      },
    };
  },
) {}

/**
 * A body, an item of a typed stream, or an event exceeds its size limit. It was not sent.
 * @cure Raise `payloadBytes`, stream the body, or make the ring larger.
 */
export class PayloadTooLargeError extends define(
  "PAYLOAD_TOO_LARGE",
  (what: "request" | "response" | "item" | "event", bytes: number, limit: number, mayHaveExecuted: boolean = false) => {
    const which = what === "item" ? "An item of the stream" : what === "event" ? "The event" : `The ${what} body`;
    const where = what === "event" ? "ring" : "bus";
    return {
      message: `${which} is ${bytes} bytes; the limit of this ${where} is ${limit}.`,
      hint:
        what === "event"
          ? "Raise `frames` or `frameBytes` of the ring; an event can take a quarter of its ring."
          : "Raise `payloadBytes` in SlotBus.create, or send it in parts.",
      mayHaveExecuted,
      fields: { bytes, limit },
    };
  },
) {}

/**
 * Method, path, query, parameters and headers together exceed `headBytes` of the bus.
 * @cure Move data into the body, or raise `headBytes`.
 */
export class HeadTooLargeError extends define(
  "HEAD_TOO_LARGE",
  (what: "request" | "response", bytes: number, limit: number, mayHaveExecuted: boolean = false) => ({
    message: `The ${what} head (path and headers) is ${bytes} bytes; the limit of this bus is ${limit}.`,
    hint: "Raise `headBytes` in SlotBus.create, or move data into the body.",
    mayHaveExecuted,
    fields: { bytes, limit },
  }),
) {}

/**
 * A stream took longer than its `deadline`, or no byte moved for its `idle` limit.
 * @cure Raise the limit that the message names, or read faster.
 */
export class StreamTimeoutError extends define(
  "STREAM_TIMEOUT",
  (id: string, limit: "deadline" | "idle", ms: number, bytes: number) => {
    const what = limit === "deadline" ? `timed out after ${inMs(ms)}` : `was idle for ${inMs(ms)}`;
    return {
      message: `The stream of request ${id} ${what}; ${bytes} bytes were read.`,
      hint: `Raise \`${limit}\`, or read faster: the sender waits for the reader.`,
      mayHaveExecuted: true,
    };
  },
) {}

/**
 * The two sides speak different versions of the protocol.
 * @cure Run the same version of slotbus on both sides; see "Upgrades" in docs/operations.md.
 */
export class VersionMismatchError extends define("VERSION_MISMATCH", (what: string, ours: number, theirs: string) => ({
  message: `${what} speaks protocol version ${theirs}; this process speaks ${ours}.`,
  hint: "Run the same version of slotbus on both sides.",
})) {}

/**
 * slotbus cannot run on this platform, runtime or installation.
 * @cure Run `slotbus doctor`. slotbus needs Linux on x64 or arm64, Bun 1.4 and the library of its package.
 */
export class UnsupportedError extends define("UNSUPPORTED", asGiven) {}

/**
 * The worker's handler threw, rejected or returned something that is not a valid response.
 * @cure Read `remoteName`, `message` and `remoteStack`: they describe the handler's own error.
 */
export class RemoteError extends define(
  "REMOTE",
  (remote: { code: string; name: string; message: string; stack: string; cause?: unknown }) => ({
    message: `${remote.name}: ${remote.message}`,
    cause: remote.cause,
    mayHaveExecuted: true,
    fields: {
      /** Code of the error in the worker: `"HANDLER_FAILED"`, `"PAYLOAD_TOO_LARGE"`, … */
      remoteCode: remote.code,
      /** Name of the error in the worker. */
      remoteName: remote.name,
      /** Stack of the error in the worker; empty when there is none. */
      remoteStack: remote.stack,
    },
  }),
) {}

/** One problem of a value: its place and a description. */
export interface ValidationIssue {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/**
 * A value of a typed call does not match its contract.
 * @cure Correct the value; `issues` lists the problems, `side` says which side found them.
 */
export class ValidationError extends define(
  "VALIDATION",
  (
    contract: string,
    method: string,
    side: "client" | "worker",
    part: string,
    issues: readonly ValidationIssue[],
    mayHaveExecuted: boolean,
  ) => {
    const shown = issues
      .slice(0, 5)
      .map(({ path, message }) => `${path.length ? path.join(".") : "value"}: ${message}`);
    const more = issues.length > 5 ? `; and ${issues.length - 5} more` : "";
    return {
      message: `${contract}.${method} ${part}, checked by the ${side}: ${shown.join("; ")}${more}.`,
      mayHaveExecuted,
      fields: {
        /** Name of the contract. */
        contract,
        /** Name of the method. */
        method,
        /** The side that checked the value. */
        side,
        /** The value that was checked: `"input"`, `"output"`, or the data of an error: `"error NOT_FOUND"`. */
        part,
        issues,
      },
    };
  },
) {}

/**
 * The handler threw an error that the contract declares. `isContractError` narrows it to its type.
 * @cure Handle it: it is part of the contract.
 */
export class ContractError<Code extends string = string, Data = unknown> extends SlotbusError {
  declare readonly code: Code;
  readonly data: Data;
  /** Name of the contract. */
  readonly contract: string;
  /** Name of the method. */
  readonly method: string;

  constructor(contract: string, method: string, code: Code, data: Data, message?: string) {
    super(code, message ?? `${contract}.${method} failed with ${code}.`, { mayHaveExecuted: true });
    this.data = data;
    this.contract = contract;
    this.method = method;
  }
}

/** One difference between the two sides of a call. */
export interface ContractDifference {
  /** `"kind"`, `"codec"`, `"version"`, `"input schema"`, …; `"contract"` or `"method"`: the worker does not have it. */
  readonly what: string;
  readonly client: string;
  readonly worker: string;
}

/** Names of methods that differ between the client's contract and the worker's. */
interface DifferentMethods {
  readonly missing: readonly string[];
  readonly different: readonly string[];
}

/** Number of method names in a message; the rest is a count. */
const NAMES_SHOWN = 8;

function namesOf(methods: readonly string[], but: string): string {
  const names = methods.filter((name) => name !== but);
  const more = names.length - NAMES_SHOWN;
  return names.slice(0, NAMES_SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Leaves out the digests of schemas, which nobody can read; `differences` has them. */
function describeDifference({ what, client, worker }: ContractDifference): string {
  if (what === "method") return `the worker has no method ${client}`;
  if (what === "contract") return `the worker does not implement contract ${client}; it ${worker}`;
  return what.includes("schema") ? `different ${what}` : `${what}: client ${client}, worker ${worker}`;
}

/**
 * The client's contract differs from the contract that the worker implements.
 * @cure Deploy both sides with the same contract. `differences` says what differs in this method; `missing` and
 * `different` list the methods.
 */
export class ContractMismatchError extends define(
  "CONTRACT_MISMATCH",
  (
    contract: string,
    method: string,
    differences: readonly ContractDifference[],
    near: readonly string[] = [],
    mayHaveExecuted: boolean = false,
    { missing, different }: DifferentMethods = { missing: [], different: [] },
  ) => {
    const shown = differences.map(describeDifference);
    const [others, absent] = [namesOf(different, method), namesOf(missing, method)];
    const also = others && ` Other methods that differ: ${others}.`;
    const lacks = absent && ` Other methods that the worker does not have: ${absent}.`;
    return {
      message: `${contract}.${method} differs between client and worker (${shown.join("; ")}).${also}${lacks}`,
      hint: near.length > 0 ? `Did you mean ${near.join(" or ")}?` : "Run both sides with the same contract.",
      mayHaveExecuted,
      fields: {
        /** Name of the contract. */
        contract,
        /** Name of the method. */
        method,
        differences,
        /** Similar names that the worker has. */
        near,
        /**
         * Methods of the client's contract that the worker does not have; empty when the worker did not list its own.
         */
        missing,
        /** Methods of both contracts whose declarations differ; empty when the worker did not list its own. */
        different,
      },
    };
  },
) {}
