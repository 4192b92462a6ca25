/** A bounded queue between those who tell and one who reads. */

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
  policy?: "drop-newest" | "drop-oldest" | "close" | "block" | undefined;
  /** Ends it at once; reading rejects with `signal.reason`. */
  signal?: AbortSignal | undefined;
}

/** Policies of a subscription. */
const POLICIES = ["drop-newest", "drop-oldest", "close", "block"] as const;
const QUEUE_MAX = 1_048_576;
const DONE: IteratorResult<never> = { done: true, value: undefined };

/** Items for one reader, in order. Leaving the loop closes it; what is queued can be read after that. */
export class Subscription<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  readonly #limit: number;
  readonly #policy: (typeof POLICIES)[number];
  readonly #signal: AbortSignal | undefined;
  readonly #onClose: (subscription: Subscription<T>) => void;
  readonly #onDrop: () => void;
  #items: (T | undefined)[] = [];
  #first = 0;
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
    return this.#items.length - this.#first;
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
    if (this.queued >= this.#limit && !this.#makeRoom()) return null;
    this.#items.push(item);
    if (this.#policy !== "block" || this.#isReleased || this.queued < this.#limit) return null;
    return (this.#room ??= Promise.withResolvers<void>()).promise;
  }

  /** @internal It blocks nobody any more: what still comes is queued. */
  release(): void {
    this.#isReleased = true;
    this.#room?.resolve();
    this.#room = null;
  }

  /** The next item; done when it is closed and all was read. */
  next(): Promise<IteratorResult<T>> {
    if (this.#first < this.#items.length) {
      const value = this.#items[this.#first]!;
      this.#items[this.#first++] = undefined;
      if (this.#first === this.#items.length || this.#first > 1_024) {
        this.#items = this.#items.slice(this.#first);
        this.#first = 0;
      }
      this.#giveRoom();
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
    this.#forget();
    this.#end(null);
    return Promise.resolve(DONE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** `false`: there is none for the newest. */
  #makeRoom(): boolean {
    if (this.#policy === "close") {
      this.#end({ error: new SubscriptionFullError(this.#limit) });
      return false;
    }
    // What "block" could not stop any more (the rest of a batch, several workers) is kept: it loses nothing.
    if (this.#policy === "block") return true;
    this.#dropped++;
    this.#onDrop();
    if (this.#policy === "drop-newest") return false;
    this.#items[this.#first++] = undefined;
    if (this.#first > 1_024) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return true;
  }

  #giveRoom(): void {
    if (!this.#room || this.queued >= this.#limit) return;
    this.#room.resolve();
    this.#room = null;
  }

  #forget(): void {
    this.#items = [];
    this.#first = 0;
  }

  readonly #abort = (): void => {
    for (let left = this.queued; left > 0; left--) {
      this.#dropped++;
      this.#onDrop();
    }
    this.#forget();
    this.#end({ error: this.#signal!.reason });
  };

  #end(failure: { error: unknown } | null): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#room?.resolve();
    this.#room = null;
    this.#onClose(this);
    const readers = this.#readers.splice(0);
    this.#hold.set(false);
    if (failure && readers.length > 0) readers.shift()!.reject(failure.error);
    else this.#failure = failure;
    for (const reader of readers) reader.resolve(DONE);
  }
}
