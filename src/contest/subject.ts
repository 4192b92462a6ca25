/** What is competed for, by whom and for how long; and the one error each wrong value gets. */

import { checkText, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { LEASE_LIMITS, type Subject } from "../native/lease.ts";

/** Longest lease and longest timeout: 49.7 days. */
export const MAX_MS = 0xffff_ffff;

export function checkSubject(subject: Subject): void {
  if (typeof subject !== "object" || subject === null) {
    throw new InvalidConfigError(`a subject is ${shown(subject)}; it must be { kind, label }.`);
  }
  checkText("subject.kind", subject.kind, LEASE_LIMITS.kind);
  checkText("subject.label", subject.label, LEASE_LIMITS.label);
}

export function checkOwner(owner: string): void {
  checkText("owner", owner, LEASE_LIMITS.owner);
}

export function checkTtl(ttl: number): void {
  if (typeof ttl === "number" && ttl > 0 && ttl <= MAX_MS) return;
  throw new InvalidConfigError(`ttl is ${shown(ttl)}; it must be above 0 and at most ${MAX_MS} ms (49 days).`);
}
