/** The base of `StdioBus` and `RawStdioBus`: start and end, calls and their timeouts, events. */

import { EventEmitter } from "node:events";
import { checkInteger, shown } from "../check.ts";
import { type CloseOptions, type DrainOptions, drainOptions, poolCloseOptions } from "../closing.ts";
import { MAX_TIMER_MS, systemClock, type Timer } from "../clock.ts";
import { ClosedError, InvalidConfigError } from "../errors.ts";
import { Hold, holdWhile } from "../hold.ts";
import { openAnew } from "../hot.ts";
import { Latencies } from "../latency.ts";
import { checkTimeout } from "../options.ts";
import { Audience } from "./audience.ts";
import { Call, type Reject, type Resolve } from "./call.ts";
import type { ClientHost, ServedPool } from "./client.ts";
import type { LinkIdentity, StdioBusEvents, Tell } from "./events.ts";
import { checkRequestOptions, resolveStdioOptions, type StdioBusOptions, type StdioRequestOptions } from "./options.ts";
import { kindOf, type RpcMessage } from "./rpc.ts";
import { type PoolExitReport, Pools, type StdioReloadReport } from "./pools.ts";
import { type Protocol, protocols } from "./protocol.ts";
import type { StdioStats } from "./stats.ts";
import { type MakeSupervisor, WorkerPool } from "./worker-pool.ts";

/** Pools of workers that process messages. */
export abstract class StdioCore extends EventEmitter<StdioBusEvents> implements AsyncDisposable {
  /** @internal Receivers of workers' messages. */
  readonly audience: Audience;
  readonly #pools: Pools;
  /** @internal */
  readonly clients: ClientHost;
  readonly #clock = systemClock;
  readonly #latencies = new Latencies();
  /** Events that wait until listeners could be added; `null` once they were emitted. */
  #early: (() => void)[] | null = [];
  #isClosed = false;
  #closing: Promise<PoolExitReport[]> | null = null;
  #timer: Timer | null = null;
  #due = Infinity;
  /** Calls that have not settled. */
  #unsettled = 0;
  /** Resolvers of `drain` calls. */
  #drains: (() => void)[] = [];
  /** Keeps the process alive while a call has not settled. */
  readonly #asking = new Hold();
  /** Keeps the process alive after {@link ref}, while the bus is open. */
  readonly #running = new Hold();
  #routingErrors = 0;
  /** The latest reload. Reloads run one after another. */
  #reloading: Promise<unknown> = Promise.resolve();

