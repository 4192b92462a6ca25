/**
 * The encoding of heads: everything of a request or response but its body.
 *
 *     u32 count | parameters << 16, then u32 length × count, then the text of all strings in one run
 *
 * Lengths are UTF-16 code units of the decoded text, so the whole text is written by one call and read by
 * one call, and a string is a substring of it. Text is UTF-8; as many bytes as units means pure ASCII, which
 * takes the fast path. The body follows at the next multiple of 8.
 *
 * Strings of a request: path, query, route pattern, id, then parameters and headers as pairs.
 * Strings of a response: content type, then headers as pairs. Of an error: code, name, message, stack.
 */

import { HeadTooLargeError, InvalidConfigError, PayloadTooLargeError, ProtocolError } from "../errors.ts";
import { checkHeaderValue } from "./headers.ts";

/** Strings before the pairs of a request head. */
export const REQUEST_STRINGS = 4;

/** Bun's and Node's fast paths of `Buffer`, which their types leave out. */
interface FastBuffer {
  utf8Write(text: string, offset: number): number;
  latin1Slice(start: number, end: number): string;
  utf8Slice(start: number, end: number): string;
}

const fast = Buffer.prototype as unknown as FastBuffer;

/** One direction of one slot: the same memory as bytes and as words. */
export class Arena {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly #text: FastBuffer;

  constructor(buffer: ArrayBuffer) {
    this.buffer = buffer;
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer);
    this.#text = Buffer.from(buffer) as unknown as FastBuffer;
  }

  /** Writes text as UTF-8 and returns its length in bytes. */
  write(text: string, offset: number): number {
    return this.#text.utf8Write(text, offset);
  }
}

/** Where a body starts that follows a head of `headBytes`. */
export function bodyOffset(headBytes: number): number {
  return (headBytes + 7) & ~7;
}

/**
 * Writes a head at the start of an arena and returns its length in bytes.
 *
 * @throws {HeadTooLargeError} above `limit` bytes; {@link InvalidConfigError} for a NUL or line break, which only
 * the texts of an error (`multiline`) may have.
 */
export function writeHead(
  arena: Arena,
  strings: readonly string[],
  parameters: number,
  limit: number,
  what: "request" | "response",
  multiline = false,
): number {
  const count = strings.length;
  const words = arena.words;
  const start = 4 + 4 * count;
  if (start > limit || count > 0xffff) throw new HeadTooLargeError(what, start, limit);
  let text = "";
  words[0] = count | (parameters << 16);
  for (let i = 0; i < count; i++) {
    const string = strings[i]!;
    words[i + 1] = string.length;
    text += string;
  }
  // UTF-8 takes at most 3 bytes a unit; only a text near the limit is measured.
  if (start + 3 * text.length > limit) {
    const bytes = start + Buffer.byteLength(text);
    if (bytes > limit) throw new HeadTooLargeError(what, bytes, limit);
  }
  if (!multiline && (text.includes("\n") || text.includes("\r") || text.includes("\0"))) refuseBreaks(strings);
  return start + arena.write(text, start);
}

function refuseBreaks(strings: readonly string[]): never {
  for (const string of strings) checkHeaderValue(string, string);
  throw new InvalidConfigError("a path, parameter or header has a line break or NUL in it.");
}

/** A head that was copied out of shared memory: checked when made, decoded when read. */
export class Head {
  readonly count: number;
  readonly parameters: number;
  readonly #bytes: Uint8Array;
  readonly #end: number;
  readonly #units: number;
  #text: string | null = null;

