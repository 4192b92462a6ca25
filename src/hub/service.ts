/** All processes that registered under one worker name: their bus, their routes, and whether any of them is there. */

import { SlotBus, type WorkerInfo } from "../bus/bus.ts";
import type { Route } from "./routes.ts";
import { busNameOf, type ResolvedHubOptions } from "./options.ts";

/** One registration: of a process, when it said which it is. */
export interface Registration {
  readonly id: string;
  readonly pid: number | null;
  readonly routes: number;
}

export class Service {
  readonly name: string;
  readonly bus: SlotBus;
  /** Of the newest registration. */
  routes: readonly Route<Service>[] = [];
  readonly #registrations = new Map<string, Registration>();
  readonly #onChange: () => void;
  /** `performance.now()` of the moment when the last of its processes was gone; null while one is there or about to come. */
  #goneAt: number | null = null;
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
    bus.on("workerJoined", () => this.#joined());
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

  /** The registration counts from now on; its process has `arrivalMs` to attach. */
  register(registration: Registration, routes: readonly Route<Service>[], arrivalMs: number): void {
    if (registration.pid !== null) this.#forget((other) => other.pid === registration.pid);
    this.#registrations.set(registration.id, registration);
    this.routes = routes;
    this.#goneAt = null;
    if (this.#arrival) clearTimeout(this.#arrival);
    this.#arrival = setTimeout(() => this.#judge(), arrivalMs);
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

  #joined(): void {
    this.#goneAt = null;
    this.#onChange();
  }

  #left({ pid }: WorkerInfo): void {
    if (!this.bus.workers.some((worker) => worker.pid === pid)) this.#forget((one) => one.pid === pid);
    this.#judge();
  }

  /** Nobody is attached: whoever registered is gone too. */
  #judge(): void {
    if (this.bus.workers.length === 0) {
      this.#registrations.clear();
      this.#goneAt ??= performance.now();
    }
    this.#onChange();
  }

  #forget(which: (registration: Registration) => boolean): void {
    for (const [id, registration] of this.#registrations) if (which(registration)) this.#registrations.delete(id);
  }
}
