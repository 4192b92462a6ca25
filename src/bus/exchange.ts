/** One request on the asking side, from the call to its settlement, which happens once. */

import type { Clock } from "../clock.ts";
import {
  SlotbusError,
  InvalidConfigError,
  NoWorkerError,
  PayloadTooLargeError,
  RequestTimeoutError,
  StreamTimeoutError,
  WorkerDiedError,
} from "../errors.ts";
import type { BodyReader, Incoming } from "./body-reader.ts";
import { endSource, isStreamSource, type Outgoing, type StreamSource } from "./body-writer.ts";
import { type BusRequest, callersTimeout, collectStrings, type InnerOptions, lateSignal, signalOf } from "./call.ts";
import {
  type Arena,
  type BodyLike,
  bodyLength,
  encodeHead,
  encodeMethod,
  Head,
  type HeadWriter,
  REQUEST_STRINGS,
} from "./codec.ts";
import { BorrowedResponse, BusResponse, ERROR_STRINGS, remoteError, StreamedResponse } from "./response.ts";
import type { Statistics } from "./stats.ts";
import { Streams } from "./streams.ts";
import type { Turns } from "./turns.ts";

/** How a request was made, which decides what it resolves to. */
export type Kind = "copy" | "borrow" | "sync" | "stream";
/** Whether a handler may have run. */
export type Executed = "no" | "maybe";
/** Result of a withdrawal. "asked": the other side decides later, and the caller is told "maybe" now. */
export type Verdict = Executed | "asked";

/** Gives back the memory of a response that was lent. Called once. `isHeld`: user code still holds the memory. */
export type Lease = (isHeld: boolean) => void;

/** What an exchange asks of the connection that carries it. */
export interface Carrier {
  readonly pid: number;
  /** Takes an exchange back: no report follows. */
  withdraw(exchange: Exchange): Verdict;
  /** Time to the deadline of an exchange, in ms; below 0 when it is over, `Infinity` without a deadline. */
  timeLeft(exchange: Exchange): number;
}

/** What an exchange asks of the dispatcher that made it. */
export interface ExchangeOwner {
  readonly statistics: Statistics;
  readonly turns: Turns;
  readonly clock: Clock;
  readonly options: { readonly name: string; readonly payloadBytes: number; readonly headBytes: number };
  idOf(exchange: Exchange): string;
  /** The error of a request that meets a closed bus; `null` while the bus is open. */
  closedError(executed: Executed): Error | null;
  /** An exchange is over: settled, and none of its streams is left. Called once. */
  over(exchange: Exchange): void;
  /** A connection ended before its worker had claimed the exchange: it goes back to the front of the queue. */
  putBack(exchange: Exchange): void;
  /** An exchange may run once more, as soon as it is proved that its first worker has ended. */
  retry(exchange: Exchange): void;
  /** The connection of an exchange ended while its handler may have run: it is rejected. `how` continues "worker pid 7 …". */
  died(exchange: Exchange, how: string): void;
  /** An exchange left the queue or its connection: its place is free for another one. */
  vacated(exchange: Exchange): void;
}

/** Resolves the promise of a request. */
export type Resolve = (value: BusResponse | StreamedResponse) => void;
/** Rejects the promise of a request. */
export type Reject = (reason: unknown) => void;

/** State that only some exchanges need: those that queue, have a signal, or stream. */
class Extra {
  /** `clock.now()` of the call; 0 for a request that never queued. */
  startedAt = 0;
  sentAt = 0;
  /** It ran, or may have run, on a worker that died. */
  retried = false;
  /** Whether it is in the queue, and its neighbours there. */
  queued = false;
  next: Exchange | null = null;
  previous: Exchange | null = null;
  /** Its head, encoded while it queued. */
  head: Uint8Array | null = null;
  onAbort: (() => void) | null = null;
  streams: Streams | null = null;
}

/** One request. Twelve fields take 112 bytes in JavaScriptCore, thirteen 160: what few requests need is in {@link Extra}. */
export class Exchange {
  readonly owner: ExchangeOwner;
  readonly request: BusRequest;
  readonly options: InnerOptions;
  readonly kind: Kind;
  /** Number of the request on its bus. */
  readonly serial: number;
  /** In ms; `Infinity` for none. */
  readonly timeoutMs: number;
  /** The connection that carries it, if one does, and its place there. Both are set by the connection. */
  carrier: Carrier | null = null;
  place = 0;
  /** The body to send; `request.json` is encoded by the constructor, once. */
  readonly body: BodyLike | StreamSource;
  #resolve: Resolve | null;
  #reject: Reject | null;
  #extra: Extra | null = null;

  /** Runs code of the user (`toJSON`) and throws what it throws. */
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

