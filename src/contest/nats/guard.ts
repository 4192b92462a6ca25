/** The guard of a lease on a NATS server. Its own clock decides when the lease ends; the server confirms what extends it. */

import { systemClock, type Timer } from "../../clock.ts";
import { LeaseLostError } from "../../errors.ts";
import type { Holder, Subject } from "../../native/lease.ts";
import type { PortableGuard } from "../portable.ts";
import { checkTtl } from "../subject.ts";
import { type Bucket, type Entry, tokenOf } from "./bucket.ts";
import type { Keys } from "./follow.ts";
import { deadlineOf, encodeRecord, renewedTtl, serverSeconds } from "./record.ts";

/** Number of renewals per ttl. */
const RENEWALS = 3;
/** Pause before a renewal that was not confirmed is tried again, as a part of the ttl. */
const RETRY = 0.1;

/** One tenure, as its guard begins. */
export interface Tenure {
  readonly key: string;
  readonly holder: Holder;
  readonly ttl: number;
  /** Last revision of the key. */
  readonly revision: number;
}

/** What guards of one contest share. */
export interface GuardHost {
  readonly bucket: Bucket;
  readonly keys: Keys;
  now(): number;
  /** The guard was released or has lost its lease. `marker`: revision of the end, if this guard wrote it. */
  ended(guard: NatsGuard, key: string, marker: number | null): void;
}

