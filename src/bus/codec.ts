/**
 * The encoding of heads: everything of a request or response but its body.
 *
 *     u16 count, u16 parameters, count lengths (7 bits a byte), then the text of all strings in one run
 *
 * Lengths are UTF-16 code units of the decoded text, so the whole text is read by one call and a string is a substring
 * of it. Text is UTF-8; as many bytes as units means pure ASCII, which takes the fast path. The body follows at the
 * next multiple of 8.
 *
 * Strings of a request: path, query, route pattern, id, then parameters and headers as pairs.
 * Strings of a response: content type, then headers as pairs. Of an error: code, name, message, stack.
 */

import { shown } from "../check.ts";
import { SlotbusError, HeadTooLargeError, InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import { fast, type FastBuffer } from "../fast-buffer.ts";
import { checkHeaderName, checkText, HeaderList } from "./headers.ts";
import { bodyReleased } from "../errors/plain.ts";

/** Strings before the pairs of a request head. */
export const REQUEST_STRINGS = 4;

/** One direction of one slot: the same memory for bytes and for text. */
export class Arena {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** What {@link HeadWriter} left at its start, and nobody has overwritten. */
  head: Uint8Array | null = null;
  readonly #text: FastBuffer;

  constructor(buffer: ArrayBuffer) {
    this.buffer = buffer;
    this.bytes = new Uint8Array(buffer);
    this.#text = Buffer.from(buffer) as unknown as FastBuffer;
  }

  /** Whether it begins with these bytes. */
  startsWith(bytes: Uint8Array): boolean {
    return this.#text.compare(bytes, 0, bytes.length, 0, bytes.length) === 0;
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

/** What a head is of; errors name it. */
export type MessageKind = "request" | "response";

/** Bytes before the table of lengths. */
const TABLE = 4;
/** Largest head that is remembered. */
const MEMO_BYTES = 4096;
const MEMO_ENTRIES = 16;
/** A head that differs from the remembered one replaces it every so many times: remembering has its price. */
const MEMO_EVERY = 8;

/** A length takes 7 bits a byte, lowest first; the top bit says that more follow. Returns the next offset. */
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

/** Size of a head in bytes. */
function measure(strings: readonly string[]): number {
  const table = new Uint8Array(5);
  let bytes = TABLE;
  for (const string of strings) bytes += writeLength(table, 0, string.length) + Buffer.byteLength(string);
  return bytes;
}

/** Writes a string of ASCII. `false` when there is another character, or one that a head may not have. */
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
 * Encodes a head at the start of an arena and returns its length in bytes. `multiline` text (of an error) may have line
 * breaks and NUL.
 *
 * @throws {HeadTooLargeError} above `limit` bytes; {@link InvalidConfigError} for a line break, a NUL, or a header name
 * that is none; the pairs from `firstHeader` on are headers.
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
  // A length takes up to 5 bytes and a unit of text up to 3; only what comes near the limit is measured.
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
  const names = what === "request" ? ["the path", "the query", "the pattern", "the id"] : ["the content type"];
  const part = index >= firstHeader ? "a header" : (names[index] ?? "a parameter");
  return `${part} of a ${what} is ${shown(value)}; it must be text.`;
}

/** A head that {@link HeadWriter} may see again. */
interface WrittenHead {
  strings: string[];
  parameters: number;
  bytes: Uint8Array;
  /** Where the text starts; -1 when it is not all ASCII. */
  text: number;
}

/**
 * Writes heads, and remembers a few: processes that talk to each other repeat themselves. A repeated head costs one
 * comparison per string, mostly of pointers, and nothing is written when it stands in the arena already. One whose
 * strings differ but not their lengths (an id, a time) is written as far as it differs.
 */
export class HeadWriter {
  /** Of the next head. */
  strings: string[] = [];
  /** Nobody collects into it just now. */
  #idle: string[] | null = this.strings;
  readonly #memo: (WrittenHead | undefined)[] = [];
  #misses = 0;

  /** An empty array for the strings of the next head, until {@link put}. Code of the user that fills it may write other heads. */
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

  /** As {@link encodeHead}, of {@link strings}. */
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

function same(a: readonly string[], b: readonly string[]): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Writes `strings` as a variant of `known`; `false` when they are too different, and the arena holds no head. */
function patch(arena: Arena, known: WrittenHead, strings: readonly string[], firstHeader: number): boolean {
  if (known.text < 0) return false;
  let at = known.text;
  arena.head = null;
  arena.bytes.set(known.bytes, 0);
  for (let i = 0; i < strings.length; i++) {
    const string = strings[i]!;
    const before = known.strings[i]!;
    if (string !== before) {
      const isName = i >= firstHeader && (i - firstHeader) % 2 === 0; // its rules are stricter
      if (isName || string.length !== before.length || !writeAscii(arena.bytes, at, string)) return false;
    }
    at += string.length;
  }
  return true;
}

/** A head that was copied out of shared memory: checked when made, decoded when read. Immutable. */
export class Head {
  /** The private copy; all of it is the head. */
  readonly bytes: Uint8Array;
  readonly count: number;
  readonly parameters: number;
  /** What its reader has found out from it, kept for the next message with the same head. */
  note: object | null = null;
  readonly #leading: number;
  readonly #lengths: number[] = [];
  readonly #start: number;
  #text: string | null = null;
  /** Path or content type: what every message is asked for. */
  #first: string | null = null;
  #headers: HeaderList | null = null;

  /**
   * `leading` strings come before the pairs. Throws `PROTOCOL` unless table and text fit each other.
   */
  constructor(bytes: Uint8Array, leading: number) {
    this.bytes = bytes;
    this.count = bytes[0]! | (bytes[1]! << 8);
    this.parameters = bytes[2]! | (bytes[3]! << 8);
    this.#leading = leading;
    const pairs = this.count - leading;
    if (bytes.length < TABLE || pairs < 0 || pairs % 2 !== 0 || 2 * this.parameters > pairs) throw malformed();
    let at = TABLE;
    let units = 0;
    for (let i = 0; i < this.count; i++) {
      let length = 0;
      let shift = 0;
      let byte = 128;
      while (byte > 127) {
        if (at >= bytes.length || shift > 28) throw malformed();
        byte = bytes[at++]!;
        length += (byte & 127) * 2 ** shift;
        shift += 7;
      }
      this.#lengths.push(length);
      units += length;
    }
    this.#start = at;
    // As many bytes as units: ASCII, if the bytes are. Otherwise only decoding tells, so it is done now.
    const isAscii = units === bytes.length - at;
    if (!isAscii) {
      this.#text = fast.utf8Slice.call(bytes, at, bytes.length);
      if (this.#text.length !== units) throw malformed();
    }
  }

  /** String number `index`. */
  string(index: number): string {
    if (index === 0) return (this.#first ??= this.#decode().substring(0, this.#lengths[0]));
    let from = 0;
    for (let i = 0; i < index; i++) from += this.#lengths[i]!;
    return this.#decode().substring(from, from + this.#lengths[index]!);
  }

  /** All strings from `first` up to `end`. */
  strings(first: number, end: number): string[] {
    const text = this.#decode();
    const out: string[] = [];
    let from = 0;
    for (let i = 0; i < end; i++) {
      const to = from + this.#lengths[i]!;
      if (i >= first) out.push(text.substring(from, to));
      from = to;
    }
    return out;
  }

  /** The pairs after the parameters. */
  get headers(): HeaderList {
    this.#headers ??= new HeaderList(this.strings(this.#leading + 2 * this.parameters, this.count));
    return this.#headers;
  }

  #decode(): string {
    this.#text ??= fast.latin1Slice.call(this.bytes, this.#start, this.bytes.length);
    return this.#text;
  }
}

/** Copies heads out of shared memory, and gives a head that it has made before for equal bytes. */
export class HeadReader {
  readonly #leading: number;
  readonly #memo: (Head | undefined)[] = [];

  constructor(leading: number) {
    this.#leading = leading;
  }

  /** The head of `length` bytes at the arena's start. Throws `PROTOCOL` when it is malformed. */
  read(arena: Arena, length: number): Head {
    const place = length % MEMO_ENTRIES;
    const known = this.#memo[place];
    if (known && known.bytes.length === length && arena.startsWith(known.bytes)) return known;
    const head = new Head(arena.bytes.slice(0, length), this.#leading);
    if (length <= MEMO_BYTES) this.#memo[place] = head;
    return head;
  }
}

function malformed(): SlotbusError {
  return new SlotbusError("PROTOCOL", "a message's head is malformed: its table does not fit its text.");
}

/** HTTP methods a request may have; the index travels. */
export const METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] as const;

/** The methods a request can have. */
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
    throw bodyReleased(what === "request" ? null : "the response's body");
  if (bytes.length > limit) throw new PayloadTooLargeError(what, bytes.length, limit, what === "response");
  if (bytes.length > 0) arena.bytes.set(bytes, offset);
  return bytes.length;
}

/** Length of a body in bytes. */
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

/** The bytes of a buffer, or of a view of one; `null` for anything else. */
export function viewOf(value: unknown): Uint8Array | null {
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return ArrayBuffer.isView(value) ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : null;
}
