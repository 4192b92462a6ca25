/** The workers that a bus starts itself: their processes, and how many there are. */

import { type Clock, startTimer } from "../clock.ts";
import { type ExitReport, type WorkerFailedError, WorkerStartError } from "../errors.ts";
import type { Transport, WorkerLink, WorkerProcess } from "./process.ts";
import { Supervisor } from "./supervisor.ts";
import type { SourceWatch } from "./watch.ts";
import type { ResolvedWorkers } from "./workers.ts";

export { resolveWorkers } from "./workers.ts";

/** @internal The bus's end of an attachment, as the pool needs it. */
export interface PooledConnection {
  /** Process id of the worker. */
  readonly pid: number;
  /** Number of requests that the worker has. */
  readonly load: number;
  /** The worker's event loop has not turned for too long. */
  readonly isUnresponsive: boolean;
  /** The bus ended the connection. */
  readonly isEvicted: boolean;
  /** What counts its answers. */
  process: { served(): void } | null;
}

/** @internal What the pool asks of its bus. */
export interface PoolOwner<Connection extends PooledConnection> {
  /** Name and directory of the bus. */
  readonly name: string;
  readonly directory: string;
  /** Returns all attachments, also those of other processes. */
  attached(): readonly Connection[];
  /** Gives the worker nothing new. Resolves when it has no request any more. */
  drain(connection: Connection): Promise<void>;
  /** Returns the largest number of unsettled requests since the last call. */
  takePeak(): number;
  /** Returns how many requests one worker takes at once. */
  placesPerWorker(): number;
  /** A process that had ended was started again. */
  restarted(): void;
  /** The pool is paused, or no longer. */
  paused(isPaused: boolean): void;
  /** A worker is paused: maybe there is no worker left for the requests that wait. */
  lost(): void;
}

/** A process of the pool with its attachments, usually one. */
interface Member<Connection> {
  readonly process: WorkerProcess;
  readonly connections: Set<Connection>;
  readonly attached: PromiseWithResolvers<void>;
}

/** @internal Starts processes that attach to a bus, as many as its requests need. */
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
  /** Also of processes that have ended before their attachments. */
  readonly #memberOf = new WeakMap<Connection, Member<Connection>>();
  /** Number of workers that the pool is to have. */
  #target: number;
  /** Runs while there are more than `min`. */
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
    // A worker that is replaced does not reload itself too.
    const options = process.env["BUN_OPTIONS"]?.replaceAll(/--(hot|watch)\b/g, "");
    const inherited = workers.watch === null ? {} : { BUN_OPTIONS: options };
    const own = { SLOTBUS_NAME: name, SLOTBUS_DIR: directory, SLOTBUS_STDIO: undefined };
    const env = { ...inherited, ...workers.pool.env, ...own };
    const transport: Transport<WorkerLink> = {
      stdin: "ignore",
      stdout: "inherit",
      readiness: "Its entry must call `SlotWorker.open()`, which attaches to this bus when it gets no `name`.",
      open: (process, signal) => this.#open(process, signal),
    };
    this.supervisor = new Supervisor({ ...workers.pool, name, env }, transport, clock);
    this.supervisor.unref(); // the bus decides what keeps the process alive
    this.supervisor.on("state", ({ id, state }, previous) => {
      if (this.#stopped) return;
      if ((previous === "backoff" || previous === "paused") && state === "starting") owner.restarted();
      if (state === "backoff") this.lastFailure = new WorkerStartError(name, id, "ended and is started again", exited);
      if (state !== "paused") return;
      this.lastFailure = this.supervisor.pausedFor;
      owner.lost();
    });
    this.supervisor.onPause = (isPaused) => {
      if (!this.#stopped) owner.paused(isPaused); // the bus's memory may be gone by then
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

  /** Why none of them takes requests or is about to; `null`: some do, or are. */
  get downFor(): WorkerFailedError | null {
    return this.supervisor.isDown ? this.supervisor.pausedFor : null;
  }

  /** Resolves when `min` workers are attached. Rejects as `Supervisor.start`. */
  async start(): Promise<void> {
    const entry = this.#workers.watch;
    if (entry !== null) {
      const { SourceWatch } = await import("./watch.ts");
      if (!this.#stopped) this.#source = new SourceWatch(entry, this.#clock, () => void this.#renew(entry));
    }
    await this.supervisor.start();
  }

  /** The program changed. Workers that ended too often are tried again, too. */
  async #renew(entry: string): Promise<void> {
    this.#resize(this.#target);
    const failure = await this.supervisor.renew();
    if (failure === null || this.#stopped) return;
    const why = failure instanceof Error ? failure.message : String(failure);
    console.error(`bus "${this.#owner.name}": the changed ${entry} does not start, so running workers stay. ${why}`);
  }

  /** Stops all; nothing is started any more. Resolves to how each process ended; never rejects. */
  stop(): Promise<ExitReport[]> {
    this.#stopped = true;
    this.#source?.close();
    this.#idle?.close();
    return this.supervisor.stop({ drain: 0 });
  }

  /**
   * A worker attached; maybe it is one of the pool. Returns the process whose `served` the bus calls for each answer; `null`: its
   * answers are not counted.
   */
  joined(connection: Connection): WorkerProcess | null {
    const member = this.#members.get(connection.pid);
    if (!member) return null;
    this.#memberOf.set(connection, member);
    member.connections.add(connection);
    member.attached.resolve();
    return this.#workers.pool.recycle.maxRequests === Infinity ? null : member.process;
  }

  /** Whether a process of the pool made the attachment. */
  owns(connection: Connection): boolean {
    return this.#memberOf.has(connection);
  }

  /** How the process that made the attachment ends, when it has; `null`: it is not of the pool. */
  exitOf(connection: Connection): Promise<ExitReport> | null {
    return this.#memberOf.get(connection)?.process.exited ?? null;
  }

  /** An attachment ended. A process that hangs is killed; one whose worker was evicted is broken, and is replaced. */
  left(connection: Connection): void {
    const member = this.#memberOf.get(connection);
    if (!member?.connections.delete(connection)) return;
    if (connection.isUnresponsive) member.process.kill("SIGKILL");
    else if (connection.isEvicted) member.process.recycle();
  }

  /** Requests wait; with those that run there are `unsettled`. */
  grow(unsettled: number): void {
    const { max } = this.#workers;
    if (this.#target === max || this.#stopped || this.supervisor.pausedFor) return; // a resize would end the pause
    const wanted = Math.min(max, Math.ceil(unsettled / this.#owner.placesPerWorker()));
    if (wanted > this.#target) this.#resize(wanted);
  }

  #resize(target: number): void {
    this.#target = target;
    this.supervisor.resize(target).catch(() => {}); // it was closed, or a worker failed, which its event tells
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
    // It may have attached before its launcher's word was read here.
    for (const one of this.#owner.attached())
      if (one.pid === process.pid && !this.owns(one)) one.process = this.joined(one);
    await member.attached.promise;
    return {
      get inFlight() {
        return [...member.connections].reduce((sum, { load }) => sum + load, 0);
      },
      drain: async () => void (await Promise.all([...member.connections].map((one) => this.#owner.drain(one)))),
      ended: () => {}, // the bus sees the end of the connection itself
    };
  }
}
