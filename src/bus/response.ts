/** The response of a worker, as the caller gets it. */

import { WholeBody } from "../body.ts";
import { detach } from "../detach.ts";
import { SlotbusError, RemoteError } from "../errors.ts";
import { bodyReleased } from "../errors/plain.ts";
import { BodyReader, StreamedBody } from "./body-reader.ts";
import type { Head } from "./head.ts";
import type { HeaderList } from "./headers.ts";

/** Number of strings before the headers of a response: the content type. */
export const RESPONSE_STRINGS = 1;

/** Status and headers, which all kinds of responses have. */
interface ResponseHead {
  /** HTTP status, 200-599. */
  readonly status: number;
  /** Process id of the worker that responded. */
  readonly workerPid: number;
  /** Whether the status is 200-299. */
  readonly ok: boolean;
  /** Content type; `""` if the worker set none. */
  readonly contentType: string;
  /** Headers in the order of the worker, with duplicates, without the content type. */
  readonly headers: HeaderList;
}

/** Returns the headers for which `isWanted` returns `true`, and the content type. @throws `PROTOCOL` for an invalid header. */
function headersOf(response: ResponseHead, isWanted?: (name: string) => boolean): Headers {
  return sound(response, () => {
    const headers = response.headers.toHeaders(isWanted);
    if (response.contentType) headers.set("content-type", response.contentType);
    return headers;
  });
}

/** Returns a WHATWG `Response` with the status of `response`, with `headers`, and with `body` unless the status forbids a body. */
function webResponse(
  response: ResponseHead,
  body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | null,
  headers: Headers,
): Response {
  const { status } = response;
  if (status === 200) return new Response(body, { headers }); // the most frequent case, faster without a status
  const bodiless = status === 204 || status === 205 || status === 304;
  return sound(response, () => new Response(bodiless ? null : body, { status, headers }));
}

/** Returns an empty body of unknown length: for a body that is known to be empty, Bun would send `content-length: 0`. */
function unknownLength(): ReadableStream<Uint8Array> {
  return new ReadableStream({ pull: (controller) => controller.close() }, { highWaterMark: 0 });
}

function sound<T>({ workerPid }: ResponseHead, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    const message = `Worker pid ${workerPid} sent a header that is not valid in a Response.`;
    throw new SlotbusError("PROTOCOL", message, { cause, mayHaveExecuted: true });
  }
}

/** A response in your own memory, which stays valid. */
export class BusResponse extends WholeBody implements ResponseHead {
  readonly status: number;
  readonly workerPid: number;
  readonly body: Uint8Array;
  readonly #head: Head;

  /** @internal */
  constructor(status: number, workerPid: number, head: Head, body: Uint8Array) {
    super();
    this.status = status;
    this.workerPid = workerPid;
    this.#head = head;
    this.body = body;
  }

  get ok(): boolean {
    return this.status < 300;
  }

  get contentType(): string {
    return this.#head.string(0);
  }

  get headers(): HeaderList {
    return this.#head.headers;
  }

  /** Returns a WHATWG `Response` with the same content. @throws `PROTOCOL` for an invalid header. */
  toResponse(): Response {
    return webResponse(this, this.body as Uint8Array<ArrayBuffer>, headersOf(this));
  }
}

/**
 * A response whose body streams. It occupies its slot until the body is read, cancelled, or garbage-collected with the response.
 *
 *     for await (const bytes of (await bus.stream({ path: "/tokens" })).chunks()) …
 */
export class StreamedResponse extends StreamedBody implements ResponseHead, AsyncDisposable {
  readonly status: number;
  readonly workerPid: number;
  /** @internal */
  readonly head: Head;
  /** Reader of a body that streams, or the bytes of a body that does not. */
  #body: BodyReader | Uint8Array;

  /** @internal */
  constructor(status: number, workerPid: number, head: Head, body: BodyReader | Uint8Array) {
    super();
    this.status = status;
    this.workerPid = workerPid;
    this.head = head;
    this.#body = body;
  }

  get ok(): boolean {
    return this.status < 300;
  }

  get contentType(): string {
    return this.head.string(0);
  }

  get headers(): HeaderList {
    return this.head.headers;
  }

