/** Checks arguments and options; each invalid value throws one error that names it. */

import { InvalidConfigError } from "./errors.ts";
import { nearest } from "./near.ts";
import { inspect } from "./runtime.ts";

/** Number of characters of a text that an error shows. */
const SHOWN_MAX = 64;

/** Formats any value for an error message; text is quoted. */
export function shown(value: unknown): string {
  if (typeof value === "string" && value.length > SHOWN_MAX) {
    return `${inspect(value.slice(0, SHOWN_MAX))}… (${Buffer.byteLength(value)} bytes)`;
  }
  return inspect(value, { depth: 0 }).replace(/\s+/g, " ").slice(0, 80);
}

/**
 * Throws {@link InvalidConfigError} unless the options of `of` are an object. With `example`, `of` is the name of an
 * option.
 */
export function checkOptions<T>(of: string, options: T, example?: string): T {
  if (typeof options === "object" && options !== null) return options;
  if (example) throw new InvalidConfigError(`\`${of}\` is ${shown(options)}; it must be an object such as ${example}.`);
  throw new InvalidConfigError(`The options of ${of} are ${shown(options)}; they must be an object.`);
}

/** Like {@link checkOptions}; also throws for a key that is not in `known`, and suggests the nearest known key. */
export function checkKeys<T extends object>(of: string, given: T, known: readonly string[]): T {
  for (const key of Object.keys(checkOptions(of, given))) {
    if (known.includes(key)) continue;
    const [near] = nearest(key, known);
    throw new InvalidConfigError(`${of} has no option ${shown(key)}.`, {
      hint: near ? `Did you mean ${near}?` : `Choose from ${known.join(", ")}.`,
    });
  }
  return given;
}

/** Throws {@link InvalidConfigError} unless `signal` is an `AbortSignal` or `undefined`. */
export function checkSignal(signal: unknown): void {
  if (signal === undefined || signal instanceof AbortSignal) return;
  throw new InvalidConfigError(`signal is ${shown(signal)}; it must be an AbortSignal.`);
}

/** Returns `value` if it is a whole number from `low` to `high`, else throws {@link InvalidConfigError}. */
export function checkInteger(option: string, value: unknown, low: number, high: number, unit = ""): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= low && value <= high) return value;
  throw new InvalidConfigError(
    `${option} is ${shown(value)}; it must be a whole number from ${low} to ${high}${unit}.`,
  );
}

/** Says why a value is not text of 1 to `max` bytes of UTF-8 without NUL; `null`: it is. */
function problemOf(text: unknown, max: number): string | null {
  if (typeof text !== "string") return `is ${shown(text)}`;
  if (text === "") return "is empty";
  if (text.includes("\0")) return `has a NUL at character ${text.indexOf("\0")}`;
  if (!text.isWellFormed()) return "has half a surrogate pair";
  if (text.length * 3 <= max) return null; // a UTF-16 unit is at most 3 bytes of UTF-8
  const bytes = Buffer.byteLength(text);
  if (bytes <= max) return null;
  return `is ${text.length > SHOWN_MAX ? shown(text) : `${shown(text)} (${bytes} bytes)`}`;
}

/** Whether `text` is 1 to `max` bytes of UTF-8 without NUL. */
export function isText(text: unknown, max: number): text is string {
  return problemOf(text, max) === null;
}

/** Returns `text` if it is 1 to `max` bytes of UTF-8 without NUL, else throws {@link InvalidConfigError}. */
export function checkText(what: string, text: unknown, max: number): string {
  const problem = problemOf(text, max);
  if (problem === null) return text as string;
  throw new InvalidConfigError(`${what} ${problem}; it must be text of 1 to ${max} bytes of UTF-8.`);
}

/** Returns `token` if it is 16 to 1024 printable characters, else throws an error that does not show it. */
export function checkToken(option: string, token: unknown): string {
  if (typeof token === "string" && /^[\x21-\x7e]{16,1024}$/.test(token)) return token;
  throw new InvalidConfigError(`${option} must be text of 16 to 1024 printable characters, without spaces.`);
}

/** Compares two tokens. The time depends only on their lengths, not on their content. */
export function isSameToken(given: string, wanted: string): boolean {
  const { createHash, timingSafeEqual } = process.getBuiltinModule("node:crypto"); // not at the top: loading it takes 3 ms
  const [left, right] = [given, wanted].map((text) => createHash("sha256").update(text).digest());
  return timingSafeEqual(left!, right!);
}
