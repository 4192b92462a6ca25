/** A worker of a hub: registers its routes, handles their requests, and registers again when the hub restarts. */

import { backoff } from "../backoff.ts";
import type { Answerable } from "../bus/answer.ts";
import type { Handler, WorkerRequest } from "../bus/request.ts";
import type { RemoteVia } from "../bus/via.ts";
import { systemClock } from "../clock.ts";
import { Closing } from "../closing.ts";
import { HubError, SlotbusError } from "../errors.ts";
import { isNoAnswer } from "../errors/plain.ts";
import { openAnew } from "../hot.ts";
import type { Resolved } from "../options.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { SlotWorker } from "../slot-worker.ts";
import { findRemote } from "../wires/choose.ts";
import { HubClient } from "./client.ts";
import { HubEmitter } from "./emitter.ts";
import { endConnections } from "./socket-app.ts";
import { CONNECTION, SOCKET_PATH } from "./socket-commands.ts";
import { HubSockets } from "./socket-sender.ts";
import { SocketServer } from "./socket-server.ts";
import { LIFECYCLE_PATH, type Lifecycle, PING_PATH } from "./names.ts";
import { busNameOf, type HubWorkerOptions, hubWorkerOptions } from "./options.ts";

/** Events of a hub worker, with the arguments of their listeners. */
export interface HubWorkerEvents {
  /** The worker is registered and attached again. The first time, `HubWorker.start` resolves instead. */
  connected: [];
  /** The hub ended, lost the registration, or evicted the worker (code `EVICTED`, with the reason in the message). */
  disconnected: [reason: Error];
  /** The hub did not respond or refused the worker; next attempt in `waitMs`. Without a listener: one line on stderr. */
  retry: [reason: Error, waitMs: number];
  /** A handler failed; its client got 500. Without a listener, the error is written to stderr. */
  handlerError: [error: unknown, request: { id: string; path: string }];
}

/** A registration with a hub, and its attachment. */
interface Attachment {
  readonly id: string;
  readonly worker: SlotWorker;
  readonly lost: Promise<Error>;
}

/**
 * A worker of a hub. Handles requests of its routes in this process.
 *
 *     await using worker = await HubWorker.start({
 *       name: "users",
 *       routes: { "/users/:id": ({ params }) => ({ json: { id: params.id } }) },
 *     });
 */
export class HubWorker extends Closing<HubWorkerEvents> {
  readonly name: string;
  readonly hub: string;
  /** Sends to the WebSocket connections of this worker name. */
  readonly sockets: HubSockets;
  readonly #socketServer: SocketServer;
  readonly #options: Resolved<typeof hubWorkerOptions.rows>;
  readonly #client: HubClient;
  readonly #stop = Promise.withResolvers<null>();
  #attachment: Attachment | null = null;
  #running: Promise<void> = Promise.resolve();
  #isStopped = false;
  #hasServed = false;
  /** Last reason that was written to stderr, so that it is not repeated. */
  #said = "";

