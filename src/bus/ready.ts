/** Callers of `bus.ready`, and what happened to workers while they wait. */

import { type Clock, startTimer } from "../clock.ts";
import { NotReadyError, type SlotbusError } from "../errors.ts";
import { Hold } from "../hold.ts";
import { type ReadyOptions, readyOptions } from "./options.ts";

/** Largest number of different reasons in an error. */
const REASONS_MAX = 8;

interface Waiter {
  readonly workers: number;
  /** Peers that were refused and workers that ended since the call: count by reason. */
  readonly failures: Map<string, number>;
  settle(error: unknown): void;
}

/** The pending calls of `bus.ready`. They keep the process alive. */
export class ReadyWaiters {
  readonly #name: string;
  readonly #clock: Clock;
  /** The attached workers. */
  readonly #workers: { readonly size: number };
  /** Returns why the last worker that the bus started failed. */
  readonly #lastFailure: () => SlotbusError | null;
  readonly #waiters = new Set<Waiter>();
  readonly #hold = new Hold();

  constructor(name: string, clock: Clock, workers: { readonly size: number }, lastFailure: () => SlotbusError | null) {
    this.#name = name;
    this.#clock = clock;
    this.#workers = workers;
    this.#lastFailure = lastFailure;
  }

  /** Resolves when `options.workers` workers are attached. */
  async wait(options: ReadyOptions): Promise<void> {
    const { workers, timeout, signal } = readyOptions.resolve(options);
    signal?.throwIfAborted();
    if (this.#workers.size >= workers) return;
    const tooFew = (failures: string[]): NotReadyError =>
      new NotReadyError(this.#name, timeout, this.#workers.size, workers, failures, this.#lastFailure());
    if (timeout === 0) throw tooFew([]);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => waiter.settle(signal!.reason);
    const timer = startTimer(this.#clock, timeout, () => {
      const failures = [...waiter.failures].map(([reason, times]) =>
        times === 1 ? reason : `${reason}, ${times} times`,
      );
      waiter.settle(tooFew(failures));
    });
    const waiter: Waiter = {
      workers,
      failures: new Map(),
      settle: (error) => {
        this.#waiters.delete(waiter);
        this.#hold.set(this.#waiters.size > 0);
        timer.close();
        signal?.removeEventListener("abort", onAbort);
        if (error === null) resolve();
        else reject(error);
      },
    };
    this.#waiters.add(waiter);
    this.#hold.set(true);
    signal?.addEventListener("abort", onAbort, { once: true });
    await promise;
  }

  /** Called when a worker attached. */
  tell(): void {
    for (const waiter of this.#waiters) if (this.#workers.size >= waiter.workers) waiter.settle(null);
  }

  /** Called when a peer was refused or a worker ended. */
  note(failure: string): void {
    for (const { failures } of this.#waiters) {
      const times = failures.get(failure) ?? 0;
      if (times > 0 || failures.size < REASONS_MAX) failures.set(failure, times + 1);
    }
  }

  /** Rejects all pending calls. */
  close(error: unknown): void {
    for (const waiter of this.#waiters) waiter.settle(error);
  }
}
