/**
 * Runs worlds of new seeds and prints what they met. Shrinks the first failure to few choices and keeps it in `worlds/`, where
 * `replay.test.ts` runs it from then on. Worlds run in one child process per processor.
 *
 *     bun test/replay/run.ts --worlds 1000 [--seed 7] [--seconds 60] [--jobs 2] [--name NAME]
 */

import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Cells } from "./cells.ts";
import { type Batch, Runner } from "./runner.ts";
import { shrinkWorld } from "./worlds.ts";

/** Number of worlds from which on empty cells are printed, and from which on they are a failure. */
const SOME_WORLDS = 1_000;
const MANY_WORLDS = 3_000;
/** Number of worlds that a child runs before it reports. */
const BATCH = 25;
/** Most child processes without `--jobs`. */
const JOBS = 4;

const { values } = parseArgs({
  options: {
    worlds: { type: "string", default: "1000" },
    seed: { type: "string" },
    seconds: { type: "string", default: "Infinity" },
    jobs: { type: "string", default: String(Math.min(JOBS, availableParallelism())) },
    name: { type: "string" },
    /** Length of stacks in failures; changes the worlds a little. */
    stacks: { type: "string", default: "0" },
    /** Prints the seed only. */
    noshrink: { type: "boolean" },
  },
});
const first = values.seed === undefined ? crypto.getRandomValues(new Uint32Array(1))[0]! : Number(values.seed);
const count = Number(values.worlds);
const seconds = Number(values.seconds);
const cells = new Cells();
const started = performance.now();
const sum = { worlds: 0, calls: 0, faults: 0 };
let given = 0;
let failed: Batch["failed"] = null;

/** Gives batches of seeds to a runner until there are none, the time is over, or a world failed. */
async function work(runner: Runner): Promise<void> {
  while (given < count && !failed && performance.now() - started < seconds * 1_000) {
    const from = (first + given) >>> 0;
    const wanted = Math.min(BATCH, count - given);
    given += wanted;
    const batch = await runner.seeds(from, wanted);
    sum.worlds += batch.worlds;
    sum.calls += batch.calls;
    sum.faults += batch.faults;
    cells.add(batch.cells);
    failed ??= batch.failed;
  }
}

async function shrink(runner: Runner, seed: number): Promise<void> {
  const { choices, failure } = await shrinkWorld(runner, seed);
  console.error(`${choices.length} choices: ${failure}`);
  for (const { name, value } of choices) console.error(`  ${name} = ${value}`);
  const file = join(import.meta.dir, "worlds", `${values.name ?? `seed-${seed}`}.json`);
  writeFileSync(file, `${JSON.stringify({ failure, choices }, null, 2)}\n`);
  console.error(`kept in ${file}`);
}

const runners = Array.from({ length: Math.max(1, Number(values.jobs)) }, () => new Runner());
for (const runner of runners) runner.stacks = Number(values.stacks);
await Promise.all(runners.map(work));
const ms = performance.now() - started;
if (failed) {
  const { seed, failure } = failed as NonNullable<Batch["failed"]>;
  console.error(`seed ${seed}: ${failure}`);
  process.exitCode = 1;
  if (!values.noshrink) await shrink(runners[0]!, seed);
} else console.log(`${cells.exchange}\n${cells.connection}`);
await Promise.all(runners.map((runner) => runner.close()));
for (const table of [cells.exchange, cells.connection]) {
  for (const cell of table.wrong) {
    console.log(`marked as impossible, and met: ${cell}`);
    process.exitCode = 1;
  }
  if (sum.worlds < SOME_WORLDS) continue;
  for (const cell of table.empty) console.log(`empty: ${cell}`);
  if (sum.worlds >= MANY_WORLDS && table.empty.length > 0) process.exitCode = 1;
}
const rate = (sum.worlds / (ms / 1_000)).toFixed(0);
const { worlds, calls, faults } = sum;
console.log(`${worlds} worlds from seed ${first}, ${calls} calls, ${faults} faults, ${rate} worlds per second`);
