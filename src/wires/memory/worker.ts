/** The worker side in shared memory: attaches to the clients of its bus, and polls the connections. */

import type { SocketHandler, UnixSocketOptions } from "bun";
import { backoff, type Backoff } from "../../backoff.ts";
import type { RequestName } from "../../bus/claim.ts";
import type { WorkerRequest } from "../../bus/request.ts";
import { DEFAULT_SPIN_US } from "../../bus/options.ts";
import { Turns } from "../../bus/turns.ts";
import type { ResolvedWorkerOptions } from "../../bus/worker-options.ts";
import type { Arrivals, Driven, WorkerWire } from "../../bus/wire.ts";
import { type Clock, sleep } from "../../clock.ts";
import { ClosedError, BusNotFoundError, SlotbusError } from "../../errors.ts";
import { C } from "../../native/abi.ts";
import { Sessions } from "../../native/sessions.ts";
import type { WorkerHandle } from "../../native/worker.ts";
import { Attacher } from "./attacher.ts";
import { Driver, type Side } from "./driver.ts";
import { type Occupants, StoppedClients } from "./stopped.ts";
import { Totals, WorkerConnection, type WorkerConnectionEvents } from "./worker-connection.ts";

/** Largest number of requests taken in one poll. */
const BATCH = 64;
/** Pauses between attempts of a worker that waits for its bus, in ms. */
const ATTEMPTS: Backoff = { initial: 10, max: 100 };
const utf8 = new TextDecoder();

/** The wire of a worker: a connection to each client of its bus, one driver. */
export class MemoryWorker implements WorkerWire, Side, WorkerConnectionEvents, Occupants<WorkerConnection> {
  readonly #options: ResolvedWorkerOptions;
  readonly #clock: Clock;
  readonly #turns: Turns;
  readonly #arrivals: Arrivals;
  readonly #driver: Driver;
  readonly #sessions = new Sessions();
  readonly #attacher: Attacher;
  readonly #totals = new Totals();
  readonly #stopped: StoppedClients<WorkerConnection>;
  /** Connections by the index of their session. */
  readonly #connections: (WorkerConnection | undefined)[] = [];
  /** Number of connections. */
  #count = 0;
  /** Whether requests are taken from the event loop. */
  #isListening = false;
  #isDraining = false;
  #isClosed = false;
  /** Whether it tries to attach again. */
  #isSearching = false;
  /** Called when there is a new session. */
  #adopted: () => void = () => {};
  hasEnded = false;

