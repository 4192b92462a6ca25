/** Claim or yield: who of equal processes may do what, by leases in the memory of their fleet. */

import { shown } from "../check.ts";
import { SlotbusError, ClosedError, InvalidConfigError, LeaseOwnerError } from "../errors.ts";
import type { Fleet } from "../fleet/fleet.ts";
import { type Holder, LeaseHandle, type Subject } from "../native/lease.ts";
import type { Options, Rows } from "../options.ts";
import { checkTimeout } from "../options.ts";
import { DeathWatch } from "./death-watch.ts";
import { Guard } from "./guard.ts";
import {
  type AdoptOptions,
  adoptOptions,
  type ClaimOptions,
  claimOptions,
  type ContestOptions,
  contestOptions,
  type ReleaseOptions,
  releaseOptions,
  type TryClaimOptions,
  tryClaimOptions,
  type WatchOptions,
  watchOptions,
} from "./options.ts";
import type { PortableContest, YieldTo } from "./portable.ts";
import { checkOwner, checkSubject, checkTtl } from "./subject.ts";
import { WaitList } from "./wait-list.ts";
import { Waiter } from "./waiter.ts";
import { LeaseWatch } from "./watch.ts";

/** The subject was free: it is held now. */
export interface Claimed {
  readonly claimed: true;
  readonly guard: Guard;
}

/**
 * Claims on the leases of a fleet. A subject has one holder at most; a holder that dies has none any more at once, one
 * that stops has it until its ttl is over, and a {@link Fence} keeps it from harm when it goes on.
 *
 *     await using contest = await Contest.open({ fleet });
 *     using leader = await contest.claim({ kind: "leader", label: "mailer" }, { ttl: 5_000, renew: true });
 *
 * All methods throw `ClosedError` when the contest or its fleet is closed, and `FleetBusyError` when a member that is stopped holds
 * the lock of the table: then they have blocked the thread for 1 s. In a fleet that is only observed `holder`, `list` and
 * `poll` of a watch work, and the others throw `InvalidConfigError`.
 */
export class Contest implements PortableContest {
  /** Default owner of its claims. */
  readonly owner: string;
  readonly #fleet: Fleet;
  readonly #leases: LeaseHandle;
  readonly #waitList: WaitList;
  readonly #deaths: DeathWatch;
  readonly #waiters = new Set<Waiter>();
  readonly #watches = new Set<LeaseWatch>();
  #closed = false;

  /** Opens a contest for the leases of a fleet. @throws (rejects) {InvalidConfigError}, {@link ClosedError} */
  static async open(options: ContestOptions): Promise<Contest> {
    const base = { owner: `process-${process.pid}` };
    const { fleet, owner, now } = contestOptions.resolve(options, { base });
    return new Contest(fleet, owner, now);
  }

  private constructor(fleet: Fleet, owner: string, now: (() => number) | null) {
    this.owner = owner;
    this.#fleet = fleet;
    this.#leases = new LeaseHandle(fleet.handle, now);
    this.#waitList = new WaitList(fleet, this.#leases);
    this.#deaths = new DeathWatch(this.#leases);
  }

  /** Whether it was closed, or its fleet was. */
  get closed(): boolean {
    return this.#closed || this.#fleet.closed;
  }

  /** The clock of `claimedAt` and `expiresAt`: ms of the system's monotonic clock, or of the option `now`. */
  now(): number {
    return this.#leases.now();
  }

