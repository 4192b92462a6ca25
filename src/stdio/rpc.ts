/** Messages of JSON-RPC 2.0: types, kinds, reading and writing. */

import { InvalidConfigError, RpcError, SlotbusError } from "../errors.ts";
import { inspect } from "../runtime.ts";

/** Id of a request and its response. `42` and `"42"` are different ids. */
export type RpcId = string | number | null;

/** A JSON-RPC message. Other members are passed through unchanged. */
export interface RpcMessage {
  readonly jsonrpc?: "2.0";
  /** In requests and responses. */
  readonly id?: RpcId;
  /** In requests and notifications. */
  readonly method?: string;
  readonly params?: unknown;
  /** In responses. */
  readonly result?: unknown;
  /** In error responses. */
  readonly error?: { readonly code: number; readonly message: string; readonly data?: unknown };
  readonly [member: string]: unknown;
}

/** Error codes. */
export const RPC = {
  parseError: -32_700,
  invalidRequest: -32_600,
  methodNotFound: -32_601,
  invalidParams: -32_602,
  internalError: -32_603,
  /** The caller cancelled the request (from the Language Server Protocol). */
  requestCancelled: -32_800,
  /** An error of the bus itself; `data.code` has its code. */
  busError: -32_000,
  /** The client did not send the server's token. */
  unauthorized: -32_001,
} as const;

/** Notification of a worker: it takes requests. */
export const READY = "$/ready";
/** First message of a client, with params `{ token }`. */
export const AUTH = "$/auth";

/** Returns the kind of a message; `"nothing"`: not a JSON-RPC message. */
export function kindOf(message: unknown): "request" | "notification" | "response" | "nothing" {
  if (typeof message !== "object" || message === null || Array.isArray(message)) return "nothing";
  const { id, method, result, error } = message as RpcMessage;
  if (typeof method === "string") {
    if (id === undefined) return "notification";
    return isId(id) ? "request" : "nothing";
  }
  return isId(id) && method === undefined && (result !== undefined || error !== undefined) ? "response" : "nothing";
}

/** Returns the id of any value; `undefined` if it has none. */
export function idOf(message: unknown): RpcId | undefined {
  const id = (message as { id?: unknown } | null)?.id;
  return isId(id) ? id : undefined;
}

function isId(id: unknown): id is RpcId {
  return typeof id === "string" || typeof id === "number" || id === null;
}

/** Returns a value as JSON; `null` for a value without JSON, such as a function. @throws {InvalidConfigError} for a cycle. */
export function toJson(value: unknown, what: string): string {
  try {
    return JSON.stringify(value) ?? "null";
  } catch (cause) {
    throw new InvalidConfigError(`Cannot write ${what} as JSON: ${(cause as Error).message}`, { cause });
  }
}

/** Parses JSON. @throws {InvalidConfigError} */
export function fromJson<T>(text: string, what: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new InvalidConfigError(`${what} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
}

/** Returns the error of an error response. */
export function readError(error: unknown, method: string, worker: string): RpcError {
  const { code, message, data } = (typeof error === "object" && error !== null ? error : {}) as Record<string, unknown>;
  const text = typeof message === "string" ? message : `${inspect(error, { depth: 1 })}`;
  return new RpcError(typeof code === "number" ? code : RPC.internalError, text, data, `${method} of ${worker}`);
}

/** Returns the member `error` of a response for an error. An {@link RpcError} keeps its code and data. */
export function errorMember(error: unknown): { code: number; message: string; data?: unknown } {
  if (error instanceof RpcError) {
    const { rpcCode: code, rpcMessage: message, data } = error;
    return data === undefined ? { code, message } : { code, message, data };
  }
  if (error instanceof SlotbusError) {
    const { code, message, retryable, mayHaveExecuted } = error;
    return { code: RPC.busError, message, data: { code, retryable, mayHaveExecuted } };
  }
  if (error instanceof Error) {
    return { code: RPC.internalError, message: error.message, data: { name: error.name } };
  }
  return { code: RPC.internalError, message: `the handler threw ${inspect(error, { depth: 1 })}` };
}

/** Returns a response as JSON. A result that cannot be written becomes an error response. */
export function responseJson(id: RpcId, result: unknown): string {
  try {
    return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${JSON.stringify(result) ?? "null"}}`;
  } catch (error) {
    return errorJson(id, error);
  }
}

/** Returns an error response as JSON. Data that cannot be written is left out. */
export function errorJson(id: RpcId, error: unknown): string {
  const member = errorMember(error);
  let text: string;
  try {
    text = JSON.stringify(member);
  } catch {
    text = JSON.stringify({ code: member.code, message: member.message });
  }
  return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"error":${text}}`;
}

const ID_AT_END = /"id"\s*:\s*(-?\d{1,15}|"(?:[^"\\]|\\.)*")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$/;
const MEMBER = /\s*"((?:[^"\\]|\\.)*)"\s*:\s*("(?:[^"\\]|\\.)*"|-?[\d.eE+-]+|true|false|null)\s*,?/y;

/**
 * Finds the id of a response that is too long or invalid in its first and last bytes; `undefined` if it is not there. Considers
 * only members of the message itself, not members inside its result.
 */
export function peekId(head: Uint8Array, tail: Uint8Array): RpcId | undefined {
  const first = Buffer.from(head).toString("latin1").trimStart();
  if (!first.startsWith("{")) return undefined;
  MEMBER.lastIndex = 1;
  for (let found = MEMBER.exec(first); found; found = MEMBER.exec(first)) {
    if (found[1] === "id") return parseId(found[2]!);
  }
  const last = ID_AT_END.exec(Buffer.from(tail).toString("latin1"));
  return last ? parseId(last[1]!) : undefined;
}

function parseId(text: string): RpcId | undefined {
  try {
    const id: unknown = JSON.parse(text);
    return isId(id) ? id : undefined;
  } catch {
    return undefined;
  }
}

/** A worker's request that is passed on under another id, because ids of different workers may be equal. */
export type Question = PromiseWithResolvers<unknown>;

/** Settles a question with its response. */
export function settle(question: Question, { result, error }: RpcMessage): void {
  if (error === undefined || error === null) question.resolve(result);
  else question.reject(readError(error, "request", "the host"));
}

/** Returns a notification as JSON. @throws {InvalidConfigError} for params that cannot be written. */
export function notificationJson(method: string, params: unknown): string {
  const tail = params === undefined ? "" : `,"params":${toJson(params, "params")}`;
  return `{"jsonrpc":"2.0","method":${JSON.stringify(method)}${tail}}`;
}

const names = new Map<string, string>();
const NAMES_MAX = 1_024;

/** Returns the JSON of a message's method, cached. */
export function methodJson(method: string): string {
  let json = names.get(method);
  if (json === undefined) {
    json = `,"method":${JSON.stringify(method)}`;
    if (names.size < NAMES_MAX) names.set(method, json);
  }
  return json;
}
