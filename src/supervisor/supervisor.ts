/** A pool of equal worker processes: starts them, starts again what ended, replaces the old, and stops all. */

import { EventEmitter } from "node:events";
import { checkInteger } from "../check.ts";
import { type Clock, pause, systemClock } from "../clock.ts";
import { BusClosedError, type ExitReport, InvalidStateError, type WorkerFailedError } from "../errors.ts";
import { Hold, holdWhile } from "../hold.ts";
import type { SupervisorEvents, WorkerStatus } from "./events.ts";
import {
  INSTANCES_MAX,
  type PoolOptions,
  type ResolvedPool,
  resolvePool,
  resolveStop,
  type StopOptions,
} from "./options.ts";
import { findProgram, type Transport, type WorkerLink } from "./process.ts";
import { Restarts } from "./restarts.ts";
import { Worker, type WorkerOwner } from "./worker.ts";

/**
 * Keeps the processes of a pool alive.
 *
 *     const supervisor = new Supervisor({ command: "python3", args: ["worker.py"], instances: 4 }, transport);
 *     await supervisor.start();
 *     const link = supervisor.links[0];
 *     await supervisor.stop();
 */
export class Supervisor<Connection extends WorkerLink = WorkerLink>
  extends EventEmitter<SupervisorEvents>
  implements AsyncDisposable
{
  readonly pool: ResolvedPool;
  /** Of all workers that are ready. A new array at each change. */
  links: readonly Connection[] = [];
  readonly #clock: Clock;
  readonly #owner: WorkerOwner<Connection>;
  #workers: Worker<Connection>[] = [];
  #phase: "stopped" | "starting" | "running" | "stopping" = "stopped";
  #starting: Promise<void> | null = null;
  #stopping: Promise<ExitReport[]> | null = null;
  /** The last of the changes of size; each begins when the one before has ended. */
  #resizing: Promise<void> = Promise.resolve();
  /** The last of the replacements; one at a time. */
  #recycling: Promise<void> = Promise.resolve();
  #isRef = true;
  readonly #hold = new Hold();
  #pausedFor: WorkerFailedError | null = null;
  /** Aborts when the pool is no longer paused. */
  #pauseEnd = new AbortController();
  /** The pause was told by a warning; so is its end. */
  #hasWarned = false;
  /** @internal Told when the pool is paused and when that is over. It does not count as a listener of the events. */
  onPause: ((isPaused: boolean) => void) | null = null;

  /** @throws {InvalidConfigError}. */
  constructor(options: PoolOptions, transport: Transport<Connection>, /** @internal */ clock: Clock = systemClock) {
    super();
    this.pool = resolvePool(options);
    this.#clock = clock;
    this.#owner = {
      pool: this.pool,
      clock,
      transport,
      lives: new Set(),
      tell: (event, ...args) => this.#tell(event, ...args),
      changed: () => this.#changed(),
      paused: (error, pauses) => this.#pausePool(error, pauses),
      inTurn: (replace) => (this.#recycling = this.#recycling.then(replace)),
    };
  }

  /** Every worker, also those that have no process now. */
  get workers(): readonly WorkerStatus[] {
    return this.#workers.map(({ status }) => status);
  }

  /** Why the last worker was paused; `null` when the pool is not paused. */
  get pausedFor(): WorkerFailedError | null {
    return this.#pausedFor;
  }

  /** Whether the pool is paused and has no other workers: none takes requests before one that is tried gets ready. */
  get isDown(): boolean {
    if (this.#pausedFor === null) return false;
    return this.#workers.every(({ isPaused, state }) => isPaused || state === "failed" || state === "stopped");
  }

  /** Times the workers that are there now were started again after their process had ended. */
  get restarts(): number {
    return this.#workers.reduce((sum, { restartCount }) => sum + restartCount, 0);
  }

  /**
   * Starts all workers and resolves when all are ready. When one does not get ready, all are stopped: nothing is tried twice
   * here. Concurrent calls share one promise; after `stop` it may be called again.
   *
   * @throws (rejects) {ProgramNotFoundError}, {InvalidConfigError} (`cwd`), {@link WorkerStartError};
   * {@link BusClosedError} when `stop` came first; {@link InvalidStateError} while the pool runs or stops.
   */
  start(): Promise<void> {
    if (this.#starting) return this.#starting;
    if (this.#phase !== "stopped") {
      return Promise.reject(new InvalidStateError(this.#title, "start", this.#phase, "stopped"));
    }
    this.#phase = "starting";
    this.#starting = holdWhile(this.#start().finally(() => (this.#starting = null)));
    return this.#starting;
  }

  /**
   * Stops all workers: each answers what it has, then its input ends, then SIGTERM, then SIGKILL, each step only when the one
   * before did not do within its time. Resolves always, to a report for each process that ran. A start or resize that runs is
   * aborted. Concurrent calls share one promise.
   *
   * @throws (rejects) {InvalidConfigError}.
   */
  stop(options?: StopOptions): Promise<ExitReport[]> {
    if (this.#stopping) return this.#stopping;
    let steps: Required<StopOptions>;
    try {
      steps = resolveStop(options, this.pool.stop);
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.#phase === "stopped") return Promise.resolve([]);
    this.#stopping = holdWhile(this.#stop(steps).finally(() => (this.#stopping = null)));
    return this.#stopping;
  }

  /**
   * Changes the number of workers (0 to 1024): resolves when the new ones are ready, or those that are too many have ended.
   * Workers that were paused or given up begin anew, also when the number stays the same. A new worker that ends is started again
   * as its policy says. Calls take effect in their order.
   *
   * @throws (rejects) {InvalidConfigError}; {@link InvalidStateError} unless the pool runs; {@link WorkerFailedError} when a
   * new worker ended too often, and stays in the pool as `paused` or `failed`; {@link BusClosedError} when `stop` came first.
   */
  async resize(instances: number): Promise<void> {
    checkInteger("instances", instances, 0, INSTANCES_MAX);
    const run = holdWhile(this.#resizing.then(() => this.#resize(instances)));
    this.#resizing = run.catch(() => {});
    await run;
  }

  /** Keeps this process alive while it has a worker that is neither stopped nor given up (default). */
  ref(): void {
    this.#isRef = true;
    this.#changed();
  }

  /** Workers do not keep this process alive; `start`, `stop` and `resize` do while they are pending. */
  unref(): void {
    this.#isRef = false;
    this.#changed();
  }

  #changed(): void {
    this.links = this.#workers.flatMap(({ connection }) => connection ?? []);
    this.#hold.set(this.#isRef && this.#workers.some(({ state }) => state !== "failed" && state !== "stopped"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  // ---- start and stop -------------------------------------------------------------------------------------------------

  get #title(): string {
    return `pool "${this.pool.name}"`;
  }

  async #start(): Promise<void> {
    try {
      findProgram(this.pool); // before anything runs
      this.#workers = Array.from({ length: this.pool.instances }, (_, id) => new Worker(this.#owner, id));
      for (const worker of this.#workers) void worker.keep(false);
      await Promise.all(this.#workers.map(({ first }) => first.promise));
      if (this.#phase === "starting") this.#phase = "running";
      else throw this.#closedError();
    } catch (error) {
      if (this.#phase === "starting") {
        await this.#endAll({ ...this.pool.stop, drain: 0, endOfInput: 0 });
        if (!this.#stopping) this.#phase = "stopped";
      }
      throw error;
    }
  }

  async #stop(steps: Required<StopOptions>): Promise<ExitReport[]> {
    this.#phase = "stopping";
    const starting = this.#starting;
    const reports = await this.#endAll(steps);
    await starting?.catch(() => {});
    await this.#resizing;
    this.#phase = "stopped";
    return reports;
  }

  async #endAll(steps: Required<StopOptions>): Promise<ExitReport[]> {
    this.#pauseEnd.abort();
    this.#pausedFor = null;
    for (const worker of this.#workers) worker.abort.abort(this.#closedError());
    const reports = await Promise.all([...this.#owner.lives].map((life) => life.retire(steps)));
    for (const worker of this.#workers) if (worker.state !== "failed") worker.setState("stopped");
    return reports.sort((a, b) => a.worker - b.worker || a.life - b.life);
  }

  async #resize(instances: number): Promise<void> {
    await this.#starting?.catch(() => {});
    if (this.#phase !== "running") throw new InvalidStateError(this.#title, "resize", this.#phase, "running");
    const surplus = this.#workers.splice(instances);
    const added: Worker<Connection>[] = [];
    for (let id = 0; id < instances; id++) {
      const old = this.#workers[id];
      if (old && old.state !== "failed" && old.state !== "stopped" && old.state !== "paused") continue;
      const worker = this.#beginAnew(id);
      added.push(worker);
      void worker.keep(true);
    }
    if (this.#pausedFor) this.#resume("`resize` was called");
    for (const worker of surplus) worker.abort.abort(this.#closedError());
    const lives = [...this.#owner.lives].filter(({ worker }) => surplus.includes(worker));
    await Promise.all(lives.map((life) => life.retire(this.pool.stop)));
    for (const worker of surplus) worker.setState("stopped");
    await Promise.all(added.map(({ first }) => first.promise));
  }

  #closedError(): BusClosedError {
    return new BusClosedError(this.#title);
  }

  /** A new worker, in place of one that has no process any more if there is one. */
  #beginAnew(id: number): Worker<Connection> {
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

  /** Starts one of the paused workers after each pause, until one stays up. */
  async #tryAgain(pauses: Restarts, over: AbortSignal): Promise<void> {
    const { restart } = this.pool;
    for (;;) {
      await pause(this.#clock, pauses.pause(), over);
      const old = this.#workers.find(({ state }) => state === "paused");
      if (over.aborted || !old) return;
      const worker = this.#beginAnew(old.id);
      worker.isPaused = true;
      worker.restarts = new Restarts({ ...restart, limit: 0 }, this.#clock.random);
      worker.restartCount = old.restartCount + 1;
      const ended = new AbortController();
      const life = worker.keep(true).then(() => ended.abort());
      await worker.first.promise.catch(() => life);
      await pause(this.#clock, restart.healthyAfter, AbortSignal.any([over, ended.signal]));
      if (over.aborted) return;
      if (worker.state !== "paused") return this.#resume(`worker ${worker.id} stayed up`);
    }
  }

  /** The paused workers begin anew, and the one that is tried is no longer on trial. */
  #resume(why: string): void {
    this.#pauseEnd.abort();
    this.#pausedFor = null;
    for (const worker of this.#workers) {
      if (worker.state === "paused") void this.#beginAnew(worker.id).keep(true);
      else if (worker.isPaused) worker.restarts = new Restarts(this.pool.restart, this.#clock.random);
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
    queueMicrotask(() => this.emit(event, ...(args as never)));
  }
}
