/** Arguments and options: each wrong value gets one clear error. */

import { InvalidConfigError } from "./errors.ts";
import { nearest } from "./near.ts";

/** Characters of a text that an error shows. */
const SHOWN_MAX = 64;

/** A value as the text of an error shows it, whatever it is; text has quotes. */
export function shown(value: unknown): string {
  if (typeof value === "string" && value.length > SHOWN_MAX) {
    return `${Bun.inspect(value.slice(0, SHOWN_MAX))}… (${Buffer.byteLength(value)} bytes)`;
  }
  return Bun.inspect(value, { depth: 0 }).replace(/\s+/g, " ").slice(0, 80);
}

/** Throws {@link InvalidConfigError} unless the options `of` something are an object. With an `example`, `of` is an option's name. */
export function checkOptions<T>(of: string, options: T, example?: string): T {
  if (typeof options === "object" && options !== null) return options;
  if (example) throw new InvalidConfigError(`\`${of}\` is ${shown(options)}; it must be an object such as ${example}.`);
  throw new InvalidConfigError(`the options of ${of} are ${shown(options)}; they must be an object.`);
}

/** As {@link checkOptions}; throws also for a key that is not `known`, with the one that comes nearest. */
export function checkKeys<T extends object>(of: string, given: T, known: readonly string[]): T {
  for (const key of Object.keys(checkOptions(of, given))) {
    if (known.includes(key)) continue;
    const [near] = nearest(key, known);
    throw new InvalidConfigError(`${of} has no option ${shown(key)}.`, {
      hint: near ? `Did you mean ${near}?` : `It has ${known.join(", ")}.`,
    });
  }
  return given;
}

/** Throws {@link InvalidConfigError} unless it is a signal, or none. */
export function checkSignal(signal: unknown): void {
  if (signal === undefined || signal instanceof AbortSignal) return;
  throw new InvalidConfigError(`signal is ${shown(signal)}; it must be an AbortSignal.`);
}

/** Throws unless `value` is a whole number from `low` to `high`. */
export function checkInteger(option: string, value: unknown, low: number, high: number, unit = ""): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= low && value <= high) return value;
  throw new InvalidConfigError(
    `${option} is ${shown(value)}; it must be a whole number from ${low} to ${high}${unit}.`,
  );
}

/** Why a value is not text of 1 to `max` bytes of UTF-8 without NUL; `null` when it is. */
function problemOf(text: unknown, max: number): string | null {
  if (typeof text !== "string") return `is ${shown(text)}`;
  if (text === "") return "is empty";
  if (text.includes("\0")) return `has a NUL at character ${text.indexOf("\0")}`;
  if (!text.isWellFormed()) return "has half of a surrogate pair";
  if (text.length * 3 <= max) return null; // UTF-8 takes 3 bytes a unit at most
  const bytes = Buffer.byteLength(text);
  if (bytes <= max) return null;
  return `is ${text.length > SHOWN_MAX ? shown(text) : `${shown(text)} (${bytes} bytes)`}`;
}

/** Whether it is text of 1 to `max` bytes of UTF-8, without NUL. */
export function isText(text: unknown, max: number): text is string {
  return problemOf(text, max) === null;
}

/** Throws unless `text` is 1 to `max` bytes of UTF-8, without NUL. */
export function checkText(what: string, text: unknown, max: number): string {
  const problem = problemOf(text, max);
  if (problem === null) return text as string;
  throw new InvalidConfigError(`${what} ${problem}; it must be text of 1 to ${max} bytes of UTF-8.`);
}

/** Throws unless `token` is a secret of 16 to 1024 printable characters. The error does not show the token. */
export function checkToken(option: string, token: unknown): string {
  if (typeof token === "string" && /^[\x21-\x7e]{16,1024}$/.test(token)) return token;
  throw new InvalidConfigError(`${option} is not a text of 16 to 1024 printable characters.`);
}

/** Compares a token with the one that is wanted. Takes the same time for any two texts of the same lengths. */
export function isSameToken(given: string, wanted: string): boolean {
  const { createHash, timingSafeEqual } = process.getBuiltinModule("node:crypto"); // here only: it takes 3 ms to load
  const [left, right] = [given, wanted].map((text) => createHash("sha256").update(text).digest());
  return timingSafeEqual(left!, right!);
}
