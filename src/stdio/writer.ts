/** Messages on their way out: framed, and those of one turn in one write. */

import { type Framing, HEADER_BYTES } from "./framing.ts";

/** Where bytes go. */
export interface ByteSink {
  /** Takes bytes or text. Returns `null` when it could take more at once, else a promise for when it can. */
  write(data: string | Uint8Array): Promise<unknown> | null;
}

/** A pair of byte streams with the other side behind it. */
export interface BytePair {
  readonly sink: ByteSink;
  readonly source: ReadableStream<Uint8Array>;
}

/** A {@link ByteSink} over Bun's. */
export function sinkOf(sink: Bun.FileSink): ByteSink {
  return {
    write(data) {
      const written: unknown = sink.write(data);
      const flushed: unknown = sink.flush();
      // Both are the same promise while the pipe is full; the failure of each must be handled.
      if (flushed instanceof Promise && flushed !== written) flushed.catch(() => {});
      return written instanceof Promise ? written : flushed instanceof Promise ? flushed : null;
    },
  };
}

/** Times a write is put off for other messages of the same turn. */
const PUT_OFF = 3;

/** Writes messages to a sink as it takes them. */
export class MessageWriter {
  readonly #sink: ByteSink;
  readonly #outbox: Outbox;
  readonly #onWrote: () => void;
  readonly #onBroken: () => void;
  /** Bytes that the sink has not taken yet, without those of the outbox. */
  #writing = 0;
  #isFlushing = false;
  #putOff = 0;
  #seenBytes = 0;
  isOpen = true;

  /** `onWrote`: the sink took all that waited, or a part of it. `onBroken`: it failed; the writer is to be closed. */
  constructor(sink: ByteSink, framing: Framing, onWrote: () => void, onBroken: () => void) {
    this.#sink = sink;
    this.#outbox = new Outbox(framing);
    this.#onWrote = onWrote;
    this.#onBroken = onBroken;
  }

  /** Bytes that the other side has not taken. */
  get queuedBytes(): number {
    return this.#outbox.bytes + this.#writing;
  }

  /** Adds a message, which is written with the others of this turn. Returns its bytes. */
  add(json: string): number {
    const bytes = this.#outbox.add(json);
    if (this.#isFlushing || this.#writing > 0) return bytes;
    this.#isFlushing = true;
    this.#putOff = 0;
    this.#seenBytes = 0;
    queueMicrotask(this.#flush);
    return bytes;
  }

  /** Code that got answers in this turn asks again in its microtasks: its requests go out in one write. */
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

  /** Writes what waits now, as far as the sink takes it. */
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

  /** Writes nothing more and forgets what waits. */
  close(): void {
    this.isOpen = false;
    this.#outbox.clear();
    this.#writing = 0;
  }
}

/** Text that waits is put together in pieces of at most this length: so it takes little more memory than it has bytes. */
const PIECE_LENGTH = 65_536 - 64;

/** Messages on their way out, gathered so that those of one turn are one write. */
export class Outbox {
  readonly #framing: Framing;
  /** What came last; the pieces go out before it. */
  #text = "";
  #textBytes = 0;
  #frames: Uint8Array[] = [];
  #pieces: { data: string; bytes: number }[] = [];
  /** What waits here. */
  bytes = 0;

  constructor(framing: Framing) {
    this.#framing = framing;
  }

  /** Adds a message: JSON in one line. Returns its bytes. */
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
    Buffer.byteLength(this.#text); // makes one string of the many that it was put together from
    this.#pieces.push({ data: this.#text, bytes: this.#textBytes });
    this.#text = "";
    this.#textBytes = 0;
  }

  /** What is to be written next, as it is: all that waits, or the first part of much. */
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

  /** Forgets what waits. */
  clear(): void {
    this.#text = "";
    this.#textBytes = 0;
    this.#frames = [];
    this.#pieces = [];
    this.bytes = 0;
  }
}
