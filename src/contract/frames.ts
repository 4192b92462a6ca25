/**
 * Items in a stream of bytes whose chunks keep no boundaries:
 *
 *     u8 kind, u32 length (little endian), payload
 *
 * A stream ends with a frame that says so: one that ends otherwise was cut.
 */

import { ProtocolError } from "../errors.ts";

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
} as const;

export interface Frame {
  kind: number;
  /** May be a view of what was pushed. */
  payload: Uint8Array;
}

const HEADER = 5;
/** As much as a body may have at most. */
const PAYLOAD_MAX = 2 ** 30;

export function encodeFrame(kind: number, payload: Uint8Array | string): Uint8Array {
  const text = typeof payload === "string";
  const length = text ? Buffer.byteLength(payload) : payload.length;
  if (length > PAYLOAD_MAX) throw new ProtocolError(`an item of ${length} bytes is larger than a body can be.`);
  const frame = Buffer.allocUnsafe(HEADER + length);
  frame[0] = kind;
  frame.writeUInt32LE(length, 1);
  if (text) frame.write(payload, HEADER);
  else frame.set(payload, HEADER);
  return frame;
}

/** Finds frames in chunks. Work and memory are linear in the bytes, however they are cut. */
export class FrameReader {
  #parts: Uint8Array[] = [];
  #available = 0;
  /** Bytes without which there is no next step. */
  #needed = HEADER;
  #ended = false;

  /** Throws {@link ProtocolError} for bytes behind the last frame. */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    if (this.#ended) throw new ProtocolError("a stream went on behind its end.");
    this.#parts.push(chunk);
    this.#available += chunk.length;
  }

  /** The next frame that is complete; `null` until more is pushed. Throws {@link ProtocolError} for what is none. */
  next(): Frame | null {
    while (this.#available >= this.#needed) {
      const bytes = this.#join();
      const kind = bytes[0]!;
      const length = (bytes[1]! | (bytes[2]! << 8) | (bytes[3]! << 16) | (bytes[4]! << 24)) >>> 0;
      if (kind < FRAME.value || kind > FRAME.end || length > PAYLOAD_MAX) {
        throw new ProtocolError(`a stream has a frame of kind ${kind} and ${length} bytes, which no version writes.`);
      }
      const size = HEADER + length;
      if (bytes.length < size) {
        this.#needed = size;
        continue;
      }
      this.#keep(bytes.subarray(size));
      this.#ended = kind === FRAME.failure || kind === FRAME.end;
      if (this.#ended && this.#available > 0) throw new ProtocolError("a stream went on behind its end.");
      return { kind, payload: bytes.subarray(HEADER, size) };
    }
    return null;
  }

  /** Call when nothing more comes. Throws {@link ProtocolError} unless the last frame was seen. */
  finish(): void {
    if (this.#ended) return;
    throw new ProtocolError(`a stream was cut: its end is missing, ${this.#available} bytes of a frame are there.`);
  }

  #join(): Uint8Array {
    if (this.#parts.length > 1) this.#parts = [Buffer.concat(this.#parts, this.#available)];
    return this.#parts[0]!;
  }

  #keep(rest: Uint8Array): void {
    this.#parts = rest.length > 0 ? [rest] : [];
    this.#available = rest.length;
    this.#needed = HEADER;
  }
}