  /** Throws {@link ProtocolError} unless the table and the text fit each other and `bytes`. */
  constructor(bytes: Uint8Array, headBytes: number, leading: number) {
    const first = headBytes >= 4 ? word(bytes, 0) : 0;
    this.count = first & 0xffff;
    this.parameters = first >>> 16;
    this.#bytes = bytes;
    this.#end = headBytes;
    const start = 4 + 4 * this.count;
    const pairs = this.count - leading;
    if (start > headBytes || pairs < 0 || pairs % 2 !== 0 || 2 * this.parameters > pairs) throw malformed();
    let units = 0;
    for (let i = 1; i <= this.count; i++) units += word(bytes, 4 * i);
    this.#units = units;
    // Equal: ASCII, if the bytes are. Unequal: only decoding tells, so it is done now.
    if (units !== headBytes - start && this.#decode().length !== units) throw malformed();
  }

  /** String number `index`. */
  string(index: number): string {
    let from = 0;
    for (let i = 1; i <= index; i++) from += word(this.#bytes, 4 * i);
    return this.#decode().substring(from, from + word(this.#bytes, 4 * (index + 1)));
  }

  /** All strings from `first` up to `end`. */
  strings(first: number, end: number): string[] {
    const out: string[] = [];
    const text = this.#decode();
    let from = 0;
    for (let i = 0; i < end; i++) {
      const length = word(this.#bytes, 4 * (i + 1));
      if (i >= first) out.push(text.substring(from, from + length));
      from += length;
    }
    return out;
  }

  #decode(): string {
    if (this.#text !== null) return this.#text;
    const start = 4 + 4 * this.count;
    const ascii = this.#units === this.#end - start;
    const text = ascii
      ? fast.latin1Slice.call(this.#bytes, start, this.#end)
      : fast.utf8Slice.call(this.#bytes, start, this.#end);
    this.#text = text;
    return text;
  }
}

function word(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

function malformed(): ProtocolError {
  return new ProtocolError("a message's head is malformed: its table does not fit its text.");
}

/** HTTP methods a request may have; the index travels. */
export const METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] as const;

export type Method = (typeof METHODS)[number];

const methodIndex = new Map<string, number>(METHODS.map((method, index) => [method, index]));

/** Index of a method. Throws {@link InvalidConfigError} for any other text. */
export function encodeMethod(method: string): number {
  const index = methodIndex.get(method);
  if (index !== undefined) return index;
  throw new InvalidConfigError(`${JSON.stringify(method)} is not a method.`, {
    hint: `Use one of ${METHODS.join(", ")}.`,
  });
}

/** A body that can be written at once. */
export type BodyLike = string | Uint8Array | ArrayBuffer | DataView | null | undefined;

const empty = new Uint8Array(0);

/**
 * Writes a body at `offset` of an arena and returns its length in bytes.
 *
 * @throws {PayloadTooLargeError} above `limit` bytes.
 */
export function writeBody(
  arena: Arena,
  offset: number,
  body: BodyLike,
  limit: number,
  what: "request" | "response",
): number {
  if (typeof body === "string") {
    if (3 * body.length > limit) {
      const bytes = Buffer.byteLength(body);
      if (bytes > limit) throw new PayloadTooLargeError(what, bytes, limit, what === "response");
    }
    return body.length === 0 ? 0 : arena.write(body, offset);
  }
  const bytes = bodyBytes(body);
  if (bytes.length > limit) throw new PayloadTooLargeError(what, bytes.length, limit, what === "response");
  if (bytes.length > 0) arena.bytes.set(bytes, offset);
  return bytes.length;
}

/** Length of a body in bytes. */
export function bodyLength(body: BodyLike): number {
  return typeof body === "string" ? Buffer.byteLength(body) : bodyBytes(body).length;
}

function bodyBytes(body: Exclude<BodyLike, string>): Uint8Array {
  if (body === null || body === undefined) return empty;
  if (body instanceof Uint8Array) return body;
  if (body instanceof ArrayBuffer) return new Uint8Array(body);
  if (ArrayBuffer.isView(body)) return new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
  throw new InvalidConfigError(`a body cannot be a ${typeof body}.`, {
    hint: "Give a string, bytes, or `json`.",
  });
}
