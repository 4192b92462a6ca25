/** Claims of each system: claim, hold, release. Used by the bench and by the contending processes. */

import { Contest } from "../../src/contest/index.ts";
import { Fleet } from "../../src/fleet/fleet.ts";
import { CommandError } from "../../src/cli/usage.ts";

/** Names in the JSON. */
export const SYSTEMS = ["slotbus", "redis"] as const;

export type SystemName = (typeof SYSTEMS)[number];

export const FLEET = "bench-contest";
/** Longer than any round. */
export const LONG_MS = 60_000;
/** TTL in Redis, where only expiry shows that a holder is dead. The holder renews after a third of it. */
export const SHORT_MS = 300;
/** Pause between attempts to take over from a dead holder in Redis. */
const RETRY_MS = 1;

/** Claims of one system. */
export interface Locks {
  /** Claims a free subject and releases it. */
  pair(label: string): void | Promise<void>;
  /** Waits for the claim, calls `visit`, releases the claim, as fast as the system can. */
  visit(label: string, visit: () => void): Promise<void>;
  /** Waits for the claim and holds it until the process ends. */
  keep(label: string): Promise<void>;
  close(): void | Promise<void>;
}

async function openOwn(directory: string): Promise<Locks> {
  const fleet = await Fleet.join({ name: FLEET, directory });
  const contest = await Contest.open({ fleet });
  const options = { ttl: LONG_MS };
  const subject = (label: string) => ({ kind: "bench", label });
  const kept: unknown[] = [];
  return {
    pair: (label) => {
      const outcome = contest.tryClaim(subject(label), options);
      if (!outcome.claimed || !outcome.guard.release())
        throw new CommandError("slotbus refused a claim although no other process contends");
    },
    visit: async (label, visit) => {
      using _guard = await contest.claim(subject(label), options);
      visit();
    },
    keep: async (label) => void kept.push(await contest.claim(subject(label), options)),
    close: () => fleet.close(),
  };
}

/** Deletes the key if it is still ours. */
const RELEASE = `if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) else return 0 end`;

async function openRedis(address: string): Promise<Locks> {
  const client = new Bun.RedisClient(address);
  await client.connect();
  const script = (await client.send("SCRIPT", ["LOAD", RELEASE])) as string;
  const owner = crypto.randomUUID();
  const claim = async (label: string, ttl: number): Promise<boolean> =>
    (await client.send("SET", [label, owner, "NX", "PX", String(ttl)])) === "OK";
  const release = async (label: string): Promise<void> => {
    if ((await client.send("EVALSHA", [script, "1", label, owner])) !== 1) throw new CommandError("redis lost a key");
  };
  return {
    pair: async (label) => {
      if (!(await claim(label, LONG_MS)))
        throw new CommandError("redis refused a claim although no other process contends");
      await release(label);
    },
    visit: async (label, visit) => {
      while (!(await claim(label, LONG_MS)));
      visit();
      await release(label);
    },
    keep: async (label) => {
      while (!(await claim(label, SHORT_MS))) await Bun.sleep(RETRY_MS);
      setInterval(() => void client.send("PEXPIRE", [label, String(SHORT_MS)]), SHORT_MS / 3);
    },
    close: () => client.close(),
  };
}

/** `address`: the runtime directory of slotbus, or the address of Redis. */
export function openLocks(system: SystemName, address: string): Promise<Locks> {
  return system === "slotbus" ? openOwn(address) : openRedis(address);
}
