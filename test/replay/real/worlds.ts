/** Runs real worlds, several at once because they mostly wait. */

import { compare } from "./compare.ts";
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
      const played = await stage.play(seed, isCalm, lane);
      const compared = compare(seed, isCalm, played).catch((error: Error) => `no comparison: ${error.stack}`);
      const failure = played.failure ?? (await compared);
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
