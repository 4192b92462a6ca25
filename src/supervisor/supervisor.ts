/** A pool of worker processes: starts, restarts, replaces and stops them. */

import { EventEmitter } from "node:events";
import { type Clock, MAX_TIMER_MS, pause, systemClock } from "../clock.ts";
import { type CloseOptions, poolCloseOptions } from "../closing.ts";
import { ClosedError, type ExitReport, type WorkerFailedError } from "../errors.ts";
import { Hold, holdWhile } from "../hold.ts";
import { openAnew } from "../hot.ts";
import type { SupervisorEvents, WorkerStatus } from "./events.ts";
import { type PoolOptions, poolOptions, type ResolvedPool, resolvePool, type Steps } from "./options.ts";
import { findProgram, type Transport, type WorkerLink } from "./process.ts";
import { Restarts } from "./restarts.ts";
import { Worker, type WorkerOwner } from "./worker.ts";

/** Events that are kept while a pool starts; further lines of standard error are dropped. */
const EARLY_LINES = 256;

/**
 * Runs a pool of worker processes and restarts those that end.
 *
 *     await using supervisor = await Supervisor.start({ command: "python3", args: ["worker.py"], instances: 4 }, transport);
 *     supervisor.on("died", (worker, { exitCode, signal }) => console.error(worker.pid, exitCode ?? signal));
 *     const link = supervisor.links[0];
 */
