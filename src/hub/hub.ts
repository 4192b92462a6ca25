/** One HTTP server in front of many worker processes: a request comes by HTTP, goes to a worker over its bus, and back. */

import type { Server } from "bun";
import { Closing } from "../closing.ts";
import { closeOlder, noteOpened } from "../hot.ts";
import { SlotBus } from "../slotbus.ts";
import type { StreamedResponse } from "../bus/response.ts";
import { SlotbusError } from "../errors.ts";
import { ControlPlane, health } from "./control.ts";
import { Cors, preflightMethod } from "./cors.ts";
import { Failure, failureOf, RETRY } from "./failure.ts";
import { addressIn } from "./forwarded.ts";
import { type HubOptions, hubOptions, type ResolvedHubOptions } from "./options.ts";
import { isReserved, type Pattern } from "./pattern.ts";
import { Pinger } from "./pinger.ts";
import { answer, forward, headerOf, type Incoming, type RequestHeaders } from "./proxy.ts";
import { Registry } from "./registry.ts";
import { Meter } from "./meter.ts";
import type { HubEvents } from "./service.ts";
import { comeAgain, EventStreams } from "./sse.ts";
import { Status } from "./status.ts";

type AnyServer = Server<unknown>;

/** A request on its way through the hub. */
interface Asked {
  readonly request: Request;
  readonly headers: RequestHeaders;
  readonly id: string;
  readonly server: AnyServer | undefined;
  /** `performance.now()` */
  readonly began: number;
  /** Name of the worker that has it; `""` while that is the hub. */
  worker: string;
  /** `""` until it is known. */
  path: string;
  /** For listeners of `request`; `undefined` when there are none. */
  readonly address: string | null | undefined;
}

/** Ids of requests that came without one: no other hub has the same. */
class RequestIds {
  readonly #prefix = Buffer.from(crypto.getRandomValues(new Uint8Array(9))).toString("base64url");
  #last = 36 ** 5; // all of one length for long

  next(): string {
    return `${this.#prefix}.${(++this.#last).toString(36)}`;
  }
}

const REQUEST_ID = /^[\w.:-]{1,128}$/;
/** How long nothing may move on a connection, in s: the longest that Bun counts. */
const IDLE_S = 255;
/** Between two looks at whether all requests are answered, in ms. */
const POLL_MS = 10;
/** Methods of the hub's own paths. */
const OWN: Readonly<Record<string, readonly string[]>> = { "/events": ["GET"], "/health": ["GET", "HEAD"] };

/**
 * A hub. Workers find it by name; clients by HTTP.
 *
 *     await using hub = await Hub.start({ port: 3200 });
 */
export class Hub extends Closing<HubEvents> {
  readonly options: ResolvedHubOptions;
  readonly #name: SlotBus;
  readonly #registry: Registry;
  readonly #streams: EventStreams;
  readonly #meter = new Meter();
  readonly #ids = new RequestIds();
  readonly #status: Status;
  readonly #pinger: Pinger | null;
  readonly #cors: Cors | null;
  readonly #control: ControlPlane;
  readonly #server: AnyServer | null;
  readonly #startedAt = performance.now();
  /** Of the last request; that of the next one is mostly the same, and then it is valid too. */
  #origin = " ";
  #isRetired = false;
  #stopped = false;

  /**
   * Takes the name, listens, and lets workers register.
   *
   * @throws (rejects) {InvalidConfigError}; {BusExistsError} when a live hub has the name; `RESOURCE` when a port is
   * taken; `PERMISSION_DENIED` for a directory that is not ours alone.
   */
  static async start(options: HubOptions = {}): Promise<Hub> {
    const resolved = hubOptions.resolve(options);
    const { name, directory } = resolved;
    await closeOlder(`hub ${directory}/${name}`);
    const owner = await SlotBus.create({ name, directory, slots: 1 }); // it has no workers: it holds the name
    try {
      const hub = new Hub(resolved, owner);
      noteOpened(`hub ${directory}/${name}`, hub);
      return hub;
    } catch (error) {
      await owner.close();
      throw error;
    }
  }

