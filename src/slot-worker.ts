/** `SlotWorker`: connects the worker side of a bus, its wire and contracts. */

import { fetchHandler } from "./bus/fetch.ts";
import { Receiver } from "./bus/receiver.ts";
import type { FetchHandler, Handler, SyncHandler } from "./bus/request.ts";
import type { Spinning } from "./bus/stats.ts";
import {
  type ResolvedWorkerOptions,
  resolveWorkerOptions,
  type ServeOptions,
  serveOptions,
  type SlotWorkerEvents,
  type SlotWorkerOptions,
} from "./bus/worker-options.ts";
import type { RemoteVia } from "./bus/via.ts";
import { systemClock } from "./clock.ts";
import { Closing } from "./closing.ts";
import type { Contract, Handlers } from "./contract/contract.ts";
import { Implementations } from "./contract/implementations.ts";
import { ClosedError, InvalidConfigError, type SlotbusError } from "./errors.ts";
import { isNoAnswer } from "./errors/plain.ts";
import { keyOf, openAnew } from "./hot.ts";
import { isRun } from "./runner.ts";
import { drainOnSigterm } from "./sigterm.ts";
import { loadWire } from "./wires/choose.ts";
import type { WireModule } from "./wires/module.ts";

/** Whether the main thread listens to SIGTERM for the workers of all threads. */
let isListening = false;

/**
 * A worker of a bus.
 *
 *     const worker = await SlotWorker.open({ name: "shop" });
 *     worker.serve((request) => `hello ${request.text()}`);
 */
export class SlotWorker extends Closing<SlotWorkerEvents> {
  readonly name: string;
  readonly #receiver: Receiver;
  #contracts: Implementations | null = null;
  /** Whether {@link serveSync} is running. */
  #isBlocking = false;
  /** Ends the drain at SIGTERM of a worker of `slotbus run`. */
  #undoDrain: (() => void) | null = null;
  /** Waits for SIGTERM where listeners do not: in a worker of `slotbus run`. */
  #stop: typeof import("./native/stop.ts") | null = null;

