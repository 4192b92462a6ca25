/** A ring of events in the memory of this thread, for `EventBus.local`. */

import { ClosedError, PayloadTooLargeError } from "../errors.ts";
import { type EventReader, type EventRing, type From, startOf } from "../fleet/event-ring.ts";

/** The only epoch. A bookmark of another epoch is from a fleet. */
const EPOCH = 0;
const DRAFT_MIN = 4_096;

interface Kept {
  readonly memory: Buffer;
  readonly time: number;
}

/** A ring whose positions are the numbers of its events. */
export class LocalRing implements EventRing {
  readonly payloadBytes: number;
  readonly isObserver = false;
  head = 0;
  readonly #maxEvents: number;
  /** Event `n` is at index `n % maxEvents`. */
  readonly #events: Kept[] = [];
  readonly #sleepers = new Set<() => void>();
  #draft: Buffer = Buffer.alloc(DRAFT_MIN);

  constructor(maxEvents: number, payloadBytes: number) {
    this.#maxEvents = maxEvents;
    this.payloadBytes = payloadBytes;
  }

  /** Position of the oldest event in the ring. */
  get oldest(): number {
    return Math.max(0, this.head - this.#maxEvents);
  }

  draft(bytes: number): Buffer {
    if (this.#draft.length < bytes) this.#draft = Buffer.alloc(2 ** Math.ceil(Math.log2(bytes)));
    return this.#draft;
  }

  send(bytes: number): void {
    if (bytes > this.payloadBytes) throw new PayloadTooLargeError("event", bytes, this.payloadBytes);
    const memory = Buffer.from(this.#draft.subarray(0, bytes)); // a copy
    this.#events[this.head++ % this.#maxEvents] = { memory, time: Date.now() };
    for (const wake of this.#sleepers) setImmediate(wake);
    this.#sleepers.clear();
  }

  reader(from: From): LocalReader {
    return new LocalReader(this, from);
  }

  /** Does nothing: only its bus closes this ring. */
  onClose(): () => void {
    return () => {};
  }

  /** Returns the events from `first` up to, but not including, `end`. */
  slice(first: number, end: number): Kept[] {
    return Array.from({ length: end - first }, (_, i) => this.#events[(first + i) % this.#maxEvents]!);
  }

  /** Calls `wake` once, on the turn of the event loop after the next event. {@link forget} cancels it. */
  onNext(wake: () => void): void {
    this.#sleepers.add(wake);
  }

  forget(wake: () => void): void {
    this.#sleepers.delete(wake);
  }
}

class LocalReader implements EventReader {
  closed = false;
  left = 0;
  lost = 0;
  nextPosition: number;
  memory: Buffer = Buffer.alloc(0);
  readonly start = 0;
  end = 0;
  time = 0;
  readonly writer = 0;
  readonly incarnation = 0;
  position = 0;
  readonly #ring: LocalRing;
  #batch: Kept[] = [];
  #newEpoch: number | null;
  #wake: (() => void) | null = null;

  constructor(ring: LocalRing, from: From) {
    const { start, isNewEpoch } = startOf(from, EPOCH, () => ring.head);
    const wanted = start === "head" ? ring.head : start === "oldest" ? ring.oldest : start;
    this.#ring = ring;
    this.#newEpoch = isNewEpoch ? EPOCH : null;
    this.nextPosition = Math.max(wanted, ring.oldest);
    this.lost = this.nextPosition - wanted;
  }

  takeNewEpoch(): number | null {
    const epoch = this.#newEpoch;
    this.#newEpoch = null;
    return epoch;
  }

  poll(max: number): number {
    if (this.closed) throw new ClosedError("The reader", { hint: "Open another subscription." });
    const first = Math.max(this.nextPosition, this.#ring.oldest);
    this.lost = first - this.nextPosition;
    this.nextPosition = Math.min(first + max, this.#ring.head);
    this.#batch = this.#ring.slice(first, this.nextPosition);
    this.left = this.#batch.length;
    return this.left;
  }

  next(): boolean {
    if (this.left === 0) return false;
    const { memory, time } = this.#batch[this.#batch.length - this.left]!;
    this.position = this.nextPosition - this.left--;
    this.memory = memory;
    this.end = memory.length;
    this.time = time;
    return true;
  }

  listen(wake: () => void): boolean {
    if (this.#ring.head > this.nextPosition) return false;
    this.#wake = wake;
    this.#ring.onNext(this.#wakeUp);
    return true;
  }

  readonly #wakeUp = (): void => {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };

  close(): void {
    this.closed = true;
    this.left = 0;
    this.#batch = [];
    this.#ring.forget(this.#wakeUp);
    this.#wakeUp();
  }
}
