/**
 * Checks `bus.pml`, `stream.pml`, `clients.pml`, `ring.pml` and `lease.pml` with spin: each model holds in every configuration, and
 * fails when one of its rules is removed. Needs Debian's packages spin and gcc. The last line has the number of explored states.
 *
 *     bun test/model/check.ts [ci | quick | long] [--sample] [MODEL ...]
 *
 * `--sample` runs a few of the searches, chosen at random.
 */

import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { figuresLine, sizeAsked } from "../prove/figures.ts";
import { sample } from "../prove/proved.ts";

type Model = "bus" | "stream" | "clients" | "ring" | "lease";

/** Limits of what may happen in a search. The models explain each name. */
const configurations: [model: Model, configuration: string][] = [
  ["bus", "N=3"],
  ["bus", "N=2 GIVEUPS=1 LATES=1 CANCELS=1"],
  ["bus", "N=2 MOVES=1"],
  ["bus", "N=1 MOVES=1 GIVEUPS=1 LATES=1"],
  ["bus", "N=2 FUTEX_WAITS=1"],
  ["bus", "N=2 HOLDS=1"],
  ["bus", "N=2 HOLDS=1 FUTEX_WAITS=1"],
  ["bus", "N=1 HOLDS=1 KILLS=1"],
  ["bus", "N=2 LOSSES=1"],
  ["bus", "N=1 KILLS=1"],
  ["bus", "N=1 EVICTS=1"],
  ["bus", "N=1 STRAYS=1 GIVEUPS=1"],
  ["stream", "N=3 UP=1 DOWN=1"],
  ["stream", "N=1 UP=2 DOWN=1"],
  ["stream", "N=2 UP=4 RING=2 NEED=2"],
  ["stream", "N=1 UP=2 DOWN=1 EARLY=1 GIVEUPS=1"],
  ["stream", "N=2 UP=3 RING=2 EARLY=1 GIVEUPS=1"],
  ["stream", "N=2 DOWN=3 RING=2 FAILS=1 GIVEUPS=1"],
  ["stream", "N=2 DOWN=3 RING=2 LATES=1"],
  ["stream", "N=1 UP=1 DOWN=1 KILLS=1"],
  ["stream", "N=1 DOWN=3 RING=2 FAILS=1 KILLS=1"],
  ["stream", "N=1 UP=3 RING=2 CLIENT_KILLS=1"],
  ["clients", "NAMES=2"],
  ["clients", "NAMES=1 KILLS=1"],
  ["clients", "DOORS=2 KILLS=1"],
  ["clients", "DOORS=1 WORKERS=2"],
  ["clients", "REGIONS=2"],
  ["clients", "REGIONS=3 CONCURRENCY=2"],
  ["clients", "REGIONS=2 SECOND=2 KILLS=1"],
  ["clients", "REGIONS=1 SECOND=0 WORKERS=2 MOVES=2"],
  ["ring", "WRITERS=1 EVENTS=3"],
  ["ring", "WRITERS=1 EVENTS=3 LATE=1"],
  ["ring", "WRITERS=1 EVENTS=3 RING=4 PARTS=2"],
  ["ring", "WRITERS=2 EVENTS=1 KILLS=1"],
  ["ring", "WRITERS=1 EVENTS=2 KILLS=1 JOINS=1"],
  ["ring", "WRITERS=1 EVENTS=2 READERS=2 SLEEP=1"],
  ["ring", "WRITERS=2 EVENTS=1 SLEEP=1 KILLS=1"],
  ["ring", "WRITERS=1 EVENTS=1 SLEEP=1 KILLS=1 READER_KILLS=1 JOINS=1"],
  ["lease", "WORKERS=2 OPS=2 TICKS=1"],
  ["lease", "WORKERS=2 OPS=2 KILLS=1"],
  ["lease", "WORKERS=1 OPS=3 LOOKS=1"],
  ["lease", "WORKERS=2 OPS=1 SUBJECTS=2 ENTRIES=2 KILLS=1"],
  ["lease", "WORKERS=1 WAITERS=1 OPS=1 KILLS=1 JOINS=1"],
  ["lease", "WORKERS=1 WAITERS=1 OPS=2 KILLS=1"],
  ["lease", "WORKERS=1 WAITERS=2 OPS=1"],
  ["lease", "WORKERS=2 WAITERS=1 OPS=1 FORCES=1 KILLS=1"],
];

