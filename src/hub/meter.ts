/** Counts the requests of a hub by status and latency. */

import { Latencies } from "../latency.ts";
import type { RouteCounts } from "./routes.ts";

/** Latency buckets per power of ten. The upper bounds are in ms, from 10 µs to 100 s. */
const PER_DECADE = 4;
const BOUNDS: readonly number[] = Array.from({ length: 7 * PER_DECADE + 1 }, (_, i) => 10 ** (i / PER_DECADE - 2));
/** Seconds of history that the status page shows. */
const HISTORY = 300;
/** Seconds of the course of each worker name. */
const COURSE = 60;

/** Figures of one second. */
export interface Sample {
  /** Start of the second, in ms since 1970. */
  readonly time: number;
  readonly requests: number;
  readonly errors: number;
  /** Latencies, in ms. */
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

/** Counts of one worker name, or of the responses of the hub itself. */
export class Counts {
  /** Requests by status. */
  readonly statuses = new Map<number, number>();
  /** Requests by latency; the last bucket is above all bounds. Floats, as 32-bit counters would overflow within hours of load. */
  readonly inBucket = new Float64Array(BOUNDS.length + 1);
  total = 0;
  sumMs = 0;
  /** Requests in each of the last complete seconds; the newest is last. */
  readonly course: number[] = [];
  /** `total` when the current second began. */
  #before = 0;

  /** Completes a second, and `idle` seconds after it without requests. */
  roll(idle: number): void {
    this.course.push(this.total - this.#before, ...Array<number>(Math.min(idle, COURSE)).fill(0));
    this.course.splice(0, this.course.length - COURSE);
    this.#before = this.total;
  }

  add(status: number, ms: number): void {
    this.statuses.set(status, (this.statuses.get(status) ?? 0) + 1);
    const at = ms <= 0.01 ? 0 : Math.min(BOUNDS.length, Math.ceil((Math.log10(ms) + 2) * PER_DECADE));
    this.inBucket[at]!++;
    this.total++;
    this.sumMs += ms;
  }
}

/** Cumulative buckets in the form of Prometheus: bound in seconds, number of requests. */
export function cumulative(inBucket: readonly number[]): [bound: number, count: number][] {
  let sum = 0;
  return BOUNDS.map((bound, at) => [bound / 1_000, (sum += inBucket[at]!)]);
}

/** The part of a route that is counted. */
interface Counted {
  readonly owner: { readonly name: string };
  readonly counts: RouteCounts;
}

export class Meter {
  /** Counts by worker name; `""` for responses of the hub itself. */
  readonly counts = new Map<string, Counts>();
  readonly #second = new Latencies();
  #errors = 0;
  #samples: Sample[] = [];
  #began = secondOf(Date.now());

  /** `route`: `null` for a response of the hub itself. */
  record(route: Counted | null, status: number, ms: number): void {
    this.#roll(Date.now());
    const name = route === null ? "" : route.owner.name;
    let counts = this.counts.get(name);
    if (!counts) this.counts.set(name, (counts = new Counts()));
    counts.add(status, ms);
    this.#second.add(ms);
    if (status >= 500) this.#errors++;
    if (route === null) return;
    const { counts: own } = route;
    own.requests++;
    own.ms += ms;
    if (status >= 500) own.errors++;
  }

  /** The newest complete seconds; seconds without requests are left out. */
  history(): readonly Sample[] {
    this.#roll(Date.now());
    return this.#samples;
  }

  /** Completes the current second if it is over. Called by `record` and `history`, so no timer is needed. */
  #roll(now: number): void {
    if (now - this.#began < 1_000 && now >= this.#began) return;
    const { count } = this.#second;
    if (count > 0) {
      const sample = {
        time: this.#began,
        requests: count,
        errors: this.#errors,
        p50: this.#second.percentile(50),
        p90: this.#second.percentile(90),
        p99: this.#second.percentile(99),
      };
      this.#samples.push(sample);
      if (this.#samples.length > HISTORY) this.#samples.shift();
    }
    const idle = Math.max(0, Math.floor((now - this.#began) / 1_000) - 1);
    for (const counts of this.counts.values()) counts.roll(idle);
    this.#second.reset();
    this.#errors = 0;
    this.#began = secondOf(now);
  }
}

function secondOf(time: number): number {
  return time - (time % 1_000);
}
