/** What streams: chunks of known bytes, in order; and whoever checks that they arrive. */

import { CommandError } from "../../usage.ts";

/** What a contestant asks its other side for. */
export interface Order {
  /** An async generator where the system takes one, or a loop: the fastest plain way to write that the system has. */
  how: "generator" | "loop";
  /** Bytes of a chunk, a power of two. */
  chunk: number;
  /** Of the whole stream. */
  bytes: number;
}

/** Byte `n` of a stream of chunks of `chunk` bytes. */
function byteAt(n: number, chunk: number): number {
  return ((n & (chunk - 1)) * 31 + 7) & 255;
}

/** One chunk; all of a stream are equal, and no byte of it equals its neighbours. */
export function makeChunk(chunk: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(chunk).map((_, n) => byteAt(n, chunk));
}

export async function* generate({ chunk, bytes }: Order): AsyncGenerator<Uint8Array, void> {
  const source = makeChunk(chunk);
  for (let left = bytes; left > 0; left -= chunk) yield source;
}

export function* iterate({ chunk, bytes }: Order): Generator<Uint8Array, void> {
  const source = makeChunk(chunk);
  for (let left = bytes; left > 0; left -= chunk) yield source;
}

/** Counts what arrives of an order, and looks at the first and the last byte of each piece. */
export class Tally {
  readonly #order: Order;
  #bytes = 0;

  constructor(order: Order) {
    this.#order = order;
  }

  /** Whether all has arrived. */
  get isFull(): boolean {
    return this.#bytes === this.#order.bytes;
  }

  add(piece: Uint8Array): void {
    const { chunk, bytes } = this.#order;
    const { length } = piece;
    if (length === 0) return;
    const at = this.#bytes;
    this.#bytes += length;
    if (this.#bytes > bytes) throw new CommandError(`more than the ${bytes} bytes of a stream arrived`);
    if (piece[0] !== byteAt(at, chunk) || piece[length - 1] !== byteAt(at + length - 1, chunk))
      throw new CommandError(`${length} bytes of a stream differ from what was sent, from byte ${at} on`);
  }

  /** The stream has ended. */
  end(): void {
    if (!this.isFull) throw new CommandError(`${this.#bytes} of the ${this.#order.bytes} bytes of a stream arrived`);
  }
}
