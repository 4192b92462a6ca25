/** Passes a streamed body from its connection to user code. */

import { utf8 } from "../body.ts";
import { nextTurn } from "../clock.ts";
import { PayloadTooLargeError } from "../errors.ts";
import { type Given, Options, optional, refuse, row } from "../options.ts";
import { concat } from "../runtime.ts";
import type { MessageKind } from "./codec.ts";
import { TURN_STEPS, type Turns } from "./turns.ts";

/** A streamed body from the other process, as a connection provides it. Never calls user code. */
export interface Incoming {
  /** Called when bytes or the end of the stream arrived. */
  onMoved: (() => void) | null;
  /** How the stream ended. Valid once {@link read} has returned `null`. With "error", {@link errorHead} returns the error. */
  readonly end: "open" | "end" | "error";
  /**
   * Returns the next bytes, at most 64 KiB: a copy, or with `into` a view of its beginning. Returns `null` when no bytes are
   * available. The next call gives the room in the ring back to the writer.
   */
  read(into: Uint8Array | null): Uint8Array | null;
  /** Returns the encoded error of a failed stream; `null` if the stream did not fail. Called once, after the last {@link read}. */
  errorHead(): Uint8Array | null;
}

const chunkRows = {
  /**
   * Buffer into which each chunk is copied. A chunk is then a view of the beginning of the buffer, and the next chunk overwrites
   * it. Nothing is allocated, which is several times faster. Without `into`, each chunk has its own memory and may be kept.
   */
  into: optional(
    row<Uint8Array>(undefined, "a buffer", (given, name) =>
      given instanceof Uint8Array && given.length > 0 ? given : refuse(name, given, "a Uint8Array of at least 1 byte"),
    ),
  ),
};

/** Options of `chunks`. */
export const chunkOptions = new Options("chunks", chunkRows);

/** How `chunks` returns the bytes of a stream. */
export interface ChunkOptions extends Given<typeof chunkRows> {}

type Step = IteratorResult<Uint8Array, undefined>;
const END: Step = { done: true, value: undefined };

/** Cancels a stream whose reader was garbage-collected. */
const readers = new FinalizationRegistry<BodyReader>((receiver) => {
  receiver.cancel(new DOMException("The reader of the stream was garbage-collected.", "AbortError"));
});

/** Passes a streamed body to one reader. */
export class BodyReader {
  #incoming: Incoming | null;
  /** Chunks that were copied out of the ring when the slot was released. */
  #rest: Uint8Array[] = [];
  #ended = false;
  #failure: { error: unknown } | null = null;
  readonly #turns: Turns | null;
  /** Chunks returned since the last wait. */
  #steps = 0;
  /** Buffer for the next bytes; `null`: each chunk gets its own memory. */
  #into: Uint8Array | null = null;
  #waiter: (PromiseWithResolvers<Step> & { reader: object }) | null = null;
  /** Called once when the reader cancels a stream that has not ended. */
  #onCancel: ((reason: unknown) => void) | null;
  /** The whole body, once it has been requested. */
  #whole: Promise<Uint8Array> | null = null;
  readonly #kind: MessageKind;
  /** Bytes returned so far. */
  bytes = 0;

  constructor(
    kind: MessageKind,
    incoming: Incoming | null,
    turns: Turns | null,
    onCancel: ((reason: unknown) => void) | null,
  ) {
    this.#kind = kind;
    this.#incoming = incoming;
    this.#turns = turns;
    if (incoming) incoming.onMoved = () => this.moved();
    this.#onCancel = onCancel;
  }

  /** Returns a reader of a body that does not stream. */
  static of(kind: MessageKind, body: Uint8Array): BodyReader {
    const receiver = new BodyReader(kind, null, null, null);
    receiver.#ended = true;
    if (body.length > 0) receiver.#rest.push(body);
    return receiver;
  }

