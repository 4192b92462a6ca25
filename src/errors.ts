/**
 * Every error slotbus raises. A message states the fact, the numbers and the next step.
 *
 * An abort is not among them: an aborted call rejects with `signal.reason`, as on the web.
 */

/** What an error knows beyond its message. */
export interface ErrorDetails {
  /** What to do next. Part of the message too. */
  hint?: string;
  /** Whether the same call may succeed later without a change. Default `false`. */
  retryable?: boolean;
  /** Whether a handler may have run for this request. Default `false`: it certainly did not. */
  mayHaveExecuted?: boolean;
  cause?: unknown;
}

/** The base of all errors of slotbus; `code` tells them apart in logs. */
export class SlotbusError extends Error {
  /** Stable, upper case: `"BUS_NOT_FOUND"`, `"WORKER_DIED"`, … */
  readonly code: string;
  readonly hint: string | undefined;
  readonly retryable: boolean;
  /** `false` promises, for an honest worker, that no handler ran for this request. */
  readonly mayHaveExecuted: boolean;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(details.hint ? `${message} ${details.hint}` : message, { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = details.hint;
    this.retryable = details.retryable ?? false;
    this.mayHaveExecuted = details.mayHaveExecuted ?? false;
  }
}

/** An option or argument is outside its documented range. */
export class InvalidConfigError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("INVALID_CONFIG", message, details);
  }
}

/** A name that could not be a file name everywhere. */
export class InvalidNameError extends SlotbusError {
  constructor(name: unknown, what: "bus" | "fleet" | "ring" = "bus") {
    const shown = typeof name === "string" ? JSON.stringify(name.slice(0, 80)) : Bun.inspect(name, { depth: 0 });
    super("INVALID_NAME", `${shown} is not a ${what} name.`, {
      hint: `Use 1 to ${what === "ring" ? 32 : 64} of A-Z a-z 0-9 . _ - and start with a letter or digit.`,
    });
  }
}

/** A live hub holds the name. */
export class BusExistsError extends SlotbusError {
  /** Process id of the owner, as it wrote it; 0 when unknown. Information, not proof. */
  readonly ownerPid: number;

  constructor(name: string, ownerPid: number) {
    super("BUS_EXISTS", `bus "${name}" has a live hub${ownerPid ? ` (pid ${ownerPid})` : ""}.`, {
      hint: "Choose another name, or stop that process.",
      retryable: true,
    });
    this.ownerPid = ownerPid;
  }
}

/** No hub listens on the name. */
export class BusNotFoundError extends SlotbusError {
  constructor(name: string, directory: string, waitedMs: number) {
    super("BUS_NOT_FOUND", `no hub called "${name}" in ${directory} after ${Math.round(waitedMs)} ms.`, {
      hint: "Start the hub (SlotBus.create) with the same name and directory, or raise `wait`.",
      retryable: true,
    });
  }
}

/** The bus or worker was closed; requests that were still waiting reject with this. */
export class BusClosedError extends SlotbusError {
  constructor(what: string, details?: ErrorDetails) {
    super("BUS_CLOSED", `${what} is closed.`, details);
  }
}

/** The hub's queue is full and its policy is to reject. */
export class BusOverloadedError extends SlotbusError {
  constructor(message: string) {
    super("BUS_OVERLOADED", message, {
      hint: 'Add workers, raise `queue.limit`, or pass `queue: { policy: "wait" }`.',
      retryable: true,
    });
  }
}

/** No worker was attached for the whole time the request could wait. */
export class NoWorkerError extends SlotbusError {
  constructor(name: string, waitedMs: number) {
    super("NO_WORKER", `bus "${name}" had no worker for ${Math.round(waitedMs)} ms.`, {
      hint: "Start one with SlotWorker.open, or raise the request's timeout.",
      retryable: true,
    });
  }
}

/** The request's time is over. */
export class RequestTimeoutError extends SlotbusError {
  readonly queuedMs: number;
  readonly ranMs: number;

  constructor(id: string, timeoutMs: number, queuedMs: number, ranMs: number, mayHaveExecuted: boolean) {
    const where = mayHaveExecuted
      ? `queued ${Math.round(queuedMs)} ms, with a worker ${Math.round(ranMs)} ms; it was told to stop`
      : `queued ${Math.round(queuedMs)} ms; no handler saw it`;
    super("TIMEOUT", `request ${id} took longer than ${timeoutMs} ms (${where}).`, {
      retryable: !mayHaveExecuted,
      mayHaveExecuted,
    });
    this.queuedMs = queuedMs;
    this.ranMs = ranMs;
  }
}

