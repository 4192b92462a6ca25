/** Doors of workers: sockets that notify a worker of new clients of a shared name. */

import type { Socket, UnixSocketOptions } from "bun";
import { fileError } from "./directory.ts";
import { C, cString, native } from "./library.ts";

/** A datagram socket at `NAME@ID.door`. It becomes readable when a client has exposed its socket. */
export class Door {
  /** Non-blocking descriptor; each datagram is the number of a client, in 4 bytes, little endian. */
  readonly fd: number;
  readonly #dir: number;
  readonly #name: Buffer;
  readonly #id: Uint8Array;
  /** Whether the event loop owns the descriptor. */
  #isWatched = false;
  #isClosed = false;
  #socket: Socket | null = null;

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

  /** Path of the socket below `directory`. */
  pathIn(directory: string): string {
    const [name, id] = [this.#name, this.#id].map((text) => Buffer.from(text).toString("latin1").replace("\0", ""));
    return `${directory}/${name}@${id}.door`;
  }

  /** Calls `onKnock` from the event loop with what arrived. It does not keep the process alive. */
  watch(onKnock: (bytes: Uint8Array) => void): void {
    this.#isWatched = true;
    const socket = {
      open: (opened: Socket): void => {
        this.#socket = opened;
        opened.unref();
        if (this.#isClosed) opened.terminate();
      },
      data: (_: Socket, bytes: Uint8Array): void => onKnock(bytes),
      error: (): void => {},
    };
    // Bun takes over a descriptor and closes it, but its types only have addresses.
    const options = { fd: this.fd, socket } as unknown as UnixSocketOptions<undefined>;
    Bun.connect(options).catch(() => native.sb_fd_close(this.fd));
  }

  /** Removes the socket. Call once. */
  close(): void {
    this.#isClosed = true;
    native.sb_door_close(this.#dir, this.#name, this.#id, this.#isWatched ? -1 : this.fd);
    this.#socket?.terminate();
  }
}
