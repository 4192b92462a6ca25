/** What the harness, its clients and its workers say to each other. */

import type { Act } from "./labels.ts";

export type Order = { do: "go" | "attach" | "end" } | { do: "act"; act: Act } | { do: "prove"; workers: number };

export type Report =
  | { is: "loaded" | "open" | "acted" | "attached" }
  /** A start was refused with this error, which is typed; the process has tried again. */
  | { is: "refused"; code: string }
  | { is: "proved"; faults: string[]; lost: number; died: number }
  | { is: "broken"; what: string };

/** How the handler is told to behave: the path of the request. */
export type Mode = "now" | "reserve" | "far" | "later" | "throw" | "late" | "block" | "pipe" | "broken";

/** Largest body. */
export const LIMIT = 2 ** 24;

export function say(report: Report): void {
  process.send!(report);
}

export function broken(what: string): void {
  say({ is: "broken", what });
}
