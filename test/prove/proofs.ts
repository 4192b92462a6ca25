/** The proofs: their programs, and the files that each depends on. */

import type { ProofProgram } from "./proved.ts";

export const proofs: { [name: string]: ProofProgram } = {
  model: { program: "test/model/check.ts", folders: ["test/model"], again: "part", isApart: true },
  mutants: { program: "test/prove/mutants.ts", again: "rules" },
  steps: { program: "test/prove/steps.ts", folders: ["test/native"], again: "part" },
  "fleet-steps": { program: "test/prove/fleet-steps.ts", folders: ["test/prove/steps", "test/native"], again: "part" },
  malformed: { program: "test/prove/malformed.ts", folders: ["test/native"], again: "whole" },
  hostile: { program: "test/prove/hostile.ts", folders: ["test/native"], again: "whole" },
  endure: { program: "test/prove/endure.ts", folders: ["test/native"], again: "whole" },
  stalls: { program: "test/prove/stalls.ts", again: "whole" },
  soak: { program: "test/prove/soak.ts", again: "whole" },
  many: { program: "test/prove/many.ts", folders: ["test/prove/soak"], again: "whole" },
  "fleet-soak": { program: "test/prove/fleet-soak.ts", again: "whole" },
  hub: { program: "test/prove/hub.ts", again: "whole" },
  hubs: { program: "test/prove/hubs.ts", folders: ["test/prove/hub"], again: "whole" },
  together: { program: "test/prove/together.ts", again: "whole", isLong: true },
  stdio: { program: "test/prove/stdio.ts", again: "whole" },
};
