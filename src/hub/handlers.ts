/** Reads the `routes` of a hub worker: the list that is registered with the hub, and the handlers that the worker calls. */

import type { Answerable } from "../bus/answer.ts";
import { METHODS, type Method } from "../bus/codec.ts";
import type { FetchHandler, Handler } from "../bus/request.ts";
import { checkOptions, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { appHandler } from "./app.ts";
import { HubRequest } from "./context.ts";
import { LimitedRoute, type RouteLimitOptions, toRequest } from "./limits.ts";
import type { RouteRequest } from "./names.ts";
import { parsePattern } from "./pattern.ts";
import { appSockets, type SocketApp } from "./socket-app.ts";
import { type SocketHandlers, SocketRoute } from "./socket.ts";

/** Handles the requests of a route. It may return nothing only after `request.defer()`. */
export type HubHandler<Pattern extends string = string> = (
  request: HubRequest<Pattern>,
) => Answerable | void | Promise<Answerable | void>;

/** A client that connects to, or disconnects from, an event stream. */
export interface SseClient {
  readonly params: Readonly<Record<string, string>>;
}

/** Callbacks for clients of an event stream. */
export interface SseHandlers {
  /** Called before the client gets its first byte. If it returns `false` the client gets 403; if it throws, 500. */
  connect?(client: SseClient): boolean | void | Promise<boolean | void>;
  /** Called once when an accepted client has disconnected, in any process with the same worker name. */
  disconnect?(client: SseClient): void | Promise<void>;
}

/** A route for server-sent events; created by {@link sse}. */
export class SseRoute {
  readonly handlers: SseHandlers;

  /** @internal */
  constructor(handlers: SseHandlers) {
    this.handlers = handlers;
  }
}

/** Returns a route for server-sent events. The hub holds the connections; {@link HubWorker.emitter} sends events to them. */
export function sse(handlers: SseHandlers = {}): SseRoute {
  return new SseRoute(handlers);
}

/**
 * Returns a route whose limits replace the limits of the hub. `entry`: a handler, handlers by method, or an app.
 *
 *     "/files/:name": { PUT: limit({ payloadBytes: 1 << 30, timeout: 600_000 }, upload) }
 *
 * @throws {InvalidConfigError}
 */
export function limit<Pattern extends string>(
  limits: RouteLimitOptions,
  entry: HubHandler<Pattern>,
): LimitedRoute<HubHandler<Pattern>>;
export function limit<Entry extends object>(limits: RouteLimitOptions, entry: Entry): LimitedRoute<Entry>;
export function limit(limits: RouteLimitOptions, entry: unknown): LimitedRoute {
  return new LimitedRoute(limits, entry);
}

/** An entry, or the entry with its own limits. */
type Limitable<Entry> = Entry | LimitedRoute<Entry>;

/**
 * Routes by pattern, as in `Bun.serve`: `"/users/:id"`, `"/users/{id}"`, `"/files/*path"`. A function handles every method. An
 * object with `fetch` (a Hono or Elysia app) needs a pattern that ends in `/*`; it sees paths without the part before `/*`.
 */
export type HubRoutes<Pattern extends string = string> = {
  readonly [P in Pattern]:
    Limitable<HubHandler<P>> | Limitable<ByMethod<P>> | Limitable<SocketApp> | SseRoute | SocketRoute;
};

/** Handlers of one pattern by method. GET may be an event stream or a WebSocket. */
type ByMethod<Pattern extends string> = {
  readonly GET?: Limitable<HubHandler<Pattern>> | SseRoute | SocketRoute;
} & {
  readonly [M in Exclude<Method, "GET">]?: Limitable<HubHandler<Pattern>>;
};

/** Checked routes of a worker. */
export interface Routes {
  /** Routes as they are registered with the hub. */
  readonly list: readonly RouteRequest[];
  /** Handlers by pattern and method. */
  readonly handlers: ReadonlyMap<string, Readonly<Partial<Record<Method, Handler>>>>;
  /** Callbacks of event streams by pattern. */
  readonly streams: ReadonlyMap<string, SseHandlers>;
  /** Handlers of WebSockets by pattern. */
  readonly sockets: ReadonlyMap<string, SocketHandlers>;
}

/** @throws {InvalidConfigError} that names the invalid pattern. */
export function readRoutes(given: HubRoutes, option: string): Routes {
  const list: RouteRequest[] = [];
  const handlers = new Map<string, Partial<Record<Method, Handler>>>();
  const streams = new Map<string, SseHandlers>();
  const sockets = new Map<string, SocketHandlers>();
  for (const [path, entry] of Object.entries(checkOptions(option, given, '{ "/users/:id": handler }'))) {
    parsePattern(path);
    const methods: Partial<Record<Method, Handler>> = Object.create(null);
    const [whole, limits] = unlimited(entry);
    for (const [method, limited] of Object.entries(entriesOf(path, whole))) {
      const [one, own] = unlimited(limited);
      const isLimited = entry instanceof LimitedRoute || limited instanceof LimitedRoute;
      if (isLimited && (one instanceof SseRoute || one instanceof SocketRoute))
        throw malformed(path, "an event stream or a WebSocket has no limits of its own");
      if (one instanceof SseRoute) {
        list.push({ method, path, sse: true });
        streams.set(path, one.handlers);
      } else if (one instanceof SocketRoute) {
        list.push({ method, path, ws: true });
        sockets.set(path, one.handlers);
        methods[method as Method] = notAHandshake;
      } else {
        const ofApp = method === "GET" ? socketsOf(path, whole) : null;
        if (ofApp) sockets.set(path, ofApp);
        list.push({ method, path, ...(ofApp ? { ws: true } : {}), ...toRequest({ ...limits, ...own }) });
        methods[method as Method] = one as Handler;
      }
    }
    handlers.set(path, methods);
  }
  return { list, handlers, streams, sockets };
}

/** Answers a GET that is not the handshake of a WebSocket. */
const notAHandshake: Handler = () => ({
  status: 426,
  headers: { upgrade: "websocket" },
  json: { error: "This route takes WebSockets.", code: "NO_HANDSHAKE" },
});

/** The entry without its limits, and its limits. */
function unlimited(entry: unknown): [entry: unknown, limits: RouteLimitOptions] {
  return entry instanceof LimitedRoute ? [entry.entry, entry.limits] : [entry, {}];
}

type MethodEntry = Handler | SseRoute | SocketRoute | LimitedRoute<Handler>;

/** Handler of each method. */
function entriesOf(path: string, entry: unknown): Record<string, MethodEntry> {
  if (entry instanceof SseRoute || entry instanceof SocketRoute) return { GET: entry };
  if (typeof entry === "function") return everyMethod(toHandler(entry as HubHandler));
  if (typeof entry !== "object" || entry === null) throw malformed(path, `it is ${shown(entry)}`);
  if ("fetch" in entry && typeof entry.fetch === "function") return everyMethod(mount(path, entry as FetchHandler));
  const entries = Object.entries(entry).map(([method, one]): [string, MethodEntry] => {
    if (!METHODS.includes(method as Method)) throw malformed(path, `${shown(method)} is not an HTTP method`);
    if ((one instanceof SseRoute || one instanceof SocketRoute) && method === "GET") return [method, one];
    if (typeof one === "function") return [method, toHandler(one as HubHandler)];
    if (one instanceof LimitedRoute && typeof one.entry === "function")
      return [method, new LimitedRoute(one.limits, toHandler(one.entry as HubHandler))];
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

/** Mounts an app; it sees paths without the text before `/*`. */
function mount(path: string, app: FetchHandler): Handler {
  return appHandler(app, cutOf(path));
}

/** Handlers of the WebSockets of a mounted app; `null`: it has none, or the entry is something else. */
function socketsOf(path: string, entry: unknown): SocketHandlers | null {
  const isApp = typeof entry === "object" && entry !== null && "fetch" in entry && typeof entry.fetch === "function";
  return isApp ? appSockets(entry as SocketApp, cutOf(path)) : null;
}

/** Number of characters of the text before `/*`. @throws {InvalidConfigError} for a pattern that does not end in it. */
function cutOf(path: string): number {
  const prefix = path.slice(0, -2);
  if (!path.endsWith("/*") || parsePattern(path).names.length > 0)
    throw malformed(path, "an app needs a pattern that ends in /* and has no parameters");
  return prefix === "" ? 0 : new URL(`http://hub${prefix}`).pathname.length; // length as clients encode it
}

function malformed(path: string, why: string): InvalidConfigError {
  return new InvalidConfigError(`Invalid route ${shown(path)}: ${why}.`, {
    hint: 'Use a handler, { GET: handler }, sse() or ws(); at "/prefix/*" also an app with fetch.',
  });
}
