/** Statistics of a bus without shared memory: nobody else can read them. */

import type { Statistics } from "../../bus/stats.ts";
import type { Connection } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import { C } from "../../native/abi.ts";
import {
  type CounterName,
  COUNTERS,
  type Snapshot,
  type SnapshotWorker,
  STATE_NAMES,
  type StateName,
} from "../../native/statistics.ts";

/** Counters and a histogram in the memory of the process. */
export class SocketStatistics implements Statistics {
  readonly #clock: Clock;
  readonly #slots: number;
  readonly #connections: () => readonly Connection[];
  readonly #createdAt: number;
  readonly #joinedAt = new Map<number, number>();
  readonly #counters: Record<CounterName, number>;
  readonly #roundTrips: number[] = Array.from({ length: C.SB_HIST_BUCKETS }, () => 0);
  #roundTripSum = 0;
  #queued = 0;
  #unsettled = 0;

  constructor(clock: Clock, slots: number, connections: () => readonly Connection[]) {
    this.#clock = clock;
    this.#slots = slots;
    this.#connections = connections;
    this.#createdAt = clock.now();
    this.#counters = Object.fromEntries(Object.keys(COUNTERS).map((name) => [name, 0])) as Record<CounterName, number>;
  }

  count(counter: CounterName, by = 1): void {
    this.#counters[counter] += by;
  }

  /** Records a time from request to response, in ms. */
  roundTrip(ms: number): void {
    const ns = Math.max(0, Math.round(ms * 1e6));
    this.#roundTrips[bucketOf(ns)]!++;
    this.#roundTripSum += ns;
  }

  sample(queued: number, unsettled: number): void {
    this.#queued = queued;
    this.#unsettled = unsettled;
  }

  snapshot(): Snapshot {
    const now = this.#clock.now();
    return {
      pid: process.pid,
      slots: this.#slots,
      ageMs: now - this.#createdAt,
      counters: { ...this.#counters },
      queued: this.#queued,
      unsettled: this.#unsettled,
      silentMs: 0,
      workers: this.#connections().map((one) => this.#workerOf(one, now)),
      roundTrips: this.#roundTrips.slice(),
      roundTripSum: this.#roundTripSum,
    };
  }

  #workerOf(connection: Connection, now: number): SnapshotWorker {
    const { id, pid, uid, concurrency, load } = connection;
    if (!this.#joinedAt.has(id)) this.#joinedAt.set(id, now);
    const slots = Object.fromEntries(STATE_NAMES.map((name) => [name, 0])) as Record<StateName, number>;
    for (const { state } of connection.slots()) slots[state as StateName]++;
    return { id, pid, uid, concurrency, inFlight: load, ageMs: now - this.#joinedAt.get(id)!, spinning: null, slots };
  }
}

/** Returns the bucket of a time in ns: the inverse of `bucketEdge`. */
function bucketOf(ns: number): number {
  if (ns < C.SB_HIST_SUB) return ns;
  const octave = Math.floor(Math.log2(ns / C.SB_HIST_SUB)) + 1;
  const part = Math.floor(ns / 2 ** (octave - 1)) - C.SB_HIST_SUB;
  return Math.min(C.SB_HIST_BUCKETS - 1, octave * C.SB_HIST_SUB + part);
}
