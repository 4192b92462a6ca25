/** A worker of a hub: registers its routes, answers their requests, and does both again when the hub comes back. */

import { backoff } from "../backoff.ts";
import type { Answerable } from "../bus/answer.ts";
import type { Handler, WorkerRequest } from "../bus/request.ts";
import { systemClock } from "../clock.ts";
import { Closing } from "../closing.ts";
import { HubError, SlotbusError } from "../errors.ts";
import { isNoAnswer } from "../errors/plain.ts";
import { openAnew } from "../hot.ts";
import type { Resolved } from "../options.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { SlotWorker } from "../slotbus.ts";
import { HubClient } from "./client.ts";
import { HubEmitter } from "./emitter.ts";
import { LIFECYCLE_PATH, type Lifecycle, PING_PATH } from "./names.ts";
import { busNameOf, type HubWorkerOptions, hubWorkerOptions } from "./options.ts";

/** Events of a hub's worker, with the arguments of their listeners. */
export interface HubWorkerEvents {
  /** Registered and attached again. `HubWorker.start` resolves when it is for the first time. */
  connected: [];
  /** The hub ended, forgot this worker, or evicted it: then the error has the code `EVICTED`, and says why. */
  disconnected: [reason: Error];
  /** The hub could not be reached, or refused the registration; tried again after `waitMs`. Unheard: one line on stderr. */
  retry: [reason: Error, waitMs: number];
  /** A handler failed; its client got 500. Unheard: written to stderr. */
  handlerError: [error: unknown, request: { id: string; path: string }];
}

/** A registration with a hub, and the attachment that came of it. */
interface Attachment {
  readonly id: string;
  readonly worker: SlotWorker;
  readonly lost: Promise<Error>;
}

/**
 * A worker of a hub.
 *
 *     await using worker = await HubWorker.start({
 *       name: "users",
 *       routes: { "/users/:id": ({ params }) => ({ json: { id: params.id } }) },
 *     });
 */
export class HubWorker extends Closing<HubWorkerEvents> {
  readonly name: string;
  readonly hub: string;
  readonly #options: Resolved<typeof hubWorkerOptions.rows>;
  readonly #client: HubClient;
  readonly #stop = Promise.withResolvers<null>();
  #attachment: Attachment | null = null;
  #running: Promise<void> = Promise.resolve();
  #isStopped = false;
  #hasServed = false;
  /** Why it is kept from its hub, as it was said last. */
  #said = "";

