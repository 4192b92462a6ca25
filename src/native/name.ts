/** Locks names of buses in a runtime directory. */

import { readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { BusExistsError, SlotbusError } from "../errors.ts";
import { fileError, openDirectory } from "./directory.ts";
import { C, cString, errorText, native } from "./library.ts";

/** Time for which a lock that is held is tried again, in ms: `clean` and a client that leaves hold it for a moment. */
const HELD_MS = 100;
/** Pause between two tries, in ms. */
const PAUSE_MS = 5;
/** The owner's number for the library. */
const OWNER = -1;

/** A lock on a name: of its only client, the owner, or of one of the clients that share it. */
export class NameLock {
  /** Number of a client that shares the name; `null` for the owner. */
  readonly client: number | null;
  readonly #dir: number;
  readonly #name: Buffer;
  readonly #lock: number;

  /**
   * Locks the name for its only client. Creates the directory if necessary and removes a leftover socket.
   *
   * @throws (rejects) {BusExistsError} when live processes hold the name; `PERMISSION_DENIED`, `RESOURCE`.
   */
  static own(directory: string, name: string, shared: boolean): Promise<NameLock> {
    return NameLock.#take(directory, name, shared, false);
  }

  /** Locks the name for one of up to 64 clients. Rejects like {@link own}. */
  static share(directory: string, name: string, shared: boolean): Promise<NameLock> {
    return NameLock.#take(directory, name, shared, true);
  }

  static async #take(directory: string, name: string, shared: boolean, shares: boolean): Promise<NameLock> {
    const dir = openDirectory(directory, { create: true, shared })!;
    const text = cString(name);
    const out = new Uint32Array(1);
    const lock = (): number => {
      out[0] = 0;
      return shares ? native.sb_name_share(dir, text, out) : native.sb_name_lock(dir, text, out);
    };
    let taken = lock();
    for (let tries = 0; isHeld(taken) && tries < HELD_MS / PAUSE_MS; tries++) {
      await Bun.sleep(PAUSE_MS);
      taken = lock();
    }
    if (taken >= 0) return new NameLock(dir, text, taken, shares ? out[0]! : null);
    const error = lockError(taken, join(directory, name), out[0]!, shares);
    native.sb_fd_close(dir);
    throw error;
  }

  private constructor(dir: number, name: Buffer, lock: number, client: number | null) {
    this.#dir = dir;
    this.#name = name;
    this.#lock = lock;
    this.client = client;
  }

  /**
   * Path at which to listen before {@link expose}; does not depend on the working directory. `expose` renames the socket, so a
   * listener that unlinks this path when it stops removes nothing.
   */
  get socketPath(): string {
    return `/proc/self/fd/${this.#dir}/${this.#address}.new`;
  }

  /** Name of the socket without its suffix. */
  get #address(): string {
    const name = this.#name.toString("utf8", 0, this.#name.length - 1);
    return this.client === null ? name : `${name}@${this.client}`;
  }

  /** Lets workers connect to the socket; with `shared`, workers of other users too. @throws `RESOURCE` */
  expose(shared: boolean): void {
    const error = native.sb_name_expose(this.#dir, this.#name, this.client ?? OWNER, shared ? 1 : 0);
    if (error === 0) return;
    throw new SlotbusError("RESOURCE", `Cannot listen at ${this.#address}.sock: ${errorText(error)}.`);
  }

  /** Tells the workers of a shared name that this client listens. Call after {@link expose}. */
  knock(): void {
    native.sb_door_knock(this.#dir, this.#name, this.client ?? 0);
  }

  /** Removes the files of the name that no other client uses, and unlocks it. Call once. */
  release(): void {
    native.sb_name_unlock(this.#dir, this.#name, this.client ?? OWNER, this.#lock);
    native.sb_fd_close(this.#dir);
  }
}

function isHeld(code: number): boolean {
  return code === -C.SB_EEXISTS || code === -C.SB_ESHARED || code === -C.SB_EAGAIN;
}

function lockError(code: number, path: string, owner: number, shares: boolean): Error {
  const name = basename(path);
  if (code === -C.SB_EEXISTS) {
    const isOurs = owner === process.pid && hasOpen(`${path}.lock`);
    return new BusExistsError(name, owner, isOurs, shares ? "owned" : "taken");
  }
  if (code === -C.SB_ESHARED) return new BusExistsError(name, 0, false, "shared");
  if (code === -C.SB_EFULL) {
    return new SlotbusError("RESOURCE", `Cannot share the name "${name}": it has ${C.SB_CLIENTS_MAX} clients.`);
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
