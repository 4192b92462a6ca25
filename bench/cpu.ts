/** Time on processors, and time that the hypervisor took. */

import { readdirSync, readFileSync } from "node:fs";
import { round } from "./measure.ts";

/** Time on a processor, and time of waiting for one, in ms. */
export interface Cpu {
  onMs: number;
  waitMs: number;
}

/** Sums `schedstat` of all threads of these processes; `null` outside Linux. */
export function cpuOf(pids: Iterable<number>): Cpu | null {
  if (process.platform !== "linux") return null;
  let [on, wait] = [0, 0];
  for (const pid of new Set(pids)) {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      try {
        const [ran, waited] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "latin1").split(" ").map(Number);
        on += ran!;
        wait += waited!;
      } catch {} // the thread has ended
    }
  }
  return { onMs: on / 1e6, waitMs: wait / 1e6 };
}

/** Difference of two results of {@link cpuOf}. */
export function cpuBetween(before: Cpu | null, after: Cpu | null): Cpu | null {
  if (before === null || after === null) return null;
  return { onMs: after.onMs - before.onMs, waitMs: after.waitMs - before.waitMs };
}

/** Ticks of all processors and those that the hypervisor took; `null` outside Linux. */
function ticks(): { all: number; stolen: number } | null {
  if (process.platform !== "linux") return null;
  const [, ...counts] = readFileSync("/proc/stat", "latin1").split("\n", 1)[0]!.split(/\s+/).map(Number);
  return { all: counts.slice(0, 8).reduce((sum, count) => sum + count, 0), stolen: counts[7]! };
}

/** Returns a function that returns the time that the hypervisor took since, in % of all processors' time; `null` if unknown. */
export function watchStolen(): () => number | null {
  const before = ticks();
  return () => {
    const after = ticks();
    return before && after ? round((100 * (after.stolen - before.stolen)) / Math.max(1, after.all - before.all)) : null;
  };
}
