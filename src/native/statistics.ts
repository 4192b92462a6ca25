/** Decodes the statistics that a bus keeps in shared memory. */

import { C, FIELDS } from "./abi.ts";

/** States of a slot, indexed by their number in shared memory. */
export const STATE_NAMES = ["FREE", "WRITING", "READY", "CLAIMED", "DONE", "ABANDONED", "STREAMING"] as const;
/** Name of a state of a slot. */
export type StateName = (typeof STATE_NAMES)[number];

/** Index and help text of each counter. */
export const COUNTERS = {
  published: [C.SB_C_PUBLISHED, "Requests published to a worker."],
  responses: [C.SB_C_RESPONDED, "Responses received, including discarded ones."],
  errors: [C.SB_C_ERRORS, "Responses that are errors of the handler."],
  timeouts: [C.SB_C_TIMEOUTS, "Requests that timed out."],
  aborts: [C.SB_C_ABORTS, "Requests aborted by the caller."],
  overloaded: [C.SB_C_OVERLOADED, "Requests rejected because the queue was full."],
  retries: [C.SB_C_RETRIES, "Idempotent requests retried after a worker died."],
  moves: [C.SB_C_MOVED, "Requests taken back from a worker that did not claim them, for another worker."],
  withdrawn: [C.SB_C_WITHDRAWN, "Requests withdrawn before a worker claimed them."],
  abandoned: [C.SB_C_ABANDONED, "Requests given up while a handler ran."],
  dropped: [C.SB_C_DROPPED, "Responses discarded because the caller had given up."],
  bells: [C.SB_C_BELLS, "Doorbells sent to parked workers."],
  contentions: [
    C.SB_C_CONTENTIONS,
    "Times that the bus stopped spinning because other programs needed the processors.",
  ],
  workers_joined: [C.SB_C_JOINED, "Workers that attached."],
  workers_left: [C.SB_C_LEFT, "Workers that left with a goodbye."],
  workers_died: [C.SB_C_DIED, "Workers whose connection ended without a goodbye."],
  workers_evicted: [C.SB_C_EVICTED, "Workers that the bus evicted for breaking the protocol or for hanging."],
  workers_restarted: [C.SB_C_RESTARTED, "Worker processes restarted after they ended."],
  workers_paused: [C.SB_C_PAUSED, "Times that the pool was paused because its workers ended too often."],
  workers_resumed: [C.SB_C_RESUMED, "Times that a paused pool resumed."],
  peers_refused: [C.SB_C_REFUSED, "Connections that were refused."],
  borrows_forgotten: [C.SB_C_FORGOTTEN, "Borrowed responses that were never released."],
  held_regions: [C.SB_C_UNMAPPED, "Regions that stay mapped after their end because user code still has a view."],
} as const;

/** Name of a counter. */
export type CounterName = keyof typeof COUNTERS;

/** A worker in the statistics. */
export interface SnapshotWorker {
  /** Id of the attachment; unique within the bus. */
  id: number;
  pid: number;
  uid: number;
  concurrency: number;
  /** Slots in use. */
  inFlight: number;
  /** Time since it attached, in ms. */
  ageMs: number;
  /** Whether it spun while it waited, when it last went to sleep, and if not, why; `null`: unknown. */
  spinning: Spinning | null;
  slots: Record<StateName, number>;
}

/** Whether a side of a bus spins while it waits: see `spinning` of `SlotBus.stats`. */
export type Spinning = "on" | "off" | "vain" | "contended";

/** By number in shared memory; 0: unknown. */
export const SPINNING: readonly (Spinning | null)[] = [null, "on", "vain", "contended", "off"];

/** The statistics of a bus at one moment. */
export interface Snapshot {
  /** Process id of the client. */
  pid: number;
  /** Slots of each worker. */
  slots: number;
  /** Time since the bus was created, in ms. */
  ageMs: number;
  counters: Record<CounterName, number>;
  /** Number of requests in the queue. */
  queued: number;
  /** Number of requests that are not settled. */
  unsettled: number;
  /**
   * Time for which the client has not checked its requests in flight, although it should have, in ms; 0 when it checks
   * them or nothing is in flight.
   */
  silentMs: number;
  workers: SnapshotWorker[];
  /** Histogram of response times, from publication to delivery; {@link bucketEdge} is the upper edge of a bucket. */
  roundTrips: number[];
  /** Sum of all response times, in ns. */
  roundTripSum: number;
}

