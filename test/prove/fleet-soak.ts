/**
 * Conservation in a fleet under kills:
 * `bun test/prove/fleet-soak.ts [ci | quick | long] [--seed N] [--kills N] [--minutes N]`.
 *
 * Eight processes publish events, subscribe, hold leases and wait for leases. This program kills and stops them at random
 * moments, sometimes all of them at once, so that the file becomes an orphan and the next epoch begins. Books outside the
 * fleet (`fleet-soak/fleet-books.ts`) record what must hold. At quiet points each living subscriber must have received every
 * event of its ring, or a report of its loss, without another publication. A seed fixes every choice of this program, not
 * the machine's timing.
 */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { EventBus, Fleet } from "../../src/events/index.ts";
import type { Bookmark } from "../../src/fleet/event-ring.ts";
import { until } from "../support.ts";
import { Actor, Crew, DIES_MS, endOnSignal } from "./actor.ts";
import { Histogram, sizeAsked } from "./figures.ts";
import { type Fault, RingAudit } from "./fleet-soak/audit.ts";
import {
  COUNTS,
  DOINGS,
  type Doing,
  FleetBooks,
  ROLES,
  type Role,
  type Series,
  wallMs,
} from "./fleet-soak/fleet-books.ts";
import type { Count, Order, Report } from "./fleet-soak/member.ts";
import { FILTERS, FIRST_BUS, openBuses, RINGS } from "./fleet-soak/payloads.ts";
import { Reader, type ReadOrder } from "./fleet-soak/reader.ts";
import { Proof, say } from "./proof.ts";
import { Random } from "./soak/request-books.ts";
import { delaysText, FEW } from "./soak/times.ts";

/** `epoch`: kills until all members are killed at once. */
const SIZES = {
  ci: { kills: 200, minutes: 0, pauseMs: 90, quiet: 16, epoch: 64 },
  quick: { kills: 1_000, minutes: 2.8, pauseMs: 120, quiet: 20, epoch: 160 },
  long: { kills: 6_000, minutes: 20, pauseMs: 160, quiet: 30, epoch: 300 },
} as const;
const size = SIZES[sizeAsked()];
const proof = new Proof("fleet-soak", { kills: size.kills, minutes: size.minutes });
const { seed, folder: root, runtime: fleetDirectory, problems } = proof;
const wantedKills = proof.number("kills");
const wantedMs = proof.number("minutes") * 60_000;

/** Roles of the members. The first member is killed only together with all others. */
const CAST: readonly Role[] = ["mixed", "mixed", "writer", "writer", "reader", "holder", "holder", "waiter"];
const SPARES = 2;
const SUBJECTS = 3;
/** Times for which a process is stopped: shorter than any ttl; longer than all but one; longer than the wait for a lock. */
const STOP_MS = [1, 60] as const;
const LONG_STOP_MS = [300, 700] as const;
const LOCK_STOP_MS = [1_100, 1_300] as const;
/** Longest time at a quiet point until a sleeping subscriber has all events and the last waiter has its lease. */
const CALM_MS = 10_000;
/** Before a quiet point, members only publish for this time up to twice this time. */
const PUBLISH_MS = 30;
/**
 * After a kill, 99 % of the waiters (if they are few: all but one) get the lease within this time, or three times the delay of a
 * bare socket's end. The kernel closes the socket, and frees the locks, when it has unmapped the memory of the killed process.
 */
const GRACE_MS = 100;
/** The same limit for the slowest waiter. */
const WORST_MS = 1_000;
/** How long an aimed kill waits for the activity that it is aimed at. */
const AIM_MS = 25;
/** Quiet points of a process before its descriptors are counted; later counts are compared with that one. */
const WARM = 2;

const random = new Random(seed);
const name = `soak-${process.pid}`;
const books = FleetBooks.create(root, { lives: 50_000, subscribers: 2_000_000, tenures: 2_000_000 });

const broken: Record<Fault, number> = { lost: 0, doubled: 0, misdelivered: 0, leaked: 0 };
const tally = {
  kills: 0,
  stops: 0,
  longStops: 0,
  quiet: 0,
  lastWords: 0,
  epochs: 0,
  orphans: 0,
  undecided: 0,
  there: 0,
};

