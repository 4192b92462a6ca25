/**
 * Conservation on a shared bus: `bun test/prove/many.ts [ci | quick | long] [--seed N] [--kills N]`.
 *
 * Eight clients share eight workers, each a separate process, under load. This program kills and stops them at random moments,
 * on both sides, also two at once, and starts others in their place. The books of `soak` judge each request: its id names its
 * client, and its response must carry both. At quiet points every client has every worker, no slot is in use, and no process
 * has more descriptors or mappings than before.
 *
 * At the end a ninth client sends requests at a steady rate, in pairs of phases: while the others are quiet, and while one of them is
 * stopped in the middle of its requests and streams. The stop must not delay the ninth client's requests.
 *
 * The run proves nothing if no client or worker was hit while requests ran, if no number was taken again, or if no request
 * moved. It fails then. A number was taken again if all clients have numbers below eight after one was killed.
 */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Actor, Crew, endOnSignal, stopped } from "./actor.ts";
import { TIMEOUT_MS } from "./asker.ts";
import { sizeAsked } from "./figures.ts";
import { Proof, say } from "./proof.ts";
import { audit, type Life as Asked } from "./soak/audit.ts";
import type * as pace from "./stalls/pace.ts";
import type { Order, Report } from "./soak/client.ts";
import * as b from "./soak/request-books.ts";
import { Times } from "./soak/times.ts";

const SIZES = {
  ci: { kills: 50, pauseMs: 250, pairs: 9 },
  quick: { kills: 200, pauseMs: 250, pairs: 15 },
  long: { kills: 3_000, pauseMs: 100, pairs: 99 },
} as const;
const size = SIZES[sizeAsked()];
const proof = new Proof("many", { kills: size.kills });
const { seed, folder: root, runtime: busDirectory, problems, problem } = proof;
const wantedKills = proof.number("kills");

const CLIENTS = 8;
const WORKERS = 8;
/** Faults between two quiet points. */
const QUIET_EVERY = 25;
/** Longest stop, in ms, except for stops of a client that outlast its timeouts. */
const STOP_MS = 300;
/** Largest number of ids of one life of a client. From half of them on it asks slowly. */
const IDS = 400_000;
/** Longest wait for an answer of a child, in ms. */
const LONG_MS = 150_000;
/** States in which a fault must have met a request at least once. */
const STRUCK = ["ready", "claimed", "streaming"] as const;
/** Length of a phase of the ninth client, in ms. */
const PHASE_MS = 350;
/** How many times longer the p90 of its requests may be while another client is stopped, in the median of all pairs. */
const SLOWER = 2;

const random = new b.Random(seed);
const busName = `many-${process.pid}`;
const parts = 2 * wantedKills + 64; // the workers have part 0, the ninth client has the last
b.RequestBooks.create(root, parts * IDS, parts);
const times = Times.create(root);

type Counted = { is: "count"; fds: number; maps: number; sources: number };
type Worker = Actor<Counted, "go" | "end" | "count">;
interface Life extends Asked {
  actor: Actor<Report, Order>;
  books: b.RequestBooks;
  workersKilled: number;
  moves: number;
}

const crew = new Crew(busDirectory, problem);
const lives: Life[] = [];
let clients: Life[] = [];
let workers: Worker[] = [];
/** Most descriptors of a worker, by pid: as many as at its first quiet point. */
const descriptors = new Map<number, number>();
const tally = { clientKills: 0, workerKills: 0, clientStops: 0, workerStops: 0, both: 0, lost: 0, leaked: 0, quiet: 0 };

/** The workers tell how soon they notice a death; `soak` judges that. */
const control = Bun.listen({ unix: join(root, "control"), socket: { data() {} } });

// ---- actors -----------------------------------------------------------------------------------------------------------

async function startWorker(): Promise<void> {
  const actor: Worker = new Actor(crew, "soak/worker.ts", [busName, root]);
  times.born(actor.pid);
  (await actor.loaded()).tell("go");
  workers.push(actor);
}

