/** Compares how the calls of a real world ended with the replay of the same choices. */

import { Cells } from "../cells.ts";
import { runWorld } from "../worlds.ts";
import { outcomeOf } from "./client.ts";
import { choicesOf } from "./orders.ts";
import type { Played } from "./stage.ts";

/** A calm world, in which each call has one possible outcome. */
export interface Calm {
  /** By the indexes of the calls; `null`: `fetch` may collect the call's source or stream it, as time decides. */
  outcomes: Map<string, string | null>;
  /** Virtual time until it came to rest. */
  ms: number;
}

export async function replayCalm(seed: number): Promise<Calm> {
  const world = await runWorld(choicesOf(seed, true), new Cells(), true);
  if (world.failure !== null) throw new Error(`the calm replay of seed ${seed} failed: ${world.failure}`);
  const outcomes = new Map(
    world.calls.map((call) => {
      const isOpen = call.isFetch && call.sources.length > 0;
      return [String(call.index), isOpen ? null : outcomeOf(call)];
    }),
  );
  return { outcomes, ms: world.time.now };
}

/**
 * Returns the first difference between a real world and its calm replay; `null` if there is none. Above a calm world all calls end
 * in the same way. In another world, a call whose handler ran once and that succeeds has the value that it has in the calm one.
 */
export function compare(calm: Calm, isCalm: boolean, { outcomes, calls }: Played): string | null {
  for (const [index, should] of calm.outcomes) {
    const is = outcomes[index];
    if (isCalm && is === undefined) return `call ${index} was not made: ${calls} of ${calm.outcomes.size} were`;
    if (should === null || (!isCalm && !is?.endsWith(" of run 0")) || is === should) continue;
    return `call ${index} ended with "${is}", and in the calm replay with "${should}"`;
  }
  const extra = Object.keys(outcomes).length - calm.outcomes.size;
  return isCalm && extra !== 0 ? `the real world has ${extra} more calls than its replay` : null;
}
