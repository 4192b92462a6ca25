/** What cursors and subscriptions have in common: items for one reader, one after the other. */

const DONE: IteratorResult<never> = { done: true, value: undefined };

/** An async iterator over what is there and what comes. */
export abstract class Items<T> implements AsyncIterableIterator<T>, AsyncDisposable {
  #pending: Promise<IteratorResult<T>> | null = null;
  #failure: { error: unknown } | null = null;

  abstract get isOpen(): boolean;

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

  /** @internal Closes it, if it is open; reading throws `error` once, behind what is there. */
  protected fail(error: unknown): void {
    if (!this.isOpen) return;
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
