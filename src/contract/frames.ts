/**
 * Items in a stream of bytes whose chunks keep no boundaries:
 *
 *     u8 kind, u32 length (little endian), payload
 *
 * A stream ends with a frame that says so: one that ends otherwise was cut.
 */

import { SlotbusError, PayloadTooLargeError } from "../errors.ts";

export const FRAME = {
  /** A value, by the contract's codec. */
  value: 1,
  /** A `Uint8Array`. */
  bytes: 2,
  /** `undefined`. */
  nothing: 3,
  /** Why there are no more items. The last frame. */
  failure: 4,
  /** There are no more items. The last frame. */
  end: 5,
  /** In an output: the handler reads no more of the input. */
  enough: 6,
} as const;

export interface Frame {
  kind: number;
  /** May be a view of what was pushed. */
  payload: Uint8Array;
}

const HEADER = 5;
/** A failure may have so many bytes, also where bodies have less. */
const FAILURE_MAX = 2 ** 20;
/** A frame of up to so many bytes or characters is made where the one before it was. */
const SMALL = 4_096;
const nothing = new Uint8Array(0);

/** A whole frame. */
export const ENOUGH = Uint8Array.of(FRAME.enough, 0, 0, 0, 0);

function limitOf(kind: number, limit: number): number {
  return kind === FRAME.failure ? Math.max(limit, FAILURE_MAX) : limit;
}

/** Writes frames whose payloads have at most `limit` bytes. */
export class FrameWriter {
  readonly #limit: number;
  #small = Buffer.allocUnsafe(256);

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Valid until the next one is made. Throws {@link PayloadTooLargeError}. */
  write(kind: number, payload: Uint8Array | string = nothing): Uint8Array {
    const units = payload.length;
    const small = units <= SMALL;
    let length = typeof payload === "string" && !small ? Buffer.byteLength(payload) : units;
    this.#check(kind, length);
    const frame = small ? this.#room(HEADER + 3 * units) : Buffer.allocUnsafe(HEADER + length); // 3 bytes a unit at most
    if (typeof payload === "string") length = frame.write(payload, HEADER);
    else frame.set(payload, HEADER);
    if (length > units) this.#check(kind, length);
    frame[0] = kind;
    frame[1] = length;
    frame[2] = length >>> 8;
    frame[3] = length >>> 16;
    frame[4] = length >>> 24;
    return frame.subarray(0, HEADER + length);
  }

  #check(kind: number, length: number): void {
    if (length > limitOf(kind, this.#limit)) throw new PayloadTooLargeError("item", length, this.#limit, true);
  }

  #room(bytes: number): Buffer {
    if (bytes > this.#small.length) this.#small = Buffer.allocUnsafe(2 * bytes);
    return this.#small;
  }
}

/** Finds frames in chunks. Work and memory are linear in the bytes, however they are cut, and `limit` bounds a frame. */
export class FrameReader {
  readonly #limit: number;
  /** What is read, from `#at` on, and what came behind it. */
  #bytes: Uint8Array = nothing;
  #at = 0;
  #behind: Uint8Array[] = [];
  #available = 0;
  /** Bytes without which there is no next step. */
  #needed = HEADER;
  #ended = false;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Takes a private copy of bytes. Throws `PROTOCOL` for bytes behind the last frame. */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    if (this.#ended) throw new SlotbusError("PROTOCOL", "a stream went on behind its end.");
    if (this.#available === 0) {
      this.#bytes = chunk;
      this.#at = 0;
    } else {
      this.#behind.push(chunk);
    }
    this.#available += chunk.length;
  }

  /**
   * The next frame that is complete; `null` until more is pushed. Throws `PROTOCOL` for what is none, and
   * {@link PayloadTooLargeError} as soon as a frame says that it is too large.
   */
  next(): Frame | null {
    while (this.#available >= this.#needed) {
      if (this.#behind.length > 0) this.#join();
      const bytes = this.#bytes;
      const at = this.#at;
      const kind = bytes[at]!;
      const length = (bytes[at + 1]! | (bytes[at + 2]! << 8) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 24)) >>> 0;
      if (kind < FRAME.value || kind > FRAME.enough) {
        throw new SlotbusError("PROTOCOL", `a stream has a frame of kind ${kind}, which no version writes.`);
      }
      if (length > limitOf(kind, this.#limit)) throw new PayloadTooLargeError("item", length, this.#limit, true);
      const size = HEADER + length;
      this.#needed = size;
      if (this.#available < size) continue;
      this.#needed = HEADER;
      this.#at += size;
      this.#available -= size;
      this.#ended = kind === FRAME.failure || kind === FRAME.end;
      if (this.#ended && this.#available > 0) throw new SlotbusError("PROTOCOL", "a stream went on behind its end.");
      return { kind, payload: bytes.subarray(at + HEADER, at + size) };
    }
    return null;
  }

  /** Call when nothing more comes. Throws `PROTOCOL` unless the last frame was seen. */
  finish(): void {
    if (this.#ended) return;
    throw new SlotbusError(
      "PROTOCOL",
      `a stream was cut: its end is missing, ${this.#available} bytes of a frame are there.`,
    );
  }

  #join(): void {
    this.#bytes = Bun.concatArrayBuffers([this.#bytes.subarray(this.#at), ...this.#behind], Infinity, true);
    this.#at = 0;
    this.#behind = [];
  }
}
