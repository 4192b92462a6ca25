/** All processes of one worker name: their bus, their routes, and whether any process is alive. */

import { SlotBus } from "../slotbus.ts";
import type { WorkerInfo } from "../bus/events.ts";
import { processOf, type Registrant, type RouteRequest } from "./names.ts";
import type { Route } from "./routes.ts";
import { busNameOf, type ResolvedHubOptions } from "./options.ts";

/** A worker process in an event of the hub. */
export interface HubWorkerInfo {
  /** Worker name of the process. */
  readonly name: string;
  /** Id of the attachment, unique for its worker name. */
  readonly id: number;
  readonly pid: number;
}

/** A request that the hub has answered. If the response streams, only its head has been sent. */
export interface HubRequestInfo {
  /** Value of the response header `x-request-id`. */
  readonly id: string;
  readonly method: string;
  /** Path without the query, which may contain secrets. */
  readonly path: string;
  readonly status: number;
  /** Time from the request to the head of the response, in ms. */
  readonly ms: number;
  /** Size of the response body; `null` if the response streams or is the hub's own. */
  readonly bytes: number | null;
  /** Name of the worker that serves the route; `null` if no route matched. */
  readonly worker: string | null;
  /** Address of the client; with `trustProxy` the last address of `x-forwarded-for`. `null` if unknown. */
  readonly address: string | null;
}

/** A message of a WebSocket that was lost. */
export interface HubMessageInfo {
  /** Worker name of the route. */
  readonly worker: string;
  /** Id of the connection. */
  readonly connection: string;
  /** Path of the connection, without the query. */
  readonly path: string;
  readonly reason: string;
}

/** Events of a hub, with the arguments of their listeners. */
export interface HubEvents {
  /** A worker process registered and attached. */
  joined: [worker: HubWorkerInfo];
  /** A worker process closed its connection in an orderly way. */
  left: [worker: HubWorkerInfo];
  /** A worker process died, or was evicted because it missed pings; `reason` says which. */
  died: [worker: HubWorkerInfo, reason: string];
  /** A registration was refused, or a process was not allowed to attach to a worker's bus; `reason` says why. */
  refused: [worker: { readonly name: string; readonly pid: number | null }, reason: string];
  /** A request was answered. Costs nothing without listeners. */
  request: [request: HubRequestInfo];
  /** A process died, or did not end in time, while it handled a message of a WebSocket. The hub does not send it again. */
  messageLost: [message: HubMessageInfo];
}

/** Receives changes of processes. */
export interface Audience {
  changed(): void;
  tell<E extends keyof HubEvents>(event: E, ...args: HubEvents[E]): void;
}

/** A registration of a process. */
export interface Registration extends Registrant {
  readonly id: string;
  readonly routes: number;
}

/** A registration with its state. */
interface Tenure extends Registration {
  /** `performance.now()` */
  readonly since: number;
  /** Whether its process has attached. */
  hasCome: boolean;
}

/** Time within which a registered process must attach to its bus, in ms. */
const ARRIVAL_MS = 5_000;

export class Service {
  readonly name: string;
  readonly bus: SlotBus;
  /** Routes of the newest registration. */
  routes: readonly Route<Service>[] = [];
  /** These routes as the worker sent them. */
  requests: readonly RouteRequest[] = [];
  readonly #registrations = new Map<string, Tenure>();
  readonly #audience: Audience;
  /** `performance.now()` when the last process left; `null` while a process is attached or about to attach. */
  #goneAt: number | null = performance.now();
  #arrival: ReturnType<typeof setTimeout> | null = null;

  static async create(name: string, options: ResolvedHubOptions, audience: Audience): Promise<Service> {
    const { directory, slots, payloadBytes, timeout, queue, spin, via } = options;
    const bus = await SlotBus[options.shared || via ? "connect" : "create"]({
      name: busNameOf(options.name, name),
      directory,
      slots,
      payloadBytes,
      timeout,
      queue,
      via,
      ...(spin === null ? {} : { spin }),
    });
    return new Service(name, bus, audience);
  }

