/** The lease table of a fleet: each call is one step of the C library, and fills one struct that is read here. */

import { shown } from "../check.ts";
import { InvalidConfigError, LeaseTableFullError } from "../errors.ts";
import { callError } from "./fleet-failure.ts";
import type { FleetHandle } from "./fleet.ts";
import { C, FIELDS, native } from "./library.ts";

/** Two subjects compete when kind and label are equal, byte for byte. */
export interface Subject {
  /** What sort of thing it is: 1 to 64 bytes of UTF-8, without NUL. */
  readonly kind: string;
  /** Which one: 1 to 192 bytes of UTF-8, without NUL. */
  readonly label: string;
}

/** Who holds a subject, as it was found. Times are ms of `contest.now()`, one clock for all processes of the machine. */
export interface Holder {
  readonly subject: Subject;
  readonly owner: string;
  /** Fencing token of the tenure: higher than that of any tenure before, of any subject. Below 2^53. */
  readonly token: number;
  /** The tenure, for logs: index and incarnation of the member that claimed, and the token. */
  readonly claimId: string;
  readonly claimedAt: number;
  /** The subject is free from then on. */
  readonly expiresAt: number;
  /** Index of the member that claimed. */
  readonly member: number;
  /** Tells it from the earlier members of that index. */
  readonly incarnation: number;
  /** Process id of that member; for people. */
  readonly pid: number;
  /** Its place in the lease table. */
  readonly entry: number;
}

/** Bytes of the texts of a lease, at most. */
export const LEASE_LIMITS = { kind: C.SB_KIND_MAX, label: C.SB_LABEL_MAX, owner: C.SB_OWNER_MAX } as const;

const TEXT_BYTES = C.SB_KIND_MAX + C.SB_LABEL_MAX + C.SB_OWNER_MAX;
const F64 = {
  token: FIELDS["sb_holder.token"][0] / 8,
  claimed: FIELDS["sb_holder.claimed_ms"][0] / 8,
  expires: FIELDS["sb_holder.expires_ms"][0] / 8,
} as const;
const U32 = {
  entry: FIELDS["sb_holder.entry"][0] / 4,
  member: FIELDS["sb_holder.member"][0] / 4,
  incarnation: FIELDS["sb_holder.incarnation"][0] / 4,
  pid: FIELDS["sb_holder.pid"][0] / 4,
} as const;

/**
 * All calls throw {@link ClosedError} once the fleet is left. The texts that they take were checked. An observer can
 * only find.
 */
export class LeaseHandle {
  readonly #fleet: FleetHandle;
  readonly #clock: (() => number) | null;
  readonly #f64: Float64Array;
  readonly #u32: Uint32Array;
  readonly #bytes: Buffer;

  /** `clock`: milliseconds by which leases are measured; `null`: the system's monotonic clock. */
  constructor(fleet: FleetHandle, clock: (() => number) | null) {
    const { holder } = fleet;
    this.#fleet = fleet;
    this.#clock = clock;
    this.#f64 = new Float64Array(holder, 0, 3);
    this.#u32 = new Uint32Array(holder);
    this.#bytes = Buffer.from(holder);
  }

  /** `false` as soon as the fleet begins to be left. */
  get isOpen(): boolean {
    return this.#fleet.isOpen;
  }

