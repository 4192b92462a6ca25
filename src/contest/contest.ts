/** Claim or yield: who of equal processes may do what, by leases in the memory of their fleet. */

import { checkOptions, checkSignal, checkTimeout, shown } from "../check.ts";
import { InvalidConfigError, LeaseOwnerError, LeaseResetError } from "../errors.ts";
import { Fleet } from "../fleet/fleet.ts";
import { type Holder, LeaseHandle, type Subject } from "../native/lease.ts";
import { DeathWatch } from "./death-watch.ts";
import { Guard } from "./guard.ts";
import { checkOwner, checkSubject, checkTtl } from "./subject.ts";
import { WaitList } from "./wait-list.ts";
import { Waiter } from "./waiter.ts";

/** Who claims. */
export interface ContestOptions {
  /** Name of this process's claims, unless a claim has its own: 1 to 64 bytes. Default `"process-<pid>"`. */
  owner?: string | undefined;
  /**
   * Milliseconds of a clock that never goes back, 0 or more; the same clock in every process. For tests. Default: the
   * system's monotonic clock.
   */
  now?: (() => number) | undefined;
}

/** How a subject is held once it is claimed. */
export interface TryClaimOptions {
  /** 1 to 64 bytes; for people, and for `adopt` and `release` of an observed holder. Default: the contest's. */
  owner?: string | undefined;
  /** How long the lease lasts in ms: above 0, at most 49 days. */
  ttl: number;
  /**
   * Renews the lease each third of its ttl, until it is released, lost, or the process ends. The contest refers to the
   * guard as long. Default `false`.
   */
  renew?: boolean | undefined;
}

/** How a claim that waits is held, and for how long it waits. */
export interface ClaimOptions extends TryClaimOptions {
  /** Longest wait in ms. Default `Infinity`; 0 means the same. */
  timeout?: number | undefined;
  /** Ends the wait; the claim rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
}

/** Who adopts a tenure, and how it goes on. */
export interface AdoptOptions {
  /** Default: the contest's. */
  owner?: string | undefined;
  /** The default of the guard's `renew`, in ms. Default: what the lease was claimed or last renewed for, at most. */
  ttl?: number | undefined;
  renew?: boolean | undefined;
}

/** Whose tenure may be ended. */
export interface ReleaseOptions {
  /** Default: the contest's. */
  owner?: string | undefined;
  /** Releases also what another owner holds. Default `false`. */
  force?: boolean | undefined;
}

/** The subject was free: it is held now. */
export interface Claimed {
  readonly claimed: true;
  readonly guard: Guard;
}

/** The subject is held by another. */
export interface YieldTo {
  readonly claimed: false;
  /** Who holds it. */
  readonly holder: Holder;
}

/**
 * Claims on the leases of a fleet. A subject has one holder at most; a holder that dies has none any more at once, one
 * that stops has it until its ttl is over, and a {@link Fence} keeps it from harm when it goes on.
 *
 *     const contest = new Contest(fleet);
 *     using leader = await contest.claim({ kind: "leader", label: "mailer" }, { ttl: 5_000, renew: true });
 *
 * All methods throw `FleetClosedError` when the fleet was left, and `FleetBusyError` when a member that is stopped holds
 * the lock of the table: then they have blocked the thread for 1 s. In a fleet that is only observed `holder` and `list`
 * work, and the others throw `InvalidConfigError`.
 */
export class Contest {
  /** Default owner of its claims. */
  readonly owner: string;
  readonly #fleet: Fleet;
  readonly #leases: LeaseHandle;
  readonly #waitList: WaitList;
  readonly #deaths: DeathWatch;

  constructor(fleet: Fleet, options: ContestOptions = {}) {
    const { owner = `process-${process.pid}`, now } = checkOptions("a contest", options);
    if (!(fleet instanceof Fleet)) throw new InvalidConfigError("a contest needs a fleet, of Fleet.join.");
    checkOwner(owner);
    if (now !== undefined && typeof now !== "function") {
      throw new InvalidConfigError(`now is ${shown(now)}; it must be a function that returns milliseconds.`);
    }
    this.owner = owner;
    this.#fleet = fleet;
    this.#leases = new LeaseHandle(fleet.handle, now ?? null);
    this.#waitList = new WaitList(fleet, this.#leases);
    this.#deaths = new DeathWatch(this.#leases);
  }

  /** The clock of `claimedAt` and `expiresAt`: ms of the system's monotonic clock, or of the option `now`. */
  now(): number {
    return this.#leases.now();
  }

