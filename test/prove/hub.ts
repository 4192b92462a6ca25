/**
 * A hub under kills: `bun test/prove/hub.ts [ci | quick | long] [--seed N] [--kills N] [--calm N] [--leak BYTES]`.
 *
 * A hub and three workers, each a separate process; this program has hundreds of their clients, each with its own connection,
 * and kills workers and the hub. The books of the workers must have each request once, or not at all if its response says so;
 * each response must belong to its request. Each subscriber of an event stream must get each event once, in order, or a notice
 * that it is missing. At quiet points nothing is in use.
 *
 * Then nothing is killed for `calm` requests, and the memory of the hub and of the workers must not grow with them. `leak`
 * makes the workers leak that many bytes per request, which must fail.
 */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../support.ts";
import { Actor, Crew, endOnSignal } from "./actor.ts";
import { Histogram, sizeAsked } from "./figures.ts";
import { Caller, ENDS, type End, type Stage, STATES, type State } from "./hub/caller.ts";
import { EventAudit } from "./hub/event-audit.ts";
import { EVENTS, HUB, type HubReport, type Order, ROOMS, SSE, WORKER, type WorkerReport } from "./hub/rooms.ts";
import { counted, Places, Subscriber } from "./hub/subscriber.ts";
import { type Counted, Course, leaking } from "./memory.ts";
import { Proof, say } from "./proof.ts";
import { audit } from "./soak/audit.ts";
import * as b from "./soak/request-books.ts";

const SIZES = {
  ci: { kills: 18, calm: 30_000 },
  quick: { kills: 150, calm: 150_000 },
  long: { kills: 3_000, calm: 4_000_000 },
} as const;
const size = SIZES[sizeAsked()];
const proof = new Proof("hub", { kills: size.kills, calm: size.calm, leak: 0 });
const { seed, folder, runtime, problem, problems } = proof;
const wantedKills = proof.number("kills");
const wantedCalm = proof.number("calm");

const WORKERS = 3;
const CALLERS = 80;
/** Callers whose requests are always under way, so that every fault meets every state. */
const SLOW = 8;
const SUBSCRIBERS = 15;
/** Kills between two quiet points. */
const QUIET_EVERY = 9;
/** Kills between two floods. Half of it is odd: every fourth kill is the hub's, and a flood needs a hub. */
const FLOOD_EVERY = 10;
const KILL_EVERY_MS = 350;
/** Longest wait for a state, on a busy machine. */
const LONG_MS = 40_000;
/** Mappings of the hub: a region per worker, and the statistics of its name's bus and of its workers' bus. */
const MAPS = WORKERS + 2;
/** Points at which memory is noted. */
const POINTS = 10;

const FAULTS = ["worker-kill", "hub-kill", "leave"] as const;
type Fault = (typeof FAULTS)[number];
type Hub = Actor<HubReport, Order>;
type Worker = Actor<WorkerReport, Order>;

const random = new b.Random(seed);
const books = b.RequestBooks.create(folder, wantedKills * 5_000 + 2 * wantedCalm + 1_000_000);
mkdirSync(join(folder, "events"));
const events = b.RequestBooks.create(join(folder, "events"), (wantedKills + 50) * EVENTS);
const crew = new Crew(runtime, problem);
const stage: Stage = {
  port: 0,
  hubs: 0,
  hubKills: 0,
  hubEnds: 0,
  isEnding: false,
  workerKilledAt: -Infinity,
  isPaused: true,
  isOver: false,
  isCalm: false,
  books,
  problem,
  eventProblem: (text) => {
    eventFaults++;
    problem(text);
  },
};
// A caller without a request has nothing to leave.
const met = new Histogram<State, Fault>(STATES, FAULTS, new Set(["idle leave"]));
const ends = Object.fromEntries(ENDS.map((end) => [end, 0])) as Record<End, number>;
const places = new Places();
const eventAudit = new EventAudit(events, places, stage.eventProblem);
let hub: Hub;
let workers: Worker[] = [];
let publishers = 0;
let workerKills = 0;
let quiets = 0;
let eventFaults = 0;
let leaked = 0;
/** Most descriptors of the hub, without its clients, and of a worker. */
let most: { hub: number; worker: number } | null = null;

const callers = Array.from({ length: CALLERS }, (_, index) => {
  return new Caller(stage, random.next(), index < SLOW, (end, state) => {
    ends[end]++;
    if (end === "left") met.add(state, "leave");
  });
});
const subscribers = Array.from({ length: SUBSCRIBERS * ROOMS.length }, (_, index) => {
  return new Subscriber(stage, events, places, ROOMS[index % ROOMS.length]!, random.next());
});

// ---- processes --------------------------------------------------------------------------------------------------------

