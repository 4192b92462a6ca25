/** What happens around the processes of the suite `busy`, and where they run. */

import type { Workspace } from "../systems.ts";
import { ControlGroup } from "./cgroup.ts";

/** A situation: its title, what runs beside the pairs, where they run, and how many pairs there are. */
interface Kind {
  title: string;
  /** Commands of `load.c` that run meanwhile. */
  loads?: readonly string[];
  /** On one processor, or with half of one processor's time. */
  place?: "pinned" | "quota";
  /** Pairs of client and worker that work at once. Default 1. */
  pairs?: number;
}

const times = (count: number, load: string): string[] => Array.from({ length: count }, () => load);

export const SITUATIONS = {
  quiet: { title: "quiet" },
  "loop-1": { title: "1 busy loop", loads: times(1, "loop") },
  "loop-2": { title: "2 busy loops", loads: times(2, "loop") },
  "bursts-0.3": { title: "bursts: 3 × 0.3 ms each ms", loads: times(3, "burst 300 1000") },
  "bursts-2": { title: "bursts: 2 × 2 ms of 5", loads: times(2, "burst 2000 5000") },
  "bursts-5": { title: "bursts: 4 × 5 ms of 15", loads: times(4, "burst 5000 15000") },
  "one-processor": { title: "one processor", place: "pinned" },
  quota: { title: "half of one processor's time", place: "quota" },
  "pairs-4": { title: "4 pairs at once", pairs: 4 },
} as const satisfies Record<string, Kind>;

export type SituationName = keyof typeof SITUATIONS;

/** A situation that is set up. */
export interface Situation extends AsyncDisposable {
  readonly pairs: number;
  /** Returns a command that runs `command` in this place. */
  inside(command: string[]): string[];
}

/**
 * Sets a situation up. `load`: the compiled `load.c`.
 *
 * @throws if this machine has no such place.
 */
export function setUp(name: SituationName, load: string, workspace: Workspace): Situation {
  const { loads = [], place, pairs = 1 }: Kind = SITUATIONS[name];
  if (place === "pinned" && process.platform !== "linux") throw new Error("only Linux can pin a process");
  const group = place === "quota" ? new ControlGroup("cpu", 0.5) : null;
  const running = loads.map((words) => workspace.run(`load ${words}`, [load, ...words.split(" ")]));
  return {
    pairs,
    inside: (command) => group?.inside(command) ?? (place === "pinned" ? [load, "pin", ...command] : command),
    async [Symbol.asyncDispose]() {
      await Promise.all(running.map((it) => it.stop()));
      await group?.[Symbol.asyncDispose]();
    },
  };
}
