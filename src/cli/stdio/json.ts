/** Where a text is not JSON: `JSON.parse` of Bun does not say. */

const TOKEN =
  /[ \t\r\n]*("(?:[^"\\\p{Cc}]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])|(?:true|false|null)(?!\w)|[{}[\]:,])/uy;

/** Reads a text by tokens. Its place is the end of the last one that fits. */
class Reader {
  at = 0;
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  /** Takes the next token if it matches; `null`: it does not. */
  take(wanted: RegExp): string | null {
    TOKEN.lastIndex = this.at;
    const token = TOKEN.exec(this.#text)?.[1];
    if (token === undefined || !wanted.test(token)) return null;
    this.at = TOKEN.lastIndex;
    return token;
  }

  /** Whether a value was read to its end. */
  value(): boolean {
    const token = this.take(/^["\d\-tfn{[]/);
    if (token === "{")
      return this.#list(/^\}/, () => this.take(/^"/) !== null && this.take(/^:/) !== null && this.value());
    return token === "[" ? this.#list(/^\]/, () => this.value()) : token !== null;
  }

  #list(end: RegExp, item: () => boolean): boolean {
    if (this.take(end)) return true;
    do if (!item()) return false;
    while (this.take(/^,/));
    return this.take(end) !== null;
  }
}

/** Line and column, from 1, of the first token that JSON does not have there. */
export function faultOf(text: string): { line: number; column: number } {
  const reader = new Reader(text);
  try {
    reader.value();
  } catch {
    // It is nested deeper than the stack; that is the fault, and the reader is there.
  }
  const before = text.slice(0, reader.at + /^[ \t\r\n]*/.exec(text.slice(reader.at))![0].length).split("\n");
  return { line: before.length, column: before.at(-1)!.length + 1 };
}
