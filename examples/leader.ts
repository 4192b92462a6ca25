// Leader election: one of three processes leads; when it dies, another one takes over. `bun examples/leader.ts`
import { Contest, Fleet } from "slotbus/contest";

const subject = { kind: "leader", label: "mailer" };
await using fleet = await Fleet.join({ name: "mailers" });
const contest = await Contest.open({ fleet });

if (process.argv[2] === "candidate") {
  using lease = await contest.claim(subject, { ttl: 5_000, renew: true });
  console.log(`${process.pid} leads`);
  while (!lease.signal.aborted) await Bun.sleep(10); // works until it is killed or has lost the lease
} else {
  const candidate = [process.execPath, import.meta.path, "candidate"];
  const candidates = [1, 2, 3].map(() => Bun.spawn(candidate, { stdio: ["ignore", "inherit", "inherit"] }));
  const first = await leader((holder) => holder !== null);
  candidates.find(({ pid }) => pid === first.pid)!.kill("SIGKILL");
  const second = await leader((holder) => holder !== null && holder.token > first.token);
  console.log(`${first.pid} was killed; ${second.pid} leads with a higher token`);
  for (const process of candidates) {
    process.kill("SIGKILL");
    await process.exited;
  }
}

async function leader(isIt: (holder: ReturnType<Contest["holder"]>) => boolean) {
  for (;;) {
    const holder = contest.holder(subject);
    if (isIt(holder)) return holder!;
    await Bun.sleep(1);
  }
}
