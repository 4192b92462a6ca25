/** Locks names of buses in a runtime directory. */

import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { SlotbusError, BusExistsError } from "../errors.ts";
import { fileError, openDirectory } from "./directory.ts";
import { C, cString, errorText, native } from "./library.ts";

/** The exclusive lock on a name. Its holder is the only client of the bus. */
export class NameLock {
  readonly #dir: number;
  readonly #name: Buffer;
  readonly #lock: number;

  /**
   * Locks the name. Creates the directory if necessary and removes a leftover socket.
   *
   * @throws {BusExistsError} when a live process holds the name; `PERMISSION_DENIED`, `RESOURCE`.
   */
  constructor(directory: string, name: string, shared: boolean) {
    this.#dir = openDirectory(directory, { create: true, shared })!;
    this.#name = cString(name);
    const owner = new Uint32Array(1);
    this.#lock = native.sb_name_lock(this.#dir, this.#name, owner);
    if (this.#lock >= 0) return;
    const error = lockError(this.#lock, join(directory, name), owner[0]!);
    native.sb_fd_close(this.#dir);
    throw error;
  }

  /** Path of the socket; does not depend on the working directory. */
  get socketPath(): string {
    return `/proc/self/fd/${this.#dir}/${this.#name.toString("utf8", 0, this.#name.length - 1)}.sock`;
  }

  /** Lets workers connect to the socket; with `shared`, workers of other users too. @throws `RESOURCE` */
  expose(shared: boolean): void {
    const error = native.sb_name_expose(this.#dir, this.#name, shared ? 1 : 0);
    if (error !== 0)
      throw new SlotbusError("RESOURCE", `Cannot set the mode of ${this.socketPath}: ${errorText(error)}.`);
  }

  /** Removes the files of the name and unlocks it. Call once. */
  release(): void {
    native.sb_name_unlock(this.#dir, this.#name, this.#lock);
    native.sb_fd_close(this.#dir);
  }
}

function lockError(code: number, path: string, owner: number): Error {
  const name = basename(path);
  if (code === -C.SB_EEXISTS) return new BusExistsError(name, owner, owner === process.pid && hasOpen(`${path}.lock`));
  if (code === -C.SB_EPERM) {
    return new SlotbusError(
      "PERMISSION_DENIED",
      `Cannot use ${name}.lock: it is not a private regular file of this user.`,
      {
        hint: `Remove it; it must be a regular file of uid ${process.geteuid?.()} without other hard links.`,
      },
    );
  }
  return fileError(code, `Cannot lock the name "${name}"`);
}

/**
 * Whether this process has the file open. The pid is not enough: in a container, another process may have the same one.
 */
function hasOpen(path: string): boolean {
  const file = statSync(path, { throwIfNoEntry: false });
  return readdirSync("/proc/self/fd").some((fd) => {
    const open = statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false });
    return open !== undefined && open.ino === file?.ino && open.dev === file.dev;
  });
}