/** Larger configurations, not run by `ci`. */
const larger: [model: Model, configuration: string][] = [
  ["clients", "NAMES=2 KILLS=1"],
  ["clients", "DOORS=2 WORKERS=2"],
  ["clients", "REGIONS=1 WORKERS=2 MOVES=1"],
  ["ring", "WRITERS=2 EVENTS=2"],
  ["ring", "WRITERS=2 EVENTS=1 SLEEP=1 KILLS=1 READER_KILLS=1"],
  ["ring", "WRITERS=1 EVENTS=2 SLEEP=1 KILLS=1 JOINS=1"],
  ["ring", "WRITERS=2 EVENTS=1 KILLS=1 JOINS=1"],
  ["ring", "WRITERS=2 EVENTS=1 SLEEP=1 KILLS=2 JOINS=1"],
  ["ring", "WRITERS=1 EVENTS=1 READERS=2 SLEEP=1 KILLS=1 JOINS=1"],
  ["lease", "WORKERS=1 OPS=2 LOOKS=1 KILLS=1 JOINS=1"],
  ["lease", "WORKERS=2 OPS=1 KILLS=1 JOINS=1"],
  ["lease", "WORKERS=2 WAITERS=1 OPS=1 SUBJECTS=2 ENTRIES=2 KILLS=1"],
];

