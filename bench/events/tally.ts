/** Numbered events, and the counts of each subscriber in memory that the publisher reads. */

import { writeFileSync } from "node:fs";

/** Size of an event: of its payload in bytes or in JSON. */
export const EVENT_BYTES = 64;
export const SUBSCRIBERS = 4;

/** `poll` reads bytes, in batches where the system has them; `for-await` reads JSON one by one. */
export const KINDS = ["poll", "for-await"] as const;
export type Kind = (typeof KINDS)[number];

/** A JSON payload. */
export interface Item {
  n: number;
  text: string;
}

const FIRST = 1_000_000_000; // all numbers have the same number of digits
const filler = "-".repeat(EVENT_BYTES - 10);
const text = "-".repeat(EVENT_BYTES - JSON.stringify({ n: FIRST, text: "" }).length);
const bytes = new Uint8Array(EVENT_BYTES).fill(0x2d);

/** Event `n` as bytes. Every call returns the same buffer. */
export function bytesOf(n: number): Uint8Array {
  bytes[0] = n;
  bytes[1] = n >>> 8;
  bytes[2] = n >>> 16;
  bytes[3] = n >>> 24;
  bytes[EVENT_BYTES - 1] = n ^ 0x5a;
  return bytes;
}

/** Event `n` as text, for systems without bytes. */
export function textOf(n: number): string {
  return `${FIRST + n}${filler}`;
}

export function itemOf(n: number): Item {
  return { n: FIRST + n, text };
}

const CELL = 8; // counts of one subscriber and kind: a cache line
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

/** Counts of one subscriber for one kind. */
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

  /** Adds events that the system reported as lost. */
  tell(lost: number): void {
    this.#memory[this.#cell + TOLD]! += lost;
  }

  /** Numbers may be missing, but they never decrease. */
  #add(n: number, isWhole: boolean): void {
    const memory = this.#memory;
    const cell = this.#cell;
    if (!isWhole || !(n >= memory[cell + NEXT]!)) memory[cell + WRONG]!++;
    memory[cell + RECEIVED]!++;
    memory[cell + NEXT] = n + 1;
  }
}

/** All tallies of one system, for the publisher. */
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

  /** Number of the next event of the slowest subscriber. */
  slowest(kind: Kind): number {
    return Math.min(...this.#all(kind, NEXT));
  }

  /** Events received by all subscribers together. */
  received(kind: Kind): number {
    return sum(this.#all(kind, RECEIVED));
  }

  /** Events that arrived damaged, twice or out of order. */
  wrong(kind: Kind): number {
    return sum(this.#all(kind, WRONG));
  }

  /** Losses that the system reported. */
  told(kind: Kind): number {
    return sum(this.#all(kind, TOLD));
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
