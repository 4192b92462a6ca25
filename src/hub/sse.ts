/** Event streams: `/events`, and one stream per path of an event-stream route. */

import { RequestTimeoutError } from "../errors.ts";
import { Failure } from "./failure.ts";
import { checkEvent, EventLog, type StreamEvent } from "./event-log.ts";
import { LIFECYCLE_PATH, type Lifecycle } from "./names.ts";
import type { ResolvedHubOptions } from "./options.ts";
import { parsePattern, plainPath } from "./pattern.ts";
import { NumberedLog } from "./numbered-log.ts";
import type { Incoming } from "./proxy.ts";
import type { Registry } from "./registry.ts";
import type { Route } from "./routes.ts";
import type { Service } from "./service.ts";
import { SseClient } from "./sse-client.ts";

/** A stream: its clients and its newest events. */
interface Stream {
  readonly log: EventLog | NumberedLog;
  readonly clients: Set<SseClient>;
}

/** The stream of one path. */
interface Channel extends Stream {
  readonly route: Route<Service>;
  readonly params: Readonly<Record<string, string>>;
}

/** An event that was pushed to all paths of a pattern. */
interface PatternEvent {
  readonly params: Readonly<Record<string, string>>;
  readonly event: StreamEvent;
  readonly number: number;
}

/** Time for which the events of a path without clients are kept for clients that reconnect, in ms. */
const LINGER_MS = 60_000;

export class EventStreams {
  readonly #registry: Registry;
  readonly #options: ResolvedHubOptions;
  readonly #epoch = Math.floor(Date.now()).toString(36);
  /** Begins the ids of a shared hub; `null` for a hub of one process. */
  readonly #sharedEpoch: string | null;
  /** Events that were pushed to a pattern of a shared hub, for paths that have no client in this process yet. */
  readonly #toPatterns = new Map<string, PatternEvent[]>();
  /** Number of the newest event of a shared hub; set before an event is sent. */
  newest = 0;
  /** Number of the newest event of a shared hub that this process may not have kept for a path without clients. */
  horizon = 0;
  #logs = 0;
  readonly #all: Stream;
  /** Streams by path, normalised with {@link plainPath}. */
  readonly #channels = new Map<string, Channel>();
  /** Services that had a process at the last change. */
  #there = new Set<Service>();
  #timer: ReturnType<typeof setInterval> | null = null;
  #closed = false;

  /** `sharedEpoch`: of a shared hub, whose events have numbers. */
  constructor(registry: Registry, options: ResolvedHubOptions, sharedEpoch: string | null) {
    this.#sharedEpoch = sharedEpoch;
    this.#registry = registry;
    this.#options = options;
    this.#all = this.#makeStream();
  }

  /** Number of connected clients. */
  get clients(): number {
    return this.#streams().reduce((sum, { clients }) => sum + clients.size, 0);
  }

  // ---- clients ----------------------------------------------------------------------------------------------------

  /** Opens `GET /events`, the stream of all events that workers emit. */
  openAll(request: Request, requestId: string): Response {
    return this.#open(this.#all, request, requestId, () => {});
  }

