/** What a caller asks for: types of a request and its options; and the strings that a request's head is made of. */

import { InvalidConfigError } from "../errors.ts";
import type { BodyLike, Method } from "./codec.ts";
import { flattenHeaders, type HeadersLike } from "./headers.ts";
import type { BusResponse, StreamedResponse } from "./response.ts";
import type { StreamSource } from "./body-writer.ts";
import { setTraceparent } from "./tracing.ts";

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

/** Limits of one request, and whether it may run twice. */
export interface RequestOptions {
  /** For `SlotBus.stream`: longest time from the head of the answer to its end, in ms. Default: none. */
  deadline?: number;
  /** For `SlotBus.stream`: longest time in which no byte moves, for lack of bytes or of a reader, in ms. Default: none. */
  idle?: number;
  /** Longest time from the call to the answer, in ms; `Infinity` for none. Default: the bus's `timeout`. */
  timeout?: number;
  /** Rejects with `signal.reason`; the handler's `request.signal` aborts too. */
  signal?: AbortSignal;
  /**
   * @internal In place of `signal`, for a signal that costs more to make than a request: called by the first tick that finds no
   * answer. Returns the same signal each time.
   */
  lateSignal?: () => AbortSignal;
  /** The request may run twice: it is sent once more if its worker dies, within the same timeout. */
  idempotent?: boolean;
  /** `false`: reject with NoWorkerError at once when no worker is attached. Default `true`: wait. */
  waitForWorker?: boolean;
  /**
   * Id of the only worker that may get the request. Such a request does not queue: it rejects with NoWorkerError when that worker
   * is not attached, with BusOverloadedError when it takes no more now.
   */
  worker?: number;
  /**
   * W3C trace context. It replaces the header `traceparent`; the handler sees it as `request.traceparent`. Default: that header, if
   * there is one.
   */
  traceparent?: string;
}

/** A bus, as `fetch` and the clients of contracts see it. */
export interface Asker {
  readonly name: string;
  readonly options: { readonly payloadLimit: number; readonly timeout: number };
  request(request: BusRequest, options?: RequestOptions): Promise<BusResponse>;
  stream(request: BusRequest, options?: RequestOptions): Promise<StreamedResponse>;
}

/** The signal of a request, made now if it is a late one. */
export function signalOf({ signal, lateSignal }: RequestOptions): AbortSignal | undefined {
  return lateSignal ? lateSignal() : signal;
}

/** Appends the strings of a request's head to `strings`; returns the number of path parameters. @throws {InvalidConfigError} */
export function collectStrings(strings: string[], request: BusRequest, traceparent: string | undefined): number {
  const { path, query, params, headers } = request;
  if (typeof path !== "string") throw new InvalidConfigError(`path is ${typeof path}; it must be a string.`);
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
