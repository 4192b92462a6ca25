/** The claims, guards and watches of one contest that wait for changes. Each wake-up of the fleet checks all. */

import { systemClock, type Timer } from "../clock.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { LeaseHandle } from "../native/lease.ts";

export interface Waiting {
  /** Checks the lease: it may have changed. A lease that ends after this check wakes the fleet again. */
  check(): void;
}

/** Time to keep listening for wake-ups after the list is empty, in ms: opening the watch again starts a thread. */
const LINGER_MS = 100;

export class WaitList {
  readonly #fleet: Fleet;
  readonly #leases: LeaseHandle;
  readonly #all = new Set<Waiting>();
  #unlisten: (() => void) | null = null;
  /** Removes the listener for the close of the fleet. */
  #forget: (() => void) | null = null;
  #linger: Timer | null = null;

  constructor(fleet: Fleet, leases: LeaseHandle) {
    this.#fleet = fleet;
    this.#leases = leases;
  }

  /** Checks `waiting` on each wake-up from now on. The caller must check once after this call. */
  add(waiting: Waiting): void {
    this.#linger?.close();
    this.#linger = null;
    this.#unlisten ??= this.#fleet.wake.listen(this.#onWake);
    this.#forget ??= this.#fleet.onClose(() => {
      this.#close();
      this.check(); // each one finds that the fleet is closed
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

  /** Parks before the check, so that a lease that ends in between wakes the fleet again. */
  readonly #onWake = (): void => {
    if (this.#all.size === 0 || !this.#leases.isOpen) return;
    this.#leases.park();
    this.check();
  };

  #close(): void {
    this.#linger?.close();
    this.#linger = null;
    this.#unlisten?.();
    this.#unlisten = null;
    this.#forget?.();
    this.#forget = null;
  }
}
