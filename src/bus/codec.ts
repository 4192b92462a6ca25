/**
 * Encodes heads, which head.ts decodes: all parts of a request or response except its body.
 *
 *     u16 count, u16 parameters, count lengths (7 bits per byte), then the text of all strings in one run
 *
 * A length is a number of UTF-16 code units in the decoded text: one call decodes the whole text, and each string is a substring.
 * The text is UTF-8. If it has as many bytes as units, it is ASCII and takes the fast path. The body follows at the next multiple
 * of 8.
 *
 * Strings of a request: path, query, route pattern, id, then parameters and headers as pairs.
 * Strings of a response: content type, then headers as pairs. Strings of an error: code, name, message, stack.
 */

import { shown } from "../check.ts";
import { HeadTooLargeError, InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import type { FastBuffer } from "../fast-buffer.ts";
import { checkHeaderName, checkText } from "./headers.ts";
import { bodyReleased } from "../errors/plain.ts";

/** Number of strings before the pairs of a request head. */
export const REQUEST_STRINGS = 4;

/** Up to this size, a loop compares bytes faster than a call of the runtime does. */
const SHORT_BYTES = 32;

/** Memory of one direction of one slot, accessible as bytes and as text. */
export class Arena {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same memory in words of 4 bytes. */
  readonly words: Uint32Array<ArrayBuffer>;
  /** Head whose variant is at the start of the arena, and the range of strings that the variant may have changed. */
  variantOf: object | null = null;
  changedFrom = 0;
  changedTo = 0;
  #head: Uint8Array | null = null;
  readonly #text: FastBuffer;

  constructor(buffer: ArrayBuffer) {
    this.buffer = buffer;
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer, 0, buffer.byteLength >> 2);
    this.#text = Buffer.from(buffer) as unknown as FastBuffer;
  }

  /** Head that {@link HeadWriter} left at the start of the arena and that was not overwritten since. */
  get head(): Uint8Array | null {
    return this.#head;
  }

  set head(head: Uint8Array | null) {
    this.#head = head;
    this.variantOf = null;
  }

  /** Whether the arena starts with these bytes. */
  startsWith(bytes: Uint8Array): boolean {
    const { length } = bytes;
    if (length <= SHORT_BYTES) {
      for (let at = 0; at < length; at++) if (this.bytes[at] !== bytes[at]) return false;
      return true;
    }
    return this.#text.compare(bytes, 0, length, 0, length) === 0;
  }

  /** Writes text as UTF-8 and returns its length in bytes. */
  write(text: string, offset: number): number {
    return this.#text.utf8Write(text, offset);
  }
}

/** Returns the offset of the body after a head of `headBytes`. */
export function bodyOffset(headBytes: number): number {
  return (headBytes + 7) & ~7;
}

/** Kind of message, for errors. */
export type MessageKind = "request" | "response";

/** Bytes before the table of lengths. */
export const TABLE = 4;
/** Size of the largest head that is cached. */
export const MEMO_BYTES = 4096;
export const MEMO_ENTRIES = 16;
/** Only each eighth head that differs from the cached head replaces it, because caching has a cost. */
const MEMO_EVERY = 8;

/** Writes a length, 7 bits per byte, lowest bits first; the top bit says that more bytes follow. Returns the next offset. */
function writeLength(bytes: Uint8Array, offset: number, length: number): number {
  let at = offset;
  let rest = length;
  while (rest > 127) {
    bytes[at++] = (rest & 127) | 128;
    rest >>>= 7;
  }
  bytes[at++] = rest;
  return at;
}

/** Returns the size of a head, in bytes. */
function measure(strings: readonly string[]): number {
  const table = new Uint8Array(5);
  let bytes = TABLE;
  for (const string of strings) bytes += writeLength(table, 0, string.length) + Buffer.byteLength(string);
  return bytes;
}

/** Writes an ASCII string. Returns `false` if it has a character that is not ASCII or not allowed in a head. */
function writeAscii(bytes: Uint8Array, offset: number, string: string): boolean {
  let seen = 0;
  for (let i = 0; i < string.length; i++) {
    const c = string.charCodeAt(i);
    if (c < 14 && (c === 0 || c === 10 || c === 13)) return false;
    seen |= c;
    bytes[offset + i] = c;
  }
  return seen < 128;
}