  private constructor(options: ResolvedHubOptions, name: SlotBus) {
    super();
    this.options = options;
    this.#name = name;
    this.#registry = new Registry(options, {
      changed: () => this.#streams.servicesChanged(),
      tell: (event, ...args) => queueMicrotask(() => this.emit(event, ...(args as never))),
    });
    this.#streams = new EventStreams(this.#registry, options);
    this.#status = new Status(this.#registry, this.#meter, options, () => this.#streams.clients);
    this.#cors = options.cors ? new Cors(options.cors) : null;
    this.#pinger = options.ping ? new Pinger(options.ping, () => this.#registry.services) : null;
    try {
      this.#control = new ControlPlane(options, this.#registry, this.#streams);
      this.#server = options.port === null ? null : this.#listen(options.port);
    } catch (error) {
      this.#pinger?.stop();
      throw error;
    }
    process.prependListener("exit", this.#onExit); // while the name is ours: the bus's own listener gives it back
  }

  get name(): string {
    return this.options.name;
  }

  /** Where it listens; `null` when it does not. */
  get url(): URL | null {
    return this.#server?.url ?? null;
  }

  /** Where its control plane listens beside its socket; `null` when it does not. */
  get controlUrl(): URL | null {
    return this.#control.url;
  }

  /** Answers a request as the hub's own server does, for a `Bun.serve` of one's own: give that an `idleTimeout` of 255. Never rejects. */
  readonly fetch = (request: Request, server?: AnyServer): Response | Promise<Response> => {
    const began = performance.now();
    const headers: RequestHeaders = request.headers.toJSON(); // one call; reading header by header costs more
    const given = headerOf(headers, "x-request-id");
    const id = given !== null && REQUEST_ID.test(given) ? given : this.#ids.next();
    const address = this.listenerCount("request") > 0 ? this.#clientOf(request, headers, server) : undefined;
    const asked: Asked = { request, headers, id, server, began, worker: "", path: "", address };
    try {
      const response = this.#answer(asked);
      if (response instanceof Response) return this.#own(asked, response);
      return response.then(
        (answered) => this.#finish(asked, answered),
        (error) => this.#own(asked, this.#fail(error, id)),
      );
    } catch (error) {
      return this.#own(asked, this.#fail(error, id));
    }
  };

  /** Takes nothing new, ends event streams, and waits until what runs is answered. */
  protected async finish(timeout: number): Promise<void> {
    const deadline = performance.now() + timeout;
    this.#retire();
    if (this.#server) await this.#untilAnswered(this.#server, deadline);
    await this.#registry.drain({ timeout: Math.max(0, deadline - performance.now()) });
  }

  /** Ends what is left and gives the name back. */
  protected async end(): Promise<void> {
    await this.#registry.close({ timeout: 0 });
    await this.#server?.stop(true);
    await this.#name.close();
  }

  #listen(port: number): AnyServer {
    const { hostname } = this.options;
    try {
      return Bun.serve({
        port,
        hostname,
        idleTimeout: IDLE_S, // the hub's own limits are shorter
        maxRequestBodySize: Number.MAX_SAFE_INTEGER, // the hub counts, and says what is wrong
        fetch: this.fetch,
      }) as AnyServer;
    } catch (cause) {
      this.#control.close();
      throw new SlotbusError("RESOURCE", `Cannot listen on ${hostname}:${port}; another process may use it.`, {
        cause,
      });
    }
  }

  #finish(asked: Asked, answered: Response | StreamedResponse): Response {
    try {
      if (answered instanceof Response) return this.#own(asked, answered);
      // An app's own event stream may be quiet for hours, as the hub's are.
      if (answered.contentType.startsWith("text/event-stream")) asked.server?.timeout(asked.request, 0);
      const bytes = asked.request.method === "HEAD" ? 0 : answered.wholeBytes;
      return this.#record(asked, answer(answered, asked), bytes);
    } catch (error) {
      return this.#own(asked, this.#fail(error, asked.id));
    }
  }

  /** An answer of the hub itself. */
  #own(asked: Asked, response: Response): Response {
    if (this.#cors && Cors.isFor(asked.path)) this.#cors.allow(asked.headers, response);
    return this.#record(asked, response);
  }

  #record(asked: Asked, response: Response, bytes: number | null = null): Response {
    const { worker, began, address } = asked;
    const { status } = response;
    const ms = performance.now() - began;
    this.#meter.record(worker, status, ms);
    if (address === undefined) return response;
    const { id, path, request } = asked;
    const told = { id, method: request.method, path, status, ms, bytes, worker: worker || null, address };
    queueMicrotask(() => this.emit("request", told));
    return response;
  }

  #answer(asked: Asked): Response | Promise<Response | StreamedResponse> {
    const { request, headers, id, server } = asked;
    const { url } = request;
    if (!url.startsWith(this.#origin)) this.#origin = originOf(url);
    const { path, query } = split(url);
    asked.path = path;
    if (headerOf(headers, "upgrade")?.toLowerCase() === "websocket")
      throw new Failure(501, "NO_WEBSOCKET", "the hub carries no WebSockets.");
    const match = this.#registry.table.find(request.method, path);
    if (this.#cors && this.#isOwnPreflight(asked, match !== null)) return this.#cors.preflight(headers, id);
    if (!match || (isOpen(match.route.pattern) && isReserved(path))) return this.#answerSelf(asked, path);
    const { params, route } = match;
    const { pattern, owner, sse } = route;
    asked.worker = owner.name;
    if (!owner.isThere) {
      if (sse && isEventSource(request)) return comeAgain(id);
      throw new Failure(503, "NO_WORKER", "no worker serves this route now.", RETRY);
    }
    const address = this.#addressOf(request, server);
    const proto = url.startsWith("https") ? "https" : "http";
    const incoming: Incoming = { request, headers, id, path, query, pattern: pattern.text, params, address, proto };
    const { timeout } = this.options;
    if (!sse) {
      if (timeout >= IDLE_S * 1_000) server?.timeout(request, 0);
      return forward(owner.bus, incoming, this.options);
    }
    server?.timeout(request, IDLE_S);
    return this.#streams.open(route, incoming);
  }

  /** Whether a browser asks for a page whether it may send a request that the hub would answer itself. */
  #isOwnPreflight({ request, headers, path }: Asked, isRouted: boolean): boolean {
    const method = preflightMethod(request.method, headers);
    if (method === null || !Cors.isFor(path)) return false;
    if (isReserved(path)) return true;
    const wanted = this.#registry.table.find(method, path);
    return wanted ? wanted.route.sse : !isRouted;
  }

  /** Who reaches a server on the loopback address is on this machine; asking for more costs a tenth of a request. */
  #addressOf(request: Request, server: AnyServer | undefined): string | null {
    const { hostname } = this.options;
    if (server === this.#server && (hostname === "127.0.0.1" || hostname === "::1")) return hostname;
    return server?.requestIP(request)?.address ?? null;
  }

  /** Address of the client: with `trustProxy` the one that the proxy saw. It added that one; the client may have sent those before. */
  #clientOf(request: Request, headers: RequestHeaders, server: AnyServer | undefined): string | null {
    const route = this.options.trustProxy ? headerOf(headers, "x-forwarded-for") : null;
    if (!route) return this.#addressOf(request, server);
    return addressIn(route.slice(route.lastIndexOf(",") + 1))?.address ?? null;
  }

  #answerSelf({ request, id, server }: Asked, path: string): Response {
    if (path === "/health" && OWN[path]!.includes(request.method)) return Response.json(health(this.#registry));
    if (path === "/events" && request.method === "GET") {
      server?.timeout(request, IDLE_S);
      return this.#streams.openAll(request, id);
    }
    if (Status.isAsked(path)) {
      server?.timeout(request, IDLE_S);
      return this.#status.answer(request, path, server?.requestIP(request)?.address ?? null, id);
    }
    const allowed = isReserved(path) ? (OWN[path] ?? []) : this.#registry.table.allowed(path);
    if (allowed.length === 0) return this.#answerUnknown(request, path, id);
    const allow = allowed.join(", ");
    throw new Failure(405, "METHOD", `${request.method} is not allowed here; ${allow} is.`, { allow });
  }

  /** The workers of a hub that is new may be on their way back from the one before. */
  #answerUnknown(request: Request, path: string, id: string): Response {
    const isNew = performance.now() - this.#startedAt < this.options.goneFor;
    if (!isNew || isReserved(path)) throw notFound(request.method, path);
    if (isEventSource(request)) return comeAgain(id);
    const { services, someReturned } = this.#registry;
    if (services.length > 0 && !someReturned) throw notFound(request.method, path);
    throw new Failure(503, "NO_WORKER", `nothing answers ${request.method} ${path.slice(0, 200)} yet.`, RETRY);
  }

  #fail(error: unknown, id: string): Response {
    if (error instanceof Failure || error instanceof SlotbusError) return failureOf(error).toResponse(id);
    // The client has gone: nobody reads this.
    if (error instanceof DOMException && error.name === "AbortError") return new Response(null, { status: 499 });
    return new Failure(500, "INTERNAL", "the hub failed.").toResponse(id);
  }

  /** Takes nothing new from now on. */
  #retire(): void {
    if (this.#isRetired) return;
    this.#isRetired = true;
    process.off("exit", this.#onExit);
    this.#pinger?.stop();
    this.#streams.close();
    this.#status.close();
    this.#control.close();
    void this.#server?.stop().then(() => (this.#stopped = true));
  }

  /** Ends when no request runs any more, or at `deadline`. Bun's own `stop` waits for a request whose head only began, too. */
  async #untilAnswered(server: AnyServer, deadline: number): Promise<void> {
    while (!this.#stopped && server.pendingRequests > 0 && performance.now() < deadline) await Bun.sleep(POLL_MS);
  }

  readonly #onExit = (): void => this.#control.removeSocket();
}

