/** What lies in the runtime directory, and whose it is. Nothing is locked, written or removed here. */

import { closeSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openDirectory, probeName } from "../native/directory.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { readText } from "./usage.ts";

/** A process as `/proc` shows it. */
export interface ProcessInfo {
  readonly pid: number;
  readonly uid: number;
  readonly command: string;
  /** SIGSTOP, a debugger. */
  readonly isStopped: boolean;
}

/** A name that a client has, or had. */
export interface BusName {
  readonly name: string;
  /** By its lock, which the kernel drops with its process. */
  readonly isAlive: boolean;
  /** It has HTTP in front: `slotbus/hub`. */
  readonly isHub: boolean;
  /** The process id that the client wrote into its lock file; 0: none can be read. */
  readonly pid: number;
  readonly owner: ProcessInfo | null;
  /** Why it cannot be judged; then `isAlive` is `true`. */
  readonly problem: string | null;
}

export interface Names {
  readonly directory: string;
  readonly buses: readonly BusName[];
  readonly fleets: readonly string[];
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

/** `bun shop.ts` of `/usr/bin/bun /home/me/shop.ts`. */
export function shortCommand({ command }: Pick<ProcessInfo, "command">): string {
  return command
    .split(" ")
    .slice(0, 3)
    .map((word) => (word.startsWith("/") ? word.slice(word.lastIndexOf("/") + 1) : word))
    .join(" ");
}

/** The names in a runtime directory, which may belong to another user when it is given. @throws `PERMISSION_DENIED`, {InvalidConfigError}. */
export function readNames(given: string | undefined): Names {
  const directory = resolveDirectory(given);
  const dir = openDirectory(directory, { shared: given !== undefined });
  if (dir === null) return { directory, buses: [], fleets: [] };
  try {
    const files = readdirSync(directory).sort();
    const ending = (suffix: string): string[] =>
      files.filter((file) => file.endsWith(suffix)).map((file) => file.slice(0, -suffix.length));
    const names = new Set([...ending(".lock"), ...ending(".sock")]);
    const buses = [...names].map((name) => {
      const probed = probeName(dir, name);
      const pid = Number.parseInt(readText(join(directory, `${name}.lock`)), 10) || 0;
      const owner = probed.isAlive ? processInfo(pid) : null;
      return { name, ...probed, isHub: files.includes(`${name}.control`), pid, owner };
    });
    return { directory, buses, fleets: ending(".fleet") };
  } finally {
    closeSync(dir);
  }
}
