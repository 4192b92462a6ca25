/** One `claim` that waits: for the release of the lease, the death of its holder, or the end of its time. */

import { systemClock, type Timer } from "../clock.ts";
import { ClaimTimeoutError, ClosedError } from "../errors.ts";
import type { Holder, LeaseHandle, Subject } from "../native/lease.ts";
import type { DeathWatch } from "./death-watch.ts";
import type { WaitList, Waiting } from "./wait-list.ts";

/** What a waiter wants. */
export interface Want {
  readonly subject: Subject;
  readonly owner: string;
  readonly ttl: number;
  /** In ms; `Infinity`: no limit. */
  readonly timeout: number;
  readonly signal: AbortSignal | null;
}

export class Waiter implements Waiting {
  readonly #leases: LeaseHandle;
  readonly #waitList: WaitList;
  readonly #deaths: DeathWatch;
  readonly #want: Want;
  readonly #began = performance.now();
  readonly #outcome = Promise.withResolvers<Holder>();
  #over = false;
  /** The tenure that is in the way. */
  #token = 0;
  /** The member whose death is watched. */
  #member = "";
  #unwatch: () => void = () => {};
  /** Until the end of that tenure, or of the timeout; it also keeps the process alive. */
  #timer: Timer | null = null;

  constructor(leases: LeaseHandle, waitList: WaitList, deaths: DeathWatch, want: Want) {
    this.#leases = leases;
    this.#waitList = waitList;
    this.#deaths = deaths;
    this.#want = want;
  }

  /** Resolves with the caller's tenure. */
  wait(): Promise<Holder> {
    this.#want.signal?.addEventListener("abort", this.#onAbort);
    try {
      this.#waitList.add(this);
      this.check();
    } catch (error) {
      this.fail(error);
    }
    return this.#outcome.promise;
  }

  check(): void {
    if (this.#over) return;
    try {
      this.#check();
    } catch (error) {
      this.fail(error);
    }
  }

  #check(): void {
    const { subject, owner, ttl, timeout } = this.#want;
    const leases = this.#leases;
    if (!leases.isOpen) throw new ClosedError("the fleet");
    if (leases.claim(subject, owner, ttl)) {
      this.#end();
      this.#outcome.resolve(leases.found(subject, owner));
      return;
    }
    const left = timeout - (performance.now() - this.#began);
    const holder = leases.found(subject);
    if (left <= 0) throw new ClaimTimeoutError(subject, timeout, holder);
    const free = holder.expiresAt - leases.now();
    if (holder.token === this.#token && this.#timer) return; // the timer checks when this tenure was to end
    this.#token = holder.token;
    this.#timer?.close();
    this.#timer = systemClock.after(Math.min(free, left), this.#onTime);
    const member = `${holder.member}.${holder.incarnation}`;
    if (member === this.#member) return;
    this.#member = member;
    this.#unwatch();
    this.#unwatch = this.#deaths.add(holder, this.#onDeath);
  }

  readonly #onTime = (): void => {
    this.#timer = null;
    this.check();
  };

  readonly #onDeath = (): void => this.check();

  readonly #onAbort = (): void => this.fail(this.#want.signal!.reason);

  fail(error: unknown): void {
    if (this.#over) return;
    this.#end();
    this.#outcome.reject(error);
  }

  #end(): void {
    this.#over = true;
    this.#timer?.close();
    this.#timer = null;
    this.#unwatch();
    this.#waitList.delete(this);
    this.#want.signal?.removeEventListener("abort", this.#onAbort);
  }
}
