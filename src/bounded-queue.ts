/** A first-in, first-out queue for one reader, with a limit and a policy for items beyond it. */

/**
 * What happens to an item when the queue is full. `"drop-newest"` discards the item. `"drop-oldest"` discards the
 * oldest items. `"close"` discards the item and closes the subscription. `"block"` keeps the item and pauses the source
 * until there is room.
 */
export type QueuePolicy = "drop-newest" | "drop-oldest" | "close" | "block";

/** A queue of items. Its owner counts lost items, closes the subscription and pauses the source. */
export class BoundedQueue<T> {
  readonly #limit: number;
  readonly #policy: QueuePolicy;
  readonly #sizeOf: (item: unknown) => number;
  #items: (T | undefined)[] = [];
  /** Index of the oldest item. */
  #at = 0;
  #size = 0;
  #first = 0;

  /** `limit`: largest sum of all item sizes, 1 or more. By default each item has size 1. */
  constructor(limit: number, policy: QueuePolicy, sizeOf: (item: unknown) => number = () => 1) {
    this.#limit = limit;
    this.#policy = policy;
    this.#sizeOf = sizeOf;
  }

  /** Number of items in the queue. */
  get length(): number {
    return this.#items.length - this.#at;
  }

  /** Whether there is no room for an item of size 1. */
  get isFull(): boolean {
    return !this.#fits(1);
  }

  /** Number of items that were taken or dropped so far, which is the number of the oldest item. */
  get first(): number {
    return this.#first;
  }

  /** Whether the policy accepts an item of this size now. */
  accepts(size = 1): boolean {
    return this.#policy === "drop-oldest" || this.#policy === "block" || this.#fits(size);
  }

  /** Adds an item without checking the limit. Returns the number of items that `"drop-oldest"` dropped. */
  push(item: T): number {
    const size = this.#sizeOf(item);
    let dropped = 0;
    for (; this.#policy === "drop-oldest" && !this.#fits(size); dropped++) this.take();
    this.#items.push(item);
    this.#size += size;
    return dropped;
  }

  /** Removes and returns the oldest item; `undefined` when the queue is empty. */
  take(): T | undefined {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#at]!;
    this.#items[this.#at++] = undefined;
    this.#first++;
    this.#size -= this.#sizeOf(item);
    if (this.#at * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#at); // copies fewer items than were taken since the last copy
      this.#at = 0;
    }
    return item;
  }

  /** Removes and returns all items. */
  takeAll(): T[] {
    const items = this.#items.slice(this.#at) as T[];
    this.#first += items.length;
    this.#items = [];
    this.#at = 0;
    this.#size = 0;
    return items;
  }

  /** Whether an item fits; any item fits into an empty queue. */
  #fits(size: number): boolean {
    return this.#size === 0 || this.#size + size <= this.#limit;
  }
}
