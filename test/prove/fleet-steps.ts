/**
 * Killed, and paused, after every instruction: each operation of a member of the fleet is run by a child process one
 * instruction at a time; after each of them, in a fresh child each time, it is killed, or stopped while other members do
 * whatever could conflict. `fleet/steps/` does that, in C, and keeps the books; `stepping.ts` runs it.
 *
 *     bun test/prove/fleet-steps.ts [ci | quick | long] [--seed N] [--operation NAME [--fault NAME [--step N]]]
 *
 * `ci` and `quick` take a sample: of joining, leaving and observing, which are text and system calls mostly, one instruction in
 * 96 and 32; of all others one in 6 and 2.
 */

import { join } from "node:path";
import { cFiles, stepThrough } from "./stepping.ts";

const common = ["trace.c", "drive.c", "check.c"].map((file) => join(import.meta.dir, "steps", file));

await stepThrough({
  name: "fleet-steps",
  files: [...common, ...cFiles(join(import.meta.dir, "fleet/steps"))],
  stride: { ci: 96, quick: 32, long: 1 },
  /** What the child held when the fault came. Every cell can occur. */
  states: ["NO MEMBER", "JOIN LOCK", "MEMBER", "RING LOCK", "FRAME", "LEASE LOCK", "ENTRY"],
  faults: ["kill", "pause"],
});
