/** A watch: how the leases of a fleet differ from what its reader was told. */

import { systemClock, type Timer } from "../clock.ts";
import { InvalidConfigError } from "../errors.ts";
import type { Fleet } from "../fleet/fleet.ts";
import { Items } from "../fleet/items.ts";
import { holdWhile } from "../hold.ts";
import type { Holder, LeaseHandle, Subject } from "../native/lease.ts";
import type { DeathWatch } from "./death-watch.ts";
import type { WaitList, Waiting } from "./wait-list.ts";

/**
 * What became of a lease: it was `claimed` or `renewed`, or its tenure ended: `released` by somebody or by a member that left
 * the fleet, `expired` with its time, or `died` with the process of its holder.
 */
export interface LeaseChange {
  readonly type: "claimed" | "renewed" | "released" | "expired" | "died";
  /** The tenure; of one that ended, as it was last seen. */
  readonly holder: Holder;
}

/** What a watch reads from, and what wakes it. */
interface Table {
  readonly fleet: Fleet;
  readonly leases: LeaseHandle;
  readonly waitList: WaitList;
  readonly deaths: DeathWatch;
}

/** Somebody is in the middle of a change, and may have told before it: it is looked for so soon again, in ms. */
const SOON_MS = 1;

/**
 * Changes of leases for one reader. The table is looked at when the reader asks, so a slow reader gets what differs by then:
 * at most the end of the tenure that it knew and the claim of the newest one for each subject. Closed by `close`, by leaving
 * the loop, by its signal, and with its contest or its fleet.
 */
export class LeaseWatch extends Items<LeaseChange> implements Waiting {
  readonly #table: Table;
  readonly #subject: Subject | null;
  readonly #signal: AbortSignal | null;
  readonly #onClose: () => void;
  /** What the reader knows when it has read {@link #changes}, by subject. */
  #known = new Map<string, Holder>();
  #changes: LeaseChange[] = [];
  /** What was last found in an entry of the table: texts are decoded once a tenure. */
  readonly #byEntry: Holder[] = [];
  #closed = false;
  /** The last look was into the middle of a change. */
  #isSoon = false;
  #wake: (() => void) | null = null;
  /** Members whose death is watched. */
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

  /** Whether it tells nothing more: it was closed, or its contest or its fleet was. */
  get closed(): boolean {
    return this.#closed || !this.#table.leases.isOpen;
  }

  /** What changed since the last item, without waiting; this works in a fleet that is only observed too. */
  poll(): LeaseChange[] {
    if (this.#changes.length === 0) this.#look();
    const changes = this.#changes;
    this.#changes = [];
    if (changes.length === 0) this.end();
    return changes;
  }

  /** Tells nothing more. May be called again. */
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

  /** @internal Something may have changed: whoever sleeps looks again. */
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
          continue; // it may be closed by now
        }
        this.batches++;
        this.#listen();
        this.#look();
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

  /** From here on a change wakes: the look comes behind it. */
  #listen(): void {
    const { fleet, leases, waitList } = this.#table;
    if (fleet.isObserver) {
      throw new InvalidConfigError("an observer cannot sleep for leases: it writes nothing, not even that it waits.", {
        hint: "Call `poll`, or join the fleet.",
      });
    }
    waitList.add(this);
    this.#isSoon = leases.watch();
  }

  /** Until a change, the end of a tenure, or the death of a holder. The process stays alive meanwhile. */
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

  // ---- what differs -----------------------------------------------------------------------------------------------

  /** First what ended, then what began: so the last of a subject is what it is. */
  #look(): void {
    if (this.closed) return;
    const { leases } = this.#table;
    const now = this.#subject ? this.#lookAt(this.#subject) : this.#lookAtAll();
    for (const [key, known] of this.#known) {
      const next = now.get(key);
      if (next?.token === known.token) continue;
      const type = leases.howEnded(known, next?.claimedAt ?? leases.now());
      this.#changes.push({ type, holder: known });
    }
    for (const [key, holder] of now) {
      const known = this.#known.get(key);
      if (known?.token !== holder.token) this.#changes.push({ type: "claimed", holder });
      else if (holder.expiresAt > known.expiresAt) this.#changes.push({ type: "renewed", holder });
    }
    this.#known = now;
  }

  #lookAt(subject: Subject): Map<string, Holder> {
    const { leases } = this.#table;
    return new Map(leases.find(subject) ? [["", leases.found(subject)]] : []);
  }

  /** Of two tenures of one subject, which were found one after the other, the newer one. */
  #lookAtAll(): Map<string, Holder> {
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
