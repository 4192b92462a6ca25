/** The client side of the socket wire, without the C library. */

import { Arena, HeadWriter } from "../../bus/codec.ts";
import type { Exchange } from "../../bus/exchange.ts";
import { HeadReader } from "../../bus/head.ts";
import { RESPONSE_STRINGS } from "../../bus/response.ts";
import type { Connection, Departure, Driven, Wire, WireEvents } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { CounterName } from "../../native/statistics.ts";
import type { ClientParts } from "../module.ts";
import { arenaBytes } from "./bodies.ts";
import type { PeerProcess, SocketCompany } from "./company.ts";
import { SocketConnection } from "./connection.ts";
import type { Duplex } from "./duplex.ts";
import { Listener } from "./listener.ts";
import type { SocketName } from "./name.ts";
import { SocketStatistics } from "./statistics.ts";

/** Longest time between two ticks that counts, in ms: a later tick was delayed by this process, not by a worker. */
const LONGEST_TICK_MS = 40;

/** The wire of a client: a listener, and a connection for each worker. */
export class SocketClient implements Wire, SocketCompany {
  readonly kind = "socket";
  readonly clock: Clock;
  readonly headLimit: number;
  readonly payloadLimit: number;
  readonly stalledAfter: number;
  readonly heads = new HeadWriter();
  readonly answers = new HeadReader(RESPONSE_STRINGS);
  readonly outgoing: Arena;
  readonly incoming: Arena;
  readonly statistics: SocketStatistics;
  readonly #events: WireEvents;
  readonly #listener: Listener;
  #connections: SocketConnection[] = [];
  #lastId = 0;
  /** `clock.now()` of the last tick. */
  #tickedAt = 0;

  /** Listens for workers. @throws `RESOURCE` */
  constructor({ bus, name, tag, clock, stalledAfter }: ClientParts<SocketName>, events: WireEvents) {
    this.clock = clock;
    this.headLimit = bus.headBytes;
    this.payloadLimit = bus.payloadBytes;
    this.stalledAfter = stalledAfter;
    this.outgoing = new Arena(new ArrayBuffer(arenaBytes(bus.headBytes)));
    this.incoming = new Arena(new ArrayBuffer(bus.headBytes));
    this.statistics = new SocketStatistics(clock, bus.slots, () => this.#connections);
    this.#events = events;
    this.#listener = new Listener(clock, name, bus, tag, {
      attached: (duplex, peer, concurrency, rest) => this.#attached(duplex, peer, concurrency, rest),
      refused: (peer, reason) => {
        this.statistics.count("peers_refused");
        events.refused(peer, reason);
      },
      count: () => this.#connections.length,
    });
  }

  driven(): Driven {
    return { wakeups: 0, spinning: "off" };
  }

  count(counter: CounterName): void {
    this.statistics.count(counter);
  }

  roundTrip(ms: number): void {
    this.statistics.roundTrip(ms);
  }

  room(): void {
    this.#events.room();
  }

  #attached(duplex: Duplex, peer: PeerProcess, concurrency: number, rest: Uint8Array): void {
    const connection = new SocketConnection(this, duplex, ++this.#lastId, peer, concurrency);
    this.#connections.push(connection);
    this.#events.joined(connection);
    if (rest.length > 0) connection.read(rest);
  }

  left(connection: Connection, departure: Departure, how: string, had: Exchange[]): void {
    this.#connections = this.#connections.filter((one) => one !== connection);
    this.#events.left(connection, departure, how, had);
  }

  tick(): boolean {
    const now = this.clock.now();
    const ms = Math.min(now - this.#tickedAt, LONGEST_TICK_MS);
    this.#tickedAt = now;
    for (const connection of this.#connections) {
      connection.expire(now);
      const stalled = connection.watch(ms);
      if (stalled !== null && connection.isOpen) this.#events.stalled(connection, stalled);
    }
    this.#events.room();
    return this.#connections.some(({ isBusy }) => isBusy);
  }

  rest(): void {}

  wake(): void {}

  close(): void {
    this.#listener.close();
    for (const connection of this.#connections) connection.leave();
  }

  free(): void {}
}
