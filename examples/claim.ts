// A claim: of equal processes one does the work. `bun examples/claim.ts`
import { Contest, Fleet } from "slotbus/contest";

await using fleet = await Fleet.join({ name: "mailers" });
const contest = await Contest.open({ fleet, owner: `mailer ${process.pid}` });

const attempt = contest.tryClaim({ kind: "invoice", label: "2041" }, { ttl: 30_000 });
if (attempt.claimed) {
  using guard = attempt.guard; // ends with this block, with the process however that ends, or when its ttl is over
  console.log(`${guard.subject.label} is ours, under token ${guard.token}`);
} else {
  console.log(`${attempt.holder.owner} is at it`);
}
