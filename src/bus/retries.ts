/** Exchanges that wait for their second run until it is proved that their first worker has ended: two runs must not overlap. */

import type { Clock } from "../clock.ts";
import type { Exchange } from "./exchange.ts";
import type { Connection } from "./wire.ts";

/** Time between two checks whether a process has ended, in ms. */
const POLL_MS = 2;

/** Polls the process of each first worker. */
export class Retries {
  readonly #clock: Clock;
  readonly #run: (exchange: Exchange) => void;
  /** Each with the connection of its first worker. */
  readonly #waiting = new Map<Exchange, Connection>();

  /** `run` is called when an exchange may run again. An exchange whose timeout is over expires instead. */
  constructor(clock: Clock, run: (exchange: Exchange) => void) {
    this.#clock = clock;
    this.#run = run;
  }

  get all(): Exchange[] {
    return [...this.#waiting.keys()];
  }

  has(exchange: Exchange): boolean {
    return this.#waiting.has(exchange);
  }

  /** Whether an exchange waits for the end of a connection's process. */
  waitFor(connection: Connection): boolean {
    for (const other of this.#waiting.values()) if (other === connection) return true;
    return false;
  }

  add(exchange: Exchange, connection: Connection): void {
    this.#waiting.set(exchange, connection);
    if (this.#waiting.size === 1) this.#clock.after(0, this.#look);
  }

  readonly #look = (): void => {
    const now = this.#clock.now();
    for (const [exchange, connection] of this.#waiting) {
      const isLate = exchange.isLate(now);
      if (!exchange.isSettled && !isLate && !connection.isGone) continue;
      this.#waiting.delete(exchange);
      if (!this.waitFor(connection)) connection.forget();
      if (exchange.isSettled) continue;
      if (isLate) exchange.expired("maybe");
      else this.#run(exchange);
    }
    if (this.#waiting.size > 0) this.#clock.after(POLL_MS, this.#look);
  };
}
