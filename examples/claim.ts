// A claim: one of several processes does the work. `bun examples/claim.ts`
import { Contest, Fleet } from "slotbus/contest";

await using fleet = await Fleet.join({ name: "mailers" });
const contest = await Contest.open({ fleet, owner: `mailer ${process.pid}` });

const attempt = contest.tryClaim({ kind: "invoice", label: "2041" }, { ttl: 30_000 });
if (attempt.claimed) {
  using guard = attempt.guard; // released at the end of this block, when the process dies, or after its ttl
  console.log(`claimed ${guard.subject.label} with token ${guard.token}`);
} else {
  console.log(`${attempt.holder.owner} is working on it`);
}
