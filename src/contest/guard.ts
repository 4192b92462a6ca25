/** The guard of a lease: one tenure of one subject, held by this process. */

import { systemClock, type Timer } from "../clock.ts";
import { FleetBusyError, LeaseLostError } from "../errors.ts";
import type { Holder, LeaseHandle, Subject } from "../native/lease.ts";
import type { PortableGuard } from "./portable.ts";
import { checkTtl } from "./subject.ts";
import type { WaitList, Waiting } from "./wait-list.ts";

/** Number of renewals per ttl. */
const RENEWALS = 3;

/**
 * The right to `subject` until `expiresAt`, `release()`, or the end of the process that claimed it.
 *
 * `using` releases the guard at the end of the block. The garbage collector does not release it, because the work that
 * it protects may still run: a guard without references keeps its lease until it expires.
 */
export class Guard implements PortableGuard, Disposable {
  readonly #leases: LeaseHandle;
  readonly #waitList: WaitList;
  readonly #tenure: Holder;
  readonly #ttl: number;
  #expiresAt: number;
  /** Whether this guard was released or has lost its lease. */
  #over = false;
  #lost: LeaseLostError | null = null;
  #controller: AbortController | null = null;
  #expiry: Timer | null = null;
  #renewal: Timer | null = null;
  /** Checks the lease on wake-ups. Active once `signal` was read. */
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

  /** Fencing token: higher than all earlier tokens of the fleet, of any subject. Below 2^53. */
  get token(): number {
    return this.#tenure.token;
  }

  /** Id of the tenure, for logs. */
  get claimId(): string {
    return this.#tenure.claimId;
  }

  /** Time of the claim, in ms of `contest.now()`. */
  get claimedAt(): number {
    return this.#tenure.claimedAt;
  }

  /** Time at which the lease expires, in ms of `contest.now()`, as this guard knows it. */
  get expiresAt(): number {
    return this.#expiresAt;
  }

  /** The tenure as plain data, for `adopt` and `release` of another contest. */
  get holder(): Holder {
    return { ...this.#tenure, expiresAt: this.#expiresAt };
  }

  /**
   * Aborts with `LeaseLostError` when the lease is lost: it expired, another guard or `contest.release()` released it,
   * or the fleet was closed. `release()` of this guard does not abort it. Watching starts when you first read this
   * property, and does not keep the process alive.
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
   * Extends the lease to `ttl` ms from now (default: the ttl of the claim). Never shortens it. Returns `false` if the
   * lease was lost before. Throws `FleetBusyError`.
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

  /** Releases the lease. Returns `false` if it was lost or released before. Throws `FleetBusyError`; then try again. */
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

  /** Starts the timer of the next renewal. The timer refers to the guard, so the garbage collector keeps the guard. */
  #renewLater(): void {
    this.#renewal = systemClock.after(this.#ttl / RENEWALS, () => {
      try {
        if (!this.renew()) return;
      } catch (error) {
        if (!(error instanceof FleetBusyError)) return this.#fail(error);
        // the next attempt may succeed before the lease expires
      }
      this.#renewLater();
    });
    this.#renewal.unref();
  }

  /** Runs on a wake-up or at expiry. There is no caller to catch an error, so errors abort the signal. */
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

  /** Asks the clock first, then the lease table: another guard of this tenure may have renewed it. */
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

  /** Ends the guard as lost: its lease cannot be confirmed. The lease itself ends when it expires. */
  #fail(cause: unknown): void {
    this.#endBecause("it cannot be confirmed in the lease table", cause);
  }

  #endBecause(how: string, cause?: unknown): void {
    this.#end();
    this.#lost = new LeaseLostError(this.subject, this.token, how, cause);
    this.#controller?.abort(this.#lost);
  }

  #how(): string {
    if (!this.#leases.isOpen) return "the fleet was closed";
    const over = this.#leases.now() - this.#expiresAt;
    return over >= 0 ? `it expired ${Math.round(over)} ms ago` : "another guard or process released it";
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
