/** Polls the statistics of buses and fleets for `slotbus top`, and computes rates from the changes. */

import {
  bucketsSince,
  type CounterName,
  quantileUs,
  type Snapshot,
  STATE_NAMES,
  type StateName,
} from "../../native/statistics.ts";
import { BusObserver } from "../../native/observer.ts";
import { Contest } from "../../contest/contest.ts";
import { Fleet } from "../../fleet/fleet.ts";
import { type BusName, processInfo, readNames, shortCommand } from "../directory.ts";
import { duration } from "../terminal.ts";

/** Timeout for the client of a bus to accept an observer, in ms. */
const ANSWER_MS = 800;
const STOPPED = "the owner does not answer: its process is stopped";

export type BusFrame = ReturnType<typeof busFrame>;
export type FleetFrame = Awaited<ReturnType<typeof fleetFrame>>;

export interface Frame {
  directory: string;
  buses: BusFrame[];
  fleets: FleetFrame[];
}

/**
 * Watches all buses and fleets of a directory, or those with one name. Its observers stay open until the process ends.
 */
export class Watch {
  readonly #given: string | undefined;
  readonly #name: string | undefined;
  readonly #buses = new Map<string, BusWatch>();
  readonly #fleets = new Map<string, FleetWatch>();

  constructor(directory: string | undefined, name: string | undefined) {
    this.#given = directory;
    this.#name = name;
  }

