/** Reads a ring in the background, until it is empty; then it sleeps until the next event. */

import type { EventReader } from "../fleet/event-ring.ts";

export class Pump {
  readonly #reader: EventReader;
  readonly #step: () => "more" | "empty";
  readonly #onError: (error: unknown) => void;
  #stopped = false;

  /** `step` reads some batches. If `step` or the sleep throws, the pump stops and calls `onError`. */
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
