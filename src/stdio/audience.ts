/** Delivers messages of workers and events to handlers, subscriptions, clients of servers, and listeners. */

import type { EventEmitter } from "node:events";
import { shown } from "../check.ts";
import { type SlotbusError, InvalidConfigError, RpcError } from "../errors.ts";
import type { Resolved } from "../options.ts";
import type { SupervisorEvents, WorkerStatus } from "../supervisor/events.ts";
import type { Client } from "./client.ts";
import type { LinkIdentity, Tell, WorkerNotification, WorkerRequestHandler } from "./events.ts";
import type { notificationOptions } from "./options.ts";
import { RPC, type RpcMessage } from "./rpc.ts";
import type { StdioServer } from "./server.ts";
import { Subscription } from "./subscription.ts";
import type { ConnectionHost } from "./worker-connection.ts";

/** Notifications that are kept while the bus starts, when there are no subscriptions yet. */
const EARLY_MAX = 1_024;

/** Everyone who receives messages and events of a bus. */
export class Audience implements ConnectionHost {
  /** Number of items that subscriptions dropped. */
  lost = 0;
  readonly servers = new Set<StdioServer>();
  /** Subscriptions of a raw bus. */
  readonly readers = new Set<Subscription<string>>();
  /** Gets every notification, before the subscriptions do. */
  onNotification: ((message: RpcMessage) => Promise<unknown> | null) | null = null;
  /** Resolves when the user had a chance to add handlers and subscriptions; `null` after that. Until then messages wait. */
  #opening: PromiseWithResolvers<void> | null = Promise.withResolvers<void>();
  #early: [link: LinkIdentity, message: RpcMessage][] = [];
  readonly #tell: Tell;
  readonly #handlers = new Map<string, WorkerRequestHandler>();
  readonly #subscribers = new Map<Subscription<WorkerNotification>, { method: string | null; pool: string | null }>();

  constructor(tell: Tell) {
    this.#tell = tell;
  }

  /** The user had a chance to add handlers and subscriptions: delivers the messages that waited. */
  open(): void {
    this.#opening?.resolve();
    this.#opening = null;
    for (const [link, message] of this.#early.splice(0)) void this.notified(link, message);
  }

  /** Adds a handler; returns a function that removes it. */
  onRequest(method: string, handler: WorkerRequestHandler): () => void {
    if (typeof handler !== "function") {
      throw new InvalidConfigError(`The handler of ${shown(method)} is ${shown(handler)}; it must be a function.`);
    }
    if (this.#handlers.has(method)) throw new InvalidConfigError(`The method ${shown(method)} already has a handler.`);
    this.#handlers.set(method, handler);
    return () => {
      if (this.#handlers.get(method) === handler) this.#handlers.delete(method);
    };
  }

  subscribe(options: Resolved<(typeof notificationOptions)["rows"]>): Subscription<WorkerNotification> {
    const leave = (closed: Subscription<WorkerNotification>): void => void this.#subscribers.delete(closed);
    const subscription = new Subscription(options, leave, () => this.lost++);
    this.#subscribers.set(subscription, options);
    return subscription;
  }

  /** A worker sent a request. Returns the answer of the method's handler, of a client, or of the handler of `"*"`. */
  asked(link: LinkIdentity, message: RpcMessage, signal: AbortSignal, own?: WorkerRequestHandler): unknown {
    const { pool, worker, pid } = link;
    const method = message.method!;
    let handler = own ?? this.#handlers.get(method);
    if (!handler) {
      const client = this.#clientFor(link, message);
      if (client) return client.ask(message, signal);
      handler = this.#handlers.get("*");
    }
    if (!handler && this.#opening) return this.#opening.promise.then(() => this.asked(link, message, signal));
    if (!handler) throw new RpcError(RPC.methodNotFound, `the host has no method ${JSON.stringify(method)}`);
    return handler(message.params, { method, pool, worker, pid, signal, message });
  }

  /**
   * Returns the client that must answer a request of a worker: the client whose requests the worker is running, or the client
   * of standard input. A request on behalf of a disconnected client, or of a caller in this process, goes to no other client.
   */
  #clientFor(link: LinkIdentity, message: RpcMessage): Client | undefined {
    const clients = [...this.servers].flatMap((server) => server.clientsFor(link, message));
    if (typeof message["sessionId"] === "string") return clients[0];
    const asking = clients.filter((client) => client.isAsking(link));
    if (asking.length < 2) return asking[0] ?? clients.find(({ isStandard }) => isStandard);
    const why = `the worker has requests of ${asking.length} clients; the host cannot tell which of them must answer this one`;
    throw new RpcError(RPC.internalError, why);
  }

  /** A worker sent a notification. Nothing more is read from the worker until a returned promise resolves. */
  notified(link: LinkIdentity, message: RpcMessage): Promise<unknown> | null {
    if (this.#opening) {
      if (this.#early.length < EARLY_MAX) this.#early.push([link, message]);
      else this.lost++;
      return null;
    }
    const { pool, worker, pid } = link;
    const method = message.method!;
    let room = this.onNotification?.(message) ?? null;
    for (const server of this.servers) server.notified(link, message);
    for (const [subscription, wanted] of this.#subscribers) {
      if (wanted.method !== null && wanted.method !== method) continue;
      if (wanted.pool !== null && wanted.pool !== pool) continue;
      const wait = subscription.push({ method, params: message.params, pool, worker, pid, message });
      if (wait) room = room ? Promise.all([room, wait]) : wait;
    }
    return room;
  }

  /** Resumes reading from all workers that wait for room in a subscription. */
  release(): void {
    for (const subscription of [...this.#subscribers.keys(), ...this.readers]) subscription.release();
  }

  /** Closes the servers and the subscriptions. */
  async leave(): Promise<void> {
    await Promise.all([...this.servers].map((server) => server.close()));
    for (const subscription of [...this.#subscribers.keys(), ...this.readers]) subscription.close();
  }

  /** A worker wrote something that is not a message. */
  fault(worker: LinkIdentity, error: SlotbusError): void {
    this.#tell("fault", error, worker);
  }

  /** Emits the events of a pool's supervisor as events of the bus. */
  watch(pool: string, supervisor: EventEmitter<SupervisorEvents>): void {
    const tell = this.#tell;
    const identity = ({ id: worker, life, pid }: WorkerStatus): LinkIdentity => ({ pool, worker, life, pid });
    supervisor.on("joined", (worker) => tell("joined", identity(worker)));
    supervisor.on("left", (worker, report) => tell("left", identity(worker), report));
    supervisor.on("died", (worker, report) => tell("died", identity(worker), report));
    supervisor.on("log", ({ id: worker, pid }, line) => tell("log", { pool, worker, pid }, line));
    supervisor.on("failed", (error) => tell("failed", error, pool));
    supervisor.on("paused", (error) => tell("paused", error, pool));
    supervisor.on("resumed", () => tell("resumed", pool));
  }
}
