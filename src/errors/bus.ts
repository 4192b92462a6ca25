/** Errors of the bus, its workers and typed calls; several are those of the other parts too. */

import { asGiven, define, type ErrorDetails, inMs, SlotbusError } from "./base.ts";
import { describeExit, type ExitReport } from "./exit.ts";

/**
 * An option or argument is outside its documented range.
 * @cure Correct the option that the message names.
 */
export class InvalidConfigError extends define("INVALID_CONFIG", asGiven) {}

/**
 * A live bus or hub has the name.
 * @cure Find the owner with `slotbus ls`; stop it, or take another name. In one process, close the first.
 */
export class BusExistsError extends define("BUS_EXISTS", (name: string, ownerPid: number, isOurs: boolean = false) => ({
  message: `a bus or hub "${name}" runs already${ownerPid ? ` (pid ${ownerPid}${isOurs ? ", this process" : ""})` : ""}.`,
  hint: isOurs ? "Close it first, or choose another name." : "Choose another name, or stop that process.",
  retryable: true,
  fields: {
    /** Process id of the owner, as it wrote it; 0 when unknown. Information, not proof. */
    ownerPid,
  },
})) {}

/**
 * No client listens on the name.
 * @cure Start the client, with the same name and SLOTBUS_DIR; `slotbus ls` says which there are. Or raise `timeout`.
 */
export class BusNotFoundError extends define("BUS_NOT_FOUND", (name: string, directory: string, waitedMs: number) => ({
  message: `no bus called "${name}" in ${directory} after ${inMs(waitedMs)}.`,
  hint: "Start the client (SlotBus.create) with the same name and directory, or raise `timeout`.",
  retryable: true,
})) {}

/**
 * The bus, worker, hub, pool, fleet, cursor or subscription is closed. Calls that still waited reject with this.
 * @cure Nothing, if you closed it. Otherwise begin again: create, open, join or start it.
 */
export class ClosedError extends define("CLOSED", (what: string, details?: ErrorDetails) =>
  asGiven(`${what} is closed.`, details),
) {}

/**
 * All workers have as many requests as they take, and the queue is full (its policy is to reject) or the request does not queue.
 * @cure Add workers or raise `concurrency`; raise `queue.limit` only for short peaks.
 */
export class BusOverloadedError extends define(
  "BUS_OVERLOADED",
  /** `waiting` of `limit` requests are in the queue. */
  (message: string, waiting: number = 0, limit: number = 0) => ({
    message,
    hint: 'Add workers, raise `queue.limit`, or pass `queue: { policy: "wait" }`.',
    retryable: true,
    fields: {
      /** Requests that waited in the queue. */
      waiting,
      /** Requests that may wait there; 0 for a request that does not queue. */
      limit,
    },
  }),
) {}

/**
 * No worker took the request: none was attached for as long as it could wait, or all workers are paused or were given up.
 * @cure Start a worker; `slotbus ls` says how many are attached. Read in `cause` why the last one ended.
 */
export class NoWorkerError extends define(
  "NO_WORKER",
  (
    name: string,
    waitedMs: number,
    what: "bus" | "pool" = "bus",
    /** Why the last of the workers that are started here was paused, was given up or ended. */
    failure: SlotbusError | null = null,
    mayHaveExecuted: boolean = false,
  ) => {
    const isPaused = failure?.retryable === true;
    const resize = what === "bus" ? "bus.supervisor.resize()" : "bus.resize()";
    const states = {
      none: `had no worker for ${inMs(waitedMs)}`,
      paused: "has no worker: its workers are paused",
      over: "has no worker left: all were given up or have ended",
    };
    const hints = {
      none: `${what === "bus" ? "Start one with SlotWorker.open, or raise" : "Raise"} the request's timeout.`,
      paused: `Fix the error in \`cause\`. The ${what} restarts one worker at a time until one stays up.`,
      over: `Fix the error in \`cause\`, then call \`${resize}\` to start workers again.`,
    };
    const state = isPaused ? "paused" : failure ? "over" : "none";
    return {
      message: `${what} "${name}" ${states[state]}.`,
      hint: hints[state],
      retryable: state !== "over",
      mayHaveExecuted,
      cause: failure ?? undefined,
      fields: { waitedMs },
    };
  },
) {}