  async look(): Promise<Frame> {
    const { directory, buses, fleets } = readNames(this.#given);
    const isWanted = (name: string): boolean => this.#name === undefined || this.#name === name;
    const hub = buses.find(({ name, isHub }) => isHub && name === this.#name);
    const there = buses.filter(({ name, isAlive }) => isAlive && (isWanted(name) || (hub && isOf(hub, name))));
    const named = fleets.filter(isWanted);
    const busNames = there.map(({ name }) => name);
    keep(this.#buses, busNames, BusWatch);
    keep(this.#fleets, named, FleetWatch);
    const frames = await Promise.all(there.map((bus) => this.#buses.get(bus.name)!.look(directory, bus)));
    return {
      directory,
      buses: frames.map((frame) => (frame.kind === "hub" ? withSums(frame, frames) : frame)),
      fleets: await Promise.all(named.map((name) => this.#fleets.get(name)!.look(directory, name))),
    };
  }
}

/** Whether a bus belongs to a worker of this hub. */
function isOf(hub: { name: string }, bus: string): boolean {
  return bus.startsWith(`${hub.name}.`);
}

/** Returns a hub's frame with the sums of its workers' buses. */
function withSums(hub: BusFrame, all: readonly BusFrame[]): BusFrame {
  const own = all.filter(({ name }) => isOf(hub, name));
  const frame = { ...hub };
  for (const key of ["requests_per_second", "errors_per_second", "queued", "waiting", "timeouts"] as const)
    frame[key] = own.reduce((total, one) => total + one[key], 0);
  return frame;
}

/** Creates a watch for each new name, and closes the watches of names that are gone. */
function keep<W extends { close(): void }>(all: Map<string, W>, names: string[], New: new () => W): void {
  for (const [name, watch] of all) {
    if (names.includes(name)) continue;
    watch.close();
    all.delete(name);
  }
  for (const name of names) if (!all.has(name)) all.set(name, new New());
}

/** Polls one bus. */
export class BusWatch {
  #observer: BusObserver | null = null;
  #before: Snapshot | null = null;

  async look(directory: string, bus: BusName): Promise<BusFrame> {
    if (!this.#observer && bus.owner?.isStopped) return busFrame(bus, STOPPED);
    try {
      if (this.#observer?.read().isThere === false) this.close(); // another client may have taken the name
      this.#observer ??= await BusObserver.open({ name: bus.name, directory, timeout: ANSWER_MS });
      const now = this.#observer.read();
      const frame = busFrame(bus, silence(now), now, this.#before);
      this.#before = now;
      return frame;
    } catch (error) {
      this.close();
      const { code, message } = error as { code?: string; message: string };
      return busFrame(bus, code === "RESOURCE" ? "the owner does not answer" : message);
    }
  }

  close(): void {
    this.#observer?.close();
    this.#observer = null;
    this.#before = null;
  }
}

function silence({ pid, silentMs }: Snapshot): string | null {
  if (processInfo(pid)?.isStopped) return STOPPED;
  return silentMs > 0 ? `the owner does not answer: its event loop has been blocked for ${duration(silentMs)}` : null;
}

/**
 * Returns the frame of a bus for the last interval, as printed in the JSON. `now` is `null` if the bus does not answer.
 */
function busFrame(bus: BusName, problem: string | null, now: Snapshot | null = null, before: Snapshot | null = null) {
  const counted = (name: CounterName): number => now?.counters[name] ?? 0;
  const perSecond = (name: CounterName): number =>
    now && before ? (1_000 * (now.counters[name] - before.counters[name])) / (now.ageMs - before.ageMs) : 0;
  const trips = now && before ? bucketsSince(now.roundTrips, before.roundTrips) : (now?.roundTrips ?? []);
  const workers = now?.workers ?? [];
  const owner = bus.owner ?? (now && processInfo(now.pid));
  const used = (state: StateName): number => workers.reduce((sum, { slots }) => sum + slots[state], 0);
  return {
    name: bus.name,
    kind: bus.isHub ? "hub" : "bus",
    /** Why the bus does not answer; `null`: it answers. */
    problem,
    owner: owner && { pid: owner.pid, command: shortCommand(owner) },
    age_ms: now && Math.round(now.ageMs),
    /** For a hub, the rates and queues are the sums of its workers' buses `NAME.*`. */
    requests_per_second: perSecond("responses"),
    errors_per_second: perSecond("errors"),
    p50_us: quantileUs(trips, 0.5),
    p99_us: quantileUs(trips, 0.99),
    queued: now?.queued ?? 0,
    waiting: now?.unsettled ?? 0,
    slots: Object.fromEntries(now ? STATE_NAMES.map((state) => [state, used(state)]) : []) as Record<string, number>,
    /** This and the next counters count since the creation of the bus. */
    workers_joined: counted("workers_joined"),
    workers_died: counted("workers_died"),
    workers_evicted: counted("workers_evicted"),
    /** Worker processes that the bus restarted. */
    workers_restarted: counted("workers_restarted"),
    /** Whether its workers are paused because they ended too often. */
    workers_paused: counted("workers_paused") > counted("workers_resumed"),
    timeouts: counted("timeouts"),
    contentions: counted("contentions"),
    /** Requests that moved to another worker because theirs did not claim them. */
    moves: counted("moves"),
    workers: workers.map(({ id, pid, inFlight, concurrency, ageMs }) => {
      return { id, pid, in_flight: inFlight, concurrency, age_ms: Math.round(ageMs) };
    }),
  };
}

class FleetWatch {
  #fleet: Fleet | null = null;
  /** Heads of the rings at the last poll, and the time of that poll. */
  #heads = new Map<string, number>();
  #at = 0;

  async look(directory: string, name: string): Promise<FleetFrame> {
    try {
      if (this.#fleet?.isCurrent === false) this.close();
      const fleet = (this.#fleet ??= await Fleet.observe({ name, directory }));
      const at = performance.now();
      const frame = await fleetFrame(name, fleet, this.#heads, (at - this.#at) / 1_000);
      this.#heads = new Map(frame.rings.map((ring) => [ring.name, ring.published]));
      this.#at = at;
      return frame;
    } catch (error) {
      this.close();
      const problem = (error as Error).message;
      return { name, problem, members: [], rings: [], leases: [], leases_total: 0 };
    }
  }

  close(): void {
    void this.#fleet?.close();
    this.#fleet = null;
    this.#heads.clear();
  }
}

/** Returns the frame of a fleet for the last interval, as printed in the JSON. */
async function fleetFrame(fleetName: string, fleet: Fleet, before: ReadonlyMap<string, number>, seconds: number) {
  const members = fleet.members();
  const cursors = members.flatMap(({ index, pid }) => fleet.handle.cursors(index).map((it) => ({ ...it, pid })));
  const contest = await Contest.open({ fleet });
  const now = contest.now();
  const problem: string | null = members.length === 0 ? "it has no member; run `slotbus clean` to remove it" : null;
  return {
    name: fleetName,
    problem,
    members: members.map(({ pid, joinedAt }) => ({ pid, age_ms: Math.max(0, Math.round(Date.now() - joinedAt)) })),
    rings: fleet.geometry.rings.map(({ name, frames }) => {
      const published = fleet.ring(name).head;
      const perSecond = (published - (before.get(name) ?? published)) / seconds;
      const own = cursors.filter(({ ring }) => ring === name).sort((a, b) => a.position - b.position);
      return {
        name,
        frames,
        published,
        /** Counts frames; a large event has several. */
        frames_per_second: perSecond,
        /**
         * Time for which the ring keeps an event at this rate, and so a reader may lag; `null`: nothing is published.
         */
        holds_ms: perSecond > 0 ? Math.round((frames / perSecond) * 1_000) : null,
        /** Number of cursors, and the frames that the slowest one has not read; `null`: there is no cursor. */
        readers: own.length,
        lag: own[0] ? Math.max(0, published - own[0].position) : null,
        slowest_pid: own[0]?.pid ?? null,
      };
    }),
    leases: contest.list().map(({ subject, owner, pid, token, expiresAt }) => {
      return { ...subject, owner, pid, token, left_ms: Math.max(0, Math.round(expiresAt - now)) };
    }),
    leases_total: fleet.geometry.maxLeases,
  };
}
