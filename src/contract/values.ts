/** Encodes, decodes and checks the values of a method. */

import { ValidationError, type ValidationIssue } from "../errors.ts";
import { BYTES_TYPE } from "../codec.ts";
import type { ContractMethod } from "./contract.ts";
import type { Schema, SchemaIssue, SchemaResult } from "./schema.ts";

export type Side = "client" | "worker";

/** Issues that are listed; further ones are only counted. */
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

/** A part of a method on one side: its input, its output, or the data of an error. */
export class Part {
  readonly #method: ContractMethod;
  readonly #side: Side;
  readonly #name: string;
  readonly #schema: Schema | null;
  readonly #mayHaveExecuted: boolean;

  /** `mayHaveExecuted`: value of this field in validation errors of the part. */
  constructor(method: ContractMethod, side: Side, name: string, schema: Schema | null, mayHaveExecuted: boolean) {
    this.#method = method;
    this.#side = side;
    this.#name = name;
    this.#schema = schema;
    this.#mayHaveExecuted = mayHaveExecuted;
  }

  /** Returns the output of the schema; a promise only if the schema returns one. Throws {@link ValidationError}. */
  check(value: unknown): unknown {
    if (this.#schema === null) return value;
    const result = this.#schema["~standard"].validate(value);
    return result instanceof Promise ? result.then((later) => this.#made(later)) : this.#made(result);
  }

  #made(result: SchemaResult<unknown>): unknown {
    if (result.issues) throw this.#refused(result.issues);
    return result.value;
  }

  /** Checks a value that is then sent unchanged. Returns `null`, or a promise if the schema returns one. */
  verify(value: unknown): Promise<unknown> | null {
    const checked = this.#schema === null ? null : this.check(value);
    return checked instanceof Promise ? checked : null;
  }

  /** Encodes a value other than bytes and `undefined`. Throws {@link ValidationError}. */
  encode(value: unknown): Uint8Array | string {
    try {
      return this.#method.codec.encode(value);
    } catch (error) {
      throw this.#unfit("cannot be encoded as", error);
    }
  }

  /** Decodes a value. Throws {@link ValidationError}. */
  decode(bytes: Uint8Array): unknown {
    try {
      return this.#method.codec.decode(bytes);
    } catch (error) {
      throw this.#unfit("is not valid", error);
    }
  }

  /** Decodes a value by its content type. Throws {@link ValidationError}. */
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

/** Content type of a value; `""` for `undefined`. */
export function typeOf(method: ContractMethod, value: unknown): string {
  if (value === undefined) return "";
  return value instanceof Uint8Array ? BYTES_TYPE : method.codec.contentType;
}