async function startClient(): Promise<void> {
  const part = lives.length + 1;
  const args = [busName, root, String(seed + 7919 * part), String(IDS / 2), String(part)];
  const actor = new Actor<Report, Order>(crew, "soak/client.ts", args);
  times.born(actor.pid);
  const books = new b.RequestBooks(root, part);
  const { first } = books;
  const life: Life = { actor, books, first, end: first, killed: false, workersKilled: 0, moves: 0 };
  lives.push(life);
  (await actor.loaded()).tell({ do: "go" });
  await actor.hear("open", LONG_MS);
  clients.push(life);
}

/** The numbers of the clients, from the names of their sockets. */
function numbers(): number[] {
  const socket = new RegExp(`^${busName}@(\\d+)\\.sock$`);
  return readdirSync(busDirectory).flatMap((file) => (socket.exec(file) ? [Number(socket.exec(file)![1])] : []));
}

// ---- faults -----------------------------------------------------------------------------------------------------------

/** Some of the kills happen at any moment; a client causes the others, in a state that it can see. */
async function killWorker(sees = random.chance(0.7)): Promise<void> {
  const victim = random.pick(workers);
  workers = workers.filter((worker) => worker !== victim);
  victim.condemned = true;
  for (const life of clients) life.workersKilled++;
  const witness = random.pick(clients).actor;
  if (!sees || victim.stopped || witness.stopped) {
    times.kill(victim.pid, false);
  } else {
    witness.tell({ do: "kill", pid: victim.pid, want: random.pick(STRUCK) });
    await witness.hear("faulted", LONG_MS);
  }
  await victim.gone();
  tally.workerKills++;
  await startWorker();
}

async function killClient(): Promise<void> {
  const victim = random.pick(clients);
  clients = clients.filter((life) => life !== victim);
  victim.actor.condemned = true;
  if (victim.actor.stopped || random.chance(0.3)) times.kill(victim.actor.pid, true);
  else victim.actor.tell({ do: "kill", pid: 0, want: random.pick(STRUCK) });
  await victim.actor.gone();
  Object.assign(victim, { end: victim.books.next, killed: true });
  tally.clientKills++;
  await startClient();
}

/** Stops a process for a while; a client sometimes for longer than its timeouts. */
async function stop(actor: Worker | Life["actor"], ms: number): Promise<void> {
  actor.stopped = true;
  actor.process.kill("SIGSTOP");
  await stopped(actor.pid);
  setTimeout(() => resume(actor), ms);
}

function resume(actor: Worker | Life["actor"]): void {
  if (actor.stopped && actor.isAlive) {
    times.continue(
      actor.pid,
      clients.some((life) => life.actor === actor),
    );
    actor.process.kill("SIGCONT");
  }
  actor.stopped = false;
}

async function stopSome(): Promise<void> {
  const worker = random.chance(0.6) ? workers.find((it) => !it.stopped) : undefined;
  const client = !worker || random.chance(0.3) ? clients.find(({ actor }) => !actor.stopped) : undefined;
  if (worker) {
    tally.workerStops++;
    await stop(worker, random.below(STOP_MS));
  }
  if (client) {
    tally.clientStops++;
    await stop(client.actor, tally.clientStops % 8 === 4 ? TIMEOUT_MS + 200 : random.below(STOP_MS));
  }
}

async function fault(): Promise<void> {
  const dice = random.below(100);
  if (dice < 35) await killWorker();
  else if (dice < 60) await killClient();
  else if (dice < 90) await stopSome();
  else {
    tally.both++;
    await Promise.all([killWorker(false), killClient()]);
  }
}

// ---- quiet points -----------------------------------------------------------------------------------------------------