function problem(text: string, fault?: Fault): void {
  proof.problem(text);
  if (fault) broken[fault]++;
}

interface Member {
  actor: Actor<Report, Order>;
  life: number;
  role: Role;
  /** Never killed alone. */
  lasting: boolean;
  /** Descriptors at its quiet points. */
  fds: number[];
}

const crew = new Crew(fleetDirectory, (text) => problem(text, text.startsWith("tenure") ? "doubled" : undefined));
const spares: { actor: Actor<Report, Order>; life: number }[] = [];
let cast: Member[] = [];
let rings: RingAudit;
/** Readers in this process: its observer polls all rings. */
let witnesses: Reader[] = [];
let observer: Fleet;
/** First subscriber of this epoch. */
let firstSubscriber = 0;
/** Bookmarks of subscribers, from the last quiet point. */
let bookmarks: { ring: number; from: Bookmark }[] = [];

/** Activities that a role never does. */
const NEVER: Record<Role, readonly Doing[]> = {
  writer: ["polling", "sleeping", "handling", "claiming", "waiting", "holding", "renewing", "releasing"],
  reader: ["publishing", "claiming", "waiting", "holding", "renewing", "releasing"],
  holder: ["publishing", "polling", "sleeping", "handling", "waiting"],
  waiter: ["publishing", "polling", "sleeping", "handling", "claiming"],
  mixed: ["claiming"],
};
const never = ROLES.flatMap((role) => NEVER[role].map((doing) => `${doing} ${role}` as const));
const histogram = new Histogram<Doing, Role>(DOINGS, ROLES, new Set(never));

// ---- the control ------------------------------------------------------------------------------------------------------

const control = Bun.listen<{ life: number }>({
  unix: join(root, "control"),
  socket: {
    open: (socket) => void (socket.data = { life: -1 }),
    data: (socket, bytes) => void (socket.data.life = Number.parseInt(bytes.toString(), 10)),
    close: ({ data: { life } }) => {
      if (life >= 0 && books.isCondemned(life))
        books.addDelay("socket of a killed process", wallMs() - books.killedAt(life));
    },
  },
});

// ---- actors -----------------------------------------------------------------------------------------------------------

function stock(): void {
  while (spares.length < SPARES) {
    const life = books.newLife("mixed");
    spares.push({ actor: new Actor(crew, "fleet-soak/member.ts", [name, root, String(life)]), life });
  }
}

/** Starts a process with a role and waits until it has joined; `null` if it was killed while joining. */
async function start(role: Role, lasting = false): Promise<Member | null> {
  stock();
  const { actor, life } = spares.shift()!;
  await actor.loaded();
  stock();
  books.play(life, role);
  const member: Member = { actor, life, role, lasting, fds: [] };
  actor.tell({ do: "join" });
  if (!lasting && random.chance(0.06)) {
    await strike(member, "joining");
    return null;
  }
  await actor.hear("joined", 20_000);
  return member;
}

function readOrder(ring: number): ReadOrder {
  const slowMs = random.chance(0.3) ? 1 + random.below(8) : 0;
  const marks = bookmarks.filter((mark) => mark.ring === ring);
  const dice = random.below(10);
  const from = dice < 2 ? "oldest" : dice < 5 && marks.length > 0 ? random.pick(marks).from : undefined;
  const order: ReadOrder = { do: "read", ring, way: random.chance(0.25) ? "poll" : "loop", slowMs, from } as ReadOrder;
  if (ring < FIRST_BUS) return order;
  return {
    ...order,
    filter: random.chance(0.4) ? 0 : random.below(FILTERS.length),
    queue: random.pick([0, 1, 16, 256, 4_096]),
    policy: random.pick(["drop-newest", "drop-oldest", "close"]),
  };
}

