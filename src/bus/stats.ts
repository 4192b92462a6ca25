/** Statistics of a bus: counters and a histogram in shared memory. */

import { type CounterName, quantileUs, type Snapshot, type Spinning } from "../native/statistics.ts";

export type { Spinning };

/** Result of `SlotBus.stats`. Counters start at 0 when the bus is created. */
export interface BusStats {
  /** Requests made. */
  requests: number;
  /** Requests published to a worker. */
  published: number;
  /** Responses received, including discarded ones (`dropped`). */
  responses: number;
  /** Responses that are errors of the handler. */
  errors: number;
  /** Requests that timed out. */
  timeouts: number;
  /** Requests aborted by the caller. */
  aborts: number;
  /** Requests rejected because the queue was full. */
  overloaded: number;
  /** Idempotent requests retried after a worker died. */
  retries: number;
  /** Requests moved: taken back from a worker that did not claim them for 2 ms, and sent to another worker. */
  moves: number;
  /** Requests withdrawn before a worker claimed them. */
  withdrawn: number;
  /** Requests given up while a handler ran. */
  abandoned: number;
  /** Responses discarded because the caller had given up. */
  dropped: number;
  /** Doorbells sent to parked workers. */
  bells: number;
  /** Times that the bus stopped spinning, for seconds, because other programs needed the processors. See `spinning`. */
  contentions: number;
  /** Times that a worker's doorbell woke the parked bus. */
  wakeups: number;
  /**
   * Whether this side spins while it waits for responses, and if not, why: `"off"`: the option `spin` is 0; `"vain"`: spinning found
   * nothing lately; `"contended"`: other programs need the processors. The bus tries again by itself.
   */
  spinning: Spinning;
  /** Workers that attached. */
  workersJoined: number;
  /** Workers that left with a goodbye. */
  workersLeft: number;
  /** Workers whose connection ended without a goodbye. */
  workersDied: number;
  /** Workers that the bus evicted for breaking the protocol or for hanging. */
  workersEvicted: number;
  /** Worker processes restarted after they ended. */
  workersRestarted: number;
  /** Times that the pool was paused because its workers ended too often. It is paused now if this exceeds `workersResumed`. */
  workersPaused: number;
  /** Times that a paused pool resumed. */
  workersResumed: number;
  /** Connections that were refused. */
  peersRefused: number;
  /** Borrowed responses that were never released; the garbage collector reclaimed them. */
  borrowsForgotten: number;
  /** Regions that stay mapped after their end because user code still has a view, such as a borrow that was not released. */
  heldRegions: number;
  /**
   * Requests that were still unsettled after their worker or the bus had ended, and were then rejected. A value above 0 is a bug in
   * slotbus.
   */
  unsettledAtEnd: number;
  /** Requests that wait for a worker now. */
  queued: number;
  /** Slots in use now. */
  inFlight: number;
  workers: { pid: number; concurrency: number; inFlight: number }[];
  /**
   * Time from the publication of a request to the delivery of its response, in µs. Each value is the upper edge of a bucket 3 %
   * wide; 0 without samples.
   */
  roundTripUs: { p50: number; p99: number; p999: number };
}

/** Counters and samples of a bus. On a wire with shared memory, observers can read them. */
export interface Statistics {
  count(counter: CounterName, by?: number): void;
  /** Records the numbers of queued and unsettled requests. `isTicking`: the next sample follows soon. */
  sample(queued: number, unsettled: number, isTicking: boolean): void;
  snapshot(): Snapshot;
}

/** The counters of {@link BusStats}. */
type Counted = Omit<
  BusStats,
  "requests" | "wakeups" | "spinning" | "unsettledAtEnd" | "queued" | "inFlight" | "workers"
>;

/** Returns the counters with their names in {@link BusStats}. */
export function readCounters(statistics: Statistics): Counted {
  const { counters, roundTrips } = statistics.snapshot();
  const counts = Object.entries(counters).map(([name, count]) => [
    name.replaceAll(/_./g, (c) => c[1]!.toUpperCase()),
    count,
  ]);
  const [p50, p99, p999] = [0.5, 0.99, 0.999].map((quantile) => quantileUs(roundTrips, quantile));
  return { ...Object.fromEntries(counts), roundTripUs: { p50, p99, p999 } } as Counted;
}
