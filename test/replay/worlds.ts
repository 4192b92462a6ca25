/** Runs one world, and shrinks a world that fails. */

import { Cells } from "./cells.ts";
import { type Chosen, Choices } from "./choices.ts";
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

/** Finds few choices with which the world of a seed fails in the same way. */
export async function shrinkWorld(seed: number, limit = 3_000): Promise<{ choices: Chosen[]; failure: string | null }> {
  const recorded = Choices.ofSeed(seed, true);
  const world = await runWorld(recorded);
  const kind = kindOf(world.failure);
  let best = [...recorded.taken];
  let { failure } = world;
  let left = limit;
  const fails = async (list: Chosen[]): Promise<boolean> => {
    if (left-- <= 0) return false;
    const again = Choices.ofList(list);
    const result = await runWorld(again);
    if (kindOf(result.failure) !== kind) return false;
    best = [...again.taken];
    failure = result.failure;
    return true;
  };
  for (let before = -1; before !== best.length && left > 0;) {
    before = best.length;
    for (let size = Math.ceil(best.length / 2); size >= 1 && left > 0; size = size === 1 ? 0 : Math.ceil(size / 2))
      for (let at = best.length - size; at > -size && left > 0; at -= size)
        await fails(best.filter((_, index) => index < at || index >= at + size));
  }
  for (let at = 0; at < best.length; at++) {
    for (let { value } = best[at]!; value > 1 && left > 0; value = best[at]!.value) {
      const lower = (to: number): Chosen[] => best.map((one, index) => (index === at ? { ...one, value: to } : one));
      if (!(await fails(lower(value >> 1))) && !(await fails(lower(value - 1)))) break;
      if (at >= best.length) break;
    }
  }
  return { choices: best, failure };
}
