/**
 * A world: clients and workers in one process, at least 50 calls, at least one fault, all decided by choices.
 *
 *     bus.ts        clients and workers          callers.ts    calls of clients      handlers.ts   what workers do
 *     faults.ts     kills, stops, evictions …    books.ts      what happened         invariants.ts what must be true
 *
 * `run` starts everything, lets virtual time pass until nothing is left to do, and compares the books. The first broken promise is
 * the failure of the world.
 */

import type { BusRequest } from "../../src/bus/call.ts";
import type { Exchange } from "../../src/bus/exchange.ts";
import type { WorkerRequest } from "../../src/bus/request.ts";
import { Call, type Inside, type Run, type Source } from "./books.ts";
import { Bus, type Worker } from "./bus.ts";
import { callPlain } from "./callers.ts";
import { callContract } from "./contracts.ts";
import type { Cells } from "./cells.ts";
import type { Choices, Die } from "./choices.ts";
import { VirtualTime } from "./clock.ts";
import type { ReplayConnection } from "./connection.ts";
import { planFaults } from "./faults.ts";
import { atTheEnd, checkSettled, checkStreamFailure } from "./invariants.ts";
import { checkQuiet, checkTimeout, expectSourcesEnd, watchLimits } from "./limits.ts";
import type { Link, Slot } from "./link.ts";
import type { BusProcess, Host } from "./processes.ts";
import type { Watch } from "./wire.ts";
import { chooseTheme, type Theme } from "./themes.ts";
import { Net } from "./wire.ts";
import type { WorkerEnd } from "./worker-end.ts";

/** Most tasks of a world; a world with more does not come to rest. */
const STEPS = 200_000;
/** Largest number of clients that share a bus, and of workers that serve them at first. */
const MOST = 4;
/** Least number of calls. */
const CALLS = 52;
/** Time during which calls begin, in ms. */
const BUSY_MS = 700;
/** Time between two checks of progress, in ms; longer than a batch of events takes. */
const PROGRESS_MS = 13;
/** Time at which everything is closed, in ms after the start. */
const CLOSE_MS = 1_200;
/** The rest of a timeout is rounded up to whole ms by `fetch`, which waits for the body first, and again after the queue. */
const ROUNDED_MS = 2.5;

/** The worker's end of a connection. */
export interface ClaimEnd {
  readonly host: Host;
  readonly link: Link;
}

/** A call, and the end of the connection that claimed it. */
export interface Claimed {
  readonly call: Call;
  readonly end: ClaimEnd;
}

/** One world. */
export class World implements Watch {
  readonly choices: Choices;
  readonly cells: Cells;
  readonly time: VirtualTime;
  readonly net: Net;
  readonly die: Die;
  /** Whether nothing depends on time: calls have no timeout, and a bus closes when they are over. */
  readonly isCalm: boolean;
  /** Whether times are exact. In a real world the machine delays everything. */
  readonly isExact: boolean = true;
  readonly theme: Theme;
  readonly buses: BusProcess[] = [];
  /** The workers of all clients, if the clients share a bus; otherwise `null`, and each client has workers of its own. */
  shared: Worker[] | null = null;
  readonly calls: Call[] = [];
  readonly sources: Source[] = [];
  /** Generators that began: each must run its `finally`. */
  readonly entered: Inside[] = [];
  /** The first broken promise. */
  failure: string | null = null;
  reports = 0;
  /** Number of faults that happened. */
  faults = 0;
  readonly #callOf = new Map<Exchange, Call>();
  readonly #exchangeOf = new Map<Call, Exchange>();
  readonly #tainted = new Set<Link>();
  /** Buses that had both a queue and room at the last check. */
  readonly #stuck = new Set<BusProcess>();
  readonly #kept: unknown[] = [];
  readonly #callAt = new Map<number, Call>();
  readonly #atOnce = { arrival: new Map<Call, () => void>(), loss: new Map<Call, () => void>() };
  readonly #atReport = new Map<Call, { left: number; run: () => void; host: Host }[]>();
  readonly #atAnyReport = new Map<number, (() => void)[]>();

  constructor(choices: Choices, cells: Cells, isCalm = false, time = new VirtualTime()) {
    this.choices = choices;
    this.isCalm = isCalm;
    this.time = time;
    this.cells = cells;
    this.die = choices.die("world");
    this.theme = chooseTheme(this.die);
    this.net = new Net(choices, this);
  }

  /** Runs the world. Call it from a macrotask. Returns the first broken promise; `null` if there is none. */
  run(): string | null {
    this.plan();
    try {
      if (!this.time.run(STEPS)) this.broken("the world does not come to rest");
      else atTheEnd(this);
    } catch (error) {
      this.broken(`thrown: ${error instanceof Error ? error.stack : String(error)}`);
    }
    return this.failure;
  }

