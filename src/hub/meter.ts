/** What the hub counts of the requests it answers: by status, and how long they took. */

/** Latency buckets for each power of ten; their upper bounds are in ms, from 10 µs to 100 s. */
const PER_DECADE = 16;
const BOUNDS: readonly number[] = Array.from({ length: 7 * PER_DECADE + 1 }, (_, i) => 10 ** (i / PER_DECADE - 2));
/** Seconds of history that the status page shows. */
const HISTORY = 300;

/** A second of the hub's life. */
export interface Sample {
  /** When it began, in ms since 1970: a whole second. */
  readonly time: number;
  readonly requests: number;
  readonly errors: number;
  /** In ms. */
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

/** Requests by latency. */
class Latencies {
  /** Floats: 32 bits would be full, and begin again, after some hours of load. */
  readonly counts = new Float64Array(BOUNDS.length + 1);
  total = 0;
  sumMs = 0;

  add(ms: number): void {
    const at = ms <= 0.01 ? 0 : Math.min(BOUNDS.length, Math.ceil((Math.log10(ms) + 2) * PER_DECADE));
    this.counts[at]!++;
    this.total++;
    this.sumMs += ms;
  }

  /** How long that part of the requests took at most, in ms: a place in the bucket in which it ends. */
  quantile(part: number): number {
    let left = this.total * part;
    if (left === 0) return 0;
    for (let at = 0; at < BOUNDS.length; at++) {
      const count = this.counts[at]!;
      if (left <= count) return BOUNDS[at]! * 10 ** ((left / count - 1) / PER_DECADE);
      left -= count;
    }
    return BOUNDS.at(-1)!;
  }

  clear(): void {
    this.counts.fill(0);
    this.total = 0;
    this.sumMs = 0;
  }
}

/** Counts of one worker name, or of what the hub answered itself. */
export class Counts {
  /** By status. */
  readonly statuses = new Map<number, number>();
  readonly latencies = new Latencies();

  /** Cumulative, as Prometheus wants it: bound in seconds, requests. */
  buckets(): [bound: number, count: number][] {
    let sum = 0;
    const all = BOUNDS.map((bound, at): [number, number] => [bound / 1000, (sum += this.latencies.counts[at]!)]);
    return all.filter((_, at) => at % (PER_DECADE / 4) === 0);
  }
}

export class Meter {
  /** By worker name; what the hub answered itself is under `""`. */
  readonly counts = new Map<string, Counts>();
  readonly #second = new Latencies();
  #errors = 0;
  #samples: Sample[] = [];
  #began = secondOf(Date.now());

  /** `name`: of the worker that answered, `""` for the hub. */
  record(name: string, status: number, ms: number): void {
    this.#roll(Date.now());
    let counts = this.counts.get(name);
    if (!counts) this.counts.set(name, (counts = new Counts()));
    counts.statuses.set(status, (counts.statuses.get(status) ?? 0) + 1);
    counts.latencies.add(ms);
    this.#second.add(ms);
    if (status >= 500) this.#errors++;
  }

  /** The newest seconds that are over; of those without a request none is told. */
  history(): readonly Sample[] {
    this.#roll(Date.now());
    return this.#samples;
  }

  /** No timer runs for this: whoever records or asks ends the second. */
  #roll(now: number): void {
    if (now - this.#began < 1_000 && now >= this.#began) return;
    const { total } = this.#second;
    if (total > 0) {
      const sample = {
        time: this.#began,
        requests: total,
        errors: this.#errors,
        p50: this.#second.quantile(0.5),
        p90: this.#second.quantile(0.9),
        p99: this.#second.quantile(0.99),
      };
      this.#samples.push(sample);
      if (this.#samples.length > HISTORY) this.#samples.shift();
    }
    this.#second.clear();
    this.#errors = 0;
    this.#began = secondOf(now);
  }
}

function secondOf(time: number): number {
  return time - (time % 1_000);
}
