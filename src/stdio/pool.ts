/** One pool: which worker gets a call, which calls wait, and how each one settles. */

import type { EventEmitter } from "node:events";
import {
  BackpressureError,
  type ExitReport,
  InvalidStateError,
  NoWorkerError,
  PoolFailedError,
  RequestTimeoutError,
  WorkerExitedError,
} from "../errors.ts";
import type { SupervisorEvents } from "../supervisor/events.ts";
import type { Transport, WorkerProcess } from "../supervisor/process.ts";
import { Supervisor } from "../supervisor/supervisor.ts";
import { Call } from "./call.ts";
import type { ResolvedStdioPool } from "./config.ts";
import { sinkOf } from "./framing.ts";
import { LinkCounts, type LinkHost, type LinkOwner, StdioLink } from "./link.ts";

/** What a pool tells its bus. */
export interface PoolOwner extends LinkHost {
  /** A call of the pool was answered, that many ms after it was made. */
  took(ms: number): void;
}

/** What the bus needs of a supervisor; a test may give another. */
export type PoolSupervisor = EventEmitter<SupervisorEvents> &
  Pick<Supervisor<StdioLink>, "start" | "stop" | "resize" | "links" | "workers" | "pausedFor" | "isDown">;
/** @internal */
export type MakeSupervisor = (pool: ResolvedStdioPool, transport: Transport<StdioLink>) => PoolSupervisor;

const makeSupervisor: MakeSupervisor = (pool, transport) => {
  const supervisor = new Supervisor(pool.program, transport);
  supervisor.unref(); // the bus decides what keeps the process alive
  return supervisor;
};

/** The calls of one pool and the workers that answer them. */
export class Pool implements LinkOwner {
  readonly options: ResolvedStdioPool;
  readonly supervisor: PoolSupervisor;
  /** Times a worker was started again. */
  restarts = 0;
  readonly #owner: PoolOwner;
  /** Calls for whichever worker has room first. */
  readonly #waiting = new Set<Call>();
  /** Those, and the ones that wait for a worker of their own. */
  #waitingCount = 0;
  /** Of all processes whose output was not read to its end, also of those that take nothing new. */
  readonly #links = new Set<StdioLink>();
  /** Of processes that have ended. */
  readonly #past = new LinkCounts();
  #turn = 0;
  readonly #whenGone: (() => void)[] = [];
  #lastExit: ExitReport | null = null;

