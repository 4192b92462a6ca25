/**
 * `slotbus top`: buses, hubs and fleets, live. It maps what they show of themselves read-only, and asks nobody; only a hub is
 * asked for its routes, once and when its workers have changed.
 */

import { join } from "node:path";
import type { Command } from "commander";
import { bucketsSince, quantileUs, type Snapshot, STATE_NAMES } from "../bus/metrics.ts";
import { BusObserver } from "../bus/observer.ts";
import { Contest } from "../contest/contest.ts";
import { Fleet } from "../fleet/fleet.ts";
import { controlSocketOf } from "../hub/names.ts";
import { table } from "./bench/report.ts";
import { type BusName, processInfo, readNames, shortCommand } from "./directory.ts";
import { draw, duration, type Line, microseconds, print, rate, Screen } from "./terminal.ts";
import { CommandError, EXIT, newCommand, numberFrom, withDirectory, withJson } from "./usage.ts";

/** How long a hub has to take an observer, or to say its routes, in ms. */
const ANSWER_MS = 800;
const LEASES_SHOWN = 10;
const WORKERS_SHOWN = 16;

/** What a bus did in the last interval, as it stands in the JSON. */
export interface BusFrame {
  name: string;
  kind: "bus" | "hub";
  /** `null`: it answers. */
  problem: string | null;
  owner: { pid: number; command: string } | null;
  age_ms: number | null;
  requests_per_second: number;
  errors_per_second: number;
  p50_us: number;
  p99_us: number;
  queued: number;
  waiting: number;
  slots: Record<string, number>;
  /** Since the bus was made. */
  workers_joined: number;
  workers_died: number;
  workers_evicted: number;
  /** Processes that the bus started again after their end. */
  workers_restarted: number;
  /** Its own workers end too often and are paused. */
  workers_paused: boolean;
  timeouts: number;
  workers: { id: number; pid: number; in_flight: number; concurrency: number; age_ms: number }[];
  /** Of a hub, whose rates are those of its workers' buses `NAME.*` together; `null`: it is none, or did not say. */
  routes: number | null;
}

export interface FleetFrame {
  name: string;
  problem: string | null;
  members: { pid: number; age_ms: number }[];
  rings: {
    name: string;
    frames: number;
    /** Events are counted by their frames: a large one has several. */
    frames_per_second: number;
    published: number;
    /** For how long an event stays at this rate: what a reader may lag; `null`: nothing is published. */
    holds_ms: number | null;
    /** Cursors that members show: how many, and how many frames the slowest has not read; `null`: there is none. */
    readers: number;
    lag: number | null;
    slowest_pid: number | null;
  }[];
  leases: { kind: string; label: string; owner: string; pid: number; token: number; left_ms: number }[];
  leases_total: number;
}

export interface Frame {
  directory: string;
  buses: BusFrame[];
  fleets: FleetFrame[];
}

interface Flags {
  json?: boolean;
  directory?: string;
  once?: boolean;
  interval: number;
}

export function command(): Command {
  const top = newCommand("top", "show what buses and fleets do, live; q or ^C ends it", [
    "slotbus top",
    "slotbus top shop --interval 0.5",
    "slotbus top --once --json",
  ]);
  return withDirectory(withJson(top))
    .argument("[name]", "only the bus, hub or fleet of that name")
    .option("--once", "one frame, then end; so it is too when the output is no terminal")
    .option("--interval <seconds>", "between two frames", numberFrom(0.05, 60), 1)
    .addHelpText(
      "after",
      "\nREQ/S, P50 and P99 are of the last interval, from publication to delivery; TOTAL\nis since the bus was made. A hub shows the sum of its workers' buses NAME.*, which\nfollow it. A ring HOLDS an event for that time; LAG is what its slowest reader has\nnot read, in frames. A reader that lags by more than FRAMES loses events.",
    )
    .action(async (name: string | undefined, flags: Flags) => {
      using watch = new Watch(flags.directory, name);
      if (flags.once || flags.json || !process.stdout.isTTY) await once(watch, flags);
      else await live(watch, flags.interval * 1_000);
    });
}

