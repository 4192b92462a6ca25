/**
 * WebSockets under kills and restarts: `bun test/prove/sockets.ts [ci | quick | long] [--seed N] [--faults N] [--clients N]`.
 *
 * Two hub processes on one port and three workers, each a separate process; this program has their clients, and kills and
 * restarts workers and hub processes. The books of the workers must have each message once, or not at all if the hub reported
 * it or the connection broke; messages of a client are in order and with one process at a time. A connection breaks only with
 * its hub process. Each client gets every publication of a topic while it is connected, in order.
 */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";
import { until } from "../support.ts";
import { Actor, Crew, endOnSignal } from "./actor.ts";
import { sizeAsked } from "./figures.ts";
import { Proof, say } from "./proof.ts";
import { Client, counted, type Stage } from "./sockets/client.ts";
import type { HubReport, Order, WorkerReport } from "./sockets/names.ts";
import * as b from "./soak/request-books.ts";

const SIZES = {
  ci: { faults: 20, clients: 100 },
  quick: { faults: 60, clients: 1_000 },
  long: { faults: 2_000, clients: 1_000 },
} as const;
const size = SIZES[sizeAsked()];
const proof = new Proof("sockets", { faults: size.faults, clients: size.clients });
const { seed, folder, runtime, problem, problems } = proof;
const wantedFaults = proof.number("faults");

const HUBS = 2;
const WORKERS = 3;
/** Faults between two quiet points. */
const QUIET_EVERY = 5;
const FAULT_EVERY_MS = 400;
const LONG_MS = 40_000;
const FAULTS = ["worker-kill", "worker-restart", "worker-kill", "hub-kill", "hub-restart"] as const;
type Fault = (typeof FAULTS)[number];

type Hub = Actor<HubReport, Order>;
type Worker = Actor<WorkerReport, Order>;

const random = new b.Random(seed);
const books = b.RequestBooks.create(folder, (wantedFaults + 20) * proof.number("clients") * 60);
const file = openSync(join(folder, "clients"), "wx");
ftruncateSync(file, proof.number("clients") * 12);
closeSync(file);
const crew = new Crew(runtime, problem);
const stage: Stage = { port: 0, isPaused: true, isOver: false, books, problem, hubEnds: 0, lost: new Map() };
const met = Object.fromEntries(FAULTS.map((fault) => [fault, 0])) as Record<Fault, number>;
const clients = Array.from({ length: proof.number("clients") }, (_, index) => new Client(stage, index, random.next()));
const hubs: Hub[] = [];
const workers: Worker[] = [];
/** Processes that were killed. */
const killed = new Set<number>();
let lives = 1;
let quiets = 0;

async function startHub(): Promise<void> {
  const hub: Hub = new Actor(crew, "sockets/server.ts", [String(stage.port)]);
  hubs.push(hub);
  (await hub.loaded()).tell("go");
  stage.port = (await hub.hear("open", LONG_MS)).port;
}

async function startWorker(): Promise<void> {
  const worker: Worker = new Actor(crew, "sockets/worker.ts", [folder, String(lives++)]);
  workers.push(worker);
  (await worker.loaded()).tell("go");
  await worker.hear("open", LONG_MS);
}

/** Kills a process, or lets it end, after its successor has started. */
async function replace(list: (Hub | Worker)[], start: () => Promise<void>, isKill: boolean): Promise<void> {
  const victim = isKill ? random.pick(list) : list[0]!; // the oldest hub process has clients
  if (!isKill) await start();
  victim.condemned = true;
  if (list === hubs) stage.hubEnds++;
  list.splice(list.indexOf(victim), 1);
  if (isKill) {
    killed.add(victim.pid);
    victim.process.kill("SIGKILL");
  }
  if (!isKill) victim.tell("end");
  await victim.gone(LONG_MS);
  read(victim);
  if (isKill) await start();
}

const publishers = new WeakSet<Worker>();

function publishOnce(): void {
  const worker = workers[0]!;
  if (publishers.has(worker)) return;
  publishers.add(worker);
  worker.tell("publish");
}

/** Reads what a process has reported: losses, and messages that two processes had at once. */
function read(actor: Hub | Worker): void {
  for (const report of actor.reports.splice(0)) {
    if (report.is === "lost") stage.lost.set(report.connection, (stage.lost.get(report.connection) ?? 0) + 1);
    if (report.is !== "overlap" || killed.has(report.pid)) continue;
    problem(`client ${report.client}: process ${report.pid} still handled its last message`);
  }
}

/** With no message under way, each message has its reply or its report. */
async function quiet(): Promise<void> {
  quiets++;
  stage.isPaused = true;
  await until(() => clients.every((client) => client.isOpen), "every client is connected", LONG_MS);
  // A lost message without a later one keeps its client waiting, so wait until nothing changes.
  for (let before = -1; before !== counted.replies;) {
    before = counted.replies;
    await Bun.sleep(clients.every((client) => client.isIdle) ? 100 : 1_500);
  }
  for (const actor of [...hubs, ...workers]) read(actor);
  for (const client of clients) client.judge();
  stage.isPaused = false;
}

async function chaos(): Promise<void> {
  for (let n = 1; n <= wantedFaults && problems.length < 20; n++) {
    await Bun.sleep(random.below(FAULT_EVERY_MS));
    const fault = FAULTS[n % FAULTS.length]!;
    met[fault]++;
    const isKill = fault.endsWith("kill");
    if (fault.startsWith("hub")) await replace(hubs, startHub, isKill);
    else await replace(workers, startWorker, isKill);
    publishOnce();
    if (n % QUIET_EVERY === 0) await quiet();
  }
}

endOnSignal(crew, folder);
let doubled = 0;
try {
  for (let n = 0; n < HUBS; n++) await startHub();
  for (let n = 0; n < WORKERS; n++) await startWorker();
  publishOnce();
  const running = clients.map((client) => client.run());
  await quiet();
  await chaos();
  await quiet();
  stage.isOver = true;
  await Promise.all(running);
  for (const actor of [...workers, ...hubs]) {
    actor.condemned = true;
    actor.tell("end");
    await actor.gone(LONG_MS);
  }
} catch (error) {
  problem(`aborted: ${error instanceof Error ? error.stack : error}`);
}
await crew.endAll();
for (let id = 0; id < books.next; id++) {
  if ((books.runs[id]! & 15) <= b.BEGAN) continue;
  doubled++;
  problem(`message ${id} ran ${books.runs[id]! & 15} times`);
}
if (wantedFaults >= SIZES.ci.faults)
  for (const [what, times] of Object.entries(counted))
    if (times === 0 && what !== "silent") problem(`never occurred: ${what}`);
say(
  `${Object.entries(met)
    .map(([fault, times]) => `${fault} ${times}`)
    .join(", ")}; quiet points ${quiets}`,
);
say(
  `${Object.entries(counted)
    .map(([what, times]) => `${what} ${times}`)
    .join(", ")}; ${proof.verdict}`,
);
proof.end({
  requests: books.next,
  streams: clients.length,
  kills: met["worker-kill"] + met["hub-kill"],
  lost: problems.length,
  doubled,
});
