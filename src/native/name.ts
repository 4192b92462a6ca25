/** Locks names of buses in a runtime directory, and finds their clients. */

import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { SlotbusError, BusExistsError } from "../errors.ts";
import { fileError, numbersIn, openDirectory, OWNER } from "./directory.ts";
import { C, cString, errorText, native } from "./library.ts";
import type { Address } from "./worker.ts";

/** How long a name that is held is tried again, in ms: `clean`, or a client that ends, holds it for a moment. */
const PATIENCE_MS = 100;
const PAUSE_MS = 5;

/** The lock on a name: of its owner, the only client of a bus, or of one of the clients that share it. */
export class NameLock {
  /** Number of the client on a shared bus; `null`: it owns the bus. */
  readonly client: number | null;
  readonly #dir: number;
  readonly #name: Buffer;
  readonly #lock: number;
  readonly #shared: boolean;

  /**
   * Locks the name, as its owner or to share it. Creates the directory if necessary and removes leftover sockets. `shared`: other
   * users may attach.
   *
   * @throws (rejects) {BusExistsError} when the name is owned, or shared and `how` is "own"; `PERMISSION_DENIED`, `RESOURCE`.
   */
  static async take(how: "own" | "share", directory: string, name: string, shared: boolean): Promise<NameLock> {
    const dir = openDirectory(directory, { create: true, shared })!;
    const text = cString(name);
    const out = new Uint32Array(1);
    const lock = how === "own" ? native.sb_name_lock : native.sb_name_share;
    let fd = lock(dir, text, out);
    for (let waited = 0; isHeld(fd) && waited < PATIENCE_MS; waited += PAUSE_MS) {
      await Bun.sleep(PAUSE_MS);
      fd = lock(dir, text, out);
    }
    if (fd >= 0) return new NameLock(dir, text, fd, how === "own" ? null : out[0]!, shared);
    const error = lockError(fd, join(directory, name), out[0]!, how);
    native.sb_fd_close(dir);
    throw error;
  }

  private constructor(dir: number, name: Buffer, lock: number, client: number | null, shared: boolean) {
    this.#dir = dir;
    this.#name = name;
    this.#lock = lock;
    this.client = client;
    this.#shared = shared;
  }

  /** Path at which the socket is made; does not depend on the working directory. */
  get socketPath(): string {
    const name = this.#name.toString("utf8", 0, this.#name.length - 1);
    return `/proc/self/fd/${this.#dir}/${name}${this.client === null ? "" : `@${this.client}`}.new`;
  }

  /** Gives the socket its name, so that workers can connect to it, and tells the workers. @throws `RESOURCE` */
  expose(): void {
    const error = native.sb_name_expose(this.#dir, this.#name, this.#number, this.#shared ? 1 : 0);
    if (error !== 0) throw new SlotbusError("RESOURCE", `Cannot rename ${this.socketPath}: ${errorText(error)}.`);
    native.sb_door_knock(this.#dir, this.#name);
  }

  get #number(): number {
    return this.client ?? OWNER;
  }

  /** Removes the files of the name and unlocks it. Call once. */
  release(): void {
    native.sb_name_unlock(this.#dir, this.#name, this.#number, this.#lock);
    native.sb_fd_close(this.#dir);
  }
}

/**
 * Returns the numbers of the clients that listen on a name, {@link OWNER} for the owner. Some may be dead. Throws as
 * {@link openDirectory}.
 */
export function clientsThere({ name, directory, shared }: Address): number[] {
  const dir = openDirectory(directory, { shared });
  if (dir === null) return [];
  const bits = new Uint32Array(2);
  const isOwned = native.sb_name_sockets(dir, cString(name), bits) === 1;
  native.sb_fd_close(dir);
  return isOwned ? [OWNER, ...numbersIn(bits)] : numbersIn(bits);
}

function isHeld(code: number): boolean {
  return code === -C.SB_EEXISTS || code === -C.SB_ESHARED;
}

function lockError(code: number, path: string, owner: number, how: "own" | "share"): Error {
  const name = basename(path);
  if (code === -C.SB_ESHARED) return new BusExistsError(name, 0, "shared");
  if (code === -C.SB_EEXISTS) {
    const isOurs = owner === process.pid && hasOpen(`${path}.lock`);
    return new BusExistsError(name, owner, isOurs ? "ours" : how === "own" ? "running" : "owned");
  }
  if (code === -C.SB_EFULL) {
    return new SlotbusError("RESOURCE", `Bus "${name}" has ${C.SB_CLIENTS_MAX} clients, which is the largest number.`, {
      hint: "Close a client, or use another name.",
    });
  }
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
