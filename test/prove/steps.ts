/**
 * Killed, and paused, after every instruction: each operation of the C library that touches the bus's shared memory is run by
 * a child process one instruction at a time; after each of them, in a fresh child each time, it is killed, or stopped while
 * the other side goes on. `steps/` does that, in C, and keeps the books; `stepping.ts` runs it.
 *
 *     bun test/prove/steps.ts [ci | quick | long] [--seed N] [--operation NAME [--fault NAME [--step N]]]
 *
 * Sampled, in `ci`: the few operations that are text and system calls mostly (the name, the handshake) or sleep.
 */

import { join } from "node:path";
import { cFiles, stepThrough } from "./stepping.ts";

await stepThrough({
  name: "steps",
  files: cFiles(join(import.meta.dir, "steps")),
  stride: { ci: 16, quick: 1, long: 1 },
  /** Of the slot that the operation is about, when the fault came. Every cell can occur. */
  states: ["FREE", "WRITING", "READY", "CLAIMED", "STREAMING", "DONE", "ABANDONED"],
  faults: ["kill client", "kill worker", "pause client", "pause worker"],
});
