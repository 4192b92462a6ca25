/** Heads and bodies that do not fit into the frame of their request or response: frames in memory, ready to be sent. */

import { type Bulk, FRAME, FRAME_BYTES, HEADER_BYTES, putHeader } from "./frames.ts";

/** Memory that is kept for the next bodies, in bytes: new memory would cost more time than the copy. */
const KEPT_BYTES = 8_388_608;

/**
 * Offset of the first frame in its memory. Processors copy many times slower to an address that is less than 32 bytes above the source,
 * modulo the size of a page, and large bodies usually start at the start of a page, as this memory does.
 */
const START = 2_048;
const NONE = new Uint8Array(0);

let kept: Uint8Array[] = [];
let keptBytes = 0;

/** Returns memory of at least `bytes` bytes. */
function take(bytes: number): Uint8Array {
  const at = kept.findIndex((one) => one.length >= bytes && one.length <= 4 * bytes);
  if (at < 0) return new Uint8Array(bytes);
  const [found] = kept.splice(at, 1) as [Uint8Array];
  keptBytes -= found.length;
  return found;
}

function giveBack(bytes: Uint8Array): void {
  if (bytes.length === 0 || keptBytes + bytes.length > KEPT_BYTES) return;
  kept.push(bytes);
  keptBytes += bytes.length;
}

/** Frees the memory that is kept for speed. */
export function freeKept(): void {
  kept = [];
  keptBytes = 0;
}

/**
 * The rest of a whole head and body, in BODY frames. A caller does not change the body of a request before it settles, so its memory
 * is read until then. A handler may change its response: what the socket accepts at once is sent from its memory, and {@link own}
 * copies the remaining bytes, while the other side already reads.
 */
export class Rest implements Bulk {
  readonly #exchange: number;
  readonly #onSent: (() => void) | null;
  /** Bytes that are not in frames yet, from `#from` of the first part on. */
  #parts: Uint8Array[];
  #from = 0;
  /** Number of those bytes. */
  #left: number;
  /** Frames that are being sent, or all remaining frames after {@link own}. */
  #frames: Uint8Array = NONE;
  #at = 0;
  #end = 0;
  /** Memory of the frames that were sent before {@link own}, which the socket may still need. */
  #before: Uint8Array = NONE;

  /** `onSent` is called when the socket has the last frame. */
  constructor(exchange: number, parts: Uint8Array[], onSent: (() => void) | null) {
    this.#exchange = exchange;
    this.#parts = parts;
    this.#onSent = onSent;
    this.#left = parts.reduce((sum, { length }) => sum + length, 0);
  }

  get isSent(): boolean {
    return this.#left === 0 && this.#at === this.#end;
  }

  /** Copies the bytes that the socket has not accepted. Call it before user code runs. */
  own(): void {
    if (this.#left === 0) return;
    this.#before = this.#frames;
    this.#frames = take(START + this.#left + Math.ceil(this.#left / FRAME_BYTES) * HEADER_BYTES);
    this.#fill(Infinity);
    this.#parts = [];
  }

  /** Puts the next bytes into frames, at most `count`, from the start of the memory. */
  #fill(count: number): void {
    const frames = this.#frames;
    let at = START;
    for (let n = 0; n < count && this.#left > 0; n++) {
      let room = Math.min(FRAME_BYTES, this.#left);
      this.#left -= room;
      putHeader(frames, at, FRAME.body, 0, room, this.#exchange);
      at += HEADER_BYTES;
      while (room > 0) {
        const part = this.#parts[0]!;
        const piece = part.subarray(this.#from, this.#from + room);
        frames.set(piece, at);
        at += piece.length;
        room -= piece.length;
        this.#from += piece.length;
        if (this.#from < part.length) continue;
        this.#parts.shift();
        this.#from = 0;
      }
    }
    this.#at = START;
    this.#end = at;
  }

  frames(count: number): Uint8Array {
    if (this.#at === this.#end) {
      if (this.#frames.length === 0) this.#frames = take(START + count * (FRAME_BYTES + HEADER_BYTES));
      this.#fill(count);
    }
    const from = this.#at;
    this.#at = Math.min(this.#end, from + count * (FRAME_BYTES + HEADER_BYTES));
    return this.#frames.subarray(from, this.#at);
  }

  next(): boolean {
    if (!this.isSent) return true;
    this.#onSent?.();
    return false;
  }

  /** The memory is used again. */
  free(): void {
    giveBack(this.#before);
    giveBack(this.#frames);
    this.#before = this.#frames = NONE;
  }
}
