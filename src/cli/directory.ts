/** Reads the names in the runtime directory and their owners. Locks, writes and removes nothing. */

import { closeSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { clientsOf, openDirectory, probeName } from "../native/directory.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { readText } from "./usage.ts";

/** A process as `/proc` shows it. */
export interface ProcessInfo {
  readonly pid: number;
  readonly uid: number;
  readonly command: string;
  /** Stopped by SIGSTOP or a debugger. */
  readonly isStopped: boolean;
}

/** The name of a bus or hub, in use or left over. */
export interface BusName {
  readonly name: string;
  /** Numbers of the live clients of a shared bus; none for an owner. */
  readonly clients: readonly number[];
  /** Whether its lock is held; the kernel releases it when the process ends. */
  readonly isAlive: boolean;
  /** Whether it is a hub (`slotbus/hub`). */
  readonly isHub: boolean;
  /** Process id that the client wrote into its lock file; 0: unknown. */
  readonly pid: number;
  readonly owner: ProcessInfo | null;
  /** Why its lock cannot be checked; then `isAlive` is `true`. */
  readonly problem: string | null;
}

export interface Names {
  readonly directory: string;
  readonly buses: readonly BusName[];
  readonly fleets: readonly string[];
  /** Names with files `NAME@…`: sockets of clients that share the name, and doors of workers. */
  readonly shared: readonly string[];
}

/** A file of a client that shares a name, or the door of a worker. */
const SHARED = /^([\w.-]+)@(?:\d+\.sock|[0-9a-f]+\.(?:door|new))$/;

/** Returns a bus that clients share, else `null`. They have no pid in the lock file: their statistics show it. */
function sharedBus(dir: number, name: string): BusName | null {
  const clients = clientsOf(dir, name);
  if (clients.length === 0) return null;
  return { name, clients, isAlive: true, isHub: false, pid: 0, owner: null, problem: null };
}

/** Returns a bus that clients share, else `null`. Throws like {@link readNames}. */
export function findShared(given: string | undefined, name: string): BusName | null {
  const dir = openDirectory(resolveDirectory(given), { shared: given !== undefined });
  if (dir === null) return null;
  try {
    return sharedBus(dir, name);
  } finally {
    closeSync(dir);
  }
}

export function processInfo(pid: number): ProcessInfo | null {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").filter(Boolean);
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    const [, name, state, uid] = /^Name:\t([^\n]*)\n.*^State:\t(.).*^Uid:\t\d+\t(\d+)/ms.exec(status)!;
    return { pid, uid: Number(uid), command: words.join(" ") || name!, isStopped: state === "T" || state === "t" };
  } catch {
    return null; // it ended, or is in another pid namespace
  }
}

/** Shortens `/usr/bin/bun /home/me/shop.ts` to `bun shop.ts`. */
export function shortCommand({ command }: Pick<ProcessInfo, "command">): string {
  return command
    .split(" ")
    .slice(0, 3)
    .map((word) => (word.startsWith("/") ? word.slice(word.lastIndexOf("/") + 1) : word))
    .join(" ");
}

/**
 * Returns the names in a runtime directory; `given` may belong to another user. @throws `PERMISSION_DENIED`,
 * {InvalidConfigError}
 */
export function readNames(given: string | undefined): Names {
  const directory = resolveDirectory(given);
  const dir = openDirectory(directory, { shared: given !== undefined });
  if (dir === null) return { directory, buses: [], fleets: [], shared: [] };
  try {
    const files = readdirSync(directory).sort();
    const ending = (suffix: string): string[] =>
      files.filter((file) => file.endsWith(suffix)).map((file) => file.slice(0, -suffix.length));
    const names = new Set([...ending(".lock"), ...ending(".sock").filter((name) => !name.includes("@"))]);
    const shared = new Set(files.map((file) => SHARED.exec(file)?.[1]).filter((name) => name !== undefined));
    const buses = [...names].map((name) => {
      const bus = sharedBus(dir, name);
      if (bus) return bus;
      const probed = probeName(dir, name);
      const pid = Number.parseInt(readText(join(directory, `${name}.lock`)), 10) || 0;
      const owner = probed.isAlive ? processInfo(pid) : null;
      return { name, clients: [], ...probed, isHub: files.includes(`${name}.control`), pid, owner };
    });
    return { directory, buses, fleets: ending(".fleet"), shared: [...shared] };
  } finally {
    closeSync(dir);
  }
}
