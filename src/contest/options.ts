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
import type { PortableFleet } from "../fleet/portable.ts";
import { checkOwner, checkTtl, TTL } from "./subject.ts";

const owner = custom<string>(undefined, "1 to 64 bytes", checkOwner, "process-<pid>");

const contestRows = {
  /** The fleet whose leases are claimed. */
  fleet: aFleet,
  /** Default owner of claims: 1 to 64 bytes. A claim can name another owner. */
  owner,
  /** Monotonic clock for tests: returns ms, 0 or more. All processes of the fleet must use the same clock. */
  now: optional(
    row<() => number>(undefined, "a function", (now, name) =>
      typeof now === "function" ? (now as () => number) : refuse(name, now, "a function that returns milliseconds"),
    ),
    "the monotonic clock",
  ),
};

/** Fleet and default owner of a contest. */
export interface ContestOptions extends Given<typeof contestRows> {}

/** Fleet of any engine, and default owner of a contest. */
export interface PortableContestOptions extends Omit<ContestOptions, "fleet"> {
  /** The fleet whose leases are claimed. */
  fleet: PortableFleet;
}

/** @internal */
export const contestOptions = new Options("a contest", contestRows);

const renew = boolean(false);

const tryClaimRows = {
  /** Name of the owner, 1 to 64 bytes: for logs, and to check who may `adopt` or `release` the lease. */
  owner,
  /** Duration of the lease, in ms, unless it is renewed. */
  ttl: needed(custom<number>(undefined, TTL, checkTtl)),
  /** Renews the lease every third of its ttl until it is released or lost. Keeps the guard from garbage collection. */
  renew,
};

/** Owner and duration of a lease. */
export interface TryClaimOptions extends Given<typeof tryClaimRows> {}

/** @internal */
export const tryClaimOptions = new Options("a claim", tryClaimRows);

const claimRows = {
  ...tryClaimRows,
  /** Longest wait for the lease, in ms. `Infinity`: no limit. 0: does not wait. */
  timeout: timeout(Infinity, 0),
  /** Cancels the wait: the claim rejects with `signal.reason`. */
  signal,
};

/** Owner and duration of a lease, and how long to wait for it. */
export interface ClaimOptions extends Given<typeof claimRows> {}

/** @internal */
export const claimOptions = new Options("a claim", claimRows);

const watchRows = {
  /** Closes the watch when it aborts; reading then rejects with `signal.reason`. */
  signal,
};

/** Options of a lease watch. */
export interface WatchOptions extends Given<typeof watchRows> {}

/** @internal */
export const watchOptions = new Options("a watch", watchRows);

const adoptRows = {
  /** The owner that claimed the lease. */
  owner,
  /** Default of the guard's `renew()`, in ms. Pass it if the lease was renewed: `expiresAt - claimedAt` grows then. */
  ttl: optional(custom<number>(undefined, TTL, checkTtl), "expiresAt - claimedAt"),
  /** Renews the lease every third of its ttl. */
  renew,
};

/** Who adopts a lease, and how it is renewed. */
export interface AdoptOptions extends Given<typeof adoptRows> {}

/** @internal */
export const adoptOptions = new Options("adopt()", adoptRows);

const releaseRows = {
  /** The owner that claimed the lease, unless `force` is set. */
  owner,
  /** Releases the lease even if another owner claimed it. */
  force: boolean(false),
};

/** Whose lease may be released. */
export interface ReleaseOptions extends Given<typeof releaseRows> {}

/** @internal */
export const releaseOptions = new Options("release()", releaseRows);

const fenceRows = {
  /** Highest token that an earlier fence admitted, if you have stored it. */
  highWater: integer(0, 0, Number.MAX_SAFE_INTEGER),
};

/** Start value of a fence. */
export interface FenceOptions extends Given<typeof fenceRows> {}

/** @internal */
export const fenceOptions = new Options("a fence", fenceRows);
