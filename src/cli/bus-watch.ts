/** Gathers the statistics of all clients of a bus, for `ls`, `stats` and `top`. */

import { BusObserver } from "../native/observer.ts";
import { type CounterName, COUNTERS, type Snapshot, type SnapshotWorker, STATE_NAMES } from "../native/statistics.ts";
import { type BusName, processInfo } from "./directory.ts";
import { duration } from "./terminal.ts";

/** Timeout for a client to accept an observer, in ms. All clients of a bus are asked at once. */
const ANSWER_MS = 800;

/** The statistics of one client. */
export interface Look {
  /** Number of the client on a shared bus; `null` for the owner of a bus. */
  client: number | null;
  /** Why the client does not answer; `null`: it answers. */
  problem: string | null;
  /** `null` if the client has never answered. */
  now: Snapshot | null;
  /** The statistics at the last look at the same client. */
  before: Snapshot | null;
}

/** Polls all clients of one bus. */
export class BusWatch {
  readonly #clients = new Map<string, ClientWatch>();

  /** Returns one entry for each live client, in the order of their numbers. */
  look(directory: string, { name, clients, owner }: BusName): Promise<Look[]> {
    const numbers = clients.length > 0 ? clients : [null];
    const address = (client: number | null): string => (client === null ? name : `${name}@${client}`);
    keep(this.#clients, numbers.map(address), ClientWatch);
    const isStopped = owner?.isStopped === true;
    return Promise.all(
      numbers.map(async (client) => {
        const at = address(client);
        return { client, ...(await this.#clients.get(at)!.look(directory, at, client !== null, isStopped)) };
      }),
    );
  }

  close(): void {
    keep(this.#clients, [], ClientWatch);
  }
}

/** Creates a watch for each new name, and closes the watches of names that are gone. */
export function keep<W extends { close(): void }>(all: Map<string, W>, names: string[], New: new () => W): void {
  for (const [name, watch] of all) {
    if (names.includes(name)) continue;
    watch.close();
    all.delete(name);
  }
  for (const name of names) if (!all.has(name)) all.set(name, new New());
}

class ClientWatch {
  #observer: BusObserver | null = null;
  #before: Snapshot | null = null;

  /** `isStopped`: the owner of the name is known to be stopped. */
  async look(directory: string, name: string, isShared: boolean, isStopped: boolean): Promise<Omit<Look, "client">> {
    const silent = `the ${isShared ? "client" : "owner"} does not answer`;
    const failed = (problem: string) => ({ problem, now: null, before: null });
    if (!this.#observer && isStopped) return failed(`${silent}: its process is stopped`);
    try {
      if (this.#observer?.read().isThere === false) this.close(); // another client may have taken the name
      this.#observer ??= await BusObserver.open({ name, directory, timeout: ANSWER_MS });
      const [now, before] = [this.#observer.read(), this.#before];
      this.#before = now;
      return { problem: silence(silent, now), now, before };
    } catch (error) {
      this.close();
      const { code, message } = error as { code?: string; message: string };
      return failed(code === "RESOURCE" ? silent : message);
    }
  }

  close(): void {
    this.#observer?.close();
    this.#observer = null;
    this.#before = null;
  }
}

function silence(silent: string, { pid, silentMs }: Snapshot): string | null {
  if (processInfo(pid)?.isStopped) return `${silent}: its process is stopped`;
  return silentMs > 0 ? `${silent}: its event loop has been blocked for ${duration(silentMs)}` : null;
}

/** Adds the statistics of the clients of a bus. `pid` is the oldest client's. Returns `null` without a client. */
export function sumOf(looks: readonly Look[]): Snapshot | null {
  const all = looks.flatMap(({ now }) => now ?? []).sort((a, b) => b.ageMs - a.ageMs);
  const [oldest] = all;
  if (!oldest || all.length === 1) return oldest ?? null;
  const sum = (of: (one: Snapshot) => number): number => all.reduce((total, one) => total + of(one), 0);
  const counters = Object.keys(COUNTERS).map((name) => [name, sum((one) => one.counters[name as CounterName])]);
  return {
    ...oldest,
    slots: Math.max(...all.map(({ slots }) => slots)),
    counters: Object.fromEntries(counters) as Snapshot["counters"],
    queued: sum(({ queued }) => queued),
    unsettled: sum(({ unsettled }) => unsettled),
    silentMs: Math.max(...all.map(({ silentMs }) => silentMs)),
    workers: distinct(all),
    roundTrips: addBuckets(all.map(({ roundTrips }) => roundTrips)),
    roundTripSum: sum(({ roundTripSum }) => roundTripSum),
  };
}

export function addBuckets(all: readonly (readonly number[])[]): number[] {
  return (all[0] ?? []).map((_, bucket) => all.reduce((sum, buckets) => sum + buckets[bucket]!, 0));
}

/**
 * Merges the attachments of each worker to several clients. They have the pid in common, and a process with several workers
 * attaches each of them to each client.
 */
function distinct(clients: readonly Snapshot[]): SnapshotWorker[] {
  const merged = new Map<string, SnapshotWorker>();
  for (const { workers } of clients) {
    const seen = new Map<number, number>();
    for (const worker of workers) {
      const nth = seen.get(worker.pid) ?? 0;
      seen.set(worker.pid, nth + 1);
      const key = `${worker.pid} ${nth}`;
      const other = merged.get(key);
      merged.set(key, other ? addWorker(other, worker) : worker);
    }
  }
  return [...merged.values()];
}

function addWorker(a: SnapshotWorker, b: SnapshotWorker): SnapshotWorker {
  const slots = STATE_NAMES.map((state) => [state, a.slots[state] + b.slots[state]]);
  return {
    ...a,
    concurrency: Math.max(a.concurrency, b.concurrency),
    inFlight: a.inFlight + b.inFlight,
    ageMs: Math.max(a.ageMs, b.ageMs),
    slots: Object.fromEntries(slots) as SnapshotWorker["slots"],
  };
}
