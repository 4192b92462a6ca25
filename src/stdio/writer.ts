/** Writes framed messages, with all messages of one turn in one write. */

import { type Framing, HEADER_BYTES } from "./framing.ts";

/** A destination of bytes. */
export interface ByteSink {
  /** Writes bytes or text. Returns `null` if more can be written at once, otherwise a promise that resolves when it can. */
  write(data: string | Uint8Array): Promise<unknown> | null;
}

/** A pair of byte streams to and from the other side. */
export interface BytePair {
  readonly sink: ByteSink;
  readonly source: ReadableStream<Uint8Array>;
}

/** Returns a {@link ByteSink} for a sink of Bun. */
export function sinkOf(sink: Bun.FileSink): ByteSink {
  return {
    write(data) {
      const written: unknown = sink.write(data);
      const flushed: unknown = sink.flush();
      // While the pipe is full both are the same promise; otherwise each rejection must be handled.
      if (flushed instanceof Promise && flushed !== written) flushed.catch(() => {});
      return written instanceof Promise ? written : flushed instanceof Promise ? flushed : null;
    },
  };
}

/** Number of microtasks that a write waits for more messages of the same turn. */
const PUT_OFF = 3;

/** Writes messages to a sink, as fast as the sink takes them. */
export class MessageWriter {
  readonly #sink: ByteSink;
  readonly #outbox: Outbox;
  readonly #onWrote: () => void;
  readonly #onBroken: () => void;
  /** Bytes of the pending write. */
  #writing = 0;
  #isFlushing = false;
  #putOff = 0;
  #seenBytes = 0;
  isOpen = true;

  /** `onWrote`: the sink took some or all queued bytes. `onBroken`: the sink failed; the owner must close the writer. */
  constructor(sink: ByteSink, framing: Framing, onWrote: () => void, onBroken: () => void) {
    this.#sink = sink;
    this.#outbox = new Outbox(framing);
    this.#onWrote = onWrote;
    this.#onBroken = onBroken;
  }

  /** Bytes that the sink has not taken. */
  get queuedBytes(): number {
    return this.#outbox.bytes + this.#writing;
  }

  /** Queues a message. It is written with the other messages of this turn. Returns its size in bytes. */
  add(json: string): number {
    const bytes = this.#outbox.add(json);
    if (this.#isFlushing || this.#writing > 0) return bytes;
    this.#isFlushing = true;
    this.#putOff = 0;
    this.#seenBytes = 0;
    queueMicrotask(this.#flush);
    return bytes;
  }

  /** Waits for microtasks of this turn, where callers that got responses send new requests: these go out in the same write. */
  readonly #flush = (): void => {
    const { bytes } = this.#outbox;
    if (bytes !== this.#seenBytes && this.#putOff++ < PUT_OFF) {
      this.#seenBytes = bytes;
      queueMicrotask(this.#flush);
      return;
    }
    this.#isFlushing = false;
    this.write();
  };

  /** Writes queued messages until the sink is full. */
  write(): void {
    if (this.#writing > 0) return;
    while (this.#writing === 0 && this.#outbox.bytes > 0) {
      const { bytes } = this.#outbox;
      try {
        const full = this.#sink.write(this.#outbox.take());
        if (full === null) continue;
        this.#writing = bytes - this.#outbox.bytes;
        full.then(this.#onDrained, this.#onFailed);
      } catch {
        return this.#onFailed();
      }
    }
    this.#onWrote();
  }

  readonly #onDrained = (): void => {
    this.#writing = 0;
    this.write();
  };

  readonly #onFailed = (): void => {
    if (this.isOpen) this.#onBroken();
  };

  /** Stops writing and discards queued messages. */
  close(): void {
    this.isOpen = false;
    this.#outbox.clear();
    this.#writing = 0;
  }
}

/** Longest piece of queued text. Joining pieces keeps the memory close to the number of bytes. */
const PIECE_LENGTH = 65_536 - 64;

/** Queued messages, joined so that one write takes many of them. */
export class Outbox {
  readonly #framing: Framing;
  /** Latest text; `#pieces` come before it. */
  #text = "";
  #textBytes = 0;
  #frames: Uint8Array[] = [];
  #pieces: { data: string; bytes: number }[] = [];
  /** Number of queued bytes. */
  bytes = 0;

  constructor(framing: Framing) {
    this.#framing = framing;
  }

  /** Adds a message, JSON in one line. Returns its size in bytes with the framing. */
  add(json: string): number {
    const framed = this.#framing === "length" ? this.#addFrame(json) : this.#addText(json);
    this.bytes += framed;
    return framed;
  }

  #addFrame(json: string): number {
    const length = Buffer.byteLength(json);
    const frame = Buffer.allocUnsafe(HEADER_BYTES + length);
    frame.writeUInt32BE(length);
    frame.write(json, HEADER_BYTES);
    this.#frames.push(frame);
    return frame.length;
  }

  #addText(json: string): number {
    const isLine = this.#framing === "ndjson";
    const text = isLine ? json + "\n" : `Content-Length: ${Buffer.byteLength(json)}\r\n\r\n${json}`;
    const bytes = Buffer.byteLength(text);
    if (this.#text.length + text.length > PIECE_LENGTH) this.#cut();
    this.#text = this.#text === "" ? text : this.#text + text;
    this.#textBytes += bytes;
    return bytes;
  }

  #cut(): void {
    if (this.#text === "") return;
    Buffer.byteLength(this.#text); // makes the engine flatten the concatenated string
    this.#pieces.push({ data: this.#text, bytes: this.#textBytes });
    this.#text = "";
    this.#textBytes = 0;
  }

  /** Removes and returns the next bytes or text to write: everything, or the first piece. */
  take(): string | Uint8Array {
    if (this.#framing === "length") {
      const frames = this.#frames;
      this.clear();
      return frames.length === 1 ? frames[0]! : Buffer.concat(frames);
    }
    const piece = this.#pieces.shift();
    if (piece) {
      this.bytes -= piece.bytes;
      return piece.data;
    }
    const text = this.#text;
    this.clear();
    return text;
  }

  /** Discards queued messages. */
  clear(): void {
    this.#text = "";
    this.#textBytes = 0;
    this.#frames = [];
    this.#pieces = [];
    this.bytes = 0;
  }
}