/**
 * Encodes a head at the start of an arena and returns its length in bytes. The pairs from `firstHeader` on are headers. With
 * `multiline`, for errors, the text may contain line breaks and NUL.
 *
 * @throws {HeadTooLargeError} above `limit` bytes; {@link InvalidConfigError} for a line break, a NUL or an invalid header name.
 */
export function encodeHead(
  arena: Arena,
  strings: readonly string[],
  parameters: number,
  firstHeader: number,
  limit: number,
  what: MessageKind,
  multiline = false,
): number {
  const count = strings.length;
  let units = 0;
  for (let i = 0; i < count; i++) {
    const string = strings[i];
    if (typeof string !== "string") throw new InvalidConfigError(notText(what, i, firstHeader, string));
    units += string.length;
  }
  // A length takes at most 5 bytes and a unit of text at most 3: only a head near the limit needs an exact measurement.
  if (count > 0xffff || TABLE + 5 * count + 3 * units > limit) {
    const exact = measure(strings);
    if (exact > limit || count > 0xffff) throw new HeadTooLargeError(what, exact, limit, what === "response");
  }
  for (let i = firstHeader; i < count; i += 2) checkHeaderName(strings[i]!);
  const bytes = arena.bytes;
  arena.head = null;
  bytes[0] = count & 255;
  bytes[1] = count >>> 8;
  bytes[2] = parameters & 255;
  bytes[3] = parameters >>> 8;
  let at = TABLE;
  for (let i = 0; i < count; i++) at = writeLength(bytes, at, strings[i]!.length);
  const start = at;
  for (let i = 0; i < count; i++) {
    const string = strings[i]!;
    if (multiline || !writeAscii(bytes, at, string)) {
      if (!multiline) for (const text of strings) checkText(text);
      return start + arena.write(strings.join(""), start);
    }
    at += string.length;
  }
  return at;
}

function notText(what: MessageKind, index: number, firstHeader: number, value: unknown): string {
  const names = what === "request" ? ["The path", "The query", "The pattern", "The id"] : ["The content type"];
  const part = index >= firstHeader ? "A header" : (names[index] ?? "A parameter");
  return `${part} of a ${what} is ${shown(value)}; it must be text.`;
}

/** A cached head of {@link HeadWriter}. */
interface WrittenHead {
  strings: string[];
  parameters: number;
  bytes: Uint8Array;
  /** Offset of the text; -1 if the text is not ASCII. */
  text: number;
}

/**
 * Writes heads and caches a few, because two processes exchange the same heads again and again. A repeated head costs one
 * comparison per string, mostly of pointers; if the arena already contains it, nothing is written. For a head whose strings
 * differ but have the same lengths (an id, a time), only the differing strings are encoded.
 */
export class HeadWriter {
  /** Strings of the next head. */
  strings: string[] = [];
  /** Array that is free for the next {@link take}; `null` while it is in use. */
  #idle: string[] | null = this.strings;
  readonly #memo: (WrittenHead | undefined)[] = [];
  #misses = 0;

  /** Returns an empty array for the strings of the next head, until {@link put}. User code that fills it may write other heads. */
  take(): string[] {
    const strings = this.#idle ?? [];
    this.#idle = null;
    strings.length = 0;
    return strings;
  }

  put(strings: string[]): void {
    this.strings = strings;
    this.#idle = strings;
  }

  /** As {@link encodeHead}, for {@link strings}. */
  write(arena: Arena, parameters: number, firstHeader: number, limit: number, what: MessageKind): number {
    const { strings } = this;
    const place = (strings.length + strings[0]!.length) % MEMO_ENTRIES;
    const known = this.#memo[place];
    if (known && known.parameters === parameters && known.strings.length === strings.length) {
      if (same(known.strings, strings)) {
        if (arena.head !== known.bytes) {
          arena.bytes.set(known.bytes, 0);
          arena.head = known.bytes;
        }
        return known.bytes.length;
      }
      if (patch(arena, known, strings, firstHeader)) return known.bytes.length;
    }
    const length = encodeHead(arena, strings, parameters, firstHeader, limit, what);
    if (length <= MEMO_BYTES && (!known || ++this.#misses % MEMO_EVERY === 0)) {
      const units = strings.reduce((sum, string) => sum + string.length, 0);
      const table = strings.reduce((sum, string) => sum + (string.length < 128 ? 1 : 2), TABLE);
      const text = table + units === length ? table : -1;
      this.#memo[place] = { strings: strings.slice(), parameters, bytes: arena.bytes.slice(0, length), text };
    }
    return length;
  }
}

/** Encodes heads that are sent later. Equal heads share their bytes, which nobody changes. */
export class HeadEncoder {
  readonly heads = new HeadWriter();
  #scratch: Arena | null = null;

