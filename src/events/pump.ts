/** Reads a ring eagerly: whenever there is something, until there is nothing; then it sleeps. */

import type { EventReader } from "../fleet/event-ring.ts";

export class Pump {
  readonly #reader: EventReader;
  readonly #step: () => "more" | "empty";
  readonly #onError: (error: unknown) => void;
  #stopped = false;

  /** `step` reads some. `onError` hears why it, or the sleep, failed; then nothing is read any more. */
  constructor(reader: EventReader, step: () => "more" | "empty", onError: (error: unknown) => void) {
    this.#reader = reader;
    this.#step = step;
    this.#onError = onError;
    this.#run();
  }

  stop(): void {
    this.#stopped = true;
  }

  readonly #run = (): void => {
    if (this.#stopped || this.#reader.closed) return;
    try {
      const found = this.#step();
      if (this.#stopped || this.#reader.closed) return;
      if (found === "more" || !this.#reader.listen(this.#run)) setImmediate(this.#run);
    } catch (error) {
      this.#stopped = true;
      this.#onError(error);
    }
  };
}
