/** A request as a handler of a {@link HubWorker} sees it. */

import { type BodyReader, StreamedBody } from "../bus/body-reader.ts";
import type { HeaderList } from "../bus/headers.ts";
import { answerOf } from "../bus/fetch.ts";
import type { Answerable } from "../bus/answer.ts";
import type { WorkerRequest } from "../bus/request.ts";

/** Sends a deferred response; see {@link HubRequest.defer}. */
export type HubDeferredAnswer = (answer: Answerable) => void;

/** Parameter names of one segment, and of all segments. */
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
 * The client's request with the parameters of its route, as a handler gets it. A streamed body can be read only until the
 * response has been sent completely; a later read rejects with an `AbortError`.
 */
export class HubRequest<Pattern extends string = string> extends StreamedBody {
  /** The underlying request of the bus, with `borrow`, `reserve` and `respond`. */
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

  /** Path as the client sent it, percent-encoded. */
  get path(): string {
    return this.raw.path;
  }

  /** Pattern of the matching route. */
  get pattern(): string {
    return this.raw.pattern;
  }

  /** Value of the header `x-request-id`, or an id that the hub generated. */
  get id(): string {
    return this.raw.id;
  }

  /** W3C trace context of the client or of the hub's own span; `null` if missing or malformed. */
  get traceparent(): string | null {
    return this.raw.traceparent;
  }

  /** Parameters of the path, percent-decoded. */
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

  /** Aborted when the client disconnects or the time for the response has passed. */
  get signal(): AbortSignal {
    return this.raw.signal;
  }

  protected get reader(): BodyReader {
    return this.raw.reader;
  }

  /**
   * Returns a function that sends the response later. It accepts anything that a handler may return; the handler itself may
   * then return nothing. Only the first call counts. If the response cannot be sent, the client gets 500 and `handlerError` is
   * emitted, as for a returned response. Keep a reference to the function: if it is garbage-collected before it was called, the
   * client gets 500 (`NO_ANSWER`).
   *
   *     const answer = request.defer();
   *     queue.push({ id: request.params["id"], done: (order) => answer({ json: order }) });
   */
  defer(): HubDeferredAnswer {
    const { raw } = this;
    raw.defer();
    let isAnswered = false; // a `Response` is sent after this call returns
    return (answer) => {
      if (!isAnswered) void send(raw, answer);
      isAnswered = true;
    };
  }
}

/** Sends a deferred response. A `Response` object is converted first, as if the handler had returned it. */
async function send(raw: WorkerRequest, answer: Answerable): Promise<void> {
  try {
    raw.respond(answer instanceof Response ? await answerOf(answer, raw) : answer);
  } catch (error) {
    raw.fail(error);
  }
}
