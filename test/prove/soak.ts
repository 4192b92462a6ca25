/**
 * Conservation under kills: `bun test/prove/soak.ts [--seed N] [--kills N] [--requests N] [--minutes N]`.
 *
 * A hub and three workers, all processes of their own, under load; this program kills and stops them at random moments.
 * What must be so is judged by books that the bus knows nothing of: one byte per request for what its handler did, one for
 * how it settled, in files that outlive whoever is killed. A seed fixes every choice made here, not the machine's timing.
 */

import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { until } from "../support.ts";
import * as b from "./soak/books.ts";
import type { Order, Report } from "./soak/hub.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    kills: { type: "string", default: "300" },
    requests: { type: "string", default: "1000000" },
    minutes: { type: "string", default: "0" },
  },
});
const seed = Number(values.seed);
const wantedKills = Number(values.kills);
const wantedRequests = Number(values.requests);
const wantedMs = Number(values.minutes) * 60_000;

const WORKERS = 3;
const SPARES = 2;
/** Kills between two quiet points. */
const QUIET_EVERY = 20;
/** Longest wait between two faults, in ms. */
const PAUSE_MS = 250;
/** Longest stop of a worker, in ms: shorter than the usual timeout. */
const STOP_MS = 300;
/** Nothing is asked for as long: the soak hangs. */
const STALL_MS = 15_000;

const random = new b.Random(seed);
const root = mkdtempSync(join(tmpdir(), "slotbus-soak-"));
const busDirectory = join(root, "bus");
const capacity = 8 * wantedRequests + 4_000_000 + Math.ceil((wantedMs / 60_000) * 10_000_000);
mkdirSync(busDirectory, { mode: 0o700 });
const books = b.Books.create(root, capacity);
const began = performance.now();

const problems: string[] = [];
const tally = { kills: 0, hubKills: 0, stalls: 0, lost: 0, leaked: 0, quiet: 0 };
/** Requests of one life of the hub: ids from `first` to before `end`. */
const lives: { first: number; end: number; killed: boolean }[] = [];

function problem(text: string): void {
  problems.push(text);
  if (problems.length <= 20) process.stderr.write(`soak: ${text}\n`);
}

/** A child of the soak that has loaded its modules and waits for "go". */
class Actor {
  readonly process: Bun.Subprocess;
  readonly reports: (Report | "loaded")[] = [];
  /** We killed it, or told it to end. */
  condemned = false;
  stopped = false;

  constructor(program: string, args: string[]) {
    this.process = Bun.spawn([process.execPath, join(import.meta.dir, program), `soak-${process.pid}`, root, ...args], {
      env: { ...process.env, SLOTBUS_DIR: busDirectory },
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (message: Report | "loaded") => {
        if (typeof message === "object" && message.is === "broken") problem(message.what);
        else this.reports.push(message);
      },
      onExit: (child, code, signal) => {
        if (!this.condemned) problem(`${program} pid ${child.pid} ended by itself: ${code ?? signal}`);
      },
    });
    actors.add(this);
    void this.process.exited.then(() => actors.delete(this));
  }

  get pid(): number {
    return this.process.pid;
  }

  tell(order: Order | "go" | "end"): void {
    this.process.send(order);
  }

  /** The next report of a kind, taken. */
  async hear<K extends Report["is"]>(kind: K, ms: number): Promise<Extract<Report, { is: K }>> {
    const find = (): number => this.reports.findIndex((report) => report !== "loaded" && report.is === kind);
    await until(() => find() >= 0, `the hub says "${kind}"`, ms);
    return this.reports.splice(find(), 1)[0] as Extract<Report, { is: K }>;
  }

  async loaded(): Promise<this> {
    const isLoaded = (report: Report | "loaded"): boolean => report === "loaded" || report.is === "loaded";
    await until(() => this.reports.some(isLoaded), "a process has started", 20_000);
    return this;
  }

  async gone(ms: number): Promise<void> {
    await until(() => !actors.has(this), `pid ${this.pid} has ended`, ms);
  }
}

const actors = new Set<Actor>();
const spareWorkers: Actor[] = [];
let spareHub: Actor | null = null;
let workers: Actor[] = [];
let hub: Actor;
let lifeSerial = 0;

function stock(): void {
  while (spareWorkers.length < SPARES) spareWorkers.push(new Actor("soak/worker.ts", []));
  spareHub ??= new Actor("soak/hub.ts", [String(seed + 7919 * ++lifeSerial), String(wantedRequests)]);
}

async function startWorker(): Promise<void> {
  stock();
  const actor = await spareWorkers.shift()!.loaded();
  actor.tell("go");
  workers.push(actor);
  stock();
}

async function startHub(): Promise<void> {
  stock();
  hub = await spareHub!.loaded();
  spareHub = null;
  lives.push({ first: books.next, end: books.next, killed: false });
  hub.tell({ do: "go" });
  await hub.hear("open", 5_000);
  stock();
}

