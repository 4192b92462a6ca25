/** One worker of a pool: its successive processes and the pauses between them. */

import { readFileSync } from "node:fs";
import { shorten } from "../backoff.ts";
import { type Clock, pause, startTimer } from "../clock.ts";
import { ENTRY_VARIABLE } from "../compiled.ts";
import { type ExitReport, WorkerFailedError, WorkerStartError } from "../errors.ts";
import { inMs } from "../errors/base.ts";
import type { SupervisorEvents, WorkerState, WorkerStatus } from "./events.ts";
import type { ResolvedPool, Steps } from "./options.ts";
import { findProgram, Process, type ProcessOwner, type Transport, type WorkerLink } from "./process.ts";
import { Restarts } from "./restarts.ts";

/** Time in which a process must end after its output to count as ended by itself, in ms. */
const EXIT_MS = 50;
/** Time between two checks of `recycle.maxMemory`, in ms. */
const WEIGH_MS = 1_000;

/** @internal The pool of a {@link Worker}. */
export interface WorkerOwner<Connection extends WorkerLink> {
  readonly pool: ResolvedPool;
  readonly clock: Clock;
  readonly transport: Transport<Connection>;
  /** Current, starting and draining processes. */
  readonly lives: Set<Life<Connection>>;
  /** Version of the program; higher after each change of its source. */
  readonly version: number;
  /** Emits an event asynchronously. */
  tell<K extends keyof SupervisorEvents>(event: K, ...args: SupervisorEvents[K]): void;
  /** Called when a state or a connection changed. */
  changed(): void;
  /** Called when the worker ended too often. The pool restarts it after the next of its pauses. */
  paused(error: WorkerFailedError, pauses: Restarts): void;
  /** Runs replacements one at a time. */
  inTurn(replace: () => Promise<void>): void;
}

/** @internal One process, with its connection once it is ready. */
export class Life<Connection extends WorkerLink> {
  readonly worker: Worker<Connection>;
  readonly process: Process;
  /** Version of the program that it runs. */
  readonly version: number;
  /** Connection; `null` until the process is ready. */
  connection: Connection | null = null;
  readyAt = 0;
  /** Whether it takes no new requests. */
  isRetired = false;
  /** Whether its end was requested. */
  wasAsked = false;
  /** Whether it will be replaced. */
  isReplaced = false;
  /** Timers of `recycle.maxAge` and `recycle.maxMemory`. */
  age: { close(): unknown } | null = null;
  memory: { close(): unknown } | null = null;
  readonly #owner: WorkerOwner<Connection>;

  /** Starts the process. @throws {InvalidConfigError}, `PROGRAM_NOT_FOUND`, {@link WorkerStartError}. */
  constructor(owner: WorkerOwner<Connection>, worker: Worker<Connection>, life: number) {
    const { pool, clock, tell, transport } = owner;
    this.#owner = owner;
    this.worker = worker;
    this.version = owner.version;
    const log: ProcessOwner["log"] = (id, line) => tell("log", id, line);
    const host = { pool, clock, log, recycle: () => worker.recycle(this) };
    this.process = new Process(host, findProgram(pool), worker.id, life, transport);
  }

  /** Resolves when the process is ready. If it rejects, the process has ended. */
  async open(): Promise<void> {
    const { process } = this;
    const stop = this.worker.abort.signal;
    const { pool, clock, transport } = this.#owner;
    let why = "";
    let isLate = false;
    const abort = new AbortController();
    const giveUp = (reason: string): void => {
      why ||= reason;
      abort.abort(new WorkerStartError(pool.name, process.id, why, null));
    };
    const onStop = (): void => giveUp("was stopped before it was ready");
    stop.addEventListener("abort", onStop);
    const { startupTimeout } = pool;
    const timer = startTimer(clock, startupTimeout, () => {
      isLate = why === "";
      giveUp(`was not ready within ${inMs(startupTimeout)}`);
    });
    void process.exited.then(() => giveUp("ended before it was ready"));
    try {
      const opening = process.started.then(() => {
        abort.signal.throwIfAborted();
        return transport.open(process, abort.signal);
      });
      const late = (connection: Connection): void => void process.exited.then((report) => connection.ended(report));
      this.connection = await orAborted(opening, abort.signal, late);
      this.readyAt = clock.now();
    } catch (error) {
      this.isRetired = true;
      // A transport may see the end of the output before the end of the process, whose report has more information.
      if (!why) await Promise.race([process.exited, pause(clock, EXIT_MS, stop)]);
      const reason = why || `did not become ready (${error instanceof Error ? error.message : String(error)})`;
      const report = await process.end({ ...pool.stop, endOfInput: 0 }, null);
      stop.throwIfAborted();
      await process.started; // rejects if the program could not be started
      const cause = error === abort.signal.reason ? undefined : error;
      const hint = isLate || report.exitCode === 0 ? transport.readiness : undefined;
      // Code of the main file in front of that import also runs in the worker and may end it.
      const rule = " (the main file of a compiled program must import slotbus before it does anything else)";
      const more = pool.env[ENTRY_VARIABLE] ? rule : "";
      throw new WorkerStartError(pool.name, process.id, reason + more, report, { cause, hint });
    } finally {
      timer.close();
      stop.removeEventListener("abort", onStop);
    }
  }

