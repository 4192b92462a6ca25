/** A lease in the hands of this process: one tenure of one subject. */

import { systemClock, type Timer } from "../clock.ts";
import { FleetBusyError, LeaseLostError } from "../errors.ts";
import type { Holder, LeaseHandle, Subject } from "../native/lease.ts";
import type { PortableGuard } from "./portable.ts";
import { checkTtl } from "./subject.ts";
import type { WaitList, Waiting } from "./wait-list.ts";

/** A guard that renews does so at this part of its ttl. */
const RENEWALS = 3;

/**
 * The right to `subject` until `expiresAt`, `release()`, or the end of the process that claimed it.
 *
 * The garbage collector does not release it: a guard that nobody refers to may belong to work that still runs, so its
 * lease stays until its time is over. `using` releases it at the end of the block.
 */
export class Guard implements PortableGuard, Disposable {
  readonly #leases: LeaseHandle;
  readonly #waitList: WaitList;
  readonly #tenure: Holder;
  readonly #ttl: number;
  #expiresAt: number;
  /** Released by this guard, or lost. */
  #over = false;
  #lost: LeaseLostError | null = null;
  #controller: AbortController | null = null;
  #expiry: Timer | null = null;
  #renewal: Timer | null = null;
  /** Told of wake-ups once somebody has `signal`. */
  readonly #waiting: Waiting = { check: () => this.#check() };

  /** @internal */
  constructor(leases: LeaseHandle, waitList: WaitList, tenure: Holder, ttl: number, renew: boolean) {
    this.#leases = leases;
    this.#waitList = waitList;
    this.#tenure = tenure;
    this.#ttl = ttl;
    this.#expiresAt = tenure.expiresAt;
    if (renew) this.#renewLater();
  }

  get subject(): Subject {
    return this.#tenure.subject;
  }

  get owner(): string {
    return this.#tenure.owner;
  }

  /** Fencing token: higher than that of any tenure before, of any subject. Below 2^53. */
  get token(): number {
    return this.#tenure.token;
  }

  /** The tenure, for logs. */
  get claimId(): string {
    return this.#tenure.claimId;
  }

  /** When the tenure began, in ms of `contest.now()`. */
  get claimedAt(): number {
    return this.#tenure.claimedAt;
  }

  /** When it ends unless it is renewed, in ms of `contest.now()`; as this guard last set it. */
  get expiresAt(): number {
    return this.#expiresAt;
  }

  /** The tenure as a holder, for `adopt` and `release` of a contest elsewhere. */
  get holder(): Holder {
    return { ...this.#tenure, expiresAt: this.#expiresAt };
  }

  /**
   * Aborts with `LeaseLostError` when the tenure is lost: its time is over, somebody released it by force, or the fleet
   * was closed. `release()` of this guard does not abort it. Timers run only while it is looked at, and keep no process
   * alive.
   */
  get signal(): AbortSignal {
    if (this.#controller) return this.#controller.signal;
    if (!this.#over && this.#leases.isOpen) this.#waitList.add(this.#waiting);
    this.#controller = new AbortController();
    if (this.#lost) this.#controller.abort(this.#lost);
    else this.#check();
    return this.#controller.signal;
  }

  /**
   * Sets the end to `ttl` ms from now (default: the ttl of the claim), never to an earlier one than it was. `false`: the
   * tenure was lost before. Throws `FleetBusyError`.
   */
  renew(ttl: number = this.#ttl): boolean {
    checkTtl(ttl);
    if (this.#over) return false;
    if (!this.#leases.isOpen || !this.#leases.renew(this.#tenure.entry, this.token, ttl)) {
      this.#lose();
      return false;
    }
    this.#expiresAt = this.#leases.foundExpiry();
    return true;
  }

  /** `true` when the tenure lasted until now and has ended. Throws `FleetBusyError`, and can be repeated then. */
  release(): boolean {
    if (this.#over) return false;
    const ours = this.#holds() && this.#leases.release(this.#tenure.entry, this.token);
    if (ours) this.#end();
    else this.#lose();
    return ours;
  }

  [Symbol.dispose](): void {
    this.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
  }

  /** The timer holds the guard: what renews itself stays until it is released. */
  #renewLater(): void {
    this.#renewal = systemClock.after(this.#ttl / RENEWALS, () => {
      try {
        if (!this.renew()) return;
      } catch (error) {
        if (!(error instanceof FleetBusyError)) return this.#fail(error);
        // the next time may succeed, and the table knows the end
      }
      this.#renewLater();
    });
    this.#renewal.unref();
  }

  /** On a wake-up, or at the end of its time: nobody is there to catch an error. */
  #check(): void {
    if (this.#over) return;
    try {
      this.#checkNow();
    } catch (error) {
      this.#fail(error);
    }
  }

  #checkNow(): void {
    if (!this.#leases.isOpen || !this.#leases.holds(this.#tenure.entry, this.token)) {
      this.#lose();
      return;
    }
    this.#expiresAt = this.#leases.foundExpiry();
    this.#expiry ??= systemClock.after(this.#expiresAt - this.#leases.now(), () => {
      this.#expiry = null;
      this.#check();
    });
    this.#expiry.unref();
  }

  /** By the clock; or by the table, when another guard of the tenure may have renewed it. */
  #holds(): boolean {
    if (!this.#leases.isOpen) return false;
    return this.#leases.now() < this.#expiresAt || this.#leases.holds(this.#tenure.entry, this.token);
  }

  #lose(): void {
    try {
      this.#endBecause(this.#how());
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Whether the tenure lasts is unknown: it counts as lost, and ends in the table when its time is over. */
  #fail(cause: unknown): void {
    this.#endBecause("whether it lasts could not be told", cause);
  }

  #endBecause(how: string, cause?: unknown): void {
    this.#end();
    this.#lost = new LeaseLostError(this.subject, this.token, how, cause);
    this.#controller?.abort(this.#lost);
  }

  #how(): string {
    if (!this.#leases.isOpen) return "the fleet was closed";
    const over = this.#leases.now() - this.#expiresAt;
    return over >= 0 ? `its time was over ${Math.round(over)} ms ago` : "it was released from elsewhere";
  }

  #end(): void {
    this.#over = true;
    this.#waitList.delete(this.#waiting);
    this.#expiry?.close();
    this.#renewal?.close();
    this.#expiry = null;
    this.#renewal = null;
  }
}
