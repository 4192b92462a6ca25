/** The stdio bus: programs in any language as workers, asked by JSON-RPC over their standard input and output. */

import { checkInteger, checkOptions, shown } from "../check.ts";
import { systemClock, type Timer } from "../clock.ts";
import { BusClosedError, type ExitReport, InvalidConfigError, InvalidStateError, UnknownPoolError } from "../errors.ts";
import { Hold, holdWhile } from "../hold.ts";
import { Latencies } from "../latency.ts";
import { resolveStop, type StopOptions } from "../supervisor/options.ts";
import { Audience, type NotificationOptions, type WorkerNotification, type WorkerRequestHandler } from "./audience.ts";
import { Call, type CallOptions, checkCallOptions, checkTimeoutMs, type Reject, type Resolve } from "./call.ts";
import type { ClientHost } from "./client.ts";
import { resolveStdioOptions, type StdioBusOptions } from "./config.ts";
import { kindOf, type RpcMessage } from "./rpc.ts";
import { type ServeOptions, StdioServer } from "./server.ts";
import { noTraffic, type StdioStats } from "./stats.ts";
import type { Subscription } from "./subscription.ts";
import { type MakeSupervisor, WorkerPool } from "./worker-pool.ts";

/** States of a bus, with the numbers they always had. */
export const BusState = { CREATED: 0, STARTING: 1, RUNNING: 2, STOPPING: 3, STOPPED: 4 } as const;
/** One of {@link BusState}. */
export type BusStateValue = (typeof BusState)[keyof typeof BusState];

/** What a request takes besides its method and params. */
export interface StdioRequestOptions extends CallOptions {
  /** Id of the pool; it may be left out when there is one. */
  pool?: string | undefined;
}

/** How a process of a pool ended. */
export interface PoolExitReport extends ExitReport {
  readonly pool: string;
}

const ends: { resolve: Resolve; reject: Reject } = { resolve: () => {}, reject: () => {} };
const grab = (resolve: Resolve, reject: Reject): void => {
  ends.resolve = resolve;
  ends.reject = reject;
};

/**
 * Worker processes that speak JSON-RPC 2.0 over their standard input and output: any program that reads and writes lines of JSON.
 *
 *     await using bus = new StdioBus({ pools: [{ id: "py", command: "python3", args: ["worker.py"], instances: 2 }] });
 *     await bus.start();
 *     const sum = await bus.request("add", [1, 2]);
 *
 * A worker has at most `maxInFlight` requests and `maxQueuedBytes` bytes that its pipe has not taken; more wait here, up to the
 * limit of the queue.
 */
export class StdioBus implements AsyncDisposable {
  readonly #pools = new Map<string, WorkerPool>();
  readonly #only: WorkerPool | null;
  /** @internal Who hears what workers say. */
  readonly audience: Audience;
  readonly #clients: ClientHost;
  readonly #clock = systemClock;
  readonly #latencies = new Latencies();
  #state: BusStateValue = BusState.CREATED;
  #starting: Promise<void> | null = null;
  #stopping: Promise<PoolExitReport[]> | null = null;
  #timer: Timer | null = null;
  #due = Infinity;
  /** Calls that have not settled. */
  #unsettled = 0;
  /** Set while a call has not settled. */
  readonly #asking = new Hold();
  #isRef = false;
  /** Set by {@link ref} while the bus is open. */
  readonly #running = new Hold();
  #routingErrors = 0;
  /**
   * Checks the options; nothing is started.
   *
   * @throws {InvalidConfigError} for unknown keys (with the one that comes nearest), equal ids and values out of range.
   */
  constructor(options: StdioBusOptions, /** @internal A test gives its own. */ make?: MakeSupervisor) {
    this.audience = new Audience(options);
    this.#clients = {
      clock: this.#clock,
      counts: { connects: 0, disconnects: 0, refusals: 0, dropped: 0 },
      forward: (...call) => this.forward(...call),
      refused: (why) => this.audience.refused(why),
    };
    for (const pool of resolveStdioOptions(options)) {
      const made = new WorkerPool(pool, this.audience, this.#latencies, this.#clock, make);
      this.#pools.set(pool.id, made);
      this.audience.watch(pool.id, made.supervisor);
    }
    this.#only = this.#pools.size === 1 ? this.#pools.values().next().value! : null;
  }

