/**
 * The death of a holder as an event. The event loop learns when its process has ended; the member's lock byte, which the
 * kernel drops with the process, says whether that very member lives.
 */

import { systemClock } from "../clock.ts";
import type { Holder, LeaseHandle } from "../native/lease.ts";
import { type Watch, watchProcess } from "../native/watch.ts";

/** A member at one time: its index and incarnation, and the process it said it is. */
type Member = Pick<Holder, "member" | "incarnation" | "pid">;

/** Pauses before a lock byte is read again that is held though its process has ended. */
const RECHECKS_MS = [1, 10, 100, 1000];

/** The process of one member, for all who wait for its death. */
interface Watched {
  readonly watch: Watch;
  readonly listeners: Set<() => void>;
}

/** Watches the members that claims of one contest wait for. */
export class DeathWatch {
  readonly #leases: LeaseHandle;
  readonly #watched = new Map<string, Watched>();

  constructor(leases: LeaseHandle) {
    this.#leases = leases;
  }

  /**
   * Calls `onDeath` once, later, when that member has ended; the result stops that. Nobody is told of a member that this
   * process is, nor of one whose process cannot be watched (no descriptor is left, another pid namespace): its leases
   * end with their time.
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
      if (listeners.size > 0 || this.#watched.get(key) !== watched) return; // others wait, or it has ended
      this.#watched.delete(key);
      watch.stop();
    };
  }

  /** The lock byte is read after the process is watched: so it is that member's process, or the member has ended. */
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
   * A child that the process was making when it ended holds its files until it runs its program: so the byte is read a few
   * times. When somebody holds them for longer, the time of the lease decides.
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
