/**
 * Encodes the failure of a call:
 *
 *     u32 length (little endian), JSON of that length, the data of a declared error
 */

import {
  ContractError,
  type ContractDifference,
  ContractMismatchError,
  RemoteError,
  SlotbusError,
  ValidationError,
} from "../errors.ts";
import { compareMethods } from "./compare.ts";
import type { ContractMethod } from "./contract.ts";
import { Part, type Side, typeOf } from "./values.ts";
import { inspect } from "../runtime.ts";

/** The JSON part of a failure. */
interface Failure {
  kind: "error" | "validation" | "mismatch" | "remote";
  code?: string;
  name?: string;
  message?: string;
  stack?: string;
  /** Content type of the data. */
  type?: string;
  part?: string;
  issues?: readonly { path: readonly (string | number)[]; message: string }[];
  differences?: readonly ContractDifference[];
  near?: readonly string[];
  /** Fingerprint of each method of the contract, by name. */
  methods?: Readonly<Record<string, string>>;
  /** Whether a handler may have run. */
  ran?: boolean;
}

const LENGTH = 4;

function encode(failure: Failure, data: Uint8Array | string = ""): Uint8Array {
  const text = Buffer.from(JSON.stringify(failure));
  const length = Buffer.allocUnsafe(LENGTH);
  length.writeUInt32LE(text.length);
  return Buffer.concat([length, text, typeof data === "string" ? Buffer.from(data) : data]);
}

/** Whether an error is declared by the method. Any other error is a fault of the handler. */
export function isDeclared({ contract, name, declaration }: ContractMethod, error: unknown): error is ContractError {
  if (!(error instanceof ContractError) || error.contract !== contract || error.method !== name) return false;
  return Object.hasOwn(declaration.errors, error.code);
}

/** Encodes a declared error. Rejects with {@link ValidationError} if its data does not match the schema. */
export async function encodeDeclared(method: ContractMethod, error: ContractError): Promise<Uint8Array> {
  const { code, message, data } = error;
  const part = errorPart(method, code, "worker");
  await part.verify(data);
  const type = typeOf(method, data);
  const failure: Failure = { kind: "error", code, message, type };
  if (type === "") return encode(failure);
  return encode(failure, data instanceof Uint8Array ? data : part.encode(data));
}

export function encodeValidation({ part, issues, mayHaveExecuted }: ValidationError): Uint8Array {
  return encode({ kind: "validation", part, issues, ran: mayHaveExecuted });
}

export function encodeMismatch(
  differences: readonly ContractDifference[],
  near: readonly string[] = [],
  methods?: Failure["methods"],
): Uint8Array {
  return encode({ kind: "mismatch", differences, near, ...(methods && { methods }) });
}

/** Encodes any other error within a stream. Outside a stream, the bus carries such errors itself. */
export function encodeRemote(error: unknown): Uint8Array {
  const code = error instanceof SlotbusError ? error.code : "HANDLER_FAILED";
  const { name, message, stack } =
    error instanceof Error ? error : { name: "Error", message: `the handler threw ${inspect(error)}`, stack: "" };
  return encode({ kind: "remote", code, name: text(name), message: text(message), stack: text(stack) });
}

const TEXT_MAX = 8_192;
/** Number of differences, and of similar names, that are read from a worker's failure. */
const LISTED_MAX = 16;

function text(value: unknown): string {
  return typeof value === "string" ? value.slice(0, TEXT_MAX) : "";
}

function errorPart(method: ContractMethod, code: string, side: Side): Part {
  const { errors } = method.declaration;
  return new Part(method, side, `error ${code}`, Object.hasOwn(errors, code) ? errors[code]! : null, true);
}

/**
 * Decodes the error of a worker. `mayHaveExecuted`: the call may have run on another worker before. `all`: all methods of the
 * contract.
 */
export async function readFailure(
  method: ContractMethod,
  bytes: Uint8Array,
  mayHaveExecuted: boolean,
  all: readonly ContractMethod[] = [],
): Promise<Error> {
  const { contract, name } = method;
  const found = split(bytes);
  if (!found) return malformed();
  const { failure, data } = found;
  switch (failure.kind) {
    case "error": {
      const code = text(failure.code);
      const part = errorPart(method, code, "client");
      try {
        const checked = await part.check(part.read(text(failure.type), new Uint8Array(data)));
        return new ContractError(contract, name, code, checked, text(failure.message));
      } catch (error) {
        return error as Error;
      }
    }
    case "validation": {
      const ran = mayHaveExecuted || failure.ran !== false;
      return new ValidationError(contract, name, "worker", text(failure.part), list(failure.issues), ran);
    }
    case "mismatch": {
      const differences = list(failure.differences)
        .slice(0, LISTED_MAX)
        .map((one) => ({ what: text(one?.what), client: text(one?.client), worker: text(one?.worker) }));
      const near = list(failure.near).slice(0, LISTED_MAX).map(text);
      const methods = compareMethods(all, failure.methods);
      return new ContractMismatchError(contract, name, differences, near, mayHaveExecuted, methods);
    }
    case "remote": {
      const { code, name: remoteName, message, stack } = failure;
      return new RemoteError({ code: text(code), name: text(remoteName), message: text(message), stack: text(stack) });
    }
    default:
      return malformed();
  }
}

function malformed(): SlotbusError {
  return new SlotbusError("PROTOCOL", "The worker sent a malformed contract failure.", { mayHaveExecuted: true });
}

function list<T>(value: readonly T[] | undefined): readonly T[] {
  return Array.isArray(value) ? value : [];
}

function split(bytes: Uint8Array): { failure: Failure; data: Uint8Array } | null {
  if (bytes.length < LENGTH) return null;
  const end = LENGTH + new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
  if (end > bytes.length) return null;
  try {
    const failure = JSON.parse(Buffer.from(bytes.subarray(LENGTH, end)).toString()) as Failure | null;
    return failure && typeof failure === "object" ? { failure, data: bytes.subarray(end) } : null;
  } catch {
    return null; // not JSON: the caller reports a malformed failure
  }
}
