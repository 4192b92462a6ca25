/** Adds up the figures of all processes of a shared hub. */

import type { Sample } from "./meter.ts";
import type { RouteCounts } from "./routes.ts";

/** Counts of one worker name, or of the responses of the hub itself; see `Counts`. */
export interface PartCounts {
  readonly statuses: Readonly<Record<string, number>>;
  /** Requests by bucket of latency, not cumulative. */
  readonly inBucket: readonly number[];
  readonly total: number;
  readonly sumMs: number;
  /** Requests in each of the last complete seconds; the newest is last. */
  readonly course: readonly number[];
}

/** Figures of one process. */
export interface Part {
  readonly pid: number;
  /** Number of clients of event streams. */
  readonly clients: number;
  readonly sockets: PartSockets;
  /** By worker name; `""` for responses of the hub itself. */
  readonly counts: Readonly<Record<string, PartCounts>>;
  /** Answers of the routes that have any, by method and pattern. */
  readonly routes: Readonly<Record<string, RouteCounts>>;
  /** Requests of each worker name. */
  readonly workers: Readonly<Record<string, PartWorker>>;
  readonly history: readonly Sample[];
  /** Resident memory, in bytes. */
  readonly rss: number;
  /** Processor time, in µs. */
  readonly cpu: number;
}

/** Number of open WebSockets, of their messages, and of messages that were lost. */
export interface PartSockets {
  readonly size: number;
  readonly messages: number;
  readonly losses: number;
}

export interface PartWorker {
  readonly queued: number;
  /** Requests in flight of each worker process, by pid. */
  readonly inFlight: Readonly<Record<string, number>>;
}

/** Adds up parts. `pid` is of the first part. */
export function wholeOf(parts: readonly [Part, ...Part[]]): Part {
  if (parts.length === 1) return parts[0];
  const sum = (read: (part: Part) => number): number => parts.reduce((all, part) => all + read(part), 0);
  return {
    pid: parts[0].pid,
    clients: sum(({ clients }) => clients),
    sockets: {
      size: sum(({ sockets }) => sockets.size),
      messages: sum(({ sockets }) => sockets.messages),
      losses: sum(({ sockets }) => sockets.losses),
    },
    counts: byName(
      parts.map(({ counts }) => counts),
      addCounts,
    ),
    routes: byName(
      parts.map(({ routes }) => routes),
      addRoutes,
    ),
    workers: byName(
      parts.map(({ workers }) => workers),
      addWorkers,
    ),
    history: addHistories(parts.map(({ history }) => history)),
    rss: sum(({ rss }) => rss),
    cpu: sum(({ cpu }) => cpu),
  };
}

type Named<T> = Readonly<Record<string, T>>;

function byName<T>(all: readonly Named<T>[], add: (a: T, b: T) => T): Named<T> {
  const sums = new Map<string, T>();
  for (const one of all)
    for (const [name, value] of Object.entries(one)) {
      const before = sums.get(name);
      sums.set(name, before === undefined ? value : add(before, value));
    }
  return Object.fromEntries(sums);
}

const plus = (a: number, b: number): number => a + b;

function addCounts(a: PartCounts, b: PartCounts): PartCounts {
  return {
    statuses: byName([a.statuses, b.statuses], plus),
    inBucket: a.inBucket.map((count, at) => count + (b.inBucket[at] ?? 0)),
    total: a.total + b.total,
    sumMs: a.sumMs + b.sumMs,
    course: addCourses(a.course, b.course),
  };
}

/** Adds seconds that end at the same time. */
function addCourses(a: readonly number[], b: readonly number[]): number[] {
  const [long, short] = a.length > b.length ? [a, b] : [b, a];
  const from = long.length - short.length;
  return long.map((count, at) => count + (at < from ? 0 : short[at - from]!));
}

function addRoutes(a: RouteCounts, b: RouteCounts): RouteCounts {
  return { requests: a.requests + b.requests, errors: a.errors + b.errors, ms: a.ms + b.ms };
}

function addWorkers(a: PartWorker, b: PartWorker): PartWorker {
  return { queued: a.queued + b.queued, inFlight: byName([a.inFlight, b.inFlight], plus) };
}

/** Adds the requests of equal seconds. Percentiles cannot be added: the worst process counts. */
function addHistories(all: readonly (readonly Sample[])[]): Sample[] {
  const seconds = new Map<number, Sample>();
  for (const sample of all.flat()) {
    const before = seconds.get(sample.time);
    seconds.set(sample.time, before === undefined ? sample : addSamples(before, sample));
  }
  return [...seconds.values()].sort((a, b) => a.time - b.time);
}

function addSamples(a: Sample, b: Sample): Sample {
  return {
    time: a.time,
    requests: a.requests + b.requests,
    errors: a.errors + b.errors,
    p50: Math.max(a.p50, b.p50),
    p90: Math.max(a.p90, b.p90),
    p99: Math.max(a.p99, b.p99),
  };
}
