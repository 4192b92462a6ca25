/** Those of one contest who wait for a lease to end: each wake-up of the fleet tells them, and they look for themselves. */

import { systemClock, type Timer } from "../clock.ts";
import type { Leases } from "./leases.ts";

export interface Sleeper {
  /** Something may have changed. Whoever ends a lease after this look wakes the fleet again. */
  look(): void;
}

/** How long wake-ups are listened for after the last sleeper: the next one may come soon, and to open them anew starts a thread. */
const LINGER_MS = 100;

export class Sleepers {
  readonly #leases: Leases;
  readonly #all = new Set<Sleeper>();
  #deafen: (() => void) | null = null;
  /** The fleet refers to this as long as somebody sleeps, or did just now. */
  #forget: (() => void) | null = null;
  #linger: Timer | null = null;

  constructor(leases: Leases) {
    this.#leases = leases;
  }

  /** From now on `sleeper` is told. It has to look once by itself after this. */
  add(sleeper: Sleeper): void {
    this.#linger?.close();
    this.#linger = null;
    this.#deafen ??= this.#leases.fleet.wake.listen(this.#onWake);
    this.#forget ??= this.#leases.fleet.onLeave(() => this.#leave());
    this.#all.add(sleeper);
    this.#leases.park();
  }

  delete(sleeper: Sleeper): void {
    if (!this.#all.delete(sleeper) || this.#all.size > 0) return;
    this.#linger = systemClock.after(LINGER_MS, () => this.#close());
    this.#linger.unref();
  }

  /** The fleet is being left: all look, and find it closed. */
  #leave(): void {
    this.#close();
    this.look();
  }

  look(): void {
    for (const sleeper of this.#all) sleeper.look();
  }

  /** Parks before the look: a lease that ends in between wakes the fleet once more. */
  readonly #onWake = (): void => {
    if (this.#all.size === 0 || !this.#leases.isOpen) return;
    this.#leases.park();
    this.look();
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
