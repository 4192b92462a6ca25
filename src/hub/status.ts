/** The status pages below `/_slotbus/`: HTML, JSON, and metrics for Prometheus. */

import type { SlotBus } from "../slotbus.ts";
import { Exposition } from "../bus/exposition.ts";
import { isSameToken } from "../check.ts";
import { Failure } from "./failure.ts";
import { cumulative, type Meter } from "./meter.ts";
import type { ResolvedHubOptions } from "./options.ts";
import type { Registry } from "./registry.ts";
import { SseClient } from "./sse-client.ts";
import { type Part, wholeOf } from "./whole.ts";
import page from "./status.html" with { type: "text" };

const PREFIX = "/_slotbus/";
/** Interval at which a page gets a new picture of the hub, in ms. */
const PICTURE_MS = 500;
/** Buffer for one page, in bytes. Larger than the largest message. */
const WATCHER_BYTES = 8 << 20;
const LOOPBACK = /^(?:127\.\d+\.\d+\.\d+|::1|::ffff:127\.\d+\.\d+\.\d+)$/;
const LOOPBACK_HOST = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::\d+)?$/i;
/** Headers that show that a proxy forwarded the request. */
const PROXY_HEADER = /^(?:x-forwarded-.*|forwarded|via|x-real-ip)$/;
/** Keeps other sites from embedding or caching these pages. */
const SAFE_HEADERS = {
  "cache-control": "no-store",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};

/** What the pages show of the hub besides its workers. */
export interface HubState {
  /** Number of clients of event streams. */
  clients(): number;
  /** WebSockets: how many are open, their messages, and those that were lost. */
  sockets(): { readonly size: number; readonly messages: number; readonly losses: number };
  isDraining(): boolean;
  /** Figures of the other processes of a shared hub. */
  peers(): Promise<Part[]>;
}

/** State of the hub at one moment. */
export type Picture = ReturnType<Status["picture"]>;
export type RoutePicture = ReturnType<Status["routes"]>[number];

export class Status {
  readonly #registry: Registry;
  readonly #meter: Meter;
  readonly #options: ResolvedHubOptions;
  readonly #hub: HubState;
  readonly #watchers = new Set<SseClient>();
  readonly #began = Date.now();
  #timer: ReturnType<typeof setInterval> | null = null;
  #closed = false;
  /** What has been sent to all watchers: the routes, and the time of the newest second. */
  #told: { table: unknown; there: string; until: number } = { table: null, there: "", until: 0 };

  constructor(registry: Registry, meter: Meter, options: ResolvedHubOptions, hub: HubState) {
    this.#registry = registry;
    this.#meter = meter;
    this.#options = options;
    this.#hub = hub;
  }

  static isStatusPath(path: string): boolean {
    return path.startsWith(PREFIX) || path === "/_slotbus";
  }

  /** `address`: address of the client; `null` if unknown. @throws {Failure} */
  async answer(request: Request, path: string, address: string | null, id: string): Promise<Response> {
    if (request.method !== "GET" && request.method !== "HEAD")
      throw new Failure(405, "METHOD", "Status pages are read-only; use GET or HEAD.", { allow: "GET, HEAD" });
    if (path === "/_slotbus") return new Response(null, { status: 308, headers: { location: PREFIX } });
    this.#admit(request, address);
    const response = await this.#read(request, path.slice(PREFIX.length), id);
    for (const [name, value] of Object.entries(SAFE_HEADERS)) response.headers.set(name, value);
    return response;
  }

