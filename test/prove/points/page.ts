/** The page that the harness shares with one process: which label is armed there. `points.c` reads it. */

import { closeSync, ftruncateSync, openSync } from "node:fs";
import { FAULTS, type Fault } from "./labels.ts";

const BYTES = 128;
const LABEL_AT = 16;
const WORD = { fault: 0, left: 1, hits: 2 };

export class Page {
  readonly file: string;
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;

  constructor(file: string) {
    this.file = file;
    const fd = openSync(file, "wx+");
    ftruncateSync(fd, BYTES);
    closeSync(fd);
    this.#bytes = Bun.mmap(file, { shared: true });
    this.#words = new Uint32Array(this.#bytes.buffer, this.#bytes.byteOffset, LABEL_AT / 4);
  }

  /** The `nth` passage of `label` from now on meets the fault. */
  arm(label: string, fault: Fault, nth: number): void {
    this.#bytes.fill(0);
    this.#bytes.set(new TextEncoder().encode(label), LABEL_AT);
    this.#words[WORD.left] = nth;
    Atomics.store(this.#words, WORD.fault, FAULTS.indexOf(fault === "hang" ? "stop" : fault) + 1); // last
  }

  /** Whether the fault has happened, or is happening now. */
  get hit(): boolean {
    return Atomics.load(this.#words, WORD.hits) > 0;
  }

  /** Passages until it happens. */
  get left(): number {
    return Atomics.load(this.#words, WORD.left);
  }

  disarm(): void {
    Atomics.store(this.#words, WORD.fault, 0);
  }
}
