/** The client side of a wire of frames, without the C library. */

import type { Driven, Wire, WireEvents } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { WireKind } from "../../bus/via.ts";
import type { ClientParts } from "../module.ts";
import type { HandshakeEvents } from "./handshakes.ts";
import { Members } from "./members.ts";
import { freeKept } from "./rest.ts";
import { SocketStatistics } from "./statistics.ts";

/** Longest time between two ticks that counts, in ms: a later tick was delayed by this process, not by a worker. */
const LONGEST_TICK_MS = 40;

/** Accepts workers until it is closed. */
export interface Accepting {
  /** As {@link Wire.isLinked}. */
  readonly isLinked?: boolean;
  close(): void;
}

/** The wire of a client: a listener, and a connection for each worker. */
export class SocketClient implements Wire {
  readonly kind: WireKind;
  readonly statistics: SocketStatistics;
  readonly #clock: Clock;
  readonly #members: Members;
  readonly #listener: Accepting;
  /** `clock.now()` of the last tick. */
  #tickedAt = 0;

  /** `listen` begins to accept workers. @throws `RESOURCE` */
  constructor(
    kind: WireKind,
    { bus, clock, stalledAfter }: Omit<ClientParts, "name">,
    events: WireEvents,
    listen: (events: HandshakeEvents) => Accepting,
  ) {
    this.kind = kind;
    this.#clock = clock;
    this.statistics = new SocketStatistics(clock, bus.slots, () => this.#members.all);
    const { statistics } = this;
    const count = (counter: Parameters<typeof statistics.count>[0]): void => statistics.count(counter);
    const roundTrip = (ms: number): void => statistics.roundTrip(ms);
    this.#members = new Members({ wire: kind, bus, clock, stalledAfter, lastId: 0, count, roundTrip }, events);
    this.#listener = listen({
      attached: (...worker) => this.#members.attach(...worker),
      refused: (peer, reason) => {
        statistics.count("peers_refused");
        events.refused(peer, reason);
      },
      count: () => this.#members.all.length,
    });
  }

  get isLinked(): boolean | undefined {
    return this.#listener.isLinked;
  }

  driven(): Driven {
    return { wakeups: 0, spinning: "off" };
  }

  tick(): boolean {
    const now = this.#clock.now();
    const ms = Math.min(now - this.#tickedAt, LONGEST_TICK_MS);
    this.#tickedAt = now;
    return this.#members.tick(ms);
  }

  rest(): void {
    freeKept();
  }

  wake(): void {}

  close(): void {
    this.#listener.close();
    this.#members.close();
  }

  free(): void {}
}
