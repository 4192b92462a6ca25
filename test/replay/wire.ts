/**
 * The replay wire: {@link Wire}, `Connection` and {@link WorkerWire} in one process, in virtual time. All timing and all faults are
 * choices (`choices.ts`), so a world that fails can be run again.
 *
 *     world.ts        clients, workers, calls, faults: real Dispatcher, Exchange, contracts, Receiver and Claim
 *       │
 *     wire.ts         ReplayWire: the client's wire; Net: the wires of a world, and who watches them
 *     connection.ts   one worker in the client: exchanges by slot, reports
 *     link.ts         slots; bells and frames on their way; pipe.ts: bytes of streams on their way
 *     worker-end.ts   one client in the worker: claims by slot
 *     worker.ts       ReplayWorker: the worker's wire
 *
 * A link has one of two personalities:
 *
 *  - **withdraws at once**, as shared memory does. Both sides see one word per slot, and each change of ownership is one step:
 *    ready → claimed → (streaming) → done → free, and ready → free or claimed → abandoned when the caller gives up. Bytes and
 *    responses are visible at once; only the bells are delayed, reordered, doubled or lost. A lost bell is noticed with the next tick.
 *  - **asks**, as a socket does. Each side has its own view of a slot, and frames carry the changes: late, in order, once. To
 *    withdraw is a question: the caller is settled with "maybe" now, and the slot stays taken until the worker's frame arrives. A
 *    request frame that is still in the sender's buffer can be recalled: "no".
 *
 * Faults that the contract of `Wire` permits happen at any report and at any time: see `faults.ts`. The wire checks its callers too:
 * `send` needs room, `withdraw` needs an exchange that the connection carries, and a settled exchange is never sent.
 */

import { Arena, HeadWriter } from "../../src/bus/codec.ts";
import { HeadReader } from "../../src/bus/head.ts";
import type { Exchange } from "../../src/bus/exchange.ts";
import type { ResolvedBusOptions } from "../../src/bus/options.ts";
import { RESPONSE_STRINGS } from "../../src/bus/response.ts";
import type { Statistics } from "../../src/bus/stats.ts";
import type { Departure, Driven, Wire, WireEvents } from "../../src/bus/wire.ts";
import { type CounterName, COUNTERS, type Snapshot } from "../../src/native/statistics.ts";
import type { Choices, Die } from "./choices.ts";
import type { Process } from "./clock.ts";
import { ReplayConnection } from "./connection.ts";
import { Link, type Slot } from "./link.ts";
import { HEAD_BYTES, PAYLOAD_BYTES } from "./sizes.ts";
import { spoil } from "./worker.ts";
import type { WorkerEnd } from "./worker-end.ts";

/** Watches the wires of a world: coverage, books and faults. */
export interface Watch {
  /** A report of a connection, before it is made; or a call of its methods. */
  report(event: string, connection: ReplayConnection, slot: Slot | null, exchange: Exchange | null): void;
  /** An exchange is about to be sent. */
  sent(exchange: Exchange, timeLeft: number): void;
  /** A bell or a frame of a slot arrived at a client, which looks at it soon. */
  arriving(exchange: Exchange | null): void;
  /** A worker is about to claim the request of a slot. */
  taking(end: WorkerEnd, slot: Slot): void;
  /** One side of a link broke the protocol: its data proves nothing from now on. */
  hostile(link: Link): void;
  /** The contract was broken. */
  broken(what: string): void;
}

/** The wires of one world. */
export class Net {
  readonly choices: Choices;
  readonly watch: Watch;
  /** Whether clients may still start. */
  isOpen = true;
  readonly #wires = new Map<string, ReplayWire>();
  #links = 0;

  constructor(choices: Choices, watch: Watch) {
    this.choices = choices;
    this.watch = watch;
  }

  add(name: string, wire: ReplayWire): void {
    this.#wires.set(name, wire);
  }

  /** Attaches a worker to the bus. Returns `null` if there is no such bus. */
  attach(name: string, concurrency: number): Link | null {
    const wire = this.#wires.get(name);
    if (!wire?.isListening) return null;
    const id = ++this.#links;
    return new Link(id, this.choices.die(`link ${id}`), Math.min(concurrency, wire.options.slots), name);
  }

  /** Joins the two ends of a link. The client hears about it later. */
  join(link: Link, worker: WorkerEnd): void {
    const wire = this.#wires.get(link.bus)!;
    const connection = new ReplayConnection(wire, link, worker.host);
    link.ends.worker = worker;
    link.ends.client = connection;
    wire.expect(connection);
  }
}

class Counters implements Statistics {
  readonly counters = Object.fromEntries(Object.keys(COUNTERS).map((name) => [name, 0])) as Record<CounterName, number>;
  queued = 0;
  unsettled = 0;

  count(counter: CounterName, by = 1): void {
    this.counters[counter] += by;
  }

  sample(queued: number, unsettled: number): void {
    this.queued = queued;
    this.unsettled = unsettled;
  }

