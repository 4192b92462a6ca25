/** All processes that registered under one worker name: their bus, their routes, and whether any of them is there. */

import { SlotBus } from "../slotbus.ts";
import type { WorkerInfo } from "../bus/events.ts";
import type { Route } from "./routes.ts";
import { busNameOf, type ResolvedHubOptions } from "./options.ts";

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
  readonly #onChange: () => void;
  /** `performance.now()` of the moment since which nobody is there; null while a process is there or about to come. */
  #goneAt: number | null = performance.now();
  #arrival: ReturnType<typeof setTimeout> | null = null;

  /** `onChange` hears when a process came or went. */
  static async create(name: string, options: ResolvedHubOptions, onChange: () => void): Promise<Service> {
    const { directory, slots, payloadLimit, timeout, queue, spin } = options;
    const bus = await SlotBus.create({
      name: busNameOf(options.name, name),
      directory,
      slots,
      payloadLimit,
      timeout: timeout || Infinity,
      queue: { limit: queue },
      ...(spin === undefined ? {} : { spin }),
    });
    return new Service(name, bus, onChange);
  }

  private constructor(name: string, bus: SlotBus, onChange: () => void) {
    this.name = name;
    this.bus = bus;
    this.#onChange = onChange;
    bus.on("workerJoined", (worker) => this.#joined(worker));
    bus.on("workerLeft", (worker) => this.#left(worker));
    bus.on("workerDied", (worker) => this.#left(worker));
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

  /** Waits for what runs, at most `timeout` ms (default 5000). */
  async close(limit?: { timeout: number }): Promise<void> {
    if (this.#arrival) clearTimeout(this.#arrival);
    await this.bus.close(limit);
  }

  #joined({ pid }: WorkerInfo): void {
    const newest = this.#of(pid).findLast((one) => !one.hasCome);
    if (newest) newest.hasCome = true;
    this.#goneAt = null;
    this.#onChange();
  }

  #left({ pid }: WorkerInfo): void {
    const come = this.#of(pid).filter((one) => one.hasCome);
    if (come.length > this.#attached(pid)) this.#registrations.delete(come[0]!.id); // one that came later may be the next
    this.#judge();
  }

  /** Whoever registered and did not come is gone; when nobody is attached or about to be, the name is. */
  #judge(): void {
    const now = performance.now();
    for (const { id, pid, since, hasCome } of this.#registrations.values()) {
      const isMissing = pid === null ? this.bus.workers.length === 0 : !hasCome && this.#attached(pid) === 0;
      if (isMissing && now - since > ARRIVAL_MS) this.#registrations.delete(id);
    }
    if (this.bus.workers.length === 0 && this.#registrations.size === 0) this.#goneAt ??= now;
    this.#onChange();
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
