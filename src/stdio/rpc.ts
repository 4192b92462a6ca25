/** Messages of JSON-RPC 2.0: what each is, and the id of one that cannot be read. */

import { InvalidConfigError, RpcError, SlotbusError } from "../errors.ts";

/** Who a response belongs to; `42` and `"42"` are two. */
export type RpcId = string | number | null;

/** A message. Members besides these go with it as they are. */
export interface RpcMessage {
  readonly jsonrpc?: "2.0";
  /** Of a request, and of its response. */
  readonly id?: RpcId;
  /** Of a request or a notification. */
  readonly method?: string;
  readonly params?: unknown;
  /** Of a response. */
  readonly result?: unknown;
  /** Of a response. */
  readonly error?: { readonly code: number; readonly message: string; readonly data?: unknown };
  readonly [member: string]: unknown;
}

/** Codes of JSON-RPC 2.0. */
export const RPC = {
  parseError: -32_700,
  invalidRequest: -32_600,
  methodNotFound: -32_601,
  invalidParams: -32_602,
  internalError: -32_603,
  /** The caller gave up (of language servers). */
  requestCancelled: -32_800,
  /** An error of the bus itself; `data.code` says which. */
  busError: -32_000,
  /** A client of a server did not send the server's token. */
  unauthorized: -32_001,
} as const;

/** Of a worker: it takes requests. */
export const READY = "$/ready";
/** Of a client of a server: `{ token }`, its first message. */
export const AUTH = "$/auth";

/** What a message is; `"nothing"`: no message of JSON-RPC. */
export function kindOf(message: unknown): "request" | "notification" | "response" | "nothing" {
  if (typeof message !== "object" || message === null || Array.isArray(message)) return "nothing";
  const { id, method, result, error } = message as RpcMessage;
  if (typeof method === "string") {
    if (id === undefined) return "notification";
    return isId(id) ? "request" : "nothing";
  }
  return isId(id) && method === undefined && (result !== undefined || error !== undefined) ? "response" : "nothing";
}

/** The id of what may be no message; `undefined`: it has none. */
export function idOf(message: unknown): RpcId | undefined {
  const id = (message as { id?: unknown } | null)?.id;
  return isId(id) ? id : undefined;
}

function isId(id: unknown): id is RpcId {
  return typeof id === "string" || typeof id === "number" || id === null;
}

/** A value as JSON; `null` for what has no JSON. Throws {@link InvalidConfigError} for what cannot be written (a cycle). */
export function toJson(value: unknown, what: string): string {
  try {
    return JSON.stringify(value) ?? "null";
  } catch (cause) {
    throw new InvalidConfigError(`${what} cannot be written as JSON: ${(cause as Error).message}`, { cause });
  }
}

/** The reverse of {@link toJson}. Throws {@link InvalidConfigError}. */
export function fromJson<T>(text: string, what: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new InvalidConfigError(`${what} is no JSON: ${(cause as Error).message}`, { cause });
  }
}

/** The error of a response. */
export function readError(error: unknown, method: string, worker: string): RpcError {
  const { code, message, data } = (typeof error === "object" && error !== null ? error : {}) as Record<string, unknown>;
  const text = typeof message === "string" ? message : `${Bun.inspect(error, { depth: 1 })}`;
  return new RpcError(typeof code === "number" ? code : RPC.internalError, text, data, `${method} of ${worker}`);
}

/** An error as the `error` of a response. A handler's {@link RpcError} goes out with its code and data. */
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
  return { code: RPC.internalError, message: `the handler threw ${Bun.inspect(error, { depth: 1 })}` };
}

/** A response as JSON. What has no JSON, or cannot be written, becomes an error. */
export function responseJson(id: RpcId, result: unknown): string {
  try {
    return `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":${JSON.stringify(result) ?? "null"}}`;
  } catch (error) {
    return errorJson(id, error);
  }
}

/** A response with an error as JSON; data that cannot be written is left out. */
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
 * The id of a response that is too long or broken, from its first and last bytes; `undefined` when it is not told there.
 * Only members of the message itself are looked at, not those of its result.
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

/** A worker's request that somebody else answers, under another id: those of several workers may be equal. */
export type Question = PromiseWithResolvers<unknown>;

/** Settles a question with its response. */
export function settle(question: Question, { result, error }: RpcMessage): void {
  if (error === undefined || error === null) question.resolve(result);
  else question.reject(readError(error, "request", "the host"));
}

/** A notification as JSON. Throws {@link InvalidConfigError} for params that cannot be written. */
export function notificationJson(method: string, params: unknown): string {
  const tail = params === undefined ? "" : `,"params":${toJson(params, "params")}`;
  return `{"jsonrpc":"2.0","method":${JSON.stringify(method)}${tail}}`;
}

const names = new Map<string, string>();
const NAMES_MAX = 1_024;

/** The beginning of a request's JSON behind its id. */
export function methodJson(method: string): string {
  let json = names.get(method);
  if (json === undefined) {
    json = `,"method":${JSON.stringify(method)}`;
    if (names.size < NAMES_MAX) names.set(method, json);
  }
  return json;
}
