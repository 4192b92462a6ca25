/** Forwards a request to a worker over its bus and returns the response. Hop-by-hop headers are removed both ways. */

import type { SlotBus } from "../slotbus.ts";
import { type BusRequest, type InnerOptions, lateSignal } from "../bus/call.ts";
import type { Method } from "../bus/codec.ts";
import { HeaderList, isHost } from "../bus/headers.ts";
import type { StreamedResponse } from "../bus/response.ts";
import type { StreamSource } from "../bus/body-writer.ts";
import { Failure, tooLarge } from "./failure.ts";
import { firstOf } from "./forwarded.ts";
import type { RouteLimitOptions } from "./limits.ts";
import type { ResolvedHubOptions } from "./options.ts";
import { CONNECTION } from "./socket-commands.ts";
import { peekStatus } from "../runtime.ts";

/** Hop-by-hop headers: RFC 9110 (7.6.1), and others that proxies treat alike. */
const HOP_BY_HOP = [
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];
/** Request headers that are not forwarded as the client sent them; the hub sets some of them itself. */
const NOT_OF_CLIENT = new Set([
  ...HOP_BY_HOP,
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-proto",
  "x-request-id",
  CONNECTION,
]);
/** Response headers that are not forwarded; the server sets `content-length` and `date` itself. */
const NOT_OF_WORKER = new Set([...HOP_BY_HOP, "content-length", "date"]);
/** Largest body that is read whole, in bytes. */
const WHOLE_BYTES = 256 * 1024;

/** Request headers by lower-case name. Headers of the same name are joined, except `set-cookie`. */
export type RequestHeaders = Readonly<Record<string, string | readonly string[]>>;

/** A request to forward, with its route and its client. */
export interface Incoming {
  readonly request: Request;
  readonly headers: RequestHeaders;
  readonly id: string;
  readonly path: string;
  readonly query: string;
  readonly pattern: string;
  readonly params: Readonly<Record<string, string>>;
  /** Whether the `x-forwarded-*` headers of the request are trusted. */
  readonly isTrusted: boolean;
  /** The header `x-forwarded-for` of the worker's request; `null`: none. */
  readonly via: string | null;
  /** Scheme of the client's request. `"https"` only when `hub.fetch` runs inside a server with TLS. */
  readonly proto: "http" | "https";
}

/** Limits of the requests of one route. */
export interface RouteLimits extends Pick<ResolvedHubOptions, "timeout" | "bodyTimeout" | "payloadBytes"> {
  /** Bodies up to this size, in bytes, are read whole and sent as one message; larger ones are streamed. */
  readonly wholeBytes: number;
}

/** Limits of a route. `own` replaces limits of the hub. */
export function routeLimits(hub: ResolvedHubOptions, own: RouteLimitOptions): RouteLimits {
  const { timeout, bodyTimeout, payloadBytes } = hub;
  return {
    timeout,
    bodyTimeout,
    payloadBytes,
    ...(own as Partial<RouteLimits>),
    wholeBytes: Math.min(WHOLE_BYTES, payloadBytes),
  };
}

/** Forwards a request. Rejects with {@link Failure} or with an error of the bus. */
export function forward(bus: SlotBus, incoming: Incoming, limits: RouteLimits): Promise<StreamedResponse> {
  const { request } = incoming;
  if (request.body) return forwardBody(bus, incoming, limits);
  const options: InnerOptions = { timeout: limits.timeout, [lateSignal]: () => request.signal };
  return bus.stream(asRequest(incoming, undefined), options);
}

async function forwardBody(bus: SlotBus, incoming: Incoming, limits: RouteLimits): Promise<StreamedResponse> {
  const { timeout } = limits;
  const { signal } = incoming.request;
  const body = await readBody(incoming, limits);
  if (!(body instanceof Body)) return bus.stream(asRequest(incoming, body), { timeout, signal });
  const either = AbortSignal.any([signal, body.failed]);
  return bus.stream(asRequest(incoming, body.source), { timeout, signal: either });
}

/** The handshake of a WebSocket as its worker gets it: with `upgrade`, and with the id of the connection. */
export function handshakeOf(incoming: Incoming, connection: string): BusRequest {
  const request = asRequest(incoming, undefined);
  const flat: string[] = ["upgrade", "websocket", "connection", "Upgrade", CONNECTION, connection];
  (request.headers as HeaderList).appendTo(flat);
  return { ...request, headers: new HeaderList(flat) };
}

function asRequest(incoming: Incoming, body: BusRequest["body"]): BusRequest {
  const { request, path, query, pattern, params, id } = incoming;
  const headers = requestHeaders(incoming);
  return { method: request.method as Method, path, query, pattern, params, id, headers, body };
}

// ---- headers ----------------------------------------------------------------------------------------------------------

/** Value of a header; `null` if missing. */
export function headerOf(headers: RequestHeaders, name: string): string | null {
  const value = headers[name];
  return value === undefined ? null : String(value);
}

/** Names listed in the header `connection`: these headers are hop-by-hop too. */
function listed(connection: string | null): ReadonlySet<string> | null {
  if (connection === null || connection === "keep-alive" || connection === "close") return null;
  return new Set(connection.split(",").map((name) => name.trim().toLowerCase()));
}

