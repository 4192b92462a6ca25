/** slotbus/contest: claim or yield between equal processes of one machine. */

export {
  type AdoptOptions,
  type Claimed,
  type ClaimOptions,
  Contest,
  type ContestOptions,
  type ReleaseOptions,
  type TryClaimOptions,
  type YieldTo,
} from "./contest.ts";
export { Fleet, type FleetOptions } from "../fleet/fleet.ts";
export { Fence } from "./fence.ts";
export { Guard } from "./guard.ts";
export type { Holder, Subject } from "../native/lease.ts";
