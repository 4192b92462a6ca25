/** What a request resolves to. */

import { WholeBody } from "../body.ts";
import { detach } from "../detach.ts";
import { SlotbusError, RemoteError } from "../errors.ts";
import { bodyReleased } from "../errors/plain.ts";
import { BodyReader, StreamedBody } from "./body-reader.ts";
import type { Head } from "./codec.ts";
import type { HeaderList } from "./headers.ts";

/** Strings before the headers of a response: its content type. */
export const RESPONSE_STRINGS = 1;

/** What both kinds of a worker's answer have. */
interface ResponseHead {
  /** HTTP status, 200-599. */
  readonly status: number;
  /** Process id of the worker that answered. */
  readonly workerPid: number;
  /** Whether the status is 200-299. */
  readonly ok: boolean;
  /** Content type, or `""` when the worker gave none. */
  readonly contentType: string;
  /** Headers in the worker's order, duplicates kept; the content type is not among them. */
  readonly headers: HeaderList;
}

/** The headers for which `isWanted` says so, with the content type. @throws `PROTOCOL` for a header that none can have. */
function headersOf(response: ResponseHead, isWanted?: (name: string) => boolean): Headers {
  return sound(response, () => {
    const headers = response.headers.toHeaders(isWanted);
    if (response.contentType) headers.set("content-type", response.contentType);
    return headers;
  });
}

/** A WHATWG `Response` with the status of `response`, with `headers`, and with `body` unless the status has none. */
function webResponse(
  response: ResponseHead,
  body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | null,
  headers: Headers,
): Response {
  const { status } = response;
  if (status === 200) return new Response(body, { headers }); // the most frequent one, and faster so
  const bodiless = status === 204 || status === 205 || status === 304;
  return sound(response, () => new Response(bodiless ? null : body, { status, headers }));
}

/** A body that is empty when it is read: Bun says `content-length: 0` of one that is empty before. */
function unknownLength(): ReadableStream<Uint8Array> {
  return new ReadableStream({ pull: (controller) => controller.close() }, { highWaterMark: 0 });
}

function sound<T>({ workerPid }: ResponseHead, make: () => T): T {
  try {
    return make();
  } catch (cause) {
    const message = `worker pid ${workerPid} answered with a header that no Response can have.`;
    throw new SlotbusError("PROTOCOL", message, { cause, mayHaveExecuted: true });
  }
}

/** A worker's answer. It is a private copy and stays valid. */
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

  /** Returns a WHATWG `Response` with the same content. @throws `PROTOCOL` for a header that none can have. */
  toResponse(): Response {
    return webResponse(this, this.body as Uint8Array<ArrayBuffer>, headersOf(this));
  }
}

/**
 * A response whose body streams. Its slot is taken until the body is read, cancelled, or collected as garbage with the response.
 *
 *     for await (const bytes of (await bus.stream({ path: "/tokens" })).chunks()) …
 */
export class StreamedResponse extends StreamedBody implements ResponseHead, AsyncDisposable {
  readonly status: number;
  readonly workerPid: number;
  /** @internal */
  readonly head: Head;
  /** A body that is whole gets its reader when one is asked for. */
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

  /** @internal Size of a body that is whole; `null` for one that streams. */
  get wholeBytes(): number | null {
    return this.#body instanceof Uint8Array ? this.#body.length : null;
  }

  protected get reader(): BodyReader {
    if (this.#body instanceof Uint8Array) this.#body = BodyReader.of("response", this.#body);
    return this.#body;
  }

  /** Cancels the rest of the body: the worker's source ends. May be called any number of times. */
  cancel(reason: unknown = new DOMException("the response was cancelled", "AbortError")): void {
    this.reader.cancel(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cancel();
  }

  /** @internal As {@link headersOf}; a response that throws is cancelled. */
  toHeaders(isWanted?: (name: string) => boolean): Headers {
    return this.#orCancel(() => headersOf(this, isWanted));
  }

  /** Returns a WHATWG `Response` with the same content, which streams. @throws `PROTOCOL` for a header that none can have. */
  toResponse(): Response {
    return this.toResponseWith(this.toHeaders());
  }

  /**
   * @internal The same with other headers; of a body that nobody wants (`isHead`) only the length, if it is known. For a server
   * (`isServed`) a body fails without an error: Bun's server cuts the connection either way, and prints each error.
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
 * A response whose body is a view of shared memory: no copy is made, and the worker's slot stays taken until it
 * is released. One that is forgotten is released when it, its body and each view of that have been collected as garbage,
 * which may be late; `stats().borrowsForgotten` counts these. For workers one trusts: a worker that breaks the rules can change
 * the bytes while they are read. An answer that streamed is no view: its pieces were put together in memory of the caller's own,
 * which {@link release} leaves alone.
 *
 *     using response = await bus.borrow({ path: "/big" });
 */
export class BorrowedResponse extends BusResponse implements Disposable {
  #release: ((held: boolean) => void) | null;
  #isReleased = false;

  /** @internal `release` is `null` for a body that is the caller's own. */
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

  /** Returns a copy of the body, which is yours to keep. @throws `BODY_RELEASED` */
  override bytes(): Uint8Array {
    this.#check();
    return this.body.slice();
  }

  /** Returns the body as UTF-8 text. @throws `BODY_RELEASED` */
  override text(): string {
    this.#check();
    return super.text();
  }

  /** As of a `BusResponse`. @throws `BODY_RELEASED`, `PROTOCOL` for a header that none can have. */
  override toResponse(): Response {
    this.#check();
    return super.toResponse();
  }

  #check(): void {
    if (this.#isReleased) throw bodyReleased("the response's body");
  }

  /** Ends the borrow: `body` has length 0 from now on, and reading it throws `BODY_RELEASED`. Any number of times. */
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

/** Strings of an error answer. */
export const ERROR_STRINGS = 4;

/** The error a worker answered with. */
export function remoteError(head: Head): RemoteError {
  const [code = "", name = "", message = "", stack = ""] = head.strings(0, head.count);
  return new RemoteError({ code, name, message, stack });
}
