/** Names of buses in a runtime directory. */

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
    const error = lockError(this.#lock, name, owner[0]!);
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

function lockError(code: number, name: string, owner: number): Error {
  if (code === -C.SB_EEXISTS) return new BusExistsError(name, owner);
  if (code === -C.SB_EPERM) {
    return new SlotbusError("PERMISSION_DENIED", `${name}.lock is no file of ours alone.`, {
      hint: `It must be a file, no link, with one name, of uid ${process.geteuid?.()}. Remove it.`,
    });
  }
  return fileError(code, `Cannot lock the name "${name}"`);
}
