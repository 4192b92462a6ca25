/** One pool: chooses workers for calls, queues calls, and settles them. */

import type { EventEmitter } from "node:events";
import type { Clock } from "../clock.ts";
import {
  BusOverloadedError,
  ClosedError,
  type ExitReport,
  NoWorkerError,
  RequestTimeoutError,
  WorkerDiedError,
} from "../errors.ts";
import type { Latencies } from "../latency.ts";
import type { SupervisorEvents } from "../supervisor/events.ts";
import type { Transport, WorkerProcess } from "../supervisor/process.ts";
import { Supervisor } from "../supervisor/supervisor.ts";
import { Call } from "./call.ts";
import type { ResolvedStdioPool } from "./options.ts";
import { protocols } from "./protocol.ts";
import { type ConnectionHost, type ConnectionOwner, WorkerConnection } from "./worker-connection.ts";
import { addTraffic, noTraffic, type Traffic } from "./stats.ts";
import { sinkOf } from "./writer.ts";

/** The part of a supervisor that a pool uses. Tests replace it. */
export type PoolSupervisor = EventEmitter<SupervisorEvents> &
  Pick<
    Supervisor<WorkerConnection>,
    "start" | "stop" | "resize" | "resizeWith" | "links" | "workers" | "pausedFor" | "isDown"
  >;
/** @internal */
export type MakeSupervisor = (
  pool: ResolvedStdioPool,
  transport: Transport<WorkerConnection>,
  clock: Clock,
) => PoolSupervisor;

const makeSupervisor: MakeSupervisor = (pool, transport, clock) => {
  const supervisor = new Supervisor(pool.program, transport, clock);
  supervisor.unref(); // the bus decides what keeps the process alive
  return supervisor;
};

/** What a program must do to become ready; `undefined`: only run. */
function readinessOf({ protocol, ready }: ResolvedStdioPool): string | undefined {
  if (ready) return "Send the notification `$/ready` when the worker is ready.";
  return protocol === "mcp"
    ? "The program must be an MCP server on standard input and output: it gets `initialize`."
    : undefined;
}

/** The calls of one pool and the workers that answer them. */
export class WorkerPool implements ConnectionOwner {
  readonly options: ResolvedStdioPool;
  readonly clock: Clock;
  readonly supervisor: PoolSupervisor;
  /** Number of workers that was requested last. */
  instances: number;
  /** Number of restarts of workers. */
  restarts = 0;
  readonly #host: ConnectionHost;
  readonly #latencies: Latencies;
  /** Calls that wait for any worker. */
  readonly #waiting = new Set<Call>();
  /** Number of waiting calls, including those that wait for a specific worker. */
  #waitingCount = 0;
  /** Connections whose output was not read to its end, including draining ones. */
  readonly #connections = new Set<WorkerConnection>();
  /** Counters of processes that have ended. */
  readonly #past = noTraffic();
  #turn = 0;
  readonly #whenGone: (() => void)[] = [];
  #lastExit: ExitReport | null = null;
  /** The pool that gets this pool's calls after it has retired. */
  #successor: WorkerPool | null = null;
  /** Called when no call is open. */
  #onIdle: (() => void) | null = null;

