/** What lies in the runtime directory, and whose it is. Nothing is locked, written or removed here. */

import { closeSync, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { openDirectory, probeName } from "../native/directory.ts";
import { resolveDirectory } from "../runtime-directory.ts";

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
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const state = stat.slice(stat.lastIndexOf(")") + 2)[0];
    const command = words.length === 0 ? readFileSync(`/proc/${pid}/comm`, "utf8").trim() : words.join(" ");
    return {
      pid,
      uid: statSync(`/proc/${pid}`).uid,
      command,
      isStopped: state === "T" || state === "t",
    };
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

/** The names in a runtime directory, which may belong to another user when it is given. @throws {PermissionDeniedError}, {InvalidConfigError}. */
export function readNames(given: string | undefined): Names {
  const directory = resolveDirectory(given);
  const dir = openDirectory(directory, { shared: given !== undefined });
  if (dir === null) return { directory, buses: [], fleets: [] };
  try {
    const files = readdirSync(directory).sort();
    const ending = (suffix: string): string[] =>
      files.filter((file) => file.endsWith(suffix)).map((file) => file.slice(0, -suffix.length));
    const names = new Set([...ending(".lock"), ...ending(".sock")]);
    return {
      directory,
      buses: [...names].map((name) => readBus(dir, directory, name)),
      fleets: ending(".fleet"),
    };
  } finally {
    closeSync(dir);
  }
}

function readBus(dir: number, directory: string, name: string): BusName {
  const { isAlive, problem } = probeName(dir, name);
  return {
    name,
    isAlive,
    isHub: existsSync(join(directory, `${name}.control`)),
    owner: isAlive ? processInfo(ownerOf(directory, name)) : null,
    problem,
  };
}

/** The pid that the owner wrote into its lock file; 0: none can be read. */
export function ownerOf(directory: string, name: string): number {
  try {
    return Number.parseInt(readFileSync(join(directory, `${name}.lock`), "latin1"), 10) || 0;
  } catch {
    return 0;
  }
}
