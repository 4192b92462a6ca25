/** Messages between the stage and the processes of its worlds. */

import type { Common } from "../../prove/actor.ts";
import { Choices } from "../choices.ts";

/** What each process of a world knows. */
export interface Setting {
  seed: number;
  isCalm: boolean;
  /** Index of the bus in the world. */
  bus: number;
  /** Name of the bus on this machine. */
  name: string;
  /** Time of the machine at the beginning of the world, in ms. */
  epoch: number;
  /** File of the books. */
  books: string;
}

/** Orders of the stage. */
export type Order =
  | ({ do: "call" } & Setting)
  | ({ do: "work"; worker: number } & Setting)
  /** To a client: the process of a worker. */
  | { do: "know"; worker: number; pid: number }
  /** To a worker: drain for at most `ms` and close. */
  | { do: "close"; ms: number }
  /** To a client: all its workers have come to rest. */
  | { do: "judge" };

/** What a client wants the stage to do with a worker, or with itself (`worker` -1). */
export type Wish = { is: "wish"; what: "start" | "kill" | "stop" | "close"; worker: number; ms: number };

/** What a process says at the end of a world. */
export interface Judged {
  is: "judged";
  /** The first broken promise. */
  failure: string | null;
  calls: number;
  faults: number;
  /** How the calls of a client ended, by their indexes. */
  outcomes: Record<string, string>;
}

/** Messages of a process. `rest`: a client has nothing left to do. */
export type Report = Common | Wish | { is: "rest" } | Judged;

/** Labels of choices whose effect depends on time. */
const TIMED = new Set([
  "has a timeout",
  "does not wait",
  "pinned",
  "aborts",
  "asks in its headers",
  "deadline",
  "idle",
  "what",
  "hostile",
  "queue",
  "stays away",
  "older contract",
  "storm of deaths",
  "source hangs",
  "waits for the caller's end",
  "items fail",
  "is common in the theme",
  "leaves before the head",
]);

/**
 * Whether a choice stays away from a calm world, in which each call has one possible outcome. A caller's source that fails races
 * with the response.
 */
function isTimed(owner: string, label: string): boolean {
  return TIMED.has(label) || (label === "source fails" && !owner.includes(" run "));
}

/** Returns the choices of a world. */
export function choicesOf(seed: number, isCalm: boolean): Choices {
  return Choices.ofSeed(seed, false, isCalm ? { leavesOut: isTimed } : {});
}
