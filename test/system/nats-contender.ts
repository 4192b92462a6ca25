/**
 * A process that claims leases over NATS, for nats-claims.ts. It prints one line for each step, with the machine's monotonic clock.
 *
 *     bun nats-contender.ts URLS FLEET stale LABEL        holds a lease, and writes with its token, also when the lease is lost
 *     bun nats-contender.ts URLS FLEET contend LABELS ID  claims, holds and releases leases until SIGTERM
 */

import { Contest, Fleet, type PortableContest } from "../../src/contest/index.ts";
import { native } from "../../src/native/library.ts";
import { nats } from "../../src/nats/index.ts";

const [servers = "", name = "", what, label = "", id = "holder"] = process.argv.slice(2);
const fleet = await Fleet.join({ name, via: nats({ servers: servers.split(",") }) });
const contest = await Contest.open({ fleet, owner: id });
/** One clock for all processes of the machine; `process.hrtime` begins with the process. */
const clock = (): number => native.sb_now_ms();
const say = (...words: unknown[]): void => void process.stdout.write(`${words.join(" ")}\n`);

if (what === "stale") await stale();
else await Promise.all(label.split(",").map((one) => contend(contest, one)));
await fleet.close();

async function stale(): Promise<void> {
  const guard = await contest.claim({ kind: "system", label }, { ttl: 1_000, renew: true });
  let isLost = false;
  guard.signal.addEventListener("abort", () => {
    isLost = true;
    say("lost", guard.token);
  });
  say("claimed", guard.token);
  for (let after = 0; after < 20; after += isLost ? 1 : 0) {
    say("write", guard.token);
    await Bun.sleep(5);
  }
}

/** Prints each interval in which this process believed that it held the lease. */
async function contend(on: PortableContest, one: string): Promise<void> {
  let isOver = false;
  process.on("SIGTERM", () => (isOver = true));
  for (let n = 0; !isOver; n++) {
    const options = { ttl: 1_000 + (n % 2) * 500, renew: n % 3 > 0, timeout: 2_000 };
    const guard = await on.claim({ kind: "system", label: one }, options).catch((error: Error & { code?: string }) => {
      const isKnown = ["CLAIM_TIMEOUT", "CLAIM_UNCONFIRMED", "DISCONNECTED"].includes(error.code ?? "");
      if (!isKnown) say("failed", error.code, error.message);
      return null;
    });
    if (!guard) continue;
    const [now, offset] = [clock(), clock() - (await on.now())];
    let end = Infinity;
    guard.signal.addEventListener("abort", () => (end = Math.min(end, clock())));
    for (const until = now + Math.random() * 600; clock() < until && !guard.signal.aborted;) await Bun.sleep(5);
    end = Math.min(end, clock(), guard.expiresAt + offset);
    // From here on this process does nothing as the holder. If it was stopped while it claimed, it never was one: the end is before `now`.
    const how = await Promise.resolve(guard.release()).then(
      String,
      (error: Error & { code?: string }) => error.code ?? error.name,
    );
    const left = Math.round(guard.expiresAt + offset - end);
    say("held", one, guard.token, now, end, `${JSON.stringify(options)}, ${left} ms left, released: ${how}`);
  }
}