  /** Makes the client number `index`. */
  protected makeBus(index: number): BusProcess {
    return new Bus(this, index);
  }

  /** Makes the clients, and plans everything else. */
  protected plan(): void {
    const { die, time } = this;
    const neverEnds = die.chance("never ends", 0); // only in a list: `replay.test.ts` proves that such a world is ended
    while (neverEnds);
    time.cost = [0, 0.002, 0.05, 0.3][die.below("cost of time", 4)]!;
    if (this.isExact && !this.isCalm && die.chance("shared bus", 250)) this.shared = [];
    const buses = 1 + (this.shared ? die.below("clients", MOST) : die.chance("second bus", 200) ? 1 : 0);
    for (let index = 0; index < buses; index++) this.buses.push(this.makeBus(index));
    for (const bus of this.shared ? this.buses.slice(0, 1) : this.buses) {
      const workers = 1 + bus.die.below("workers", this.shared ? MOST : 3);
      for (let index = 0; index < workers; index++)
        time.after(bus.die.small("worker starts", 200), () => bus.startWorker());
    }
    const calls = CALLS + die.below("more calls", 25);
    for (let index = 0; index < calls; index++) this.#planCall(index);
    planFaults(this);
    for (let at = 50; at < CLOSE_MS; at += PROGRESS_MS) time.after(at, () => this.#checkProgress());
    time.after(CLOSE_MS, () => this.#closeAll());
  }

  #planCall(index: number): void {
    const die = this.choices.die(`plan ${index}`);
    if (!die.exists("is made")) return;
    const bus = this.buses[this.buses.length > 1 ? die.below("bus", this.buses.length) : 0]!;
    const burst = die.chance("in a burst", 500);
    const at = burst ? 60 + 50 * die.below("burst", 12) : die.below("at", BUSY_MS);
    bus.host.later(at, () => this.makeCall(bus, die, index));
  }

  /** Makes a call now. */
  makeCall(bus: BusProcess, _die: Die, index = 1_000 + this.calls.length): void {
    const call = this.newCall(index, bus.host);
    this.calls.push(call);
    this.#callAt.set(index, call);
    call.startedAt = bus.calledAt = this.time.now;
    const make = call.die.chance(
      "through a contract",
      this.odds("items", 850, this.odds("both ways|deaths|early close", 80, 300)),
    )
      ? callContract
      : callPlain;
    make(this, call, bus).then(
      () => {
        if (!call.isSettled) call.settledAt = this.time.now;
        bus.busyAt = this.time.now;
        call.outcome = "done";
        checkTimeout(this, call, undefined);
        expectSourcesEnd(this, call);
      },
      (error) => {
        if (!call.isSettled) call.settledAt = this.time.now;
        bus.busyAt = this.time.now;
        call.outcome = "failed";
        call.error = error;
        checkTimeout(this, call, error);
        checkSettled(this, call, bus, error);
        expectSourcesEnd(this, call);
      },
    );
  }

  /** Opens the books of a call. */
  protected newCall(index: number, host: Host): Call {
    return new Call(index, this.choices.die(`call ${index}`), host);
  }

  /** A request does not stay in the queue while a worker has room. */
  #checkProgress(): void {
    for (const bus of this.buses) {
      const { dispatcher, host, wire } = bus;
      if (host.isDead || bus.isClosing) continue;
      checkQuiet(this, bus);
      const isWaiting = dispatcher.unsettled.count > 0 && [...wire.connections].some(({ room }) => room > 0);
      const isStuck = isWaiting && dispatcher.diagnostics().queued.length > 0;
      const isOld = this.#stuck.has(bus) && !host.wasStopped(PROGRESS_MS);
      this.expect(!isStuck || !isOld, `${bus.name} keeps requests in its queue, and a worker has room`);
      if (isStuck) this.#stuck.add(bus);
      else this.#stuck.delete(bus);
    }
  }

  #closeAll(): void {
    if (this.isCalm && this.calls.some(({ outcome }) => outcome === "")) {
      this.time.after(PROGRESS_MS, () => this.#closeAll());
      return;
    }
    this.net.isOpen = false;
    for (const bus of this.buses) {
      const { die } = bus;
      const limit = die.small("drains for", 400);
      bus.host.later(die.small("closes later", 100), () => void bus.close(limit));
      for (const worker of bus.workers) {
        const first = worker.die.below("closes", 2) === 0 ? 0 : 300;
        worker.host.later(
          first + worker.die.small("closes later", 60),
          () => void worker.close(worker.die.small("drains for", 300)),
        );
      }
    }
  }

