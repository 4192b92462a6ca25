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
  /** The whole head if its text is ASCII, else its text. */
  readonly #text: string;
  /** Private copy of the head, to compare the next one with; `null` for a variant that was not repeated. */
  #bytes: Uint8Array | null;
  /** An earlier head with the same table, whose strings are decoded; `null` from the time when this head's strings are too. */
  #base: Head | null;
  #strings: readonly string[] | null = null;
  /** Path or content type, which is read for almost every message. */
  #first: string | null = null;
  #headers: HeaderList | null = null;

  private constructor(table: Table, text: string, bytes: Uint8Array | null, base: Head | null) {
    this.#table = table;
    this.#text = text;
    this.#bytes = bytes;
    this.#base = base;
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
    return new Head(
      { count, parameters, firstHeader, isAscii, size: bytes.length, start: isAscii ? at : 0, ends },
      text,
      bytes,
      null,
    );
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

  /** Whether the arena starts with this head. `false` also for a variant that {@link next} has not found again. */
  isIn(arena: Arena): boolean {
    return this.#bytes !== null && arena.startsWith(this.#bytes);
  }

  /** Returns the head in `arena`, of the same size, if both are ASCII and have the same table; otherwise `null`. */
  next(arena: Arena): Head | null {
    const { isAscii, start, size } = this.#table;
    if (!isAscii) return null;
    const text = arena.copyText(size); // shared memory may change: all that follows reads the copy
    if (text === this.#text) {
      this.#bytes ??= Buffer.from(text, "latin1");
      return this;
    }
    for (let at = 0; at < start; at++) if (text.charCodeAt(at) !== this.#text.charCodeAt(at)) return null;
    return new Head(this.#table, text, null, this.#strings ? this : this.#base);
  }

  /** Returns the string at `index`. */
  string(index: number): string {
    if (index === 0) return (this.#first ??= this.#decodeFirst());
    const { start, ends } = this.#table;
    return this.#strings?.[index] ?? this.#text.substring(start + ends[index - 1]!, start + ends[index]!);
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

  #decodeFirst(): string {
    if (this.#strings) return this.#strings[0]!;
    const { start, ends } = this.#table;
    const base = this.#base;
    const end = start + ends[0]!;
    return base && this.#same(base, start, end) === end ? base.#strings![0]! : this.#text.substring(start, end);
  }

  #all(): readonly string[] {
    if (this.#strings) return this.#strings;
    const base = this.#base;
    const text = this.#text;
    const { start, ends } = this.#table;
    const strings: string[] = [];
    let first = text.length;
    let last = 0;
    if (base) {
      first = this.#same(base, start, text.length);
      last = text.length;
      while (last > first && text.charCodeAt(last - 1) === base.#text.charCodeAt(last - 1)) last--;
    }
    let from = start;
    for (let i = 0; i < ends.length; i++) {
      const to = start + ends[i]!;
      strings.push(base && (to <= first || from >= last) ? base.#strings![i]! : text.substring(from, to));
      from = to;
    }
    this.#base = null;
    return (this.#strings = strings);
  }

  /** Returns the first offset from `from` at which this text and the text of `base` differ; at most `end`. */
  #same(base: Head, from: number, end: number): number {
    let at = from;
    while (at < end && this.#text.charCodeAt(at) === base.#text.charCodeAt(at)) at++;
    return at;
  }
}

/** Copies heads out of shared memory. Returns a cached head if the bytes are equal. */
export class HeadReader {
  readonly #leading: number;
  readonly #memo: (Head | undefined)[] = [];

  constructor(leading: number) {
    this.#leading = leading;
  }

  /** Returns the head of `length` bytes at the start of the arena. @throws `PROTOCOL` if it is malformed. */
  read(arena: Arena, length: number): Head {
    const place = length % MEMO_ENTRIES;
    const known = this.#memo[place];
    const isSameSize = known !== undefined && known.size === length;
    if (isSameSize && known.isIn(arena)) return known;
    const next = isSameSize ? known.next(arena) : null;
    const head = next ?? Head.copy(arena, length, this.#leading);
    if (length <= MEMO_BYTES) this.#memo[place] = head;
    return head;
  }
}

function malformed(): SlotbusError {
  return new SlotbusError(
    "PROTOCOL",
    "The head of a message is malformed: its table of lengths does not match its text.",
  );
}
