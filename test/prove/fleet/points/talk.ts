/** What the harness and its members say to each other. */

import type { Subject } from "./books.ts";

/** What a member is told to do. */
export type Order =
  /** Becomes a member, with a cursor that sleeps for what comes. */
  | { do: "join" }
  | { do: "leave" }
  /** Joins and leaves by a handle of its own. */
  | { do: "visit" }
  | { do: "members" }
  | { do: "publish"; count: number; paced: boolean }
  /** One attempt. */
  | { do: "claim"; subject: Subject }
  /** Until it has it; what is busy is tried again. */
  | { do: "wait"; subject: Subject }
  | { do: "renew" | "release"; subject: Subject }
  /** Ends whoever's tenure it is; tells who has it. */
  | { do: "seize" | "holder"; subject: Subject }
  /** Claims all, one after another, and gives them back. */
  | { do: "sweep" }
  | { do: "reset" }
  /** A fleet in memory: makes it, opens another's, joins and uses it, leaves it, closes it. */
  | { do: "memory"; how: "make" | "join" | "leave" | "close" }
  | { do: "memory"; how: "open"; path: string };

export type Numbered = Order & { id: number };

/** A subject was claimed: its token, and who had it before and did not give it back (0: nobody). */
export interface Tenure {
  readonly subject: Subject;
  readonly token: number;
  readonly before: number;
}

export interface Result {
  /** Of a typed error. */
  readonly code?: string;
  readonly subscription?: number;
  readonly epoch?: number;
  readonly pids?: readonly number[];
  /** Its process; 0: nobody. */
  readonly holder?: number;
  readonly tenures?: readonly Tenure[];
  /** Calls that failed because a lock was busy, and were made again. */
  readonly busy?: number;
  /** Of a fleet in memory: its descriptor; frames published before this member came, and the token that it got. */
  readonly fd?: number;
  readonly head?: number;
  readonly token?: number;
}

export type Report =
  | { is: "loaded" }
  | ({ is: "done"; id: number } & Result)
  /** It could not sleep for events, and has begun again where it was. */
  | { is: "refused"; code: string }
  | { is: "broken"; what: string };
