/**
 * How requests travel. A wire carries exchanges between processes; it decides nothing about them. There is one for each bus and one for
 * each worker. All of them pass the same tests, so a bus behaves the same on each but for speed.
 *
 * ## The asking side
 *
 * {@link Wire.open} makes the bus known; from then on the wire reports to its {@link WireEvents}. A worker that attached is
 * `joined`, with a {@link Connection}. Exchanges go through connections:
 *
 *     send ─▶ claimed? ─▶ answered                        whole
 *                      └▶ began ─▶ (incoming moves) ─▶ ended   streamed
 *     at any time before the last of these, instead of it:
 *                      expired     its time was over, and it was taken back
 *                      lost        the connection ended
 *                      withdraw    by us: no report follows
 *
 * Promises of a connection:
 *  - `send` throws before anything can be seen by the worker, or returns "sent": then exactly one of answered, ended, expired, lost, fail
 *    follows, unless it is withdrawn. Reports may come before `send` returns.
 *  - After the last report the exchange's `carrier` is `null`, and nothing of the connection leads to it.
 *  - `answered`, `ended` and `lost` come with all that the worker had handed over: what an `Incoming` has can be read until the report
 *    returns.
 *  - `expired` and `lost` say "no" only if it is proved that no handler has begun, and none will.
 *  - Reports run no code of the user, and none comes from within `withdraw` for another exchange.
 *
 * Promises of a wire:
 *  - `left` is the last word of a connection, after all its exchanges were told, and it comes once.
 *  - `room` follows when a connection can take more than it could when `send` said "full", or `room` was 0.
 *  - Nothing of it keeps the process alive but a `tick` that somebody asks for.
 *
 * ## The answering side
 *
 * {@link WorkerWire.open} resolves when a client is attached. Each request is reported once, by `Arrivals.arrived` with an {@link Inbound}
 * (`inbound.ts`), and is answered through it once; the answer to one whose caller has gone is "late". `disconnected` comes after
 * all requests of that client were aborted. The wire attaches again by itself when it is to.
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

/** State of one slot of a connection, for diagnostics. */
export interface SlotReport {
  state: string;
  ageMs: number;
  exchange: Exchange | null;
}

/** One worker, as the asking side has it. */
export interface Connection extends Carrier {
  /** No other connection of the wire has had it. */
  readonly id: number;
  readonly uid: number;
  /** Requests it takes at once. */
  readonly concurrency: number;
  /** Requests it can be given now; 0 when it wants or gets none. */
  readonly room: number;
  /** Requests it has, with those that were given up and have not come back. */
  readonly load: number;
  /** It lets requests wait, or does not turn: it is chosen last. */
  readonly isDoubtful: boolean;
  /** Its event loop has not turned for too long: see {@link WireEvents.stalled}. */
  readonly isUnresponsive: boolean;
  /** We ended it. */
  readonly isEvicted: boolean;
  /** Its process has certainly ended: nothing that it began runs any more. Asked for after `left`, until {@link forget}. */
  readonly isGone: boolean;
  /** Counts its answers. */
  process: { served(): void } | null;
  /**
   * Gives an exchange to the worker. "gone": the connection ended at that moment. "full": the code of the user that runs in its encoding
   * took the last place. Throws what its encoding throws.
   */
  send(exchange: Exchange): "sent" | "gone" | "full";
  /** Blocks the thread until the exchange is settled, or the connection has ended. Not on every wire. */
  wait?(exchange: Exchange, spinNs: number): void;
  /** Gives the worker nothing new; resolves when it has nothing any more. Its end is a departure then. */
  drain(): Promise<void>;
  /** Ends it, as soon as the reports that are under way are made. `reason` says what the worker did. */
  evict(reason: string): void;
  /** Nobody asks {@link isGone} any more. */
  forget(): void;
  slots(): SlotReport[];
}

/** How a connection ended: in good order, without a word, or by us. */
export type Departure = "left" | "died" | "evicted";

/** What a wire reports. */
export interface WireEvents {
  joined(connection: Connection): void;
  /** Some connection may take more. */
  room(): void;
  /** The last word of a connection. `how` continues "worker pid 7 …"; `had`: the exchanges that it had, told by now. */
  left(connection: Connection, departure: Departure, how: string, had: readonly Exchange[]): void;
  /** The event loop of a worker that has requests has not turned for `ms`; 0: it turns again. */
  stalled(connection: Connection, ms: number): void;
  refused(peer: Peer, reason: string): void;
}

/** The asking side of one bus. */
export interface Wire {
  readonly statistics: Statistics;
  /** Times that it slept, and a worker woke it. */
  readonly wakeups: number;
  /** Looks at deadlines and at the workers; every 20 ms while anything is under way. Returns whether to call it again. */
  tick(): boolean;
  /** Nothing is under way: what is kept for speed alone may be given back. */
  rest(): void;
  /** What can be found out changed without an event. */
  wake(): void;
  /** Says goodbye to all workers and takes no other; all exchanges are told. */
  close(): void;
  /** Frees what is left, after the last sample of its statistics. */
  free(): void;
}

/** What the answering side reports. */
export interface Arrivals {
  /** Whether another request would be taken. */
  readonly canTake: boolean;
  arrived(request: WorkerRequest): void;
  /** An answer went out. */
  answered(): void;
  connected(): void;
  /** All requests of that client were aborted. `final`: it is not attached to again. */
  disconnected(reason: SlotbusError): void;
  /** A handler's work failed after it had ended: a source of a begun answer, an answer that was deferred and dropped. */
  failedLate(request: { id: string; path: string }, error: unknown): void;
}

/** The answering side of one worker. */
export interface WorkerWire {
  readonly isConnected: boolean;
  /** Requests that have no answer. */
  readonly running: number;
  readonly wakeups: number;
  /** Attaches, waiting up to `waitMs` for the bus. */
  open(waitMs: number): Promise<void>;
  /** There is a handler: requests are looked for from the event loop from now on. */
  listen(): void;
  /** Blocks the thread: `handle` gets each request, until `isOver` or the bus has ended for good. */
  block(handle: (request: WorkerRequest) => void, isOver: () => boolean): void;
  /** Tells the bus that nothing new is wanted, and looks once more for what was under way. */
  drain(): void;
  close(reason: SlotbusError): void;
}
