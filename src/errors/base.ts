/** What all errors of slotbus have, and how one is defined. */

import { CODES } from "./codes.ts";

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
    this.retryable = details.retryable ?? (code in CODES && CODES[code as keyof typeof CODES].retryable);
    this.mayHaveExecuted = details.mayHaveExecuted ?? false;
  }
}

/** What the arguments of a constructor make of an error: its message, its details, and the fields that only it has. */
interface Description<Fields> extends ErrorDetails {
  message: string;
  fields?: Fields;
}

/** Returns the class that an error extends: `describe` gets the arguments of its constructor. */
export function define<Args extends unknown[], Fields extends object = {}>(
  code: string,
  describe: (...args: Args) => Description<Fields>,
): new (...args: Args) => SlotbusError & Readonly<Fields> {
  const Defined = class extends SlotbusError {
    constructor(...args: Args) {
      const { message, fields, ...details } = describe(...args);
      super(code, message, details);
      Object.assign(this, fields);
    }
  };
  return Defined as never;
}

/** A time in a message: `"1500 ms"`. Whole, so that a limit that was computed is the number that the user gave. */
export function inMs(ms: number): string {
  return `${Math.round(ms)} ms`;
}

/** Describes an error whose message and details come from where it is thrown. */
export function asGiven(message: string, details?: ErrorDetails): Description<{}> {
  return { ...details, message, fields: {} };
}
