/** A ring of events in the memory of this thread: what `EventBus.local` runs on. */

import { ClosedError, PayloadTooLargeError } from "../errors.ts";
import { type EventReader, type EventRing, type From, startOf } from "../fleet/event-ring.ts";

/** There is one epoch: a place of another one is that of a fleet. */
const EPOCH = 0;
const DRAFT_MIN = 4_096;

interface Kept {
  readonly memory: Buffer;
  readonly time: number;
}

/** The position of an event is its number. */
export class LocalRing implements EventRing {
  readonly payloadBytes: number;
  readonly isObserver = false;
  head = 0;
  readonly #maxEvents: number;
  /** Event `n` lies at `n % maxEvents`. */
  readonly #events: Kept[] = [];
  readonly #sleepers = new Set<() => void>();
  #draft: Buffer = Buffer.alloc(DRAFT_MIN);

  constructor(maxEvents: number, payloadBytes: number) {
    this.#maxEvents = maxEvents;
    this.payloadBytes = payloadBytes;
  }

  /** Position of the oldest event that is there. */
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

  /** It ends with its bus. */
  onClose(): () => void {
    return () => {};
  }

  /** Events from `first` up to, not including, `end`. */
  slice(first: number, end: number): Kept[] {
    return Array.from({ length: end - first }, (_, i) => this.#events[(first + i) % this.#maxEvents]!);
  }

  /** Calls `wake` on the turn of the event loop after the next event, unless it is forgotten before. */
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
    if (this.closed) throw new ClosedError("the reader", { hint: "Open another one." });
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
