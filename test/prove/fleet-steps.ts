/**
 * Kills and pauses a member of the fleet after every instruction. A child process runs each operation of a member one
 * instruction at a time. After each instruction, in a fresh child each time, the child is killed, or it is stopped while
 * other members make all calls that could conflict. `fleet-steps/` does this in C and keeps the books; `stepping.ts` runs it.
 *
 *     bun test/prove/fleet-steps.ts [ci | quick | long] [--seed N] [--operation NAME [--fault NAME [--step N]]]
 *
 * `ci` and `quick` test a sample of the instructions: one in 48 and 32 for joining, leaving and observing, which are mostly
 * text and system calls; one in 3 and 2 for all other operations.
 */

import { join } from "node:path";
import { cFiles, stepThrough } from "./stepping.ts";

const common = ["trace.c", "drive.c", "check.c"].map((file) => join(import.meta.dir, "steps", file));

await stepThrough({
  name: "fleet-steps",
  files: [...common, ...cFiles(join(import.meta.dir, "fleet-steps"))],
  stride: { ci: 48, quick: 32, long: 1 },
  /** What the child held at the time of the fault. Every cell can occur. */
  states: ["NO MEMBER", "JOIN LOCK", "MEMBER", "RING LOCK", "FRAME", "LEASE LOCK", "ENTRY"],
  faults: ["kill", "pause"],
});