/** A rule, a configuration in which it is needed, and the failure without it. */
const rules: [model: Model, rule: string, configuration: string, failure: string][] = [
  ["bus", "RECHECK_WORKER", "N=2", "invalid end state"],
  ["bus", "RECHECK_CLIENT", "N=2", "invalid end state"],
  ["bus", "RECHECK_SLEEP", "N=1 FUTEX_WAITS=1", "invalid end state"],
  ["bus", "RING", "N=2 HOLDS=1", "invalid end state"],
  ["bus", "RING_SLEEP", "N=1 HOLDS=1 FUTEX_WAITS=1", "invalid end state"],
  ["bus", "CLEAR_FIRST", "N=3", "invalid end state"],
  ["bus", "LOOK_LAST", "N=2", "invalid end state"],
  ["bus", "WORD_FIRST", "N=2", "invalid end state"],
  ["bus", "HINT_FIRST", "N=2", "invalid end state"],
  ["bus", "HINT_FIRST_CLIENT", "N=2", "invalid end state"],
  ["bus", "ANSWER_FIRST", "N=1 GIVEUPS=1", "own_response"],
  ["bus", "GENERATION", "N=3 LATES=1", "own_response"],
  ["bus", "TOKEN", "N=3 LATES=1", "own_response"],
  ["bus", "QUARANTINE", "N=2 GIVEUPS=1", "quarantine_holds"],
  ["bus", "FREED_HINT", "N=2 GIVEUPS=1", "invalid end state"],
  ["bus", "DONE_FIRST", "N=2 GIVEUPS=1", "healthy_is_not_evicted"],
  ["bus", "TAKE_BACK", "N=2 EVICTS=1", "runs"],
  ["bus", "RECALL_UNCLAIMED", "N=1 MOVES=1", "runs_once"],
  ["bus", "JUDGE", "N=1 KILLS=1", "invalid end state"],
  ["bus", "PROOF_OF_DEATH", "N=1 EVICTS=1", "runs_do_not_overlap"],
  ["bus", "NEW_REGION", "N=2 EVICTS=1", "quarantine_holds"],
  ["bus", "RELEASE_CHECK", "N=1 STRAYS=1", "own_response"],
  ["bus", "TICK", "N=1 LOSSES=1", "invalid end state"],
  ["stream", "ROOM_ORDER", "N=1 DOWN=2", "invalid end state"],
  ["stream", "WAITING_FIRST", "N=1 DOWN=2", "invalid end state"],
  ["stream", "TAKEN_FIRST", "N=1 DOWN=2", "invalid end state"],
  ["stream", "TELL_ROOM", "N=1 DOWN=2", "invalid end state"],
  ["stream", "KEEP_WAITING", "N=1 UP=3 DOWN=1", "invalid end state"],
  ["stream", "SENT_THEN_TOLD", "N=1 DOWN=2", "invalid end state"],
  ["stream", "RING_FIRST", "N=1 DOWN=1", "units_in_order"],
  ["stream", "COPY_FIRST", "N=1 DOWN=2", "units_in_order"],
  ["stream", "SENT_FIRST", "N=1 DOWN=1", "stream_whole"],
  ["stream", "ENDED_FIRST", "N=1 DOWN=1", "stream_whole"],
  ["stream", "ERROR_ROOM", "N=1 DOWN=2 FAILS=1", "units_in_order"],
  ["stream", "DRAIN", "N=1 DOWN=2 KILLS=1", "stream_whole"],
  ["stream", "CLAIM_FIRST", "N=1 UP=1 GIVEUPS=1", "source_untouched"],
  ["stream", "CLAIM_TELLS", "N=1 UP=1", "invalid end state"],
  ["stream", "CLEAN_FIRST", "N=2 UP=1 DOWN=1", "counts_legal"],
  ["stream", "CLEAN_AFTER", "N=2 UP=1", "units_in_order"],
  ["stream", "GENERATION", "N=2 DOWN=2 LATES=1", "stream_whole"],
  ["stream", "TOKEN", "N=2 DOWN=2 LATES=1", "stream_whole"],
  ["stream", "CLAIMED_FIRST", "N=1 DOWN=1 GIVEUPS=1", "healthy_is_not_evicted"],
  ["stream", "STREAM_QUARANTINE", "N=2 DOWN=2 GIVEUPS=1", "quarantine_holds"],
  ["stream", "CANCEL", "N=1 DOWN=2 GIVEUPS=1", "invalid end state"],
  ["clients", "NAMED", "NAMES=1", "lock_is_named"],
  ["clients", "SHARE_LOCK", "NAMES=1", "lock_is_named"],
  ["clients", "NUMBER_LOCK", "NAMES=1", "socket_stays"],
  ["clients", "DROP_FIRST", "NAMES=1", "last_removes_all"],
  ["clients", "LAST", "NAMES=1", "lock_is_named"],
  ["clients", "LEAVE_NAMED", "NAMES=1", "lock_is_named"],
  ["clients", "SWEEP", "NAMES=1 KILLS=1", "last_removes_all"],
  ["clients", "SOCKET_FIRST", "NAMES=1", "socket_stays"],
  ["clients", "UNLINK_FIRST", "NAMES=1", "lock_is_named"],
  ["clients", "DOOR_FIRST", "DOORS=1", "all_meet"],
  ["clients", "EXPOSE_FIRST", "DOORS=1", "all_meet"],
  ["clients", "DRAIN_FIRST", "DOORS=1", "all_meet"],
  ["clients", "END_LOOKS", "DOORS=2", "all_meet"],
  ["clients", "PARK_EACH", "REGIONS=1", "invalid end state"],
  ["clients", "LOOK_EACH", "REGIONS=1", "invalid end state"],
  ["clients", "PARK_THEN_LOOK", "REGIONS=1", "invalid end state"],
  ["clients", "ROOM_LOOKS", "REGIONS=1", "invalid end state"],
  ["clients", "END_FREES", "REGIONS=1 KILLS=1", "invalid end state"],
  ["clients", "END_ROOM", "REGIONS=1 KILLS=1", "invalid end state"],
  ["clients", "NEXT_CLIENT", "REGIONS=3", "claims_in_turn"],
  ["clients", "CLAIM_SWAP", "REGIONS=1 SECOND=0 WORKERS=2 MOVES=1", "runs_once"],
  ["clients", "WITHDRAW_SWAP", "REGIONS=1 SECOND=0 WORKERS=2 MOVES=1", "runs_once"],
  ["ring", "LOCK_LIFE", "WRITERS=1 EVENTS=1 SLEEP=1 KILLS=1 JOINS=1", "lock_excludes"],
  ["ring", "PROOF_OF_DEATH", "WRITERS=2 EVENTS=1", "lock_excludes"],
  ["ring", "TAKE_OVER", "WRITERS=2 EVENTS=1 KILLS=1", "invalid end state"],
  ["ring", "ADOPT", "WRITERS=2 EVENTS=1 SLEEP=1 KILLS=1 JOINS=1", "invalid end state"],
  ["ring", "FRAME_ODD", "WRITERS=1 EVENTS=3", "event_whole"],
  ["ring", "FRAME_FENCE", "WRITERS=1 EVENTS=3", "event_whole"],
  ["ring", "LOOK_FIRST", "WRITERS=1 EVENTS=3", "lost_is_overwritten"],
  ["ring", "LOOK_FENCE", "WRITERS=1 EVENTS=3", "event_whole"],
  ["ring", "SECOND_LOOK", "WRITERS=1 EVENTS=3", "event_whole"],
  ["ring", "EACH_PART", "WRITERS=1 EVENTS=3 RING=4 PARTS=2", "event_whole"],
  ["ring", "HEAD_LAST", "WRITERS=1 EVENTS=2", "conserved"],
  ["ring", "HEAD_BOUND", "WRITERS=1 EVENTS=2", "event_whole"],
  ["ring", "EVENT_NUMBERS", "WRITERS=1 EVENTS=4", "conserved"],
  ["ring", "REPAIR_EVENTS", "WRITERS=2 EVENTS=1 KILLS=1", "numbers_in_order"],
  ["ring", "QUARTER", "WRITERS=1 EVENTS=2 KILLS=1 JOINS=1", "numbers_in_order"],
  ["ring", "WAKE_FIRST", "WRITERS=1 EVENTS=1 SLEEP=1 KILLS=1", "invalid end state"],
  ["ring", "LOCK_BEFORE_WAKE", "WRITERS=1 EVENTS=1 SLEEP=1", "invalid end state"],
  ["ring", "PARK_FIRST", "WRITERS=1 EVENTS=1 SLEEP=1", "invalid end state"],
  ["ring", "PARK_LOCK", "WRITERS=1 EVENTS=1 SLEEP=1", "invalid end state"],
  ["ring", "LOCK_THEN_HEAD", "WRITERS=1 EVENTS=1 SLEEP=1", "invalid end state"],
  ["ring", "PARK_TAKE_OVER", "WRITERS=1 EVENTS=1 SLEEP=1 KILLS=1", "invalid end state"],
  ["ring", "TICKET", "WRITERS=1 EVENTS=1 SLEEP=1", "invalid end state"],
  ["ring", "NAMED", "WRITERS=2 EVENTS=1 SLEEP=1 KILLS=1", "invalid end state"],
  ["lease", "TABLE_LOCK", "WORKERS=1 WAITERS=1 OPS=1", "one_holder"],
  ["lease", "TENURE_ODD", "WORKERS=1 OPS=2 LOOKS=1", "tenure_whole"],
  ["lease", "TENURE_FENCE", "WORKERS=1 OPS=2 LOOKS=1", "tenure_whole"],
  ["lease", "EVEN_LAST", "WORKERS=1 OPS=2 LOOKS=1", "tenure_whole"],
  ["lease", "TENURE_LOOK_FIRST", "WORKERS=1 OPS=2 LOOKS=1", "tenure_whole"],
  ["lease", "TENURE_LOOK_FENCE", "WORKERS=1 OPS=2 LOOKS=1", "tenure_whole"],
  ["lease", "TENURE_SECOND_LOOK", "WORKERS=1 OPS=2 LOOKS=1", "tenure_whole"],
  ["lease", "TOKEN_FIRST", "WORKERS=2 OPS=1 KILLS=1", "tokens_grow"],
  ["lease", "REPAIR_ODD", "WORKERS=1 OPS=2 SUBJECTS=2 TICKS=1 KILLS=1 JOINS=1", "tenure_whole"],
  ["lease", "DEATH_FREES", "WORKERS=2 OPS=1 KILLS=1", "yields_to_living"],
  ["lease", "LEASE_LIFE", "WORKERS=1 WAITERS=1 OPS=1 KILLS=1 JOINS=1", "yields_to_living"],
  ["lease", "LIFE_AGAIN", "WORKERS=1 WAITERS=1 OPS=1 KILLS=1 JOINS=1", "yields_to_living"],
  ["lease", "INCARNATION_FIRST", "WORKERS=1 WAITERS=1 OPS=1 KILLS=1 JOINS=1", "yields_to_living"],
  ["lease", "RENEW_TOKEN", "WORKERS=2 OPS=2 TICKS=1", "stale_changes_nothing"],
  ["lease", "RELEASE_TOKEN", "WORKERS=2 OPS=2 TICKS=1", "stale_changes_nothing"],
  ["lease", "LEASE_PARK_FIRST", "WORKERS=1 WAITERS=1 OPS=2", "invalid end state"],
  ["lease", "WAKE_AFTER_END", "WORKERS=1 WAITERS=1 OPS=2", "invalid end state"],
  ["lease", "WAKE_BEFORE_END", "WORKERS=2 WAITERS=1 OPS=1 FORCES=1 KILLS=1", "invalid end state"],
  ["lease", "LEAVE_WAKES", "WORKERS=1 WAITERS=1 OPS=2", "invalid end state"],
  ["lease", "PIDFD", "WORKERS=1 WAITERS=1 OPS=1 KILLS=1", "invalid end state"],
  ["lease", "CLEAR_OWN", "WORKERS=1 WAITERS=2 OPS=1", "invalid end state"],
];

