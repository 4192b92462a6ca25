/**
 * The interface between the bus and its transport. A wire carries exchanges between processes. The dispatcher makes all
 * decisions: which worker gets a request, how long to wait, and whether to retry. A bus has one {@link Wire}, a worker one
 * {@link WorkerWire}. All wires pass the same tests, so a bus behaves in the same way on each of them, except for speed.
 *
 * ## The client side
 *
 * A wire is created with the {@link WireEvents} to which it reports; from then on workers find the bus. When a worker attaches,
 * the wire reports `joined` with a {@link Connection}. Connections carry exchanges:
 *
 *     send ─▶ answered                                whole
 *          └▶ began ─▶ (incoming moves) ─▶ ended      streamed
 *     in between, once, if the request body streams and the worker has claimed the request:
 *             claimed     also after `began`
 *     at any time before the last of these, instead of it:
 *             expired     the timeout was over, and the exchange was taken back
 *             lost        the connection ended
 *             fail        the worker wrote invalid data and is evicted
 *             withdraw    called by the exchange: no report follows
 *
 * A connection guarantees:
 *  - `send` is called while `room` is above 0. It either throws before the worker can see anything; or returns "gone" or "full"
 *    and leaves the exchange unchanged; or returns "sent". After "sent", exactly one of `answered`, `ended`, `expired`, `lost`
 *    and `fail` follows, unless the exchange is withdrawn. Reports, also about other exchanges, may come before `send` returns.
 *  - `send` sets the exchange's `carrier` to the connection before anything is visible to the worker. `carrier` becomes `null`
 *    when `withdraw` is called or the last report returns. It is the object that `joined` reported: the dispatcher compares
 *    connections by identity, so a connection that wraps another must give the inner connection separate exchanges. Once
 *    `carrier` is `null`, `Outgoing` and `Incoming` move no bytes; only `slots()` may still show the exchange, while its response
 *    is lent.
 *  - With `answered`, `ended` and `lost`, all bytes that the worker handed over can be read from `Incoming` until the report
 *    returns.
 *  - `expired` and `lost` say "no" only if it is certain that no handler has started and none will.
 *  - Reports run no user code. `withdraw` causes reports of other exchanges only if it finds that the worker broke the protocol,
 *    which ends the connection.
 *
 * A wire guarantees:
 *  - `left` is the last report of a connection. It comes once, after the reports of all its exchanges.
 *  - `room` follows when a connection whose `room` was 0 has room again, except for room that `withdraw` frees, because its
 *    caller knows.
 *  - A wire keeps the process alive only by a `tick` that the dispatcher requests, by a spin of a few milliseconds, and by a
 *    message that a full socket has not accepted yet.
 *
 * ## The worker side
 *
 * {@link WorkerWire.open} resolves when the worker is attached to a client. After `listen`, each request is reported once, by
 * `Arrivals.arrived`, and only while `canTake` is `true`. With `block`, each request is passed to `handle`. The response goes
 * through the claim (`claim.ts`), once: a second response is "duplicate", a response whose caller has given up is "late", and a
 * response after the end of the connection is "closed".
 *
 *  - A claim stays until it has a response or the connection ends. If the caller gives up, the claim is only aborted.
 *  - `connected` follows each attachment, the first time after `open` has resolved. `disconnected` comes when the attachment has
 *    ended and all its claims were aborted, but not after `close`. The wire attaches again by itself, unless `reconnect` is off
 *    or the worker drains.
 *  - After the end of its connection, a claim does not access the client's memory.
 */

import type { SlotbusError } from "../errors.ts";
import type { Carrier, Exchange } from "./exchange.ts";
import type { WorkerRequest } from "./request.ts";
import type { BusStats, Statistics } from "./stats.ts";
import type { WireKind } from "./via.ts";

/** The process at the other end of a connection. */
export interface Peer {
  readonly pid: number;
  readonly uid: number;
}

/** One slot of a connection, for diagnostics. */
export interface SlotReport {
  state: string;
  ageMs: number;
  exchange: Exchange | null;
}

/** One attached worker, as the client sees it. Its numbers are read for each request, so their getters must be cheap. */
export interface Connection extends Carrier {
  /** Id of the connection, never reused by the wire. */
  readonly id: number;
  readonly uid: number;
  /** Id of the worker among all machines; only on a wire between machines. */
  readonly instance?: string | undefined;
  /** Kind of the wire. */
  readonly wire: WireKind;
  /** Number of requests that the worker runs at once. */
  readonly concurrency: number;
  /** Number of requests that can be sent now; 0 while the worker drains, or after it was evicted or has ended. */
  readonly room: number;
  /** Number of slots in use: by requests, by abandoned requests that the worker has not finished, and by lent responses. */
  readonly load: number;
  /** Number of requests that the worker runs for other clients. */
  readonly elsewhere: number;
  /**
   * Time that the worker needs for one request, in ms: from claim to response, divided by the requests that it runs at once.
   * `Infinity` while it is unknown, or while the worker has requests and has not responded for some milliseconds.
   */
  readonly pace: number;
  /** Whether the worker is chosen last, because it leaves requests unclaimed or its event loop is blocked. */
  readonly isDoubtful: boolean;
  /** Whether the worker's event loop has been blocked for too long: see {@link WireEvents.stalled}. */
  readonly isUnresponsive: boolean;
  /** Whether {@link evict} was called. */
  readonly isEvicted: boolean;
  /** Whether the worker's process has certainly ended, and with it all its handlers. Polled after `left`, until {@link forget}. */
  readonly isGone: boolean;
  /** Counter of the worker's responses; set by the dispatcher. */
  process: { served(): void } | null;
  /**
   * Sends an exchange to the worker. "gone": the connection has ended. "full": user code that ran during the encoding made a
   * request that took the last slot. Throws the errors of the encoding.
   */
  send(exchange: Exchange): "sent" | "gone" | "full";
  /** Blocks the thread until the exchange is settled or the connection has ended. Absent on a wire that cannot block. */
  wait?(exchange: Exchange, spinNs: number): void;
  /** Sends no new requests to the worker. Resolves when it has no requests left; from then on its end counts as "left". */
  drain(): Promise<void>;
  /** Ends the connection now, or after the current batch of events. `reason` says what the worker did. */
  evict(reason: string): void;
  /** Frees the resources of {@link isGone}, which is not read again. */
  forget(): void;
  slots(): SlotReport[];
}