async function startHub(): Promise<void> {
  hub = new Actor(crew, "hub/server.ts", []);
  (await hub.loaded()).tell("go");
  stage.port = (await hub.hear("open", LONG_MS)).port;
  stage.hubs++;
}

/** Starts a worker, which publishes nothing yet. */
async function startWorker(): Promise<Worker> {
  const worker: Worker = new Actor(crew, "hub/worker.ts", [folder, String(publishers++)], leaking(proof.text("leak")));
  workers.push(worker);
  (await worker.loaded()).tell("go");
  return worker;
}

/** Waits for a state that the fault has met rarely, and counts what the callers are doing. */
async function meet(fault: Fault): Promise<void> {
  const rarest = STATES.toSorted((x, y) => met.get(x, fault) - met.get(y, fault))[0]!;
  const end = performance.now() + 500;
  while (callers.every(({ state }) => state !== rarest) && performance.now() < end) await Bun.sleep(0);
  for (const { state } of callers) met.add(state, fault);
}

async function killWorker(): Promise<void> {
  const victim = random.pick(workers);
  await meet("worker-kill");
  victim.condemned = true;
  stage.workerKilledAt = performance.now();
  workerKills++;
  victim.process.kill("SIGKILL");
  workers = workers.filter((worker) => worker !== victim);
  await victim.gone(LONG_MS);
  (await startWorker()).tell("resume");
}

async function killHub(): Promise<void> {
  await meet("hub-kill");
  hub.condemned = true;
  stage.hubKills++;
  hub.process.kill("SIGKILL");
  await hub.gone(LONG_MS);
  events.next++; // after the old hub has ended, and before the new one starts
  await startHub();
}

// ---- quiet points -----------------------------------------------------------------------------------------------------

/** Resolves when a state is reached; else reports it as a leak. */
async function reach(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  await until(condition, what, LONG_MS).catch((error: Error) => {
    leaked++;
    problem(`quiet point ${quiets}: ${error.message}`);
  });
}

async function count(actor: Hub | Worker): Promise<Counted> {
  actor.tell("count");
  return await (actor as Hub).hear("count", LONG_MS);
}

async function tellAll(order: Order, report: "still" | null): Promise<void> {
  for (const worker of workers) worker.tell(order);
  if (report) for (const worker of workers) await worker.hear(report, LONG_MS);
}

/** Publishes one event in each room. Returns their numbers. */
async function mark(): Promise<number[]> {
  workers[0]!.tell("mark");
  return (await workers[0]!.hear("marked", LONG_MS)).events;
}

interface Picture {
  clients: number;
  workers: { queued: number; processes: { slots: unknown[] }[] }[];
}

async function picture(): Promise<Picture> {
  const url = `http://127.0.0.1:${stage.port}/_slotbus/snapshot`;
  return (await (await fetch(url, { headers: { connection: "close" }, keepalive: false })).json()) as Picture;
}

/** With no request under way, checks that no event is lost and that nothing is in use. Returns what hub and workers have. */
async function quiet(): Promise<Counted[]> {
  quiets++;
  stage.isPaused = true;
  await reach("every request has settled", () => callers.every(({ state }) => state === "idle"));
  for (const worker of workers) await reach("a worker is connected", () => isOpen(worker));
  await tellAll("still", "still");
  await eventAudit.settle(mark, reach, publishers, subscribers);
  await reach("no slot is in use, and the hub has no other client", async () => {
    const now = await picture();
    const processes = now.workers.flatMap((worker) => worker.processes);
    const isFree =
      processes.every(({ slots }) => slots.length === 0) && now.workers.every(({ queued }) => queued === 0);
    return isFree && processes.length === WORKERS && now.clients === subscribers.length;
  });
  const counts = await judgeCounts();
  const files = readdirSync(runtime).toSorted().join();
  const bus = `${HUB}.${WORKER}`;
  const right = [`${HUB}.control`, `${HUB}.lock`, `${HUB}.sock`, `${bus}.lock`, `${bus}.sock`].toSorted().join();
  if (files !== right) problem(`quiet point ${quiets}: files ${files}`);
  return counts;
}

const opened = new WeakSet<Worker>();

/** Whether a worker has started. */
function isOpen(worker: Worker): boolean {
  if (!opened.has(worker) && worker.reports.some(({ is }) => is === "open")) opened.add(worker);
  return opened.has(worker);
}