  /** Returns `high` in worlds with one of these themes, separated by `|`, and `usual` in others. */
  odds(themes: string, high: number, usual: number): number {
    return themes.split("|").includes(this.theme) ? high : usual;
  }

  // ---- books ----------------------------------------------------------------------------------------------------------

  expect(isTrue: boolean, what: string): void {
    if (!isTrue) this.broken(what);
  }

  broken(what: string): void {
    this.failure ??= `${what} (at ${this.time.now.toFixed(1)} ms)`;
  }

  /** Keeps a value from being garbage-collected: finalizers do not run in virtual time. */
  keep(value: unknown): void {
    this.#kept.push(value);
  }

  /** Notes that a generator of a process has begun. */
  enter(host: Host): Inside {
    const state = { host, isInside: true };
    this.entered.push(state);
    return state;
  }

  /** Notes a source. */
  opened(source: Source): void {
    this.sources.push(source);
  }

  /** Returns the call of a request, and where it was claimed. */
  claimOf({ claim }: WorkerRequest): Claimed {
    const end = claim.owner as WorkerEnd;
    return { call: this.#callOf.get(end.link.slots[claim.slot]!.worker.request!.exchange)!, end };
  }

  isTainted(link: Link): boolean {
    return this.#tainted.has(link);
  }

  /** Whether a hostile process had to do with a call. */
  isTaintedCall(call: Call): boolean {
    return [...call.links].some((link) => this.#tainted.has(link));
  }

  began(call: Call, run: Run): void {
    if (this.isTainted(run.link)) return;
    const { boundTo } = call;
    if (this.isExact && boundTo !== null)
      this.expect(boundTo === run.link.id, `call ${call.index} is for worker ${boundTo}, and ran on ${run.link.id}`);
    const others = call.runs.slice(0, -1);
    this.expect(
      call.isIdempotent ? others.length < 2 : others.length === 0,
      `call ${call.index} ran ${call.runs.length} times`,
    );
    for (const other of others) this.expect(other.host.isProvenDead, `call ${call.index}: two runs overlap`);
    const lastStart = call.startedAt + call.timeoutMs + 120;
    this.expect(
      this.time.now <= lastStart || run.host.wasStopped(200) || call.host.wasStopped(200),
      `call ${call.index}: a handler began after the deadline`,
    );
  }

  /** Returns the run that a response says it comes from; `null` if the books do not apply. */
  runOf(call: Call, callHeader: string | null, runHeader: string | null): Run | null {
    if (this.isTaintedCall(call)) return null;
    this.expect(callHeader === String(call.index), `call ${call.index} got the response of call ${callHeader}`);
    const run = call.runs[Number(runHeader)] ?? null;
    this.expect(run?.outcome === "answered", `call ${call.index} got a response that its handler did not give`);
    return run;
  }

  streamFailed(call: Call, run: Run, read: number, error: unknown): void {
    if (!this.isTaintedCall(call)) checkStreamFailure(this, call, run, read, error);
  }

  handlerFailed(_error: unknown): void {}

  closing(bus: BusProcess): void {
    const linked = new Set(this.#exchangeOf.keys());
    for (const call of this.calls)
      if (call.host === bus.host && !call.isSettled && !linked.has(call)) this.noteExchange(call, "close");
    for (const [exchange, call] of this.#callOf)
      if (call.host === bus.host && (!exchange.isSettled || exchange.isStreaming)) this.#hit(exchange, null, "close");
  }

  /**
   * Runs `run` once: at the "arrival" of a bell or a frame at the client, before the client looks at it; or at the "loss" of a
   * call whose worker died.
   */
  atOnce(when: "arrival" | "loss", call: Call, run: () => void, host: Host): void {
    this.#atOnce[when].set(call, () => host.later(0, run));
  }

  #happens(when: "arrival" | "loss", call: Call): void {
    this.#atOnce[when].get(call)?.();
    this.#atOnce[when].delete(call);
  }

  arriving(exchange: Exchange | null): void {
    const call = exchange && this.#callOf.get(exchange);
    if (call) this.#happens("arrival", call);
  }

  /** A bus gets a request. */
  asked(request: BusRequest): void {
    const call = this.#callAt.get(indexOf(request));
    if (call) call.isAsked = true;
  }

  /** Runs `run` at the `count`-th report about a call. */
  atReport(call: Call, count: number, run: () => void, host: Host): void {
    const list = this.#atReport.get(call) ?? [];
    list.push({ left: count, run, host });
    this.#atReport.set(call, list);
  }

  /** Runs `run` at a report of the world, by its number. */
  atAnyReport(at: number, run: () => void): void {
    this.#atAnyReport.set(at, [...(this.#atAnyReport.get(at) ?? []), run]);
  }

  noteExchange(call: Call, event: string): void {
    const exchange = this.#exchangeOf.get(call);
    if (exchange) this.#hit(exchange, null, event);
    else if (call.isAsked && !call.isSettled) this.cells.exchange.hit("queued", event); // it was never sent
  }

  #hit(exchange: Exchange, slot: Slot | null, event: string): void {
    const carrier = exchange.carrier as ReplayConnection | null;
    this.cells.exchange.hit(stateOf(exchange, slot ?? carrier?.link.slots[exchange.place] ?? null), event);
  }

  // ---- Watch ----------------------------------------------------------------------------------------------------------

  report(event: string, connection: ReplayConnection, slot: Slot | null, exchange: Exchange | null): void {
    this.reports++;
    const { exchange: exchanges, connection: connections } = this.cells;
    const isOfConnection = connections.hasEvent(event);
    const state = stateOfConnection(connection);
    connections.hit(state, isOfConnection ? event : "report");
    if (!exchange) {
      this.#faultsAtReports();
      return;
    }
    if (exchanges.hasEvent(event)) this.#hit(exchange, slot, event);
    const call = this.#callOf.get(exchange);
    if (call) {
      if (event === "send") call.links.add(connection.link);
      if (event === "began" && exchange.kind === "stream") watchLimits(this, call, exchange, slot!);
      if (event === "lost maybe") this.#happens("loss", call);
      if (event === "lost maybe" && exchange.isStreaming) call.mustRead = slot!.client.down!.visible;
      for (const one of this.#atReport.get(call) ?? []) if (--one.left === 0) one.host.later(0, one.run);
    }
    this.#faultsAtReports();
  }

  #faultsAtReports(): void {
    for (const run of this.#atAnyReport.get(this.reports) ?? []) run();
  }

  sent(exchange: Exchange, timeLeft: number): void {
    const call = this.#callFor(exchange);
    const deadline = call.startedAt + call.timeoutMs;
    const { now } = this.time;
    const isRight =
      timeLeft === Infinity
        ? call.timeoutMs === Infinity
        : timeLeft <= Math.max(1, deadline - now + ROUNDED_MS + 40 * this.time.cost);
    this.expect(isRight, `call ${call.index} was sent with ${timeLeft} ms left, not ${deadline - now}`);
    const isInTime = now <= deadline + 40 * this.time.cost || call.host.wasStopped(60);
    this.expect(isInTime, `call ${call.index} was sent after its deadline`);
  }

  /** Finds the call of an exchange when it is first sent. */
  #callFor(exchange: Exchange): Call {
    let call = this.#callOf.get(exchange);
    if (!call) {
      call = this.#callAt.get(indexOf(exchange.request))!;
      this.#callOf.set(exchange, call);
      this.#exchangeOf.set(call, exchange);
    }
    return call;
  }

  /** A worker with several clients counts the requests of all of them. */
  taking({ worker }: WorkerEnd, _slot: Slot): void {
    const { leftOver, options } = worker;
    this.expect(leftOver < options.concurrency, `a worker takes more than ${options.concurrency} requests at once`);
  }

  hostile(link: Link): void {
    this.#tainted.add(link);
  }
}

/** Returns the index of the call that made a request. */
function indexOf({ headers, path }: BusRequest): number {
  if (!Array.isArray(headers)) return Number(path.slice("/call/".length));
  return Number(headers.find(([name]) => name === "x-call")![1]);
}

function stateOf(exchange: Exchange, slot: Slot | null): string {
  if (exchange.isQueued) return exchange.isRetried ? "queued again" : "queued";
  if (exchange.isStreaming) {
    if (exchange.kind !== "stream") return "gathering";
    return slot?.client.up && slot.client.up.end === "open" ? "both ways" : "streaming";
  }
  if (exchange.isSettled) return "over";
  if (exchange.carrier === null) return exchange.isRetried ? "waiting" : "queued";
  if (exchange.hasSource) return "sent+source";
  if (slot?.client.up) return "uploading";
  return slot && slot.client.state !== "ready" ? "claimed" : "sent";
}

function stateOfConnection(connection: ReplayConnection): string {
  if (!connection.isOpen) return "ended";
  if (connection.isEvicted) return "condemned";
  if (connection.isDraining) return "draining";
  if (connection.room === 0) return "full";
  return connection.load > 0 ? "busy" : "idle";
}
