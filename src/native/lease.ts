/** The lease table of a fleet. Each method makes one native call, which fills one struct. */

import { shown } from "../check.ts";
import { InvalidConfigError, LeaseTableFullError } from "../errors.ts";
import { callError } from "./fleet-failure.ts";
import type { FleetHandle } from "./fleet.ts";
import { C, FIELDS, native } from "./library.ts";

/** What a lease is held for. Claims compete when kind and label are equal, byte for byte. */
export interface Subject {
  /** Kind of subject: 1 to 64 bytes of UTF-8, without NUL. */
  readonly kind: string;
  /** Name within the kind: 1 to 192 bytes of UTF-8, without NUL. */
  readonly label: string;
}

/**
 * The holder of a lease at one moment. Times are in ms of `contest.now()`, one clock for all processes of the machine.
 */
export interface Holder {
  readonly subject: Subject;
  readonly owner: string;
  /** Fencing token: higher than the token of any earlier tenure of any subject. Below 2^53. */
  readonly token: number;
  /** Id of the tenure, for logs: index and incarnation of the member, and the token. */
  readonly claimId: string;
  readonly claimedAt: number;
  /** Time from which the subject is free, unless the lease is renewed. */
  readonly expiresAt: number;
  /** Index of the member that claimed the lease. */
  readonly member: number;
  /** Distinguishes it from earlier members with this index. */
  readonly incarnation: number;
  /** Process id of the member, for logs. */
  readonly pid: number;
  /** Index in the lease table. */
  readonly entry: number;
}

/** Longest texts of a lease, in bytes. */
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
 * All methods throw {@link ClosedError} after the fleet is left. Callers check the length of texts. An observer can
 * only read.
 */
export class LeaseHandle {
  readonly #fleet: FleetHandle;
  readonly #clock: (() => number) | null;
  readonly #f64: Float64Array;
  readonly #u32: Uint32Array;
  readonly #bytes: Buffer;

  /** `clock` returns the time in ms; `null`: the system's monotonic clock. */
  constructor(fleet: FleetHandle, clock: (() => number) | null) {
    const { holder } = fleet;
    this.#fleet = fleet;
    this.#clock = clock;
    this.#f64 = new Float64Array(holder, 0, 3);
    this.#u32 = new Uint32Array(holder);
    this.#bytes = Buffer.from(holder);
  }

  /** Whether the fleet is open; `false` once `FleetHandle.leave` has started. */
  get isOpen(): boolean {
    return this.#fleet.isOpen;
  }

  /** Throws {@link InvalidConfigError} for an observer. */
  checkMember(): void {
    if (!this.isOpen || !this.#fleet.isObserver) return;
    throw new InvalidConfigError("An observer of a fleet cannot claim or release leases.", { hint: "Join the fleet." });
  }

  /** Returns the time of the leases' clock, in ms. */
  now(): number {
    if (!this.#clock) return native.sb_now_ms();
    const now = this.#clock();
    if (Number.isFinite(now) && now >= 0) return now;
    throw new InvalidConfigError(`now() returned ${shown(now)}; it must return a time of 0 or more ms.`);
  }

  /**
   * Claims the subject. `true`: claimed, `found` returns the new tenure. `false`: `found` returns another holder's
   * tenure.
   */
  claim(subject: Subject, owner: string, ttl: number): boolean {
    const now = this.#time();
    const draft = this.#fleet.draft(TEXT_BYTES);
    const kind = draft.write(subject.kind, 0);
    const label = draft.write(subject.label, kind);
    const name = draft.write(owner, kind + label);
    return this.#check(native.sb_lease_claim(this.#fleet.pointer, kind, label, name, ttl, now)) === 1;
  }

  /** Whether the subject is held; then `found` returns its holder. */
  find(subject: Subject): boolean {
    const now = this.#time();
    const draft = this.#fleet.draft(TEXT_BYTES);
    const kind = draft.write(subject.kind, 0);
    const label = draft.write(subject.label, kind);
    return this.#check(native.sb_lease_find(this.#fleet.pointer, kind, label, now)) === 1;
  }

  /** Whether this entry is held; then `found` returns its holder. */
  at(entry: number): boolean {
    const now = this.#time();
    return this.#check(native.sb_lease_at(this.#fleet.pointer, entry, now)) === 1;
  }

  /** Whether this tenure still holds its entry; then `found` returns it. */
  holds(entry: number, token: number): boolean {
    return this.at(entry) && this.#f64[F64.token] === token;
  }

  /** Renews a tenure; then `found` returns it. `false`: the tenure has ended. */
  renew(entry: number, token: number, ttl: number): boolean {
    const now = this.#time();
    return this.#tenure(native.sb_lease_renew(this.#fleet.pointer, entry, token, ttl, now));
  }

  /** Releases a tenure. `false`: it had already ended. */
  release(entry: number, token: number): boolean {
    return this.#tenure(native.sb_lease_release(this.#fleet.pointer, entry, token));
  }

  /** Asks to be woken when the next lease ends. */
  park(): void {
    this.#check(native.sb_lease_park(this.#fleet.pointer));
  }

  /** Asks to be woken at the next change of a lease. `true`: a change is in progress; read again in a millisecond. */
  watch(): boolean {
    return this.#check(native.sb_lease_watch(this.#fleet.pointer)) === C.SB_POLL_SOON;
  }

  /** Returns how a tenure ended. `now`: the current time, or the start of the subject's next tenure. */
  howEnded({ entry, token, member, incarnation, expiresAt }: Holder, now: number): "released" | "expired" | "died" {
    const end = this.#check(native.sb_lease_end(this.#fleet.pointer, entry, token, member, incarnation));
    if (end === C.SB_END_DIED) return "died";
    const isExpired = end === C.SB_END_EXPIRED || (end === C.SB_END_FOLLOWED && now >= expiresAt);
    return isExpired ? "expired" : "released";
  }

  /** Removes all leases. `false`: there is another member. */
  reset(): boolean {
    const result = native.sb_lease_reset(this.#fleet.pointer);
    if (result === -C.SB_EBUSY && this.#fleet.members().length > 1) return false;
    this.#check(result);
    return true;
  }

  isAlive({ member, incarnation }: Pick<Holder, "member" | "incarnation">): boolean {
    return this.#fleet.isAlive(member, incarnation);
  }

  /** Returns the holder that the last call found. Pass subject and owner if they are known, to avoid decoding them. */
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

  /** Token of the last holder found. */
  foundToken(): number {
    return this.#f64[F64.token]!;
  }

  /** End of the last tenure found. */
  foundExpiry(): number {
    return this.#f64[F64.expires]!;
  }

  /**
   * Returns the time for a native call; a negative value selects the monotonic clock. Call it before you stage anything:
   * the user's clock may publish or leave the fleet.
   */
  #time(): number {
    return this.#clock ? this.now() : -1;
  }

  /** Returns `false` if the tenure has ended. */
  #tenure(result: number): boolean {
    if (result === -C.SB_ESTALE) return false;
    this.#check(result);
    return true;
  }

  #check(result: number): number {
    if (result >= 0) return result;
    if (result === -C.SB_EFULL) throw new LeaseTableFullError(this.#fleet.name, this.#fleet.geometry.maxLeases);
    throw callError(result, `Cannot access the leases of fleet "${this.#fleet.name}"`);
  }

  #text(name: "kind" | "label" | "owner"): string {
    const at = FIELDS[`sb_holder.${name}`][0];
    const bytes = this.#bytes.readUInt16LE(FIELDS[`sb_holder.${name}_bytes`][0]);
    return this.#bytes.toString("utf8", at, at + bytes);
  }
}