  async #read(request: Request, page: string, id: string): Promise<Response> {
    switch (page) {
      case "":
        return this.#page();
      case "stream":
        return this.#stream(request, id);
      case "snapshot":
        return Response.json(await this.#snapshot());
      case "metrics":
        return new Response(this.#metrics(await this.#whole()), {
          headers: { "content-type": Exposition.contentType },
        });
      case "health":
        return this.#health();
      case "routes":
        return Response.json(this.routes());
      default:
        throw new Failure(404, "NO_PAGE", `There is no page ${PREFIX}${page.slice(0, 200)}.`);
    }
  }

  close(): void {
    this.#closed = true;
    if (this.#timer) clearInterval(this.#timer);
    for (const watcher of this.#watchers) watcher.end();
  }

  /** Figures of this process. */
  part(): Part {
    const { user, system } = process.cpuUsage();
    const history = this.#meter.history(); // first, because it completes the last second
    const counts = [...this.#meter.counts].map(([name, { statuses, inBucket, total, sumMs, course }]) => [
      name,
      { statuses: Object.fromEntries(statuses), inBucket: [...inBucket], total, sumMs, course: [...course] },
    ]);
    const used = this.#registry.table.routes.filter((route) => route.counts.requests > 0);
    const workers = this.#registry.services.map(({ name, bus }) => {
      const { workers: attached, queued } = bus.stats();
      const inFlight: Record<string, number> = {};
      for (const { pid, inFlight: own } of attached) inFlight[pid] = (inFlight[pid] ?? 0) + own;
      return [name, { queued, inFlight }];
    });
    const { size, messages, losses } = this.#hub.sockets();
    return {
      pid: process.pid,
      clients: this.#hub.clients(),
      sockets: { size, messages, losses },
      counts: Object.fromEntries(counts),
      routes: Object.fromEntries(used.map((route) => [`${route.method} ${route.pattern.text}`, { ...route.counts }])),
      workers: Object.fromEntries(workers),
      history,
      rss: process.memoryUsage.rss(),
      cpu: user + system,
    };
  }

  /** Figures of all processes, and the number of processes. */
  async #whole(): Promise<Part & { processes: number }> {
    const peers = await this.#hub.peers();
    return { ...wholeOf([this.part(), ...peers]), processes: peers.length + 1 };
  }

  async #snapshot() {
    const whole = await this.#whole();
    return { ...this.picture(whole), routes: this.routes(), history: whole.history };
  }

  picture(whole: Part & { processes: number }) {
    return {
      hub: this.#options.name,
      pid: process.pid,
      /** Number of hub processes. */
      hubs: whole.processes,
      /** In ms since 1970. */
      time: Date.now(),
      /** Time since the hub started, in ms. */
      uptime: Date.now() - this.#began,
      /** Number of clients of event streams. */
      clients: whole.clients,
      /** WebSockets that are open, their messages since the hub started, and those that were lost. */
      sockets: whole.sockets,
      /** Responses of the hub itself, by status. */
      statuses: whole.counts[""]?.statuses ?? {},
      /** Answers of the routes that have any, by method and pattern. */
      used: whole.routes,
      workers: this.#registry.services
        .map(({ name, bus, isThere }) => ({ name, there: isThere, ...this.#worker(name, bus, whole) }))
        .sort((a, b) => (a.name < b.name ? -1 : 1)),
    };
  }

  #worker(name: string, bus: SlotBus, whole: Part) {
    const slots: ReturnType<SlotBus["diagnostics"]>["slots"][] = [];
    for (const slot of bus.diagnostics().slots) {
      if (slot.slot === 0) slots.push([]); // a new attachment starts; the pid cannot tell them apart
      slots.at(-1)!.push(slot);
    }
    const { workers } = bus.stats();
    const all = whole.workers[name];
    const processes = workers.map(({ pid, concurrency, inFlight }, at) => {
      const used = slots[at]!.filter(({ state }) => state !== "FREE");
      const isAlone = workers.filter((one) => one.pid === pid).length === 1;
      return {
        pid,
        concurrency,
        inFlight: isAlone ? (all?.inFlight[pid] ?? inFlight) : inFlight,
        slots: used.map(({ slot, state, ageMs }) => ({ slot, state, ageMs })), // of this hub process
      };
    });
    const { statuses = {}, course = [] } = whole.counts[name] ?? {};
    // `statuses` counts since the hub started; `course`: requests in each of the last complete seconds
    return { queued: all?.queued ?? 0, statuses, course, processes };
  }

  routes() {
    return this.#registry.table.routes
      .map(({ method, pattern, owner, sse }) => ({
        method,
        pattern: pattern.text,
        worker: owner.name,
        sse,
        there: owner.isThere,
      }))
      .sort((a, b) => (`${a.pattern} ${a.method}` < `${b.pattern} ${b.method}` ? -1 : 1));
  }

  /**
   * With `adminToken`, allows clients that send the token, as a bearer token or as a password. Without it, allows clients on
   * this machine; but nobody with `trustProxy`, since a proxy on this machine looks like a local client. Pages of other sites are
   * rejected: with DNS rebinding the host is their own name, and otherwise their browser sends `sec-fetch-site`.
   */
  #admit({ headers }: Request, address: string | null): void {
    const { adminToken, trustProxy } = this.#options;
    if (adminToken !== null) {
      if (isSameToken(tokenOf(headers), adminToken)) return;
      throw new Failure(401, "UNAUTHORIZED", "This page needs the hub's adminToken.", {
        "www-authenticate": 'Basic realm="slotbus hub", charset="UTF-8"',
      });
    }
    if (trustProxy) throw new Failure(403, "FORBIDDEN", "This page needs an adminToken when trustProxy is set.");
    const isLocal = address !== null && LOOPBACK.test(address) && LOOPBACK_HOST.test(headers.get("host") ?? "");
    if (isLocal && !headers.keys().some((name) => PROXY_HEADER.test(name)) && !isForeign(headers)) return;
    throw new Failure(403, "FORBIDDEN", "Without an adminToken, this page is only for clients on the hub's machine.");
  }

  #page(): Response {
    const nonce = crypto.randomUUID();
    const policy = [
      "default-src 'none'",
      "connect-src 'self'",
      `style-src 'nonce-${nonce}'`,
      `script-src 'nonce-${nonce}'`,
      "img-src data:",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
      "require-trusted-types-for 'script'",
      "trusted-types 'none'",
    ].join("; ");
    return new Response((page as unknown as string).replaceAll("{{nonce}}", nonce), {
      headers: { "content-type": "text/html; charset=utf-8", "content-security-policy": policy },
    });
  }

  /** Sends `routes` and `samples` in full first and then their changes, and `picture` at each interval. */
  async #stream(request: Request, id: string): Promise<Response> {
    if (request.method === "HEAD") throw new Failure(405, "METHOD", "The stream needs GET.", { allow: "GET" });
    const watcher: SseClient = new SseClient(WATCHER_BYTES, () => {
      this.#watchers.delete(watcher);
      if (this.#watchers.size > 0 || !this.#timer) return;
      clearInterval(this.#timer);
      this.#timer = null;
    });
    this.#watchers.add(watcher);
    if (this.#closed) watcher.end();
    else this.#timer ??= setInterval(() => void this.#tell(), PICTURE_MS);
    const routes = message("routes", this.routes());
    const whole = await this.#whole();
    const samples = message("samples", whole.history);
    watcher.send(`retry: 1000\n\n${routes}${samples}${message("picture", this.picture(whole))}`);
    return watcher.respond(request.signal, id);
  }

  async #tell(): Promise<void> {
    const whole = await this.#whole();
    const samples = whole.history.filter(({ time }) => time > this.#told.until);
    const now = {
      table: this.#registry.table,
      there: this.#registry.services.map(({ isThere }) => isThere).join(),
      until: samples.at(-1)?.time ?? this.#told.until,
    };
    const isNew = now.table !== this.#told.table || now.there !== this.#told.there;
    this.#told = now;
    const routes = isNew ? message("routes", this.routes()) : "";
    const seconds = samples.length > 0 ? message("samples", samples) : "";
    const text = routes + seconds + message("picture", this.picture(whole));
    for (const watcher of this.#watchers) watcher.send(text);
  }

  #health(): Response {
    const gone = this.#registry.services.filter(({ isThere }) => !isThere).map(({ name }) => name);
    const draining = this.#hub.isDraining();
    const ok = gone.length === 0 && !draining;
    return Response.json({ ok, gone, draining }, { status: ok ? 200 : 503 });
  }

  #metrics(whole: Part & { processes: number }): string {
    const text = new Exposition();
    const all = Object.entries(whole.counts);
    text.family(
      "slotbus_hub_requests_total",
      "counter",
      "Requests answered. An empty worker label: answered by the hub itself.",
    );
    for (const [worker, { statuses }] of all)
      for (const [status, count] of Object.entries(statuses)) text.sample({ worker, status }, count);
    text.family(
      "slotbus_hub_request_duration_seconds",
      "histogram",
      "Time from the request to the head of its response.",
    );
    for (const [worker, counts] of all) {
      text.histogram(
        { worker },
        { buckets: cumulative(counts.inBucket), count: counts.total, sum: counts.sumMs / 1_000 },
      );
    }
    this.#workerMetrics(text, whole);
    const gauge = (name: string, help: string, value: number) => text.family(name, "gauge", help).sample({}, value);
    gauge("slotbus_hub_routes", "Routes registered.", this.#registry.table.routes.length);
    gauge("slotbus_hub_event_clients", "Clients of event streams.", whole.clients);
    gauge("slotbus_hub_sockets", "WebSockets that are open.", whole.sockets.size);
    const counter = (name: string, help: string, value: number) => text.family(name, "counter", help).sample({}, value);
    counter("slotbus_hub_socket_messages_total", "Messages of WebSocket clients.", whole.sockets.messages);
    counter("slotbus_hub_socket_losses_total", "Messages that were lost with a worker process.", whole.sockets.losses);
    gauge("process_start_time_seconds", "Start time of the hub, in seconds since 1970.", this.#began / 1_000);
    gauge("process_resident_memory_bytes", "Resident memory of the hub.", whole.rss);
    text.family("process_cpu_seconds_total", "counter", "Processor time of the hub.").sample({}, whole.cpu / 1e6);
    gauge("slotbus_hub_hub_processes", "Processes of the hub.", whole.processes);
    return text.toString();
  }

  #workerMetrics(text: Exposition, whole: Part): void {
    const services = this.#registry.services.map(({ name, isThere, bus }) => ({ name, isThere, stats: bus.stats() }));
    const gauge = (name: string, help: string, read: (service: (typeof services)[number]) => number): void => {
      text.family(name, "gauge", help);
      for (const service of services) text.sample({ worker: service.name }, read(service));
    };
    gauge(
      "slotbus_hub_worker_there",
      "1 while a process of this worker name is attached or about to attach.",
      ({ isThere }) => Number(isThere),
    );
    gauge("slotbus_hub_processes", "Worker processes attached.", ({ stats }) => stats.workers.length);
    gauge("slotbus_hub_slots", "Requests that the attached processes handle at once.", ({ stats }) =>
      stats.workers.reduce((sum, { concurrency }) => sum + concurrency, 0),
    );
    gauge("slotbus_hub_in_flight", "Requests being handled by a worker.", ({ name }) =>
      Object.values(whole.workers[name]?.inFlight ?? {}).reduce((sum, count) => sum + count, 0),
    );
    gauge("slotbus_hub_queued", "Requests waiting for a worker.", ({ name }) => whole.workers[name]?.queued ?? 0);
  }
}

function message(event: string, data: unknown): string {
  return `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** Whether a page of another origin sent the request. Following a link is allowed: the other page cannot read the response. */
function isForeign(headers: Headers): boolean {
  const site = headers.get("sec-fetch-site") ?? "none";
  return site !== "none" && site !== "same-origin" && headers.get("sec-fetch-dest") !== "document";
}

/** Token of the request; `""` if it has none. */
function tokenOf(headers: Headers): string {
  const [, scheme = "", given = ""] = /^(Bearer|Basic) +(\S+)$/i.exec(headers.get("authorization") ?? "") ?? [];
  if (scheme.toLowerCase() !== "basic") return given;
  return Buffer.from(given, "base64")
    .toString()
    .replace(/^[^:]*:/, "");
}
