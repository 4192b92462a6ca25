/** Streams of chunks with known bytes, and the check of what arrives. */

import { CommandError } from "../../src/cli/usage.ts";

/** A stream to send. */
export interface Order {
  /** `generator`: from an async generator. `loop`: the fastest plain way to write in this system. */
  how: "generator" | "loop";
  /** Size of a chunk in bytes, a power of two. */
  chunk: number;
  /** Size of the whole stream in bytes. */
  bytes: number;
}

/** Returns byte `n` of a stream whose chunks have `chunk` bytes. */
function byteAt(n: number, chunk: number): number {
  return ((n & (chunk - 1)) * 31 + 7) & 255;
}

/** Makes a chunk. All chunks of a stream are equal; neighbouring bytes differ. */
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

/** Counts the bytes that arrive for an order and checks the first and the last byte of each piece. */
export class Tally {
  readonly #order: Order;
  #bytes = 0;

  constructor(order: Order) {
    this.#order = order;
  }

  /** Whether all bytes have arrived. */
  get isFull(): boolean {
    return this.#bytes === this.#order.bytes;
  }

  add(piece: Uint8Array): void {
    const { chunk, bytes } = this.#order;
    const { length } = piece;
    if (length === 0) return;
    const at = this.#bytes;
    this.#bytes += length;
    if (this.#bytes > bytes) throw new CommandError(`more bytes than the ${bytes} of the stream arrived`);
    if (piece[0] !== byteAt(at, chunk) || piece[length - 1] !== byteAt(at + length - 1, chunk))
      throw new CommandError(`${length} bytes of a stream differ from what was sent, from byte ${at} on`);
  }

  /** Called when the stream has ended. */
  end(): void {
    if (!this.isFull)
      throw new CommandError(`only ${this.#bytes} of the ${this.#order.bytes} bytes of a stream arrived`);
  }
}