  /** Drains the process and ends it in steps. */
  retire(steps: Steps): Promise<ExitReport> {
    const { connection, worker } = this;
    this.isRetired = true;
    this.wasAsked = true;
    this.#owner.changed();
    if (worker.current === this) worker.setState("draining");
    return this.process.end(steps, connection && (() => connection.drain()));
  }
}

/** @internal One worker of a pool. */
export class Worker<Connection extends WorkerLink> {
  readonly id: number;
  state: WorkerState = "starting";
  restarts: Restarts;
  restartCount = 0;
  /** Whether it ended too often: it is `paused`, or on trial after a pause. */
  isPaused = false;
  /** Aborted when the worker is removed from the pool. */
  readonly abort = new AbortController();
  /** Resolves when the worker is ready for the first time. Rejects if it is paused or given up before. */
  readonly first = Promise.withResolvers<void>();
  readonly #owner: WorkerOwner<Connection>;
  /** Number of its latest process. */
  #life = 0;
  /** The process that takes requests, or took them last. */
  current: Life<Connection> | null = null;
  /** The next process, which starts while the current one still works. Resolves to `null` if it did not become ready. */
  #successor: Promise<Life<Connection> | null> | null = null;

  /** `before`: the old worker without a process, which this one replaces. */
  constructor(owner: WorkerOwner<Connection>, id: number, before?: Worker<Connection>) {
    const { pool, clock } = owner;
    this.id = id;
    this.#owner = owner;
    this.restarts = new Restarts(pool.restart, clock.random);
    this.first.promise.catch(() => {}); // callers that wait for it get the rejection
    if (before) this.#life = before.#life;
    if (before) this.state = before.state;
  }

