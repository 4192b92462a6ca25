/** In what the two sides of a contract differ. */

import type { ContractDifference } from "../errors.ts";
import { type ContractMethod, FINGERPRINT_FIELDS } from "./contract.ts";

/** In what two fingerprints differ. Schemas differ only if both sides have one of a vendor whose schemas can be compared. */
export function compare(client: string, worker: string): ContractDifference[] {
  const theirs = client.split(";");
  const ours = worker.split(";");
  const differences: ContractDifference[] = [];
  for (const [index, what] of FINGERPRINT_FIELDS.entries()) {
    const a = theirs[index] ?? "";
    const b = ours[index] ?? "";
    if (a === b || (what.includes("schema") && !schemasDiffer(a, b))) continue;
    differences.push({ what, client: shown(a), worker: shown(b) });
  }
  return differences;
}

/** Of one schema, or as many as there are errors. */
function schemasDiffer(a: string, b: string): boolean {
  const theirs = a.split("%2C").map((schema) => schema.split("%3A"));
  const ours = b.split("%2C").map((schema) => schema.split("%3A"));
  if (theirs.length !== ours.length) return false;
  return theirs.some(([vendor, digest], at) => {
    const [ourVendor, ourDigest] = ours[at]!;
    return vendor === ourVendor && digest !== undefined && ourDigest !== undefined && digest !== ourDigest;
  });
}

function shown(field: string): string {
  try {
    return decodeURIComponent(field) || "none";
  } catch {
    return field; // a stranger's text
  }
}

/** Which of our methods a worker does not have, and which are others there; `theirs`: its methods with their fingerprints. */
export function compareMethods(
  ours: readonly ContractMethod[],
  theirs: unknown,
): { missing: string[]; different: string[] } {
  const missing: string[] = [];
  const different: string[] = [];
  if (typeof theirs !== "object" || theirs === null) return { missing, different };
  for (const { name, fingerprint } of ours) {
    const their: unknown = Object.hasOwn(theirs, name) ? (theirs as Record<string, unknown>)[name] : undefined;
    if (typeof their !== "string") missing.push(name);
    else if (their !== fingerprint && compare(fingerprint, their).length > 0) different.push(name);
  }
  return { missing, different };
}
