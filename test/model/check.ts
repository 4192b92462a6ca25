/**
 * Checks `bus.pml` with spin: the bus holds in every configuration, and fails when any of its rules is removed.
 * Needs Debian's packages spin and gcc. `bun test/model/check.ts`; the last line tells how many states were explored.
 */

import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { figuresLine } from "../prove/figures.ts";

/** What may happen besides N requests, and their answers. */
const configurations: string[] = [
  "N=3",
  "N=2 GIVEUPS=1 LATES=1 CANCELS=1",
  "N=2 FUTEX_WAITS=1",
  "N=2 LOSSES=1",
  "N=1 KILLS=1",
  "N=1 EVICTS=1",
  "N=1 STRAYS=1 GIVEUPS=1",
];

/** A rule, a configuration that shows what it is for, and what fails without it. */
const rules: [rule: string, configuration: string, failure: string][] = [
  ["RECHECK_WORKER", "N=2", "invalid end state"],
  ["RECHECK_HUB", "N=2", "invalid end state"],
  ["RECHECK_SLEEP", "N=1 FUTEX_WAITS=1", "invalid end state"],
  ["CLEAR_FIRST", "N=3", "invalid end state"],
  ["LOOK_LAST", "N=2", "invalid end state"],
  ["WORD_FIRST", "N=2", "invalid end state"],
  ["HINT_FIRST", "N=2", "invalid end state"],
  ["HINT_FIRST_HUB", "N=2", "invalid end state"],
  ["ANSWER_FIRST", "N=1 GIVEUPS=1", "own_response"],
  ["GENERATION", "N=3 LATES=1", "own_response"],
  ["TOKEN", "N=3 LATES=1", "own_response"],
  ["QUARANTINE", "N=2 GIVEUPS=1", "quarantine_holds"],
  ["FREED_HINT", "N=2 GIVEUPS=1", "invalid end state"],
  ["DONE_FIRST", "N=2 GIVEUPS=1", "healthy_is_not_evicted"],
  ["TAKE_BACK", "N=2 EVICTS=1", "runs"],
  ["JUDGE", "N=1 KILLS=1", "invalid end state"],
  ["PROOF_OF_DEATH", "N=1 EVICTS=1", "runs_do_not_overlap"],
  ["NEW_REGION", "N=2 EVICTS=1", "quarantine_holds"],
  ["RELEASE_CHECK", "N=1 STRAYS=1", "own_response"],
  ["TICK", "N=1 LOSSES=1", "invalid end state"],
];

const missing = ["spin", "gcc"].filter((tool) => !Bun.which(tool));
if (missing.length > 0) {
  console.error(`lacks ${missing.join(" and ")}: apt-get install -y ${missing.join(" ")}`);
  process.exit(2);
}

interface Outcome {
  /** What pan found: nothing, the name of an assertion, or "invalid end state". */
  error: string;
  states: number;
  seconds: number;
}

const scratch = mkdtempSync(join(tmpdir(), "slotbus-model-"));

async function run(folder: string, command: string[]): Promise<string> {
  const child = Bun.spawn(command, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}:\n${out}${err}`);
  return out;
}

async function explore(settings: string[], optimise: "-O0" | "-O1"): Promise<Outcome> {
  const started = performance.now();
  const folder = mkdtempSync(join(scratch, "run-"));
  copyFileSync(join(import.meta.dir, "bus.pml"), join(folder, "bus.pml"));
  await run(folder, ["spin", "-a", ...settings.map((setting) => `-D${setting}`), "bus.pml"]);
  // Safety only; 4 GB and depth 500 000 at most: running out of either is a failure below.
  await run(folder, ["gcc", optimise, "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4000", "-o", "pan", "pan.c"]);
  const out = await run(folder, ["./pan", "-m500000", "-w24"]);
  const assertion = out.match(/pan:\d+: assertion violated \(?(\w+)/)?.[1];
  const other = out.match(/pan:\d+: (.*) \(at depth/)?.[1];
  const count = out.match(/errors: (\d+)/)?.[1];
  const finished = count !== undefined && !/max search depth too small|out of memory|Search not completed/.test(out);
  rmSync(folder, { recursive: true });
  return {
    error: assertion ?? other ?? (finished && count === "0" ? "" : "the search did not end"),
    states: Number(out.match(/([\d.e+]+) states, stored/)?.[1]),
    seconds: (performance.now() - started) / 1000,
  };
}

let passed = 0;
let failed = 0;
let states = 0;

function report(isGood: boolean, text: string, outcome: Outcome): void {
  if (isGood) passed++;
  else failed++;
  states += outcome.states || 0;
  const size = `${outcome.states} states, ${outcome.seconds.toFixed(1)} s`;
  console.log(`${isGood ? "ok  " : "FAIL"} ${text}: ${outcome.error || "holds"} (${size})`);
}

const jobs: (() => Promise<void>)[] = [
  ...rules.map(([rule, configuration, failure]) => async () => {
    const outcome = await explore([...configuration.split(" "), `NO_${rule}`], "-O0");
    report(outcome.error.startsWith(failure), `without ${rule}, ${configuration}`, outcome);
  }),
  ...configurations.map((configuration) => async () => {
    const outcome = await explore(configuration.split(" "), "-O1");
    report(outcome.error === "", configuration, outcome);
  }),
];

/** Two at a time. */
async function work(): Promise<void> {
  for (let job = jobs.shift(); job; job = jobs.shift()) await job();
}

try {
  await Promise.all([work(), work()]);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
console.log(figuresLine({ states }));
process.exit(failed === 0 ? 0 : 1);
