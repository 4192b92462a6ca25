/**
 * Processes that are stopped and continued: `bun test/prove/stalls.ts [ci | quick | long] [--seed N] [--stalls N]`.
 *
 * Three parts, each with separate processes, judged by the books of the soak:
 * many short stops of workers and clients in chosen states, on several buses at once;
 * workers that are stopped until they are evicted, and then continued: their responses must reach no caller;
 * a steady load: the workers that are not stopped must keep their pace.
 */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../support.ts";
import { Actor, type Common, Crew, endOnSignal } from "./actor.ts";
import { Histogram, sizeAsked } from "./figures.ts";
import { audit, type Life } from "./soak/audit.ts";
import { Proof, say } from "./proof.ts";
import * as b from "./soak/request-books.ts";
import { Times } from "./soak/times.ts";
import type * as evict from "./stalls/evict.ts";
import type * as pace from "./stalls/pace.ts";
import { Phases } from "./stalls/phases.ts";
import * as flows from "./flows.ts";
import { type Order, Rig, type World } from "./stalls/rig.ts";
import { type Fault, FAULTS, IMPOSSIBLE, type State, STATES } from "./stalls/states.ts";

/**
 * `evictions`: rounds with one eviction of each kind. `pairs`: pairs of phases, without and with stops. `streams`:
 * pairs of phases, without and with a stalled stream.
 */
const SIZES = {
  ci: { stalls: 400, rigs: 3, evictions: 1, pairs: 25, streams: 16 },
  quick: { stalls: 2_000, rigs: 4, evictions: 2, pairs: 45, streams: 21 },
  long: { stalls: 40_000, rigs: 4, evictions: 20, pairs: 601, streams: 21 },
} as const;
const size = SIZES[sizeAsked()];
/** `--only PART` skips the other parts. */
const proof = new Proof("stalls", { stalls: size.stalls, only: "" });
const { seed, folder: root, runtime: busDirectory, problems, problem } = proof;
const wanted = proof.number("stalls");
const only = proof.text("only");
const KINDS = ["async", "once", "closing", "sync"] as const;
/** How many times longer the workers that are not stopped may take. */
const SLOWER = 2;
/** Share of the pairs of phases that may be slower: chance alone makes a third of them slower on a busy machine. */
const MAY_BE_SLOWER = 0.75;
const BOOKS = 50_000_000;

const books: b.RequestBooks[] = [];
const histogram = new Histogram<State, Fault>(STATES, FAULTS, IMPOSSIBLE);
const tally = { stalls: 0, lost: 0, leaked: 0, evictions: 0, late: 0 };

const crew = new Crew(busDirectory, problem);
let serial = 0;

/** A separate bus: name, books, phases. */
function world(): World {
  const folder = join(root, `bus-${++serial}`);
  mkdirSync(folder);
  const own = b.RequestBooks.create(folder, BOOKS);
  books.push(own);
  const times = Times.create(folder);
  return {
    crew,
    folder,
    name: `stalls-${process.pid}-${serial}`,
    phases: Phases.create(folder),
    times,
    histogram,
    tally,
  };
}

// ---- evictions --------------------------------------------------------------------------------------------------------

async function evictOne(kind: (typeof KINDS)[number]): Promise<void> {
  const here = world();
  const own = [here.name, here.folder];
  const workerKind = kind === "closing" ? "async" : kind;
  const client = new Actor<evict.Report, evict.Order>(crew, "stalls/evict.ts", [
    ...own,
    String(seed + serial),
    kind,
    "0",
  ]);
  const worker = (index: number, type: string, concurrency: number): Actor<Common, Order> =>
    new Actor(crew, "stalls/worker.ts", [...own, String(index), type, String(concurrency)]);
  const victim = worker(0, workerKind, 256);
  const heir = worker(1, "async", 256);
  await Promise.all([client.loaded(), victim.loaded(), heir.loaded()]);
  client.tell({ do: "go" });
  await client.hear("open", 20_000);
  victim.tell("go");
  if (kind === "closing") {
    await client.hear("close-victim", 30_000);
    victim.tell("close");
  }
  await client.hear("start-heir", 30_000);
  heir.tell("go");
  const { met, late, again } = await client.hear("evicted", 120_000);
  const comesBack = kind === "async" || kind === "sync";
  if (again !== comesBack) problem(`a zombie of kind ${kind} ${again ? "came back" : "did not come back"}`);
  for (const state of met) histogram.add(state, "evict, continue");
  tally.stalls++;
  tally.evictions++;
  tally.late += late;
  client.condemned = true;
  await client.gone();
  for (const actor of [victim, heir]) {
    actor.condemned = true;
    actor.process.kill("SIGKILL");
    await actor.gone();
  }
}

