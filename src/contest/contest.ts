/** Claims of the leases of a fleet. A lease gives one process at a time the right to a subject. */

import { shown } from "../check.ts";
import { SlotbusError, ClosedError, InvalidConfigError, LeaseOwnerError } from "../errors.ts";
import type { Fleet } from "../fleet/fleet.ts";
import { overNats } from "../fleet/nats.ts";
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
  type PortableContestOptions,
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

/** Result of a successful `tryClaim`: this process holds the lease. */
export interface Claimed {
  readonly claimed: true;
  readonly guard: Guard;
}

/**
 * Claims leases of a fleet. A subject has at most one holder; its tenure lasts from the claim until the lease is
 * released, expires, or is lost with the process that claimed it. The lease of a process that dies is free at once. The
 * lease of a process that is stopped is free when its ttl is over; a {@link Fence} then refuses what that process still
 * writes.
 *
 *     await using contest = await Contest.open({ fleet });
 *     using leader = await contest.claim({ kind: "leader", label: "mailer" }, { ttl: 5_000, renew: true });
 *
 * All methods throw `ClosedError` if the contest or its fleet is closed. They throw `FleetBusyError`, after they
 * blocked the thread for 1 s, if a stopped member holds the lock of the lease table. With an observed fleet
 * (`Fleet.observe`), only `holder`, `list` and `poll` of a watch work; the other methods throw `InvalidConfigError`.
 */
export class Contest implements PortableContest {
  /** Owner of claims that do not name another one. */
  readonly owner: string;
  readonly #fleet: Fleet;
  readonly #leases: LeaseHandle;
  readonly #waitList: WaitList;
  readonly #deaths: DeathWatch;
  readonly #waiters = new Set<Waiter>();
  readonly #watches = new Set<LeaseWatch>();
  #closed = false;

  /** Opens a contest on the leases of a fleet. @throws (rejects) {InvalidConfigError}, {@link ClosedError} */
  static open(options: ContestOptions): Promise<Contest>;
  /** Opens a contest on the leases of a fleet of any engine. @throws (rejects) as above; `CLAIM_BUCKET`; `DISCONNECTED` */
  static open(options: PortableContestOptions): Promise<PortableContest>;
  static async open(options: PortableContestOptions): Promise<Contest | PortableContest> {
    const base = { owner: `process-${process.pid}` };
    const { fleet, owner, now } = contestOptions.resolve(options as ContestOptions, { base });
    const far = overNats(fleet);
    if (far) {
      const { defaultOwner, NatsContest } = await import("./nats/contest.ts");
      return NatsContest.open(far, options.owner === undefined ? defaultOwner() : owner, now);
    }
    return new Contest(fleet, owner, now);
  }

  private constructor(fleet: Fleet, owner: string, now: (() => number) | null) {
    this.owner = owner;
    this.#fleet = fleet;
    this.#leases = new LeaseHandle(fleet.handle, now);
    this.#waitList = new WaitList(fleet, this.#leases);
    this.#deaths = new DeathWatch(this.#leases);
  }

  /** Whether the contest or its fleet is closed. */
  get closed(): boolean {
    return this.#closed || this.#fleet.closed;
  }

  /** Returns the time by the clock of `claimedAt` and `expiresAt`, in ms: the monotonic clock, or the option `now`. */
  now(): number {
    return this.#leases.now();
  }

