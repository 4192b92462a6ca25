/** A lease watch over NATS: compares what the server last sent with the state that its reader has seen. */

import { Items } from "../../fleet/items.ts";
import { holdWhile } from "../../hold.ts";
import type { Holder } from "../../native/lease.ts";
import type { PortableLeaseWatch } from "../portable.ts";
import type { LeaseChange } from "../watch.ts";
import type { Bucket, Entry } from "./bucket.ts";
import { Follow } from "./follow.ts";

/** A lease as the server last sent it. */
interface State {
  readonly revision: number;
  /** `null`: it is free. */
  readonly holder: Holder | null;
  /** How the tenure before ended, if the server has said so and the reader has not read it. */
  readonly end: "released" | "expired" | null;
}

const FREE: State = { revision: 0, holder: null, end: null };

export class NatsLeaseWatch extends Items<LeaseChange> implements PortableLeaseWatch {
  readonly #follow: Follow;
  readonly #signal: AbortSignal | null;
  readonly #toHolder: (entry: Entry) => Holder | null;
  readonly #onClose: () => void;
  /** Leases by key, as the reader knows them. */
  readonly #known = new Map<string, { revision: number; holder: Holder }>();
  /** Leases by key, as the server last sent them. */
  readonly #present = new Map<string, State>();
  /** Keys that may differ between both. */
  readonly #changed = new Set<string>();
  /** Keys that came since the last restart; `null`: all came. */
  #seen: Set<string> | null = new Set();
  #wake: (() => void) | null = null;
  #closed = false;

  constructor(
    bucket: Bucket,
    key: string,
    signal: AbortSignal | null,
    toHolder: (entry: Entry) => Holder | null,
    onClose: () => void,
  ) {
    super();
    this.#signal = signal;
    this.#toHolder = toHolder;
    this.#onClose = onClose;
    signal?.addEventListener("abort", this.#onAbort);
    this.#follow = new Follow(bucket, key, {
      restart: () => (this.#seen = new Set()),
      entry: (entry) => this.#onEntry(entry),
      complete: () => this.#onComplete(),
    });
  }

  get closed(): boolean {
    return this.#closed;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#follow.close();
    this.#changed.clear();
    this.#onClose();
    this.#notify();
  }

  readonly #onAbort = (): void => this.fail(this.#signal!.reason);

  #onEntry(entry: Entry): void {
    const { key, revision, end } = entry;
    this.#seen?.add(key);
    const before = this.#present.get(key) ?? FREE;
    if (revision <= before.revision) return;
    const holder = end === null ? this.#toHolder(entry) : null;
    if (holder || this.#known.has(key)) this.#set(key, { revision, holder, end: end ?? before.end });
    else this.#present.delete(key); // it began and ended between two reads
  }

  #onComplete(): void {
    const seen = this.#seen;
    this.#seen = null;
    if (!seen) return;
    for (const [key, { revision, end }] of this.#present) {
      if (seen.has(key)) continue;
      if (this.#known.has(key)) this.#set(key, { revision, holder: null, end });
      else this.#present.delete(key);
    }
  }

  #set(key: string, state: State): void {
    this.#present.set(key, state);
    this.#changed.add(key);
    this.#notify();
  }

  protected take(): LeaseChange | null {
    for (const key of this.#changed) {
      const change = this.#compare(key);
      if (change) return change;
      this.#changed.delete(key);
    }
    return null;
  }

  /** Returns the next change of a key: the end of the tenure that the reader knows, then the present one. */
  #compare(key: string): LeaseChange | null {
    const known = this.#known.get(key);
    const { revision, holder, end } = this.#present.get(key) ?? FREE;
    if (known && holder?.token !== known.holder.token) {
      this.#known.delete(key);
      if (holder) this.#present.set(key, { revision, holder, end: null });
      else this.#present.delete(key);
      const isOver = !holder || holder.claimedAt >= known.holder.expiresAt;
      return { type: end ?? (isOver ? "expired" : "released"), holder: known.holder };
    }
    if (!holder) {
      this.#present.delete(key);
      return null;
    }
    if (known?.revision === revision) return null;
    this.#known.set(key, { revision, holder });
    return { type: known ? "renewed" : "claimed", holder };
  }

  protected async read(): Promise<IteratorResult<LeaseChange>> {
    while (!this.#closed) {
      const change = this.take();
      if (change) return { done: false, value: change };
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await holdWhile(promise);
    }
    return this.end();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}
