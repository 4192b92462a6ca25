/** Reads a ring eagerly: whenever there is something, until there is nothing; then it sleeps. */

import type { Reader } from "../fleet/reader.ts";

export class Pump {
  readonly #reader: Reader;
  readonly #step: () => "more" | "empty";
  #stopped = false;

  /** `step` reads some; it does not throw. */
  constructor(reader: Reader, step: () => "more" | "empty") {
    this.#reader = reader;
    this.#step = step;
    this.#run();
  }

  stop(): void {
    this.#stopped = true;
  }

  readonly #run = (): void => {
    if (this.#stopped || !this.#reader.isOpen) return;
    const found = this.#step();
    if (this.#stopped || !this.#reader.isOpen) return;
    if (found === "more" || !this.#reader.listen(this.#run)) setImmediate(this.#run);
  };
}
