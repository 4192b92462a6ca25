/** A `claim` that waits until the lease is released, its holder dies, or it expires. */

import { systemClock, type Timer } from "../clock.ts";
import { ClaimTimeoutError, ClosedError } from "../errors.ts";
import type { Holder, LeaseHandle, Subject } from "../native/lease.ts";
import type { DeathWatch } from "./death-watch.ts";
import type { WaitList, Waiting } from "./wait-list.ts";

/** Arguments of the claim. */
export interface Want {
  readonly subject: Subject;
  readonly owner: string;
  readonly ttl: number;
  /** Longest wait, in ms; `Infinity`: no limit. */
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
  /** Token of the present holder. */
  #token = 0;
  /** Index and incarnation of the present holder, whose process is watched. */
  #member = "";
  #unwatch: () => void = () => {};
  /** Runs until the holder's lease expires or the claim times out. It also keeps the process alive. */
  #timer: Timer | null = null;

  constructor(leases: LeaseHandle, waitList: WaitList, deaths: DeathWatch, want: Want) {
    this.#leases = leases;
    this.#waitList = waitList;
    this.#deaths = deaths;
    this.#want = want;
  }

  /** Waits for the lease. Resolves with the tenure of this claim. */
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
    if (!leases.isOpen) throw new ClosedError("The fleet");
    if (leases.claim(subject, owner, ttl)) {
      this.#end();
      this.#outcome.resolve(leases.found(subject, owner));
      return;
    }
    const left = timeout - (performance.now() - this.#began);
    const holder = leases.found(subject);
    if (left <= 0) throw new ClaimTimeoutError(subject, timeout, holder);
    const free = holder.expiresAt - leases.now();
    if (holder.token === this.#token && this.#timer) return; // the timer is already set
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
