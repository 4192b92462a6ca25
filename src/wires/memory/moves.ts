/** Takes requests back from workers that do not claim them, so that the dispatcher sends them to other workers. */

import type { Exchange } from "../../bus/exchange.ts";
import type { Clock, Timer } from "../../clock.ts";
import { C } from "../../native/abi.ts";
import type { MemoryConnection } from "./connection.ts";

/** Time for which a worker may leave a request unclaimed while other workers have room, in ms; also the time between two looks. */
const PATIENCE_MS = 2;

const found = new Uint32Array(C.SB_SLOTS_MAX + 1);

/** Looks for unclaimed requests every 2 ms while there are any. */
export class Moves {
  /** Number of attached workers. With one worker, there is no timer. */
  workers = 0;
  /** Whether requests wait behind a doubtful worker because the others have no room. */
  isShort = false;
  readonly #clock: Clock;
  readonly #connections: readonly (MemoryConnection | undefined)[];
  readonly #moved: () => void;
  #timer: Timer | null = null;
  /** `clock.now()` when the timer was started. */
  #startedAt = 0;

  /** `connections` may change later. `moved` is called after exchanges returned to the queue. */
  constructor(clock: Clock, connections: readonly (MemoryConnection | undefined)[], moved: () => void) {
    this.#moved = moved;
    this.#clock = clock;
    this.#connections = connections;
  }

  /** Makes sure that a look follows. Called after each request was sent. */
  watch(): void {
    if (this.#timer === null && this.workers > 1) this.#start();
  }

  #start(): void {
    this.#startedAt = this.#clock.now();
    this.#timer = this.#clock.after(PATIENCE_MS, this.#onTimer);
  }

  stop(): void {
    this.#timer?.close();
    this.workers = 0;
  }

  readonly #onTimer = (): void => {
    this.#timer = null;
    const ms = this.#clock.now() - this.#startedAt;
    // After a late look, this process was blocked: it may have rung the bell of its last requests only just now.
    if (this.look(ms < 2 * PATIENCE_MS ? PATIENCE_MS : ms + 1, true)) this.watch();
    this.#moved();
  };

  /**
   * Takes back the requests that have been unclaimed for `ms` while other workers have room, the oldest first. `isTimed`: workers
   * with such requests become doubtful. Otherwise only workers that were doubtful before lose requests. Returns whether to look
   * again: a request is unclaimed, or a worker may become silent.
   */
  look(ms = PATIENCE_MS, isTimed = false): boolean {
    const late: Exchange[] = [];
    let room = 0;
    let isWaiting = false;
    for (const connection of this.#connections) {
      if (!connection) continue;
      const count = connection.load === 0 ? 0 : connection.link.waits(ms, found);
      if (connection.load > 0 && found[0]! > 0) isWaiting = true;
      if (isTimed && connection.stall.observe(connection.load > 0)) isWaiting = true;
      if (count > 0 && isTimed) connection.stall.suspect();
      if (!connection.isDoubtful) room += connection.room;
      else
        for (let i = 1; i <= count; i++) {
          const exchange = connection.exchanges[found[i]!];
          if (exchange?.isMovable) late.push(exchange);
        }
    }
    this.isShort = late.length > room;
    late.sort((a, b) => b.serial - a.serial);
    for (let i = Math.max(0, late.length - room); i < late.length; i++) {
      const exchange = late[i]!;
      (exchange.carrier as MemoryConnection).recall(exchange); // newest first: each goes to the front of the queue
    }
    return isWaiting;
  }
}
