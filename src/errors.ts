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

/**
 * An option or argument is outside its documented range.
 * @cure Correct the option that the message names.
 */
export class InvalidConfigError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("INVALID_CONFIG", message, details);
  }
}

/**
 * A name that could not be a file name everywhere.
 * @cure Use letters, digits and `. _ -`.
 */
export class InvalidNameError extends SlotbusError {
  constructor(name: unknown, what: "bus" | "fleet" | "ring" = "bus") {
    const shown = typeof name === "string" ? JSON.stringify(name.slice(0, 80)) : Bun.inspect(name, { depth: 0 });
    super("INVALID_NAME", `${shown} is not a ${what} name.`, {
      hint: `Use 1 to ${what === "ring" ? 32 : 64} of A-Z a-z 0-9 . _ - and start with a letter or digit.`,
    });
  }
}

/**
 * A live hub holds the name.
 * @cure Find the owner with `slotbus ls`; stop it, or take another name.
 */
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

/**
 * No hub listens on the name.
 * @cure Start the hub, with the same name and SLOTBUS_DIR; `slotbus ls` says which there are. Or raise `wait`.
 */
export class BusNotFoundError extends SlotbusError {
  constructor(name: string, directory: string, waitedMs: number) {
    super("BUS_NOT_FOUND", `no hub called "${name}" in ${directory} after ${Math.round(waitedMs)} ms.`, {
      hint: "Start the hub (SlotBus.create) with the same name and directory, or raise `wait`.",
      retryable: true,
    });
  }
}

/**
 * The bus or worker was closed; requests that were still waiting reject with this.
 * @cure Nothing, if it was meant. A worker attaches again by itself unless `reconnect` is false.
 */
export class BusClosedError extends SlotbusError {
  constructor(what: string, details?: ErrorDetails) {
    super("BUS_CLOSED", `${what} is closed.`, details);
  }
}

/**
 * The hub's queue is full and its policy is to reject.
 * @cure Add workers or raise `concurrency`; raise `queue.limit` only for short peaks.
 */
export class BusOverloadedError extends SlotbusError {
  constructor(message: string) {
    super("BUS_OVERLOADED", message, {
      hint: 'Add workers, raise `queue.limit`, or pass `queue: { policy: "wait" }`.',
      retryable: true,
    });
  }
}

/**
 * No worker was attached for the whole time the request could wait; or all workers end too often and are paused, so it did not
 * wait at all.
 * @cure Start a worker; `slotbus ls` says how many are attached. Read in `cause` why the last one ended.
 */
export class NoWorkerError extends SlotbusError {
  /** `failure`: why the last of the workers that the bus starts itself was paused or given up. */
  constructor(
    name: string,
    waitedMs: number,
    what: "bus" | "pool" = "bus",
    failure: WorkerFailedError | null = null,
    mayHaveExecuted = false,
  ) {
    const isPaused = failure?.retryable === true;
    const state = isPaused ? "has no worker: its workers are paused" : `had no worker for ${Math.round(waitedMs)} ms`;
    const start = what === "bus" ? "Start one with SlotWorker.open, or raise" : "Raise";
    const paused = "Fix the error in `cause`. The bus restarts one worker at a time until one stays up.";
    const givenUp = "Fix what `cause` says, then call `bus.supervisor.resize()` to start workers again.";
    super("NO_WORKER", `${what} "${name}" ${state}.`, {
      hint: isPaused ? paused : failure ? givenUp : `${start} the request's timeout.`,
      retryable: true,
      mayHaveExecuted,
      ...(failure && { cause: failure }),
    });
  }
}

/**
 * Fewer workers were attached than `ready` waited for when its time was over.
 * @cure Read why others did not come: `failures` has the peers that were refused and the workers that ended, `cause` why a
 * process that the bus started failed.
 */
export class NotReadyError extends SlotbusError {
  /** Workers that were attached. */
  readonly attached: number;
  /** Workers that were waited for. */
  readonly wanted: number;
  /** Peers that were refused and workers that ended meanwhile, each with its process id and the reason; at most 8. */
  readonly failures: readonly string[];

