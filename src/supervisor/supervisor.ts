/** A pool of equal worker processes: starts them, starts again what ended, replaces the old, and stops all. */

import { EventEmitter } from "node:events";
import { BusClosedError, type ExitReport, InvalidStateError, WorkerFailedError, WorkerStartError } from "../errors.ts";
import { shorten } from "../backoff.ts";
import { checkInteger } from "../check.ts";
import { startTimer, systemClock } from "../clock.ts";
import { Hold, holdWhile } from "../hold.ts";
import {
  INSTANCES_MAX,
  type PoolOptions,
  type ResolvedPool,
  resolvePool,
  resolveStop,
  type StopOptions,
} from "./options.ts";
import { findProgram, type Owner, Process, type Transport, type WorkerLink } from "./process.ts";
import { Restarts } from "./restarts.ts";

/**
 * Where a worker stands.
 *
 *     starting ──▶ ready ──▶ draining ──▶ stopped
 *        ▲  │        │
 *        │  └────┬───┘ its process ended
 *     backoff ◀──┴──▶ failed, or stopped
 *     paused
 */
export type WorkerState = "starting" | "ready" | "draining" | "stopped" | "failed" | "backoff" | "paused";

/** A worker of a pool, as it is now. */
export interface WorkerStatus {
  /** Index in the pool. */
  readonly id: number;
  /** 1 for its first process, 2 for the next, … */
  readonly life: number;
  /** Of its process; 0: it has none. */
  readonly pid: number;
  readonly state: WorkerState;
  /** Times it was started again after its process had ended. */
  readonly restarts: number;
}

/** Events of a {@link Supervisor}, with what their listeners get. */
export interface SupervisorEvents {
  /** A worker takes requests. */
  ready: [worker: WorkerStatus];
  /** A process ended, whatever the reason. */
  exit: [report: ExitReport];
  state: [worker: WorkerStatus, previous: WorkerState];
  /** A line of standard error. */
  log: [worker: { id: number; pid: number }, line: string];
  /** A worker is given up; the others go on. */
  failed: [error: WorkerFailedError];
  /**
   * A worker ended too often, so the pool is paused: of the workers that end too often one is tried at a time, after pauses that
   * grow. The other workers go on. Without a listener a warning says so.
   */
  paused: [error: WorkerFailedError];
  /** The pool is no longer paused: a worker stayed up, or `resize` was called. Its paused workers are started again. */
  resumed: [];
}

/** How long a process may outlive its output to count as ended by itself, in ms. */
const EXIT_MS = 50;

/** One process with its link, once it has one. */
interface Life<Link> {
  readonly worker: Worker<Link>;
  readonly process: Process;
  link: Link | null;
  readyAt: number;
  /** It takes nothing new. */
  retired: boolean;
  /** It is to be replaced. */
  replacing: boolean;
  age: { close(): unknown } | null;
}

interface Worker<Link> {
  readonly id: number;
  restarts: Restarts;
  /** It ended too often: it is `paused`, or is tried and has not stayed up yet. */
  isPaused: boolean;
  /** Aborts when it is to be no more. */
  readonly abort: AbortController;
  state: WorkerState;
  life: number;
  restartCount: number;
  current: Life<Link> | null;
  /** The next process, which starts while this one still works; `null` when it did not get ready. */
  successor: Promise<Life<Link> | null> | null;
  /** Settles when it is ready for the first time, or given up before. */
  readonly first: { promise: Promise<void>; resolve(): void; reject(reason: unknown): void };
}

/**
 * Keeps the processes of a pool alive.
 *
 *     const supervisor = new Supervisor({ command: "python3", args: ["worker.py"], instances: 4 }, transport);
 *     await supervisor.start();
 *     const link = supervisor.links[0];
 *     await supervisor.stop();
 */
