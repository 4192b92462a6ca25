/** An HTTP server in front of worker processes: it forwards each request to a worker over a bus and returns the response. */

import type { Server, WebSocketHandler } from "bun";
import { Closing } from "../closing.ts";
import { closeOlder, noteOpened } from "../hot.ts";
import { SlotBus } from "../slotbus.ts";
import { findRemote } from "../wires/choose.ts";
import type { StreamedResponse } from "../bus/response.ts";
import { socket } from "../bus/via.ts";
import { SlotbusError } from "../errors.ts";
import { ClientLimits, untilSent } from "./client-limits.ts";
import { ControlPlane, health } from "./control.ts";
import { Cors, preflightMethod } from "./cors.ts";
import { Failure, failureOf, RETRY } from "./failure.ts";
import { PART_PATH, STATE_PATH } from "./names.ts";
import { type HubOptions, hubOptions, type ResolvedHubOptions } from "./options.ts";
import { isReserved } from "./pattern.ts";
import { Pinger } from "./pinger.ts";
import { answer, forward, headerOf, type Incoming, type RequestHeaders } from "./proxy.ts";
import { Proxies } from "./proxies.ts";
import { Ids } from "./ids.ts";
import { Registry } from "./registry.ts";
import type { Route } from "./routes.ts";
import { Meter } from "./meter.ts";
import { Direct } from "./direct.ts";
import { HubGroup } from "./group.ts";
import { IDLE_S, listen } from "./listen.ts";
import type { Audience, HubEvents, Service } from "./service.ts";
import { emptyStream, EventStreams } from "./sse.ts";
import { Sockets } from "./sockets.ts";
import { Status } from "./status.ts";
import { isEventSource, isOpen, notFound, originOf, split } from "./target.ts";

type AnyServer = Server<unknown>;

/** A request while the hub handles it. */
interface Exchange {
  readonly request: Request;
  readonly headers: RequestHeaders;
  readonly id: string;
  readonly server: AnyServer | undefined;
  /** `performance.now()` */
  readonly began: number;
  /** `null` if the hub responds itself. */
  route: Route<Service> | null;
  /** `""` until the URL is parsed. */
  path: string;
  /** Client address, for listeners of `request`; `undefined` when there are none. */
  readonly address: string | null | undefined;
  /** Ends the request for the limits of its client; `null` without limits. */
  ended: (() => void) | null;
  /** Whether the response is an event stream of the hub. */
  isStream: boolean;
}

/** Interval at which `drain` checks whether all requests are answered, in ms. */
const POLL_MS = 10;
/** Methods that the hub's own paths allow. */
const OWN: Readonly<Record<string, readonly string[]>> = { "/events": ["GET"], "/health": ["GET", "HEAD"] };

/**
 * A hub. Workers find it by its name, clients reach it over HTTP.
 *
 *     await using hub = await Hub.start({ port: 3200 });
 */
export class Hub extends Closing<HubEvents> {
  readonly options: ResolvedHubOptions;
  readonly #name: SlotBus;
  readonly #registry: Registry;
  readonly #streams: EventStreams;
  readonly #sockets: Sockets;
  readonly #meter = new Meter();
  readonly #ids = new Ids();
  readonly #status: Status;
  readonly #pinger: Pinger | null;
  readonly #cors: Cors | null;
  readonly #proxies: Proxies;
  readonly #limits: ClientLimits | null;
  readonly #group: HubGroup | null;
  #control!: ControlPlane;
  #server: AnyServer | null = null;
  #startedAt = performance.now();
  /** Scheme and host of the last request. The next request mostly has the same, which then needs no check. */
  #origin = " ";
  /** `performance.now()` when the hub began to drain; `null` before. */
  #drainsSince: number | null = null;
  readonly #retired = Promise.withResolvers<void>();
  #isRetired = false;
  #socketsClosed: Promise<void> | null = null;
  #stopped = false;

