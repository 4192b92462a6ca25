/**
 * Kills and pauses a client or worker after every instruction. A child process runs each operation of the C library that
 * uses the bus's shared memory, one instruction at a time. After each instruction, in a fresh child each time, the child is
 * killed, or it is stopped while the other side continues. `steps/` does this in C and keeps the books; `stepping.ts` runs
 * it.
 *
 *     bun test/prove/steps.ts [ci | quick | long] [--seed N] [--operation NAME [--fault NAME [--step N]]]
 *
 * `ci` tests one instruction in 16 of the few operations that are mostly text and system calls (names, doors, the handshake) or
 * sleep.
 */

import { join } from "node:path";
import { cFiles, stepThrough } from "./stepping.ts";

await stepThrough({
  name: "steps",
  files: cFiles(join(import.meta.dir, "steps")),
  stride: { ci: 16, quick: 1, long: 1 },
  /** State of the operation's slot at the time of the fault. Every cell can occur. */
  states: ["FREE", "WRITING", "READY", "CLAIMED", "STREAMING", "DONE", "ABANDONED"],
  faults: ["kill client", "kill worker", "pause client", "pause worker"],
});