/** The right to `subject` until `expiresAt` or `release()`. */
export class NatsGuard implements PortableGuard {
  readonly #host: GuardHost;
  readonly #key: string;
  readonly #holder: Holder;
  readonly #ttl: number;
  #revision: number;
  #expiresAt: number;
  #over = false;
  #lost: LeaseLostError | null = null;
  #controller: AbortController | null = null;
  #expiry: Timer | null = null;
  #renewal: Timer | null = null;
  #unlisten: (() => void) | null = null;
  /** The last request: each one needs the revision that its predecessor wrote. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(host: GuardHost, { key, holder, ttl, revision }: Tenure, renew: boolean) {
    this.#host = host;
    this.#key = key;
    this.#holder = holder;
    this.#ttl = ttl;
    this.#revision = revision;
    this.#expiresAt = holder.expiresAt;
    this.#startExpiry();
    if (renew) this.#renewLater(ttl / RENEWALS);
  }

  get subject(): Subject {
    return this.#holder.subject;
  }

  get owner(): string {
    return this.#holder.owner;
  }

  get token(): number {
    return this.#holder.token;
  }

  get claimId(): string {
    return this.#holder.claimId;
  }

  get claimedAt(): number {
    return this.#holder.claimedAt;
  }

  get expiresAt(): number {
    return this.#expiresAt;
  }

  get holder(): Holder {
    return { ...this.#holder, expiresAt: this.#expiresAt };
  }

  /** Whether the lease is held, by the clock of this process. */
  get #holds(): boolean {
    return !this.#over && this.#host.now() < this.#expiresAt;
  }

  get signal(): AbortSignal {
    if (this.#controller) return this.#controller.signal;
    this.#controller = new AbortController();
    this.#checkExpiry();
    if (this.#lost) this.#controller.abort(this.#lost);
    else if (!this.#over) this.#unlisten = this.#host.keys.listen(this.#key, this.#onEntry);
    return this.#controller.signal;
  }

  async renew(ttl: number = this.#ttl): Promise<boolean> {
    checkTtl(ttl);
    return this.#inTurn(() => this.#renew(ttl));
  }

  async release(): Promise<boolean> {
    this.#renewal?.close();
    this.#renewal = null;
    return this.#inTurn(() => this.#release());
  }

  /** Releases the lease. If the server does not confirm it, the lease ends with its ttl. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => this.lose("its release was not confirmed"));
  }

  /** Ends the guard: its lease is lost, or cannot be confirmed. */
  lose(how: string, cause?: unknown): void {
    if (this.#over) return;
    this.#end(null);
    this.#lost = new LeaseLostError(this.subject, this.token, how, cause);
    this.#controller?.abort(this.#lost);
  }

  #inTurn(next: () => Promise<boolean>): Promise<boolean> {
    const result = this.#turn.then(next);
    this.#turn = result.catch(() => {});
    return result;
  }

  async #renew(given: number): Promise<boolean> {
    const { bucket } = this.#host;
    for (;;) {
      if (!this.#checkExpiry()) return false;
      const sentAt = this.#host.now();
      const ttl = renewedTtl(given, sentAt, this.#expiresAt);
      const { owner, claimId, token, claimedAt, pid } = this.#holder;
      const value = encodeRecord({ owner, id: claimId, token, ttl, held: sentAt - claimedAt, pid });
      const revision = await bucket.put(this.#key, value, serverSeconds(ttl), this.#revision);
      if (this.#over) return false;
      if (revision === null) {
        if (!(await this.#catchUp())) return false;
        continue;
      }
      this.#revision = revision;
      this.#expiresAt = Math.max(this.#expiresAt, deadlineOf(sentAt, ttl));
      this.#startExpiry();
      return this.#checkExpiry();
    }
  }

  async #release(): Promise<boolean> {
    let isUnsure = false;
    while (this.#checkExpiry()) {
      const marker = await this.#host.bucket.end(this.#key, this.#revision).catch((error) => {
        if (isUnsure) throw error;
        isUnsure = true;
        return null;
      });
      if (marker !== null) {
        this.#end(marker);
        return true;
      }
      const entry = await this.#host.bucket.read(this.#key);
      if (this.#isOurs(entry)) this.#revision = entry!.revision;
      else if (isUnsure) {
        this.#end(null); // the release without an answer has happened
        return true;
      } else this.lose(this.#howLost(entry));
    }
    return false;
  }

  /** Learns the revision that another guard, or a request without an answer, has written. `false`: the lease is lost. */
  async #catchUp(): Promise<boolean> {
    const entry = await this.#host.bucket.read(this.#key);
    if (!this.#isOurs(entry)) {
      this.lose(this.#howLost(entry));
      return false;
    }
    this.#revision = entry!.revision;
    return true;
  }

  #isOurs(entry: Entry | null): boolean {
    return entry?.record?.id === this.claimId && tokenOf(entry) === this.token;
  }

  #howLost(entry: Entry | null): string {
    if (entry?.record) return `${JSON.stringify(entry.record.owner)} holds it now`;
    return entry?.end === "released" ? "another guard or process released it" : "it expired on the server";
  }

  readonly #onEntry = (entry: Entry | null): void => {
    if (this.#over || (entry && entry.revision < this.#revision) || this.#isOurs(entry)) return;
    // A request under way may be newer than this entry: the leader decides.
    void this.#inTurn(() => (this.#over ? Promise.resolve(false) : this.#catchUp())).catch(() => {});
  };

  /** Loses the lease if its time is over. Returns whether it is held. */
  #checkExpiry(): boolean {
    if (this.#holds) return true;
    this.lose(`it expired ${Math.max(0, Math.round(this.#host.now() - this.#expiresAt))} ms ago`);
    return false;
  }

  #startExpiry(): void {
    this.#expiry?.close();
    this.#expiry = systemClock.after(this.#expiresAt - this.#host.now(), () => {
      if (!this.#over && this.#checkExpiry()) this.#startExpiry(); // the timer has a longest delay, or came early
    });
    this.#expiry.unref();
  }

  #renewLater(ms: number): void {
    this.#renewal = systemClock.after(ms, () => {
      this.renew().then(
        (isHeld) => isHeld && this.#renewal && this.#renewLater(this.#ttl / RENEWALS),
        () => !this.#over && this.#renewal && this.#renewLater(this.#ttl * RETRY),
      );
    });
    this.#renewal.unref();
  }

  #end(marker: number | null): void {
    this.#over = true;
    this.#expiry?.close();
    this.#renewal?.close();
    this.#unlisten?.();
    this.#expiry = this.#renewal = this.#unlisten = null;
    this.#host.ended(this, this.#key, marker);
  }
}