  snapshot(): Snapshot {
    const { counters, queued, unsettled } = this;
    const empty = { pid: 0, slots: 0, ageMs: 0, silentMs: 0, workers: [], roundTrips: [], roundTripSum: 0 };
    return { ...empty, counters: { ...counters }, queued, unsettled };
  }
}

/** The client side. */
export class ReplayWire implements Wire {
  readonly kind = "memory";
  readonly statistics = new Counters();
  readonly heads = new HeadWriter();
  readonly answers = new HeadReader(RESPONSE_STRINGS);
  readonly arena = new Arena(new ArrayBuffer(HEAD_BYTES + PAYLOAD_BYTES));
  readonly replies = new Arena(new ArrayBuffer(HEAD_BYTES));
  readonly host: Process;
  readonly options: ResolvedBusOptions;
  isListening = true;
  /** Attached workers. */
  readonly connections = new Set<ReplayConnection>();
  /** All connections so far. */
  readonly all: ReplayConnection[] = [];
  readonly #net: Net;
  readonly #events: WireEvents;
  readonly #die: Die;
  readonly #isHostile: boolean;
  readonly #stalledAfter: number;
  #inbox: { connection: ReplayConnection; slot: Slot; frame: (() => void) | null }[] = [];
  #isPollDue = false;
  #isHandling = false;
  readonly #condemned: ReplayConnection[] = [];

  constructor(net: Net, host: Process, options: ResolvedBusOptions, events: WireEvents, isHostile: boolean) {
    this.#net = net;
    this.host = host;
    this.options = options;
    this.#events = events;
    this.#die = net.choices.die(`wire ${options.name}`);
    this.#isHostile = isHostile;
    this.#stalledAfter = 40;
    net.add(options.name, this);
  }

  get watch(): Watch {
    return this.#net.watch;
  }

  driven(): Driven {
    return { wakeups: 0, spinning: "off" };
  }

  /** A worker attaches: the dispatcher hears about it soon. */
  expect(connection: ReplayConnection): void {
    this.all.push(connection);
    connection.link.inOrder("client", this.#die.small("joined", 10), () => {
      if (!this.isListening) {
        connection.isOpen = false;
        const { worker } = connection.link.ends;
        connection.link.inOrder("worker", 0, () => (worker as WorkerEnd).hungUp(null));
        return;
      }
      if (!connection.isOpen) return;
      connection.wasJoined = true;
      this.connections.add(connection);
      this.watch.report("joined", connection, null, null);
      this.#events.joined(connection);
    });
  }

  /** Returns the head of a request, which a hostile client may have changed. */
  maybeSpoiled(head: Uint8Array, link: Link): Uint8Array {
    if (!this.#isHostile || !this.#die.chance("malformed head", 60)) return head;
    this.watch.hostile(link);
    return spoil(head, this.#die);
  }

  // ---- events ---------------------------------------------------------------------------------------------------------

  received(connection: ReplayConnection, slot: Slot, frame: (() => void) | null): void {
    this.#inbox.push({ connection, slot, frame });
    this.wake();
    this.watch.arriving(connection.places[slot.index]!.exchange);
  }

  wake(): void {
    if (this.#isPollDue) return;
    this.#isPollDue = true;
    const poll = (): void => {
      this.#isPollDue = false;
      this.#poll();
    };
    const ms = this.#die.small("poll", 8);
    if (ms === 0) this.host.immediate(poll);
    else this.host.later(ms / 4, poll);
  }

  /** Handles a batch: evicted workers end after all of it. */
  #poll(): void {
    const inbox = this.#inbox;
    this.#inbox = [];
    this.#handle(() => {
      for (const { connection, slot, frame } of inbox) {
        if (connection.isOpen) frame?.();
        connection.look(slot);
      }
    });
  }

  #handle(run: () => void): void {
    this.#isHandling = true;
    run();
    this.#isHandling = false;
    if (this.#condemned.length > 0) for (const connection of this.#condemned.splice(0)) connection.end();
    this.#events.room();
  }

  condemn(connection: ReplayConnection): void {
    if (this.#isHandling) this.#condemned.push(connection);
    else connection.end();
  }

  room(): void {
    this.#events.room();
  }

  left(connection: ReplayConnection, departure: Departure, how: string, had: readonly Exchange[]): void {
    this.connections.delete(connection);
    this.#events.left(connection, departure, how, had);
  }

  // ---- time -----------------------------------------------------------------------------------------------------------

  tick(): boolean {
    const now = this.host.now();
    this.#handle(() => {
      for (const connection of this.connections) for (const slot of connection.link.slots) connection.expire(slot, now);
    });
    for (const connection of this.connections) {
      const stalled = connection.watch(this.#stalledAfter);
      if (stalled !== null) this.#events.stalled(connection, stalled);
    }
    return [...this.connections].some(({ isBusy }) => isBusy);
  }

  rest(): void {}

  close(): void {
    this.isListening = false;
    for (const connection of this.connections) connection.leave();
  }

  free(): void {}
}