  constructor(
    name: string,
    timeoutMs: number,
    attached: number,
    wanted: number,
    failures: readonly string[],
    lastFailure: SlotbusError | null,
  ) {
    const reasons = failures.length > 0 ? ` Meanwhile: ${failures.join("; ")}.` : "";
    super("NOT_READY", `Bus "${name}" has ${attached} of ${wanted} workers after ${timeoutMs} ms.${reasons}`, {
      hint: lastFailure
        ? "The last worker process failed: see `cause`."
        : "Start workers with SlotWorker.open, with the same name and directory, or raise `timeout`.",
      retryable: true,
      ...(lastFailure && { cause: lastFailure }),
    });
    this.attached = attached;
    this.wanted = wanted;
    this.failures = failures;
  }
}

/**
 * The request's time is over.
 * @cure Compare `queuedMs` with `ranMs`: too few workers, or a slow handler.
 */
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

/**
 * The worker that had the request ended.
 * @cure Find out why it ended (exit code, kernel log); make requests that may run twice `idempotent`.
 */
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

/**
 * A body, an item of a typed stream, or an event of a ring above the limit; it was not sent.
 * @cure Raise `payloadLimit`, stream the body, or give the ring more room.
 */
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

/**
 * Method, path, query, parameters and headers together exceed the bus's head limit.
 * @cure Move data into the body, or raise `headLimit`.
 */
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

/**
 * A stream that took longer than its `deadline`, or in which no byte moved for its `idle` limit.
 * @cure Raise the limit it names, or read faster.
 */
export class StreamTimeoutError extends SlotbusError {
  constructor(id: string, limit: "deadline" | "idle", ms: number, bytes: number) {
    const what = limit === "deadline" ? `had not ended after ${ms} ms` : `moved no byte for ${ms} ms`;
    super("STREAM_TIMEOUT", `the stream of request ${id} ${what}; ${bytes} bytes of it were read.`, {
      hint: `Raise \`${limit}\`, or read faster: a reader that stops stops its writer.`,
      mayHaveExecuted: true,
    });
  }
}

/**
 * The two sides speak different versions of the protocol.
 * @cure Bring both sides to one version of slotbus; see "Upgrades" in docs/operations.md.
 */
export class VersionMismatchError extends SlotbusError {
  constructor(what: string, ours: number, theirs: string) {
    super("VERSION_MISMATCH", `${what} speaks protocol version ${theirs}; this process speaks ${ours}.`, {
      hint: "Run the same version of slotbus on both sides.",
    });
  }
}

/**
 * Shared memory held what no legal step of the peer could have written; the peer was evicted.
 * @cure Look for what writes over memory in the worker: other native code, a worker in C. The worker was evicted.
 */
export class RegionCorruptError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("REGION_CORRUPT", message, details);
  }
}

/**
 * The kernel, the directory's rights, or the hub's list of users refused.
 * @cure Run both sides as one user, list the other in `allowedUids`, `chmod 0700` the directory, or set SLOTBUS_DIR to your own.
 */
export class PermissionDeniedError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("PERMISSION_DENIED", message, details);
  }
}

/**
 * The other side sent something the protocol does not know.
 * @cure Look at who else speaks on that connection; bring both sides to one version.
 */
export class ProtocolError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("PROTOCOL", message, details);
  }
}

/**
 * Memory, descriptors or another resource of the system ran out.
 * @cure Free what the message names: descriptors (`ulimit -n`), memory, processes.
 */
export class ResourceError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("RESOURCE", message, { retryable: true, ...details });
  }
}

/**
 * This platform, runtime or installation lacks what slotbus needs.
 * @cure See `slotbus doctor`: it needs Linux on x64 or arm64, Bun 1.4 and the library of the package.
 */
export class UnsupportedError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("UNSUPPORTED", message, details);
  }
}

/**
 * The worker's handler threw, rejected or returned something that is no answer.
 * @cure Read `remoteName`, `message` and `remoteStack`: it is the handler's own error.
 */
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

/**
 * A handler returned nothing and had not answered, or the answer that it deferred was dropped.
 * @cure Return the answer (`null` for none). To answer later, keep the function that `request.defer()` returns and call it.
 */
