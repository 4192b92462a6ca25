/** Who hears what workers say and what becomes of them: handlers, subscriptions, clients of servers, callbacks. */

import type { EventEmitter } from "node:events";
import { shown } from "../check.ts";
import { InvalidConfigError, ProtocolError, RpcError } from "../errors.ts";
import type { SupervisorEvents, WorkerState, WorkerStatus } from "../supervisor/events.ts";
import type { StdioBusOptions, WorkerEvent } from "./config.ts";
import { RPC, type RpcMessage } from "./rpc.ts";
import type { StdioServer } from "./server.ts";
import { type SubscribeOptions, Subscription } from "./subscription.ts";
import type { ConnectionHost, LinkIdentity } from "./worker-connection.ts";

/** Something a worker tells without having been asked. */
export interface WorkerNotification {
  readonly method: string;
  readonly params: unknown;
  /** Id of the pool. */
  readonly pool: string;
  /** Index of the worker in its pool. */
  readonly worker: number;
  readonly pid: number;
  /** All of it, as it came. */
  readonly message: RpcMessage;
}

/** What a handler of {@link StdioBus.onRequest} knows of a worker's request besides its params. */
export interface WorkerRequestContext {
  readonly method: string;
  readonly pool: string;
  readonly worker: number;
  readonly pid: number;
  /** Aborts when the worker gives up or ends. */
  readonly signal: AbortSignal;
  /** All of it, as it came. */
  readonly message: RpcMessage;
}

/** Answers a worker's request; what it throws reaches the worker as an error, an {@link RpcError} with its code and data. */
export type WorkerRequestHandler = (params: unknown, context: WorkerRequestContext) => unknown;

/** Which notifications a subscription gets, and how it keeps them. */
export interface NotificationOptions extends SubscribeOptions {
  /** Only those of this method. */
  method?: string | undefined;
  /** Only those of this pool. */
  pool?: string | undefined;
}

/** The listeners of a bus. */
export class Audience implements ConnectionHost {
  /** Items that subscriptions lost. */
  dropped = 0;
  readonly servers = new Set<StdioServer>();
  /** All that workers tell, before the subscriptions are told. */
  onNotification: ((message: RpcMessage) => Promise<unknown> | null) | null = null;
  readonly #options: StdioBusOptions;
  readonly #handlers = new Map<string, WorkerRequestHandler>();
  readonly #subscribers = new Map<Subscription<WorkerNotification>, NotificationOptions>();

  constructor(options: StdioBusOptions) {
    this.#options = options;
  }

  /** Adds a handler; returns a function that takes it out again. */
  onRequest(method: string, handler: WorkerRequestHandler): () => void {
    if (typeof handler !== "function") throw new InvalidConfigError("onRequest takes a method and a function.");
    if (this.#handlers.has(method)) throw new InvalidConfigError(`requests for ${shown(method)} have a handler.`);
    this.#handlers.set(method, handler);
    return () => {
      if (this.#handlers.get(method) === handler) this.#handlers.delete(method);
    };
  }

  subscribe(options: NotificationOptions): Subscription<WorkerNotification> {
    const leave = (closed: Subscription<WorkerNotification>): void => void this.#subscribers.delete(closed);
    const subscription = new Subscription(options, leave, () => this.dropped++);
    this.#subscribers.set(subscription, { ...options });
    return subscription;
  }

  /** A worker asks: returns what the handler of the method, a client, or the handler of `"*"` answers. */
  asked({ pool, worker, pid }: LinkIdentity, message: RpcMessage, signal: AbortSignal): unknown {
    const method = message.method!;
    let handler = this.#handlers.get(method);
    if (!handler) {
      for (const server of this.servers) {
        const answer = server.asked(message, signal);
        if (answer) return answer;
      }
      handler = this.#handlers.get("*");
    }
    if (!handler) throw new RpcError(RPC.methodNotFound, `the host has no method ${JSON.stringify(method)}`);
    return handler(message.params, { method, pool, worker, pid, signal, message });
  }

  /** A worker tells: returns a promise when it should not be read on. */
  notified({ pool, worker, pid }: LinkIdentity, message: RpcMessage): Promise<unknown> | null {
    const method = message.method!;
    let room = this.onNotification?.(message) ?? null;
    for (const server of this.servers) server.notified(message);
    for (const [subscription, wanted] of this.#subscribers) {
      if (wanted.method !== undefined && wanted.method !== method) continue;
      if (wanted.pool !== undefined && wanted.pool !== pool) continue;
      const wait = subscription.push({ method, params: message.params, pool, worker, pid, message });
      if (wait) room = room ? Promise.all([room, wait]) : wait;
    }
    return room;
  }

  /** No subscription holds up a worker any more. */
  release(): void {
    for (const subscription of this.#subscribers.keys()) subscription.release();
  }

  /** Stops the servers and closes the subscriptions. */
  async leave(): Promise<void> {
    await Promise.all([...this.servers].map((server) => server.stop()));
    for (const subscription of this.#subscribers.keys()) subscription.close();
  }

  /** A worker wrote what is no message. */
  fault(worker: LinkIdentity, error: ProtocolError): void {
    this.#tell(this.#options.onError, error, worker);
  }

  /** A server closed a connection. */
  refused(why: string): void {
    const error = new ProtocolError(why);
    if (this.#options.onError) this.#tell(this.#options.onError, error, null);
    else console.error(`slotbus: ${error.message}`);
  }

  /** Tells the callbacks of the options what becomes of the workers of a pool. */
  watch(pool: string, supervisor: EventEmitter<SupervisorEvents>): void {
    const tell = (event: WorkerEvent["event"], { id, life, pid }: WorkerStatus): void =>
      this.#tell(this.#options.onWorker, { event, pool, worker: id, life, pid });
    const events: Partial<Record<WorkerState, WorkerEvent["event"]>> = {
      draining: "stopping",
      stopped: "stopped",
      backoff: "restarting",
      paused: "paused",
      failed: "failed",
    };
    supervisor.on("ready", (worker) => tell("started", worker));
    supervisor.on("state", (worker) => {
      const event = events[worker.state];
      if (event) tell(event, worker);
    });
    supervisor.on("exit", (report) => {
      const { worker, life, pid } = report;
      this.#tell(this.#options.onWorker, { event: "exited", pool, worker, life, pid, report });
    });
    supervisor.on("log", ({ id, pid }, line) => this.#tell(this.#options.onLog, { pool, worker: id, pid, line }));
    supervisor.on("failed", (error) => this.#tell(this.#options.onError, error, null));
    const { onError, onPool } = this.#options;
    if (!onError && !onPool) return; // without a listener the supervisor warns
    supervisor.on("paused", (error) => {
      this.#tell(onError, error, null);
      this.#tell(onPool, { event: "paused", pool, error });
    });
    supervisor.on("resumed", () => this.#tell(onPool, { event: "resumed", pool }));
  }

  /** A callback that throws does not stop the bus: what it threw is reported as an error of nobody. */
  #tell<A extends unknown[]>(callback: ((...args: A) => void) | undefined, ...args: A): void {
    if (callback) queueMicrotask(() => callback(...args));
  }
}