  private constructor(name: string, bus: SlotBus, audience: Audience) {
    this.name = name;
    this.bus = bus;
    this.#audience = audience;
    bus.on("joined", (worker) => this.#joined(worker));
    bus.on("left", (worker) => this.#left(worker));
    bus.on("died", (worker, reason) => this.#left(worker, reason));
    bus.on("refused", ({ pid }, reason) => audience.tell("refused", { name, pid }, reason));
  }

  get registrations(): readonly Registration[] {
    return [...this.#registrations.values()];
  }

  /** Whether a process is attached, or has registered and is about to attach. */
  get isThere(): boolean {
    return this.#goneAt === null;
  }

  /** Time since the last process left, in ms; 0 while there is a process. */
  get goneFor(): number {
    return this.#goneAt === null ? 0 : performance.now() - this.#goneAt;
  }

  /** Adds a registration and takes over its routes. Its process must attach within {@link ARRIVAL_MS}. */
  register(registration: Registration, routes: readonly Route<Service>[]): void {
    this.#replace(processOf(registration));
    this.#registrations.set(registration.id, { ...registration, since: performance.now(), hasCome: false });
    this.routes = routes;
    this.#goneAt = null;
    if (this.#arrival) clearTimeout(this.#arrival);
    this.#arrival = setTimeout(() => this.#judge(), ARRIVAL_MS + 10);
    this.#arrival.unref();
  }

  /** Returns `false` if there is no registration with this id. */
  unregister(id: string): boolean {
    if (!this.#registrations.delete(id)) return false;
    this.#judge();
    return true;
  }

  async close(limit: { timeout: number }): Promise<void> {
    if (this.#arrival) clearTimeout(this.#arrival);
    await this.bus.close(limit);
  }

  #joined(worker: WorkerInfo): void {
    const { id, pid } = worker;
    const newest = this.#of(processOf(worker)).findLast((one) => !one.hasCome);
    if (newest) newest.hasCome = true;
    this.#goneAt = null;
    this.#audience.changed();
    this.#audience.tell("joined", { name: this.name, id, pid });
  }

  /** `reason` is given if the process died. */
  #left({ id, pid, instance }: WorkerInfo, reason?: string): void {
    const process = processOf({ pid, instance });
    const come = this.#of(process).filter((one) => one.hasCome);
    // Drops the oldest registration: a newer one may belong to the next attachment of the process.
    if (come.length > this.#attached(process)) this.#registrations.delete(come[0]!.id);
    this.#judge();
    const worker = { name: this.name, id, pid };
    if (reason === undefined) this.#audience.tell("left", worker);
    else this.#audience.tell("died", worker, reason);
  }

  /** Drops registrations whose process did not attach in time, and notes when no process is left. */
  #judge(): void {
    const now = performance.now();
    for (const registration of this.#registrations.values()) {
      const { id, since, hasCome } = registration;
      const process = processOf(registration);
      const isMissing = process === null ? this.bus.workers.length === 0 : !hasCome && this.#attached(process) === 0;
      if (isMissing && now - since > ARRIVAL_MS) this.#registrations.delete(id);
    }
    if (this.bus.workers.length === 0 && this.#registrations.size === 0) this.#goneAt ??= now;
    this.#audience.changed();
  }

  /** Keeps one registration per attached worker of this process and one that is about to attach; drops older ones. */
  #replace(process: string | null): void {
    const own = this.#of(process);
    const kept = this.#attached(process) + 1;
    for (const { id } of own.slice(0, Math.max(0, own.length - kept))) this.#registrations.delete(id);
  }

  /** Registrations of a process, oldest first; none of an unknown one. */
  #of(process: string | null): Tenure[] {
    if (process === null) return [];
    return [...this.#registrations.values()].filter((one) => processOf(one) === process);
  }

  #attached(process: string | null): number {
    return this.bus.workers.filter((worker) => processOf(worker) === process).length;
  }
}