  constructor(options: ResolvedStdioPool, owner: PoolOwner, make: MakeSupervisor = makeSupervisor) {
    this.options = options;
    this.#owner = owner;
    this.supervisor = make(options, { stdin: "pipe", stdout: "pipe", open: (process) => this.#open(process) });
    this.supervisor.on("ready", () => this.#pump());
    this.supervisor.on("exit", (report) => (this.#lastExit = report));
    this.supervisor.on("state", ({ state }, previous) => {
      if (state === "backoff" || (state === "starting" && previous === "paused")) this.restarts++;
      if (state === "failed" || state === "stopped" || state === "paused") this.#giveUpIfHopeless();
    });
  }

  /** Calls with workers. */
  get inFlight(): number {
    let sum = 0;
    for (const link of this.#links) sum += link.inFlight;
    return sum;
  }

  /** Calls that wait for one. */
  get waiting(): number {
    return this.#waitingCount;
  }

  get links(): Iterable<StdioLink> {
    return this.#links;
  }

  /** Of all its processes, past ones too. */
  counts(): LinkCounts {
    const sum = new LinkCounts();
    sum.add(this.#past);
    for (const link of this.#links) sum.add(link.counts);
    return sum;
  }

  /** Gives a call to a worker, or has it wait. */
  dispatch(call: Call): void {
    if (this.#waiting.size > 0 || !this.#deliver(call)) this.#wait(call);
  }

  /** Its caller gives up, with that error. */
  abandon(call: Call, error: unknown): void {
    if (call.isSettled) return;
    if (call.link) call.link.giveUp(call);
    else this.#forget(call);
    call.settle(true, error);
  }

  /** Rejects what is late; returns when the next one will be, `Infinity`: none. */
  expire(now: number): number {
    let next = Infinity;
    const check = (call: Call): void => {
      if (call.deadline <= now) this.#timeOut(call, now);
      else if (call.deadline < next) next = call.deadline;
    };
    for (const call of this.#waiting) check(call);
    for (const link of this.#links) {
      for (const call of link.waiting) check(call);
      for (const call of link.calls) check(call);
    }
    return next;
  }

  /** Rejects what waits. */
  rejectWaiting(errorOf: (call: Call) => unknown): void {
    for (const call of this.#waiting) this.abandon(call, errorOf(call));
    for (const link of this.#links) for (const call of link.waiting) this.abandon(call, errorOf(call));
  }

  // ---- routing --------------------------------------------------------------------------------------------------------

  /** `false`: no worker has room. */
  #deliver(call: Call): boolean {
    const { key } = call.options;
    const link = key === undefined ? this.#leastBusy() : this.#ownerOf(key);
    if (!link) return false;
    if (key !== undefined && (link.waiting.size > 0 || !link.canTake())) {
      if (!this.#mayWait(call)) return true;
      link.waiting.add(call);
      this.#waitingCount++;
      return true;
    }
    this.#send(link, call);
    return true;
  }

  #send(link: StdioLink, call: Call): void {
    try {
      link.send(call);
    } catch (error) {
      call.settle(true, error);
    }
  }

  /** The worker with the fewest calls; of equal ones each in turn. */
  #leastBusy(): StdioLink | null {
    const { links } = this.supervisor;
    const { length } = links;
    let best: StdioLink | null = null;
    let turn = this.#turn;
    for (let i = 0; i < length; i++) {
      if (turn >= length) turn = 0;
      const link = links[turn++]!;
      if ((best === null || link.inFlight < best.inFlight) && link.canTake()) {
        best = link;
        this.#turn = turn;
      }
    }
    return best;
  }

  /** The live worker that has a key: when one comes or goes, only keys of that one move (rendezvous hashing). */
  #ownerOf(key: string): StdioLink | null {
    let best: StdioLink | null = null;
    let highest = -1;
    for (const link of this.supervisor.links) {
      if (!link.isOpen) continue;
      const weight = Bun.hash.xxHash32(key, link.identity.worker);
      if (weight <= highest) continue;
      best = link;
      highest = weight;
    }
    return best;
  }

  // ---- waiting --------------------------------------------------------------------------------------------------------

  #wait(call: Call): void {
    if (!this.#mayWait(call)) return;
    if (this.#isHopeless()) {
      call.settle(true, this.#failedError(call));
      return;
    }
    this.#waiting.add(call);
    this.#waitingCount++;
  }

  /** `false`: it was rejected. */
  #mayWait(call: Call): boolean {
    const { limit, policy } = this.options.limits.queue;
    if (policy === "wait" || call.wasRetried || this.#waitingCount < limit) return true;
    call.settle(true, new BackpressureError(`pool "${this.options.id}"`, this.#waitingCount, limit));
    return false;
  }

  #forget(call: Call): void {
    if (this.#waiting.delete(call)) this.#waitingCount--;
    else for (const link of this.#links) if (link.waiting.delete(call)) this.#waitingCount--;
  }

  #pump(): void {
    for (const call of this.#waiting) {
      // A call is taken out only when there is room for it, so it keeps its place.
      if (call.options.key === undefined && !this.supervisor.links.some((link) => link.canTake())) return;
      if (this.supervisor.links.length === 0) return;
      this.#forget(call);
      if (!this.#deliver(call)) this.#wait(call);
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

  #failedError({ startedAt, wasRetried }: Call): NoWorkerError | PoolFailedError {
    const { id } = this.options;
    const { pausedFor } = this.supervisor;
    if (pausedFor) return new NoWorkerError(id, performance.now() - startedAt, "pool", pausedFor, wasRetried);
    const cause = this.#lastExit ? new WorkerExitedError("its last worker", id, this.#lastExit) : undefined;
    return new PoolFailedError(id, cause, wasRetried);
  }

  #timeOut(call: Call, now: number): void {
    const ms = call.deadline - call.startedAt;
    const { id } = this.options;
    const queuedMs = (call.link ? call.sentAt : now) - call.startedAt;
    if (!call.link && !call.wasRetried && this.supervisor.links.length === 0) {
      this.abandon(call, new NoWorkerError(id, queuedMs, "pool"));
      return;
    }
    const ran = call.link !== null || call.wasRetried;
    const withMs = call.link ? now - call.sentAt : 0;
    call.link?.timedOut();
    const what = `${JSON.stringify(call.method)} of pool "${id}"`;
    this.abandon(call, new RequestTimeoutError(what, ms, queuedMs, withMs, ran));
  }

  // ---- links ----------------------------------------------------------------------------------------------------------

  async #open(process: WorkerProcess): Promise<StdioLink> {
    const { id: worker, life, pid } = process;
    const { id, framing, limits, ready, initialize } = this.options;
    const link = new StdioLink(
      { pool: id, worker, life, pid },
      { sink: sinkOf(process.stdin!), source: process.stdout! },
      { framing, ...limits },
      this,
      this.#owner,
      process,
    );
    this.#links.add(link);
    void process.exited.then((report) => link.ended(report));
    if (ready) await link.ready;
    if (initialize) await this.#initialize(initialize, link, process);
    return link;
  }

  async #initialize(
    initialize: NonNullable<ResolvedStdioPool["initialize"]>,
    link: StdioLink,
    process: WorkerProcess,
  ): Promise<void> {
    let isReady = false;
    const ask = <T>(kind: Call["kind"], method: string, params: unknown): Promise<T> =>
      new Promise<unknown>((resolve, reject) => {
        if (isReady) throw new InvalidStateError(`${link}`, `${kind} of initialize`, "READY", "STARTING");
        const call = new Call(kind, method, params, null, undefined, performance.now(), Infinity, resolve, reject);
        if (link.hasEnded) void process.exited.then((report) => this.died([call], report));
        else this.#send(link, call);
      }) as Promise<T>;
    await initialize({
      ...link.identity,
      request: (method, params) => ask("request", method, params),
      notify: (method, params) => ask("notification", method, params),
    });
    isReady = true;
  }

  settled(call: Call, isError: boolean, value: unknown): void {
    if (call.kind !== "notification") this.#owner.took(performance.now() - call.startedAt);
    call.settle(isError, value);
  }

  hasRoom(link: StdioLink): void {
    for (const call of link.waiting) {
      if (!link.canTake()) break;
      link.waiting.delete(call);
      this.#waitingCount--;
      this.#send(link, call);
    }
    if (this.#waiting.size > 0) this.#pump();
  }

  closed(link: StdioLink): void {
    for (const call of link.waiting) {
      this.#forget(call);
      this.dispatch(call);
    }
  }

  gone(link: StdioLink): void {
    this.#links.delete(link);
    this.#past.add(link.counts);
    if (this.#links.size > 0) return;
    for (const done of this.#whenGone.splice(0)) done();
  }

  /** Resolves when all that its processes wrote was read; they have ended. */
  async allGone(): Promise<void> {
    if (this.#links.size > 0) await new Promise<void>((done) => this.#whenGone.push(done));
  }

  died(calls: Call[], report: ExitReport): void {
    for (const call of calls) {
      call.link = null;
      if (call.isSettled) continue;
      if (call.options.idempotent && !call.wasRetried) {
        call.wasRetried = true;
        this.dispatch(call);
      } else {
        call.settle(true, new WorkerExitedError(`request ${JSON.stringify(call.method)}`, this.options.id, report));
      }
    }
  }
}