/** What a role does. Writers publish into all rings; the process that lasts leaves a quiet point quiet and publishes nothing. */
function ordersFor({ role, lasting }: Member): Order[] {
  const allRings = [...RINGS.keys()];
  const write: Order = {
    do: "write",
    rings: random.chance(0.6) ? allRings : [random.pick(allRings), random.pick(allRings)],
    burst: random.pick([1, 8, 40]),
    pauseMs: random.pick([0, 2, 6]),
  };
  const reads = (few: readonly number[]): Order[] => few.map((ring) => ({ do: "read", ...readOrder(ring) }));
  const hold = (waits: boolean): Order => {
    return {
      do: "hold",
      subjects: SUBJECTS,
      waits,
      ttls: [150, 400, 5_000],
      dwellMs: 80,
      timeoutMs: random.pick([50, 4_000]),
    };
  };
  if (role === "writer") return [write];
  if (role === "reader") return reads(allRings);
  if (role === "holder") return [hold(false)];
  if (role === "waiter") return [hold(true), hold(true)];
  return [...(lasting ? [] : [write]), ...reads([random.pick(allRings), random.pick(allRings)]), hold(true)];
}

async function enter(role: Role): Promise<void> {
  for (;;) {
    const member = await start(role);
    if (!member) continue;
    cast.push(member);
    for (const order of ordersFor(member)) member.actor.tell(order);
    return;
  }
}

/** All join, then the observer, then they begin: it sees every event of the epoch. */
async function beginEpoch(): Promise<void> {
  const before = observer ? observer.epoch : 0;
  cast = [];
  for (const [i, role] of CAST.entries()) {
    const member = await start(role, i === 0);
    if (member) cast.push(member);
  }
  tally.epochs++;
  firstSubscriber = books.subscribers;
  observer = await Fleet.observe({ name, directory: fleetDirectory });
  if (observer.epoch <= before) problem(`epoch ${observer.epoch} came after ${before}`);
  rings = new RingAudit(books, observer.epoch, problem);
  await witness();
  for (const member of cast) for (const order of ordersFor(member)) member.actor.tell(order);
  for (const role of CAST.slice(cast.length)) await enter(role);
}

async function witness(): Promise<void> {
  const buses = await openBuses(observer);
  const busOf = (ring: number): EventBus => buses.get(ring)!;
  const life = books.newLife("reader");
  witnesses = RINGS.map((_, ring) => {
    const order: ReadOrder = { ring, way: "poll", slowMs: 1, queue: 0, from: "oldest" };
    return new Reader(observer, books, life, busOf, order, (text) => problem(text));
  });
  for (const reader of witnesses) reader.run().catch((error) => problem(`a witness: ${error}`, "lost"));
}

async function dismissObserver(): Promise<void> {
  for (const reader of witnesses) reader.close();
  witnesses = [];
  tally.undecided += rings.undecided.all;
  tally.there += rings.undecided.there;
  await observer.close();
}

// ---- faults -----------------------------------------------------------------------------------------------------------

/** Kills a member, at once or during an activity, and counts the activity. */
async function strike({ actor, life, role }: Member, aim: Doing | null): Promise<void> {
  actor.condemned = true;
  const stop = performance.now() + AIM_MS;
  if (aim && !actor.stopped) while (books.whatDid(life) !== aim && performance.now() < stop);
  books.kill(life, actor.pid);
  await actor.gone();
  histogram.add(books.whatDid(life), role);
  tally.kills++;
}

/** The activity during which a role was killed least often. */
function rarest(role: Role): Doing {
  const possible = DOINGS.filter((doing) => !NEVER[role].includes(doing) && doing !== "joining");
  const sorted = possible.toSorted((x, y) => histogram.get(x, role) - histogram.get(y, role));
  return histogram.get(sorted[0]!, role) < 3 ? sorted[0]! : random.pick(sorted);
}

async function kill(victims: Member[]): Promise<void> {
  cast = cast.filter((member) => !victims.includes(member));
  await Promise.all(
    victims.map((victim, i) => strike(victim, i === 0 && random.chance(0.6) ? rarest(victim.role) : null)),
  );
}