/** The worker that had the request ended. */
export class WorkerDiedError extends SlotbusError {
  readonly pid: number;

  constructor(id: string, pid: number, how: string, mayHaveExecuted: boolean) {
    super("WORKER_DIED", `worker pid ${pid} ${how} while it had request ${id}.`, {
      hint: mayHaveExecuted
        ? "The handler may have run; retry only what is safe to run twice (`idempotent: true`)."
        : "The handler did not run.",
      retryable: !mayHaveExecuted,
      mayHaveExecuted,
    });
    this.pid = pid;
  }
}

/** A body, an item of a typed stream, or an event of a ring above the limit; it was not sent. */
export class PayloadTooLargeError extends SlotbusError {
  readonly bytes: number;
  readonly limit: number;

  constructor(what: "request" | "response" | "item" | "event", bytes: number, limit: number, mayHaveExecuted = false) {
    const which = what === "item" ? "an item of a stream" : what === "event" ? "the event" : `the ${what} body`;
    const where = what === "event" ? "ring" : "bus";
    super("PAYLOAD_TOO_LARGE", `${which} is ${bytes} bytes; this ${where} takes ${limit}.`, {
      hint:
        what === "event"
          ? "Raise `frames` or `payload` of the ring: an event has at most a quarter of it."
          : "Raise `payloadLimit` in SlotBus.create, or send it in parts.",
      mayHaveExecuted,
    });
    this.bytes = bytes;
    this.limit = limit;
  }
}

/** Method, path, query, parameters and headers together exceed the bus's head limit. */
export class HeadTooLargeError extends SlotbusError {
  readonly bytes: number;
  readonly limit: number;

  constructor(what: "request" | "response", bytes: number, limit: number, mayHaveExecuted = false) {
    super("HEAD_TOO_LARGE", `the ${what} head (path and headers) is ${bytes} bytes; this bus takes ${limit}.`, {
      hint: "Raise `headLimit` in SlotBus.create, or move data into the body.",
      mayHaveExecuted,
    });
    this.bytes = bytes;
    this.limit = limit;
  }
}

/** A stream that took longer than its `deadline`, or in which no byte moved for its `idle` limit. */
export class StreamTimeoutError extends SlotbusError {
  constructor(id: string, limit: "deadline" | "idle", ms: number, bytes: number) {
    const what = limit === "deadline" ? `had not ended after ${ms} ms` : `moved no byte for ${ms} ms`;
    super("STREAM_TIMEOUT", `the stream of request ${id} ${what}; ${bytes} bytes of it were read.`, {
      hint: `Raise \`${limit}\`, or read faster: a reader that stops stops its writer.`,
      mayHaveExecuted: true,
    });
  }
}

/** The two sides speak different versions of the protocol. */
export class VersionMismatchError extends SlotbusError {
  constructor(what: string, ours: number, theirs: string) {
    super("VERSION_MISMATCH", `${what} speaks protocol version ${theirs}; this process speaks ${ours}.`, {
      hint: "Run the same version of slotbus on both sides.",
    });
  }
}

/** Shared memory held what no legal step of the peer could have written; the peer was evicted. */
export class RegionCorruptError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("REGION_CORRUPT", message, details);
  }
}

/** The kernel, the directory's rights, or the hub's list of users refused. */
export class PermissionDeniedError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("PERMISSION_DENIED", message, details);
  }
}

/** The other side sent something the protocol does not know. */
export class ProtocolError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("PROTOCOL", message, details);
  }
}

/** Memory, descriptors or another resource of the system ran out. */
export class ResourceError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("RESOURCE", message, { retryable: true, ...details });
  }
}

/** This platform, runtime or installation lacks what slotbus needs. */
export class UnsupportedError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("UNSUPPORTED", message, details);
  }
}

/** The worker's handler threw, rejected or returned something that is no answer. */
export class RemoteError extends SlotbusError {
  /** `name` of the worker's own error. */
  readonly remoteName: string;
  /** Stack of the worker's own error; empty when it had none. */
  readonly remoteStack: string;
  /** Code of the worker's own error: `"HANDLER_FAILED"`, `"PAYLOAD_TOO_LARGE"`, … */
  readonly remoteCode: string;

  constructor(remote: { code: string; name: string; message: string; stack: string }) {
    super("REMOTE", `${remote.name}: ${remote.message}`, { mayHaveExecuted: true });
    this.remoteCode = remote.code;
    this.remoteName = remote.name;
    this.remoteStack = remote.stack;
  }
}