  constructor(
    options: ResolvedStdioPool,
    host: ConnectionHost,
    latencies: Latencies,
    clock: Clock,
    make: MakeSupervisor = makeSupervisor,
  ) {
    this.options = options;
    this.instances = options.instances;
    this.clock = clock;
    this.#host = host;
    this.#latencies = latencies;
    const transport = {
      stdin: "pipe",
      stdout: "pipe",
      readiness: readinessOf(options),
      open: (process: WorkerProcess) => this.#open(process),
    } as const;
    this.supervisor = make(options, transport, clock);
    this.supervisor.on("joined", () => this.#pump());
    this.supervisor.on("left", (_, report) => (this.#lastExit = report));
    this.supervisor.on("died", (_, report) => (this.#lastExit = report));
    this.supervisor.on("state", ({ state }, previous) => {
      if (state === "backoff" || (state === "starting" && previous === "paused")) this.restarts++;
      if (state === "failed" || state === "stopped" || state === "paused") this.#giveUpIfHopeless();
    });
  }

  /** Number of calls that workers are processing. */
  get inFlight(): number {
    let sum = 0;
    for (const connection of this.#connections) sum += connection.inFlight;
    return sum;
  }

  /** Number of calls that wait for a worker. */
  get waiting(): number {
    return this.#waitingCount;
  }

  get connections(): Iterable<WorkerConnection> {
    return this.#connections;
  }

  /** Adds the counters of all its processes, including past ones, to a sum. */
  addTraffic(sum: Traffic): void {
    addTraffic(sum, this.#past);
    for (const connection of this.#connections) addTraffic(sum, connection.counts);
  }

  /** Sends a call to a worker, or queues it. */
  dispatch(call: Call): void {
    if (this.#successor) return this.#successor.dispatch(call);
    call.pool = this;
    if (call.deadline === call.startedAt && call.kind !== "notification") {
      call.settle(true, this.#timeoutError(call, 0, 0, false));
    } else if (this.#waiting.size > 0 || !this.#deliver(call)) this.#wait(call, this.#waiting);
  }

  /** Cancels a call, which rejects with this error. */
  abandon(call: Call, error: unknown): void {
    if (call.isSettled) return;
    if (call.connection) call.connection.giveUp(call, error);
    else this.#forget(call);
    call.settle(true, error);
    if (this.#onIdle) this.#checkIdle();
  }

  /** Times out calls; returns the next deadline, or `Infinity`. */
  expire(now: number): number {
    let next = Infinity;
    const check = (call: Call): void => {
      if (call.deadline <= now) this.#timeOut(call, now);
      else if (call.deadline < next) next = call.deadline;
    };
    for (const call of this.#waiting) check(call);
    for (const connection of this.#connections) {
      for (const call of connection.waiting) check(call);
      for (const call of connection.calls) check(call);
    }
    return next;
  }

  /** Rejects waiting calls. */
  rejectWaiting(errorOf: (call: Call) => unknown): void {
    for (const call of this.#waiting) this.abandon(call, errorOf(call));
    for (const connection of this.#connections)
      for (const call of connection.waiting) this.abandon(call, errorOf(call));
  }

  /**
   * Passes waiting and new calls to the successor, if there is one; otherwise waiting calls stay here. Resolves when all calls
   * of this pool have settled.
   */
  async retire(successor: WorkerPool | null): Promise<void> {
    if (successor) {
      this.#successor = successor;
      successor.#adopt([...this.#waiting, ...[...this.#connections].flatMap(({ waiting }) => [...waiting])], this);
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onIdle = resolve;
    this.#checkIdle();
    await promise;
  }

  #adopt(calls: readonly Call[], from: WorkerPool): void {
    for (const call of calls) {
      from.#forget(call);
      this.dispatch(call);
    }
  }

  #checkIdle(): void {
    if (this.#waitingCount === 0 && this.inFlight === 0) this.#onIdle!();
  }

  // ---- routing --------------------------------------------------------------------------------------------------------

  /** Sends a call, or queues it for its worker. Returns `false` if no worker has room. */
  #deliver(call: Call): boolean {
    const { key } = call.options;
    const connection = key === undefined ? this.#leastBusy() : this.ownerOf(key);
    if (!connection) return false;
    if (key !== undefined && (connection.waiting.size > 0 || !connection.canTake())) {
      this.#wait(call, connection.waiting);
      return true;
    }
    this.#send(connection, call);
    return true;
  }

  #send(connection: WorkerConnection, call: Call): void {
    try {
      connection.send(call);
    } catch (error) {
      call.settle(true, error);
      if (this.#onIdle) this.#checkIdle();
    }
  }

  /** Returns the worker with the fewest calls; among equal ones, takes turns. */
  #leastBusy(): WorkerConnection | null {
    const { links } = this.supervisor;
    const { length } = links;
    let best: WorkerConnection | null = null;
    let turn = this.#turn;
    for (let i = 0; i < length; i++) {
      if (turn >= length) turn = 0;
      const connection = links[turn++]!;
      if ((best === null || connection.inFlight < best.inFlight) && connection.canTake()) {
        best = connection;
        this.#turn = turn;
      }
    }
    return best;
  }

  /** Returns the worker for a key by rendezvous hashing: when a worker joins or leaves, only its own keys move. */
  ownerOf(key: string): WorkerConnection | null {
    let best: WorkerConnection | null = null;
    let highest = -1;
    for (const connection of this.supervisor.links) {
      if (!connection.isOpen) continue;
      const weight = Bun.hash.xxHash32(key, connection.identity.worker);
      if (weight <= highest) continue;
      best = connection;
      highest = weight;
    }
    return best;
  }

  // ---- waiting --------------------------------------------------------------------------------------------------------

  /** Queues a call, unless the pool's limit is reached or no worker can become ready. */
  #wait(call: Call, queue: Set<Call>): void {
    const { limit, policy } = this.options.queue;
    if (policy === "reject" && !call.wasRetried && !call.hasWaited && this.#waitingCount >= limit) {
      call.settle(
        true,
        new BusOverloadedError(
          `Pool "${this.options.id}" is full: ${limit} requests are waiting.`,
          this.#waitingCount,
          limit,
        ),
      );
    } else if (this.#isHopeless()) {
      call.settle(true, this.#failedError(call));
    } else if (call.deadline === call.startedAt) {
      call.settle(true, this.#timeoutError(call, 0, 0, false));
    } else {
      queue.add(call);
      call.hasWaited = true;
      this.#waitingCount++;
    }
  }

  #forget(call: Call): void {
    if (this.#waiting.delete(call)) this.#waitingCount--;
    else for (const connection of this.#connections) if (connection.waiting.delete(call)) this.#waitingCount--;
  }

  #pump(): void {
    for (const call of this.#waiting) {
      // A call leaves the queue only when a worker has room, so it keeps its place.
      if (call.options.key === undefined && !this.supervisor.links.some((connection) => connection.canTake())) return;
      if (this.supervisor.links.length === 0) return;
      this.#forget(call);
      if (!this.#deliver(call)) this.#wait(call, this.#waiting);
    }
  }

  #isHopeless(): boolean {
    if (this.supervisor.links.length > 0) return false;
    return (
      this.supervisor.isDown || this.supervisor.workers.every(({ state }) => state === "failed" || state === "stopped")
    );
  }

  #giveUpIfHopeless(): void {
    if (this.#waitingCount > 0 && this.#isHopeless()) this.rejectWaiting((call) => this.#failedError(call));
  }

  #failedError({ startedAt, wasRetried }: Call): NoWorkerError {
    const { id } = this.options;
    const { pausedFor } = this.supervisor;
    if (pausedFor) return new NoWorkerError(id, this.clock.now() - startedAt, "pool", pausedFor, wasRetried);
    const cause = this.#lastExit && new WorkerDiedError(null, this.#lastExit.pid, this.#lastExit, true);
    return new NoWorkerError(id, this.clock.now() - startedAt, "pool", cause, wasRetried);
  }

  #timeOut(call: Call, now: number): void {
    const { id } = this.options;
    const queuedMs = (call.connection ? call.sentAt : now) - call.startedAt;
    if (!call.connection && !call.wasRetried && this.supervisor.links.length === 0) {
      this.abandon(call, new NoWorkerError(id, queuedMs, "pool"));
      return;
    }
    const ran = call.connection !== null || call.wasRetried;
    const withMs = call.connection ? now - call.sentAt : 0;
    call.connection?.timedOut();
    this.abandon(call, this.#timeoutError(call, queuedMs, withMs, ran));
  }

  #timeoutError(call: Call, queuedMs: number, withMs: number, ran: boolean): RequestTimeoutError {
    const what = `${JSON.stringify(call.method)} of pool "${this.options.id}"`;
    return new RequestTimeoutError(what, call.deadline - call.startedAt, queuedMs, withMs, ran);
  }

  // ---- connections ----------------------------------------------------------------------------------------------------

  async #open(process: WorkerProcess): Promise<WorkerConnection> {
    const { id: worker, life, pid } = process;
    const { id, ready, protocol } = this.options;
    const initialize = this.options.initialize ?? protocols[protocol].greet;
    const connection = new WorkerConnection(
      { pool: id, worker, life, pid },
      { sink: sinkOf(process.stdin!), source: process.stdout! },
      this.options,
      this,
      this.#host,
      process,
    );
    this.#connections.add(connection);
    void process.exited.then((report) => connection.ended(report));
    if (ready) await connection.ready;
    if (!initialize) return connection;
    let isReady = false;
    const check = (): void => {
      if (!isReady) return;
      const hint = "Use `request`, `notify` and `onRequest` of the bus once the worker is ready.";
      throw new ClosedError(`The argument of \`initialize\` for ${connection}`, { hint });
    };
    const ask = async <T>(kind: Call["kind"], method: string, params: unknown): Promise<T> => {
      check();
      return (await new Promise<unknown>((resolve, reject) => {
        const call = new Call(kind, method, params, null, undefined, this.clock.now(), Infinity, resolve, reject);
        if (connection.hasEnded) void process.exited.then((report) => this.died([call], report));
        else this.#send(connection, call);
      })) as T;
    };
    await initialize({
      ...connection.identity,
      request: (method, params) => ask("request", method, params),
      notify: (method, params) => ask("notification", method, params),
      onRequest: (method, handler) => (check(), void connection.handlers.set(method, handler)),
    });
    isReady = true;
    return connection;
  }

  settled(call: Call, isError: boolean, value: unknown): void {
    if (call.kind !== "notification") this.#latencies.add(this.clock.now() - call.startedAt);
    call.settle(isError, value);
    if (this.#onIdle) this.#checkIdle();
  }

  hasRoom(connection: WorkerConnection): void {
    for (const call of connection.waiting) {
      if (!connection.canTake()) break;
      connection.waiting.delete(call);
      this.#waitingCount--;
      this.#send(connection, call);
    }
    if (this.#waiting.size > 0) this.#pump();
  }

  closed(connection: WorkerConnection): void {
    for (const call of connection.waiting) {
      this.#forget(call);
      this.dispatch(call);
    }
  }

  gone(connection: WorkerConnection): void {
    this.#connections.delete(connection);
    addTraffic(this.#past, connection.counts);
    if (this.#connections.size > 0) return;
    for (const done of this.#whenGone.splice(0)) done();
  }

  /** Resolves when all output of the ended processes was read. */
  async allGone(): Promise<void> {
    if (this.#connections.size > 0) await new Promise<void>((done) => this.#whenGone.push(done));
  }

  died(calls: Call[], report: ExitReport): void {
    for (const call of calls) {
      call.connection = null;
      if (call.isSettled) continue;
      if (call.options.idempotent && !call.wasRetried) {
        call.wasRetried = true;
        this.dispatch(call);
      } else {
        call.settle(true, new WorkerDiedError(JSON.stringify(call.method), report.pid, report, true));
      }
    }
    if (this.#onIdle) this.#checkIdle();
  }
}
