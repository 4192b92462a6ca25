/** The labels of the fleet, what makes each be passed, and which faults it can have there. */

import { type Fault, FAULTS, type Label, labelsOf } from "../../points/labels.ts";

/**
 * What is done while a fault is armed in the victim, which is a member beside a witness:
 *
 * - `publish`, `crowd`: it publishes to readers that sleep; and the witness publishes too.
 * - `claims`: it claims, renews and releases, and the witness waits for it.
 * - `seize`: it ends the tenure of another, for which the witness waits.
 * - `park`, `wait`: it reads and falls asleep; it waits for a lease.
 * - `contend`: it wants a lock whose owner is stopped for a moment.
 * - `repair`, `takeover`, `adopt`: it comes upon the lock of a member that was killed, as the next that wants it, as a
 *   sleeping reader, or as the next that gets the dead one's index.
 * - `join`: the witness is there. `hear`: it falls asleep for the first time then. `create`: there is no file. `orphan`: there is one of the dead.
 * - `leave`: the witness stays. `last`: it has left before.
 * - `reset`: it is alone. `memory`: it joins a fleet in memory that all have left.
 */
export type Act =
  | "publish"
  | "crowd"
  | "claims"
  | "seize"
  | "park"
  | "wait"
  | "contend"
  | "repair"
  | "takeover"
  | "adopt"
  | "join"
  | "hear"
  | "create"
  | "orphan"
  | "leave"
  | "last"
  | "reset"
  | "memory";

/** One label as it is passed in one act. */
export interface FleetPoint {
  readonly label: string;
  readonly act: Act;
  readonly fails: boolean;
  /** A lock is held there: of a ring, of the leases, or of those who join. */
  readonly locked: boolean;
}

/** Columns of the histogram. */
export const FLEET_FAULTS = [...FAULTS, "hang"] as const;

/** By `side.operation.moment` or `side.operation`. */
const ACTS: Record<string, readonly Act[]> = {
  "fleet.byte": ["join"],
  "fleet.event": ["hear"],
  "fleet.file": ["create", "orphan"],
  "fleet.file.open": ["join"],
  "fleet.index": ["join"],
  "fleet.join": ["join", "orphan"],
  "fleet.leave": ["leave", "last"],
  "fleet.lock": ["contend"],
  "fleet.member": ["join", "create"],
  "fleet.place": ["create", "orphan"],
  "fleet.renew": ["memory"],
  "fleet.unlock": ["publish", "crowd", "claims", "seize"],
  "fleet.wake": ["publish", "crowd", "claims", "seize"],
  "lease.claim": ["claims"],
  "lease.entry": ["claims", "seize"],
  "lease.free": ["claims", "seize"],
  "lease.park": ["wait"],
  "lease.release": ["claims", "seize"],
  "lease.renew": ["claims"],
  "lease.repair": ["repair", "adopt"],
  "lease.reset": ["reset"],
  "lease.table": ["claims", "seize"],
  "lease.token": ["claims"],
  "ring.frame": ["publish", "crowd"],
  "ring.park": ["park"],
  "ring.publish": ["publish", "crowd"],
  "ring.repair": ["repair", "takeover", "adopt"],
};

/** Where a lock is held: operation, moments, and the act when it is not so in all. */
const LOCKED = new Set(
  [
    "ring.publish: locked counted woken published",
    "ring.frame: begun filled written",
    "ring.repair: before after",
    "fleet.wake: before named changed woken: publish",
    "fleet.wake: before named changed woken: crowd",
    "lease.table: locked unlocking",
    "lease.entry: opened emptied written shut",
    "lease.claim: filled shown",
    "lease.token: taken",
    "lease.free: after",
    "lease.renew: stored",
    "lease.repair: before after",
    "fleet.join: locked judged",
    "fleet.index: counted locked",
    "fleet.member: before repaired after: join",
    "fleet.file: made locked reserved filled: orphan",
    "fleet.place: before: orphan",
    "fleet.place: after",
    "fleet.leave: locked",
    "fleet.leave: removed: leave",
  ].flatMap((line) => {
    const [operation, moments, act] = line.split(": ");
    return moments!.split(" ").map((moment) => `${operation}.${moment}${act ? ` ${act}` : ""}`);
  }),
);

/** What is to be met of the fleet; a label of several acts counts several times. */
export function fleetPoints(labels: readonly Label[] = labelsOf("fleet")): FleetPoint[] {
  return labels.flatMap(({ label, fails }) => {
    const acts = ACTS[label] ?? ACTS[label.slice(0, label.lastIndexOf("."))] ?? [];
    return acts.map((act) => ({ label, act, fails, locked: LOCKED.has(label) || LOCKED.has(`${label} ${act}`) }));
  });
}

/** What a point can have. */
export function faultsOf({ fails, locked }: FleetPoint): Fault[] {
  return FLEET_FAULTS.filter((fault) => (fault !== "error" || fails) && (fault !== "hang" || locked));
}

/** What a join, or the first sleep, fails with when the system call behind the label does. */
export const REFUSALS: Record<string, string> = {
  "fleet.byte.lock": "RESOURCE",
  "fleet.event.open": "RESOURCE",
  "fleet.file.fill": "NO_SPACE",
  "fleet.file.make": "RESOURCE",
  "fleet.file.open": "RESOURCE",
  "fleet.file.place": "RESOURCE",
  "fleet.file.reserve": "NO_SPACE",
};
