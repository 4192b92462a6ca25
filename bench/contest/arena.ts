/** Memory shared by the contenders and the bench: who holds the claim, how often each held it, whether to go on. */

import { writeFileSync } from "node:fs";

/** Number of processes that contend. */
export const CONTENDERS = 8;

const RUNNING = 0;
const INSIDE = 1; // index of the contender that holds the claim, from 1; 0: none
const ENTERED = 2; // counted without atomic operations: two holders at once lose a count
const VIOLATIONS = 3;
const OWN = 16; // from here on, 16 words (a cache line) for each contender
const OWN_WORDS = 16;
const CLAIMS = 0;
const RESTING = 1;

export class Arena {
  readonly #words: Int32Array;

  private constructor(path: string) {
    const memory = Bun.mmap(path, { shared: true });
    this.#words = new Int32Array(memory.buffer, memory.byteOffset, memory.length / 4);
  }

  static create(path: string): Arena {
    writeFileSync(path, new Uint8Array((OWN + CONTENDERS * OWN_WORDS) * 4));
    return new Arena(path);
  }

  static open(path: string): Arena {
    return new Arena(path);
  }

  #own(contender: number, what: number): number {
    return OWN + contender * OWN_WORDS + what;
  }

  // ---- a contender's side ----

  get isRunning(): boolean {
    return Atomics.load(this.#words, RUNNING) === 1;
  }

  rest(contender: number, isResting: boolean): void {
    Atomics.store(this.#words, this.#own(contender, RESTING), isResting ? 1 : 0);
  }

  /** Called by a contender while it holds the claim. Counts a violation if another contender is inside. */
  visit(contender: number): void {
    const words = this.#words;
    if (Atomics.compareExchange(words, INSIDE, 0, contender + 1) !== 0) Atomics.add(words, VIOLATIONS, 1);
    words[ENTERED]!++;
    Atomics.add(words, this.#own(contender, CLAIMS), 1);
    if (Atomics.compareExchange(words, INSIDE, contender + 1, 0) !== contender + 1) Atomics.add(words, VIOLATIONS, 1);
  }

  // ---- the bench's side ----

  start(): void {
    Atomics.store(this.#words, RUNNING, 1);
  }

  /** Resolves when all contenders have stopped. */
  async stop(): Promise<void> {
    Atomics.store(this.#words, RUNNING, 0);
    const isResting = (_: unknown, i: number): boolean => Atomics.load(this.#words, this.#own(i, RESTING)) === 1;
    while (!Array.from({ length: CONTENDERS }, isResting).every(Boolean)) await Bun.sleep(1);
  }

  /** Number of claims of each contender. */
  claims(): number[] {
    return Array.from({ length: CONTENDERS }, (_, i) => Atomics.load(this.#words, this.#own(i, CLAIMS)));
  }

  /** How often two contenders held the claim at once. Valid while the arena is stopped. */
  violations(): number {
    const lost = this.claims().reduce((sum, count) => sum + count, 0) - this.#words[ENTERED]!;
    return this.#words[VIOLATIONS]! + Math.abs(lost);
  }
}
