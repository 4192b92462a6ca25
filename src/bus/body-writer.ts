/** Passes a streamed body from its source, which is user code, to its connection. */

import { shown } from "../check.ts";
import { nextTurn } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import { viewOf } from "./codec.ts";
import { TURN_STEPS, type Turns } from "./turns.ts";

/** Source of a streamed body. A generator may be synchronous. Text is sent as UTF-8. Chunk boundaries are not preserved. */
export type StreamSource =
  ReadableStream<Uint8Array | string> | AsyncIterable<Uint8Array | string> | IterableIterator<Uint8Array | string>;

/** Whether a body is a stream source. */
export function isStreamSource(body: unknown): body is StreamSource {
  if (typeof body !== "object" || body === null || body instanceof Uint8Array) return false;
  return Symbol.asyncIterator in body || (Symbol.iterator in body && "next" in body);
}

/** A streamed body to the other process, as a connection accepts it. Never calls user code. */
export interface Outgoing {
  /** Called once when the other side cancels the stream, but not after {@link end} or {@link close}. */
  onClosed: (() => void) | null;
  /** Copies bytes, starting at `at`, while there is room. Returns the index of the first byte that was not copied. */
  write(bytes: Uint8Array, at: number): number;
  /** Resolves to `true` when there is room for `bytes` bytes, capped at the size of the ring; to `false` when closed. */
  reserve(bytes: number): Promise<boolean>;
  /** Makes the written bytes visible to the reader. Returns `false` when closed. */
  flush(): boolean;
  /** Ends the stream. `errorHead` is the encoded error of a failed stream. */
  end(errorHead: Uint8Array | null): void | Promise<void>;
  /** Discards bytes that are not visible to the reader yet. No byte moves afterwards. */
  close(): void;
}

const encoder = new TextEncoder();

/** How sending a source ended: all bytes were sent, the other side cancelled, or the source failed. */
export type SendEnd = { how: "sent" } | { how: "stopped" } | { how: "failed"; error: unknown };

const SENT: SendEnd = { how: "sent" };
const STOPPED: SendEnd = { how: "stopped" };
/** A writer that finds no room waits for room for this number of bytes, or for its remaining bytes if they are fewer. */
const ROOM_BYTES = 65_536;
/** Size of a writer's step, in bytes and in writes: see {@link Turns}. */
const STEP_BYTES = 8_192;
const STEP_WRITES = 64;

/** Sends the bytes of a source through a connection. */
export class BodyWriter {
  readonly #outgoing: Outgoing;
  readonly #turns: Turns;
  /** Steps since the writer last yielded to the event loop. */
  #steps = 0;
  /** Writes of the current step. */
  #writes = 0;
  /** {@link bytes} at the start of the current step. */
  #counted = 0;
  #stopped = false;
  #iterator: SourceIterator | null = null;
  #ended: ((end: SendEnd) => void) | null = null;
  /** Bytes taken from the source so far. */
  bytes = 0;

  constructor(outgoing: Outgoing, turns: Turns) {
    this.#outgoing = outgoing;
    this.#turns = turns;
    outgoing.onClosed = () => this.stop();
  }

  /**
   * Sends the whole source. Calls `ended` once: at the end of the source, or when {@link stop} is called. The source is user
   * code: it runs in a microtask, never within this call.
   */
  send(source: StreamSource, ended: (end: SendEnd) => void): void {
    this.#ended = ended;
    void this.#sendLater(source);
  }

  /** As {@link send}, but takes the first chunk from the source within this call. */
  start(source: StreamSource, ended: (end: SendEnd) => void): void {
    this.#ended = ended;
    void this.#pump(source);
  }

