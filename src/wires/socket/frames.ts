/**
 * Frames on a socket, in both directions: `type u8, flags u8, 0 u16, length u32, exchange u32`, then `length` bytes, little-endian. An
 * exchange is named by its slot (low 8 bits) and a counter, which the client chooses. A body is a run of bytes that may start in the
 * frame of its request or response and goes on in BODY frames.
 */

import type { Duplex } from "./duplex.ts";

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
  /** The sender closes the connection; the bytes are the reason, as text, if it evicted the other side. */
  goodbye: 9,
  /** PONG follows, from the event loop. */
  ping: 10,
  pong: 11,
  /** Ignored: a request that was taken back before it was sent. */
  none: 12,
  /** MARKED follows, when all frames before it were handled. At least 32 KiB of BODY frames lie between two marks. */
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
/** Largest number of bytes after a header. */
export const FRAME_BYTES = 65_536;
/** Number of bytes of REQUEST and of RESPONSE before the head. */
export const REQUEST_BYTES = 24;
export const RESPONSE_BYTES = 12;
/** Frames of no open exchange, pings and empty work: more of them per second are a flood. */
export const IDLE_FRAMES_PER_SECOND = 10_000;

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
      size > FRAME_BYTES
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
    } else if (this.#unmarked < MARK_BYTES / 2) {
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

/** A body that is sent in pieces, in turns with other bodies. */
export interface Bulk {
  /** Returns the next frames, at most `count`; they do not change before {@link next} is called. */
  frames(count: number): Uint8Array;
  /** The socket has accepted the frames. Sends what comes after the last one. Returns whether there are more now. */
  next(): boolean;
  /** Called once, when the writer needs its frames no longer. */
  free?(): void;
}

/** Number of bytes of bodies after which a mark follows. */
const MARK_BYTES = FRAME_BYTES;
/**
 * Number of marks that may be without an answer, while there are other frames, and without them. What comes next waits behind the
 * bytes before the marks.
 */
const MARKS = { mixed: 2, alone: 16 };
/** Number of marks after which bodies are alone, if no other frames came. */
const MIXED_MARKS = 64;
/** Number of answers to marks that may wait for a peer that does not read. */
const UNREAD_ANSWERS = 4_096;
const SMALL_BYTES = 16_384;
/** A batch that grew beyond this size is not kept. */
const KEPT_BYTES = 262_144;

/**
 * The only writer of a connection. The frames of one turn go out in one write. Large bodies go after all of them, in turns of one frame
 * each.
 */
export class FrameWriter {
  readonly #duplex: Duplex;
  /** Memory of the frames that are written next. Valid until the next call of {@link begin}. */
  bytes: Uint8Array = new Uint8Array(SMALL_BYTES);
  #end = 0;
  /** Serial number of the batch that is being filled. */
  batch = 1;
  #spare: Uint8Array = new Uint8Array(SMALL_BYTES);
  /** Bytes that are being written. */
  #out: Uint8Array | null = null;
  #outEnd = 0;
  #outAt = 0;
  /** The body whose frames are being written. */
  #bulk: Bulk | null = null;
  readonly #bulks: Bulk[] = [];
  /** Bytes of bodies since the last mark, and the number of marks without an answer. */
  #unmarked = 0;
  #marks = 0;
  /** Number of marks until bodies are alone. */
  #mixed = 0;
  /** Answers to marks in the current batch. */
  #answers = 0;
  #isFull = false;
  #isDue = false;
  #isFlushing = false;
  #isClosed = false;
  /** Called when all bytes are written. */
  onEmpty: (() => void) | null = null;

  constructor(duplex: Duplex) {
    this.#duplex = duplex;
    duplex.onDrain = () => {
      this.#isFull = false;
      this.flush();
    };
  }

  /** Number of bytes that wait for the socket, without bodies that are sent in pieces. */
  get waiting(): number {
    return this.#end + this.#outEnd - this.#outAt;
  }

  get isEmpty(): boolean {
    return this.waiting === 0 && this.#bulks.length === 0;
  }

  /** Starts a frame and returns the offset in {@link bytes} at which the caller stores its `length` bytes, at once. */
  begin(type: number, flags: number, exchange: number, length: number): number {
    const start = this.#end;
    const end = start + HEADER_BYTES + length;
    if (end > this.bytes.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.bytes.length));
      larger.set(this.bytes.subarray(0, start));
      this.bytes = larger;
    }
    putHeader(this.bytes, start, type, flags, length, exchange);
    this.#end = end;
    if (this.#marks > 0 && type < FRAME.mark) this.#mixed = MIXED_MARKS;
    this.#flushSoon();
    return start + HEADER_BYTES;
  }

  /** Sends a frame without bytes, or with a number. */
  send(type: number, exchange = 0, number?: number): void {
    const at = this.begin(type, 0, exchange, number === undefined ? 0 : 4);
    if (number !== undefined) putU32(this.bytes, at, number);
  }

  /** Sends a frame with a copy of `bytes`. */
  sendBytes(type: number, flags: number, exchange: number, bytes: Uint8Array): void {
    const at = this.begin(type, flags, exchange, bytes.length);
    this.bytes.set(bytes, at);
  }

  /** The other side has handled all bytes before a mark. `false`: there was none. */
  marked(): boolean {
    if (this.#marks === 0) return false;
    this.#marks--;
    if (this.#bulks.length > 0) this.#flushSoon();
    return true;
  }

  /** `false`: the other side does not read. */
  answerMark(): boolean {
    this.send(FRAME.marked);
    return ++this.#answers < UNREAD_ANSWERS;
  }

  /** Takes back the frame at `at` ({@link begin}) of batch number `batch`. `false`: it may have been sent. */
  recall(batch: number, at: number): boolean {
    if (batch !== this.batch || this.#isClosed) return false;
    this.bytes[at - HEADER_BYTES] = FRAME.none;
    return true;
  }

  /** Whether the frames of batch number `batch` may have been sent. */
  hasSent(batch: number): boolean {
    return batch !== this.batch;
  }

  /** Sends a body in pieces from now on, until it has no more bytes. */
  add(bulk: Bulk): void {
    if (this.#bulks.includes(bulk)) return;
    this.#bulks.push(bulk);
    this.#flushSoon();
  }

  /** Sends the body of a response, which the handler may change: writes as much as the socket accepts, and copies the rest. */
  addNow(bulk: Bulk & { own(): void }): void {
    this.add(bulk);
    this.flush();
    bulk.own();
  }

  /** Sends no more frames of a body than those that the socket has begun to accept. */
  remove(bulk: Bulk): void {
    const at = this.#bulks.indexOf(bulk);
    if (at >= 0) this.#bulks.splice(at, 1);
    if (at >= 0 && this.#bulk !== bulk) bulk.free?.();
  }

  #flushSoon(): void {
    if (this.#isDue || this.#isFull || this.#isFlushing) return;
    this.#isDue = true;
    queueMicrotask(this.#flushDue);
  }

  readonly #flushDue = (): void => {
    this.#isDue = false;
    this.flush();
  };

  /** Writes as much as the socket accepts. */
  flush(): void {
    if (this.#isFlushing || this.#isClosed) return;
    this.#isFlushing = true;
    while (!this.#isFull && this.#fill()) this.#write();
    this.#isFlushing = false;
    if (this.onEmpty && this.isEmpty) this.onEmpty();
  }

  /** Takes the next batch, else the next pieces of bodies. Returns `false` if there is nothing to write. */
  #fill(): boolean {
    if (this.#out) return true;
    if (this.#end > 0) {
      this.#out = this.bytes;
      this.#outEnd = this.#end;
      this.bytes = this.#spare;
      this.#end = 0;
      this.#answers = 0;
      this.batch++;
    } else {
      const bulk = this.#bulks[0];
      if (!bulk || this.#marks >= (this.#mixed > 0 ? MARKS.mixed : MARKS.alone)) return false;
      this.#out = bulk.frames(1);
      this.#outEnd = this.#out.length;
      this.#unmarked += this.#outEnd;
      this.#bulk = bulk;
    }
    this.#outAt = 0;
    return true;
  }

  #write(): void {
    const out = this.#out!;
    const isAll = this.#outAt === 0 && this.#outEnd === out.length;
    this.#outAt += this.#duplex.write(isAll ? out : out.subarray(this.#outAt, this.#outEnd));
    if (this.#outAt < this.#outEnd) {
      this.#isFull = true;
      return;
    }
    this.#out = null;
    this.#outEnd = this.#outAt = 0;
    const bulk = this.#bulk;
    if (!bulk) {
      this.#spare = out.length > KEPT_BYTES ? new Uint8Array(SMALL_BYTES) : out;
      return;
    }
    this.#bulk = null;
    if (this.#unmarked >= MARK_BYTES) {
      this.#unmarked = 0;
      this.#marks++;
      if (this.#mixed > 0) this.#mixed--;
      this.send(FRAME.mark);
    }
    const isWanted = this.#bulks[0] === bulk;
    if (isWanted) this.#bulks.shift();
    if (isWanted && bulk.next()) this.#bulks.push(bulk);
    else if (!this.#bulks.includes(bulk)) bulk.free?.();
  }

  /** Writes nothing from now on. */
  close(): void {
    this.#isClosed = true;
    this.#bulks.length = 0;
    this.#end = this.#outEnd = this.#outAt = 0;
    this.#out = null;
  }
}
