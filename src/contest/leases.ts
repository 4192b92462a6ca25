/** The lease table of a fleet, as C sees it: each call is one step there, and fills one struct that is read here. */

import { shown } from "../check.ts";
import { FleetClosedError, InvalidConfigError, LeaseTableFullError } from "../errors.ts";
import { callError } from "../fleet/failure.ts";
import type { Fleet } from "../fleet/fleet.ts";
import { C, detach, FIELDS, native, type Pointer, view } from "../native/library.ts";
import type { Subject } from "./subject.ts";

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

function at(name: keyof typeof FIELDS): number {
  return FIELDS[name][0];
}

const BYTES = at("sb_holder.owner") + C.SB_OWNER_MAX;
const TEXT_BYTES = C.SB_KIND_MAX + C.SB_LABEL_MAX + C.SB_OWNER_MAX;
const F64 = {
  token: at("sb_holder.token") / 8,
  claimed: at("sb_holder.claimed_ms") / 8,
  expires: at("sb_holder.expires_ms") / 8,
} as const;
const U32 = {
  entry: at("sb_holder.entry") / 4,
  member: at("sb_holder.member") / 4,
  incarnation: at("sb_holder.incarnation") / 4,
  pid: at("sb_holder.pid") / 4,
} as const;
const U16 = {
  kind: at("sb_holder.kind_bytes") / 2,
  label: at("sb_holder.label_bytes") / 2,
  owner: at("sb_holder.owner_bytes") / 2,
} as const;

/** The struct that calls on the leases of a fleet fill. All contests of the fleet look into one: each reads what its call found. */
class Found {
  readonly f64: Float64Array<ArrayBuffer>;
  readonly u32: Uint32Array<ArrayBuffer>;
  readonly u16: Uint16Array<ArrayBuffer>;
  readonly bytes: Buffer<ArrayBuffer>;
  isThere = true;

  constructor(fleet: Fleet) {
    const buffer = view(native.sb_lease_holder(fleet.native) as number, BYTES);
    this.f64 = new Float64Array(buffer, 0, 3);
    this.u32 = new Uint32Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.bytes = Buffer.from(buffer);
    fleet.onLeave(() => {
      this.isThere = false;
      detach(buffer); // its memory goes
    });
  }
}

const founds = new WeakMap<Fleet, Found>();

function foundIn(fleet: Fleet): Found {
  const known = founds.get(fleet);
  if (known?.isThere) return known;
  const found = new Found(fleet);
  founds.set(fleet, found);
  return found;
}

function isObserver(): InvalidConfigError {
  return new InvalidConfigError("an observer of a fleet claims and releases nothing.", { hint: "Join the fleet." });
}

/** @internal */
export class Leases {
  readonly fleet: Fleet;
  readonly #clock: (() => number) | null;
  readonly #found: Found;
  #kindBytes = 0;
  #labelBytes = 0;
  #ownerBytes = 0;

  constructor(fleet: Fleet, clock: (() => number) | null) {
    this.fleet = fleet;
    this.#clock = clock;
    this.#found = foundIn(fleet);
  }

  /** `false` as soon as the fleet begins to be left. */
  get isOpen(): boolean {
    return this.#found.isThere;
  }

  /** Throws {@link InvalidConfigError} for an observer. */
  checkMember(): void {
    if (this.isOpen && this.fleet.isObserver) throw isObserver();
  }

