/** Identifies the process on the other end of a control socket, through the kernel. */

import { native } from "./library.ts";

/** Filled by `sb_peer_identify`. */
const who = new Uint32Array(4);

/** A process, held by descriptors: unlike a process id, they never refer to another process later. */
export class PeerProcess {
  readonly pid = who[0]!;
  readonly uid = who[1]!;
  /** Descriptor that becomes readable when the process has ended; -1: not supported by the kernel. */
  #pidfd = who[2]! | 0;
  /** Descriptor of its `/proc/PID/statm`; -1: not readable. */
  #statm = who[3]! | 0;

  private constructor() {}

  /** Returns the process on the other end of a socket; `null` if it has already ended. */
  static of(fd: number): PeerProcess | null {
    return native.sb_peer_identify(fd, who) === 0 ? new PeerProcess() : null;
  }

  /** Whether the process has ended, for certain. */
  get hasEnded(): boolean {
    return this.#pidfd < 0 || native.sb_peer_ended(this.#pidfd) === 1;
  }

  /**
   * Whether the process is ending. This is known before its socket closes: the kernel frees its memory first, at about
   * 10 ms for 100 MiB.
   */
  get isEnding(): boolean {
    return native.sb_peer_ending(this.#statm) === 1;
  }

  /** Closes the descriptors; {@link hasEnded} is then `true`. Can be called again. */
  forget(): void {
    native.sb_fd_close(this.#pidfd);
    native.sb_fd_close(this.#statm);
    this.#pidfd = -1;
    this.#statm = -1;
  }
}
