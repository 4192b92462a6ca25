/** Keeps the registered workers and their routes. A registration takes effect as a whole or not at all. */

import { METHODS, type Method } from "../bus/codec.ts";
import { InvalidConfigError } from "../errors.ts";
import { closing, Failure } from "./failure.ts";
import { fromRequest } from "./limits.ts";
import { processOf, type Registrant, type RouteRequest } from "./names.ts";
import { busNameOf, type ResolvedHubOptions } from "./options.ts";
import { parsePattern } from "./pattern.ts";
import { routeLimits } from "./proxy.ts";
import { type Route, routeKey, RouteTable } from "./routes.ts";
import { type Audience, type Registration, Service } from "./service.ts";

type RequestedRoute = Omit<Route<Service>, "owner" | "counts">;

const ROUTES_MAX = 10_000;
/** Characters of a refused name that are reported. */
const NAME_SHOWN = 100;

export class Registry {
  readonly #options: ResolvedHubOptions;
  readonly #audience: Audience;
  /** Services by worker name. A promise, so that concurrent registrations of one name wait for the same bus. */
  readonly #services = new Map<string, Promise<Service>>();
  #live: Service[] = [];
  /** Current routes; replaced as a whole when they change. */
  table = new RouteTable<Service>([]);
  #sweep: ReturnType<typeof setTimeout> | null = null;
  /** Whether the hub drains or closes. */
  isClosed = false;
  /** Whether a worker of the previous hub has reconnected; then others may still follow. */
  someReturned = false;

  constructor(options: ResolvedHubOptions, audience: Audience) {
    this.#options = options;
    this.#audience = audience;
  }

  get services(): readonly Service[] {
    return this.#live;
  }

  /**
   * Registers a process and replaces the routes of its worker name.
   *
   * @throws (rejects) {Failure} 400 for an invalid registration, 409 for a route that another live name has.
   */
  async register(
    name: string,
    routes: readonly RouteRequest[],
    process: Registrant,
  ): Promise<Registration & { bus: string }> {
    try {
      return await this.#register(name, routes, process);
    } catch (error) {
      this.refused(name, process.pid, (error as Error).message);
      throw error;
    }
  }

