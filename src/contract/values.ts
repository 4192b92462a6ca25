/** Values of a method as bytes and back, checked. */

import { ProtocolError, ValidationError, type ValidationIssue } from "../errors.ts";
import { BYTES_TYPE } from "../codec.ts";
import type { ContractMethod } from "./contract.ts";
import type { Schema, SchemaIssue } from "./schema.ts";

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

/** The error of a value that its schema refused. */
function refused(
  { contract, name }: ContractMethod,
  side: Side,
  part: string,
  issues: readonly SchemaIssue[],
  mayHaveExecuted: boolean,
): ValidationError {
  const shown = issues.slice(0, ISSUES_MAX).map(toIssue);
  if (issues.length > ISSUES_MAX) shown.push({ path: [], message: `and ${issues.length - ISSUES_MAX} more issues` });
  return new ValidationError(contract, name, side, part, shown, mayHaveExecuted);
}

/** What the schema makes of a value; a promise only if the schema gives one. Throws {@link ValidationError}. */
export function check(
  method: ContractMethod,
  schema: Schema | null,
  side: Side,
  part: string,
  value: unknown,
  mayHaveExecuted: boolean,
): unknown {
  if (schema === null) return value;
  const result = schema["~standard"].validate(value);
  if (!(result instanceof Promise)) {
    if (result.issues) throw refused(method, side, part, result.issues, mayHaveExecuted);
    return result.value;
  }
  return result.then((later) => {
    if (later.issues) throw refused(method, side, part, later.issues, mayHaveExecuted);
    return later.value;
  });
}

/** Encodes what is neither bytes nor `undefined`. Throws {@link ValidationError}. */
export function encodeValue(
  method: ContractMethod,
  side: Side,
  part: string,
  value: unknown,
  mayHaveExecuted: boolean,
): Uint8Array | string {
  try {
    return method.codec.encode(value);
  } catch (error) {
    const message = `cannot be sent as ${method.codec.contentType}: ${error instanceof Error ? error.message : error}`;
    throw refused(method, side, part, [{ message }], mayHaveExecuted);
  }
}

/** The reverse of {@link encodeValue}. Throws {@link ValidationError}. */
export function decodeValue(
  method: ContractMethod,
  side: Side,
  part: string,
  bytes: Uint8Array,
  mayHaveExecuted: boolean,
): unknown {
  try {
    return method.codec.decode(bytes);
  } catch (error) {
    const message = `is no ${method.codec.contentType}: ${error instanceof Error ? error.message : error}`;
    throw refused(method, side, part, [{ message }], mayHaveExecuted);
  }
}

/** Content type of a value; `""` of `undefined`. */
export function typeOf(method: ContractMethod, value: unknown): string {
  if (value === undefined) return "";
  return value instanceof Uint8Array ? BYTES_TYPE : method.codec.contentType;
}

/** A value by the content type it came with. */
export function readValue(
  method: ContractMethod,
  side: Side,
  part: string,
  contentType: string,
  body: Uint8Array,
  mayHaveExecuted: boolean,
): unknown {
  if (contentType === BYTES_TYPE) return body;
  if (contentType === "" && body.length === 0) return undefined;
  return decodeValue(method, side, part, body, mayHaveExecuted);
}

/** A body that no side of this version writes. */
export function malformed(what: string): ProtocolError {
  return new ProtocolError(`${what} of a contract's answer is malformed.`, { mayHaveExecuted: true });
}
