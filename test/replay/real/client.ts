/** The client of a real world: the same calls and the same faults, above the wire of shared memory. */

import { Dispatcher } from "../../../src/bus/dispatcher.ts";
import { resolveBusOptions, type ResolvedBusOptions } from "../../../src/bus/options.ts";
import { systemClock } from "../../../src/clock.ts";
import { SlotbusError } from "../../../src/errors.ts";
import type { NameLock } from "../../../src/native/name.ts";
import { MemoryClient } from "../../../src/wires/memory/client.ts";
import { until } from "../../wait.ts";
import type { Call, Source } from "../books.ts";
import { askerOf, askOn, chooseOptions, closeBus } from "../bus.ts";
import { Cells } from "../cells.ts";
import type { Die } from "../choices.ts";
import { checkBus, checkCalls } from "../invariants.ts";
import type { BusProcess, Host, WorkerProcess } from "../processes.ts";
import { World } from "../world.ts";
import { SharedBooks } from "./books.ts";
import { OwnHost, Pauses, PeerHost, RealTime } from "./host.ts";
import { choicesOf, type Judged, type Setting, type Wish } from "./orders.ts";

/** Longest time from the close of a bus until its calls have read what they have, in ms. */
const REST_MS = 10_000;
/** Time after which a worker that blocks is reported, in ms. */
const STALLED_MS = 30_000;

type Say = (wish: Wish) => void;

/** A worker, as its client knows it. The stage does what the client wants. */
class Worker implements WorkerProcess {
  readonly name: string;
  readonly die: Die;
  readonly host: PeerHost;
  readonly wire: WorkerProcess["wire"];
  isClosing = false;
  readonly #index: number;
  readonly #say: Say;

  constructor(world: ClientWorld, bus: RealBus, index: number, say: Say) {
    this.name = `${bus.name} worker${index}`;
    this.die = world.choices.die(this.name);
    this.#index = index;
    this.#say = say;
    const { host, dispatcher } = bus;
    this.host = new PeerHost(host, 0, (ms) => this.#wish("stop", ms));
    this.wire = {
      get isConnected(): boolean {
        return dispatcher.choice.all.some(({ pid }) => pid === bus.workers[index]!.host.pid);
      },
      leftOver: 0,
      ends: [],
      kill: () => {
        this.host.isDead = true;
        this.#wish("kill");
      },
      cut: () => {},
    };
    this.#wish("start");
  }

  #wish(what: Wish["what"], ms = 0): void {
    this.#say({ is: "wish", what, worker: this.#index, ms });
  }

  async close(limitMs: number): Promise<void> {
    if (this.isClosing) return;
    this.isClosing = true;
    this.#wish("close", limitMs);
  }
}

/** The bus of this process. */
class RealBus implements BusProcess {
  readonly name: string;
  readonly die: Die;
  readonly host: Host;
  readonly options: ResolvedBusOptions;
  readonly dispatcher: Dispatcher;
  readonly asker: BusProcess["asker"];
  readonly wire: BusProcess["wire"];
  readonly workers: Worker[] = [];
  isClosing = false;
  isClosed = false;
  readyCalls = 0;
  busyAt = 0;
  calledAt = 0;
  readonly #world: ClientWorld;
  readonly #lock: NameLock;
  readonly #say: Say;

  constructor(world: ClientWorld, { bus: index, name }: Setting, lock: NameLock, host: Host, say: Say) {
    this.#world = world;
    this.#say = say;
    this.name = `bus${index}`;
    this.host = host;
    this.die = world.choices.die(this.name);
    const spin = this.die.below("spin", 2) * 50;
    const bus = resolveBusOptions({ name, ...chooseOptions(world, this.die), spin });
    this.options = bus;
    this.#lock = lock;
    const clock = systemClock;
    this.dispatcher = new Dispatcher(
      bus,
      `t${index}`,
      clock,
      () => {},
      (events) => {
        return new MemoryClient({ bus, name: lock, tag: index + 1, clock, stalledAfter: STALLED_MS }, events);
      },
    );
    this.asker = askerOf(this);
    const { choice } = this.dispatcher;
    this.wire = {
      get connections() {
        return choice.all;
      },
      all: [],
    };
  }

