/** Finds workers whose event loop does not turn. */

/** Time for which the event loop of one worker has not turned while it had requests. */
export class Stall {
  /** Whether it has not turned for too long. */
  isLong = false;
  /** Time for which it has not turned while it had requests, in ms, counted by ticks that the bus really made. */
  #ms = 0;

  /**
   * Counts `ms` since the last call. Calls `nudge` once at half of `limit`. Returns `limit` when it is reached, 0 when the loop turns
   * again after that, `null` otherwise.
   */
  look(hasTurned: boolean, ms: number, limit: number, nudge: () => void): number | null {
    const wasLong = this.isLong;
    if (hasTurned) {
      this.#ms = 0;
      this.isLong = false;
      return wasLong ? 0 : null;
    }
    const before = this.#ms;
    this.#ms += ms;
    if (before < limit / 2 && this.#ms >= limit / 2) nudge();
    if (wasLong || this.#ms < limit) return null;
    this.isLong = true;
    return limit;
  }
}
