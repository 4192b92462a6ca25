/** A request as a handler of a {@link HubWorker} sees it. */

import type { HeaderList } from "../bus/headers.ts";
import type { WorkerRequest } from "../bus/request.ts";

/** What a handler of a hub's worker gets: the client's request, with the parameters of its route. */
export class HubRequest<State = unknown> {
  /** As given to the worker. */
  readonly state: State;
  /** The request of the bus: streams, `borrow`, `reserve`, `respond`, `defer`. */
  readonly raw: WorkerRequest;
  #query: URLSearchParams | null = null;

  /** @internal */
  constructor(raw: WorkerRequest, state: State) {
    this.raw = raw;
    this.state = state;
  }

  get method(): string {
    return this.raw.method;
  }

  /** As the client sent it, percent-encoded. */
  get path(): string {
    return this.raw.path;
  }

  /** Pattern of the route. */
  get pattern(): string {
    return this.raw.pattern;
  }

  /** Of the header `x-request-id`, or the hub's. */
  get id(): string {
    return this.raw.id;
  }

  /** W3C trace context of the client, or of the hub's own span; `null`: none, or malformed. */
  get traceparent(): string | null {
    return this.raw.traceparent;
  }

  /** Decoded. */
  get params(): Readonly<Record<string, string>> {
    return this.raw.params;
  }

  get query(): URLSearchParams {
    this.#query ??= new URLSearchParams(this.raw.query);
    return this.#query;
  }

  get headers(): HeaderList {
    return this.raw.headers;
  }

  /** A body that does not stream, a copy to keep; up to 256 KiB none does. See {@link bytes}. */
  get body(): Uint8Array {
    return this.raw.body;
  }

  /** Aborts when the client has gone, or the time for the answer is over. */
  get signal(): AbortSignal {
    return this.raw.signal;
  }

  /** All of the body, however it comes. */
  bytes(limit?: number): Promise<Uint8Array> {
    return this.raw.bytes(limit);
  }

  async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  /** Rejects with `SyntaxError` when it is no JSON. */
  async json<T = unknown>(): Promise<T> {
    return JSON.parse(await this.text()) as T;
  }
}