export class Supervisor<Link extends WorkerLink = WorkerLink>
  extends EventEmitter<SupervisorEvents>
  implements AsyncDisposable
{
  readonly pool: ResolvedPool;
  /** Of all workers that are ready. A new array at each change. */
  links: readonly Link[] = [];
  readonly #transport: Transport<Link>;
  #workers: Worker<Link>[] = [];
  /** Those whose processes may run: current, starting and draining ones. */
  readonly #lives = new Map<Process, Life<Link>>();
  readonly #owner: Owner;
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
  constructor(options: PoolOptions, transport: Transport<Link>) {
    super();
    this.pool = resolvePool(options);
    this.#transport = transport;
    const recycle = (process: Process): void => {
      const life = this.#lives.get(process);
      if (life) this.#recycle(life);
    };
    this.#owner = {
      pool: this.pool,
      log: (worker, line) => queueMicrotask(() => this.emit("log", worker, line)),
      served: (process) => {
        if (process.requests >= this.pool.recycle.maxRequests) recycle(process);
      },
      recycle,
    };
  }

  /** Every worker, also those that have no process now. */
  get workers(): readonly WorkerStatus[] {
    return this.#workers.map(statusOf);
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
  resize(instances: number): Promise<void> {
    try {
      checkInteger("instances", instances, 0, INSTANCES_MAX);
    } catch (error) {
      return Promise.reject(error);
    }
    const run = holdWhile(this.#resizing.then(() => this.#resize(instances)));
    this.#resizing = run.catch(() => {});
    return run;
  }

  /** Keeps this process alive while it has a worker that is neither stopped nor given up (default). */
  ref(): void {
    this.#isRef = true;
    this.#keepAlive();
  }

  /** Workers do not keep this process alive; `start`, `stop` and `resize` do while they are pending. */
  unref(): void {
    this.#isRef = false;
    this.#keepAlive();
  }

  #keepAlive(): void {
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
      this.#workers = Array.from({ length: this.pool.instances }, (_, id) => this.#makeWorker(id));
      for (const worker of this.#workers) void this.#keep(worker, false);
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
    const reports = await Promise.all([...this.#lives.values()].map((life) => this.#retire(life, steps)));
    for (const worker of this.#workers) if (worker.state !== "failed") this.#setState(worker, "stopped");
    return reports.sort((a, b) => a.worker - b.worker || a.life - b.life);
  }

  async #resize(instances: number): Promise<void> {
    await this.#starting?.catch(() => {});
    if (this.#phase !== "running") throw new InvalidStateError(this.#title, "resize", this.#phase, "running");
    const surplus = this.#workers.splice(instances);
    const added: Worker<Link>[] = [];
    for (let id = 0; id < instances; id++) {
      const old = this.#workers[id];
      if (old && old.state !== "failed" && old.state !== "stopped" && old.state !== "paused") continue;
      const worker = this.#beginAnew(id);
      added.push(worker);
      void this.#keep(worker, true);
    }
    if (this.#pausedFor) this.#resume("`resize` was called");
    for (const worker of surplus) worker.abort.abort(this.#closedError());
    const lives = [...this.#lives.values()].filter((life) => surplus.includes(life.worker));
    await Promise.all(lives.map((life) => this.#retire(life, this.pool.stop)));
    for (const worker of surplus) this.#setState(worker, "stopped");
    await Promise.all(added.map(({ first }) => first.promise));
  }

  #closedError(): BusClosedError {
    return new BusClosedError(this.#title);
  }

  // ---- one worker -----------------------------------------------------------------------------------------------------

  #makeWorker(id: number): Worker<Link> {
    const first = Promise.withResolvers<void>();
    first.promise.catch(() => {}); // who waits for it hears of it
    const restarts = new Restarts(this.pool.restart, systemClock.random);
    const abort = new AbortController();
    const still = { life: 0, restartCount: 0, isPaused: false, current: null, successor: null };
    return { id, restarts, abort, state: "starting", ...still, first };
  }

  /** A new worker, in place of one that has no process any more if there is one. */
  #beginAnew(id: number): Worker<Link> {
    const worker = this.#makeWorker(id);
    const old = this.#workers[id];
    if (old) worker.life = old.life;
    if (old) worker.state = old.state;
    this.#workers[id] = worker;
    return worker;
  }

  /** From its first start until it is paused, given up or to be no more. `patient`: also its first start follows the policy. */
  async #keep(worker: Worker<Link>, patient: boolean): Promise<void> {
    const { signal } = worker.abort;
    for (let wasReady = patient; !signal.aborted;) {
      let ending: { report: ExitReport; readyMs: number };
      try {
        this.#setState(worker, "starting");
        const life = await this.#launch(worker);
        if (signal.aborted) break;
        this.#install(worker, life);
        wasReady = true;
        worker.first.resolve();
        ending = await this.#untilEnd(worker);
      } catch (error) {
        if (!wasReady) return worker.first.reject(error);
        ending = { report: (error instanceof WorkerStartError && error.report) || neverRan(worker), readyMs: 0 };
      }
      if (signal.aborted || !(await this.#pause(worker, ending.report, ending.readyMs))) break;
    }
    worker.first.reject(this.#closedError());
  }

  /** Waits for the pause before a restart; `false`: there is none. */
  async #pause(worker: Worker<Link>, report: ExitReport, readyMs: number): Promise<boolean> {
    const { policy, limit, window, giveUp } = this.pool.restart;
    const clean = report.exitCode === 0;
    const isFinal = policy === "never" || (policy === "on-failure" && clean);
    const ms = isFinal ? null : worker.restarts.grant(performance.now(), readyMs);
    if (ms !== null) {
      this.#setState(worker, "backoff");
      await sleep(ms, worker.abort.signal);
      if (worker.abort.signal.aborted) return false;
      worker.restartCount++;
      return true;
    }
    const why = isFinal ? `its policy is "${policy}"` : `it had ${limit} restarts within ${window} ms`;
    worker.isPaused = !isFinal && !giveUp;
    const error = new WorkerFailedError(this.pool.name, report, why, !worker.isPaused);
    const isGood = isFinal && clean;
    this.#setState(worker, worker.isPaused ? "paused" : isGood ? "stopped" : "failed");
    worker.first.reject(error);
    if (worker.isPaused) this.#pausePool(error, worker.restarts);
    else if (!isGood) queueMicrotask(() => this.emit("failed", error));
    return false;
  }

  // ---- the pause of a pool --------------------------------------------------------------------------------------------

  #pausePool(error: WorkerFailedError, pauses: Restarts): void {
    const isFirst = this.#pausedFor === null;
    this.#pausedFor = error;
    if (!isFirst) return;
    this.#hasWarned = this.listenerCount("paused") === 0;
    if (this.#hasWarned) this.#warn(error.message);
    this.onPause?.(true);
    queueMicrotask(() => this.emit("paused", error));
    this.#pauseEnd = new AbortController();
    void this.#tryAgain(pauses, this.#pauseEnd.signal);
  }

  /** Starts one of the paused workers after each pause, until one stays up. */
  async #tryAgain(pauses: Restarts, over: AbortSignal): Promise<void> {
    const { restart } = this.pool;
    for (;;) {
      await sleep(pauses.pause(), over);
      const old = this.#workers.find(({ state }) => state === "paused");
      if (over.aborted || !old) return;
      const worker = this.#beginAnew(old.id);
      worker.isPaused = true;
      worker.restarts = new Restarts({ ...restart, limit: 0 }, systemClock.random);
      worker.restartCount = old.restartCount + 1;
      const ended = new AbortController();
      const life = this.#keep(worker, true).then(() => ended.abort());
      await worker.first.promise.catch(() => life);
      await sleep(restart.healthyAfter, AbortSignal.any([over, ended.signal]));
      if (over.aborted) return;
      if (worker.state !== "paused") return this.#resume(`worker ${worker.id} stayed up`);
    }
  }

  /** The paused workers begin anew, and the one that is tried is no longer on trial. */
  #resume(why: string): void {
    this.#pauseEnd.abort();
    this.#pausedFor = null;
    for (const worker of this.#workers) {
      if (worker.state === "paused") void this.#keep(this.#beginAnew(worker.id), true);
      else if (worker.isPaused) worker.restarts = new Restarts(this.pool.restart, systemClock.random);
      worker.isPaused = false;
    }
    if (this.#hasWarned) this.#warn(`${this.#title} is no longer paused: ${why}.`);
    this.onPause?.(false);
    queueMicrotask(() => this.emit("resumed"));
  }

  #warn(message: string): void {
    process.emitWarning(message, { type: "SlotbusWarning" });
  }

  // ---- lives ----------------------------------------------------------------------------------------------------------

  /** How the worker's last process ended; one that was replaced does not count. */
  async #untilEnd(worker: Worker<Link>): Promise<{ report: ExitReport; readyMs: number }> {
    for (;;) {
      const life = worker.current!;
      const report = await life.process.exited;
      const readyMs = performance.now() - life.readyAt;
      if (worker.current !== life) continue;
      worker.current = null;
      if (worker.successor) this.#setState(worker, "starting"); // it ended while the next was on its way
      if (!(await worker.successor)) return { report, readyMs };
    }
  }

  /** Starts a process and waits until it is ready. When it rejects, the process has ended. */
  async #launch(worker: Worker<Link>): Promise<Life<Link>> {
    const process = new Process(this.#owner, findProgram(this.pool), worker.id, ++worker.life, this.#transport);
    const life: Life<Link> = { worker, process, link: null, readyAt: 0, retired: false, replacing: false, age: null };
    this.#lives.set(process, life);
    let why = "";
    const abort = new AbortController();
    const giveUp = (reason: string): void => {
      why ||= reason;
      abort.abort(new WorkerStartError(this.pool.name, worker.id, why, null));
    };
    const onAbort = (): void => giveUp("was stopped before it was ready");
    worker.abort.signal.addEventListener("abort", onAbort);
    const { startupTimeout } = this.pool;
    const timer = startTimer(systemClock, startupTimeout, () => giveUp(`was not ready within ${startupTimeout} ms`));
    void process.exited.then((report) => {
      giveUp("ended before it was ready");
      this.#ended(life, report);
    });
    try {
      const opening = process.started.then(() => {
        abort.signal.throwIfAborted();
        return this.#transport.open(process, abort.signal);
      });
      const late = (link: Link): void => void process.exited.then((report) => link.ended(report));
      life.link = await orAborted(opening, abort.signal, late);
      life.readyAt = performance.now();
      return life;
    } catch (error) {
      life.retired = true;
      // A transport may see the end of the output before the end of the process, which says more.
      if (!why) await Promise.race([process.exited, sleep(EXIT_MS, worker.abort.signal)]);
      const reason = why || `did not get ready (${error instanceof Error ? error.message : String(error)})`;
      const report = await process.end({ ...this.pool.stop, endOfInput: 0 }, null);
      if (worker.abort.signal.aborted) throw this.#closedError();
      await process.started; // rejects with what was wrong
      const cause = error === abort.signal.reason ? undefined : error;
      throw new WorkerStartError(this.pool.name, worker.id, reason, report, cause);
    } finally {
      timer.close();
      worker.abort.signal.removeEventListener("abort", onAbort);
    }
  }

  /** It is ready, and takes the place of the one before. */
  #install(worker: Worker<Link>, life: Life<Link>): void {
    worker.current = life;
    this.#setLinks();
    const { maxAge } = this.pool.recycle;
    life.age = startTimer(systemClock, maxAge === Infinity ? 0 : shorten(maxAge, 0.1, systemClock.random), () =>
      this.#recycle(life),
    );
    this.#setState(worker, "ready");
    const status = statusOf(worker);
    queueMicrotask(() => this.emit("ready", status));
  }

  #setState(worker: Worker<Link>, state: WorkerState): void {
    const previous = worker.state;
    if (previous === state) return;
    worker.state = state;
    this.#keepAlive();
    const status = statusOf(worker);
    queueMicrotask(() => this.emit("state", status, previous));
  }

  #setLinks(): void {
    this.links = this.#workers.flatMap(({ current }) => (current?.link && !current.retired ? [current.link] : []));
  }

  #ended(life: Life<Link>, report: ExitReport): void {
    this.#lives.delete(life.process);
    life.age?.close();
    life.retired = true;
    this.#setLinks();
    life.link?.ended(report);
    queueMicrotask(() => this.emit("exit", report));
  }

  /** It takes nothing new and ends, in steps. */
  #retire(life: Life<Link>, steps: Required<StopOptions>): Promise<ExitReport> {
    const { link, worker } = life;
    life.retired = true;
    this.#setLinks();
    if (worker.current === life) this.#setState(worker, "draining");
    return life.process.end(steps, link && (() => link.drain()));
  }

  // ---- replacement ----------------------------------------------------------------------------------------------------

  #recycle(life: Life<Link>): void {
    if (life.retired || life.replacing) return;
    life.replacing = true;
    this.#recycling = this.#recycling.then(() => this.#replace(life));
  }

  /** The new process is ready before the old one stops; while there is none, the old one works on. */
  async #replace(old: Life<Link>): Promise<void> {
    const { worker } = old;
    const { signal } = worker.abort;
    while (!signal.aborted && worker.current === old) {
      worker.successor = this.#launch(worker).catch(() => null);
      const next = await worker.successor;
      worker.successor = null;
      if (next && !signal.aborted) {
        this.#install(worker, next);
        await this.#retire(old, this.pool.stop);
      } else if (worker.current === old) {
        await sleep(worker.restarts.pause(), signal);
      }
    }
  }
}

function statusOf<Link>({ id, life, current, state, restartCount }: Worker<Link>): WorkerStatus {
  const process = current?.process;
  return { id, life: process?.life ?? life, pid: process?.pid ?? 0, state, restarts: restartCount };
}

/** Of a worker whose program could not be started. */
function neverRan<Link>({ id, life }: Worker<Link>): ExitReport {
  return { worker: id, life, pid: 0, exitCode: null, signal: null, uptimeMs: 0, how: "itself", stderrTail: "" };
}

/** Resolves after `ms`, or when `signal` aborts. */
async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  timer.unref();
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}

/** As `promise`, but rejects when `signal` aborts; what comes after that goes to `late`. */
function orAborted<T>(promise: Promise<T>, signal: AbortSignal, late: (value: T) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then((value) => (signal.aborted ? late(value) : resolve(value)), reject);
  });
}
