/** The worker side of a wire of frames: attaches to the clients of its bus, and takes their requests in turns. */

import { backoff, type Backoff } from "../../backoff.ts";
import type { RequestName } from "../../bus/claim.ts";
import { Turns } from "../../bus/turns.ts";
import type { ResolvedWorkerOptions } from "../../bus/worker-options.ts";
import type { WireKind } from "../../bus/via.ts";
import type { Arrivals, Driven, WorkerWire } from "../../bus/wire.ts";
import { type Clock, sleep } from "../../clock.ts";
import { BusNotFoundError, ClosedError, SlotbusError } from "../../errors.ts";
import { needsMemory } from "../../errors/plain.ts";
import type { FinderEvents, Finding } from "./finder.ts";
import type { Attached } from "./join.ts";
import { type SocketSide, SocketWorkerConnection, Totals } from "./worker-connection.ts";

/** Pauses between attempts of a worker that waits for its bus, in ms. */
const ATTEMPTS: Backoff = { initial: 10, max: 100 };

/** The wire of a worker: a connection to each client of its bus. */
export class SocketWorker implements WorkerWire, SocketSide {
  readonly totals = new Totals();
  readonly #options: ResolvedWorkerOptions;
  readonly #clock: Clock;
  readonly #turns: Turns;
  readonly #arrivals: Arrivals;
  readonly #kind: WireKind;
  /** Where clients are looked for, for errors. */
  readonly #place: string;
  readonly #finder: Finding;
  #connections: SocketWorkerConnection[] = [];
  /** Index of the connection that is asked first for the next request. */
  #next = 0;
  #isListening = false;
  #isDraining = false;
  #isClosed = false;
  /** Whether it tries to attach again. */
  #isSearching = false;
  #isTaking = false;
  /** Called when there is a new connection. */
  #adopted: () => void = () => {};
  hasEnded = false;

  constructor(
    kind: WireKind,
    place: string,
    options: ResolvedWorkerOptions,
    clock: Clock,
    arrivals: Arrivals,
    find: (events: FinderEvents) => Finding,
  ) {
    this.#kind = kind;
    this.#place = place;
    this.#options = options;
    this.#clock = clock;
    this.#turns = new Turns(clock);
    this.#arrivals = arrivals;
    this.#finder = find({
      attached: (address, ...session) => this.#adopt(address, ...session),
      refused: (error) => {
        if (this.isConnected) arrivals.refused(error);
      },
    });
  }

  get isConnected(): boolean {
    return this.#connections.length > 0;
  }

  get running(): number {
    return this.totals.running;
  }

  driven(): Driven {
    return { wakeups: 0, spinning: "off" };
  }

  async open(waitMs: number, tried?: () => void): Promise<void> {
    const { name } = this.#options;
    const started = this.#clock.now();
    const first = (error: SlotbusError | null): void => {
      if (this.isConnected || (error?.retryable && waitMs > 0)) tried?.();
    };
    for (let attempt = 0; ; attempt++) {
      const error = await this.#finder.look(attempt === 0 ? first : undefined);
      if (this.isConnected) return;
      const waited = this.#clock.now() - started;
      if (error !== null && (!error.retryable || waited >= waitMs)) {
        this.#shut();
        throw error instanceof BusNotFoundError ? new BusNotFoundError(name, this.#place, waited) : error;
      }
      await this.#waitForClient(Math.min(backoff(attempt, ATTEMPTS, this.#clock.random), waitMs - waited));
      if (this.isConnected) return;
    }
  }

  /** Waits for up to `ms`, or until the worker is attached. */
  async #waitForClient(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#adopted = resolve;
    const timer = this.#clock.after(ms, resolve);
    await promise;
    timer.close();
  }

  #adopt(address: string, ...[duplex, welcome, rest]: Parameters<Attached>): void {
    const connection = new SocketWorkerConnection(this, duplex, address, welcome, this.#turns);
    this.#connections.push(connection);
    if (!this.#isListening) duplex.unref();
    if (this.#isDraining) connection.drain();
    this.#adopted();
    this.#clock.immediate(() => this.#arrivals.connected()); // after `open` has returned the worker
    if (rest.length > 0) duplex.onData(rest);
  }

  listen(): void {
    this.#isListening = true;
    for (const connection of this.#connections) connection.ref();
    this.arrived();
  }

  // ---- reports of connections -----------------------------------------------------------------------------------------

  arrived(): void {
    if (this.#isTaking) return;
    this.#isTaking = true;
    while (this.#arrivals.canTake) {
      const connection = this.#choose();
      if (!connection) break;
      this.#arrivals.arrived(connection.take(this.#clock.now()));
    }
    this.#isTaking = false;
  }

  /** Returns the next connection with a request, in turns. */
  #choose(): SocketWorkerConnection | null {
    const all = this.#connections;
    for (let n = 0; n < all.length; n++) {
      const index = (this.#next + n) % all.length;
      if (!all[index]!.hasWaiting) continue;
      this.#next = index + 1;
      return all[index]!;
    }
    return null;
  }

  answered(): void {
    this.#arrivals.answered();
    this.arrived();
  }

  failedLate(request: RequestName, error: unknown): void {
    this.#arrivals.failedLate(request, error);
  }

  lost(connection: SocketWorkerConnection, cause: SlotbusError): void {
    if (!this.#connections.includes(connection)) return;
    const reason = this.#reasonOf(cause);
    this.#detach(connection, reason, false);
    const { reconnect } = this.#options;
    const isLast = !this.isConnected;
    this.hasEnded = isLast && (!reconnect || this.#isClosed || this.#isDraining);
    if (this.hasEnded) this.#shut();
    this.#arrivals.disconnected(reason);
    if (this.#isClosed || this.#isDraining) return;
    // The client's successor may have come before its end was known.
    if (!isLast) void this.#finder.look();
    else if (reconnect && !this.#isSearching) void this.#attachAgain(reconnect);
  }

  #reasonOf(cause: SlotbusError): SlotbusError {
    const { name } = this.#options;
    if (cause.code === "CLOSED") return new ClosedError(`The client of bus "${name}"`, { retryable: true });
    if (cause.code === "EVICTED")
      return new SlotbusError("EVICTED", `Bus "${name}" evicted this worker: ${cause.message}.`);
    return cause;
  }

  #detach(connection: SocketWorkerConnection, reason: SlotbusError, saysGoodbye: boolean): void {
    this.#connections = this.#connections.filter((one) => one !== connection);
    connection.close(reason, saysGoodbye);
    this.#finder.left(connection.address);
  }

  async #attachAgain(pauses: Backoff): Promise<void> {
    this.#isSearching = true;
    for (let attempt = 0; !this.isConnected && !this.#isClosed && !this.#isDraining; attempt++) {
      await sleep(this.#clock, backoff(attempt, pauses, this.#clock.random));
      if (!this.isConnected && !this.#isClosed) await this.#finder.look();
    }
    this.#isSearching = false;
    if (this.isConnected) return;
    this.hasEnded = true;
    this.#shut();
  }

  block(): void {
    throw needsMemory("serveSync", this.#kind);
  }

  drain(): void {
    if (!this.#isDraining) for (const connection of this.#connections) connection.drain();
    this.#isDraining = true;
  }

  close(reason: SlotbusError): void {
    this.#shut();
    for (const connection of this.#connections) this.#detach(connection, reason, true);
  }

  /** Attaches to no more clients. */
  #shut(): void {
    this.#isClosed = true;
    this.#finder.close();
  }
}
