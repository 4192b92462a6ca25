/** Judges the memory of processes by its slope: bytes per request, at quiet points. Can plant a leak that must be found. */

import { heapStats } from "bun:jsc";
import { readFileSync } from "node:fs";
import { descriptors, mappings } from "../support.ts";
import { say } from "./proof.ts";

/** Open descriptors, mapped regions, bytes of living objects and their buffers, and resident bytes that no process shares. */
export interface Counted {
  is: "count";
  fds: number;
  maps: number;
  heap: number;
  rss: number;
}

/** What this process has open, after a collection of garbage. */
export function count(): Counted {
  Bun.gc(true);
  Bun.shrink();
  const [, kib] = /^RssAnon:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "latin1"))!;
  return {
    is: "count",
    fds: descriptors(),
    maps: mappings(),
    heap: heapStats().heapSize, // with the buffers of its objects
    rss: Number(kib) * 1024,
  };
}

// ---- a planted leak ---------------------------------------------------------------------------------------------------

const LEAK = "SLOTBUS_PROOF_LEAK";
/** Bytes that are allocated at once for the leak. */
const PAGE = 4_096;
const leaked: Uint8Array[] = [];
let leakedBytes = 0;

/** Bytes that this process leaks per request; 0: none. */
export const planted = Number(process.env[LEAK] ?? 0);

/** Environment of a process that leaks that many bytes per request. */
export function leaking(bytes: number | string): Record<string, string> {
  return { [LEAK]: String(bytes) };
}

/** Leaks memory that is really used, a few bytes at a time. Every process of a proof calls it once per request. */
export function leakSome(bytes = planted): void {
  for (let i = 0; i < bytes; i++) {
    if (leakedBytes % PAGE === 0) leaked.push(new Uint8Array(PAGE));
    leaked.at(-1)![leakedBytes++ % PAGE] = 1;
  }
}

// ---- the verdict ------------------------------------------------------------------------------------------------------

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
    const text = (what: "heap" | "rss"): string => late.map((one) => `${Math.round(one[what] / 1024)}`).join(" ");
    say(
      `${this.#name}: ${perRequest.toFixed(1)} bytes of heap per request (bound ${GROWTH}): ${text("heap")} KiB; resident ${text("rss")} KiB, growth ` +
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
