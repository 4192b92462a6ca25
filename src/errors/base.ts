/** The base class of all slotbus errors, and the helpers that define them. */

import { CODES } from "./codes.ts";

/** Fields of an error besides its message. */
export interface ErrorDetails {
  /** What to do next. Also appended to the message. */
  hint?: string;
  /** Whether the same call may succeed later, unchanged. Default `false`. */
  retryable?: boolean;
  /** Whether a handler may have run for this request. Default `false`: no handler ran. */
  mayHaveExecuted?: boolean;
  cause?: unknown;
  /** @internal What a process has written, to append to the message. */
  output?: string;
}

/** Base class of all slotbus errors; `code` identifies the kind of error in logs. */
export class SlotbusError extends Error {
  /** Stable, in upper case: `"BUS_NOT_FOUND"`, `"WORKER_DIED"`, … */
  readonly code: string;
  readonly hint: string | undefined;
  readonly retryable: boolean;
  /** `false` guarantees that no handler ran for this request (unless the worker broke the protocol). */
  readonly mayHaveExecuted: boolean;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super((details.hint ? `${message} ${details.hint}` : message) + (details.output ?? ""), { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = details.hint;
    this.retryable = details.retryable ?? (code in CODES && CODES[code as keyof typeof CODES].retryable);
    this.mayHaveExecuted = details.mayHaveExecuted ?? false;
  }
}

/** What a constructor's arguments are turned into: message, details, and the fields of this class. */
interface Description<Fields> extends ErrorDetails {
  message: string;
  fields?: Fields;
}

/**
 * Returns the base class of an error class: `describe` turns the constructor's arguments into a {@link Description}.
 */
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

/** Formats a time for a message: `"1500 ms"`. Rounded, so that a computed limit shows the number that the user gave. */
export function inMs(ms: number): string {
  return `${Math.round(ms)} ms`;
}

/** The `describe` of an error whose message and details are passed by the code that throws it. */
export function asGiven(message: string, details?: ErrorDetails): Description<{}> {
  return { ...details, message, fields: {} };
}
