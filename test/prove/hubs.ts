/**
 * A hub of several processes under kills and restarts: `bun test/prove/hubs.ts [ci | quick | long] [--seed N] [--faults N]`.
 *
 * Three hub processes on one port and three workers; this program has hundreds of their clients. It kills hub processes and
 * workers, and restarts them in an orderly way. The books of the workers must have each request once, or not at all if its
 * response says so; no request fails by an orderly restart. Each event that a hub process has accepted reaches every subscriber,
 * whichever process it reads from, once and in order, unless the hub says that the subscriber may have lost some.
 */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../support.ts";
import { Actor, Crew, endOnSignal } from "./actor.ts";
import { Histogram, sizeAsked } from "./figures.ts";
import { Caller, ENDS, type End, type Stage, STATES, type State } from "./hub/caller.ts";
import { DONE, EVENTS, type HubReport, INTENT, type Order, REFUSED, ROOMS, type WorkerReport } from "./hub/rooms.ts";
import { counted, Places, Subscriber } from "./hub/subscriber.ts";
import { Proof, say } from "./proof.ts";
import { audit } from "./soak/audit.ts";
import * as b from "./soak/request-books.ts";

const SIZES = {
  ci: { faults: 12, subscribers: 10 },
  quick: { faults: 150, subscribers: 30 },
  long: { faults: 3_000, subscribers: 125 },
} as const;
const size = SIZES[sizeAsked()];
/** `subscribers`: of each stream. */
const proof = new Proof("hubs", { faults: size.faults, subscribers: size.subscribers });
const { seed, folder, runtime, problem, problems } = proof;
const wanted = proof.number("faults");

const HUBS = 3;
const WORKERS = 3;
const CALLERS = 40;
/** Callers whose requests are always under way, so that every fault meets every state. */
const SLOW = 8;
/** Faults between two quiet points. */
const QUIET_EVERY = 5;
const FAULT_EVERY_MS = 350;
/** Longest wait for a state, on a busy machine. */
const LONG_MS = 40_000;

const FAULTS = ["hub-kill", "worker-kill", "hub-restart", "worker-restart"] as const;
type Fault = (typeof FAULTS)[number];
type HubProcess = Actor<HubReport, Order>;
type Worker = Actor<WorkerReport, Order>;

const random = new b.Random(seed);
const books = b.RequestBooks.create(folder, (wanted + 50) * 5_000);
mkdirSync(join(folder, "events"));
const events = b.RequestBooks.create(join(folder, "events"), (wanted + 50) * EVENTS);
const crew = new Crew(runtime, problem);
const tally = { kills: 0, restarts: 0, lost: 0, leaked: 0, judged: 0 };
const stage: Stage = {
  port: 0,
  hubs: 1, // a kill may cut every connection that was open: a connection does not tell which process it leads to
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
    tally.lost++;
    problem(text);
  },
};
const met = new Histogram<State, Fault>(STATES, FAULTS, new Set());
const ends = Object.fromEntries(ENDS.map((end) => [end, 0])) as Record<End, number>;
const places = new Places();
let hubs: HubProcess[] = [];
let workers: Worker[] = [];
let publishers = 0;

const callers = Array.from({ length: CALLERS }, (_, index) => {
  return new Caller(stage, random.next(), index < SLOW, (end) => void ends[end]++);
});
const subscribers = Array.from({ length: proof.number("subscribers") * ROOMS.length }, (_, index) => {
  return new Subscriber(stage, events, places, ROOMS[index % ROOMS.length]!, random.next(), false);
});

// ---- processes --------------------------------------------------------------------------------------------------------

async function startHub(): Promise<void> {
  const hub: HubProcess = new Actor(crew, "hub/server.ts", [String(stage.port)]);
  (await hub.loaded()).tell("go");
  stage.port = (await hub.hear("open", LONG_MS)).port;
  hubs.push(hub);
}

async function startWorker(): Promise<void> {
  const worker: Worker = new Actor(crew, "hub/worker.ts", [folder, String(publishers++)]);
  (await worker.loaded()).tell("go");
  await worker.hear("open", LONG_MS);
  workers.push(worker);
}

/** Waits for a state that the fault has met rarely, and counts what the callers are doing. */
async function meet(fault: Fault): Promise<void> {
  const rarest = STATES.toSorted((x, y) => met.get(x, fault) - met.get(y, fault))[0]!;
  const end = performance.now() + 500;
  while (callers.every(({ state }) => state !== rarest) && performance.now() < end) await Bun.sleep(0);
  for (const { state } of callers) met.add(state, fault);
}

async function kill(victim: HubProcess | Worker): Promise<void> {
  tally.kills++;
  victim.condemned = true;
  victim.process.kill("SIGKILL");
  await victim.gone(LONG_MS);
}

/** The next process starts before this one ends. */
async function restart(old: HubProcess | Worker, start: () => Promise<void>): Promise<void> {
  tally.restarts++;
  await start();
  for (const worker of workers) worker.tell("resume");
  await Bun.sleep(random.below(FAULT_EVERY_MS));
  old.condemned = true;
  old.tell("end");
  await old.gone(LONG_MS);
}

