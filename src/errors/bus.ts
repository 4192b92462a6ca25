/** Errors of the bus, its workers and typed calls; several are those of the other parts too. */

import { asGiven, define, type ErrorDetails, SlotbusError } from "./base.ts";
import type { WorkerFailedError } from "./process.ts";

/**
 * An option or argument is outside its documented range.
 * @cure Correct the option that the message names.
 */
export class InvalidConfigError extends define("INVALID_CONFIG", asGiven) {}

/**
 * A name that could not be a file name everywhere.
 * @cure Use letters, digits and `. _ -`.
 */
export class InvalidNameError extends define(
  "INVALID_NAME",
  (name: unknown, what: "bus" | "fleet" | "ring" = "bus") => {
    const shown = typeof name === "string" ? JSON.stringify(name.slice(0, 80)) : Bun.inspect(name, { depth: 0 });
    return {
      message: `${shown} is not a ${what} name.`,
      hint: `Use 1 to ${what === "ring" ? 32 : 64} of A-Z a-z 0-9 . _ - and start with a letter or digit.`,
    };
  },
) {}

/**
 * A live client holds the name.
 * @cure Find the owner with `slotbus ls`; stop it, or take another name.
 */
export class BusExistsError extends define("BUS_EXISTS", (name: string, ownerPid: number) => ({
  message: `bus "${name}" has a live client${ownerPid ? ` (pid ${ownerPid})` : ""}.`,
  hint: "Choose another name, or stop that process.",
  retryable: true,
  fields: {
    /** Process id of the owner, as it wrote it; 0 when unknown. Information, not proof. */
    ownerPid,
  },
})) {}

/**
 * No client listens on the name.
 * @cure Start the client, with the same name and SLOTBUS_DIR; `slotbus ls` says which there are. Or raise `wait`.
 */
export class BusNotFoundError extends define("BUS_NOT_FOUND", (name: string, directory: string, waitedMs: number) => ({
  message: `no bus called "${name}" in ${directory} after ${Math.round(waitedMs)} ms.`,
  hint: "Start the client (SlotBus.create) with the same name and directory, or raise `wait`.",
  retryable: true,
})) {}

/**
 * The bus or worker was closed; requests that were still waiting reject with this.
 * @cure Nothing, if it was meant. A worker attaches again by itself unless `reconnect` is false.
 */
export class BusClosedError extends define("BUS_CLOSED", (what: string, details?: ErrorDetails) =>
  asGiven(`${what} is closed.`, details),
) {}

/**
 * The bus's queue is full and its policy is to reject.
 * @cure Add workers or raise `concurrency`; raise `queue.limit` only for short peaks.
 */
export class BusOverloadedError extends define("BUS_OVERLOADED", (message: string) => ({
  message,
  hint: 'Add workers, raise `queue.limit`, or pass `queue: { policy: "wait" }`.',
  retryable: true,
})) {}

/**
 * No worker was attached for the whole time the request could wait; or all workers end too often and are paused, so it did not
 * wait at all.
 * @cure Start a worker; `slotbus ls` says how many are attached. Read in `cause` why the last one ended.
 */
