/** The client side of the socket wire, without the C library. */

import type { Driven, Wire, WireEvents } from "../../bus/wire.ts";
import type { Clock } from "../../clock.ts";
import type { ClientParts } from "../module.ts";
import { Listener } from "./listener.ts";
import { Members } from "./members.ts";
import type { SocketName } from "./name.ts";
import { freeKept } from "./rest.ts";
import { SocketStatistics } from "./statistics.ts";

/** Longest time between two ticks that counts, in ms: a later tick was delayed by this process, not by a worker. */
const LONGEST_TICK_MS = 40;

/** The wire of a client: a listener, and a connection for each worker. */
export class SocketClient implements Wire {
  readonly kind = "socket";
  readonly statistics: SocketStatistics;
  readonly #clock: Clock;
  readonly #members: Members;
  readonly #listener: Listener;
  /** `clock.now()` of the last tick. */
  #tickedAt = 0;

  /** Listens for workers. @throws `RESOURCE` */
  constructor({ bus, name, tag, clock, stalledAfter }: ClientParts<SocketName>, events: WireEvents) {
    this.#clock = clock;
    this.statistics = new SocketStatistics(clock, bus.slots, () => this.#members.all);
    const { statistics } = this;
    const count = (counter: Parameters<typeof statistics.count>[0]): void => statistics.count(counter);
    const roundTrip = (ms: number): void => statistics.roundTrip(ms);
    this.#members = new Members({ bus, clock, stalledAfter, lastId: 0, count, roundTrip }, events);
    this.#listener = new Listener(clock, name, bus, tag, {
      attached: (...worker) => this.#members.attach(...worker),
      refused: (peer, reason) => {
        statistics.count("peers_refused");
        events.refused(peer, reason);
      },
      count: () => this.#members.all.length,
    });
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
