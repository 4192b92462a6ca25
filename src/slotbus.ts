/** `SlotBus`: connects the client side of a bus, its wire, contracts and the supervisor. */

import type { BusRequest, RequestOptions } from "./bus/call.ts";
import { Dispatcher, noOptions } from "./bus/dispatcher.ts";
import { type Diagnostics, infoOf, type SlotBusEvents, type WorkerInfo } from "./bus/events.ts";
import { fetchThrough } from "./bus/fetch.ts";
import { type BusOptions, type ReadyOptions, type ResolvedBusOptions, resolveBusOptions } from "./bus/options.ts";
import type { BorrowedResponse, BusResponse, StreamedResponse } from "./bus/response.ts";
import type { BusStats } from "./bus/stats.ts";
import type { RemoteVia } from "./bus/via.ts";
import type { Connection } from "./bus/wire.ts";
import { systemClock } from "./clock.ts";
import { Closing } from "./closing.ts";
import { findEmbedded } from "./compiled.ts";
import { makeClient } from "./contract/client.ts";
import type { Client, Contract } from "./contract/contract.ts";
import { InvalidConfigError, UnsupportedError } from "./errors.ts";
import { Hold } from "./hold.ts";
import { closeOlder, keyOf, noteOpened } from "./hot.ts";
import { isBun } from "./runtime.ts";
import type { Supervisor } from "./supervisor/index.ts";
import type { WorkerPool } from "./supervisor/worker-pool.ts";
import type { ResolvedWorkers, WorkersOptions } from "./supervisor/workers.ts";
import { loadWire } from "./wires/choose.ts";
import { noteClosed, noteOpen } from "./wires/memory/open-buses.ts";
import type { HeldName, WireModule } from "./wires/module.ts";

/** Options of `SlotBus.create`. All except `name` have defaults. */
export interface SlotBusOptions extends BusOptions {
  /** Worker processes that the bus starts itself. */
  workers?: WorkersOptions | undefined;
}

/** Options with their defaults filled in. */
export type ResolvedSlotBusOptions = ResolvedBusOptions & { readonly workers: ResolvedWorkers | null };

/** Default of `workers.unresponsive`, in ms, for a bus that starts no workers. */
const UNRESPONSIVE_MS = 30_000;

/**
 * A bus: one process, the client, owns the name and sends requests; any number of worker processes respond.
 *
 *     await using bus = await SlotBus.create({ name: "shop" });
 *     const response = await bus.request({ path: "/hello", body: "Ada" });
 *
 * `close` rejects unfinished requests with {@link ClosedError}, releases the name and stops the workers that the bus started.
 */
export class SlotBus extends Closing<SlotBusEvents> {
  readonly options: ResolvedSlotBusOptions;
  readonly #name: HeldName;
  readonly #dispatcher: Dispatcher;
  readonly #pool: WorkerPool<Connection> | null;
  /** Set by {@link ref}. */
  readonly #hold = new Hold();

  /**
   * Claims the name and listens for workers. With `workers`, resolves when `workers.min` workers are attached.
   *
   * @throws (rejects) {InvalidConfigError}; {BusExistsError} if a live process owns the name; `PERMISSION_DENIED` if the
   * directory does not belong to this user alone; `RESOURCE`; with `workers`, the errors of `Supervisor.start` if a worker does
   * not become ready.
   */
  static async create(options: SlotBusOptions): Promise<SlotBus> {
    if (options?.workers !== undefined && !isBun) {
      throw new UnsupportedError("SlotBus.create starts processes for `workers` only in Bun, and this is Node.", {
        hint: "Start the workers with `slotbus run worker.ts --name NAME`, or with your own process manager.",
      });
    }
    const supervisor = options?.workers === undefined ? null : await import("./supervisor/worker-pool.ts");
    const workers = supervisor && supervisor.resolveWorkers(options.workers!, findEmbedded);
    const bus = await SlotBus.#open("own", { ...resolveBusOptions(options), workers }, supervisor?.WorkerPool);
    try {
      await bus.#pool?.start();
      return bus;
    } catch (error) {
      await bus.close({ timeout: 0 });
      throw error;
    }
  }

