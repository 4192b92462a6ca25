/** Reads the target of a request: host, path, query, and what the hub does with them. */

import { Failure } from "./failure.ts";
import type { Pattern } from "./pattern.ts";

/** Whether the request is of a browser's `EventSource`. */
export function isEventSource({ method, headers }: Request): boolean {
  return method === "GET" && (headers.get("accept")?.includes("text/event-stream") ?? false);
}

/** Scheme and host of a URL, with a trailing slash. Bun does not check them. @throws {Failure} 400 for an invalid host. */
export function originOf(url: string): string {
  const origin = url.slice(0, url.indexOf("/", url.indexOf("//") + 2) + 1);
  if (origin.startsWith("http") && URL.canParse(origin)) return origin;
  throw new Failure(400, "BAD_HOST", "The host header is not a valid host.");
}

/** Path and query of an absolute, normalised URL; neither is decoded. */
export function split(url: string): { path: string; query: string } {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  const hash = url.indexOf("#", start);
  const end = hash < 0 ? url.length : hash;
  const mark = url.indexOf("?", start);
  if (mark < 0 || mark > end) return { path: url.slice(start, end), query: "" };
  return { path: url.slice(start, mark), query: url.slice(mark + 1, end) };
}

/** Whether a pattern starts with a parameter or `*`. Only such patterns can match the hub's own paths. */
export function isOpen({ route }: Pattern): boolean {
  return route[1] === ":" || route[1] === "*";
}

export function notFound(method: string, path: string): Failure {
  return new Failure(404, "NO_ROUTE", `No route matches ${method} ${path.slice(0, 200)}.`);
}