  get overloaded(): number {
    return this.dispatcher.stats().overloaded;
  }

  ask(...what: Parameters<Dispatcher["ask"]>): ReturnType<Dispatcher["ask"]> {
    return askOn(this.#world, this, ...what);
  }

  startWorker(): void {
    this.workers.push(new Worker(this.#world, this, this.workers.length, this.#say));
  }

  async close(limitMs: number): Promise<void> {
    const isFirst = !this.isClosing;
    await closeBus(this.#world, this, limitMs);
    if (isFirst) this.#lock.release();
  }

  kill(): void {
    this.#say({ is: "wish", what: "kill", worker: -1, ms: 0 });
  }
}

/** The bus of another process: nothing happens here. */
function elsewhere(die: Die): BusProcess {
  const host = { isDead: true, later() {} };
  return { die, host, workers: [], isClosing: true, isClosed: true, startWorker() {} } as unknown as BusProcess;
}

/** How a call ended, for comparison. */
export function outcomeOf({ value, error, outcome, isCancelled, runs }: Call): string {
  if (outcome === "done") return isCancelled ? "left" : `${value} of run ${runs.length - 1}`;
  return error instanceof SlotbusError ? error.code : String(error);
}

/** What one client of a world does and sees. */
export class ClientWorld extends World {
  override readonly isExact = false;
  readonly #setting: Setting;
  readonly #lock: NameLock;
  readonly #say: Say;
  readonly #books: SharedBooks;
  readonly #pulse: NodeJS.Timeout;
  readonly #host: Host;
  #bus!: RealBus;
  #isJudged = false;

  constructor(setting: Setting, lock: NameLock, say: Say) {
    const { seed, isCalm, epoch, books } = setting;
    const time = new RealTime(epoch);
    super(choicesOf(seed, isCalm), new Cells(), isCalm, time);
    this.#setting = setting;
    this.#lock = lock;
    this.#say = (wish) => {
      if (!this.#isJudged) say(wish); // this process may be in another world
    };
    this.#books = new SharedBooks(books);
    const pauses = new Pauses(this.#books.pauses, time);
    this.#pulse = pauses.start();
    this.#host = new OwnHost(time, pauses, (ms) => this.#say({ is: "wish", what: "stop", worker: -1, ms }));
  }

  protected override makeBus(index: number): BusProcess {
    if (index !== this.#setting.bus) return elsewhere(this.choices.die(`bus${index}`));
    return (this.#bus = new RealBus(this, this.#setting, this.#lock, this.#host, this.#say));
  }

  protected override newCall(index: number, host: Host): Call {
    return this.#books.call(super.newCall(index, host), true);
  }

  override opened(source: Source): void {
    this.#books.source(source);
    super.opened(source);
  }

  /** Reports of a real wire are not known: they come a little later, one each ms. */
  override atReport(_call: Call, count: number, run: () => void, host: Host): void {
    host.later(count - 1, run);
  }

  override atOnce(_when: string, _call: Call, run: () => void, host: Host): void {
    host.later(20, run);
  }

  override atAnyReport(at: number, run: () => void): void {
    this.time.after(60 + at, run);
  }

  /** A worker has a process. */
  know(worker: number, pid: number): void {
    this.#bus.workers[worker]!.host.pid = pid;
  }

  /** Resolves when the bus is closed and all calls have ended. */
  async act(): Promise<void> {
    this.plan();
    while (!this.#bus.isClosed) await Bun.sleep(20);
    const isOver = (): boolean =>
      this.calls.every(({ outcome }) => outcome !== "") &&
      this.sources.every(({ ended, isInside }) => ended !== null && !isInside) &&
      this.entered.every(({ isInside }) => !isInside);
    await until(isOver, "all calls have ended", REST_MS).catch(() => {}); // `judge` says which has not
  }

  /** Compares the books. */
  judge(): Judged {
    this.#isJudged = true;
    checkCalls(this);
    checkBus(this, this.#bus);
    clearInterval(this.#pulse);
    (this.time as RealTime).end();
    const outcomes = Object.fromEntries(this.calls.map((call) => [call.index, outcomeOf(call)]));
    return { is: "judged", failure: this.failure, calls: this.calls.length, faults: this.faults, outcomes };
  }
}
