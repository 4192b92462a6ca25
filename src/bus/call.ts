/** What a caller asks for: types of a request and its options; and the strings that a request's head is made of. */

import { checkKeys, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { boolean, custom, type Given, Options, optional, refuse, signal, text, timeout } from "../options.ts";
import type { BodyLike, Method } from "./codec.ts";
import { flattenHeaders, type HeadersLike } from "./headers.ts";
import type { BusResponse, StreamedResponse } from "./response.ts";
import type { StreamSource } from "./body-writer.ts";
import { isTraceparent, setTraceparent } from "./tracing.ts";

/** A request to a worker. */
export interface BusRequest {
  /** Default `"GET"`, or `"POST"` when there is a body. */
  method?: Method;
  /** Path, as the handler will see it: `"/users/7"`. */
  path: string;
  /** Route pattern that a router found: `"/users/:id"`. */
  pattern?: string;
  /** Path parameters that a router found. */
  params?: Readonly<Record<string, string>>;
  /** Query without its `?`. */
  query?: string | URLSearchParams;
  headers?: HeadersLike;
  /**
   * Bytes or text. It is copied when the request is sent, which may be later: leave it unchanged until the request settles. Or a
   * source of bytes or text of any length, which streams as fast as the handler reads. A request that fails ends its source, even
   * when nothing was sent: give a new source to the next try.
   */
  body?: BodyLike | StreamSource;
  /** A value sent as JSON in place of `body`. */
  json?: unknown;
  /** Id of the request, for the handler, errors and diagnostics. Default: generated. */
  id?: string;
}

const rows = {
  /** Longest time from the call to the answer, in ms; 0 sends nothing, `Infinity` is no limit. Default: the timeout of the bus. */
  timeout: optional(timeout(undefined, 0), "of the bus"),
  /** Rejects with `signal.reason`; the handler's `request.signal` aborts too. */
  signal,
  /** The request may run twice: it is sent once more if its worker dies, within the same timeout. */
  idempotent: boolean(false),
  /** `false`: rejects with NoWorkerError at once when no worker is attached. `true`: waits. */
  waitForWorker: boolean(true),
  /**
   * Id of the only worker that may get the request. Such a request does not queue: it rejects with NoWorkerError when that worker
   * is not attached, with BusOverloadedError when it takes no more now.
   */
  worker: optional(custom<number>(undefined, "id of a worker", checkWorker)),
  /**
   * W3C trace context. It replaces the header `traceparent`; the handler sees it as `request.traceparent`. Default: that header, if
   * there is one.
   */
  traceparent: optional(text(undefined, "a W3C trace context", isTraceparent)),
  /** Of `SlotBus.stream`: longest time from the head of the answer to its end, in ms. */
  deadline: optional(timeout(undefined)),
  /** Of `SlotBus.stream`: longest time in which no byte moves, for lack of bytes or of a reader, in ms. */
  idle: optional(timeout(undefined)),
};

/** The options of a request. */
export const requestOptions = new Options("a request", rows);

/** Limits of one request, and whether it may run twice. */
export interface RequestOptions extends Given<typeof rows> {}

/**
 * Key of an option in place of `signal`, for a signal that costs more to make than a request: called by the first tick that finds
 * no answer. Returns the same signal each time.
 */
export const lateSignal = Symbol("slotbus.lateSignal");

/** Key of the timeout that the caller gave, for errors: part of it was over when the request was made. */
export const givenTimeout = Symbol("slotbus.givenTimeout");

/** Options of a request that the library makes itself. */
export interface InnerOptions extends RequestOptions {
  [lateSignal]?: () => AbortSignal;
  [givenTimeout]?: number;
}

/** The timeout of a request as its caller gave it, in ms. */
export function callersTimeout({ options, timeoutMs }: { options: InnerOptions; timeoutMs: number }): number {
  return options[givenTimeout] ?? timeoutMs;
}

function checkWorker(worker: number, name: string): number {
  return Number.isInteger(worker) ? worker : refuse(name, worker, "the id of a worker");
}

const fields = ["method", "path", "pattern", "params", "query", "headers", "body", "json", "id"];

/** Checks the names of a request's fields. @throws {InvalidConfigError} */
export function checkRequest(request: BusRequest): void {
  if (!hasFields(request)) checkKeys("a request", request, fields);
}

/** Checks the options of a request but for the range of `timeout` and for `traceparent`. @throws {InvalidConfigError} */
export function checkRequestOptions(options: RequestOptions): void {
  if (!hasOptions(options)) requestOptions.resolve(options); // says what is wrong
}

/** Each request is looked at: a `switch` takes half the time of any table. */
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

/** Whether each option is known and of its kind; timeouts may be out of range, a `traceparent` malformed. */
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

/** A bus, as `fetch` and the clients of contracts see it. */
export interface Asker {
  readonly name: string;
  readonly options: { readonly payloadBytes: number; readonly timeout: number };
  request(request: BusRequest, options?: RequestOptions): Promise<BusResponse>;
  stream(request: BusRequest, options?: RequestOptions): Promise<StreamedResponse>;
}

/** The signal of a request, made now if it is a late one. */
export function signalOf(options: InnerOptions): AbortSignal | undefined {
  const late = options[lateSignal];
  return late ? late() : options.signal;
}

/** Appends the strings of a request's head to `strings`; returns the number of path parameters. @throws {InvalidConfigError} */
export function collectStrings(strings: string[], request: BusRequest, traceparent: string | undefined): number {
  const { path, query, params, headers } = request;
  if (typeof path !== "string") throw new InvalidConfigError(`path is ${shown(path)}; it must be text.`);
  if (request.json !== undefined && request.body !== undefined) {
    throw new InvalidConfigError("a request has both `body` and `json`.", { hint: "Give one of them." });
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
