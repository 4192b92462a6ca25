/** What a request resolves to. */

import { detach } from "../detach.ts";
import { ProtocolError, RemoteError } from "../errors.ts";
import type { Head } from "./codec.ts";
import type { HeaderList } from "./headers.ts";
import { BodyReader, type ChunkOptions, type Chunks } from "./body-reader.ts";

/** Strings before the headers of a response: its content type. */
export const RESPONSE_STRINGS = 1;

const decoder = new TextDecoder();

/** What both kinds of a worker's answer have; what is not read is not decoded. */
abstract class ResponseHead {
  /** HTTP status, 200-599. */
  readonly status: number;
  /** Process id of the worker that answered. */
  readonly workerPid: number;
  readonly #head: Head;

  /** @internal */
  constructor(status: number, workerPid: number, head: Head) {
    this.status = status;
    this.workerPid = workerPid;
    this.#head = head;
  }

  /** Whether the status is 200-299. */
  get ok(): boolean {
    return this.status < 300;
  }

  /** Content type, or `""` when the worker gave none. */
  get contentType(): string {
    return this.#head.string(0);
  }

  /** Headers in the worker's order, duplicates kept; the content type is not among them. */
  get headers(): HeaderList {
    return this.#head.headers;
  }

  /** @internal */
  get head(): Head {
    return this.#head;
  }

  /** @internal The headers for which `isWanted` says so, with the content type. @throws {ProtocolError} for one that none can have. */
  toHeaders(isWanted: (name: string) => boolean = () => true): Headers {
    return this.#sound(() => {
      const headers = new Headers();
      for (const [name, value] of this.headers) if (isWanted(name)) headers.append(name, value);
      if (this.contentType) headers.set("content-type", this.contentType);
      return headers;
    });
  }

  /** @internal A WHATWG `Response` with this status and these headers, and with `body` unless the status has none. */
  respondWith(body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | null, headers: Headers): Response {
    const { status } = this;
    if (status === 200) return new Response(body, { headers }); // the most frequent one, and faster so
    const bodiless = status === 204 || status === 205 || status === 304;
    return this.#sound(() => new Response(bodiless ? null : body, { status, headers }));
  }

  #sound<T>(make: () => T): T {
    try {
      return make();
    } catch (cause) {
      const message = `worker pid ${this.workerPid} answered with a header that no Response can have.`;
      throw new ProtocolError(message, { cause, mayHaveExecuted: true });
    }
  }
}

/** A worker's answer. It is a private copy and stays valid. */
export class BusResponse extends ResponseHead {
  /** The body's bytes. */
  readonly body: Uint8Array;

  /** @internal */
  constructor(status: number, workerPid: number, head: Head, body: Uint8Array) {
    super(status, workerPid, head);
    this.body = body;
  }

  /** The body as UTF-8 text. */
  text(): string {
    return decoder.decode(this.body);
  }

  /** The body as JSON. Throws `SyntaxError` when it is not. */
  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }

  /** A WHATWG `Response` with the same content. Throws {@link ProtocolError} for a header that none can have. */
  toResponse(): Response {
    return this.respondWith(this.body as Uint8Array<ArrayBuffer>, this.toHeaders());
  }
}

/**
 * A response whose body streams. It is read once, by one of its methods; whoever wants nothing of it cancels it: its slot
 * is taken until then, or until the response is collected as garbage.
 *
 *     for await (const bytes of (await bus.stream({ path: "/tokens" })).chunks()) …
 */
export class StreamedResponse extends ResponseHead implements AsyncDisposable {
  /** A body that is whole gets its receiver when one is asked for. */
  #body: BodyReader | Uint8Array;

  /** @internal */
  constructor(status: number, workerPid: number, head: Head, body: BodyReader | Uint8Array) {
    super(status, workerPid, head);
    this.#body = body;
  }

  get #reader(): BodyReader {
    if (this.#body instanceof Uint8Array) this.#body = BodyReader.of(this.#body);
    return this.#body;
  }

  /** The bytes as they come, in pieces of at most 64 KiB or as large as `into`. Leaving the loop early cancels. */
  chunks(options?: ChunkOptions): Chunks {
    return this.#reader.chunks(options, this);
  }

  /** The bytes as a WHATWG stream. */
  stream(): ReadableStream<Uint8Array> {
    return this.#reader.stream(this);
  }

  /** All of the body, up to `limit` bytes (default: none). */
  bytes(limit = Infinity): Promise<Uint8Array> {
    return this.#reader.collect(limit, "response", this);
  }

  async text(): Promise<string> {
    return decoder.decode(await this.bytes());
  }

  async json<T = unknown>(): Promise<T> {
    return JSON.parse(await this.text()) as T;
  }

  /** Nobody wants the rest: the worker's source is told. Any number of times. */
  cancel(reason: unknown = new DOMException("the response was cancelled", "AbortError")): void {
    this.#reader.cancel(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cancel();
  }

  /** As of any response; what throws is cancelled. */
  override toHeaders(isWanted?: (name: string) => boolean): Headers {
    try {
      return super.toHeaders(isWanted);
    } catch (error) {
      this.cancel(error);
      throw error;
    }
  }

  /** A WHATWG `Response` with the same content, which streams. Throws {@link ProtocolError} as {@link BusResponse.toResponse}. */
  toResponse(): Response {
    return this.toResponseWith(this.toHeaders());
  }

  /** @internal The same with other headers; of a body that nobody wants (`isHead`) only what is there already. */
  toResponseWith(headers: Headers, isHead = false): Response {
    const whole = this.#body instanceof Uint8Array ? this.#body : this.#body.takeWhole();
    if (whole) return this.respondWith(whole as Uint8Array<ArrayBuffer>, headers);
    try {
      const response = this.respondWith(isHead ? null : this.stream(), headers);
      if (!response.body) this.cancel();
      return response;
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

  /** Ends the borrow: a view has length 0 from now on. Any number of times. */
  release(): void {
    const release = this.#release;
    this.#release = null;
    if (!release) return;
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
