/** Subjects and messages of events over NATS. docs/nats.md describes them for other languages. */

import { decodeToken, encodeToken } from "../../nats/token.ts";
import { tokenOf } from "../../nats/subjects.ts";
import type { Progress } from "./sequences.ts";

/** Bytes of a message before the event: version, publisher (2 numbers), base, sequence, time. */
export const HEAD_BYTES = 40;
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
  const start = `${prefix}.${tokenOf(fleet)}.events.${tokenOf(ring)}`;
  return { events: `${start}.topic.`, beats: `${start}.beat`, asks: `${start}.ask` };
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

/** The head of a message. */
export interface Head {
  readonly writer: number;
  readonly incarnation: number;
  readonly base: number;
  readonly seq: number;
  readonly time: number;
}

export function writeHead(memory: Buffer, { writer, incarnation, base, seq, time }: Head): void {
  memory.fill(0, 0, HEAD_BYTES);
  memory[0] = VERSION;
  memory.writeUInt32LE(writer, 4);
  memory.writeUInt32LE(incarnation, 8);
  memory.writeDoubleLE(base, 16);
  memory.writeDoubleLE(seq, 24);
  memory.writeDoubleLE(time, 32);
}

/** Whether a message has a valid head. Anything may have been published to the subject. */
export function hasHead(memory: Buffer): boolean {
  if (memory.length < HEAD_BYTES || memory[0] !== VERSION) return false;
  return (
    isCount(memory.readDoubleLE(16)) && isCount(memory.readDoubleLE(24)) && Number.isFinite(memory.readDoubleLE(32))
  );
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
