/** Opens the runtime directory and explains each way in which that fails, for buses, workers, fleets and the CLI. */

import { accessSync, constants as access, statSync } from "node:fs";
import { constants } from "node:os";
import { dirname } from "node:path";
import { SlotbusError, UnsupportedError } from "../errors.ts";
import { directoryElsewhere, directoryRefusal, userText } from "../runtime-directory.ts";
import { C, cString, errorText, native } from "./library.ts";

const { ENOMEM, ENOSPC, EDQUOT, EINTR } = constants.errno;

/** How a runtime directory is opened. */
export interface DirectoryUse {
  /** Creates the directory if it does not exist. */
  create?: boolean;
  /** Other users may enter it (mode 0711); without `create`, it may belong to another user. */
  shared?: boolean;
}

/**
 * Returns a descriptor that the caller closes; `null` if there is no directory. @throws `PERMISSION_DENIED`, `RESOURCE`
 */
export function openDirectory(directory: string, { create = false, shared = false }: DirectoryUse = {}): number | null {
  const dir = native.sb_dir_open(cString(directory), create ? 1 : 0, shared ? 1 : 0);
  if (dir >= 0) return dir;
  if (dir === -C.SB_ENOBUS && !create) return absent(directory);
  if (dir === -C.SB_EUNSUPPORTED) throw new UnsupportedError(`slotbus cannot run on this system: ${errorText(dir)}.`);
  if (dir === -C.SB_EDIR) throw directoryRefusal(directory, shared ? 0o711 : 0o700, shared && !create);
  throw fileError(dir, `Cannot open the runtime directory ${directory}`);
}

/** Closes a descriptor of {@link openDirectory}; ignores -1. */
export function closeDirectory(dir: number): void {
  native.sb_fd_close(dir);
}

/** Throws like {@link openDirectory}. A directory that does not exist is accepted. */
export function checkDirectory(directory: string, use: DirectoryUse = {}): void {
  const dir = openDirectory(directory, use);
  if (dir !== null) native.sb_fd_close(dir);
}

/** Whether live processes have locked a name. When that is unknown, `problem` says why and `isAlive` is `true`. */
export function probeName(dir: number, name: string): { isAlive: boolean; problem: string | null } {
  const state = native.sb_name_probe(dir, cString(name));
  const isKnown = state >= 0 || state === -C.SB_ENOBUS;
  return { isAlive: state > C.SB_NAME_FREE || !isKnown, problem: isKnown ? null : errorText(state) };
}

/** Returns the numbers of the live clients that share a name; none for an owner, or when the name cannot be read. */
export function clientsOf(dir: number, name: string): number[] {
  const bits = new Uint32Array(2);
  native.sb_name_clients(dir, cString(name), bits);
  return numbersIn(bits);
}

/**
 * Returns the addresses at which clients of a name may listen: `NAME` for an owner, `NAME@K` for client K of a shared name. Clients
 * that were killed may be among them. Works in a directory that this user may not list.
 */
export function addressesOf(dir: number, name: string): string[] {
  const bits = new Uint32Array(2);
  const isOwned = native.sb_name_sockets(dir, cString(name), bits) !== 0; // without the right to look, it may exist
  return [...(isOwned ? [name] : []), ...numbersIn(bits).map((client) => `${name}@${client}`)];
}

function numbersIn(bits: Uint32Array): number[] {
  return Array.from({ length: C.SB_CLIENTS_MAX }, (_, k) => k).filter((k) => (bits[k >> 5]! >>> (k & 31)) & 1);
}

/** Counts the files that dead clients and workers of a shared name left; `removes` removes them. `problem`: why not. */
export function sweepName(dir: number, name: string, removes: boolean): { files: number; problem: string | null } {
  const files = native.sb_name_sweep(dir, cString(name), removes ? 1 : 0);
  return files >= 0 ? { files, problem: null } : { files: 0, problem: errorText(files) };
}

/**
 * Locks a name like a new client. `release` removes its files. `problem` is `null` when another process has the name.
 */
export function lockName(dir: number, name: string): { release(): void } | { problem: string | null } {
  const lock = native.sb_name_lock(dir, cString(name), new Uint32Array(1));
  const isTaken = lock === -C.SB_EEXISTS || lock === -C.SB_ESHARED;
  if (lock < 0) return { problem: isTaken ? null : errorText(lock) };
  return { release: () => native.sb_name_unlock(dir, cString(name), -1, lock) };
}

/** Returns `null` if the directory can still be created, else throws. */
function absent(directory: string): null {
  const parent = dirname(directory);
  try {
    accessSync(parent, access.W_OK);
    return null;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "EROFS") return null; // another user may create it
    const why = code === "EROFS" ? `${parent} is read-only` : `there is no ${parent}`;
    const message = `Cannot open the runtime directory ${directory}: ${why}.`;
    throw new SlotbusError("RESOURCE", message, { cause, retryable: false, hint: directoryElsewhere });
  }
}

/** Returns the error of a failed system call on the runtime directory or a file in it. `what` starts the message. */
export function fileError(code: number, what: string): SlotbusError {
  const number = code === -C.SB_ESYS ? native.sb_error_number() : 0;
  const message = `${what}: ${errorText(code)}.`;
  if (number === 0 || [ENOMEM, ENOSPC, EDQUOT, EINTR].includes(number)) return new SlotbusError("RESOURCE", message);
  return new SlotbusError("RESOURCE", message, { retryable: false, hint: directoryElsewhere });
}

/** Describes the directory's owner and this process: `"uid 0 (root); this process runs as uid 1000 (ada)"`. */
export function usersOf(directory: string): string {
  const owner = statSync(directory, { throwIfNoEntry: false })?.uid;
  const of = owner === undefined ? "another user" : userText(owner);
  return `${of}; this process runs as ${userText(process.geteuid?.() ?? 0)}`;
}
