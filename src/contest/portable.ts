/** Contests of any engine. Use these types if your program may move to another engine later. */

import type { Holder, Subject } from "../native/lease.ts";
import type { AdoptOptions, ClaimOptions, ReleaseOptions, TryClaimOptions, WatchOptions } from "./options.ts";
import type { LeaseChange } from "./watch.ts";

/** A {@link Guard} of any engine. Its methods may return a promise: `await` their results. */
export interface PortableGuard extends AsyncDisposable {
  readonly subject: Subject;
  readonly owner: string;
  readonly token: number;
  readonly claimId: string;
  readonly claimedAt: number;
  readonly expiresAt: number;
  readonly holder: Holder;
  readonly signal: AbortSignal;
  renew(ttl?: number): boolean | Promise<boolean>;
  release(): boolean | Promise<boolean>;
}

/** Result of a `tryClaim` that did not get the lease. */
export interface YieldTo {
  readonly claimed: false;
  /** The present holder. */
  readonly holder: Holder;
}

/** A {@link LeaseWatch} of any engine. */
export interface PortableLeaseWatch extends AsyncIterable<LeaseChange>, AsyncDisposable {
  readonly closed: boolean;
  close(): void | Promise<void>;
}

type Attempt = { readonly claimed: true; readonly guard: PortableGuard } | YieldTo;

/** A {@link Contest} of any engine. Its methods may return a promise: `await` their results. */
export interface PortableContest extends AsyncDisposable {
  readonly owner: string;
  readonly closed: boolean;
  now(): number | Promise<number>;
  tryClaim(subject: Subject, options: TryClaimOptions): Attempt | Promise<Attempt>;
  claim(subject: Subject, options: ClaimOptions): Promise<PortableGuard>;
  holder(subject: Subject): Holder | null | Promise<Holder | null>;
  list(): Holder[] | Promise<Holder[]>;
  watch(subject: Subject, options?: WatchOptions): PortableLeaseWatch | Promise<PortableLeaseWatch>;
  watchAll(options?: WatchOptions): PortableLeaseWatch | Promise<PortableLeaseWatch>;
  adopt(holder: Holder, options?: AdoptOptions): PortableGuard | null | Promise<PortableGuard | null>;
  release(holder: Holder, options?: ReleaseOptions): boolean | Promise<boolean>;
  reset(): void | Promise<void>;
  close(): Promise<void>;
}
