/**
 * Exchanges whose worker has gone. Idempotent exchanges run again once the process has certainly ended, because two runs must not
 * overlap. The others are rejected; for a process that the bus started, the error has its exit code or signal.
 */

import { type Clock, startTimer } from "../clock.ts";
import { type ExitReport, WorkerDiedError } from "../errors.ts";
import type { WorkerSupply } from "./events.ts";
import type { Exchange } from "./exchange.ts";
import type { Connection } from "./wire.ts";

/** Time between two checks whether a process has ended, in ms. */
const POLL_MS = 2;
/** Longest wait for the exit report of a process after its connection ended, in ms. On a busy machine it comes late. */
const REPORT_MS = 1_000;
/** Such a wait ends with the request's timeout, but lasts at least this long, in ms. */
const LEAST_MS = 100;

/** Polls the process of each first worker until it has ended. */
export class Retries {
  readonly #clock: Clock;
  readonly #run: (exchange: Exchange) => void;
  /** Exchanges that run again, with the connection of the first worker. */
  readonly #waiting = new Map<Exchange, Connection>();
  /** Exchanges that are rejected as soon as the exit report of their worker arrives. */
  readonly #buried = new Set<Exchange>();

  /** `run` is called when an exchange may run again. If its timeout is over, the exchange expires instead. */
  constructor(clock: Clock, run: (exchange: Exchange) => void) {
    this.#clock = clock;
    this.#run = run;
  }

  get all(): Exchange[] {
    return [...this.#waiting.keys(), ...this.#buried];
  }

  has(exchange: Exchange): boolean {
    return this.#waiting.has(exchange) || this.#buried.has(exchange);
  }

  /** Whether an exchange waits for the process of a connection to end. */
  waitFor(connection: Connection): boolean {
    for (const other of this.#waiting.values()) if (other === connection) return true;
    return false;
  }

  add(exchange: Exchange, connection: Connection): void {
    exchange.extra.retried = true;
    this.#waiting.set(exchange, connection);
    if (this.#waiting.size === 1) this.#clock.after(0, this.#look);
  }

  /** Rejects an exchange, at once if no exit report will arrive. `how` continues "Worker pid 7 …". */
  bury(exchange: Exchange, connection: Connection, how: string, supply: WorkerSupply | null): void {
    const { pid } = connection;
    const fail = (report: ExitReport | null): void => {
      this.#buried.delete(exchange);
      exchange.fail(new WorkerDiedError(exchange.id, pid, report ?? how, true));
    };
    const canWait = exchange.kind !== "sync" && !connection.isEvicted;
    const exit = canWait ? supply?.exitOf(connection) : null;
    if (!exit) return fail(null);
    this.#buried.add(exchange);
    const left = exchange.timeoutMs - (this.#clock.now() - exchange.extra.startedAt);
    const timer = startTimer(this.#clock, Math.min(REPORT_MS, Math.max(LEAST_MS, left)), () => fail(null));
    void exit.then((report) => {
      timer.close();
      fail(report);
    });
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
