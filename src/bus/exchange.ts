/** One request on the asking side, from the call to its settlement. */

import type { Clock } from "../clock.ts";
import { checkTimeout } from "../check.ts";
import {
  InvalidConfigError,
  NoWorkerError,
  PayloadTooLargeError,
  RegionCorruptError,
  RequestTimeoutError,
  StreamTimeoutError,
  WorkerDiedError,
} from "../errors.ts";
import type { BodyReader, Incoming } from "./body-reader.ts";
import { endSource, isStreamSource, type Outgoing, type StreamSource } from "./body-writer.ts";
import { type BusRequest, collectStrings, type RequestOptions, signalOf } from "./call.ts";
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

/** What a settled request resolves to is decided by how it was asked for. */
export type Kind = "copy" | "borrow" | "sync" | "stream";
/** Whether a handler may have run. */
export type Executed = "no" | "maybe";
/** What a withdrawal found; `asked`: the other side decides, and the caller is told "maybe". */
export type Verdict = Executed | "asked";

/** Gives the memory of a response back that is lent out, once; `isHeld`: somebody carried the memory away. */
export type Lease = (isHeld: boolean) => void;

/** What an exchange asks of the connection that carries it. */
export interface Carrier {
  readonly pid: number;
  /** Takes it back: no report follows. */
  withdraw(exchange: Exchange): Verdict;
  /** Ms to its deadline, below 0 when that is over; 0 without one. */
  timeLeft(exchange: Exchange): number;
}

/** What an exchange asks of the dispatcher that made it. */
export interface ExchangeOwner {
  readonly statistics: Statistics;
  readonly turns: Turns;
  readonly clock: Clock;
  readonly options: { readonly name: string; readonly payloadLimit: number; readonly headLimit: number };
  idOf(exchange: Exchange): string;
  /** Why nothing is sent any more; `null`: it is. */
  closedError(executed: Executed): Error | null;
  /** It is over: settled, and no stream of it is left. Called once. */
  over(exchange: Exchange): void;
  /** A connection ended before a worker had claimed it: it goes first again. */
  putBack(exchange: Exchange): void;
  /** It may run once more, when it is proved that its first worker has ended. */
  retry(exchange: Exchange): void;
  /** It waits no more, or left its connection: its place is free for another one. */
  vacated(exchange: Exchange): void;
}

export type Resolve = (value: BusResponse | StreamedResponse) => void;
export type Reject = (reason: unknown) => void;

/** What only an exchange has that waits, that has a signal, or that streams. */
class Extra {
  /** `clock.now()` of the call; 0 until somebody needs it, which a request that never queues does not. */
  startedAt = 0;
  sentAt = 0;
  /** It ran, or may have, on a worker that died. */
  retried = false;
  /** Its place in the queue, while it is there. */
  queued = false;
  next: Exchange | null = null;
  previous: Exchange | null = null;
  /** Its head, encoded while it queued. */
  head: Uint8Array | null = null;
  onAbort: (() => void) | null = null;
  streams: Streams | null = null;
}

/** Twelve fields are 112 bytes in JavaScriptCore; one more, and an object takes 160. */
export class Exchange {
  readonly owner: ExchangeOwner;
  readonly request: BusRequest;
  readonly options: RequestOptions;
  readonly kind: Kind;
  /** Number of the request on its bus. */
  readonly serial: number;
  /** 0: none. */
  readonly timeoutMs: number;
  /** Where it is now; `null`: nowhere. Set by the connection, as its `place` there. */
  carrier: Carrier | null = null;
  place = 0;
  /** The body: `request.json` is encoded once. */
  readonly body: BodyLike | StreamSource;
  #resolve: Resolve | null;
  #reject: Reject | null;
  #extra: Extra | null = null;

