/** All processes that registered under one worker name: their bus, their routes, and whether any of them is there. */

import { SlotBus } from "../slotbus.ts";
import type { WorkerInfo } from "../bus/events.ts";
import type { Route } from "./routes.ts";
import { busNameOf, type ResolvedHubOptions } from "./options.ts";

/** A worker process in an event of the hub. */
export interface HubWorkerInfo {
  /** Name that the process serves. */
  readonly name: string;
  /** Number of this attachment; no other of its name has it. */
  readonly id: number;
  readonly pid: number;
}

/** A request as the hub has answered it. Of an answer that streams, the head has been sent. */
export interface HubRequestInfo {
  /** The same as in the header `x-request-id` of the answer. */
  readonly id: string;
  readonly method: string;
  /** Without the query, which may have secrets. */
  readonly path: string;
  readonly status: number;
  /** From the request to the head of its answer, in ms. */
  readonly ms: number;
  /** Size of a worker's answer; `null` for one that streams, and for the hub's own. */
  readonly bytes: number | null;
  /** Name of the worker that the request was for; `null`: none. */
  readonly worker: string | null;
  /** Address of the client, with `trustProxy` the one that the proxy saw: the last of `x-forwarded-for`. `null`: not known. */
  readonly address: string | null;
}

/** Events of a hub, with the arguments of their listeners. */
export interface HubEvents {
  /** A worker process registered and attached. */
  joined: [worker: HubWorkerInfo];
  /** A worker process closed in good order. */
  left: [worker: HubWorkerInfo];
  /** A worker process was lost, or evicted because it answered no pings; `reason` says which. */
  died: [worker: HubWorkerInfo, reason: string];
  /** A registration was refused, or a process that is not allowed knocked at a worker's bus; `reason` says why. */
  refused: [worker: { readonly name: string; readonly pid: number | null }, reason: string];
  /** A request was answered. Costs nothing while nobody listens. */
  request: [request: HubRequestInfo];
}

/** Who hears of processes that come and go. */
export interface Audience {
  changed(): void;
  tell<E extends keyof HubEvents>(event: E, ...args: HubEvents[E]): void;
}

/** One registration: of a process, when it said which it is. */
export interface Registration {
  readonly id: string;
  readonly pid: number | null;
  readonly routes: number;
}

/** A registration, and what became of it. */
interface Tenure extends Registration {
  /** `performance.now()` */
  readonly since: number;
  /** Whether its process has attached. */
  hasCome: boolean;
}

/** How long a process that registered may take to attach to its bus, in ms. */
const ARRIVAL_MS = 5_000;

export class Service {
  readonly name: string;
  readonly bus: SlotBus;
  /** Of the newest registration. */
  routes: readonly Route<Service>[] = [];
  readonly #registrations = new Map<string, Tenure>();
  readonly #audience: Audience;
  /** `performance.now()` of the moment since which nobody is there; null while a process is there or about to come. */
  #goneAt: number | null = performance.now();
  #arrival: ReturnType<typeof setTimeout> | null = null;

  static async create(name: string, options: ResolvedHubOptions, audience: Audience): Promise<Service> {
    const { directory, slots, payloadBytes, timeout, queue, spin } = options;
    const bus = await SlotBus.create({
      name: busNameOf(options.name, name),
      directory,
      slots,
      payloadBytes,
      timeout,
      queue,
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

  /** Whether a process serves it, or has registered and is about to. */
  get isThere(): boolean {
    return this.#goneAt === null;
  }

  /** How long nobody has served it, in ms. */
  get goneFor(): number {
    return this.#goneAt === null ? 0 : performance.now() - this.#goneAt;
  }

  /** The registration counts from now on; its process has a while to attach. */
  register(registration: Registration, routes: readonly Route<Service>[]): void {
    if (registration.pid !== null) this.#replace(registration.pid);
    this.#registrations.set(registration.id, { ...registration, since: performance.now(), hasCome: false });
    this.routes = routes;
    this.#goneAt = null;
    if (this.#arrival) clearTimeout(this.#arrival);
    this.#arrival = setTimeout(() => this.#judge(), ARRIVAL_MS + 10);
    this.#arrival.unref();
  }

  /** `false`: there was none of that id. */
  unregister(id: string): boolean {
    if (!this.#registrations.delete(id)) return false;
    this.#judge();
    return true;
  }

  async close(limit?: { timeout: number }): Promise<void> {
    if (this.#arrival) clearTimeout(this.#arrival);
    await this.bus.close(limit);
  }

  #joined({ id, pid }: WorkerInfo): void {
    const newest = this.#of(pid).findLast((one) => !one.hasCome);
    if (newest) newest.hasCome = true;
    this.#goneAt = null;
    this.#audience.changed();
    this.#audience.tell("joined", { name: this.name, id, pid });
  }

  /** `reason`: why it died. */
  #left({ id, pid }: WorkerInfo, reason?: string): void {
    const come = this.#of(pid).filter((one) => one.hasCome);
    if (come.length > this.#attached(pid)) this.#registrations.delete(come[0]!.id); // one that came later may be the next
    this.#judge();
    const worker = { name: this.name, id, pid };
    if (reason === undefined) this.#audience.tell("left", worker);
    else this.#audience.tell("died", worker, reason);
  }

  /** Whoever registered and did not come is gone; when nobody is attached or about to be, the name is. */
  #judge(): void {
    const now = performance.now();
    for (const { id, pid, since, hasCome } of this.#registrations.values()) {
      const isMissing = pid === null ? this.bus.workers.length === 0 : !hasCome && this.#attached(pid) === 0;
      if (isMissing && now - since > ARRIVAL_MS) this.#registrations.delete(id);
    }
    if (this.bus.workers.length === 0 && this.#registrations.size === 0) this.#goneAt ??= now;
    this.#audience.changed();
  }

  /** A process has as many as it has attachments, and one or two that are about to be one: it registers anew. */
  #replace(pid: number): void {
    const own = this.#of(pid);
    const kept = this.#attached(pid) + 1;
    for (const { id } of own.slice(0, Math.max(0, own.length - kept))) this.#registrations.delete(id);
  }

  /** Registrations of a process, the oldest first. */
  #of(pid: number): Tenure[] {
    return [...this.#registrations.values()].filter((one) => one.pid === pid);
  }

  #attached(pid: number): number {
    return this.bus.workers.filter((worker) => worker.pid === pid).length;
  }
}