async function evictions(): Promise<void> {
  for (let round = 0; round < size.evictions; round++) {
    const all = KINDS.map((kind) => evictOne(kind).catch((error) => problem(`eviction (${kind}): ${error.message}`)));
    await Promise.all(all);
  }
}

// ---- the pace of the others -------------------------------------------------------------------------------------------

const WORKERS = 3;

/** Length of a phase of the load, in ms. */
const PHASE_MS = 350;
/** Longest stop within a phase, in ms. */
const STOP_MS = 300;
/** Length of the stop whose cost is counted, in ms. */
const COST_MS = 3_000;
/** Most requests in flight meanwhile: the other workers have room for them, on a busy machine too. */
const FEW_WAITING = 4;
/** Requests that this stop may cost: all that were in flight when it began, and two more. */
const MAY_COST = FEW_WAITING + 2;

interface Pace {
  client: Actor<pace.Report, pace.Order>;
  workers: Actor<Common | { is: "count"; given: number }, Order>[];
  random: b.Random;
  /** p90 of the phases without and with stops, in µs. */
  baseline: number[];
  stalled: number[];
}

async function startPace(): Promise<Pace> {
  const here = world();
  const client: Pace["client"] = new Actor(crew, "stalls/pace.ts", [here.name, here.folder, String(seed)]);
  const start = (_: unknown, index: number): Pace["workers"][number] =>
    new Actor(crew, "stalls/worker.ts", [here.name, here.folder, String(index), "async", "256"]);
  const workers = Array.from({ length: WORKERS }, start);
  await Promise.all([client.loaded(), ...workers.map((worker) => worker.loaded())]);
  client.tell({ do: "go", workers: WORKERS });
  await client.hear("open", 20_000);
  for (const worker of workers) worker.tell("go");
  return { client, workers, random: new b.Random(seed + 77), baseline: [], stalled: [] };
}

/** Stops a worker again and again; or only sends it as many signals. */
async function runPhase(of: Pace, pid: number, isStalled: boolean): Promise<number> {
  of.client.tell({ do: "phase", ms: PHASE_MS, pid });
  let isOver = false;
  const report = of.client.hear("phase", 120_000).finally(() => (isOver = true));
  while (!isOver) {
    process.kill(pid, isStalled ? "SIGSTOP" : "SIGCONT");
    if (isStalled) tally.stalls++;
    const wait = 5 * (STOP_MS / 5) ** (of.random.below(1000) / 1000);
    await Promise.race([Bun.sleep(wait), report]);
    process.kill(pid, "SIGCONT");
    await Promise.race([Bun.sleep(10 + of.random.below(20)), report]);
  }
  return (await report).p90;
}

/** Phases without and with stops in turn, of each worker in turn. */
async function keepPace(): Promise<void> {
  const of = await startPace();
  await runPhase(of, of.workers[0]!.pid, false); // warms up
  for (let pair = 0; pair < size.pairs; pair++) {
    const { pid } = of.workers[pair % WORKERS]!;
    const first = pair % 2 === 1;
    for (const isStalled of [first, !first]) {
      const p90 = await runPhase(of, pid, isStalled);
      of[isStalled ? "stalled" : "baseline"].push(p90);
    }
  }
  judgePace("a stopped worker", of.baseline, of.stalled);
  await countCost(of);
  await stallStreams(of);
  of.client.tell({ do: "quiet" });
  tally.lost += (await of.client.hear("quiet", 30_000)).lost;
}

/** Stops the worker that answers most, and counts the requests that it had and did not answer. A busy machine costs other requests, not these. */
async function countCost(of: Pace): Promise<void> {
  of.client.tell({ do: "phase", ms: PHASE_MS, pid: 0 });
  const { most: pid } = await of.client.hear("phase", 120_000);
  process.kill(pid, "SIGSTOP");
  tally.stalls++;
  of.client.tell({ do: "cost", ms: COST_MS, pid, waiting: FEW_WAITING });
  const { cost, given, answers } = await of.client.hear("cost", 120_000);
  process.kill(pid, "SIGCONT");
  say(`a worker stopped for ${COST_MS} ms cost ${cost} requests (bound ${MAY_COST}); ${answers} were answered`);
  if (cost > MAY_COST) problem(`a stopped worker cost ${cost} requests, more than ${MAY_COST}`);
  if (given === 0 || answers === 0) problem("the stopped worker got no request, or the others answered none");
}

