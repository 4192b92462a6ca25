/** Runs real worlds, several at once because they mostly wait. */

import { compare, replayCalm } from "./compare.ts";
import { Stage } from "./stage.ts";

/** What some worlds were. */
export interface Tally {
  worlds: number;
  calm: number;
  calls: number;
  faults: number;
  kills: number;
  stops: number;
  /** Calls by how they ended. */
  readonly ends: Map<string, number>;
  /** Failures, each with the seed of its world. */
  readonly failures: string[];
}

/** A calm world that would last longer is left out, in ms: some wait for minutes. */
const LONGEST_MS = 20_000;

/** Whether the world of a seed is calm: every fourth. */
const isCalmSeed = (seed: number): boolean => seed % 4 === 0;

/** Runs the worlds from seed `first` on, `lanes` at once, until there are `count`, or `ms` have passed, or one has failed. */
export async function playWorlds(first: number, count: number, ms: number, lanes: number): Promise<Tally> {
  const tally: Tally = { worlds: 0, calm: 0, calls: 0, faults: 0, kills: 0, stops: 0, ends: new Map(), failures: [] };
  await using stage = new Stage();
  const end = performance.now() + ms;
  let next = 0;
  const play = async (lane: number): Promise<void> => {
    while (next < count && performance.now() < end && tally.failures.length === 0) {
      const seed = (first + next++) >>> 0;
      const isCalm = isCalmSeed(seed);
      const calm = await replayCalm(seed).catch((error: Error) => error);
      if (isCalm && !(calm instanceof Error) && calm.ms > LONGEST_MS) continue;
      const played = await stage.play(seed, isCalm, lane);
      const compared = calm instanceof Error ? `no comparison: ${calm.stack}` : compare(calm, isCalm, played);
      const failure = played.failure ?? compared;
      if (failure !== null) tally.failures.push(`seed ${seed}: ${failure}`);
      tally.worlds++;
      if (isCalm) tally.calm++;
      for (const key of ["calls", "faults", "kills", "stops"] as const) tally[key] += played[key];
      for (const outcome of Object.values(played.outcomes)) {
        const kind = / of run \d+$/.test(outcome) ? "done" : outcome.startsWith("Planned") ? "aborted" : outcome;
        tally.ends.set(kind, (tally.ends.get(kind) ?? 0) + 1);
      }
    }
  };
  await Promise.all(Array.from({ length: lanes }, (_, lane) => play(lane)));
  return tally;
}
