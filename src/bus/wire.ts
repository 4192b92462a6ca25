/**
 * How requests travel. A wire carries exchanges between processes and decides nothing about them: which worker, how long to wait and
 * whether to try again are the dispatcher's. A bus has one {@link Wire}, a worker one {@link WorkerWire}. All wires pass the same
 * tests, so a bus behaves the same on each of them but for speed.
 *
 * ## The asking side
 *
 * A wire is made with the {@link WireEvents} that it reports to; from then on workers find the bus. A worker that attached is
 * reported as `joined`, with a {@link Connection}. Exchanges go through connections:
 *
 *     send ─▶ answered                                whole
 *          └▶ began ─▶ (incoming moves) ─▶ ended      streamed
 *     in between, once, if the request's body streams and the worker wants it:
 *             claimed     also after `began`
 *     at any time before the last of these, instead of it:
 *             expired     its time was over, and it was taken back
 *             lost        the connection ended
 *             fail        what the worker wrote could not be used; the worker is evicted
 *             withdraw    called by the exchange: no report follows
 *
 * Promises of a connection:
 *  - `send`, which is called while `room` is above 0, throws before the worker can see anything; or returns "gone" or "full", and the
 *    exchange is as it was; or returns "sent": then exactly one of answered, ended, expired, lost and fail follows, unless it is withdrawn.
 *    Reports, also those of other exchanges, may come before `send` returns.
 *  - The connection sets the exchange's `carrier` to itself in `send`, before anything can be seen, and to `null` when `withdraw` is
 *    called or the last report returns. It is the object that `joined` reported: the dispatcher compares connections by identity, so
 *    one that wraps another has to give that one exchanges of its own. Once `carrier` is `null`, the `Outgoing` and `Incoming` move nothing any more, and only `slots()` may show it still, while its response is lent.
 *  - `answered`, `ended` and `lost` come with all that the worker had handed over: what an `Incoming` has can be read until the report
 *    returns.
 *  - `expired` and `lost` say "no" only if it is proved that no handler has begun, and none will.
 *  - Reports run no code of the user. Reports of other exchanges come from within `withdraw` only when it finds that the worker broke
 *    the protocol, which ends the connection.
 *
 * Promises of a wire:
 *  - `left` is the last word of a connection, after all its exchanges were told, and it comes once.
 *  - `room` follows when a connection whose `room` was 0 has some again, but for what `withdraw` frees: its caller knows.
 *  - Nothing of it keeps the process alive but a `tick` that the dispatcher asks for, a spin of at most some milliseconds, and a
 *    message that a full socket does not take yet.
 *
 * ## The answering side
 *
 * {@link WorkerWire.open} resolves when the worker is attached to a client. From `listen` on each request is reported once, by
 * `Arrivals.arrived`, and only while `canTake` is `true`; or `block` hands it to its `handle`. A request is answered through its claim
 * (`claim.ts`), once: a second answer is "duplicate", one whose caller has given up "late", one after the end of the connection
 * "closed".
 *
 *  - A claim that is not answered stays until it is answered or the connection ends; its caller's giving up only aborts it.
 *  - `connected` follows each attachment, the first one after `open` has resolved. `disconnected` comes when it has ended and all its
 *    claims were aborted; not after `close`. The wire attaches again by itself, unless `reconnect` is off or the worker drains.
 *  - Nothing that a claim asks for after the end of its connection touches the client's memory.
 */

import type { SlotbusError } from "../errors.ts";
import type { Carrier, Exchange } from "./exchange.ts";
import type { WorkerRequest } from "./request.ts";
import type { Statistics } from "./stats.ts";

/** A process on the other end. */
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