const missing = ["spin", "gcc"].filter((tool) => !Bun.which(tool));
if (missing.length > 0) {
  console.error(`${missing.join(" and ")} not found: run apt-get install -y ${missing.join(" ")}`);
  process.exit(2);
}

interface Outcome {
  /** Result of pan: empty, the name of an assertion, or "invalid end state". */
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

async function explore(model: Model, settings: string[], optimise: "-O0" | "-O1"): Promise<Outcome> {
  const started = performance.now();
  const folder = mkdtempSync(join(scratch, "run-"));
  copyFileSync(join(import.meta.dir, `${model}.pml`), join(folder, "model.pml"));
  copyFileSync(join(import.meta.dir, "fleet.pml"), join(folder, "fleet.pml")); // ring and lease include it
  await run(folder, ["spin", "-a", ...settings.map((setting) => `-D${setting}`), "model.pml"]);
  // Safety only, with at most 4 GB and depth 500 000. Running out of either counts as a failure below.
  await run(folder, ["gcc", optimise, "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4000", "-o", "pan", "pan.c"]);
  const out = await run(folder, ["./pan", "-m500000", optimise === "-O0" ? "-w20" : "-w24"]);
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

const words = process.argv.slice(3);
const asked = words.filter((word) => word !== "--sample");
const isAsked = ([model]: readonly [Model, ...string[]]): boolean => asked.length === 0 || asked.includes(model);
const all = sizeAsked() === "ci" ? configurations : [...configurations, ...larger];
const searches: (() => Promise<void>)[] = [
  ...rules.filter(isAsked).map(([model, rule, configuration, failure]) => async () => {
    const outcome = await explore(model, [...configuration.split(" "), `NO_${rule}`], "-O0");
    report(outcome.error.startsWith(failure), `${model} without ${rule}, ${configuration}`, outcome);
  }),
  ...all.filter(isAsked).map((row) => async () => {
    const [model, configuration] = row;
    // Optimizing costs more than it saves in a small search.
    const isSmall = model !== "bus" && model !== "stream" && !larger.includes(row);
    const outcome = await explore(model, configuration.split(" "), isSmall ? "-O0" : "-O1");
    report(outcome.error === "", `${model}, ${configuration}`, outcome);
  }),
];

const jobs = words.includes("--sample") ? sample(searches) : searches;

/** Runs jobs until none is left. */
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