/** How a connection ended: the worker left, it ended without a goodbye, or it was evicted. */
export type Departure = "left" | "died" | "evicted";

/** Reports of a wire about its connections. Reports about an exchange go to the exchange. */
export interface WireEvents {
  joined(connection: Connection): void;
  /** A connection may have room for more requests. */
  room(): void;
  /**
   * The last report of a connection. `how` continues "Worker pid 7 …". `had`: the exchanges that it carried; each got its last
   * report.
   */
  left(connection: Connection, departure: Departure, how: string, had: readonly Exchange[]): void;
  /** The event loop of a worker with requests has been blocked for `ms`; 0: it runs again. */
  stalled(connection: Connection, ms: number): void;
  /** A process that tried to attach was refused. */
  refused(peer: Peer, reason: string): void;
  /** The connection to the wire's server was lost; `null`: it was found again. */
  linked(lost: SlotbusError | null): void;
}

/** What a wire says of the driver of its side: see {@link BusStats}. */
export type Driven = Pick<BusStats, "wakeups" | "spinning">;

/** The client side of one bus. */
export interface Wire {
  /** With "memory", responses can be borrowed, and a request can block the thread. */
  readonly kind: WireKind;
  readonly statistics: Statistics;
  /** Whether the wire's server can be reached; `undefined`: the wire has no server. */
  readonly isLinked?: boolean;
  driven(): Driven;
  /**
   * Checks deadlines and workers. Called every 20 ms while a request is unsettled or the last tick returned `true`. Returns
   * whether a worker still has a request, including abandoned ones.
   */
  tick(): boolean;
  /** Called when the bus is idle: releases memory that is kept only for speed. */
  rest(): void;
  /** Polls for responses again, after a change that caused no event. */
  wake(): void;
  /** Says goodbye to all workers and accepts no new ones. When it returns, each exchange has got its last report. */
  close(): void;
  /** Frees the memory, after the last sample of the statistics. Lent memory stays until it is given back. */
  free(): void;
}

/** Reports of the worker side, to the receiver. */
export interface Arrivals {
  /** Whether there is a handler, and room for another request. */
  readonly canTake: boolean;
  /** A request was claimed. The response goes through `request.claim`. */
  arrived(request: WorkerRequest): void;
  /** A response was sent, or bytes of a streamed response. */
  answered(): void;
  /** The worker attached, for the first time or again. */
  connected(): void;
  /** The attachment has ended and all its requests were aborted. */
  disconnected(reason: SlotbusError): void;
  /** The worker could not attach to one of several clients. */
  refused(error: SlotbusError): void;
  /**
   * Work of a handler failed after the handler returned: the source of a streamed response failed, or a deferred response was
   * dropped.
   */
  failedLate(request: { id: string; path: string }, error: unknown): void;
}

/** The worker side of one worker. */
export interface WorkerWire {
  readonly isConnected: boolean;
  /** Whether the worker is detached and will not attach again by itself. */
  readonly hasEnded: boolean;
  /** Number of requests without a response and of responses that still stream. */
  readonly running: number;
  driven(): Driven;
  /**
   * Attaches; waits up to `waitMs` for the bus. Rejects with the error of the last attempt. Calls `tried` once when it has tried
   * to attach to each client that is there, unless it rejects then.
   */
  open(waitMs: number, tried?: () => void): Promise<void>;
  /** Says which methods of a contract the worker handles, on a wire whose tools show them. */
  offers?(contract: string, methods: readonly string[]): void;
  /** Takes requests from the event loop from now on. */
  listen(): void;
  /**
   * Blocks the thread and passes each request to `handle`, until `isOver` returns `true` or the client has ended for good. When
   * `isStopping` returns `true` and no response is deferred, drains and returns.
   */
  block(handle: (request: WorkerRequest) => void, isOver: () => boolean, isStopping: () => boolean): void;
  /** Tells the client to send no new requests, and takes the requests that it sent before. */
  drain(): void;
  /** Says goodbye and detaches. Requests without a response are aborted with `reason`. */
  close(reason: SlotbusError): void;
}