/**
 * Fewer workers were attached than `ready` waited for when its time was over.
 * @cure Read why others did not come: `failures` has the peers that were refused and the workers that ended, `cause` why a
 * process that the bus started failed.
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
        : "Start workers with SlotWorker.open, with the same name and directory, or raise `timeout`.",
      retryable: true,
      cause: lastFailure ?? undefined,
      fields: {
        /** Workers that were attached. */
        attached,
        /** Workers that were waited for. */
        wanted,
        /** Peers that were refused and workers that ended meanwhile, each with its process id and the reason; at most 8. */
        failures,
      },
    };
  },
) {}

/**
 * The request's time is over.
 * @cure Compare `queuedMs` with `ranMs`: too few workers, or a slow handler.
 */
export class RequestTimeoutError extends define(
  "TIMEOUT",
  (id: string, timeoutMs: number, queuedMs: number, ranMs: number, mayHaveExecuted: boolean) => {
    const where = mayHaveExecuted
      ? `queued ${inMs(queuedMs)}, with a worker ${inMs(ranMs)}; it was told to stop`
      : `queued ${inMs(queuedMs)}; no handler saw it`;
    const message = `request ${id} took longer than ${inMs(timeoutMs)} (${where}).`;
    return { message, retryable: !mayHaveExecuted, mayHaveExecuted, fields: { queuedMs, ranMs } };
  },
) {}

/**
 * The worker that had the request ended.
 * @cure Read `exitCode`, `signal` and `report`. They are `null` when somebody else started the worker: look into its log and the
 * kernel's. Make requests that may run twice `idempotent`.
 */
export class WorkerDiedError extends define(
  "WORKER_DIED",
  (
    /** Id or method of the request; `null`: it had none. */
    request: string | null,
    pid: number,
    /** `"closed its connection"`; or the report, where the process was started here. */
    how: string | ExitReport,
    mayHaveExecuted: boolean,
  ) => {
    const report = typeof how === "string" ? null : how;
    const during = request === null ? "" : ` while it had request ${request}`;
    return {
      message: `worker pid ${pid} ${typeof how === "string" ? how + during : describeExit(how, during)}.`,
      hint: mayHaveExecuted
        ? "The handler may have run; retry only what is safe to run twice (`idempotent: true`)."
        : "The handler did not run.",
      retryable: !mayHaveExecuted,
      mayHaveExecuted,
      fields: {
        pid,
        /** Exit code of the process; `null` when a signal ended it, or when that is not known. */
        exitCode: report?.exitCode ?? null,
        /** The signal that ended the process; `null` when it exited by itself, or when that is not known. */
        signal: report?.signal ?? null,
        /**
         * All that is known of its end. `null` when the process was not started here, when the bus evicted the worker, and for a
         * response whose body was streaming.
         */
        report,
      },
    };
  },
) {}

/**
 * A body, an item of a typed stream, or an event of a ring above the limit; it was not sent.
 * @cure Raise `payloadBytes`, stream the body, or give the ring more room.
 */
export class PayloadTooLargeError extends define(
  "PAYLOAD_TOO_LARGE",
  (what: "request" | "response" | "item" | "event", bytes: number, limit: number, mayHaveExecuted: boolean = false) => {
    const which = what === "item" ? "an item of a stream" : what === "event" ? "the event" : `the ${what} body`;
    const where = what === "event" ? "ring" : "bus";
    return {
      message: `${which} is ${bytes} bytes; this ${where} takes ${limit}.`,
      hint:
        what === "event"
          ? "Raise `frames` or `frameBytes` of the ring: an event has at most a quarter of it."
          : "Raise `payloadBytes` in SlotBus.create, or send it in parts.",
      mayHaveExecuted,
      fields: { bytes, limit },
    };
  },
) {}

/**
 * Method, path, query, parameters and headers together exceed the bus's head limit.
 * @cure Move data into the body, or raise `headBytes`.
 */
export class HeadTooLargeError extends define(
  "HEAD_TOO_LARGE",
  (what: "request" | "response", bytes: number, limit: number, mayHaveExecuted: boolean = false) => ({
    message: `the ${what} head (path and headers) is ${bytes} bytes; this bus takes ${limit}.`,
    hint: "Raise `headBytes` in SlotBus.create, or move data into the body.",
    mayHaveExecuted,
    fields: { bytes, limit },
  }),
) {}