  /** Starts the pools. */
  protected async begin(): Promise<this> {
    const name = `stdio ${JSON.stringify(this.#pools.programs)}`; // a stdio bus has no name of its own
    await openAnew(name, this.#pools.start(), this).catch((error) => {
      this.#isClosed = true;
      throw error;
    });
    this.#clock.immediate(() => {
      const early = this.#early!;
      this.#early = null;
      for (const tell of early) tell();
      this.audience.open();
    });
    return this;
  }

  protected constructor(options: StdioBusOptions, make?: MakeSupervisor) {
    super();
    this.audience = new Audience(this.#tell);
    this.clients = {
      clock: this.#clock,
      counts: { connects: 0, disconnects: 0, refusals: 0, lost: 0 },
      forward: (...call) => this.forward(...call),
      refused: (why) => this.#tell("refused", why),
      servedPool: (id, before) => this.#servedPool(id, before),
    };
    this.#pools = new Pools(options, (pool) => {
      const made = new WorkerPool(pool, this.audience, this.#latencies, this.#clock, make);
      this.audience.watch(pool.id, made.supervisor);
      return made;
    });
  }

  readonly #tell: Tell = (event, ...args) => {
    if (this.#early) this.#early.push(() => this.#tell(event, ...args));
    else queueMicrotask(() => this.emit(event, ...(args as never)) || this.#warn(event, args[0]));
  };

  /** Reports an event without listeners. */
  #warn(event: keyof StdioBusEvents, what: unknown): void {
    const warning = { type: "SlotbusWarning" };
    if (event === "refused") console.error(`slotbus: ${what}`);
    else if (event === "paused") process.emitWarning((what as Error).message, warning);
    else if (event === "resumed" && this.listenerCount("paused") === 0)
      process.emitWarning(`Pool "${what}" is no longer paused.`, warning);
  }

  // ---- start and end --------------------------------------------------------------------------------------------------

  /** Whether the bus rejects new calls: `drain` or `close` was called. */
  get closed(): boolean {
    return this.#isClosed;
  }

  /** Workers that take requests now. */
  get workers(): LinkIdentity[] {
    return this.#pools.workers;
  }

  /** Rejects new calls, and resolves when all earlier calls have settled, or after `timeout` ms (default: no limit). */
  async drain(options: DrainOptions = {}): Promise<void> {
    const { timeout } = drainOptions.resolve(options);
    this.#takeNoMore();
    if (this.#unsettled === 0 || timeout === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#drains.push(resolve);
    const timer = timeout === Infinity ? null : this.#clock.after(timeout, resolve);
    timer?.unref();
    await promise;
    timer?.close();
  }

  /**
   * Closes the bus: rejects new calls and calls that wait for a worker, then ends each worker in steps. The worker finishes its
   * requests within `timeout` ms (default: `stop.drain` of its pool), its input ends, then it gets SIGTERM, then SIGKILL.
   * Resolves to a report for each process. May be called repeatedly; the `timeout` of the first call counts.
   *
   * @throws (rejects) {InvalidConfigError}; then the bus is not closed.
   */
  close(options: CloseOptions = {}): Promise<PoolExitReport[]> {
    if (this.#closing) return this.#closing;
    try {
      const { timeout } = poolCloseOptions.resolve(options);
      return (this.#closing = holdWhile(this.#close(timeout)));
    } catch (error) {
      return Promise.reject(error);
    }
  }

  async #close(timeout: number | null): Promise<PoolExitReport[]> {
    this.#takeNoMore();
    this.audience.release();
    const steps = timeout === null ? undefined : { drain: Math.min(timeout, MAX_TIMER_MS) };
    const reports = await this.#pools.close(() => new ClosedError("The bus", { mayHaveExecuted: false }), steps);
    await this.audience.leave();
    this.#timer?.close();
    this.#timer = null;
    this.#due = Infinity;
    this.#running.set(false);
    return reports;
  }

  #takeNoMore(): void {
    this.#isClosed = true;
    for (const server of this.audience.servers) server.stopListening();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Keeps the process alive while the bus is open. By default only pending promises and servers do. */
  ref(): void {
    if (!this.#closing) this.#running.set(true);
  }

  /** Reverts {@link ref}. */
  unref(): void {
    this.#running.set(false);
  }

  /**
   * Changes the number of workers of a pool (1 to 1024). Resolves when new workers are ready, and surplus workers have finished
   * their requests and ended. Restarts workers that were paused or given up, even if the number stays the same.
   *
   * @throws (rejects) {InvalidConfigError}, `UNKNOWN_POOL`, {WorkerFailedError} when a new worker ended too often,
   * {@link ClosedError}.
   */
  async resize(pool: string, instances: number): Promise<void> {
    checkInteger("instances", instances, 1, 1_024);
    const changed = this.poolOf(pool);
    this.checkOpen();
    changed.instances = instances;
    await changed.supervisor.resize(instances).catch(this.#failed);
  }

  readonly #failed = (error: unknown): never => {
    throw this.#isClosed ? new ClosedError("The bus") : error;
  };

  /**
   * Applies new options without losing a request. A pool with equal options keeps its workers, and a pool where only
   * `instances` differs is resized. For any other pool, new workers start beside the old ones; when all are ready they get new
   * and waiting requests, and the old ones finish their requests and end. A pool that the new options lack finishes its
   * requests and ends. Resolves when new requests go to the new workers. Reloads run one after another.
   *
   * @throws (rejects) as `start`: then nothing has changed; as {@link resize}: then everything else has; {@link ClosedError}.
   */
  reload(options: StdioBusOptions): Promise<StdioReloadReport> {
    const run = this.#reloading.then(() => this.#reload(options)).catch(this.#failed);
    this.#reloading = run.catch(() => {});
    return holdWhile(run);
  }

  async #reload(options: StdioBusOptions): Promise<StdioReloadReport> {
    const wanted = resolveStdioOptions(options);
    this.checkOpen();
    return this.#pools.reload(wanted, () => this.checkOpen());
  }

  // ---- calls ----------------------------------------------------------------------------------------------------------

  /**
   * @internal As `StdioBus.send`. Its callbacks run at once, so responses keep their order among the worker's other messages.
   */
  forward(message: RpcMessage, options: StdioRequestOptions, resolve: Resolve, reject: Reject): void {
    const kind = kindOf(message);
    if (kind !== "request" && kind !== "notification") {
      return reject(new InvalidConfigError(`${shown(message)} is not a JSON-RPC request or notification.`));
    }
    const pool = options.pool ?? (typeof message["pool"] === "string" ? message["pool"] : undefined);
    const session = message["sessionId"];
    const key = options.key ?? (typeof session === "string" && session !== "" ? session : undefined);
    const sent = kind === "request" ? "message" : "notification";
    this.call(sent, message.method!, message.params, message, { ...options, pool, key }, resolve, reject);
  }

  /** @internal */
  call(
    kind: Call["kind"],
    method: string,
    params: unknown,
    message: RpcMessage | null,
    options: StdioRequestOptions | undefined,
    resolve: Resolve,
    reject: Reject,
  ): void {
    try {
      this.checkOpen();
      if (typeof method !== "string") throw new InvalidConfigError(`method is ${shown(method)}; it must be text.`);
      const pool = options?.pool === undefined && this.#pools.only ? this.#pools.only : this.poolOf(options?.pool);
      const timeout = options?.timeout;
      const ms = timeout === undefined ? pool.options.timeout : checkTimeout(timeout);
      const now = this.#clock.now();
      const call = new Call(kind, method, params, message, options, now, ms, resolve, reject);
      if (options !== undefined) {
        checkRequestOptions(options);
        const { signal } = options;
        if (signal?.aborted) return call.reject(signal.reason);
        if (signal) signal.addEventListener("abort", (call.onAbort = () => call.pool!.abandon(call, signal.reason)));
      }
      call.onSettled = this.#onSettled;
      if (++this.#unsettled === 1) this.#asking.set(true);
      if (call.deadline < this.#due) this.#expect(call.deadline, now);
      pool.dispatch(call);
    } catch (error) {
      reject(error);
    }
  }

  readonly #onSettled = (): void => {
    if (--this.#unsettled > 0) return;
    this.#asking.set(false);
    for (const done of this.#drains.splice(0)) done();
  };

  /** @internal */
  poolOf(id: string | undefined): WorkerPool {
    try {
      return this.#pools.get(id);
    } catch (error) {
      this.#routingErrors++;
      throw error;
    }
  }

  /** Protocol of a pool, or of the only pool. */
  protected protocolOf(id: unknown): Protocol {
    const pool = this.#pools.find(typeof id === "string" ? id : undefined);
    return protocols[pool?.options.protocol ?? "json-rpc"];
  }

  #servedPool(id: string | null, before: ServedPool | null): ServedPool | null {
    const now = this.#pools.find(id ?? undefined);
    const pool = now ?? (before ? this.#pools.find(before.options.id) : id === null ? null : this.poolOf(id));
    if (!pool) return before;
    const { options } = pool;
    return {
      options,
      isOwner: (key, worker) => this.#pools.find(options.id)?.ownerOf(key)?.identity === worker,
      isAsked: (key, worker) => this.#pools.isAsked(key, worker),
    };
  }

  // ---- time -----------------------------------------------------------------------------------------------------------

  /** Sets the one timer of all calls to the earliest deadline. When it fires, it is set again. */
  #expect(due: number, now: number): void {
    this.#due = due;
    this.#timer?.close();
    this.#timer = this.#clock.after(due - now, this.#onTime);
    this.#timer.unref();
  }

  readonly #onTime = (): void => {
    this.#timer = null;
    this.#due = Infinity;
    const now = this.#clock.now();
    const next = this.#pools.expire(now);
    if (next < this.#due) this.#expect(next, now);
  };

  // ---- statistics -----------------------------------------------------------------------------------------------------

  /** Counters and current numbers, as a new object. */
  stats(): StdioStats {
    const clients = this.clients.counts;
    return {
      ...this.#pools.stats(),
      routingErrors: this.#routingErrors,
      clients: clients.connects - clients.disconnects,
      clientConnects: clients.connects,
      clientDisconnects: clients.disconnects,
      clientRefusals: clients.refusals,
      lost: this.audience.lost + clients.lost,
      p50: this.#latencies.percentile(50),
      p99: this.#latencies.percentile(99),
    };
  }

  /** @internal */
  checkOpen(): void {
    if (this.#isClosed) throw new ClosedError("The bus", { mayHaveExecuted: false });
  }
}
