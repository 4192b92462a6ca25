/** A client and its workers, as the world starts them. */

import type { Asker } from "../../src/bus/call.ts";
import { Dispatcher } from "../../src/bus/dispatcher.ts";
import type { ResolvedBusOptions } from "../../src/bus/options.ts";
import { Receiver } from "../../src/bus/receiver.ts";
import { ClosedError } from "../../src/errors.ts";
import type { Die } from "./choices.ts";
import { Process } from "./clock.ts";
import { handlerOf } from "./contracts.ts";
import { expectNoTimers } from "./limits.ts";
import type { BusProcess, WorkerProcess } from "./processes.ts";
import { HEAD_BYTES, PAYLOAD_BYTES } from "./sizes.ts";
import { ReplayWire } from "./wire.ts";
import { ReplayWorker } from "./worker.ts";
import type { World } from "./world.ts";

/** Chooses the options of a bus. */
export function chooseOptions({ isCalm, theme }: World, die: Die) {
  return {
    slots: 4,
    payloadBytes: PAYLOAD_BYTES,
    headBytes: HEAD_BYTES,
    inlineBytes: 64,
    timeout: isCalm ? Infinity : [300, 900, 120][die.small("timeout", 3)]!,
    queue: {
      limit: theme === "full" && !isCalm ? 1 + die.below("short queue", 4) : [100, 4, 20][die.small("queue", 3)]!,
      policy: die.chance("queue waits", theme === "full" ? 20 : 200) ? ("wait" as const) : ("reject" as const),
    },
  };
}

/** Returns what a client of a contract and `fetch` use. */
export function askerOf(bus: Pick<BusProcess, "name" | "options" | "ask">): Asker {
  const { name, options } = bus;
  return {
    name,
    options,
    request: (request, given = {}) => bus.ask(request, given, "copy"),
    stream: (request, given = {}) => bus.ask(request, given, "stream"),
  } as Asker;
}

/** Makes a request. A bus that refuses it must have a full queue. */
export function askOn(
  world: World,
  bus: BusProcess,
  ...what: Parameters<Dispatcher["ask"]>
): ReturnType<Dispatcher["ask"]> {
  const { dispatcher, name, overloaded } = bus;
  world.asked(what[0]);
  const response = dispatcher.ask(...what);
  if (bus.overloaded > overloaded) {
    const { queued } = dispatcher.stats();
    const { limit } = bus.options.queue;
    world.expect(queued >= limit, `${name} refused a request with ${queued} of ${limit} requests in its queue`);
  }
  return response;
}

/** Drains and closes a bus. */
export async function closeBus(world: World, bus: BusProcess, limitMs: number): Promise<void> {
  if (bus.isClosing) return;
  bus.isClosing = true;
  const { dispatcher, host } = bus;
  const until = host.now() + limitMs;
  await dispatcher.drain(limitMs);
  world.expect(dispatcher.unsettled.count === 0 || host.now() >= until, `${bus.name} was not drained`);
  world.closing(bus);
  await dispatcher.close();
  bus.isClosed = true;
  expectNoTimers(world, host, bus.name);
}

/** Chooses the options of a worker. `reconnectMs`: pause before it attaches again; 0: it does not. */
export function chooseWorker({ theme }: World, die: Die): { concurrency: number; reconnectMs: number } {
  const drawn = 1 + die.below("concurrency", theme === "full" ? 2 : 4);
  const concurrency = theme === "hostile" ? 4 : drawn;
  return { concurrency, reconnectMs: die.chance("stays away", 200) ? 0 : 5 + die.small("reconnect", 60) };
}

/** One client. */
export class Bus implements BusProcess {
  readonly name: string;
  readonly die: Die;
  readonly host: Process;
  readonly options: ResolvedBusOptions;
  readonly dispatcher: Dispatcher;
  readonly asker: Asker;
  readonly wire: ReplayWire;
  readonly workers: Worker[];
  isClosing = false;
  isClosed = false;
  readyCalls = 0;
  busyAt = 0;
  calledAt = 0;
  readonly #world: World;

