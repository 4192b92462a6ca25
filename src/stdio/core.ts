/** What every stdio bus is made of: its pools, its life, its calls and their time, and who is told what happens. */

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

/** Pools of workers that are asked by messages. */
export abstract class StdioCore extends EventEmitter<StdioBusEvents> implements AsyncDisposable {
  /** @internal Who hears what workers say. */
  readonly audience: Audience;
  readonly #pools: Pools;
  /** @internal */
  readonly clients: ClientHost;
  readonly #clock = systemClock;
  readonly #latencies = new Latencies();
  /** What is to be told when somebody can listen; `null`: all was told. */
  #early: (() => void)[] | null = [];
  #isClosed = false;
  #closing: Promise<PoolExitReport[]> | null = null;
  #timer: Timer | null = null;
  #due = Infinity;
  /** Calls that have not settled. */
  #unsettled = 0;
  /** Who waits until none is left. */
  #drains: (() => void)[] = [];
  /** Set while a call has not settled. */
  readonly #asking = new Hold();
  /** Set by {@link ref} while the bus is open. */
  readonly #running = new Hold();
  #routingErrors = 0;
  /** The last of the reloads; each begins when the one before has taken effect. */
  #reloading: Promise<unknown> = Promise.resolve();

  /** Starts the pools. */
  protected async begin(): Promise<this> {
    const name = `stdio ${JSON.stringify(this.#pools.programs)}`; // a stdio bus has no other
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

  /** Nobody listens to an event. */
  #warn(event: keyof StdioBusEvents, what: unknown): void {
    const warning = { type: "SlotbusWarning" };
    if (event === "refused") console.error(`slotbus: ${what}`);
    else if (event === "paused") process.emitWarning((what as Error).message, warning);
    else if (event === "resumed" && this.listenerCount("paused") === 0)
      process.emitWarning(`pool "${what}" is no longer paused.`, warning);
  }

  // ---- life -----------------------------------------------------------------------------------------------------------

  /** Whether nothing new is taken for good. */
  get closed(): boolean {
    return this.#isClosed;
  }

  /** Workers that take requests now. */
  get workers(): LinkIdentity[] {
    return this.#pools.workers;
  }

  /** Takes nothing new, and resolves when all that was taken has settled, or after `timeout` ms (default: none). */
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
   * Takes nothing new, rejects what waits for a worker, and ends each worker in steps: it answers what it has, for at most `timeout`
   * ms (default: `stop.drain` of its pool), its input ends, then SIGTERM, then SIGKILL. Resolves to how each process ended that ran.
   * Any number of times, at any time; the first call says how long.
   *
   * @throws (rejects) {InvalidConfigError}; then nothing was closed.
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
    const reports = await this.#pools.close(() => new ClosedError("the bus", { mayHaveExecuted: false }), steps);
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

  /** Keeps the process alive while the bus is open. Without it, only promises that are pending do, and {@link serve}. */
  ref(): void {
    if (!this.#closing) this.#running.set(true);
  }

  unref(): void {
    this.#running.set(false);
  }

  /**
   * Changes how many workers a pool has (1 to 1024): resolves when the new ones are ready, and those that are too many have
   * answered what they had and ended. Workers that were paused or given up begin anew, also when the number stays the same.
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
    throw this.#isClosed ? new ClosedError("the bus") : error;
  };

  /**
   * Makes the pools those of new options, without the loss of a request. A pool whose options are equal keeps its workers; one whose
   * `instances` alone differ is resized. Workers of any other pool are started beside the old ones; when all are ready they get new
   * requests and those that wait, and the old ones answer what they have, then they end. A pool that the options lack answers what
   * it has, and ends. Resolves when new requests go where they should; calls take effect in their order.
   *
   * @throws (rejects) as `start`, and then nothing has changed; as {@link resize}, when all else has; {@link ClosedError}.
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

  /** @internal As `StdioBus.send`; what is told at once keeps its order with all else that is read from the worker. */
  forward(message: RpcMessage, options: StdioRequestOptions, resolve: Resolve, reject: Reject): void {
    const kind = kindOf(message);
    if (kind !== "request" && kind !== "notification") {
      return reject(new InvalidConfigError(`${shown(message)} is no request and no notification of JSON-RPC.`));
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

  /** The protocol of a pool, or of the only one. */
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

  /** One timer for all calls: it is for the one that is due first, and looks again when it fires. */
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

  // ---- looking --------------------------------------------------------------------------------------------------------

  /** What the bus has done so far and has now: a new object. */
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
    if (this.#isClosed) throw new ClosedError("the bus", { mayHaveExecuted: false });
  }
}
