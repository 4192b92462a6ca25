/** Detects workers that leave requests unclaimed or do not respond, or whose event loop is blocked. */

import type { LinkHandle } from "../../native/client.ts";

/** Measures for how long the event loop of one worker has been blocked while the worker had requests. */
export class Stall {
  /** Whether the event loop has been blocked for longer than the limit. */
  isLong = false;
  /** Whether the worker had requests at the last {@link observe}, and has not responded since the look before that. */
  isSilent = false;
  #hasAnswered = false;
  /** Blocked time in ms, as the sum of the bus's ticks. */
  #ms = 0;
  /** Whether the worker left requests unclaimed, and has neither parked nor claimed or completed one since. */
  #isSuspect = false;
  readonly #link: LinkHandle;

  constructor(link: LinkHandle) {
    this.#link = link;
  }

  get isDoubtful(): boolean {
    if (this.#isSuspect && (this.#link.isParked || this.#link.hasAdvanced())) this.#isSuspect = false;
    return this.#isSuspect || this.isLong;
  }

  /** Called when the worker has responded. */
  answered(): void {
    this.#hasAnswered = true;
    this.isSilent = false;
  }

  /** Looks whether the worker has responded since the last look. `isBusy`: it has requests. Returns whether to look again. */
  observe(isBusy: boolean): boolean {
    this.isSilent = isBusy && !this.#hasAnswered;
    this.#hasAnswered = false;
    return isBusy && !this.isSilent;
  }

  /** Called when the worker leaves requests unclaimed. */
  suspect(): void {
    this.#isSuspect = true;
    this.#link.hasAdvanced(); // counts from now on
  }

  /**
   * Adds `ms`, the time since the last call. Calls `nudge` once at half of `limit`. Returns `limit` when the limit is reached, 0
   * when the event loop runs again after that, and `null` otherwise.
   */
  look(ms: number, limit: number, nudge: () => void): number | null {
    const wasLong = this.isLong;
    if (this.#link.hasTurned()) {
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