/** Where in a value something is wrong, and what. */
export interface ValidationIssue {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** A value of a typed call is not what its contract says. */
export class ValidationError extends SlotbusError {
  /** Name of the contract. */
  readonly contract: string;
  /** Name of the method. */
  readonly method: string;
  /** Who found it. */
  readonly side: "client" | "worker";
  /** What is wrong: the input, the output, or the data of an error: `"error NOT_FOUND"`. */
  readonly part: string;
  readonly issues: readonly ValidationIssue[];

  constructor(
    contract: string,
    method: string,
    side: "client" | "worker",
    part: string,
    issues: readonly ValidationIssue[],
    mayHaveExecuted: boolean,
  ) {
    const shown = issues
      .slice(0, 5)
      .map(({ path, message }) => `${path.length ? path.join(".") : "value"}: ${message}`);
    const more = issues.length > 5 ? `; and ${issues.length - 5} more` : "";
    super("VALIDATION", `${contract}.${method} ${part}, checked by the ${side}: ${shown.join("; ")}${more}.`, {
      mayHaveExecuted,
    });
    this.contract = contract;
    this.method = method;
    this.side = side;
    this.part = part;
    this.issues = issues;
  }
}

/** An error that the contract declares, thrown by the handler. `isContractError` tells which, with its type. */
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

/** The client's contract is not the one that the worker implements. */
export class ContractMismatchError extends SlotbusError {
  /** Name of the contract. */
  readonly contract: string;
  /** Name of the method. */
  readonly method: string;
  readonly differences: readonly ContractDifference[];
  /** Names the worker has that come near. */
  readonly near: readonly string[];

  constructor(
    contract: string,
    method: string,
    differences: readonly ContractDifference[],
    near: readonly string[] = [],
    mayHaveExecuted = false,
  ) {
    const shown = differences.map(({ what, client, worker }) => `${what}: client ${client}, worker ${worker}`);
    super("CONTRACT_MISMATCH", `${contract}.${method} differs between client and worker (${shown.join("; ")}).`, {
      hint: near.length > 0 ? `Did you mean ${near.join(" or ")}?` : "Run both sides with the same contract.",
      mayHaveExecuted,
    });
    this.contract = contract;
    this.method = method;
    this.differences = differences;
    this.near = near;
  }
}

// ---- fleet ----------------------------------------------------------------------------------------------------------

/** No fleet of that name has a living member. */
export class FleetNotFoundError extends SlotbusError {
  constructor(name: string, directory: string) {
    super("FLEET_NOT_FOUND", `no fleet called "${name}" in ${directory}.`, {
      hint: "Join it (Fleet.join makes it), or look in the directory its members use.",
      retryable: true,
    });
  }
}

/** Every place of the fleet has a living member. */
export class FleetFullError extends SlotbusError {
  readonly members: number;

  constructor(name: string, members: number) {
    super("FLEET_FULL", `fleet "${name}" has its ${members} members.`, {
      hint: "Wait until one leaves, or end all members and join with more `members`.",
      retryable: true,
    });
    this.members = members;
  }
}

/** In what a living fleet differs from what was asked for. */
export interface FleetDifference {
  /** `"members"`, `"leases"`, `"rings.NAME"`, `"rings.NAME.frames"`, `"rings.NAME.payload"`. */
  readonly what: string;
  readonly theirs: string;
  readonly ours: string;
}

/** The living fleet of that name has other sizes than were asked for. */
export class FleetGeometryError extends SlotbusError {
  readonly differences: readonly FleetDifference[];

  constructor(name: string, differences: readonly FleetDifference[]) {
    const shown = differences.map(({ what, theirs, ours }) => `${what}: theirs ${theirs}, ours ${ours}`);
    super("FLEET_GEOMETRY", `fleet "${name}" lives with another geometry (${shown.join("; ")}).`, {
      hint: "Join with the same options, or leave them out to take what is there.",
    });
    this.differences = differences;
  }
}

/** The fleet's file, or what a member wrote into it, is nothing that slotbus could have made. */
export class FleetCorruptError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("FLEET_CORRUPT", message, details);
  }
}

/** The fleet was left. */
export class FleetClosedError extends SlotbusError {
  constructor(what: string, hint = "Join it again with Fleet.join.") {
    super("FLEET_CLOSED", `${what} is closed.`, { hint });
  }
}

/**
 * A member that is stopped (SIGSTOP, a debugger) holds a lock that is held for microseconds otherwise. The call waited for
 * it, and did nothing: 2 s for the lock of those who join and leave, 1 s for that of a ring or of the leases.
 */
