/**
 * Frames on a socket, in both directions: `type u8, flags u8, 0 u16, length u32, exchange u32`, then `length` bytes, little-endian. An
 * exchange is named by its slot (low 8 bits) and a counter, which the client chooses. A body is a run of bytes that may start in the
 * frame of its request or response and goes on in BODY frames.
 */

import type { FrameWriter } from "./writer.ts";

/** Types of frames. */
export const FRAME = {
  /** Client: serial f64, timeout u32 (ms, 0: none), head u32, body u32 (bytes), method u8, 3 × 0; then head and body. */
  request: 1,
  /** Worker: status u16, 0 u16, head u32, body u32 (bytes); then head and body. */
  response: 2,
  /** More bytes of a head and a body, or of a stream. At least 1 byte. */
  body: 3,
  /** End of a stream; with {@link FLAG.error}, the encoded error follows. */
  end: 4,
  /** u32: number of bytes of a stream that may be sent from now on, in addition. The first one says that the handler has started. */
  credit: 5,
  /** Client: the caller has given up. FREED follows, unless the last frame of the response was sent before. */
  cancel: 6,
  /** Worker: a cancelled exchange is over. */
  freed: 7,
  /** Worker: send no new requests. */
  drain: 8,
  /**
   * The sender closes the connection. Client: the bytes are the reason, as text, if it evicts the worker. Worker: u32 for each
   * exchange whose handler may run; it begins no other.
   */
  goodbye: 9,
  /** PONG follows, from the event loop. */
  ping: 10,
  pong: 11,
  /** Ignored: a request that was taken back before it was sent. */
  none: 12,
  /** MARKED follows, when all frames before it were handled. Between two marks are at least 32 KiB of bodies. */
  mark: 13,
  marked: 14,
} as const;

/** Flags of frames. */
export const FLAG = {
  /** REQUEST, RESPONSE: the body streams, with credit. */
  streams: 1,
  /** END: the stream failed. */
  error: 1,
} as const;

/** Size of the header of a frame, in bytes. */
export const HEADER_BYTES = 12;
/** Largest number of bytes after a header, and after the header of BODY. */
export const FRAME_BYTES = 65_536;
export const BODY_FRAME_BYTES = 1_048_576;
/** Number of bytes of REQUEST and of RESPONSE before the head. */
export const REQUEST_BYTES = 24;
export const RESPONSE_BYTES = 12;
/** Frames of no open exchange, pings and empty work: more of them per second are a flood. */
export const IDLE_FRAMES_PER_SECOND = 10_000;

/** Number of bytes of bodies before a mark, at least. */
export const MARK_BYTES = FRAME_BYTES / 2;

/** Reads an unsigned 32-bit number. */
export function u32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

/** Writes an unsigned 32-bit number. */
export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

/** Writes the header of a frame. */
export function putHeader(
  bytes: Uint8Array,
  at: number,
  type: number,
  flags: number,
  length: number,
  exchange: number,
): void {
  bytes[at] = type;
  bytes[at + 1] = flags;
  bytes[at + 2] = 0;
  bytes[at + 3] = 0;
  putU32(bytes, at + 4, length);
  putU32(bytes, at + 8, exchange);
}

/** Gets the frames that arrive. Memory is valid until a call returns. */
export interface FrameSink {
  /** Whether more frames are wanted. */
  readonly isOpen: boolean;
  /** A whole frame that is not BODY. */
  frame(type: number, flags: number, exchange: number, bytes: Uint8Array): void;
  /** A piece of a BODY frame, at least 1 byte. */
  piece(exchange: number, bytes: Uint8Array): void;
  /** A header is invalid. `what` continues "it sent". */
  malformed(what: string): void;
}

/** Decodes frames from chunks of any size. Allocates one buffer of fixed size. */
export class FrameReader {
  readonly #sink: FrameSink;
  /** Gets the marks. */
  readonly #writer: FrameWriter;
  /** Bytes of BODY frames since the last mark, with their headers. */
  #unmarked = 0;
  /** Start of a frame whose end has not arrived; {@link #kept} bytes. */
  #tail: Uint8Array | null = null;
  #kept = 0;
  /** Bytes of the current BODY frame that have not arrived, and its exchange. */
  #left = 0;
  #exchange = 0;

