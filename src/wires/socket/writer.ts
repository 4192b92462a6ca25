/** Writes frames to a socket: small ones at once, bodies in turns behind them. */

import type { Duplex } from "./duplex.ts";
import { BODY_FRAME_BYTES, FRAME, FRAME_BYTES, HEADER_BYTES, type Marks, putHeader, putU32 } from "./frames.ts";

/** A body that is sent in pieces, in turns with other bodies. */
export interface Bulk {
  /** The exchange that it belongs to. */
  readonly exchange: number;
  /** Returns the next bytes, 1 to `most`. They stay where they are until {@link next} is called. */
  piece(most: number): Uint8Array;
  /** The writer needs the piece no longer. Sends what comes after the last one. Returns whether there are more now. */
  next(): boolean;
  /** Called once, when the writer needs its memory no longer. */
  free?(): void;
  /** Called when the memory of a piece was detached or resized before it was written. Zeros are sent. */
  onDetached?: (() => void) | null;
}

/**
 * Bodies while there are other frames, and without them, in bytes. `onTheWay`: no piece begins while the other side has not handled
 * that many bytes, because what comes next waits behind them. `piece`: the largest piece. `mark`: bytes after which a mark goes before
 * the next piece.
 */
const MIXED = { onTheWay: 32_768, piece: 32_768, mark: 32_768 };
/** The same where an answer takes hundreds of microseconds: {@link Duplex.isFar}. */
const MIXED_FAR = { onTheWay: 131_072, piece: FRAME_BYTES, mark: 65_536 };
const ALONE = { onTheWay: 1_048_576, piece: BODY_FRAME_BYTES, mark: 524_288 };
/** Number of bytes of bodies after which they are alone, if no other frames came. */
const MIXED_BYTES = 4_194_304;
/** Pieces up to this size are copied behind the frames before them: a copy is faster than another write. */
const COPIED_BYTES = 16_384;
/** Number of answers to marks that may wait for a peer that does not read. */
const UNREAD_ANSWERS = 4_096;
const SMALL_BYTES = 16_384;
/** Frames of this size together are written before the end of the turn: the other side then works while this side goes on. */
const EARLY_BYTES = 1_024;
/** A batch that grew beyond this size is not kept. */
const KEPT_BYTES = 262_144;

/**
 * The only writer of a connection. The frames of one turn go out in few writes. Large bodies go after all of them, in turns of one frame
 * each, from where they are: the header is the end of a batch, and the piece of the body is the next write.
 */
