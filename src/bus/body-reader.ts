/** Hands a streamed body from its connection to user code. */

import { utf8 } from "../body.ts";
import { nextTurn } from "../clock.ts";
import { PayloadTooLargeError } from "../errors.ts";
import { type Given, Options, optional, refuse, row } from "../options.ts";
import type { MessageKind } from "./codec.ts";
import { TURN_STEPS, type Turns } from "./turns.ts";

/** A streamed body that comes from the other side: how a connection gives it. It never calls user code. */
export interface Incoming {
  /** Called when bytes or the end came. */
  onMoved: (() => void) | null;
  /** How the stream ended, known when {@link read} has returned `null`. "error": {@link errorHead} has the error. */
  readonly end: "open" | "end" | "error";
  /**
   * The next bytes, at most 64 KiB: a copy, or, with `into`, a view of its beginning. The other side gets the room back with the next
   * call. `null`: no bytes are here.
   */
  read(into: Uint8Array | null): Uint8Array | null;
  /** The encoded error of a stream that failed; `null` when it did not. Called once, after the last {@link read}. */
  errorHead(): Uint8Array | null;
}

const chunkRows = {
  /**
   * Buffer for each piece, which is a view of its beginning; the next piece overwrites it. Nothing is allocated, which is several
   * times faster. Without it each piece is memory of its own and may be kept.
   */
  into: optional(
    row<Uint8Array>(undefined, "a buffer", (given, name) =>
      given instanceof Uint8Array && given.length > 0
        ? given
        : refuse(name, given, "a Uint8Array with room for a byte"),
    ),
  ),
};

/** Options of `chunks`. */
export const chunkOptions = new Options("chunks", chunkRows);

/** How the bytes of a stream are handed out. */
export interface ChunkOptions extends Given<typeof chunkRows> {}

type Step = IteratorResult<Uint8Array, undefined>;
const END: Step = { done: true, value: undefined };

/** A stream whose reader is collected as garbage is cancelled. */
const readers = new FinalizationRegistry<BodyReader>((receiver) => {
  receiver.cancel(new DOMException("nobody was left to read the stream", "AbortError"));
});

/** Hands a streamed body to one reader. */
export class BodyReader {
  #incoming: Incoming | null;
  /** Pieces that were copied out when the slot was released. */
  #rest: Uint8Array[] = [];
  #ended = false;
  #failure: { error: unknown } | null = null;
  readonly #turns: Turns | null;
  /** Pieces handed out since the last wait. */
  #steps = 0;
  /** Where the next bytes go; `null`: into memory of their own. */
  #into: Uint8Array | null = null;
  #waiter: (PromiseWithResolvers<Step> & { reader: object }) | null = null;
  /** Called once when the reader wants no more, unless the stream had ended. */
  #onCancel: ((reason: unknown) => void) | null;
  /** The whole body, once it was asked for. */
  #whole: Promise<Uint8Array> | null = null;
  readonly #kind: MessageKind;
  /** Bytes handed out so far. */
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

  /** A reader of a body that is whole. */
  static of(kind: MessageKind, body: Uint8Array): BodyReader {
    const receiver = new BodyReader(kind, null, null, null);
    receiver.#ended = true;
    if (body.length > 0) receiver.#rest.push(body);
    return receiver;
  }

  /** Cancels the stream when `reader` is collected as garbage. What {@link StreamedBody} hands out keeps it alive. */
  readBy(reader: object): void {
    if (!this.#ended) readers.register(reader, this, reader);
  }

  /** Whether bytes may still come. */
  get isOpen(): boolean {
    return this.#incoming !== null && !this.#ended;
  }

  /** Takes the whole body, if it was there from the start and nothing was read; `null` otherwise. */
  takeWhole(): Uint8Array | null {
    if (!this.#ended || this.#failure || this.bytes > 0 || this.#rest.length > 1) return null;
    return this.#rest.pop() ?? new Uint8Array(0);
  }

  /** Bytes or the end came. */
  moved(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    const chunk = this.#take();
    if (this.#waiter !== waiter || (!chunk && !this.#ended)) return; // a look at counts that cannot be ended it
    this.#waiter = null;
    waiter.resolve(chunk ? { done: false, value: chunk } : END);
  }

  /** No more bytes come: copies out what is there, so that the slot can be released. The reader gets it, then `failure`. */
  end(failure: () => { error: unknown } | null): void {
    if (!this.#incoming) return;
    const into = this.#into;
    this.#into = null; // it holds the bytes that are read just now
    for (let chunk = this.#take(); chunk; chunk = this.#take()) this.#rest.push(chunk);
    this.#into = into;
    this.#finish(this.#ended ? null : failure());
  }

  /** Fails the stream and drops what is unread. Does nothing when the stream had ended. */
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

  /** The reader wants no more: drops what is unread and tells the other side, if the stream has not ended. */
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

  /** The next piece: a copy, or, with `into`, a view of its beginning. Keeps `reader` alive while it waits. */
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

  /** Resolves to the whole body, the same one each time. Rejects with {@link PayloadTooLargeError} above `limit` bytes. */
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
    return chunks.length === 1 ? chunks[0]! : Bun.concatArrayBuffers(chunks, Infinity, true);
  }

  /** Cancels the stream, unless it has ended. */
  leave(): void {
    if (!this.#ended) this.cancel(new DOMException("the reader left the stream", "AbortError"));
  }

  /** Takes the bytes that are there. */
  #take(): Uint8Array | null {
    const incoming = this.#incoming;
    if (!incoming || this.#ended) return null;
    const chunk = incoming.read(this.#into);
    if (chunk) this.bytes += chunk.length;
    else if (incoming.end === "end") this.#ended = true;
    return chunk;
  }

  /** The next piece of what was copied out when the slot was released. */
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

/** The pieces of a stream, for one `for await`: leaving the loop early cancels the stream. An error is thrown once. */
export class Chunks implements AsyncIterableIterator<Uint8Array, undefined>, AsyncDisposable {
  readonly #receiver: BodyReader;
  readonly #into: Uint8Array | null;
  /** Lives as long as this object: see {@link BodyReader.readBy}. */
  readonly #reader: object;

  /** @internal */
  constructor(receiver: BodyReader, into: Uint8Array | null, reader: object) {
    this.#receiver = receiver;
    this.#into = into;
    this.#reader = reader;
  }

  /** The next piece, at most 64 KiB or as large as `into`. */
  next(): Promise<Step> {
    return this.#receiver.next(this.#into, this.#reader);
  }

  /** Cancels the rest. */
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
 * A body that may stream. `bytes`, `text` and `json` read all of it and may be called any number of times; `chunks` and `stream` read
 * a body that streams once, as it comes.
 */
export abstract class StreamedBody {
  /** @internal */
  protected abstract readonly reader: BodyReader;

  /**
   * The body as it comes, in pieces of at most 64 KiB or as large as `into`; a body that is whole is one piece. Leaving the loop early
   * cancels the rest.
   */
  chunks(options: ChunkOptions = {}): Chunks {
    return new Chunks(this.reader, chunkOptions.resolve(options).into, this);
  }

  /** The body as a WHATWG stream, which reads nothing ahead. */
  stream(): ReadableStream<Uint8Array> {
    return this.streamWith((error) => error);
  }

  /** The same; a body that fails ends with what `failure` makes of its error. */
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

  /** Resolves to the body: a plain `Uint8Array` that is yours. Rejects with {@link PayloadTooLargeError} above `limit` bytes. */
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
