/** CORS (Fetch standard): which pages of other origins may read responses that the hub itself sends. */

import type { ResolvedHubOptions } from "./options.ts";
import { isReserved } from "./pattern.ts";
import { headerOf, type RequestHeaders } from "./proxy.ts";

type Rule = NonNullable<ResolvedHubOptions["cors"]>;

/** Response headers that pages may read besides the CORS-safelisted ones. */
const EXPOSED = "retry-after, x-request-id";

export class Cors {
  readonly #rule: Rule;
  /** `null`: every origin. */
  readonly #origins: ReadonlySet<string> | null;

  constructor(rule: Rule) {
    this.#rule = rule;
    this.#origins = rule.origins === "*" ? null : new Set(rule.origins);
  }

  /** Whether CORS applies to the hub's own responses on a path: `/events`, and every path that workers can have routes for. */
  static isFor(path: string): boolean {
    return !isReserved(path) || path === "/events";
  }

  /** Adds the CORS headers to a response, if the origin of the request is allowed. */
  allow(requestHeaders: RequestHeaders, { headers }: Response): void {
    const origin = headerOf(requestHeaders, "origin");
    if (this.#origins) {
      headers.append("vary", "origin"); // also without an origin: a cache may keep the response
      if (origin === null || !this.#origins.has(origin)) return;
    }
    headers.set("access-control-allow-origin", this.#origins ? origin! : "*");
    if (this.#rule.credentials) headers.set("access-control-allow-credentials", "true");
    headers.set("access-control-expose-headers", EXPOSED);
  }

  /** Response to a preflight; {@link allow} adds the origin. */
  preflight(requestHeaders: RequestHeaders, requestId: string): Response {
    const headers = new Headers({ "access-control-allow-methods": "GET", "x-request-id": requestId });
    const wanted = headerOf(requestHeaders, "access-control-request-headers"); // all are allowed: none gives a page more rights
    if (wanted) headers.set("access-control-allow-headers", wanted);
    headers.set("access-control-max-age", String(Math.floor(this.#rule.maxAge / 1_000)));
    return new Response(null, { status: 204, headers });
  }
}

/** Method that a preflight asks for; `null` if the request is not a preflight. */
export function preflightMethod(method: string, headers: RequestHeaders): string | null {
  return method === "OPTIONS" && headerOf(headers, "origin") !== null
    ? headerOf(headers, "access-control-request-method")
    : null;
}