  get status(): WorkerStatus {
    const process = this.current?.process;
    const { id, state, restartCount: restarts } = this;
    return { id, life: process?.life ?? this.#life, pid: process?.pid ?? 0, state, restarts };
  }

  /** Connection of the current process; `null` unless it takes requests. */
  get connection(): Connection | null {
    return this.current?.isRetired === false ? this.current.connection : null;
  }

  /** Runs the worker until it is paused, given up or removed. `patient`: if the first start fails, it is retried too. */
  async keep(patient: boolean): Promise<void> {
    const { signal } = this.abort;
    for (let wasReady = patient; !signal.aborted;) {
      let ending: { report: ExitReport; readyMs: number };
      try {
        this.setState("starting");
        const life = await this.#launch();
        if (signal.aborted) break;
        this.#install(life);
        wasReady = true;
        this.first.resolve();
        ending = await this.#untilEnd();
      } catch (error) {
        if (!wasReady) return this.first.reject(error);
        ending = { report: (error instanceof WorkerStartError && error.report) || this.#neverRan(), readyMs: 0 };
      }
      if (signal.aborted || !(await this.#pause(ending.report, ending.readyMs))) break;
    }
    this.first.reject(signal.reason);
  }

  setState(state: WorkerState): void {
    const previous = this.state;
    if (previous === state) return;
    this.state = state;
    this.#owner.changed();
    this.#owner.tell("state", this.status, previous);
  }

  /** Waits for the pause before a restart. Returns `false` if there is no restart. */
  async #pause(report: ExitReport, readyMs: number): Promise<boolean> {
    const { pool, clock } = this.#owner;
    const { policy, maxRestarts, window, giveUp } = pool.restart;
    const clean = report.exitCode === 0;
    const isFinal = policy === "never" || (policy === "on-failure" && clean);
    const ms = isFinal ? null : this.restarts.grant(clock.now(), readyMs);
    if (ms !== null) {
      this.setState("backoff");
      await pause(clock, ms, this.abort.signal);
      if (this.abort.signal.aborted) return false;
      this.restartCount++;
      return true;
    }
    const why = isFinal ? `its policy is "${policy}"` : `it had ${maxRestarts} restarts within ${window} ms`;
    this.isPaused = !isFinal && !giveUp;
    const error = new WorkerFailedError(pool.name, report, why, !this.isPaused);
    const isGood = isFinal && clean;
    this.setState(this.isPaused ? "paused" : isGood ? "stopped" : "failed");
    this.first.reject(error);
    if (this.isPaused) this.#owner.paused(error, this.restarts);
    else if (!isGood) this.#owner.tell("failed", error);
    return false;
  }

  /** Waits until the current process has ended and no replacement follows. */
  async #untilEnd(): Promise<{ report: ExitReport; readyMs: number }> {
    for (;;) {
      const life = this.current!;
      const report = await life.process.exited;
      const readyMs = this.#owner.clock.now() - life.readyAt;
      if (this.current !== life) continue;
      this.current = null;
      if (this.#successor) this.setState("starting"); // the next process is already starting
      if (!(await this.#successor)) return { report, readyMs };
    }
  }

  /** Starts a process and waits until it is ready. If it rejects, the process has ended. */
  async #launch(): Promise<Life<Connection>> {
    const { lives } = this.#owner;
    const life = new Life(this.#owner, this, ++this.#life);
    lives.add(life);
    void life.process.exited.then((report) => {
      lives.delete(life);
      life.age?.close();
      life.memory?.close();
      life.isRetired = true;
      this.#owner.changed();
      life.connection?.ended(report);
      const worker = { ...this.status, life: report.life, pid: report.pid, state: "stopped" as const };
      this.#owner.tell(life.wasAsked ? "left" : "died", worker, report);
    });
    await life.open();
    return life;
  }

  /** Makes a ready process the current one. */
  #install(life: Life<Connection>): void {
    const { pool, clock, changed, tell } = this.#owner;
    this.current = life;
    changed();
    const { maxAge } = pool.recycle;
    const ms = shorten(maxAge, 0.1, clock.random);
    life.age = startTimer(clock, ms, () => this.recycle(life));
    if (pool.recycle.maxMemory !== Infinity) this.#weigh(life);
    this.setState("ready");
    tell("joined", this.status);
    if (life.version < this.#owner.version) this.#owner.inTurn(async () => void (await this.renew()));
  }

  /**
   * Replaces a process of an older version. Resolves to the error if the new process did not become ready; then the old one
   * stays.
   */
  async renew(): Promise<unknown> {
    const life = this.current;
    return life?.isRetired === false && life.version < this.#owner.version ? this.#replace(life, false) : null;
  }

  /** Replaces the process when it uses too much memory. */
  #weigh(life: Life<Connection>): void {
    life.memory = startTimer(this.#owner.clock, WEIGH_MS, () => {
      if (residentBytes(life.process.pid) > this.#owner.pool.recycle.maxMemory) this.recycle(life);
      else this.#weigh(life);
    });
  }

  recycle(life: Life<Connection>): void {
    if (life.isRetired || life.isReplaced) return;
    life.isReplaced = true;
    this.#owner.inTurn(async () => void (await this.#replace(life, true)));
  }

  /**
   * Replaces a process. The old one works until the new one is ready. `insists`: retries until a process becomes ready;
   * otherwise resolves to the error of the first attempt.
   */
  async #replace(old: Life<Connection>, insists: boolean): Promise<unknown> {
    const { pool, clock } = this.#owner;
    const { signal } = this.abort;
    while (!signal.aborted && this.current === old) {
      let failure: unknown = null;
      this.#successor = this.#launch().catch((error) => {
        failure = error;
        return null;
      });
      const next = await this.#successor;
      this.#successor = null;
      if (next && !signal.aborted) {
        this.#install(next);
        await old.retire(pool.stop);
      } else if (!insists) {
        return signal.aborted ? null : failure;
      } else if (this.current === old) {
        await pause(clock, this.restarts.pause(), signal);
      }
    }
    return null;
  }

  /** Returns the report for a program that could not be started. */
  #neverRan(): ExitReport {
    const end = { exitCode: null, signal: null, uptimeMs: 0, oomKills: null, how: "itself", stderrTail: "" } as const;
    return { worker: this.id, life: this.#life, pid: 0, ...end };
  }
}

/** Returns the resident memory of a process in bytes; 0 if it has ended. */
function residentBytes(pid: number): number {
  try {
    const [, kibibytes = "0"] = /^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1")) ?? [];
    return Number(kibibytes) * 1024;
  } catch {
    return 0;
  }
}

/** Settles as `promise` does, but rejects when `signal` is aborted. A later value is passed to `late`. */
function orAborted<T>(promise: Promise<T>, signal: AbortSignal, late: (value: T) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then((value) => (signal.aborted ? late(value) : resolve(value)), reject);
  });
}