  constructor(options: ResolvedWorkerOptions, clock: Clock, arrivals: Arrivals) {
    this.#options = options;
    this.#clock = clock;
    this.#turns = new Turns(clock);
    this.#arrivals = arrivals;
    this.#driver = new Driver(this, options.spin, clock);
    this.#stopped = new StoppedClients(clock, this);
    this.#attacher = new Attacher(options, clock, {
      attached: (handle, address) => this.#adopt(handle, address),
      refused: (error) => this.#refused(error),
    });
  }

  get isConnected(): boolean {
    return this.#count > 0;
  }

  get running(): number {
    return this.#totals.running;
  }

  driven(): Driven {
    return this.#driver.driven();
  }

  poll(spinNs: number): number {
    const sessions = this.#sessions;
    const now = this.#clock.now();
    let taken = 0;
    while (taken < BATCH && this.#count > 0) {
      const { canTake } = this.#arrivals;
      if (!canTake) {
        if (this.#totals.streams === 0) break;
        this.#stopped.watch();
      }
      const found = sessions.take(taken === 0 ? spinNs : 0, canTake);
      if (found === "none") break;
      const isLast = taken === 0 && !sessions.hasMore();
      const connection = this.#connections[sessions.index]!;
      if (found === "ended") {
        this.#broken(
          connection,
          new SlotbusError("PROTOCOL", "The client published a request with an invalid length."),
        );
        continue;
      }
      if (found === "taken") {
        const request = this.#take(connection, now);
        if (!request) continue;
        if (taken === 0 && !isLast) this.#driver.hold();
        this.#arrivals.arrived(request);
      } else {
        if (taken === 0 && !isLast) this.#driver.hold();
        connection.moved();
      }
      taken++;
      if (isLast) break; // the microtasks run first
    }
    return taken;
  }

  /** Returns the request that a connection claimed; `null` if the client broke the protocol. */
  #take(connection: WorkerConnection, now: number): WorkerRequest | null {
    try {
      return connection.take(now);
    } catch (cause) {
      this.#broken(connection, cause);
      return null;
    }
  }

  #broken(connection: WorkerConnection, cause: unknown): void {
    this.#lost(connection, new SlotbusError("REGION_CORRUPT", `${this.#client} broke the protocol.`, { cause }));
  }

  hold(): void {
    this.#sessions.hold();
  }

  ring(): void {
    this.#sessions.ring();
  }

  mayReceive(): boolean {
    return this.#count > 0 && (this.#arrivals.canTake || this.#totals.streams > 0);
  }

  park(): boolean {
    this.#sessions.spins(this.#driver.driven().spinning);
    return this.#sessions.park(this.#arrivals.canTake);
  }

  unpark(): void {
    this.#sessions.unpark();
  }

  spread(): void {
    this.#sessions.spread();
  }

  answered(bytes: number): void {
    this.#driver.expect(bytes, false); // a caller that gets a response may send another request
    this.#arrivals.answered();
    if (this.#totals.streams > 0 && !this.#arrivals.canTake) this.#stopped.watch();
    // What other clients published while this worker was full rang its bell then.
    const hasRoomAgain = this.#count > 1 && this.#totals.running === this.#options.concurrency - 1;
    if (hasRoomAgain && this.#sessions.hasMore()) this.#driver.wake();
  }

  get areWaitedFor(): boolean {
    return this.#count > 1 && this.#totals.streams > 0 && !this.#arrivals.canTake;
  }

  get occupants(): Iterable<WorkerConnection> {
    return this.#open;
  }

  end(connection: WorkerConnection, ms: number): void {
    const what = `Client ${connection.address} has been stopped or blocked for ${(ms / 1_000).toFixed(0)} s`;
    this.#lost(connection, new SlotbusError("CLIENT_STOPPED", `${what} with streams at this worker, which is full.`));
  }

  corrupt(connection: WorkerConnection, slot: number): void {
    const what = `${this.#client} wrote invalid counts into the rings of slot ${slot}.`;
    this.#lost(connection, new SlotbusError("REGION_CORRUPT", what));
  }

  failedLate(request: RequestName, error: unknown): void {
    this.#arrivals.failedLate(request, error);
  }

  #refused(error: SlotbusError): void {
    if (this.#count > 0) this.#arrivals.refused(error);
  }

  async open(waitMs: number, tried?: () => void): Promise<void> {
    const { name, directory } = this.#options;
    const started = this.#clock.now();
    const first = (error: SlotbusError | null): void => {
      if (this.#count > 0 || (error?.retryable && waitMs > 0)) tried?.();
    };
    for (let attempt = 0; ; attempt++) {
      const error = await this.#attacher.look(attempt === 0 ? first : undefined);
      if (this.#count > 0) return;
      const waited = this.#clock.now() - started;
      if (error !== null && (!error.retryable || waited >= waitMs)) {
        this.#shut();
        throw error instanceof BusNotFoundError ? new BusNotFoundError(name, directory, waited) : error;
      }
      if (waitMs === Infinity) this.#attacher.expect();
      await this.#waitForClient(Math.min(backoff(attempt, ATTEMPTS, this.#clock.random), waitMs - waited));
      if (this.#count > 0) return;
    }
  }

  /** Waits for up to `ms`, or until a client that knocked has a session. */
  async #waitForClient(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#adopted = resolve;
    const timer = this.#clock.after(ms, resolve);
    await promise;
    timer.close();
  }

  #adopt(handle: WorkerHandle, address: string): void {
    const index = this.#sessions.add(handle);
    const connection = new WorkerConnection(handle, address, index, this.#totals, this.#turns, this);
    this.#connections[index] = connection;
    this.#count++;
    if (this.#isDraining) connection.writer.send(C.SB_MSG_DRAIN);
    if (this.#isListening) this.#listen(connection);
    this.#driver.wake();
    this.#adopted();
    this.#clock.immediate(() => this.#arrivals.connected()); // after `open` has returned the worker
  }

  listen(): void {
    this.#isListening = true;
    for (const connection of this.#open) if (!connection.socket) this.#listen(connection);
    this.#driver.wake();
  }

  /** The connections that are open. */
  get #open(): WorkerConnection[] {
    return this.#connections.filter((connection) => connection !== undefined);
  }

  /** Registers the control socket with the event loop; the library continues to write to it. */
  #listen(connection: WorkerConnection): void {
    connection.handle.loops();
    const socket: SocketHandler<undefined> = {
      open: (opened) => {
        connection.socket = opened;
      },
      data: (_, bytes) => this.#read(connection, bytes),
      close: () => this.#lost(connection, this.#ended(connection)),
      error: () => {}, // `close` follows
    };
    // Bun accepts a connected descriptor, although its types allow only addresses.
    const options = { fd: connection.handle.fd, socket } as unknown as UnixSocketOptions<undefined>;
    Bun.connect(options).catch((cause) => {
      this.#lost(connection, new SlotbusError("RESOURCE", "Cannot watch the control socket.", { cause }));
    });
  }

  #read(connection: WorkerConnection, bytes: Uint8Array): void {
    if (!connection.isOpen) return;
    let idle = 0;
    const bells = connection.reader.read(bytes, (type, body) => {
      if (!this.#message(connection, type, body)) idle++;
    });
    if (!connection.isOpen) return;
    if (!connection.handle.countBells(bells + idle)) {
      const what = `sent more than ${C.SB_BELLS_PER_SECOND} bells or messages per second without work`;
      this.#lost(connection, new SlotbusError("PROTOCOL", `${this.#client} ${what}.`));
    } else if (bells > 0) this.#driver.ring();
  }

  /** Handles a message. Returns whether it cancelled a running request. */
  #message(connection: WorkerConnection, type: number, body: Uint8Array): boolean {
    if (type === C.SB_MSG_GOODBYE) {
      connection.evictedFor = utf8.decode(body).replace(/\p{Cc}/gu, "?"); // `close` follows
      return false;
    }
    const cancelled = type === C.SB_MSG_CANCEL ? connection.cancel(body) : "malformed";
    if (cancelled === "malformed")
      this.#lost(
        connection,
        new SlotbusError("PROTOCOL", `${this.#client} sent an unexpected message of type ${type}.`),
      );
    return cancelled === "cancelled";
  }

  /** Returns the reason why the client closed the socket. */
  #ended({ evictedFor }: WorkerConnection): SlotbusError {
    if (evictedFor === "") return new ClosedError(this.#client, { retryable: true });
    const message = `Bus "${this.#options.name}" evicted this worker: ${evictedFor}.`;
    return new SlotbusError("EVICTED", message);
  }

  /** Reports that a connection has ended. If it was the last and `reconnect` is on, attaches again. */
  #lost(connection: WorkerConnection, reason: SlotbusError, isBlocking = false): void {
    if (this.#connections[connection.index] !== connection) return;
    this.#detach(connection, reason);
    const { reconnect } = this.#options;
    const isLast = this.#count === 0;
    if (!isLast) this.#driver.wake(); // the requests that it ran have left room for requests of other clients
    this.hasEnded = isLast && (!reconnect || (!isBlocking && (this.#isClosed || this.#isDraining)));
    if (this.hasEnded) this.#shut();
    this.#arrivals.disconnected(reason);
    if (isBlocking || this.#isClosed || this.#isDraining) return;
    if (isLast && reconnect && !this.#isSearching) void this.#attachAgain(reconnect);
  }

  #detach(connection: WorkerConnection, reason: SlotbusError): void {
    this.#connections[connection.index] = undefined;
    this.#count--;
    this.#sessions.remove(connection.index);
    if (connection.socket) {
      connection.handle.hangup(); // Bun closes the descriptor
      connection.socket.terminate();
    }
    connection.close(reason);
    this.#attacher.left(connection.address);
  }

  async #attachAgain(pauses: Backoff): Promise<void> {
    this.#isSearching = true;
    for (let attempt = 0; this.#count === 0 && !this.#isClosed && !this.#isDraining; attempt++) {
      await sleep(this.#clock, backoff(attempt, pauses, this.#clock.random));
      if (this.#count === 0 && !this.#isClosed) await this.#attacher.look();
    }
    this.#isSearching = false;
    if (this.#count === 0) {
      this.hasEnded = true;
      this.#shut();
    }
  }

  block(handle: (request: WorkerRequest) => void, isOver: () => boolean, isStopping: () => boolean): void {
    const { reconnect } = this.#options;
    let attempt = 0;
    while (!isOver()) {
      // A deferred response is sent by the handler of a later request.
      if (isStopping() && this.running === 0) {
        this.drain();
        while (this.#count > 0 && this.#takeOne(handle, 0));
        return;
      }
      const pause = this.#attacher.step();
      if (this.#count > 0) {
        attempt = 0;
        if (!this.#takeOne(handle, DEFAULT_SPIN_US * 1000)) this.#wait(pause);
      } else if (!reconnect) {
        return;
      } else if (pause <= reconnect.max) {
        this.#wait(pause);
      } else {
        this.#wait(backoff(attempt++, reconnect, this.#clock.random));
        this.#attacher.lookSync();
      }
    }
  }

  /** Takes and handles one request, spinning for up to `spinNs` for it. Returns `false` if nothing has happened. */
  #takeOne(handle: (request: WorkerRequest) => void, spinNs: number): boolean {
    const found = this.#sessions.take(spinNs, true);
    if (found === "none") return false;
    const connection = this.#connections[this.#sessions.index]!;
    if (found === "taken") {
      const request = this.#take(connection, this.#clock.now());
      if (request) handle(request);
    } else if (found === "moved") connection.moved();
    else this.#hungUp(connection);
    return true;
  }

  /** Blocks until a bell, the end of a client, a knock or SIGTERM, for up to `ms`. */
  #wait(ms: number): void {
    const found = this.#sessions.wait(this.#attacher.door, ms);
    if (found === "knock") this.#attacher.lookSync();
    else if (found === "ended") this.#hungUp(this.#connections[this.#sessions.index]!);
  }

  #hungUp(connection: WorkerConnection): void {
    this.#lost(connection, new ClosedError(this.#client, { retryable: true }), true);
  }

  drain(): void {
    if (!this.#isDraining) for (const { writer } of this.#open) writer.send(C.SB_MSG_DRAIN);
    this.#isDraining = true;
    // One more poll takes the requests that the client published before it read the message.
    this.#driver.wake();
  }

  close(reason: SlotbusError): void {
    this.#shut();
    for (const connection of this.#open) {
      connection.handle.goodbye();
      this.#detach(connection, reason);
    }
    this.#sessions.close();
  }

  /** Attaches to no more clients. */
  #shut(): void {
    this.#isClosed = true;
    this.#attacher.close();
    this.#driver.stop();
    this.#stopped.stop();
  }

  get #client(): string {
    return `The client of bus "${this.#options.name}"`;
  }
}