export class FrameWriter implements Marks {
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
  /** The body whose frame has begun, and the bytes of the frame; `null` once they are being written. */
  #bulk: Bulk | null = null;
  #piece: Uint8Array | null = null;
  #pieceBytes = 0;
  readonly #bulks: Bulk[] = [];
  /** Bytes of bodies since the last mark, and those before each mark without an answer. */
  #unmarked = 0;
  readonly #marks: number[] = [];
  #onTheWay = 0;
  /** Number of bytes of bodies until they are alone. */
  #mixed = 0;
  /** The same before the last frame, and the exchange of that frame. */
  #mixedBefore = 0;
  #last = 0;
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
    return this.#end + (this.#bulk && !this.#piece ? 0 : this.#outEnd - this.#outAt);
  }

  get isEmpty(): boolean {
    return this.#end === 0 && !this.#out && !this.#bulk && this.#bulks.length === 0;
  }

  /** Starts a frame and returns the offset in {@link bytes} at which the caller stores its `length` bytes, at once. */
  begin(type: number, flags: number, exchange: number, length: number): number {
    if (this.#end >= EARLY_BYTES && !this.#isFull) this.flush();
    const at = this.#put(type, flags, exchange, length, length);
    this.#last = exchange;
    this.#mixedBefore = this.#mixed;
    const isBusy = this.#onTheWay > 0 || this.#bulk !== null || this.#bulks.length > 0;
    if (isBusy && type < FRAME.mark) this.#mixed = MIXED_BYTES;
    this.#flushSoon();
    return at;
  }

  /** Adds the header of a frame of `length` bytes, and room for `room` of them, to the batch. */
  #put(type: number, flags: number, exchange: number, length: number, room: number): number {
    const start = this.#end;
    const end = start + HEADER_BYTES + room;
    if (end > this.bytes.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.bytes.length));
      larger.set(this.bytes.subarray(0, start));
      this.bytes = larger;
    }
    putHeader(this.bytes, start, type, flags, length, exchange);
    this.#end = end;
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

  marked(): boolean {
    const bytes = this.#marks.shift();
    if (bytes === undefined) return false;
    this.#onTheWay -= bytes;
    if (this.#bulks.length > 0) this.#flushSoon();
    return true;
  }

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
    if (bulk.exchange === this.#last) this.#mixed = this.#mixedBefore; // the frame before is its head: no small request
    this.#bulks.push(bulk);
    this.#flushSoon();
  }

  /** Sends the body of a response, which the handler may change: writes as much as the socket accepts, and copies the rest. */
  addNow(bulk: Bulk & { own(): void }): void {
    this.add(bulk);
    this.flush();
    if (this.#bulk === bulk) this.#ownPiece();
    bulk.own();
  }

  #ownPiece(): void {
    if (this.#piece) {
      this.#piece = this.#piece.slice();
    } else if (this.#out) {
      this.#out = this.#out.slice(this.#outAt, this.#outEnd);
      this.#outEnd -= this.#outAt;
      this.#outAt = 0;
    }
  }

  /** Sends no more frames of a body than those that it has begun. */
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

  /** Takes what is written next. Returns `false` if there is nothing. */
  #fill(): boolean {
    if (this.#out) return true;
    if (this.#piece) {
      this.#out = this.#piece;
      this.#outEnd = this.#pieceBytes;
      this.#piece = null;
      return true;
    }
    while (this.#bulks.length > 0 && !this.#bulk && this.#end < SMALL_BYTES && this.#makeRoom())
      this.#beginPiece(this.#bulks[0]!);
    if (this.#end === 0) return false;
    this.#out = this.bytes;
    this.#outEnd = this.#end;
    this.bytes = this.#spare;
    this.#end = 0;
    this.#answers = 0;
    this.batch++;
    return true;
  }

  get #pace(): typeof MIXED {
    if (this.#mixed === 0) return ALONE;
    return this.#duplex.isFar ? MIXED_FAR : MIXED;
  }

  /** Asks how much of the bodies was handled. Returns whether another piece may begin. */
  #makeRoom(): boolean {
    const { mark, onTheWay } = this.#pace;
    if (this.#unmarked >= mark) {
      this.#marks.push(this.#unmarked);
      this.#onTheWay += this.#unmarked;
      this.#unmarked = 0;
      this.#put(FRAME.mark, 0, 0, 0, 0);
    }
    return this.#onTheWay + this.#unmarked < onTheWay;
  }

  /** Adds the header of the next piece of a body to the batch, and the piece itself if it is short. */
  #beginPiece(bulk: Bulk): void {
    const piece = bulk.piece(this.#pace.piece);
    const { length } = piece;
    const isShort = length <= COPIED_BYTES;
    const at = this.#put(FRAME.body, 0, bulk.exchange, length, isShort ? length : 0);
    this.#unmarked += length;
    this.#mixed = Math.max(0, this.#mixed - length);
    this.#bulk = bulk;
    if (isShort) {
      this.bytes.set(piece, at);
      this.#endPiece(bulk);
    } else {
      this.#piece = piece;
      this.#pieceBytes = length;
    }
  }

  /** The piece of a body is written, or in the batch. */
  #endPiece(bulk: Bulk): void {
    this.#bulk = null;
    const isWanted = this.#bulks[0] === bulk;
    if (isWanted) this.#bulks.shift();
    if (isWanted && bulk.next()) this.#bulks.push(bulk);
    else if (!this.#bulks.includes(bulk)) bulk.free?.();
  }

  #write(): void {
    let out = this.#out!;
    if (out.length < this.#outEnd) {
      this.#out = out = new Uint8Array(this.#outEnd);
      this.#bulk?.onDetached?.();
    }
    const isAll = this.#outAt === 0 && this.#outEnd === out.length;
    this.#outAt += this.#duplex.write(isAll ? out : out.subarray(this.#outAt, this.#outEnd));
    if (this.#outAt < this.#outEnd) {
      this.#isFull = true;
      return;
    }
    this.#out = null;
    this.#outEnd = this.#outAt = 0;
    if (this.#bulk && !this.#piece) this.#endPiece(this.#bulk);
    else this.#spare = out.length > KEPT_BYTES ? new Uint8Array(SMALL_BYTES) : out;
  }

  /** Writes nothing from now on. */
  close(): void {
    this.#isClosed = true;
    this.#bulks.length = 0;
    this.#end = this.#outEnd = this.#outAt = 0;
    this.#out = this.#piece = this.#bulk = null;
  }
}
