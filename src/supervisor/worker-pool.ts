/** The workers that a bus starts: their processes and their number. */

import { type Clock, startTimer } from "../clock.ts";
import { type ExitReport, type WorkerFailedError, WorkerStartError } from "../errors.ts";
import type { Transport, WorkerLink, WorkerProcess } from "./process.ts";
import { Supervisor } from "./supervisor.ts";
import type { SourceWatch } from "./watch.ts";
import type { ResolvedWorkers } from "./workers.ts";

export { resolveWorkers } from "./workers.ts";

/** @internal The part of the bus's connection to a worker that the pool uses. */
export interface PooledConnection {
  /** Process id of the worker. */
  readonly pid: number;
  /** Number of requests of the worker. */
  readonly load: number;
  /** Whether the worker's event loop has been blocked for too long. */
  readonly isUnresponsive: boolean;
  /** Whether the bus evicted the worker. */
  readonly isEvicted: boolean;
  /** Process that counts the responses. */
  process: { served(): void } | null;
}

/** @internal The part of a bus that the pool uses. */
export interface PoolOwner<Connection extends PooledConnection> {
  /** Name and directory of the bus. */
  readonly name: string;
  readonly directory: string;
  /** Returns all connections, including workers that the bus did not start. */
  attached(): readonly Connection[];
  /** Sends the worker no new requests. Resolves when it has none left. */
  drain(connection: Connection): Promise<void>;
  /** Returns the largest number of unsettled requests since the last call. */
  takePeak(): number;
  /** Returns the number of requests that a worker takes at once. */
  placesPerWorker(): number;
  /** Called when a worker is restarted. */
  restarted(): void;
  /** Called when the pool is paused, and when it resumes. */
  paused(isPaused: boolean): void;
  /** Called when a worker is paused: perhaps no worker is left for waiting requests. */
  lost(): void;
}

/** A process of the pool with its connections, usually one. */
interface Member<Connection> {
  readonly process: WorkerProcess;
  readonly connections: Set<Connection>;
  readonly attached: PromiseWithResolvers<void>;
}

/** @internal Starts processes that attach to a bus, and adapts their number to the requests. */
export class WorkerPool<Connection extends PooledConnection> {
  readonly supervisor: Supervisor<WorkerLink>;
  /** Error of the last worker that was given up; `null` once another worker is ready. */
  givenUp: WorkerFailedError | null = null;
  /** Error of the last worker that failed; `null` once another worker is ready. */
  lastFailure: WorkerFailedError | WorkerStartError | null = null;
  readonly #owner: PoolOwner<Connection>;
  readonly #workers: ResolvedWorkers;
  /** By process id. */
  readonly #members = new Map<number, Member<Connection>>();
  /** By connection, which may outlive the process. */
  readonly #memberOf = new WeakMap<Connection, Member<Connection>>();
  /** Wanted number of workers. */
  #target: number;
  /** Timer that runs while there are more than `min` workers. */
  #idle: { close(): unknown } | null = null;
  #source: SourceWatch | null = null;
  #stopped = false;
  readonly #clock: Clock;

