/** Wake-ups of a fleet: one futex word that all members share, as an event of this process's event loop. */

import type { Socket, SocketHandler, UnixSocketOptions } from "bun";
import { ResourceError } from "../errors.ts";
import { Hold } from "../hold.ts";
import { errorText, native, type Pointer } from "../native/library.ts";

/** Pause before a bridge that failed is opened anew, in ms. */
const RETRY_MS = 100;

/** @internal */
export class Wake {
  readonly #fleet: Pointer;
  readonly #listeners = new Set<() => void>();
  #bridge: Pointer | null = null;
  #socket: Socket<undefined> | null = null;
  /** Until the next attempt to open a bridge, when the last one has failed. */
  #retry: ReturnType<typeof setTimeout> | null = null;
  #isRingingSoon = false;
  /** Those that wait now. */
  #waiting = 0;
  readonly #hold = new Hold();

  constructor(fleet: Pointer) {
    this.#fleet = fleet;
  }

  /**
   * Calls `listener` at every wake-up from now on, until the result is called. Does not keep the process alive. The first
   * listener opens the bridge, the last closes it.
   */
  listen(listener: () => void): () => void {
    if (!this.#bridge && !this.#retry) this.#open();
    const own = (): void => listener();
    this.#listeners.add(own);
    return once(() => {
      this.#listeners.delete(own);
      if (this.#listeners.size === 0) this.close();
    });
  }

  /** Somebody waits: the process stays alive. */
  ref(): void {
    if (++this.#waiting === 1) this.#hold.set(true);
  }

  unref(): void {
    if (--this.#waiting === 0) this.#hold.set(false);
  }

  /**
   * Somebody slept when this process published: its own listeners hear of it on the next turn of the event loop, and not
   * only when the bridge's thread had its turn.
   */
  ringSoon(): void {
    if (this.#isRingingSoon || this.#listeners.size === 0) return;
    this.#isRingingSoon = true;
    setImmediate(this.#ringNow);
  }

  readonly #ringNow = (): void => {
    this.#isRingingSoon = false;
    this.#ring();
  };

  /** Ends the bridge; listeners hear nothing more. */
  close(): void {
    this.#listeners.clear();
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
    this.#closeBridge();
  }

  #closeBridge(): void {
    const bridge = this.#bridge;
    if (!bridge) return;
    this.#bridge = null;
    this.#socket?.terminate();
    this.#socket = null;
    native.sb_bridge_close(bridge);
  }

  #open(): void {
    const word = native.sb_fleet_wake_word(this.#fleet) as Pointer;
    const bridge = native.sb_bridge_open(word) as Pointer | null;
    if (!bridge) throw new ResourceError(`nobody can be woken: ${errorText(native.sb_error_last())}.`);
    this.#bridge = bridge;
    const socket: SocketHandler<undefined> = {
      open: (opened) => {
        if (this.#bridge !== bridge) {
          opened.terminate();
          return;
        }
        this.#socket = opened;
        opened.unref();
      },
      data: () => {
        if (this.#bridge === bridge) this.#ring();
      },
      error: () => {},
    };
    // Bun adopts a connected descriptor, and closes it; its types know only addresses.
    const fd = native.sb_bridge_fd(bridge);
    Bun.connect({ fd, socket } as unknown as UnixSocketOptions<undefined>).catch(() => {
      native.sb_fd_close(fd); // Bun has not adopted it
      if (this.#bridge !== bridge) return;
      this.#closeBridge();
      this.#openLater();
    });
  }

  /** Until there is a bridge again, all look from time to time. */
  #openLater(): void {
    this.#retry = setTimeout(() => {
      this.#retry = null;
      try {
        this.#open();
      } catch {
        this.#openLater(); // there was no memory, descriptor or thread for it
      }
      this.#ring();
    }, RETRY_MS);
    this.#retry.unref();
  }

  #ring(): void {
    const now = [...this.#listeners]; // one that listens anew waits for the next
    for (const listener of now) listener();
  }
}

function once(run: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    run();
  };
}
