/** Decodes heads; codec.ts has their format. */

import { SlotbusError } from "../errors.ts";
import { fast } from "../fast-buffer.ts";
import { type Arena, MEMO_BYTES, MEMO_ENTRIES, TABLE } from "./codec.ts";
import { HeaderList } from "./headers.ts";

/** The checked counts and lengths of a head. Heads whose tables have the same bytes share it. */
interface Table {
  readonly count: number;
  readonly parameters: number;
  /** Index of the first header. */
  readonly firstHeader: number;
  /** Whether the text has one byte per unit. */
  readonly isAscii: boolean;
  /** Size of the head, in bytes. */
  readonly size: number;
  /** Offset of the first string in the decoded text. */
  readonly start: number;
  /** End of each string, in units from the start of the text. */
  readonly ends: readonly number[];
}

/** A head that was copied out of shared memory and checked; strings are decoded when they are read. Immutable. */
export class Head {
  /** Data that a reader derived from the head, kept for the next message with the same head. */
  note: object | null = null;
  readonly #table: Table;
  /** The whole head if its text is ASCII, else its text; `""` if the strings are decoded. */
  readonly #text: string;
  #strings: readonly string[] | null;
  /** Path or content type, which is read for almost every message. */
  #first: string | null = null;
  #headers: HeaderList | null = null;

  private constructor(table: Table, text: string, strings: readonly string[] | null) {
    this.#table = table;
    this.#text = text;
    this.#strings = strings;
  }

  /** `leading` is the number of strings before the pairs. @throws `PROTOCOL` if the lengths do not match the text. */
  static decode(bytes: Uint8Array, leading: number): Head {
    const count = bytes[0]! | (bytes[1]! << 8);
    const parameters = bytes[2]! | (bytes[3]! << 8);
    const pairs = count - leading;
    if (bytes.length < TABLE || pairs < 0 || pairs % 2 !== 0 || 2 * parameters > pairs) throw malformed();
    const ends: number[] = [];
    let at = TABLE;
    let units = 0;
    for (let i = 0; i < count; i++) {
      let shift = 0;
      let byte = 128;
      while (byte > 127) {
        if (at >= bytes.length || shift > 28) throw malformed();
        byte = bytes[at++]!;
        units += (byte & 127) * 2 ** shift;
        shift += 7;
      }
      ends.push(units);
    }
    // As many bytes as units: no decoding is needed to check the length. Otherwise only decoding shows the number of units.
    const isAscii = units === bytes.length - at;
    const text = isAscii ? fast.latin1Slice.call(bytes, 0, bytes.length) : fast.utf8Slice.call(bytes, at, bytes.length);
    if (!isAscii && text.length !== units) throw malformed();
    const firstHeader = leading + 2 * parameters;
    const table = { count, parameters, firstHeader, isAscii, size: bytes.length, start: isAscii ? at : 0, ends };
    return new Head(table, text, null);
  }

  /** Decodes a copy of the first `length` bytes of the arena. @throws `PROTOCOL` */
  static copy(arena: Arena, length: number, leading: number): Head {
    return Head.decode(arena.bytes.slice(0, length), leading);
  }

  get count(): number {
    return this.#table.count;
  }

  get parameters(): number {
    return this.#table.parameters;
  }

  /** Size of the head, in bytes. */
  get size(): number {
    return this.#table.size;
  }

  /** Whether the text has one byte per unit. */
  get isAscii(): boolean {
    return this.#table.isAscii;
  }

  /** Offset of the text, if it is ASCII. */
  get start(): number {
    return this.#table.start;
  }

