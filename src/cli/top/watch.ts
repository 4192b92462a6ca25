/** What `slotbus top` reads: the memory of buses and fleets, again and again, and how it has changed since. */

import { join } from "node:path";
import { bucketsSince, quantileUs, type Snapshot, STATE_NAMES } from "../../native/statistics.ts";
import { BusObserver } from "../../wires/memory/observer.ts";
import { Contest } from "../../contest/contest.ts";
import { Fleet } from "../../fleet/fleet.ts";
import { controlSocketOf } from "../../hub/names.ts";
import { type BusName, processInfo, readNames, shortCommand } from "../directory.ts";
import { duration } from "../terminal.ts";
import { CommandError } from "../usage.ts";

/** How long the client of a bus has to take an observer, or a hub to list its routes, in ms. */
const ANSWER_MS = 800;
const STOPPED = "the owner does not answer: its process is stopped";

/** What a bus did in the last interval, as it stands in the JSON; this one does not answer. */
const SILENT = {
  /** `null`: it answers. */
  problem: null as string | null,
  owner: null as { pid: number; command: string } | null,
  age_ms: null as number | null,
  requests_per_second: 0,
  errors_per_second: 0,
  p50_us: 0,
  p99_us: 0,
  queued: 0,
  waiting: 0,
  slots: {} as Record<string, number>,
  /** Since the bus was made. */
  workers_joined: 0,
  workers_died: 0,
  workers_evicted: 0,
  /** Processes that the bus started again after their end. */
  workers_restarted: 0,
  /** Its own workers end too often and are paused. */
  workers_paused: false,
  timeouts: 0,
  workers: [] as { id: number; pid: number; in_flight: number; concurrency: number; age_ms: number }[],
  /** Of a hub, whose rates are those of its workers' buses `NAME.*` together; `null`: it is none, or did not say. */
  routes: null as number | null,
};

export type BusFrame = typeof SILENT & { name: string; kind: "bus" | "hub" };
export type FleetFrame = ReturnType<typeof fleetFrame>;

export interface Frame {
  directory: string;
  buses: BusFrame[];
  fleets: FleetFrame[];
}

