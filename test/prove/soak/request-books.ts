/** Shared by the three programs of the soak: the books, which outlive a killed process, and the arithmetic. */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";

export const FAULTS = ["worker-kill", "client-kill", "worker-stop", "client-stop", "timeout", "abort"] as const;
export type Fault = (typeof FAULTS)[number];

/** Bodies that stream: the request's, the response's, or both. */
export const KINDS = ["upload", "download", "echo"] as const;
export type Kind = (typeof KINDS)[number];

/** Where a request can be when a fault comes; `idle`: there is no request. */
export const STATES = ["idle", "queued", "ready", "claimed", "streaming", "done", "abandoned", "lent"] as const;
export type State = (typeof STATES)[number];

/** The cells of the histogram that can occur. A request with a response, or given up, cannot time out. */
export const POSSIBLE: Record<Fault, readonly State[]> = {
  "worker-kill": STATES,
  "client-kill": STATES,
  "worker-stop": STATES,
  "client-stop": STATES,
  timeout: ["queued", "ready", "claimed", "streaming"],
  abort: ["queued", "ready", "claimed", "streaming", "done"],
};

/**
 * How a stream ended: whole; the handler failed; the caller's source failed; its reader left; the caller aborted; it was out
 * of time; its worker died before or after its bytes, or in the middle of them; in no way that is allowed.
 */
export const STREAM_ENDS = [
  "whole",
  "refused",
  "source",
  "left",
  "aborted",
  "late",
  "died",
  "died midway",
  "lost",
] as const;
export type StreamEnd = (typeof STREAM_ENDS)[number];

/** Behaviour of the handler, chosen by the path of the request. */
export const MODES = [
  "sync",
  "reserve",
  "respond",
  "async",
  "late",
  "never",
  "throw",
  "reject",
  "block",
  "hold",
] as const;
export type Mode = (typeof MODES)[number];

/** Bits of `outcome`, set by the client. */
export const ISSUED = 1;
export const IDEMPOTENT = 2;
export const ANSWERED = 4;
/** Failed with `mayHaveExecuted` false. */
export const REFUSED = 8;
/** Failed with `mayHaveExecuted` true. */
export const FAILED = 16;
export const ABORTED = 32;
export const WRONG = 64;
export const TWICE = 128;
export const SETTLED = ANSWERED | REFUSED | FAILED | ABORTED;

/** Added to `runs` by a worker: when the handler begins, and just before it answers. */
export const BEGAN = 1;
export const REPLIED = 16;

const COUNTERS = 128;
/** Indexes of the counters; the first is the next request's number. */
const STREAMS = 1;
const STREAMED_KIB = 2;
const FIRST_CELL = 8;
const FIRST_END = 64;

/** Files of shared memory, which outlive a killed writer. */
export class RequestBooks {
  /** One byte per request, written by the workers. */
  readonly runs: Uint8Array;
  /** One byte per request, written by the client. */
  readonly outcome: Uint8Array;
  readonly #counters: Uint32Array;
  /** First id of this part. */
  readonly first: number;
  /** Bytes of streams that do not make a KiB yet. */
  #rest = 0;

  /** `capacity`: the number of ids, in equal parts. Each part has counters of its own, for one client at a time. */
  static create(directory: string, capacity: number, parts = 1): RequestBooks {
    for (const [name, bytes] of [
      ["runs", capacity],
      ["outcome", capacity],
      ["counters", parts * COUNTERS * 4],
    ] as const) {
      const file = openSync(join(directory, name), "wx");
      ftruncateSync(file, bytes);
      closeSync(file);
    }
    return new RequestBooks(directory);
  }

  constructor(directory: string, part = 0) {
    const map = (name: string): Uint8Array => Bun.mmap(join(directory, name), { shared: true });
    this.runs = map("runs");
    this.outcome = map("outcome");
    const { buffer, byteOffset, length } = map("counters");
    this.#counters = new Uint32Array(buffer, byteOffset + part * COUNTERS * 4, COUNTERS);
    this.first = (part * this.runs.length) / (length / COUNTERS / 4);
  }

  /** The next request's id. */
  get next(): number {
    return this.first + this.#counters[0]!;
  }

  set next(id: number) {
    this.#counters[0] = id - this.first;
  }

  count(fault: Fault, state: State, requests = 1): void {
    this.#counters[cell(fault, state)]! += requests;
  }

  seen(fault: Fault, state: State): number {
    return this.#counters[cell(fault, state)]!;
  }

  /** Counts a stream that has ended, with its bytes in both directions. */
  countStream(bytes: number): void {
    this.#rest += bytes;
    this.#counters[STREAMS]!++;
    this.#counters[STREAMED_KIB]! += this.#rest >>> 10;
    this.#rest &= 1023;
  }

  get streams(): number {
    return this.#counters[STREAMS]!;
  }

  get streamedMib(): number {
    return this.#counters[STREAMED_KIB]! / 1024;
  }

  countEnd(kind: Kind, end: StreamEnd): void {
    this.#counters[endCell(kind, end)]!++;
  }

  ended(kind: Kind, end: StreamEnd): number {
    return this.#counters[endCell(kind, end)]!;
  }
}

/** Of the counters of {@link STREAM_ENDS}. */
function endCell(kind: Kind, end: StreamEnd): number {
  return FIRST_END + KINDS.indexOf(kind) * STREAM_ENDS.length + STREAM_ENDS.indexOf(end);
}

function cell(fault: Fault, state: State): number {
  return FIRST_CELL + FAULTS.indexOf(fault) * STATES.length + STATES.indexOf(state);
}

/** Xorshift, 32 bits. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) >>> 0 || 1;
    for (let i = 0; i < 8; i++) this.next();
  }

  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }

  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number {
    return Math.floor((this.next() / 2 ** 32) * limit);
  }

  chance(probability: number): boolean {
    return this.next() < probability * 2 ** 32;
  }

  /** 0 to `limit`, each power of two as likely as the next. */
  size(limit: number): number {
    return Math.floor(2 ** ((this.next() / 2 ** 32) * Math.log2(limit + 2))) - 1;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

/** Checksum of a request's body; two requests with one body differ by their nonces. */
export function checksum(body: Uint8Array, nonce: number): number {
  return Bun.hash.xxHash32(body as Uint8Array<ArrayBuffer>, nonce);
}

/** Writes the right response to `body` into `out`: every byte changed by the nonce. */
export function transform(body: Uint8Array, nonce: number, out: Uint8Array): void {
  const words = body.byteOffset % 4 === 0 && out.byteOffset % 4 === 0 ? body.length >>> 2 : 0;
  if (words > 0) {
    const from = new Uint32Array(body.buffer, body.byteOffset, words);
    const to = new Uint32Array(out.buffer, out.byteOffset, words);
    for (let i = 0; i < words; i++) to[i] = from[i]! ^ nonce;
  }
  for (let i = words * 4; i < body.length; i++) out[i] = body[i]! ^ (nonce >>> (8 * (i & 3)));
}