  /**
   * Returns the head in `bytes`, which has the same table. It differs from this head in `count` words of 4 bytes, whose indices
   * are in `words`, in rising order: only the strings in them are decoded.
   */
  variant(bytes: Uint8Array, words: Uint16Array, count: number): Head {
    const { start, ends } = this.#table;
    const strings = this.#all().slice();
    let at = start;
    for (let n = 0, i = 0; n < count; n++) {
      const from = 4 * words[n]!;
      for (; i < ends.length && at < from + 4; i++) {
        const end = start + ends[i]!;
        if (end > from && end > at) strings[i] = fast.latin1Slice.call(bytes, at, end);
        at = end;
      }
    }
    return new Head(this.#table, "", strings);
  }

  /** Returns the string at `index`. */
  string(index: number): string {
    if (this.#strings) return this.#strings[index]!;
    return index === 0 ? (this.#first ??= this.#decode(0)) : this.#decode(index);
  }

  #decode(index: number): string {
    const { start, ends } = this.#table;
    return this.#text.substring(start + (index === 0 ? 0 : ends[index - 1]!), start + ends[index]!);
  }

  /** Returns the strings from `first` up to `end`, excluding `end`. */
  strings(first: number, end: number): string[] {
    return this.#all().slice(first, end);
  }

  /** The headers, which follow the parameters. */
  get headers(): HeaderList {
    this.#headers ??= new HeaderList(this.strings(this.#table.firstHeader, this.count));
    return this.#headers;
  }

  #all(): readonly string[] {
    return (this.#strings ??= this.#table.ends.map((_, index) => this.#decode(index)));
  }
}

/** Numbers of the words in which a head differs from its predecessor. */
const changed = new Uint16Array(MEMO_BYTES / 4 + 1);

/** The last head of one size, with a private copy of its bytes. */
class LastHead {
  head: Head;
  readonly #bytes: Uint8Array;
  /** Words of the copy; `null` before a head differed. */
  #words: Uint32Array | null = null;
  /** Whether the last head differed from its predecessor. */
  #varies = false;

  constructor(head: Head, bytes: Uint8Array) {
    this.head = head;
    this.#bytes = bytes;
  }

  /** Returns the head in `arena`, of the same size, if it has the same table; otherwise `null`, and this object is of no more use. */
  read(arena: Arena): Head | null {
    const bytes = this.#bytes;
    if (!this.#varies && arena.startsWith(bytes)) return this.head;
    const { isAscii, start } = this.head;
    if (!isAscii) return null;
    for (let at = 0; at < start; at++) if (arena.bytes[at] !== bytes[at]) return null;
    const count = this.#update(arena, start);
    this.#varies = count > 0;
    return count === 0 ? this.head : (this.head = this.head.variant(bytes, changed, count));
  }

  /**
   * Copies the bytes from `start` on, each once, because shared memory may change. Returns the number of words that differ, whose
   * indices are in {@link changed}.
   */
  #update({ words: theirs, bytes: their }: Arena, start: number): number {
    const bytes = this.#bytes;
    const words = (this.#words ??= new Uint32Array(bytes.buffer, 0, bytes.length >> 2));
    let count = 0;
    for (let i = start >> 2; i < words.length; i++) {
      const word = theirs[i]!;
      if (word === words[i]) continue;
      words[i] = word;
      changed[count++] = i;
    }
    let differs = false;
    for (let at = 4 * words.length; at < bytes.length; at++) {
      const byte = their[at]!;
      if (byte === bytes[at]) continue;
      bytes[at] = byte;
      differs = true;
    }
    if (differs) changed[count++] = words.length;
    return count;
  }
}

/** Copies heads out of shared memory. Returns a cached head if the bytes are equal. */
export class HeadReader {
  readonly #leading: number;
  readonly #memo: (LastHead | undefined)[] = [];

  constructor(leading: number) {
    this.#leading = leading;
  }

  /** Returns the head of `length` bytes at the start of the arena. @throws `PROTOCOL` if it is malformed. */
  read(arena: Arena, length: number): Head {
    const place = length % MEMO_ENTRIES;
    const known = this.#memo[place];
    const read = known !== undefined && known.head.size === length ? known.read(arena) : null;
    if (read) return read;
    this.#memo[place] = undefined;
    const bytes = arena.bytes.slice(0, length);
    const head = Head.decode(bytes, this.#leading);
    if (length <= MEMO_BYTES) this.#memo[place] = new LastHead(head, bytes);
    return head;
  }
}

function malformed(): SlotbusError {
  return new SlotbusError(
    "PROTOCOL",
    "The head of a message is malformed: its table of lengths does not match its text.",
  );
}
