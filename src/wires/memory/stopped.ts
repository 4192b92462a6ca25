/** Detects clients that are stopped while they hold the places of a full worker. */

import type { Clock, Timer } from "../../clock.ts";

/** Time for which a client may stand still while it holds places that others need, in ms. */
const LIMIT_MS = 10_000;
/** Time between two looks, in ms. */
const LOOK_MS = 1_000;

/** One client, as its worker sees it. */
export interface Occupant {
  /** Whether its requests stream, so that they end only when the client reads or sends. */
  readonly hasStreams: boolean;
  /** Whether the client's event loop has run since the last call. */
  hasTicked(): boolean;
}

/** The clients of one worker. */
export interface Occupants<One extends Occupant> {
  /** Whether the worker is full, with streams among its requests, and has other clients. */
  readonly areWaitedFor: boolean;
  readonly occupants: Iterable<One>;
  /** Ends the session of a client that has stood still for `ms`. */
  end(occupant: One, ms: number): void;
}

/** Looks at the clients of a worker each second while they hold all its places. No timer runs otherwise. */
export class StoppedClients<One extends Occupant> {
  readonly #clock: Clock;
  readonly #worker: Occupants<One>;
  /** For how long each client has stood still, in ms. */
  #still = new Map<One, number>();
  #timer: Timer | null = null;
  /** `clock.now()` of the last look. */
  #lookedAt = 0;

  constructor(clock: Clock, worker: Occupants<One>) {
    this.#clock = clock;
    this.#worker = worker;
  }

  /** Starts to look. Call it when the clients may hold all places. */
  watch(): void {
    if (this.#timer || !this.#worker.areWaitedFor) return;
    for (const occupant of this.#worker.occupants) occupant.hasTicked(); // counts from now on
    this.#lookedAt = this.#clock.now();
    this.#next();
  }

  stop(): void {
    this.#timer?.close();
    this.#timer = null;
    this.#still.clear();
  }

  #next(): void {
    this.#timer = this.#clock.after(LOOK_MS, this.#look);
    this.#timer.unref();
  }

  readonly #look = (): void => {
    if (!this.#worker.areWaitedFor) return this.stop();
    const now = this.#clock.now();
    const ms = Math.min(now - this.#lookedAt, 2 * LOOK_MS); // a later look was delayed by this process
    this.#lookedAt = now;
    const still = new Map<One, number>();
    for (const occupant of this.#worker.occupants) {
      if (!occupant.hasStreams || occupant.hasTicked()) continue;
      still.set(occupant, (this.#still.get(occupant) ?? 0) + ms);
    }
    this.#still = still;
    this.#next();
    for (const [occupant, time] of still) if (time >= LIMIT_MS) this.#worker.end(occupant, time);
  };
}
