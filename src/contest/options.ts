/** Options of contests, claims and fences. */

import {
  boolean,
  custom,
  type Given,
  integer,
  needed,
  Options,
  optional,
  refuse,
  row,
  signal,
  timeout,
} from "../options.ts";
import { aFleet } from "../fleet/fleet.ts";
import { checkOwner, checkTtl, TTL } from "./subject.ts";

const owner = custom<string>(undefined, "1 to 64 bytes", checkOwner, "process-<pid>");

const contestRows = {
  /** Whose leases are claimed. */
  fleet: aFleet,
  /** Name of this process's claims, unless a claim has its own: 1 to 64 bytes. */
  owner,
  /** Returns the milliseconds of a clock that never goes back, 0 or more; the same clock in every process. For tests. */
  now: optional(
    row<() => number>(undefined, "a function", (now, name) =>
      typeof now === "function" ? (now as () => number) : refuse(name, now, "a function that returns milliseconds"),
    ),
    "the monotonic clock",
  ),
};

/** Whose leases are claimed, and by whom. */
export interface ContestOptions extends Given<typeof contestRows> {}

/** @internal */
export const contestOptions = new Options("a contest", contestRows);

const renew = boolean(false);

const tryClaimRows = {
  /** 1 to 64 bytes; for people, and for `adopt` and `release` of an observed holder. */
  owner,
  /** How long the lease lasts, in ms. */
  ttl: needed(custom<number>(undefined, TTL, checkTtl)),
  /**
   * Renews the lease each third of its ttl, until it is released, lost, or the process ends. The contest refers to the
   * guard as long.
   */
  renew,
};

/** How a subject is held once it is claimed. */
export interface TryClaimOptions extends Given<typeof tryClaimRows> {}

/** @internal */
export const tryClaimOptions = new Options("a claim", tryClaimRows);

const claimRows = {
  ...tryClaimRows,
  /** Longest wait, in ms. `Infinity` waits without a limit, 0 does not wait. */
  timeout: timeout(Infinity, 0),
  /** Ends the wait; the claim rejects with `signal.reason`. */
  signal,
};

/** How a claim that waits is held, and for how long it waits. */
export interface ClaimOptions extends Given<typeof claimRows> {}

/** @internal */
export const claimOptions = new Options("a claim", claimRows);

const watchRows = {
  /** Ends the watch; reading rejects with `signal.reason`. */
  signal,
};

/** What ends a watch of leases. */
export interface WatchOptions extends Given<typeof watchRows> {}

/** @internal */
export const watchOptions = new Options("a watch", watchRows);

const adoptRows = {
  /** Who adopts: the owner that claimed. */
  owner,
  /** The default of the guard's `renew`, in ms. */
  ttl: optional(custom<number>(undefined, TTL, checkTtl), "that of the lease, at most"),
  /** Renews the lease each third of its ttl. */
  renew,
};

/** Who adopts a tenure, and how it goes on. */
export interface AdoptOptions extends Given<typeof adoptRows> {}

/** @internal */
export const adoptOptions = new Options("an adoption", adoptRows);

const releaseRows = {
  /** Who releases: the owner that claimed. */
  owner,
  /** Releases also what another owner holds. */
  force: boolean(false),
};

/** Whose tenure may be ended. */
export interface ReleaseOptions extends Given<typeof releaseRows> {}

/** @internal */
export const releaseOptions = new Options("a release", releaseRows);

const fenceRows = {
  /** Highest token of an earlier fence, as it was persisted. */
  highWater: integer(0, 0, Number.MAX_SAFE_INTEGER),
};

/** Where a fence begins. */
export interface FenceOptions extends Given<typeof fenceRows> {}

/** @internal */
export const fenceOptions = new Options("a fence", fenceRows);
