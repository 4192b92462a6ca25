/**
 * Reports the death of holders. The event loop reports that a process has ended. The member's lock byte, which the
 * kernel releases with the process, tells whether this member is alive: a process may have left the fleet and joined
 * again.
 */

import { systemClock } from "../clock.ts";
import type { Holder, LeaseHandle } from "../native/lease.ts";
import { type Watch, watchProcess } from "../native/watch.ts";

/** A member: its index and incarnation, and its process id. */
type Member = Pick<Holder, "member" | "incarnation" | "pid">;

/** Pauses before the lock byte is read again, in ms, if it is still held although the process has ended. */
const RECHECKS_MS = [1, 10, 100, 1000];

/** The watched process of one member, and the listeners for its death. */
interface Watched {
  readonly watch: Watch;
  readonly listeners: Set<() => void>;
}

/** Watches the processes of holders, for the waiters and watches of one contest. */
export class DeathWatch {
  readonly #leases: LeaseHandle;
  readonly #watched = new Map<string, Watched>();

  constructor(leases: LeaseHandle) {
    this.#leases = leases;
  }

  /**
   * Calls `onDeath` once, asynchronously, when the member has ended. The returned function cancels that. Never calls it
   * for members of this process, or if the process cannot be watched (no descriptor left, another pid namespace): their
   * leases end when they expire.
   */
  add(member: Member, onDeath: () => void): () => void {
    if (member.pid === process.pid) return () => {};
    const key = `${member.member}.${member.incarnation}`;
    const watched = this.#watched.get(key) ?? this.#open(key, member, onDeath);
    if (!watched) return () => {};
    const { watch, listeners } = watched;
    listeners.add(onDeath);
    return () => {
      listeners.delete(onDeath);
      if (listeners.size > 0 || this.#watched.get(key) !== watched) return; // has listeners, or has ended
      this.#watched.delete(key);
      watch.stop();
    };
  }

  /** Watches the process before it reads the lock byte. If the byte is held, that process is the member's. */
  #open(key: string, member: Member, onDeath: () => void): Watched | null {
    const listeners = new Set<() => void>();
    const watch = watchProcess(member.pid, () => {
      this.#watched.delete(key);
      this.#tell(member, listeners, 0);
    });
    if (!this.#leases.isAlive(member)) {
      watch?.stop();
      queueMicrotask(onDeath);
      return null;
    }
    if (!watch) return null;
    const watched = { watch, listeners };
    this.#watched.set(key, watched);
    return watched;
  }

  /**
   * Reads the lock byte several times: a child that the process had just forked keeps the byte until it calls exec. If
   * the byte is held for longer, the lease ends when it expires.
   */
  #tell(member: Member, listeners: ReadonlySet<() => void>, attempt: number): void {
    if (!this.#leases.isOpen || listeners.size === 0) return;
    if (!this.#leases.isAlive(member)) {
      for (const listener of listeners) listener();
    } else if (attempt < RECHECKS_MS.length) {
      systemClock.after(RECHECKS_MS[attempt]!, () => this.#tell(member, listeners, attempt + 1)).unref();
    }
  }
}