  /** @internal Size of a body that does not stream; `null` for a body that streams. */
  get wholeBytes(): number | null {
    return this.#body instanceof Uint8Array ? this.#body.length : null;
  }

  protected get reader(): BodyReader {
    if (this.#body instanceof Uint8Array) this.#body = BodyReader.of("response", this.#body);
    return this.#body;
  }

  /** Cancels the rest of the body and closes the worker's source. May be called any number of times. */
  cancel(reason: unknown = new DOMException("The response was cancelled.", "AbortError")): void {
    this.reader.cancel(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cancel();
  }

  /** @internal As {@link headersOf}; cancels the response if that throws. */
  toHeaders(isWanted?: (name: string) => boolean): Headers {
    return this.#orCancel(() => headersOf(this, isWanted));
  }

  /** Returns a WHATWG `Response` with the same content, which streams. @throws `PROTOCOL` for an invalid header. */
  toResponse(): Response {
    return this.toResponseWith(this.toHeaders());
  }

  /**
   * @internal As {@link toResponse}, with other headers. `isHead`: without the body, only with its length if that is known.
   * `isServed`: for a server, the body fails without an error: Bun's server cuts the connection in any case, and would print the
   * error.
   */
  toResponseWith(headers: Headers, isHead = false, isServed = false): Response {
    const whole = this.#body instanceof Uint8Array ? this.#body : this.#body.takeWhole();
    if (whole && (!isHead || whole.length > 0)) return webResponse(this, whole as Uint8Array<ArrayBuffer>, headers);
    const empty = (): ReadableStream<Uint8Array> | null => (headers.has("content-length") ? null : unknownLength());
    const stream = (): ReadableStream<Uint8Array> => (isServed ? this.streamWith(() => undefined) : this.stream());
    const response = this.#orCancel(() => webResponse(this, isHead ? empty() : stream(), headers));
    if (!whole && (isHead || !response.body)) this.cancel();
    return response;
  }

  #orCancel<T>(make: () => T): T {
    try {
      return make();
    } catch (error) {
      this.cancel(error);
      throw error;
    }
  }
}

/**
 * A response whose body is a view of shared memory, without a copy. It occupies the worker's slot until you release it. A
 * forgotten response is released when it, its body and each view of the body have been garbage-collected, which may be late;
 * `stats().borrowsForgotten` counts these. Use it only with workers you trust: a malicious worker can change the bytes while you
 * read them. The body of a streamed response is a copy in your own memory, which {@link release} does not affect.
 *
 *     using response = await bus.borrow({ path: "/big" });
 */
export class BorrowedResponse extends BusResponse implements Disposable {
  #release: ((held: boolean) => void) | null;
  #isReleased = false;

  /** @internal `release` is `null` for a body in the caller's own memory. */
  constructor(
    status: number,
    workerPid: number,
    head: Head,
    body: Uint8Array,
    release: ((held: boolean) => void) | null,
  ) {
    super(status, workerPid, head, body);
    this.#release = release;
  }

  /** Returns a copy of the body in your own memory. @throws `BODY_RELEASED` */
  override bytes(): Uint8Array {
    this.#check();
    return this.body.slice();
  }

  /** Returns the body as UTF-8 text. @throws `BODY_RELEASED` */
  override text(): string {
    this.#check();
    return super.text();
  }

  /** Returns a WHATWG `Response` with the same content. @throws `BODY_RELEASED`, `PROTOCOL` for an invalid header. */
  override toResponse(): Response {
    this.#check();
    return super.toResponse();
  }

  #check(): void {
    if (this.#isReleased) throw bodyReleased("The response body");
  }

  /** Ends the borrow: `body` has length 0 from now on, and reading it throws `BODY_RELEASED`. May be called any number of times. */
  release(): void {
    const release = this.#release;
    this.#release = null;
    if (!release) return;
    this.#isReleased = true;
    release(!detach(this.body.buffer as ArrayBuffer));
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** Number of strings of an error response. */
export const ERROR_STRINGS = 4;

/** Returns the error with which a worker responded. */
export function remoteError(head: Head): RemoteError {
  const [code = "", name = "", message = "", stack = ""] = head.strings(0, head.count);
  return new RemoteError({ code, name, message, stack });
}