export class NoAnswerError extends SlotbusError {
  constructor(path: string, how: "nothing" | "dropped" = "nothing") {
    const shown = path.length > 200 ? `${path.slice(0, 200)}…` : path;
    const dropped = `the deferred answer to ${shown} was dropped: nothing refers to its function any more.`;
    super("NO_ANSWER", how === "dropped" ? dropped : `the handler of ${shown} returned nothing.`, {
      hint:
        how === "dropped"
          ? "Keep the function that `request.defer()` returned, and call it once."
          : "Return the answer, or call `request.defer()` first to answer later.",
      mayHaveExecuted: true,
    });
  }
}

/**
 * A body was used after its memory had been given back: a borrowed one after its end (also as the body of a request or response),
 * or `request.body` of a request that is answered and whose body was borrowed.
 * @cure Use what you borrow before you release it and before the request is answered. `request.body` is yours to keep: ask for it first.
 */
export class BodyReleasedError extends SlotbusError {
  /** `what` was released; `null`: the body of a request that is to be sent. */
  constructor(what: string | null) {
    const released = `${what} was released: its memory belongs to other requests now.`;
    const hint =
      "Use it before it is released and before the request is answered, or keep `request.body`, which is a copy of your own.";
    const isSent = what === null;
    super("BODY_RELEASED", isSent ? "The request body is a borrowed view that was already released." : released, {
      hint: isSent ? "Send it before you release it, or send a copy (`view.slice()`)." : hint,
      mayHaveExecuted: true,
    });
  }
}

/** Where in a value something is wrong, and what. */
export interface ValidationIssue {
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/**
 * A value of a typed call is not what its contract says.
 * @cure Correct the value; `issues` says where, `side` who found it.
 */
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

/**
 * No fleet of that name has a living member.
 * @cure Join instead of observing, or look in the directory that its members use.
 */
export class FleetNotFoundError extends SlotbusError {
  constructor(name: string, directory: string) {
    super("FLEET_NOT_FOUND", `no fleet called "${name}" in ${directory}.`, {
      hint: "Join it (Fleet.join makes it), or look in the directory its members use.",
      retryable: true,
    });
  }
}

/**
 * Every place of the fleet has a living member.
 * @cure Wait until one leaves, or end all and join with more `members`.
 */
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

/**
 * The living fleet of that name has other sizes than were asked for.
 * @cure Give all members the same sizes. New sizes hold when all have left.
 */
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

/**
 * The fleet's file, or what a member wrote into it, is nothing that slotbus could have made.
 * @cure End all members, remove the file that is named, start again.
 */
export class FleetCorruptError extends SlotbusError {
  constructor(message: string, details?: ErrorDetails) {
    super("FLEET_CORRUPT", message, details);
  }
}

/**
 * The fleet was left.
 * @cure Join again.
 */
export class FleetClosedError extends SlotbusError {
  constructor(what: string, hint = "Join it again with Fleet.join.") {
    super("FLEET_CLOSED", `${what} is closed.`, { hint });
  }
}

/**
 * A member that is stopped (SIGSTOP, a debugger) holds a lock that is held for microseconds otherwise. The call waited for
 * it, and did nothing: 2 s for the lock of those who join and leave, 1 s for that of a ring or of the leases.
 * @cure Find the stopped member (state T in `ps`): continue or kill it. Then try again.
 */
export class FleetBusyError extends SlotbusError {
  constructor(what: string) {
    super("FLEET_BUSY", `${what} waits for a lock whose owner lives and does not go on.`, {
      hint: "Continue or end that member; then the same call succeeds.",
      retryable: true,
    });
  }
}

/**
 * The file system of the runtime directory is full.
 * @cure `df` on the runtime directory; `slotbus clean`; in Docker a larger `--shm-size`.
 */
export class NoSpaceError extends SlotbusError {
  constructor(what: string, details = "") {
    super("NO_SPACE", `there is no space for ${what}${details && `: ${details}`}.`, {
      hint: "Free space in the runtime directory, or ask for less.",
      retryable: true,
    });
  }
}

/**
 * A subscription with the policy `"close"` lost events.
 * @cure Read faster, raise `queue`, give the ring more frames.
 */
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

/**
 * The tenure of a guard ended without its `release()`. Work under it must stop; a fence refuses its token once there is another.
 * @cure Stop the work; claim again. Raise `ttl` if the process is only slow at times.
 */
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

/**
 * Every lease of the fleet is held; none is taken away for another.
 * @cure Release what is done, or start the fleet with more `leases`; `slotbus claims ls` lists them.
 */
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

/**
 * A tenure was to be adopted or released by an owner that did not claim it.
 * @cure Release with that owner, or `slotbus claims release --force`.
 */
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

/**
 * Leases are reset by the only member of a fleet.
 * @cure Let the others leave first; `slotbus ls` says how many there are.
 */
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

/**
 * A claim waited for as long as it was to, and another held the lease all the time.
 * @cure `holder` says who has it. Wait longer, or end that process: its leases are free at once.
 */
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

/**
 * A hub refused what a worker asked of it, or does not answer.
 * @cure `status` and `reason` are the hub's answer (docs/hub.md). A status of 0: it does not run, or has another name.
 */
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

// ---- supervisor -----------------------------------------------------------------------------------------------------

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
export class ProgramNotFoundError extends SlotbusError {
  readonly program: string;

