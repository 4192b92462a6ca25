/** A request over a bus to a worker, and its answer back: what of HTTP belongs to one connection stays there. */

import type { BusRequest, RequestOptions, SlotBus } from "../bus/bus.ts";
import { METHODS, type Method } from "../bus/codec.ts";
import type { StreamedResponse } from "../bus/response.ts";
import type { StreamSource } from "../bus/stream.ts";
import { Failure, tooLarge } from "./failure.ts";

/** RFC 9110 (7.6.1), and what belongs to it by custom. */
const HOP_BY_HOP = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);
/** The hub says these itself. */
const FORWARDED = new Set(["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"]);
/** Of an answer: the server counts and dates by itself. */
const OF_SERVER = new Set(["content-length", "date"]);
/** Bodies up to here are read whole before they are sent: one message, no stream. */
const WHOLE_BYTES = 256 * 1024;

/** What the hub knows of a request beyond the request. */
export interface Incoming {
  readonly request: Request;
  readonly id: string;
  readonly path: string;
  readonly query: string;
  readonly pattern: string;
  readonly params: Readonly<Record<string, string>>;
  /** Address of the client, if it has one. */
  readonly address: string | null;
}

export interface ProxyLimits {
  readonly timeout: number;
  readonly bodyTimeout: number;
  readonly payloadLimit: number;
  readonly trustProxy: boolean;
}

/** Rejects with {@link Failure}, or with an error of the bus. */
export async function forward(bus: SlotBus, incoming: Incoming, limits: ProxyLimits): Promise<Response> {
  const { request } = incoming;
  const body = request.body ? await readBody(request, limits) : undefined;
  const asked: BusRequest = {
    method: request.method as Method,
    path: incoming.path,
    query: incoming.query,
    pattern: incoming.pattern,
    params: incoming.params,
    id: incoming.id,
    headers: requestHeaders(incoming, limits.trustProxy),
    body: body instanceof Body ? body.source : body,
  };
  const options: RequestOptions = { timeout: limits.timeout, signal: request.signal };
  if (!(body instanceof Body)) return answer(await bus.stream(asked, options), incoming);
  options.signal = AbortSignal.any([request.signal, body.failed]);
  return answer(await bus.stream(asked, options), incoming);
}

export function isMethod(method: string): method is Method {
  return METHODS.includes(method as Method);
}

// ---- headers ----------------------------------------------------------------------------------------------------------

/** Names that the header `connection` lists belong to the connection too. */
function listed(connection: string | null): ReadonlySet<string> | null {
  if (connection === null || connection === "keep-alive" || connection === "close") return null;
  return new Set(connection.split(",").map((name) => name.trim().toLowerCase()));
}

function requestHeaders(incoming: Incoming, trustProxy: boolean): [string, string][] {
  const { headers } = incoming.request;
  const ofConnection = listed(headers.get("connection"));
  const pairs: [string, string][] = [];
  for (const pair of headers) {
    const name = pair[0];
    if (HOP_BY_HOP.has(name) || FORWARDED.has(name) || ofConnection?.has(name)) continue;
    pairs.push(pair);
  }
  const before = (name: string): string | null => (trustProxy ? headers.get(name) : null);
  const route = [before("x-forwarded-for"), incoming.address].filter((one) => one !== null);
  if (route.length > 0) pairs.push(["x-forwarded-for", route.join(", ")]);
  const host = before("x-forwarded-host") ?? headers.get("host");
  if (host !== null) pairs.push(["x-forwarded-host", host]);
  pairs.push(["x-forwarded-proto", before("x-forwarded-proto") ?? "http"], ["x-request-id", incoming.id]);
  return pairs;
}

function answer(response: StreamedResponse, { id, request }: Incoming): Response {
  const ofConnection = listed(response.headers.get("connection"));
  const isWanted = (name: string): boolean => {
    const lower = name.toLowerCase();
    return !HOP_BY_HOP.has(lower) && !OF_SERVER.has(lower) && !ofConnection?.has(lower);
  };
  const answered = response.toResponseWith(isWanted, request.method === "HEAD");
  answered.headers.set("x-request-id", id);
  return answered;
}

// ---- bodies -----------------------------------------------------------------------------------------------------------

/** A body that is sent while it is read. */
class Body {
  /** Aborts with the {@link Failure} that ended it. */
  readonly failed: AbortSignal;
  readonly source: StreamSource;

  constructor(stream: ReadableStream<Uint8Array>, limits: ProxyLimits) {
    const controller = new AbortController();
    this.failed = controller.signal;
    this.source = pieces(stream, limits, (failure) => controller.abort(failure));
  }
}

async function* pieces(
  stream: ReadableStream<Uint8Array>,
  { payloadLimit, bodyTimeout }: ProxyLimits,
  fail: (failure: Failure) => void,
): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  let bytes = 0;
  try {
    for (;;) {
      const { done, value } = await within(reader.read(), bodyTimeout);
      if (done) return;
      bytes += value.length;
      if (bytes > payloadLimit) throw tooLarge(payloadLimit);
      yield value;
    }
  } catch (error) {
    fail(error instanceof Failure ? error : new Failure(400, "BAD_BODY", "the body could not be read."));
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function readBody(request: Request, limits: ProxyLimits): Promise<Uint8Array | Body | undefined> {
  const declared = request.headers.get("content-length");
  if (declared !== null && Number(declared) > limits.payloadLimit) throw tooLarge(limits.payloadLimit);
  if (declared === null || Number(declared) > WHOLE_BYTES) return new Body(request.body!, limits);
  try {
    return await within(request.bytes(), limits.bodyTimeout);
  } catch (error) {
    throw error instanceof Failure ? error : new Failure(400, "BAD_BODY", "the body could not be read.");
  }
}

/** What is there already costs no timer. */
function within<T>(promise: Promise<T>, ms: number): Promise<T> {
  if (ms === 0 || Bun.peek.status(promise) !== "pending") return promise;
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Failure(408, "BODY_TIMEOUT", `no byte of the body for ${ms} ms.`)), ms);
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