  /**
   * Starts a hub: claims its name, listens for clients, and accepts registrations of workers.
   *
   * @throws (rejects) {InvalidConfigError}; {BusExistsError} when a live hub has the name; `RESOURCE` when a port is
   * taken; `PERMISSION_DENIED` when the directory belongs to another user or is open to others.
   */
  static async start(options: HubOptions = {}): Promise<Hub> {
    const given = hubOptions.resolve(options);
    const resolved = { ...given, via: given.via ?? (await findRemote()) ?? undefined };
    const { name, directory, shared } = resolved;
    await closeOlder(`hub ${directory}/${name}`);
    const open = { name, directory, slots: 1, ...(resolved.via && { via: socket() }) };
    const owner = await (shared ? SlotBus.connect(open) : SlotBus.create(open)); // has no workers: it only holds the name
    let group: HubGroup | null = null;
    try {
      group = shared ? await HubGroup.join(name, directory) : null;
      const hub = new Hub(resolved, owner, group);
      await hub.#begin();
      noteOpened(`hub ${directory}/${name}`, hub);
      return hub;
    } catch (error) {
      await group?.close();
      await owner.close();
      throw error;
    }
  }

  private constructor(options: ResolvedHubOptions, name: SlotBus, group: HubGroup | null) {
    super();
    this.#group = group;
    this.options = options;
    this.#name = name;
    const tell: Audience["tell"] = (event, ...args) => queueMicrotask(() => this.emit(event, ...(args as never)));
    this.#registry = new Registry(options, { changed: () => this.#servicesChanged(), tell });
    this.#sockets = new Sockets(this.#registry, options, (message) => tell("messageLost", message));
    this.websocket = this.#sockets.handler();
    this.#streams = new EventStreams(this.#registry, options, group?.epoch ?? null);
    this.#status = new Status(this.#registry, this.#meter, options, {
      clients: () => this.#streams.clients,
      sockets: () => this.#sockets,
      isDraining: () => this.#drainsSince !== null,
      peers: () => group?.parts() ?? Promise.resolve([]),
    });
    this.#cors = options.cors ? new Cors(options.cors) : null;
    this.#proxies = new Proxies(options.trustProxy);
    this.#limits = ClientLimits.of(options.perClient);
    const evicted = group ? group.evicted.bind(group) : () => {};
    this.#pinger = options.ping ? new Pinger(options.ping, () => this.#registry.services, evicted) : null;
  }

  /** Opens the control plane and the port, after it has joined the other processes of a shared hub. */
  async #begin(): Promise<void> {
    const { options } = this;
    const [registry, streams, sockets, group] = [this.#registry, this.#streams, this.#sockets, this.#group];
    try {
      if (group)
        this.#startedAt -= await group.begin(registry, streams, sockets, () => performance.now() - this.#startedAt);
      const shown: Readonly<Record<string, () => object>> = group
        ? { [STATE_PATH]: () => group.state(), [PART_PATH]: () => this.#status.part() }
        : {};
      const actions = group ?? new Direct(registry, streams, sockets);
      this.#control = new ControlPlane(options, registry, actions, group?.socket, shown);
      if (options.via) await this.#control.reach(options, options.via);
      await group?.opened();
      this.#server = options.port === null ? null : listen(options, options.port, this.fetch, this.websocket);
    } catch (error) {
      this.#pinger?.stop();
      await this.#control?.close();
      streams.close();
      await registry.close({ timeout: 0 });
      throw error;
    }
    process.prependListener("exit", this.#onExit); // before the bus's listener, which releases the name
  }

  get name(): string {
    return this.options.name;
  }

  /** URL that the hub listens on; `null` with `port: false`. */
  get url(): URL | null {
    return this.#server?.url ?? null;
  }

  /** URL of the control port; `null` without the option `control`. */
  get controlUrl(): URL | null {
    return this.#control.url;
  }

  /** Number of clients of event streams. */
  get clients(): number {
    return this.#streams.clients;
  }

  /** Number of open WebSockets. */
  get sockets(): number {
    return this.#sockets.size;
  }

  /** The option `websocket` of your own `Bun.serve`; its other handler is {@link fetch}. */
  readonly websocket: WebSocketHandler<unknown>;

  /**
   * Handles a request. Never rejects. When a WebSocket was opened it resolves to `undefined`, as `Bun.serve` expects. Call it inside your own `Bun.serve`, which needs `idleTimeout: 255`, and `maxRequestBodySize`
   * if `payloadBytes` is above 128 MiB.
   */
  readonly fetch = (request: Request, server?: AnyServer): Response | Promise<Response> => {
    const began = performance.now();
    const headers: RequestHeaders = request.headers.toJSON(); // faster than reading each header
    const id = this.#ids.of(headerOf(headers, "x-request-id"));
    const address = this.listenerCount("request") > 0 ? this.#clientOf(request, headers, server) : undefined;
    const exchange: Exchange = {
      request,
      headers,
      id,
      server,
      began,
      route: null,
      path: "",
      address,
      ended: null,
      isStream: false,
    };
    try {
      const response = this.#answer(exchange);
      if (response instanceof Response) return this.#own(exchange, response);
      return response.then(
        (answered) => (answered === null ? this.#upgraded(exchange) : this.#finish(exchange, answered)),
        (error) => this.#own(exchange, this.#fail(error, id)),
      );
    } catch (error) {
      return this.#own(exchange, this.#fail(error, id));
    }
  };

  /**
   * Turns `/health` to 503 and continues for `drainDelay`. Then it accepts no new requests, ends event streams, and waits until
   * running requests are answered, for at most `timeout` ms. A `timeout` of 0 skips the delay.
   */
  protected async finish(timeout: number): Promise<void> {
    this.#drainsSince ??= performance.now();
    if (timeout > 0) await this.#delay(this.#drainsSince + this.options.drainDelay - performance.now());
    const deadline = performance.now() + timeout;
    this.#retire();
    if (timeout > 0) await this.#socketsClosed;
    if (this.#server) await this.#untilAnswered(this.#server, deadline);
    await this.#registry.drain({ timeout: Math.max(0, deadline - performance.now()) });
    if (this.#group && timeout > 0) await this.#control.finish();
  }

  /** Ends the remaining requests and releases the name. */
  protected async end(): Promise<void> {
    await this.#registry.close({ timeout: 0 });
    await this.#server?.stop(true);
    await this.#control.close();
    await this.#group?.close();
    await this.#name.close();
  }

  #servicesChanged(): void {
    this.#streams.servicesChanged();
    this.#sockets.servicesChanged();
  }

  /** `Bun.serve` expects `undefined` for a request that has become a WebSocket. */
  #upgraded(exchange: Exchange): Response {
    exchange.ended = null; // called when the connection ends
    this.#note(exchange, 101, null);
    return undefined as unknown as Response;
  }

  #finish(exchange: Exchange, answered: Response | StreamedResponse): Response {
    try {
      if (answered instanceof Response) return this.#own(exchange, answered);
      // An event stream of a mounted app may stay silent for hours.
      if (answered.contentType.startsWith("text/event-stream")) exchange.server?.timeout(exchange.request, 0);
      const bytes = exchange.request.method === "HEAD" ? 0 : answered.wholeBytes;
      const response = answer(answered, exchange);
      exchange.isStream = bytes === null;
      return this.#record(exchange, response, bytes);
    } catch (error) {
      return this.#own(exchange, this.#fail(error, exchange.id));
    }
  }

  /** Completes a response that the hub itself sends. */
  #own(exchange: Exchange, response: Response): Response {
    if (this.#cors && Cors.isFor(exchange.path)) this.#cors.allow(exchange.headers, response);
    return this.#record(exchange, response);
  }

  #record(exchange: Exchange, response: Response, bytes: number | null = null): Response {
    this.#note(exchange, response.status, bytes);
    if (this.#drainsSince !== null) response.headers.set("connection", "close"); // its client connects again, elsewhere
    return exchange.ended ? this.#leave(exchange, response) : response;
  }

  /** Counts the request, and tells listeners of `request`. */
  #note({ id, request, route, path, began, address }: Exchange, status: number, bytes: number | null): void {
    const ms = performance.now() - began;
    this.#meter.record(route, status, ms);
    if (address === undefined) return;
    const info = { id, method: request.method, path, status, ms, bytes, worker: route?.owner.name ?? null, address };
    queueMicrotask(() => this.emit("request", info));
  }

  /** Ends the request for the limits of its client: now, or when its stream has been sent. */
  #leave({ ended, isStream, request }: Exchange, response: Response): Response {
    if (isStream && response.body) return untilSent(response, request.signal, ended!);
    ended!();
    return response;
  }

  /** `null`: a WebSocket was opened. */
  #answer(exchange: Exchange): Response | Promise<Response | StreamedResponse | null> {
    const { request, headers, id, server } = exchange;
    const { url } = request;
    if (!url.startsWith(this.#origin)) this.#origin = originOf(url);
    const { path, query } = split(url);
    exchange.path = path;
    if (this.#limits && path !== "/health") {
      const client = this.#clientOf(request, headers, server);
      if (client !== null) exchange.ended = this.#limits.enter(client, exchange.began);
    }
    const isHandshake = headerOf(headers, "upgrade")?.toLowerCase() === "websocket";
    const match = this.#registry.table.find(request.method, path);
    if (this.#cors && this.#isOwnPreflight(exchange, match !== null)) return this.#cors.preflight(headers, id);
    if (!match || (isOpen(match.route.pattern) && isReserved(path))) return this.#answerSelf(exchange, path);
    const { params, route } = match;
    const { pattern, owner, sse, ws, limits } = route;
    if (isHandshake && !ws) throw new Failure(501, "NO_WEBSOCKET", "This route takes no WebSockets.");
    exchange.route = route;
    if (!owner.isThere) {
      if (sse && isEventSource(request)) return emptyStream(id);
      throw new Failure(503, "NO_WORKER", "No worker serves this route.", RETRY);
    }
    const address = this.#addressOf(request, server);
    const proto = url.startsWith("https") ? "https" : "http";
    const forwarded = headerOf(headers, "x-forwarded-for");
    const incoming: Incoming = {
      request,
      headers,
      id,
      path,
      query,
      pattern: pattern.text,
      params,
      proto,
      isTrusted: this.#proxies.trusts(address),
      via: this.#proxies.routeOf(address, forwarded),
    };
    if (isHandshake) return this.#sockets.open(route, incoming, server, exchange.ended);
    if (!sse) {
      if (limits.timeout >= IDLE_S * 1_000) server?.timeout(request, 0);
      return forward(owner.bus, incoming, limits);
    }
    server?.timeout(request, IDLE_S);
    exchange.isStream = true;
    return this.#streams.open(route, incoming).catch((error) => {
      exchange.isStream = false;
      throw error;
    });
  }

  /** Whether the request is a CORS preflight for a request that the hub itself would answer. */
  #isOwnPreflight({ request, headers, path }: Exchange, isRouted: boolean): boolean {
    const method = preflightMethod(request.method, headers);
    if (method === null || !Cors.isFor(path)) return false;
    if (isReserved(path)) return true;
    const wanted = this.#registry.table.find(method, path);
    return wanted ? wanted.route.sse : !isRouted;
  }

  /** Clients of a server on a loopback address are on this machine. `requestIP` would add a tenth to the cost of a request. */
  #addressOf(request: Request, server: AnyServer | undefined): string | null {
    const { hostname } = this.options;
    if (server === this.#server && (hostname === "127.0.0.1" || hostname === "::1")) return hostname;
    return server?.requestIP(request)?.address ?? null;
  }

  /** Client address; a trusted proxy names it. */
  #clientOf(request: Request, headers: RequestHeaders, server: AnyServer | undefined): string | null {
    return this.#proxies.clientOf(this.#addressOf(request, server), headerOf(headers, "x-forwarded-for"));
  }

  #answerSelf(exchange: Exchange, path: string): Response | Promise<Response> {
    const { request, id, server } = exchange;
    if (path === "/health" && OWN[path]!.includes(request.method)) return this.#health();
    if (path === "/events" && request.method === "GET") {
      server?.timeout(request, IDLE_S);
      exchange.isStream = true;
      return this.#streams.openAll(request, id);
    }
    if (Status.isStatusPath(path)) {
      server?.timeout(request, IDLE_S);
      exchange.isStream = path.endsWith("/stream");
      return this.#status.answer(request, path, server?.requestIP(request)?.address ?? null, id);
    }
    const allowed = isReserved(path) ? (OWN[path] ?? []) : this.#registry.table.allowed(path);
    if (allowed.length === 0) return this.#answerUnknown(request, path, id);
    const allow = allowed.join(", ");
    throw new Failure(405, "METHOD", `${request.method} is not allowed on this path. Allowed: ${allow}.`, { allow });
  }

  /** 503 once the hub drains, so that a load balancer sends new requests elsewhere. */
  #health(): Response {
    if (this.#drainsSince === null) return Response.json(health(this.#registry));
    return Response.json({ ...health(this.#registry), ok: false, draining: true }, { status: 503 });
  }

  /** Answers a request without a route: 503 while workers of a predecessor may still reconnect, then 404. */
  #answerUnknown(request: Request, path: string, id: string): Response {
    const isNew = performance.now() - this.#startedAt < this.options.goneFor;
    if (!isNew || isReserved(path)) throw notFound(request.method, path);
    if (isEventSource(request)) return emptyStream(id);
    const { services, someReturned } = this.#registry;
    if (services.length > 0 && !someReturned) throw notFound(request.method, path);
    throw new Failure(503, "NO_WORKER", `No worker serves ${request.method} ${path.slice(0, 200)} yet.`, RETRY);
  }

  #fail(error: unknown, id: string): Response {
    if (error instanceof Failure || error instanceof SlotbusError)
      return failureOf(error, this.#registry.isClosed).toResponse(id);
    // The client has disconnected and does not see this response.
    if (error instanceof DOMException && error.name === "AbortError") return new Response(null, { status: 499 });
    return new Failure(500, "INTERNAL", "The hub failed to handle the request.").toResponse(id);
  }

  /** Accepts no new requests from now on. */
  #retire(): void {
    if (this.#isRetired) return;
    this.#isRetired = true;
    this.#retired.resolve();
    process.off("exit", this.#onExit);
    this.#pinger?.stop();
    this.#streams.close();
    this.#socketsClosed = this.#sockets.close();
    this.#status.close();
    this.#group?.leave();
    if (!this.#group) void this.#control.close(); // otherwise it sends callers to another process until the end
    void this.#server?.stop().then(() => (this.#stopped = true));
  }

  /** Resolves after `ms`, or when the hub retires before. */
  async #delay(ms: number): Promise<void> {
    if (ms <= 0 || this.#isRetired) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    await Promise.race([promise, this.#retired.promise]);
    clearTimeout(timer);
  }

  /** Resolves when no request runs, or at `deadline`. Bun's `stop` would also wait for requests with an incomplete head. */
  async #untilAnswered(server: AnyServer, deadline: number): Promise<void> {
    while (!this.#stopped && server.pendingRequests > 0 && performance.now() < deadline) await Bun.sleep(POLL_MS);
  }

  readonly #onExit = (): void => this.#control.removeSocket();
}
