/** Subjects and messages of events over NATS. docs/nats.md describes them for other languages. */

import { decodeToken, encodeToken } from "../../nats/token.ts";
import { tokenOf } from "../../nats/subjects.ts";
import type { Progress } from "./sequences.ts";

/** Bytes of a message before the event: version, publisher (2 numbers), base, sequence, time. */
export const HEAD_BYTES = 40;
const WRITER_AT = 4;
const INCARNATION_AT = 8;
const BASE_AT = 16;
const SEQ_AT = 24;
const TIME_AT = 32;
const VERSION = 1;
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

/** Bytes of events for the next message, with its head before them. */
export class Draft {
  /** Memory for the event. */
  readonly event: Buffer;
  readonly #bytes: Buffer;

  /** `bytes`: size of the event at most. */
  constructor(bytes: number, writer: number, incarnation: number) {
    this.#bytes = Buffer.alloc(2 ** Math.ceil(Math.log2(HEAD_BYTES + bytes)));
    this.event = this.#bytes.subarray(HEAD_BYTES);
    this.#bytes[0] = VERSION;
    this.#bytes.writeUInt32LE(writer, WRITER_AT);
    this.#bytes.writeUInt32LE(incarnation, INCARNATION_AT);
  }

  /** Returns a copy of the head and the first bytes of the event. */
  message(bytes: number, base: number, seq: number, time: number): Buffer {
    const all = this.#bytes;
    write64(all, BASE_AT, base);
    write64(all, SEQ_AT, seq);
    write64(all, TIME_AT, time);
    const message = Buffer.allocUnsafe(HEAD_BYTES + bytes);
    all.copy(message, 0, 0, HEAD_BYTES + bytes);
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

function read32(memory: Uint8Array, at: number): number {
  return (memory[at]! | (memory[at + 1]! << 8) | (memory[at + 2]! << 16) | (memory[at + 3]! << 24)) >>> 0;
}

function read64(memory: Uint8Array, at: number): number {
  return read32(memory, at) + read32(memory, at + 4) * 2 ** 32;
}

function write64(memory: Uint8Array, at: number, value: number): void {
  let low = value >>> 0;
  let high = Math.floor(value / 2 ** 32);
  for (let i = 0; i < 4; i++, low >>>= 8, high >>>= 8) {
    memory[at + i] = low;
    memory[at + 4 + i] = high;
  }
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
