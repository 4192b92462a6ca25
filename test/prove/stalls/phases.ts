/** What a worker is doing, written by itself into a file that can be read when it is stopped; and the gate it waits at. */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";

export const PHASES = ["closed", "attaching", "serving", "closing", "sync handler", "sync wait"] as const;
export type Phase = (typeof PHASES)[number];

const WORKERS = 256;
const BYTES = 4;

export class Phases {
  readonly #bytes: Uint8Array;

  static create(directory: string): Phases {
    const file = openSync(join(directory, "phases"), "wx");
    ftruncateSync(file, WORKERS * BYTES);
    closeSync(file);
    return new Phases(directory);
  }

  constructor(directory: string) {
    this.#bytes = Bun.mmap(join(directory, "phases"), { shared: true });
  }

  get(worker: number): Phase {
    return PHASES[this.#bytes[worker * BYTES]!]!;
  }

  set(worker: number, phase: Phase): void {
    this.#bytes[worker * BYTES] = PHASES.indexOf(phase);
  }

  /** Lets a worker's handlers of mode `gate` answer. */
  openGate(worker: number): void {
    this.#bytes[worker * BYTES + 1] = 1;
  }

  isGateOpen(worker: number): boolean {
    return this.#bytes[worker * BYTES + 1] === 1;
  }

  /** Counts what became of an answer that was given after the gate had opened. */
  addAnswer(worker: number, isLate: boolean): void {
    this.#bytes[worker * BYTES + (isLate ? 2 : 3)]!++;
  }

  /** Answers after the gate: that the bus said were too late, and others. */
  answers(worker: number): { late: number; other: number } {
    return { late: this.#bytes[worker * BYTES + 2]!, other: this.#bytes[worker * BYTES + 3]! };
  }
}
