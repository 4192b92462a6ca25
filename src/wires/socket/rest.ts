/** Heads and bodies that do not fit into the frame of their request or response: frames in memory, ready to be sent. */

import { type Bulk, FRAME, FRAME_BYTES, HEADER_BYTES, putHeader } from "./frames.ts";

/** Memory that is kept for the next bodies, in bytes: new memory would cost more time than the copy. */
const KEPT_BYTES = 8_388_608;

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
  if (keptBytes + bytes.length > KEPT_BYTES) return;
  kept.push(bytes);
  keptBytes += bytes.length;
}

/** Frees the memory that is kept for speed. */
export function freeKept(): void {
  kept = [];
  keptBytes = 0;
}

/** A copy of the rest of a whole head and body, in BODY frames. */
export class Rest implements Bulk {
  readonly #onSent: (() => void) | null;
  #frames: Uint8Array;
  readonly #end: number;
  #at = 0;

  /** Copies `parts`, one after another. `onSent` is called when the socket has the last frame. */
  constructor(exchange: number, parts: readonly Uint8Array[], onSent: (() => void) | null) {
    let total = 0;
    for (const part of parts) total += part.length;
    this.#end = total + Math.ceil(total / FRAME_BYTES) * HEADER_BYTES;
    const frames = (this.#frames = take(this.#end));
    this.#onSent = onSent;
    let at = 0;
    let room = 0;
    for (const part of parts) {
      for (let from = 0; from < part.length;) {
        if (room === 0) {
          room = Math.min(FRAME_BYTES, total);
          putHeader(frames, at, FRAME.body, 0, room, exchange);
          at += HEADER_BYTES;
        }
        const length = Math.min(room, part.length - from);
        frames.set(part.subarray(from, from + length), at);
        at += length;
        from += length;
        room -= length;
        total -= length;
      }
    }
  }

  get isSent(): boolean {
    return this.#at === this.#end;
  }

  /** Returns the next frames, at most `count`, and counts them as sent. Valid until {@link next} returns `false`. */
  frames(count: number): Uint8Array {
    const from = this.#at;
    this.#at = Math.min(this.#end, from + count * (FRAME_BYTES + HEADER_BYTES));
    return this.#frames.subarray(from, this.#at);
  }

  next(): boolean {
    if (!this.isSent) return true;
    this.#onSent?.();
    return false;
  }

  /** Called once, when the socket has all frames or none are wanted any more: the memory is used again. */
  free(): void {
    giveBack(this.#frames);
    this.#frames = new Uint8Array(0);
  }
}
