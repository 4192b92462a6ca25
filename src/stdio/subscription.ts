/** Items for one reader, from those who tell it: bounded, with a policy. */

import { BoundedQueue, type QueuePolicy } from "../bounded-queue.ts";
import { checkChoice, checkInteger, checkOptions } from "../check.ts";
import { SubscriptionFullError } from "../errors.ts";
import { Hold } from "../hold.ts";

/** How a subscription keeps what its reader has not taken. */
export interface SubscribeOptions {
  /** Items kept for the reader. 1 to 1 048 576, default 256. */
  queue?: number | undefined;
  /**
   * What happens when the queue is full: `"drop-newest"` (default) and `"drop-oldest"` lose an item and count it; `"close"`
   * ends the subscription with `SubscriptionFullError` behind what is queued; `"block"` reads no more from the worker that
   * told, until there is room. A reader that then stays away stops that worker's requests too.
   */
  policy?: QueuePolicy | undefined;
  /** Ends it at once; reading rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
}

const POLICIES: readonly QueuePolicy[] = ["drop-newest", "drop-oldest", "close", "block"];
const QUEUE_MAX = 1_048_576;
const DONE: IteratorResult<never> = { done: true, value: undefined };

/** Items for one reader, in order. Leaving the loop closes it; what is queued can be read after that. */
export class Subscription<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #limit: number;
  readonly #policy: QueuePolicy;
  readonly #queue: BoundedQueue<T>;
  readonly #signal: AbortSignal | undefined;
  readonly #onClose: (subscription: Subscription<T>) => void;
  readonly #onDrop: () => void;
  #readers: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void }[] = [];
  /** Set while somebody waits for an item. */
  readonly #hold = new Hold();
  #room: PromiseWithResolvers<void> | null = null;
  #isOpen = true;
  #isReleased = false;
  #failure: { error: unknown } | null = null;
  #dropped = 0;

  /** @internal */
  constructor(
    options: SubscribeOptions,
    onClose: (subscription: Subscription<T>) => void,
    onDrop: () => void = () => {},
  ) {
    const { queue = 256, policy = "drop-newest", signal } = checkOptions("a subscription", options);
    this.#limit = checkInteger("queue", queue, 1, QUEUE_MAX);
    this.#policy = checkChoice("policy", policy, POLICIES);
    this.#queue = new BoundedQueue(this.#limit, this.#policy);
    this.#signal = signal;
    this.#onClose = onClose;
    this.#onDrop = onDrop;
    signal?.throwIfAborted();
    signal?.addEventListener("abort", this.#abort);
  }

  /** Whether more can come. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Items that wait to be read. */
  get queued(): number {
    return this.#queue.length;
  }

  /** Items that its policy or an abort lost. */
  get dropped(): number {
    return this.#dropped;
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
      if (this.#policy === "close") this.#end({ error: new SubscriptionFullError(this.#limit) });
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
    this.#dropped += count;
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
