/** The client side of a bus in shared memory: handles the events of all workers, in the turns of one driver. */

import { HeadWriter } from "../../bus/codec.ts";
import { HeadReader } from "../../bus/head.ts";
import type { Exchange } from "../../bus/exchange.ts";
import { RESPONSE_STRINGS } from "../../bus/response.ts";
import type { Departure, Driven, Wire, WireEvents } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import { C } from "../../native/abi.ts";
import { ClientHandle } from "../../native/client.ts";
import type { NameLock } from "../../native/name.ts";
import type { ClientParts } from "../module.ts";
import type { CounterName } from "../../native/statistics.ts";
import { Members } from "../socket/members.ts";
import type { Attachment } from "./attachment.ts";
import type { Company } from "./company.ts";
import { MemoryConnection } from "./connection.ts";
import { BATCH, Contention, SINGLE } from "./contention.ts";
import { Moves } from "./moves.ts";
import { Driver, type Side } from "./driver.ts";
import { Listener } from "./listener.ts";

/** Longest time between two ticks that counts, in ms: a later tick was delayed by this process, not by a worker. */
const LONGEST_TICK_MS = 40;

/** Ids of workers by frames are larger than the ids that the library gives. */
const FRAMED_ID = 0x8000_0000;

/** The wire of a client: one library handle, one listener, one driver; a connection for each worker. */
export class MemoryClient implements Wire, Side, Company<MemoryConnection> {
  readonly kind = "memory";
  readonly client: ClientHandle;
  readonly clock: Clock;
  readonly headLimit: number;
  readonly payloadLimit: number;
  readonly heads = new HeadWriter();
  readonly answers = new HeadReader(RESPONSE_STRINGS);
  awaited = 0;
  readonly #events: WireEvents;
  readonly #stalledAfter: number;
  readonly #driver: Driver;
  readonly #listener: Listener;
  /** Connections by the index of their link. */
  readonly #connections: (MemoryConnection | undefined)[] = [];
  readonly #moves: Moves;
  /** Workers that cannot share memory. */
  readonly #members: Members;
  #isHandling = false;
  /** Connections that end when all events of the current batch are handled. */
  readonly #condemned: MemoryConnection[] = [];
  /** Number of regions, including regions of ended connections whose responses are still lent. */
  #regions = 0;
  /** `clock.now()` of the last tick. */
  #tickedAt = 0;
  #isFree = false;

