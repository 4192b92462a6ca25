/** slotbus/contest: leases that one process of a fleet holds at a time. */

export { type Claimed, Contest } from "./contest.ts";
export { Fleet } from "../fleet/fleet.ts";
export type { FleetOptions, FleetVia, PortableFleetOptions } from "../fleet/options.ts";
export type { PortableFleet } from "../fleet/portable.ts";
export { Fence } from "./fence.ts";
export { Guard } from "./guard.ts";
export type {
  AdoptOptions,
  ClaimOptions,
  ContestOptions,
  FenceOptions,
  PortableContestOptions,
  ReleaseOptions,
  TryClaimOptions,
  WatchOptions,
} from "./options.ts";
export type { PortableContest, PortableGuard, PortableLeaseWatch, YieldTo } from "./portable.ts";
export { type LeaseChange, LeaseWatch } from "./watch.ts";
export type { Holder, Subject } from "../native/lease.ts";
export * from "../errors.ts";
