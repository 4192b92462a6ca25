/**
 * A process that runs worlds for `runner.ts`. It gets jobs as messages and writes one line of JSON for each thing that happens, at
 * once: the lines of a world that never ends have arrived when its process is killed.
 */

import { writeSync } from "node:fs";
import { Cells } from "./cells.ts";
import { Choices } from "./choices.ts";
import type { Job, Line } from "./runner.ts";
import { runWorld, stacks } from "./worlds.ts";

function say(line: Line): void {
  writeSync(1, `${JSON.stringify(line)}\n`);
}

async function runSeeds(from: number, count: number): Promise<void> {
  const cells = new Cells();
  const sum = { worlds: 0, calls: 0, faults: 0 };
  let failed: { seed: number; failure: string } | null = null;
  for (; sum.worlds < count && !failed; sum.worlds++) {
    const seed = (from + sum.worlds) >>> 0;
    say({ begins: seed });
    const { calls, faults, failure } = await runWorld(Choices.ofSeed(seed), cells);
    sum.calls += calls.length;
    sum.faults += faults;
    if (failure !== null) failed = { seed, failure };
  }
  say({ batch: { ...sum, failed, cells: [cells.exchange.counts, cells.connection.counts] } });
}

process.on("message", (job: Job) => {
  stacks.limit = job.stacks;
  if ("from" in job) return void runSeeds(job.from, job.count);
  const choices =
    "seed" in job ? Choices.ofSeed(job.seed, true, { saw: (chosen) => say({ chosen }) }) : Choices.ofList(job.choices);
  void runWorld(choices).then(({ failure }) => say({ world: { failure, choices: choices.taken } }));
});
process.on("disconnect", () => process.exit());
say({ begins: -1 });