  /** Entries of the table. */
  get entries(): number {
    return this.fleet.geometry.leases;
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
    this.#write(subject, owner);
    const [kind, label, name] = [this.#kindBytes, this.#labelBytes, this.#ownerBytes];
    return this.#check(native.sb_lease_claim(this.#native, kind, label, name, ttl, this.#time())) === 1;
  }

  /** Whether somebody holds it: then that is `found`. */
  find(subject: Subject): boolean {
    this.#write(subject, "");
    const found = native.sb_lease_find(this.#native, this.#kindBytes, this.#labelBytes, this.#time());
    return this.#check(found) === 1;
  }

  /** Whether that entry is held: then that is `found`. */
  at(entry: number): boolean {
    return this.#check(native.sb_lease_at(this.#native, entry, this.#time())) === 1;
  }

  /** Whether that tenure still holds its entry: then that is `found`. */
  holds(entry: number, token: number): boolean {
    return this.at(entry) && this.#found.f64[F64.token] === token;
  }

  /** `false`: the tenure has ended. */
  renew(entry: number, token: number, ttl: number): boolean {
    return this.#tenure(native.sb_lease_renew(this.#native, entry, token, ttl, this.#time()));
  }

  /** `false`: the tenure had ended before. */
  release(entry: number, token: number): boolean {
    return this.#tenure(native.sb_lease_release(this.#native, entry, token));
  }

  /** The next lease that ends wakes the fleet. */
  park(): void {
    this.#check(native.sb_lease_park(this.#native));
  }

  /** `false`: there is another member. */
  reset(): boolean {
    const result = native.sb_lease_reset(this.#native);
    if (result === -C.SB_EBUSY && this.fleet.members().length > 1) return false;
    this.#check(result);
    return true;
  }

  isAlive(holder: { readonly member: number; readonly incarnation: number }): boolean {
    return native.sb_fleet_alive(this.#native, holder.member, holder.incarnation) === 1;
  }

  /** What the last call found. With the subject and the owner, if these are known: then no text is decoded. */
  found(subject?: Subject, owner?: string): Holder {
    const [token, member, incarnation] = [
      this.#found.f64[F64.token]!,
      this.#found.u32[U32.member]!,
      this.#found.u32[U32.incarnation]!,
    ];
    return {
      subject: { kind: subject?.kind ?? this.#kind(), label: subject?.label ?? this.#label() },
      owner: owner ?? this.#owner(),
      token,
      claimId: `${member}.${incarnation}.${token}`,
      claimedAt: this.#found.f64[F64.claimed]!,
      expiresAt: this.#found.f64[F64.expires]!,
      member,
      incarnation,
      pid: this.#found.u32[U32.pid]!,
      entry: this.#found.u32[U32.entry]!,
    };
  }

  /** When the tenure that was found ends. */
  foundExpiry(): number {
    return this.#found.f64[F64.expires]!;
  }

  get #native(): Pointer {
    if (!this.isOpen) throw new FleetClosedError(`fleet "${this.fleet.name}"`);
    return this.fleet.native;
  }

  /** What C takes for "now": below 0 for its own clock. */
  #time(): number {
    return this.#clock ? this.now() : -1;
  }

  /** Puts the texts one behind the other where C expects them. They were checked. */
  #write(subject: Subject, owner: string): void {
    const staging = this.fleet.staging(TEXT_BYTES);
    this.#kindBytes = staging.write(subject.kind, 0);
    this.#labelBytes = staging.write(subject.label, this.#kindBytes);
    this.#ownerBytes = owner === "" ? 0 : staging.write(owner, this.#kindBytes + this.#labelBytes);
  }

  /** `false`: that tenure is over. */
  #tenure(result: number): boolean {
    if (result === -C.SB_ESTALE) return false;
    this.#check(result);
    return true;
  }

  #check(result: number): number {
    if (result >= 0) return result;
    if (result === -C.SB_EFULL) throw new LeaseTableFullError(this.fleet.name, this.fleet.geometry.leases);
    if (this.fleet.isObserver) throw isObserver();
    throw callError(result, `the leases of fleet "${this.fleet.name}"`);
  }

  #kind(): string {
    return this.#found.bytes.toString("utf8", at("sb_holder.kind"), at("sb_holder.kind") + this.#found.u16[U16.kind]!);
  }

  #label(): string {
    return this.#found.bytes.toString(
      "utf8",
      at("sb_holder.label"),
      at("sb_holder.label") + this.#found.u16[U16.label]!,
    );
  }

  #owner(): string {
    return this.#found.bytes.toString(
      "utf8",
      at("sb_holder.owner"),
      at("sb_holder.owner") + this.#found.u16[U16.owner]!,
    );
  }
}