async function quiet(stays = false): Promise<void> {
  tally.quiet++;
  const { quiet: point } = tally;
  const leak = (what: string): void => {
    tally.leaked++;
    problem(`at quiet point ${point}: ${what}`);
  };
  for (const actor of [...workers, ...clients.map((life) => life.actor)]) resume(actor);
  for (const { actor, workersKilled } of clients)
    actor.tell({ do: "quiet", workers: WORKERS, killed: workersKilled, stays: true });
  for (const life of clients) {
    const { faults, lost, moves } = await life.actor.hear("quiet", LONG_MS);
    life.moves = moves;
    tally.lost += lost;
    for (const text of faults) leak(`client ${life.actor.pid}: ${text}`);
  }
  for (const worker of workers) await inspect(worker, leak);
  const taken = numbers();
  if (taken.length !== CLIENTS || taken.some((number) => number >= CLIENTS))
    leak(`the clients have the numbers ${taken}`);
  if (!stays) for (const { actor } of clients) actor.tell({ do: "resume" });
}

/** A worker has one region for each client, no open source, and no more descriptors than before. */
async function inspect(worker: Worker, leak: (what: string) => void): Promise<void> {
  let counted: Counted = { is: "count", fds: 0, maps: 0, sources: 0 };
  const isClean = (): boolean => {
    const most = descriptors.get(worker.pid) ?? Infinity;
    return counted.maps === CLIENTS && counted.sources === 0 && counted.fds <= most;
  };
  for (const end = performance.now() + 20_000; !isClean() && performance.now() < end;) {
    worker.tell("count");
    counted = await worker.hear("count", LONG_MS);
  }
  if (!isClean()) leak(`worker ${worker.pid} has ${JSON.stringify(counted)}`);
  if (!descriptors.has(worker.pid)) descriptors.set(worker.pid, counted.fds);
}

// ---- the pace of the others -------------------------------------------------------------------------------------------

let ninth: Asked | null = null;

/** Compares phases of the ninth client beside quiet clients with phases beside a stopped one. */
async function keepPace(): Promise<void> {
  const part = parts - 1;
  const args = [busName, root, String(seed), String(part)];
  const client = new Actor<pace.Report, pace.Order>(crew, "stalls/pace.ts", args);
  times.born(client.pid);
  const books = new b.RequestBooks(root, part);
  const life = { first: books.first, end: books.first, killed: false };
  ninth = life;
  (await client.loaded()).tell({ do: "go", workers: WORKERS });
  await client.hear("open", LONG_MS);
  const measure = async (): Promise<number> => {
    client.tell({ do: "phase", ms: PHASE_MS, pid: 0 });
    return (await client.hear("phase", LONG_MS)).p90;
  };
  await measure(); // warms up
  const ratios: number[] = [];
  for (let pair = 0; pair < size.pairs; pair++) {
    const free = await measure();
    const stalled = await besideStopped(random.pick(clients), measure);
    ratios.push(stalled / free);
  }
  const median = ratios.toSorted((x, y) => x - y)[ratios.length >> 1]!;
  say(`p90 beside a stopped client ÷ beside quiet ones: ${ratios.map((ratio) => ratio.toFixed(2)).join(" ")}`);
  if (!(median <= SLOWER)) problem(`a stopped client delays others: ${median.toFixed(2)} times in the median`);
  client.tell({ do: "quiet" });
  tally.lost += (await client.hear("quiet", LONG_MS)).lost;
  client.condemned = true;
  client.process.disconnect(); // it exits, and leaves the bus
  await client.gone();
  life.end = books.next;
  await end();
}

/** Lets one client run until it has a stream, stops it, and measures. */
async function besideStopped({ actor, workersKilled }: Life, measure: () => Promise<number>): Promise<number> {
  actor.tell({ do: "resume" });
  actor.tell({ do: "stop", pid: 0, want: "streaming" });
  await stopped(actor.pid);
  tally.clientStops++;
  const p90 = await measure();
  times.continue(actor.pid, true);
  actor.process.kill("SIGCONT");
  await actor.hear("faulted", LONG_MS);
  actor.tell({ do: "quiet", workers: WORKERS, killed: workersKilled, stays: true });
  const { faults, lost } = await actor.hear("quiet", LONG_MS);
  tally.lost += lost;
  for (const text of faults) problem(`client ${actor.pid} after a stop: ${text}`);
  return p90;
}

