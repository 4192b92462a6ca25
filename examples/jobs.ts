// All workers get the same jobs; claims make sure that each job is done once. `bun examples/jobs.ts`
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { Contest, Fleet } from "slotbus/contest";

const [, , role, folder] = process.argv;

if (role === "worker") {
  await using fleet = await Fleet.join({ name: "jobs" });
  const contest = await Contest.open({ fleet, owner: `worker ${process.pid}` });
  for (const job of ["invoice-1", "invoice-2", "invoice-3", "invoice-4"]) {
    const attempt = contest.tryClaim({ kind: "job", label: job }, { ttl: 30_000 });
    if (!attempt.claimed) continue; // attempt.holder works on it; if that process dies, its lease is free at once
    using guard = attempt.guard;
    const result = Bun.file(`${folder}/${job}`);
    if (await result.exists()) continue; // already done
    await Bun.sleep(5); // the work
    await result.write(`with token ${guard.token}`);
    console.log(job);
  }
} else {
  const results = mkdtempSync(`${tmpdir()}/jobs-`);
  const command = [process.execPath, import.meta.path, "worker", results];
  const workers = [1, 2, 3].map(() => Bun.spawn(command, { stdout: "pipe", stderr: "inherit" }));
  const done = (await Promise.all(workers.map(({ stdout }) => stdout.text()))).join("").trim().split("\n");
  console.log(`3 workers did ${done.length} jobs: ${done.sort().join(", ")}`);
  rmSync(results, { recursive: true });
}
