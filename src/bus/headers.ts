/** Headers as an ordered list of pairs. Duplicates are kept; names are case-insensitive. */

import { shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";

/** Accepted forms of headers. An array as a value of a record stands for several headers with one name. */
export type HeadersLike =
  Headers | HeaderList | readonly (readonly [string, string])[] | Readonly<Record<string, string | readonly string[]>>;

/** The headers of a request or response, in their original order. Immutable. */
export class HeaderList implements Iterable<[name: string, value: string]> {
  /** Name, value, name, value, … */
  readonly #flat: readonly string[];

  /** @internal */
  constructor(flat: readonly string[]) {
    this.#flat = flat;
  }

  get size(): number {
    return this.#flat.length / 2;
  }

  /** Returns the first value of the header `name`; `null` if there is none. */
  get(name: string): string | null {
    const at = this.#find(name, 0);
    return at < 0 ? null : this.#flat[at + 1]!;
  }

  /** Returns all values of the header `name`, in order. */
  getAll(name: string): string[] {
    const values: string[] = [];
    for (let at = this.#find(name, 0); at >= 0; at = this.#find(name, at + 2)) values.push(this.#flat[at + 1]!);
    return values;
  }

  has(name: string): boolean {
    return this.#find(name, 0) >= 0;
  }

  /** Returns the pairs as a new array. */
  entries(): [name: string, value: string][] {
    const pairs: [string, string][] = [];
    for (let at = 0; at < this.#flat.length; at += 2) pairs.push([this.#flat[at]!, this.#flat[at + 1]!]);
    return pairs;
  }

  [Symbol.iterator](): ArrayIterator<[name: string, value: string]> {
    return this.entries()[Symbol.iterator]();
  }

  /** Appends name, value, name, value, … to `out`. */
  appendTo(out: string[]): void {
    for (let at = 0; at < this.#flat.length; at++) out.push(this.#flat[at]!);
  }

  /** Returns a WHATWG `Headers` with all headers, or with those for which `isWanted` returns `true`. */
  toHeaders(isWanted: (name: string) => boolean = () => true): Headers {
    const headers = new Headers();
    for (const [name, value] of this) if (isWanted(name)) headers.append(name, value);
    return headers;
  }

  toJSON(): [string, string][] {
    return this.entries();
  }

  #find(name: string, from: number): number {
    const flat = this.#flat;
    const lower = name.toLowerCase();
    for (let at = from; at < flat.length; at += 2) {
      const candidate = flat[at]!;
      if (candidate === name || (candidate.length === name.length && candidate.toLowerCase() === lower)) return at;
    }
    return -1;
  }
}

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/; // RFC 9110, section 5.6.2
const knownNames = new Set<string>(); // valid names; bounded, because names may come from other processes

/** Checks a header name, by RFC 9110. @throws {InvalidConfigError} */
export function checkHeaderName(name: string): void {
  if (knownNames.has(name)) return;
  if (typeof name !== "string" || !token.test(name)) {
    throw new InvalidConfigError(`${JSON.stringify(name)} is not a valid header name.`, {
      hint: "Use one or more letters, digits and !#$%&'*+-.^_`|~.",
    });
  }
  if (knownNames.size < 1024) knownNames.add(name);
}

/** Checks that a head can carry a string. @throws {InvalidConfigError} */
export function checkText(text: string): void {
  if (!text.includes("\n") && !text.includes("\r") && !text.includes("\0")) return;
  throw new InvalidConfigError(`${JSON.stringify(text.slice(0, 80))} contains a line break or NUL.`, {
    hint: "Remove or encode it: a path, query, parameter, header or id cannot contain it.",
  });
}

/** Appends name, value, name, value, … to `out`. Names and values are checked when they are encoded. */
export function flattenHeaders(headers: HeadersLike, out: string[]): void {
  if (Array.isArray(headers)) {
    for (let i = 0; i < headers.length; i++) {
      const pair = headers[i] as readonly [string, string];
      if (!Array.isArray(pair)) throw notHeaders(`headers[${i}] is ${shown(pair)}; it must be a pair of strings`);
      out.push(pair[0]!, pair[1]!);
    }
  } else if (headers instanceof HeaderList) {
    headers.appendTo(out);
  } else if (headers instanceof Headers) {
    for (const [name, value] of headers) out.push(name, value);
  } else if (typeof headers === "object" && headers !== null) {
    const record = headers as Readonly<Record<string, string | readonly string[]>>;
    for (const name in record) {
      const value = record[name]!;
      if (Array.isArray(value)) for (const one of value) out.push(name, one);
      else out.push(name, value as string);
    }
  } else {
    throw notHeaders(`headers is ${shown(headers)}; it must be a list of headers`);
  }
}

/** Whether a host header can be used in a URL. With other text besides a host, the URL would get another path. */
export function isHost(text: string): boolean {
  return /^[^\s/?#@\\]+$/.test(text) && URL.canParse(`http://${text}`);
}

function notHeaders(what: string): InvalidConfigError {
  return new InvalidConfigError(`${what}.`, {
    hint: "Pass an array of pairs, an object of strings, or a Headers.",
  });
}