export class Supervisor<Connection extends WorkerLink = WorkerLink>
  extends EventEmitter<SupervisorEvents>
  implements AsyncDisposable
{
  readonly #pool: ResolvedPool;
  #links: readonly Connection[] = [];
  readonly #clock: Clock;
  readonly #owner: WorkerOwner<Connection> & { version: number };
  #workers: Worker<Connection>[] = [];
  #starting: Promise<void> | null = null;
  /** Set by {@link stop}, or when the start failed. */
  #ending: Promise<ExitReport[]> | null = null;
  /** The latest resize. They run one after another. */
  #resizing: Promise<void> = Promise.resolve();
  /** The latest replacement. They run one after another. */
  #recycling: Promise<void> = Promise.resolve();
  #isRef = true;
  readonly #hold = new Hold();
  #pausedFor: WorkerFailedError | null = null;
  /** Aborts when the pool is no longer paused. */
  #pauseEnd = new AbortController();
  /** Whether a warning reported the pause; then another one reports its end. */
  #hasWarned = false;
  /** Events of the start, kept for listeners that are added right after it; `null`: events are emitted at once. */
  #early: (() => void)[] | null = null;
  /** @internal Called when the pool is paused and when it resumes. Does not count as a listener. */
  onPause: ((isPaused: boolean) => void) | null = null;

  /**
   * Starts all workers and resolves when all are ready. If one fails to become ready, all are stopped; a start is not retried.
   * Listeners that are added right after the promise resolves receive the events of the start.
   *
   * @throws (rejects) {@link InvalidConfigError}, `PROGRAM_NOT_FOUND`, {@link WorkerStartError}; then nothing runs.
   */
  static async start<Connection extends WorkerLink>(
    options: PoolOptions,
    transport: Transport<Connection>,
  ): Promise<Supervisor<Connection>> {
    const pool = resolvePool(options);
    const supervisor = new Supervisor(pool, transport);
    const early: (() => void)[] = (supervisor.#early = []);
    await openAnew(`pool ${JSON.stringify([pool.name, pool.command])}`, supervisor.start(), supervisor);
    supervisor.#clock.immediate(() => {
      supervisor.#early = null;
      for (const emit of early) queueMicrotask(emit);
    });
    return supervisor;
  }

  /** @internal Use {@link Supervisor.start}. */
  constructor(pool: ResolvedPool, transport: Transport<Connection>, clock: Clock = systemClock) {
    super();
    this.#pool = pool;
    this.#clock = clock;
    this.#owner = {
      pool,
      clock,
      transport,
      lives: new Set(),
      version: 0,
      tell: (event, ...args) => this.#tell(event, ...args),
      changed: () => this.#changed(),
      paused: (error, pauses) => this.#pausePool(error, pauses),
      inTurn: (replace) => (this.#recycling = this.#recycling.then(replace)),
    };
  }

  /** Whether `close` was called. */
  get closed(): boolean {
    return this.#ending !== null;
  }

  /** All workers, including those without a process. */
  get workers(): readonly WorkerStatus[] {
    return this.#workers.map(({ status }) => status);
  }

  /** Error of the last worker that was paused; `null` if the pool is not paused. */
  get pausedFor(): WorkerFailedError | null {
    return this.#pausedFor;
  }

  /** Whether the pool is paused and no other worker is left to take requests. */
  get isDown(): boolean {
    if (this.#pausedFor === null) return false;
    return this.#workers.every(({ isPaused, state }) => isPaused || state === "failed" || state === "stopped");
  }

  /** @internal As {@link Supervisor.start}. Rejects with {@link ClosedError} after `stop`. */
  start(): Promise<void> {
    return (this.#starting ??= holdWhile(this.#start()));
  }

  /**
   * Stops all workers in steps: a worker finishes its requests within `timeout` ms (default `stop.drain`), its input ends, then
   * it gets SIGTERM, then SIGKILL. The steps end when the worker has ended. Resolves to a report for each process.
   * Aborts a running resize. May be called repeatedly: all calls resolve to the same reports.
   *
   * @throws (rejects) {InvalidConfigError}; then nothing is stopped.
   */
  async close(options: CloseOptions = {}): Promise<ExitReport[]> {
    const { timeout } = poolCloseOptions.resolve(options);
    return this.stop(timeout === null ? {} : { drain: Math.min(timeout, MAX_TIMER_MS) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal As {@link close}, with a time limit for each step. */
  stop(steps: Partial<Steps> = {}): Promise<ExitReport[]> {
    return (this.#ending ??= holdWhile(this.#stop({ ...this.#pool.stop, ...steps })));
  }

  /**
   * Changes the number of workers (0 to 1024). Resolves when new workers are ready, or surplus workers have ended. Restarts
   * workers that were paused or given up, even if the number stays the same. A new worker that ends is restarted according to
   * its policy. Calls take effect in order.
   *
   * @throws (rejects) {InvalidConfigError}; {@link WorkerFailedError} when a new worker ended too often; it stays in the pool
   * as `paused` or `failed`. {@link ClosedError} after `close`.
   */
  async resize(instances: number): Promise<void> {
    poolOptions.rows.instances.resolve(instances, "instances");
    await this.resizeWith(instances, this.#pool.stop);
  }

  /** @internal As {@link resize}, with time limits for the steps that end surplus workers. */
  async resizeWith(instances: number, steps: Partial<Steps>): Promise<void> {
    const run = holdWhile(this.#resizing.then(() => this.#resize(instances, { ...this.#pool.stop, ...steps })));
    this.#resizing = run.catch(() => {});
    await run;
  }

  /** Connections of all workers that are ready. A new array after each change. */
  get links(): readonly Connection[] {
    return this.#links;
  }

  /**
   * @internal Replaces one worker after another, because the source of the program changed. Resolves to `null`, or to the error
   * of a process that did not become ready; then the remaining old workers stay.
   */
  renew(): Promise<unknown> {
    this.#owner.version++;
    const run = this.#recycling.then(async () => {
      let failure: unknown = null;
      for (const worker of this.#workers) failure ??= await worker.renew();
      return failure;
    });
    this.#recycling = run.then(() => {});
    return run;
  }

  /** @internal Kills the process with this id at once; its worker is restarted. Returns `false` if the pool has no such process. */
  kill(pid: number): boolean {
    const life = [...this.#owner.lives].find(({ process }) => process.pid === pid);
    life?.process.kill("SIGKILL");
    return life !== undefined;
  }

  /** Keeps this process alive while a worker is neither stopped nor given up (default). */
  ref(): void {
    this.#isRef = true;
    this.#changed();
  }

  /** Reverts {@link ref}. Pending `start`, `close` and `resize` still keep the process alive. */
  unref(): void {
    this.#isRef = false;
    this.#changed();
  }

  #changed(): void {
    this.#links = this.#workers.flatMap(({ connection }) => connection ?? []);
    this.#hold.set(this.#isRef && this.#workers.some(({ state }) => state !== "failed" && state !== "stopped"));
  }

  // ---- start and stop -------------------------------------------------------------------------------------------------

  get #title(): string {
    return `Pool "${this.#pool.name}"`;
  }

  async #start(): Promise<void> {
    try {
      if (this.closed) throw this.#closedError();
      findProgram(this.#pool); // fails before anything runs
      this.#workers = Array.from({ length: this.#pool.instances }, (_, id) => new Worker(this.#owner, id));
      for (const worker of this.#workers) void worker.keep(false);
      await Promise.all(this.#workers.map(({ first }) => first.promise));
      if (this.closed) throw this.#closedError();
    } catch (error) {
      if (!this.#ending) await (this.#ending = this.#endAll({ ...this.#pool.stop, drain: 0, endOfInput: 0 }));
      throw error;
    }
  }

  async #stop(steps: Steps): Promise<ExitReport[]> {
    const reports = await this.#endAll(steps);
    await this.#starting?.catch(() => {});
    await this.#resizing;
    return reports;
  }

  async #endAll(steps: Steps): Promise<ExitReport[]> {
    this.#pauseEnd.abort();
    this.#pausedFor = null;
    for (const worker of this.#workers) worker.abort.abort(this.#closedError());
    const reports = await Promise.all([...this.#owner.lives].map((life) => life.retire(steps)));
    for (const worker of this.#workers) if (worker.state !== "failed") worker.setState("stopped");
    return reports.sort((a, b) => a.worker - b.worker || a.life - b.life);
  }

  async #resize(instances: number, steps: Steps): Promise<void> {
    await this.#starting?.catch(() => {});
    if (this.closed) throw this.#closedError();
    const surplus = this.#workers.splice(instances);
    const added: Worker<Connection>[] = [];
    for (let id = 0; id < instances; id++) {
      const old = this.#workers[id];
      if (old && old.state !== "failed" && old.state !== "stopped" && old.state !== "paused") continue;
      const worker = this.#replaceWorker(id);
      added.push(worker);
      void worker.keep(true);
    }
    if (this.#pausedFor) this.#resume("`resize` was called");
    for (const worker of surplus) worker.abort.abort(this.#closedError());
    const lives = [...this.#owner.lives].filter(({ worker }) => surplus.includes(worker));
    await Promise.all(lives.map((life) => life.retire(steps)));
    for (const worker of surplus) worker.setState("stopped");
    await Promise.all(added.map(({ first }) => first.promise));
  }

  #closedError(): ClosedError {
    return new ClosedError(this.#title);
  }

  /** Creates a worker, in place of an old one without a process. */
  #replaceWorker(id: number): Worker<Connection> {
    return (this.#workers[id] = new Worker(this.#owner, id, this.#workers[id]));
  }

  // ---- the pause of a pool --------------------------------------------------------------------------------------------

  #pausePool(error: WorkerFailedError, pauses: Restarts): void {
    const isFirst = this.#pausedFor === null;
    this.#pausedFor = error;
    if (!isFirst) return;
    this.#hasWarned = this.listenerCount("paused") === 0;
    if (this.#hasWarned) this.#warn(error.message);
    this.onPause?.(true);
    this.#tell("paused", error);
    this.#pauseEnd = new AbortController();
    void this.#tryAgain(pauses, this.#pauseEnd.signal);
  }

  /** Restarts one of the paused workers after each pause, until one stays up. */
  async #tryAgain(pauses: Restarts, over: AbortSignal): Promise<void> {
    const { restart } = this.#pool;
    for (;;) {
      await pause(this.#clock, pauses.pause(), over);
      const old = this.#workers.find(({ state }) => state === "paused");
      if (over.aborted || !old) return;
      const worker = this.#replaceWorker(old.id);
      worker.isPaused = true;
      worker.restarts = new Restarts({ ...restart, maxRestarts: 0 }, this.#clock.random);
      worker.restartCount = old.restartCount + 1;
      const ended = new AbortController();
      const life = worker.keep(true).then(() => ended.abort());
      await worker.first.promise.catch(() => life);
      await pause(this.#clock, restart.healthyAfter, AbortSignal.any([over, ended.signal]));
      if (over.aborted) return;
      if (worker.state !== "paused") return this.#resume(`worker ${worker.id} stayed up`);
    }
  }

  /** Ends the pause: restarts paused workers, and gives the worker on trial its normal restarts. */
  #resume(why: string): void {
    this.#pauseEnd.abort();
    this.#pausedFor = null;
    for (const worker of this.#workers) {
      if (worker.state === "paused") void this.#replaceWorker(worker.id).keep(true);
      else if (worker.isPaused) worker.restarts = new Restarts(this.#pool.restart, this.#clock.random);
      worker.isPaused = false;
    }
    if (this.#hasWarned) this.#warn(`${this.#title} is no longer paused: ${why}.`);
    this.onPause?.(false);
    this.#tell("resumed");
  }

  #warn(message: string): void {
    process.emitWarning(message, { type: "SlotbusWarning" });
  }

  #tell<K extends keyof SupervisorEvents>(event: K, ...args: SupervisorEvents[K]): void {
    const emit = (): void => void this.emit(event, ...(args as never));
    if (!this.#early) queueMicrotask(emit);
    else if (event !== "log" || this.#early.length < EARLY_LINES) this.#early.push(emit);
  }
}
