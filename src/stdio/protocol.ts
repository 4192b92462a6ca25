/** Differences between the protocols of workers: how to cancel, report progress and initialize. */

import type { Framing } from "./framing.ts";
import { notificationJson, type RpcId, toJson } from "./rpc.ts";

/** Protocols that a worker can speak over JSON-RPC 2.0. */
export const PROTOCOLS = ["json-rpc", "lsp", "mcp"] as const;
/** One of {@link PROTOCOLS}. */
export type ProtocolName = (typeof PROTOCOLS)[number];

type Members = Record<string, unknown>;
/** Sends messages to a worker that is starting. */
interface Greeted {
  request(method: string, params: unknown): Promise<unknown>;
  notify(method: string): Promise<void>;
}

/** A protocol. A progress token identifies the request that progress belongs to. */
export interface Protocol {
  /** Default framing. */
  readonly framing: Framing;
  /** Method of the cancel notification. */
  readonly cancel: string;
  /** Member of its params with the request's id. */
  readonly cancelId: string;
  /** Whether the cancel notification has a reason. */
  readonly saysWhy: boolean;
  /** Whether a cancelled request still gets a response. */
  readonly answersCancelled: boolean;
  /** Method of progress notifications. */
  readonly progress: string;
  /** Member of their params with the token. */
  readonly token: string;
  /** Whether the progress is in the member `value` of the params. Otherwise it is all members except the token. */
  readonly hasValue: boolean;
  /** Returns the progress token in the params of a request, or `undefined`. */
  tokenOf(params: unknown): unknown;
  /** Returns all tokens in the params: for progress, and for partial results. */
  tokensOf(params: unknown): readonly unknown[];
  /** Returns the params with this token, or without any. Params that are not an object are returned unchanged. */
  withToken(params: unknown, token: string | undefined): unknown;
  /** Method of the request that initializes a worker. It is sent once and never cancelled. */
  readonly greeting: string | null;
  /** Method of the notification that follows. */
  readonly greeted: string | null;
  /** Returns the answer to a further client that sends this request with these params. */
  greetingFor(answer: unknown, params: unknown): unknown;
  /** Initializes a worker if its pool has no `initialize` option. */
  readonly greet: ((worker: Greeted) => Promise<void>) | null;
  /** Method of workers' requests that the host answers with an empty object. */
  readonly ping: string | null;
}

const jsonRpc: Protocol = {
  framing: "ndjson",
  cancel: "$/cancelRequest",
  cancelId: "id",
  saysWhy: false,
  answersCancelled: true,
  progress: "$/progress",
  token: "id", // the id of the request is the token
  hasValue: true,
  tokenOf: () => undefined,
  tokensOf: () => [],
  withToken: (params) => params,
  greeting: null,
  greeted: null,
  greetingFor: (answer) => answer,
  greet: null,
  ping: null,
};

/** The protocols by name. */
export const protocols: Readonly<Record<ProtocolName, Protocol>> = {
  "json-rpc": jsonRpc,
  lsp: {
    ...jsonRpc,
    framing: "content-length",
    token: "token",
    tokenOf: (params) => membersOf(params)["workDoneToken"],
    tokensOf: (params) => given(membersOf(params)["workDoneToken"], membersOf(params)["partialResultToken"]),
    withToken(params, token) {
      if (params !== undefined && !isMembers(params)) return params;
      // A server leaves partial results out of its response, so only the caller may request them.
      return { ...(params as Members), partialResultToken: undefined, workDoneToken: token };
    },
  },
  mcp: {
    ...jsonRpc,
    cancel: "notifications/cancelled",
    cancelId: "requestId",
    saysWhy: true,
    answersCancelled: false,
    progress: "notifications/progress",
    token: "progressToken",
    hasValue: false,
    tokenOf: (params) => membersOf(membersOf(params)["_meta"])["progressToken"],
    tokensOf: (params) => given(membersOf(membersOf(params)["_meta"])["progressToken"]),
    withToken(params, token) {
      const meta = membersOf(params)["_meta"];
      if ((params !== undefined && !isMembers(params)) || (meta !== undefined && !isMembers(meta))) return params;
      return { ...(params as Members), _meta: { ...(meta as Members), progressToken: token } };
    },
    greeting: "initialize",
    greeted: "notifications/initialized",
    greetingFor(answer, params) {
      const version = membersOf(params)["protocolVersion"]; // a date
      if (typeof version !== "string" || !(version < String(membersOf(answer)["protocolVersion"]))) return answer;
      return { ...membersOf(answer), protocolVersion: version }; // a client rejects a newer version than its own
    },
    async greet(worker) {
      const clientInfo = { name: "slotbus", version: "1" };
      await worker.request("initialize", { protocolVersion: "2025-11-25", capabilities: {}, clientInfo });
      await worker.notify("notifications/initialized");
    },
    ping: "ping",
  },
};

/** Returns the notification that cancels the request with this id. */
export function cancelJson(protocol: Protocol, id: RpcId, reason?: unknown): string {
  const why =
    reason instanceof Error ? reason.message : typeof reason === "string" ? reason : "the caller cancelled the request";
  return notificationJson(protocol.cancel, { [protocol.cancelId]: id, ...(protocol.saysWhy && { reason: why }) });
}

/** Returns the id of the cancelled request from the params of a cancel notification. */
export function cancelledId(protocol: Protocol, params: unknown): RpcId {
  return membersOf(params)[protocol.cancelId] as RpcId;
}

/** Returns a progress notification. */
export function progressJson(protocol: Protocol, token: unknown, piece: unknown): string {
  const { hasValue, progress } = protocol;
  if (!hasValue) return notificationJson(progress, { ...membersOf(piece), [protocol.token]: token });
  const json = toJson(piece, "progress");
  return `{"jsonrpc":"2.0","method":"${progress}","params":{"${protocol.token}":${JSON.stringify(token)},"value":${json}}}`;
}

/** Returns the token in the params of a progress notification. */
export function tokenIn(protocol: Protocol, params: unknown): unknown {
  return membersOf(params)[protocol.token];
}

/** Returns the progress in the params of a progress notification. */
export function pieceIn(protocol: Protocol, params: unknown): unknown {
  if (protocol.hasValue) return membersOf(params)["value"];
  const { [protocol.token]: _, ...piece } = membersOf(params);
  return piece;
}

const OWN = "slotbus:";

/**
 * Returns the token for a request without one. It is unique in the worker, and its prefix sets it apart from callers' tokens.
 */
export function ownToken(id: number): string {
  return `${OWN}${id}`;
}

/** Returns the id of the request with this token; `undefined`: the token was not made by {@link ownToken}. */
export function idOfToken(protocol: Protocol, token: unknown): RpcId | undefined {
  if (protocol.token === "id") return typeof token === "number" || typeof token === "string" ? token : undefined;
  return typeof token === "string" && token.startsWith(OWN) ? Number(token.slice(OWN.length)) : undefined;
}

function isMembers(value: unknown): value is Members {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function membersOf(value: unknown): Members {
  return isMembers(value) ? value : {};
}

function given(...tokens: unknown[]): unknown[] {
  return tokens.filter((token) => token !== undefined);
}
