/** A lease watch: compares the lease table with the state that its reader has seen. */

import { systemClock, type Timer } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import type { Fleet } from "../fleet/fleet.ts";
import { Items } from "../fleet/items.ts";
import { holdWhile } from "../hold.ts";
import type { Holder, LeaseHandle, Subject } from "../native/lease.ts";
import type { DeathWatch } from "./death-watch.ts";
import type { WaitList, Waiting } from "./wait-list.ts";

/**
 * A change of a lease. `claimed`: it has a new holder. `renewed`: its `expiresAt` has changed. `released`: a process
 * released it, or its holder left the fleet. `expired`: its ttl is over. `died`: the process of its holder ended.
 */
export interface LeaseChange {
  readonly type: "claimed" | "renewed" | "released" | "expired" | "died";
  /** The holder. After the end of the tenure: as the watch last saw it. */
  readonly holder: Holder;
}

/** The lease table of a contest, and the sources of wake-ups. */
interface Table {
  readonly fleet: Fleet;
  readonly leases: LeaseHandle;
  readonly waitList: WaitList;
  readonly deaths: DeathWatch;
}

/** Pause before the next check while a change is in progress, in ms: its wake-up may have come too early. */
const SOON_MS = 1;

/**
 * Changes of leases, for one reader. Each read compares the lease table with the state of the read before. So a slow
 * reader gets at most two changes of a subject: the end of the tenure that it knew, and the claim of the present
 * tenure. The watch ends with `close()`, when a loop over it ends, when its signal aborts, and when its contest or its
 * fleet is closed.
 */
export class LeaseWatch extends Items<LeaseChange> implements Waiting {
  readonly #table: Table;
  readonly #subject: Subject | null;
  readonly #signal: AbortSignal | null;
  readonly #onClose: () => void;
  /** Holders by subject, as the reader knows them once it has read all of {@link #changes}. */
  #known = new Map<string, Holder>();
  #changes: LeaseChange[] = [];
  /** Holder last found in each entry of the table, so that texts are decoded once per tenure. */
  readonly #byEntry: Holder[] = [];
  #closed = false;
  /** Whether a change was in progress at the last check. */
  #isSoon = false;
  #wake: (() => void) | null = null;
  /** Functions that stop watching a member's process, by member. */
  readonly #members = new Map<string, () => void>();

  /** @internal Use {@link Contest.watch}. */
  constructor(table: Table, subject: Subject | null, signal: AbortSignal | null, onClose: () => void) {
    super();
    signal?.throwIfAborted();
    this.#table = table;
    this.#subject = subject;
    this.#signal = signal;
    this.#onClose = onClose;
    signal?.addEventListener("abort", this.#onAbort);
  }

  /** Whether the watch, its contest or its fleet is closed. */
  get closed(): boolean {
    return this.#closed || !this.#table.leases.isOpen;
  }

  /** Returns the changes since the last read, without waiting. This also works with an observed fleet. */
  poll(): LeaseChange[] {
    if (this.#changes.length === 0) this.#compare();
    const changes = this.#changes;
    this.#changes = [];
    if (changes.length === 0) this.end();
    return changes;
  }

  /** Closes the watch. Calling it again does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#changes = [];
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#table.waitList.delete(this);
    for (const unwatch of this.#members.values()) unwatch();
    this.#members.clear();
    this.#onClose();
    this.check();
  }

  /** @internal Wakes the reader to compare again. */
  readonly check = (): void => {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };

  readonly #onAbort = (): void => this.fail(this.#signal!.reason);

  protected take(): LeaseChange | null {
    return this.#changes.shift() ?? null;
  }

  protected async read(): Promise<IteratorResult<LeaseChange>> {
    try {
      while (!this.closed) {
        if (this.isTurnDue) {
          await this.turn();
          continue; // the watch may be closed by now
        }
        this.batches++;
        this.#listen();
        this.#compare();
        const change = this.take();
        if (change) return { done: false, value: change };
        await this.#sleep();
      }
    } catch (error) {
      this.fail(error);
    }
    this.close();
    return this.end();
  }

  /** Makes each later change wake this watch. Must run before the comparison, so that no change is missed. */
  #listen(): void {
    const { fleet, leases, waitList } = this.#table;
    if (fleet.isObserver) {
      throw new InvalidConfigError("An observer cannot wait for leases: it has no write access to the fleet's file.", {
        hint: "Call `poll()`, or join the fleet with `Fleet.join`.",
      });
    }
    waitList.add(this);
    this.#isSoon = leases.watch();
  }

  /** Waits for a change, the end of a lease's time, or the death of a holder. Keeps the process alive until then. */
  async #sleep(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    this.batches = 0;
    this.#watchDeaths();
    const timer = this.#startTimer();
    await holdWhile(promise);
    timer?.close();
  }

  #startTimer(): Timer | null {
    let end = Infinity;
    for (const { expiresAt } of this.#known.values()) end = Math.min(end, expiresAt);
    const left = this.#isSoon ? SOON_MS : end - this.#table.leases.now();
    if (left === Infinity) return null;
    const timer = systemClock.after(left, this.check);
    timer.unref();
    return timer;
  }

  #watchDeaths(): void {
    const gone = new Set(this.#members.keys());
    for (const holder of this.#known.values()) {
      const member = `${holder.member}.${holder.incarnation}`;
      if (gone.delete(member) || this.#members.has(member)) continue;
      this.#members.set(member, this.#table.deaths.add(holder, this.check));
    }
    for (const member of gone) {
      this.#members.get(member)!();
      this.#members.delete(member);
    }
  }

  // ---- comparison -------------------------------------------------------------------------------------------------

  /** Adds the changes since the last comparison: ends before claims, so a subject's last change is its state. */
  #compare(): void {
    if (this.closed) return;
    const { leases } = this.#table;
    const now = this.#subject ? this.#readSubject(this.#subject) : this.#readAll();
    for (const [key, known] of this.#known) {
      const next = now.get(key);
      if (next?.token === known.token) continue;
      const type = leases.howEnded(known, next?.claimedAt ?? leases.now());
      this.#changes.push({ type, holder: known });
    }
    for (const [key, holder] of now) {
      const known = this.#known.get(key);
      if (known?.token !== holder.token) this.#changes.push({ type: "claimed", holder });
      else if (holder.expiresAt !== known.expiresAt) this.#changes.push({ type: "renewed", holder });
    }
    this.#known = now;
  }

  #readSubject(subject: Subject): Map<string, Holder> {
    const { leases } = this.#table;
    return new Map(leases.find(subject) ? [["", leases.found(subject)]] : []);
  }

  /** Reads the whole table. If it finds two tenures of one subject, it keeps the newer one. */
  #readAll(): Map<string, Holder> {
    const { fleet, leases } = this.#table;
    const now = new Map<string, Holder>();
    for (let entry = 0; entry < fleet.geometry.maxLeases; entry++) {
      if (!leases.at(entry)) continue;
      const before = this.#byEntry[entry];
      const isKnown = before !== undefined && before.token === leases.foundToken();
      const holder = isKnown ? leases.found(before.subject, before.owner) : leases.found();
      this.#byEntry[entry] = holder;
      const key = `${holder.subject.kind}\0${holder.subject.label}`;
      if ((now.get(key)?.token ?? 0) < holder.token) now.set(key, holder);
    }
    return now;
  }
}
