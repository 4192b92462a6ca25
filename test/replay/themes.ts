/**
 * Themes of worlds. Half of the worlds have one: it makes a combination common that chance alone makes too rare. A theme changes
 * chances only, so a kept list of choices has the same meaning in each theme.
 */

import type { Die } from "./choices.ts";

const THEMES = [
  /** Nothing special. */
  "none",
  /** Workers die while requests that may run again run, wait or queue; many are aborted. */
  "deaths",
  /** Requests for one worker; workers come and go. */
  "bound",
  /** The bus closes while it is busy, mostly just after its workers have died. */
  "early close",
  /** Both bodies of a request stream at once, slowly, with a limit on pauses. */
  "both ways",
  /** Calls of contracts that stream items: inputs fail, and callers leave early. */
  "items",
  /** Short queues and few places. */
  "full",
  /** Processes that break the protocol; clients that stop, so that many events arrive at once. */
  "hostile",
  /** Workers drain while they are evicted, stopped or replaced. */
  "drains",
] as const;

export type Theme = (typeof THEMES)[number];

/** Chooses the theme of a world. */
export function chooseTheme(die: Die): Theme {
  return THEMES[die.rarely("theme", 500, THEMES.length)]!;
}

/** Faults that are common in a theme, by their numbers in `faults.ts`. */
export const FAULTS_OF: Readonly<Partial<Record<Theme, readonly number[]>>> = {
  deaths: [1, 1, 1, 2, 3],
  bound: [1, 3, 4, 5, 6],
  "early close": [1, 3, 2],
  full: [1, 1, 3, 2],
  hostile: [7, 7, 7, 2],
  drains: [5, 6, 4, 2],
};
