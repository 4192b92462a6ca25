/** Finds the route of a path. Plain text wins over parameters, and parameters over `*`, in any order of registration. */

import { addRoute, createRouter, findRoute, type RouterContext } from "rou3";
import { METHODS, type Method } from "../bus/codec.ts";
import { Failure } from "./failure.ts";
import type { Pattern } from "./pattern.ts";
import type { RouteLimits } from "./proxy.ts";

/** A route of one worker name. */
export interface Route<Owner> {
  readonly method: Method;
  readonly pattern: Pattern;
  /** Whether the route is an event stream. */
  readonly sse: boolean;
  /** Whether the route takes WebSockets, besides its GET requests. */
  readonly ws: boolean;
  readonly limits: RouteLimits;
  readonly owner: Owner;
  /** What this process has answered. */
  readonly counts: RouteCounts;
}

/** Answers of one route, since its worker name first registered it. */
export interface RouteCounts {
  requests: number;
  /** Those with a status from 500 on. */
  errors: number;
  /** Sum of their times, in ms. */
  ms: number;
}

export interface Match<Owner> {
  readonly route: Route<Owner>;
  /** Parameters, percent-decoded. */
  readonly params: Readonly<Record<string, string>>;
}

/** An immutable table of all routes. */
export class RouteTable<Owner> {
  readonly routes: readonly Route<Owner>[];
  readonly #router: RouterContext<Route<Owner>> = createRouter<Route<Owner>>();

  constructor(routes: readonly Route<Owner>[]) {
    this.routes = routes;
    for (const route of routes) addRoute(this.#router, route.method, route.pattern.route, route);
  }

  /**
   * Finds the route of a path. HEAD uses the route of GET, unless the same worker has the same pattern for HEAD.
   *
   * @throws {Failure} 400 for a path that is not UTF-8.
   */
  find(method: string, path: string): Match<Owner> | null {
    const found = this.#look(method, path);
    return found ? { route: found.data, params: decode(found.data.pattern.names, found.params) } : null;
  }

  /** Methods with a route for the path. */
  allowed(path: string): Method[] {
    return METHODS.filter((method) => this.#look(method, path) !== undefined);
  }

  #look(method: string, path: string) {
    const own = findRoute(this.#router, method, path);
    const get = method === "HEAD" ? findRoute(this.#router, "GET", path) : undefined;
    if (!get || (own?.data.owner === get.data.owner && own.data.pattern.key === get.data.pattern.key)) return own;
    return get;
  }
}

/** Identifies a route. Two worker names cannot have the same key. */
export function routeKey({ method, pattern }: { readonly method: Method; readonly pattern: Pattern }): string {
  return `${method} ${pattern.key}`;
}

const none: Readonly<Record<string, string>> = {};

function decode(names: readonly string[], raw: Readonly<Record<string, string>> | undefined): Match<never>["params"] {
  if (names.length === 0 || raw === undefined) return none;
  const params: Record<string, string> = {};
  try {
    for (const name of names) {
      const value = raw[name];
      if (value !== undefined) params[name] = value.includes("%") ? decodeURIComponent(value) : value;
    }
  } catch {
    throw new Failure(400, "BAD_PATH", "The path is not percent-encoded UTF-8.");
  }
  return params;
}
