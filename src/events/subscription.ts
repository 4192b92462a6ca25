/** A subscription: the events of a ring that match a filter, in order, with gaps where events were lost. */

import { BoundedQueue } from "../bounded-queue.ts";
import { checkInteger } from "../check.ts";
import type { Codec } from "../codec.ts";
import { EventsLostError } from "../errors.ts";
import type { EventReader, EventRing } from "../fleet/event-ring.ts";
import { BATCHES_PER_TURN, Items } from "../fleet/items.ts";
import { holdWhile } from "../hold.ts";
import { type BusEvent, EventDecoder } from "./codec.ts";
import { compile, type Filter, patternsOf, PredicateFailure, type Test } from "./filter.ts";
import { type SubscribeOptions, subscribeOptions } from "./options.ts";
import { Pump } from "./pump.ts";

/** Stands in the place of lost events. Tell it from an event by `topic`, which is `null`. */
export interface Gap {
  readonly topic: null;
  /** Number of events that the ring overwrote before they were read. It is unknown whether they match the filter. */
  readonly overwritten: number;
  /** Number of events that were dropped by the policy, or could not be decoded. */
  readonly dropped: number;
  /**
   * Epoch of the fleet's file, if it is a new file: events of the earlier file may have been missed. A member continues
   * with the new file; an observer must call `Fleet.observe` again.
   */
  readonly epoch?: number;
}

/** A gap that was not read yet, and may grow. */
type MutableGap = { -readonly [Key in keyof Gap]: Gap[Key] };

/** Counters of a subscription, since it started. */
export interface SubscriptionCounts {
  /** Number of events that the reader got. */
  received: number;
  /** Number of events in the queue. */
  queued: number;
  /** Number of events that did not match the filter. */
  filtered: number;
  /** Number of events that the ring overwrote before they were read. */
  overwritten: number;
  /** Number of events that were dropped by the policy or an abort, or because they are {@link undecodable}. */
  dropped: number;
  /** Number of events that could not be decoded. */
  undecodable: number;
}

const POLL_MAX = 65_536;
/** Number of events copied out of the ring at once. */
const BATCH = 64;

/**
 * Events for one reader. It ends with `close()`, when a loop over it ends, when its signal aborts, and when the bus is
 * closed. Events that are already queued can still be read after `close()`.
 */
export class Subscription<E extends object = BusEvent> extends Items<E | Gap> {
  /** Id within its bus, from 0. */
  readonly id: number;
  readonly #reader: EventReader;
  readonly #decoder: EventDecoder;
  readonly #test: Test;
  readonly #policy: string;
  readonly #pump: Pump | null;
  readonly #signal: AbortSignal | null;
  readonly #onClose: (id: number) => void;
  readonly #queue: BoundedQueue<E>;
  /** Gaps, by the number of the event that follows them. That event is queued, or will be queued next. */
  readonly #gaps = new Map<number, MutableGap>();
  /** Gap before all queued events: what `"drop-oldest"` has dropped. */
  #before: MutableGap | null = null;
  readonly #counts = { received: 0, filtered: 0, overwritten: 0, dropped: 0, undecodable: 0 };
  /** Value of `received` when {@link readEagerly} last found the queue full; -1 if it was not full. */
  #receivedThen = -1;
  #wake: (() => void) | null = null;