/** One attached worker, as the asking side has it. Its numbers are read for each request, so they cost next to nothing. */
export interface Connection extends Carrier {
  /** Number of the connection: no other one of the wire has had it. */
  readonly id: number;
  readonly uid: number;
  /** Requests that the worker takes at once. */
  readonly concurrency: number;
  /** Requests that the worker can be given now; 0 while it drains, is evicted, or has ended. */
  readonly room: number;
  /** Places in use: by requests, by requests that were given up and have not come back, by responses that are lent. */
  readonly load: number;
  /** The worker let a request wait for its whole timeout, or its event loop does not turn: it is chosen last. */
  readonly isDoubtful: boolean;
  /** The worker's event loop has not turned for too long: see {@link WireEvents.stalled}. */
  readonly isUnresponsive: boolean;
  /** {@link evict} was called. */
  readonly isEvicted: boolean;
  /** The worker's process has certainly ended: nothing that it began runs any more. Polled after `left`, until {@link forget}. */
  readonly isGone: boolean;
  /** Counts the worker's answers; set by the dispatcher. */
  process: { served(): void } | null;
  /**
   * Gives an exchange to the worker. "gone": the connection has ended. "full": user code that runs in its encoding took the last
   * place. Throws what the encoding of the request throws.
   */
  send(exchange: Exchange): "sent" | "gone" | "full";
  /** Blocks the thread until the exchange is settled or the connection has ended. Absent where a wire cannot block. */
  wait?(exchange: Exchange, spinNs: number): void;
  /** Gives the worker nothing new. Resolves when the worker has no request any more; its end is the departure "left" from then on. */
  drain(): Promise<void>;
  /** Ends the connection: now, or after the batch of events that is being handled. `reason` says what the worker did. */
  evict(reason: string): void;
  /** Frees what {@link isGone} needs: it is not asked any more. */
  forget(): void;
  slots(): SlotReport[];
}

/** How a connection ended: in good order, without a goodbye, or by {@link Connection.evict}. */
export type Departure = "left" | "died" | "evicted";

/** What a wire reports of its connections; each exchange gets its own reports itself. */
export interface WireEvents {
  joined(connection: Connection): void;
  /** Some connection may take more requests. */
  room(): void;
  /** The last word of a connection. `how` continues "worker pid 7 …". `had`: the exchanges that it carried; all were told. */
  left(connection: Connection, departure: Departure, how: string, had: readonly Exchange[]): void;
  /** The event loop of a worker with requests has not turned for `ms`; 0: it turns again. */
  stalled(connection: Connection, ms: number): void;
  /** A process that wanted to attach was turned away. */
  refused(peer: Peer, reason: string): void;
}

/** The asking side of one bus. */
export interface Wire {
  readonly statistics: Statistics;
  /** Times that a worker woke the sleeping client. */
  readonly wakeups: number;
  /**
   * Checks deadlines and workers. Called every 20 ms while a request is unsettled or a tick returned `true`: a worker has something
   * still, if only a request that was given up.
   */
  tick(): boolean;
  /** Nothing is under way: gives back what is kept for speed alone. */
  rest(): void;
  /** Something changed that no event tells of: looks for answers again. */
  wake(): void;
  /** Says goodbye to all workers and takes no other one. All exchanges were told when it returns. */
  close(): void;
  /** Frees the memory, after the last sample of the statistics; what is lent stays until it is given back. */
  free(): void;
}

/** What the answering side reports, to the receiver. */
export interface Arrivals {
  /** Whether there is a handler, and room for another request. */
  readonly canTake: boolean;
  /** A request was claimed. It is answered through `request.claim`. */
  arrived(request: WorkerRequest): void;
  /** An answer went out, or moved on. */
  answered(): void;
  /** The worker is attached, for the first time or again. */
  connected(): void;
  /** The attachment has ended, and all its requests were aborted. */
  disconnected(reason: SlotbusError): void;
  /** Work of a handler that had returned failed: the source of a streamed answer, or a deferred answer that was dropped. */
  failedLate(request: { id: string; path: string }, error: unknown): void;
}

/** The answering side of one worker. */
export interface WorkerWire {
  readonly isConnected: boolean;
  /** It is not attached, and will not attach again by itself. */
  readonly hasEnded: boolean;
  /** Requests without an answer, and answers that still stream. */
  readonly running: number;
  /** Times that a client woke the sleeping worker. */
  readonly wakeups: number;
  /** Attaches, waiting up to `waitMs` for the bus. Rejects with what the last attempt failed with. */
  open(waitMs: number): Promise<void>;
  /** Takes requests from the event loop from now on. */
  listen(): void;
  /** Blocks the thread and gives each request to `handle`, until `isOver`, or until the client has ended for good. */
  block(handle: (request: WorkerRequest) => void, isOver: () => boolean): void;
  /** Tells the client that the worker wants nothing new, and takes what was under way. */
  drain(): void;
  /** Says goodbye and detaches. Requests without an answer are aborted with `reason`. */
  close(reason: SlotbusError): void;
}
