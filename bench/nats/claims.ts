/** A claim and its release over NATS, against `kv.create` and `kv.delete` of the bare client, on one server and in one process. */

import { Kvm } from "@nats-io/kv";
import { connect } from "@nats-io/transport-node";
import { Contest, Fleet } from "../../src/contest/index.ts";
import { nats } from "../../src/nats/index.ts";
import { type Compared, compare, type Guard } from "./events.ts";

const TTL_MS = 60_000;

/** Measures `count` pairs a round, one after the other. Each pair has a key of its own, or all have one. */
export async function measureClaims(
  server: string,
  rounds: number,
  count: number,
  keys: "one" | "many",
  guard: Guard,
): Promise<Compared> {
  const fleet = await Fleet.join({ name: "bench", via: nats({ servers: server }) });
  const connection = await connect({ servers: server });
  try {
    const contest = await Contest.open({ fleet });
    const bucket = await new Kvm(connection).create("bare", { history: 1, markerTTL: 1_000 });
    let serial = 0;
    const label = (): string => (keys === "one" ? "key" : `key-${serial++}`);
    const rate = async (pair: (label: string) => Promise<void>): Promise<number> => {
      const began = performance.now();
      for (let n = 0; n < count; n++) await pair(label());
      return (count * 1_000) / (performance.now() - began);
    };
    const own = (): Promise<number> =>
      rate(async (one) => {
        const attempt = await contest.tryClaim({ kind: "bench", label: one }, { ttl: TTL_MS });
        if (!attempt.claimed || !(await attempt.guard.release())) throw new Error("a claim failed");
      });
    const bare = (): Promise<number> =>
      rate(async (one) => {
        await bucket.create(one, "value", `${TTL_MS / 1_000}s`);
        await bucket.delete(one);
      });
    return await compare(rounds, own, bare, guard);
  } finally {
    await Promise.all([fleet.close(), connection.close()]);
  }
}
