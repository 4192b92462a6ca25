/**
 * Locks on a name for processes without the C library. Each kind of lock ends with the process.
 *
 *  - On Linux, slotbus-launcher takes the locks of the C library on `NAME.lock`, which this process has opened. Such a lock
 *    belongs to the open file: it stays when the launcher has ended.
 *  - On macOS, `open` takes a lock on the file, and each client of a shared name locks a file with its number.
 *  - On Linux without the launcher, a name is taken while the process holds a socket in the abstract namespace, and a name is
 *    held as long as its sockets can be connected to.
 */

import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  type Stats,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { SlotbusError } from "../errors.ts";
import { findLauncher } from "../native/find.ts";
import { CLIENTS_MAX, codeOf, failure, isNamed, type Place } from "./place.ts";
import { sockets } from "./socket/duplex.ts";

/** Why a name cannot be taken now. "again": it may be free at once. */
export type Refusal = "owned" | "shared" | "full" | "again";

/** A lock that this process holds. */
export interface Lock {
  /** Number of a client that shares the name; `null` for the owner. */
  readonly client: number | null;
  /** Call when the socket of the name can be connected to. */
  exposed(): void;
  /** Unlocks. Calls `sweep` before the last client of the name removes the lock file. */
  release(sweep: () => void): void;
}

/** Takes the lock alone, or for one of up to 64 clients. */
export async function takeLock(place: Place, name: string, how: "own" | "share"): Promise<Lock | Refusal> {
  if (process.platform === "darwin") return lockByOpen(place, name, how);
  const launcher = findLauncher();
  const lock = launcher === null ? null : lockByLauncher(launcher, place, name, how);
  return lock ?? (await lockBySockets(place, name, how));
}

// ---- files ----------------------------------------------------------------------------------------------------------

const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;

/** Opens a regular file of this user with one name. Any other file was put there by somebody. */
function openLock(path: string, more = 0): number {
  let fd: number;
  try {
    fd = openSync(path, flags | more, 0o600);
  } catch (error) {
    if (["ELOOP", "EISDIR", "EACCES"].includes(codeOf(error))) throw foreign(path);
    if (codeOf(error) === "EAGAIN") throw error; // locked
    throw failure(`Cannot open ${path}`, error);
  }
  const status = fstatSync(fd);
  if (status.isFile() && status.uid === process.geteuid?.() && status.nlink <= 1) return fd;
  closeSync(fd);
  throw foreign(path);
}

function foreign(path: string): SlotbusError {
  const file = path.slice(path.lastIndexOf("/") + 1);
  return new SlotbusError("PERMISSION_DENIED", `Cannot use ${file}: it is not a private regular file of this user.`, {
    hint: `Remove it; it must be a regular file of uid ${process.geteuid?.()} without other hard links.`,
  });
}

/** Writes the owner's process id, or nothing, into the lock file. */
function sign(fd: number, how: "own" | "share"): void {
  fchmodSync(fd, 0o600); // despite the umask
  ftruncateSync(fd, 0);
  if (how === "own") writeSync(fd, `${process.pid}\n`, 0);
}

/** The owner's process id in the lock file; 0 if it has none. */
export function ownerOf(place: Place, name: string): number {
  try {
    return Number.parseInt(readFileSync(`${place.path}/${name}.lock`, "latin1"), 10) || 0;
  } catch {
    return 0;
  }
}

function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {} // it is gone
}

// ---- by the launcher --------------------------------------------------------------------------------------------------

/** Exit codes of the launcher: see csrc/launcher/name.c. Lower ones are numbers of clients. */
const REFUSALS: Record<number, Refusal> = { 64: "owned", 65: "shared", 66: "again", 67: "full" };

/** Runs the launcher with a descriptor. Returns its exit code; `null` if it cannot run here. */
export function runLauncher(launcher: string, args: string[], fd: number): number | null {
  const { spawnSync } = process.getBuiltinModule("node:child_process");
  const { status } = spawnSync(launcher, args, { stdio: ["ignore", "ignore", "ignore", fd] });
  return status === null || status > 67 ? null : status;
}

/** Returns `null` if the launcher cannot run here. */
function lockByLauncher(launcher: string, place: Place, name: string, how: "own" | "share"): Lock | Refusal | null {
  const path = `${place.path}/${name}.lock`;
  const fd = openLock(path);
  const code = runLauncher(launcher, [`--${how}`], fd);
  const isTaken = code !== null && code < CLIENTS_MAX;
  if (!isTaken || !isNamed(path, fstatSync(fd))) {
    closeSync(fd);
    return code === null ? null : (REFUSALS[code] ?? "again");
  }
  sign(fd, how);
  return {
    client: how === "own" ? null : code,
    exposed: () => {},
    release: (sweep) => {
      const isLast = how === "own" || runLauncher(launcher, ["--leave"], fd) === 0;
      if (isLast && isNamed(path, fstatSync(fd))) {
        sweep();
        remove(path);
      }
      closeSync(fd);
    },
  };
}

