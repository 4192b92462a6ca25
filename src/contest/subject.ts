/** What is competed for, by whom and for how long; and the one error each wrong value gets. */

import { shown } from "../bus/options.ts";
import { InvalidConfigError } from "../errors.ts";
import { C } from "../native/library.ts";

/** Two subjects compete when kind and label are equal, byte for byte. */
export interface Subject {
  /** What sort of thing it is: 1 to 64 bytes of UTF-8, without NUL. */
  readonly kind: string;
  /** Which one: 1 to 192 bytes of UTF-8, without NUL. */
  readonly label: string;
}

/** Longest lease and longest timeout: 49.7 days. */
export const MAX_MS = 0xffff_ffff;

function problemOf(text: unknown, limit: number): string | null {
  if (typeof text !== "string") return `is ${text === null ? "null" : `a ${typeof text}`}`;
  if (text === "") return "is empty";
  if (text.includes("\0")) return `has a NUL at character ${text.indexOf("\0")}`;
  if (!text.isWellFormed()) return "has half of a surrogate pair";
  if (text.length * 3 <= limit) return null; // UTF-8 takes 3 bytes a unit at most
  const bytes = Buffer.byteLength(text);
  return bytes > limit ? `is ${bytes} bytes` : null;
}

function checkText(what: string, text: unknown, limit: number): void {
  const problem = problemOf(text, limit);
  if (problem) throw new InvalidConfigError(`${what} ${problem}; it must be text of 1 to ${limit} bytes of UTF-8.`);
}

export function checkSubject(subject: Subject): void {
  if (typeof subject !== "object" || subject === null) {
    throw new InvalidConfigError(`a subject is ${shown(subject)}; it must be { kind, label }.`);
  }
  checkText("subject.kind", subject.kind, C.SB_KIND_MAX);
  checkText("subject.label", subject.label, C.SB_LABEL_MAX);
}

export function checkOwner(owner: string): void {
  checkText("owner", owner, C.SB_OWNER_MAX);
}

export function checkTtl(ttl: number): void {
  if (typeof ttl === "number" && ttl > 0 && ttl <= MAX_MS) return;
  throw new InvalidConfigError(`ttl is ${shown(ttl)}; it must be above 0 and at most ${MAX_MS} ms (49 days).`);
}

/** Milliseconds; `Infinity` (or 0) means no limit and becomes `Infinity`. */
export function checkTimeout(timeout: number): number {
  if (timeout === Infinity || timeout === 0) return Infinity;
  if (typeof timeout === "number" && timeout > 0 && timeout <= MAX_MS) return timeout;
  throw new InvalidConfigError(`timeout is ${shown(timeout)}; it must be 0 (no limit) to ${MAX_MS} ms.`);
}
