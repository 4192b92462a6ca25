/** Finds the place of a JSON syntax error, which Bun's `JSON.parse` does not report. */

const TOKEN =
  /[ \t\r\n]*("(?:[^"\\\p{Cc}]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])|(?:true|false|null)(?!\w)|[{}[\]:,])/uy;

/** Reads a text by tokens. `at` is the end of the last valid token. */
class Reader {
  at = 0;
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  /** Takes the next token if it matches, else returns `null`. */
  take(wanted: RegExp): string | null {
    TOKEN.lastIndex = this.at;
    const token = TOKEN.exec(this.#text)?.[1];
    if (token === undefined || !wanted.test(token)) return null;
    this.at = TOKEN.lastIndex;
    return token;
  }

  /** Reads a value; returns whether it is complete. */
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

/** Returns line and column (from 1) of the first token that is not valid JSON. */
export function faultOf(text: string): { line: number; column: number } {
  const reader = new Reader(text);
  try {
    reader.value();
  } catch {
    // The value is nested too deeply for the stack; the reader stands at the place of the error.
  }
  const before = text.slice(0, reader.at + /^[ \t\r\n]*/.exec(text.slice(reader.at))![0].length).split("\n");
  return { line: before.length, column: before.at(-1)!.length + 1 };
}
