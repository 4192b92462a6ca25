/** What the hub counts of the requests it answers: by status, and how long they took. */

/** Upper bounds of the latency buckets, in ms: 16 for each power of ten from 10 µs to 100 s. */
const BOUNDS: readonly number[] = Array.from({ length: 7 * 16 + 1 }, (_, i) => 0.01 * 10 ** (i / 16));
/** Seconds of history that the status page shows. */
const HISTORY = 300;

/** A second of the hub's life. */
export interface Sample {
  /** When it began, in ms since 1970. */
  readonly time: number;
  readonly requests: number;
  readonly errors: number;
  /** In ms; 0 when there was no request. */
  readonly p50: number;
  readonly p99: number;
}

/** Requests by latency. */
class Latencies {
  readonly counts = new Uint32Array(BOUNDS.length + 1);
  total = 0;
  sumMs = 0;

  add(ms: number): void {
    const at = ms <= 0.01 ? 0 : Math.min(BOUNDS.length, Math.ceil(Math.log10(ms / 0.01) * 16));
    this.counts[at]!++;
    this.total++;
    this.sumMs += ms;
  }

  /** Upper bound of the bucket in which that part of the requests ends, in ms. */
  quantile(part: number): number {
    let left = Math.ceil(this.total * part);
    if (left === 0) return 0;
    for (let at = 0; at < BOUNDS.length; at++) {
      left -= this.counts[at]!;
      if (left <= 0) return BOUNDS[at]!;
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
  /** Requests that took at most so many ms, from the first bucket up to each. */
  readonly latencies = new Latencies();

  /** Cumulative, as Prometheus wants it: bound in seconds, requests. */
  buckets(): [bound: number, count: number][] {
    let sum = 0;
    const all = BOUNDS.map((bound, at): [number, number] => [bound / 1000, (sum += this.latencies.counts[at]!)]);
    return all.filter((_, at) => at % 4 === 0);
  }
}

export class Meter {
  /** By worker name; what the hub answered itself is under `""`. */
  readonly counts = new Map<string, Counts>();
  readonly #second = new Latencies();
  #errors = 0;
  #samples: Sample[] = [];
  #began = Date.now();

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
        p99: this.#second.quantile(0.99),
      };
      this.#samples.push(sample);
      if (this.#samples.length > HISTORY) this.#samples.shift();
    }
    this.#second.clear();
    this.#errors = 0;
    this.#began = now - (now % 1_000);
  }
}
