/** Errors of fleets, events and claims. */

import { define, inMs } from "./base.ts";

/**
 * There is no fleet with this name in the directory.
 * @cure Join instead of observing, or use the directory that its members use.
 */
export class FleetNotFoundError extends define("FLEET_NOT_FOUND", (name: string, directory: string) => ({
  message: `Cannot find fleet "${name}" in ${directory}.`,
  hint: "Create it with Fleet.join, or use the directory that its members use.",
  retryable: true,
})) {}

/**
 * The fleet already has `maxMembers` living members.
 * @cure Wait until one leaves, or stop all members and join with a larger `maxMembers`.
 */
export class FleetFullError extends define("FLEET_FULL", (name: string, members: number) => ({
  message: `Fleet "${name}" is full: it has ${members} members.`,
  hint: "Wait until one leaves, or stop all members and join with a larger `maxMembers`.",
  retryable: true,
  fields: { members },
})) {}

/** One difference between a running fleet and the options of a join. */
export interface FleetDifference {
  /** `"maxMembers"`, `"maxLeases"`, `"rings.NAME"`, `"rings.NAME.frames"`, `"rings.NAME.frameBytes"`. */
  readonly what: string;
  readonly theirs: string;
  readonly ours: string;
}

/**
 * The running fleet has other sizes than the options of this join.
 * @cure Give all members the same sizes. To change the sizes, stop all members first.
 */
export class FleetGeometryError extends define(
  "FLEET_GEOMETRY",
  (name: string, differences: readonly FleetDifference[]) => {
    const shown = differences.map(
      ({ what, theirs, ours }) => `${what}: the fleet has ${theirs}, this call asks for ${ours}`,
    );
    return {
      message: `Fleet "${name}" is already running with other sizes (${shown.join("; ")}).`,
      hint: "Join with the same options, or leave them out to use the sizes of the running fleet.",
      fields: { differences },
    };
  },
) {}

/**
 * A member was stopped (SIGSTOP, a debugger) while it held a lock. The call timed out on that lock and did nothing:
 * after 2 s for a join, after 1 s for a ring or the leases.
 * @cure Find the stopped member (state T in `ps`) and continue or kill it. Then retry.
 */
export class FleetBusyError extends define("FLEET_BUSY", (what: string) => ({
  message: `${what}: timed out waiting for a lock that a stopped member holds.`,
  hint: "Continue or kill the stopped member, then retry.",
  retryable: true,
})) {}

/**
 * A subscription with the policy `"close"` was too slow and lost items.
 * @cure Read faster, raise `queue.limit`, give the ring more frames, or choose another policy.
 */
export class EventsLostError extends define("EVENTS_LOST", (lost: number) => ({
  message: `The subscription lost ${lost} item${lost === 1 ? "" : "s"} and was closed.`,
  hint: "Read faster, raise `queue.limit`, or give the ring more frames.",
  fields: {
    /** Number of items that were lost. */
    lost,
  },
})) {}

interface LeaseSubject {
  readonly kind: string;
  readonly label: string;
}

interface LeaseHolder {
  readonly subject: LeaseSubject;
  readonly owner: string;
  readonly token: number;
  readonly pid: number;
}

function leaseName({ kind, label }: LeaseSubject): string {
  return `${JSON.stringify(kind)} ${JSON.stringify(label)}`;
}

function holderName({ owner, pid }: LeaseHolder): string {
  return `${JSON.stringify(owner)} (pid ${pid})`;
}

/**
 * The lease of a guard ended without its `release()`. A fence rejects its token as soon as it has seen a newer one.
 * @cure Stop the work; claim again. Raise `ttl` if the process is only slow at times.
 */
export class LeaseLostError extends define(
  "LEASE_LOST",
  (subject: LeaseSubject, token: number, how: string, cause?: unknown) => ({
    message: `The lease of ${leaseName(subject)} (token ${token}) is lost: ${how}.`,
    hint: "Stop the work that it protects, then claim again.",
    retryable: true,
    cause,
    fields: { subject, token },
  }),
) {}

/**
 * All `maxLeases` leases of the fleet are held.
 * @cure Release leases that are no longer needed (`slotbus claims ls` lists them), or start the fleet with a larger
 * `maxLeases`.
 */
export class LeaseTableFullError extends define("LEASE_TABLE_FULL", (name: string, leases: number) => ({
  message: `All ${leases} leases of fleet "${name}" are held.`,
  hint: "Release some, or stop all members and join with a larger `maxLeases`.",
  retryable: true,
  fields: { leases },
})) {}

/**
 * The lease to adopt or release belongs to another owner.
 * @cure Pass the owner that claimed it, or run `slotbus claims release --force`.
 */
export class LeaseOwnerError extends define("LEASE_OWNER", (holder: LeaseHolder, asked: string) => {
  const lease = `${leaseName(holder.subject)} (token ${holder.token})`;
  return {
    message: `${lease} is held by ${holderName(holder)}, not by ${JSON.stringify(asked)}.`,
    hint: "Pass that `owner`, or `force: true` to release another owner's lease.",
    fields: {
      /** Owner that holds the lease. */
      owner: holder.owner,
    },
  };
}) {}

/**
 * The claim timed out while another owner held the lease.
 * @cure Wait longer, or stop the process in `holder`: its leases are free at once.
 */
export class ClaimTimeoutError extends define(
  "CLAIM_TIMEOUT",
  (subject: LeaseSubject, timeoutMs: number, holder: LeaseHolder) => ({
    message: `The claim of ${leaseName(subject)} timed out after ${inMs(timeoutMs)}; ${holderName(holder)} holds the lease.`,
    hint: "Try again, or raise `timeout`.",
    retryable: true,
    fields: {
      /** Holder of the lease when the claim timed out. */
      holder,
    },
  }),
) {}