function isEventSource({ method, headers }: Request): boolean {
  return method === "GET" && (headers.get("accept")?.includes("text/event-stream") ?? false);
}

/** Scheme and host, with the slash behind them. Bun's server takes them as they come. @throws {Failure} 400 for what is no host. */
function originOf(url: string): string {
  const origin = url.slice(0, url.indexOf("/", url.indexOf("//") + 2) + 1);
  if (origin.startsWith("http") && URL.canParse(origin)) return origin;
  throw new Failure(400, "BAD_HOST", "the host header is not a valid host.");
}

/** Path and query as they stand in an absolute URL that was normalised. */
function split(url: string): { path: string; query: string } {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  const hash = url.indexOf("#", start);
  const end = hash < 0 ? url.length : hash;
  const mark = url.indexOf("?", start);
  if (mark < 0 || mark > end) return { path: url.slice(start, end), query: "" };
  return { path: url.slice(start, mark), query: url.slice(mark + 1, end) };
}

/** Whether it begins with a parameter or `*`: no other pattern matches a path of the hub's own. */
function isOpen({ route }: Pattern): boolean {
  return route[1] === ":" || route[1] === "*";
}

function notFound(method: string, path: string): Failure {
  return new Failure(404, "NO_ROUTE", `nothing answers ${method} ${path.slice(0, 200)}.`);
}
