/** Requests that are made while a tracing channel has a subscriber. */

import type { BusRequest, RequestOptions } from "./call.ts";
import { flattenHeaders, type HeadersLike } from "./headers.ts";
import { isTraceparent, type RequestTrace, requestTraces, TRACEPARENT } from "./tracing.ts";

/**
 * Makes a request and publishes it and its result to the tracing channel, whose subscribers may change the trace context. `id` is
 * used if the request has no id.
 */
export function askTraced<Response extends object>(
  bus: string,
  id: string,
  request: BusRequest,
  options: RequestOptions,
  kind: RequestTrace["kind"],
  ask: (request: BusRequest, options: RequestOptions) => Promise<Response>,
): Promise<Response> {
  const trace = traceOf(bus, id, request, options, kind);
  const run = (): Promise<Response> => ask(...changed(trace, request, options));
  return requestTraces.tracePromise(run, trace) as Promise<Response>;
}

/** As {@link askTraced}, for a blocking request. */
export function askTracedSync<Response>(
  bus: string,
  id: string,
  request: BusRequest,
  options: RequestOptions,
  ask: (request: BusRequest, options: RequestOptions) => Response,
): Response {
  const trace = traceOf(bus, id, request, options, "sync");
  return requestTraces.traceSync(() => ask(...changed(trace, request, options)), trace) as Response;
}

function traceOf(
  bus: string,
  ownId: string,
  { method, body, json, path, pattern = "", headers, id = ownId }: BusRequest,
  options: RequestOptions,
  kind: RequestTrace["kind"],
): RequestTrace {
  const usual = body === undefined && json === undefined ? "GET" : "POST";
  const traceparent = options.traceparent ?? headerOf(headers);
  return { bus, id, method: method ?? usual, path, pattern, kind, traceparent };
}

function changed(
  { id, traceparent }: RequestTrace,
  request: BusRequest,
  options: RequestOptions,
): [BusRequest, RequestOptions] {
  return [{ ...request, id }, isTraceparent(traceparent) ? { ...options, traceparent } : options];
}

/**
 * Returns the trace context from the headers; `null` if it is absent or a header is invalid, which makes the request fail later.
 */
function headerOf(headers: HeadersLike | undefined): string | null {
  if (headers === undefined) return null;
  const flat: string[] = [];
  try {
    flattenHeaders(headers, flat);
  } catch {
    return null;
  }
  const at = flat.findIndex((text, index) => index % 2 === 0 && String(text).toLowerCase() === TRACEPARENT);
  return at < 0 ? null : flat[at + 1]!;
}
