/**
 * Conservation under kills: `bun test/prove/soak.ts [ci | quick | long] [--seed N] [--kills N] [--requests N] [--minutes N]`.
 *
 * A client and three workers, each a separate process, run under load; this program kills and stops them at random moments.
 * Books outside the bus judge the result: one byte per request records what its handler did, one how it settled, in files
 * that outlive killed processes. Each byte of a stream shows its place. A seed fixes every choice of this program, not the
 * machine's timing.
 *
 * Each child also holds a bare socket to this process. The delay until the bus notices a kill is compared with the delay
 * until that socket ends.
 */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../support.ts";
import { Actor, Crew, endOnSignal, stopped } from "./actor.ts";
import { TIMEOUT_MS } from "./asker.ts";
import { Histogram, sizeAsked } from "./figures.ts";
import { Proof, say } from "./proof.ts";
import { audit, type Life as Asked } from "./soak/audit.ts";
import * as b from "./soak/request-books.ts";
import type { Order, Report } from "./soak/client.ts";
import { delaysText, FEW, Times } from "./soak/times.ts";

/** `cycle`: kills per cycle. The first 60 % of them spare the client, so that it lives long enough to show memory growth. */
const SIZES = {
  ci: { kills: 300, requests: 1_000_000, pauseMs: 120, cycle: 150, longStops: 3 },
  quick: { kills: 500, requests: 1_500_000, pauseMs: 120, cycle: 250, longStops: 6 },
  long: { kills: 10_000, requests: 5_000_000, pauseMs: 30, cycle: 1_000, longStops: 40 },
} as const;
const size = SIZES[sizeAsked()];
const proof = new Proof("soak", { kills: size.kills, requests: size.requests, minutes: 0 });
const { seed, folder: root, runtime: busDirectory, problems, problem } = proof;
const wantedKills = proof.number("kills");
const wantedRequests = proof.number("requests");
const cycle = Math.min(size.cycle, wantedKills);
const wantedMs = proof.number("minutes") * 60_000;

const WORKERS = 3;
const SPARES = 2;
/** Kills between two quiet points. */
const QUIET_EVERY = 15;
/** Share of a cycle's kills that spare the client. Of the rest, as many kill the client as make one in ten of the cycle. */
const CALM = 0.6;
/** Longest stop, in ms, except for a few stops of the client: shorter than the usual timeout. */
const STOP_MS = 300;
/** Time without a new request after which the soak counts as hung, in ms. */
const STALL_MS = 60_000;
/** Longest delay of a death's report, and of a settlement, in ms; or three times the delay without a bus. */
const GRACE_MS = 100;
/** Most growth of the client's own memory in one life, in MiB. A short life has few points, and the heap is not warm yet. */
const GROWTH_MIB = 24;
const YOUNG_MIB = 64;
/** Fewest quiet points of a life that is not short. */
const OLD = 15;

const random = new b.Random(seed);
const busName = `soak-${process.pid}`;
const capacity = 8 * wantedRequests + 4_000_000 + Math.ceil((wantedMs / 60_000) * 10_000_000);
const books = b.RequestBooks.create(root, capacity);
const times = Times.create(root);

const tally = { kills: 0, clientKills: 0, stops: 0, clientStops: 0, longStops: 0, lost: 0, leaked: 0, quiet: 0 };
/** One life of the client. It sent the ids from `first` to before `end`. `rss`: at its quiet points, in MiB. */
interface Life extends Asked {
  workersKilled: number;
  rss: number[];
}
const lives: Life[] = [];

type Counted = { is: "count"; fds: number; maps: number; sources: number };
type Worker = Actor<Counted, "go" | "end" | "count">;
type Client = Actor<Report, Order>;
const crew = new Crew(busDirectory, problem);
const spareWorkers: Worker[] = [];
let spareClient: Client | null = null;
let workers: Worker[] = [];
let client: Client;
let lifeSerial = 0;

// ---- the control ------------------------------------------------------------------------------------------------------

/** Pids of killed children whose bare sockets are timed: there is no delay between the kill and the measurement. */
const killedHere = new Map<number, "worker control" | "client control">();
const control = Bun.listen<{ pid: number }>({
  unix: join(root, "control"),
  socket: {
    open: (socket) => void (socket.data = { pid: 0 }),
    data: (socket, bytes) => void (socket.data.pid = Number.parseInt(bytes.toString(), 10)),
    close: (socket) => {
      const series = killedHere.get(socket.data.pid);
      if (series) times.add(series, Date.now() - times.killedAt(socket.data.pid));
    },
  },
});
const TIMER_MS = 20;
let timerDue = Date.now() + TIMER_MS;
const timer = setInterval(() => {
  times.add("timer control", Date.now() - timerDue);
  timerDue = Date.now() + TIMER_MS;
}, TIMER_MS);

