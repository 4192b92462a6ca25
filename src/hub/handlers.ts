/** Routes of a hub's worker: from what its program gives to what the hub and the worker need. */

import type { Answerable } from "../bus/answer.ts";
import { METHODS, type Method } from "../bus/codec.ts";
import type { FetchHandler, Handler } from "../bus/request.ts";
import { checkOptions, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { appHandler } from "./app.ts";
import { HubRequest } from "./context.ts";
import type { RouteRequest } from "./names.ts";
import { parsePattern } from "./pattern.ts";

/** Answers the requests of a route. It may return nothing only after `request.defer()`. */
export type HubHandler<Pattern extends string = string> = (
  request: HubRequest<Pattern>,
) => Answerable | void | Promise<Answerable | void>;

/** A client came to, or went from, a route of server-sent events. */
export interface SseClient {
  readonly params: Readonly<Record<string, string>>;
}

/** What a worker is told of the clients of an event stream. */
export interface SseHandlers {
  /** In one of the name's processes, before the client gets its first byte. `false` turns it away with 403, a throw with 500. */
  connect?(client: SseClient): boolean | void | Promise<boolean | void>;
  /** Once, when it has gone; in any of the processes. Not for one that was turned away. */
  disconnect?(client: SseClient): void | Promise<void>;
}

/** A route whose clients the hub keeps; made by {@link sse}. */
export class SseRoute {
  readonly handlers: SseHandlers;

  /** @internal */
  constructor(handlers: SseHandlers) {
    this.handlers = handlers;
  }
}

/** Returns a route of server-sent events: the hub keeps its clients, and {@link HubWorker.emitter} sends to them. */
export function sse(handlers: SseHandlers = {}): SseRoute {
  return new SseRoute(handlers);
}

/**
 * Routes by pattern, as `Bun.serve` has them: `"/users/:id"`, `"/users/{id}"`, `"/files/*path"`. A function answers every method. An
 * object with `fetch` (a Hono or Elysia app) stands at a pattern that ends in `/*`, and sees its paths without what stands before.
 */
export type HubRoutes<Pattern extends string = string> = {
  readonly [P in Pattern]: HubHandler<P> | ByMethod<P> | FetchHandler | SseRoute;
};

/** The handlers of one pattern; that of GET may be an event stream. */
type ByMethod<Pattern extends string> = { readonly GET?: HubHandler<Pattern> | SseRoute } & {
  readonly [M in Exclude<Method, "GET">]?: HubHandler<Pattern>;
};

/** The routes of a worker, checked. */
export interface Routes {
  /** What the hub is told. */
  readonly list: readonly RouteRequest[];
  /** Handlers by pattern and method. */
  readonly handlers: ReadonlyMap<string, Readonly<Partial<Record<Method, Handler>>>>;
  /** By pattern. */
  readonly streams: ReadonlyMap<string, SseHandlers>;
}

/** @throws {InvalidConfigError} that names the pattern whose entry is wrong. */
export function readRoutes(given: HubRoutes, option: string): Routes {
  const list: RouteRequest[] = [];
  const handlers = new Map<string, Partial<Record<Method, Handler>>>();
  const streams = new Map<string, SseHandlers>();
  for (const [path, entry] of Object.entries(checkOptions(option, given, '{ "/users/:id": handler }'))) {
    parsePattern(path);
    const methods: Partial<Record<Method, Handler>> = Object.create(null);
    for (const [method, one] of Object.entries(entriesOf(path, entry))) {
      list.push(one instanceof SseRoute ? { method, path, sse: true } : { method, path });
      if (one instanceof SseRoute) streams.set(path, one.handlers);
      else methods[method as Method] = one;
    }
    handlers.set(path, methods);
  }
  return { list, handlers, streams };
}

/** What answers each method. */
function entriesOf(path: string, entry: unknown): Record<string, Handler | SseRoute> {
  if (entry instanceof SseRoute) return { GET: entry };
  if (typeof entry === "function") return everyMethod(toHandler(entry as HubHandler));
  if (typeof entry !== "object" || entry === null) throw malformed(path, `it is ${shown(entry)}`);
  if ("fetch" in entry && typeof entry.fetch === "function") return everyMethod(mount(path, entry as FetchHandler));
  const entries = Object.entries(entry).map(([method, one]): [string, Handler | SseRoute] => {
    if (!METHODS.includes(method as Method)) throw malformed(path, `${shown(method)} is not a method`);
    if (one instanceof SseRoute && method === "GET") return [method, one];
    if (typeof one === "function") return [method, toHandler(one as HubHandler)];
    throw malformed(path, `the handler of ${method} is ${shown(one)}`);
  });
  if (entries.length === 0) throw malformed(path, "it has no handler");
  return Object.fromEntries(entries);
}

function everyMethod(handler: Handler): Record<Method, Handler> {
  return Object.fromEntries(METHODS.map((method) => [method, handler])) as Record<Method, Handler>;
}

function toHandler(handler: HubHandler): Handler {
  return (request) => handler(new HubRequest(request));
}

/** The app sees its paths without `prefix`, which is plain text. */
function mount(path: string, app: FetchHandler): Handler {
  const prefix = path.slice(0, -2);
  if (!path.endsWith("/*") || parsePattern(path).names.length > 0)
    throw malformed(path, "an app is mounted at plain text and a final /*");
  const sent = prefix === "" ? 0 : new URL(`http://hub${prefix}`).pathname.length; // as clients spell it
  return appHandler(app, sent);
}

function malformed(path: string, why: string): InvalidConfigError {
  return new InvalidConfigError(`Invalid route ${shown(path)}: ${why}.`, {
    hint: 'Give a handler, { GET: handler }, sse(), or for "/prefix/*" an app with fetch.',
  });
}
