/** The statistics of a bus in the Prometheus text format. */

import {
  bucketEdge,
  type CounterName,
  COUNTERS,
  type Snapshot,
  STATE_NAMES,
  SUB_BUCKETS,
} from "../native/statistics.ts";
import { Exposition, type Labels } from "./exposition.ts";

/** A client of a bus with its statistics. */
export interface ClientMetrics {
  /** Number of the client on a shared bus; `null` for the owner of a bus. */
  readonly client: number | null;
  readonly snapshot: Snapshot;
}

/**
 * Returns the metrics of clients of one bus. On a shared bus, each sample has the label `client`. `isLinked`: whether the NATS server can
 * be reached; `undefined` without one.
 */
export function busMetrics(bus: string, clients: readonly ClientMetrics[], isLinked?: boolean): string {
  const text = new Exposition();
  const each = (add: (labels: Labels, snapshot: Snapshot) => void): void => {
    for (const { client, snapshot } of clients) add(client === null ? { bus } : { bus, client }, snapshot);
  };
  const gauge = (name: string, help: string, value: (snapshot: Snapshot) => number): void => {
    text.family(name, "gauge", help);
    each((labels, snapshot) => text.sample(labels, value(snapshot)));
  };
  for (const [name, [, help]] of Object.entries(COUNTERS)) {
    text.family(`slotbus_${name}_total`, "counter", help);
    each((labels, { counters }) => text.sample(labels, counters[name as CounterName]));
  }
  gauge("slotbus_queued", "Requests that wait for a worker.", ({ queued }) => queued);
  gauge("slotbus_unsettled", "Requests whose caller waits.", ({ unsettled }) => unsettled);
  gauge("slotbus_workers", "Attached workers.", ({ workers }) => workers.length);
  if (isLinked !== undefined)
    gauge("slotbus_connected", "1 while the NATS server can be reached.", () => Number(isLinked));
  text.family("slotbus_slots", "gauge", "Slots of all workers, by state.");
  each((labels, { workers }) => {
    for (const state of STATE_NAMES) {
      const count = workers.reduce((sum, worker) => sum + worker.slots[state], 0);
      text.sample({ ...labels, state }, count);
    }
  });
  text.family("slotbus_worker_in_flight", "gauge", "Slots in use, by worker.");
  each((labels, { workers }) => {
    for (const { id, pid, inFlight } of workers) text.sample({ ...labels, worker: id, pid }, inFlight);
  });
  text.family(
    "slotbus_round_trip_seconds",
    "histogram",
    "Time from the publication of a request to the delivery of its response.",
  );
  each((labels, { roundTrips, roundTripSum }) => {
    const count = roundTrips.reduce((sum, one) => sum + one, 0);
    text.histogram(labels, { buckets: coarse(roundTrips), count, sum: roundTripSum / 1e9 });
  });
  return text.toString();
}

/** Merges buckets into one per power of two, from a microsecond to two minutes. */
function coarse(buckets: readonly number[]): [bound: number, count: number][] {
  const bounds: [number, number][] = [];
  let below = 0;
  for (const [bucket, count] of buckets.entries()) {
    below += count;
    const edge = bucketEdge(bucket);
    const isLast = bucket % SUB_BUCKETS === SUB_BUCKETS - 1;
    if (isLast && edge >= 1_000 && edge <= 140e9) bounds.push([edge / 1e9, below]);
  }
  return bounds;
}