async function judgeCounts(): Promise<Counted[]> {
  let seen = "";
  let counts: Counted[] = [];
  await reach("the hub and its workers have what they had before", async () => {
    counts = await Promise.all([hub, ...workers].map(count));
    const [own, ...others] = counts as [Counted, ...Counted[]];
    const now = { hub: own.fds - subscribers.length, worker: Math.max(...others.map(({ fds }) => fds)) };
    seen = JSON.stringify({ ...now, maps: [own, ...others].map(({ maps }) => maps) });
    most ??= now;
    const isSame = now.hub <= most.hub && now.worker <= most.worker;
    return isSame && own.maps === MAPS && others.every(({ maps }) => maps === 1);
  });
  say(`quiet point ${quiets}: ${books.next} requests, ${counted.events} events, open: ${seen}`);
  return counts;
}

async function resume(): Promise<void> {
  await tellAll("resume", null);
  stage.isPaused = false;
}

// ---- the run ----------------------------------------------------------------------------------------------------------

/** More events than the subscribers of one room can buffer, while half of them do not read. */
async function flood(): Promise<void> {
  const readers = subscribers.filter(({ room }) => room === "flood");
  await until(
    () => readers.every((reader) => reader.isOpen) && workers.some(isOpen),
    "the room can be flooded",
    LONG_MS,
  );
  const paused = readers.slice(0, readers.length / 2).map((reader) => reader.pause());
  const worker = workers.find(isOpen)!;
  worker.tell("flood");
  await worker.hear("flooded", LONG_MS);
  for (const resume of paused) resume();
}

async function chaos(): Promise<void> {
  for (let kills = 1; kills <= wantedKills && problems.length < 20; kills++) {
    await Bun.sleep(random.below(KILL_EVERY_MS));
    for (let i = 0; i < 6; i++) random.pick(subscribers).leave(random.chance(0.2));
    await (kills % 4 === 0 ? killHub() : killWorker());
    if (kills % FLOOD_EVERY === FLOOD_EVERY / 2) {
      await flood();
      await Bun.sleep(random.below(KILL_EVERY_MS));
    }
    if (kills % QUIET_EVERY !== 0) continue;
    await quiet();
    await resume();
  }
}

/** Requests without a fault; at each point the memory of every process is noted. */
async function calm(): Promise<void> {
  stage.isCalm = true;
  const [ofHub, ofWorkers] = [new Course("hub"), new Course("workers")];
  await quiet();
  for (let i = 0; i < SSE.maxReplay; i++) await mark(); // from now on the hub forgets an event for each new one
  const first = books.next;
  await resume();
  for (let point = 0; point <= POINTS && problems.length === 0; point++) {
    await until(() => books.next >= first + (point * wantedCalm) / POINTS, "the next point", 30 * 60_000);
    const [own, ...others] = await quiet();
    ofHub.add(books.next - first, own!);
    ofWorkers.add(books.next - first, ...others);
    await resume();
  }
  for (const course of [ofHub, ofWorkers]) course.judge(leaks);
}

function leaks(what: string): void {
  leaked++;
  problem(what);
}

async function end(): Promise<void> {
  stage.isPaused = true;
  await reach("every request has settled at the end", () => callers.every(({ state }) => state === "idle"));
  stage.isOver = true;
  for (const subscriber of subscribers) subscriber.end();
  for (const actor of [...workers, hub]) {
    actor.condemned = true;
    actor.tell("end");
    await reach("a process has ended", () => !actor.isAlive);
  }
  const left = readdirSync(runtime);
  leaked += left.length;
  if (left.length > 0) problem(`the hub left ${left.join()}`);
}

endOnSignal(crew, folder);
try {
  await startHub();
  for (let i = 0; i < WORKERS; i++) await startWorker();
  for (const worker of workers) await until(() => isOpen(worker), "a worker is connected", LONG_MS);
  const running = [...callers, ...subscribers].map((client) => client.run());
  await quiet();
  await resume();
  await chaos();
  if (problems.length === 0 && wantedCalm > 0) await calm();
  await end();
  await Promise.all(running);
} catch (error) {
  problem(`aborted: ${error instanceof Error ? error.stack : error}`);
}
await crew.endAll();
const sums = audit(books, [{ first: 0, end: books.next, killed: false }], problem);
const never = [
  ...met.empty,
  ...[...Object.entries(ends), ...Object.entries(counted)].flatMap(([what, n]) => (n ? [] : what)),
];
if (wantedKills >= SIZES.ci.kills && never.length > 0) problem(`never occurred: ${never.join(", ")}`);
say(String(met));
say(ENDS.map((end) => `${end} ${ends[end]}`).join(", "));
say(
  `${Object.entries(counted)
    .map(([what, times]) => `${what} ${times}`)
    .join(", ")}; quiet points ${quiets}, ${proof.verdict}`,
);
proof.end({
  requests: books.next,
  streams: subscribers.length,
  kills: stage.hubKills + workerKills,
  lost: sums.lost + eventFaults,
  doubled: sums.doubled,
  misdelivered: sums.wrong,
  leaked,
});