  /** Made when it is first needed. */
  get extra(): Extra {
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

  /** Whether it waits in the queue. */
  get isQueued(): boolean {
    return this.#extra !== null && this.#extra.queued;
  }

  get isRetried(): boolean {
    return this.#extra !== null && this.#extra.retried;
  }

  /** Whether its body streams, and the worker has not asked for it yet. */
  get hasSource(): boolean {
    return this.#extra?.streams?.source != null;
  }

  /** Whether its response streams, has begun, and is not over. */
  get isStreaming(): boolean {
    return this.#extra?.streams?.reader != null;
  }

  // ---- the way out ----------------------------------------------------------------------------------------------------

  /**
   * Collects the strings of its head and returns the number of path parameters. Runs code of the user: iterators of headers. Does
   * nothing when the head is encoded already.
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

  /** Writes its head, from the collected strings, to the start of an arena. Returns its bytes. @throws {HeadTooLargeError} */
  writeHead(arena: Arena, heads: HeadWriter, parameters: number): number {
    const known = this.#extra?.head;
    const { headBytes } = this.owner.options;
    if (!known) return heads.write(arena, parameters, REQUEST_STRINGS + 2 * parameters, headBytes, "request");
    arena.bytes.set(known, 0);
    arena.head = null;
    return known.length;
  }

  /** Encodes its head before it queues: a caller hears what is wrong with a request at once, not when a worker comes. */
  encode(scratch: Arena): void {
    const { headBytes, payloadBytes } = this.owner.options;
    const strings: string[] = [];
    const parameters = collectStrings(strings, this.request, this.options.traceparent);
    const length = encodeHead(scratch, strings, parameters, REQUEST_STRINGS + 2 * parameters, headBytes, "request");
    if (this.request.method !== undefined) encodeMethod(this.request.method);
    const bytes = isStreamSource(this.body) ? 0 : bodyLength(this.body);
    if (bytes > payloadBytes) throw new PayloadTooLargeError("request", bytes, payloadBytes);
    this.extra.head = scratch.bytes.slice(0, length);
  }

  /** Whether its body streams; then {@link claimed} may ask for it. */
  beginBody(): boolean {
    if (!isStreamSource(this.body)) return false;
    this.#streams.source = this.body;
    return true;
  }

  /** Timeout for the connection that it is sent by, in ms: what the queue has left of it, at least 1; `Infinity` for none. */
  timeLeft(): number {
    const extra = this.#extra;
    if (extra === null || extra.startedAt === 0) return this.timeoutMs;
    extra.sentAt = this.owner.clock.now();
    return Math.max(1, Math.ceil(this.timeoutMs - (extra.sentAt - extra.startedAt)));
  }

  /** Whether its timeout is over, while it queues or waits for its second run. */
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

  /** A tick found it unsettled. */
  age(): void {
    const late = this.options[lateSignal];
    if (late && !this.isSettled && !this.#extra?.onAbort) this.watch(late());
    this.#extra?.streams?.age();
  }

  // ---- reports of the connection --------------------------------------------------------------------------------------
  // None of them runs code of the user: promises and sources go on in microtasks.

  /** The worker wants the body that streams: sends it by `outgoing`. */
  claimed(outgoing: Outgoing): void {
    this.#streams.send(outgoing, (error) => this.#break(error));
  }

  /** The whole response came. `status` 0: the handler failed. `lease`: gives the body back, which is lent. */
  answered(status: number, head: Head, body: Uint8Array, lease: Lease | null): void {
    this.#endStreams();
    if (status === 0) {
      this.owner.statistics.count("errors");
      this.fail(remoteError(head));
      return;
    }
    const { pid } = this.carrier!;
    if (this.kind === "borrow") this.#settle(new BorrowedResponse(status, pid, head, body, lease));
    else if (this.kind === "stream") this.#settle(new StreamedResponse(status, pid, head, body));
    else this.#settle(new BusResponse(status, pid, head, body));
    this.owner.over(this);
  }

  /** The response begins and streams. {@link ended} or {@link lost} follows, unless it is withdrawn. */
  began(status: number, head: Head, incoming: Incoming): void {
    if (this.kind === "sync") {
      const message = `request ${this.id} was answered with a stream, which a blocking request cannot read.`;
      this.#leave();
      this.fail(new InvalidConfigError(message, { hint: "Use `request` or `stream`.", mayHaveExecuted: true }));
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
    const { deadline = Infinity, idle = Infinity } = this.options;
    const over = (limit: "deadline" | "idle", ms: number): void =>
      this.#break(new StreamTimeoutError(this.id, limit, ms, reader.bytes));
    streams.limit(deadline, () => over("deadline", deadline));
    streams.limitIdle(idle, () => over("idle", idle));
  }

  /** The response that streamed is whole: reads what `incoming` still has. */
  ended(incoming: Incoming): void {
    this.#extra?.streams?.reader?.end(() => ({ error: this.#streamError(incoming) }));
    this.#leftStream();
  }

  /** Its timeout is over, and it was taken back. */
  expired(executed: Executed): void {
    this.#endStreams();
    this.owner.statistics.count("timeouts");
    this.fail(this.#timeoutError(executed));
  }

  /**
   * Its connection has ended: it fails, goes back to the queue, or runs once more. Reads first what came of a response that streams.
   * `how` continues "worker pid 7 …"; `timeLeftMs`: {@link Carrier.timeLeft}.
   */
  lost(executed: Executed, how: string, timeLeftMs: number): void {
    const { owner } = this;
    if (this.isStreaming) {
      const died = (): Error => new WorkerDiedError(this.id, this.carrier!.pid, how, true);
      this.#streams.reader!.end(() => ({ error: owner.closedError("maybe") ?? died() }));
      this.#leftStream();
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
    } else if (this.options.worker !== undefined) this.fail(new NoWorkerError(owner.options.name, 0));
    else owner.putBack(this);
  }

  // ---- settling -------------------------------------------------------------------------------------------------------

  /** Its signal aborted: rejects with `reason`. */
  abort(reason: unknown): void {
    if (this.isSettled && !this.isStreaming) return;
    if (!this.isSettled) this.owner.statistics.count("aborts");
    this.#break(reason);
  }

  /** Takes it back and rejects with the error that `make` returns, unless it is settled. */
  giveUp(make: (executed: Executed) => unknown): void {
    if (this.isSettled) return;
    const executed = this.#leave();
    this.fail(make(executed));
  }

  /** Rejects, unless it is settled. The caller has taken it from its connection, or does so next. */
  fail(reason: unknown): void {
    const reject = this.#reject;
    if (!reject) return;
    const isUnread = !this.#extra?.streams?.hasBegun;
    this.#forget();
    if (isUnread) endSource(this.request.body);
    reject(reason);
    this.owner.over(this);
  }

  #settle(value: BusResponse | StreamedResponse): void {
    const resolve = this.#resolve;
    this.#forget();
    resolve?.(value);
  }

  /** Drops what leads to the caller: its promise may be collected as garbage while the slot is still in use. */
  #forget(): void {
    this.#resolve = null;
    this.#reject = null;
    const onAbort = this.#extra?.onAbort;
    if (!onAbort) return;
    signalOf(this.options)?.removeEventListener("abort", onAbort);
    this.#extra!.onAbort = null;
  }

  // ---- its streams ----------------------------------------------------------------------------------------------------

  /** Leaves its connection. Returns whether a handler may have run. */
  #leave(): Executed {
    const wasStreaming = this.kind === "stream" && this.isStreaming;
    this.#endStreams();
    const verdict = this.carrier?.withdraw(this) ?? "no";
    if (wasStreaming) this.owner.over(this);
    this.owner.vacated(this);
    return verdict === "no" && !this.isRetried ? "no" : "maybe";
  }

  /** Ends it early: by an abort, a timeout, or a source that failed. */
  #break(error: unknown): void {
    const reader = this.#extra?.streams?.reader;
    this.#leave();
    reader?.fail(error);
    this.fail(error);
  }