  constructor(pool: string, program: string, where: string, cause?: unknown) {
    super("PROGRAM_NOT_FOUND", `pool "${pool}": there is no program ${JSON.stringify(program)} (${where}).`, {
      hint: "Install it, correct `command`, or set `env.PATH` of the pool.",
      cause,
    });
    this.program = program;
  }
}

/**
 * A worker ended, or took too long, before it was ready.
 * @cure Read the end of its standard error in the message; raise `startupTimeout` if it is only slow.
 */
export class WorkerStartError extends SlotbusError {
  readonly worker: number;
  /** How its process ended; `null`: it had none. */
  readonly report: ExitReport | null;

  constructor(pool: string, worker: number, why: string, report: ExitReport | null, cause?: unknown) {
    const ended = report && report.how === "itself" ? `: it ${describeExit(report)}` : "";
    super("WORKER_START", `worker ${worker} of pool "${pool}" ${why}${ended}.`, { cause });
    this.worker = worker;
    this.report = report;
  }
}

/**
 * The process of a worker ended while it had this request.
 * @cure Look at exit code, signal and standard error in `report`.
 */
export class WorkerExitedError extends SlotbusError {
  /** `null` when a signal ended it. */
  readonly exitCode: number | null;
  /** Such as `"SIGKILL"`; `null` when it exited by itself. */
  readonly signal: string | null;
  /** The last 64 KiB of what it wrote to standard error, `""` when that is inherited. */
  readonly stderrTail: string;
  /** All that is known of its end, these three too. */
  readonly report: ExitReport;

  constructor(what: string, pool: string, report: ExitReport, mayHaveExecuted = true) {
    super(
      "WORKER_EXITED",
      `${what}: worker ${report.worker} of pool "${pool}" (pid ${report.pid}) ${describeExit(report)}.`,
      {
        hint: mayHaveExecuted
          ? "It may have run; retry only what is safe to run twice (`idempotent: true`)."
          : "It did not run.",
        retryable: !mayHaveExecuted,
        mayHaveExecuted,
      },
    );
    this.exitCode = report.exitCode;
    this.signal = report.signal;
    this.stderrTail = report.stderrTail;
    this.report = report;
  }
}

/**
 * A worker ended more often than its restart policy allows. It is paused and tried again after pauses that grow; or, with
 * `restart: { giveUp: true }`, it is not started again.
 * @cure Fix the program. Then call `resize` with the size that the pool has; paused workers come back without that.
 */
export class WorkerFailedError extends SlotbusError {
  readonly worker: number;
  readonly report: ExitReport;

  constructor(pool: string, report: ExitReport, why: string, isGivenUp: boolean) {
    const state = isGivenUp ? "given up" : "paused";
    super(
      "WORKER_FAILED",
      `worker ${report.worker} of pool "${pool}" is ${state} (${why}): it ${describeExit(report)}.`,
      {
        hint: isGivenUp
          ? "Fix the program, then call `resize` with the size that the pool has."
          : "Fix the program. The worker is tried again after pauses that grow; `resize` tries at once.",
        retryable: !isGivenUp,
      },
    );
    this.worker = report.worker;
    this.report = report;
  }
}

/**
 * The operation is not possible in this state.
 * @cure Wait for what is under way, then call again.
 */
export class InvalidStateError extends SlotbusError {
  readonly state: string;
  readonly expected: string;