// ---- by open, on macOS ------------------------------------------------------------------------------------------------

/** Flags of `open` on macOS, which Node does not name: lock shared, lock alone, do not wait for the lock. */
const [O_SHLOCK, O_EXLOCK, O_NONBLOCK] = [0x10, 0x20, 0x4];

/** Opens and locks a file; `null` if another process has locked it, or has just removed it. */
function openLocked(path: string, lock: number): number | null {
  try {
    const fd = openLock(path, lock | O_NONBLOCK);
    if (isNamed(path, fstatSync(fd))) return fd;
    closeSync(fd);
    return null;
  } catch (error) {
    if (codeOf(error) === "EAGAIN") return null;
    throw error;
  }
}

function lockByOpen(place: Place, name: string, how: "own" | "share"): Lock | Refusal {
  const path = `${place.path}/${name}.lock`;
  const fd = openLocked(path, how === "own" ? O_EXLOCK : O_SHLOCK);
  if (fd === null) return how === "share" ? "owned" : isShared(path) ? "shared" : "owned";
  if (how === "own") {
    sign(fd, how);
    const release = (sweep: () => void): void => {
      sweep();
      remove(path);
      closeSync(fd);
    };
    return { client: null, exposed: () => {}, release };
  }
  const taken = takeNumber(place, name);
  if (taken === null) {
    closeSync(fd);
    return "full";
  }
  sign(fd, how);
  return {
    client: taken.client,
    exposed: () => {},
    release: (sweep) => {
      remove(taken.path);
      closeSync(taken.fd);
      closeSync(fd);
      const last = openLocked(path, O_EXLOCK);
      if (last === null) return;
      sweep();
      remove(path);
      closeSync(last);
    },
  };
}

function isShared(path: string): boolean {
  const fd = openLocked(path, O_SHLOCK);
  if (fd !== null) closeSync(fd);
  return fd !== null;
}

function takeNumber(place: Place, name: string): { client: number; path: string; fd: number } | null {
  for (let client = 0; client < CLIENTS_MAX; client++) {
    const path = `${place.path}/${name}@${client}.lock`;
    const fd = openLocked(path, O_EXLOCK);
    if (fd !== null) return { client, path, fd };
  }
  return null;
}

// ---- by sockets -------------------------------------------------------------------------------------------------------

/** Whether a process listens at the path. Unknown counts as yes. */
export async function isAlive(path: string): Promise<boolean> {
  try {
    await sockets.connect(path, (duplex) => duplex.terminate());
    return true;
  } catch (error) {
    return !["ECONNREFUSED", "ENOENT"].includes(codeOf(error));
  }
}

/** Takes the name while no other process takes one in this directory with the same name. */
async function lockBySockets(place: Place, name: string, how: "own" | "share"): Promise<Lock | Refusal> {
  const { dev, ino } = fstatSync(place.fd);
  const address = `\0slotbus-${process.geteuid?.()}-${dev}-${ino}-${name}`;
  let isGuarded = true;
  let guard: { stop(): void };
  try {
    guard = sockets.listen(address, (duplex) => duplex.terminate());
  } catch (error) {
    if (["EADDRINUSE", ""].includes(codeOf(error))) return "again"; // Node has no code here
    throw failure(`Cannot lock the name "${name}"`, error);
  }
  const letGo = (): void => {
    if (isGuarded) guard.stop();
    isGuarded = false;
  };
  const found = await lookAround(place, name, how);
  if (typeof found === "string") {
    letGo();
    return found;
  }
  return { client: found.client, exposed: letGo, release: letGo };
}

/** Returns the number to take, or who has the name: a process that listens, or one with a lock of the C library. */
async function lookAround(
  place: Place,
  name: string,
  how: "own" | "share",
): Promise<{ client: number | null } | Refusal> {
  const alive = (address: string): Promise<boolean> => isAlive(`${place.path}/${address}.sock`);
  const locked = lockedBytes(statSync(`${place.path}/${name}.lock`, { throwIfNoEntry: false }));
  if (locked.has("all") || (await alive(name))) return "owned";
  const numbers = Array.from({ length: CLIENTS_MAX }, (_, client) => client);
  const held = await Promise.all(numbers.map(async (k) => locked.has(1 + k) || (await alive(`${name}@${k}`))));
  if (how === "own") return held.includes(true) ? "shared" : { client: null };
  const client = held.indexOf(false);
  return client < 0 ? "full" : { client };
}

/** Returns the bytes of the lock file that processes have locked, by the kernel's list: "all" for the lock of an owner. */
function lockedBytes(file: Stats | undefined): Set<number | "all"> {
  const bytes = new Set<number | "all">();
  if (!file) return bytes;
  for (const line of readFileSync("/proc/locks", "latin1").split("\n")) {
    const [, place, first, last] = /^\d+: OFDLCK .*WRITE.* (\S+) (\d+) (\d+|EOF)$/.exec(line) ?? [];
    if (place?.endsWith(`:${file.ino}`)) bytes.add(last === "EOF" ? "all" : Number(first));
  }
  return bytes;
}