  /**
   * Resolves when the worker is registered with its hub and attached. Waits up to `timeout` ms for the hub, and writes the reason
   * to standard error. Once started, the worker reconnects by itself when the hub restarts.
   *
   * @throws (rejects) {InvalidConfigError}; {@link HubError} when the hub refuses the worker, for example
   * because another worker has one of its routes, or does not respond in time; `PERMISSION_DENIED`, {VersionMismatchError}.
   */
  static async start<Pattern extends string>(options: HubWorkerOptions<Pattern>): Promise<HubWorker> {
    const resolved = hubWorkerOptions.resolve(options as HubWorkerOptions);
    const found = resolved.via ? null : findRemote();
    const worker = new HubWorker(found ? { ...resolved, via: await found } : resolved); // reads the environment now
    const { directory, hub, name, timeout } = worker.#options;
    const key = `hub worker ${resolveDirectory(directory ?? undefined)}/${hub}/${name}`;
    const attachment = await openAnew(key, worker.#reach(performance.now() + timeout), worker);
    worker.#running = worker.#run(attachment);
    return worker;
  }

  private constructor(options: Resolved<typeof hubWorkerOptions.rows>) {
    super();
    const { name, hub, directory, via } = options;
    busNameOf(hub, name);
    this.name = name;
    this.hub = hub;
    this.#options = options;
    this.#client = new HubClient(hub, directory ?? resolveDirectory(undefined), directory !== null, via);
    this.sockets = new HubSockets(this.#client, name);
    this.#socketServer = new SocketServer(this.sockets, (error, request) => this.#report(error, request));
  }

  /** Whether the worker is registered with its hub and attached. */
  get connected(): boolean {
    return this.#attachment?.worker.connected ?? false;
  }

  /** Returns an emitter that sends events to clients of the hub. `source` is the sender named in events of `emit`. */
  emitter(source = this.name): HubEmitter {
    return new HubEmitter(this.#client, source);
  }

  /** Accepts no new requests and waits for running ones. The hub drops the registration when the worker detaches. */
  protected async finish(timeout: number): Promise<void> {
    this.#isStopped = true;
    this.#stop.resolve(null);
    await this.#attachment?.worker.drain({ timeout });
  }

  protected async end(): Promise<void> {
    await this.#attachment?.worker.close({ timeout: 0 });
    await this.#running;
    await this.#client.close();
  }

  /** Serves, and reconnects whenever the connection to the hub is lost. */
  async #run(first: Attachment | null): Promise<void> {
    for (let attachment = first; attachment !== null;) {
      const reason = await this.#untilLost(attachment);
      if (reason === null) return;
      queueMicrotask(() => this.emit("disconnected", reason));
      await attachment.worker.close();
      for (const handlers of this.#options.routes.sockets.values()) endConnections(handlers);
      attachment = await this.#reach(null);
      if (attachment) queueMicrotask(() => this.emit("connected"));
    }
  }

  /** Tries to connect until it succeeds. With a `deadline`, permanent errors reject. Returns `null` if the worker was closed. */
  async #reach(deadline: number | null): Promise<Attachment | null> {
    for (let attempt = 0; !this.#isStopped;) {
      try {
        return await this.#connect();
      } catch (error) {
        if (this.#isStopped) return null;
        const left = deadline === null ? Infinity : deadline - performance.now();
        const isPermanent = error instanceof SlotbusError && !error.retryable;
        if (deadline !== null && (isPermanent || left <= 0)) throw error;
        const wait = Math.round(Math.min(left, backoff(attempt++, this.#options.reconnect, systemClock.random)));
        this.#tellRetry(error as Error, wait);
        await this.#pause(wait);
      }
    }
    return null;
  }

  /** Registers and attaches. Returns `null` if the worker was closed meanwhile. */
  async #connect(): Promise<Attachment | null> {
    const { concurrency, directory, routes, via } = this.#options;
    // Of this attachment: process ids of two machines can be the same.
    const instance = via ? crypto.randomUUID().replaceAll("-", "") : null;
    const registered = await this.#client.call<{ worker_id: string; shm_name: string }>("/internal/register", {
      name: this.name,
      routes: routes.list,
      pid: process.pid,
      instance,
      again: this.#hasServed,
    });
    const worker = await SlotWorker.open({
      name: registered.shm_name,
      ...(directory === null ? {} : { directory }),
      ...(via && { via: { ...via, instance } as RemoteVia }),
      reconnect: false,
      concurrency,
    });
    if (this.#isStopped) {
      await worker.close({ timeout: 0 });
      return null;
    }
    const { promise: lost, resolve } = Promise.withResolvers<Error>();
    // Of a shared hub, other processes may still be connected.
    worker.on("disconnected", (reason) => worker.connected || resolve(reason));
    worker.on("handlerError", (error, request) => this.#report(error, request));
    worker.serve((request) => this.#handle(request));
    this.#hasServed = true;
    this.#said = "";
    this.#attachment = { id: registered.worker_id, worker, lost };
    return this.#attachment;
  }

  /** Resolves to the reason when the connection is lost, or to `null` when the worker is closed. */
  async #untilLost({ id, lost }: Attachment): Promise<Error | null> {
    const { promise: forgotten, resolve } = Promise.withResolvers<Error>();
    const look = async (): Promise<void> => {
      if (await this.#isKnown(id)) return;
      resolve(new HubError(`Hub "${this.hub}" no longer knows this worker.`, { retryable: true }));
    };
    const timer = setInterval(() => void look(), this.#options.watchdog);
    timer.unref();
    try {
      return await Promise.race([lost, forgotten, this.#stop.promise]);
    } finally {
      clearInterval(timer);
    }
  }

  /** Whether the hub has this registration. A hub that does not respond may be busy, so that counts as yes. */
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
    const sockets = this.#options.routes.sockets.get(pattern);
    if (sockets && path === SOCKET_PATH) return this.#socketServer.handle(request, sockets);
    if (sockets && request.headers.has(CONNECTION)) return this.#socketServer.open(request, sockets);
    const methods = this.#options.routes.handlers.get(pattern);
    const handle = methods?.[method] ?? (method === "HEAD" ? methods?.GET : undefined);
    if (handle) return handle(request);
    return { status: 404, json: { error: `No handler for ${method} ${pattern}.` } };
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
      const what = isNoAnswer(error) ? error.message : error; // its stack has only frames of slotbus
      console.error(`worker "${this.name}": ${request.path} (${request.id}):`, what);
    }
  }

  #tellRetry(reason: Error, waitMs: number): void {
    if (this.emit("retry", reason, waitMs) || reason.message === this.#said) return;
    this.#said = reason.message;
    console.error(`worker "${this.name}" cannot connect to its hub and keeps trying: ${reason.message}`);
  }

  async #pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    await Promise.race([promise, this.#stop.promise]);
    clearTimeout(timer);
  }
}
