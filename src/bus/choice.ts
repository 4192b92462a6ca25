/** Chooses the worker for the next request. */

import { BusOverloadedError } from "../errors.ts";
import { needsMemory, unknownWorker } from "../errors/plain.ts";
import type { Connection } from "./wire.ts";

/** Longest time for which a request waits behind others rather than wake another worker, in ms: about the cost of a wake-up. */
const WORTH_WAITING_MS = 0.1;

/** The attached workers of a bus. */
export class Choice {
  readonly #name: string;
  /** Number of this client on a shared bus; -1: it is the only client. */
  #client = -1;
  #random: () => number = () => 0;
  #all: Connection[] = [];

  /** `name` is the name of the bus. */
  constructor(name: string) {
    this.#name = name;
  }

  /** The bus is shared: other clients, too, send requests to its workers. Call it before a worker attaches. */
  share(client: number, random: () => number): void {
    this.#client = client;
    this.#random = random;
  }

  /** Number of this client on a shared bus; `null`: it is the only client. */
  get client(): number | null {
    return this.#client < 0 ? null : this.#client;
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

  /** Average number of concurrent requests per worker; `usual` when no worker is attached. */
  placesOr(usual: number): number {
    return this.isEmpty ? usual : this.places / this.size;
  }

  /** Number of requests that all workers together can run at once. */
  get places(): number {
    return this.#all.reduce((sum, { concurrency }) => sum + concurrency, 0);
  }

  /** Number of requests at all workers, including those whose callers have given up. */
  get load(): number {
    return this.#all.reduce((sum, { load }) => sum + load, 0);
  }

  add(connection: Connection): void {
    this.#all.push(connection);
    if (this.#client >= 0) this.#all.sort((a, b) => a.pid - b.pid || a.id - b.id); // the same order in all clients
  }

  remove(connection: Connection): void {
    this.#all = this.#all.filter((one) => one !== connection);
  }

  /** Evicts the worker with this id. Returns `false` if it is not attached. */
  evict(id: number, reason: string): boolean {
    const connection = this.#find(id);
    connection?.evict(reason);
    return connection !== undefined;
  }

  #find(wanted: number): Connection | undefined {
    return this.#all.find(({ id }) => id === wanted);
  }

  /**
   * Returns the worker for the next request; `null` when no worker has room. It is a worker near this client while that is prompt,
   * so that requests share wake-ups. Otherwise it is the worker with the fewest requests, and a doubtful worker last.
   */
  pick(): Connection | null {
    const all = this.#all;
    if (all.length < 2) return this.#pickAny(all);
    return this.#pickNear(all) ?? (this.#client < 0 ? null : this.#pickOfTwo(all)) ?? this.#pickAny(all);
  }

  /** The worker at the number of this client, or the next worker. */
  #pickNear(all: readonly Connection[]): Connection | null {
    const own = Math.max(0, this.#client);
    for (let n = 0; n < 2; n++) {
      const near = all[(own + n) % all.length]!;
      if (near.room > 0 && isPrompt(near) && !near.isDoubtful) return near;
    }
    return null;
  }

  /**
   * The better of two random workers, so that clients that see the same load do not all choose the same worker (Mitzenmacher, "The
   * power of two choices", 2001).
   */
  #pickOfTwo(all: readonly Connection[]): Connection | null {
    const first = Math.floor(this.#random() * all.length);
    const second = (first + 1 + Math.floor(this.#random() * (all.length - 1))) % all.length;
    const [one, other] = [all[first]!, all[second]!];
    const best = one.load + one.elsewhere <= other.load + other.elsewhere && !one.isDoubtful ? one : other;
    return best.room > 0 && !best.isDoubtful ? best : null;
  }

  #pickAny(all: readonly Connection[]): Connection | null {
    let best: Connection | null = null;
    for (let i = 0; i < all.length; i++) {
      const one = all[i]!;
      if (one.room > 0 && (best === null || isBetter(one, best))) best = one;
    }
    return best;
  }

  /**
   * As {@link pick}, or as {@link only} for the worker with this id, for a request that blocks the thread.
   *
   * @throws {UnsupportedError} if only workers on another wire than memory have room.
   */
  pickBlocking(id: number | undefined): Connection | null {
    const best = id === undefined ? this.pick() : this.only(id);
    if (best === null || best.wait) return best;
    const other = id === undefined ? this.#all.find((one) => one.room > 0 && one.wait) : undefined;
    if (other) return other;
    throw needsMemory("sync", best.wire);
  }

  /** Returns the worker with this id. @throws {NoWorkerError} if it is not attached, {BusOverloadedError} if it has no room. */
  only(id: number): Connection {
    const connection = this.#find(id);
    if (!connection) throw unknownWorker(this.#name, id);
    if (connection.room > 0) return connection;
    throw new BusOverloadedError(`Worker pid ${connection.pid} accepts no more requests: it has ${connection.load}.`);
  }
}

function isBetter(one: Connection, than: Connection): boolean {
  const { isDoubtful } = one;
  return isDoubtful === than.isDoubtful ? one.load < than.load : !isDoubtful;
}

/** Whether a new request starts at once, or after a time for which it is not worth to wake another worker. */
function isPrompt(worker: Connection): boolean {
  const before = worker.load + worker.elsewhere;
  return before === 0 || before * worker.pace < WORTH_WAITING_MS;
}
