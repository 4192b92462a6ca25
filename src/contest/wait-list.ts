/** Claims and guards of one contest that wait for a lease to end: each wake-up of the fleet makes them check their own. */

import { systemClock, type Timer } from "../clock.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { LeaseHandle } from "../native/lease.ts";

export interface Waiting {
  /** Something may have changed. A lease that ends after this check wakes the fleet again. */
  check(): void;
}

/** How long wake-ups are listened for after the last one left: the next may come soon, and listening anew starts a thread. */
const LINGER_MS = 100;

export class WaitList {
  readonly #fleet: Fleet;
  readonly #leases: LeaseHandle;
  readonly #all = new Set<Waiting>();
  #deafen: (() => void) | null = null;
  /** The fleet refers to this as long as somebody waits, or did just now. */
  #forget: (() => void) | null = null;
  #linger: Timer | null = null;

  constructor(fleet: Fleet, leases: LeaseHandle) {
    this.#fleet = fleet;
    this.#leases = leases;
  }

  /** From now on `waiting` is told. It has to check once by itself after this. */
  add(waiting: Waiting): void {
    this.#linger?.close();
    this.#linger = null;
    this.#deafen ??= this.#fleet.wake.listen(this.#onWake);
    this.#forget ??= this.#fleet.onClose(() => {
      this.#close();
      this.check(); // all find the fleet closed
    });
    this.#all.add(waiting);
    this.#leases.park();
  }

  delete(waiting: Waiting): void {
    if (!this.#all.delete(waiting) || this.#all.size > 0) return;
    this.#linger = systemClock.after(LINGER_MS, () => this.#close());
    this.#linger.unref();
  }

  check(): void {
    for (const waiting of this.#all) waiting.check();
  }

  /** Parks before the check: a lease that ends in between wakes the fleet once more. */
  readonly #onWake = (): void => {
    if (this.#all.size === 0 || !this.#leases.isOpen) return;
    this.#leases.park();
    this.check();
  };

  #close(): void {
    this.#linger?.close();
    this.#linger = null;
    this.#deafen?.();
    this.#deafen = null;
    this.#forget?.();
    this.#forget = null;
  }
}
