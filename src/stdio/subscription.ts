/** Items for one reader, from those who tell it: bounded, with a policy. */

import { BoundedQueue, type QueuePolicy } from "../bounded-queue.ts";
import { EventsLostError } from "../errors.ts";
import { Hold } from "../hold.ts";
import type { Resolved } from "../options.ts";
import type { subscribeOptions } from "./options.ts";

const DONE: IteratorResult<never> = { done: true, value: undefined };

/** Items for one reader, in order. Leaving the loop closes it; what is queued can be read after that. */
export class Subscription<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #limit: number;
  readonly #policy: QueuePolicy;
  readonly #queue: BoundedQueue<T>;
  readonly #signal: AbortSignal | null;
  readonly #onClose: (subscription: Subscription<T>) => void;
  readonly #onDrop: () => void;
  #readers: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void }[] = [];
  /** Set while somebody waits for an item. */
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

  /** Whether nothing more comes; what is queued can be read. */
  get closed(): boolean {
    return !this.#isOpen;
  }

  /** Items that wait to be read. */
  get queued(): number {
    return this.#queue.length;
  }

  /** Items that its policy or an abort lost. */
  get lost(): number {
    return this.#lost;
  }

  /** @internal Takes an item; returns a promise when the next one should wait for room. */
  push(item: T): Promise<void> | null {
    if (!this.#isOpen) return null;
    const reader = this.#readers.shift();
    if (reader) {
      this.#hold.set(this.#readers.length > 0);
      reader.resolve({ done: false, value: item });
      return null;
    }
    // What "block" could not stop any more (the rest of a batch, several workers) is kept: it loses nothing.
    if (!this.#queue.accepts()) {
      if (this.#policy === "close") this.#end({ error: new EventsLostError(this.#limit) });
      else this.#drop(1);
      return null;
    }
    this.#drop(this.#queue.push(item));
    if (this.#policy !== "block" || this.#isReleased || !this.#queue.isFull) return null;
    return (this.#room ??= Promise.withResolvers<void>()).promise;
  }

  /** @internal It blocks nobody any more: what still comes is queued. */
  release(): void {
    this.#isReleased = true;
    this.#giveRoom();
  }

  /** The next item; done when it is closed and all was read. */
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

  /** Takes nothing more; what is queued can be read. */
  close(): void {
    this.#end(null);
  }

  /** Closes it and forgets what is queued. */
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
