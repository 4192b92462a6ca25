/** A request as a handler of a {@link HubWorker} sees it. */

import type { HeaderList } from "../bus/headers.ts";
import { answerOf } from "../bus/fetch.ts";
import type { Answerable } from "../bus/answer.ts";
import type { WorkerRequest } from "../bus/request.ts";
import { type HubAnswer, toAnswerable } from "./answer.ts";

/** Answers a request whose answer was deferred; see {@link HubRequest.defer}. */
export type HubDeferredAnswer = (answer: HubAnswer) => void;

/** What a handler of a hub's worker gets: the client's request, with the parameters of its route. */
export class HubRequest<State = unknown> {
  /** As given to the worker. */
  readonly state: State;
  /** The request of the bus: streams, `borrow`, `reserve`, `respond`. */
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

  /** A body that does not stream, a copy to keep; one of a declared length up to 256 KiB does not. See {@link bytes}. */
  get body(): Uint8Array {
    return this.raw.body;
  }

  /** Aborts when the client has gone, or the time for the answer is over. */
  get signal(): AbortSignal {
    return this.raw.signal;
  }

  /**
   * Resolves to all of the body, however it comes. A body that streams can be read only until the request is answered (of a
   * streamed answer: until its end); afterwards it rejects with an `AbortError`.
   */
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

  /**
   * Returns the function that answers at any later time, with anything that a handler may return. A handler that has called this
   * may return nothing. The first answer counts; one that cannot be sent fails as a returned one does: the client gets 500, and
   * `handlerError` tells why. Keep the function: when it is collected as garbage without an answer, the client gets 500
   * (`NO_ANSWER`).
   *
   *     const answer = request.defer();
   *     queue.push({ id: request.params["id"], done: (order) => answer(HandlerResponse.okJson(order)) });
   */
  defer(): HubDeferredAnswer {
    const { raw } = this;
    raw.defer();
    let isAnswered = false; // a `Response` is sent later than it is given
    return (answer) => {
      if (!isAnswered) void send(raw, toAnswerable(answer));
      isAnswered = true;
    };
  }
}

/** Sends a deferred answer. A `Response` is converted first, as one that a handler returns. */
async function send(raw: WorkerRequest, answer: Answerable): Promise<void> {
  try {
    raw.respond(answer instanceof Response ? await answerOf(answer, raw) : answer);
  } catch (error) {
    raw.fail(error);
  }
}
