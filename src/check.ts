/** Arguments and options: each wrong value gets one clear error. */

import { createHash, timingSafeEqual } from "node:crypto";
import { InvalidConfigError } from "./errors.ts";

/** A value as the text of an error shows it, whatever it is; text has quotes. */
export function shown(value: unknown): string {
  if (typeof value === "string" && value.length > 64) {
    return `${Bun.inspect(value.slice(0, 64))}… (${Buffer.byteLength(value)} bytes)`;
  }
  return Bun.inspect(value, { depth: 0 }).replace(/\s+/g, " ").slice(0, 80);
}

/** Throws {@link InvalidConfigError} unless the options `of` something are an object. With an `example`, `of` is an option's name. */
export function checkOptions<T>(of: string, options: T, example?: string): T {
  if (typeof options === "object" && options !== null) return options;
  if (example) throw new InvalidConfigError(`\`${of}\` is ${shown(options)}; it must be an object such as ${example}.`);
  throw new InvalidConfigError(`the options of ${of} are ${shown(options)}; they must be an object.`);
}

/** Throws {@link InvalidConfigError} for a key that is not `known`, with the one that comes nearest. */
export function checkKeys(of: string, given: object, known: readonly string[]): void {
  for (const key of Object.keys(given)) {
    if (known.includes(key)) continue;
    const near = nearest(key, known);
    throw new InvalidConfigError(`${of} has no option ${shown(key)}.`, {
      hint: near ? `Did you mean ${near}?` : `It has ${known.join(", ")}.`,
    });
  }
}

/** The known key that differs least, when it differs little; case and underscores do not count. */
function nearest(key: string, known: readonly string[]): string | undefined {
  const plain = (text: string): string => text.toLowerCase().replaceAll("_", "").slice(0, 64);
  const ranked = known
    .map((name) => ({ name, distance: editDistance(plain(key), plain(name)) }))
    .sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  return best && best.distance <= Math.max(1, Math.floor(key.length / 3)) ? best.name : undefined;
}

/** Insertions, deletions and replacements that make `a` into `b` (Levenshtein). */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) {
      const replaced = row[j]! + (a[i] === b[j] ? 0 : 1);
      next.push(Math.min(replaced, row[j + 1]! + 1, next[j]! + 1));
    }
    row = next;
  }
  return row.at(-1)!;
}

/** Throws {@link InvalidConfigError} unless it is a signal, or none. */
export function checkSignal(signal: unknown): void {
  if (signal === undefined || signal instanceof AbortSignal) return;
  throw new InvalidConfigError(`signal is ${shown(signal)}; it must be an AbortSignal.`);
}

/** Throws unless `value` is one of the choices. */
export function checkChoice<T extends string>(option: string, value: unknown, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value);
  if (found !== undefined) return found;
  throw new InvalidConfigError(`${option} is ${shown(value)}; it must be one of ${choices.join(", ")}.`);
}

/** Throws unless `value` is a whole number from `low` to `high`. */
export function checkInteger(option: string, value: unknown, low: number, high: number, unit = ""): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= low && value <= high) return value;
  throw new InvalidConfigError(
    `${option} is ${shown(value)}; it must be a whole number from ${low} to ${high}${unit}.`,
  );
}

/** Throws unless `token` is a secret of 16 to 1024 printable characters. The error does not show the token. */
export function checkToken(option: string, token: unknown): string {
  if (typeof token === "string" && /^[\x21-\x7e]{16,1024}$/.test(token)) return token;
  throw new InvalidConfigError(`${option} is not a text of 16 to 1024 printable characters.`);
}

/** Compares a token with the one that is wanted. Takes the same time for any two texts of the same lengths. */
export function isSameToken(given: string, wanted: string): boolean {
  const [left, right] = [given, wanted].map((text) => createHash("sha256").update(text).digest());
  return timingSafeEqual(left!, right!);
}

/** Milliseconds; `Infinity` (or 0) means no limit and becomes 0. */
export function checkTimeout(option: string, value: unknown): number {
  if (value === Infinity) return 0;
  if (typeof value === "number" && value >= 0 && value <= 0xffff_ffff) return Math.ceil(value);
  throw new InvalidConfigError(`${option} is ${shown(value)}; it must be 0 (no limit) to 4294967295 ms.`);
}

/** Longest wait of a timer of JavaScript, in ms; a longer one would end at once. */
const MAX_TIMER_MS = 0x7fff_ffff;

/**
 * Calls `done` after `ms`; never for 0 (no limit) and for what is beyond a timer's range (24 days). The timer does not keep the
 * process alive: a caller that waits holds it (`hold.ts`).
 */
export function startTimer(ms: number, done: () => void): { clear(): void } {
  if (ms === 0 || ms > MAX_TIMER_MS) return { clear: () => {} };
  const timer = setTimeout(done, ms);
  timer.unref();
  return { clear: () => clearTimeout(timer) };
}
