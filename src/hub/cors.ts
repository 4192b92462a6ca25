/** Which pages of other origins may read what the hub itself answers: the CORS protocol of the Fetch standard. */

import type { ResolvedHubOptions } from "./options.ts";
import { isReserved } from "./pattern.ts";
import { headerOf, type RequestHeaders } from "./proxy.ts";

type Rule = NonNullable<ResolvedHubOptions["cors"]>;

/** What a page may read besides the headers that every page may. */
const EXPOSED = "retry-after, x-request-id";

export class Cors {
  readonly #rule: Rule;
  /** `null`: every origin. */
  readonly #origins: ReadonlySet<string> | null;

  constructor(rule: Rule) {
    this.#rule = rule;
    this.#origins = rule.origins === "*" ? null : new Set(rule.origins);
  }

  /** Whether the hub's answers for a path are for pages: those of event streams, and its errors where workers have routes. */
  static isFor(path: string): boolean {
    return !isReserved(path) || path === "/events";
  }

  /** Lets the page that asks read an answer, if it may. */
  allow(asked: RequestHeaders, { headers }: Response): void {
    const origin = headerOf(asked, "origin");
    if (this.#origins) {
      headers.append("vary", "origin"); // also of an answer to who has none: a cache may keep it
      if (origin === null || !this.#origins.has(origin)) return;
    }
    headers.set("access-control-allow-origin", this.#origins ? origin! : "*");
    if (this.#rule.credentials) headers.set("access-control-allow-credentials", "true");
    headers.set("access-control-expose-headers", EXPOSED);
  }

  /** The answer to what a browser asks before it sends a page's request; {@link allow} completes it. */
  preflight(asked: RequestHeaders, requestId: string): Response {
    const headers = new Headers({ "access-control-allow-methods": "GET", "x-request-id": requestId });
    const wanted = headerOf(asked, "access-control-request-headers"); // the hub reads few of them, and no page gets more by them
    if (wanted) headers.set("access-control-allow-headers", wanted);
    headers.set("access-control-max-age", String(Math.floor(this.#rule.maxAge / 1_000)));
    return new Response(null, { status: 204, headers });
  }
}

/** The method that a browser asks for on behalf of a page; `null`: this is not such a question. */
export function preflightMethod(method: string, headers: RequestHeaders): string | null {
  return method === "OPTIONS" && headerOf(headers, "origin") !== null
    ? headerOf(headers, "access-control-request-method")
    : null;
}
