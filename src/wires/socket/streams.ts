/** Bodies of exchanges on a socket: whole bodies in pieces, and streams with credit. */

import type { Incoming } from "../../bus/body-reader.ts";
import type { Outgoing } from "../../bus/body-writer.ts";
import { FLAG, FRAME, FRAME_BYTES } from "./frames.ts";
import type { Bulk, FrameWriter } from "./writer.ts";

/** Number of bytes of a stream that may be on the way or unread, always. */
export const FIRST_CREDIT = 65_536;
/** The same while the connection has room for it. */
export const FULL_CREDIT = 262_144;
/** Bytes beyond {@link FIRST_CREDIT} that all streams of a connection may have together, for each direction. */
const POOL_BYTES = 16 * (FULL_CREDIT - FIRST_CREDIT);
/** Credit is given back in parts of half of it. */
const FIRST_STEP = FIRST_CREDIT / 2;
const FULL_STEP = FULL_CREDIT / 2;
/** Chunks from this size on are written from where they are, if nothing waits: smaller ones travel with other frames. */
const DIRECT_BYTES = 32_768;
/** Size of the memory of small pieces, in bytes. */
const SMALL_BYTES = 8_192;
/** Number of bytes that a stream holds for the writer. */
const PENDING_BYTES = FRAME_BYTES;

const NONE = new Uint8Array(0);

/** Credit that the streams of one connection share, beyond the first of each. */
export class CreditPool {
  #left = POOL_BYTES;

  /** Takes the rest of the full credit of a stream. */
  take(): boolean {
    if (this.#left < FULL_CREDIT - FIRST_CREDIT) return false;
    this.#left -= FULL_CREDIT - FIRST_CREDIT;
    return true;
  }

  giveBack(): void {
    this.#left += FULL_CREDIT - FIRST_CREDIT;
  }
}

/** A streamed body to the other side. */
export class FrameOutgoing implements Outgoing, Bulk {
  onClosed: (() => void) | null = null;
  readonly exchange: number;
  readonly #writer: FrameWriter;
  /** Called when the last frame is passed to the writer, or when the stream ended after {@link close}. */
  readonly #onEnd: (isSent: boolean) => void;
  /** Bytes that are not passed to the writer, and their end. */
  #buffer: Uint8Array = NONE;
  #to = 0;
  /** Memory that the writer has, or had. */
  #spare: Uint8Array = NONE;
  /** Bytes of the caller, within {@link write} only. */
  #direct: Uint8Array | null = null;
  #credit: number;
  #end: { error: Uint8Array | null } | null = null;
  #isClosed = false;
  #isQueued = false;
  #wanted = 0;
  #wake: ((isOpen: boolean) => void) | null = null;

  constructor(exchange: number, writer: FrameWriter, credit: number, onEnd: (isSent: boolean) => void) {
    this.exchange = exchange;
    this.#writer = writer;
    this.#credit = credit;
    this.#onEnd = onEnd;
  }

