/** The WHATWG side of the bus: `Request` and `Response` on both ends. */

import { InvalidConfigError, PayloadTooLargeError, StreamNotSupportedError } from "../errors.ts";
import type { RequestOptions, SlotBus } from "./bus.ts";
import { METHODS, type Method } from "./codec.ts";
import { checkTimeout, startTimer } from "./options.ts";
import type { Answer, WorkerRequest } from "./request.ts";

/** Reads a body to its end. */
async function collect(
  source: Request | Response,
  limit: number,
  deadlineMs: number,
  what: "request" | "response",
  signal?: AbortSignal,
): Promise<Uint8Array> {
  signal?.throwIfAborted();
  const ran = what === "response";
  const declared = Number(source.headers.get("content-length") ?? 0);
  if (declared > limit) throw new PayloadTooLargeError(what, declared, limit, ran);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  const reader = source.body!.getReader();
  const { promise: over, resolve: stop } = Promise.withResolvers<"over">();
  const timer = startTimer(deadlineMs === Infinity ? 0 : Math.max(1, deadlineMs - Date.now()), () => stop("over"));
  const onAbort = () => stop("over");
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      const next = await Promise.race([reader.read(), over]);
      if (next === "over") {
        if (signal?.aborted) throw signal.reason;
        throw new StreamNotSupportedError(what, bytes, limit, ran);
      }
      if (next.done) break;
      bytes += next.value.length;
      if (bytes > limit) throw new StreamNotSupportedError(what, bytes, limit, ran);
      chunks.push(next.value);
    }
  } catch (error) {
    reader.cancel(error).catch(() => {}); // the source's own complaint adds nothing to `error`
    throw error;
  } finally {
    timer.clear();
    signal?.removeEventListener("abort", onAbort);
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, bytes);
}

function headerPairs(headers: Headers): [string, string][] {
  return [...headers];
}

/** {@link SlotBus.fetch}. */
export async function fetchThrough(
  bus: SlotBus,
  input: string | URL | Request,
  init: (RequestInit & RequestOptions) | undefined,
): Promise<Response> {
  const started = performance.now(); // the time of day may be set meanwhile
  const url = new URL(input instanceof Request ? input.url : input, `http://${bus.name}`);
  const request = input instanceof Request ? new Request(input, init) : new Request(url.href, init);
  if (!METHODS.includes(request.method as Method)) {
    throw new InvalidConfigError(`${request.method} is not a method.`, { hint: `Use one of ${METHODS.join(", ")}.` });
  }
  const timeout = checkTimeout("timeout", init?.timeout ?? bus.options.timeout) || Infinity;
  const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined);
  const body = request.body
    ? await collect(request, bus.options.payloadLimit, Date.now() + timeout, "request", signal ?? undefined)
    : undefined;
  const headers = headerPairs(request.headers);
  if (!request.headers.has("host")) headers.push(["host", url.host]);
  const response = await bus.request(
    {
      method: request.method as Method,
      path: url.pathname,
      query: url.search.slice(1),
      headers,
      body,
    },
    {
      timeout: timeout === Infinity ? Infinity : Math.max(1, timeout - (performance.now() - started)),
      signal: signal ?? undefined,
      idempotent: init?.idempotent,
      waitForWorker: init?.waitForWorker,
    },
  );
  return response.toResponse();
}

/** A worker's request as a WHATWG `Request`; the body is copied. */
export function toWebRequest(request: WorkerRequest): Request {
  const host = request.headers.get("host") ?? "slotbus";
  const query = request.query ? `?${request.query}` : "";
  const bodiless = request.method === "GET" || request.method === "HEAD";
  const headers = request.headers.toHeaders();
  headers.delete("host");
  return new Request(`http://${host}${request.path}${query}`, {
    method: request.method,
    headers,
    body: bodiless ? null : request.body.slice(),
    signal: request.signal,
  });
}

/** A `Response` as an answer, read to its end. */
export async function collectResponse(response: Response, limit: number, deadline: number): Promise<Answer> {
  const headers = headerPairs(response.headers).filter(([name]) => name !== "content-type");
  return {
    status: response.status,
    headers,
    contentType: response.headers.get("content-type") ?? "",
    body: response.body ? await collect(response, limit, deadline, "response") : null,
  };
}