  /** The stream of its response is over. */
  #leftStream(): void {
    this.#endStreams();
    if (this.kind === "stream") this.owner.over(this);
  }

  /** Stops its streams. */
  #endStreams(): void {
    const extra = this.#extra;
    if (extra === null) return;
    extra.streams?.close();
    if (this.isSettled && extra.onAbort) {
      signalOf(this.options)?.removeEventListener("abort", extra.onAbort);
      extra.onAbort = null;
    }
  }

  /** Collects an answer that streams for a caller that asked for a whole one, within the same timeout. */
  #gather(reader: BodyReader, make: (body: Uint8Array) => BusResponse): void {
    this.#streams.limit(Math.max(1, this.carrier!.timeLeft(this)), () => {
      this.owner.statistics.count("timeouts");
      this.#break(this.#timeoutError("maybe"));
    });
    reader.collect(this.owner.options.payloadBytes).then(
      (body) => {
        if (this.isSettled) return;
        this.#settle(make(body));
        this.owner.over(this);
      },
      (error) => this.fail(error),
    );
  }

  #streamError(incoming: Incoming): Error {
    this.owner.statistics.count("errors");
    const bytes = incoming.errorHead();
    let cause: unknown;
    try {
      if (bytes) return remoteError(new Head(bytes, ERROR_STRINGS));
    } catch (error) {
      cause = error;
    }
    const what = bytes ? "a stream ended with a malformed error." : "a worker ended a stream without saying how.";
    return new SlotbusError("REGION_CORRUPT", what, { cause, mayHaveExecuted: true });
  }

  #timeoutError(executed: Executed): RequestTimeoutError {
    const { startedAt, sentAt, retried } = this.extra;
    const now = this.owner.clock.now();
    // One that never queued ran all the time, one that was never sent queued all the time.
    const queuedMs = startedAt === 0 ? 0 : (sentAt || now) - startedAt;
    const ranMs = startedAt === 0 ? this.timeoutMs : sentAt === 0 ? 0 : now - sentAt;
    return new RequestTimeoutError(this.id, callersTimeout(this), queuedMs, ranMs, executed === "maybe" || retried);
  }
}