  /** @internal Use {@link EventBus.subscribe}. */
  constructor(
    id: number,
    ring: EventRing,
    filter: Filter,
    codec: Codec,
    options: SubscribeOptions,
    onClose: (id: number) => void,
  ) {
    super();
    const { from, queue, signal, codec: own } = subscribeOptions.resolve(options);
    const { limit, policy } = queue;
    this.#test = compile(filter);
    signal?.throwIfAborted();
    this.id = id;
    this.#queue = new BoundedQueue(Math.max(1, limit), policy);
    this.#policy = policy;
    this.#signal = signal;
    this.#onClose = onClose;
    this.#reader = ring.reader(from ?? "head", patternsOf(filter));
    this.#decoder = new EventDecoder(this.#reader, own ?? codec);
    this.#noteEpoch();
    this.#noteOverwritten();
    signal?.addEventListener("abort", this.#abort);
    const isEager = limit > 0 && !ring.isObserver;
    this.#pump = isEager
      ? new Pump(
          this.#reader,
          () => this.#readEagerly(),
          (error) => this.fail(error),
        )
      : null;
  }

  get closed(): boolean {
    return this.#reader.closed;
  }

  /** Number of lost events: overwritten in the ring, or dropped. */
  get lost(): number {
    return this.#counts.overwritten + this.#counts.dropped;
  }

  get counts(): SubscriptionCounts {
    return { ...this.#counts, queued: this.#queue.length };
  }

  /** Returns the items that are available now: at most `max` events, and gaps. Throws errors of reading. */
  poll(max = BATCH): (E | Gap)[] {
    checkInteger("max", max, 1, POLL_MAX);
    const items: (E | Gap)[] = [];
    for (let events = 0; events < max;) {
      const item = this.#next();
      if (!item) break;
      items.push(item);
      if ((item as Gap).topic !== null) events++;
    }
    if (items.length === 0) this.end();
    return items;
  }

  /**
   * Stops reading the ring. Queued events can still be read, then the iteration ends. Calling it again does nothing.
   */
  close(): void {
    if (this.closed) return;
    this.#pump?.stop();
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#reader.close();
    this.#onClose(this.id);
    this.#notify();
  }

  readonly #abort = (): void => {
    this.#counts.dropped += this.#queue.takeAll().length;
    this.#gaps.clear();
    this.#before = null;
    this.fail(this.#signal!.reason);
  };

  // ---- the reader's side ------------------------------------------------------------------------------------------

  protected take(): E | Gap | null {
    return this.#take() ?? (this.#reader.left > 0 ? this.#next(1) : null);
  }

  protected async read(): Promise<IteratorResult<E | Gap>> {
    for (;;) {
      if (this.isTurnDue && !this.closed) await this.turn();
      const item = this.#next(BATCHES_PER_TURN);
      if (item) return { done: false, value: item };
      if (this.closed) break;
      if (!this.isTurnDue) await (this.#pump ? this.#awaitPump() : this.sleep(this.#reader));
    }
    return this.end();
  }

  /** Waits until the pump has queued something. Keeps the process alive until then. */
  #awaitPump(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    return holdWhile(promise);
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Takes the next item from the queue, else from the ring. Gives up after `batches` batches without a match. */
  #next(batches = Infinity): E | Gap | null {
    for (let batch = 0; batch < batches; batch++) {
      const item = this.#take();
      if (item || this.closed || !this.#fill(false)) return item ?? this.#take();
    }
    return this.#take();
  }

  #take(): E | Gap | null {
    const gap = this.#before ?? this.#takeGap(this.#queue.first);
    this.#before = null;
    if (gap) return gap;
    const event = this.#queue.take();
    if (event) this.#counts.received++;
    return event ?? null;
  }

  // ---- the ring's side --------------------------------------------------------------------------------------------

  /**
   * Reads the ring into the queue, once per turn of the event loop. If the queue is full, it first waits one turn: the
   * reader may empty the queue meanwhile, and the ring keeps the other events. The policy applies only if nothing was
   * read then.
   */
  #readEagerly(): "more" | "empty" {
    this.batches = 0;
    const isStuck = this.#queue.isFull && this.#counts.received === this.#receivedThen;
    let found = true;
    for (let batch = 0; batch < BATCHES_PER_TURN && found && !this.closed; batch++) {
      found = this.#fill(isStuck);
      if (!isStuck && this.#queue.isFull) break;
    }
    if (!found) this.batches = 0;
    this.#receivedThen = this.#queue.isFull ? this.#counts.received : -1;
    if (this.#queue.length > 0 || this.#before || this.#gaps.size > 0) this.#notify();
    return found ? "more" : "empty";
  }

  /** Reads a batch, or the rest of a batch, into the queue. Returns `false` if the ring has no new events. */
  #fill(mayDrop: boolean): boolean {
    const reader = this.#reader;
    if (reader.left === 0) {
      reader.poll(BATCH);
      this.batches++;
      this.#noteOverwritten();
      if (reader.closed) return false;
      if (reader.left === 0) {
        this.#noteEpoch();
        return reader.lost > 0;
      }
    }
    while ((mayDrop || !this.#queue.isFull) && reader.next()) {
      this.#offer();
      if (reader.closed) return false;
    }
    return true;
  }

  /** Queues the current event of the reader if it matches the filter. */
  #offer(): void {
    let event: E | null = null;
    try {
      if (!this.#isWanted()) return;
      if (this.#queue.accepts()) event = this.#decoder.toEvent() as E;
    } catch (error) {
      if (error instanceof PredicateFailure) {
        this.fail(error.cause);
        return;
      }
      this.#counts.undecodable++;
    }
    if (!event) {
      this.#drop();
      return;
    }
    const { first } = this.#queue;
    if (this.#queue.push(event) > 0) this.#noteDropped(first);
  }

  #isWanted(): boolean {
    if (!this.#decoder.read()) throw new TypeError("not an event of a bus");
    if (this.#test(this.#decoder)) return true;
    this.#counts.filtered++;
    return false;
  }

  #drop(): void {
    this.#counts.dropped++;
    this.#gapBefore(this.#nextNumber).dropped++;
    if (this.#policy === "close") this.fail(new EventsLostError(this.lost));
  }

  /**
   * Counts the oldest event, which has this number, as dropped. The gap before the event becomes part of the new gap.
   */
  #noteDropped(number: number): void {
    this.#counts.dropped++;
    const before = (this.#before ??= { topic: null, overwritten: 0, dropped: 0 });
    before.dropped++;
    const gap = this.#takeGap(number);
    if (!gap) return;
    before.overwritten += gap.overwritten;
    before.dropped += gap.dropped;
    if (gap.epoch !== undefined) before.epoch = gap.epoch;
  }

  /** Number of the event that is queued next. */
  get #nextNumber(): number {
    return this.#queue.first + this.#queue.length;
  }

  #gapBefore(number: number): MutableGap {
    let gap = this.#gaps.get(number);
    if (!gap) this.#gaps.set(number, (gap = { topic: null, overwritten: 0, dropped: 0 }));
    return gap;
  }

  #takeGap(number: number): Gap | null {
    const gap = this.#gaps.size > 0 ? this.#gaps.get(number) : undefined;
    if (gap) this.#gaps.delete(number);
    return gap ?? null;
  }

  #noteEpoch(): void {
    const epoch = this.#reader.takeNewEpoch();
    if (epoch !== null) this.#gapBefore(this.#nextNumber).epoch = epoch;
  }

  #noteOverwritten(): void {
    const { lost } = this.#reader;
    if (lost === 0) return;
    this.#counts.overwritten += lost;
    this.#gapBefore(this.#nextNumber).overwritten += lost;
    if (this.#policy === "close") this.fail(new EventsLostError(this.lost));
  }
}
