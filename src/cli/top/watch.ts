/** Polls the statistics of buses and fleets for `slotbus top`, and computes rates from the changes. */

import { bucketsSince, type CounterName, quantileUs, STATE_NAMES, type StateName } from "../../native/statistics.ts";
import { Contest } from "../../contest/contest.ts";
import { Fleet } from "../../fleet/fleet.ts";
import { addBuckets, BusWatch, keep, type Look, sumOf } from "../bus-watch.ts";
import { type BusName, processInfo, readNames, shortCommand } from "../directory.ts";

export type BusFrame = ReturnType<typeof busFrame>;
export type ClientFrame = ReturnType<typeof clientFrame>;
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
    const frames = await Promise.all(
      there.map(async (bus) => busFrame(bus, await this.#buses.get(bus.name)!.look(directory, bus))),
    );
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

/** Rates and percentiles of the last interval, over some clients of a bus. Without an interval, percentiles since the creation. */
function ratesOf(looks: readonly Look[]) {
  const perSecond = (name: CounterName): number =>
    looks.reduce((sum, { now, before }) => {
      if (!now || !before) return sum;
      return sum + (1_000 * (now.counters[name] - before.counters[name])) / (now.ageMs - before.ageMs);
    }, 0);
  const trips = looks.flatMap(({ now, before }) => {
    return now ? [before ? bucketsSince(now.roundTrips, before.roundTrips) : now.roundTrips] : [];
  });
  const sum = addBuckets(trips);
  return {
    requests_per_second: perSecond("responses"),
    errors_per_second: perSecond("errors"),
    p50_us: quantileUs(sum, 0.5),
    p99_us: quantileUs(sum, 0.99),
  };
}

/** Returns the frame of one client of a shared bus, as printed in the JSON. */
function clientFrame(look: Look) {
  const { client, problem, now } = look;
  const owner = now && processInfo(now.pid);
  const workers = now?.workers ?? [];
  return {
    client: client!,
    /** Why the client does not answer; `null`: it answers. */
    problem,
    owner: owner && { pid: owner.pid, command: shortCommand(owner) },
    age_ms: now && Math.round(now.ageMs),
    ...ratesOf([look]),
    queued: now?.queued ?? 0,
    waiting: now?.unsettled ?? 0,
    in_flight: workers.reduce((sum, { inFlight }) => sum + inFlight, 0),
    workers: workers.length,
  };
}

/** Returns the frame of a bus for the last interval, as printed in the JSON: the sums over its clients, and each client. */
export function busFrame(bus: BusName, looks: readonly Look[]) {
  const now = sumOf(looks);
  const counted = (name: CounterName): number => now?.counters[name] ?? 0;
  const workers = now?.workers ?? [];
  const isShared = bus.clients.length > 0;
  const owner = bus.owner ?? (now && processInfo(now.pid));
  const used = (state: StateName): number => workers.reduce((sum, { slots }) => sum + slots[state], 0);
  return {
    name: bus.name,
    kind: bus.isHub ? "hub" : "bus",
    /** Why no client of the bus answers; `null`: a client answers. */
    problem: looks.some(({ problem }) => problem === null) ? null : (looks[0]?.problem ?? null),
    /** For a shared bus, its oldest client. */
    owner: owner && { pid: owner.pid, command: shortCommand(owner) },
    age_ms: now && Math.round(now.ageMs),
    /** For a hub, the rates and queues are the sums of its workers' buses `NAME.*`. */
    ...ratesOf(looks),
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
    /** Each worker once. `id` is the id of its attachment; `null` for a shared bus, where each client has its own. */
    workers: workers.map(({ id, pid, inFlight, concurrency, spinning, ageMs }) => {
      return { id: isShared ? null : id, pid, in_flight: inFlight, concurrency, spinning, age_ms: Math.round(ageMs) };
    }),
    /** The clients of a shared bus; `null` for an owned one. */
    clients: isShared ? looks.map(clientFrame) : null,
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