  /**
   * Resolves when the worker is registered with its hub and attached. Waits for the hub up to `timeout` ms, and says on standard
   * error why it waits. Once started it comes back by itself when the hub does.
   *
   * @throws (rejects) {InvalidConfigError}; {@link HubError} when the hub refuses the worker, for example
   * because another one has a route, or does not answer in time; `PERMISSION_DENIED`, {VersionMismatchError}.
   */
  static async start<Pattern extends string>(options: HubWorkerOptions<Pattern>): Promise<HubWorker> {
    const worker = new HubWorker(hubWorkerOptions.resolve(options as HubWorkerOptions));
    const { directory, hub, name, timeout } = worker.#options;
    const key = `hub worker ${resolveDirectory(directory ?? undefined)}/${hub}/${name}`;
    const attachment = await openAnew(key, worker.#reach(performance.now() + timeout), worker);
    worker.#running = worker.#run(attachment);
    return worker;
  }

  private constructor(options: Resolved<typeof hubWorkerOptions.rows>) {
    super();
    const { name, hub, directory } = options;
    busNameOf(hub, name);
    this.name = name;
    this.hub = hub;
    this.#options = options;
    this.#client = new HubClient(hub, directory ?? resolveDirectory(undefined), directory !== null);
  }

  /** Whether the worker is registered with its hub and attached. */
  get connected(): boolean {
    return this.#attachment?.worker.connected ?? false;
  }

  /** Returns what sends events to clients of the hub. `source` is named in each event. */
  emitter(source = this.name): HubEmitter {
    return new HubEmitter(this.#client, source);
  }

  /** Takes nothing new, and waits until what runs is answered. The hub forgets the worker when it detaches, at the end. */
  protected async finish(timeout: number): Promise<void> {
    this.#isStopped = true;
    this.#stop.resolve(null);
    await this.#attachment?.worker.drain({ timeout });
  }

  protected async end(): Promise<void> {
    await this.#attachment?.worker.close({ timeout: 0 });
    await this.#running;
  }

  /** Serves one life with a hub after the other. */
  async #run(first: Attachment | null): Promise<void> {
    for (let attachment = first; attachment !== null;) {
      const reason = await this.#untilLost(attachment);
      if (reason === null) return;
      queueMicrotask(() => this.emit("disconnected", reason));
      await attachment.worker.close();
      attachment = await this.#reach(null);
      if (attachment) queueMicrotask(() => this.emit("connected"));
    }
  }

  /** Connects, as often as it takes. `deadline`: of the first time, when an error that lasts rejects. `null`: it was closed. */
  async #reach(deadline: number | null): Promise<Attachment | null> {
    for (let attempt = 0; !this.#isStopped;) {
      try {
        return await this.#connect();
      } catch (error) {
        if (this.#isStopped) return null;
        const left = deadline === null ? Infinity : deadline - performance.now();
        const lasts = error instanceof SlotbusError && !error.retryable;
        if (deadline !== null && (lasts || left <= 0)) throw error;
        const wait = Math.round(Math.min(left, backoff(attempt++, this.#options.reconnect, systemClock.random)));
        this.#tellRetry(error as Error, wait);
        await this.#pause(wait);
      }
    }
    return null;
  }

  /** `null`: it was closed meanwhile. */
  async #connect(): Promise<Attachment | null> {
    const { concurrency, directory, routes } = this.#options;
    const registered = await this.#client.call<{ worker_id: string; shm_name: string }>("/internal/register", {
      name: this.name,
      routes: routes.list,
      pid: process.pid,
      again: this.#hasServed,
    });
    const worker = await SlotWorker.open({
      name: registered.shm_name,
      ...(directory === null ? {} : { directory }),
      reconnect: false,
      concurrency,
    });
    if (this.#isStopped) {
      await worker.close({ timeout: 0 });
      return null;
    }
    const { promise: lost, resolve } = Promise.withResolvers<Error>();
    worker.once("disconnected", resolve);
    worker.on("handlerError", (error, request) => this.#report(error, request));
    worker.serve((request) => this.#handle(request));
    this.#hasServed = true;
    this.#said = "";
    this.#attachment = { id: registered.worker_id, worker, lost };
    return this.#attachment;
  }

  /** `null`: the worker was closed. */
  async #untilLost({ id, lost }: Attachment): Promise<Error | null> {
    const { promise: forgotten, resolve } = Promise.withResolvers<Error>();
    const look = async (): Promise<void> => {
      if (await this.#isKnown(id)) return;
      resolve(new HubError(`hub "${this.hub}" no longer knows this worker.`, { retryable: true }));
    };
    const timer = setInterval(() => void look(), this.#options.watchdog);
    timer.unref();
    try {
      return await Promise.race([lost, forgotten, this.#stop.promise]);
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
    const { pattern, method, path } = request;
    if (path === LIFECYCLE_PATH) return this.#handleLifecycle(request);
    if (path === PING_PATH) return null;
    const methods = this.#options.routes.handlers.get(pattern);
    const handle = methods?.[method] ?? (method === "HEAD" ? methods?.GET : undefined);
    if (handle) return handle(request);
    return { status: 404, json: { error: `${method} ${pattern} has no handler here` } };
  }

  async #handleLifecycle(request: WorkerRequest): Promise<Answerable> {
    const handlers = this.#options.routes.streams.get(request.pattern);
    const { sse_lifecycle, params } = request.json<Lifecycle>();
    if (sse_lifecycle === "disconnect") await handlers?.disconnect?.({ params });
    else if ((await handlers?.connect?.({ params })) === false) return { status: 403 };
    return null;
  }

  #report(error: unknown, request: { id: string; path: string }): void {
    if (this.listenerCount("handlerError") > 0) this.emit("handlerError", error, request);
    else {
      const what = isNoAnswer(error) ? error.message : error; // its stack leads to us only
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