  async #register(
    name: string,
    routes: readonly RouteRequest[],
    process: Registrant,
  ): Promise<Registration & { bus: string }> {
    const requested = this.check(name, routes); // before its bus is created
    const service = await this.#service(name);
    this.#refuseConflicts(name, requested); // again: another name may have registered meanwhile
    const registration = { ...process, id: crypto.randomUUID(), routes: requested.length };
    return this.#install(service, registration, requested, routes);
  }

  /** Returns the name of the bus of a worker name. @throws {InvalidConfigError} for an invalid name; {Failure} 503 when closed. */
  busOf(name: string): string {
    if (this.isClosed) throw closing();
    return busNameOf(this.#options.name, name);
  }

  /** Returns the routes. @throws {Failure} 400 for invalid routes, 409 for a route that another live name has. */
  check(name: string, routes: readonly RouteRequest[]): readonly RequestedRoute[] {
    const requested = checkRoutes(routes, this.#options);
    this.#refuseConflicts(name, requested);
    return requested;
  }

  /** Installs a registration that another process of a shared hub has checked. */
  async install(
    name: string,
    id: string,
    { pid, instance }: Registrant,
    routes: readonly RouteRequest[],
  ): Promise<Registration & { bus: string }> {
    const requested = checkRoutes(routes, this.#options);
    const registration = { id, pid, instance, routes: requested.length };
    return this.#install(await this.#service(name), registration, requested, routes);
  }

  #install(
    service: Service,
    registration: Registration,
    requested: readonly RequestedRoute[],
    routes: readonly RouteRequest[],
  ): Registration & { bus: string } {
    service.requests = routes;
    const before = new Map(service.routes.map((route) => [routeKey(route), route.counts]));
    const own = requested.map((route) => {
      const counts = before.get(routeKey(route)) ?? { requests: 0, errors: 0, ms: 0 };
      return { ...route, owner: service, counts };
    });
    service.register(registration, own);
    this.#rebuild();
    return { ...registration, bus: service.bus.name };
  }

  /** Reports that a registration was refused. */
  refused(name: string, pid: number | null, reason: string): void {
    this.#audience.tell("refused", { name: name.slice(0, NAME_SHOWN), pid }, reason);
  }

  /** Evicts the attachments of a worker process, by its key. */
  evict(name: string, process: string, reason: string): void {
    const bus = this.#live.find((service) => service.name === name)?.bus;
    for (const worker of bus?.workers ?? []) if (processOf(worker) === process) bus!.evict(worker.id, reason);
  }

  unregister(id: string): boolean {
    return this.#live.some((service) => service.unregister(id));
  }

  /** Stops accepting registrations and requests, and waits at most `timeout` ms for running requests. */
  drain(limit: { timeout: number }): Promise<void> {
    return this.#end((service) => service.bus.drain(limit));
  }

  close(limit: { timeout: number }): Promise<void> {
    return this.#end((service) => service.close(limit));
  }

  async #end(how: (service: Service) => Promise<void>): Promise<void> {
    this.isClosed = true;
    if (this.#sweep) clearTimeout(this.#sweep);
    const all = await Promise.allSettled(this.#services.values()); // includes services that are still being created
    await Promise.all(all.map((made) => made.status === "fulfilled" && how(made.value)));
  }

  async #service(name: string): Promise<Service> {
    if (this.isClosed) throw closing();
    const known = this.#services.get(name);
    if (known) return known;
    const making = Service.create(name, this.#options, { ...this.#audience, changed: () => this.#changed() });
    this.#services.set(name, making);
    try {
      const service = await making;
      if (this.isClosed) throw closing();
      this.#live.push(service);
      this.#changed();
      return service;
    } catch (error) {
      this.#services.delete(name);
      throw error;
    }
  }

  /** Routes of a name without processes are free for other names. */
  #refuseConflicts(name: string, requested: readonly RequestedRoute[]): void {
    const taken = new Map(this.table.routes.map((route) => [routeKey(route), route]));
    for (const route of requested) {
      const other = taken.get(routeKey(route));
      if (!other || other.owner.name === name || !other.owner.isThere) continue;
      const [own, taker] = [`${route.method} ${route.pattern.text}`, other.owner.name];
      const what = `${own} matches the same paths as ${other.pattern.text} of worker "${taker}".`;
      throw new Failure(409, "ROUTE_TAKEN", what);
    }
  }

  #rebuild(): void {
    const kept = new Map<string, Route<Service>>();
    // Live names come last, so that they win over names without processes.
    const services = this.#live.toSorted((a, b) => Number(a.isThere) - Number(b.isThere));
    for (const service of services) for (const route of service.routes) kept.set(routeKey(route), route);
    this.table = new RouteTable([...kept.values()]);
    this.#audience.changed();
  }

  #changed(): void {
    this.#audience.changed();
    const gone = this.#live.filter((service) => !service.isThere);
    if (this.isClosed || this.#sweep || gone.length === 0) return;
    const longest = Math.max(...gone.map((service) => service.goneFor));
    this.#sweep = setTimeout(() => this.#forgetGone(), Math.max(0, this.#options.goneFor - longest) + 1);
    this.#sweep.unref();
  }

  #forgetGone(): void {
    this.#sweep = null;
    const gone = this.#live.filter((service) => service.goneFor >= this.#options.goneFor && !service.isThere);
    this.#live = this.#live.filter((service) => !gone.includes(service));
    for (const service of gone) {
      this.#services.delete(service.name);
      void service.close({ timeout: 0 });
    }
    if (gone.length > 0) this.#rebuild();
    this.#changed();
  }
}

function checkRoutes(routes: readonly RouteRequest[], hub: ResolvedHubOptions): RequestedRoute[] {
  if (!Array.isArray(routes) || routes.length > ROUTES_MAX)
    throw new Failure(400, "BAD_REGISTRATION", `routes must be a list of at most ${ROUTES_MAX} routes.`);
  const seen = new Map<string, string>();
  return routes.map((route) => {
    const parsed = checkRoute(route, hub);
    const key = routeKey(parsed);
    const twin = seen.get(key);
    if (twin !== undefined)
      throw new Failure(409, "ROUTE_TWICE", `${parsed.pattern.text} matches the same paths as ${twin}.`);
    seen.set(key, parsed.pattern.text);
    return parsed;
  });
}

function checkRoute(route: RouteRequest, hub: ResolvedHubOptions): RequestedRoute {
  const { method, path, sse = false, ws = false } = route ?? {};
  if (!METHODS.includes(method as Method) || typeof sse !== "boolean" || typeof ws !== "boolean")
    throw badRoute(
      `Invalid route ${JSON.stringify(route)}: method must be one of ${METHODS.join(", ")}, and sse and ws true or false.`,
    );
  if (sse && method !== "GET") throw badRoute(`${path}: an event stream must use GET.`);
  if (ws && (sse || method !== "GET")) throw badRoute(`${path}: a WebSocket must use GET, and is not an event stream.`);
  try {
    return {
      method: method as Method,
      pattern: parsePattern(path),
      sse,
      ws,
      limits: routeLimits(hub, fromRequest(route)),
    };
  } catch (error) {
    throw error instanceof InvalidConfigError ? badRoute(error.message) : error;
  }
}

function badRoute(why: string): Failure {
  return new Failure(400, "BAD_ROUTE", why);
}
