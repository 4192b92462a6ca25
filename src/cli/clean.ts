/** `slotbus clean`: removes files of dead processes. The proof of death is the lock that a new owner would take. */

import { closeSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { Fleet } from "../fleet/fleet.ts";
import { lockName, openDirectory, sweepName } from "../native/directory.ts";
import { removeFleet } from "../native/fleet.ts";
import { type BusName, readNames } from "./directory.ts";
import { count, print } from "./terminal.ts";
import { type CommonFlags, EXIT, newCommand, withDirectory, withJson } from "./usage.ts";

/** One finding, as printed in the JSON. */
export interface Cleaned {
  kind: "bus" | "fleet";
  name: string;
  /** `"kept"`: `reason` says why. */
  action: "removed" | "would remove" | "kept";
  reason: string;
}

export function command(): Command {
  const clean = newCommand("clean", "remove files of processes that have died", [
    "slotbus clean --dry-run",
    "slotbus clean",
  ]);
  return withDirectory(withJson(clean))
    .option("--dry-run", "print what would be removed, and remove nothing")
    .addHelpText(
      "after",
      "\nA process counts as dead when the kernel has released its lock: on NAME.lock for\na bus, on its byte of NAME.lock for a client that shares a bus, on the member's byte of\nNAME.fleet for a fleet. The door of a worker is dead when no process has it open.\nNames whose lock cannot be checked are kept; then the exit code is 1.",
    )
    .action(async ({ json, directory, dryRun }: CommonFlags & { dryRun?: boolean }) => {
      const cleaned = await cleanAll(directory, dryRun === true);
      print(json ? JSON.stringify({ cleaned }, null, 2) : report(cleaned));
      if (cleaned.some(({ action, reason }) => action === "kept" && !reason.startsWith(ALIVE)))
        process.exitCode = EXIT.failed;
    });
}

const ALIVE = "it is alive";

async function cleanAll(given: string | undefined, isDry: boolean): Promise<Cleaned[]> {
  const { directory, buses, fleets, shared } = readNames(given);
  const dir = openDirectory(directory, { shared: given !== undefined });
  if (dir === null) return [];
  try {
    const cleaned = buses.map((bus) => cleanBus(dir, directory, bus, isDry));
    cleaned.push(...shared.flatMap((name) => cleanShared(dir, name, isDry)));
    for (const name of fleets) cleaned.push(await cleanFleet(dir, directory, name, isDry));
    return cleaned;
  } finally {
    closeSync(dir);
  }
}

function kept(entry: Pick<Cleaned, "kind" | "name">, reason: string | null = null): Cleaned {
  return { ...entry, action: "kept", reason: reason ?? ALIVE };
}

/** Locks the name like a new client, so that a client that starts meanwhile is not harmed. */
function cleanBus(
  dir: number,
  directory: string,
  { name, clients, isAlive, pid, problem }: BusName,
  isDry: boolean,
): Cleaned {
  const entry = { kind: "bus", name } as const;
  if (clients.length > 0) return kept(entry, `${ALIVE}, with ${count(clients.length, "client")}`);
  if (isAlive) return kept(entry, problem);
  const reason = pid === 0 ? "nobody holds its lock" : `nobody holds its lock; its client was pid ${pid}`;
  if (isDry) return { ...entry, action: "would remove", reason };
  const lock = lockName(dir, name);
  if ("problem" in lock) return kept(entry, lock.problem);
  rmSync(join(directory, `${name}.control`), { force: true }); // for a hub; safe because we hold the name's lock
  lock.release();
  return { ...entry, action: "removed", reason };
}

/** Removes the files of dead clients and workers of a shared name, also beside those that live. */
function cleanShared(dir: number, name: string, isDry: boolean): Cleaned[] {
  const { files, problem } = sweepName(dir, name, !isDry);
  if (problem !== null) return [kept({ kind: "bus", name }, problem)];
  if (files === 0) return [];
  const reason = `${count(files, "file")} of dead clients or workers`;
  return [{ kind: "bus", name, action: isDry ? "would remove" : "removed", reason }];
}

/** Removes a fleet's file under its join lock. A process that joins meanwhile waits, and then creates a new file. */
async function cleanFleet(dir: number, directory: string, name: string, isDry: boolean): Promise<Cleaned> {
  const entry = { kind: "fleet", name } as const;
  try {
    const observed = await Fleet.observe({ name, directory });
    const isAlive = observed.members().length > 0;
    await observed.close();
    if (isAlive || !(isDry || removeFleet(dir, name))) return kept(entry);
    return { ...entry, action: isDry ? "would remove" : "removed", reason: "nobody holds a member's lock" };
  } catch (error) {
    return kept(entry, (error as Error).message);
  }
}

function report(cleaned: readonly Cleaned[]): string {
  if (cleaned.length === 0) return "There is nothing to clean.";
  return cleaned.map(({ kind, name, action, reason }) => `${action}: ${kind} ${name} (${reason})`).join("\n");
}
