/** What differs between the protocols of workers: how a request is given up, how its progress is told, and how a worker is greeted. */

import type { Framing } from "./framing.ts";
import { notificationJson, type RpcId, toJson } from "./rpc.ts";

/** What a worker speaks over JSON-RPC 2.0. */
export const PROTOCOLS = ["json-rpc", "lsp", "mcp"] as const;
/** As {@link PROTOCOLS}. */
export type ProtocolName = (typeof PROTOCOLS)[number];

type Members = Record<string, unknown>;
/** Asks and tells a worker that takes no requests yet. */
interface Greeted {
  request(method: string, params: unknown): Promise<unknown>;
  notify(method: string): Promise<void>;
}

/** One protocol. A `token` says which request a piece of progress belongs to. */
export interface Protocol {
  /** Framing of a pool that names none. */
  readonly framing: Framing;
  /** Method of the notification that gives up a request, and the member of its params that is the request's id. */
  readonly cancel: string;
  readonly cancelId: string;
  /** Whether that notification says why. */
  readonly saysWhy: boolean;
  /** Whether a request that was given up is answered. */
  readonly answersCancelled: boolean;
  /** Method of the notification of progress, and the member of its params that is the token. */
  readonly progress: string;
  readonly token: string;
  /** Whether the piece is the member `value` of these params; else it is all that stands beside the token. */
  readonly hasValue: boolean;
  /** Token that a caller put into the params of a request for its progress; `undefined`: there is none. */
  tokenOf(params: unknown): unknown;
  /** All tokens in the params: that one, and another for parts of the result. */
  tokensOf(params: unknown): readonly unknown[];
  /** The params with a token, or without any. Params that cannot have one are returned as they are. */
  withToken(params: unknown, token: string | undefined): unknown;
  /** Method of the request that comes first, once, and is never given up; and of the notification behind its answer. */
  readonly greeting: string | null;
  readonly greeted: string | null;
  /** What the answer to that request is for another client, which has these params. */
  greetingFor(answer: unknown, params: unknown): unknown;
  /** Greets a worker whose pool has no `initialize`. */
  readonly greet: ((worker: Greeted) => Promise<void>) | null;
  /** A method of workers that the host answers with an empty object. */
  readonly ping: string | null;
}

const jsonRpc: Protocol = {
  framing: "ndjson",
  cancel: "$/cancelRequest",
  cancelId: "id",
  saysWhy: false,
  answersCancelled: true,
  progress: "$/progress",
  token: "id", // of the request itself
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
      // A server that sends parts of its result leaves them out of its answer: it is asked to by the caller alone.
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
      return { ...membersOf(answer), protocolVersion: version }; // a client refuses a version that came after its own
    },
    async greet(worker) {
      const clientInfo = { name: "slotbus", version: "1" };
      await worker.request("initialize", { protocolVersion: "2025-11-25", capabilities: {}, clientInfo });
      await worker.notify("notifications/initialized");
    },
    ping: "ping",
  },
};

/** The notification that gives up the request with this id. */
export function cancelJson(protocol: Protocol, id: RpcId, reason?: unknown): string {
  const why = reason instanceof Error ? reason.message : typeof reason === "string" ? reason : "the caller gave up";
  return notificationJson(protocol.cancel, { [protocol.cancelId]: id, ...(protocol.saysWhy && { reason: why }) });
}

/** The id of the request that these params of {@link Protocol.cancel} give up. */
export function cancelledId(protocol: Protocol, params: unknown): RpcId {
  return membersOf(params)[protocol.cancelId] as RpcId;
}

/** The notification of a piece of progress. */
export function progressJson(protocol: Protocol, token: unknown, piece: unknown): string {
  const { hasValue, progress } = protocol;
  if (!hasValue) return notificationJson(progress, { ...membersOf(piece), [protocol.token]: token });
  const json = toJson(piece, "progress");
  return `{"jsonrpc":"2.0","method":"${progress}","params":{"${protocol.token}":${JSON.stringify(token)},"value":${json}}}`;
}

/** The token in params of {@link Protocol.progress}. */
export function tokenIn(protocol: Protocol, params: unknown): unknown {
  return membersOf(params)[protocol.token];
}

/** The piece in params of {@link Protocol.progress}. */
export function pieceIn(protocol: Protocol, params: unknown): unknown {
  if (protocol.hasValue) return membersOf(params)["value"];
  const { [protocol.token]: _, ...piece } = membersOf(params);
  return piece;
}

const OWN = "slotbus:";

/** The token of a request that the caller gave none: no caller's own is like it, and no other request of the worker has it. */
export function ownToken(id: number): string {
  return `${OWN}${id}`;
}

/** The id of the request with that token; `undefined`: it is a caller's own, or nobody's. */
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