  /**
   * Claims, or says who is in the way: one attempt, that leaves nothing behind when it yields. Throws `InvalidConfigError`
   * for a subject, owner or ttl out of range, `LeaseTableFullError` when all leases of the fleet are held.
   */
  tryClaim(subject: Subject, options: TryClaimOptions): Claimed | YieldTo {
    const { owner, ttl, renew } = this.#checkClaim(tryClaimOptions, subject, options);
    if (!this.#leases.claim(subject, owner, ttl)) return { claimed: false, holder: this.#leases.found(subject) };
    return { claimed: true, guard: this.#guard(this.#leases.found(subject, owner), ttl, renew) };
  }

  /**
   * Claims as soon as nobody is in the way: when the holder releases, dies, or its time is over. Those who wait have no
   * order among processes. Rejects as `tryClaim` throws, with `ClaimTimeoutError`, with
   * `signal.reason`, or with `ClosedError` when the contest is closed meanwhile.
   */
  async claim(subject: Subject, options: ClaimOptions): Promise<Guard> {
    const { owner, ttl, renew } = this.#checkClaim(claimOptions, subject, options);
    const timeout = checkTimeout(options.timeout ?? Infinity);
    const signal = claimOptions.rows.signal.resolve(options.signal, "signal");
    signal?.throwIfAborted();
    if (this.#leases.claim(subject, owner, ttl)) return this.#guard(this.#leases.found(subject, owner), ttl, renew);
    const want = { subject: { kind: subject.kind, label: subject.label }, owner, ttl, timeout, signal };
    const waiter = new Waiter(this.#leases, this.#waitList, this.#deaths, want);
    this.#waiters.add(waiter);
    try {
      return this.#guard(await waiter.wait(), ttl, renew);
    } finally {
      this.#waiters.delete(waiter);
    }
  }

  /** Who holds it; `null` when nobody does. */
  holder(subject: Subject): Holder | null {
    this.#checkOpen();
    checkSubject(subject);
    return this.#leases.find(subject) ? this.#leases.found(subject) : null;
  }

  /** Everything that is held, in no order; each one as it was at some time during the call. */
  list(): Holder[] {
    this.#checkOpen();
    const all: Holder[] = [];
    for (let entry = 0; entry < this.#fleet.geometry.maxLeases; entry++) {
      if (this.#leases.at(entry)) all.push(this.#leases.found());
    }
    return all;
  }

  /**
   * What becomes of the lease of that subject, from now on. Who holds it already comes first, as `claimed`. It tells of the
   * state when you read, not of all that was: of what happens between two items the last is told.
   *
   *     for await (const { type, holder } of contest.watch({ kind: "leader", label: "mailer" })) console.log(type, holder.owner);
   *
   * Throws `InvalidConfigError` for what is not a subject, and `signal.reason`.
   */
  watch(subject: Subject, options: WatchOptions = {}): LeaseWatch {
    checkSubject(subject);
    return this.#watch({ kind: subject.kind, label: subject.label }, options);
  }

  /** The same of all leases of the fleet. */
  watchAll(options: WatchOptions = {}): LeaseWatch {
    return this.#watch(null, options);
  }

  /**
   * A guard for a tenure that was observed, by the owner that claimed it: `null` when the tenure has ended, throws
   * `LeaseOwnerError` for another owner. All guards of one tenure can renew and release it; when one has released, it is
   * lost to the others. It still ends with the process that claimed it.
   */
  adopt(holder: Holder, options: AdoptOptions = {}): Guard | null {
    const { owner, ttl, renew } = adoptOptions.resolve(options, { base: { owner: this.owner } });
    this.#checkMember();
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
    const { owner, force } = releaseOptions.resolve(options, { base: { owner: this.owner } });
    this.#checkMember();
    const found = this.#observe(holder);
    if (!found) return false;
    if (!force && found.owner !== owner) throw new LeaseOwnerError(found, owner);
    return this.#leases.release(found.entry, found.token);
  }

  /** Ends every tenure; tokens go on. Throws `LEASE_RESET` unless this is the only member of the fleet. */
  reset(): void {
    this.#checkMember();
    if (!this.#leases.reset())
      throw new SlotbusError(
        "LEASE_RESET",
        `the fleet has ${this.#fleet.members().length} members; its only one may reset the leases.`,
        { hint: "Close the others first." },
      );
    this.#waitList.check();
  }

  /**
   * Claims no more: those who wait reject with `ClosedError`, and watches end. Guards and their leases stay until they are released, or
   * the fleet is closed. May be called again.
   */
  async close(): Promise<void> {
    this.#closed = true;
    for (const waiter of this.#waiters) waiter.fail(this.#closedError());
    for (const watch of this.#watches) watch.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #guard(tenure: Holder, ttl: number, renew: boolean): Guard {
    return new Guard(this.#leases, this.#waitList, tenure, ttl, renew);
  }

  #watch(subject: Subject | null, options: WatchOptions): LeaseWatch {
    this.#checkOpen();
    if (this.#fleet.closed) throw new ClosedError("the fleet");
    const { signal } = watchOptions.resolve(options);
    const table = { fleet: this.#fleet, leases: this.#leases, waitList: this.#waitList, deaths: this.#deaths };
    const watch = new LeaseWatch(table, subject, signal, () => void this.#watches.delete(watch));
    this.#watches.add(watch);
    return watch;
  }

  #observe(holder: Holder): Holder | null {
    const { entry, token } = holder ?? {};
    if (!Number.isInteger(entry) || entry < 0 || !Number.isSafeInteger(token)) {
      throw new InvalidConfigError(`${shown(holder)} is not a holder that holder(), list() or a watch returned.`);
    }
    return entry < this.#fleet.geometry.maxLeases && this.#leases.holds(entry, token) ? this.#leases.found() : null;
  }

  #checkClaim(
    table: Options<Rows>,
    subject: Subject,
    options: TryClaimOptions,
  ): { owner: string; ttl: number; renew: boolean } {
    const { owner = this.owner, ttl, renew = false } = table.check(options);
    this.#checkMember();
    checkSubject(subject);
    if (owner !== this.owner) checkOwner(owner);
    checkTtl(ttl);
    return { owner, ttl, renew: tryClaimOptions.rows.renew.resolve(renew, "renew") };
  }

  #checkOpen(): void {
    if (this.#closed) throw this.#closedError();
  }

  #checkMember(): void {
    this.#checkOpen();
    this.#leases.checkMember();
  }

  #closedError(): ClosedError {
    return new ClosedError("the contest", { hint: "Open another one with Contest.open." });
  }
}