// ---- the run ----------------------------------------------------------------------------------------------------------

async function run(): Promise<void> {
  await Promise.all(Array.from({ length: CLIENTS }, startClient));
  await Promise.all(Array.from({ length: WORKERS }, startWorker));
  await quiet();
  for (let n = 1; tally.clientKills + tally.workerKills < wantedKills && problems.length === 0; n++) {
    await Bun.sleep(random.below(size.pauseMs));
    await fault();
    if (n % QUIET_EVERY === 0) await quiet();
  }
  await quiet(true);
  await keepPace();
}

/** Ends all processes in order; they must leave no file. */
async function end(): Promise<void> {
  for (const worker of workers) worker.condemned = true;
  for (const { actor } of clients) {
    actor.condemned = true;
    actor.tell({ do: "end" });
  }
  for (const { actor } of clients) await actor.gone();
  for (const worker of workers) worker.tell("end");
  for (const worker of workers) await worker.gone();
  const left = readdirSync(busDirectory);
  tally.leaked += left.length;
  if (left.length > 0) problem(`the bus left ${left.join()}`);
}

/** What the run must have met, or it proves little. */
function judgeFaults(): void {
  const seen = (fault: b.Fault, state: b.State): number =>
    lives.reduce((sum, { books }) => sum + books.seen(fault, state), 0);
  for (const fault of ["worker-kill", "client-kill"] as const) {
    const met = STRUCK.map((state) => `${seen(fault, state)} ${state}`);
    say(`requests that a ${fault} met: ${met.join(", ")}`);
    for (const state of STRUCK) if (seen(fault, state) === 0) problem(`no ${fault} met a request that was ${state}`);
  }
  const { clientKills, clientStops, workerStops, both } = tally;
  if (clientKills === 0 || clientStops === 0 || workerStops === 0 || both === 0)
    problem(`a kind of fault is missing: ${JSON.stringify(tally)}`);
  const most = Math.max(...lives.map(({ first, end }) => end - first));
  if (most > IDS) problem(`a client asked ${most} times; its part of the books has room for ${IDS}`);
  if (lives.every(({ moves }) => moves === 0)) problem("no request moved to another worker");
}

endOnSignal(crew, root);
try {
  await run();
} catch (error) {
  problem(`the run was aborted: ${error instanceof Error ? error.message : error}`);
}
await crew.endAll();
control.stop(true);
for (const life of clients) life.end = life.books.next;
const sums = audit(lives[0]!.books, ninth ? [...lives, ninth] : lives, problem);
judgeFaults();
const asked = lives.reduce((sum, { first, end }) => sum + end - first, 0);
say(
  `answered ${sums.answered}, failed ${sums.failed}, refused ${sums.refused}, aborted ${sums.aborted}, gone with their client ` +
    `${sums.vanished}, run twice ${sums.twiceRun}, moved ${lives.reduce((sum, { moves }) => sum + moves, 0)}; killed ` +
    `${tally.clientKills} clients and ${tally.workerKills} workers, ${tally.both} times both; stopped ${tally.clientStops} ` +
    `clients and ${tally.workerStops} workers; quiet points ${tally.quiet}, ${proof.verdict}`,
);
proof.end({
  requests: asked,
  streams: lives.reduce((sum, { books }) => sum + books.streams, 0),
  kills: tally.clientKills + tally.workerKills,
  stalls: tally.clientStops + tally.workerStops,
  lost: Math.max(sums.lost, tally.lost),
  doubled: sums.doubled,
  misdelivered: sums.wrong,
  leaked: tally.leaked,
});
