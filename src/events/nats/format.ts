/** Subjects and messages of events over NATS. docs/nats.md describes them for other languages. */

import { decodeToken, encodeToken } from "../../nats/token.ts";
import { tokenOf } from "../../nats/subjects.ts";
import { FIXED } from "../codec.ts";
import type { Progress } from "./sequences.ts";

/** Bytes of a message before its events: version, publisher (2 numbers), base, sequence and time of the first event. */
export const HEAD_BYTES = 40;
/** Bytes before each event: its length, and its time less that of the first event. */
export const EVENT_HEAD_BYTES = 8;
const WRITER_AT = 4;
const INCARNATION_AT = 8;
const BASE_AT = 16;
const SEQ_AT = 24;
const TIME_AT = 32;
const VERSION = 1;
/** Memory of a batch, in bytes: at first, and at most when it is empty. */
const BATCH_MIN = 4_096;
const BATCH_KEPT = 262_144;
/** Number of topics in one heartbeat. */
const BEAT_TOPICS = 256;

/** Subjects of a ring. */
export interface Subjects {
  /** Start of the subjects of events; the tokens of the topic follow. */
  readonly events: string;
  readonly beats: string;
  readonly asks: string;
}

export function subjectsOf(prefix: string, fleet: string, ring: string): Subjects {
  const start = `${prefix}.${tokenOf(fleet)}.e.${tokenOf(ring)}`;
  return { events: `${start}.t.`, beats: `${start}.b`, asks: `${start}.a` };
}

/** Returns the tokens of a topic: one for each part between dots. */
export function topicTokens(topic: string): string {
  return topic.split(".").map(encodeToken).join(".");
}

/** Returns the topic of tokens; `null` if they are not from {@link topicTokens}. */
export function topicOf(tokens: string): string | null {
  const parts = tokens.split(".").map(decodeToken);
  return parts.includes(null) ? null : parts.join(".");
}

/** Returns the end of the subject for a pattern of topics: `"a.*"` is `a.>`. */
export function patternTokens(pattern: string): string {
  if (pattern === "*") return ">";
  return pattern.endsWith(".*") ? `${topicTokens(pattern.slice(0, -2))}.>` : topicTokens(pattern);
}

/**
 * The events of one message: they have one topic, and were published one after another. The first one is in the memory of the message,
 * and each event is written behind the ones before it.
 */
export class Batch {
  count = 0;
  #bytes = Buffer.alloc(0);
  #end = HEAD_BYTES;
  #time = 0;
  readonly #writer: number;
  readonly #incarnation: number;

  constructor(writer: number, incarnation: number) {
    this.#writer = writer;
    this.#incarnation = incarnation;
  }

  /** Size of the message so far. */
  get bytes(): number {
    return this.#end;
  }