// ---- faults -----------------------------------------------------------------------------------------------------------

/** The state that the fault has met least often. */
function rarest(fault: b.Fault): b.State {
  const states = b.POSSIBLE[fault].toSorted((x, y) => books.seen(fault, x) - books.seen(fault, y));
  return books.seen(fault, states[0]!) < 3 ? states[0]! : random.pick(states);
}

/** Half of the faults come from here, at any instant; half through the hub, which sees what they meet. */
async function killWorker(): Promise<void> {
  const victim = random.pick(workers);
  victim.condemned = true;
  if (random.chance(0.5) || victim.stopped) {
    victim.process.kill("SIGKILL");
  } else {
    hub.tell({ do: "kill", pid: victim.pid, want: rarest("worker-kill") });
    await hub.hear("faulted", 5_000);
  }
  await victim.gone(2_000);
  workers = workers.filter((worker) => worker !== victim);
  tally.kills++;
  await startWorker();
}

async function killHub(): Promise<void> {
  const victim = hub;
  victim.condemned = true;
  if (tally.hubKills % 3 === 2) victim.process.kill("SIGKILL");
  else victim.tell({ do: "kill", pid: 0, want: rarest("hub-kill") });
  await victim.gone(3_000);
  Object.assign(lives.at(-1)!, { end: books.next, killed: true });
  const left = readdirSync(busDirectory).toSorted().join();
  const own = `soak-${process.pid}`;
  if (left !== `${own}.lock,${own}.sock`) problem(`after the kill of a hub there is ${left}`);
  tally.kills++;
  tally.hubKills++;
  await startHub();
}

async function stopWorker(): Promise<void> {
  const victim = workers.find((worker) => !worker.stopped);
  if (!victim) return;
  victim.stopped = true;
  tally.stalls++;
  if (random.chance(0.3)) {
    victim.process.kill("SIGSTOP");
  } else {
    hub.tell({ do: "stop", pid: victim.pid, want: rarest("stop") });
    await hub.hear("faulted", 5_000);
  }
  setTimeout(() => resume(victim), random.below(STOP_MS));
}

function resume(worker: Actor): void {
  if (worker.stopped && actors.has(worker)) worker.process.kill("SIGCONT");
  worker.stopped = false;
}

async function quiet(): Promise<void> {
  for (const worker of workers) resume(worker);
  hub.tell({ do: "quiet", workers: WORKERS });
  const { faults, lost } = await hub.hear("quiet", 30_000);
  tally.quiet++;
  tally.lost += lost;
  tally.leaked += faults.length;
  for (const fault of faults) problem(`at quiet point ${tally.quiet}: ${fault}`);
}

function emptyCells(): string[] {
  const empty: string[] = [];
  for (const fault of b.FAULTS) {
    for (const state of b.POSSIBLE[fault]) if (books.seen(fault, state) === 0) empty.push(`${state} at ${fault}`);
  }
  return empty;
}

/** The asked for, and every cell met; there is an end to waiting for the cells. */
function enough(): boolean {
  if (tally.kills < 2 * wantedKills + 20 && emptyCells().length > 0) return false;
  return tally.kills >= wantedKills && books.next >= wantedRequests && performance.now() - began >= wantedMs;
}

async function soak(): Promise<void> {
  await startHub();
  for (let i = 0; i < WORKERS; i++) await startWorker();
  await quiet();
  let quietAt = QUIET_EVERY;
  let seen = books.next;
  let seenAt = performance.now();
  while (!enough() && problems.length < 50) {
    await Bun.sleep(random.below(PAUSE_MS));
    if (books.next > seen) {
      seen = books.next;
      seenAt = performance.now();
    } else if (performance.now() - seenAt > STALL_MS) throw new Error(`nothing is asked for ${STALL_MS} ms`);
    if (books.next > capacity - 500_000) throw new Error("the books are full before the kills are done");
    const dice = random.below(100);
    if (tally.kills >= wantedKills && books.next < wantedRequests && dice < 80) continue; // the load is behind
    if (dice < 65) await killWorker();
    else if (dice < 73) await killHub();
    else if (dice < 96) await stopWorker();
    else for (let i = 0; i < WORKERS; i++) await stopWorker();
    if (tally.kills >= quietAt) {
      await quiet();
      if (problems.length > 0) break;
      quietAt += QUIET_EVERY;
    }
  }
  await quiet();
  await end();
}