/** Stops a reader for a while: its writer fills the ring and waits, and no other request is delayed. */
async function stallStream(of: Pace): Promise<number> {
  of.client.tell({ do: "stall" });
  const { pid, read } = await of.client.hear("stalled", 20_000);
  const writer = of.workers.find((worker) => worker.pid === pid)!;
  const start = writerStart.get(writer) ?? 0;
  const given = async (): Promise<number> => (await givenBy(writer)) - start;
  await until(async () => (await given()) >= flows.RING, "the writer has filled its ring");
  const p90 = await measurePhase(of);
  const ahead = await given();
  const bound = read + flows.RING + flows.LARGEST_PIECE;
  if (ahead > bound) problem(`a stalled stream had given ${ahead} bytes, more than ${bound}`);
  tally.stalls++;
  of.client.tell({ do: "read-on" });
  await of.client.hear("ended", 20_000);
  writerStart.set(writer, await givenBy(writer));
  return p90;
}

/** Bytes that the sources of a worker had sent before the stream. */
const writerStart = new Map<Pace["workers"][number], number>();

async function givenBy(worker: Pace["workers"][number]): Promise<number> {
  worker.tell("count");
  return (await worker.hear("count", 20_000)).given;
}

/** p90 of all workers in a phase, in µs. */
async function measurePhase(of: Pace): Promise<number> {
  of.client.tell({ do: "phase", ms: PHASE_MS, pid: 0 });
  return (await of.client.hear("phase", 120_000)).p90;
}

const median = (list: number[]): number => list.toSorted((x, y) => x - y)[list.length >> 1]!;

async function stallStreams(of: Pace): Promise<void> {
  const [free, stalled]: number[][] = [[], []];
  for (let pair = 0; pair < size.streams; pair++) {
    free!.push(await measurePhase(of));
    stalled!.push(await stallStream(of));
  }
  judgePace("a stalled stream", free!, stalled!);
}

/** Judges phases beside what is stopped by the phases before or after them. */
function judgePace(what: string, free: number[], stalled: number[]): void {
  const course = (list: number[]): string => {
    const shown = list.slice(0, 25).map((us) => us.toFixed(0));
    return shown.join(" ") + (list.length > 25 ? " …" : "");
  };
  say(`p90 in µs without ${what}: ${course(free)}`);
  say(`beside ${what}: ${course(stalled)}`);
  const ratios = stalled.map((p90, pair) => p90 / free[pair]!);
  const slower = ratios.filter((ratio) => !(ratio <= SLOWER)).length;
  const text = `beside ${what} the p90 is more than ${SLOWER} times the p90 without it in ${slower} of ${ratios.length} pairs`;
  say(`${text}, ${median(ratios).toFixed(2)} times in their median`);
  if (slower > MAY_BE_SLOWER * ratios.length) problem(text);
}

// ---- the run ----------------------------------------------------------------------------------------------------------

async function shortStalls(): Promise<void> {
  const rigs = await Promise.all(Array.from({ length: size.rigs }, (_, i) => Rig.start(world(), seed + 31 * i)));
  const run = (rig: Rig): Promise<void> =>
    rig.run(
      () => (tally.stalls >= wanted && histogram.empty.every((cell) => cell.includes("evict"))) || problems.length > 20,
    );
  await Promise.all(rigs.map(run));
}

const isPart = (name: string): boolean => only === "" || only === name;

endOnSignal(crew, root);
try {
  const evicting = isPart("evict") ? evictions() : null;
  if (isPart("short")) await shortStalls();
  await evicting;
  await crew.endAll();
  if (isPart("pace")) await keepPace();
} catch (error) {
  problem(`the run was aborted: ${error instanceof Error ? error.message : error}`);
}
await crew.endAll();
const lives = (own: b.RequestBooks): Life[] => [{ first: 0, end: own.next, killed: false }];
const sums = books.map((own) => audit(own, lives(own), problem));
const sum = (pick: (one: (typeof sums)[number]) => number): number => sums.reduce((total, one) => total + pick(one), 0);
const requests = books.reduce((total, own) => total + own.next, 0);
const left = readdirSync(busDirectory).filter((file) => !/^stalls-\d+-\d+\.(lock|sock)$/.test(file));
tally.leaked += left.length;
if (left.length > 0) problem(`the buses left ${left.join()}`);
if (histogram.empty.length > 0 && only === "") problem(`never occurred: ${histogram.empty.join(", ")}`);
say(String(histogram));
say(
  `answered ${sum((one) => one.answered)}, failed ${sum((one) => one.failed)}, refused ${sum((one) => one.refused)}, aborted ` +
    `${sum((one) => one.aborted)}; ${tally.evictions} evicted, ${tally.late} late answers of theirs; ` +
    proof.verdict,
);
proof.end({
  requests,
  streams: books.reduce((total, own) => total + own.streams, 0),
  stalls: tally.stalls,
  lost: Math.max(
    tally.lost,
    sum((one) => one.lost),
  ),
  doubled: sum((one) => one.doubled),
  misdelivered: sum((one) => one.wrong),
  leaked: tally.leaked,
});