  constructor(world: World, index: number) {
    this.#world = world;
    this.workers = world.shared ?? [];
    this.name = `bus${index}`;
    const die = world.choices.die(this.name);
    this.die = die;
    this.host = new Process(world.time, 100 + index, die);
    const options = { name: this.name, ...chooseOptions(world, die), spin: 0, allowedUids: [], directory: "" };
    this.options = options as unknown as ResolvedBusOptions;
    const isHostile = die.chance("hostile", world.theme === "hostile" ? 300 : 30);
    let made: ReplayWire;
    this.dispatcher = new Dispatcher(
      this.options,
      `t${index}`,
      this.host,
      () => {},
      (events) => (made = new ReplayWire(world.net, this.host, this.options, events, isHostile)),
    );
    this.wire = made!;
    this.asker = askerOf(this);
  }

  get overloaded(): number {
    return this.wire.statistics.counters.overloaded;
  }

  ask(...what: Parameters<Dispatcher["ask"]>): ReturnType<Dispatcher["ask"]> {
    return askOn(this.#world, this, ...what);
  }

  /** Starts a worker in its own process: of this client, or of all clients that share the bus. */
  startWorker(): Worker {
    const { shared, buses } = this.#world;
    const clients = shared ? (buses as Bus[]) : [this];
    const worker = new Worker(this.#world, clients, this.workers.length);
    this.workers.push(worker);
    return worker;
  }

  /** Drains and closes the bus. */
  close(limitMs: number): Promise<void> {
    return closeBus(this.#world, this, limitMs);
  }

  /** Kills the process of the client. */
  kill(): void {
    this.host.kill();
    this.wire.isListening = false;
    for (const { link } of this.wire.all) link.inOrder("worker", 0, () => link.ends.worker!.hungUp(null));
  }
}

/** One worker. */
export class Worker implements WorkerProcess {
  readonly name: string;
  readonly host: Process;
  readonly die: Die;
  readonly receiver: Receiver;
  readonly wire: ReplayWorker;
  isClosing = false;
  readonly #world: World;

  /** `clients`: at least one. */
  constructor(world: World, clients: readonly Bus[], index: number) {
    this.#world = world;
    const [first] = clients as [Bus];
    this.name = `${first.name} worker${index}`;
    const die = world.choices.die(this.name);
    this.die = die;
    this.host = new Process(world.time, (first.host.pid - 99) * 1_000 + index, die);
    const { concurrency, reconnectMs } = chooseWorker(world, die);
    const options = {
      clients: clients.map(({ name }) => name),
      concurrency,
      reconnectMs,
      isHostile: die.chance("hostile", world.theme === "hostile" ? 600 : 40),
    };
    let made: ReplayWorker;
    const events = {
      connected: () => {},
      disconnected: () => {},
      refused: () => {},
      handlerError: (error: unknown) => world.handlerFailed(error),
    };
    this.receiver = new Receiver(this.name, concurrency, this.host, events, (arrivals) => {
      return (made = new ReplayWorker(world.net, this.host, die, options, arrivals));
    });
    this.wire = made!;
    this.wire.open(50).then(
      () => this.receiver.serve(handlerOf(world, die)),
      () => {}, // the bus is gone
    );
  }

  /** Drains and closes the worker. */
  async close(limitMs: number): Promise<void> {
    if (this.isClosing) return;
    this.isClosing = true;
    const until = this.host.now() + limitMs;
    await this.receiver.drain(limitMs);
    const isDrained = this.wire.running === 0 || this.host.now() >= until;
    this.#world.expect(isDrained, `${this.name} was not drained`);
    this.wire.close(new ClosedError(this.name));
    expectNoTimers(this.#world, this.host, this.name);
  }
}
