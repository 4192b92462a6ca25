/** The worker side in shared memory: attaches to each client of its bus in turn, and polls the connection. */

import type { SocketHandler, UnixSocketOptions } from "bun";
import { backoff, type Backoff } from "../../backoff.ts";
import type { RequestName } from "../../bus/claim.ts";
import type { WorkerRequest } from "../../bus/request.ts";
import { DEFAULT_SPIN_US } from "../../bus/options.ts";
import { Turns } from "../../bus/turns.ts";
import type { ResolvedWorkerOptions } from "../../bus/worker-options.ts";
import type { Arrivals, Driven, WorkerWire } from "../../bus/wire.ts";
import { blockFor, type Clock, sleep } from "../../clock.ts";
import { ClosedError, BusNotFoundError, SlotbusError } from "../../errors.ts";
import { C } from "../../native/abi.ts";
import { type Handshake, shakeHands, shakeHandsSync, WorkerHandle } from "../../native/worker.ts";
import { Driver, type Side } from "./driver.ts";
import { WorkerConnection, type WorkerConnectionEvents } from "./worker-connection.ts";

/** Largest number of requests taken in one poll. */
const BATCH = 64;
/** Pauses between attempts of a worker that waits for its bus, in ms. */
const ATTEMPTS: Backoff = { initial: 10, max: 100 };
const utf8 = new TextDecoder();

/** The wire of a worker: at most one connection at a time, one driver. */
export class MemoryWorker implements WorkerWire, Side, WorkerConnectionEvents {
  readonly #options: ResolvedWorkerOptions;
  readonly #clock: Clock;
  readonly #turns: Turns;
  readonly #arrivals: Arrivals;
  readonly #driver: Driver;
  #connection: WorkerConnection | null = null;
  /** Whether requests are taken from the event loop. */
  #isListening = false;
  #isDraining = false;
  #isClosed = false;
  hasEnded = false;

  constructor(options: ResolvedWorkerOptions, clock: Clock, arrivals: Arrivals) {
    this.#options = options;
    this.#clock = clock;
    this.#turns = new Turns(clock);
    this.#arrivals = arrivals;
    this.#driver = new Driver(this, options.spin, clock);
  }

  get isConnected(): boolean {
    return this.#connection !== null;
  }

  get running(): number {
    return this.#connection === null ? 0 : this.#connection.running;
  }

  driven(): Driven {
    return this.#driver.driven();
  }

  poll(spinNs: number): number {
    const connection = this.#connection;
    if (!connection) return 0;
    const now = this.#clock.now();
    let taken = 0;
    try {
      while (taken < BATCH && connection.isOpen) {
        const { canTake } = this.#arrivals;
        if (!canTake && connection.streams === 0) break;
        const request = connection.take(taken === 0 ? spinNs : 0, now, canTake);
        if (!request) break;
        if (taken++ === 0 && connection.isOpen && connection.handle.hasMore()) this.#driver.hold();
        if (request !== "moved") this.#arrivals.arrived(request);
      }
    } catch (cause) {
      this.#lost(connection, new SlotbusError("REGION_CORRUPT", `${this.#client} broke the protocol.`, { cause }));
    }
    return taken;
  }

  hold(): void {
    this.#connection?.handle.hold();
  }

  ring(): void {
    this.#connection?.handle.ring();
  }

  mayReceive(): boolean {
    return this.#connection !== null && (this.#arrivals.canTake || this.#connection.streams > 0);
  }

  park(): boolean {
    return !this.#connection || this.#connection.handle.park(this.#arrivals.canTake);
  }

  unpark(): void {
    this.#connection?.handle.unpark();
  }

  spread(): void {
    this.#connection?.handle.spread();
  }

  answered(bytes: number): void {
    this.#driver.expect(bytes, false); // a caller that gets a response may send another request
    this.#arrivals.answered();
  }

  corrupt(connection: WorkerConnection, slot: number): void {
    const what = `${this.#client} wrote invalid counts into the rings of slot ${slot}.`;
    this.#lost(connection, new SlotbusError("REGION_CORRUPT", what));
  }

  failedLate(request: RequestName, error: unknown): void {
    this.#arrivals.failedLate(request, error);
  }

