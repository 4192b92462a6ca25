/** WHATWG `Request` and `Response` on both sides of the bus. */

import { isUtf8 } from "node:buffer";
import { type Clock, nextTurn } from "../clock.ts";
import { checkKeys, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { checkTimeout } from "../options.ts";
import { isBun, peek, peekStatus } from "../runtime.ts";
import { type Asker, givenTimeout, type InnerOptions, requestOptions, type RequestOptions } from "./call.ts";
import { encodeMethod, type Method } from "./codec.ts";
import type { Answer } from "./answer.ts";
import { isHost } from "./headers.ts";
import type { FetchHandler, Handler, WorkerRequest } from "./request.ts";
import { MountedServer } from "./app.ts";
import { answerFile, bodyOf, mayDiffer, withLength } from "./file-answer.ts";
import { bytesOf, endSource, iterateStream, type StreamSource } from "./body-writer.ts";

type Bytes = Uint8Array<ArrayBuffer>;
type Step = IteratorResult<Bytes | string, undefined>;

/** Size up to which a body in several chunks is joined, in bytes. */
const PIECES_BYTES = 262_144;

/**
 * Returns the bytes of a body that is completely available and not too large: `limit` bytes in one chunk, or 256 KiB in several.
 * Returns any other body as a stream.
 */
async function gather(
  body: ReadableStream<Bytes | string>,
  limit: number,
  clock: Clock,
): Promise<Bytes | StreamSource> {
  const stream = iterateStream(body);
  const chunks: Bytes[] = [];
  let bytes = 0;
  for (;;) {
    const reading = stream.next();
    const here = peekStatus(reading) === "fulfilled";
    const step = here ? (peek(reading) as Step) : await Promise.race([reading, nextTurn(clock)]);
    if (!step) return goOn(chunks, reading, stream);
    if (step.done) return chunks.length === 1 ? chunks[0]! : (Buffer.concat(chunks, bytes) as Bytes);
    const chunk = bytesOf(step.value) as Bytes; // a chunk may be text
    bytes += chunk.length;
    if (bytes > limit || (chunks.length > 0 && bytes > PIECES_BYTES)) return goOn(chunks, reading, stream);
    chunks.push(chunk);
  }
}

/** Returns a source of the chunks that were read, then of the rest. */
function goOn(chunks: readonly Bytes[], reading: Promise<Step>, stream: AsyncIterator<Bytes | string>): StreamSource {
  const begun = [...chunks.map((value): Step => ({ done: false, value })), reading];
  const iterator = { next: async () => begun.shift() ?? stream.next(), return: () => stream.return!() };
  return { [Symbol.asyncIterator]: () => iterator } as AsyncIterable<Bytes | string>;
}

type FetchInit = RequestInit & RequestOptions;

/** Keys of a `RequestInit`. Those in the second line have no meaning without a network and are ignored. */
const WEB_KEYS = ["method", "headers", "body"].concat(
  "cache credentials duplex integrity keepalive mode priority redirect referrer referrerPolicy window".split(" "),
);
const KEYS = [...WEB_KEYS, ...Object.keys(requestOptions.rows)];

/** Checks the arguments of `fetch`. The body of a `Request` is moved, not copied: a call that fails cancels it. */
function prepare(bus: Asker, input: string | URL | Request, init: FetchInit | undefined, body: FetchInit["body"]) {
  checkKeys("fetch", init ?? {}, KEYS);
  const given = input instanceof Request ? input : null;
  // The suffix makes every host long enough for Elysia, which looks for the path from character 11 of the URL.
  const url = new URL(given?.url ?? (input as string | URL), `http://${bus.name}.slotbus`);
  const method = init?.method ?? given?.method ?? "GET";
  const request = new Request(url.href, { method, headers: init?.headers ?? given?.headers ?? [], body });
  encodeMethod(request.method); // throws for an invalid method
  const timeout = checkTimeout(init?.timeout ?? bus.options.timeout);
  const signal = init?.signal ?? given?.signal;
  signal?.throwIfAborted();
  return { url, request, timeout, signal };
}

/** `SlotBus.fetch`. */
export async function fetchThrough(
  bus: Asker,
  clock: Clock,
  input: string | URL | Request,
  init: FetchInit | undefined,
): Promise<Response> {
  const started = clock.now();
  const given = init?.body ?? (input instanceof Request ? input.body : null);
  let prepared: ReturnType<typeof prepare>;
  try {
    prepared = prepare(bus, input, init, given);
  } catch (error) {
    endSource(given);
    throw error;
  }
  const { url, request, timeout, signal } = prepared;
  const { idempotent, waitForWorker, worker, traceparent, deadline, idle } = init ?? {};
  const body = request.body ? await gather(request.body, bus.options.payloadBytes, clock) : undefined;
  const headers = [...request.headers];
  if (!request.headers.has("host")) headers.push(["host", url.host]);
  const options: InnerOptions = {
    idempotent,
    waitForWorker,
    worker,
    traceparent,
    deadline,
    idle,
    timeout: timeout && Math.max(1, timeout - (clock.now() - started)),
    [givenTimeout]: timeout,
    signal: signal ?? undefined,
  };
  const head = { method: request.method as Method, path: url.pathname, query: url.search.slice(1), headers };
  const response = await bus.stream({ ...head, body }, options);
  return response.toResponse();
}

/**
 * Converts a worker's request to a WHATWG `Request`, optionally with another path or origin. Passes the body in shared memory,
 * because `Request` copies it.
 */
export function toWebRequest(request: WorkerRequest, path = request.path, origin?: string): Request {
  const query = request.query ? `?${request.query}` : "";
  const bodiless = request.method === "GET" || request.method === "HEAD";
  return new Request(`${origin ?? originOf(request)}${path}${query}`, {
    method: request.method,
    headers: request.headers.toHeaders(),
    body: bodiless ? null : request.streams ? request.incoming.stream() : (request.peek() as Bytes),
    signal: request.signal,
  });
}

/** @throws {InvalidConfigError} */
function originOf({ headers }: WorkerRequest): string {
  const host = headers.get("host") ?? "slotbus";
  if (isHost(host)) return `http://${host}`;
  throw new InvalidConfigError(`The host header ${shown(host)} is not a valid host.`, {
    hint: "Send a host name, optionally with a port.",
  });
}

/**
 * Converts a `Response` to the response of a request. A body that is available is sent whole, any other body streams. The
 * response to HEAD has the length and no body.
 */
export async function answerOf(response: Response, request: WorkerRequest): Promise<Answer> {
  const { payloadBytes, turns } = request.claim.owner;
  const { status } = response;
  const type = response.headers.get("content-type"); // read first: access to `body` removes a type that Bun chose
  const headers = [...response.headers].filter(([name]) => name !== "content-type");
  const isHead = request.method === "HEAD";
  const kind = isBun && mayDiffer(request, type) ? bodyOf(response) : null;
  if (kind === "memory") {
    const body = Bun.peek<Bytes>(response.bytes() as Promise<Bytes>) as Bytes; // the promise is settled
    const contentType = type ?? typeOf(body);
    if (isHead) return { status, headers: withLength(headers, body.length), contentType };
    return { status, headers, contentType, body };
  }
  if (kind) return answerFile(kind, { status, headers, contentType: type ?? kind.file.type }, request);
  if (isHead) return headOfStream(response, headers, type);
  const body = response.body ? await gather(response.body, payloadBytes, turns.clock) : null;
  return { status, headers, contentType: type ?? (body instanceof Uint8Array && body.length > 0 ? BYTES : ""), body };
}

/** The response to HEAD for a stream, whose length is not known. Without a stream, keeps the length that the app set. */
function headOfStream({ status, body }: Response, headers: [string, string][], type: string | null): Answer {
  endSource(body);
  return { status, headers: body ? withLength(headers, null) : headers, contentType: type ?? "" };
}

const BYTES = "application/octet-stream";

/** Returns the type that `Bun.serve` sets for text or bytes. Bytes that are valid UTF-8 count as text. */
function typeOf(body: Bytes): string {
  if (body.length === 0) return "";
  return isUtf8(body) ? "text/plain;charset=utf-8" : BYTES;
}

const server = new MountedServer();

/** Returns a handler that responds with the response of an app's `fetch`. */
export function fetchHandler(app: FetchHandler): Handler {
  server.giveTo(app);
  return (request) => app.fetch(toWebRequest(request), server);
}
