/** The request and its options: types, checks, and the strings of the request head. */

import { requireMemory } from "../errors/plain.ts";
import { checkKeys, checkOptions, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { boolean, custom, type Given, Options, optional, refuse, signal, text, timeout } from "../options.ts";
import type { BodyLike, Method } from "./codec.ts";
import { flattenHeaders, type HeadersLike } from "./headers.ts";
import type { BusResponse, StreamedResponse } from "./response.ts";
import type { StreamSource } from "./body-writer.ts";
import { isTraceparent, setTraceparent } from "./tracing.ts";

/** A request to a worker. */
export interface BusRequest {
  /** HTTP method. Default: `"GET"`, or `"POST"` for a request with a body. */
  method?: Method;
  /** Path that the handler sees: `"/users/7"`. */
  path: string;
  /** Route pattern that a router matched: `"/users/:id"`. */
  pattern?: string;
  /** Path parameters that a router extracted. */
  params?: Readonly<Record<string, string>>;
  /** Query without its `?`. */
  query?: string | URLSearchParams;
  headers?: HeadersLike;
  /**
   * Text, bytes, or a source that streams either, of any length. Do not change a buffer until the request settles: a queued
   * request copies its body only when it is sent. A source is read as fast as the handler reads. A request that fails closes its
   * source, even if nothing was sent: pass a new source when you retry.
   */
  body?: BodyLike | StreamSource;
  /** A value sent as JSON in place of `body`. */
  json?: unknown;
  /** Id of the request in the handler, in errors and in diagnostics. Default: generated. */
  id?: string;
}

const rows = {
  /**
   * Longest time from the call to the response, in ms, including the time in the queue. 0 rejects without sending anything;
   * `Infinity` sets no limit. Default: the timeout of the bus.
   */
  timeout: optional(timeout(undefined, 0), "of the bus"),
  /** Cancels the request, which rejects with `signal.reason`. The handler's `request.signal` aborts too. */
  signal,
  /** Allows the request to run twice: if its worker dies, the bus sends it once more, within the same timeout. */
  idempotent: boolean(false),
  /** Whether the request waits when no worker is attached. `false` rejects with NoWorkerError at once. */
  waitForWorker: boolean(true),
  /**
   * Id of the only worker that may get the request. Such a request does not queue: it rejects with NoWorkerError if the worker is
   * not attached, and with BusOverloadedError if the worker accepts no more requests now.
   */
  worker: optional(custom<number>(undefined, "id of a worker", checkWorker)),
  /**
   * W3C trace context. Replaces the header `traceparent`; the handler reads it as `request.traceparent`. Default: the value of that
   * header, if present.
   */
  traceparent: optional(text(undefined, "a W3C trace context", isTraceparent)),
  /** `stream` and `fetch` only: longest time from the head of the response to its end, in ms. */
  deadline: optional(timeout(undefined)),
  /** `stream` and `fetch` only: longest time without any byte moving, because the source or the reader is slow, in ms. */
  idle: optional(timeout(undefined)),
};

/** The options of a request. */
export const requestOptions = new Options("a request", rows);

/** Options of one request. */
export interface RequestOptions extends Given<typeof rows> {}

/**
 * Key of an option that replaces `signal` when creating the signal costs more than the request. The first tick that finds the
 * request unsettled calls it. Returns the same signal each time.
 */
export const lateSignal = Symbol("slotbus.lateSignal");

/** Key of the timeout that the caller passed, for errors; part of it had elapsed before the request was made. */
export const givenTimeout = Symbol("slotbus.givenTimeout");

/** Options of a request made by the library. */
export interface InnerOptions extends RequestOptions {
  [lateSignal]?: () => AbortSignal;
  [givenTimeout]?: number;
}

/** Returns the timeout that the caller passed, in ms. */
export function callersTimeout({ options, timeoutMs }: { options: InnerOptions; timeoutMs: number }): number {
  return options[givenTimeout] ?? timeoutMs;
}

function checkWorker(worker: number, name: string): number {
  return Number.isInteger(worker) ? worker : refuse(name, worker, "the id of a worker");
}

const fields = ["method", "path", "pattern", "params", "query", "headers", "body", "json", "id"];

/** Checks the names of a request's fields, and that its kind works on the wire. @throws {InvalidConfigError}, {UnsupportedError} */
export function checkRequest(request: BusRequest, kind: string, wire: string): void {
  requireMemory(kind, wire);
  if (hasFields(request)) return;
  const option = Object.keys(checkOptions("a request", request)).find((key) => key in rows);
  if (option === undefined) checkKeys("a request", request, fields);
  throw new InvalidConfigError(`A request has no field ${option}.`, {
    hint: `It is an option, in the second argument: request({ … }, { ${option} }).`,
  });
}

/** Checks the options of a request, except the range of `timeout` and the form of `traceparent`. @throws {InvalidConfigError} */
export function checkRequestOptions(options: RequestOptions): void {
  if (!hasOptions(options)) requestOptions.resolve(options); // throws the error for the invalid option
}

/** Runs for each request: a `switch` takes half the time of any table. */
function hasFields(request: BusRequest): boolean {
  if (typeof request !== "object" || request === null) return false;
  for (const key in request) {
    switch (key) {
      case "method":
      case "path":
      case "pattern":
      case "params":
      case "query":
      case "headers":
      case "body":
      case "json":
      case "id":
        continue;
    }
    return false;
  }
  return true;
}

/** Whether each option is known and has the right type. Does not check the range of timeouts or the form of `traceparent`. */
function hasOptions(options: RequestOptions): boolean {
  if (typeof options !== "object" || options === null) return false;
  for (const key in options) if (!Object.hasOwn(rows, key)) return false;
  const { signal: given, idempotent, waitForWorker, worker, deadline, idle } = options;
  return (
    (given === undefined || given instanceof AbortSignal) &&
    (idempotent === undefined || typeof idempotent === "boolean") &&
    (waitForWorker === undefined || typeof waitForWorker === "boolean") &&
    (worker === undefined || Number.isInteger(worker)) &&
    deadline === undefined &&
    idle === undefined
  );
}

/** The part of a bus that `fetch` and contract clients use. */
export interface Asker {
  readonly name: string;
  readonly options: { readonly payloadBytes: number; readonly timeout: number };
  request(request: BusRequest, options?: RequestOptions): Promise<BusResponse>;
  stream(request: BusRequest, options?: RequestOptions): Promise<StreamedResponse>;
}

/** Returns the signal of a request; creates it if it is a {@link lateSignal}. */
export function signalOf(options: InnerOptions): AbortSignal | undefined {
  const late = options[lateSignal];
  return late ? late() : options.signal;
}

/** Appends the strings of a request's head to `strings`; returns the number of path parameters. @throws {InvalidConfigError} */
export function collectStrings(strings: string[], request: BusRequest, traceparent: string | undefined): number {
  const { path, query, params, headers } = request;
  if (typeof path !== "string") throw new InvalidConfigError(`path is ${shown(path)}; it must be text.`);
  if (request.json !== undefined && request.body !== undefined) {
    throw new InvalidConfigError("A request has both `body` and `json`.", { hint: "Pass only one of them." });
  }
  strings.push(path, query === undefined ? "" : String(query), request.pattern ?? "", request.id ?? "");
  let parameters = 0;
  if (params !== undefined) {
    for (const name in params) {
      strings.push(name, String(params[name]));
      parameters++;
    }
  }
  const firstHeader = strings.length;
  if (headers !== undefined) flattenHeaders(headers, strings);
  if (traceparent !== undefined) setTraceparent(strings, firstHeader, traceparent);
  return parameters;
}
