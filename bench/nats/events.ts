/** Events over NATS by an iterator, against a bare subscription with a callback, on one server and in one process. */

import { connect } from "@nats-io/transport-node";
import { EventBus, Fleet, topic } from "../../src/events/index.ts";
import { nats } from "../../src/nats/index.ts";
import { median } from "../measure.ts";

/** Number of events that may be under way: below every limit of the server and of a queue. */
const WINDOW = 2_048;
/** Makes payloads of 64 bytes. */
const TEXT = "x".repeat(42);
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Events a second, the better of each, and their ratio: the median over rounds. */
export interface Compared {
  readonly slotbus: number;
  readonly bare: number;
  readonly ratio: number;
}

/** Resolves to a measurement; rejects if it hangs. */
export type Guard = (name: string, running: Promise<number>) => Promise<number>;

/** Returns the medians of both, and the median of the ratios of rounds that ran one after the other. */
export async function compare(
  rounds: number,
  own: () => Promise<number>,
  bare: () => Promise<number>,
  guard: Guard,
): Promise<Compared> {
  const pairs: { slotbus: number; nats: number }[] = [];
  for (let round = 0; round <= rounds; round++) {
    const pair = { slotbus: 0, nats: 0 };
    for (const name of round % 2 === 0 ? (["slotbus", "nats"] as const) : (["nats", "slotbus"] as const))
      pair[name] = await guard(name, name === "slotbus" ? own() : bare());
    if (round > 0) pairs.push(pair); // both are warm
  }
  return {
    slotbus: median(pairs.map((pair) => pair.slotbus)),
    bare: median(pairs.map((pair) => pair.nats)),
    ratio: median(pairs.map((pair) => pair.slotbus / pair.nats)),
  };
}

/** Publishes `count` times, at most {@link WINDOW} events ahead of `received`. */
async function pour(count: number, publish: (n: number) => void, received: () => number): Promise<void> {
  for (let n = 0; n < count;) {
    for (const end = Math.min(count, received() + WINDOW, n + 256); n < end; n++) publish(n);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Measures `count` events a round, with JSON payloads of 64 bytes. Both sides decode each payload, and publish from one connection to another. */
export async function measureEvents(server: string, rounds: number, count: number, guard: Guard): Promise<Compared> {
  const [here, there] = [
    await Fleet.join({ name: "bench", via: nats({ servers: server }) }),
    await Fleet.join({ name: "bench", via: nats({ servers: server }) }),
  ];
  const [out, into] = [await connect({ servers: server }), await connect({ servers: server })];
  try {
    const publisher = await EventBus.open({ fleet: here, ring: "events" });
    const reader = await EventBus.open({ fleet: there, ring: "events" });
    const own = async (): Promise<number> => {
      const subscription = await reader.subscribe(topic("bench.tick"), { queue: { limit: 2 * WINDOW } });
      let received = 0;
      const began = performance.now();
      const pouring = pour(
        count,
        (n) => void publisher.publish("bench.tick", { n, text: TEXT }),
        () => received,
      );
      for await (const event of subscription) {
        if (event.topic === null) throw new Error(`events were lost: ${JSON.stringify(event)}`);
        if ((event.payload as { n: number }).n !== received) throw new Error("an event is not in order");
        if (++received === count) break;
      }
      await pouring;
      return (count * 1_000) / (performance.now() - began);
    };
    const bare = async (): Promise<number> => {
      let received = 0;
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const subscription = into.subscribe("bare.bench.tick", {
        callback: (error, { data }) => {
          if (error) return reject(error);
          if ((JSON.parse(decoder.decode(data)) as { n: number }).n !== received) reject(new Error("not in order"));
          if (++received === count) resolve();
        },
      });
      await into.flush();
      const began = performance.now();
      const pouring = pour(
        count,
        (n) => out.publish("bare.bench.tick", encoder.encode(JSON.stringify({ n, text: TEXT }))),
        () => received,
      );
      await promise;
      await pouring;
      const rate = (count * 1_000) / (performance.now() - began);
      subscription.unsubscribe();
      return rate;
    };
    return await compare(rounds, own, bare, guard);
  } finally {
    await Promise.all([here.close(), there.close(), out.close(), into.close()]);
  }
}