  /**
   * Joins a shared bus as one of up to 64 clients: each is a process, or a part of one, that sends requests to the same workers.
   * The first client makes the bus, and the last one ends it. Takes the options of {@link create} except `workers`, because the
   * workers would end with this process.
   *
   *     await using bus = await SlotBus.connect({ name: "shop" });
   *
   * With `via: nats(…)`, the workers may be on other machines, and the result has no methods that need shared memory.
   *
   * @throws (rejects) as {@link create}; {BusExistsError} if a live process owns the name alone; `DISCONNECTED`.
   */
  static connect(options: BusOptions & { via: RemoteVia | undefined }): Promise<PortableBus>;
  static connect(options: BusOptions): Promise<SlotBus>;
  static async connect(options: BusOptions): Promise<SlotBus> {
    const resolved = resolveBusOptions(options);
    if (options.workers === undefined) return SlotBus.#open("share", { ...resolved, workers: null });
    throw new InvalidConfigError(
      "SlotBus.connect takes no `workers`: they would end with this process, but serve others too.",
      {
        hint: "Start the workers with `slotbus run worker.ts --name NAME`, or let one process own the bus with SlotBus.create.",
      },
    );
  }

  static async #open(
    how: "own" | "share",
    options: ResolvedSlotBusOptions,
    Pool?: typeof WorkerPool,
  ): Promise<SlotBus> {
    const wire = await loadWire(options.via);
    await closeOlder(keyOf("bus", options));
    const name = await wire.takeName(how, options);
    let bus: SlotBus;
    try {
      bus = new SlotBus(options, wire, name, Pool);
    } catch (error) {
      name.release();
      throw error;
    }
    noteOpen(bus.#leave);
    noteOpened(keyOf("bus", options), bus);
    return bus;
  }

  private constructor(options: ResolvedSlotBusOptions, wire: WireModule, name: HeldName, Pool?: typeof WorkerPool) {
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
      (events) => wire.client({ bus: options, name, tag, clock: systemClock, stalledAfter }, events),
    );
    if (name.client !== null) dispatcher.choice.share(name.client, systemClock.random);
    this.#dispatcher = dispatcher;
    this.#pool = options.workers && Pool ? makePool(Pool, options.workers, options, dispatcher) : null;
    dispatcher.supply = this.#pool;
  }

  get name(): string {
    return this.options.name;
  }

  /** Number of this client on a shared bus, 0 to 63: the tools call it `NAME@K`. `null` for the owner of a bus. */
  get clientNumber(): number | null {
    return this.#name.client;
  }

  /** The attached workers. */
  get workers(): WorkerInfo[] {
    return this.#dispatcher.choice.all.map(infoOf);
  }

  /**
   * The worker processes that the bus starts itself, and their events; `null` without the option `workers`. Calling `resize()`
   * with the current size restarts workers that were paused or given up. Otherwise the bus decides the size.
   */
  get supervisor(): Supervisor | null {
    return this.#pool?.supervisor ?? null;
  }

  /**
   * Sends a request and resolves to the response, with any status.
   *
   * @throws (rejects) {@link InvalidConfigError}, {HeadTooLargeError}, {PayloadTooLargeError}: nothing was sent;
   * {BusOverloadedError}, {NoWorkerError}, {RequestTimeoutError}, {WorkerDiedError},
   * {RemoteError} (the handler failed), `REGION_CORRUPT`, {@link ClosedError}; `signal.reason`.
   */
  request(request: BusRequest, options: RequestOptions = noOptions): Promise<BusResponse> {
    return this.#dispatcher.ask(request, options, "copy") as Promise<BusResponse>;
  }

  /**
   * As {@link request}, but the body of the response is a view of shared memory until you release it.
   *
   *     using response = await bus.borrow({ path: "/frame" });
   */
  borrow(request: BusRequest, options: RequestOptions = noOptions): Promise<BorrowedResponse> {
    return this.#dispatcher.ask(request, options, "borrow") as Promise<BorrowedResponse>;
  }

  /**
   * As {@link request}, but resolves as soon as the head of the response arrives; the body streams. The timeout applies to the
   * head only; `signal` cancels the stream too.
   */
  stream(request: BusRequest, options: RequestOptions = noOptions): Promise<StreamedResponse> {
    return this.#dispatcher.ask(request, options, "stream") as unknown as Promise<StreamedResponse>;
  }

  /**
   * As {@link request}, but blocks the thread: the event loop does not run until the response arrives. Does not queue: a worker
   * must be attached and have a free slot. May be called in a handler, but not for a worker in the same thread.
   */
  requestSync(request: BusRequest, options: RequestOptions = noOptions): BusResponse {
    return this.#dispatcher.askSync(request, options);
  }

  /**
   * Sends a WHATWG request to a worker: `await bus.fetch("/users/7")`. Takes the arguments of the global `fetch`. Streamed bodies
   * of requests and responses are sent as streams. Rejects as {@link stream} does, and with the error of a request body that
   * fails.
   */
  fetch(input: string | URL | Request, init?: RequestInit & RequestOptions): Promise<Response> {
    return fetchThrough(this, systemClock, input, init);
  }

  /**
   * Returns an object with the methods of a contract: `await client.hello({ name: "Ada" }, { timeout: 500 })`. Create it once and
   * keep it. The methods reject as {@link request} does, and with {ValidationError}, {ContractError}, {ContractMismatchError}.
   */
  client<C extends Contract>(contract: C): Client<C> {
    return makeClient(this, contract);
  }

  /**
   * Resolves when `workers` workers (0-64, default 1) are attached.
   *
   * @throws (rejects) {NotReadyError} after `timeout` ms, with the number of attached workers and the reasons why others did not
   * attach; {@link ClosedError}; {@link InvalidConfigError}; `signal.reason`.
   */
  ready(options: ReadyOptions = {}): Promise<void> {
    return this.#dispatcher.ready(options);
  }

  /** Returns state, worker and age of each slot, and the queued requests. */
  diagnostics(): Diagnostics {
    return this.#dispatcher.diagnostics();
  }

  /** Returns counters since the start and percentiles of the round-trip time; after `close`, their final values. */
  stats(): BusStats {
    return this.#dispatcher.stats();
  }

  /**
   * Returns counters, gauges and the histogram of the round-trip time in the Prometheus text format (version 0.0.4), each with
   * the label `bus` and, for a shared bus, `client`; after `close`, their final values.
   */
  metrics(): string {
    return this.#dispatcher.metrics();
  }

  /** Keeps the process alive while the bus is open. By default only pending promises do. */
  ref(): void {
    if (!this.#dispatcher.isClosed) this.#hold.set(true);
  }

  /** Undoes {@link ref}. */
  unref(): void {
    this.#hold.set(false);
  }

  /**
   * Evicts the worker with this `id`: ends its attachment, settles its requests and emits `died` with `reason`. The process
   * continues and may attach again. Returns `false` if the worker is not attached.
   */
  evict(worker: number, reason: string): boolean {
    return this.#dispatcher.choice.evict(worker, reason);
  }

  protected finish(timeout: number): Promise<void> {
    return this.#dispatcher.drain(timeout);
  }

  /** Rejects the remaining requests with {@link ClosedError}, says goodbye to the workers and releases the name. */
  protected async end(): Promise<void> {
    const closed = this.#dispatcher.close();
    this.#leave();
    this.#hold.set(false);
    await closed;
    await this.#pool?.stop();
  }

  /** Releases the name. */
  readonly #leave = (): void => {
    noteClosed(this.#leave);
    this.#name.release();
  };
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

/** A bus on any wire: without the methods that need shared memory. */
export interface PortableBus extends Omit<
  SlotBus,
  "borrow" | "requestSync" | "diagnostics" | "evict" | "clientNumber"
> {}
