/** Pings all attached workers at an interval and evicts a worker that misses too many pings in a row. */

import { RequestTimeoutError } from "../errors.ts";
import { PING_PATH, processOf } from "./names.ts";
import type { ResolvedHubOptions } from "./options.ts";
import type { Service } from "./service.ts";

type Ping = NonNullable<ResolvedHubOptions["ping"]>;

export class Pinger {
  readonly #options: Ping;
  readonly #services: () => readonly Service[];
  readonly #evicted: (worker: string, process: string, reason: string) => void;
  /** Pings missed in a row, by worker. Replaced each round, so that workers that left are dropped. */
  #misses = new Map<string, number>();
  #timer: ReturnType<typeof setTimeout> | null = null;
  #stopped = false;

  /** `evicted` gets the name of an evicted worker and the key of its process. */
  constructor(
    options: Ping,
    services: () => readonly Service[],
    evicted: (worker: string, process: string, reason: string) => void,
  ) {
    this.#evicted = evicted;
    this.#options = options;
    this.#services = services;
    this.#later();
  }

  stop(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#stopped = true;
  }

  #later(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => void this.#round().then(() => this.#later()), this.#options.interval);
    this.#timer.unref();
  }

  async #round(): Promise<void> {
    const misses = new Map<string, number>();
    const asked = this.#services().flatMap((service) =>
      service.bus.workers.map((worker) => ({ service, id: worker.id, process: processOf(worker)! })),
    );
    await Promise.all(
      asked.map(async ({ service, id, process }) => {
        const key = `${service.name}/${id}`;
        if (await this.#answers(service, id)) return;
        const missed = (this.#misses.get(key) ?? 0) + 1;
        misses.set(key, missed);
        if (missed < this.#options.maxMisses) return;
        const reason = `it missed ${missed} pings`;
        if (service.bus.evict(id, reason)) this.#evicted(service.name, process, reason);
      }),
    );
    this.#misses = misses;
  }

  /** Only a timeout counts as missed. Other errors mean that all slots are busy or that the worker is gone already. */
  async #answers({ bus }: Service, worker: number): Promise<boolean> {
    try {
      await bus.request({ path: PING_PATH, pattern: PING_PATH }, { worker, timeout: this.#options.timeout });
      return true;
    } catch (error) {
      return !(error instanceof RequestTimeoutError);
    }
  }
}
