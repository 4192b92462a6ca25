/** Whether the event loop of a worker turns. */

export class Stall {
  /** It has not turned for too long. */
  isLong = false;
  /** Since when it has not turned while it had requests: ms of ticks that the bus really made. */
  #ms = 0;

  /**
   * `ms` passed since the last look. Calls `nudge` once at half of `limit`. Returns `limit` when that is reached, 0 when the loop
   * turns again after that, `null` otherwise.
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