function requestHeaders({ request, headers, id, proto, isTrusted, via }: Incoming): HeaderList {
  const ofConnection = listed(headerOf(headers, "connection"));
  const flat: string[] = [];
  for (const name in headers) {
    if (NOT_OF_CLIENT.has(name) || ofConnection?.has(name)) continue;
    const value = headers[name]!;
    if (typeof value === "string") flat.push(name, value);
    else for (const one of value) flat.push(name, one);
  }
  const before = (name: string): string | null => (isTrusted && headerOf(headers, name)) || null;
  if (via !== null) flat.push("x-forwarded-for", via);
  const own = headerOf(headers, "host");
  if (own?.includes(",")) throw new Failure(400, "BAD_HOST", "The request has more than one host header.");
  const named = before("x-forwarded-host");
  const host = named ?? own;
  if (host !== null) {
    // A host that is part of the URL was checked with the URL. A request that a program created may have another host header.
    const isChecked = request.url.startsWith(`${host}/`, proto.length + 3);
    if (!isChecked && !isHost(firstOf(host)))
      throw new Failure(400, "BAD_HOST", `The ${named ? "x-forwarded-host" : "host"} header is not a valid host.`);
    flat.push("x-forwarded-host", host);
  }
  flat.push("x-forwarded-proto", before("x-forwarded-proto") ?? proto, "x-request-id", id);
  return new HeaderList(flat);
}

/** A request, and the server that received it if there is one. */
interface Answered {
  readonly id: string;
  readonly request: Request;
  readonly server: object | undefined;
}

/** Converts a response for the client. @throws `PROTOCOL` for a header that HTTP cannot carry. */
export function answer(response: StreamedResponse, { id, request, server }: Answered): Response {
  const { head } = response;
  // Equal heads of a worker are one object, so its headers are made once. A Response copies the headers that it is given.
  const headers = (head.note ??= responseHeaders(response)) as Headers;
  headers.set("x-request-id", id);
  const isHead = request.method === "HEAD";
  return isHead ? answerHead(response, headers) : response.toResponseWith(headers, false, server !== undefined);
}

/** Responds to HEAD. Sets `content-length` if the worker set it or the body is present; an unknown length is left out, not 0. */
function answerHead(response: StreamedResponse, shared: Headers): Response {
  const headers = new Headers(shared);
  const length = response.headers.get("content-length");
  if (length !== null && /^\d+$/.test(length)) headers.set("content-length", length);
  return response.toResponseWith(headers, true);
}

function responseHeaders(response: StreamedResponse): Headers {
  const ofConnection = listed(response.headers.get("connection"));
  return response.toHeaders((name) => {
    const lower = name.toLowerCase();
    return !NOT_OF_WORKER.has(lower) && !ofConnection?.has(lower);
  });
}

// ---- bodies -----------------------------------------------------------------------------------------------------------

/** A body that is forwarded while it is read. */
class Body {
  /** Aborted with a {@link Failure} when reading fails. */
  readonly failed: AbortSignal;
  readonly source: StreamSource;

  constructor(stream: ReadableStream<Uint8Array>, limits: RouteLimits) {
    const controller = new AbortController();
    this.failed = controller.signal;
    this.source = pieces(stream, limits, (failure) => controller.abort(failure));
  }
}

async function* pieces(
  stream: ReadableStream<Uint8Array>,
  { payloadBytes, bodyTimeout }: RouteLimits,
  fail: (failure: Failure) => void,
): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  let bytes = 0;
  try {
    for (;;) {
      const { done, value } = await within(reader.read(), bodyTimeout);
      if (done) return;
      bytes += value.length;
      if (bytes > payloadBytes) throw tooLarge(payloadBytes);
      yield value;
    }
  } catch (error) {
    fail(error instanceof Failure ? error : new Failure(400, "BAD_BODY", "Cannot read the request body."));
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function readBody({ request, headers }: Incoming, limits: RouteLimits): Promise<Uint8Array | Body> {
  const declared = headerOf(headers, "content-length");
  if (declared !== null && !/^\d+$/.test(declared))
    throw new Failure(400, "BAD_LENGTH", "The content-length header is not a number.");
  if (declared !== null && Number(declared) > limits.payloadBytes) throw tooLarge(limits.payloadBytes);
  if (declared === null || Number(declared) > limits.wholeBytes) return new Body(request.body!, limits);
  try {
    return await within(request.bytes(), limits.bodyTimeout);
  } catch (error) {
    throw error instanceof Failure ? error : new Failure(400, "BAD_BODY", "Cannot read the request body.");
  }
}

/** Longest delay of `setTimeout`, in ms; a longer delay would fire at once. */
const TIMER_MAX = 2 ** 31 - 1;

/** Rejects with 408 after `ms`. A promise that is settled already needs no timer. */
function within<T>(promise: Promise<T>, ms: number): Promise<T> {
  if (ms === Infinity || peekStatus(promise) !== "pending") return promise;
  const { promise: late, reject } = Promise.withResolvers<never>();
  const expire = (): void =>
    reject(new Failure(408, "BODY_TIMEOUT", `The request body timed out: no data for ${ms} ms.`));
  const timer = setTimeout(expire, Math.min(ms, TIMER_MAX));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