async function killSome(): Promise<void> {
  const mortal = cast.filter((member) => !member.lasting);
  const victims = [random.pick(mortal)];
  if (random.chance(0.15)) victims.push(random.pick(mortal.filter((member) => member !== victims[0])));
  await kill(victims);
  for (const { role } of victims) await enter(role);
}

/** Kills all members at once: the file becomes an orphan. */
async function killAll(): Promise<void> {
  for (const member of cast) resume(member);
  await dismissObserver();
  await kill([...cast]);
  const left = readdirSync(fleetDirectory).join();
  if (left !== `${name}.fleet`) problem(`the killed members left ${left}`, "leaked");
  tally.orphans++;
  await beginEpoch();
}

/**
 * Most stop at any time; some while a lease is held, for longer than its ttl; a few while they publish, maybe locked. If no
 * fence has refused a holder yet, the second half of the run stops only holders.
 */
function stopOne(): void {
  const mustLose = tally.kills > wantedKills / 2 && books.counted("refused") === 0;
  const dice = random.below(mustLose ? 30 : 100);
  const roles = dice < 30 ? /holder|waiter/ : dice < 36 ? /writer/ : /./;
  const aim: Doing | null = dice < 30 ? "holding" : dice < 36 ? "publishing" : null;
  const victims = cast.filter(({ actor, role }) => !actor.stopped && roles.test(role));
  if (victims.length === 0) return;
  const victim = random.pick(victims);
  const stop = performance.now() + AIM_MS;
  if (aim) while (books.whatDid(victim.life) !== aim && performance.now() < stop);
  victim.actor.stopped = true;
  victim.actor.process.kill("SIGSTOP");
  tally.stops++;
  if (aim) tally.longStops++;
  const [least, most] = dice < 30 ? LONG_STOP_MS : dice < 36 ? LOCK_STOP_MS : STOP_MS;
  setTimeout(() => resume(victim), least + random.below(most - least));
}

function resume({ actor, life }: Member): void {
  if (actor.stopped && actor.isAlive) {
    books.continue(life);
    actor.process.kill("SIGCONT");
  }
  actor.stopped = false;
}

// ---- quiet points -----------------------------------------------------------------------------------------------------

async function allQuiet(what: string): Promise<void> {
  for (const { actor } of cast) actor.tell({ do: "quiet" });
  for (const { actor, life, role } of cast) {
    await actor.hear("quiet", CALM_MS).catch(() => {
      problem(`${role} ${life} (pid ${actor.pid}) is not quiet (${books.whatDid(life)}), ${what}`, "lost");
    });
  }
}

/** Open subscribers of living processes. */
function openSubscribers(): number[] {
  const alive = new Set(cast.map(({ life }) => life));
  const mine = new Set(witnesses.map(({ subscriber }) => subscriber));
  const open: number[] = [];
  for (let one = books.subscribers - 1; one >= firstSubscriber; one--) {
    if (books.noted(one, "open") === 1 && (alive.has(books.noted(one, "life")) || mine.has(one))) open.push(one);
  }
  return open;
}

/** Publishing has stopped: every sleeping subscriber must receive all events. */
async function awaitSleepers(events: readonly number[]): Promise<void> {
  const from = wallMs();
  let waiting = openSubscribers();
  const caughtUp = (): boolean => {
    waiting = waiting.filter((one) => {
      if (books.noted(one, "open") === 0) return false;
      const behind = books.consumed(one) < events[books.noted(one, "ring")]!;
      if (!behind && books.noted(one, "sleeps") === 1) books.addDelay("caught up", wallMs() - from);
      return behind;
    });
    return waiting.length === 0;
  };
  await until(caughtUp, "", CALM_MS).catch(() => {
    for (const one of waiting) {
      const [life, ring] = [books.noted(one, "life"), books.noted(one, "ring")];
      const text = `${books.consumed(one)} of ${events[ring]} events of ring ${RINGS[ring]!.name}`;
      problem(`subscriber ${one} of life ${life} sleeps with ${text}`, "lost");
    }
  });
}