  /** Throws {@link InvalidConfigError} for an observer. */
  checkMember(): void {
    if (!this.isOpen || !this.#fleet.isObserver) return;
    throw new InvalidConfigError("an observer of a fleet claims and releases nothing.", { hint: "Join the fleet." });
  }

  /** Milliseconds of the clock that leases are measured by. */
  now(): number {
    if (!this.#clock) return native.sb_now_ms();
    const now = this.#clock();
    if (Number.isFinite(now) && now >= 0) return now;
    throw new InvalidConfigError(`now() returned ${shown(now)}; it must return milliseconds, 0 or more.`);
  }

  /** `true`: claimed, and `found` is the caller's tenure; `false`: `found` is that of another. */
  claim(subject: Subject, owner: string, ttl: number): boolean {
    const now = this.#time();
    const draft = this.#fleet.draft(TEXT_BYTES);
    const kind = draft.write(subject.kind, 0);
    const label = draft.write(subject.label, kind);
    const name = draft.write(owner, kind + label);
    return this.#check(native.sb_lease_claim(this.#fleet.pointer, kind, label, name, ttl, now)) === 1;
  }

  /** Whether somebody holds it: then that is `found`. */
  find(subject: Subject): boolean {
    const now = this.#time();
    const draft = this.#fleet.draft(TEXT_BYTES);
    const kind = draft.write(subject.kind, 0);
    const label = draft.write(subject.label, kind);
    return this.#check(native.sb_lease_find(this.#fleet.pointer, kind, label, now)) === 1;
  }

  /** Whether that entry is held: then that is `found`. */
  at(entry: number): boolean {
    const now = this.#time();
    return this.#check(native.sb_lease_at(this.#fleet.pointer, entry, now)) === 1;
  }

  /** Whether that tenure still holds its entry: then that is `found`. */
  holds(entry: number, token: number): boolean {
    return this.at(entry) && this.#f64[F64.token] === token;
  }

  /** `false`: the tenure has ended. Otherwise it is `found`. */
  renew(entry: number, token: number, ttl: number): boolean {
    const now = this.#time();
    return this.#tenure(native.sb_lease_renew(this.#fleet.pointer, entry, token, ttl, now));
  }

  /** `false`: the tenure had ended before. */
  release(entry: number, token: number): boolean {
    return this.#tenure(native.sb_lease_release(this.#fleet.pointer, entry, token));
  }

  /** The next lease that ends wakes the fleet. */
  park(): void {
    this.#check(native.sb_lease_park(this.#fleet.pointer));
  }

  /** The next change of a lease wakes the fleet. `true`: somebody is about to change one, so look again in a millisecond. */
  watch(): boolean {
    return this.#check(native.sb_lease_watch(this.#fleet.pointer)) === C.SB_POLL_SOON;
  }

  /** How a tenure ended that is held no more; `now`: the clock, or when the next tenure of its subject began. */
  howEnded({ entry, token, member, incarnation, expiresAt }: Holder, now: number): "released" | "expired" | "died" {
    const end = this.#check(native.sb_lease_end(this.#fleet.pointer, entry, token, member, incarnation));
    if (end === C.SB_END_DIED) return "died";
    const isExpired = end === C.SB_END_EXPIRED || (end === C.SB_END_FOLLOWED && now >= expiresAt);
    return isExpired ? "expired" : "released";
  }

  /** `false`: there is another member. */
  reset(): boolean {
    const result = native.sb_lease_reset(this.#fleet.pointer);
    if (result === -C.SB_EBUSY && this.#fleet.members().length > 1) return false;
    this.#check(result);
    return true;
  }

  isAlive({ member, incarnation }: Pick<Holder, "member" | "incarnation">): boolean {
    return this.#fleet.isAlive(member, incarnation);
  }

  /** What the last call found. With the subject and the owner, if these are known: then no text is decoded. */
  found(subject?: Subject, owner?: string): Holder {
    const token = this.#f64[F64.token]!;
    const member = this.#u32[U32.member]!;
    const incarnation = this.#u32[U32.incarnation]!;
    return {
      subject: { kind: subject?.kind ?? this.#text("kind"), label: subject?.label ?? this.#text("label") },
      owner: owner ?? this.#text("owner"),
      token,
      claimId: `${member}.${incarnation}.${token}`,
      claimedAt: this.#f64[F64.claimed]!,
      expiresAt: this.#f64[F64.expires]!,
      member,
      incarnation,
      pid: this.#u32[U32.pid]!,
      entry: this.#u32[U32.entry]!,
    };
  }

  /** Token of the tenure that was found. */
  foundToken(): number {
    return this.#f64[F64.token]!;
  }

  /** When the tenure that was found ends. */
  foundExpiry(): number {
    return this.#f64[F64.expires]!;
  }

  /** What C takes for "now": below 0 for its own clock. Asked first: a clock may do anything, even publish or leave. */
  #time(): number {
    return this.#clock ? this.now() : -1;
  }

  /** `false`: that tenure is over. */
  #tenure(result: number): boolean {
    if (result === -C.SB_ESTALE) return false;
    this.#check(result);
    return true;
  }

  #check(result: number): number {
    if (result >= 0) return result;
    if (result === -C.SB_EFULL) throw new LeaseTableFullError(this.#fleet.name, this.#fleet.geometry.maxLeases);
    throw callError(result, `the leases of fleet "${this.#fleet.name}"`);
  }

  #text(name: "kind" | "label" | "owner"): string {
    const at = FIELDS[`sb_holder.${name}`][0];
    const bytes = this.#bytes.readUInt16LE(FIELDS[`sb_holder.${name}_bytes`][0]);
    return this.#bytes.toString("utf8", at, at + bytes);
  }
}