  constructor(workers: ResolvedWorkers, owner: PoolOwner<Connection>, clock: Clock) {
    this.#owner = owner;
    this.#clock = clock;
    this.#workers = workers;
    this.#target = workers.min;
    const { name, directory } = owner;
    // Workers that the bus replaces must not also reload themselves.
    const options = process.env["BUN_OPTIONS"]?.replaceAll(/--(hot|watch)\b/g, "");
    const inherited = workers.watch === null ? {} : { BUN_OPTIONS: options };
    const own = { SLOTBUS_NAME: name, SLOTBUS_DIR: directory, SLOTBUS_STDIO: undefined, SLOTBUS_RUN: undefined };
    const env = { ...inherited, ...workers.pool.env, ...own };
    const transport: Transport<WorkerLink> = {
      stdin: "ignore",
      stdout: "inherit",
      readiness: "Call `SlotWorker.open()` in the entry; without a `name` it attaches to this bus.",
      open: (process, signal) => this.#open(process, signal),
    };
    this.supervisor = new Supervisor({ ...workers.pool, name, env }, transport, clock);
    this.supervisor.unref(); // the bus decides what keeps the process alive
    this.supervisor.on("state", ({ id, state }, previous) => {
      if (this.#stopped) return;
      if ((previous === "backoff" || previous === "paused") && state === "starting") owner.restarted();
      if (state === "backoff")
        this.lastFailure = new WorkerStartError(name, id, "ended and is being restarted", exited);
      if (state !== "paused") return;
      this.lastFailure = this.supervisor.pausedFor;
      owner.lost();
    });
    this.supervisor.onPause = (isPaused) => {
      if (!this.#stopped) owner.paused(isPaused); // after that the bus's memory may be unmapped
    };
    this.supervisor.on("failed", (error) => {
      this.givenUp = error;
      this.lastFailure = error;
    });
    let exited: ExitReport | null = null;
    this.supervisor.on("died", (_, report) => (exited = report));
    this.supervisor.on("joined", () => {
      this.givenUp = null;
      this.lastFailure = null;
    });
  }

  /** Error of the last paused worker if no worker takes requests or is about to; otherwise `null`. */
  get downFor(): WorkerFailedError | null {
    return this.supervisor.isDown ? this.supervisor.pausedFor : null;
  }

  /** Resolves when `min` workers are attached. Rejects as `Supervisor.start` does. */
  async start(): Promise<void> {
    const entry = this.#workers.watch;
    if (entry !== null) {
      const { SourceWatch } = await import("./watch.ts");
      if (!this.#stopped) this.#source = new SourceWatch(entry, this.#clock, () => void this.#renew(entry));
    }
    await this.supervisor.start();
  }

  /** The program changed: replaces the workers, and restarts those that ended too often. */
  async #renew(entry: string): Promise<void> {
    this.#resize(this.#target);
    const failure = await this.supervisor.renew();
    if (failure === null || this.#stopped) return;
    const why = failure instanceof Error ? failure.message : String(failure);
    console.error(
      `bus "${this.#owner.name}": the changed ${entry} does not start, so the old workers keep running. ${why}`,
    );
  }

  /** Stops all workers for good. Resolves to a report for each process; never rejects. */
  stop(): Promise<ExitReport[]> {
    this.#stopped = true;
    this.#source?.close();
    this.#idle?.close();
    return this.supervisor.stop({ drain: 0 });
  }

  /**
   * Called when any worker attaches. Returns the process whose `served` the bus must call for each response; `null`: responses
   * are not counted.
   */
  joined(connection: Connection): WorkerProcess | null {
    const member = this.#members.get(connection.pid);
    if (!member) return null;
    this.#memberOf.set(connection, member);
    member.connections.add(connection);
    member.attached.resolve();
    return this.#workers.pool.recycle.maxRequests === Infinity ? null : member.process;
  }

  /** Whether the connection belongs to a process of the pool. */
  owns(connection: Connection): boolean {
    return this.#memberOf.has(connection);
  }

  /** Resolves to the report of the connection's process when it has ended; `null` if it is not of the pool. */
  exitOf(connection: Connection): Promise<ExitReport> | null {
    return this.#memberOf.get(connection)?.process.exited ?? null;
  }

  /** Called when a connection ended. Kills a process that hangs, and replaces a process whose worker was evicted. */
  left(connection: Connection): void {
    const member = this.#memberOf.get(connection);
    if (!member?.connections.delete(connection)) return;
    if (connection.isUnresponsive) member.process.kill("SIGKILL");
    else if (connection.isEvicted) member.process.recycle();
  }

  /** Starts more workers, because requests wait. `count`: those that wait or run, also if their callers have given up. */
  grow(count: number): void {
    const { max } = this.#workers;
    if (this.#target === max || this.#stopped || this.supervisor.pausedFor) return; // resizing would end the pause
    const wanted = Math.min(max, Math.ceil(count / this.#owner.placesPerWorker()));
    if (wanted > this.#target) this.#resize(wanted);
  }

  #resize(target: number): void {
    this.#target = target;
    this.supervisor.resize(target).catch(() => {}); // it was closed, or a worker failed, which an event reports
    this.#idle?.close();
    this.#owner.takePeak();
    if (target > this.#workers.min) this.#watch();
  }

  #watch(): void {
    this.#idle = startTimer(this.#clock, this.#workers.idle, () => {
      const busy = Math.ceil(this.#owner.takePeak() / this.#owner.placesPerWorker());
      const wanted = Math.max(this.#workers.min, busy);
      if (wanted < this.#target && !this.supervisor.pausedFor) this.#resize(wanted);
      else this.#watch();
    });
  }

  async #open(process: WorkerProcess, signal: AbortSignal): Promise<WorkerLink> {
    const member: Member<Connection> = { process, connections: new Set(), attached: Promise.withResolvers() };
    this.#members.set(process.pid, member);
    void process.exited.then(() => {
      if (this.#members.get(process.pid) === member) this.#members.delete(process.pid);
    });
    signal.addEventListener("abort", () => member.attached.reject(signal.reason), { once: true });
    // The worker may have attached before the launcher's message was read.
    for (const one of this.#owner.attached())
      if (one.pid === process.pid && !this.owns(one)) one.process = this.joined(one);
    await member.attached.promise;
    return {
      get inFlight() {
        return [...member.connections].reduce((sum, { load }) => sum + load, 0);
      },
      drain: async () => void (await Promise.all([...member.connections].map((one) => this.#owner.drain(one)))),
      ended: () => {}, // the bus itself sees the end of the connection
    };
  }
}