async function quiet(): Promise<void> {
  for (const member of cast) resume(member);
  books.hurry = 1;
  await allQuiet("though claiming has stopped");
  await Bun.sleep(PUBLISH_MS + random.below(PUBLISH_MS)); // no lease wakes anybody: only publications do
  const lastWords = random.chance(0.5);
  const dead = lastWords ? cast.filter(({ role, lasting }) => !lasting && /writer|mixed/.test(role)) : [];
  if (lastWords) tally.lastWords++;
  await kill(dead);
  books.hurry = 2;
  await allQuiet("though publishing has stopped");
  const events = RINGS.map(({ name: ring }) => {
    const cursor = observer.ring(ring).cursor();
    const { event } = cursor.bookmark;
    cursor.close();
    return event!;
  });
  await awaitSleepers(events);
  rings.judgeRings(
    events,
    cast.map(({ life }) => life),
  );
  for (const reader of witnesses) rings.judgeReader(reader.report, events[reader.report.ring]!, true);
  await judgeMembers(events);
  tally.quiet++;
  books.hurry = 0;
  for (const { role } of dead) await enter(role);
}

async function judgeMembers(events: readonly number[]): Promise<void> {
  bookmarks = [];
  for (const member of cast) {
    let count = await countOf(member);
    // A watch that has just ended closes its descriptors a little later.
    for (let again = 0; again < 20 && hasMore(member, count); again++) {
      await Bun.sleep(50);
      count = await countOf(member);
    }
    for (const report of count.readers) {
      rings.judgeReader(report, events[report.ring]!, false);
      if (report.bookmark) bookmarks.push({ ring: report.ring, from: report.bookmark });
    }
    judgeLeaks(member, count);
  }
  const left = readdirSync(fleetDirectory).join();
  if (left !== `${name}.fleet`) problem(`at a quiet point there is ${left}`, "leaked");
}

async function countOf({ actor }: Member): Promise<Count> {
  actor.tell({ do: "count" });
  return await actor.hear("count", 20_000);
}

/** Whether a member has more descriptors than in its first quiet points. */
function hasMore({ fds }: Member, count: Count): boolean {
  return fds.length >= WARM && count.fds > Math.max(...fds.slice(0, WARM));
}

function judgeLeaks(member: Member, count: Count): void {
  const { life, role, fds } = member;
  const who = `${role} ${life}`;
  if (count.members !== cast.length)
    problem(`${who} knows ${count.members} members, and ${cast.length} processes live`, "leaked");
  if (count.leases > 0) problem(`${who} sees ${count.leases} leases, and nobody holds one`, "leaked");
  const pids = observer.members().map(({ pid }) => pid);
  const alive = cast.map(({ actor }) => actor.pid);
  if (pids.toSorted().join() !== alive.toSorted().join())
    problem(`the observer sees the members ${pids.join()}, and ${alive.join()} live`, "leaked");
  if (hasMore(member, count)) problem(`${who} has ${count.fds} descriptors, and had ${fds.join(", ")}`, "leaked");
  fds.push(count.fds);
}

// ---- the run ----------------------------------------------------------------------------------------------------------

function enough(): boolean {
  if (tally.kills < 2 * wantedKills && missing().length > 0) return false;
  return tally.kills >= wantedKills && proof.ms >= wantedMs;
}

/** Outcomes of a tenure that each run must have. */
const OUTCOMES = ["yields", "timeouts", "aborts", "writes", "refused", "lost"] as const;

/**
 * Roles, activities during a kill, and outcomes of a tenure that did not occur in this run. Activities of a few microseconds are
 * not required.
 */
function missing(): string[] {
  const sum = (counts: number[]): number => counts.reduce((all, one) => all + one, 0);
  const long = DOINGS.filter((doing) => !/^(claiming|renewing|releasing)$/.test(doing));
  const unmet = long.filter((doing) => sum(ROLES.map((role) => histogram.get(doing, role))) === 0);
  const idle = ROLES.filter((role) => sum(DOINGS.map((doing) => histogram.get(doing, role))) === 0);
  return [...unmet, ...idle, ...OUTCOMES.filter((what) => books.counted(what) === 0).map((what) => `tenure ${what}`)];
}

