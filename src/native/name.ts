/** Names of buses in a runtime directory. */

import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { SlotbusError, BusExistsError } from "../errors.ts";
import { fileError, openDirectory } from "./directory.ts";
import { C, cString, errorText, native } from "./library.ts";

/** The exclusive lock on a name: its holder is the only client of the bus. */
export class NameLock {
  readonly #dir: number;
  readonly #name: Buffer;
  readonly #lock: number;

  /**
   * Takes the name, and makes the directory when it is absent. A leftover socket is removed.
   *
   * @throws {BusExistsError} when a live process has the name, `PERMISSION_DENIED`, `RESOURCE`.
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

  /** Path of the socket of the name, whatever the working directory is. */
  get socketPath(): string {
    return `/proc/self/fd/${this.#dir}/${this.#name.toString("utf8", 0, this.#name.length - 1)}.sock`;
  }

  /** Lets workers connect to the socket; `shared`: of other users, too. @throws `RESOURCE` */
  expose(shared: boolean): void {
    const error = native.sb_name_expose(this.#dir, this.#name, shared ? 1 : 0);
    if (error !== 0)
      throw new SlotbusError("RESOURCE", `Cannot set the mode of ${this.socketPath}: ${errorText(error)}.`);
  }

  /** Removes the files of the name and gives it back. Call once. */
  release(): void {
    native.sb_name_unlock(this.#dir, this.#name, this.#lock);
    native.sb_fd_close(this.#dir);
  }
}

function lockError(code: number, path: string, owner: number): Error {
  const name = basename(path);
  if (code === -C.SB_EEXISTS) return new BusExistsError(name, owner, owner === process.pid && hasOpen(`${path}.lock`));
  if (code === -C.SB_EPERM) {
    return new SlotbusError("PERMISSION_DENIED", `${name}.lock is not a file that only this user can open.`, {
      hint: `It must be a file, no link, with one name, of uid ${process.geteuid?.()}. Remove it.`,
    });
  }
  return fileError(code, `Cannot lock the name "${name}"`);
}

/** Whether this process has the file open. Its number alone may be another's, in a container. */
function hasOpen(path: string): boolean {
  const file = statSync(path, { throwIfNoEntry: false });
  return readdirSync("/proc/self/fd").some((fd) => {
    const open = statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false });
    return open !== undefined && open.ino === file?.ino && open.dev === file.dev;
  });
}
