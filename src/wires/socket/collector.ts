/** Collects heads and bodies that arrive in pieces. */

const NONE = new Uint8Array(0);

/** Memory for bytes that arrive in pieces, at first. Then it is at most four times what has arrived. */
const COLLECT_BYTES = 262_144;

/** Returns memory that is not cleared: all of it is written before anyone reads it. */
function unfilled(bytes: number): Uint8Array {
  return new Uint8Array(Buffer.allocUnsafeSlow(bytes).buffer);
}

/** Returns the smallest size of at least `length` that grows to `total` by factors of 4. */
function sizeFor(length: number, total: number): number {
  let size = total;
  for (let less = Math.ceil(size / 4); less >= length; less = Math.ceil(size / 4)) size = less;
  return size;
}

/**
 * Bytes that arrive in pieces. When its memory is full, the bytes move to larger memory little by little, with the pieces
 * that follow: a move of many megabytes at once would delay all other requests.
 */
export class Collector {
  readonly total: number;
  /** The bytes, all of them when {@link missing} is 0. */
  bytes: Uint8Array;
  length = 0;
  /** Memory whose bytes move to {@link bytes}, and how many have moved. */
  #old: Uint8Array = NONE;
  #moved = 0;

  constructor(total: number, first: Uint8Array) {
    this.total = total;
    this.bytes = unfilled(Math.min(total, sizeFor(Math.max(first.length, COLLECT_BYTES / 4), total)));
    this.add(first);
  }

  get missing(): number {
    return this.total - this.length;
  }

  /** Adds bytes, at most {@link missing}. */
  add(piece: Uint8Array): void {
    const length = this.length + piece.length;
    if (length > this.bytes.length) {
      this.#move(Infinity);
      this.#old = this.bytes.subarray(0, this.length);
      this.#moved = 0;
      this.bytes = unfilled(sizeFor(length, this.total));
    }
    if (this.#old !== NONE) this.#move(piece.length / (this.bytes.length - this.length));
    this.bytes.set(piece, this.length);
    this.length = length;
  }

  /** Moves a part of the bytes that have not moved: all if `part` is 1 or more. */
  #move(part: number): void {
    const left = this.#old.length - this.#moved;
    const end = this.#moved + Math.min(left, Math.ceil(left * part));
    this.bytes.set(this.#old.subarray(this.#moved, end), this.#moved);
    this.#moved = end;
    if (end === this.#old.length) this.#old = NONE;
  }
}

/** A head and a body that arrive in pieces, each in its own memory. */
export class Parts {
  readonly #head: Collector;
  readonly #body: Collector;

  /** `first` are bytes of the first frame. */
  constructor(head: number, body: number, first: Uint8Array) {
    this.#head = new Collector(head, first.subarray(0, head));
    this.#body = new Collector(body, first.subarray(head));
  }

  get missing(): number {
    return this.#head.missing + this.#body.missing;
  }

  /** The head, when nothing is missing. */
  get head(): Uint8Array {
    return this.#head.bytes;
  }

  /** The body, when nothing is missing. */
  get body(): Uint8Array {
    return this.#body.bytes;
  }

  /** Adds bytes, at most {@link missing}. */
  add(piece: Uint8Array): void {
    const { missing } = this.#head;
    if (missing > 0) this.#head.add(piece.subarray(0, missing));
    if (piece.length > missing) this.#body.add(missing > 0 ? piece.subarray(missing) : piece);
  }
}