function killHere(victim: Worker | Client): void {
  killedHere.set(victim.pid, victim === client ? "client control" : "worker control");
  times.kill(victim.pid, victim === client);
}

// ---- actors -----------------------------------------------------------------------------------------------------------

function stock(): void {
  while (spareWorkers.length < SPARES) {
    const worker: Worker = new Actor(crew, "soak/worker.ts", [busName, root]);
    spareWorkers.push(worker);
    born(worker);
  }
  if (spareClient) return;
  spareClient = new Actor(crew, "soak/client.ts", [
    busName,
    root,
    String(seed + 7919 * ++lifeSerial),
    String(wantedRequests),
  ]);
  born(spareClient);
}

function born({ pid }: { pid: number }): void {
  times.born(pid);
  killedHere.delete(pid);
}

async function startWorker(): Promise<void> {
  stock();
  const actor = await spareWorkers.shift()!.loaded();
  actor.tell("go");
  workers.push(actor);
  stock();
}

async function startClient(): Promise<void> {
  stock();
  client = await spareClient!.loaded();
  spareClient = null;
  lives.push({ first: books.next, end: books.next, killed: false, workersKilled: 0, rss: [] });
  client.tell({ do: "go" });
  await client.hear("open", 20_000);
  stock();
}

// ---- faults -----------------------------------------------------------------------------------------------------------

const POSSIBLE = Object.entries(b.POSSIBLE) as [b.Fault, readonly b.State[]][];
const impossible = POSSIBLE.flatMap(([fault, possible]) =>
  b.STATES.filter((state) => !possible.includes(state)).map((state) => `${state} ${fault}` as const),
);

/** The books' counters as a histogram. */
function histogram(): Histogram<b.State, b.Fault> {
  const counted = new Histogram(b.STATES, b.FAULTS, new Set(impossible));
  for (const [fault, possible] of POSSIBLE)
    for (const state of possible) counted.add(state, fault, books.seen(fault, state));
  return counted;
}

/** How the streams ended; the caller of a download has no source. */
function streamEnds(): Histogram<b.Kind, b.StreamEnd> {
  const lost = b.KINDS.map((kind) => `${kind} lost` as const);
  const counted = new Histogram(b.KINDS, b.STREAM_ENDS, new Set(["download source" as const, ...lost]));
  for (const kind of b.KINDS) for (const end of b.STREAM_ENDS) counted.add(kind, end, books.ended(kind, end));
  return counted;
}

/** The state that the fault has met least often. */
function rarest(fault: b.Fault): b.State {
  const states = b.POSSIBLE[fault].toSorted((x, y) => books.seen(fault, x) - books.seen(fault, y));
  return books.seen(fault, states[0]!) < 3 ? states[0]! : random.pick(states);
}

/** This program causes half of the faults, at any instant. The client causes the other half, in states that it can see. */
async function killWorker(): Promise<void> {
  const victim = random.pick(workers);
  victim.condemned = true;
  lives.at(-1)!.workersKilled++;
  if (random.chance(0.5) || victim.stopped || client.stopped) {
    killHere(victim);
  } else {
    client.tell({ do: "kill", pid: victim.pid, want: rarest("worker-kill") });
    await client.hear("faulted", 20_000);
  }
  await victim.gone();
  workers = workers.filter((worker) => worker !== victim);
  tally.kills++;
  await startWorker();
}

async function killClient(): Promise<void> {
  const victim = client;
  victim.condemned = true;
  killedHere.set(victim.pid, "client control");
  if (tally.clientKills % 3 === 2) killHere(victim);
  else victim.tell({ do: "kill", pid: 0, want: rarest("client-kill") });
  await victim.gone();
  Object.assign(lives.at(-1)!, { end: books.next, killed: true });
  const left = readdirSync(busDirectory).toSorted().join();
  if (left !== `${busName}.lock,${busName}.sock`) problem(`a killed client left ${left}`);
  tally.kills++;
  tally.clientKills++;
  await startClient();
}

/** Chooses a victim: in the first part of a cycle a worker, later often enough the client that it is one kill in ten. */
async function kill(): Promise<void> {
  const turn = tally.kills % cycle;
  const due = Math.ceil(cycle / 10) * (Math.floor(tally.kills / cycle) + 1) - tally.clientKills;
  const isClient = turn >= CALM * cycle && random.chance(due / (cycle - turn));
  await (isClient ? killClient() : killWorker());
}

