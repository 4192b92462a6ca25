/** `SlotBus` and `SlotWorker`: the composition root, which joins the bus, its wire, contracts and the supervisor. */

import type { BusRequest, RequestOptions } from "./bus/call.ts";
import { Dispatcher, noOptions } from "./bus/dispatcher.ts";
import { type Diagnostics, infoOf, type SlotBusEvents, type WorkerInfo } from "./bus/events.ts";
import { fetchHandler, fetchThrough } from "./bus/fetch.ts";
import { type BusOptions, type ReadyOptions, type ResolvedBusOptions, resolveBusOptions } from "./bus/options.ts";
import { Receiver } from "./bus/receiver.ts";
import type { FetchHandler, Handler, SyncHandler } from "./bus/request.ts";
import type { BorrowedResponse, BusResponse, StreamedResponse } from "./bus/response.ts";
import type { BusStats } from "./bus/stats.ts";
import type { Connection } from "./bus/wire.ts";
import {
  type ResolvedWorkerOptions,
  resolveWorkerOptions,
  type ServeOptions,
  serveOptions,
  type SlotWorkerEvents,
  type SlotWorkerOptions,
} from "./bus/worker-options.ts";
import { systemClock } from "./clock.ts";
import { Closing } from "./closing.ts";
import { findEmbedded } from "./compiled.ts";
import type { Client, Contract, Handlers } from "./contract/contract.ts";
import type { Implementations } from "./contract/implementations.ts";
import { ClosedError, InvalidConfigError, type SlotbusError } from "./errors.ts";
import { isNoAnswer } from "./errors/plain.ts";
import { Hold } from "./hold.ts";
import { closeOlder, noteOpened, openAnew } from "./hot.ts";
import { NameLock } from "./native/name.ts";
import type { Supervisor } from "./supervisor/index.ts";
import type { WorkerPool } from "./supervisor/worker-pool.ts";
import type { ResolvedWorkers, WorkersOptions } from "./supervisor/workers.ts";
import { MemoryClient } from "./wires/memory/client.ts";
import { noteClosed, noteOpen } from "./wires/memory/open-buses.ts";
import { MemoryWorker } from "./wires/memory/worker.ts";

/** What `SlotBus.create` takes; all but the name have defaults. */
export interface SlotBusOptions extends BusOptions {
  /** Workers that the bus starts itself. */
  workers?: WorkersOptions | undefined;
}

/** Options with their defaults filled in. */
export type ResolvedSlotBusOptions = ResolvedBusOptions & { readonly workers: ResolvedWorkers | null };

/** Time after which a worker is unresponsive where no `workers.unresponsive` says so, in ms. */
const UNRESPONSIVE_MS = 30_000;

/**
 * A bus: one process owns the name and asks, any number of worker processes answer.
 *
 *     await using bus = await SlotBus.create({ name: "shop" });
 *     const response = await bus.request({ path: "/hello", body: "Ada" });
 *
 * `close` rejects what has not finished with {@link ClosedError}, gives the name back and stops the workers that the bus has
 * started.
 */
export class SlotBus extends Closing<SlotBusEvents> {
  readonly options: ResolvedSlotBusOptions;
  readonly #name: NameLock;
  readonly #dispatcher: Dispatcher;
  readonly #pool: WorkerPool<Connection> | null;
  /** Set by {@link ref}. */
  readonly #hold = new Hold();