  constructor(sink: FrameSink, writer: FrameWriter) {
    this.#sink = sink;
    this.#writer = writer;
  }

  push(chunk: Uint8Array): void {
    const sink = this.#sink;
    const { length } = chunk;
    let at = 0;
    while (at < length && sink.isOpen) {
      if (this.#left > 0) {
        const end = Math.min(length, at + this.#left);
        this.#left -= end - at;
        this.#unmarked += end - at;
        sink.piece(this.#exchange, chunk.subarray(at, end));
        at = end;
      } else if (this.#kept > 0) {
        at = this.#complete(chunk, at);
      } else if (length - at < HEADER_BYTES) {
        at = this.#keep(chunk, at, length);
      } else if (!this.#isValid(chunk, at)) {
        return;
      } else if (chunk[at] === FRAME.body) {
        this.#enter(chunk, at);
        at += HEADER_BYTES;
      } else {
        const end = at + HEADER_BYTES + u32(chunk, at + 4);
        if (end > length) at = this.#keep(chunk, at, length);
        else at = this.#pass(chunk, at, end);
      }
    }
  }

  #isValid(bytes: Uint8Array, at: number): boolean {
    const type = bytes[at]!;
    const size = u32(bytes, at + 4);
    const what =
      size > (type === FRAME.body ? BODY_FRAME_BYTES : FRAME_BYTES)
        ? `a frame of ${size} bytes`
        : type === 0 || type > FRAME.marked
          ? `a frame of the unknown type ${type}`
          : type === FRAME.body && size === 0
            ? "an empty BODY frame"
            : null;
    if (what !== null) this.#sink.malformed(what);
    return what === null;
  }

  #enter(bytes: Uint8Array, at: number): void {
    this.#left = u32(bytes, at + 4);
    this.#exchange = u32(bytes, at + 8);
    this.#unmarked += HEADER_BYTES;
  }

  #pass(bytes: Uint8Array, at: number, end: number): number {
    if (bytes[at]! >= FRAME.mark) this.#mark(bytes[at]!);
    else this.#sink.frame(bytes[at]!, bytes[at + 1]!, u32(bytes, at + 8), bytes.subarray(at + HEADER_BYTES, end));
    return end;
  }

  #mark(type: number): void {
    if (type === FRAME.marked) {
      if (!this.#writer.marked()) this.#sink.malformed("a MARKED without a mark");
    } else if (this.#unmarked < MARK_BYTES) {
      this.#sink.malformed("a mark without bytes before it");
    } else {
      this.#unmarked = 0;
      if (!this.#writer.answerMark()) this.#sink.malformed("bytes, and did not read the answers");
    }
  }

  #keep(chunk: Uint8Array, from: number, end: number): number {
    this.#tail ??= new Uint8Array(HEADER_BYTES + FRAME_BYTES);
    this.#tail.set(chunk.subarray(from, end), this.#kept);
    this.#kept += end - from;
    return end;
  }

  /** Adds to the kept frame: first its header, then the rest. Returns the next offset. */
  #complete(chunk: Uint8Array, from: number): number {
    const tail = this.#tail!;
    const isHeader = this.#kept < HEADER_BYTES;
    const wanted = isHeader ? HEADER_BYTES : HEADER_BYTES + u32(tail, 4);
    const at = this.#keep(chunk, from, Math.min(chunk.length, from + wanted - this.#kept));
    if (this.#kept < wanted) return at;
    if (isHeader && !this.#isValid(tail, 0)) return chunk.length;
    if (isHeader && tail[0] === FRAME.body) {
      this.#enter(tail, 0);
      this.#kept = 0;
    } else if (!isHeader || u32(tail, 4) === 0) {
      const end = this.#kept;
      this.#kept = 0;
      this.#pass(tail, 0, end);
    }
    return at;
  }
}