  /** Opens the stream of a route. The worker is asked first and may refuse the client. */
  async open(route: Route<Service>, incoming: Incoming): Promise<Response> {
    const { request, id, params } = incoming;
    const disconnected = (): void => void this.#tell(route, "disconnect", params).catch(() => {}); // no worker: nothing to notify
    // Not aborted when the client disconnects: a worker that got "connect" must also get "disconnect".
    const { ok, status } = await this.#tell(route, "connect", params).catch((error) => {
      if (error instanceof RequestTimeoutError && error.mayHaveExecuted) disconnected();
      throw error;
    });
    if (!ok) throw new Failure(status, "REFUSED", "The worker refused this event stream.");
    const channel = this.#channel(plainPath(incoming.path), route, params);
    return this.#open(channel, request, id, () => {
      channel.log.touchedAt = performance.now();
      disconnected();
    });
  }

  // ---- events -----------------------------------------------------------------------------------------------------

  /** Sends an event to `GET /events`. Returns the number of clients. `number`: of a shared hub. @throws {InvalidConfigError} */
  emit(source: string, type: string, data: string, number = 0): number {
    checkEvent({ type, data });
    return this.#send(this.#all, { type, data: JSON.stringify({ source, event_type: type, data }) }, number);
  }

  /** Sends an event to the clients of one path. @throws {Failure} 404 if no stream has this path; {@link InvalidConfigError}. */
  push(path: string, event: StreamEvent, number = 0): number {
    checkEvent(event);
    const { key, route, params } = this.find(path);
    return this.#send(this.#channel(key, route, params), event, number);
  }

  /** Finds the event stream of a path. @throws {Failure} 404 */
  find(path: string) {
    const { pathname } = new URL(`http://hub${path.startsWith("/") ? "" : "/"}${path}`);
    const key = plainPath(pathname);
    const { table } = this.#registry;
    const match = table.find("GET", pathname) ?? table.find("GET", key); // plain text of a route is compared literally
    if (!match?.route.sse) throw new Failure(404, "NO_STREAM", `No event stream has the path ${path.slice(0, 200)}.`);
    return { key, route: match.route, params: match.params };
  }

  /** Sends an event to the clients of a route whose parameters have these values. @throws as {@link push} */
  pushByPattern(pattern: string, params: Readonly<Record<string, string>>, event: StreamEvent, number = 0): number {
    checkEvent(event);
    const key = this.findPattern(pattern);
    if (this.#sharedEpoch !== null) this.#keepForPattern(key, { params, event, number });
    let delivered = 0;
    for (const channel of this.#channels.values()) {
      if (channel.route.pattern.key === key && matches(params, channel.params))
        delivered += this.#send(channel, event, number);
    }
    return delivered;
  }

  /** Returns the key of a pattern of event streams. @throws {Failure} 404; {@link InvalidConfigError} */
  findPattern(pattern: string): string {
    const { key } = parsePattern(pattern);
    if (this.#registry.table.routes.some((route) => route.sse && route.pattern.key === key)) return key;
    throw new Failure(404, "NO_STREAM", `No event stream has the pattern ${pattern.slice(0, 200)}.`);
  }

  /** Notes that events of any stream may be missing up to the newest one. */
  lose(): void {
    for (const { log } of this.#streams()) if (log instanceof NumberedLog) log.lose(this.newest);
    this.horizon = this.newest;
  }

  // ---- time and change --------------------------------------------------------------------------------------------

  /** Announces the connected clients to workers that reconnected, and ends streams whose route was removed. */
  servicesChanged(): void {
    const there = new Set(this.#registry.services.filter((service) => service.isThere));
    const returned = [...there].filter((service) => !this.#there.has(service));
    this.#there = there;
    const routes = new Set(this.#registry.table.routes.filter(({ sse }) => sse).map(keyOf));
    for (const channel of this.#channels.values()) {
      if (!routes.has(keyOf(channel.route))) for (const client of channel.clients) client.end();
      if (!returned.includes(channel.route.owner)) continue;
      for (const _client of channel.clients) this.#tell(channel.route, "connect", channel.params).catch(() => {});
    }
  }

  close(): void {
    this.#closed = true;
    if (this.#timer) clearInterval(this.#timer);
    for (const { clients } of this.#streams()) for (const client of clients) client.end();
  }

  #streams(): Stream[] {
    return [this.#all, ...this.#channels.values()];
  }

  #open({ log, clients }: Stream, request: Request, requestId: string, onEnd: () => void): Response {
    const client: SseClient = new SseClient(this.#options.sse.clientBytes, () => {
      if (clients.delete(client)) onEnd();
    });
    clients.add(client);
    const lastId = request.headers.get("last-event-id");
    if (lastId) {
      const { events, missing } = log.since(lastId, this.newest);
      client.missing(missing);
      for (const event of events) client.send(event);
    }
    client.beat();
    if (this.#closed) client.end();
    this.#keepTime();
    return client.respond(request.signal, requestId);
  }

  #send({ log, clients }: Stream, event: StreamEvent, number: number): number {
    const text = log.append(event, number);
    let given = 0;
    for (const client of clients) if (client.send(text)) given++;
    return given;
  }

  /** Starts the timer of heartbeats; it stops when there are no clients and no kept events. */
  #keepTime(): void {
    if (!this.#closed) this.#timer ??= setInterval(() => this.#beat(), this.#options.sse.heartbeat);
  }

  #beat(): void {
    const now = performance.now();
    for (const { clients } of this.#streams()) for (const client of clients) client.beat();
    for (const [path, { clients, log }] of this.#channels)
      if (clients.size === 0 && now - log.touchedAt > LINGER_MS) this.#forget(path);
    if (this.clients > 0 || this.#channels.size > 0) return;
    clearInterval(this.#timer!);
    this.#timer = null;
  }

  #channel(path: string, route: Route<Service>, params: Readonly<Record<string, string>>): Channel {
    const known = this.#channels.get(path);
    if (known?.route === route) return known;
    const channel: Channel = { ...(known ?? this.#makeStream()), route, params };
    if (!known) this.#addPatternEvents(channel);
    this.#channels.set(path, channel);
    this.#keepTime();
    if (this.#channels.size > this.#options.sse.maxPaths) this.#forgetOne();
    return channel;
  }

  /** Drops the oldest path without clients. */
  #forgetOne(): void {
    const oldest = this.#channels.entries().find(([, { clients }]) => clients.size === 0);
    if (oldest) this.#forget(oldest[0]);
  }

  #forget(path: string): void {
    const log = this.#channels.get(path)?.log;
    if (log instanceof NumberedLog) this.horizon = Math.max(this.horizon, log.newest);
    this.#channels.delete(path);
  }

  /** Keeps an event for paths that have no client in this process; it may have clients in another one. */
  #keepForPattern(key: string, event: PatternEvent): void {
    const kept = this.#toPatterns.get(key) ?? [];
    this.#toPatterns.set(key, kept);
    kept.push(event);
    if (kept.length > this.#options.sse.maxReplay) this.horizon = Math.max(this.horizon, kept.shift()!.number);
  }

  #addPatternEvents({ log, route, params }: Channel): void {
    if (!(log instanceof NumberedLog)) return;
    for (const { params: wanted, event, number } of this.#toPatterns.get(route.pattern.key) ?? [])
      if (number < this.newest && matches(wanted, params)) log.append(event, number);
  }

  #makeStream(): Stream {
    const { maxReplay, replayBytes } = this.#options.sse;
    if (this.#sharedEpoch !== null)
      return { log: new NumberedLog(this.#sharedEpoch, maxReplay, replayBytes, this.horizon), clients: new Set() };
    // A path that was forgotten counts from 1 again, so its ids must differ from the old ones.
    const epoch = `${this.#epoch}.${(this.#logs++).toString(36)}`;
    return { log: new EventLog(epoch, maxReplay, replayBytes), clients: new Set() };
  }

  async #tell(
    { owner, pattern }: Route<Service>,
    what: Lifecycle["sse_lifecycle"],
    params: Readonly<Record<string, string>>,
  ): Promise<{ ok: boolean; status: number }> {
    const json: Lifecycle = { sse_lifecycle: what, params };
    const request = { method: "POST", path: LIFECYCLE_PATH, pattern: pattern.text, params, json } as const;
    return owner.bus.request(request, { timeout: this.#options.timeout });
  }
}

/** Returns an empty stream, after which an `EventSource` reconnects in a second. After a status other than 200 it never would. */
export function emptyStream(requestId: string): Response {
  const headers = { "content-type": "text/event-stream", "cache-control": "no-cache", "x-request-id": requestId };
  return new Response("retry: 1000\n\n", { headers });
}

/** Whether the parameters have the wanted values. */
function matches(wanted: Readonly<Record<string, string>>, params: Readonly<Record<string, string>>): boolean {
  return Object.entries(wanted).every(([name, value]) => params[name] === value);
}

/** Identifies a route; stays the same when its worker registers again. */
function keyOf({ owner, pattern }: Route<Service>): string {
  return `${owner.name} ${pattern.key}`;
}
