/** What waits for one reader: first in, first out, up to a limit, beyond which a policy decides. */

/**
 * What happens to an item for which there is no room: `"drop-newest"` refuses it, `"drop-oldest"` drops what waits the longest,
 * `"close"` refuses it and ends the reader's subscription. `"block"` takes it and stops the source until there is room.
 */
export type QueuePolicy = "drop-newest" | "drop-oldest" | "close" | "block";

/** A queue of items. Its owner counts what is lost, closes what ends and stops what blocks. */
export class BoundedQueue<T> {
  readonly #limit: number;
  readonly #policy: QueuePolicy;
  readonly #sizeOf: (item: unknown) => number;
  #items: (T | undefined)[] = [];
  /** Place of the oldest item. */
  #at = 0;
  #size = 0;
  #first = 0;

  /** `limit`: sum of the sizes of all items, 1 or more. A size is 1 by default. */
  constructor(limit: number, policy: QueuePolicy, sizeOf: (item: unknown) => number = () => 1) {
    this.#limit = limit;
    this.#policy = policy;
    this.#sizeOf = sizeOf;
  }

  /** Items that wait. */
  get length(): number {
    return this.#items.length - this.#at;
  }

  /** Whether an item of size 1 has no room. */
  get isFull(): boolean {
    return !this.#fits(1);
  }

  /** Number of the oldest item, or of the next one that is pushed: so many were taken or dropped before it. */
  get first(): number {
    return this.#first;
  }

  /** Whether the policy takes an item of this size now. */
  accepts(size = 1): boolean {
    return this.#policy === "drop-oldest" || this.#policy === "block" || this.#fits(size);
  }

  /** Adds an item, whatever the limit. Returns how many items `"drop-oldest"` dropped for it. */
  push(item: T): number {
    const size = this.#sizeOf(item);
    let dropped = 0;
    for (; this.#policy === "drop-oldest" && !this.#fits(size); dropped++) this.take();
    this.#items.push(item);
    this.#size += size;
    return dropped;
  }

  /** Removes the oldest item and returns it; `undefined` when none waits. */
  take(): T | undefined {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#at]!;
    this.#items[this.#at++] = undefined;
    this.#first++;
    this.#size -= this.#sizeOf(item);
    if (this.#at * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#at); // copies fewer items than were taken since the last time
      this.#at = 0;
    }
    return item;
  }

  /** Removes all items and returns them. */
  takeAll(): T[] {
    const items = this.#items.slice(this.#at) as T[];
    this.#first += items.length;
    this.#items = [];
    this.#at = 0;
    this.#size = 0;
    return items;
  }

  /** An item always fits into an empty queue. */
  #fits(size: number): boolean {
    return this.#size === 0 || this.#size + size <= this.#limit;
  }
}
