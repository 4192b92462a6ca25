/** Claims of leases on a NATS server. */

import { hostname } from "node:os";
import { shown } from "../../check.ts";
import { pause, systemClock } from "../../clock.ts";
import {
  ClaimTimeoutError,
  ClosedError,
  InvalidConfigError,
  LeaseOwnerError,
  SlotbusError,
  UnsupportedError,
} from "../../errors.ts";
import { type NatsFleet, unsupported } from "../../fleet/nats.ts";
import { holdWhile } from "../../hold.ts";
import type { Holder, Subject } from "../../native/lease.ts";
import { checkTimeout } from "../../options.ts";
import {
  type AdoptOptions,
  adoptOptions,
  type ClaimOptions,
  claimOptions,
  type ReleaseOptions,
  releaseOptions,
  type TryClaimOptions,
  tryClaimOptions,
  type WatchOptions,
  watchOptions,
} from "../options.ts";
import type { PortableContest, YieldTo } from "../portable.ts";
import { checkSubject } from "../subject.ts";
import { Bucket, type Entry, tokenOf } from "./bucket.ts";
import { Follow, Keys } from "./follow.ts";
import { type GuardHost, NatsGuard, type Tenure } from "./guard.ts";
import { deadlineOf, encodeRecord, keyOf, type LeaseRecord, serverSeconds, subjectOf, timesOf } from "./record.ts";
import { Wait } from "./wait.ts";
import { NatsLeaseWatch } from "./watch.ts";

/** Longest time to find out whether a claim without an answer has happened, in ms. */
const CONFIRM_MS = 5_000;
/** Longest wait of a claim before it looks again, in ms: a key can be deleted without a marker. */
const LOOK_MS = 5_000;
/** Pause before a claim that waits asks again after a failure, in ms. */
const RETRY_MS = 100;
/** Longest wait for the releases when the fleet closes, in ms. */
const CLOSE_MS = 1_000;
/** Number of ended leases whose marker is remembered. */
const MARKERS_MAX = 1_024;

type Attempt = { readonly claimed: true; readonly guard: NatsGuard } | YieldTo;

/** A tenure that was read. */
interface Observed {
  readonly entry: Entry;
  readonly record: LeaseRecord;
  readonly present: Holder;
}

interface Want {
  readonly subject: Subject;
  readonly owner: string;
  readonly ttl: number;
  readonly renew: boolean;
}

/** Default owner of claims: processes of many machines compete. */
export function defaultOwner(): string {
  const name = hostname().replaceAll(/[^\x21-\x7e]/g, "?");
  return `process-${process.pid}@${name}`.slice(0, 64);
}

/** @internal The contest that `Contest.open` returns for a fleet on a NATS server. */
export class NatsContest implements PortableContest, GuardHost {
  readonly owner: string;
  readonly bucket: Bucket;
  readonly keys: Keys;
  readonly #fleet: NatsFleet;
  readonly #clock: () => number;
  readonly #guards = new Set<NatsGuard>();
  readonly #watches = new Set<NatsLeaseWatch>();
  /** Aborts when the contest closes. */
  readonly #closing = new AbortController();
  readonly #forget: () => void;
  /** Revisions of the markers that this contest wrote, by key: its next claim of the key needs one request. */
  readonly #markers = new Map<string, number>();

  static async open(fleet: NatsFleet, owner: string, now: (() => number) | null): Promise<NatsContest> {
    return new NatsContest(fleet, owner, now, await Bucket.open(fleet));
  }

  private constructor(fleet: NatsFleet, owner: string, now: (() => number) | null, bucket: Bucket) {
    this.owner = owner;
    this.bucket = bucket;
    this.keys = new Keys(bucket);
    this.#fleet = fleet;
    this.#clock = now ?? (() => performance.now());
    this.#forget = fleet.onClose(() => this.#leave());
  }

  get closed(): boolean {
    return this.#closing.signal.aborted || this.#fleet.closed;
  }

