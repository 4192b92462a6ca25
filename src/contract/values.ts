/** Values of a method as bytes and back, checked. */

import { ValidationError, type ValidationIssue } from "../errors.ts";
import { BYTES_TYPE } from "../codec.ts";
import type { ContractMethod } from "./contract.ts";
import type { Schema, SchemaIssue, SchemaResult } from "./schema.ts";

export type Side = "client" | "worker";

/** Issues beyond these are counted, not listed. */
const ISSUES_MAX = 64;
const MESSAGE_MAX = 500;

function toIssue({ message, path = [] }: SchemaIssue): ValidationIssue {
  return {
    message: String(message).slice(0, MESSAGE_MAX),
    path: path.map((step) => {
      const key = typeof step === "object" ? step.key : step;
      return typeof key === "symbol" ? String(key) : key;
    }),
  };
}

/** A part of a method as one side has it: its input, its output, or the data of an error. */
export class Part {
  readonly #method: ContractMethod;
  readonly #side: Side;
  readonly #name: string;
  readonly #schema: Schema | null;
  readonly #mayHaveExecuted: boolean;

  /** `mayHaveExecuted`: what the errors about its values say. */
  constructor(method: ContractMethod, side: Side, name: string, schema: Schema | null, mayHaveExecuted: boolean) {
    this.#method = method;
    this.#side = side;
    this.#name = name;
    this.#schema = schema;
    this.#mayHaveExecuted = mayHaveExecuted;
  }

  /** Returns what the schema makes of a value, a promise only if the schema gives one. Throws {@link ValidationError}. */
  check(value: unknown): unknown {
    if (this.#schema === null) return value;
    const result = this.#schema["~standard"].validate(value);
    return result instanceof Promise ? result.then((later) => this.#made(later)) : this.#made(result);
  }

  #made(result: SchemaResult<unknown>): unknown {
    if (result.issues) throw this.#refused(result.issues);
    return result.value;
  }

  /** Checks a value that is sent as it was given. Returns `null`, or a promise if the schema gives one. */
  verify(value: unknown): Promise<unknown> | null {
    const checked = this.#schema === null ? null : this.check(value);
    return checked instanceof Promise ? checked : null;
  }

  /** Encodes what is neither bytes nor `undefined`. Throws {@link ValidationError}. */
  encode(value: unknown): Uint8Array | string {
    try {
      return this.#method.codec.encode(value);
    } catch (error) {
      throw this.#unfit("cannot be sent as", error);
    }
  }

  /** The reverse of {@link encode}. Throws {@link ValidationError}. */
  decode(bytes: Uint8Array): unknown {
    try {
      return this.#method.codec.decode(bytes);
    } catch (error) {
      throw this.#unfit("is no", error);
    }
  }

  /** A value by the content type it came with. Throws {@link ValidationError}. */
  read(contentType: string, body: Uint8Array): unknown {
    if (contentType === BYTES_TYPE) return body;
    return contentType === "" && body.length === 0 ? undefined : this.decode(body);
  }

  #unfit(what: string, error: unknown): ValidationError {
    const why = error instanceof Error ? error.message : error;
    return this.#refused([{ message: `${what} ${this.#method.codec.contentType}: ${why}` }]);
  }

  #refused(issues: readonly SchemaIssue[]): ValidationError {
    const { contract, name } = this.#method;
    const shown = issues.slice(0, ISSUES_MAX).map(toIssue);
    if (issues.length > ISSUES_MAX) shown.push({ path: [], message: `and ${issues.length - ISSUES_MAX} more issues` });
    return new ValidationError(contract, name, this.#side, this.#name, shown, this.#mayHaveExecuted);
  }
}

/** Content type of a value; `""` of `undefined`. */
export function typeOf(method: ContractMethod, value: unknown): string {
  if (value === undefined) return "";
  return value instanceof Uint8Array ? BYTES_TYPE : method.codec.contentType;
}