  /**
   * Attaches to the bus. Requests arrive after {@link serve}, {@link implement} or {@link serveSync} is called.
   *
   * @throws (rejects) {BusNotFoundError}, {VersionMismatchError}, `PERMISSION_DENIED`,
   * {@link InvalidConfigError}, `RESOURCE`.
   */
  static open(options: SlotWorkerOptions & { via: RemoteVia | undefined }): Promise<PortableWorker>;
  static open(options?: SlotWorkerOptions): Promise<SlotWorker>;
  static async open(options: SlotWorkerOptions = {}): Promise<SlotWorker> {
    const resolved = resolveWorkerOptions(options, isRun);
    const worker = new SlotWorker(resolved, await loadWire(resolved.via));
    const run = isRun ? await import("./native/notify.ts") : null;
    // From now on, because the worker has a door before it has a client.
    if (isRun) worker.#drainAtStop(await import("./native/stop.ts"));
    const opening = worker.#receiver.wire.open(resolved.timeout, run?.reportReady).then(
      () => worker,
      (error) => {
        worker.#undoDrain?.();
        throw error;
      },
    );
    return openAnew(keyOf("worker", resolved), opening);
  }

  private constructor(resolved: ResolvedWorkerOptions, wire: WireModule) {
    super();
    const { name, concurrency } = resolved;
    this.name = name;
    const events = {
      connected: () => void this.emit("connected"),
      disconnected: (reason: SlotbusError) => queueMicrotask(() => this.emit("disconnected", reason)),
      refused: (error: SlotbusError) => queueMicrotask(() => this.emit("refused", error)),
      handlerError: (error: unknown, request: { id: string; path: string }) => this.#report(request, error),
    };
    this.#receiver = new Receiver(name, concurrency, systemClock, events, (up) =>
      wire.worker(resolved, systemClock, up),
    );
  }

  /** Whether the worker is attached to a client now, to one at least of a shared bus. */
  get connected(): boolean {
    return this.#receiver.wire.isConnected;
  }

  /** Number of requests without a response and of responses that still stream. */
  get running(): number {
    return this.#receiver.wire.running;
  }

  /** Number of times that the client's doorbell woke the parked worker. */
  get wakeups(): number {
    return this.#receiver.wire.driven().wakeups;
  }

  /** Whether the worker spins while it waits for requests, and if not, why: see `spinning` of {@link SlotBus.stats}. */
  get spinning(): Spinning {
    return this.#receiver.wire.driven().spinning;
  }

  /** Number of requests taken so far. */
  get served(): number {
    return this.#receiver.served;
  }

  /**
   * Handles requests on the event loop until the worker is closed. Attaches again when the bus restarts. Keeps the process alive.
   * Calls of a contract go to the handlers of {@link implement}.
   *
   * `replace: true` replaces the previous handler; running requests finish with the previous handler.
   *
   * @throws {InvalidConfigError} if the worker already has a handler and `replace` is not set.
   */
  serve(handler: Handler | FetchHandler, options: ServeOptions = {}): this {
    const { replace } = serveOptions.resolve(options);
    if (super.closed) throw this.#closedError();
    if (typeof handler !== "function" && typeof handler?.fetch !== "function") {
      throw new InvalidConfigError("serve() takes a function or an object with a `fetch` method.");
    }
    if (!replace && (this.#contracts ? this.#contracts.fallback : this.#receiver.handler)) {
      throw new InvalidConfigError(`The worker of bus "${this.name}" already has a handler.`, {
        hint: "Handle all requests in one handler, or pass `{ replace: true }` to serve().",
      });
    }
    const plain = typeof handler === "function" ? handler : fetchHandler(handler);
    if (this.#contracts) this.#contracts.fallback = plain;
    this.#receiver.serve(this.#contracts?.handle ?? plain);
    return this;
  }

  /**
   * Handles the calls of a contract, as {@link serve} handles requests. Call it again to add another contract, or to replace the
   * handlers of a contract.
   *
   *     worker.implement(demo, { hello: ({ name }) => `hello ${name}`, async *count({ to }, ctx) { … } });
   *
   * @throws {InvalidConfigError} unless `handlers` has exactly one handler per method.
   */
  implement<C extends Contract>(contract: C, handlers: Handlers<C>): this {
    if (super.closed) throw this.#closedError();
    this.#contracts ??= new Implementations(this.#receiver.handler, (error, request) => this.#report(request, error));
    this.#contracts.add(contract, handlers);
    this.#receiver.serve(this.#contracts.handle);
    return this;
  }

  /**
   * Handles requests in a blocking loop: the thread sleeps in the kernel between requests, and the event loop does not run. The
   * handler returns its response; a deferred response can be sent in a later call of the handler. Returns when the handler closes
   * the worker, or when the client ends and `reconnect` is off. In a worker of `slotbus run` it also returns at SIGTERM, when all
   * requests that it took have a response; the process then ends in the next turn of the event loop.
   */
  serveSync(handler: SyncHandler): void {
    if (super.closed) throw this.#closedError();
    if (this.#receiver.handler) {
      throw new InvalidConfigError("serveSync() cannot be used after serve() or implement().", {
        hint: "Open another worker for the blocking loop.",
      });
    }
    this.#undoDrain?.(); // the event loop would not call it
    const isStopping = this.#stop?.isStopping ?? (() => false);
    this.#undoDrain = this.#stop?.holdStop(null) ?? null;
    this.#isBlocking = true;
    try {
      this.#receiver.serveSync(handler, () => super.closed, isStopping);
    } finally {
      this.#isBlocking = false;
      if (isStopping()) void this.close({ timeout: Infinity });
      else this.#undoDrain?.();
    }
  }

  /** At SIGTERM finishes the requests. `slotbus run` limits the time with SIGKILL. */
  #drainAtStop(stop: typeof import("./native/stop.ts")): void {
    // Listeners of the program then come to this one, instead of replacing the handler of the library.
    if (Bun.isMainThread && !isListening) drainOnSigterm({ close: stop.stopHolders });
    isListening = true;
    this.#stop = stop;
    this.#undoDrain = stop.holdStop(() => this.close({ timeout: Infinity }));
  }

  #report({ id, path }: { id: string; path: string }, error: unknown): void {
    if (this.listenerCount("handlerError") === 0) {
      if (isNoAnswer(error)) console.error(`worker of bus "${this.name}", request ${id}: ${error.message}`);
    } else if (this.#isBlocking) {
      this.emit("handlerError", error, { id, path }); // microtasks do not run before the loop ends
    } else {
      queueMicrotask(() => this.emit("handlerError", error, { id, path }));
    }
  }

  /** Whether the worker takes no more requests: it was closed, or its client has ended and the worker does not attach again. */
  override get closed(): boolean {
    return super.closed || this.#receiver.wire.hasEnded;
  }

  protected finish(timeout: number): Promise<void> {
    return this.#receiver.drain(timeout);
  }

  /** Says goodbye and detaches. */
  protected async end(): Promise<void> {
    this.#receiver.wire.close(this.#closedError());
    this.#undoDrain?.(); // ends the process, if it was the last thing to close
  }

  #closedError(): ClosedError {
    return new ClosedError(`The worker of bus "${this.name}"`);
  }
}

/** A worker on any wire: without the methods that need shared memory. */
export interface PortableWorker extends Omit<SlotWorker, "serveSync" | "wakeups" | "spinning"> {}