  /**
   * Takes the name and listens for workers.
   *
   * @throws (rejects) {InvalidConfigError}; {BusExistsError} when a live process has the
   * name; `PERMISSION_DENIED` for a directory that is not ours alone; `RESOURCE`; with `workers` as
   * `Supervisor.start` when one does not get ready.
   */
  static async create(options: SlotBusOptions): Promise<SlotBus> {
    const supervisor = options?.workers === undefined ? null : await import("./supervisor/worker-pool.ts");
    const workers = supervisor && supervisor.resolveWorkers(options.workers!, findEmbedded);
    const resolved = { ...resolveBusOptions(options), workers };
    const { directory, name, allowedUids } = resolved;
    await closeOlder(keyOf("bus", resolved));
    const lock = new NameLock(directory, name, allowedUids.length > 0);
    let bus: SlotBus;
    try {
      bus = new SlotBus(resolved, lock, supervisor?.WorkerPool);
    } catch (error) {
      lock.release();
      throw error;
    }
    noteOpen(bus.#leave);
    noteOpened(keyOf("bus", resolved), bus);
    try {
      await bus.#pool?.start();
      return bus;
    } catch (error) {
      await bus.close({ timeout: 0 });
      throw error;
    }
  }

  private constructor(options: ResolvedSlotBusOptions, name: NameLock, Pool?: typeof WorkerPool) {
    super();
    this.options = options;
    this.#name = name;
    const tag = crypto.getRandomValues(new Uint32Array(1))[0]!;
    const stalledAfter = options.workers?.unresponsive ?? UNRESPONSIVE_MS;
    const dispatcher = new Dispatcher(
      options,
      tag.toString(36),
      systemClock,
      (event, ...args) => queueMicrotask(() => this.emit(event, ...(args as never))),
      (events) => new MemoryClient({ bus: options, name, tag, clock: systemClock, stalledAfter }, events),
    );
    this.#dispatcher = dispatcher;
    this.#pool = options.workers && Pool ? makePool(Pool, options.workers, options, dispatcher) : null;
    dispatcher.supply = this.#pool;
  }

  get name(): string {
    return this.options.name;
  }

  /** Attached workers. */
  get workers(): WorkerInfo[] {
    return this.#dispatcher.choice.all.map(infoOf);
  }

  /**
   * The processes of the workers that the bus starts itself, and their events; `null` without the option `workers`. Calling
   * `resize()` with the current size restarts workers that were paused or given up. The bus decides the size otherwise.
   */
  get supervisor(): Supervisor | null {
    return this.#pool?.supervisor ?? null;
  }

  /**
   * Sends a request and resolves to the answer, whatever its status.
   *
   * @throws (rejects) {@link InvalidConfigError}, {HeadTooLargeError}, {PayloadTooLargeError}: nothing was sent;
   * {BusOverloadedError}, {NoWorkerError}, {RequestTimeoutError}, {WorkerDiedError},
   * {RemoteError} (the handler failed), `REGION_CORRUPT`, {@link ClosedError}; `signal.reason`.
   */
  request(request: BusRequest, options: RequestOptions = noOptions): Promise<BusResponse> {
    return this.#dispatcher.ask(request, options, "copy") as Promise<BusResponse>;
  }

  /**
   * As {@link request}, but the body is a view of shared memory until it is released.
   *
   *     using response = await bus.borrow({ path: "/frame" });
   */
  borrow(request: BusRequest, options: RequestOptions = noOptions): Promise<BorrowedResponse> {
    return this.#dispatcher.ask(request, options, "borrow") as Promise<BorrowedResponse>;
  }

  /**
   * As {@link request}, but resolves as soon as the head of the answer is here; its body streams. The timeout is that of
   * the head; `signal` ends the stream too.
   */
  stream(request: BusRequest, options: RequestOptions = noOptions): Promise<StreamedResponse> {
    return this.#dispatcher.ask(request, options, "stream") as unknown as Promise<StreamedResponse>;
  }

  /**
   * As {@link request}, blocking the thread: no event loop runs until the answer is here. Does not queue: a worker must
   * be attached and have a free slot. May be called inside a handler, but not for a worker of the same thread.
   */
  requestSync(request: BusRequest, options: RequestOptions = noOptions): BusResponse {
    return this.#dispatcher.askSync(request, options);
  }

  /**
   * The same as `fetch`, answered by a worker: `await bus.fetch("/users/7")`, or any WHATWG `Request`. A body that is
   * not whole streams, both ways. Rejects as {@link stream} does, and with the error of a body that fails.
   */
  fetch(input: string | URL | Request, init?: RequestInit & RequestOptions): Promise<Response> {
    return fetchThrough(this, systemClock, input, init);
  }

  /**
   * The methods of a contract as functions: `await client.hello({ name: "Ada" }, { timeout: 500 })`. Make one and keep it.
   * They reject as {@link request} does, and with {ValidationError}, {ContractError}, {ContractMismatchError}.
   */
  client<C extends Contract>(contract: C): Client<C> {
    const { makeClient } = require("./contract/client.ts") as typeof import("./contract/client.ts");
    return makeClient(this, contract);
  }

  /**
   * Resolves when `workers` (0-64, default 1) are attached.
   *
   * @throws (rejects) {NotReadyError} after `timeout` ms, with the number of workers that came and why others did not; {@link ClosedError}; {@link InvalidConfigError}; `signal.reason`.
   */
  ready(options: ReadyOptions = {}): Promise<void> {
    return this.#dispatcher.ready(options);
  }

  /** State, worker and age of every slot, and what waits in the queue. */
  diagnostics(): Diagnostics {
    return this.#dispatcher.diagnostics();
  }

  /** Counters since the start, and percentiles of the round trip; after `close` their last values. */
  stats(): BusStats {
    return this.#dispatcher.stats();
  }

  /**
   * Counters, gauges and the histogram of the round trip as Prometheus' text (version 0.0.4), each with the label `bus`;
   * after `close` their last values.
   */
  metrics(): string {
    return this.#dispatcher.metrics();
  }

  /** Keeps the process alive while the bus is open. Without it, only promises that are pending do. */
  ref(): void {
    if (!this.#dispatcher.isClosed) this.#hold.set(true);
  }

  unref(): void {
    this.#hold.set(false);
  }

  /**
   * Ends the attachment of a worker, by its `id`, as if it had broken the protocol: what it has is settled, `died`
   * gives `reason`. `false`: it is not attached. Its process is left alone, and may attach again.
   */
  evict(worker: number, reason: string): boolean {
    return this.#dispatcher.choice.evict(worker, reason);
  }

  protected finish(timeout: number): Promise<void> {
    return this.#dispatcher.drain(timeout);
  }

  /** Rejects what is left with {@link ClosedError}, says goodbye to the workers and gives the name back. */
  protected async end(): Promise<void> {
    const closed = this.#dispatcher.close();
    this.#leave();
    this.#hold.set(false);
    await closed;
    await this.#pool?.stop();
  }

  /** Gives the name back. */
  readonly #leave = (): void => {
    noteClosed(this.#leave);
    this.#name.release();
  };
}

/** What a reload knows a bus or a worker by. */
function keyOf(kind: "bus" | "worker", { directory, name }: { directory: string; name: string }): string {
  return `${kind} ${directory}/${name}`;
}

function makePool(
  Pool: typeof WorkerPool,
  workers: ResolvedWorkers,
  { name, directory }: ResolvedBusOptions,
  dispatcher: Dispatcher,
): WorkerPool<Connection> {
  const { statistics } = dispatcher;
  const owner = {
    name,
    directory,
    attached: () => dispatcher.choice.all,
    drain: (connection: Connection) => connection.drain(),
    takePeak: () => dispatcher.unsettled.takePeak(),
    placesPerWorker: () => dispatcher.choice.placesOr(dispatcher.options.slots),
    restarted: () => statistics.count("workers_restarted"),
    paused: (isPaused: boolean) => statistics.count(isPaused ? "workers_paused" : "workers_resumed"),
    lost: () => dispatcher.room(),
  };
  return new Pool<Connection>(workers, owner, systemClock);
}

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
  /** In {@link serveSync}. */
  #isBlocking = false;

  /**
   * Attaches to the bus. Requests come when {@link serve} or {@link serveSync} has been called.
   *
   * @throws (rejects) {BusNotFoundError}, {VersionMismatchError}, `PERMISSION_DENIED`,
   * {@link InvalidConfigError}, `RESOURCE`.
   */
  static async open(options: SlotWorkerOptions = {}): Promise<SlotWorker> {
    const resolved = resolveWorkerOptions(options);
    const worker = new SlotWorker(resolved);
    const opening = worker.#receiver.wire.open(resolved.timeout);
    return openAnew(
      keyOf("worker", resolved),
      opening.then(() => worker),
    );
  }

  private constructor(resolved: ResolvedWorkerOptions) {
    super();
    const { name, concurrency } = resolved;
    this.name = name;
    const events = {
      connected: () => void this.emit("connected"),
      disconnected: (reason: SlotbusError) => queueMicrotask(() => this.emit("disconnected", reason)),
      handlerError: (error: unknown, request: { id: string; path: string }) => this.#report(request, error),
    };
    this.#receiver = new Receiver(
      name,
      concurrency,
      systemClock,
      events,
      (up) => new MemoryWorker(resolved, systemClock, up),
    );
  }