export class FleetBusyError extends SlotbusError {
  constructor(what: string) {
    super("FLEET_BUSY", `${what} waits for a lock whose owner lives and does not go on.`, {
      hint: "Continue or end that member; then the same call succeeds.",
      retryable: true,
    });
  }
}

/** The file system of the runtime directory is full. */
export class NoSpaceError extends SlotbusError {
  constructor(what: string, details = "") {
    super("NO_SPACE", `there is no space for ${what}${details && `: ${details}`}.`, {
      hint: "Free space in the runtime directory, or ask for less.",
      retryable: true,
    });
  }
}

/** A subscription with the policy `"close"` lost events. */
export class EventsLostError extends SlotbusError {
  /** How many, when it closed. */
  readonly lost: number;

  constructor(lost: number) {
    super("EVENTS_LOST", `the subscription lost ${lost} events and was closed.`, {
      hint: "Read faster, raise `queue`, or give the ring more frames.",
    });
    this.lost = lost;
  }
}

// ---- contest --------------------------------------------------------------------------------------------------------

interface LeaseSubject {
  readonly kind: string;
  readonly label: string;
}

interface LeaseHolder {
  readonly subject: LeaseSubject;
  readonly owner: string;
  readonly token: number;
  readonly pid: number;
}

function leaseName({ kind, label }: LeaseSubject): string {
  return `${JSON.stringify(kind)} ${JSON.stringify(label)}`;
}

/** The tenure of a guard ended without its `release()`. Work under it must stop; a fence refuses its token once there is another. */
export class LeaseLostError extends SlotbusError {
  readonly subject: LeaseSubject;
  readonly token: number;

  constructor(subject: LeaseSubject, token: number, how: string, cause?: unknown) {
    super("LEASE_LOST", `the lease of ${leaseName(subject)} (token ${token}) is lost: ${how}.`, {
      hint: "Stop the work it protects; claim again.",
      retryable: true,
      cause,
    });
    this.subject = subject;
    this.token = token;
  }
}

/** Every lease of the fleet is held; none is taken away for another. */
export class LeaseTableFullError extends SlotbusError {
  readonly leases: number;

  constructor(name: string, leases: number) {
    super("LEASE_TABLE_FULL", `all ${leases} leases of fleet "${name}" are held.`, {
      hint: "Release some, or end all members and join with more `leases`.",
      retryable: true,
    });
    this.leases = leases;
  }
}

/** A tenure was to be adopted or released by an owner that did not claim it. */
export class LeaseOwnerError extends SlotbusError {
  /** Who holds it. */
  readonly owner: string;

  constructor({ subject, owner, token, pid }: LeaseHolder, asked: string) {
    const who = `${JSON.stringify(owner)} (pid ${pid})`;
    super("LEASE_OWNER", `${leaseName(subject)} (token ${token}) is held by ${who}, not by ${JSON.stringify(asked)}.`, {
      hint: "Pass that `owner`, or `force: true` to release what is another's.",
    });
    this.owner = owner;
  }
}

/** Leases are reset by the only member of a fleet. */
export class LeaseResetError extends SlotbusError {
  readonly members: number;

  constructor(members: number) {
    super("LEASE_RESET", `the fleet has ${members} members; its only one may reset the leases.`, {
      hint: "End or leave with the others first.",
      retryable: true,
    });
    this.members = members;
  }
}

/** A claim waited for as long as it was to, and another held the lease all the time. */
export class ClaimTimeoutError extends SlotbusError {
  /** Who held it at the end. */
  readonly holder: LeaseHolder;

  constructor(subject: LeaseSubject, timeoutMs: number, holder: LeaseHolder) {
    const who = `${JSON.stringify(holder.owner)} (pid ${holder.pid})`;
    super("CLAIM_TIMEOUT", `${leaseName(subject)} was not free for ${timeoutMs} ms; ${who} holds it.`, {
      hint: "Try again, or raise `timeout`.",
      retryable: true,
    });
    this.holder = holder;
  }
}

/** A hub refused what a worker asked of it, or does not answer. */
export class HubError extends SlotbusError {
  /** HTTP status of its answer; 0: there was none. */
  readonly status: number;
  /** The hub's own code: `"ROUTE_TAKEN"`, … */
  readonly reason: string;

  constructor(
    message: string,
    { status = 0, reason = "", ...details }: ErrorDetails & { status?: number; reason?: string },
  ) {
    super("HUB", message, details);
    this.status = status;
    this.reason = reason;
  }
}
