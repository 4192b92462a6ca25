/** Splits a stream of bytes into messages, and reports bytes that are not a message. */

import { inspect } from "../runtime.ts";

/**
 * How messages are separated. `"ndjson"`: each message is a line of JSON. `"length"`: four bytes of length (big endian), then
 * JSON. `"content-length"`: a header `Content-Length: N`, an empty line, then JSON, as in the Language Server Protocol.
 */
export type Framing = "ndjson" | "length" | "content-length";

/** All framings. */
export const FRAMINGS: readonly Framing[] = ["ndjson", "length", "content-length"];

/** Environment variable that tells a worker the framing. */
export const STDIO_VARIABLE = "SLOTBUS_STDIO";

/** Why bytes are not a message. */
export type FaultReason = "too long" | "not UTF-8" | "not JSON" | "no frame" | "cut";

/** Bytes that are not a message. */
export class Fault {
  readonly reason: FaultReason;
  /** Number of bytes; for a message that is too long, its whole length. */
  readonly bytes: number;
  /** First bytes, at most {@link SHOWN}. */
  readonly head: Uint8Array;
  /** Last bytes, at most {@link SHOWN}. */
  readonly tail: Uint8Array;
  /** Whether the start of the next message cannot be found. */
  readonly isFatal: boolean;

  constructor(reason: FaultReason, bytes: number, head: Uint8Array, tail: Uint8Array, isFatal = false) {
    this.reason = reason;
    this.bytes = bytes;
    this.head = head.slice(0, SHOWN);
    this.tail = tail.slice(-SHOWN);
    this.isFatal = isFatal;
  }

  /** Description for messages: `"16 bytes that are not JSON"`. */
  get kind(): string {
    if (this.reason === "too long") return `a message of ${this.bytes} bytes, which is too long`;
    if (this.reason === "cut") return `an incomplete message of ${this.bytes} bytes`;
    return `${this.bytes} bytes that are ${this.reason === "no frame" ? "outside of a frame" : this.reason}`;
  }

  /** The kind and the first bytes, for messages. */
  toString(): string {
    return `${this.kind}: ${inspect(decoderOfAnything.decode(this.head.subarray(0, 80)))}`;
  }
}

/** Number of bytes that a fault keeps from its start, and from its end. */
const SHOWN = 512;
const NEWLINE = 10;
/** Size of the length in front of a message, in bytes. */
export const HEADER_BYTES = 4;
/** Longest line of a header, in bytes. */
const HEAD_LINE_MAX = 4_096;
/** A larger length is text that a program printed in place of a length. */
const LENGTH_MAX = 0x2000_0000;
const nothing = new Uint8Array(0);
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const decoderOfAnything = new TextDecoder();

/**
 * Finds messages in chunks of bytes, wherever the chunks are cut. Work is linear in the bytes; memory is bounded by the limit.
 */
export interface MessageReader {
  /** Takes ownership of bytes. All earlier messages must have been read with `next`. */
  push(chunk: Uint8Array): void;
  /** Marks the end of the bytes. */
  finish(): void;
  /** Returns the next message, parsed, or a {@link Fault}; `undefined` when more bytes are needed. */
  next(): unknown;
  /** Whether the current message is longer than the limit. Its bytes are discarded until it ends. */
  readonly isSkipping: boolean;
}

/** Returns a reader of messages of at most `limit` bytes. */
export function messageReader(framing: Framing, limit: number): MessageReader {
  return framing === "ndjson" ? new LineReader(limit) : new FrameReader(limit, framing === "length");
}

/** Collects chunks and joins them into one piece. */
class Pieces {
  #chunks: Uint8Array[] = [];
  bytes = 0;

  add(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.bytes += chunk.length;
  }

  take(): Uint8Array {
    const whole = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks, this.bytes);
    this.#chunks = [];
    this.bytes = 0;
    return whole;
  }
}

/** Discards bytes, except the first and last ones. */
class Skipped {
  bytes = 0;
  #head = nothing;
  #tail = nothing;

  add(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    if (this.bytes < SHOWN) this.#head = Buffer.concat([this.#head, chunk.subarray(0, SHOWN - this.#head.length)]);
    this.#tail = chunk.length >= SHOWN ? chunk.slice(-SHOWN) : Buffer.concat([this.#tail, chunk]).subarray(-SHOWN);
    this.bytes += chunk.length;
  }

