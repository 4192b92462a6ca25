/**
 * What the fleet knows nothing of, in files of shared memory that outlive whoever is killed: each event with what became of
 * its publication, and for each subscription what it received.
 */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";

/** What became of an event: about to be published, published, or refused by a typed error. */
export const MEANT = 1;
export const PUBLISHED = 2;
export const REFUSED = 3;

const CAPACITY = 200_000;
const NEXT_EVENT = 0;
const NEXT_SUBSCRIPTION = 1;
/** From here on: by subject, the process that has it. */
const HOLDERS = 16;
const HEAD_BYTES = 64;

export const SUBJECTS = ["hot", "first", "second", "third", "other"] as const;
export type Subject = (typeof SUBJECTS)[number];

function make(file: string, bytes: number): void {
  const fd = openSync(file, "wx");
  ftruncateSync(fd, bytes);
  closeSync(fd);
}

/** What one cursor received. Its owner writes, the harness reads. */
export class Subscription {
  /** How often, by event. */
  readonly received: Uint8Array;
  readonly #head: Float64Array;

  constructor(
    directory: string,
    readonly number: number,
  ) {
    const map = Bun.mmap(join(directory, `subscription-${number}`), { shared: true });
    this.#head = new Float64Array(map.buffer, map.byteOffset, HEAD_BYTES / 8);
    this.received = map.subarray(HEAD_BYTES);
  }

  /** Events from this one on were begun when it was there. */
  get from(): number {
    return this.#head[0]!;
  }

  set from(event: number) {
    this.#head[0] = event;
  }

  /** Of the next frame. */
  get position(): number {
    return this.#head[1]!;
  }

  set position(frame: number) {
    this.#head[1] = frame;
  }

  /** Events that it was told are lost. */
  get overwritten(): number {
    return this.#head[2]!;
  }

  set overwritten(events: number) {
    this.#head[2] = events;
  }
}

export class Books {
  readonly #directory: string;
  readonly #words: Int32Array;
  /** By event. */
  readonly outcome: Uint8Array;

  static create(directory: string): Books {
    make(join(directory, "words"), 256);
    make(join(directory, "outcome"), CAPACITY);
    return new Books(directory);
  }

  constructor(directory: string) {
    this.#directory = directory;
    const { buffer, byteOffset } = Bun.mmap(join(directory, "words"), { shared: true });
    this.#words = new Int32Array(buffer, byteOffset, 64);
    this.outcome = Bun.mmap(join(directory, "outcome"), { shared: true });
  }

  /** Events that were begun so far. */
  get events(): number {
    return Atomics.load(this.#words, NEXT_EVENT);
  }

  /** Before it is published. */
  begin(): number {
    const event = Atomics.add(this.#words, NEXT_EVENT, 1);
    this.outcome[event] = MEANT;
    return event;
  }

  subscribe(): Subscription {
    const number = Atomics.add(this.#words, NEXT_SUBSCRIPTION, 1);
    make(join(this.#directory, `subscription-${number}`), HEAD_BYTES + CAPACITY);
    return this.subscription(number);
  }

  subscription(number: number): Subscription {
    return new Subscription(this.#directory, number);
  }

  /** This process has the subject now; returns who had it and did not give it back, or 0. */
  hold(subject: Subject): number {
    return Atomics.exchange(this.#words, HOLDERS + SUBJECTS.indexOf(subject), process.pid);
  }

  /** It is about to end somebody's tenure. */
  take(subject: Subject): void {
    Atomics.store(this.#words, HOLDERS + SUBJECTS.indexOf(subject), 0);
  }

  /** It is about to give it back. */
  give(subject: Subject): void {
    Atomics.compareExchange(this.#words, HOLDERS + SUBJECTS.indexOf(subject), process.pid, 0);
  }
}

/** The payload of an event: its number, and bytes that follow from it. 8 bytes at least. */
export function payloadOf(event: number, bytes: number): Buffer<ArrayBuffer> {
  const payload = Buffer.alloc(bytes);
  payload.writeUInt32LE(event, 0);
  payload.writeUInt32LE(bytes, 4);
  for (let i = 8; i < bytes; i++) payload[i] = event * 31 + i * 7;
  return payload;
}

/** The event that a payload is of; -1 when it is none. */
export function eventOf(payload: Uint8Array<ArrayBuffer>): number {
  if (payload.length < 8) return -1;
  const event = Buffer.from(payload.buffer, payload.byteOffset, 4).readUInt32LE(0);
  return payloadOf(event, payload.length).equals(payload) ? event : -1;
}