  constructor(what: string, operation: string, state: string, expected: string) {
    super("INVALID_STATE", `${operation} needs ${what} to be ${expected}; it is ${state}.`);
    this.state = state;
    this.expected = expected;
  }
}

// ---- stdio ----------------------------------------------------------------------------------------------------------

/**
 * A worker answered with an error of JSON-RPC. Never retried: the handler ran and said no.
 * @cure Read `rpcCode` and `data`: it is the worker's own answer.
 */
export class RpcError extends SlotbusError {
  /** As the worker sent it: -32601 when it has no such method, … */
  readonly rpcCode: number;
  /** As the worker sent it. */
  readonly rpcMessage: string;
  /** As the worker sent it; `undefined`: it sent none. */
  readonly data: unknown;

  /** A handler throws one to answer with that code, message and data. */
  constructor(rpcCode: number, message: string, data?: unknown, whose = "") {
    super("RPC", whose ? `${whose} answered with error ${rpcCode}: ${message}` : message, { mayHaveExecuted: true });
    this.rpcCode = rpcCode;
    this.rpcMessage = message;
    this.data = data;
  }
}

/**
 * Workers have as much as they may have, and the request was not to wait, or too many waited already.
 * @cure Add workers, or set `limits.queue.policy` to `"wait"`.
 */
export class BackpressureError extends SlotbusError {
  constructor(what: string, waiting: number, limit: number) {
    super("BACKPRESSURE", `${what} takes no more now: its workers are full and ${waiting} of ${limit} requests wait.`, {
      hint: 'Add workers, raise `limits.queue.limit`, or set `limits.queue.policy` to "wait".',
      retryable: true,
    });
  }
}

/**
 * The bus has no pool of that id; or it has several, and none was named.
 * @cure Name one of the pools that the message lists.
 */
export class UnknownPoolError extends SlotbusError {
  /** `undefined`: none was named. */
  readonly pool: string | undefined;

  constructor(pool: string | undefined, pools: readonly string[]) {
    const what = pool === undefined ? `no pool was named, and there are ${pools.length}` : `there is no pool "${pool}"`;
    super("UNKNOWN_POOL", `${what}.`, {
      hint: `Pools: ${pools
        .slice(0, 10)
        .map((id) => `"${id}"`)
        .join(", ")}.`,
    });
    this.pool = pool;
  }
}

/**
 * Every worker of a pool was given up, so nobody will take the request.
 * @cure Fix the program; `cause` says why its last process ended. Then call `bus.resize` with the pool's id and current size.
 */
export class PoolFailedError extends SlotbusError {
  readonly pool: string;

  constructor(pool: string, cause: unknown, mayHaveExecuted: boolean) {
    super("POOL_FAILED", `pool "${pool}" has no worker left: all were given up or have ended.`, {
      hint: "Fix the program; `cause` says why its last process ended. Then call `bus.resize` with the pool's id and current size.",
      cause,
      mayHaveExecuted,
    });
    this.pool = pool;
  }
}

/**
 * A subscription with the policy `"close"` was full.
 * @cure Read faster, raise `queue`, or drop instead of closing.
 */
export class SubscriptionFullError extends SlotbusError {
  constructor(queue: number) {
    super("SUBSCRIPTION_FULL", `the subscription had ${queue} unread items and was closed.`, {
      hint: "Read faster, raise `queue`, or choose another policy.",
    });
  }
}

/**
 * Somebody listens there already.
 * @cure Stop who listens there, or choose another address.
 */
export class AddressInUseError extends SlotbusError {
  readonly address: string;

  constructor(address: string, why: string, cause?: unknown) {
    super("ADDRESS_IN_USE", `${address} ${why}.`, { hint: "Choose another one, or stop who has it.", cause });
    this.address = address;
  }
}
