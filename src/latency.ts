/**
 * Percentiles of latencies within this process. Statistics for other processes are counted in shared memory by the C
 * library.
 */

import { createHistogram } from "node:perf_hooks";

/** Longest time that is recorded, in µs: 49 days, like the longest timeout. Longer times count as this one. */
const MAX_US = 0xffff_ffff * 1_000;

/** A histogram of times with buckets one percent wide. */
export class Latencies {
  readonly #us = createHistogram({ lowest: 1, highest: MAX_US, figures: 2 });

  /** Number of recorded times since the start or the last {@link reset}. */
  get count(): number {
    return this.#us.count;
  }

  add(ms: number): void {
    this.#us.record(Math.min(MAX_US, Math.max(1, Math.round(ms * 1_000))));
  }

  /** Returns the percentile of the times, in ms; `percent` is above 0 and at most 100. Returns 0 without times. */
  percentile(percent: number): number {
    return this.#us.percentile(percent) / 1_000;
  }

  reset(): void {
    this.#us.reset();
  }
}