async function once(watch: Watch, { interval, json }: Flags): Promise<void> {
  await watch.look();
  if (watch.isEmpty && watch.name !== undefined)
    throw new CommandError(`there is no bus and no fleet "${watch.name}" in ${watch.directory}.`, EXIT.notFound);
  await Bun.sleep(interval * 1_000);
  const frame = await watch.look();
  print(json ? JSON.stringify(frame, null, 2) : draw(lines(frame), 80).join("\n"));
  const silent = [...frame.buses, ...frame.fleets].filter(({ problem }) => problem !== null);
  if (watch.name !== undefined && silent.length > 0) process.exitCode = EXIT.noAnswer;
}

async function live(watch: Watch, interval: number): Promise<void> {
  const ended = Promise.withResolvers<"ended">();
  let frame: Frame | null = null;
  const show = (): void => {
    if (frame) screen.show(lines(frame, screen.columns));
  };
  using screen = new Screen(() => ended.resolve("ended"), show);
  for (;;) {
    const looked = await Promise.race([watch.look(), ended.promise]);
    if (looked === "ended") return;
    frame = looked;
    show();
    const timer = Promise.withResolvers<"next">();
    const handle = setTimeout(() => timer.resolve("next"), interval);
    const what = await Promise.race([timer.promise, ended.promise]);
    clearTimeout(handle);
    if (what === "ended") return;
  }
}

// ---- what is watched ----------------------------------------------------------------------------------------------------

/** A snapshot, and when it was taken. */
interface Taken {
  readonly snapshot: Snapshot;
  readonly at: number;
}

class Watch implements Disposable {
  readonly directory: string;
  readonly name: string | undefined;
  isEmpty = true;
  readonly #given: string | undefined;
  readonly #buses = new Map<string, BusWatch>();
  /** By the hub's name. */
  readonly #routes = new Map<string, { workers: string; count: number | null }>();
  readonly #fleets = new Map<string, FleetWatch>();

  constructor(directory: string | undefined, name: string | undefined) {
    this.#given = directory;
    this.name = name;
    this.directory = readNames(directory).directory;
  }