  now(): number {
    const now = this.#clock();
    if (Number.isFinite(now) && now >= 0) return now;
    throw new InvalidConfigError(`now() returned ${shown(now)}; it must return a time of 0 or more ms.`);
  }

  /** As `Contest.tryClaim`, but asynchronous. */
  tryClaim(subject: Subject, options: TryClaimOptions): Promise<Attempt> {
    const attempt = this.#tryClaim(subject, options);
    for (const name of ["claimed", "guard", "holder"]) {
      const get = (): never => {
        throw new UnsupportedError("`tryClaim` has no result yet: over NATS it asks a server.", {
          hint: "Write `await contest.tryClaim(…)`.",
        });
      };
      Object.defineProperty(attempt, name, { get });
    }
    return attempt;
  }

  async #tryClaim(subject: Subject, options: TryClaimOptions): Promise<Attempt> {
    this.#checkOpen();
    return this.#attempt(this.#want(tryClaimOptions.resolve(options, { base: { owner: this.owner } }), subject));
  }

  async claim(subject: Subject, options: ClaimOptions): Promise<NatsGuard> {
    this.#checkOpen();
    const resolved = claimOptions.resolve(options, { base: { owner: this.owner } });
    const timeout = checkTimeout(options.timeout ?? Infinity);
    resolved.signal?.throwIfAborted();
    const wait = new Wait(timeout, resolved.signal, this.#closing.signal);
    return holdWhile(this.#claim(this.#want(resolved, subject), wait)).finally(() => wait.close());
  }

  async #claim(want: Want, wait: Wait): Promise<NatsGuard> {
    const key = keyOf(want.subject);
    let unlisten: (() => void) | null = null;
    let failure: unknown = null;
    try {
      for (;;) {
        const attempt = await this.#attempt(want).catch((error: unknown) => {
          if (!(error instanceof SlotbusError && isPassing(error))) throw error;
          failure = error;
          return null;
        });
        if (attempt?.claimed) {
          if (!wait.signal.aborted || wait.isTimeout) return attempt.guard;
          await attempt.guard[Symbol.asyncDispose]();
        }
        if (wait.signal.aborted) {
          if (this.closed) throw this.#closedError();
          if (!wait.isTimeout) throw wait.signal.reason;
          if (attempt?.claimed === false) throw new ClaimTimeoutError(want.subject, wait.timeout, attempt.holder);
          if (attempt === null) throw failure;
        }
        const isNew = unlisten === null;
        unlisten ??= this.keys.listen(key, (entry) => {
          if (entry?.record) return;
          if (entry) this.#markers.set(key, entry.revision);
          wait.wake();
        });
        if (attempt === null) await pause(systemClock, RETRY_MS, wait.signal);
        else if (!isNew && !attempt.claimed) {
          const left = attempt.holder.expiresAt - this.now();
          await wait.next(Math.min(LOOK_MS, Math.max(RETRY_MS, left)));
        }
      }
    } finally {
      unlisten?.();
    }
  }

  async holder(subject: Subject): Promise<Holder | null> {
    this.#checkOpen();
    checkSubject(subject);
    const entry = await this.bucket.read(keyOf(subject));
    return entry && this.#toHolder(entry);
  }

  async list(): Promise<Holder[]> {
    this.#checkOpen();
    const found = new Map<string, Holder>();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = systemClock.after(CONFIRM_MS, () => reject(this.bucket.unconfirmed(new Error("timeout"))));
    const follow = new Follow(this.bucket, ">", {
      restart: () => found.clear(),
      entry: (entry) => {
        const holder = this.#toHolder(entry);
        if (holder) found.set(entry.key, holder);
        else found.delete(entry.key);
      },
      complete: resolve,
    });
    try {
      await holdWhile(promise);
    } finally {
      timer.close();
      follow.close();
    }
    return [...found.values()];
  }

  watch(subject: Subject, options: WatchOptions = {}): NatsLeaseWatch {
    checkSubject(subject);
    return this.#watch(keyOf(subject), options);
  }

  watchAll(options: WatchOptions = {}): NatsLeaseWatch {
    return this.#watch(">", options);
  }

  #watch(key: string, options: WatchOptions): NatsLeaseWatch {
    this.#checkOpen();
    const { signal } = watchOptions.resolve(options);
    signal?.throwIfAborted();
    const toHolder = (entry: Entry): Holder | null => this.#toHolder(entry);
    const watch = new NatsLeaseWatch(this.bucket, key, signal, toHolder, () => void this.#watches.delete(watch));
    this.#watches.add(watch);
    return watch;
  }

  async adopt(holder: Holder, options: AdoptOptions = {}): Promise<NatsGuard | null> {
    this.#checkOpen();
    const { owner, ttl, renew } = adoptOptions.resolve(options, { base: { owner: this.owner } });
    for (;;) {
      const found = await this.#observe(holder, owner);
      if (!found) return null;
      const { entry, record, present } = found;
      const lasts = ttl ?? record.ttl;
      // This process can rely on the lease only after a renewal that the server confirms.
      const sentAt = this.now();
      const asked = Math.max(lasts, present.expiresAt - sentAt);
      const value = encodeRecord({
        ...record,
        token: present.token,
        ttl: asked,
        held: Math.max(0, sentAt - present.claimedAt),
      });
      const revision = await this.bucket.put(entry.key, value, serverSeconds(asked), entry.revision);
      if (revision === null) continue;
      const tenure = { ...present, expiresAt: deadlineOf(sentAt, asked) };
      return this.#guard({ key: entry.key, holder: tenure, ttl: lasts, revision }, renew);
    }
  }

  async release(holder: Holder, options: ReleaseOptions = {}): Promise<boolean> {
    this.#checkOpen();
    const { owner, force } = releaseOptions.resolve(options, { base: { owner: this.owner } });
    for (;;) {
      const found = await this.#observe(holder, force ? null : owner);
      if (!found) return false;
      if ((await this.bucket.end(found.entry.key, found.entry.revision)) !== null) return true;
    }
  }

  /** The server does not know who uses the leases. @throws {UnsupportedError} */
  reset(): never {
    throw unsupported("`reset`");
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(this.#closedError());
    for (const watch of this.#watches) watch.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  ended(guard: NatsGuard, key: string, marker: number | null): void {
    this.#guards.delete(guard);
    if (marker === null) return;
    this.#markers.delete(key);
    this.#markers.set(key, marker);
    if (this.#markers.size > MARKERS_MAX) this.#markers.delete(this.#markers.keys().next().value!);
  }

  /** The fleet closes: releases all leases, as far as the server answers in time. */
  async #leave(): Promise<void> {
    this.#forget();
    await this.close();
    const guards = [...this.#guards];
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = systemClock.after(CLOSE_MS, resolve);
    await Promise.race([Promise.allSettled(guards.map((guard) => guard.release())), promise]);
    timer.close();
    for (const guard of guards) guard.lose("the fleet was closed");
    this.keys.close();
    this.bucket.close();
  }

  // ---- one attempt ----------------------------------------------------------------------------------------------------

  /** Claims the subject if it is free. @throws (rejects) `DISCONNECTED`: nothing was sent; `CLAIM_UNCONFIRMED` */
  async #attempt({ subject, owner, ttl, renew }: Want): Promise<Attempt> {
    const key = keyOf(subject);
    const id = crypto.randomUUID();
    const began = performance.now();
    let claimedAt = 0;
    let token = 0;
    let expected = this.#markers.get(key) ?? 0;
    this.#markers.delete(key);
    for (;;) {
      const sentAt = this.now();
      if (token === 0) claimedAt = sentAt;
      const value = encodeRecord({ owner, id, token, ttl, held: sentAt - claimedAt, pid: process.pid });
      let entry: Entry | null;
      try {
        const revision = await this.bucket.put(key, value, serverSeconds(ttl), expected);
        if (revision !== null) {
          const holder = {
            ...holderOf(subject, owner, id, process.pid),
            token: token || revision,
            claimedAt,
            expiresAt: deadlineOf(sentAt, ttl),
          };
          return { claimed: true, guard: this.#guard({ key, holder, ttl, revision }, renew) };
        }
        entry = await this.bucket.read(key);
      } catch (error) {
        if (!(error instanceof SlotbusError && error.code === "CLAIM_UNCONFIRMED")) throw error;
        entry = await this.#findOut(key, began, error);
      }
      expected = entry?.revision ?? 0;
      if (performance.now() - began > 2 * CONFIRM_MS)
        throw this.bucket.unconfirmed(new Error("the key changes all the time"));
      if (!entry || entry.end !== null) continue;
      // The claim has happened, and its answer was lost. It is held once a renewal is confirmed.
      if (entry.record?.id === id) token = tokenOf(entry);
      else return { claimed: false, holder: this.#toHolder(entry) ?? refuseForeign(this.bucket.stream, key) };
    }
  }

  /** Reads the key after a claim without an answer, until the server answers. @throws (rejects) `error` */
  async #findOut(key: string, began: number, error: SlotbusError): Promise<Entry | null> {
    while (performance.now() - began < CONFIRM_MS && !this.#fleet.closed) {
      try {
        await this.bucket.ensure();
        return await this.bucket.read(key);
      } catch (again) {
        if (!(again instanceof SlotbusError && isPassing(again))) throw again;
        await pause(systemClock, RETRY_MS, this.#closing.signal);
      }
    }
    throw error;
  }

  /** Reads the tenure of a holder; `null` if it has ended. `owner`: who must hold it. */
  async #observe(holder: Holder, owner: string | null): Promise<Observed | null> {
    const { subject, token } = holder ?? {};
    if (!Number.isSafeInteger(token)) {
      throw new InvalidConfigError(`${shown(holder)} is not a holder.`, {
        hint: "Pass a holder from `holder()`, `list()`, a watch or a guard.",
      });
    }
    checkSubject(subject);
    const entry = await this.bucket.read(keyOf(subject));
    const present = entry && this.#toHolder(entry);
    if (!present || present.token !== token) return null;
    if (owner !== null && present.owner !== owner) throw new LeaseOwnerError(present, owner);
    return { entry, record: entry.record!, present };
  }

  /** Returns the holder in an entry; `null`: there is none. */
  #toHolder(entry: Entry): Holder | null {
    const subject = subjectOf(entry.key);
    const { record } = entry;
    if (!subject || !record) return null;
    const [claimedAt, expiresAt] = timesOf(record, entry.written, Date.now(), this.now());
    return { ...holderOf(subject, record.owner, record.id, record.pid), token: tokenOf(entry), claimedAt, expiresAt };
  }

  #guard(tenure: Tenure, renew: boolean): NatsGuard {
    const guard = new NatsGuard(this, tenure, renew);
    this.#guards.add(guard);
    return guard;
  }

  #want({ owner, ttl, renew }: { owner: string; ttl: number; renew: boolean }, subject: Subject): Want {
    checkSubject(subject);
    return { subject: { kind: subject.kind, label: subject.label }, owner, ttl, renew };
  }

  #checkOpen(): void {
    if (this.#closing.signal.aborted) throw this.#closedError();
    if (this.#fleet.closed) throw new ClosedError(`Fleet "${this.#fleet.name}"`);
  }

  #closedError(): ClosedError {
    return new ClosedError("The contest", { hint: "Open another contest with `Contest.open`." });
  }
}

/** Whether a waiting claim goes on after this failure. */
function isPassing({ code }: SlotbusError): boolean {
  return code === "CLAIM_UNCONFIRMED" || code === "DISCONNECTED";
}

/** The fields of a holder without its times. A server has no members and no entries. */
function holderOf(subject: Subject, owner: string, claimId: string, pid: number) {
  return { subject, owner, claimId, pid, member: -1, incarnation: 0, entry: -1 };
}

function refuseForeign(stream: string, key: string): never {
  throw new SlotbusError("CLAIM_BUCKET", `The key ${key} of the stream ${stream} is not a lease.`, {
    hint: "Another program wrote it. Delete the key.",
  });
}
