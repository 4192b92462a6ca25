/** How long things took, as percentiles. What other processes read is counted in shared memory instead, by the C library. */

import { createHistogram } from "node:perf_hooks";

/** Longest time that is told apart from longer ones: 49 days, as the longest timeout. */
const MAX_US = 0xffff_ffff * 1_000;

/** Counts times in buckets that are one percent wide. */
export class Latencies {
  readonly #us = createHistogram({ lowest: 1, highest: MAX_US, figures: 2 });

  /** Number of times since the start, or since {@link reset}. */
  get count(): number {
    return this.#us.count;
  }

  add(ms: number): void {
    this.#us.record(Math.min(MAX_US, Math.max(1, Math.round(ms * 1_000))));
  }

  /** Time in ms that this part of all (above 0, up to 100 %) took at most; 0 when there are none. */
  percentile(percent: number): number {
    return this.#us.percentile(percent) / 1_000;
  }

  reset(): void {
    this.#us.reset();
  }
}
