/** Wake-ups of a fleet: one futex word that all members share, as an event of this process's event loop. */

import { systemClock, type Timer } from "../clock.ts";
import type { FleetHandle } from "../native/fleet.ts";
import { type Watch, watchFleet } from "../native/watch.ts";

/** Pause before a watch that failed is begun anew, in ms. */
const RETRY_MS = 100;

/** @internal */
export class Wake {
  readonly #fleet: FleetHandle;
  readonly #listeners = new Set<() => void>();
  #watch: Watch | null = null;
  /** Until the next attempt to watch, when the last one has failed. */
  #retry: Timer | null = null;
  #isRingingSoon = false;

  constructor(fleet: FleetHandle) {
    this.#fleet = fleet;
  }

  /**
   * Calls `listener` at every wake-up from now on, until the result is called. Does not keep the process alive. The first
   * listener begins the watch, the last ends it.
   */
  listen(listener: () => void): () => void {
    if (!this.#watch && !this.#retry) this.#open();
    const own = (): void => listener();
    this.#listeners.add(own);
    return () => {
      if (this.#listeners.delete(own) && this.#listeners.size === 0) this.close();
    };
  }

  /**
   * Somebody slept when this process published: its own listeners hear of it on the next turn of the event loop, and not
   * only when the thread that watches had its turn.
   */
  ringSoon(): void {
    if (this.#isRingingSoon || this.#listeners.size === 0) return;
    this.#isRingingSoon = true;
    setImmediate(() => {
      this.#isRingingSoon = false;
      this.#ring();
    });
  }

  /** Ends the watch; listeners hear nothing more. */
  close(): void {
    this.#listeners.clear();
    this.#retry?.close();
    this.#retry = null;
    this.#watch?.stop();
    this.#watch = null;
  }

  #open(): void {
    this.#watch = watchFleet(this.#fleet, this.#ring, () => {
      this.#watch = null;
      this.#openLater();
    });
  }

  /** Until the fleet is watched again, all look from time to time. */
  #openLater(): void {
    this.#retry = systemClock.after(RETRY_MS, () => {
      this.#retry = null;
      try {
        this.#open();
      } catch {
        this.#openLater(); // there was no memory, descriptor or thread for it
      }
      this.#ring();
    });
    this.#retry.unref();
  }

  readonly #ring = (): void => {
    const now = [...this.#listeners]; // one that listens anew waits for the next
    for (const listener of now) listener();
  };
}
