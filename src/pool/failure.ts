/** Errors on their way from a task to its caller: name, message, stack, cause and own fields survive. */

import { shown } from "../check.ts";
import { RemoteError, SlotbusError } from "../errors.ts";
import { isCloneable } from "./clone.ts";

/** Longest chain of causes that is sent. */
const DEPTH_MAX = 8;

/** An error, or any other thrown value, that structured clone accepts. */
type Packed =
  | { value: unknown }
  | {
      name: string;
      message: string;
      stack: string;
      cause?: Packed;
      errors?: Packed[];
      fields: Record<string, unknown>;
    };

/** Why a call failed, as it is sent. */
export interface Failure {
  code: string;
  message: string;
  hint?: string | undefined;
  /** Whether the function may have run. */
  ran: boolean;
  thrown?: Packed;
}

/** A call that failed without running the function, or because of its result; thrown inside a worker process. */
export class Refusal {
  readonly failure: Failure;

  constructor(code: string, message: string, hint: string, ran: boolean, cause?: unknown) {
    this.failure = { code, message, hint, ran, ...(cause === undefined ? {} : { thrown: packError(cause) }) };
  }
}

/** Returns what to send for a thrown value. */
export function failureOf(thrown: unknown): Failure {
  if (thrown instanceof Refusal) return thrown.failure;
  return { code: "HANDLER_FAILED", message: "", ran: true, thrown: packError(thrown) };
}

function packError(error: unknown, depth = 0): Packed {
  if (!(error instanceof Error) || depth === DEPTH_MAX) return { value: isCloneable(error) ? error : shown(error) };
  const fields: Record<string, unknown> = {};
  for (const key of Object.keys(error)) {
    if (["name", "message", "stack", "cause", "errors"].includes(key)) continue;
    const value = attempt(() => (error as unknown as Record<string, unknown>)[key]);
    if (isCloneable(value)) fields[key] = value;
  }
  const cause = attempt(() => error.cause);
  const errors = error instanceof AggregateError ? error.errors : null;
  return {
    name: String(attempt(() => error.name) ?? "Error"),
    message: String(attempt(() => error.message) ?? ""),
    stack: String(attempt(() => error.stack) ?? ""),
    ...(cause === undefined ? {} : { cause: packError(cause, depth + 1) }),
    ...(errors ? { errors: errors.map((one) => packError(one, depth + 1)) } : {}),
    fields,
  };
}

/** Returns the result of a getter of user code; `undefined` if it throws. */
function attempt(get: () => unknown): unknown {
  try {
    return get();
  } catch {
    return undefined;
  }
}

const classes: Readonly<Record<string, new (message: string) => Error>> = {
  EvalError,
  RangeError,
  ReferenceError,
  SyntaxError,
  TypeError,
  URIError,
};

function unpackError(packed: Packed): unknown {
  if ("value" in packed) return packed.value;
  const { name, message, stack, cause, errors, fields } = packed;
  const Class = Object.hasOwn(classes, name) ? classes[name]! : Error;
  const error = errors ? new AggregateError(errors.map(unpackError), message) : new Class(message);
  if (cause !== undefined) define(error, "cause", unpackError(cause));
  if (error.name !== name) define(error, "name", name);
  define(error, "stack", stack);
  return Object.assign(error, fields);
}

function define(error: Error, key: string, value: unknown): void {
  Object.defineProperty(error, key, { value, configurable: true, writable: true });
}

/** Returns the error for the caller. */
export function errorOf({ code, message, hint, ran, thrown }: Failure): SlotbusError {
  const cause = thrown && unpackError(thrown);
  if (code !== "HANDLER_FAILED")
    return new SlotbusError(code, message, { ...(hint ? { hint } : {}), cause, mayHaveExecuted: ran });
  if (!(cause instanceof Error)) {
    return new RemoteError({ code, name: "Error", message: `The task threw ${shown(cause)}`, stack: "", cause });
  }
  return new RemoteError({ code, name: cause.name, message: cause.message, stack: cause.stack ?? "", cause });
}