  /**
   * Tries once to claim the subject, without waiting. Returns a guard, or the present holder. Throws
   * `InvalidConfigError` if the subject, owner or ttl is invalid, and `LeaseTableFullError` if all leases of the fleet
   * are held.
   */
  tryClaim(subject: Subject, options: TryClaimOptions): Claimed | YieldTo {
    const { owner, ttl, renew } = this.#checkClaim(tryClaimOptions, subject, options);
    if (!this.#leases.claim(subject, owner, ttl)) return { claimed: false, holder: this.#leases.found(subject) };
    return { claimed: true, guard: this.#guard(this.#leases.found(subject, owner), ttl, renew) };
  }

  /**
   * Claims the subject, and waits until the holder releases it, dies, or its lease expires. If several processes wait,
   * any of them may get it. Rejects with the errors of `tryClaim`, with `ClaimTimeoutError`, with `signal.reason`, or
   * with `ClosedError` if the contest is closed meanwhile.
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

  /** Returns the holder of the subject, or `null` if it is free. */
  holder(subject: Subject): Holder | null {
    this.#checkOpen();
    checkSubject(subject);
    return this.#leases.find(subject) ? this.#leases.found(subject) : null;
  }

  /** Returns all holders, in no particular order. Each one was the holder at some time during the call. */
  list(): Holder[] {
    this.#checkOpen();
    const all: Holder[] = [];
    for (let entry = 0; entry < this.#fleet.geometry.maxLeases; entry++) {
      if (this.#leases.at(entry)) all.push(this.#leases.found());
    }
    return all;
  }

  /**
   * Watches the lease of the subject. If it is already held, the first change is `claimed`. A watch compares the state
   * when you read with the state that you read before; it is not a log, so it skips what began and ended in between.
   *
   *     for await (const { type, holder } of contest.watch({ kind: "leader", label: "mailer" })) {
   *       console.log(type, holder.owner);
   *     }
   *
   * Throws `InvalidConfigError` if the subject is invalid, and `signal.reason` if the signal has aborted.
   */
  watch(subject: Subject, options: WatchOptions = {}): LeaseWatch {
    checkSubject(subject);
    return this.#watch({ kind: subject.kind, label: subject.label }, options);
  }

  /** Watches all leases of the fleet, as {@link watch} does for one. */
  watchAll(options: WatchOptions = {}): LeaseWatch {
    return this.#watch(null, options);
  }

  /**
   * Returns a guard for a lease that another contest claimed, or `null` if that tenure has ended. Throws
   * `LeaseOwnerError` if `owner` is not the owner that claimed it. Each guard of a tenure can renew and release it;
   * after a release, the other guards have lost it. The lease still ends with the process that claimed it.
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
   * Releases the lease of a holder. Returns `false` if that tenure has already ended. Throws `LeaseOwnerError` if
   * `owner` is not the owner that claimed it, unless `force` is set.
   */
  release(holder: Holder, options: ReleaseOptions = {}): boolean {
    const { owner, force } = releaseOptions.resolve(options, { base: { owner: this.owner } });
    this.#checkMember();
    const found = this.#observe(holder);
    if (!found) return false;
    if (!force && found.owner !== owner) throw new LeaseOwnerError(found, owner);
    return this.#leases.release(found.entry, found.token);
  }

  /** Releases all leases. Later tokens are still higher. Throws `LEASE_RESET` if the fleet has other members. */
  reset(): void {
    this.#checkMember();
    if (!this.#leases.reset())
      throw new SlotbusError(
        "LEASE_RESET",
        `Cannot reset the leases: the fleet has ${this.#fleet.members().length} members, not 1.`,
        { hint: "Close the other members first." },
      );
    this.#waitList.check();
  }

  /**
   * Closes the contest: claims that wait reject with `ClosedError`, and watches end. Guards stay valid until they are
   * released or the fleet is closed. Calling it again does nothing.
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
    if (this.#fleet.closed) throw new ClosedError("The fleet");
    const { signal } = watchOptions.resolve(options);
    const table = { fleet: this.#fleet, leases: this.#leases, waitList: this.#waitList, deaths: this.#deaths };
    const watch = new LeaseWatch(table, subject, signal, () => void this.#watches.delete(watch));
    this.#watches.add(watch);
    return watch;
  }

  #observe(holder: Holder): Holder | null {
    const { entry, token } = holder ?? {};
    if (!Number.isInteger(entry) || entry < 0 || !Number.isSafeInteger(token)) {
      throw new InvalidConfigError(`${shown(holder)} is not a holder.`, {
        hint: "Pass a holder from `holder()`, `list()`, a watch or a guard.",
      });
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
    return new ClosedError("The contest", { hint: "Open another contest with `Contest.open`." });
  }
}
