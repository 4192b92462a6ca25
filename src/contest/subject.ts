/** What is competed for, by whom and for how long; and the one error each wrong value gets. */

import { checkText, shown } from "../check.ts";
import { InvalidConfigError } from "../errors.ts";
import { C } from "../native/library.ts";

/** Two subjects compete when kind and label are equal, byte for byte. */
export interface Subject {
  /** What sort of thing it is: 1 to 64 bytes of UTF-8, without NUL. */
  readonly kind: string;
  /** Which one: 1 to 192 bytes of UTF-8, without NUL. */
  readonly label: string;
}

/** Longest lease and longest timeout: 49.7 days. */
export const MAX_MS = 0xffff_ffff;

export function checkSubject(subject: Subject): void {
  if (typeof subject !== "object" || subject === null) {
    throw new InvalidConfigError(`a subject is ${shown(subject)}; it must be { kind, label }.`);
  }
  checkText("subject.kind", subject.kind, C.SB_KIND_MAX);
  checkText("subject.label", subject.label, C.SB_LABEL_MAX);
}

export function checkOwner(owner: string): void {
  checkText("owner", owner, C.SB_OWNER_MAX);
}

export function checkTtl(ttl: number): void {
  if (typeof ttl === "number" && ttl > 0 && ttl <= MAX_MS) return;
  throw new InvalidConfigError(`ttl is ${shown(ttl)}; it must be above 0 and at most ${MAX_MS} ms (49 days).`);
}
