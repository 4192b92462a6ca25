/** Assigns requests to workers: choice of worker, queue, retries, drain. */

import { type Clock, nextTurn } from "../clock.ts";
import { BusOverloadedError, ClosedError, NoWorkerError, type SlotbusError, WorkerDiedError } from "../errors.ts";
import { notSettled } from "../errors/plain.ts";
import type { Snapshot } from "../native/statistics.ts";
import { checkTimeout } from "../options.ts";
import { endSource } from "./body-writer.ts";
import { type BusRequest, checkRequest, checkRequestOptions, type RequestOptions } from "./call.ts";
import { Choice } from "./choice.ts";
import { HeadEncoder } from "./codec.ts";
import { Exchange, type ExchangeOwner, type Executed, type Kind, type Reject, type Resolve } from "./exchange.ts";
import type { ReadyOptions, ResolvedBusOptions } from "./options.ts";
import { ExchangeQueue } from "./queue.ts";
import { ReadyWaiters } from "./ready.ts";
import { Retries } from "./retries.ts";
import type { BusResponse, StreamedResponse } from "./response.ts";
import { type Diagnostics, infoOf, slotsOf, type Tell, type WorkerSupply } from "./events.ts";
import { type BusStats, readCounters, type Statistics } from "./stats.ts";
import { type Found, Ticker } from "./ticker.ts";
import { askTraced, askTracedSync } from "./traced.ts";
import { requestStart } from "./tracing.ts";
import { Turns } from "./turns.ts";
import { Unsettled } from "./unsettled.ts";
import type { Connection, Departure, Peer, Wire, WireEvents } from "./wire.ts";
import { busMetrics } from "./metrics.ts";

/** Options of a request made without options; compared by identity. */
export const noOptions: RequestOptions = {};

/** The client side of a bus, independent of its wire: accepts requests, chooses workers, settles remaining requests on close. */
export class Dispatcher implements ExchangeOwner, WireEvents {
  readonly options: ResolvedBusOptions;
  readonly clock: Clock;
  readonly turns: Turns;
  readonly wire: Wire;
  /** Counts the exchanges that are not over. */
  readonly unsettled: Unsettled;
  /** The attached workers. */
  readonly choice: Choice;
  /** Starts the workers of the bus; `null` if the bus starts none. Set once, before the first request. */
  supply: WorkerSupply | null = null;
  readonly #tag: string;
  readonly #tell: Tell;
  readonly #ready: ReadyWaiters;
  readonly #queue = new ExchangeQueue();
  #serial = 0;
  /** See {@link BusStats.unsettledAtEnd}. */
  #unsettledAtEnd = 0;
  /** Requests whose worker has gone: those that may run again, and those that wait for an exit report. */
  readonly #retries: Retries;
  readonly #ticker: Ticker;
  readonly #encoder = new HeadEncoder();
  #isPumpDue = false;
  /** Functions of the latest promise. All promises share one executor, so that no closure is allocated per request. */
  #resolve: Resolve | null = null;
  #reject: Reject | null = null;
  #isDraining = false;
  #isClosed = false;
  /** Final values, after close. */
  #last: { stats: BusStats; snapshot: Snapshot } | null = null;

  /** `tag` makes request ids unique across restarts of the bus. `makeWire` creates the wire, which reports to the dispatcher. */
  constructor(
    options: ResolvedBusOptions,
    tag: string,
    clock: Clock,
    tell: Tell,
    makeWire: (events: WireEvents) => Wire,
  ) {
    this.options = options;
    this.clock = clock;
    this.turns = new Turns(clock);
    this.unsettled = new Unsettled(clock);
    this.#ticker = new Ticker(clock, () => this.#tick());
    this.choice = new Choice(options.name);
    this.#retries = new Retries(clock, (exchange) => this.#runAgain(exchange));
    this.#tag = tag;
    this.#tell = tell;
    this.#ready = new ReadyWaiters(options.name, clock, this.choice, () => this.supply?.lastFailure ?? null);
    this.wire = makeWire(this);
  }

  get name(): string {
    return this.options.name;
  }

