/** Which worker answers a path. Static segments win over parameters, those over `*`; the order of registration says nothing. */

import { addRoute, createRouter, findRoute, type RouterContext } from "rou3";
import { METHODS, type Method } from "../bus/codec.ts";
import { Failure } from "./failure.ts";
import type { Pattern } from "./pattern.ts";

/** A route of one worker name. */
export interface Route<Owner> {
  readonly method: Method;
  readonly pattern: Pattern;
  /** Server-sent events that the hub serves. */
  readonly sse: boolean;
  readonly owner: Owner;
}

export interface Match<Owner> {
  readonly route: Route<Owner>;
  /** Decoded. */
  readonly params: Readonly<Record<string, string>>;
}

/** All routes at one time; a change makes a new table. */
export class RouteTable<Owner> {
  readonly routes: readonly Route<Owner>[];
  readonly #router: RouterContext<Route<Owner>> = createRouter<Route<Owner>>();

  constructor(routes: readonly Route<Owner>[]) {
    this.routes = routes;
    for (const route of routes) addRoute(this.#router, route.method, route.pattern.route, route);
  }

  /**
   * The route for a path; a HEAD goes where GET would go, unless that worker has the same pattern for HEAD.
   *
   * @throws {Failure} 400 for a path that is not UTF-8.
   */
  find(method: string, path: string): Match<Owner> | null {
    const found = this.#look(method, path);
    return found ? { route: found.data, params: decode(found.data.pattern.names, found.params) } : null;
  }

  /** Methods that the path has routes for. */
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

/** What tells one route from another: two names may not have the same. */
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
    throw new Failure(400, "BAD_PATH", "the path is not percent-encoded UTF-8.");
  }
  return params;
}
