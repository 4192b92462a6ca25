/** A client and its workers, as the world starts them. */

import { Dispatcher } from "../../src/bus/dispatcher.ts";
import type { ResolvedBusOptions } from "../../src/bus/options.ts";
import { Receiver } from "../../src/bus/receiver.ts";
import { ClosedError } from "../../src/errors.ts";
import type { Die } from "./choices.ts";
import { Process } from "./clock.ts";
import { handlerOf } from "./contracts.ts";
import { HEAD_BYTES, PAYLOAD_BYTES } from "./sizes.ts";
import { ReplayWire } from "./wire.ts";
import { ReplayWorker } from "./worker.ts";
import type { World } from "./world.ts";

/** One client. */
export class Bus {
  readonly name: string;
  readonly die: Die;
  readonly host: Process;
  readonly options: ResolvedBusOptions;
  readonly dispatcher: Dispatcher;
  readonly wire: ReplayWire;
  readonly workers: Worker[] = [];
  isClosing = false;
  isClosed = false;
  readonly #world: World;

  constructor(world: World, index: number) {
    this.#world = world;
    this.name = `bus${index}`;
    const die = world.choices.die(this.name);
    this.die = die;
    this.host = new Process(world.time, 100 + index, die);
    this.options = {
      name: this.name,
      slots: 4,
      payloadBytes: PAYLOAD_BYTES,
      headBytes: HEAD_BYTES,
      inlineBytes: 64,
      timeout: [300, 900, 120][die.small("timeout", 3)]!,
      queue: {
        limit: [100, 4, 20][die.small("queue", 3)]!,
        policy: die.chance("queue waits", 200) ? "wait" : "reject",
      },
      spin: 0,
      allowedUids: [],
      directory: "",
    } as unknown as ResolvedBusOptions;
    const isHostile = die.chance("hostile", 30);
    let made: ReplayWire;
    this.dispatcher = new Dispatcher(
      this.options,
      `t${index}`,
      this.host,
      () => {},
      (events) => (made = new ReplayWire(world.net, this.host, this.options, events, isHostile)),
    );
    this.wire = made!;
  }

  /** Starts a worker in its own process. */
  startWorker(): Worker {
    const worker = new Worker(this.#world, this, this.workers.length);
    this.workers.push(worker);
    return worker;
  }

  /** Drains and closes the bus. */
  async close(limitMs: number): Promise<void> {
    if (this.isClosing) return;
    this.isClosing = true;
    const until = this.host.now() + limitMs;
    await this.dispatcher.drain(limitMs);
    const isDrained = this.dispatcher.unsettled.count === 0 || this.host.now() >= until;
    this.#world.expect(isDrained, `${this.name} was not drained`);
    this.#world.closing(this);
    await this.dispatcher.close();
    this.isClosed = true;
  }

  /** Kills the process of the client. */
  kill(): void {
    this.host.kill();
    this.wire.isListening = false;
    for (const { link } of this.wire.all) link.inOrder("worker", 0, () => link.ends.worker!.hungUp(null));
  }
}

/** One worker. */
export class Worker {
  readonly name: string;
  readonly host: Process;
  readonly die: Die;
  readonly receiver: Receiver;
  readonly wire: ReplayWorker;
  isClosing = false;
  readonly #world: World;

  constructor(world: World, bus: Bus, index: number) {
    this.#world = world;
    this.name = `${bus.name} worker${index}`;
    const die = world.choices.die(this.name);
    this.die = die;
    this.host = new Process(world.time, (bus.host.pid - 99) * 1_000 + index, die);
    const concurrency = 1 + die.below("concurrency", 4);
    const options = {
      bus: bus.name,
      concurrency,
      reconnectMs: die.chance("stays away", 200) ? 0 : 5 + die.small("reconnect", 60),
      isHostile: die.chance("hostile", 40),
    };
    let made: ReplayWorker;
    const events = {
      connected: () => {},
      disconnected: () => {},
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
  }
}
