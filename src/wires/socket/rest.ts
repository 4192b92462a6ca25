/** Heads and bodies that do not fit into the frame of their request or response. */

import type { Bulk } from "./writer.ts";

/** Memory that is kept for the next bodies, in bytes: new memory would cost more time than the copy. */
const KEPT_BYTES = 8_388_608;

/**
 * Offset of the bytes in their memory. Processors copy many times slower to an address that is less than 32 bytes above the source,
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
 * The rest of a whole head and body, in BODY frames. A caller does not change the body of a request before it settles, so it is
 * written from its memory. A handler may change its response: what the socket accepts at once is written from its memory, and
 * {@link own} copies the remaining bytes, while the other side already reads.
 */
export class Rest implements Bulk {
  readonly exchange: number;
  readonly #onSent: (() => void) | null;
  /** The bytes, from `#from` of the first part on. */
  readonly #parts: Uint8Array[];
  #from = 0;
  /** Memory of {@link own}. */
  #copy: Uint8Array = NONE;

  /** `onSent` is called when the socket has the last byte. */
  constructor(exchange: number, parts: Uint8Array[], onSent: (() => void) | null) {
    this.exchange = exchange;
    this.#parts = parts.filter(({ length }) => length > 0);
    this.#onSent = onSent;
  }

  /** Whether the writer has the last bytes. */
  get isSent(): boolean {
    return this.#parts.length === 0;
  }

  piece(most: number): Uint8Array {
    const part = this.#parts[0]!;
    const piece = part.subarray(this.#from, this.#from + most);
    this.#from += piece.length;
    if (this.#from < part.length) return piece;
    this.#parts.shift();
    this.#from = 0;
    return piece;
  }

  /** Copies the bytes that the writer does not have. Call it before user code runs. */
  own(): void {
    if (this.isSent) return;
    const left = this.#parts.reduce((sum, { length }) => sum + length, -this.#from);
    this.#copy = take(START + left);
    let at = START;
    while (this.#parts.length > 0) {
      const piece = this.piece(Infinity);
      this.#copy.set(piece, at);
      at += piece.length;
    }
    this.#parts.push(this.#copy.subarray(START, at));
  }

  next(): boolean {
    if (!this.isSent) return true;
    this.#onSent?.();
    return false;
  }

  /** The memory is used again. */
  free(): void {
    giveBack(this.#copy);
    this.#copy = NONE;
  }
}