  /** Runs code of the user (`toJSON`), and throws what that throws. */
  constructor(
    owner: ExchangeOwner,
    request: BusRequest,
    options: RequestOptions,
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

  /** For what is read or written only when a request waits or streams. */
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

  /** It waits in the queue. */
  get isQueued(): boolean {
    return this.#extra !== null && this.#extra.queued;
  }

  get isRetried(): boolean {
    return this.#extra !== null && this.#extra.retried;
  }

  /** Its body streams, and was not asked for. */
  get hasSource(): boolean {
    return this.#extra?.streams?.source != null;
  }

  /** Its response streams, and has begun. */
  get isStreaming(): boolean {
    return this.#extra?.streams?.reader != null;
  }

  // ---- the way out ----------------------------------------------------------------------------------------------------

  /**
   * Collects what its head is made of; returns the number of path parameters. Runs code of the user: the iterators of headers.
   * Nothing when the head is encoded already.
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

  /** Writes its head, whose strings were collected, to the start of an arena, and returns its length. @throws {HeadTooLargeError} */
  writeHead(arena: Arena, heads: HeadWriter, parameters: number): number {
    const known = this.#extra?.head;
    if (!known)
      return heads.write(arena, parameters, REQUEST_STRINGS + 2 * parameters, this.owner.options.headLimit, "request");
    arena.bytes.set(known, 0);
    arena.head = null;
    return known.length;
  }

  /** What is wrong with a request is said when it is made, not when a worker comes; so its head is encoded before it queues. */
  encode(scratch: Arena): void {
    const { headLimit, payloadLimit } = this.owner.options;
    const strings: string[] = [];
    const parameters = collectStrings(strings, this.request, this.options.traceparent);
    const length = encodeHead(scratch, strings, parameters, REQUEST_STRINGS + 2 * parameters, headLimit, "request");
    if (this.request.method !== undefined) encodeMethod(this.request.method);
    const bytes = isStreamSource(this.body) ? 0 : bodyLength(this.body);
    if (bytes > payloadLimit) throw new PayloadTooLargeError("request", bytes, payloadLimit);
    this.extra.head = scratch.bytes.slice(0, length);
  }

  /** Whether its body streams; then {@link claimed} may ask for it. */
  beginBody(): boolean {
    if (!isStreamSource(this.body)) return false;
    this.#streams.source = this.body;
    return true;
  }

  /** Ms left of its timeout, when it is sent after it had queued; at least 1, or 0 for no timeout. */
  timeLeft(): number {
    const extra = this.#extra;
    if (extra === null || extra.startedAt === 0) return this.timeoutMs;
    extra.sentAt = this.owner.clock.now();
    return this.timeoutMs === 0 ? 0 : Math.max(1, Math.ceil(this.timeoutMs - (extra.sentAt - extra.startedAt)));
  }

  /** Whether its time is over. */
  isLate(now: number): boolean {
    return this.timeoutMs > 0 && now - this.extra.startedAt >= this.timeoutMs;
  }

  /** Ends it with `signal.reason` when its signal aborts. */
  watch(signal: AbortSignal): void {
    const onAbort = (): void => this.abort(signal.reason);
    this.extra.onAbort = onAbort;
    if (signal.aborted) queueMicrotask(onAbort);
    else signal.addEventListener("abort", onAbort, { once: true });
  }

  /** A tick found it here still. */
  age(): void {
    const { lateSignal } = this.options;
    if (lateSignal && !this.isSettled && !this.#extra?.onAbort) this.watch(lateSignal());
    this.#extra?.streams?.age();
  }

  // ---- reports of the connection --------------------------------------------------------------------------------------
  // None of them runs code of the user: promises and sources go on in microtasks.

  /** The worker has claimed it and wants the body of `source`. */
  claimed(outgoing: Outgoing): void {
    this.#streams.send(outgoing, (error) => this.#break(error));
  }

  /** Its response is here, whole. `status` 0: the handler failed. `lease`: the body is lent. */
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

  /** Its response begins. {@link ended} or {@link lost} follows, unless it is withdrawn. */
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
      this.#gather(reader, (body) =>
        kind === "borrow"
          ? new BorrowedResponse(status, pid, head, body, null)
          : new BusResponse(status, pid, head, body),
      );
      return;
    }
    const response = new StreamedResponse(status, pid, head, reader);
    streams.heldBy(response);
    this.#settle(response);
    const signal = signalOf(this.options);
    if (signal) this.watch(signal);
    const { deadline = 0, idle = 0 } = this.options;
    const over = (limit: "deadline" | "idle", ms: number): void =>
      this.#break(new StreamTimeoutError(this.id, limit, ms, reader.bytes));
    streams.limit(checkTimeout("deadline", deadline), () => over("deadline", deadline));
    streams.limitIdle(checkTimeout("idle", idle), () => over("idle", idle));
  }

  /** Its response that streamed is whole: what `incoming` has is read before this returns. */
  ended(incoming: Incoming): void {
    this.#extra?.streams?.reader?.end(() => ({ error: this.#streamError(incoming) }));
    this.#leftStream();
  }

  /** Its time is over, and it was taken back. */
  expired(executed: Executed): void {
    this.#endStreams();
    this.owner.statistics.count("timeouts");
    this.fail(this.#timeoutError(executed));
  }

  /**
   * Its connection has ended. `how` continues "worker pid 7 …"; `timeLeftMs` as of {@link Carrier.timeLeft}. What was handed over of a
   * response that streamed is read before this returns.
   */
  lost(executed: Executed, how: string, timeLeftMs: number): void {
    const { pid } = this.carrier!;
    const { owner } = this;
    if (this.isStreaming) {
      this.#streams.reader!.end(() => ({
        error: owner.closedError("maybe") ?? new WorkerDiedError(this.id, pid, how, true),
      }));
      this.#leftStream();
      return;
    }
    const { extra } = this;
    const isRepeatable = this.options.idempotent && this.options.worker === undefined && this.kind !== "sync";
    this.#endStreams();
    if (extra.startedAt === 0) extra.startedAt = owner.clock.now() - this.timeoutMs + timeLeftMs;
    const isClosed = owner.closedError(extra.retried ? "maybe" : executed);
    if (isClosed) this.fail(isClosed);
    else if (executed === "maybe") {
      if (isRepeatable && !extra.retried && !extra.streams?.hasBegun) owner.retry(this);
      else this.fail(new WorkerDiedError(this.id, pid, how, true));
    } else if (this.options.worker !== undefined) this.fail(new NoWorkerError(owner.options.name, 0));
    else owner.putBack(this);
  }

  // ---- settling -------------------------------------------------------------------------------------------------------

  /** Ends it because its signal aborted. */
  abort(reason: unknown): void {
    if (this.isSettled && !this.isStreaming) return;
    if (!this.isSettled) this.owner.statistics.count("aborts");
    this.#break(reason);
  }

  /** Ends it now, and rejects with the error that `make` gives. */
  giveUp(make: (executed: Executed) => unknown): void {
    if (this.isSettled) return;
    const executed = this.#leave();
    this.fail(make(executed));
  }

  /** Rejects, unless it is settled. Nothing of it is at a connection any more. */
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

  /** What it was settled with may be collected as garbage while its slot is still in use. */
  #forget(): void {
    this.#resolve = null;
    this.#reject = null;
    const onAbort = this.#extra?.onAbort;
    if (!onAbort) return;
    signalOf(this.options)?.removeEventListener("abort", onAbort);
    this.#extra!.onAbort = null;
  }

  // ---- its streams ----------------------------------------------------------------------------------------------------

  /** Takes it away from its connection. */
  #leave(): Executed {
    const wasStreaming = this.kind === "stream" && this.isStreaming;
    this.#endStreams();
    const verdict = this.carrier?.withdraw(this) ?? "no";
    if (wasStreaming) this.owner.over(this);
    this.owner.vacated(this);
    return verdict === "no" && !this.isRetried ? "no" : "maybe";
  }

  /** Ends before its time: by an abort, a timeout, or a source that failed. */
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

  /** Nothing moves any more. */
  #endStreams(): void {
    const extra = this.#extra;
    if (extra === null) return;
    extra.streams?.close();
    if (this.isSettled && extra.onAbort) {
      signalOf(this.options)?.removeEventListener("abort", extra.onAbort);
      extra.onAbort = null;
    }
  }

  /** Whoever asked for the whole answer gets it when it is whole, within the same timeout. */
  #gather(reader: BodyReader, make: (body: Uint8Array) => BusResponse): void {
    const left = this.timeoutMs > 0 ? Math.max(1, this.carrier!.timeLeft(this)) : 0;
    this.#streams.limit(left, () => {
      this.owner.statistics.count("timeouts");
      this.#break(this.#timeoutError("maybe"));
    });
    reader.collect(this.owner.options.payloadLimit, "response").then(
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
    try {
      if (bytes) return remoteError(new Head(bytes, ERROR_STRINGS));
    } catch (cause) {
      return new RegionCorruptError("a stream ended with a malformed error.", { cause, mayHaveExecuted: true });
    }
    return new RegionCorruptError("a worker ended a stream without saying how.", { mayHaveExecuted: true });
  }

  #timeoutError(executed: Executed): RequestTimeoutError {
    const { startedAt, sentAt, retried } = this.extra;
    const now = this.owner.clock.now();
    const [queuedMs, ranMs] =
      startedAt === 0 // never queued
        ? [0, this.timeoutMs]
        : sentAt === 0 // never sent
          ? [now - startedAt, 0]
          : [sentAt - startedAt, now - sentAt];
    return new RequestTimeoutError(this.id, this.timeoutMs, queuedMs, ranMs, executed === "maybe" || retried);
  }
}
