/** What the hub tells of itself: `/_slotbus/`, for people, for scripts, for Prometheus. */

import { timingSafeEqual } from "node:crypto";
import type { SlotBus } from "../bus/bus.ts";
import { MetricsText } from "../bus/metrics.ts";
import { Failure } from "./failure.ts";
import type { Meter } from "./meter.ts";
import type { ResolvedHubOptions } from "./options.ts";
import type { Registry } from "./registry.ts";
import { SseClient } from "./sse-client.ts";
import page from "./status.html" with { type: "text" };

const PREFIX = "/_slotbus/";
/** Between two snapshots to a page, in ms. */
const SNAPSHOT_MS = 1_000;
const LOOPBACK = /^(?:127\.\d+\.\d+\.\d+|::1|::ffff:127\.\d+\.\d+\.\d+)$/;
const LOOPBACK_HOST = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::\d+)?$/;

/** Everything the page shows. */
export interface Snapshot {
  readonly hub: string;
  readonly pid: number;
  readonly time: number;
  readonly uptime: number;
  readonly clients: number;
  readonly workers: readonly WorkerSnapshot[];
  readonly routes: readonly { method: string; pattern: string; worker: string; sse: boolean; there: boolean }[];
  readonly history: readonly { time: number; requests: number; errors: number; p50: number; p99: number }[];
}

export interface WorkerSnapshot {
  readonly name: string;
  readonly there: boolean;
  readonly queued: number;
  readonly statuses: Readonly<Record<string, number>>;
  readonly processes: readonly {
    readonly pid: number;
    readonly concurrency: number;
    readonly inFlight: number;
    /** States of its slots, those that are not free. */
    readonly slots: readonly { slot: number; state: string; ageMs: number }[];
  }[];
}

export class Status {
  readonly #registry: Registry;
  readonly #meter: Meter;
  readonly #options: ResolvedHubOptions;
  readonly #clients: () => number;
  readonly #watchers = new Set<SseClient>();
  readonly #began = Date.now();
  #timer: ReturnType<typeof setInterval> | null = null;

  constructor(registry: Registry, meter: Meter, options: ResolvedHubOptions, clients: () => number) {
    this.#registry = registry;
    this.#meter = meter;
    this.#options = options;
    this.#clients = clients;
  }

  static isAsked(path: string): boolean {
    return path.startsWith(PREFIX) || path === "/_slotbus";
  }