  /** Whether the worker is attached to a client now. */
  get connected(): boolean {
    return this.#receiver.wire.isConnected;
  }

  /** Requests whose handlers run now. */
  get running(): number {
    return this.#receiver.wire.running;
  }

  /** Times the worker left its parked state because the client rang. */
  get wakeups(): number {
    return this.#receiver.wire.wakeups;
  }

  /** Requests taken so far. */
  get served(): number {
    return this.#receiver.served;
  }

  /**
   * Answers requests from the event loop until the worker is closed; attaches again when a client runs again. Keeps the
   * process alive. Calls of a contract go to {@link implement}'s handlers.
   *
   * `replace: true` puts the handler in the place of the one before; requests that run end with that one.
   *
   * @throws {InvalidConfigError} when the worker has a handler already and `replace` is not set.
   */
  serve(handler: Handler | FetchHandler, options: ServeOptions = {}): this {
    const { replace } = serveOptions.resolve(options);
    if (super.closed) throw this.#closedError();
    if (typeof handler !== "function" && typeof handler?.fetch !== "function") {
      throw new InvalidConfigError("serve takes a function, or an object with a method `fetch`.");
    }
    if (!replace && (this.#contracts ? this.#contracts.fallback : this.#receiver.handler)) {
      throw new InvalidConfigError(`this worker of "${this.name}" has a handler already; serve was called twice.`, {
        hint: "Answer all requests in one handler, or pass `{ replace: true }`.",
      });
    }
    const plain = typeof handler === "function" ? handler : fetchHandler(handler);
    if (this.#contracts) this.#contracts.fallback = plain;
    this.#receiver.serve(this.#contracts?.handle ?? plain);
    return this;
  }

  /**
   * Answers the calls of a contract, as {@link serve} answers requests; may be called again, for another contract or to
   * replace the handlers of one.
   *
   *     worker.implement(demo, { hello: ({ name }) => `hello ${name}`, async *count({ to }, ctx) { … } });
   *
   * @throws {InvalidConfigError} unless there is one handler per method.
   */
  implement<C extends Contract>(contract: C, handlers: Handlers<C>): this {
    if (super.closed) throw this.#closedError();
    const { Implementations } =
      require("./contract/implementations.ts") as typeof import("./contract/implementations.ts");
    this.#contracts ??= new Implementations(this.#receiver.handler, (error, request) => this.#report(request, error));
    this.#contracts.add(contract, handlers);
    this.#receiver.serve(this.#contracts.handle);
    return this;
  }

  /**
   * Answers requests in a blocking loop: the thread sleeps in the kernel between requests and no event loop runs.
   * The handler returns its answer; one that it defers can be given in a later call of the handler. Ends when the worker
   * is closed by the handler, or when the client ends and the worker is not to reconnect.
   */
  serveSync(handler: SyncHandler): void {
    if (super.closed) throw this.#closedError();
    if (this.#receiver.handler) throw new InvalidConfigError("this worker is served by an event loop already.");
    this.#isBlocking = true;
    try {
      this.#receiver.serveSync(handler, () => super.closed);
    } finally {
      this.#isBlocking = false;
    }
  }

  #report({ id, path }: { id: string; path: string }, error: unknown): void {
    if (this.listenerCount("handlerError") === 0) {
      if (isNoAnswer(error)) console.error(`worker of bus "${this.name}", request ${id}: ${error.message}`);
    } else if (this.#isBlocking) {
      this.emit("handlerError", error, { id, path }); // no microtask runs before the loop ends
    } else {
      queueMicrotask(() => this.emit("handlerError", error, { id, path }));
    }
  }

  /** Whether it takes no request for good: it was closed, or its client has ended and it does not attach again. */
  override get closed(): boolean {
    return super.closed || this.#receiver.wire.hasEnded;
  }

  protected finish(timeout: number): Promise<void> {
    return this.#receiver.drain(timeout);
  }

  /** Says goodbye and detaches. */
  protected async end(): Promise<void> {
    this.#receiver.wire.close(this.#closedError());
  }

  #closedError(): ClosedError {
    return new ClosedError(`the worker of bus "${this.name}"`);
  }
}

/** A bus on whatever wire: without what only the memory of one machine can do. */
export interface PortableBus extends Omit<SlotBus, "borrow" | "requestSync" | "diagnostics" | "evict"> {}

/** A worker on whatever wire. */
export interface PortableWorker extends Omit<SlotWorker, "serveSync" | "wakeups"> {}