  write(bytes: Uint8Array, at: number): number {
    if (this.#isClosed) return at;
    const length = Math.min(bytes.length - at, this.#room);
    if (length === 0) return at;
    if (length >= DIRECT_BYTES && this.#to === 0 && !this.#isQueued && this.#writer.isEmpty) {
      this.#direct = length === bytes.length ? bytes : bytes.subarray(at, at + length);
      this.#isQueued = true;
      this.#writer.addNow(this);
      return at + length;
    }
    const to = this.#to + length;
    if (to > this.#buffer.length) this.#grow(to);
    this.#buffer.set(length === bytes.length ? bytes : bytes.subarray(at, at + length), this.#to);
    this.#to = to;
    this.#queue();
    return at + length;
  }

  #grow(bytes: number): void {
    const larger = new Uint8Array(Math.max(bytes, Math.min(2 * bytes, PENDING_BYTES)));
    larger.set(this.#buffer.subarray(0, this.#to));
    this.#buffer = larger;
  }

  /** The caller may change the bytes that it passed to {@link write}. */
  own(): void {
    if (!this.#direct) return;
    this.#buffer = this.#direct.slice();
    this.#to = this.#buffer.length;
    this.#direct = null;
  }

  get #room(): number {
    return Math.min(PENDING_BYTES, this.#credit) - this.#to;
  }

  #queue(): void {
    if (this.#isQueued || this.#to === 0) return;
    this.#isQueued = true;
    this.#writer.add(this);
  }

  reserve(wanted: number): Promise<boolean> {
    const bytes = Math.min(wanted, PENDING_BYTES / 2);
    if (this.#isClosed || this.#room >= bytes) return Promise.resolve(!this.#isClosed);
    this.#wanted = bytes;
    return new Promise((resolve) => (this.#wake = resolve));
  }

  #tell(): void {
    if (!this.#wake || (!this.#isClosed && this.#room < this.#wanted)) return;
    const wake = this.#wake;
    this.#wake = null;
    wake(!this.#isClosed);
  }

  flush(): boolean {
    return !this.#isClosed;
  }

  end(errorHead: Uint8Array | null): void {
    if (this.#end) return;
    this.#end = { error: errorHead };
    if (this.#isClosed) this.#onEnd(false);
    else if (!this.#isQueued) this.#sendEnd();
  }

  #sendEnd(): void {
    const error = this.#end!.error;
    if (error) this.#writer.sendBytes(FRAME.end, FLAG.error, this.exchange, error);
    else this.#writer.send(FRAME.end, this.exchange);
    this.#isClosed = true;
    this.#onEnd(true);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#to = 0;
    this.#direct = null;
    if (this.#isQueued) this.#writer.remove(this);
    this.#isQueued = false;
    this.#tell();
    if (this.#end) this.#onEnd(false);
  }

  /** The other side takes no more bytes. */
  stop(): void {
    if (this.#isClosed) return;
    const { onClosed } = this;
    this.close();
    onClosed?.();
  }

  /** More bytes may be sent. `false`: the other side gives more credit than there can be. */
  addCredit(bytes: number): boolean {
    this.#credit += bytes;
    if (bytes === 0 || this.#credit > FULL_CREDIT) return false;
    this.#queue();
    this.#tell();
    return true;
  }

  piece(): Uint8Array {
    if (this.#direct) {
      const direct = this.#direct;
      this.#direct = null;
      this.#credit -= direct.length;
      return direct;
    }
    const piece = this.#buffer.subarray(0, this.#to);
    this.#credit -= this.#to;
    const spare = this.#spare;
    this.#spare = this.#buffer;
    this.#buffer = spare;
    this.#to = 0;
    this.#tell();
    return piece;
  }

  next(): boolean {
    if (this.#isClosed) return false;
    if (this.#to > 0) return true;
    this.#isQueued = false;
    if (this.#end) this.#sendEnd();
    return false;
  }
}

/** A streamed body from the other side. */
export class FrameIncoming implements Incoming {
  onMoved: (() => void) | null = null;
  end: "open" | "end" | "error" = "open";
  readonly #exchange: number;
  readonly #writer: FrameWriter;
  readonly #pool: CreditPool;
  #pieces: Uint8Array[] = [];
  #first = 0;
  /** Memory of small pieces. */
  #small: Uint8Array | null = null;
  #smallBytes = 0;
  /** Bytes that may still arrive. */
  #credit = FIRST_CREDIT;
  /** Bytes that were read and not given back. */
  #taken = 0;
  #isFull = false;
  #isOver = false;
  #state: "open" | "end" | "error" = "open";
  #error: Uint8Array | null = null;

  /** `grants`: the first credit is sent, because the other side waits for it. */
  constructor(exchange: number, writer: FrameWriter, pool: CreditPool, grants: boolean) {
    this.#exchange = exchange;
    this.#writer = writer;
    this.#pool = pool;
    this.#isFull = pool.take();
    if (this.#isFull) this.#credit = FULL_CREDIT;
    const sent = this.#credit - (grants ? 0 : FIRST_CREDIT);
    if (sent > 0) writer.send(FRAME.credit, exchange, sent);
  }

  /** Bytes arrived. `false`: more than there was credit for, or after the end. */
  arrived(piece: Uint8Array): boolean {
    if (piece.length > this.#credit || this.#state !== "open") return false;
    this.#credit -= piece.length;
    if (!this.#isOver && !this.#joinSmall(piece)) this.#pieces.push(piece.slice());
    return true;
  }

  /** Copies a small piece behind the last small piece, so that many of them take little memory. */
  #joinSmall(piece: Uint8Array): boolean {
    if (piece.length > SMALL_BYTES / 4) return false;
    const from = this.#smallBytes;
    if (!this.#small || from + piece.length > SMALL_BYTES) {
      this.#small = new Uint8Array(SMALL_BYTES);
      this.#smallBytes = 0;
    }
    const at = this.#smallBytes;
    this.#small.set(piece, at);
    this.#smallBytes += piece.length;
    const last = this.#pieces[this.#pieces.length - 1];
    const isNext = at > 0 && last?.buffer === this.#small.buffer && last.byteOffset + last.length === at;
    if (isNext) this.#pieces[this.#pieces.length - 1] = this.#small.subarray(last.byteOffset, this.#smallBytes);
    else this.#pieces.push(this.#small.subarray(at, this.#smallBytes));
    return true;
  }

  /** The stream has ended. `false`: it had ended before. */
  ended(error: Uint8Array | null): boolean {
    if (this.#state !== "open") return false;
    this.#state = error ? "error" : "end";
    this.#error = error && error.slice();
    return true;
  }

  read(into: Uint8Array | null): Uint8Array | null {
    if (this.#isOver) return null;
    const piece = this.#pieces[this.#first];
    if (!piece) {
      this.end = this.#state;
      return null;
    }
    let chunk = piece;
    if (into && piece.length > into.length) {
      chunk = piece.subarray(0, into.length);
      this.#pieces[this.#first] = piece.subarray(into.length);
    } else {
      this.#pieces[this.#first++] = undefined!;
      if (this.#first === this.#pieces.length) this.#first = this.#pieces.length = 0;
    }
    this.#giveCredit(chunk.length);
    if (!into) return chunk;
    into.set(chunk);
    return into.subarray(0, chunk.length);
  }

  #giveCredit(bytes: number): void {
    this.#taken += bytes;
    if (this.#taken < (this.#isFull ? FULL_STEP : FIRST_STEP) || this.#state !== "open") return;
    if (!this.#isFull && this.#pool.take()) {
      this.#isFull = true;
      this.#taken += FULL_CREDIT - FIRST_CREDIT;
    }
    this.#credit += this.#taken;
    this.#writer.send(FRAME.credit, this.#exchange, this.#taken);
    this.#taken = 0;
  }

  errorHead(): Uint8Array | null {
    return this.#error;
  }

  /** Discards what has arrived and what will arrive. */
  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#pieces = [];
    if (this.#isFull) this.#pool.giveBack();
    this.#isFull = false;
  }
}