  /** `address` of the client; `null`: unknown. @throws {Failure} */
  answer(request: Request, path: string, address: string | null, id: string): Response {
    if (request.method !== "GET" && request.method !== "HEAD")
      throw new Failure(405, "METHOD", "these pages are only read.", { allow: "GET, HEAD" });
    if (path === "/_slotbus") return new Response(null, { status: 308, headers: { location: PREFIX } });
    this.#admit(request, address);
    switch (path.slice(PREFIX.length)) {
      case "":
        return this.#page();
      case "stream":
        return this.#stream(request, id);
      case "snapshot":
        return Response.json(this.snapshot());
      case "metrics":
        return new Response(this.#metrics(), {
          headers: { "content-type": MetricsText.contentType },
        });
      case "health":
        return this.#health();
      case "routes":
        return Response.json(this.snapshot().routes);
      default:
        throw new Failure(404, "NO_PAGE", `there is no ${path.slice(0, 200)}.`);
    }
  }

  close(): void {
    if (this.#timer) clearInterval(this.#timer);
    for (const watcher of this.#watchers) watcher.end();
  }

  snapshot(): Snapshot {
    return {
      hub: this.#options.name,
      pid: process.pid,
      time: Date.now(),
      uptime: Date.now() - this.#began,
      clients: this.#clients(),
      workers: this.#registry.services.map(({ name, bus, isThere }) => ({
        name,
        there: isThere,
        ...this.#worker(name, bus),
      })),
      routes: this.#registry.routes.map(({ method, pattern, owner, sse }) => ({
        method,
        pattern: pattern.text,
        worker: owner.name,
        sse,
        there: owner.isThere,
      })),
      history: this.#meter.history(),
    };
  }

  #worker(name: string, bus: SlotBus): Omit<WorkerSnapshot, "name" | "there"> {
    const { slots, queued } = bus.diagnostics();
    const statuses = Object.fromEntries(this.#meter.counts.get(name)?.statuses ?? []);
    const processes = bus.stats().workers.map(({ pid, concurrency, inFlight }) => {
      const own = slots.filter((slot) => slot.workerPid === pid && slot.state !== "FREE");
      return { pid, concurrency, inFlight, slots: own.map(({ slot, state, ageMs }) => ({ slot, state, ageMs })) };
    });
    return { queued: queued.length, statuses, processes };
  }

  /**
   * A process of this machine that came by a name of this machine, or whoever has the token. A page of another site that
   * points its own name here comes by that name.
   */
  #admit(request: Request, address: string | null): void {
    const { adminToken } = this.#options;
    const isLocal = address !== null && LOOPBACK.test(address) && LOOPBACK_HOST.test(request.headers.get("host") ?? "");
    const isProxied = request.headers.has("x-forwarded-for") || request.headers.has("forwarded");
    const isForeign = request.headers.get("sec-fetch-site") === "cross-site";
    if (isLocal && !isProxied && !isForeign) return;
    const given = /^Bearer (.+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
    if (adminToken !== null && given !== undefined && isSame(given, adminToken)) return;
    throw new Failure(403, "FORBIDDEN", "this is for this machine, or with a token.", { "www-authenticate": "Bearer" });
  }

  #page(): Response {
    const nonce = crypto.randomUUID();
    const policy = `default-src 'none'; connect-src 'self'; style-src 'nonce-${nonce}'; script-src 'nonce-${nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`;
    return new Response((page as unknown as string).replaceAll("{{nonce}}", nonce), {
      headers: {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "cache-control": "no-store",
      },
    });
  }

  #stream(request: Request, id: string): Response {
    const watcher: SseClient = new SseClient(this.#options.sse.clientBytes, () => {
      this.#watchers.delete(watcher);
      if (this.#watchers.size > 0 || !this.#timer) return;
      clearInterval(this.#timer);
      this.#timer = null;
    });
    this.#watchers.add(watcher);
    this.#timer ??= setInterval(() => this.#tell(this.#watchers), SNAPSHOT_MS);
    this.#tell([watcher]);
    return watcher.respond(request.signal, id);
  }

  #tell(watchers: Iterable<SseClient>): void {
    const text = `data: ${JSON.stringify(this.snapshot())}\n\n`;
    for (const watcher of watchers) watcher.send(text);
  }

  #health(): Response {
    const gone = this.#registry.services.filter(({ isThere }) => !isThere).map(({ name }) => name);
    return Response.json({ ok: gone.length === 0, gone }, { status: gone.length === 0 ? 200 : 503 });
  }

  #metrics(): string {
    const text = new MetricsText();
    const all = [...this.#meter.counts];
    text.metric(
      "slotbus_hub_requests_total",
      "counter",
      "Requests answered.",
      all.flatMap(([worker, { statuses }]) =>
        [...statuses].map(([status, count]) => [{ worker, status }, count] as const),
      ),
    );
    text.histogram(
      "slotbus_hub_request_duration_seconds",
      "From the request to the head of its answer.",
      all.map(([worker, counts]) => ({
        labels: { worker },
        buckets: counts.buckets(),
        count: counts.latencies.total,
        sum: counts.latencies.sumMs / 1000,
      })),
    );
    const { services } = this.#registry;
    const stats = services.map(({ name, bus }) => [{ worker: name }, bus.stats()] as const);
    text.metric(
      "slotbus_hub_processes",
      "gauge",
      "Worker processes attached.",
      stats.map(([labels, { workers }]) => [labels, workers.length]),
    );
    text.metric(
      "slotbus_hub_in_flight",
      "gauge",
      "Requests with a worker.",
      stats.map(([labels, { workers }]) => [labels, workers.reduce((sum, { inFlight }) => sum + inFlight, 0)]),
    );
    text.metric(
      "slotbus_hub_queued",
      "gauge",
      "Requests that wait for a worker.",
      services.map(({ name, bus }) => [{ worker: name }, bus.diagnostics().queued.length]),
    );
    text.metric("slotbus_hub_event_clients", "gauge", "Clients of event streams.", [[{}, this.#clients()]]);
    return text.toString();
  }
}

function isSame(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}
