/** The door of a worker, at which each new client of a shared bus knocks. */

import type { Socket, UnixSocketOptions } from "bun";
import { openDirectory } from "./directory.ts";
import { C, cString, native } from "./library.ts";
import type { Address } from "./worker.ts";

/** A datagram socket, open until {@link close}. */
export class Door {
  /** Descriptor at which a knock arrives. */
  readonly fd: number;
  readonly #dir: number;
  readonly #name: Buffer;
  readonly #id: Buffer;
  #socket: Socket | null = null;
  #isClosed = false;

  /** Opens a door; `onKnock` is called in the event loop. Returns `null` where this user can make none. */
  static open({ name, directory, shared }: Address, onKnock: () => void): Door | null {
    const dir = openDirectory(directory, { shared });
    if (dir === null) return null;
    const [text, id] = [cString(name), Buffer.alloc(C.SB_DOOR_ID + 1)];
    const fd = native.sb_door_open(dir, text, shared ? 1 : 0, id);
    if (fd >= 0) return new Door(dir, text, id, fd, onKnock);
    native.sb_fd_close(dir);
    return null;
  }

  private constructor(dir: number, name: Buffer, id: Buffer, fd: number, onKnock: () => void) {
    this.#dir = dir;
    this.#name = name;
    this.#id = id;
    this.fd = fd;
    const socket = {
      open: (opened: Socket): void => {
        this.#socket = opened;
        opened.unref();
        if (this.#isClosed) opened.terminate();
      },
      data: onKnock,
      error: (): void => {},
    };
    // Bun takes over a connected descriptor and closes it, but its types only have addresses.
    const options = { fd, socket } as unknown as UnixSocketOptions<undefined>;
    Bun.connect(options).catch(() => native.sb_fd_close(fd));
  }

  /** Removes the door. Call once. */
  close(): void {
    this.#isClosed = true;
    native.sb_door_close(this.#dir, this.#name, this.#id);
    native.sb_fd_close(this.#dir);
    this.#socket?.terminate();
  }
}