async function stopWorker(): Promise<void> {
  const victim = workers.find((worker) => !worker.stopped);
  if (!victim) return;
  victim.stopped = true;
  tally.stops++;
  if (random.chance(0.3)) {
    victim.process.kill("SIGSTOP");
  } else {
    client.tell({ do: "stop", pid: victim.pid, want: rarest("worker-stop") });
    await client.hear("faulted", 20_000);
  }
  setTimeout(() => resume(victim), random.below(STOP_MS));
}

function resume(actor: Worker | Client): void {
  if (actor.stopped && actor.isAlive) {
    times.continue(actor.pid, actor === client);
    actor.process.kill("SIGCONT");
  }
  actor.stopped = false;
}

/** Stops the client for several timeouts; sometimes a worker is killed meanwhile. */
async function stopClient(): Promise<void> {
  const isLong = tally.clientStops % 4 === 1 && tally.longStops < size.longStops;
  const hears = random.chance(0.7);
  tally.clientStops++;
  if (isLong) tally.longStops++;
  if (hears) client.tell({ do: "stop", pid: 0, want: rarest("client-stop") });
  else client.process.kill("SIGSTOP");
  await stopped(client.pid);
  client.stopped = true;
  const until = performance.now() + (isLong ? TIMEOUT_MS + 200 : random.below(STOP_MS));
  if (random.chance(0.2)) await killWorker();
  await Bun.sleep(Math.max(0, until - performance.now()));
  resume(client);
  if (hears) await client.hear("faulted", 20_000);
}

async function quiet(): Promise<void> {
  for (const worker of workers) resume(worker);
  const life = lives.at(-1)!;
  client.tell({ do: "quiet", workers: WORKERS, killed: life.workersKilled });
  const { faults, lost, memory } = await client.hear("quiet", 150_000);
  life.rss.push(memory.rss / 2 ** 20);
  tally.quiet++;
  tally.lost += lost;
  for (const worker of workers) {
    worker.tell("count");
    const { maps, sources } = await worker.hear("count", 20_000);
    if (maps !== 1) faults.push(`worker ${worker.pid} has ${maps} regions mapped`);
    if (sources > 0) faults.push(`worker ${worker.pid}: ${sources} sources of streams have not ended`);
  }
  tally.leaked += faults.length;
  for (const fault of faults) problem(`at quiet point ${tally.quiet}: ${fault}`);
}

/** Whether the run has all its kills and requests, and every cell occurred or was waited for long enough. */
function enough(): boolean {
  const missing = histogram().empty.length + streamEnds().empty.length;
  if (tally.kills < 2 * wantedKills + 20 && missing > 0) return false;
  return tally.kills >= wantedKills && books.next >= wantedRequests && proof.ms >= wantedMs;
}

