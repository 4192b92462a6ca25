/** Publishes events that prove themselves. The books record each event before and after its publication. */

import type { EventBus, Fleet, Ring } from "../../../src/events/index.ts";
import { FleetBusyError } from "../../../src/errors.ts";
import { leakSome } from "../memory.ts";
import type { Random } from "../soak/request-books.ts";
import type { FleetBooks } from "./fleet-books.ts";
import { bytesOf, eventOf, FIRST_BUS, RINGS } from "./payloads.ts";

export interface WriteOrder {
  /** Numbers of the rings. */
  rings: number[];
  /** Most events without a turn of the event loop. */
  burst: number;
  /** Longest pause between two bursts, in ms. */
  pauseMs: number;
}

export class Writer {
  readonly #life: number;
  readonly #books: FleetBooks;
  readonly #rings: Ring[];
  readonly #buses: (EventBus | null)[];
  /** Number of the next event, by ring. */
  readonly #next: number[] = RINGS.map(() => 0);
  #running = false;

  constructor(fleet: Fleet, books: FleetBooks, life: number, busOf: (ring: number) => EventBus) {
    this.#life = life;
    this.#books = books;
    this.#rings = RINGS.map(({ name }) => fleet.ring(name));
    this.#buses = RINGS.map((_, ring) => (ring < FIRST_BUS ? null : busOf(ring)));
  }

  /** Publishes one event. `false`: a stopped writer holds the lock, and nothing was published. */
  publish(ring: number): boolean {
    const number = this.#next[ring]!;
    leakSome();
    const bus = this.#buses[ring];
    const told = bus ? eventOf(this.#life, number, ring) : null;
    const bytes = bus ? null : bytesOf(this.#life, number, ring);
    this.#books.doing(this.#life, "publishing");
    this.#books.intend(this.#life, ring, number + 1);
    try {
      if (told) bus!.publish(told.topic, told.payload, { attributes: told.attributes, id: told.id });
      else this.#rings[ring]!.publish(bytes!, { kind: number });
    } catch (error) {
      if (!(error instanceof FleetBusyError)) throw error;
      this.#books.intend(this.#life, ring, number);
      this.#books.count("busy");
      return false;
    } finally {
      this.#books.doing(this.#life, "idle");
    }
    this.#books.did(this.#life, ring, number + 1);
    this.#next[ring] = number + 1;
    return true;
  }

  /** Publishes at random, until {@link stop}. Publishes nothing near a quiet point. */
  async run({ rings, burst, pauseMs }: WriteOrder, random: Random): Promise<void> {
    this.#running = true;
    while (this.#running) {
      const ring = random.pick(rings);
      for (let left = 1 + random.below(burst); left > 0 && this.#books.hurry < 2; left--) {
        if (!this.publish(ring)) break;
      }
      await Bun.sleep(random.below(pauseMs + 1));
    }
  }

  stop(): void {
    this.#running = false;
  }
}
