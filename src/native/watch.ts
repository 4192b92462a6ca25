/** What the event loop learns through a descriptor: wake-ups of a fleet, and the end of a process. */

import type { Socket, SocketHandler, UnixSocketOptions } from "bun";
import type { FleetHandle } from "./fleet.ts";
import { errorText, native, type Pointer } from "./library.ts";
import { SlotbusError } from "../errors.ts";

/** A descriptor that the event loop has adopted. It does not keep the process alive. */
export class Watch {
  readonly #release: () => void;
  #socket: Socket<undefined> | null = null;
  #over = false;

  /** Adopts `fd`; calls `onEnd` once when it has ended, `onData` at each byte, and `release` when the watch is over. */
  constructor(fd: number, onEnd: () => void, onData = (): void => {}, release = (): void => {}) {
    this.#release = release;
    const end = (): void => {
      if (this.#over) return;
      this.stop();
      onEnd();
    };
    const socket: SocketHandler<undefined> = {
      open: (opened) => {
        this.#socket = opened;
        opened.unref();
        if (this.#over) opened.terminate();
      },
      data: () => {
        if (!this.#over) onData();
      },
      close: end,
      error: end,
    };
    // Bun adopts a connected descriptor, and closes it; its types know only addresses.
    Bun.connect({ fd, socket } as unknown as UnixSocketOptions<undefined>).catch(() => {
      native.sb_fd_close(fd); // Bun has not adopted it
      end();
    });
  }

  /** Nothing is called any more. May be called again. */
  stop(): void {
    if (this.#over) return;
    this.#over = true;
    this.#socket?.terminate();
    this.#release();
  }
}

/** Calls `onWake` whenever the fleet is woken, `onEnd` when that is heard no more. @throws `RESOURCE` */
export function watchFleet(fleet: FleetHandle, onWake: () => void, onEnd: () => void): Watch {
  const bridge = native.sb_bridge_open(native.sb_fleet_wake_word(fleet.pointer) as Pointer) as Pointer | null;
  if (!bridge) throw new SlotbusError("RESOURCE", `nobody can be woken: ${errorText(native.sb_error_last())}.`);
  return new Watch(native.sb_bridge_fd(bridge), onEnd, onWake, () => native.sb_bridge_close(bridge));
}

/** Calls `onEnd` once when that process has ended; `null`: it cannot be watched, or there is none. */
export function watchProcess(pid: number, onEnd: () => void): Watch | null {
  const pidfd = native.sb_pidfd_open(pid);
  return pidfd < 0 ? null : new Watch(pidfd, onEnd);
}