  take(): Fault {
    const fault = new Fault("too long", this.bytes, this.#head, this.#tail);
    this.bytes = 0;
    this.#head = nothing;
    this.#tail = nothing;
    return fault;
  }
}

/** Reads lines. */
class LineReader implements MessageReader {
  readonly #limit: number;
  readonly #rest = new Pieces();
  readonly #skipped = new Skipped();
  /** Whether the current line is too long and has not ended. */
  #isSkipping = false;
  /** A message or fault that `next` returns first. */
  #first: unknown = undefined;
  #lines: string[] = [];
  #at = 0;
  /** Lines that are decoded one by one, because some are not UTF-8. */
  #raw: Uint8Array = nothing;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get isSkipping(): boolean {
    return this.#isSkipping;
  }

  push(chunk: Uint8Array): void {
    let start = 0;
    if (this.#rest.bytes > 0 || this.#isSkipping) {
      const end = chunk.indexOf(NEWLINE);
      if (end < 0) return this.#keep(chunk);
      this.#keep(chunk.subarray(0, end));
      this.#first = this.#isSkipping ? this.#skipped.take() : parseBytes(this.#rest.take());
      this.#isSkipping = false;
      start = end + 1;
    }
    const end = chunk.lastIndexOf(NEWLINE);
    if (end >= start) this.#split(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
    const from = Math.max(start, end + 1);
    if (from < chunk.length) this.#keep(from === 0 ? chunk : chunk.subarray(from));
  }

  finish(): void {
    if (this.#isSkipping) this.#first = this.#skipped.take();
    else if (this.#rest.bytes > 0) {
      const bytes = this.#rest.take();
      const last = parseBytes(bytes);
      this.#first = last instanceof Fault ? new Fault("cut", bytes.length, bytes, bytes) : last;
    }
    this.#isSkipping = false;
  }

  next(): unknown {
    const first = this.#first;
    if (first !== undefined) {
      this.#first = undefined;
      return first;
    }
    while (this.#at < this.#lines.length) {
      const line = this.#lines[this.#at++]!;
      if (line.length * 3 > this.#limit && (line.length > this.#limit || Buffer.byteLength(line) > this.#limit)) {
        const bytes = Buffer.from(line);
        return new Fault("too long", bytes.length, bytes, bytes);
      }
      const message = parseText(line);
      if (message !== undefined) return message;
    }
    if (this.#at > 0) {
      this.#lines = [];
      this.#at = 0;
    }
    return this.#raw.length > 0 ? this.#nextRaw() : undefined;
  }

  #keep(bytes: Uint8Array): void {
    if (this.#isSkipping) return this.#skipped.add(bytes);
    this.#rest.add(bytes);
    if (this.#rest.bytes <= this.#limit) return;
    this.#isSkipping = true;
    this.#skipped.add(this.#rest.take());
  }

  /** Takes whole lines without the last newline. They are decoded together: in UTF-8 a newline byte is always a newline. */
  #split(bytes: Uint8Array): void {
    try {
      this.#lines = decoder.decode(bytes).split("\n");
    } catch {
      this.#raw = bytes; // one of the lines is not UTF-8
    }
  }

  #nextRaw(): unknown {
    while (this.#raw.length > 0) {
      const end = this.#raw.indexOf(NEWLINE);
      const line = end < 0 ? this.#raw : this.#raw.subarray(0, end);
      this.#raw = end < 0 ? nothing : this.#raw.subarray(end + 1);
      const message = line.length > this.#limit ? new Fault("too long", line.length, line, line) : parseBytes(line);
      if (message !== undefined) return message;
    }
    return undefined;
  }
}

/** Reads frames with a length in front. */
class FrameReader implements MessageReader {
  readonly #limit: number;
  readonly #isBinary: boolean;
  readonly #rest = new Pieces();
  readonly #skipped = new Skipped();
  #bytes: Uint8Array = nothing;
  #at = 0;
  /** Length of the next body; -1: a header comes next. */
  #length = -1;
  /** Length found so far in the header that is being read; -1: none. */
  #told = -1;
  /** Remaining bytes of a body that is too long. */
  #toSkip = 0;
  #isLost = false;
  #cut: Fault | undefined = undefined;

