/** What a bus tells about itself: counters in shared memory, percentiles of the shared histogram. */

import { type CounterName, quantileUs, type Snapshot } from "../native/statistics.ts";

/** Result of {@link SlotBus.stats}. Counts are since the bus was created. */
export interface BusStats {
  /** Requests made. */
  requests: number;
  /** Requests given to a worker. */
  published: number;
  /** Answers that came, those counted as `dropped` among them. */
  responses: number;
  /** Of these: errors of the handler. */
  errors: number;
  timeouts: number;
  aborts: number;
  /** Rejected because the queue was full. */
  overloaded: number;
  /** Idempotent requests sent again after a death. */
  retries: number;
  /** Published and taken back before a worker claimed them. */
  withdrawn: number;
  /** Given up while a handler ran. */
  abandoned: number;
  /** Answers that came after the caller had aborted. */
  dropped: number;
  /** Doorbells sent to parked workers. */
  bells: number;
  /** Times the bus left its parked state because a worker rang. */
  wakeups: number;
  workersJoined: number;
  workersLeft: number;
  workersDied: number;
  workersEvicted: number;
  /** Processes of workers that the bus started again after their end. */
  workersRestarted: number;
  /** Times the workers that the bus starts itself were paused because they ended too often. They are paused now if it is more than `workersResumed`. */
  workersPaused: number;
  /** Times a paused pool resumed. */
  workersResumed: number;
  /** Connections turned away. */
  peersRefused: number;
  /** Borrowed responses that were never released; each was reclaimed when it was collected as garbage. */
  borrowsForgotten: number;
  /** Regions whose address space stayed because somebody held a view at the end, or had forgotten a borrow. */
  heldRegions: number;
  /**
   * Requests that were still unsettled after their worker or the bus had ended, and were rejected then. More than 0 is a defect
   * in slotbus.
   */
  unsettledAtEnd: number;
  /** Requests that wait for a worker now. */
  queued: number;
  /** Slots in use now. */
  inFlight: number;
  workers: { pid: number; concurrency: number; inFlight: number }[];
  /** From publication to delivery, in µs; upper edges of buckets 3 % wide; 0 without samples. */
  roundTripUs: { p50: number; p99: number; p999: number };
}

/** Where a bus counts: memory that observers see, when its wire has such. */
export interface Statistics {
  count(counter: CounterName, by?: number): void;
  /** What is in flight now. `isTicking`: a sample like this one follows soon. */
  sample(queued: number, unsettled: number, isTicking: boolean): void;
  snapshot(): Snapshot;
}

/** The part of {@link BusStats} that is counted. */
type Counted = Omit<BusStats, "requests" | "wakeups" | "unsettledAtEnd" | "queued" | "inFlight" | "workers">;

/** Reads the counters, under their names in {@link BusStats}. */
export function readCounters(statistics: Statistics): Counted {
  const { counters, roundTrips } = statistics.snapshot();
  const counts = Object.entries(counters).map(([name, count]) => [
    name.replaceAll(/_./g, (c) => c[1]!.toUpperCase()),
    count,
  ]);
  const [p50, p99, p999] = [0.5, 0.99, 0.999].map((quantile) => quantileUs(roundTrips, quantile));
  return { ...Object.fromEntries(counts), roundTripUs: { p50, p99, p999 } } as Counted;
}
