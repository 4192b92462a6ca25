/** Errors without a class of their own that more than one place raises. */

import { shown } from "../check.ts";
import { SlotbusError } from "./base.ts";
import { InvalidConfigError } from "./bus.ts";

/** A name that could not be a file name everywhere, or none. `variable` of the environment may have it. */
export function invalidName(
  name: unknown,
  what: "bus" | "fleet" | "ring" | "worker" = "bus",
  variable?: string,
): InvalidConfigError {
  if (name === undefined) {
    const hint = `Pass \`name\`${variable ? `, or set ${variable}` : ""}.`;
    return new InvalidConfigError(`the name of the ${what} is missing.`, { hint });
  }
  return new InvalidConfigError(`${shown(name)} is not a valid ${what} name.`, {
    hint: `Use 1 to ${what === "ring" ? 32 : 64} of A-Z a-z 0-9 . _ - and start with a letter or digit.`,
  });
}

/** The handler of a request answered nothing; or it dropped the function that it had deferred its answer to. */
export function noAnswer(path: string, how: "nothing" | "dropped" = "nothing"): SlotbusError {
  const text = path.length > 200 ? `${path.slice(0, 200)}…` : path;
  if (how === "nothing") {
    const hint = "Return the answer, or call `request.defer()` first to answer later.";
    return new SlotbusError("NO_ANSWER", `the handler of ${text} returned nothing.`, { hint, mayHaveExecuted: true });
  }
  return new SlotbusError(
    "NO_ANSWER",
    `the deferred answer to ${text} was dropped: nothing refers to its function any more.`,
    { hint: "Keep the function that `request.defer()` returned, and call it once.", mayHaveExecuted: true },
  );
}

/** Whether a handler failed only because it had no answer: then the stack leads to slotbus alone. */
export function isNoAnswer(error: unknown): error is SlotbusError {
  return error instanceof SlotbusError && error.code === "NO_ANSWER";
}

/** A body was used after its end; `null`: the body of a request that is to be sent. */
export function bodyReleased(what: string | null): SlotbusError {
  const isOwn = what === null;
  return new SlotbusError(
    "BODY_RELEASED",
    isOwn
      ? "The request body is a borrowed view that was already released."
      : `${what} was released: its memory belongs to other requests now.`,
    {
      hint: isOwn
        ? "Send it before you release it, or send a copy (`view.bytes()`)."
        : "Use it before it is released and before the request is answered, or keep `request.body`, which is a copy of your own.",
      mayHaveExecuted: true,
    },
  );
}

/** There is no such program, or it may not be executed. */
export function programNotFound(pool: string, program: string, where: string, cause?: unknown): SlotbusError {
  const hint = "Install it, correct `command`, or set `env.PATH` of the pool.";
  const message = `pool "${pool}": there is no program ${JSON.stringify(program)} (${where}).`;
  return new SlotbusError("PROGRAM_NOT_FOUND", message, { hint, cause });
}

/** Another process listens on an address. */
export function addressInUse(address: string, why: string, cause?: unknown): SlotbusError {
  const hint = "Choose another address, or stop what listens there.";
  return new SlotbusError("ADDRESS_IN_USE", `${address} ${why}.`, { hint, cause });
}

/** There is no pool with this id; or several, and none was named. */
export function unknownPool(pool: string | undefined, pools: readonly string[]): SlotbusError {
  const what = pool === undefined ? `no pool was named, and there are ${pools.length}` : `there is no pool "${pool}"`;
  const names = pools.slice(0, 10).map((id) => `"${id}"`);
  return new SlotbusError("UNKNOWN_POOL", `${what}.`, { hint: `Pools: ${names.join(", ")}.` });
}