  /** Adds the first `bytes` bytes of `event`. */
  add(event: Buffer, bytes: number, time: number): void {
    const at = this.#end;
    const end = at + EVENT_HEAD_BYTES + bytes;
    if (end > this.#bytes.length) this.#grow(end);
    if (this.count++ === 0) this.#time = time;
    write32(this.#bytes, at, bytes);
    write32(this.#bytes, at + 4, Math.max(0, time - this.#time));
    event.copy(this.#bytes, at + EVENT_HEAD_BYTES, 0, bytes);
    this.#end = end;
  }

  #grow(bytes: number): void {
    const larger = Buffer.alloc(2 ** Math.ceil(Math.log2(Math.max(BATCH_MIN, bytes))));
    this.#bytes.copy(larger, 0, 0, this.#end);
    this.#bytes = larger;
    larger[0] = VERSION;
    write32(larger, WRITER_AT, this.#writer);
    write32(larger, INCARNATION_AT, this.#incarnation);
  }

  /** Returns the message, and begins another one. `seq`: the number of its first event. */
  take(base: number, seq: number): Buffer {
    write64(this.#bytes, BASE_AT, base);
    write64(this.#bytes, SEQ_AT, seq);
    write64(this.#bytes, TIME_AT, this.#time);
    const message = Buffer.allocUnsafe(this.#end);
    this.#bytes.copy(message, 0, 0, this.#end);
    this.count = 0;
    this.#end = HEAD_BYTES;
    if (this.#bytes.length > BATCH_KEPT) this.#bytes = Buffer.alloc(0);
    return message;
  }
}

/** Reads the head of a message. Plain reads of bytes: a view for each message would take longer. */
export const head = {
  /** Whether there is a valid head. Anything may have been published to the subject. */
  isValid: (memory: Uint8Array): boolean =>
    memory.length >= HEAD_BYTES &&
    memory[0] === VERSION &&
    isCount(head.base(memory)) &&
    isCount(head.seq(memory)) &&
    isCount(head.time(memory)),
  writer: (memory: Uint8Array): number => read32(memory, WRITER_AT),
  incarnation: (memory: Uint8Array): number => read32(memory, INCARNATION_AT),
  base: (memory: Uint8Array): number => read64(memory, BASE_AT),
  seq: (memory: Uint8Array): number => read64(memory, SEQ_AT),
  time: (memory: Uint8Array): number => read64(memory, TIME_AT),
};

/**
 * Returns the number of events of a message with a valid head; 0 if one of them is cut off or has another topic, which the subject would
 * not let its publisher use.
 */
export function countEvents(memory: Uint8Array, topic: Uint8Array): number {
  let count = 0;
  for (let at = HEAD_BYTES; at < memory.length; count++) {
    const from = at + EVENT_HEAD_BYTES;
    if (from + FIXED > memory.length) return 0;
    at = from + read32(memory, at);
    if (at > memory.length || !hasTopic(memory, from, at, topic)) return 0;
  }
  return count;
}

/** Whether the event from `from` to `end` has this topic. */
function hasTopic(memory: Uint8Array, from: number, end: number, topic: Uint8Array): boolean {
  const at = from + FIXED;
  const length = memory[from + 2]! + memory[from + 3]! * 256;
  if (length !== topic.length || at + length > end) return false;
  for (let i = 0; i < topic.length; i++) if (memory[at + i] !== topic[i]) return false;
  return true;
}

/** Length and time of the event whose head is at `at`. */
export const eventHead = {
  length: (memory: Uint8Array, at: number): number => read32(memory, at),
  time: (memory: Uint8Array, at: number): number => head.time(memory) + read32(memory, at + 4),
};

function read32(memory: Uint8Array, at: number): number {
  return (memory[at]! | (memory[at + 1]! << 8) | (memory[at + 2]! << 16) | (memory[at + 3]! << 24)) >>> 0;
}

function read64(memory: Uint8Array, at: number): number {
  return read32(memory, at) + read32(memory, at + 4) * 2 ** 32;
}

function write32(memory: Uint8Array, at: number, value: number): void {
  memory[at] = value;
  memory[at + 1] = value >>> 8;
  memory[at + 2] = value >>> 16;
  memory[at + 3] = value >>> 24;
}

function write64(memory: Uint8Array, at: number, value: number): void {
  write32(memory, at, value >>> 0);
  write32(memory, at + 4, Math.floor(value / 2 ** 32));
}

/** What a publisher says about itself. */
export interface Beat {
  readonly publisher: string;
  /** Number of events that it has published. */
  readonly count: number;
  readonly topics: readonly Progress[];
}

/** Returns the text of heartbeats that together have all these topics; at least one. */
export function encodeBeats({ publisher, count, topics }: Beat): string[] {
  const beats: string[] = [];
  for (let at = 0; at === 0 || at < topics.length; at += BEAT_TOPICS) {
    beats.push(JSON.stringify({ v: VERSION, publisher, count, topics: topics.slice(at, at + BEAT_TOPICS) }));
  }
  return beats;
}

/** Returns a heartbeat; `null` if it is not one. */
export function decodeBeat(text: string): Beat | null {
  let read: unknown;
  try {
    read = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof read !== "object" || read === null) return null;
  const { v, publisher, count, topics } = read as Record<string, unknown>;
  const isRight =
    v === VERSION &&
    typeof publisher === "string" &&
    /^\d{1,10}\.\d{1,10}$/.test(publisher) &&
    isCount(count) &&
    Array.isArray(topics) &&
    topics.length <= BEAT_TOPICS &&
    topics.every(isProgress);
  return isRight ? { publisher, count, topics } : null;
}

function isProgress(value: unknown): value is Progress {
  if (!Array.isArray(value) || value.length !== 3) return false;
  const [topic, base, seq] = value as unknown[];
  return typeof topic === "string" && isCount(base) && isCount(seq);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