/** All buses and fleets of a directory, or those of one name. */
export class Watch implements Disposable {
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
    const workers = JSON.stringify(own.map(({ name, workers: each }) => [name, each.map(({ id }) => id)]));
    if (hub.problem === null && this.#routes.get(hub.name)?.workers !== workers)
      this.#routes.set(hub.name, { workers, count: await routesOf(this.directory, hub.name) });
    const frame = { ...hub, routes: this.#routes.get(hub.name)?.count ?? null };
    for (const key of ["requests_per_second", "errors_per_second", "queued", "waiting", "timeouts"] as const)
      frame[key] = own.reduce((total, one) => total + one[key], 0);
    return frame;
  }

  [Symbol.dispose](): void {
    for (const watch of [...this.#buses.values(), ...this.#fleets.values()]) watch.close();
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

/** A snapshot, and when it was taken. */
interface Taken {
  readonly snapshot: Snapshot;
  readonly at: number;
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
    const whose = owner && { pid: owner.pid, command: shortCommand(owner) };
    const frame: BusFrame = { name: this.#name, kind: isHub ? "hub" : "bus", ...SILENT, owner: whose };
    if (!this.#observer && owner?.isStopped) return { ...frame, problem: STOPPED };
    try {
      const taken = await this.#take();
      const numbers = numbersOf(taken, this.#before);
      this.#before = taken;
      return { ...frame, ...numbers, problem: silence(taken.snapshot) };
    } catch (error) {
      this.#drop();
      const { code, message } = error as { code?: string; message: string };
      return { ...frame, problem: code === "RESOURCE" ? "the owner does not answer" : message };
    }
  }

  async #take(): Promise<Taken> {
    if (this.#observer && !this.#observer.read().isThere) this.#drop(); // another client may have taken the name
    this.#observer ??= await BusObserver.open({ name: this.#name, directory: this.#directory, timeout: ANSWER_MS });
    if (this.#closed) throw new CommandError("it was closed.");
    return { snapshot: this.#observer.read(), at: performance.now() };
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

function silence({ pid, silentMs }: Snapshot): string | null {
  if (processInfo(pid)?.isStopped) return STOPPED;
  return silentMs > 0 ? `the owner does not answer: its event loop has not turned for ${duration(silentMs)}` : null;
}

function numbersOf({ snapshot: now, at }: Taken, before: Taken | null): Partial<BusFrame> {
  const seconds = before ? (at - before.at) / 1_000 : Infinity;
  const since = (name: "responses" | "errors"): number =>
    before ? (now.counters[name] - before.snapshot.counters[name]) / seconds : 0;
  const trips = before ? bucketsSince(now.roundTrips, before.snapshot.roundTrips) : now.roundTrips;
  const { workers_joined, workers_died, workers_evicted, workers_restarted, timeouts, ...counters } = now.counters;
  return {
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
    workers_joined,
    workers_died,
    workers_evicted,
    workers_restarted,
    workers_paused: counters.workers_paused > counters.workers_resumed,
    timeouts,
    workers: now.workers.map(({ id, pid, inFlight, concurrency, ageMs }) => ({
      id,
      pid,
      in_flight: inFlight,
      concurrency,
      age_ms: Math.round(ageMs),
    })),
  };
}

/** The heads of a fleet's rings, and when they were read. */
interface Heads {
  readonly heads: ReadonlyMap<string, number>;
  readonly at: number;
}

class FleetWatch {
  readonly #directory: string;
  readonly #name: string;
  #fleet: Fleet | null = null;
  #before: Heads | null = null;

  constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
  }

  async look(): Promise<FleetFrame> {
    try {
      if (this.#fleet && !this.#fleet.isCurrent) this.close();
      this.#fleet ??= await Fleet.observe({ name: this.#name, directory: this.#directory });
      const fleet = this.#fleet;
      const heads = new Map(fleet.geometry.rings.map(({ name }) => [name, fleet.ring(name).head]));
      const now = { heads, at: performance.now() };
      const frame = fleetFrame(this.#name, fleet, now, this.#before);
      this.#before = now;
      return frame;
    } catch (error) {
      this.close();
      const problem = (error as Error).message;
      return { name: this.#name, problem, members: [], rings: [], leases: [], leases_total: 0 };
    }
  }

  close(): void {
    void this.#fleet?.leave();
    this.#fleet = null;
    this.#before = null;
  }
}

/** What a fleet did in the last interval, as it stands in the JSON. */
function fleetFrame(fleetName: string, fleet: Fleet, { heads, at }: Heads, before: Heads | null) {
  const members = fleet.members();
  const cursors = members.flatMap(({ index, pid }) =>
    fleet.handle.cursors(index).map((cursor) => ({ ...cursor, pid })),
  );
  const seconds = before ? (at - before.at) / 1_000 : Infinity;
  const contest = new Contest(fleet);
  const now = contest.now();
  const problem: string | null = members.length === 0 ? "it has no member: `slotbus clean` removes it" : null;
  return {
    name: fleetName,
    problem,
    members: members.map(({ pid, joinedAt }) => ({ pid, age_ms: Math.max(0, Math.round(Date.now() - joinedAt)) })),
    rings: fleet.geometry.rings.map(({ name, frames }) => {
      const published = heads.get(name)!;
      const perSecond = (published - (before?.heads.get(name) ?? published)) / seconds;
      const own = cursors.filter(({ ring }) => ring === name).sort((a, b) => a.position - b.position);
      return {
        name,
        frames,
        published,
        /** Events are counted by their frames: a large one has several. */
        frames_per_second: perSecond,
        /** For how long an event stays at this rate: what a reader may lag; `null`: nothing is published. */
        holds_ms: perSecond > 0 ? Math.round((frames / perSecond) * 1_000) : null,
        /** Cursors that members show: how many, and how many frames the slowest has not read; `null`: there is none. */
        readers: own.length,
        lag: own[0] ? Math.max(0, published - own[0].position) : null,
        slowest_pid: own[0]?.pid ?? null,
      };
    }),
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