  async open(waitMs: number): Promise<void> {
    const { name, directory } = this.#options;
    const started = this.#clock.now();
    for (let attempt = 0; ; attempt++) {
      const result = await shakeHands(this.#handshake(), this.#clock);
      if (result instanceof WorkerHandle) return this.#adopt(result);
      const waited = this.#clock.now() - started;
      if (!result.retryable || waited >= waitMs) {
        if (result instanceof BusNotFoundError) throw new BusNotFoundError(name, directory, waited);
        throw result;
      }
      await sleep(this.#clock, Math.min(backoff(attempt, ATTEMPTS, this.#clock.random), waitMs - waited));
    }
  }

  #handshake(): Handshake<WorkerHandle> {
    return WorkerHandle.attach(this.#options, this.#options.concurrency, this.#clock, () => this.#isClosed);
  }

  #adopt(handle: WorkerHandle): void {
    const connection = new WorkerConnection(handle, this.#turns, this);
    this.#connection = connection;
    if (this.#isDraining) connection.writer.send(C.SB_MSG_DRAIN);
    if (this.#isListening) this.#listen(connection);
    this.#driver.wake();
    this.#clock.immediate(() => this.#arrivals.connected()); // after `open` has returned the worker
  }

  listen(): void {
    this.#isListening = true;
    if (this.#connection && !this.#connection.socket) this.#listen(this.#connection);
    this.#driver.wake();
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
    const bells = connection.reader.read(bytes, (type, body) => this.#message(connection, type, body));
    if (bells > 0) this.#driver.ring();
  }

  #message(connection: WorkerConnection, type: number, body: Uint8Array): void {
    if (type === C.SB_MSG_GOODBYE) {
      connection.evictedFor = utf8.decode(body).replace(/\p{Cc}/gu, "?"); // `close` follows
      return;
    }
    if (type === C.SB_MSG_CANCEL && connection.cancel(body)) return;
    this.#lost(connection, new SlotbusError("PROTOCOL", `${this.#client} sent an unexpected message of type ${type}.`));
  }

  /** Returns the reason why the client closed the socket. */
  #ended({ evictedFor }: WorkerConnection): SlotbusError {
    if (evictedFor === "") return new ClosedError(this.#client, { retryable: true });
    const message = `Bus "${this.#options.name}" evicted this worker: ${evictedFor}.`;
    return new SlotbusError("EVICTED", message);
  }

  /** Reports that the attachment has ended and, unless `reconnect` is off, attaches again. */
  #lost(connection: WorkerConnection, reason: SlotbusError, isBlocking = false): void {
    if (this.#connection !== connection) return;
    this.#detach(connection, reason);
    const { reconnect } = this.#options;
    this.hasEnded = !reconnect || (!isBlocking && (this.#isClosed || this.#isDraining));
    this.#arrivals.disconnected(reason);
    if (reconnect && !isBlocking && !this.hasEnded) void this.#attachAgain(reconnect);
  }

  #detach(connection: WorkerConnection, reason: SlotbusError): void {
    this.#connection = null;
    if (connection.socket) {
      connection.handle.hangup(); // Bun closes the descriptor
      connection.socket.terminate();
    }
    connection.close(reason);
  }

  async #attachAgain(pauses: Backoff): Promise<void> {
    for (let attempt = 0; !this.#isClosed && !this.#isDraining; attempt++) {
      await sleep(this.#clock, backoff(attempt, pauses, this.#clock.random));
      const result = await shakeHands(this.#handshake(), this.#clock);
      if (!(result instanceof WorkerHandle)) continue;
      if (!this.#isClosed) return this.#adopt(result);
      result.goodbye(); // the client may already count this worker as attached
      result.close(false);
    }
    this.hasEnded = true;
  }

  block(handle: (request: WorkerRequest) => void, isOver: () => boolean): void {
    const { reconnect } = this.#options;
    let attempt = 0;
    while (!isOver()) {
      const connection = this.#connection;
      if (connection) {
        attempt = 0;
        this.#blockOn(connection, handle, isOver);
        if (!isOver()) this.#lost(connection, new ClosedError(this.#client, { retryable: true }), true);
      } else if (!reconnect) {
        return;
      } else {
        blockFor(backoff(attempt++, reconnect, this.#clock.random));
        const result = shakeHandsSync(this.#handshake());
        if (result instanceof WorkerHandle) this.#adopt(result);
      }
    }
  }

  #blockOn(connection: WorkerConnection, handle: (request: WorkerRequest) => void, isOver: () => boolean): void {
    const spinNs = DEFAULT_SPIN_US * 1000;
    while (!isOver() && connection.isOpen) {
      const request = connection.take(spinNs, this.#clock.now());
      if (request === "moved") continue;
      if (request) handle(request);
      else if (!connection.handle.wait()) return;
    }
  }

  drain(): void {
    if (!this.#isDraining) this.#connection?.writer.send(C.SB_MSG_DRAIN);
    this.#isDraining = true;
    // One more poll takes the requests that the client published before it read the message.
    this.#driver.wake();
  }

  close(reason: SlotbusError): void {
    this.#isClosed = true;
    this.#driver.stop();
    const connection = this.#connection;
    if (!connection) return;
    connection.handle.goodbye();
    this.#detach(connection, reason);
  }

  get #client(): string {
    return `The client of bus "${this.#options.name}"`;
  }
}