/** Everybody ends in good order, and leaves nothing. */
async function end(): Promise<void> {
  lives.at(-1)!.end = books.next;
  const last = [hub, ...workers];
  for (const actor of last) actor.condemned = true;
  hub.tell({ do: "end" });
  await hub.gone(6_000);
  lives.at(-1)!.end = books.next;
  for (const worker of workers) worker.tell("end");
  for (const spare of [...spareWorkers, spareHub]) {
    if (!spare) continue;
    spare.condemned = true;
    spare.process.kill("SIGKILL");
  }
  const inTime = until(() => actors.size === 0, "every process has ended", 6_000);
  await inTime.catch((error) => {
    tally.leaked++;
    problem(error.message);
  });
  const left = readdirSync(busDirectory);
  tally.leaked += left.length;
  if (left.length > 0) problem(`the bus left ${left.join()}`);
}

// ---- the verdict ------------------------------------------------------------------------------------------------------

/** Goes through the books of every request. */
function audit() {
  const sums = {
    answered: 0,
    refused: 0,
    failed: 0,
    aborted: 0,
    vanished: 0,
    twiceRun: 0,
    twiceKilled: 0,
    lost: 0,
    doubled: 0,
    wrong: 0,
  };
  for (const { first, end: beyond, killed } of lives) {
    for (let id = first; id < beyond; id++) {
      const outcome = books.outcome[id]!;
      const runs = books.runs[id]! % b.REPLIED;
      const replies = Math.floor(books.runs[id]! / b.REPLIED);
      if (outcome & b.ANSWERED) sums.answered++;
      if (outcome & b.REFUSED) sums.refused++;
      if (outcome & b.FAILED) sums.failed++;
      if (outcome & b.ABORTED) sums.aborted++;
      if (!(outcome & b.SETTLED)) {
        if (killed) sums.vanished++;
        else {
          sums.lost++;
          problem(`request ${id} never settled`);
        }
      }
      if (runs === 2) sums.twiceRun++;
      if (runs === 2 && outcome & b.FAILED && outcome & b.IDEMPOTENT && replies === 0) sums.twiceKilled++;
      const settledTwice = (outcome & b.TWICE) !== 0;
      if (settledTwice || runs > (outcome & b.IDEMPOTENT ? 2 : 1)) {
        sums.doubled++;
        problem(`request ${id} ran ${runs} times${settledTwice ? " and settled twice" : ""}`);
      }
      const unasked = outcome & b.ANSWERED && replies === 0;
      const denied = outcome & b.REFUSED && runs > 0;
      if (outcome & b.WRONG || unasked || denied) sums.wrong++;
      if (unasked) problem(`request ${id} was answered, and no handler did`);
      if (denied) problem(`request ${id} "certainly did not run", and ran`);
    }
  }
  return sums;
}

function histogram(): string {
  const rows = [["", ...b.FAULTS]];
  for (const state of b.STATES) {
    const cells = b.FAULTS.map((fault) => (b.POSSIBLE[fault].includes(state) ? `${books.seen(fault, state)}` : "-"));
    rows.push([state, ...cells]);
  }
  return rows.map((row) => row.map((text, i) => (i ? text.padStart(12) : text.padEnd(10))).join("")).join("\n");
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
say(
  `seed ${seed}: bun test/prove/soak.ts --seed ${seed} --kills ${wantedKills} --requests ${wantedRequests} --minutes ${values.minutes}`,
);
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    for (const actor of actors) actor.process.kill("SIGKILL");
    rmSync(root, { recursive: true, force: true });
    process.exit(1);
  });
}
try {
  await soak();
} catch (error) {
  problem(`the soak broke off: ${error instanceof Error ? error.message : error}`);
  lives.at(-1)!.end = books.next;
}
for (const actor of actors) {
  actor.condemned = true;
  actor.process.kill("SIGKILL");
}
await Promise.all([...actors].map((actor) => actor.process.exited));
const sums = audit();
const empty = emptyCells();
if (empty.length > 0) problem(`never met: ${empty.join(", ")}`);
if (sums.twiceRun === 0) problem("no idempotent request ran twice");
if (sums.twiceKilled === 0 && tally.kills >= 60) problem("no idempotent request lost both of its workers");
if (tally.stalls === 0 || tally.hubKills === 0) problem("no stop, or no kill of a hub");
rmSync(root, { recursive: true });
say(histogram());
say(
  `answered ${sums.answered}, failed ${sums.failed}, refused ${sums.refused}, aborted ${sums.aborted}, gone with their hub ` +
    `${sums.vanished}, run twice ${sums.twiceRun}, in vain ${sums.twiceKilled}; hub kills ${tally.hubKills}, quiet points ${tally.quiet}, ` +
    `${((performance.now() - began) / 1000).toFixed(1)} s, ${problems.length} problems`,
);
say(
  `requests ${books.next}, kills ${tally.kills}, stalls ${tally.stalls}, lost ${Math.max(sums.lost, tally.lost)}, ` +
    `doubled ${sums.doubled}, misdelivered ${sums.wrong}, leaked ${tally.leaked}`,
);
process.exit(problems.length === 0 ? 0 : 1);