  /** Stops sending and closes the source. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#outgoing.close();
    this.#end(STOPPED);
    // A generator is closed at its next `yield`, a stream at once.
    const iterator = this.#iterator;
    if (iterator) queueMicrotask(() => void endIterator(iterator));
  }

  #end(how: SendEnd): void {
    const ended = this.#ended;
    this.#ended = null;
    ended?.(how);
  }

  async #sendLater(source: StreamSource): Promise<void> {
    await Promise.resolve();
    if (this.#stopped) return endSource(source);
    return this.#pump(source);
  }

  #pump(source: StreamSource): Promise<void> {
    return Symbol.asyncIterator in source ? this.#pumpAsync(source) : this.#pumpSync(source);
  }

  async #pumpAsync(source: StreamSource): Promise<void> {
    try {
      const iterator = iterate(source) as AsyncIterator<Uint8Array | string>;
      this.#iterator = iterator;
      for (;;) {
        const { done, value } = await iterator.next();
        if (this.#stopped) return;
        if (done) break;
        const bytes = bytesOf(value);
        const at = this.#write(bytes, 0);
        if ((at < bytes.length || this.#steps >= TURN_STEPS) && !(await this.#pause(bytes, at))) return;
      }
    } catch (error) {
      return this.#fail(error);
    }
    this.#complete();
  }

  async #pumpSync(source: StreamSource): Promise<void> {
    try {
      const iterator = iterate(source) as Iterator<Uint8Array | string>;
      this.#iterator = iterator;
      for (let rest = this.#fill(iterator); rest; rest = this.#fill(iterator))
        if (!(await this.#pause(rest, 0))) return;
    } catch (error) {
      return this.#fail(error);
    }
    this.#complete();
  }

  #complete(): void {
    if (this.#outgoing.flush()) this.#end(SENT);
  }

  #fail(error: unknown): void {
    if (this.#outgoing.flush()) this.#end({ how: "failed", error });
  }

  /**
   * Sends a synchronous source until it must wait. Returns the unsent rest of the last chunk, or `null` at the end of the source.
   */
  #fill(iterator: Iterator<Uint8Array | string>): Uint8Array | null {
    for (;;) {
      const { done, value } = iterator.next();
      if (done) return null;
      const bytes = bytesOf(value);
      const at = this.#write(bytes, 0);
      if (at < bytes.length || this.#steps >= TURN_STEPS || this.#stopped) return bytes.subarray(at);
    }
  }

  /** Waits until the rest of a chunk is written, then yields to the event loop if due. Resolves to `false` when stopped. */
  async #pause(bytes: Uint8Array, at: number): Promise<boolean> {
    let from = at;
    while (from < bytes.length) {
      if (!(await this.#outgoing.reserve(Math.min(bytes.length - from, ROOM_BYTES)))) return false;
      from = this.#write(bytes, from);
    }
    if (this.#steps >= TURN_STEPS) {
      this.#steps = 0;
      if (this.#turns.isOver) await nextTurn(this.#turns.clock);
    }
    return !this.#stopped;
  }

  #write(bytes: Uint8Array, at: number): number {
    const to = this.#outgoing.write(bytes, at);
    this.bytes += to - at;
    this.#writes++;
    if (this.#writes >= STEP_WRITES || this.bytes - this.#counted >= STEP_BYTES) {
      this.#steps++;
      this.#writes = 0;
      this.#counted = this.bytes;
    }
    return to;
  }
}

type SourceIterator = AsyncIterator<Uint8Array | string> | Iterator<Uint8Array | string>;

function iterate(source: StreamSource): SourceIterator {
  if (source instanceof ReadableStream) return iterateStream(source);
  return Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
}

/**
 * Returns an iterator of a stream whose `return` cancels the stream even while a read is pending. The stream's own iterator
 * cannot.
 */
export function iterateStream<T>(stream: ReadableStream<T>): AsyncIterator<T> {
  const reader = stream.getReader();
  return {
    next: () => reader.read() as Promise<IteratorResult<T>>,
    return: async () => {
      await reader.cancel();
      return { done: true, value: undefined };
    },
  };
}

/** Closes a source that was never read, in a microtask. Ignores any value that is not a source. */
export function endSource(source: unknown): void {
  if (!isStreamSource(source) || (source instanceof ReadableStream && source.locked)) return;
  queueMicrotask(() => void endIterator(source));
}

async function endIterator(source: StreamSource | SourceIterator): Promise<void> {
  try {
    const iterator = isStreamSource(source) ? iterate(source) : source;
    await iterator.return?.();
  } catch {
    // no caller is left that could get the error
  }
}

/** Converts a chunk of a stream to bytes. @throws {InvalidConfigError} */
export function bytesOf(chunk: unknown): Uint8Array {
  if (typeof chunk === "string") return encoder.encode(chunk);
  const bytes = viewOf(chunk);
  if (bytes) return bytes;
  throw new InvalidConfigError(`A stream yielded ${shown(chunk)}; a chunk must be text or bytes.`, {
    hint: "Yield text or bytes, for example `JSON.stringify(value)`.",
  });
}