  /** Cancels the stream when `reader` is garbage-collected. The objects that {@link StreamedBody} returns keep `reader` alive. */
  readBy(reader: object): void {
    if (!this.#ended) readers.register(reader, this, reader);
  }

  /** Whether more bytes may arrive. */
  get isOpen(): boolean {
    return this.#incoming !== null && !this.#ended;
  }

  /** Takes the body if it did not stream and nothing was read; returns `null` otherwise. */
  takeWhole(): Uint8Array | null {
    if (!this.#ended || this.#failure || this.bytes > 0 || this.#rest.length > 1) return null;
    return this.#rest.pop() ?? new Uint8Array(0);
  }

  /** Called when bytes or the end of the stream arrived. */
  moved(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    const chunk = this.#take();
    if (this.#waiter !== waiter || (!chunk && !this.#ended)) return; // invalid counts in the ring may have ended the stream
    this.#waiter = null;
    waiter.resolve(chunk ? { done: false, value: chunk } : END);
  }

  /** Copies the remaining bytes out of the ring, so that the slot can be released. The reader gets these bytes, then `failure`. */
  end(failure: () => { error: unknown } | null): void {
    if (!this.#incoming) return;
    this.#keepRest();
    this.#finish(this.#ended ? null : failure());
  }

  /**
   * Like {@link end} for a stream whose slot was taken back before the other side had completed it. An end in the ring is not the
   * end of the body then: the other side also writes one when it notices that it may stop.
   */
  cut(error: unknown): void {
    if (!this.isOpen) return;
    this.#keepRest();
    this.#finish({ error });
  }

  #keepRest(): void {
    const into = this.#into;
    this.#into = null; // user code may still be using the bytes in it
    for (let chunk = this.#take(); chunk; chunk = this.#take()) this.#rest.push(chunk);
    this.#into = into;
  }

  /** Fails the stream and discards unread bytes. Does nothing if the stream has ended. */
  fail(error: unknown): void {
    if (this.isOpen) this.#finish({ error });
  }

  #finish(failure: { error: unknown } | null): void {
    this.#ended = true;
    this.#incoming = null;
    this.#onCancel = null;
    this.#failure = failure;
    const waiter = this.#waiter;
    this.#waiter = null;
    if (waiter) this.#next(this).then(waiter.resolve, waiter.reject);
  }

  /** Discards unread bytes and, if the stream has not ended, tells the other side that the reader cancelled it. */
  cancel(reason: unknown): void {
    const onCancel = this.#onCancel;
    this.#rest = [];
    this.#failure = null;
    this.#ended = true;
    this.#incoming = null;
    this.#onCancel = null;
    this.#waiter?.resolve(END);
    this.#waiter = null;
    onCancel?.(reason);
  }

  /** Resolves to the next chunk: a copy, or with `into` a view of its beginning. Keeps `reader` alive while it waits. */
  next(into: Uint8Array | null = null, reader: object = this): Promise<Step> {
    if (this.#waiter) {
      const again = (): Promise<Step> => this.next(into, reader);
      return this.#waiter.promise.then(again, again);
    }
    this.#into = into;
    if (this.#turns && this.#incoming && ++this.#steps >= TURN_STEPS) {
      this.#steps = 0;
      if (this.#turns.isOver) return nextTurn(this.#turns.clock).then(() => this.#next(reader));
    }
    return this.#next(reader);
  }

  #next(reader: object): Promise<Step> {
    const chunk = this.#rest.length > 0 ? this.#shift() : this.#take();
    if (chunk) return Promise.resolve({ done: false, value: chunk });
    const failure = this.#failure;
    this.#failure = null;
    if (failure) return Promise.reject(failure.error as Error);
    if (this.#ended) return Promise.resolve(END);
    this.#steps = 0;
    const { promise, resolve, reject } = Promise.withResolvers<Step>();
    this.#waiter = { promise, resolve, reject, reader };
    return promise;
  }

  /** Resolves to the whole body, the same object each time. Rejects with {@link PayloadTooLargeError} above `limit` bytes. */
  async collect(limit: number, reader: object = this): Promise<Uint8Array> {
    readers.unregister(reader);
    const whole = await (this.#whole ??= this.#collect(limit));
    if (whole.length > limit) throw this.#tooLarge(whole.length, limit);
    return whole;
  }

  #tooLarge(bytes: number, limit: number): PayloadTooLargeError {
    return new PayloadTooLargeError(this.#kind, bytes, limit, this.#kind === "response");
  }

  async #collect(limit: number): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for (let step = await this.next(); !step.done; step = await this.next()) {
      bytes += step.value.length;
      if (bytes > limit) {
        const error = this.#tooLarge(bytes, limit);
        this.cancel(error);
        throw error;
      }
      chunks.push(step.value);
    }
    return chunks.length === 1 ? chunks[0]! : concat(chunks);
  }

  /** Cancels the stream, unless it has ended. */
  leave(): void {
    if (!this.#ended) this.cancel(new DOMException("The reader cancelled the stream.", "AbortError"));
  }

  /** Takes the bytes that are available. */
  #take(): Uint8Array | null {
    const incoming = this.#incoming;
    if (!incoming || this.#ended) return null;
    const chunk = incoming.read(this.#into);
    if (chunk) this.bytes += chunk.length;
    else if (incoming.end === "end") this.#ended = true;
    return chunk;
  }

  /** Returns the next of the chunks that were copied out when the slot was released. */
  #shift(): Uint8Array {
    const chunk = this.#rest[0]!;
    const into = this.#into;
    if (!into) {
      this.#rest.shift();
      return chunk;
    }
    const length = Math.min(chunk.length, into.length);
    into.set(chunk.subarray(0, length));
    if (length < chunk.length) this.#rest[0] = chunk.subarray(length);
    else this.#rest.shift();
    return into.subarray(0, length);
  }
}

/** The chunks of a stream, for one `for await` loop. Leaving the loop early cancels the stream. An error is thrown once. */
export class Chunks implements AsyncIterableIterator<Uint8Array, undefined>, AsyncDisposable {
  readonly #receiver: BodyReader;
  readonly #into: Uint8Array | null;
  /** Kept alive by this object: see {@link BodyReader.readBy}. */
  readonly #reader: object;

  /** @internal */
  constructor(receiver: BodyReader, into: Uint8Array | null, reader: object) {
    this.#receiver = receiver;
    this.#into = into;
    this.#reader = reader;
  }

  /** Resolves to the next chunk, of at most 64 KiB or the size of `into`. */
  next(): Promise<Step> {
    return this.#receiver.next(this.#into, this.#reader);
  }

  /** Cancels the rest of the stream. */
  return(): Promise<Step> {
    this.#receiver.leave();
    return Promise.resolve(END);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#receiver.leave();
  }
}

/**
 * A body that may stream. `bytes`, `text` and `json` read the whole body and may be called any number of times. `chunks` and
 * `stream` return the bytes as they arrive; a body that streams can be read in this way only once.
 */
export abstract class StreamedBody {
  /** @internal */
  protected abstract readonly reader: BodyReader;

  /**
   * Returns the body as it arrives, in chunks of at most 64 KiB or the size of `into`. A body that does not stream is one chunk.
   * Leaving the loop early cancels the rest.
   */
  chunks(options?: ChunkOptions): Chunks {
    return new Chunks(this.reader, options === undefined ? null : chunkOptions.resolve(options).into, this);
  }

  /** Returns the body as a WHATWG stream, which reads nothing ahead. */
  stream(): ReadableStream<Uint8Array> {
    return this.streamWith((error) => error);
  }

  /** As {@link stream}; if the body fails, the stream fails with the result of `failure(error)`. */
  protected streamWith(failure: (error: unknown) => unknown): ReadableStream<Uint8Array> {
    const { reader } = this;
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          try {
            const step = await reader.next(null, this);
            if (!step.done) return controller.enqueue(step.value);
            controller.close();
          } catch (error) {
            throw failure(error);
          }
        },
        cancel: (reason) => reader.cancel(reason),
      },
      { highWaterMark: 0 },
    );
  }

  /** Resolves to the body, a `Uint8Array` in your own memory. Rejects with {@link PayloadTooLargeError} above `limit` bytes. */
  async bytes(limit = Infinity): Promise<Uint8Array> {
    return this.reader.collect(limit, this);
  }

  /** Resolves to the body as UTF-8 text; `limit` as of {@link bytes}. */
  async text(limit?: number): Promise<string> {
    return utf8.decode(await this.bytes(limit));
  }

  /** Resolves to the body as JSON; `limit` as of {@link bytes}. Rejects with `SyntaxError` when the body is not JSON. */
  async json<T = unknown>(limit?: number): Promise<T> {
    return JSON.parse(await this.text(limit)) as T;
  }
}