  get statistics(): Statistics {
    return this.wire.statistics;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  // ---- requests -------------------------------------------------------------------------------------------------------

  /** Makes a request. Rejects as `SlotBus.request` does. */
  ask(request: BusRequest, options: RequestOptions, kind: Kind): Promise<BusResponse | StreamedResponse> {
    if (!requestStart.hasSubscribers) return this.#submit(request, options, kind);
    return askTraced(this.name, this.#idOf(this.#serial + 1), request, options, kind, (...traced) =>
      this.#submit(...traced, kind),
    );
  }

  /** Makes a request that blocks the thread. Throws as `SlotBus.requestSync` does. */
  askSync(request: BusRequest, options: RequestOptions): BusResponse {
    if (!requestStart.hasSubscribers) return this.#submitSync(request, options);
    return askTracedSync(this.name, this.#idOf(this.#serial + 1), request, options, (...traced) =>
      this.#submitSync(...traced),
    );
  }

  #submit(request: BusRequest, options: RequestOptions, kind: Kind): Promise<BusResponse | StreamedResponse> {
    const promise = new Promise<BusResponse | StreamedResponse>(this.#grab);
    const resolve = this.#resolve!;
    const reject = this.#reject!;
    let exchange: Exchange;
    let timeoutMs: number;
    try {
      timeoutMs = this.#admit(request, options, kind);
      exchange = new Exchange(this, request, options, kind, ++this.#serial, timeoutMs, resolve, reject);
    } catch (error) {
      endSource(request?.body);
      reject(error);
      return promise;
    }
    this.unsettled.begin();
    this.#ticker.start();
    if (timeoutMs === 0) exchange.expired("no");
    else if (options.worker !== undefined) this.#sendTo(options.worker, exchange);
    else {
      const connection = this.#queue.length === 0 ? this.choice.pick() : null;
      if (connection) this.#send(connection, exchange);
      else this.#enqueue(exchange);
    }
    if (options.signal && !exchange.isSettled) exchange.watch(options.signal);
    return promise;
  }

  readonly #grab = (resolve: Resolve, reject: Reject): void => {
    this.#resolve = resolve;
    this.#reject = reject;
  };

  #submitSync(request: BusRequest, options: RequestOptions): BusResponse {
    const timeoutMs = this.#admit(request, options, "sync");
    const connection = this.choice.pickBlocking(options.worker);
    if (!connection && this.choice.isEmpty) throw new NoWorkerError(this.name, 0, "bus", this.supply?.downFor);
    if (!connection)
      throw new BusOverloadedError(`Bus "${this.name}" has no room, and a blocking request cannot queue.`);
    let outcome: BusResponse | null = null;
    let failure: unknown = null;
    const keep = (response: BusResponse | StreamedResponse): void => void (outcome = response as BusResponse);
    const fail = (reason: unknown): void => void (failure = reason);
    const exchange = new Exchange(this, request, options, "sync", ++this.#serial, timeoutMs, keep, fail);
    this.unsettled.begin();
    if (timeoutMs === 0) exchange.expired("no");
    else this.#send(connection, exchange);
    (exchange.carrier as Connection | null)?.wait!(exchange, this.options.spin * 1000);
    // If the worker's end put the request back into the queue, it cannot wait there: the event loop does not run.
    exchange.giveUp((ran) => new WorkerDiedError(exchange.id, connection.pid, "ended", ran === "maybe"));
    this.wire.wake(); // other workers may have responded during the wait without ringing the doorbell
    if (!outcome) throw failure;
    return outcome;
  }

  /** Checks a new request and returns its timeout in ms. Throws if the bus is closed or an option is invalid. */
  #admit(request: BusRequest, options: RequestOptions, kind: Kind): number {
    if (this.#isClosed || this.#isDraining) throw this.#closedError("no");
    checkRequest(request, kind, this.wire.kind);
    if (options === noOptions) return this.options.timeout;
    checkRequestOptions(options);
    if (options.signal?.aborted) throw options.signal.reason;
    return options.timeout === undefined ? this.options.timeout : checkTimeout(options.timeout);
  }

  #sendTo(id: number, exchange: Exchange): void {
    try {
      this.#send(this.choice.only(id), exchange);
    } catch (error) {
      exchange.fail(error);
    }
  }

