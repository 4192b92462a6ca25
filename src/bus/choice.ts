/** Which worker gets the next request. */

import { BusOverloadedError, NoWorkerError } from "../errors.ts";
import type { Connection } from "./wire.ts";

/** The attached workers of a bus. */
export class Choice {
  readonly #name: string;
  #all: Connection[] = [];

  /** `name` is the name of the bus. */
  constructor(name: string) {
    this.#name = name;
  }

  get all(): readonly Connection[] {
    return this.#all;
  }

  get size(): number {
    return this.#all.length;
  }

  get isEmpty(): boolean {
    return this.#all.length === 0;
  }

  /** Requests that a worker takes at once, on average; `usual` when there is no worker. */
  placesOr(usual: number): number {
    return this.isEmpty ? usual : this.places / this.size;
  }

  /** Requests that all workers together take at once. */
  get places(): number {
    return this.#all.reduce((sum, { concurrency }) => sum + concurrency, 0);
  }

  add(connection: Connection): void {
    this.#all.push(connection);
  }

  remove(connection: Connection): void {
    this.#all = this.#all.filter((one) => one !== connection);
  }

  /** Evicts the worker with this id. Returns `false` when there is none. */
  evict(id: number, reason: string): boolean {
    const connection = this.#find(id);
    connection?.evict(reason);
    return connection !== undefined;
  }

  #find(wanted: number): Connection | undefined {
    return this.#all.find(({ id }) => id === wanted);
  }

  /** The worker with the fewest requests among those that have room; a doubtful one comes last. `null` when none has room. */
  pick(): Connection | null {
    const all = this.#all;
    let best: Connection | null = null;
    for (let i = 0; i < all.length; i++) {
      const one = all[i]!;
      if (one.room > 0 && (best === null || isBetter(one, best))) best = one;
    }
    return best;
  }

  /** The worker with this id. @throws {NoWorkerError} when it is not attached, {BusOverloadedError} when it has no room. */
  only(id: number): Connection {
    const connection = this.#find(id);
    if (!connection) throw new NoWorkerError(this.#name, 0);
    if (connection.room > 0) return connection;
    throw new BusOverloadedError(`worker pid ${connection.pid} has ${connection.load} requests.`);
  }
}

function isBetter(one: Connection, than: Connection): boolean {
  const { isDoubtful } = one;
  return isDoubtful === than.isDoubtful ? one.load < than.load : !isDoubtful;
}
