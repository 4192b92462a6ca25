/** Errors of the fleet, of events and of claims. */

import { define, inMs } from "./base.ts";

/**
 * No fleet of that name has a living member.
 * @cure Join instead of observing, or look in the directory that its members use.
 */
export class FleetNotFoundError extends define("FLEET_NOT_FOUND", (name: string, directory: string) => ({
  message: `no fleet called "${name}" in ${directory}.`,
  hint: "Join it (Fleet.join makes it), or look in the directory its members use.",
  retryable: true,
})) {}

/**
 * Every place of the fleet has a living member.
 * @cure Wait until one leaves, or end all and join with more `maxMembers`.
 */
export class FleetFullError extends define("FLEET_FULL", (name: string, members: number) => ({
  message: `fleet "${name}" has its ${members} members.`,
  hint: "Wait until one leaves, or end all members and join with more `maxMembers`.",
  retryable: true,
  fields: { members },
})) {}

/** In what a living fleet differs from what was asked for. */
export interface FleetDifference {
  /** `"maxMembers"`, `"maxLeases"`, `"rings.NAME"`, `"rings.NAME.frames"`, `"rings.NAME.frameBytes"`. */
  readonly what: string;
  readonly theirs: string;
  readonly ours: string;
}

/**
 * The living fleet of that name has other sizes than were asked for.
 * @cure Give all members the same sizes. New sizes hold when all have left.
 */
export class FleetGeometryError extends define(
  "FLEET_GEOMETRY",
  (name: string, differences: readonly FleetDifference[]) => {
    const shown = differences.map(({ what, theirs, ours }) => `${what}: theirs ${theirs}, ours ${ours}`);
    return {
      message: `fleet "${name}" lives with another geometry (${shown.join("; ")}).`,
      hint: "Join with the same options, or leave them out to take what is there.",
      fields: { differences },
    };
  },
) {}

/**
 * A member that is stopped (SIGSTOP, a debugger) holds a lock that is held for microseconds otherwise. The call waited for
 * it, and did nothing: 2 s for the lock of those who join and leave, 1 s for that of a ring or of the leases.
 * @cure Find the stopped member (state T in `ps`): continue or kill it. Then try again.
 */
export class FleetBusyError extends define("FLEET_BUSY", (what: string) => ({
  message: `${what} waits for a lock whose owner lives and does not go on.`,
  hint: "Continue or end that member; then the same call succeeds.",
  retryable: true,
})) {}

/**
 * A subscription with the policy `"close"` was full or too slow, and lost items.
 * @cure Read faster, raise `queue.limit`, give the ring more frames, or choose another policy.
 */
export class EventsLostError extends define("EVENTS_LOST", (lost: number) => ({
  message: `the subscription lost ${lost} item${lost === 1 ? "" : "s"} and was closed.`,
  hint: "Read faster, raise `queue.limit`, or give the ring more frames.",
  fields: {
    /** How many items were lost when it closed. */
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
 * The tenure of a guard ended without its `release()`. Work under it must stop; a fence refuses its token once there is another.
 * @cure Stop the work; claim again. Raise `ttl` if the process is only slow at times.
 */
export class LeaseLostError extends define(
  "LEASE_LOST",
  (subject: LeaseSubject, token: number, how: string, cause?: unknown) => ({
    message: `the lease of ${leaseName(subject)} (token ${token}) is lost: ${how}.`,
    hint: "Stop the work it protects; claim again.",
    retryable: true,
    cause,
    fields: { subject, token },
  }),
) {}

/**
 * Every lease of the fleet is held; none is taken away for another.
 * @cure Release what is done, or start the fleet with more `maxLeases`; `slotbus claims ls` lists them.
 */
export class LeaseTableFullError extends define("LEASE_TABLE_FULL", (name: string, leases: number) => ({
  message: `all ${leases} leases of fleet "${name}" are held.`,
  hint: "Release some, or end all members and join with more `maxLeases`.",
  retryable: true,
  fields: { leases },
})) {}

/**
 * A tenure was to be adopted or released by an owner that did not claim it.
 * @cure Release with that owner, or `slotbus claims release --force`.
 */
export class LeaseOwnerError extends define("LEASE_OWNER", (holder: LeaseHolder, asked: string) => {
  const lease = `${leaseName(holder.subject)} (token ${holder.token})`;
  return {
    message: `${lease} is held by ${holderName(holder)}, not by ${JSON.stringify(asked)}.`,
    hint: "Pass that `owner`, or `force: true` to release what is another's.",
    fields: {
      /** Who holds it. */
      owner: holder.owner,
    },
  };
}) {}

/**
 * A claim waited for as long as it was to, and another held the lease all the time.
 * @cure `holder` says who has it. Wait longer, or end that process: its leases are free at once.
 */
export class ClaimTimeoutError extends define(
  "CLAIM_TIMEOUT",
  (subject: LeaseSubject, timeoutMs: number, holder: LeaseHolder) => ({
    message: `${leaseName(subject)} was not free for ${inMs(timeoutMs)}; ${holderName(holder)} holds it.`,
    hint: "Try again, or raise `timeout`.",
    retryable: true,
    fields: {
      /** Who held it at the end. */
      holder,
    },
  }),
) {}
