/** Base class of cursors, subscriptions and lease watches: an async iterator for one reader. */

import { nextTurn, systemClock } from "../clock.ts";
import { holdWhile } from "../hold.ts";
import type { EventReader } from "./event-ring.ts";

const DONE: IteratorResult<never> = { done: true, value: undefined };
/** Number of batches that are read before the event loop gets a turn. */
export const BATCHES_PER_TURN = 16;

/** An async iterator over existing and future items. */
export abstract class Items<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  /** Number of batches read since the event loop had a turn. */
  protected batches = 0;
  #pending: Promise<IteratorResult<T>> | null = null;
  #failure: { error: unknown } | null = null;

  abstract get closed(): boolean;

  /** Ends the iterator. Calling it again does nothing. */
  abstract close(): void;

  /** @internal Returns the next item if it is available without waiting; otherwise `null`. */
  protected abstract take(): T | null;

  /** @internal Waits for the next item. Returns {@link end} after the last one. */
  protected abstract read(): Promise<IteratorResult<T>>;

  next(): Promise<IteratorResult<T>> {
    if (this.#pending) return this.#pending.then(() => this.next());
    const item = this.take();
    if (item) return Promise.resolve({ done: false, value: item });
    this.#pending = this.read().finally(() => {
      this.#pending = null;
    });
    return this.#pending;
  }

  /** Closes the iterator. `for await` calls it at `break`. */
  async return(): Promise<IteratorResult<T>> {
    this.close();
    return DONE;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** @internal Whether enough was read that the event loop should get a turn. */
  protected get isTurnDue(): boolean {
    return this.batches >= BATCHES_PER_TURN;
  }

  /** @internal Resolves after a turn of the event loop. */
  protected turn(): Promise<void> {
    this.batches = 0;
    return nextTurn(systemClock);
  }

  /** @internal Resolves when there may be more to poll or the reader is closed. Keeps the process alive until then. */
  protected sleep(reader: EventReader): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (!reader.listen(resolve)) return this.turn();
    this.batches = 0;
    return holdWhile(promise);
  }

  /** @internal Closes the iterator if it is open. Reading throws `error` once, after the queued items. */
  protected fail(error: unknown): void {
    if (this.closed) return;
    this.#failure = { error };
    this.close();
  }

  /** @internal Throws the error of {@link fail}, once. Otherwise returns the end of the iteration. */
  protected end(): IteratorResult<T> {
    const failure = this.#failure;
    this.#failure = null;
    if (failure) throw failure.error;
    return DONE;
  }
}