async function soak(): Promise<void> {
  await startClient();
  for (let i = 0; i < WORKERS; i++) await startWorker();
  await quiet();
  let quietAt = QUIET_EVERY;
  let seen = books.next;
  let seenAt = performance.now();
  while (!enough() && problems.length < 50) {
    await Bun.sleep(random.below(size.pauseMs));
    if (books.next > seen) {
      seen = books.next;
      seenAt = performance.now();
    } else if (performance.now() - seenAt > STALL_MS) throw new Error(`nothing is asked for ${STALL_MS} ms`);
    if (books.next > capacity - 500_000) throw new Error("the books are full before the kills are done");
    const dice = random.below(100);
    if (tally.kills >= wantedKills && books.next < wantedRequests && dice < 80) continue; // the load is behind
    if (dice < 72) await kill();
    else if (dice < 90) await stopWorker();
    else if (dice < 97) await stopClient();
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

/** Ends all processes in order; they must leave no file. */
async function end(): Promise<void> {
  for (const actor of [client, ...workers]) actor.condemned = true;
  client.tell({ do: "end" });
  await client.gone();
  lives.at(-1)!.end = books.next;
  for (const worker of workers) worker.tell("end");
  for (const spare of [...spareWorkers, spareClient]) {
    if (!spare) continue;
    spare.condemned = true;
    spare.process.kill("SIGKILL");
  }
  const inTime = until(() => crew.living.size === 0, "every process has ended", 30_000);
  await inTime.catch((error) => {
    tally.leaked++;
    problem(error.message);
  });
  const left = readdirSync(busDirectory);
  tally.leaked += left.length;
  if (left.length > 0) problem(`the bus left ${left.join()}`);
}

// ---- the verdict ------------------------------------------------------------------------------------------------------

/** Prints the delays, and reports delays that were too long and would not have been without a bus. */
function judgeTimes(): void {
  const rows = [
    ["worker killed", "worker control"],
    ["worker gone", "worker control"],
    ["client killed", "client control"],
  ] as const;
  for (const [series, other] of rows) {
    const delays = times.read(series);
    const { p99, count } = times.read(other);
    say(`noticed, ${series}: ${delaysText(delays)}; a bare socket: p99 ${p99} ms of ${count}`);
    const limit = Math.max(GRACE_MS, 3 * p99);
    if (delays.count === 0) problem(`no delay was recorded for "${series}"`);
    const [which, value] = delays.count < FEW ? ["p95", delays.p95] : ["p99", delays.p99];
    if (value > limit) problem(`"${series}" was noticed late: ${which} ${value} ms, more than ${limit}`);
  }
  const idle = times.read("timer control");
  const rest = [
    ["after the deadline", idle],
    ["after the death", times.read("worker control")],
  ] as const;
  say(`timers of an idle process: ${delaysText(idle)}`);
  for (const [series, other] of rest) {
    const delays = times.read(series);
    const limit = Math.max(GRACE_MS, 3 * other.max);
    say(`settled ${series}: ${delaysText(delays)} (bound ${limit} ms)`);
    if (delays.count === 0) problem(`no request settled ${series}`);
    if (delays.max > limit) problem(`a request settled ${delays.max} ms ${series}, more than ${limit}`);
  }
}

/**
 * Growth of the lowest point from the first to the last third of a life's quiet points (of a short life: half), without the first
 * point. Garbage that is not collected yet only raises a point; a leak raises the lowest one too.
 */
function growthOf({ rss }: Life): number {
  const points = rss.slice(1);
  const part = Math.ceil(points.length / (rss.length < OLD ? 2 : 3));
  return Math.min(...points.slice(-part)) - Math.min(...points.slice(0, part));
}

function judgeGrowth(): void {
  const long = lives.filter(({ rss }) => rss.length >= 4);
  if (long.length === 0 && tally.kills >= 100)
    problem("no life of the client was long enough to show whether it grows");
  for (const life of long) {
    const growth = growthOf(life);
    const bound = life.rss.length < OLD ? YOUNG_MIB : GROWTH_MIB;
    const course = life.rss.length > 12 ? [...life.rss.slice(0, 6), NaN, ...life.rss.slice(-6)] : life.rss;
    const text = course.map((mib) => (Number.isNaN(mib) ? "…" : mib.toFixed(0))).join(" ");
    say(
      `the client's own memory at ${life.rss.length} quiet points of ${life.end - life.first} requests and ` +
        `${life.workersKilled} kills: ${text} MiB, growth ${growth.toFixed(1)} MiB (bound ${bound})`,
    );
    if (growth <= bound) continue;
    tally.leaked++;
    problem(`the client's memory grew by ${growth.toFixed(1)} MiB`);
  }
}

endOnSignal(crew, root);
try {
  await soak();
} catch (error) {
  problem(`the soak was aborted: ${error instanceof Error ? error.message : error}`);
  lives.at(-1)!.end = books.next;
}
await crew.endAll();
clearInterval(timer);
control.stop(true);
const sums = audit(books, lives, problem);
const met = histogram();
const ends = streamEnds();
const never = [...met.empty, ...ends.empty];
if (never.length > 0) problem(`never occurred: ${never.join(", ")}`);
if (sums.twiceRun === 0) problem("no idempotent request ran twice");
if (sums.twiceKilled === 0 && tally.kills >= 60) problem("no idempotent request lost both of its workers");
if (tally.stops === 0 || tally.clientStops === 0 || tally.clientKills === 0) problem("no stop, or no kill of a client");
if (tally.longStops === 0 && tally.kills >= 100) problem("the client was never stopped for longer than the timeouts");
say(String(met));
say(String(ends));
judgeTimes();
judgeGrowth();
say(
  `answered ${sums.answered}, failed ${sums.failed}, refused ${sums.refused}, aborted ${sums.aborted}, gone with their client ` +
    `${sums.vanished}, streamed ${books.streamedMib.toFixed(0)} MiB, run twice ${sums.twiceRun}, failed both times ${sums.twiceKilled}; client kills ${tally.clientKills}, client stops ` +
    `${tally.clientStops} (${tally.longStops} long), quiet points ${tally.quiet}, ` +
    proof.verdict,
);
proof.end({
  requests: books.next,
  streams: books.streams,
  kills: tally.kills,
  stalls: tally.stops + tally.clientStops,
  lost: Math.max(sums.lost, tally.lost),
  doubled: sums.doubled,
  misdelivered: sums.wrong,
  leaked: tally.leaked,
});
