/** Patterns of routes: what a worker may ask for, and the same as the router knows it. */

import { InvalidConfigError } from "../errors.ts";

/** A pattern that was understood. */
export interface Pattern {
  /** As it was registered. */
  readonly text: string;
  /** The same in the syntax of the router. */
  readonly route: string;
  /** Equal for two patterns that match the same paths. */
  readonly key: string;
  /** Names of its parameters. */
  readonly names: readonly string[];
}

const MAX_BYTES = 1_024;
const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** Unreserved and sub-delims of RFC 3986 (2), with `:` and `@` (3.3), percent-encoded octets, and what lies above ASCII. */
const STATIC = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@\u0080-\u{10ffff}]|%[0-9A-Fa-f]{2})+$/u;
/** Means something to the router. */
const SPECIAL = /[:*?+(){}\\]/g;
const RESERVED = /^\/(?:internal|_slotbus|__ping__|__sse__)(?:\/|$)|^\/(?:events|health)\/?$/;

/** Whether the hub itself answers that path, whatever patterns match it. */
export function isReserved(path: string): boolean {
  return RESERVED.test(path);
}

/**
 * Reads a pattern: segments of text; `:name` or `{name}`, one segment that is not empty; and at the end `*` or `*name`, the
 * rest of the path, which with a name is not empty.
 *
 * @throws {InvalidConfigError}
 */
export function parsePattern(text: unknown): Pattern {
  if (typeof text !== "string" || !text.startsWith("/")) throw refused(text, "it does not begin with /");
  if (Buffer.byteLength(text) > MAX_BYTES) throw refused(text, `it is longer than ${MAX_BYTES} bytes`);
  const trimmed = text.length > 1 && text.endsWith("/") ? text.slice(0, -1) : text;
  const segments = text === "/" ? [] : trimmed.slice(1).split("/");
  const names = new Set<string>();
  const parsed = segments.map((segment, at) => parseSegment(text, segment, at === segments.length - 1, names));
  const key = `/${parsed.map((one) => one.key).join("/")}`;
  if (RESERVED.test(key)) throw refused(text, "the hub answers that path itself");
  return { text, route: `/${parsed.map((one) => one.route).join("/")}`, key, names: [...names] };
}

function parseSegment(
  text: string,
  segment: string,
  isLast: boolean,
  names: Set<string>,
): { route: string; key: string } {
  if (segment === "") throw refused(text, "it has an empty segment");
  if (/^\.\.?$/.test(segment.replaceAll(/%2e/gi, "."))) throw refused(text, `"${segment}" is not a segment of a URL`);
  if (segment.startsWith("*")) return parseRest(text, segment.slice(1), isLast, names);
  const parameter = /^:(.*)$/.exec(segment)?.[1] ?? /^\{(.*)\}$/.exec(segment)?.[1];
  if (parameter !== undefined) {
    takeName(text, parameter, names);
    return { route: `:${parameter}`, key: ":" };
  }
  if (!STATIC.test(segment)) throw refused(text, `"${segment}" has a character that no path has unencoded`);
  return { route: segment.replaceAll(SPECIAL, (char) => `\\${char}`), key: canonical(segment) };
}

function parseRest(text: string, name: string, isLast: boolean, names: Set<string>): { route: string; key: string } {
  if (!isLast) throw refused(text, "a * stands at the end only");
  if (name === "") return { route: "**", key: "**" };
  takeName(text, name, names);
  return { route: `**:${name}`, key: "*" };
}

function takeName(text: string, name: string, names: Set<string>): void {
  if (!NAME.test(name)) throw refused(text, `${JSON.stringify(name)} is not a valid name of a parameter`);
  if (names.has(name)) throw refused(text, `two parameters are "${name}"`);
  names.add(name);
}

/** What no segment of a path needs to encode, as `encodeURIComponent` encodes it. */
const NEEDLESS = /%(?:2[46BC]|3[ABD]|40)/g;

/** One spelling of a path as a URL has it: needless encoding undone in each segment, no slash at the end. */
export function plainPath(path: string): string {
  const trimmed = path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
  return trimmed
    .split("/")
    .map((segment) => canonical(segment).replaceAll(NEEDLESS, decodeURIComponent))
    .join("/");
}

/** One spelling for the same segment: encoded as `encodeURIComponent` does. */
function canonical(segment: string): string {
  try {
    return encodeURIComponent(decodeURIComponent(segment));
  } catch {
    return segment;
  }
}

function refused(text: unknown, why: string): InvalidConfigError {
  const shown = typeof text === "string" ? JSON.stringify(text.slice(0, 80)) : String(text);
  return new InvalidConfigError(`Invalid route pattern ${shown}: ${why}.`, {
    hint: 'Write "/users/:id", "/users/{id}" or "/files/*path".',
  });
}
