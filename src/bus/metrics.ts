/** The statistics of a bus in the Prometheus text format. */

import {
  bucketEdge,
  type CounterName,
  COUNTERS,
  type Snapshot,
  STATE_NAMES,
  SUB_BUCKETS,
} from "../native/statistics.ts";
import { Exposition } from "./exposition.ts";

/** Returns the metrics of one bus. */
export function busMetrics(bus: string, snapshot: Snapshot): string {
  const text = new Exposition();
  const gauge = (name: string, help: string, value: number): void =>
    void text.family(name, "gauge", help).sample({ bus }, value);
  for (const [name, [, help]] of Object.entries(COUNTERS))
    text.family(`slotbus_${name}_total`, "counter", help).sample({ bus }, snapshot.counters[name as CounterName]);
  gauge("slotbus_queued", "Requests that wait for a worker.", snapshot.queued);
  gauge("slotbus_unsettled", "Requests whose caller waits.", snapshot.unsettled);
  gauge("slotbus_workers", "Attached workers.", snapshot.workers.length);
  text.family("slotbus_slots", "gauge", "Slots of all workers, by state.");
  for (const state of STATE_NAMES) {
    const count = snapshot.workers.reduce((sum, worker) => sum + worker.slots[state], 0);
    text.sample({ bus, state }, count);
  }
  text.family("slotbus_worker_in_flight", "gauge", "Slots in use, by worker.");
  for (const { id, pid, inFlight } of snapshot.workers) text.sample({ bus, worker: id, pid }, inFlight);
  text
    .family(
      "slotbus_round_trip_seconds",
      "histogram",
      "Time from the publication of a request to the delivery of its response.",
    )
    .histogram(
      { bus },
      {
        buckets: coarse(snapshot.roundTrips),
        count: snapshot.roundTrips.reduce((sum, count) => sum + count, 0),
        sum: snapshot.roundTripSum / 1e9,
      },
    );
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