/**
 * A stream that took longer than its `deadline`, or in which no byte moved for its `idle` limit.
 * @cure Raise the limit it names, or read faster.
 */
export class StreamTimeoutError extends define(
  "STREAM_TIMEOUT",
  (id: string, limit: "deadline" | "idle", ms: number, bytes: number) => {
    const what = limit === "deadline" ? `had not ended after ${inMs(ms)}` : `moved no byte for ${inMs(ms)}`;
    return {
      message: `the stream of request ${id} ${what}; ${bytes} bytes of it were read.`,
      hint: `Raise \`${limit}\`, or read faster: a reader that stops stops its writer.`,
      mayHaveExecuted: true,
    };
  },
) {}

/**
 * The two sides speak different versions of the protocol.
 * @cure Bring both sides to one version of slotbus; see "Upgrades" in docs/operations.md.
 */
export class VersionMismatchError extends define("VERSION_MISMATCH", (what: string, ours: number, theirs: string) => ({
  message: `${what} speaks protocol version ${theirs}; this process speaks ${ours}.`,
  hint: "Run the same version of slotbus on both sides.",
})) {}

/**
 * This platform, runtime or installation lacks what slotbus needs.
 * @cure See `slotbus doctor`: it needs Linux on x64 or arm64, Bun 1.4 and the library of the package.
 */
export class UnsupportedError extends define("UNSUPPORTED", asGiven) {}

/**
 * The worker's handler threw, rejected or returned something that is no answer.
 * @cure Read `remoteName`, `message` and `remoteStack`: it is the handler's own error.
 */
export class RemoteError extends define(
  "REMOTE",
  (remote: { code: string; name: string; message: string; stack: string }) => ({
    message: `${remote.name}: ${remote.message}`,
    mayHaveExecuted: true,
    fields: {
      /** Code of the worker's own error: `"HANDLER_FAILED"`, `"PAYLOAD_TOO_LARGE"`, … */
      remoteCode: remote.code,
      /** `name` of the worker's own error. */
      remoteName: remote.name,
      /** Stack of the worker's own error; empty when it had none. */
      remoteStack: remote.stack,
    },
  }),
) {}

/** Where in a value something is wrong, and what. */
export interface ValidationIssue {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/**
 * A value of a typed call is not what its contract says.
 * @cure Correct the value; `issues` says where, `side` who found it.
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
        /** Who found it. */
        side,
        /** What is wrong: the input, the output, or the data of an error: `"error NOT_FOUND"`. */
        part,
        issues,
      },
    };
  },
) {}

/**
 * An error that the contract declares, thrown by the handler. `isContractError` tells which, with its type.
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

/** In what the two sides of a call differ. */
export interface ContractDifference {
  /** `"kind"`, `"codec"`, `"version"`, `"input schema"`, …; `"contract"` or `"method"`: the worker has none such. */
  readonly what: string;
  readonly client: string;
  readonly worker: string;
}

/** Names of methods that differ between the contract of a client and the one of its worker. */
interface DifferentMethods {
  readonly missing: readonly string[];
  readonly different: readonly string[];
}

/** Names of methods that a message has; more are counted. */
const NAMES_SHOWN = 8;

function namesOf(methods: readonly string[], but: string): string {
  const names = methods.filter((name) => name !== but);
  const more = names.length - NAMES_SHOWN;
  return names.slice(0, NAMES_SHOWN).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Digests of schemas say nothing to a reader: they are in `differences`. */
function describeDifference({ what, client, worker }: ContractDifference): string {
  if (what === "method") return `the worker has no method ${client}`;
  if (what === "contract") return `the worker has no contract ${client}, it ${worker}`;
  return what.includes("schema") ? `another ${what}` : `${what}: client ${client}, worker ${worker}`;
}

/**
 * The client's contract is not the one that the worker implements.
 * @cure Deploy both sides with the same contract; `differences` says what differs in this method, `missing` and `different`
 * which methods do.
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
        /** Names the worker has that come near. */
        near,
        /** Methods of the client's contract that the worker does not have; empty when the worker did not list its own. */
        missing,
        /** Methods of both contracts whose declarations differ; empty when the worker did not list its own. */
        different,
      },
    };
  },
) {}
