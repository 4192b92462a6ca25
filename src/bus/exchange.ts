/** One request in the client, from the call to its settlement, which happens once. */

import type { Clock } from "../clock.ts";
import {
  SlotbusError,
  InvalidConfigError,
  PayloadTooLargeError,
  RequestTimeoutError,
  StreamTimeoutError,
  WorkerDiedError,
} from "../errors.ts";
import { unknownWorker } from "../errors/plain.ts";
import type { BodyReader, Incoming } from "./body-reader.ts";
import { endSource, isStreamSource, type Outgoing, type StreamSource } from "./body-writer.ts";
import { type BusRequest, callersTimeout, collectStrings, type InnerOptions, lateSignal, signalOf } from "./call.ts";
import {
  type Arena,
  type BodyLike,
  bodyLength,
  encodeMethod,
  type HeadEncoder,
  type HeadWriter,
  REQUEST_STRINGS,
} from "./codec.ts";
import { Extra, MOVES_MAX } from "./extra.ts";
import { Head } from "./head.ts";
import { BorrowedResponse, BusResponse, ERROR_STRINGS, remoteError, StreamedResponse } from "./response.ts";
import type { Statistics } from "./stats.ts";
import { Streams } from "./streams.ts";
import type { Turns } from "./turns.ts";

/** Kind of call that made the request. Decides the type of the response. */
export type Kind = "copy" | "borrow" | "sync" | "stream";
/** Whether a handler may have run. */
export type Executed = "no" | "maybe";
/** Result of a withdrawal. "asked": the worker's side will decide; until then it counts as "maybe". */
export type Verdict = Executed | "asked";

/** Gives back the memory of a lent response. Called once. `isHeld`: user code still holds the memory. */
export type Lease = (isHeld: boolean) => void;

/** The part of a connection that its exchanges use. */
export interface Carrier {
  readonly pid: number;
  /** Takes an exchange back: no report follows. */
  withdraw(exchange: Exchange): Verdict;
  /** Time until the deadline of an exchange, in ms; negative after the deadline, `Infinity` without a deadline. */
  timeLeft(exchange: Exchange): number;
}

/** The part of the dispatcher that its exchanges use. */
export interface ExchangeOwner {
  readonly statistics: Statistics;
  readonly turns: Turns;
  readonly clock: Clock;
  readonly options: { readonly name: string; readonly payloadBytes: number; readonly headBytes: number };
  idOf(exchange: Exchange): string;
  /** Returns the error of a request on a closed bus; `null` while the bus is open. */
  closedError(executed: Executed): Error | null;
  /** Called once, when an exchange is settled and none of its streams is open. */
  over(exchange: Exchange): void;
  /** Puts an exchange back at the front of the queue: its connection ended before the worker claimed it. */
  putBack(exchange: Exchange): void;
  /** Runs an exchange once more, as soon as the process of its first worker has certainly ended. */
  retry(exchange: Exchange): void;
  /** Rejects an exchange whose connection ended while its handler may have run. `how` continues "Worker pid 7 …". */
  died(exchange: Exchange, how: string): void;
  /** Called when an exchange left the queue or its connection, so that another exchange can take its place. */
  vacated(exchange: Exchange): void;
}

/** Resolves the promise of a request. */
export type Resolve = (value: BusResponse | StreamedResponse) => void;
/** Rejects the promise of a request. */
export type Reject = (reason: unknown) => void;

/** One request. Twelve fields take 112 bytes in JavaScriptCore, thirteen 160: rarely needed fields are in {@link Extra}. */
export class Exchange {
  readonly owner: ExchangeOwner;
  readonly request: BusRequest;
  readonly options: InnerOptions;
  readonly kind: Kind;
  /** Number of the request on its bus. */
  readonly serial: number;
  /** Timeout in ms; `Infinity` for none. */
  readonly timeoutMs: number;
  /** Connection that carries the exchange, and the index of its slot there. The connection sets both. */
  carrier: Carrier | null = null;
  place = 0;
  /** The body to send; `request.json` is encoded by the constructor, once. */
  readonly body: BodyLike | StreamSource;
  #resolve: Resolve | null;
  #reject: Reject | null;
  #extra: Extra<Exchange> | null = null;

