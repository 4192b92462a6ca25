/** Checks route patterns and translates them for the router. */

import { InvalidConfigError } from "../errors.ts";

/** A parsed route pattern. */
export interface Pattern {
  /** Pattern as it was registered. */
  readonly text: string;
  /** Pattern in the syntax of the router. */
  readonly route: string;
  /** Normalised pattern: equal for two patterns that match the same paths. */
  readonly key: string;
  /** Names of the parameters. */
  readonly names: readonly string[];
}

const MAX_BYTES = 1_024;
const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** Unreserved and sub-delims of RFC 3986 (2), with `:` and `@` (3.3), percent-encoded octets, and all characters above ASCII. */
const STATIC = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@\u0080-\u{10ffff}]|%[0-9A-Fa-f]{2})+$/u;
/** Characters with a meaning for the router. */
const SPECIAL = /[:*?+(){}\\]/g;
const RESERVED = /^\/(?:internal|_slotbus|__ping__|__sse__|__ws__)(?:\/|$)|^\/(?:events|health)\/?$/;

/** Whether the hub itself serves this path, even if a pattern matches it. */
export function isReserved(path: string): boolean {
  return RESERVED.test(path);
}

/**
 * Parses a pattern of segments: plain text; `:name` or `{name}` for one non-empty segment; and as the last segment `*` for
 * any rest of the path, or `*name` for a non-empty rest.
 *
 * @throws {InvalidConfigError}
 */
export function parsePattern(text: unknown): Pattern {
  if (typeof text !== "string" || !text.startsWith("/")) throw refused(text, "it must start with /");
  if (Buffer.byteLength(text) > MAX_BYTES) throw refused(text, `it is longer than ${MAX_BYTES} bytes`);
  const trimmed = text.length > 1 && text.endsWith("/") ? text.slice(0, -1) : text;
  const segments = text === "/" ? [] : trimmed.slice(1).split("/");
  const names = new Set<string>();
  const parsed = segments.map((segment, at) => parseSegment(text, segment, at === segments.length - 1, names));
  const key = `/${parsed.map((one) => one.key).join("/")}`;
  if (RESERVED.test(key)) throw refused(text, "the hub reserves this path for itself");
  return { text, route: `/${parsed.map((one) => one.route).join("/")}`, key, names: [...names] };
}

function parseSegment(
  text: string,
  segment: string,
  isLast: boolean,
  names: Set<string>,
): { route: string; key: string } {
  if (segment === "") throw refused(text, "it has an empty segment");
  if (/^\.\.?$/.test(segment.replaceAll(/%2e/gi, ".")))
    throw refused(text, `"${segment}" cannot be a segment of a path`);
  if (segment.startsWith("*")) return parseRest(text, segment.slice(1), isLast, names);
  const parameter = /^:(.*)$/.exec(segment)?.[1] ?? /^\{(.*)\}$/.exec(segment)?.[1];
  if (parameter !== undefined) {
    takeName(text, parameter, names);
    return { route: `:${parameter}`, key: ":" };
  }
  if (!STATIC.test(segment)) throw refused(text, `"${segment}" has a character that must be percent-encoded`);
  return { route: segment.replaceAll(SPECIAL, (char) => `\\${char}`), key: canonical(segment) };
}

function parseRest(text: string, name: string, isLast: boolean, names: Set<string>): { route: string; key: string } {
  if (!isLast) throw refused(text, "* is only allowed as the last segment");
  if (name === "") return { route: "**", key: "**" };
  takeName(text, name, names);
  return { route: `**:${name}`, key: "*" };
}

function takeName(text: string, name: string, names: Set<string>): void {
  if (!NAME.test(name)) throw refused(text, `${JSON.stringify(name)} is not a valid parameter name`);
  if (names.has(name)) throw refused(text, `two parameters have the name "${name}"`);
  names.add(name);
}

/** Characters that `encodeURIComponent` encodes although a path segment may have them as they are. */
const NEEDLESS = /%(?:2[46BC]|3[ABD]|40)/g;

/** Normalises the path of a URL: removes needless encoding in each segment, and a trailing slash. */
export function plainPath(path: string): string {
  const trimmed = path.length > 1 && path.endsWith("/") ? path.slice(0, -1) : path;
  return trimmed
    .split("/")
    .map((segment) => canonical(segment).replaceAll(NEEDLESS, decodeURIComponent))
    .join("/");
}

/** Normalises a segment: encodes it as `encodeURIComponent` does. */
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
    hint: 'Write a pattern such as "/users/:id", "/users/{id}" or "/files/*path".',
  });
}
