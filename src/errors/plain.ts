/** Errors without a class of their own that several modules throw. */

import { shown } from "../check.ts";
import { SlotbusError } from "./base.ts";
import { InvalidConfigError, NoWorkerError, UnsupportedError } from "./bus.ts";

/** An invalid or missing name. `variable`: environment variable that can set it. */
export function invalidName(
  name: unknown,
  what: "bus" | "fleet" | "ring" | "worker" = "bus",
  variable?: string,
): InvalidConfigError {
  if (name === undefined) {
    const hint = `Pass \`name\`${variable ? `, or set ${variable}` : ""}.`;
    return new InvalidConfigError(`The name of the ${what} is missing.`, { hint });
  }
  return new InvalidConfigError(`${shown(name)} is not a valid ${what} name.`, {
    hint: `Use 1 to ${what === "ring" ? 32 : 64} of A-Z a-z 0-9 . _ - and start with a letter or digit.`,
  });
}

/** The handler of a request returned nothing, or it lost the function for its deferred answer. */
export function noAnswer(path: string, how: "nothing" | "dropped" = "nothing"): SlotbusError {
  const text = path.length > 200 ? `${path.slice(0, 200)}…` : path;
  if (how === "nothing") {
    const hint = "Return the answer, or call `request.defer()` first to answer later.";
    return new SlotbusError("NO_ANSWER", `The handler of ${text} returned nothing.`, { hint, mayHaveExecuted: true });
  }
  return new SlotbusError(
    "NO_ANSWER",
    `The deferred answer to ${text} was dropped: its function was garbage-collected before it was called.`,
    { hint: "Keep the function that `request.defer()` returned, and call it once.", mayHaveExecuted: true },
  );
}

/** Whether a handler failed only because it did not answer; then its stack shows frames of slotbus only. */
export function isNoAnswer(error: unknown): error is SlotbusError {
  return error instanceof SlotbusError && error.code === "NO_ANSWER";
}

/** A body was used after its release. `what` names it; `null`: the body of a request that is being sent. */
export function bodyReleased(what: string | null): SlotbusError {
  const isOwn = what === null;
  return new SlotbusError(
    "BODY_RELEASED",
    isOwn
      ? "The request body is a borrowed view that was already released."
      : `${what} was released: its memory is used for other requests now.`,
    {
      hint: isOwn
        ? "Send it before you release it, or send a copy (`view.bytes()`)."
        : "Use it before it is released and before the request is answered, or use `request.body`, which is a copy.",
      mayHaveExecuted: true,
    },
  );
}

/** The program of a pool does not exist or is not executable. */
export function programNotFound(pool: string, program: string, where: string, cause?: unknown): SlotbusError {
  const hint = "Install it, correct `command`, or set `env.PATH` of the pool.";
  const message = `Cannot run program ${JSON.stringify(program)} of pool "${pool}": ${where}.`;
  return new SlotbusError("PROGRAM_NOT_FOUND", message, { hint, cause });
}

/** Another process already listens on the address. */
export function addressInUse(address: string, why: string, cause?: unknown): SlotbusError {
  const hint = "Choose another address, or stop the process that listens there.";
  return new SlotbusError("ADDRESS_IN_USE", `${address} ${why}.`, { hint, cause });
}

/** No worker with this id is attached: the caller named a wrong one, or it has ended. */
export function unknownWorker(bus: string, id: number): NoWorkerError {
  return new NoWorkerError(bus, 0, "bus", null, false, id);
}

/** There is no pool with this id, or there are several and the call named none. */
export function unknownPool(pool: string | undefined, pools: readonly string[]): SlotbusError {
  const what = pool === undefined ? `No pool was named, and there are ${pools.length}` : `There is no pool "${pool}"`;
  const names = pools.slice(0, 10).map((id) => `"${id}"`);
  return new SlotbusError("UNKNOWN_POOL", `${what}.`, { hint: `Use one of ${names.join(", ")}.` });
}

/** A call that needs shared memory, on another wire. */
export function needsMemory(kind: "borrow" | "sync" | "serveSync", wire: string): UnsupportedError {
  const call = kind === "sync" ? "requestSync" : kind;
  const instead = kind === "serveSync" ? "serve" : "request";
  return new UnsupportedError(`${call} needs the wire "memory", and this is the wire "${wire}".`, {
    hint: `Call \`${instead}\`, which works on each wire, or use Bun on Linux without \`via: socket()\`.`,
  });
}

/** Throws if a kind of request needs shared memory, and the bus uses another wire. */
export function requireMemory(kind: string, wire: string): void {
  if (wire !== "memory" && (kind === "sync" || kind === "borrow")) throw needsMemory(kind, wire);
}

const refusals = new WeakSet<object>();

/** The system refuses what the memory wire needs: to load the library, or to create shared memory. The socket wire does without. */
export function systemRefuses(what: string, cause?: unknown): UnsupportedError {
  const error = new UnsupportedError(`${what}.`, {
    cause,
    hint: "Allow it in the sandbox or the mount options, or set SLOTBUS_WIRE=socket.",
  });
  refusals.add(error);
  return error;
}

/** Whether the error is one of {@link systemRefuses}. */
export function isSystemRefusal(error: unknown): error is UnsupportedError {
  return typeof error === "object" && error !== null && refusals.has(error);
}

/** An exchange that the rules of the bus would have left without an outcome. */
export function notSettled(id: string, pid: number): SlotbusError {
  return new SlotbusError("REGION_CORRUPT", `Request ${id} was not settled when worker pid ${pid} ended.`, {
    hint: "Report this bug in slotbus, together with the program that the worker ran.",
    mayHaveExecuted: true,
  });
}
