/** Headers as an ordered list of pairs: duplicates are kept, names compare without case. */

import { InvalidConfigError } from "../errors.ts";

/** What may be given as headers. An array value of a record is that many headers of one name. */
export type HeadersLike =
  Headers | HeaderList | readonly (readonly [string, string])[] | Readonly<Record<string, string | readonly string[]>>;

/** The headers of a request or response, in the order in which they were given. */
export class HeaderList implements Iterable<[name: string, value: string]> {
  /** Name, value, name, value, … */
  readonly flat: readonly string[];

  constructor(flat: readonly string[]) {
    this.flat = flat;
  }

  get size(): number {
    return this.flat.length / 2;
  }

  /** First value of the name, or `null`. */
  get(name: string): string | null {
    const at = this.#find(name, 0);
    return at < 0 ? null : this.flat[at + 1]!;
  }

  /** All values of the name, in order. */
  getAll(name: string): string[] {
    const values: string[] = [];
    for (let at = this.#find(name, 0); at >= 0; at = this.#find(name, at + 2)) values.push(this.flat[at + 1]!);
    return values;
  }

  has(name: string): boolean {
    return this.#find(name, 0) >= 0;
  }

  *[Symbol.iterator](): Iterator<[string, string]> {
    for (let at = 0; at < this.flat.length; at += 2) yield [this.flat[at]!, this.flat[at + 1]!];
  }

  /** A WHATWG `Headers` with the same content. */
  toHeaders(): Headers {
    const headers = new Headers();
    for (const [name, value] of this) headers.append(name, value);
    return headers;
  }

  toJSON(): [string, string][] {
    return [...this];
  }

  #find(name: string, from: number): number {
    const flat = this.flat;
    const lower = name.toLowerCase();
    for (let at = from; at < flat.length; at += 2) {
      const candidate = flat[at]!;
      if (candidate === name || (candidate.length === name.length && candidate.toLowerCase() === lower)) return at;
    }
    return -1;
  }
}

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/; // RFC 9110, section 5.6.2
const knownNames = new Set<string>(); // names that passed the test; bounded, since names may come from outside

/** Throws unless `name` is a header name of RFC 9110. */
export function checkHeaderName(name: string): void {
  if (knownNames.has(name)) return;
  if (typeof name !== "string" || !token.test(name)) {
    throw new InvalidConfigError(`${JSON.stringify(name)} is not a header name.`, {
      hint: "A name is one or more letters, digits and !#$%&'*+-.^_`|~.",
    });
  }
  if (knownNames.size < 1024) knownNames.add(name);
}

/** Throws for a value with a line break or NUL in it; `name` goes into the message. */
export function checkHeaderValue(name: string, value: string): void {
  if (typeof value === "string" && !value.includes("\n") && !value.includes("\r") && !value.includes("\0")) return;
  throw new InvalidConfigError(
    `the value of header ${JSON.stringify(name)} has a line break or NUL in it, or is no string.`,
    {
      hint: "Remove it, or encode the value.",
    },
  );
}

/** Appends the pairs of `headers` to `out`; names are checked, values are not. */
export function flattenHeaders(headers: HeadersLike, out: string[]): void {
  if (headers instanceof HeaderList) {
    for (let at = 0; at < headers.flat.length; at++) out.push(headers.flat[at]!);
  } else if (Array.isArray(headers) || headers instanceof Headers) {
    for (const [name, value] of headers as Iterable<[string, string]>) {
      checkHeaderName(name);
      out.push(name, value);
    }
  } else {
    for (const name in headers as Record<string, string | readonly string[]>) {
      checkHeaderName(name);
      const value = (headers as Record<string, string | readonly string[]>)[name]!;
      if (typeof value === "string") out.push(name, value);
      else for (const one of value) out.push(name, one);
    }
  }
}
