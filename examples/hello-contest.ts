// Claims: one process at a time holds the lease. `bun examples/hello-contest.ts`
import { Contest, Fleet } from "slotbus/contest";

await using fleet = await Fleet.join({ name: "hello", maxLeases: 8 });
await using contest = await Contest.open({ fleet, owner: "Ada" });
using guard = await contest.claim({ kind: "greeter", label: "hello" }, { ttl: 5_000, timeout: 1_000, renew: true });
guard.signal.addEventListener("abort", () => console.error(guard.signal.reason));

const holder = contest.holder({ kind: "greeter", label: "hello" });
console.log("hello", holder?.owner, contest.closed);
