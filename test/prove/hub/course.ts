/** Judges the memory of processes by its slope: bytes per request, at quiet points. */

import { say } from "../proof.ts";
import type { Counted } from "./rooms.ts";

/** Most growth, in bytes per request. */
const GROWTH = 10;
/** Growth of resident memory that is not a leak, in bytes: pages that the allocator keeps after a peak. */
const KEPT = 64 * 2 ** 20;

export class Course {
  readonly #name: string;
  readonly #points: { requests: number; heap: number; rss: number }[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  /** Adds a point after this number of requests; the memory of several processes is added up, as they share the requests. */
  add(requests: number, ...counts: Counted[]): void {
    const sum = (what: "heap" | "rss"): number => counts.reduce((all, count) => all + count[what], 0);
    this.#points.push({ requests, heap: sum("heap"), rss: sum("rss") });
  }

  /** `leaks` is called if the memory grows. */
  judge(leaks: (what: string) => void): void {
    const late = this.#points.slice(Math.floor(this.#points.length / 3));
    if (late.length < 4) return leaks(`${this.#name}: too few points to judge the memory`);
    const perRequest = slopeOf(late.map(({ requests, heap }) => [requests, heap]));
    const lowest = (points: typeof late): number => Math.min(...points.map(({ rss }) => rss));
    const third = Math.ceil(this.#points.length / 3);
    const growth = lowest(this.#points.slice(-third)) - lowest(this.#points.slice(0, third));
    const bound = KEPT + GROWTH * this.#points.at(-1)!.requests;
    const text = late.map(({ rss }) => `${Math.round(rss / 1024)}`).join(" ");
    say(
      `${this.#name}: ${perRequest.toFixed(1)} bytes of heap per request (bound ${GROWTH}); resident ${text} KiB, growth ` +
        `${Math.round(growth / 1024)} (bound ${Math.round(bound / 1024)})`,
    );
    if (perRequest > GROWTH) leaks(`the heap of the ${this.#name} grows by ${perRequest.toFixed(1)} bytes per request`);
    if (growth > bound) leaks(`the resident memory of the ${this.#name} grew by ${growth} bytes`);
  }
}

/** Middle slope of all pairs of points (Theil and Sen): single outliers do not move it. */
function slopeOf(points: readonly (readonly [x: number, y: number])[]): number {
  const slopes = points.flatMap(([x, y], index) => points.slice(index + 1).map(([x2, y2]) => (y2 - y) / (x2 - x)));
  return slopes.toSorted((one, other) => one - other)[slopes.length >>> 1]!;
}
