/** Who hears what workers say and what becomes of them: handlers, subscriptions, clients of servers, callbacks. */

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

/** Notifications that are kept until subscriptions could be made. */
const EARLY_MAX = 1_024;

/** The listeners of a bus. */
export class Audience implements ConnectionHost {
  /** Items that subscriptions lost. */
  lost = 0;
  readonly servers = new Set<StdioServer>();
  /** Of a raw bus. */
  readonly readers = new Set<Subscription<string>>();
  /** All that workers tell, before the subscriptions are told. */
  onNotification: ((message: RpcMessage) => Promise<unknown> | null) | null = null;
  /** Resolves when handlers and subscriptions could be added; `null`: they could. Until then what workers say waits for them. */
  #opening: PromiseWithResolvers<void> | null = Promise.withResolvers<void>();
  #early: [link: LinkIdentity, message: RpcMessage][] = [];
  readonly #tell: Tell;
  readonly #handlers = new Map<string, WorkerRequestHandler>();
  readonly #subscribers = new Map<Subscription<WorkerNotification>, { method: string | null; pool: string | null }>();

  constructor(tell: Tell) {
    this.#tell = tell;
  }

  /** Handlers and subscriptions could be added. */
  open(): void {
    this.#opening?.resolve();
    this.#opening = null;
    for (const [link, message] of this.#early.splice(0)) void this.notified(link, message);
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

  subscribe(options: Resolved<(typeof notificationOptions)["rows"]>): Subscription<WorkerNotification> {
    const leave = (closed: Subscription<WorkerNotification>): void => void this.#subscribers.delete(closed);
    const subscription = new Subscription(options, leave, () => this.lost++);
    this.#subscribers.set(subscription, options);
    return subscription;
  }

  /** A worker asks: returns what the handler of the method, a client, or the handler of `"*"` answers. */
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
   * The client that answers a request of a worker: the one whose requests the worker has, or that of standard input. What is asked
   * for a client that has gone, or for a caller of this process, is for no other client.
   */
  #clientFor(link: LinkIdentity, message: RpcMessage): Client | undefined {
    const clients = [...this.servers].flatMap((server) => server.clientsFor(link, message));
    if (typeof message["sessionId"] === "string") return clients[0];
    const asking = clients.filter((client) => client.isAsking(link));
    if (asking.length < 2) return asking[0] ?? clients.find(({ isStandard }) => isStandard);
    const why = `the worker has requests of ${asking.length} clients; the host cannot tell which one this is for`;
    throw new RpcError(RPC.internalError, why);
  }

  /** A worker tells: returns a promise when it should not be read on. */
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

  /** No subscription holds up a worker any more. */
  release(): void {
    for (const subscription of [...this.#subscribers.keys(), ...this.readers]) subscription.release();
  }

  /** Closes the servers and the subscriptions. */
  async leave(): Promise<void> {
    await Promise.all([...this.servers].map((server) => server.close()));
    for (const subscription of [...this.#subscribers.keys(), ...this.readers]) subscription.close();
  }

  /** A worker wrote what is not a message. */
  fault(worker: LinkIdentity, error: SlotbusError): void {
    this.#tell("fault", error, worker);
  }

  /** Tells what becomes of the workers of a pool. */
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
