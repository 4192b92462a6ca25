/** Checks of subjects, owners and ttls. */

import { checkText, shown } from "../check.ts";
import { refuse, TIMEOUT_MAX } from "../options.ts";
import { InvalidConfigError } from "../errors.ts";
import { LEASE_LIMITS, type Subject } from "../native/lease.ts";

/** Range of a ttl, as errors and docs show it. */
export const TTL = `above 0 and at most ${TIMEOUT_MAX} ms`;

export function checkSubject(subject: Subject): void {
  if (typeof subject !== "object" || subject === null) {
    throw new InvalidConfigError(`subject is ${shown(subject)}; it must be an object { kind, label }.`);
  }
  checkText("subject.kind", subject.kind, LEASE_LIMITS.kind);
  checkText("subject.label", subject.label, LEASE_LIMITS.label);
}

export function checkOwner(owner: unknown): string {
  return checkText("owner", owner, LEASE_LIMITS.owner);
}

export function checkTtl(ttl: unknown): number {
  return typeof ttl === "number" && ttl > 0 && ttl <= TIMEOUT_MAX ? ttl : refuse("ttl", ttl, TTL);
}