/** Time without a check after which the client counts as silent, in ms. Far above the time between two checks. */
const SILENT_MS = 1_000;

/** Number of histogram buckets for each power of two. */
export const SUB_BUCKETS = C.SB_HIST_SUB;

/** Returns the upper edge of a histogram bucket, in ns. */
export function bucketEdge(bucket: number): number {
  const octave = Math.floor(bucket / C.SB_HIST_SUB);
  const part = bucket % C.SB_HIST_SUB;
  return octave === 0 ? part : (C.SB_HIST_SUB + part + 1) * 2 ** (octave - 1);
}

/** Returns a quantile of a histogram in µs (the upper edge of its bucket); 0 without samples. */
export function quantileUs(buckets: readonly number[], quantile: number): number {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  if (total === 0) return 0;
  let seen = 0;
  const at = buckets.findIndex((count) => (seen += count) >= quantile * total && seen > 0);
  return bucketEdge(at) / 1000;
}

/** Returns the samples of each bucket since `before`. */
export function bucketsSince(now: readonly number[], before: readonly number[]): number[] {
  return now.map((count, bucket) => count - before[bucket]!);
}

/** Decodes a copy of `struct sb_stats`. `nowMs`: the current time of `sb_now_ms`. */
export function readSnapshot(copy: Buffer, nowMs: number): Snapshot {
  const word = (name: keyof typeof FIELDS, index = 0): number =>
    Number(copy.readBigUInt64LE(FIELDS[name][0] + 8 * index));
  const ageOf = (ns: number): number => Math.max(0, nowMs - ns / 1e6);
  const sampledAge = ageOf(word("sb_stats.sampled_ns"));
  const counters = Object.entries(COUNTERS).map(([name, [index]]) => [name, word("sb_stats.counters", index)]);
  return {
    pid: copy.readUInt32LE(FIELDS["sb_stats.pid"][0]),
    slots: copy.readUInt32LE(FIELDS["sb_stats.slots"][0]),
    ageMs: ageOf(word("sb_stats.created_ns")),
    counters: Object.fromEntries(counters) as Record<CounterName, number>,
    queued: word("sb_stats.gauges", C.SB_G_QUEUED),
    unsettled: word("sb_stats.gauges", C.SB_G_UNSETTLED),
    silentMs: word("sb_stats.gauges", C.SB_G_TICKING) === 1 && sampledAge > SILENT_MS ? sampledAge : 0,
    workers: readWorkers(copy, ageOf),
    roundTrips: Array.from({ length: C.SB_HIST_BUCKETS }, (_, i) => word("sb_stats.round_trip", i)),
    roundTripSum: word("sb_stats.round_trip_sum"),
  };
}

function readWorkers(copy: Buffer, ageOf: (ns: number) => number): SnapshotWorker[] {
  const workers: SnapshotWorker[] = [];
  for (let index = 0; index < C.SB_LINKS_MAX; index++) {
    const at = FIELDS["sb_stats.link"][0] + index * C.SB_STATS_LINK_BYTES;
    const word = (name: keyof typeof FIELDS, i = 0): number => copy.readUInt32LE(at + FIELDS[name][0] + 4 * i);
    const id = word("sb_stats_link.life");
    if (id === 0) continue;
    workers.push({
      id,
      pid: word("sb_stats_link.pid"),
      uid: word("sb_stats_link.uid"),
      concurrency: word("sb_stats_link.concurrency"),
      inFlight: word("sb_stats_link.used"),
      spinning: SPINNING[word("sb_stats_link.spinning")] ?? null,
      ageMs: ageOf(Number(copy.readBigUInt64LE(at + FIELDS["sb_stats_link.joined_ns"][0]))),
      slots: Object.fromEntries(
        STATE_NAMES.map((name, state) => [name, word("sb_stats_link.states", state)]),
      ) as SnapshotWorker["slots"],
    });
  }
  return workers;
}
