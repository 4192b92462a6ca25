/** Doors of workers: sockets that notify a worker of new clients of a shared name. */

import { fileError } from "./directory.ts";
import { C, cString, native } from "./library.ts";

/** A datagram socket at `NAME@ID.door`. It becomes readable when a client has exposed its socket. */
export class Door {
  /** Non-blocking descriptor; each datagram is the number of a client, in 4 bytes, little endian. */
  readonly fd: number;
  readonly #dir: number;
  readonly #name: Buffer;
  readonly #id: Uint8Array;

  /**
   * Opens a door in the directory with this descriptor, which must outlive it. With `shared`, clients of other users may knock.
   * Look for clients after this call. Returns `null` in a directory of another user.
   *
   * @throws `RESOURCE`
   */
  static open(dir: number, name: string, shared: boolean): Door | null {
    const id = new Uint8Array(C.SB_DOOR_ID_BYTES);
    const text = cString(name);
    const fd = native.sb_door_open(dir, text, shared ? 1 : 0, id);
    if (fd === -C.SB_EPERM) return null;
    if (fd < 0) throw fileError(fd, `Cannot open a door for workers of bus "${name}"`);
    return new Door(dir, text, id, fd);
  }

  private constructor(dir: number, name: Buffer, id: Uint8Array, fd: number) {
    this.fd = fd;
    this.#dir = dir;
    this.#name = name;
    this.#id = id;
  }

  /** Removes the socket. Call once. */
  close(): void {
    native.sb_door_close(this.#dir, this.#name, this.#id, this.fd);
  }
}