  /** Runs user code (`toJSON`) and throws the errors of that code. */
  constructor(
    owner: ExchangeOwner,
    request: BusRequest,
    options: InnerOptions,
    kind: Kind,
    serial: number,
    timeoutMs: number,
    resolve: Resolve,
    reject: Reject,
  ) {
    this.owner = owner;
    this.request = request;
    this.options = options;
    this.kind = kind;
    this.serial = serial;
    this.timeoutMs = timeoutMs;
    this.#resolve = resolve;
    this.#reject = reject;
    this.body = request.json === undefined ? request.body : JSON.stringify(request.json);
  }

  /** Created on first use. */
  get extra(): Extra<Exchange> {
    return (this.#extra ??= new Extra());
  }

  get #streams(): Streams {
    return (this.extra.streams ??= new Streams(this.owner.turns));
  }

  get id(): string {
    return this.owner.idOf(this);
  }

  get isSettled(): boolean {
    return this.#resolve === null;
  }

  get isQueued(): boolean {
    return this.#extra !== null && this.#extra.queued;
  }

  get isRetried(): boolean {
    return this.#extra !== null && this.#extra.retried;
  }

  /** Whether another worker may get the request, if its worker does not claim it. */
  get isMovable(): boolean {
    const isFree = (this.kind === "copy" || this.kind === "stream") && this.options.worker === undefined;
    return isFree && !this.isSettled && (this.#extra === null || this.#extra.moves < MOVES_MAX);
  }

  /** Whether the request body streams and the worker has not claimed the request yet. */
  get hasSource(): boolean {
    return this.#extra?.streams?.source != null;
  }

  /** Whether the response is streaming now. */
  get isStreaming(): boolean {
    return this.#extra?.streams?.reader != null;
  }

  // ---- sending --------------------------------------------------------------------------------------------------------

  /**
   * Collects the strings of the head and returns the number of path parameters. Runs user code: iterators of headers. Does
   * nothing if the head is already encoded.
   *
   * @throws {InvalidConfigError}
   */
  collect(heads: HeadWriter): number {
    if (this.#extra?.head) return 0;
    const strings = heads.take();
    const parameters = collectStrings(strings, this.request, this.options.traceparent);
    heads.put(strings);
    return parameters;
  }

  /** Writes the head to the start of an arena and returns its length in bytes. @throws {HeadTooLargeError} */
  writeHead(arena: Arena, heads: HeadWriter, parameters: number): number {
    const known = this.#extra?.head;
    const { headBytes } = this.owner.options;
    if (!known) return heads.write(arena, parameters, REQUEST_STRINGS + 2 * parameters, headBytes, "request");
    if (arena.head !== known) arena.bytes.set(known, 0);
    arena.head = known;
    return known.length;
  }

  /** Encodes the head before the exchange queues, so that the caller gets the error of an invalid request at once. */
  encode(encoder: HeadEncoder): void {
    const { headBytes, payloadBytes } = this.owner.options;
    const parameters = this.collect(encoder.heads);
    const head = encoder.encode(parameters, REQUEST_STRINGS + 2 * parameters, headBytes, "request");
    if (this.request.method !== undefined) encodeMethod(this.request.method);
    const bytes = isStreamSource(this.body) ? 0 : bodyLength(this.body);
    if (bytes > payloadBytes) throw new PayloadTooLargeError("request", bytes, payloadBytes);
    this.extra.head = head;
  }

  /** Returns whether the body streams; {@link claimed} then sends it. */
  beginBody(): boolean {
    if (!isStreamSource(this.body)) return false;
    this.#streams.source = this.body;
    return true;
  }

  /** Returns the rest of the timeout after the queue, in ms, at least 1; `Infinity` for none. */
  timeLeft(): number {
    const extra = this.#extra;
    if (extra === null || extra.startedAt === 0) return this.timeoutMs;
    extra.sentAt = this.owner.clock.now();
    return Math.max(1, Math.ceil(this.timeoutMs - (extra.sentAt - extra.startedAt)));
  }

  /** Whether an exchange that queues, or waits for its second run, has timed out. */
  isLate(now: number): boolean {
    return now - this.extra.startedAt >= this.timeoutMs;
  }

  /** Rejects with `signal.reason` when `signal` aborts. */
  watch(signal: AbortSignal): void {
    const onAbort = (): void => this.abort(signal.reason);
    this.extra.onAbort = onAbort;
    if (signal.aborted) queueMicrotask(onAbort);
    else signal.addEventListener("abort", onAbort, { once: true });
  }

  /** Called by each tick while the exchange queues or has a connection. */
  age(): void {
    const late = this.options[lateSignal];
    if (late && !this.isSettled && !this.#extra?.onAbort) this.watch(late());
    this.#extra?.streams?.age();
  }

  // ---- reports of the connection --------------------------------------------------------------------------------------
  // None of these runs user code: promises and sources continue in microtasks.

  /** Sends the streamed body through `outgoing`: the worker has claimed the request. */
  claimed(outgoing: Outgoing): void {
    this.#streams.send(outgoing, (error) => this.#break(error));
  }

  /** Settles the exchange with a whole response. `status` 0: the handler failed. `lease` gives a lent body back. */
  answered(status: number, head: Head, body: Uint8Array, lease: Lease | null): void {
    this.#endStreams();
    if (status === 0) {
      this.owner.statistics.count("errors");
      return this.fail(remoteError(head));
    }
    const { pid } = this.carrier!;
    if (this.kind === "borrow") this.#settle(new BorrowedResponse(status, pid, head, body, lease));
    else if (this.kind === "stream") this.#settle(new StreamedResponse(status, pid, head, body));
    else this.#settle(new BusResponse(status, pid, head, body));
    this.#over();
  }

  /** Called when a streamed response begins. {@link ended} or {@link lost} follows, unless the exchange is withdrawn. */
  began(status: number, head: Head, incoming: Incoming): void {
    if (this.kind === "sync") {
      const message = `The response to request ${this.id} streams, and a blocking request cannot read a stream.`;
      this.#leave();
      const hint = "Call `bus.request` or `bus.stream`.";
      this.fail(new InvalidConfigError(message, { hint, mayHaveExecuted: true }));
      return;
    }
    const { kind } = this;
    const { pid } = this.carrier!;
    const streams = this.#streams;
    const reader = streams.receive(incoming, () => this.#leave());
    if (kind !== "stream") {
      const Whole = kind === "borrow" ? BorrowedResponse : BusResponse;
      this.#gather(reader, (body) => new Whole(status, pid, head, body, null));
      return;
    }
    const response = new StreamedResponse(status, pid, head, reader);
    streams.heldBy(response);
    this.#settle(response);
    const signal = signalOf(this.options);
    if (signal) this.watch(signal);
    const { deadline, idle } = this.options;
    if (deadline !== undefined) streams.limit(deadline, () => this.#overdue("deadline", deadline, reader));
    if (idle !== undefined) streams.limitIdle(idle, () => this.#overdue("idle", idle, reader));
  }

  #overdue(limit: "deadline" | "idle", ms: number, reader: BodyReader): void {
    this.#break(new StreamTimeoutError(this.id, limit, ms, reader.bytes));
  }

  /** Called when a streamed response is complete: reads the remaining bytes of `incoming`. */
  ended(incoming: Incoming): void {
    this.#extra?.streams?.reader?.end(() => ({ error: this.#streamError(incoming) }));
    this.#endStreams();
    if (this.kind === "stream") this.#over();
  }

  /** Called when the exchange has timed out and the connection no longer carries it. Rejects it. */
  expired(executed: Executed): void {
    this.#endStreams();
    this.fail(this.#timedOut(executed));
  }

  /**
   * Called when the connection has ended. Rejects the exchange, puts it back into the queue, or runs it once more. A streamed
   * response first gets the bytes that had arrived. `how` continues "Worker pid 7 …"; `timeLeftMs`: {@link Carrier.timeLeft}.
   */
  lost(executed: Executed, how: string, timeLeftMs: number): void {
    const { owner } = this;
    if (this.isStreaming) {
      const { pid } = this.carrier!;
      this.#streams.reader!.cut(owner.closedError("maybe") ?? new WorkerDiedError(this.id, pid, how, true));
      this.#endStreams();
      if (this.kind === "stream") this.#over();
      return;
    }
    const { extra } = this;
    const isRepeatable = this.options.idempotent && this.options.worker === undefined && this.kind !== "sync";
    this.#endStreams();
    extra.startedAt ||= owner.clock.now() - (this.timeoutMs === Infinity ? 0 : this.timeoutMs - timeLeftMs);
    const isClosed = owner.closedError(extra.retried ? "maybe" : executed);
    if (isClosed) this.fail(isClosed);
    else if (executed === "maybe") {
      if (isRepeatable && !extra.retried && !extra.streams?.hasBegun) owner.retry(this);
      else owner.died(this, how);
    } else if (this.options.worker !== undefined) this.fail(unknownWorker(owner.options.name, this.options.worker));
    else owner.putBack(this);
  }

  /** Puts the exchange back into the queue: the connection took it back unclaimed, for another worker. */
  recalled(timeLeftMs: number): void {
    this.extra.moves++;
    this.lost("no", "left it unclaimed", timeLeftMs);
  }

  // ---- settling -------------------------------------------------------------------------------------------------------

  /** Rejects with `reason`: the signal aborted. */
  abort(reason: unknown): void {
    if (this.isSettled && !this.isStreaming) return;
    if (!this.isSettled) this.owner.statistics.count("aborts");
    this.#break(reason);
  }

  /** Takes the exchange back and rejects it with the error that `make` returns, unless it is settled. */
  giveUp(make: (executed: Executed) => unknown): void {
    if (this.isSettled) return;
    const executed = this.#leave();
    this.fail(make(executed));
  }

  /** Rejects the exchange, unless it is settled. Does not take it from its connection: callers do that before or after. */
  fail(reason: unknown): void {
    const reject = this.#reject;
    if (!reject) return;
    this.#endStreams();
    this.#forget();
    if (!this.#extra?.streams?.hasBegun) endSource(this.request.body);
    reject(reason);
    this.owner.over(this);
  }

  #settle(value: BusResponse | StreamedResponse): void {
    const resolve = this.#resolve;
    this.#forget();
    resolve?.(value);
  }

  /** Drops the references to the caller, so that its promise can be garbage-collected while the slot is still in use. */
  #forget(): void {
    this.#resolve = null;
    this.#reject = null;
    if (this.#extra !== null) this.#unwatch(this.#extra);
  }

  #unwatch(extra: Extra<Exchange>): void {
    if (!extra.onAbort) return;
    signalOf(this.options)?.removeEventListener("abort", extra.onAbort);
    extra.onAbort = null;
  }

  // ---- streams --------------------------------------------------------------------------------------------------------

  /** Takes the exchange from its connection. Returns whether a handler may have run. */
  #leave(): Executed {
    const wasStreaming = this.kind === "stream" && this.isStreaming;
    this.#endStreams();
    const verdict = this.carrier?.withdraw(this) ?? "no";
    if (wasStreaming) this.#over();
    this.owner.vacated(this);
    return verdict === "no" && !this.isRetried ? "no" : "maybe";
  }

  /** Ends the exchange early, because of an abort, a timeout, or a source that failed. */
  #break(error: unknown): void {
    const reader = this.#extra?.streams?.reader;
    this.#leave();
    reader?.fail(error);
    this.fail(error);
  }

  /** Called once, after the response. A source is still there if this side never saw the worker's claim. */
  #over(): void {
    if (this.hasSource) endSource(this.request.body);
    this.owner.over(this);
  }

  #endStreams(): void {
    const extra = this.#extra;
    if (extra === null) return;
    extra.streams?.close();
    if (this.isSettled) this.#unwatch(extra);
  }

  /** Collects a streamed response for `request` or `borrow`, within the same timeout. */
  #gather(reader: BodyReader, make: (body: Uint8Array) => BusResponse): void {
    // A reader may have seen the end, and settled the exchange, before the connection reports it.
    const late = (): unknown => this.#timedOut("maybe");
    this.#streams.limit(Math.max(1, this.carrier!.timeLeft(this)), () => this.giveUp(late));
    reader.collect(this.owner.options.payloadBytes).then(
      (body) => {
        if (this.isSettled) return;
        this.#settle(make(body));
        this.#over();
      },
      (error) => this.fail(error),
    );
  }

  #streamError(incoming: Incoming): Error {
    this.owner.statistics.count("errors");
    const bytes = incoming.errorHead();
    let cause: unknown;
    try {
      if (bytes) return remoteError(Head.decode(bytes, ERROR_STRINGS));
    } catch (error) {
      cause = error;
    }
    const what = bytes ? "A stream ended with a malformed error." : "A worker closed a stream without a valid end.";
    return new SlotbusError("REGION_CORRUPT", what, { cause, mayHaveExecuted: true });
  }

  /** Counts a timeout and returns its error. */
  #timedOut(executed: Executed): RequestTimeoutError {
    this.owner.statistics.count("timeouts");
    const { startedAt, sentAt, retried } = this.extra;
    const now = this.owner.clock.now();
    // A request that never queued was with its worker all the time; a request that was never sent was queued all the time.
    const queuedMs = startedAt === 0 ? 0 : (sentAt || now) - startedAt;
    const ranMs = startedAt === 0 ? this.timeoutMs : sentAt === 0 ? 0 : now - sentAt;
    return new RequestTimeoutError(this.id, callersTimeout(this), queuedMs, ranMs, executed === "maybe" || retried);
  }
}