  constructor(limit: number, isBinary: boolean) {
    this.#limit = limit;
    this.#isBinary = isBinary;
  }

  get isSkipping(): boolean {
    return this.#toSkip > 0;
  }

  push(chunk: Uint8Array): void {
    if (this.#isLost) return;
    this.#rest.add(chunk);
    const enough = this.#toSkip > 0 || this.#rest.bytes >= (this.#length < 0 ? 1 : this.#length);
    if (!enough) return;
    this.#bytes = this.#rest.take();
    this.#at = 0;
  }

  finish(): void {
    const rest = this.#rest.bytes > 0 ? this.#rest.take() : nothing;
    if (this.#toSkip > 0) this.#cut = this.#skipped.take();
    else if (rest.length > 0 || this.#length > 0) this.#cut = new Fault("cut", rest.length, rest, rest);
    this.#toSkip = 0;
    this.#length = -1;
  }

  next(): unknown {
    const cut = this.#cut;
    if (cut) {
      this.#cut = undefined;
      return cut;
    }
    while (!this.#isLost && this.#at < this.#bytes.length) {
      const found = this.#step();
      if (found === "wait") break;
      if (found !== undefined) return found;
    }
    if (this.#at < this.#bytes.length && !this.#isLost) {
      this.#rest.add(this.#bytes.subarray(this.#at));
    }
    this.#bytes = nothing;
    this.#at = 0;
    return undefined;
  }

  /** Returns a message, a fault, `undefined` to continue, or `"wait"` for more bytes. */
  #step(): unknown {
    const left = this.#bytes.length - this.#at;
    if (this.#toSkip > 0) {
      const part = Math.min(left, this.#toSkip);
      this.#skipped.add(this.#bytes.subarray(this.#at, this.#at + part));
      this.#at += part;
      this.#toSkip -= part;
      return this.#toSkip === 0 ? this.#skipped.take() : undefined;
    }
    if (this.#length < 0) return this.#isBinary ? this.#readLength(left) : this.#readHeadLine(left);
    if (left < this.#length) return "wait";
    const body = this.#bytes.subarray(this.#at, this.#at + this.#length);
    this.#at += this.#length;
    this.#length = -1;
    return parseBytes(body);
  }

  #readLength(left: number): unknown {
    if (left < HEADER_BYTES) return "wait";
    const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset + this.#at, HEADER_BYTES);
    const length = view.getUint32(0);
    if (length >= LENGTH_MAX) {
      this.#isLost = true;
      const bytes = this.#bytes.subarray(this.#at);
      return new Fault("no frame", bytes.length, bytes, bytes, true);
    }
    this.#at += HEADER_BYTES;
    return this.#expect(length);
  }

  #readHeadLine(left: number): unknown {
    const end = this.#bytes.indexOf(NEWLINE, this.#at);
    if (end < 0 && left <= HEAD_LINE_MAX) return "wait";
    const line = this.#bytes.subarray(this.#at, end < 0 ? this.#bytes.length : end);
    this.#at += line.length + (end < 0 ? 0 : 1);
    const text = line.length > HEAD_LINE_MAX ? "?" : Buffer.from(line).toString("latin1").trim();
    if (text === "") {
      const told = this.#told;
      this.#told = -1;
      return told < 0 ? undefined : this.#expect(told);
    }
    const length = /^content-length:\s*(\d{1,15})$/i.exec(text);
    if (length) this.#told = Number(length[1]);
    else if (!/^content-type:/i.test(text)) return new Fault("no frame", line.length, line, line);
    return undefined;
  }

  #expect(length: number): undefined {
    if (length > this.#limit) this.#toSkip = length;
    else if (length > 0) this.#length = length;
    return undefined;
  }
}

/** Returns a message, a {@link Fault}, or `undefined` for white space only. */
function parseText(text: string): unknown {
  if (text === "" || text === "\r") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    if (text.trim() === "") return undefined;
    const bytes = Buffer.from(text);
    return new Fault("not JSON", bytes.length, bytes, bytes);
  }
}

function parseBytes(bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = decoder.decode(bytes);
  } catch {
    return new Fault("not UTF-8", bytes.length, bytes, bytes);
  }
  return parseText(text);
}
