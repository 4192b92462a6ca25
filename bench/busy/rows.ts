/** The rows of the suite `busy`: what the cells measured, and how slotbus compares. */

import { type Compared, compare, type Outcome, p99 } from "../cells.ts";
import { median, perSecond } from "../measure.ts";
import type { SystemName } from "../systems.ts";
import type { SituationName } from "./situations.ts";

/**
 * `one`, `many`: 1 and 32 in flight. `offered`: p99 at equal load. `start-1`, `start-32`: the first 1 000 requests of both
 * processes; `first-1`, `first-32`: their first half second.
 */
export const CASES = ["one", "many", "offered", "sparse", "start-1", "start-32", "first-1", "first-32"] as const;

export type Case = (typeof CASES)[number];

/** Number of the first requests. */
const FIRST_REQUESTS = 1_000;

/**
 * One case of one system in one situation. Ratios are of speed (1 ÷ p50) for `sparse`, of p99 for `offered`, otherwise of
 * requests per second.
 */
export interface BusyRow extends Compared {
  situation: SituationName;
  system: SystemName;
  case: Case;
}

/** The first requests of the first pair of an outcome with `inFlight` requests in flight. */
export function firstOf({ latencies }: Outcome, inFlight: number): Outcome {
  const first = latencies.slice(0, FIRST_REQUESTS);
  const busyNs = first.reduce((sum, ns) => sum + ns, 0);
  return { latencies: first, seconds: busyNs / inFlight / 1e9, cpu: null };
}

/** What a ratio of a case compares: more is better, except for `offered`. */
function figureOf(kind: Case): (outcome: Outcome) => number {
  if (kind === "offered") return p99;
  return kind === "sparse" ? ({ latencies }) => 1 / median(latencies) : perSecond;
}

/** Makes the rows of a case from the rounds of each system; the first is slotbus. */
export function rowsOf(situation: SituationName, kind: Case, results: ReadonlyMap<SystemName, Outcome[]>): BusyRow[] {
  return compare(results, figureOf(kind)).map((row) => ({ situation, case: kind, ...row }));
}
