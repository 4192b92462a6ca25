/** The workers that a bus starts itself: their processes, and how many there are. */

import { type ExitReport, type WorkerFailedError, WorkerStartError } from "../errors.ts";
import { Supervisor, type Transport, type WorkerLink, type WorkerProcess } from "../supervisor/index.ts";
import type { Link } from "./link.ts";
import type { ResolvedBusOptions, ResolvedWorkers } from "./options.ts";

/** What the crew asks of its bus. */
interface Bus {
  readonly options: ResolvedBusOptions;
  /** Gives it nothing new; resolves when it has no request any more. */
  drain(link: Link): Promise<void>;
  /** Most requests that were not settled at one time, since it was asked last. */
  takePeak(): number;
  /** Requests that a worker takes at once. */
  placesPerWorker(): number;
  /** A process that had ended was started again. */
  restarted(): void;
  /** The pool is paused, or no longer. */
  paused(isPaused: boolean): void;
  /** A worker is paused: maybe nobody is left for the requests that wait. */
  lost(): void;
}

/** A process of the crew with its attachments; mostly there is one. */
interface Member {
  readonly process: WorkerProcess;
  readonly links: Set<Link>;
  readonly attached: PromiseWithResolvers<void>;
}

/** @internal */
export class Crew {
  readonly supervisor: Supervisor<WorkerLink>;
  /** Why the last worker that was given up was, until another one is ready. */
  givenUp: WorkerFailedError | null = null;
  /** Why the last worker that failed did, until another one is ready. */
  lastFailure: WorkerFailedError | WorkerStartError | null = null;
  readonly #bus: Bus;
  readonly #workers: ResolvedWorkers;
  /** By process id. */
  readonly #members = new Map<number, Member>();
  /** Workers there are to be. */
  #target: number;
  /** Runs while there are more than `min`. */
  #idle: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  constructor(workers: ResolvedWorkers, bus: Bus) {
    this.#bus = bus;
    this.#workers = workers;
    this.#target = workers.min;
    const { name, directory } = bus.options;
    const env = { ...workers.pool.env, SLOTBUS_NAME: name, SLOTBUS_DIR: directory, SLOTBUS_STDIO: undefined };
    const transport: Transport<WorkerLink> = {
      stdin: "ignore",
      stdout: "inherit",
      open: (process, signal) => this.#open(process, signal),
    };
    this.supervisor = new Supervisor({ ...workers.pool, name, env, instances: workers.min }, transport);
    this.supervisor.unref(); // the bus decides what keeps the process alive
    this.supervisor.on("state", ({ id, state }, previous) => {
      if (this.#stopped) return;
      if ((previous === "backoff" || previous === "paused") && state === "starting") bus.restarted();
      if (state === "backoff") this.lastFailure = new WorkerStartError(name, id, "ended and is started again", exited);
      if (state !== "paused") return;
      this.lastFailure = this.supervisor.pausedFor;
      bus.lost();
    });
    this.supervisor.onPause = (isPaused) => {
      if (!this.#stopped) bus.paused(isPaused); // the bus's memory may be gone by then
    };
    this.supervisor.on("failed", (error) => {
      this.givenUp = error;
      this.lastFailure = error;
    });
    let exited: ExitReport | null = null;
    this.supervisor.on("exit", (report) => (exited = report));
    this.supervisor.on("ready", () => {
      this.givenUp = null;
      this.lastFailure = null;
    });
  }

  /** Why none of them takes requests or is about to; `null`: some do, or are. */
  get downFor(): WorkerFailedError | null {
    return this.supervisor.isDown ? this.supervisor.pausedFor : null;
  }

  /** Resolves when `min` workers are attached. Rejects as `Supervisor.start`. */
  start(): Promise<void> {
    return this.supervisor.start();
  }

  /** Stops all; nothing is started any more. Never rejects. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#idle);
    await this.supervisor.stop({ drain: 0 });
  }

  /** A worker attached; maybe it is one of ours. */
  joined(link: Link): void {
    const member = this.#members.get(link.peer.pid);
    if (!member) return;
    member.links.add(link);
    if (this.supervisor.pool.recycle.maxRequests !== Infinity) link.process = member.process;
    member.attached.resolve();
  }

  /** Whether a process of ours attached it. */
  owns(link: Link): boolean {
    return this.#members.get(link.peer.pid)?.links.has(link) === true;
  }

  /** An attachment ended. A process that hangs is killed, one whose worker was evicted is replaced: it is broken. */
  left(link: Link): void {
    const member = this.#members.get(link.peer.pid);
    if (!member?.links.delete(link)) return;
    if (link.unresponsive) member.process.kill("SIGKILL");
    else if (link.evictedFor) member.process.recycle();
  }

  /** Requests wait; with those that run there are `unsettled`. */
  grow(unsettled: number): void {
    const { max } = this.#workers;
    if (this.#target === max || this.#stopped || this.supervisor.pausedFor) return; // a resize would end the pause
    const wanted = Math.min(max, Math.ceil(unsettled / this.#bus.placesPerWorker()));
    if (wanted > this.#target) this.#resize(wanted);
  }

  #resize(target: number): void {
    this.#target = target;
    this.supervisor.resize(target).catch(() => {}); // it was closed, or a worker failed, which its event tells
    clearTimeout(this.#idle);
    this.#bus.takePeak();
    if (target > this.#workers.min) this.#watch();
  }

  #watch(): void {
    this.#idle = setTimeout(() => {
      const busy = Math.ceil(this.#bus.takePeak() / this.#bus.placesPerWorker());
      const wanted = Math.max(this.#workers.min, busy);
      if (wanted < this.#target && !this.supervisor.pausedFor) this.#resize(wanted);
      else this.#watch();
    }, this.#workers.idle);
    this.#idle.unref();
  }

  async #open(process: WorkerProcess, signal: AbortSignal): Promise<WorkerLink> {
    const member: Member = { process, links: new Set(), attached: Promise.withResolvers() };
    this.#members.set(process.pid, member);
    void process.exited.then(() => {
      if (this.#members.get(process.pid) === member) this.#members.delete(process.pid);
    });
    signal.addEventListener("abort", () => member.attached.reject(signal.reason), { once: true });
    await member.attached.promise;
    return {
      get inFlight() {
        return [...member.links].reduce((sum, { used }) => sum + used, 0);
      },
      drain: async () => void (await Promise.all([...member.links].map((link) => this.#bus.drain(link)))),
      ended: () => {}, // its connection tells the bus
    };
  }
}