export class NoWorkerError extends define(
  "NO_WORKER",
  (
    name: string,
    waitedMs: number,
    what: "bus" | "pool" = "bus",
    /** Why the last of the workers that the bus starts itself was paused or given up. */
    failure: WorkerFailedError | null = null,
    mayHaveExecuted: boolean = false,
  ) => {
    const isPaused = failure?.retryable === true;
    const state = isPaused ? "has no worker: its workers are paused" : `had no worker for ${Math.round(waitedMs)} ms`;
    const start = what === "bus" ? "Start one with SlotWorker.open, or raise" : "Raise";
    const paused = "Fix the error in `cause`. The bus restarts one worker at a time until one stays up.";
    const givenUp = "Fix what `cause` says, then call `bus.supervisor.resize()` to start workers again.";
    return {
      message: `${what} "${name}" ${state}.`,
      hint: isPaused ? paused : failure ? givenUp : `${start} the request's timeout.`,
      retryable: true,
      mayHaveExecuted,
      cause: failure ?? undefined,
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
      message: `Bus "${name}" has ${attached} of ${wanted} workers after ${timeoutMs} ms.${reasons}`,
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
      ? `queued ${Math.round(queuedMs)} ms, with a worker ${Math.round(ranMs)} ms; it was told to stop`
      : `queued ${Math.round(queuedMs)} ms; no handler saw it`;
    const message = `request ${id} took longer than ${timeoutMs} ms (${where}).`;
    return { message, retryable: !mayHaveExecuted, mayHaveExecuted, fields: { queuedMs, ranMs } };
  },
) {}

/**
 * The worker that had the request ended.
 * @cure Find out why it ended (exit code, kernel log); make requests that may run twice `idempotent`.
 */
export class WorkerDiedError extends define(
  "WORKER_DIED",
  (id: string, pid: number, how: string, mayHaveExecuted: boolean) => ({
    message: `worker pid ${pid} ${how} while it had request ${id}.`,
    hint: mayHaveExecuted
      ? "The handler may have run; retry only what is safe to run twice (`idempotent: true`)."
      : "The handler did not run.",
    retryable: !mayHaveExecuted,
    mayHaveExecuted,
    fields: { pid },
  }),
) {}

/**
 * A body, an item of a typed stream, or an event of a ring above the limit; it was not sent.
 * @cure Raise `payloadLimit`, stream the body, or give the ring more room.
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
          ? "Raise `frames` or `payload` of the ring: an event has at most a quarter of it."
          : "Raise `payloadLimit` in SlotBus.create, or send it in parts.",
      mayHaveExecuted,
      fields: { bytes, limit },
    };
  },
) {}

/**
 * Method, path, query, parameters and headers together exceed the bus's head limit.
 * @cure Move data into the body, or raise `headLimit`.
 */
export class HeadTooLargeError extends define(
  "HEAD_TOO_LARGE",
  (what: "request" | "response", bytes: number, limit: number, mayHaveExecuted: boolean = false) => ({
    message: `the ${what} head (path and headers) is ${bytes} bytes; this bus takes ${limit}.`,
    hint: "Raise `headLimit` in SlotBus.create, or move data into the body.",
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
    const what = limit === "deadline" ? `had not ended after ${ms} ms` : `moved no byte for ${ms} ms`;
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
 * Shared memory held what no legal step of the peer could have written; the peer was evicted.
 * @cure Look for what writes over memory in the worker: other native code, a worker in C. The worker was evicted.
 */
export class RegionCorruptError extends define("REGION_CORRUPT", asGiven) {}

/**
 * The kernel, the directory's rights, or the client's list of users refused.
 * @cure Run both sides as one user, list the other in `allowedUids`, `chmod 0700` the directory, or set SLOTBUS_DIR to your own.
 */
export class PermissionDeniedError extends define("PERMISSION_DENIED", asGiven) {}

/**
 * The other side sent something the protocol does not know.
 * @cure Look at who else speaks on that connection; bring both sides to one version.
 */
export class ProtocolError extends define("PROTOCOL", asGiven) {}

/**
 * Memory, descriptors or another resource of the system ran out.
 * @cure Free what the message names: descriptors (`ulimit -n`), memory, processes.
 */
export class ResourceError extends define("RESOURCE", (message: string, details?: ErrorDetails) =>
  asGiven(message, { retryable: true, ...details }),
) {}

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

/**
 * A handler returned nothing and had not answered, or the answer that it deferred was dropped.
 * @cure Return the answer (`null` for none). To answer later, keep the function that `request.defer()` returns and call it.
 */
export class NoAnswerError extends define("NO_ANSWER", (path: string, how: "nothing" | "dropped" = "nothing") => {
  const shown = path.length > 200 ? `${path.slice(0, 200)}…` : path;
  const dropped = `the deferred answer to ${shown} was dropped: nothing refers to its function any more.`;
  return {
    message: how === "dropped" ? dropped : `the handler of ${shown} returned nothing.`,
    hint:
      how === "dropped"
        ? "Keep the function that `request.defer()` returned, and call it once."
        : "Return the answer, or call `request.defer()` first to answer later.",
    mayHaveExecuted: true,
  };
}) {}

/**
 * A body was used after its memory had been given back: a borrowed one after its end (also as the body of a request or response),
 * or `request.body` of a request that is answered and whose body was borrowed.
 * @cure Use what you borrow before you release it and before the request is answered. `request.body` is yours to keep: ask for it first.
 */
export class BodyReleasedError extends define("BODY_RELEASED", (what: string | null) => ({
  message:
    what === null // the body of a request that is to be sent
      ? "The request body is a borrowed view that was already released."
      : `${what} was released: its memory belongs to other requests now.`,
  hint:
    what === null
      ? "Send it before you release it, or send a copy (`view.slice()`)."
      : "Use it before it is released and before the request is answered, or keep `request.body`, which is a copy of your own.",
  mayHaveExecuted: true,
})) {}

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

/**
 * The client's contract is not the one that the worker implements.
 * @cure Deploy both sides with the same contract; `differences` says what differs.
 */
export class ContractMismatchError extends define(
  "CONTRACT_MISMATCH",
  (
    contract: string,
    method: string,
    differences: readonly ContractDifference[],
    near: readonly string[] = [],
    mayHaveExecuted: boolean = false,
  ) => {
    const shown = differences.map(({ what, client, worker }) => `${what}: client ${client}, worker ${worker}`);
    return {
      message: `${contract}.${method} differs between client and worker (${shown.join("; ")}).`,
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
      },
    };
  },
) {}
