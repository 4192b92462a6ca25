/** A bounded queue of items for one reader. */

import { BoundedQueue, type QueuePolicy } from "../bounded-queue.ts";
import { EventsLostError } from "../errors.ts";
import { Hold } from "../hold.ts";
import type { Resolved } from "../options.ts";
import type { subscribeOptions } from "./options.ts";

const DONE: IteratorResult<never> = { done: true, value: undefined };

/** Yields items in order, to one reader. Leaving the loop closes the subscription and drops its queue. */
export class Subscription<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #limit: number;
  readonly #policy: QueuePolicy;
  readonly #queue: BoundedQueue<T>;
  readonly #signal: AbortSignal | null;
  readonly #onClose: (subscription: Subscription<T>) => void;
  readonly #onDrop: () => void;
  #readers: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void }[] = [];
  /** Keeps the process alive while a reader waits. */
  readonly #hold = new Hold();
  #room: PromiseWithResolvers<void> | null = null;
  #isOpen = true;
  #isReleased = false;
  #failure: { error: unknown } | null = null;
  #lost = 0;

  /** @internal */
  constructor(
    { queue, signal }: Resolved<(typeof subscribeOptions)["rows"]>,
    onClose: (subscription: Subscription<T>) => void,
    onDrop: () => void = () => {},
  ) {
    this.#limit = queue.limit;
    this.#policy = queue.policy;
    this.#queue = new BoundedQueue(this.#limit, this.#policy);
    this.#signal = signal;
    this.#onClose = onClose;
    this.#onDrop = onDrop;
    signal?.throwIfAborted();
    signal?.addEventListener("abort", this.#abort);
  }

  /** Whether the subscription is closed. Queued items can still be read. */
  get closed(): boolean {
    return !this.#isOpen;
  }

  /** Number of items that wait to be read. */
  get queued(): number {
    return this.#queue.length;
  }

  /** Number of items dropped by the queue's policy or by an abort. */
  get lost(): number {
    return this.#lost;
  }

  /** @internal Adds an item. Returns a promise if the sender must wait for room before the next item. */
  push(item: T): Promise<void> | null {
    if (!this.#isOpen) return null;
    const reader = this.#readers.shift();
    if (reader) {
      this.#hold.set(this.#readers.length > 0);
      reader.resolve({ done: false, value: item });
      return null;
    }
    // With the policy "block", messages that were already read are kept even beyond the limit, so none is lost.
    if (!this.#queue.accepts()) {
      if (this.#policy === "close") this.#end({ error: new EventsLostError(this.#limit) });
      else this.#drop(1);
      return null;
    }
    this.#drop(this.#queue.push(item));
    if (this.#policy !== "block" || this.#isReleased || !this.#queue.isFull) return null;
    return (this.#room ??= Promise.withResolvers<void>()).promise;
  }

  /** @internal Stops blocking senders. Further items are queued. */
  release(): void {
    this.#isReleased = true;
    this.#giveRoom();
  }

  /** Resolves to the next item; `done` when the subscription is closed and the queue is empty. */
  next(): Promise<IteratorResult<T>> {
    if (this.#queue.length > 0) {
      const value = this.#queue.take()!;
      if (!this.#queue.isFull) this.#giveRoom();
      return Promise.resolve({ done: false, value });
    }
    const failure = this.#failure;
    if (failure) {
      this.#failure = null;
      return Promise.reject(failure.error);
    }
    if (!this.#isOpen) return Promise.resolve(DONE);
    this.#hold.set(true);
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }

  /** Closes the subscription. Queued items can still be read. */
  close(): void {
    this.#end(null);
  }

  /** Closes the subscription and drops queued items. */
  return(): Promise<IteratorResult<T>> {
    this.#queue.takeAll();
    this.#end(null);
    return Promise.resolve(DONE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #drop(count: number): void {
    this.#lost += count;
    for (let left = count; left > 0; left--) this.#onDrop();
  }

  #giveRoom(): void {
    this.#room?.resolve();
    this.#room = null;
  }

  readonly #abort = (): void => {
    this.#drop(this.#queue.takeAll().length);
    this.#end({ error: this.#signal!.reason });
  };

  #end(failure: { error: unknown } | null): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#giveRoom();
    this.#onClose(this);
    const readers = this.#readers.splice(0);
    this.#hold.set(false);
    if (failure && readers.length > 0) readers.shift()!.reject(failure.error);
    else this.#failure = failure;
    for (const reader of readers) reader.resolve(DONE);
  }
}
