/** From the connection of a streamed body to its reader. */

import { nextTurn } from "../clock.ts";
import { InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import { TURN_STEPS, type Turns } from "./turns.ts";

/** A streamed body as it comes from the other side, as a connection gives it. Nothing of it calls user code. */
export interface Incoming {
  /** Called when bytes came, or the end. */
  onMoved: (() => void) | null;
  /** How the stream ended, once there is nothing left to {@link read}: an error follows as {@link errorHead}. */
  readonly end: "open" | "end" | "error";
  /**
   * The next bytes, at most 64 KiB: a copy of their own, or in `into`, as a view of its beginning. The other side gets credit for
   * them with the next call. `null`: none are here.
   */
  read(into: Uint8Array | null): Uint8Array | null;
  /** What follows a stream that failed; `null` when it did not. Asked for once, after the last {@link read}. */
  errorHead(): Uint8Array | null;
}

/** How the bytes of a stream are handed out. */
export interface ChunkOptions {
  /**
   * Where each piece is put, as a view of its beginning that the next one overwrites: nothing is allocated, which is
   * several times faster. Default: each piece is memory of its own and may be kept.
   */
  into?: Uint8Array | null;
}

type Step = IteratorResult<Uint8Array, undefined>;
const END: Step = { done: true, value: undefined };

/** Whoever drops a stream without a word wants no more of it. */
const readers = new FinalizationRegistry<BodyReader>((receiver) => {
  receiver.cancel(new DOMException("nobody was left to read the stream", "AbortError"));
});

/** Hands a streamed body out, to one reader. */
export class BodyReader {
  #incoming: Incoming | null;
  /** Copied out when the slot was let go. */
  #rest: Uint8Array[] = [];
  #ended = false;
  #failure: { error: unknown } | null = null;
  readonly #turns: Turns | null;
  /** Pieces handed out without having waited. */
  #steps = 0;
  /** Where the next bytes go; `null`: into memory of their own. */
  #into: Uint8Array | null = null;
  #waiter: (PromiseWithResolvers<Step> & { reader: object }) | null = null;
  /** The reader wants no more: called once, unless the stream had ended. */
  #onCancel: ((reason: unknown) => void) | null;
  /** Bytes handed out so far. */
  bytes = 0;

  constructor(incoming: Incoming | null, turns: Turns | null, onCancel: ((reason: unknown) => void) | null) {
    this.#incoming = incoming;
    this.#turns = turns;
    if (incoming) incoming.onMoved = () => this.moved();
    this.#onCancel = onCancel;
  }

  /** Of a body that is whole. */
  static of(body: Uint8Array): BodyReader {
    const receiver = new BodyReader(null, null, null);
    receiver.#ended = true;
    if (body.length > 0) receiver.#rest.push(body);
    return receiver;
  }

  /** Cancels the stream when `reader` is collected as garbage. What {@link chunks} and {@link stream} return keeps it alive. */
  readBy(reader: object): void {
    if (!this.#ended) readers.register(reader, this, reader);
  }

  /** Bytes may still come. */
  get isOpen(): boolean {
    return this.#incoming !== null && !this.#ended;
  }

  /** The whole body, when it was there from the start and nothing of it was read; then it is read. */
  takeWhole(): Uint8Array | null {
    if (!this.#ended || this.#failure || this.bytes > 0 || this.#rest.length > 1) return null;
    return this.#rest.pop() ?? new Uint8Array(0);
  }

  /** Bytes came, or the end. */
  moved(): void {
    const waiter = this.#waiter;
    if (!waiter) return;
    const chunk = this.#take();
    if (this.#waiter !== waiter || (!chunk && !this.#ended)) return; // a look at counts that cannot be ended it
    this.#waiter = null;
    waiter.resolve(chunk ? { done: false, value: chunk } : END);
  }

  /** No bytes come any more: what the ring holds is copied out, so the slot may be let go. Then `failure`, if any. */
  end(failure: () => { error: unknown } | null): void {
    if (!this.#incoming) return;
    const into = this.#into;
    this.#into = null; // it holds the bytes that are read just now
    for (let chunk = this.#take(); chunk; chunk = this.#take()) this.#rest.push(chunk);
    this.#into = into;
    this.#finish(this.#ended ? null : failure());
  }

  /** It is over, and what is unread in the ring is dropped. Nothing, when it had ended. */
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

  /** Nobody reads any more. */
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

  /** The next bytes, as a copy of their own, or in `into`. While it waits, `reader` is kept alive. */
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

  /** All of it. Rejects with {@link PayloadTooLargeError} above `limit` bytes. */
  async collect(limit: number, what: "request" | "response", reader: object = this): Promise<Uint8Array> {
    readers.unregister(reader);
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for (let step = await this.next(); !step.done; step = await this.next()) {
      bytes += step.value.length;
      if (bytes > limit) {
        const error = new PayloadTooLargeError(what, bytes, limit, what === "response");
        this.cancel(error);
        throw error;
      }
      chunks.push(step.value);
    }
    if (chunks.length === 1) return chunks[0]!;
    const whole = new Uint8Array(bytes); // not a Buffer, whose `slice` is a view
    let at = 0;
    for (const chunk of chunks) {
      whole.set(chunk, at);
      at += chunk.length;
    }
    return whole;
  }

  /** For one `for await`. Leaving it early cancels. */
  chunks({ into = null }: ChunkOptions = {}, reader: object = this): Chunks {
    if (into?.length === 0) throw new InvalidConfigError("`into` has no bytes; it must have room for one at least.");
    return new Chunks(this, into, reader);
  }

  /** The reader wants no more, if there is more. */
  leave(): void {
    if (!this.#ended) this.cancel(new DOMException("the reader left the stream", "AbortError"));
  }

  /** As a WHATWG stream of bytes; reads ahead of its reader by nothing. */
  stream(reader: object = this): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          const step = await this.next(null, reader);
          if (!step.done) return controller.enqueue(step.value);
          controller.close();
        },
        cancel: (reason) => this.cancel(reason),
      },
      { highWaterMark: 0 },
    );
  }

  /** Takes what is there. */
  #take(): Uint8Array | null {
    const incoming = this.#incoming;
    if (!incoming || this.#ended) return null;
    const chunk = incoming.read(this.#into);
    if (chunk) this.bytes += chunk.length;
    else if (incoming.end === "end") this.#ended = true;
    return chunk;
  }

  /** Of what was copied out when the slot was let go. */
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

/** The pieces of a stream, for one `for await`: leaving it early cancels the stream. An error is told once. */
export class Chunks implements AsyncIterableIterator<Uint8Array, undefined>, AsyncDisposable {
  readonly #receiver: BodyReader;
  readonly #into: Uint8Array | null;
  /** Kept alive as long as this is; see {@link BodyReader.readBy}. */
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

  /** Nobody wants the rest. */
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
