/** The workers of a client that are attached by frames, on a bus with or without shared memory. */

import { Arena, HeadWriter } from "../../bus/codec.ts";
import type { Exchange } from "../../bus/exchange.ts";
import { HeadReader } from "../../bus/head.ts";
import type { ResolvedBusOptions } from "../../bus/options.ts";
import { RESPONSE_STRINGS } from "../../bus/response.ts";
import type { WireKind } from "../../bus/via.ts";
import type { Connection, Departure, WireEvents } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { CounterName } from "../../native/statistics.ts";
import { arenaBytes } from "./bodies.ts";
import type { PeerProcess, SocketCompany } from "./company.ts";
import { SocketConnection } from "./connection.ts";
import type { Duplex } from "./duplex.ts";

/** What the members need of their wire. */
export interface MembersOptions {
  readonly wire: WireKind;
  readonly bus: ResolvedBusOptions;
  readonly clock: Clock;
  /** Time after which a worker that answers no ping is reported as `stalled`, in ms. */
  readonly stalledAfter: number;
  /** Id before that of the first connection. */
  readonly lastId: number;
  count(counter: CounterName): void;
  /** Records the time from a request to its response, in ms. */
  roundTrip(ms: number): void;
}

/** A connection for each worker. Its arenas are allocated with the first one. */
export class Members implements SocketCompany {
  readonly wire: WireKind;
  readonly clock: Clock;
  readonly headLimit: number;
  readonly payloadLimit: number;
  readonly stalledAfter: number;
  readonly heads = new HeadWriter();
  readonly answers = new HeadReader(RESPONSE_STRINGS);
  readonly #options: MembersOptions;
  readonly #events: WireEvents;
  #outgoing: Arena | null = null;
  #incoming: Arena | null = null;
  #lastId: number;
  all: readonly SocketConnection[] = [];

  constructor(options: MembersOptions, events: WireEvents) {
    this.wire = options.wire;
    this.clock = options.clock;
    this.headLimit = options.bus.headBytes;
    this.payloadLimit = options.bus.payloadBytes;
    this.stalledAfter = options.stalledAfter;
    this.#options = options;
    this.#events = events;
    this.#lastId = options.lastId;
  }

  get outgoing(): Arena {
    return (this.#outgoing ??= new Arena(new ArrayBuffer(arenaBytes(this.headLimit))));
  }

  get incoming(): Arena {
    return (this.#incoming ??= new Arena(new ArrayBuffer(this.headLimit)));
  }

  count(counter: CounterName): void {
    this.#options.count(counter);
  }

  roundTrip(ms: number): void {
    this.#options.roundTrip(ms);
  }

  room(): void {
    this.#events.room();
  }

  /** Adds a worker. `rest`: frames that came with the last message of its handshake. */
  attach(duplex: Duplex, peer: PeerProcess, concurrency: number, rest: Uint8Array): void {
    const connection = new SocketConnection(this, duplex, ++this.#lastId, peer, concurrency);
    this.all = [...this.all, connection];
    this.#events.joined(connection);
    if (rest.length > 0) connection.read(rest);
  }

  left(connection: Connection, departure: Departure, how: string, had: Exchange[]): void {
    this.all = this.all.filter((one) => one !== connection);
    this.#events.left(connection, departure, how, had);
  }

  /** Checks deadlines and workers, `ms` after the last tick. Returns whether a worker still has a request. */
  tick(ms: number): boolean {
    const now = this.clock.now();
    for (const connection of this.all) {
      connection.expire(now);
      const stalled = connection.watch(ms);
      if (stalled !== null && connection.isOpen) this.#events.stalled(connection, stalled);
    }
    if (this.all.length > 0) this.#events.room();
    return this.all.some(({ load }) => load > 0);
  }

  /** Says goodbye to all. */
  close(): void {
    for (const connection of this.all) connection.leave();
  }
}
