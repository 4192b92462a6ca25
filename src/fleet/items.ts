/** What cursors and subscriptions have in common: items for one reader, one after the other. */

import { nextTurn, systemClock } from "../clock.ts";
import { holdWhile } from "../hold.ts";
import type { EventReader } from "./event-ring.ts";

const DONE: IteratorResult<never> = { done: true, value: undefined };
/** Batches read without a turn of the event loop. */
export const BATCHES_PER_TURN = 16;

/** An async iterator over what is there and what comes. */
export abstract class Items<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  /** Batches read since the event loop had its turn. */
  protected batches = 0;
  #pending: Promise<IteratorResult<T>> | null = null;
  #failure: { error: unknown } | null = null;

  abstract get closed(): boolean;

  /** Takes nothing more from now on. May be called again. */
  abstract close(): void;

  /** @internal What can be had without waiting; `null`: ask {@link read}. */
  protected abstract take(): T | null;

  /** @internal Waits for the next item; returns {@link end} when there will be none. */
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

  /** Ends the loop that is left by `break`. */
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

  /** @internal Whether so much was read that the event loop is to have its turn. */
  protected get isTurnDue(): boolean {
    return this.batches >= BATCHES_PER_TURN;
  }

  /** @internal Resolves when the event loop had its turn. */
  protected turn(): Promise<void> {
    this.batches = 0;
    return nextTurn(systemClock);
  }

  /** @internal Resolves when there may be more to poll, or when the reader is closed. The process stays alive meanwhile. */
  protected sleep(reader: EventReader): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (!reader.listen(resolve)) return this.turn();
    this.batches = 0;
    return holdWhile(promise);
  }

  /** @internal Closes it, if it is open; reading throws `error` once, behind what is there. */
  protected fail(error: unknown): void {
    if (this.closed) return;
    this.#failure = { error };
    this.close();
  }

  /** @internal Throws what it failed with, once. */
  protected end(): IteratorResult<T> {
    const failure = this.#failure;
    this.#failure = null;
    if (failure) throw failure.error;
    return DONE;
  }
}
