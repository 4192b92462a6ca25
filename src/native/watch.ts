/** Connects descriptors to the event loop: wake-ups of a fleet, and the end of a process. */

import type { Socket, SocketHandler, UnixSocketOptions } from "bun";
import type { FleetHandle } from "./fleet.ts";
import { errorText, native, type Pointer } from "./library.ts";
import { SlotbusError } from "../errors.ts";

/** A descriptor that the event loop polls. It does not keep the process alive. */
export class Watch {
  readonly #release: () => void;
  #socket: Socket<undefined> | null = null;
  #over = false;

  /**
   * Adopts `fd`. Calls `onData` when it is readable, `onEnd` once when it is closed, and `release` when the watch ends.
   */
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
    // Bun can adopt a connected descriptor, and then closes it; its types only have addresses.
    Bun.connect({ fd, socket } as unknown as UnixSocketOptions<undefined>).catch(() => {
      native.sb_fd_close(fd); // Bun has not adopted it
      end();
    });
  }

  /** Ends the watch; no callback runs afterwards. Can be called again. */
  stop(): void {
    if (this.#over) return;
    this.#over = true;
    this.#socket?.terminate();
    this.#release();
  }
}

/** Calls `onWake` at each wake-up of the fleet, and `onEnd` when no more can arrive. @throws `RESOURCE` */
export function watchFleet(fleet: FleetHandle, onWake: () => void, onEnd: () => void): Watch {
  const bridge = native.sb_bridge_open(native.sb_fleet_wake_word(fleet.pointer) as Pointer) as Pointer | null;
  if (!bridge)
    throw new SlotbusError("RESOURCE", `Cannot wait for wake-ups of the fleet: ${errorText(native.sb_error_last())}.`);
  return new Watch(native.sb_bridge_fd(bridge), onEnd, onWake, () => native.sb_bridge_close(bridge));
}

/** Calls `onEnd` once when the process has ended. Returns `null` if it does not exist or cannot be watched. */
export function watchProcess(pid: number, onEnd: () => void): Watch | null {
  const pidfd = native.sb_pidfd_open(pid);
  return pidfd < 0 ? null : new Watch(pidfd, onEnd);
}
