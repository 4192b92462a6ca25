/** The WHATWG side of the bus: `Request` and `Response` on both ends. */

import { isUtf8 } from "node:buffer";
import { type Clock, nextTurn } from "../clock.ts";
import { checkTimeout } from "../options.ts";
import type { Asker, RequestOptions } from "./call.ts";
import { encodeMethod, type Method } from "./codec.ts";
import type { Answer } from "./answer.ts";
import type { FetchHandler, Handler, WorkerRequest } from "./request.ts";
import { endSource, iterateStream, type StreamSource } from "./body-writer.ts";

type Bytes = Uint8Array<ArrayBuffer>;
type Step = IteratorResult<Bytes, undefined>;

/** A body that is here in several pieces is put together up to this size, in bytes. */
const PIECES_BYTES = 262_144;

/**
 * A body that is all there, up to `limit` bytes in one piece or 256 KiB in several, comes back as its bytes; any other
 * as the stream it is.
 */
async function gather(body: ReadableStream<Bytes>, limit: number, clock: Clock): Promise<Bytes | StreamSource> {
  const stream = iterateStream(body);
  const chunks: Bytes[] = [];
  let bytes = 0;
  for (;;) {
    const reading = stream.next();
    const here = Bun.peek.status(reading) === "fulfilled";
    const step = here ? (Bun.peek(reading) as Step) : await Promise.race([reading, nextTurn(clock)]);
    if (!step) return goOn(chunks, reading, stream);
    if (step.done) return chunks.length === 1 ? chunks[0]! : (Buffer.concat(chunks, bytes) as Bytes);
    bytes += step.value.length;
    if (bytes > limit || (chunks.length > 0 && bytes > PIECES_BYTES)) return goOn(chunks, reading, stream);
    chunks.push(step.value);
  }
}

/** What was read already, then the rest. */
function goOn(chunks: readonly Bytes[], reading: Promise<Step>, stream: AsyncIterator<Bytes>): StreamSource {
  const begun = [...chunks.map((value): Step => ({ done: false, value })), reading];
  const iterator = { next: async () => begun.shift() ?? stream.next(), return: () => stream.return!() };
  return { [Symbol.asyncIterator]: () => iterator } as AsyncIterable<Bytes>;
}

type FetchInit = RequestInit & RequestOptions;

/** What is to be sent, checked. The body of a `Request` is taken from it, not copied: it is cancelled with the call. */
function prepare(bus: Asker, input: string | URL | Request, init: FetchInit | undefined, body: FetchInit["body"]) {
  const given = input instanceof Request ? input : null;
  const url = new URL(given?.url ?? (input as string | URL), `http://${bus.name}`);
  const method = init?.method ?? given?.method ?? "GET";
  const request = new Request(url.href, { method, headers: init?.headers ?? given?.headers ?? [], body });
  encodeMethod(request.method); // throws for a method that no request can have
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
  const started = clock.now(); // the time of day may be set meanwhile
  const given = init?.body ?? (input instanceof Request ? input.body : null);
  let prepared: ReturnType<typeof prepare>;
  try {
    prepared = prepare(bus, input, init, given);
  } catch (error) {
    endSource(given);
    throw error;
  }
  const { url, request, timeout, signal } = prepared;
  const body = request.body ? await gather(request.body, bus.options.payloadBytes, clock) : undefined;
  const headers = [...request.headers];
  if (!request.headers.has("host")) headers.push(["host", url.host]);
  const response = await bus.stream(
    {
      method: request.method as Method,
      path: url.pathname,
      query: url.search.slice(1),
      headers,
      body,
    },
    {
      timeout: timeout && Math.max(1, timeout - (clock.now() - started)),
      signal: signal ?? undefined,
      idempotent: init?.idempotent,
      waitForWorker: init?.waitForWorker,
      traceparent: init?.traceparent,
    },
  );
  return response.toResponse();
}

/** A worker's request as a WHATWG `Request`, with another path if one is given. `Request` copies the body, so it is not copied before. */
export function toWebRequest(request: WorkerRequest, path = request.path): Request {
  const host = request.headers.get("host") ?? "slotbus";
  const query = request.query ? `?${request.query}` : "";
  const bodiless = request.method === "GET" || request.method === "HEAD";
  const headers = request.headers.toHeaders();
  headers.delete("host");
  return new Request(`http://${host}${path}${query}`, {
    method: request.method,
    headers,
    body: bodiless ? null : request.streams ? request.incoming.stream() : (request.peek() as Bytes),
    signal: request.signal,
  });
}

/** A `Response` as an answer to a request: whole when its body is there, else it streams. */
export async function answerOf(response: Response, { claim: { owner } }: WorkerRequest): Promise<Answer> {
  const headers = [...response.headers].filter(([name]) => name !== "content-type");
  const body = response.body ? await gather(response.body, owner.payloadBytes, owner.turns.clock) : null;
  const contentType = response.headers.get("content-type") ?? typeOf(body);
  return { status: response.status, headers, contentType, body };
}

/** `new Response("text")` is text/plain (Fetch, 6.4), but Bun says so only to its own server: what is UTF-8 counts as text. */
function typeOf(body: Answer["body"]): string {
  return body instanceof Uint8Array && body.length > 0 && isUtf8(body) ? "text/plain;charset=utf-8" : "";
}

/** A handler that answers with what an app's `fetch` answers. */
export function fetchHandler(app: FetchHandler): Handler {
  return (request) => app.fetch(toWebRequest(request));
}
