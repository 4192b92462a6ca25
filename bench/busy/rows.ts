/** The rows of the suite `busy`: what the cells measured, and how slotbus compares. */

import { median, perSecond, round, type Summary, summarise } from "../measure.ts";
import type { SystemName } from "../systems.ts";
import type { Outcome } from "./cell.ts";
import type { SituationName } from "./situations.ts";

/**
 * `one`, `many`: 1 and 32 in flight. `offered`: p99 at equal load. `start-1`, `start-32`: the first 1 000 requests of both
 * processes; `first-1`, `first-32`: their first half second.
 */
export const CASES = ["one", "many", "offered", "sparse", "start-1", "start-32", "first-1", "first-32"] as const;

export type Case = (typeof CASES)[number];

/** Number of the first requests. */
const FIRST_REQUESTS = 1_000;

/** One case of one system in one situation. */
export interface BusyRow extends Summary {
  situation: SituationName;
  system: SystemName;
  case: Case;
  worst_us: number;
  /** Time on a processor per request, of all threads of both sides; `null` outside Linux. */
  cpu_us: number | null;
  /**
   * slotbus ÷ this system, median of the rounds' ratios: of speed (1 ÷ p50) for `sparse`, of p99 for `offered`, otherwise of
   * requests per second. 1 for slotbus itself.
   */
  ratio: number;
  /** The same ratio of CPU time. */
  cpu_ratio: number | null;
  /** Ratios of the rounds, from low to high. */
  ratios: number[];
}

/** Outcomes of cells that worked at the same time as one: the sum of what they did. */
export function together(outcomes: readonly Outcome[]): Outcome {
  const latencies = new Float64Array(outcomes.reduce((sum, one) => sum + one.latencies.length, 0));
  let at = 0;
  for (const one of outcomes) {
    latencies.set(one.latencies, at);
    at += one.latencies.length;
  }
  const sum = (of: "onMs" | "waitMs"): number => outcomes.reduce((total, { cpu }) => total + (cpu?.[of] ?? 0), 0);
  const cpu = outcomes.every((one) => one.cpu) ? { onMs: sum("onMs"), waitMs: sum("waitMs") } : null;
  return { latencies, seconds: Math.max(...outcomes.map(({ seconds }) => seconds)), cpu };
}

/** The first requests of the first pair of an outcome with `inFlight` requests in flight. */
export function firstOf({ latencies }: Outcome, inFlight: number): Outcome {
  const first = latencies.slice(0, FIRST_REQUESTS);
  const busyNs = first.reduce((sum, ns) => sum + ns, 0);
  return { latencies: first, seconds: busyNs / inFlight / 1e9, cpu: null };
}

function p99(latencies: Float64Array): number {
  return Float64Array.from(latencies).sort()[Math.floor(0.99 * latencies.length)]!;
}

/** What a ratio of a case compares: more is better, except for `offered`. */
function figure(kind: Case, outcome: Outcome): number {
  if (kind === "offered") return p99(outcome.latencies);
  return kind === "sparse" ? 1 / median(outcome.latencies) : perSecond(outcome);
}

function cpuUs({ cpu, latencies }: Outcome): number {
  return cpu === null ? NaN : (1000 * cpu.onMs) / latencies.length;
}

/** Makes the rows of a case from the rounds of each system; the first is slotbus. */
export function rowsOf(situation: SituationName, kind: Case, results: ReadonlyMap<SystemName, Outcome[]>): BusyRow[] {
  const own = results.get("slotbus")!;
  const known = (value: number): number | null => (Number.isFinite(value) ? round(value) : null);
  return [...results].map(([system, rounds]) => {
    const ratios = rounds.map((one, i) => figure(kind, own[i]!) / figure(kind, one)).sort((a, b) => a - b);
    return {
      situation,
      system,
      case: kind,
      ...summarise(rounds),
      worst_us: round(
        Math.max(...rounds.map(({ latencies }) => latencies.reduce((most, ns) => Math.max(most, ns), 0))) / 1000,
      ),
      cpu_us: known(median(rounds.map(cpuUs))),
      ratio: round(median(ratios)),
      cpu_ratio: known(median(rounds.map((one, i) => cpuUs(own[i]!) / cpuUs(one)))),
      ratios: ratios.map(round),
    };
  });
}
