/** `slotbus clean`: removes what was left by processes that are proved dead, by the same locks as a new owner takes. */

import { closeSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { Fleet } from "../fleet/fleet.ts";
import { lockName, openDirectory } from "../native/directory.ts";
import { removeFleet } from "../native/fleet.ts";
import { type BusName, readNames } from "./directory.ts";
import { print } from "./terminal.ts";
import { type CommonFlags, EXIT, newCommand, withDirectory, withJson } from "./usage.ts";

/** What was found, as it stands in the JSON. */
export interface Cleaned {
  kind: "bus" | "fleet";
  name: string;
  /** `"kept"`: `reason` says why. */
  action: "removed" | "would remove" | "kept";
  reason: string;
}

export function command(): Command {
  const clean = newCommand("clean", "remove what processes that are dead have left", [
    "slotbus clean --dry-run",
    "slotbus clean",
  ]);
  return withDirectory(withJson(clean))
    .option("--dry-run", "say what would be removed")
    .addHelpText(
      "after",
      "\nProof is a lock that the kernel drops at any death: of a bus its NAME.lock, of a fleet\nthe bytes of its members. What cannot be judged is kept, and it exits with 1.",
    )
    .action(async ({ json, directory, dryRun }: CommonFlags & { dryRun?: boolean }) => {
      const cleaned = await cleanAll(directory, dryRun === true);
      print(json ? JSON.stringify({ cleaned }, null, 2) : report(cleaned));
      if (cleaned.some(({ action, reason }) => action === "kept" && reason !== ALIVE)) process.exitCode = EXIT.failed;
    });
}

const ALIVE = "it lives";

async function cleanAll(given: string | undefined, isDry: boolean): Promise<Cleaned[]> {
  const { directory, buses, fleets } = readNames(given);
  const dir = openDirectory(directory, { shared: given !== undefined });
  if (dir === null) return [];
  try {
    const cleaned = buses.map((bus) => cleanBus(dir, directory, bus, isDry));
    for (const name of fleets) cleaned.push(await cleanFleet(dir, directory, name, isDry));
    return cleaned;
  } finally {
    closeSync(dir);
  }
}

function kept(entry: Pick<Cleaned, "kind" | "name">, problem: string | null = null): Cleaned {
  return { ...entry, action: "kept", reason: problem ?? ALIVE };
}

/** Takes the name as a new client would; whoever has it then keeps it. */
function cleanBus(dir: number, directory: string, { name, isAlive, pid, problem }: BusName, isDry: boolean): Cleaned {
  const entry = { kind: "bus", name } as const;
  if (isAlive) return kept(entry, problem);
  const reason = pid === 0 ? "nobody has its lock" : `nobody has its lock; its client was pid ${pid}`;
  if (isDry) return { ...entry, action: "would remove", reason };
  const lock = lockName(dir, name);
  if ("problem" in lock) return kept(entry, lock.problem);
  rmSync(join(directory, `${name}.control`), { force: true }); // of a hub: the name is ours now
  lock.release();
  return { ...entry, action: "removed", reason };
}

/** Whoever joins meanwhile waits for the lock by which it is judged and removed, and makes another. */
async function cleanFleet(dir: number, directory: string, name: string, isDry: boolean): Promise<Cleaned> {
  const entry = { kind: "fleet", name } as const;
  try {
    const observed = await Fleet.observe({ name, directory });
    const isAlive = observed.members().length > 0;
    await observed.close();
    if (isAlive || !(isDry || removeFleet(dir, name))) return kept(entry);
    return { ...entry, action: isDry ? "would remove" : "removed", reason: "nobody has the lock of a member" };
  } catch (error) {
    return kept(entry, (error as Error).message);
  }
}

function report(cleaned: readonly Cleaned[]): string {
  if (cleaned.length === 0) return "Nothing is there.";
  return cleaned.map(({ kind, name, action, reason }) => `${action}: ${kind} ${name} (${reason})`).join("\n");
}
