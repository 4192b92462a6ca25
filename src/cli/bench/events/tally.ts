/** Events that carry their number, and what each subscriber counts of them, in memory that the publisher looks at. */

import { writeFileSync } from "node:fs";

/** Bytes of an event: of a payload, or of its JSON. */
export const EVENT_BYTES = 64;
export const SUBSCRIBERS = 4;

/** How events are read: `poll`, bytes in batches or as each system hands them out; `for-await`, JSON one by one. */
export const KINDS = ["poll", "for-await"] as const;
export type Kind = (typeof KINDS)[number];

/** A payload that is JSON. */
export interface Item {
  n: number;
  text: string;
}

const FIRST = 1_000_000_000; // all numbers have as many digits
const filler = "-".repeat(EVENT_BYTES - 10);
const text = "-".repeat(EVENT_BYTES - JSON.stringify({ n: FIRST, text: "" }).length);
const bytes = new Uint8Array(EVENT_BYTES).fill(0x2d);

/** Event `n` as bytes; the same memory each time. */
export function bytesOf(n: number): Uint8Array {
  bytes[0] = n;
  bytes[1] = n >>> 8;
  bytes[2] = n >>> 16;
  bytes[3] = n >>> 24;
  bytes[EVENT_BYTES - 1] = n ^ 0x5a;
  return bytes;
}

/** Event `n` as text, for systems that take no bytes. */
export function textOf(n: number): string {
  return `${FIRST + n}${filler}`;
}

export function itemOf(n: number): Item {
  return { n: FIRST + n, text };
}

const CELL = 8; // numbers of one subscriber and kind: a cache line
const NEXT = 0;
const RECEIVED = 1;
const WRONG = 2;
const TOLD = 3;

function map(path: string): Float64Array {
  const memory = Bun.mmap(path, { shared: true });
  return new Float64Array(memory.buffer, memory.byteOffset, memory.length / 8);
}

function cellOf(kind: Kind, subscriber: number): number {
  return (KINDS.indexOf(kind) * SUBSCRIBERS + subscriber) * CELL;
}

/** What one subscriber has seen of one kind. */
export class Tally {
  readonly #memory: Float64Array;
  readonly #cell: number;

  constructor(path: string, kind: Kind, subscriber: number) {
    this.#memory = map(path);
    this.#cell = cellOf(kind, subscriber);
  }

  addBytes(payload: Uint8Array): void {
    const n = (payload[0]! | (payload[1]! << 8) | (payload[2]! << 16) | (payload[3]! << 24)) >>> 0;
    this.#add(n, payload.length === EVENT_BYTES && payload[EVENT_BYTES - 1] === ((n ^ 0x5a) & 255));
  }

  addText(message: string): void {
    this.#add(Number(message.slice(0, 10)) - FIRST, message.length === EVENT_BYTES && message.endsWith("-"));
  }

  addItem(item: Item): void {
    this.#add(item.n - FIRST, item.text.length === text.length);
  }

  /** The system says that it lost so many. */
  tell(lost: number): void {
    this.#memory[this.#cell + TOLD]! += lost;
  }

  /** Numbers may be missing, and never come back. */
  #add(n: number, isWhole: boolean): void {
    const memory = this.#memory;
    const cell = this.#cell;
    if (!isWhole || !(n >= memory[cell + NEXT]!)) memory[cell + WRONG]!++;
    memory[cell + RECEIVED]!++;
    memory[cell + NEXT] = n + 1;
  }
}

/** The publisher's view of all tallies of one system. */
export class Tallies {
  readonly path: string;
  readonly #memory: Float64Array;

  constructor(path: string) {
    this.path = path;
    writeFileSync(path, new Uint8Array(KINDS.length * SUBSCRIBERS * CELL * 8));
    this.#memory = map(path);
  }

  #all(kind: Kind, what: number): number[] {
    return Array.from({ length: SUBSCRIBERS }, (_, i) => this.#memory[cellOf(kind, i) + what]!);
  }

  /** Number of the event that the slowest subscriber waits for. */
  slowest(kind: Kind): number {
    return Math.min(...this.#all(kind, NEXT));
  }

  /** Of all subscribers together. */
  received(kind: Kind): number {
    return sum(this.#all(kind, RECEIVED));
  }

  /** Damaged, doubled or out of order. */
  wrong(kind: Kind): number {
    return sum(this.#all(kind, WRONG));
  }

  /** Losses that the system itself spoke of. */
  told(kind: Kind): number {
    return sum(this.#all(kind, TOLD));
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
