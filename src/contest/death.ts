/**
 * The death of a holder as an event. A pidfd of its process tells the event loop when that has ended; the member's lock
 * byte, which the kernel drops with the process, says whether that very member lives.
 */

import type { Socket } from "bun";
import { native } from "../native/library.ts";
import type { Leases } from "./leases.ts";

/** A member at one time: its index and incarnation, and the process it said it is. */
export interface Member {
  readonly member: number;
  readonly incarnation: number;
  readonly pid: number;
}

/** Pauses between looks at a lock byte that is held though its process has ended. */
const RECHECKS_MS = [1, 10, 100, 1000];

/** Watches the process of one member for all who wait for it. */
class Watch {
  readonly listeners = new Set<() => void>();
  #socket: Socket | null = null;
  #over = false;

  /** `pidfd` belongs to the watch from now on. */
  constructor(pidfd: number, onEnd: () => void) {
    const end = (): void => {
      if (this.#over) return;
      this.#over = true;
      onEnd();
    };
    const keep = (socket: Socket): void => {
      this.#socket = socket;
      socket.unref();
      if (this.#over) socket.terminate();
    };
    const socket = { open: keep, data: () => {}, close: end, error: end };
    Bun.connect({ fd: pidfd, socket } as unknown as Bun.UnixSocketOptions).catch(end);
  }

  stop(): void {
    this.#over = true;
    this.#socket?.terminate();
  }
}

export class Deaths {
  readonly #leases: Leases;
  readonly #watches = new Map<string, Watch>();

  constructor(leases: Leases) {
    this.#leases = leases;
  }

  /**
   * Calls `onDeath` once, later, when that member has ended; the result stops that. Nobody is told of a member that this
   * process is, nor of one whose process cannot be watched (no descriptor is left, another pid namespace): its leases
   * end with their time.
   */
  watch(member: Member, onDeath: () => void): () => void {
    if (member.pid === process.pid) return () => {};
    const key = `${member.member}.${member.incarnation}`;
    const watch = this.#watches.get(key) ?? this.#open(key, member, onDeath);
    if (!watch) return () => {};
    watch.listeners.add(onDeath);
    return () => {
      watch.listeners.delete(onDeath);
      if (watch.listeners.size > 0 || this.#watches.get(key) !== watch) return; // others wait, or it has ended
      this.#watches.delete(key);
      watch.stop();
    };
  }

  /** The lock byte is looked at after the pidfd is there: so it is the pidfd of that member, or the member has ended. */
  #open(key: string, member: Member, onDeath: () => void): Watch | null {
    const pidfd = native.sb_pidfd_open(member.pid);
    if (!this.#leases.isAlive(member)) {
      if (pidfd >= 0) native.sb_fd_close(pidfd);
      queueMicrotask(onDeath);
      return null;
    }
    if (pidfd < 0) return null;
    const watch: Watch = new Watch(pidfd, () => {
      if (this.#watches.get(key) === watch) this.#watches.delete(key);
      this.#tell(member, watch.listeners, 0);
    });
    this.#watches.set(key, watch);
    return watch;
  }

  /**
   * A child that the process was making when it ended holds its files until it runs its program: so the byte is looked at
   * a few times. When somebody holds them for longer, the time of the lease decides.
   */
  #tell(member: Member, listeners: ReadonlySet<() => void>, attempt: number): void {
    if (!this.#leases.isOpen || listeners.size === 0) return;
    if (!this.#leases.isAlive(member)) {
      for (const listener of listeners) listener();
    } else if (attempt < RECHECKS_MS.length) {
      setTimeout(() => this.#tell(member, listeners, attempt + 1), RECHECKS_MS[attempt]).unref();
    }
  }
}
