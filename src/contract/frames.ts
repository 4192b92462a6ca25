/**
 * Frames for the items of a stream, independent of how the bytes are cut into chunks:
 *
 *     u8 kind, u32 length (little endian), payload
 *
 * The last frame is `end` or `failure`. A stream without such a frame was cut off.
 */

import { SlotbusError, PayloadTooLargeError } from "../errors.ts";
import { concat } from "../runtime.ts";

export const FRAME = {
  /** A value, encoded by the contract's codec. */
  value: 1,
  /** A `Uint8Array`. */
  bytes: 2,
  /** `undefined`. */
  nothing: 3,
  /** The error that ended the items. Last frame. */
  failure: 4,
  /** There are no more items. Last frame. */
  end: 5,
  /** In an output: the handler has stopped reading the input. */
  enough: 6,
} as const;

export interface Frame {
  kind: number;
  /** May be a view of a pushed chunk. */
  payload: Uint8Array;
}

const HEADER = 5;
/** Bytes that a failure may always have, even if the payload limit is lower. */
const FAILURE_MAX = 2 ** 20;
/** Frames of up to this many bytes or characters reuse one buffer. */
const SMALL = 4_096;
const nothing = new Uint8Array(0);
const AFTER_END = "An item stream has bytes after its last frame.";

/** A complete frame of kind `enough`. */
export const ENOUGH = Uint8Array.of(FRAME.enough, 0, 0, 0, 0);

function limitOf(kind: number, limit: number): number {
  return kind === FRAME.failure ? Math.max(limit, FAILURE_MAX) : limit;
}

/** Writes frames with payloads of at most `limit` bytes. */
export class FrameWriter {
  readonly #limit: number;
  #small = Buffer.allocUnsafe(256);

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Returns a frame, valid until the next call. Throws {@link PayloadTooLargeError}. */
  write(kind: number, payload: Uint8Array | string = nothing): Uint8Array {
    const units = payload.length;
    const small = units <= SMALL;
    let length = typeof payload === "string" && !small ? Buffer.byteLength(payload) : units;
    this.#check(kind, length);
    const frame = small ? this.#room(HEADER + 3 * units) : Buffer.allocUnsafe(HEADER + length); // at most 3 bytes per UTF-16 unit
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

/** The handler has run: it sends items, or reads them. */
function malformed(what: string): SlotbusError {
  return new SlotbusError("PROTOCOL", what, { mayHaveExecuted: true });
}

/** Reads frames from chunks. Work and memory are linear in the bytes, however they are cut. `limit` bounds each frame. */
export class FrameReader {
  readonly #limit: number;
  /** Chunk that is being read, from `#at` on; later chunks are in `#behind`. */
  #bytes: Uint8Array = nothing;
  #at = 0;
  #behind: Uint8Array[] = [];
  #available = 0;
  /** Bytes needed for the next step. */
  #needed = HEADER;
  #ended = false;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Adds a chunk and keeps it: pass a private copy. Throws `PROTOCOL` for bytes after the last frame. */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    if (this.#ended) throw malformed(AFTER_END);
    if (this.#available === 0) {
      this.#bytes = chunk;
      this.#at = 0;
    } else {
      this.#behind.push(chunk);
    }
    this.#available += chunk.length;
  }

  /**
   * Returns the next complete frame, or `null` until more bytes are pushed. Throws `PROTOCOL` for an invalid frame, and
   * {@link PayloadTooLargeError} as soon as the header of a frame exceeds the limit.
   */
  next(): Frame | null {
    while (this.#available >= this.#needed) {
      if (this.#behind.length > 0) this.#join();
      const bytes = this.#bytes;
      const at = this.#at;
      const kind = bytes[at]!;
      const length = (bytes[at + 1]! | (bytes[at + 2]! << 8) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 24)) >>> 0;
      if (kind < FRAME.value || kind > FRAME.enough) {
        throw malformed(`An item stream has a frame of the unknown kind ${kind}.`);
      }
      if (length > limitOf(kind, this.#limit)) throw new PayloadTooLargeError("item", length, this.#limit, true);
      const size = HEADER + length;
      this.#needed = size;
      if (this.#available < size) continue;
      this.#needed = HEADER;
      this.#at += size;
      this.#available -= size;
      this.#ended = kind === FRAME.failure || kind === FRAME.end;
      if (this.#ended && this.#available > 0) throw malformed(AFTER_END);
      return { kind, payload: bytes.subarray(at + HEADER, at + size) };
    }
    return null;
  }

  /** Call at the end of the bytes. Throws `PROTOCOL` if the last frame is missing. */
  finish(): void {
    if (this.#ended) return;
    const after = `after ${this.#available} bytes of an incomplete frame`;
    throw malformed(`An item stream was cut off: its last frame is missing, ${after}.`);
  }

  #join(): void {
    this.#bytes = concat([this.#bytes.subarray(this.#at), ...this.#behind]);
    this.#at = 0;
    this.#behind = [];
  }
}