  /** Listens for workers. @throws `RESOURCE` */
  constructor({ bus, name, tag, clock, stalledAfter }: ClientParts<NameLock>, events: WireEvents) {
    this.clock = clock;
    this.headLimit = bus.headBytes;
    this.payloadLimit = bus.payloadBytes;
    this.#events = events;
    this.#stalledAfter = stalledAfter;
    this.#moves = new Moves(clock, this.#connections, () => events.room());
    this.client = new ClientHandle({ ...bus, tag });
    const count = (counter: CounterName): void => this.client.count(counter);
    this.#members = new Members(
      { wire: "socket", bus, clock, stalledAfter, lastId: FRAMED_ID, count, roundTrip: () => {} },
      events,
    );
    const onContention = (): void => this.client.count("contentions");
    const [single, batch] = [SINGLE, BATCH].map((limits) => new Contention(limits, onContention));
    this.#driver = new Driver(this, bus.spin, clock, single, batch);
    try {
      this.#listener = new Listener(this.client, clock, name, bus, tag, {
        attached: (attachment) => this.#attached(attachment),
        framed: (...worker) => this.#members.attach(...worker),
        bytes: (attachment, bytes) => this.#read(attachment, bytes),
        message: (attachment, type) => this.#of(attachment)?.message(type),
        closed: (attachment) => this.#of(attachment)?.end("ended"),
        refused: (peer, reason) => events.refused(peer, reason),
      });
    } catch (error) {
      this.client.detach();
      this.client.close();
      throw error;
    }
  }

  get statistics(): ClientHandle {
    return this.client;
  }

  driven(): Driven {
    return this.#driver.driven();
  }

  poll(spinNs: number): number {
    const count = this.client.poll(spinNs);
    if (count > 0) {
      if (count > 1) this.#driver.hold(); // several callers may send their next request
      this.#handle(count);
    }
    return count;
  }

  hold(): void {
    this.client.hold();
  }

  ring(): void {
    this.client.ring();
  }

  mayReceive(): boolean {
    return this.awaited > 0;
  }

  park(): boolean {
    return this.client.park();
  }

  unpark(): void {
    this.client.unpark();
  }

  spread(): void {
    this.client.spread();
  }

  /**
   * Handles the events that a poll or a tick found. The library reports an event once, so all are handled before a worker that
   * broke the protocol in one of them is evicted. Runs no user code.
   */
  #handle(count: number): void {
    this.#isHandling = true;
    for (let n = 0; n < count; n++) {
      const event = this.client.read(n);
      const connection = this.#connections[event.link];
      if (!connection || connection.id !== event.life) continue; // the worker has ended since
      try {
        connection.handle(event);
      } catch (cause) {
        connection.evict(`it caused an event that cannot be handled: ${String(cause)}`);
      }
    }
    this.#isHandling = false;
    for (const connection of this.#condemned.splice(0)) connection.end();
    this.room();
  }

  condemn(connection: MemoryConnection): void {
    if (this.#isHandling) this.#condemned.push(connection);
    else connection.end();
  }

  moved(bytes: number, rang: boolean): void {
    this.#moves.watch();
    this.#driver.expect(bytes, rang);
  }

  room(): void {
    if (this.#moves.isShort) this.#moves.look();
    this.#events.room();
  }

  wake(): void {
    this.#driver.wake();
  }

  expire(): void {
    for (let count: number = C.SB_BATCH; count === C.SB_BATCH;) {
      count = this.client.tick();
      if (count > 0) this.#handle(count);
    }
  }

  tick(): boolean {
    this.expire();
    const now = this.clock.now();
    // A late tick was delayed by this process: the workers were observed for one tick only.
    const ms = Math.min(now - this.#tickedAt, LONGEST_TICK_MS);
    this.#tickedAt = now;
    for (const connection of this.#connections) {
      const stalled = connection?.watch(ms, this.#stalledAfter) ?? null;
      if (stalled !== null) this.#events.stalled(connection!, stalled);
    }
    const isFramedBusy = this.#members.tick(ms);
    return isFramedBusy || this.#connections.some((connection) => connection?.isBusy);
  }

  rest(): void {
    for (const connection of this.#connections) connection?.link.trim();
  }

  #attached(attachment: Attachment): void {
    const connection = new MemoryConnection(this, attachment);
    this.#regions++;
    this.#moves.workers++;
    if (this.awaited > 0) this.#moves.watch();
    this.#connections[connection.link.index] = connection;
    this.#driver.wake();
    this.#events.joined(connection);
  }

  #of({ link }: Attachment): MemoryConnection | undefined {
    return this.#connections[link!.index];
  }

  #read(attachment: Attachment, bytes: Uint8Array): void {
    const connection = this.#of(attachment)!;
    let messages = 0;
    const bells = attachment.reader.read(bytes, (type) => {
      messages++;
      connection.message(type);
    });
    if (!connection.isOpen) return;
    if (!connection.link.countBells(bells + messages)) {
      connection.evict(`it rang its doorbell more than ${C.SB_BELLS_PER_SECOND} times per second without work`);
    } else if (bells > 0) this.#driver.ring();
  }

  left(connection: MemoryConnection, departure: Departure, how: string, had: Exchange[]): void {
    this.#connections[connection.link.index] = undefined;
    this.#moves.workers--;
    if (departure === "evicted") this.#listener.remember(connection.attachment);
    this.#events.left(connection, departure, how, had);
  }

  dropped(isUnmapped: boolean): void {
    if (!isUnmapped) this.client.count("held_regions");
    this.#regions--;
    this.#freeIfUnused();
  }

  close(): void {
    this.#driver.stop();
    this.#moves.stop();
    for (const connection of this.#connections) connection?.leave();
    this.#members.close();
    this.#listener.close();
  }

  free(): void {
    this.#isFree = true;
    this.client.detach();
    this.#freeIfUnused();
  }

  #freeIfUnused(): void {
    if (this.#isFree && this.#regions === 0) this.client.close();
  }
}
