/** Compares the contracts of client and worker. */

import type { ContractDifference } from "../errors.ts";
import { type ContractMethod, FINGERPRINT_FIELDS } from "./contract.ts";

/** Compares two fingerprints. Schemas differ only if both come from the same vendor and both have a digest. */
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

/** Compares one schema, or a list with one schema per error code. */
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
    return field; // not our encoding: shown as it is
  }
}

/** Returns which of our methods the worker lacks or declares differently; `theirs`: fingerprints of its methods by name. */
export function compareMethods(
  ours: readonly ContractMethod[],
  theirs: unknown,
): { missing: string[]; different: string[] } {
  const missing: string[] = [];
  const different: string[] = [];
  if (typeof theirs !== "object" || theirs === null) return { missing, different };
  for (const { name, fingerprint } of ours) {
    const their = (theirs as Record<string, unknown>)[name];
    if (typeof their !== "string") missing.push(name);
    else if (their !== fingerprint && compare(fingerprint, their).length > 0) different.push(name);
  }
  return { missing, different };
}
