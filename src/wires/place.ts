/** The runtime directory for processes without the C library: opens it, and finds the clients of a name and the doors of workers. */

import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  type Stats,
} from "node:fs";
import { dirname } from "node:path";
import { SlotbusError } from "../errors.ts";
import { directoryElsewhere, directoryRefusal } from "../runtime-directory.ts";

/** Largest number of clients that share a name. */
export const CLIENTS_MAX = 64;

/** An open runtime directory. */
export interface Place {
  /** Descriptor. */
  readonly fd: number;
  /** Path of the directory in the options. */
  readonly directory: string;
  /** Path through which files are reached: short on Linux, so that a socket fits in a long directory. */
  readonly path: string;
}

/** How a runtime directory is opened. */
interface PlaceUse {
  /** Creates the directory if it does not exist. */
  create?: boolean;
  /** Other users may enter it (mode 0711); without `create`, it may belong to another user. */
  shared?: boolean;
}

/** Opens the directory; `null` if it does not exist. Close it with {@link closePlace}. @throws `PERMISSION_DENIED`, `RESOURCE` */
export function openPlace(directory: string, { create = false, shared = false }: PlaceUse = {}): Place | null {
  const mode = shared ? 0o711 : 0o700;
  const isMade = create && make(directory, mode);
  if (create) settleMode(directory, mode);
  const fd = open(directory, shared && !create);
  if (fd === null) return null;
  if (isMade) fchmodSync(fd, mode); // despite the umask
  const status = fstatSync(fd);
  const isOurs = status.uid === process.geteuid?.();
  const forbidden = shared ? (create ? 0o066 : 0o022) : 0o077;
  if (!(isOurs || (shared && !create)) || (status.mode & forbidden) !== 0) {
    closeSync(fd);
    throw directoryRefusal(directory, mode, shared && !create);
  }
  return { fd, directory, path: process.platform === "linux" ? `/proc/self/fd/${fd}` : directory };
}

export function closePlace(place: Place): void {
  closeSync(place.fd);
}

/** Creates the directory. Returns `false` if it exists. */
function make(directory: string, mode: number): boolean {
  try {
    mkdirSync(directory, mode);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw failure(`Cannot open the runtime directory ${directory}`, error);
  }
}

/** A directory that was made under a strict umask does not have its mode yet. Its maker may have been killed. */
function settleMode(directory: string, mode: number): void {
  const status = lstatSync(directory, { throwIfNoEntry: false });
  if (!status?.isDirectory() || status.uid !== process.geteuid?.()) return;
  if ((status.mode & 0o700) !== 0o700 && (status.mode & 0o7777 & ~mode) === 0) chmodSync(directory, mode);
}

function open(directory: string, mayBeForeign: boolean): number | null {
  try {
    return openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOENT") return absent(directory);
    if (["ENOTDIR", "ELOOP", "EACCES"].includes(code))
      throw directoryRefusal(directory, mayBeForeign ? 0o711 : 0o700, mayBeForeign);
    throw failure(`Cannot open the runtime directory ${directory}`, error);
  }
}

/** Returns `null` if the directory can still be created, else throws. */
function absent(directory: string): null {
  try {
    accessSync(dirname(directory), constants.W_OK);
  } catch (cause) {
    const code = codeOf(cause);
    if (code === "ENOENT" || code === "EROFS")
      throw failure(`Cannot open the runtime directory ${directory}`, cause, directoryElsewhere);
  }
  return null;
}

/** Code of a system error, such as "ENOENT". */
export function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? "";
}

/** The error for a failed system call. */
export function failure(what: string, cause: unknown, hint?: string): SlotbusError {
  return new SlotbusError("RESOURCE", `${what}: ${(cause as Error).message}.`, { cause, hint });
}

/** Returns the addresses at which clients of a name may listen: `NAME` for an owner, `NAME@K` for client K of a shared name. */
export function addressesAt(place: Place, name: string): string[] {
  const numbers = Array.from({ length: CLIENTS_MAX }, (_, client) => `${name}@${client}`);
  return [name, ...numbers].filter((address) => existsSync(`${place.path}/${address}.sock`));
}

/** Returns the files of the workers' doors; none in a directory that this user may not list. */
export function doorsAt(place: Place, name: string): string[] {
  return filesOf(place, name).filter((file) => DOOR.test(file.slice(name.length)));
}

/** Returns the files `NAME@…`. */
export function filesOf(place: Place, name: string): string[] {
  try {
    return readdirSync(place.path).filter((file) => file.startsWith(`${name}@`));
  } catch {
    return []; // another user's directory
  }
}

const DOOR = /^@[0-9a-f]{16}\.door$/;

/** Whether the path still leads to the open file. A lock on an unlinked file protects nothing. */
export function isNamed(path: string, held: Stats): boolean {
  const named = lstatSync(path, { throwIfNoEntry: false });
  return named?.ino === held.ino && named.dev === held.dev;
}