  /** Sends an exchange to `first`, or to another worker if `first` has just gone. Never throws: settles or queues the exchange. */
  #send(first: Connection, exchange: Exchange): void {
    const { worker } = exchange.options;
    try {
      for (let one: Connection | null = first; one;) {
        if (one.send(exchange) === "sent") return;
        one = worker === undefined ? this.choice.pick() : this.choice.only(worker);
      }
      this.putBack(exchange);
    } catch (error) {
      exchange.fail(error);
    }
  }

  #enqueue(exchange: Exchange): void {
    const { limit, policy } = this.options.queue;
    const { isEmpty } = this.choice;
    const down = isEmpty ? this.supply?.downFor : null;
    if (down || (isEmpty && exchange.options.waitForWorker === false)) {
      exchange.fail(new NoWorkerError(this.name, 0, "bus", down));
    } else if (policy === "reject" && this.#queue.length >= limit) {
      this.statistics.count("overloaded");
      const { places, size } = this.choice;
      const counts = `workers: ${size}, requests running: ${places}, queued: ${limit}`;
      exchange.fail(new BusOverloadedError(`Bus "${this.name}" is full (${counts}).`));
    } else {
      exchange.extra.startedAt = this.clock.now();
      if (!this.#encode(exchange)) return;
      this.#queue.pushBack(exchange);
      this.supply?.grow(this.#queue.length + this.choice.load);
    }
  }

  /** Encodes the head of a queued exchange. Returns `false` if it is settled. Runs user code: iterators of headers. */
  #encode(exchange: Exchange): boolean {
    try {
      exchange.encode(this.#encoder);
      return !exchange.isSettled;
    } catch (error) {
      exchange.fail(error);
      return false;
    }
  }

  /** Gives queued requests to workers with room; one whose timeout is over is rejected. Runs no user code. */
  #pump(): void {
    const now = this.clock.now();
    for (let exchange = this.#queue.head; exchange; exchange = this.#queue.head) {
      const connection = this.choice.pick();
      if (!connection) {
        const down = this.choice.isEmpty ? this.supply?.downFor : null;
        if (!down) return this.supply?.grow(this.#queue.length + this.choice.load);
        const { startedAt } = exchange.extra;
        exchange.fail(new NoWorkerError(this.name, now - startedAt, "bus", down, exchange.isRetried));
        continue;
      }
      if (this.#expireQueued(exchange, now)) continue;
      if (!exchange.extra.head) return this.#pumpLater();
      this.#queue.remove(exchange);
      this.#send(connection, exchange);
    }
  }

  /** Encodes the heads of exchanges that came back from a worker, then pumps: in a microtask, because encoding runs user code. */
  #pumpLater(): void {
    if (this.#isPumpDue) return;
    this.#isPumpDue = true;
    queueMicrotask(() => {
      this.#isPumpDue = false;
      this.#queue.each((exchange) => {
        if (!exchange.extra.head) this.#encode(exchange);
      });
      this.#pump();
    });
  }

  // ---- calls of exchanges ---------------------------------------------------------------------------------------------

  idOf(exchange: Exchange): string {
    return exchange.request.id ?? this.#idOf(exchange.serial);
  }

  #idOf(serial: number): string {
    return `${this.#tag}-${serial.toString(36)}`;
  }

  closedError(executed: Executed): Error | null {
    return this.#isClosed ? this.#closedError(executed) : null;
  }

  #closedError(executed: Executed): ClosedError {
    return new ClosedError(`Bus "${this.name}"`, { mayHaveExecuted: executed === "maybe" });
  }

  over(exchange: Exchange): void {
    if (exchange.isQueued) this.#queue.remove(exchange);
    this.unsettled.end();
  }

  vacated(exchange: Exchange): void {
    this.#queue.remove(exchange);
    if (this.#queue.length > 0) this.#pump();
  }

  putBack(exchange: Exchange): void {
    exchange.extra.startedAt ||= this.clock.now();
    this.#queue.pushFront(exchange);
  }

  retry(exchange: Exchange): void {
    this.#retries.add(exchange, exchange.carrier as Connection);
  }

  died(exchange: Exchange, how: string): void {
    this.#retries.bury(exchange, exchange.carrier as Connection, how, this.supply);
  }

  #runAgain(exchange: Exchange): void {
    this.statistics.count("retries");
    this.#queue.pushFront(exchange);
    this.#pump();
  }

  // ---- reports of the wire --------------------------------------------------------------------------------------------

  joined(connection: Connection): void {
    this.statistics.count("workers_joined");
    this.choice.add(connection);
    connection.process = this.supply?.joined(connection) ?? null;
    this.#tell("joined", infoOf(connection));
    this.#ready.tell();
    this.#pump();
  }

  room(): void {
    if (this.#queue.length > 0) this.#pump();
  }

  left(connection: Connection, departure: Departure, how: string, had: readonly Exchange[]): void {
    this.choice.remove(connection);
    this.statistics.count(`workers_${departure}`);
    if (!this.#isClosed) this.#ready.note(`pid ${connection.pid} ${departure === "left" ? "left" : how}`);
    if (had.length > 0) this.clock.immediate(() => this.#audit(connection, had));
    if (!this.#retries.waitFor(connection)) connection.forget();
    if (departure === "left") this.#tell("left", infoOf(connection));
    else this.#tell("died", infoOf(connection), how);
    this.supply?.left(connection);
    this.#pump();
  }

  /** Safety net: rejects and counts requests of an ended worker that are not settled, not queued and with no other worker. */
  #audit(connection: Connection, had: readonly Exchange[]): void {
    for (const exchange of had) {
      const isElsewhere = exchange.carrier !== null && exchange.carrier !== connection;
      if (exchange.isSettled || isElsewhere || exchange.isQueued || this.#retries.has(exchange)) continue;
      this.#unsettledAtEnd++;
      exchange.fail(notSettled(exchange.id, connection.pid));
    }
  }

  stalled(connection: Connection, ms: number): void {
    if (ms > 0 && this.supply?.owns(connection)) connection.evict(`its event loop was blocked for ${ms} ms`);
    else this.#tell(ms > 0 ? "unresponsive" : "responsive", infoOf(connection));
  }

  refused({ pid, uid }: Peer, reason: string): void {
    this.#ready.note(`pid ${pid} was refused: ${reason}`);
    this.#tell("refused", { pid, uid }, reason);
  }

  linked(lost: SlotbusError | null): void {
    return lost ? this.#tell("disconnected", lost) : this.#tell("connected");
  }

  // ---- time -----------------------------------------------------------------------------------------------------------

  #tick(): Found {
    const isBusy = this.wire.tick();
    this.#queue.each((exchange) => {
      exchange.age();
      this.#expireQueued(exchange);
    });
    const found = this.unsettled.count > 0 ? "waiting" : isBusy ? "leftover" : "nothing";
    this.#sample(found !== "nothing");
    if (found === "nothing") this.wire.rest();
    return found;
  }

  #sample(isTicking: boolean): void {
    this.statistics.sample(this.#queue.length, this.unsettled.count, isTicking);
  }

  /** Rejects a queued exchange if its timeout is over. Returns whether it did. */
  #expireQueued(exchange: Exchange, now = this.clock.now()): boolean {
    if (!exchange.isLate(now) || exchange.isSettled) return false;
    if (!this.choice.isEmpty || exchange.isRetried) exchange.expired("no");
    else {
      this.statistics.count("timeouts");
      exchange.fail(new NoWorkerError(this.name, now - exchange.extra.startedAt, "bus", this.supply?.givenUp));
    }
    return true;
  }

  /** See `SlotBus.ready`. */
  async ready(options: ReadyOptions): Promise<void> {
    if (this.#isClosed) throw this.#closedError("no");
    await this.#ready.wait(options);
  }

  // ---- diagnostics and statistics -------------------------------------------------------------------------------------

  diagnostics(): Diagnostics {
    const slots = this.choice.all.flatMap((one) => slotsOf(one, this.choice.client));
    const queued: Diagnostics["queued"] = [];
    const now = this.clock.now();
    this.#queue.each(({ id, extra }) => queued.push({ requestId: id, ageMs: now - extra.startedAt }));
    return { slots, queued };
  }

  stats(): BusStats {
    if (this.#last) return this.#last.stats;
    const { all } = this.choice;
    return {
      ...readCounters(this.statistics),
      requests: this.#serial,
      ...this.wire.driven(),
      unsettledAtEnd: this.#unsettledAtEnd,
      queued: this.#queue.length,
      inFlight: all.reduce((sum, { load }) => sum + load, 0),
      workers: all.map(({ pid, concurrency, load }) => ({ pid, concurrency, inFlight: load })),
    };
  }

  metrics(): string {
    const snapshot = this.#last?.snapshot ?? this.#snapshot();
    return busMetrics(this.name, [{ client: this.choice.client, snapshot }], this.wire.isLinked);
  }

  #snapshot(): Snapshot {
    this.#sample(this.#ticker.isRunning);
    return this.statistics.snapshot();
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  /** Refuses new requests. Resolves when all requests are over, or after `limit` ms. */
  drain(limit: number): Promise<void> {
    this.#isDraining = true;
    return this.unsettled.none(limit);
  }

  /** Rejects the remaining requests, closes the wire and keeps the final statistics. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#ticker.stop();
    this.wire.close();
    this.#queue.each((exchange) => exchange.fail(this.#closedError(exchange.isRetried ? "maybe" : "no")));
    for (const exchange of this.#retries.all) exchange.fail(this.#closedError("maybe"));
    this.#ready.close(this.#closedError("no"));
    if (this.unsettled.count > 0) await nextTurn(this.clock); // a response whose body is being collected settles within a turn
    this.#unsettledAtEnd += this.unsettled.count;
    this.#last = { snapshot: this.#snapshot(), stats: this.stats() };
    this.wire.free();
  }
}
