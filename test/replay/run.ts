/**
 * Runs worlds of new seeds and prints what they met. Shrinks the first failure to few choices and keeps it in `worlds/`, where
 * `replay.test.ts` runs it from then on.
 *
 *     bun test/replay/run.ts --worlds 1000 [--seed 7] [--seconds 60] [--name NAME]
 */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Cells } from "./cells.ts";
import { Choices } from "./choices.ts";
import { runWorld, shrinkWorld, stacks } from "./worlds.ts";

/** Number of worlds from which on empty cells are printed, and from which on they are a failure. */
const SOME_WORLDS = 3_000;
const MANY_WORLDS = 10_000;

const { values } = parseArgs({
  options: {
    worlds: { type: "string", default: "1000" },
    seed: { type: "string" },
    seconds: { type: "string", default: "Infinity" },
    name: { type: "string" },
    /** Length of stacks in failures; changes the worlds a little. */
    stacks: { type: "string" },
    /** Prints the seed only. */
    noshrink: { type: "boolean" },
  },
});
if (values.stacks) stacks.limit = Number(values.stacks);
const first = values.seed === undefined ? crypto.getRandomValues(new Uint32Array(1))[0]! : Number(values.seed);
const count = Number(values.worlds);
const seconds = Number(values.seconds);
const cells = new Cells();
const started = performance.now();
let done = 0;
let calls = 0;
let faults = 0;
for (; done < count && performance.now() - started < seconds * 1_000; done++) {
  const seed = (first + done) >>> 0;
  const world = await runWorld(Choices.ofSeed(seed), cells);
  calls += world.calls.length;
  faults += world.faults;
  if (world.failure === null) continue;
  console.error(`seed ${seed}: ${world.failure}`);
  process.exitCode = 1;
  if (values.noshrink) break;
  const { choices, failure } = await shrinkWorld(seed);
  console.error(`${choices.length} choices: ${failure}`);
  for (const { name, value } of choices) console.error(`  ${name} = ${value}`);
  const file = join(import.meta.dir, "worlds", `${values.name ?? `seed-${seed}`}.json`);
  writeFileSync(file, `${JSON.stringify({ failure, choices }, null, 2)}\n`);
  console.error(`kept in ${file}`);
  break;
}
const ms = performance.now() - started;
if (process.exitCode !== 1) console.log(`${cells.exchange}\n${cells.connection}`);
for (const table of [cells.exchange, cells.connection]) {
  for (const cell of table.wrong) {
    console.log(`marked as impossible, and met: ${cell}`);
    process.exitCode = 1;
  }
  if (done < SOME_WORLDS) continue;
  for (const cell of table.empty) console.log(`empty: ${cell}`);
  if (done >= MANY_WORLDS && table.empty.length > 0) process.exitCode = 1;
}
console.log(
  `${done} worlds from seed ${first}, ${calls} calls, ${faults} faults, ${(done / (ms / 1_000)).toFixed(0)} worlds per second`,
);
process.exit(); // a killed client may have left a hold on this process
