/**
 * Streamed bodies. Each direction of a slot is a ring of bytes in shared memory: a {@link Sender} fills it from a source, a
 * {@link Receiver} empties it for a reader. Neither holds more than the ring, however long the stream is.
 */

import { nextTurn, systemClock } from "../clock.ts";
import { InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import { C, FIELDS } from "../native/library.ts";
import type { Arena } from "./codec.ts";

/**
 * Where the bytes of a stream come from: a generator may be synchronous. Text is sent as UTF-8; where one chunk ends and
 * the next begins is not kept.
 */
export type StreamSource =
  ReadableStream<Uint8Array | string> | AsyncIterable<Uint8Array | string> | IterableIterator<Uint8Array | string>;

/** Whether a body streams. */
export function isStreamSource(body: unknown): body is StreamSource {
  if (typeof body !== "object" || body === null) return false;
  return Symbol.asyncIterator in body || (Symbol.iterator in body && "next" in body);
}

const word = (name: keyof typeof FIELDS): number => FIELDS[name][0] / 4;
const READABLE = word("sb_look.readable");
const READ_AT = word("sb_look.read_at");
const ROOM = word("sb_look.room");
const WRITE_AT = word("sb_look.write_at");
const ENDED = word("sb_look.ended");
const ERROR_BYTES = word("sb_look.error_bytes");
const UNREAD = word("sb_look.unread");
const FREE = word("sb_look.free");

/** One side's access to the rings of a slot. */
export abstract class Channel {
  /** Where a ring begins in its arena, and its size in bytes. */
  readonly ringStart: number;
  readonly ringBytes: number;
  /** The arena that the other side writes, and the own one. */
  readonly incoming: Arena;
  readonly outgoing: Arena;
  /** What the last {@link move} saw; see `struct sb_look`. */
  readonly look: Uint32Array;
  /** Bytes of room that the sender waits for. Both directions share the line, so each {@link move} repeats it. */
  need = 0;

  constructor(headLimit: number, stride: number, incoming: Arena, outgoing: Arena, look: Uint32Array) {
    this.ringStart = headLimit;
    this.ringBytes = Math.min(C.SB_RING_MAX, stride - headLimit);
    this.incoming = incoming;
    this.outgoing = outgoing;
    this.look = look;
  }

  /** `sent` and `taken` bytes more; `need`: wait for so much room. `false`: the other side has let go of the slot. */
  abstract move(sent: number, taken: number, end: number, need: number): boolean;
}

// ---- turns ----------------------------------------------------------------------------------------------------------

/** So long streams that never have to wait may keep the event loop from its turn, in ms; */
const TURN_MS = 0.2;
/** after so many steps without a wait they look at the clock. */
const TURN_STEPS = 8;
let turnBegan = 0;

/** Whether the event loop is to have its turn now: timers, sockets and the other streams wait for it. */
function isTurnOver(): boolean {
  const now = performance.now();
  if (turnBegan === 0) {
    turnBegan = now;
    setImmediate(() => {
      turnBegan = 0;
    });
  }
  return now - turnBegan >= TURN_MS;
}

// ---- from a source into the ring ------------------------------------------------------------------------------------

/** So many bytes are told to the other side together, unless it has nothing left to read. */
const BATCH_BYTES = 8_192;
/** A writer that found no room goes on when there is so much, or what it has left. */
const ROOM_BYTES = 65_536;
const encoder = new TextEncoder();

/** How a source came to its end: all of it was sent, the other side wanted no more, or it failed. */
export type SendEnd = { how: "sent" } | { how: "stopped" } | { how: "failed"; error: unknown };

const SENT: SendEnd = { how: "sent" };
const STOPPED: SendEnd = { how: "stopped" };

export class Sender {
  readonly #channel: Channel;
  /** Of the ring, from `#at` on. */
  #room = 0;
  #at = 0;
  /** Bytes written and not yet told. */
  #untold = 0;
  /** Times it told the other side, without having waited. */
  #steps = 0;
  /** The other side has taken all that it was told of. */
  #eager = true;
  #flushing: ReturnType<typeof setImmediate> | null = null;
  #wake: (() => void) | null = null;
  #stopped = false;
  #iterator: SourceIterator | null = null;
  #ended: ((end: SendEnd) => void) | null = null;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  /**
   * Sends all of the source, then calls `ended` once; at once when {@link stop} is called, whatever the source does. The
   * source is the user's code: it runs in a microtask of its own, never within this call.
   */
  send(source: StreamSource, ended: (end: SendEnd) => void): void {
    this.#ended = ended;
    void this.#pump(source);
  }

  /** Nobody wants the rest. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    if (this.#flushing) clearImmediate(this.#flushing);
    this.#leave();
    this.#wake?.();
  }

  #leave(): void {
    this.#end(STOPPED);
    // A generator hears of it at its next `yield`, a stream at once.
    const iterator = this.#iterator;
    if (iterator) queueMicrotask(() => void endIterator(iterator));
  }

  #end(how: SendEnd): void {
    const ended = this.#ended;
    this.#ended = null;
    ended?.(how);
  }

  /** The slot's rings moved. */
  moved(): void {
    if (this.#channel.need > 0 && this.#tell(this.#channel.need) && this.#channel.look[FREE]! >= this.#channel.need)
      this.#wake?.();
  }

  /** Waits for room for `bytes`, at most the ring's size. `false` when stopped. */
  async reserve(bytes: number): Promise<boolean> {
    if (!this.#tell(bytes)) return false;
    if (this.#channel.look[FREE]! >= bytes) return true;
    this.#channel.need = bytes;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
    this.#wake = null;
    this.#channel.need = 0;
    return !this.#stopped && this.#tell(0);
  }

  /** Writes where the next bytes would be, and tells nobody; there must be room. */
  place(bytes: Uint8Array): void {
    const { outgoing, ringStart, ringBytes } = this.#channel;
    const first = Math.min(bytes.length, ringStart + ringBytes - this.#at);
    outgoing.bytes.set(bytes.subarray(0, first), this.#at);
    outgoing.bytes.set(bytes.subarray(first), ringStart);
  }

  async #pump(source: StreamSource): Promise<void> {
    await Promise.resolve();
    if (this.#stopped) return endSource(source);
    try {
      if ((await this.#take(source)) && this.#tell(0)) this.#end(SENT);
    } catch (error) {
      if (this.#tell(0)) this.#end({ how: "failed", error });
    }
  }

  #take(source: StreamSource): Promise<boolean> {
    const iterator = (this.#iterator = iterate(source));
    return Symbol.asyncIterator in source
      ? this.#takeAsync(iterator as AsyncIterator<Uint8Array | string>)
      : this.#takeSync(iterator as Iterator<Uint8Array | string>);
  }

  /** `false` when stopped. */
  async #takeAsync(iterator: AsyncIterator<Uint8Array | string>): Promise<boolean> {
    for (;;) {
      const { done, value } = await iterator.next();
      if (this.#stopped) return false;
      if (done) return true;
      const bytes = bytesOf(value);
      const at = this.#write(bytes, 0);
      if ((at < bytes.length || this.#steps >= TURN_STEPS) && !(await this.#pause(bytes, at))) return false;
    }
  }

  async #takeSync(iterator: Iterator<Uint8Array | string>): Promise<boolean> {
    for (let rest = this.#fill(iterator); rest; rest = this.#fill(iterator))
      if (!(await this.#pause(rest, 0))) return false;
    return true;
  }

  /** Takes until something is to be waited for: what of the last chunk is not written yet. `null` at the end. */
  #fill(iterator: Iterator<Uint8Array | string>): Uint8Array | null {
    for (;;) {
      const { done, value } = iterator.next();
      if (done) return null;
      const bytes = bytesOf(value);
      const at = this.#write(bytes, 0);
      if (at < bytes.length || this.#steps >= TURN_STEPS || this.#stopped) return bytes.subarray(at);
    }
  }

  /** Waits until the rest of a chunk is written, and for the others' turn. `false` when stopped. */
  async #pause(bytes: Uint8Array, at: number): Promise<boolean> {
    let from = at;
    while (from < bytes.length) {
      if (!(await this.reserve(Math.min(bytes.length - from, ROOM_BYTES, this.#channel.ringBytes)))) return false;
      from = this.#write(bytes, from);
    }
    if (this.#steps >= TURN_STEPS) {
      this.#steps = 0;
      if (isTurnOver()) await nextTurn(systemClock);
    }
    return !this.#stopped;
  }

  /** Copies what fits of `bytes` from `at` on; returns how far it came. */
  #write(bytes: Uint8Array, at: number): number {
    while (at < bytes.length) {
      if (this.#room === 0 && (!this.#tell(0) || this.#room === 0)) return at;
      const length = Math.min(this.#room, bytes.length - at);
      this.#channel.outgoing.bytes.set(length === bytes.length ? bytes : bytes.subarray(at, at + length), this.#at);
      this.#at += length;
      this.#room -= length;
      this.#untold += length;
      at += length;
      if ((this.#eager || this.#untold >= BATCH_BYTES) && !this.#tell(0)) return at;
    }
    if (this.#untold > 0) this.#flushing ??= setImmediate(this.#flush);
    return at;
  }

  readonly #flush = (): void => {
    this.#flushing = null;
    if (this.#untold > 0) this.#tell(this.#channel.need);
  };

  /** Tells what was written, and sees what room there is. */
  #tell(need: number): boolean {
    if (this.#stopped) return false;
    const sent = this.#untold;
    this.#untold = 0;
    this.#steps++;
    if (!this.#channel.move(sent, 0, C.SB_FLOW_OPEN, need)) {
      this.stop();
      return false;
    }
    const { look, ringBytes } = this.#channel;
    this.#eager = ringBytes - look[FREE]! <= sent;
    this.#room = look[ROOM]!;
    this.#at = look[WRITE_AT]!;
    return true;
  }
}

type SourceIterator = AsyncIterator<Uint8Array | string> | Iterator<Uint8Array | string>;

/** A stream is cancelled at once by `return`, also while it is asked for more. */
function iterate(source: StreamSource): SourceIterator {
  if (source instanceof ReadableStream) {
    const reader = source.getReader();
    return {
      next: () => reader.read() as Promise<IteratorResult<Uint8Array | string>>,
      return: async () => {
        await reader.cancel();
        return { done: true, value: undefined };
      },
    };
  }
  return Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
}

/** Ends a source that nobody has read from, nor will. Anything else is left alone. It is told in a microtask of its own. */
export function endSource(source: unknown): void {
  if (!isStreamSource(source) || (source instanceof ReadableStream && source.locked)) return;
  queueMicrotask(() => void endIterator(source));
}

async function endIterator(source: StreamSource | SourceIterator): Promise<void> {
  try {
    const iterator = isStreamSource(source) ? iterate(source) : source;
    await iterator.return?.();
  } catch {
    // nobody is left to hear of it
  }
}

function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  if (typeof chunk === "string") return encoder.encode(chunk);
  if (chunk instanceof ArrayBuffer) return new Uint8Array(chunk);
  if (ArrayBuffer.isView(chunk)) return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  throw new InvalidConfigError(`a stream yielded ${chunk === null ? "null" : `a ${typeof chunk}`}.`, {
    hint: "A streamed body yields bytes or text.",
  });
}

// ---- from the ring to a reader --------------------------------------------------------------------------------------

/** The largest piece that is handed out at once. */
const CHUNK_BYTES = 65_536;

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
const readers = new FinalizationRegistry<Receiver>((receiver) => {
  receiver.cancel(new DOMException("nobody was left to read the stream", "AbortError"));
});

export class Receiver {
  #channel: Channel | null;
  /** Copied out when the slot was let go. */
  #rest: Uint8Array[] = [];
  #ended = false;
  #failure: { error: unknown } | null = null;
  /** Bytes of the last piece: the other side is told when the next one is asked for. */
  #taken = 0;
  /** Pieces handed out without having waited. */
  #steps = 0;
  /** Where the next bytes go; `null`: into memory of their own. */
  #into: Uint8Array | null = null;
  #waiter: (PromiseWithResolvers<Step> & { reader: object }) | null = null;
  /** The reader wants no more: called once, unless the stream had ended. */
  #onCancel: ((reason: unknown) => void) | null;
  /** Bytes handed out so far. */
  bytes = 0;

  constructor(channel: Channel | null, onCancel: ((reason: unknown) => void) | null) {
    this.#channel = channel;
    this.#onCancel = onCancel;
  }

  /** Of a body that is whole. */
  static of(body: Uint8Array): Receiver {
    const receiver = new Receiver(null, null);
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
    return this.#channel !== null && !this.#ended;
  }

  /** The whole body, when it was there from the start and nothing of it was read; then it is read. */
  takeWhole(): Uint8Array | null {
    if (!this.#ended || this.#failure || this.bytes > 0 || this.#rest.length > 1) return null;
    return this.#rest.pop() ?? new Uint8Array(0);
  }

  /** The slot's rings moved. */
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
    if (!this.#channel) return;
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
    this.#channel = null;
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
    this.#channel = null;
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
    if (this.#channel && ++this.#steps >= TURN_STEPS) {
      this.#steps = 0;
      if (isTurnOver()) return nextTurn(systemClock).then(() => this.#next(reader));
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

  /** Tells what was taken before, and takes what is there. */
  #take(): Uint8Array | null {
    const channel = this.#channel;
    if (!channel || this.#ended) return null;
    const taken = this.#taken;
    this.#taken = 0;
    if (!channel.move(0, taken, C.SB_FLOW_OPEN, channel.need)) return null;
    const { look } = channel;
    const readable = look[READABLE]!;
    if (readable === 0) {
      if (look[ENDED] === C.SB_FLOW_END) this.#ended = true;
      return null;
    }
    const into = this.#into;
    const length = Math.min(readable, into ? into.length : CHUNK_BYTES);
    const at = look[READ_AT]!;
    const { bytes } = channel.incoming;
    this.#taken = length;
    this.bytes += length;
    if (!into) return bytes.slice(at, at + length);
    into.set(bytes.subarray(at, at + length));
    return into.subarray(0, length);
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
  readonly #receiver: Receiver;
  readonly #into: Uint8Array | null;
  /** Kept alive as long as this is; see {@link Receiver.readBy}. */
  readonly #reader: object;

  /** @internal */
  constructor(receiver: Receiver, into: Uint8Array | null, reader: object) {
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

/** What the ring still holds beyond the stream: the error head of a stream that failed, or `null`. */
export function errorHead(channel: Channel): Uint8Array | null {
  const { look, ringStart, ringBytes, incoming } = channel;
  if (look[ENDED] !== C.SB_FLOW_ERROR) return null;
  const length = look[ERROR_BYTES]!;
  const from = look[READ_AT]! - ringStart + look[UNREAD]!;
  const head = new Uint8Array(length);
  for (let i = 0; i < length; i++) head[i] = incoming.bytes[ringStart + ((from + i) % ringBytes)]!;
  return head;
}
