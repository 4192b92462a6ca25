/** The process on the other end of a control socket, from the kernel. */

import { native } from "./library.ts";

/** Filled by `sb_peer_identify`. */
const who = new Uint32Array(4);

/** A process, by descriptors that never come to mean another process, as its number may. */
export class PeerProcess {
  readonly pid = who[0]!;
  readonly uid = who[1]!;
  /** Descriptor that becomes readable when the process has ended; -1 where the kernel has none. */
  #pidfd = who[2]! | 0;
  /** Descriptor of its `/proc/PID/statm`; -1 where that cannot be read. */
  #statm = who[3]! | 0;

  private constructor() {}

  /** The process on the other end of a socket; `null` when it has ended already. */
  static of(fd: number): PeerProcess | null {
    return native.sb_peer_identify(fd, who) === 0 ? new PeerProcess() : null;
  }

  /** Whether the process has certainly ended. */
  get hasEnded(): boolean {
    return this.#pidfd < 0 || native.sb_peer_ended(this.#pidfd) === 1;
  }

  /**
   * Whether the process has begun to end. Its socket closes only when the kernel has freed its memory, which takes 10 ms
   * for each 100 MiB or so.
   */
  get isEnding(): boolean {
    return native.sb_peer_ending(this.#statm) === 1;
  }

  /** Closes the descriptors; {@link hasEnded} is `true` from now on. Any number of times. */
  forget(): void {
    native.sb_fd_close(this.#pidfd);
    native.sb_fd_close(this.#statm);
    this.#pidfd = -1;
    this.#statm = -1;
  }
}
