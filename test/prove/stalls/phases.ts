/** The phase of each worker, in a file that can be read while the worker is stopped; and the gate at which it waits. */

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

  /** Lets a worker's handlers of mode `gate` respond. */
  openGate(worker: number): void {
    this.#bytes[worker * BYTES + 1] = 1;
  }

  isGateOpen(worker: number): boolean {
    return this.#bytes[worker * BYTES + 1] === 1;
  }

  /** Counts a response that was sent after the gate had opened. */
  addAnswer(worker: number, isLate: boolean): void {
    this.#bytes[worker * BYTES + (isLate ? 2 : 3)]!++;
  }

  /** Responses after the gate: responses that the bus called late, and others. */
  answers(worker: number): { late: number; other: number } {
    return { late: this.#bytes[worker * BYTES + 2]!, other: this.#bytes[worker * BYTES + 3]! };
  }
}
