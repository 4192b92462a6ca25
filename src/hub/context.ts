/** A request as a handler of a {@link HubWorker} sees it. */

import { type BodyReader, StreamedBody } from "../bus/body-reader.ts";
import type { HeaderList } from "../bus/headers.ts";
import { answerOf } from "../bus/fetch.ts";
import type { Answerable } from "../bus/answer.ts";
import type { WorkerRequest } from "../bus/request.ts";

/** Answers a request whose answer was deferred; see {@link HubRequest.defer}. */
export type HubDeferredAnswer = (answer: Answerable) => void;

/** Names of the parameters of one segment, of all segments. */
type NameOf<Segment> = Segment extends `:${infer Name}` | `{${infer Name}}` | `*${infer Name}`
  ? Exclude<Name, "">
  : never;
type NamesOf<Pattern> = Pattern extends `${infer Segment}/${infer Rest}`
  ? NameOf<Segment> | NamesOf<Rest>
  : NameOf<Pattern>;

/** Parameters of a pattern: `{ id: string }` of `"/users/:id"`. */
export type PathParams<Pattern extends string> = string extends Pattern
  ? Readonly<Record<string, string>>
  : { readonly [Name in NamesOf<Pattern>]: string };

/**
 * What a handler of a hub's worker gets: the client's request, with the parameters of its route. A body that streams can be read only
 * until the request is answered (of a streamed answer: until its end); a later read rejects with an `AbortError`.
 */
export class HubRequest<Pattern extends string = string> extends StreamedBody {
  /** The request of the bus: `borrow`, `reserve`, `respond`. */
  readonly raw: WorkerRequest;
  #query: URLSearchParams | null = null;

  /** @internal */
  constructor(raw: WorkerRequest) {
    super();
    this.raw = raw;
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
  get params(): PathParams<Pattern> {
    return this.raw.params as PathParams<Pattern>;
  }

  get query(): URLSearchParams {
    this.#query ??= new URLSearchParams(this.raw.query);
    return this.#query;
  }

  get headers(): HeaderList {
    return this.raw.headers;
  }

  /** Aborts when the client has gone, or the time for the answer is over. */
  get signal(): AbortSignal {
    return this.raw.signal;
  }

  protected get reader(): BodyReader {
    return this.raw.reader;
  }

  /**
   * Returns the function that answers at any later time, with anything that a handler may return. A handler that has called this
   * may return nothing. The first answer counts; one that cannot be sent fails as a returned one does: the client gets 500, and
   * `handlerError` tells why. Keep the function: when it is collected as garbage without an answer, the client gets 500
   * (`NO_ANSWER`).
   *
   *     const answer = request.defer();
   *     queue.push({ id: request.params["id"], done: (order) => answer({ json: order }) });
   */
  defer(): HubDeferredAnswer {
    const { raw } = this;
    raw.defer();
    let isAnswered = false; // a `Response` is sent later than it is given
    return (answer) => {
      if (!isAnswered) void send(raw, answer);
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