  /**
   * Claims, or says who is in the way: one attempt, that leaves nothing behind when it yields. Throws `InvalidConfigError`
   * for a subject, owner or ttl out of range, `LeaseTableFullError` when all leases of the fleet are held.
   */
  tryClaim(subject: Subject, options: TryClaimOptions): Claimed | YieldTo;
  tryClaim(subject: Subject, owner: string, ttl: number): Claimed | YieldTo;
  tryClaim(subject: Subject, how: TryClaimOptions | string, positional?: number): Claimed | YieldTo {
    const options = typeof how === "string" ? { owner: how, ttl: positional! } : how;
    const { owner, ttl, renew } = this.#checkClaim(subject, options);
    if (!this.#leases.claim(subject, owner, ttl)) return { claimed: false, holder: this.#leases.found(subject) };
    return { claimed: true, guard: this.#guard(this.#leases.found(subject, owner), ttl, renew) };
  }

  /**
   * Claims as soon as nobody is in the way: when the holder releases, dies, or its time is over. Those who wait have no
   * order among processes. Rejects as `tryClaim` throws, with `ClaimTimeoutError`, or with `signal.reason`.
   */
  async claim(subject: Subject, options: ClaimOptions): Promise<Guard> {
    const { owner, ttl, renew } = this.#checkClaim(subject, options);
    const { timeout = Infinity, signal } = options;
    const limit = checkTimeout("timeout", timeout) || Infinity;
    checkSignal(signal);
    signal?.throwIfAborted();
    if (this.#leases.claim(subject, owner, ttl)) return this.#guard(this.#leases.found(subject, owner), ttl, renew);
    const want = { subject: { kind: subject.kind, label: subject.label }, owner, ttl, timeout: limit, signal };
    const tenure = await new Waiter(this.#leases, this.#waitList, this.#deaths, want).wait();
    return this.#guard(tenure, ttl, renew);
  }

  /** Who holds it; `null` when nobody does. */
  holder(subject: Subject): Holder | null {
    checkSubject(subject);
    return this.#leases.find(subject) ? this.#leases.found(subject) : null;
  }

  /** Everything that is held, in no order; each one as it was at some time during the call. */
  list(): Holder[] {
    const all: Holder[] = [];
    for (let entry = 0; entry < this.#fleet.geometry.leases; entry++) {
      if (this.#leases.at(entry)) all.push(this.#leases.found());
    }
    return all;
  }

  /**
   * A guard for a tenure that was observed, by the owner that claimed it: `null` when the tenure has ended, throws
   * `LeaseOwnerError` for another owner. All guards of one tenure can renew and release it; when one has released, it is
   * lost to the others. It still ends with the process that claimed it.
   */
  adopt(holder: Holder, options: AdoptOptions = {}): Guard | null {
    const { owner = this.owner, ttl, renew = false } = checkOptions("an adoption", options);
    this.#leases.checkMember();
    checkOwner(owner);
    if (ttl !== undefined) checkTtl(ttl);
    const found = this.#observe(holder);
    if (!found) return null;
    if (found.owner !== owner) throw new LeaseOwnerError(found, owner);
    return this.#guard(found, ttl ?? found.expiresAt - found.claimedAt, renew);
  }

  /**
   * Ends a tenure that was observed: `true` when it was still there. Throws `LeaseOwnerError` for another owner's, unless
   * `force` is set.
   */
  release(holder: Holder, options: ReleaseOptions = {}): boolean {
    const { owner = this.owner, force = false } = checkOptions("a release", options);
    this.#leases.checkMember();
    checkOwner(owner);
    const found = this.#observe(holder);
    if (!found) return false;
    if (!force && found.owner !== owner) throw new LeaseOwnerError(found, owner);
    return this.#leases.release(found.entry, found.token);
  }

  /** Ends every tenure; tokens go on. Throws `LeaseResetError` unless this is the only member of the fleet. */
  reset(): void {
    this.#leases.checkMember();
    if (!this.#leases.reset()) throw new LeaseResetError(this.#fleet.members().length);
    this.#waitList.check();
  }

  #guard(tenure: Holder, ttl: number, renew: boolean): Guard {
    return new Guard(this.#leases, this.#waitList, tenure, ttl, renew);
  }

  #observe(holder: Holder): Holder | null {
    const { entry, token } = holder ?? {};
    if (!Number.isInteger(entry) || entry < 0 || !Number.isSafeInteger(token)) {
      throw new InvalidConfigError(`${shown(holder)} is no holder that a contest found.`);
    }
    return entry < this.#fleet.geometry.leases && this.#leases.holds(entry, token) ? this.#leases.found() : null;
  }

  #checkClaim(subject: Subject, options: TryClaimOptions): { owner: string; ttl: number; renew: boolean } {
    const { owner = this.owner, ttl, renew = false } = checkOptions("a claim", options);
    this.#leases.checkMember();
    checkSubject(subject);
    if (owner !== this.owner) checkOwner(owner);
    checkTtl(ttl);
    return { owner, ttl, renew };
  }
}
