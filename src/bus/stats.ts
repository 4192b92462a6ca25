/** What a bus tells about itself: counters in shared memory, percentiles of the shared histogram. */

import { C, native, type Pointer } from "../native/library.ts";

/** Result of {@link SlotBus.stats}. Counts are since the bus was created. */
export interface BusStats {
  /** Requests made. */
  requests: number;
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

/** The part of {@link BusStats} that lives in shared memory. */
export function readCounters(hub: Pointer) {
  const get = (counter: number): number => native.sb_stats_get(hub, counter);
  const us = (quantile: number): number => native.sb_stats_quantile(hub, quantile) / 1000;
  return {
    responses: get(C.SB_C_RESPONDED),
    errors: get(C.SB_C_ERRORS),
    timeouts: get(C.SB_C_TIMEOUTS),
    aborts: get(C.SB_C_ABORTS),
    overloaded: get(C.SB_C_OVERLOADED),
    retries: get(C.SB_C_RETRIES),
    withdrawn: get(C.SB_C_WITHDRAWN),
    abandoned: get(C.SB_C_ABANDONED),
    dropped: get(C.SB_C_DROPPED),
    bells: get(C.SB_C_BELLS),
    workersJoined: get(C.SB_C_JOINED),
    workersLeft: get(C.SB_C_LEFT),
    workersDied: get(C.SB_C_DIED),
    workersEvicted: get(C.SB_C_EVICTED),
    workersRestarted: get(C.SB_C_RESTARTED),
    workersPaused: get(C.SB_C_PAUSED),
    workersResumed: get(C.SB_C_RESUMED),
    peersRefused: get(C.SB_C_REFUSED),
    borrowsForgotten: get(C.SB_C_FORGOTTEN),
    heldRegions: get(C.SB_C_UNMAPPED),
    roundTripUs: { p50: us(0.5), p99: us(0.99), p999: us(0.999) },
  };
}