async function soak(): Promise<void> {
  await beginEpoch();
  await Bun.sleep(300);
  await quiet();
  let quietAt: number = size.quiet;
  let epochAt: number = size.epoch;
  while (!enough() && problems.length < 50) {
    await Bun.sleep(random.below(size.pauseMs));
    if (random.chance(0.7)) await killSome();
    else stopOne();
    if (tally.kills >= epochAt) {
      await killAll();
      epochAt = tally.kills + size.epoch;
    }
    if (tally.kills < quietAt) continue;
    await quiet();
    quietAt = tally.kills + size.quiet;
  }
  await quiet();
  await end();
}

/** Ends all members in order; they must leave no file. */
async function end(): Promise<void> {
  await dismissObserver();
  for (const { actor } of cast) {
    actor.condemned = true;
    actor.tell({ do: "end" });
  }
  for (const { actor } of spares) {
    actor.condemned = true;
    actor.process.kill("SIGKILL");
  }
  await until(() => crew.living.size === 0, "every process has ended", DIES_MS).catch((error) => {
    problem(error.message, "leaked");
  });
  const left = readdirSync(fleetDirectory);
  if (left.length > 0) problem(`the fleet left ${left.join()}`, "leaked");
}

// ---- the verdict ------------------------------------------------------------------------------------------------------

function judgeTimes(): void {
  const told = (series: Series): string => `${series}: ${delaysText(books.delays(series))}`;
  const bare = books.delays("socket of a killed process");
  const owns = books.delays("holder killed");
  say(`delay until a waiter has the lease, ${told("holder killed")}; ${told("given back")}`);
  say(`for comparison, ${told("socket of a killed process")}; sleepers, ${told("caught up")}`);
  const limit = Math.max(GRACE_MS, 3 * bare.p99);
  const worst = Math.max(WORST_MS, 5 * bare.max);
  if (owns.count === 0) problem("no waiter followed a killed holder");
  const [which, value] = owns.count < FEW ? ["second longest", owns.second] : ["p99", owns.p99];
  if (value > limit) problem(`a waiter got the lease ${value} ms after a kill (${which}), more than ${limit}`, "lost");
  if (owns.max > worst) problem(`a waiter got the lease ${owns.max} ms after a kill, more than ${worst}`, "lost");
}

/** Sums of what all subscribers noted. */
function sumOf(field: Parameters<FleetBooks["noted"]>[1]): number {
  let sum = 0;
  for (let one = 0; one < books.subscribers; one++) sum += books.noted(one, field);
  return sum;
}

endOnSignal(crew, root);
try {
  await soak();
} catch (error) {
  problem(`the soak was aborted: ${error instanceof Error ? error.stack : error}`, "lost");
}
await crew.endAll();
control.stop(true);
say(String(histogram));
judgeTimes();
broken.doubled += sumOf("doubled");
broken.misdelivered += sumOf("wrong");
const received = sumOf("received");
if (missing().length > 0) problem(`never occurred: ${missing().join(", ")}`);
for (const field of ["filtered", "overwritten", "dropped"] as const)
  if (sumOf(field) === 0) problem(`no event was ${field}`);
if (tally.stops === 0 || tally.orphans === 0 || tally.lastWords === 0) problem("no stop, no orphan, or no last words");
say(
  `received ${received}, filtered ${sumOf("filtered")}, overwritten ${sumOf("overwritten")}, dropped ${sumOf("dropped")} by ` +
    `${books.subscribers} subscribers; between intent and done ${tally.undecided}, there ${tally.there}`,
);
say(`tenures ${books.tenures}; ` + `${COUNTS.map((what) => `${what} ${books.counted(what)}`).join(", ")}`);
say(
  `epochs ${tally.epochs}, orphans ${tally.orphans}, stops ${tally.stops} (${tally.longStops} long), ` +
    `quiet points ${tally.quiet} (${tally.lastWords} after the kill of all writers), ` +
    proof.verdict,
);
proof.end({ requests: received, streams: 0, kills: tally.kills, stalls: tally.stops, ...broken });