  /** As {@link HeadWriter.write}, always with the same `limit`. Returns the head. */
  encode(parameters: number, firstHeader: number, limit: number, what: MessageKind): Uint8Array {
    const scratch = (this.#scratch ??= new Arena(new ArrayBuffer(limit)));
    const length = this.heads.write(scratch, parameters, firstHeader, limit, what);
    return scratch.head ?? scratch.bytes.slice(0, length);
  }
}

function same(a: readonly string[], b: readonly string[]): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Writes `strings` as a variant of `known`. Returns `false`, with an unusable head in the arena, if they differ too much. */
function patch(arena: Arena, known: WrittenHead, strings: readonly string[], firstHeader: number): boolean {
  if (known.text < 0) return false;
  // What is there already is not written again: it stays in the caches of the other side's processor.
  const isVariant = arena.variantOf === known;
  const { changedFrom, changedTo } = arena;
  let at = known.text;
  let from = strings.length;
  let to = 0;
  arena.head = null;
  if (!isVariant) arena.bytes.set(known.bytes, 0);
  for (let i = 0; i < strings.length; i++) {
    const string = strings[i]!;
    const before = known.strings[i]!;
    if (string !== before) {
      const isName = i >= firstHeader && (i - firstHeader) % 2 === 0; // header names have stricter rules
      if (isName || string.length !== before.length || !writeAscii(arena.bytes, at, string)) return false;
      from = Math.min(from, i);
      to = i + 1;
    } else if (isVariant && i >= changedFrom && i < changedTo) writeAscii(arena.bytes, at, before);
    at += string.length;
  }
  arena.variantOf = known;
  arena.changedFrom = from;
  arena.changedTo = to;
  return true;
}

/** HTTP methods of requests. The index is sent. */
export const METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] as const;

/** HTTP method of a request. */
export type Method = (typeof METHODS)[number];

const methodIndex = new Map<string, number>(METHODS.map((method, index) => [method, index]));

/** Returns the index of a method. @throws {InvalidConfigError} for any other text. */
export function encodeMethod(method: string): number {
  const index = methodIndex.get(method);
  if (index !== undefined) return index;
  throw new InvalidConfigError(`${JSON.stringify(method)} is not a valid method.`, {
    hint: `Use one of ${METHODS.join(", ")}.`,
  });
}

/** A body that does not stream. */
export type BodyLike = string | Uint8Array | ArrayBuffer | DataView | null | undefined;

const empty = new Uint8Array(0);

/**
 * Writes a body at `offset` of an arena and returns its length in bytes.
 *
 * @throws {PayloadTooLargeError} above `limit` bytes.
 */
export function writeBody(arena: Arena, offset: number, body: BodyLike, limit: number, what: MessageKind): number {
  if (typeof body === "string") {
    if (3 * body.length > limit) {
      const bytes = Buffer.byteLength(body);
      if (bytes > limit) throw new PayloadTooLargeError(what, bytes, limit, what === "response");
    }
    return body.length === 0 ? 0 : arena.write(body, offset);
  }
  const bytes = bodyBytes(body);
  if (bytes.length === 0 && (bytes.buffer as ArrayBuffer).detached)
    throw bodyReleased(what === "request" ? null : "The response body");
  if (bytes.length > limit) throw new PayloadTooLargeError(what, bytes.length, limit, what === "response");
  if (bytes.length > 0) arena.bytes.set(bytes, offset);
  return bytes.length;
}

/** Returns the length of a body, in bytes. */
export function bodyLength(body: BodyLike): number {
  return typeof body === "string" ? Buffer.byteLength(body) : bodyBytes(body).length;
}

function bodyBytes(body: Exclude<BodyLike, string>): Uint8Array {
  const bytes = body === null || body === undefined ? empty : viewOf(body);
  if (bytes) return bytes;
  throw new InvalidConfigError(`body is ${shown(body)}; it must be text or bytes.`, {
    hint: "Use `json` to send a value.",
  });
}

/** Returns the bytes of a buffer or of a view; `null` for any other value. */
export function viewOf(value: unknown): Uint8Array | null {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return ArrayBuffer.isView(value) ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : null;
}