async function strike(fault: Fault): Promise<void> {
  await meet(fault);
  const hub = random.pick(hubs);
  const worker = random.pick(workers);
  if (fault === "hub-kill" || fault === "hub-restart") hubs = hubs.filter((one) => one !== hub);
  else workers = workers.filter((one) => one !== worker);
  if (fault === "hub-restart") {
    stage.isEnding = true;
    await restart(hub, startHub);
    stage.hubEnds++;
    stage.isEnding = false;
    return;
  }
  if (fault === "worker-restart") return restart(worker, startWorker);
  if (fault === "hub-kill") {
    stage.hubKills++;
    stage.hubs++;
    await kill(hub);
    return startHub();
  }
  stage.workerKilledAt = performance.now();
  await kill(worker);
  await startWorker();
  workers.at(-1)!.tell("resume");
}

// ---- quiet points -----------------------------------------------------------------------------------------------------

/** By publisher: the first event that was not judged. */
const next = new Map<number, number>();

/** No process publishes, and each subscriber got the mark of its room: judges the events since the last quiet point. */
function judge(): void {
  for (let publisher = 0; publisher < publishers; publisher++) {
    let event = next.get(publisher) ?? publisher * EVENTS;
    for (; event < (publisher + 1) * EVENTS && events.runs[event]! & INTENT; event++) judgeOne(event);
    next.set(publisher, event);
  }
  for (const subscriber of subscribers) {
    subscriber.got.clear();
    subscriber.mayMiss = false;
  }
}

function judgeOne(event: number): void {
  tally.judged++;
  const room = ROOMS[events.outcome[event]!]!;
  const readers = subscribers.filter((one) => one.room === room && !one.mayMiss);
  const have = readers.filter(({ got }) => got.has(event)).length;
  places.ids.delete(event);
  if (events.runs[event]! & REFUSED && have > 0) stage.eventProblem(`event ${event} was refused, and sent`);
  if (events.runs[event]! & DONE && have < readers.length)
    stage.eventProblem(`event ${event} of ${room} reached ${have} of ${readers.length} subscribers`);
  if (have > 0 && have < readers.length)
    stage.eventProblem(`event ${event} of ${room} reached only ${have} of ${readers.length} subscribers`);
}

async function reach(what: string, condition: () => boolean): Promise<void> {
  await until(condition, what, LONG_MS).catch((error: Error) => {
    tally.leaked++;
    problem(error.message);
  });
}

async function quiet(): Promise<void> {
  stage.isPaused = true;
  await reach("every request has settled", () => callers.every(({ state }) => state === "idle"));
  for (const worker of workers) worker.tell("still");
  for (const worker of workers) await worker.hear("still", LONG_MS);
  await reach("every subscriber is connected", () => subscribers.every((one) => one.isOpen));
  workers[0]!.tell("mark");
  const marks = (await workers[0]!.hear("marked", LONG_MS)).events;
  await reach("every subscriber has the mark of its room", () =>
    subscribers.every(({ got, room }) => got.has(marks[ROOMS.indexOf(room)]!)),
  );
  judge();
}

function resume(): void {
  for (const worker of workers) worker.tell("resume");
  stage.isPaused = false;
}

// ---- the run ----------------------------------------------------------------------------------------------------------

async function chaos(): Promise<void> {
  for (let n = 1; n <= wanted && problems.length < 20; n++) {
    await Bun.sleep(random.below(FAULT_EVERY_MS));
    for (let i = 0; i < 6; i++) random.pick(subscribers).leave(random.chance(0.1));
    await strike(FAULTS[n % FAULTS.length]!);
    if (n % QUIET_EVERY !== 0) continue;
    await quiet();
    resume();
  }
}

async function end(): Promise<void> {
  stage.isPaused = true;
  await reach("every request has settled at the end", () => callers.every(({ state }) => state === "idle"));
  stage.isOver = true;
  for (const subscriber of subscribers) subscriber.end();
  for (const actor of [...workers, ...hubs]) {
    actor.condemned = true;
    actor.tell("end");
    await actor.gone(LONG_MS);
  }
  const left = readdirSync(runtime);
  tally.leaked += left.length;
  if (left.length > 0) problem(`the hub left ${left.join()}`);
}

endOnSignal(crew, folder);
try {
  for (let i = 0; i < HUBS; i++) await startHub();
  for (let i = 0; i < WORKERS; i++) await startWorker();
  const running = [...callers, ...subscribers].map((client) => client.run());
  await quiet();
  resume();
  await chaos();
  await end();
  await Promise.all(running);
} catch (error) {
  problem(`aborted: ${error instanceof Error ? error.stack : error}`);
}
await crew.endAll();
const sums = audit(books, [{ first: 0, end: books.next, killed: false }], problem);
if (wanted >= SIZES.ci.faults && met.empty.length > 0) problem(`never occurred: ${met.empty.join(", ")}`);
say(String(met));
say(ENDS.map((one) => `${one} ${ends[one]}`).join(", "));
say(
  `${counted.events} events read, ${tally.judged} judged, ${counted.replays} replays; ${tally.restarts} restarts; ${proof.verdict}`,
);
proof.end({
  requests: books.next,
  streams: subscribers.length,
  kills: tally.kills,
  lost: sums.lost + tally.lost,
  doubled: sums.doubled,
  misdelivered: sums.wrong,
  leaked: tally.leaked,
});