  async look(): Promise<Frame> {
    const { directory, buses, fleets } = readNames(this.#given);
    const isWanted = (name: string): boolean => this.name === undefined || this.name === name;
    const isHub = buses.some(({ name, isHub }) => isHub && name === this.name);
    const there = buses.filter(({ name, isAlive }) => isAlive && (isWanted(name) || (isHub && isOf(this.name!, name))));
    const named = fleets.filter(isWanted);
    keep(
      this.#buses,
      there.map(({ name }) => name),
      (name) => new BusWatch(directory, name),
    );
    keep(this.#fleets, named, (name) => new FleetWatch(directory, name));
    this.isEmpty = there.length + named.length === 0;
    const frames = await Promise.all(there.map((bus) => this.#buses.get(bus.name)!.look(bus)));
    return {
      directory,
      buses: await Promise.all(frames.map((frame) => (frame.kind === "hub" ? this.#asHub(frame, frames) : frame))),
      fleets: await Promise.all(named.map((name) => this.#fleets.get(name)!.look())),
    };
  }

  async #asHub(hub: BusFrame, all: readonly BusFrame[]): Promise<BusFrame> {
    const own = all.filter(({ name }) => isOf(hub.name, name));
    const sum = (key: "requests_per_second" | "errors_per_second" | "queued" | "waiting" | "timeouts"): number =>
      own.reduce((total, frame) => total + frame[key], 0);
    const workers = JSON.stringify(own.map(({ name, workers: each }) => [name, each.map(({ id }) => id)]));
    if (hub.problem === null && this.#routes.get(hub.name)?.workers !== workers)
      this.#routes.set(hub.name, { workers, count: await routesOf(this.directory, hub.name) });
    return {
      ...hub,
      requests_per_second: sum("requests_per_second"),
      errors_per_second: sum("errors_per_second"),
      queued: sum("queued"),
      waiting: sum("waiting"),
      timeouts: sum("timeouts"),
      routes: this.#routes.get(hub.name)?.count ?? null,
    };
  }

  [Symbol.dispose](): void {
    keep(this.#buses, [], () => null as never);
    keep(this.#fleets, [], () => null as never);
  }
}

/** Whether a bus is that of a hub's worker. */
function isOf(hub: string, bus: string): boolean {
  return bus.startsWith(`${hub}.`);
}

/** How many routes a hub has; `null`: it does not say. */
async function routesOf(directory: string, hub: string): Promise<number | null> {
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    const response = await fetch("http://hub/health", { unix: join(directory, controlSocketOf(hub)), signal });
    const { workers } = (await response.json()) as { workers: { name: string; route_count: number }[] };
    const counts = new Map(workers.map(({ name, route_count: count }) => [name, count])); // processes of a name share them
    return [...counts.values()].reduce((sum, count) => sum + count, 0);
  } catch {
    return null; // it ended, or is busy
  }
}

/** Opens what is new, closes what has gone. */
function keep<W extends { close(): void }>(all: Map<string, W>, names: string[], open: (name: string) => W): void {
  for (const [name, watch] of all) {
    if (names.includes(name)) continue;
    watch.close();
    all.delete(name);
  }
  for (const name of names) if (!all.has(name)) all.set(name, open(name));
}

class BusWatch {
  readonly #directory: string;
  readonly #name: string;
  #observer: BusObserver | null = null;
  #before: Taken | null = null;
  #closed = false;

  constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
  }

  async look({ isHub, owner }: BusName): Promise<BusFrame> {
    const named = { name: this.#name, kind: isHub ? "hub" : "bus", ...nothing } as const;
    const whose = owner && { pid: owner.pid, command: shortCommand(owner) };
    if (!this.#observer && owner?.isStopped)
      return { ...named, owner: whose, problem: "the hub does not answer: its process is stopped" };
    try {
      const { snapshot, at } = await this.#take();
      const frame = {
        ...busFrame(snapshot, at, this.#before),
        name: named.name,
        kind: named.kind,
        owner: whose,
      };
      this.#before = { snapshot, at };
      return { ...frame, problem: silence(snapshot, processInfo(snapshot.pid)?.isStopped === true) };
    } catch (error) {
      this.#drop();
      const known = error as { code?: string; message: string };
      const problem = known.code === "RESOURCE" ? "the hub does not answer" : known.message;
      return { ...named, owner: whose, problem };
    }
  }

  async #take(): Promise<Taken> {
    this.#observer ??= await BusObserver.open({ name: this.#name, directory: this.#directory, timeout: ANSWER_MS });
    if (this.#closed) this.#drop();
    let snapshot = this.#observer?.read();
    if (snapshot && !snapshot.isThere) {
      this.#drop(); // another hub may have taken the name
      this.#observer = await BusObserver.open({ name: this.#name, directory: this.#directory, timeout: ANSWER_MS });
      snapshot = this.#observer.read();
    }
    if (!snapshot) throw new CommandError("it was closed.");
    return { snapshot, at: performance.now() };
  }

  close(): void {
    this.#closed = true;
    this.#drop();
  }

  #drop(): void {
    this.#observer?.close();
    this.#observer = null;
    this.#before = null;
  }
}

function silence({ silentMs }: Snapshot, isStopped: boolean): string | null {
  if (isStopped) return "the hub does not answer: its process is stopped";
  return silentMs > 0 ? `the hub does not answer: its event loop has not turned for ${duration(silentMs)}` : null;
}

const nothing = {
  problem: null,
  owner: null,
  age_ms: null,
  requests_per_second: 0,
  errors_per_second: 0,
  p50_us: 0,
  p99_us: 0,
  queued: 0,
  waiting: 0,
  slots: {},
  workers_joined: 0,
  workers_died: 0,
  workers_evicted: 0,
  workers_restarted: 0,
  workers_paused: false,
  timeouts: 0,
  workers: [],
  routes: null,
} satisfies Omit<BusFrame, "name" | "kind">;

function busFrame(now: Snapshot, at: number, before: Taken | null): Omit<BusFrame, "name" | "kind"> {
  const seconds = before ? (at - before.at) / 1_000 : Infinity;
  const since = (name: "responses" | "errors"): number =>
    before ? (now.counters[name] - before.snapshot.counters[name]) / seconds : 0;
  const trips = before ? bucketsSince(now.roundTrips, before.snapshot.roundTrips) : now.roundTrips;
  return {
    ...nothing,
    age_ms: Math.round(now.ageMs),
    requests_per_second: since("responses"),
    errors_per_second: since("errors"),
    p50_us: quantileUs(trips, 0.5),
    p99_us: quantileUs(trips, 0.99),
    queued: now.queued,
    waiting: now.unsettled,
    slots: Object.fromEntries(
      STATE_NAMES.map((state) => [state, now.workers.reduce((sum, worker) => sum + worker.slots[state], 0)]),
    ),
    workers_joined: now.counters.workers_joined,
    workers_died: now.counters.workers_died,
    workers_evicted: now.counters.workers_evicted,
    workers_restarted: now.counters.workers_restarted,
    workers_paused: now.counters.workers_paused > now.counters.workers_resumed,
    timeouts: now.counters.timeouts,
    workers: now.workers.map(({ id, pid, inFlight, concurrency, ageMs }) => ({
      id,
      pid,
      in_flight: inFlight,
      concurrency,
      age_ms: Math.round(ageMs),
    })),
  };
}

class FleetWatch {
  readonly #directory: string;
  readonly #name: string;
  #fleet: Fleet | null = null;
  #before: { heads: Map<string, number>; at: number } | null = null;

  constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
  }

  async look(): Promise<FleetFrame> {
    try {
      if (this.#fleet && !this.#fleet.isCurrent) this.close();
      this.#fleet ??= await Fleet.observe({ name: this.#name, directory: this.#directory });
      return this.#frame(this.#fleet);
    } catch (error) {
      this.close();
      return {
        name: this.#name,
        problem: (error as Error).message,
        members: [],
        rings: [],
        leases: [],
        leases_total: 0,
      };
    }
  }

  #frame(fleet: Fleet): FleetFrame {
    const at = performance.now();
    const members = fleet.members();
    const cursors = members.flatMap(({ index, pid }) =>
      fleet.handle.cursors(index).map((cursor) => ({ ...cursor, pid })),
    );
    const heads = new Map(fleet.geometry.rings.map(({ name }) => [name, fleet.ring(name).head]));
    const seconds = this.#before ? (at - this.#before.at) / 1_000 : Infinity;
    const rings = fleet.geometry.rings.map(({ name, frames }) => {
      const published = heads.get(name)!;
      const perSecond = (published - (this.#before?.heads.get(name) ?? published)) / seconds;
      const holds = perSecond > 0 ? Math.round((frames / perSecond) * 1_000) : null;
      const own = cursors.filter(({ ring }) => ring === name).sort((a, b) => a.position - b.position);
      const lag = own[0] ? Math.max(0, published - own[0].position) : null;
      const slowest = own[0]?.pid ?? null;
      const readers = { readers: own.length, lag, slowest_pid: slowest };
      return { name, frames, published, frames_per_second: perSecond, holds_ms: holds, ...readers };
    });
    this.#before = { heads, at };
    const contest = new Contest(fleet);
    const now = contest.now();
    return {
      name: this.#name,
      problem: members.length === 0 ? "it has no member: `slotbus clean` removes it" : null,
      members: members.map(({ pid, joinedAt }) => ({ pid, age_ms: Math.max(0, Math.round(Date.now() - joinedAt)) })),
      rings,
      leases: contest.list().map(({ subject, owner, pid, token, expiresAt }) => ({
        ...subject,
        owner,
        pid,
        token,
        left_ms: Math.max(0, Math.round(expiresAt - now)),
      })),
      leases_total: fleet.geometry.leases,
    };
  }

  close(): void {
    void this.#fleet?.leave();
    this.#fleet = null;
    this.#before = null;
  }
}

// ---- a frame as lines ---------------------------------------------------------------------------------------------------

function lines(frame: Frame, columns = 80): Line[] {
  const { buses, fleets, directory } = frame;
  const time = new Date().toTimeString().slice(0, 8);
  const head = `slotbus top  ${directory}  ${count(buses.length, "bus", "buses")}, ${count(fleets.length, "fleet", "fleets")}`;
  const out: Line[] = [{ text: `${head.padEnd(columns - time.length - 1)} ${time}`, style: "inverse" }];
  for (const bus of buses) out.push({ text: "" }, ...busLines(bus));
  for (const fleet of fleets) out.push({ text: "" }, ...fleetLines(fleet));
  if (buses.length + fleets.length === 0) out.push({ text: "" }, { text: "No bus and no fleet is there." });
  return out;
}

function count(number: number, one: string, many: string): string {
  return `${number} ${number === 1 ? one : many}`;
}

function plain(text: string): Line[] {
  return text.split("\n").map((line) => ({ text: line }));
}

function busLines(bus: BusFrame): Line[] {
  const owner = bus.owner ? `pid ${bus.owner.pid} ${bus.owner.command}` : "";
  const age = bus.age_ms === null ? "" : `, ${duration(bus.age_ms)}`;
  const head: Line = { text: `${bus.kind} ${bus.name}  ${owner}${age}`, style: "bold" };
  if (bus.problem !== null) {
    const problem: Line = { text: `  ${bus.problem}`, style: "red" };
    if (bus.age_ms === null) return [head, problem];
    return [head, problem, ...details(bus)];
  }
  return [head, ...details(bus)];
}

function details(bus: BusFrame): Line[] {
  if (bus.kind === "hub") return hubDetails(bus);
  const numbers = table([
    ["  REQ/S", "P50", "P99", "ERR/S", "QUEUE", "WAITING"],
    [
      `  ${rate(bus.requests_per_second)}`,
      microseconds(bus.p50_us),
      microseconds(bus.p99_us),
      rate(bus.errors_per_second),
      String(bus.queued),
      String(bus.waiting),
    ],
  ]);
  const { workers_joined: joined, workers_died: died, workers_evicted: evicted, workers_restarted: restarted } = bus;
  const total = `  total  JOINED ${joined}  DIED ${died}  EVICTED ${evicted}  RESTARTED ${restarted}  TIMEOUTS ${bus.timeouts}`;
  const head: Line[] = [...plain(numbers), { text: total }];
  if (bus.workers_paused) head.push({ text: "  its workers end too often and are paused", style: "red" });
  if (bus.workers.length === 0) return [...head, { text: "  no worker is attached", style: "yellow" }];
  const states = Object.entries(bus.slots).filter(([state, used]) => used > 0 || state === "FREE");
  const slots = `  slots  ${states.map(([state, used]) => `${state} ${used}`).join("  ")}`;
  const workers = table([
    ["  WORKER", "PID", "IN FLIGHT", "OF", "UP"],
    ...bus.workers
      .slice(0, WORKERS_SHOWN)
      .map((one) => [
        `  ${one.id}`,
        String(one.pid),
        String(one.in_flight),
        String(one.concurrency),
        duration(one.age_ms),
      ]),
  ]);
  return [...head, { text: slots }, ...plain(workers), ...more(bus.workers.length - WORKERS_SHOWN, "workers")];
}

/** Percentiles, slots and workers stand with the buses of its workers. */
function hubDetails(hub: BusFrame): Line[] {
  return plain(
    table([
      ["  REQ/S", "ERR/S", "QUEUE", "WAITING", "TIMEOUTS", "ROUTES"],
      [
        `  ${rate(hub.requests_per_second)}`,
        rate(hub.errors_per_second),
        ...[hub.queued, hub.waiting, hub.timeouts].map(String),
        hub.routes === null ? "-" : String(hub.routes),
      ],
    ]),
  );
}

function more(left: number, what: string): Line[] {
  return left > 0 ? [{ text: `  and ${left} ${what} more`, style: "dim" }] : [];
}

function fleetLines(fleet: FleetFrame): Line[] {
  const pids = fleet.members.map(({ pid }) => pid).join(" ");
  const members = count(fleet.members.length, "member", "members");
  const out: Line[] = [{ text: `fleet ${fleet.name}  ${members}: ${pids}`, style: "bold" }];
  if (fleet.problem !== null) out.push({ text: `  ${fleet.problem}`, style: "red" });
  if (fleet.rings.length > 0) {
    const rows = fleet.rings.map((ring) => [
      `  ${ring.name}`,
      String(ring.frames),
      rate(ring.frames_per_second),
      ring.published.toLocaleString("en"),
      ring.holds_ms === null ? "-" : duration(ring.holds_ms),
      String(ring.readers),
      ring.lag === null ? "-" : ring.lag.toLocaleString("en"),
      ring.slowest_pid === null ? "-" : String(ring.slowest_pid),
    ]);
    out.push(
      ...plain(table([["  RING", "FRAMES", "FRAMES/S", "PUBLISHED", "HOLDS", "READERS", "LAG", "SLOWEST"], ...rows])),
    );
  }
  if (fleet.leases.length === 0) return out;
  const leases = fleet.leases
    .slice(0, LEASES_SHOWN)
    .map((lease) => [
      `  ${`${lease.kind} ${lease.label}`.slice(0, 30)}`,
      lease.owner.slice(0, 20),
      String(lease.pid),
      duration(lease.left_ms),
    ]);
  out.push(
    ...plain(table([[`  LEASE (${fleet.leases.length}/${fleet.leases_total})`, "HOLDER", "PID", "LEFT"], ...leases])),
  );
  return [...out, ...more(fleet.leases.length - LEASES_SHOWN, "leases")];
}
