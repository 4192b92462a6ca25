/** A worker of a hub: registers its routes, answers their requests, and does both again when the hub comes back. */

import { EventEmitter } from "node:events";
import { backoff } from "../backoff.ts";
import { METHODS, type Method } from "../bus/codec.ts";
import { toWebRequest } from "../bus/fetch.ts";
import type { Answerable } from "../bus/answer.ts";
import type { FetchHandler, Handler, WorkerRequest } from "../bus/request.ts";
import { SlotWorker } from "../slotbus.ts";
import { systemClock } from "../clock.ts";
import { HubError, InvalidConfigError, NoAnswerError, type SlotbusError } from "../errors.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { HandlerResponse, type HubAnswer, toAnswerable } from "./answer.ts";
import { HubClient } from "./client.ts";
import { HubRequest } from "./context.ts";
import { HubEmitter } from "./emitter.ts";
import { LIFECYCLE_PATH, type Lifecycle, PING_PATH } from "./names.ts";
import { busNameOf, checkHubName } from "./options.ts";
import { parsePattern } from "./pattern.ts";
import type { RouteRequest } from "./registry.ts";

/** Answers the requests of a route. It may return nothing only after `request.defer()`. */
export type HubHandler<State = unknown> = (request: HubRequest<State>) => HubAnswer | void | Promise<HubAnswer | void>;

/** A client came to, or went from, a route of server-sent events. */
export interface SseClient<State = unknown> {
  readonly state: State;
  readonly params: Readonly<Record<string, string>>;
}

/** What a worker is told of the clients of an event stream. */
export interface SseHandlers<State = unknown> {
  /** In one of the name's processes, before the client gets its first byte. `false` turns it away with 403, a throw with 500. */
  connect?(client: SseClient<State>): boolean | void | Promise<boolean | void>;
  /** Once, when it has gone; in any of the processes. Not for one that was turned away. */
  disconnect?(client: SseClient<State>): void | Promise<void>;
}

/** Which hub a worker registers with, under what name, and how it comes back. */
export interface HubWorkerOptions<State = undefined> {
  /** Name of the worker: several processes of one name share its requests. */
  name: string;
  /** Name of the hub. Default `"hub"`. */
  hub?: string;
  /** Handed to every handler. */
  state?: State;
  /** Requests handled at once. Default: as many as the hub gives. */
  concurrency?: number;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
  /** Between two attempts to reach the hub, in ms: doubles from `min` (1000) to `max` (30 000), with jitter. */
  backoff?: { min?: number; max?: number };
  /** Between two looks at whether the hub still knows this worker, in ms. Default 5000. */
  watchdog?: number;
}

/** Events of a hub's worker, with the arguments of their listeners. */
export interface HubWorkerEvents {
  /** Registered and attached, for the first time or again. */
  connected: [];
  /** The hub ended, or forgot this worker. */
  disconnected: [reason: Error];
  /** The hub could not be reached, or refused the registration; tried again after `waitMs`. Unheard: one line on stderr. */
  retry: [reason: Error, waitMs: number];
  /** A handler failed; its client got 500. Unheard: written to stderr. */
  handlerError: [error: unknown, request: { id: string; path: string }];
}

/**
 *     const worker = new HubWorker({ name: "users" });
 *     worker.get("/users/:id", ({ params }) => HandlerResponse.okJson({ id: params.id }));
 *     await worker.run();
 */
export class HubWorker<State = undefined> extends EventEmitter<HubWorkerEvents> {
  readonly name: string;
  readonly hub: string;
  readonly state: State;
  readonly #options: HubWorkerOptions<State>;
  readonly #client: HubClient;
  readonly #routes: RouteRequest[] = [];
  /** By method and pattern. */
  readonly #handlers = new Map<string, Handler>();
  /** By pattern. */
  readonly #sse = new Map<string, SseHandlers<State>>();
  #stop = Promise.withResolvers<void>();
  #running: Promise<void> | null = null;
  #stopped = false;
  #hasServed = false;
  /** Why it is kept from its hub, as it was said last. */
  #said = "";

