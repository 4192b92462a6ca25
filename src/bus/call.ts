/** A request as its caller makes it, and the strings of its head. */

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
  /** What is asked for, as the handler will see it: `"/users/7"`. */
  path: string;
  /** Route pattern that a router found: `"/users/:id"`. */
  pattern?: string;
  /** Path parameters that a router found. */
  params?: Readonly<Record<string, string>>;
  /** Query without its `?`. */
  query?: string | URLSearchParams;
  headers?: HeadersLike;
  /**
   * Bytes or text, not copied before it is sent: leave it unchanged until the request settles. Or a source of bytes or
   * text of any length, which is asked for more as its handler reads. A request that fails ends its source, also one that
   * was not sent: give a new one to the next try.
   */
  body?: BodyLike | StreamSource;
  /** A value sent as JSON in place of `body`. */
  json?: unknown;
  /** Seen by the handler, in errors and diagnostics. Default: generated. */
  id?: string;
}

/** Limits of one request, and whether it may run twice. */
export interface RequestOptions {
  /** Of `SlotBus.stream`: in ms, from the head of the answer to its end. Default: none. */
  deadline?: number;
  /** Of `SlotBus.stream`: in ms, how long nothing may move, for lack of bytes or of a reader. Default: none. */
  idle?: number;
  /** In ms, from the call to the answer; `Infinity` for none. Default: the bus's `timeout`. */
  timeout?: number;
  /** Rejects with `signal.reason`; the handler's `request.signal` aborts too. */
  signal?: AbortSignal;
  /**
   * @internal In place of `signal`, for one that costs more than a request: asked for by the first tick that finds no
   * answer. Gives the same one each time.
   */
  lateSignal?: () => AbortSignal;
  /** The request may run twice: if its worker dies it is sent once more, within the same timeout. */
  idempotent?: boolean;
  /** `false`: reject with NoWorkerError at once when no worker is attached. Default `true`: wait. */
  waitForWorker?: boolean;
  /**
   * Only to that worker, by its `id`. Such a request does not queue and is never given to another: NoWorkerError when that
   * worker is not attached, BusOverloadedError when it takes no more now.
   */
  worker?: number;
  /**
   * W3C trace context, sent as the header of that name in place of one among `headers`; the handler sees it as
   * `request.traceparent`. Default: that header, if there is one.
   */
  traceparent?: string;
}

/** What makes requests: a bus, as `fetch` and the clients of contracts see it. */
export interface Asker {
  readonly name: string;
  readonly options: { readonly payloadLimit: number; readonly timeout: number };
  request(request: BusRequest, options?: RequestOptions): Promise<BusResponse>;
  stream(request: BusRequest, options?: RequestOptions): Promise<StreamedResponse>;
}

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
