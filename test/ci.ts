/**
 * Everything that must hold, stage by stage; `.ci/run` starts it. Ends with the time of each stage, each failure by name, and
 * the line "N passed, N failed".
 *
 *     bun test/ci.ts [--all] [--record] [--stages FILE]
 *
 * `--all` also proves what is recorded as proved. `--record` stores what passed. `--stages` runs the stages of a JSON file
 * instead.
 */

import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Expected, report, runStage, type Stage, type StageResult } from "./ci/stages.ts";

const { values } = parseArgs({
  options: {
    all: { type: "boolean", default: false },
    record: { type: "boolean", default: false },
    stages: { type: "string" },
  },
});
const root = join(import.meta.dir, "..");
process.chdir(root);
process.env["PATH"] = `${join(root, "node_modules/.bin")}:${process.env["PATH"]}`;

const { tests, checks, skips } = (await Bun.file(join(import.meta.dir, "ci.json")).json()) as Expected;
const proved = [values.all ? "--all" : "", values.record ? "--record" : ""].filter(Boolean);

const own: Stage[] = [
  { name: "versions of Node", command: ["npm", "run", "-s", "nodes"] },
  { name: "npm test", command: ["npm", "test", "--"], reads: "junit", least: tests, skips },
  { name: "lint", command: ["npm", "run", "-s", "lint"] },
  { name: "types", command: ["npm", "run", "-s", "check"] },
  { name: "a minute of new worlds", command: "npm run -s replay -- --worlds 1000000 --seconds 60".split(" ") },
  { name: "tools for the system tests", command: ["sh", "test/system/install.sh"] },
  {
    name: "system",
    command: ["npm", "run", "-s", "test:system", "--", ...proved],
    reads: "outcomes",
    least: checks,
  },
  { name: "proofs", command: ["npm", "run", "-s", "prove", "--", "--ci", ...proved], reads: "outcomes" },
];

const stages = values.stages ? ((await Bun.file(values.stages).json()) as Stage[]) : own;
const results: StageResult[] = [];
for (const stage of stages) {
  process.stdout.write(`== ${stage.name}\n`);
  results.push(await runStage(stage));
}
process.stdout.write(`\n${report(results)}`);
process.exit(results.some(({ failures }) => failures.length > 0) ? 1 : 0);
