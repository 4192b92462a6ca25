/** Shared by the parts of the proof `together`: what each of them does, and where. */

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Crew } from "../actor.ts";
import { type Course, leaking } from "../memory.ts";
import { audit, type Sums } from "../soak/audit.ts";
import { RequestBooks } from "../soak/request-books.ts";

/** Processes whose memory is judged. */
export const PROCESSES = [
  "client",
  "worker",
  "publisher",
  "subscriber",
  "slow-subscriber",
  "hub",
  "hub-worker",
  "visitors",
  "host",
  "stdio-worker",
] as const;
export type Process = (typeof PROCESSES)[number];

/** Longest wait for a state, on a busy machine, in ms. */
export const LONG_MS = 60_000;
/** Requests for which the books of a part have room. Pages that are not used take no memory. */
const CAPACITY = 20_000_000;

/** What all parts share. */
export interface Site {
  readonly crew: Crew;
  readonly folder: string;
  readonly problem: (text: string) => void;
  /** Judges the memory of a process. */
  readonly courses: { readonly [name in Process]: Course };
  /** Bytes that a process leaks per request. */
  readonly leakOf: (name: Process) => number;
  readonly sums: Pick<Sums, "lost" | "doubled" | "wrong">;
}

/** Two or more processes and what they ask of each other. */
export interface Part {
  /** Requests, or events, so far. */
  readonly done: number;
  start(): Promise<void>;
  resume(): void;
  /** Resolves when nothing is under way, and nothing is missing. */
  still(): Promise<void>;
  /** While all parts are still, adds a point to the course of each process. */
  count(): Promise<void>;
  /** Ends the processes, and judges the books. */
  end(): Promise<void>;
}

/** Creates the folder of a part, with its runtime directory. `env`: environment of each of its processes. */
export function placeOf(site: Site, part: string): { folder: string; env: (name: Process) => Record<string, string> } {
  const folder = join(site.folder, part);
  const runtime = join(folder, "runtime");
  mkdirSync(runtime, { recursive: true, mode: 0o700 });
  return { folder, env: (name) => ({ SLOTBUS_DIR: runtime, ...leaking(site.leakOf(name)) }) };
}

export function booksIn(folder: string): RequestBooks {
  return RequestBooks.create(folder, CAPACITY);
}

/** Ends processes in this order, then judges their books. */
export async function endAll(site: Site, actors: readonly Ending[], books?: RequestBooks): Promise<void> {
  for (const [actor, order] of actors) {
    actor.condemned = true;
    actor.process.send(order);
    await actor.gone(LONG_MS);
  }
  if (!books) return;
  const { lost, doubled, wrong } = audit(books, [{ first: 0, end: books.next, killed: false }], site.problem);
  site.sums.lost += lost;
  site.sums.doubled += doubled;
  site.sums.wrong += wrong;
}

/** A process, and its order to end. */
type Ending = readonly [
  { condemned: boolean; process: Bun.Subprocess; gone: (ms: number) => Promise<void> },
  "end" | { do: "end" },
];