  constructor(options: HubWorkerOptions<State>) {
    super();
    const { name, hub = "hub", directory } = options;
    busNameOf(checkHubName(hub), name);
    this.name = name;
    this.hub = hub;
    this.state = options.state as State;
    this.#options = options;
    this.#client = new HubClient(hub, resolveDirectory(directory), directory !== undefined);
  }

  /** Answers a route: "/users/:id", "/users/{id}", "/files/*path". Before {@link run}. */
  route(method: string, path: string, handler: HubHandler<State>): this {
    if (!METHODS.includes(method as Method)) throw new InvalidConfigError(`${JSON.stringify(method)} is not a method.`);
    return this.#add({ method, path }, (request) => {
      const answer = handler(new HubRequest(request, this.state));
      return answer instanceof Promise ? answer.then((value) => toAnswerable(value)) : toAnswerable(answer);
    });
  }

  get(path: string, handler: HubHandler<State>): this {
    return this.route("GET", path, handler);
  }

  post(path: string, handler: HubHandler<State>): this {
    return this.route("POST", path, handler);
  }

  put(path: string, handler: HubHandler<State>): this {
    return this.route("PUT", path, handler);
  }

  patch(path: string, handler: HubHandler<State>): this {
    return this.route("PATCH", path, handler);
  }

  delete(path: string, handler: HubHandler<State>): this {
    return this.route("DELETE", path, handler);
  }

  /** A route whose clients the hub keeps: events come from {@link emitter}. */
  sseRoute(path: string, handlers: SseHandlers<State> = {}): this {
    this.#sse.set(path, handlers);
    return this.#add({ method: "GET", path, sse: true }, () => HandlerResponse.error(404, "a stream").answer);
  }

  /** Everything at and below `path`, which is plain text, goes to an app with a WHATWG `fetch`; that sees its paths without it. */
  mount(path: string, app: FetchHandler): this {
    const prefix = path.replace(/\/$/, "");
    if (parsePattern(`${prefix}/*`).names.length > 0)
      throw new InvalidConfigError(`${JSON.stringify(path)} has a parameter: an app is mounted at plain text.`);
    const sent = prefix === "" ? 0 : new URL(`http://hub${prefix}`).pathname.length; // as clients spell it
    const handle: Handler = async (request) => app.fetch(toWebRequest(request, request.path.slice(sent) || "/"));
    for (const method of METHODS) this.#add({ method, path: `${prefix}/*` }, handle);
    return this;
  }

  /** Sends events to clients of the hub. */
  emitter(source = this.name): HubEmitter {
    return new HubEmitter(this.#client, source);
  }

  /** Serves until {@link stop}; then it resolves. It never gives up: what keeps it from its hub is told by `retry`. */
  run(): Promise<void> {
    this.#running ??= this.#run();
    return this.#running;
  }

  /** Finishes what runs, leaves the hub, ends {@link run}. Any number of times. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#stop.resolve();
    await this.#running;
  }

  #add(route: RouteRequest, handle: Handler): this {
    if (this.#running) throw new InvalidConfigError("routes are added before `run`.");
    parsePattern(route.path);
    const key = `${route.method} ${route.path}`;
    if (this.#handlers.has(key)) throw new InvalidConfigError(`${key} has a handler already.`);
    this.#routes.push(route);
    this.#handlers.set(key, handle);
    return this;
  }

  async #run(): Promise<void> {
    const { min = 1_000, max = 30_000 } = this.#options.backoff ?? {};
    for (let attempt = 0; !this.#stopped;) {
      try {
        await this.#serve(() => {
          attempt = 0;
          this.#said = "";
        });
      } catch (error) {
        if (this.#stopped) return;
        const wait = Math.round(backoff(attempt++, { initial: min, max }, systemClock.random));
        this.#tellRetry(error as Error, wait);
        await this.#pause(wait);
      }
    }
  }

  /** One life with one hub: resolves when that ends, rejects when it could not begin. */
  async #serve(begun: () => void): Promise<void> {
    const registered = await this.#client.call<{ worker_id: string; shm_name: string }>("/internal/register", {
      name: this.name,
      routes: this.#routes,
      pid: process.pid,
      again: this.#hasServed,
    });
    const { concurrency } = this.#options;
    const worker = await SlotWorker.open({
      name: registered.shm_name,
      directory: this.#options.directory,
      reconnect: false,
      ...(concurrency === undefined ? {} : { concurrency }),
    });
    worker.on("handlerError", (error, request) => this.#report(error, request));
    worker.serve((request) => this.#handle(request));
    begun();
    this.#hasServed = true;
    this.emit("connected");
    const reason = await this.#untilLost(worker, registered.worker_id);
    if (reason) this.emit("disconnected", reason);
    else await this.#client.call("/internal/unregister", { worker_id: registered.worker_id }).catch(() => {});
    await worker.close();
  }

  /** `null`: it was stopped. */
  async #untilLost(worker: SlotWorker, id: string): Promise<Error | null> {
    const lost = Promise.withResolvers<Error>();
    worker.once("disconnected", (reason: SlotbusError) => lost.resolve(reason));
    const timer = setInterval(
      () => void this.#isKnown(id).then((known) => known || lost.resolve(forgotten(this.hub))),
      this.#options.watchdog ?? 5_000,
    );
    timer.unref();
    try {
      return await Promise.race([lost.promise, this.#stop.promise.then(() => null)]);
    } finally {
      clearInterval(timer);
    }
  }

  /** A hub that does not answer now may be busy: only one that answers without this worker has lost it. */
  async #isKnown(id: string): Promise<boolean> {
    try {
      const { workers } = await this.#client.call<{ workers: { worker_id: string }[] }>("/health");
      return workers.some((worker) => worker.worker_id === id);
    } catch (error) {
      return error instanceof HubError;
    }
  }

  #handle(request: WorkerRequest): ReturnType<Handler> {
    const { pattern, method } = request;
    if (request.path === LIFECYCLE_PATH) return this.#handleLifecycle(request);
    if (request.path === PING_PATH) return HandlerResponse.ok().answer;
    const handle =
      this.#handlers.get(`${method} ${pattern}`) ??
      (method === "HEAD" ? this.#handlers.get(`GET ${pattern}`) : undefined);
    return handle ? handle(request) : HandlerResponse.error(404, `${method} ${pattern} has no handler here`).answer;
  }

  async #handleLifecycle(request: WorkerRequest): Promise<Answerable> {
    const handlers = this.#sse.get(request.pattern);
    const { sse_lifecycle, params } = request.json<Lifecycle>();
    const client = { state: this.state, params };
    if (sse_lifecycle === "disconnect") await handlers?.disconnect?.(client);
    else if ((await handlers?.connect?.(client)) === false) return HandlerResponse.error(403, "refused").answer;
    return HandlerResponse.ok().answer;
  }

  #report(error: unknown, request: { id: string; path: string }): void {
    if (this.listenerCount("handlerError") > 0) this.emit("handlerError", error, request);
    else {
      const what = error instanceof NoAnswerError ? error.message : error; // its stack leads to us only
      console.error(`worker "${this.name}": ${request.path} (${request.id}):`, what);
    }
  }

  #tellRetry(reason: Error, waitMs: number): void {
    if (this.emit("retry", reason, waitMs) || reason.message === this.#said) return;
    this.#said = reason.message;
    console.error(`worker "${this.name}" tries again until it can serve: ${reason.message}`);
  }

  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    await Promise.race([promise, this.#stop.promise]);
    clearTimeout(timer);
  }
}

function forgotten(hub: string): HubError {
  return new HubError(`hub "${hub}" no longer knows this worker.`, { retryable: true });
}