  // ---- life -----------------------------------------------------------------------------------------------------------

  /** One of {@link BusState}. */
  get state(): BusStateValue {
    return this.#state;
  }

  /** Whether it takes requests. */
  get isRunning(): boolean {
    return this.#state === BusState.RUNNING;
  }

  /** Workers that take requests now. */
  get workerCount(): number {
    return [...this.#pools.values()].reduce((sum, { supervisor }) => sum + supervisor.links.length, 0);
  }

  /** Connections to the servers of {@link serve}. */
  get clientCount(): number {
    return this.#clients.counts.connects - this.#clients.counts.disconnects;
  }

  /** How workers are run: as processes of this one. */
  get backendType(): "process" {
    return "process";
  }

  /**
   * Starts all workers; resolves when all are ready. When one is not, all are stopped and the state is STOPPED. Concurrent
   * calls share one promise. A bus that was stopped may be started again.
   *
   * @throws (rejects) {ProgramNotFoundError}, {WorkerStartError}, {InvalidStateError} while it is RUNNING or STOPPING,
   * {@link BusClosedError} when `stop` came first.
   */
  start(): Promise<void> {
    if (this.#starting) return this.#starting;
    if (this.#state !== BusState.CREATED && this.#state !== BusState.STOPPED) {
      return Promise.reject(this.#stateError("start", "CREATED or STOPPED"));
    }
    this.#setState(BusState.STARTING);
    this.#starting = this.#start().finally(() => (this.#starting = null));
    return this.#starting;
  }

  async #start(): Promise<void> {
    const pools = [...this.#pools.values()];
    try {
      await Promise.all(pools.map(({ supervisor }) => supervisor.start()));
      if (this.#state !== BusState.STARTING) throw new BusClosedError("the bus");
      this.#setState(BusState.RUNNING);
    } catch (error) {
      await Promise.all(pools.map(({ supervisor }) => supervisor.stop({ drain: 0, endOfInput: 0 })));
      if (this.#state === BusState.STARTING) this.#setState(BusState.STOPPED);
      throw error;
    }
  }

  /**
   * Takes nothing new, rejects what waits for a worker, and ends each worker in steps: it answers what it has, its input
   * ends, then SIGTERM, then SIGKILL. Resolves always, to how each process ended. Concurrent calls share one promise.
   *
   * @throws (rejects) {InvalidConfigError}; then nothing was stopped.
   */
  stop(options?: StopOptions): Promise<PoolExitReport[]> {
    if (this.#stopping) return this.#stopping;
    try {
      resolveStop(options);
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.#state === BusState.STOPPED) return Promise.resolve([]);
    this.#setState(BusState.STOPPING);
    this.#stopping = holdWhile(this.#stop(options).finally(() => (this.#stopping = null)));
    return this.#stopping;
  }

  async #stop(options: StopOptions | undefined): Promise<PoolExitReport[]> {
    for (const server of this.audience.servers) server.stopListening();
    for (const pool of this.#pools.values())
      pool.rejectWaiting(() => new BusClosedError("the bus", { mayHaveExecuted: false }));
    this.audience.release();
    const starting = this.#starting?.catch(() => {});
    const stopped = [...this.#pools].map(async ([pool, { supervisor }]) =>
      (await supervisor.stop(options)).map((report) => ({ ...report, pool })),
    );
    const reports = await Promise.all(stopped);
    await starting;
    await Promise.all([...this.#pools.values()].map((pool) => pool.allGone()));
    await this.audience.leave();
    this.#timer?.close();
    this.#timer = null;
    this.#due = Infinity;
    this.#setState(BusState.STOPPED);
    return reports.flat();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** Keeps the process alive while the bus is open. Without it, only promises that are pending do, and {@link serve}. */
  ref(): void {
    this.#isRef = true;
    this.#setState(this.#state);
  }

  unref(): void {
    this.#isRef = false;
    this.#setState(this.#state);
  }

  #setState(state: BusStateValue): void {
    this.#state = state;
    this.#running.set(this.#isRef && state !== BusState.CREATED && state !== BusState.STOPPED);
  }

  /**
   * Changes how many workers a pool has (1 to 1024): resolves when the new ones are ready, and those that are too many have
   * answered what they had and ended. Workers that were paused or given up begin anew, also when the number stays the same.
   *
   * @throws (rejects) {InvalidConfigError}, {UnknownPoolError}, {InvalidStateError} unless it is RUNNING, {WorkerFailedError} when
   * a new worker ended too often, {BusClosedError} when `stop` came first.
   */
  async resize(pool: string, instances: number): Promise<void> {
    checkInteger("instances", instances, 1, 1_024);
    await this.#poolOf(pool).supervisor.resize(instances);
  }

  // ---- asking ---------------------------------------------------------------------------------------------------------

  /**
   * Asks a worker; resolves to the result of its response. The worker is the one of the key, else the one with the fewest
   * requests.
   *
   * @throws (rejects) {RpcError}: the worker's own error; {@link RequestTimeoutError}; {@link WorkerExitedError};
   * {@link BackpressureError}; {@link NoWorkerError}, {@link PoolFailedError}; {@link ProtocolError}: its answer cannot be
   * read; {@link UnknownPoolError}, {@link InvalidConfigError}, {@link InvalidStateError}; the reason of the signal.
   */
  request<T = unknown>(method: string, params?: unknown, options?: StdioRequestOptions): Promise<T> {
    return this.#ask("request", method, params, options) as Promise<T>;
  }

  /** Tells a worker something; resolves when it is on its way. It waits for room and rejects as {@link request} does. */
  notify(method: string, params?: unknown, options?: StdioRequestOptions): Promise<void> {
    return this.#ask("notification", method, params, options) as Promise<void>;
  }

  #ask(
    kind: Call["kind"],
    method: string,
    params: unknown,
    options: StdioRequestOptions | undefined,
  ): Promise<unknown> {
    const promise = new Promise(grab);
    this.#call(kind, method, params, null, options, ends.resolve, ends.reject);
    return promise;
  }

  /**
   * Sends a whole message. Of a request it resolves to the worker's whole response, an error too, with the request's own id
   * (on its way it has another, so equal ids do not meet); of a notification to `undefined`. Members of its own go with it;
   * `pool` chooses the pool and `sessionId` is the key, unless the options say otherwise.
   *
   * @throws (rejects) as {@link request} does, but for RpcError.
   */
  send(message: RpcMessage, options: StdioRequestOptions = {}): Promise<RpcMessage | undefined> {
    const promise = new Promise(grab);
    this.forward(message, options, ends.resolve, ends.reject);
    return promise as Promise<RpcMessage | undefined>;
  }

  /** @internal As {@link send}; what is told at once keeps its order with all else that is read from the worker. */
  forward(message: RpcMessage, options: StdioRequestOptions, resolve: Resolve, reject: Reject): void {
    const kind = kindOf(message);
    if (kind !== "request" && kind !== "notification") {
      return reject(new InvalidConfigError(`${shown(message)} is no request and no notification of JSON-RPC.`));
    }
    const pool = options.pool ?? (typeof message["pool"] === "string" ? message["pool"] : undefined);
    const session = message["sessionId"];
    const key = options.key ?? (typeof session === "string" && session !== "" ? session : undefined);
    const sent = kind === "request" ? "message" : "notification";
    this.#call(sent, message.method!, undefined, message, { ...options, pool, key }, resolve, reject);
  }

  #call(
    kind: Call["kind"],
    method: string,
    params: unknown,
    message: RpcMessage | null,
    options: StdioRequestOptions | undefined,
    resolve: Resolve,
    reject: Reject,
  ): void {
    try {
      this.checkRunning(kind === "notification" ? "notify" : "request");
      if (typeof method !== "string") throw new InvalidConfigError(`method is ${shown(method)}; it must be text.`);
      const pool = options?.pool === undefined && this.#only ? this.#only : this.#poolOf(options?.pool);
      const timeout = options?.timeout;
      const ms = timeout === undefined ? pool.options.limits.timeout || Infinity : checkTimeoutMs(timeout);
      const now = this.#clock.now();
      const call = new Call(kind, method, params, message, options, now, ms, resolve, reject);
      if (options !== undefined) {
        checkCallOptions(options);
        const { signal } = options;
        if (signal?.aborted) return call.reject(signal.reason);
        if (signal) signal.addEventListener("abort", (call.onAbort = () => pool.abandon(call, signal.reason)));
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
    if (--this.#unsettled === 0) this.#asking.set(false);
  };

  #poolOf(id: string | undefined): WorkerPool {
    const pool = id === undefined ? this.#only : this.#pools.get(id);
    if (pool) return pool;
    this.#routingErrors++;
    throw new UnknownPoolError(id, [...this.#pools.keys()]);
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
    let next = Infinity;
    for (const pool of this.#pools.values()) next = Math.min(next, pool.expire(now));
    if (next < this.#due) this.#expect(next, now);
  };

  // ---- what workers say -----------------------------------------------------------------------------------------------

  /**
   * Answers requests of workers. One that no handler is for goes to the client of {@link serve} whose `sessionId` it has, then to
   * the handler of `"*"`; without one it gets -32601. Of each worker
   * `maxInFlight` handlers run at once; with more it is not read, so a handler that asks its own worker may wait for itself.
   * Returns a function that takes the handler out again.
   *
   * @throws {InvalidConfigError} when the method has a handler.
   */
  onRequest(method: string, handler: WorkerRequestHandler): () => void {
    return this.audience.onRequest(method, handler);
  }

  /**
   * What workers tell from now on, but for `$/ready`, `$/cancelRequest` and the progress of requests. Ends with the bus.
   *
   *     for await (const { method, params, pid } of bus.subscribe({ method: "log" })) …
   *
   * @throws {InvalidConfigError}, {UnknownPoolError}, the reason of a signal that is aborted.
   */
  subscribe(options: NotificationOptions = {}): Subscription<WorkerNotification> {
    if (checkOptions("a subscription", options).pool !== undefined) this.#poolOf(options.pool);
    return this.audience.subscribe(options);
  }

  // ---- clients --------------------------------------------------------------------------------------------------------

  /**
   * Lets other programs of this machine ask: each connection to the socket speaks JSON-RPC in lines (or another framing), with
   * ids of its own. A connection by tcp sends a token first. Ends with `server.stop()`, or with the bus. Each call opens one more
   * server; the others go on.
   *
   * @throws (rejects) {InvalidConfigError}; {@link InvalidStateError} unless the bus is RUNNING; {@link AddressInUseError} when
   * a live socket has the path or the port.
   */
  async serve(options: ServeOptions): Promise<StdioServer> {
    this.checkRunning("serve");
    const server = await StdioServer.listen(this.#clients, options, () => this.audience.servers.delete(server));
    this.audience.servers.add(server);
    return server;
  }

  // ---- looking --------------------------------------------------------------------------------------------------------

  /** What the bus has done so far and has now: a new object. */
  stats(): StdioStats {
    const clients = this.#clients.counts;
    const traffic = noTraffic();
    let inFlight = 0;
    let waiting = 0;
    let workerRestarts = 0;
    const workers = [];
    const paused = [];
    for (const [id, pool] of this.#pools) {
      pool.addTraffic(traffic);
      if (pool.supervisor.pausedFor) paused.push(id);
      inFlight += pool.inFlight;
      waiting += pool.waiting;
      workerRestarts += pool.restarts;
      for (const { identity, inFlight: has, queuedBytes, hasEnded } of pool.connections) {
        if (!hasEnded) workers.push({ ...identity, pool: id, inFlight: has, queuedBytes });
      }
    }
    return {
      ...traffic,
      workerRestarts,
      paused,
      routingErrors: this.#routingErrors,
      clientConnects: clients.connects,
      clientDisconnects: clients.disconnects,
      clientRefusals: clients.refusals,
      inFlight,
      waiting,
      dropped: this.audience.dropped + clients.dropped,
      p50: this.#latencies.percentile(50),
      p99: this.#latencies.percentile(99),
      workers,
    };
  }

  /** @internal */
  checkRunning(operation: string): void {
    if (this.#state !== BusState.RUNNING) throw this.#stateError(operation, "RUNNING");
  }

  #stateError(operation: string, expected: string): InvalidStateError {
    return new InvalidStateError("the bus", operation, Object.keys(BusState)[this.#state]!, expected);
  }
}
