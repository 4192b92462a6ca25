/** Runs a world in this process, and shrinks a world that fails. */

import { Cells } from "./cells.ts";
import type { Chosen, Choices } from "./choices.ts";
import type { Outcome, Runner } from "./runner.ts";
import { World } from "./world.ts";

/** Length of stacks. It is 0 because errors travel with their stacks, and paths and line numbers must not change a world. */
export const stacks = { limit: 0 };

/** Errors that nobody handled, of the world that ran last. */
const unhandled: unknown[] = [];
let isWatching = false;

function watchUnhandled(): void {
  if (isWatching) return;
  isWatching = true;
  process.on("unhandledRejection", (reason) => unhandled.push(reason));
  process.on("uncaughtException", (error) => unhandled.push(error));
}

const nextMacrotask = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Runs a world in a macrotask of its own. */
export async function runWorld(choices: Choices, cells = new Cells(), isCalm = false): Promise<World> {
  watchUnhandled();
  const world = new World(choices, cells, isCalm);
  await new Promise<void>((resolve) => {
    setImmediate(() => {
      const { stackTraceLimit } = Error;
      Error.stackTraceLimit = stacks.limit;
      world.run();
      Error.stackTraceLimit = stackTraceLimit;
      resolve();
    });
  });
  await nextMacrotask();
  for (const reason of unhandled.splice(0)) {
    const text = reason instanceof Error ? reason.stack : Bun.inspect(reason);
    world.broken(`an error that nobody handled: ${text}`);
  }
  return world;
}

/** Returns the first line of a failure without its numbers: failures with the same kind are the same failure. */
function kindOf(failure: string | null): string {
  return failure === null ? "" : failure.split("\n")[0]!.replaceAll(/\d+(\.\d+)?/g, "#");
}

/** Longest time for the search of fewer choices, in ms. */
const SHRINK_MS = 90_000;
/** Real time after which a world counts as endless during the search, in ms. */
const SHORT_MS = 700;

/** Finds few choices with which the world of a seed fails in the same way. */
export async function shrinkWorld(runner: Runner, seed: number): Promise<Outcome> {
  let best = await runner.world({ seed });
  const kind = kindOf(best.failure);
  const until = performance.now() + SHRINK_MS;
  const isOver = (): boolean => performance.now() >= until;
  const fails = async (choices: readonly Chosen[]): Promise<boolean> => {
    if (isOver()) return false;
    const outcome = await runner.world({ choices }, SHORT_MS);
    if (kindOf(outcome.failure) !== kind) return false;
    best = outcome;
    return true;
  };
  for (let before = -1; before !== best.choices.length && !isOver();) {
    before = best.choices.length;
    for (let size = Math.ceil(before / 2); size >= 1 && !isOver(); size = size === 1 ? 0 : Math.ceil(size / 2))
      for (let at = best.choices.length - size; at > -size && !isOver(); at -= size)
        await fails(best.choices.filter((_, index) => index < at || index >= at + size));
  }
  for (let at = 0; at < best.choices.length; at++) {
    for (let { value } = best.choices[at]!; value > 1 && !isOver(); { value } = best.choices[at]!) {
      const lower = (to: number): Chosen[] =>
        best.choices.map((one, index) => (index === at ? { ...one, value: to } : one));
      if (!(await fails(lower(value >> 1))) && !(await fails(lower(value - 1)))) break;
      if (at >= best.choices.length) break;
    }
  }
  return best;
}
