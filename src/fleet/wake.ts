/** Delivers the wake-ups of a fleet (a futex word that all members share) to the event loop of this process. */

import { systemClock, type Timer } from "../clock.ts";
import type { FleetHandle } from "../native/fleet.ts";
import { type Watch, watchFleet } from "../native/watch.ts";

/** Pause before a failed watch is opened again, in ms. */
const RETRY_MS = 100;

/** @internal */
export class Wake {
  readonly #fleet: FleetHandle;
  readonly #listeners = new Set<() => void>();
  #watch: Watch | null = null;
  /** Runs until the next attempt to open the watch, after a failed one. */
  #retry: Timer | null = null;
  #isRingingSoon = false;

  constructor(fleet: FleetHandle) {
    this.#fleet = fleet;
  }

  /**
   * Calls `listener` at every wake-up. The returned function removes the listener. Does not keep the process alive. The
   * watch is open while there is a listener.
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
   * Calls the listeners of this process on the next turn of the event loop. Call it after a publication that woke a
   * sleeper: it is faster than the wake-up through the thread that watches the futex.
   */
  ringSoon(): void {
    if (this.#isRingingSoon || this.#listeners.size === 0) return;
    this.#isRingingSoon = true;
    setImmediate(() => {
      this.#isRingingSoon = false;
      this.#ring();
    });
  }

  /** Closes the watch and removes all listeners. */
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

  /** Tries again to open the watch until it succeeds. Meanwhile each attempt wakes all listeners, so that they poll. */
  #openLater(): void {
    this.#retry = systemClock.after(RETRY_MS, () => {
      this.#retry = null;
      try {
        this.#open();
      } catch {
        this.#openLater(); // out of memory, descriptors or threads
      }
      this.#ring();
    });
    this.#retry.unref();
  }

  readonly #ring = (): void => {
    const now = [...this.#listeners]; // a listener that is added meanwhile waits for the next wake-up
    for (const listener of now) listener();
  };
}
