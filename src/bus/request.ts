/** A request as a handler sees it, and the ways to answer it. */

import { WholeBody } from "../body.ts";
import { InvalidConfigError } from "../errors.ts";
import { detach } from "../detach.ts";
import type { Answerable } from "./answer.ts";
import type { AppServer } from "./app.ts";
import { BodyReader, StreamedBody } from "./body-reader.ts";
import type { Claim, Delivery } from "./claim.ts";
import { type Head, METHODS, type Method, REQUEST_STRINGS } from "./codec.ts";
import type { HeaderList } from "./headers.ts";
import { isTraceparent, TRACEPARENT } from "./tracing.ts";
import { bodyReleased } from "../errors/plain.ts";

/** Answers a request whose answer was deferred; see {@link WorkerRequest.defer}. */
export type DeferredAnswer = (answer: Exclude<Answerable, Response>) => Delivery;

/**
 * Answers a request with what it returns. It returns nothing only after `request.respond(answer)` or `request.defer()`;
 * otherwise it has failed with `NO_ANSWER`. Its failure, what it throws, or a rejection, reaches the caller as a
 * {RemoteError}; the `remoteCode` of the first is `"NO_ANSWER"`.
 */
export type Handler = (request: WorkerRequest) => Answerable | void | Promise<Answerable | void>;

/** Answers a request of `SlotWorker.serveSync`; see {@link Handler}. */
export type SyncHandler = (request: WorkerRequest) => Exclude<Answerable, Response> | void;

/** Anything with a WHATWG `fetch`: a Hono or Elysia app, a function. */
export interface FetchHandler {
  fetch(request: Request, server: AppServer): Response | Promise<Response>;
}

/**
 * A request's body where it lies in shared memory: no copy is made. It ends when it is released, when the request is answered
 * (of a streamed answer: when the stream has ended), and when the connection to the client ends. From then on its methods throw
 * `BODY_RELEASED`, and bytes that were taken from it have length 0.
 *
 *     using view = request.borrow();
 *     hash.update(view.body);
 */
export class BorrowedBody extends WholeBody implements Disposable {
  #bytes: Uint8Array<ArrayBuffer> | null;
  readonly #onHeld: () => void;

  /** @internal `onHeld` is called when the memory could not be taken back. */
  constructor(bytes: Uint8Array<ArrayBuffer>, onHeld: () => void) {
    super();
    this.#bytes = bytes;
    this.#onHeld = onHeld;
  }

  /** The body, a view of shared memory. @throws `BODY_RELEASED` after the end of the borrow. */
  get body(): Uint8Array {
    if (this.#bytes) return this.#bytes;
    throw bodyReleased("a borrowed body");
  }

  /** Returns a copy of the body, which is yours to keep. @throws `BODY_RELEASED` after the end of the borrow. */
  override bytes(): Uint8Array {
    return this.body.slice();
  }

  /** Ends the borrow. Any number of times. */
  release(): void {
    const bytes = this.#bytes;
    this.#bytes = null;
    if (bytes && !detach(bytes.buffer)) this.#onHeld();
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** The body of a request, whether it streams or not. It does not refer to the request: see {@link Claim}. */
class IncomingBody extends StreamedBody {
  protected readonly reader: BodyReader;

  constructor(reader: BodyReader) {
    super();
    this.reader = reader;
  }
}

/** One request. It may be kept, with its body, and be answered later (see {@link WorkerRequest.defer}). */
export class WorkerRequest extends WholeBody {
  readonly method: Method;
  readonly #claim: Claim;
  readonly #head: Head;
  readonly #serial: number;
  readonly #timeoutMs: number;
  readonly #receivedAt: number;
  #deferred: DeferredAnswer | null = null;
  #params: Readonly<Record<string, string>> | null = null;

  /** @internal */
  constructor(claim: Claim, method: number, serial: number, timeoutMs: number, receivedAt: number, head: Head) {
    super();
    this.#claim = claim;
    this.method = METHODS[method]!;
    this.#serial = serial;
    this.#timeoutMs = timeoutMs;
    this.#receivedAt = receivedAt;
    this.#head = head;
  }

  /** What was asked for. */
  get path(): string {
    return this.#head.string(0);
  }

  /** Query without its `?`; `""` when there is none. */
  get query(): string {
    return this.#head.string(1);
  }

  /** Route pattern that a router of the client found; `""` when there is none. */
  get pattern(): string {
    return this.#head.string(2);
  }

  /** Id of the request: the caller's own, or a generated one. */
  get id(): string {
    return this.#head.string(3) || this.#claim.owner.idOf(this.#serial);
  }

  /** Path parameters that a router of the client found. */
  get params(): Readonly<Record<string, string>> {
    if (this.#params) return this.#params;
    const flat = this.#head.strings(REQUEST_STRINGS, REQUEST_STRINGS + 2 * this.#head.parameters);
    const params: Record<string, string> = Object.create(null);
    for (let i = 0; i < flat.length; i += 2) params[flat[i]!] = flat[i + 1]!;
    this.#params = params;
    return params;
  }

  /** Headers in the caller's order, duplicates kept. */
  get headers(): HeaderList {
    return this.#head.headers;
  }

  /** W3C trace context of the caller, to be passed on with what the handler itself asks for; `null`: none, or malformed. */
  get traceparent(): string | null {
    const given = this.headers.get(TRACEPARENT);
    return isTraceparent(given) ? given : null;
  }

  /**
   * The body, a copy that is yours to keep. Copied when they are first asked for, or when the request is answered
   * (up to the bus's `inlineBytes` when it comes); see {@link borrow} for a large body without a copy.
   *
   * @throws `BODY_RELEASED` when it is first asked for after the answer, and the body was borrowed before;
   * {@link InvalidConfigError} for a body that streams: see {@link incoming}.
   */
  get body(): Uint8Array {
    if (this.streams) throw this.#streamsError();
    return this.#claim.body(this);
  }

  /**
   * The body without a copy, until it is released or the request is answered: a view of shared memory, for large bodies that
   * are read at once. The view may be the answer's body, unless it was released before.
   *
   *     using view = request.borrow();
   *
   * @throws `BODY_RELEASED` once the request is answered; {@link InvalidConfigError} for a body that streams.
   */
  borrow(): BorrowedBody {
    if (this.streams) throw this.#streamsError();
    return this.#claim.borrow(this, (bytes) => new BorrowedBody(bytes, () => this.#claim.owner.keptMemory()));
  }

  /** @internal The bytes where they are. Only for this step of the library, never for user code; they are not copied later. */
  peek(): Uint8Array {
    if (this.streams) throw this.#streamsError();
    return this.#claim.peek(this);
  }

  #streamsError(): InvalidConfigError {
    return new InvalidConfigError(`the body of request ${this.id} streams.`, {
      hint: "Read it with `request.incoming`: `await text()`, `json()` or `bytes()`, `chunks()` or `stream()`.",
    });
  }

  /**
   * Whether the body streams: then {@link body}, {@link bytes}, {@link text}, {@link json} and {@link borrow} throw, and
   * {@link incoming} reads it.
   */
  get streams(): boolean {
    return this.#claim.reader !== null;
  }

  /**
   * The body, whether it {@link streams} or not, for a handler that takes both. A body that streams can be read only until the
   * request is answered (of a streamed answer: until its end); a later read rejects with an `AbortError`.
   *
   *     const text = await request.incoming.text();
   *
   * @throws `BODY_RELEASED` as {@link body}.
   */
  get incoming(): StreamedBody {
    return new IncomingBody(this.reader);
  }

  /** @internal */
  get reader(): BodyReader {
    return this.#claim.reader ?? BodyReader.of("request", this.body);
  }

  /** When the caller gives up at the latest, as `Date.now()` counts; `Infinity` without a timeout. */
  get deadline(): number {
    // oxlint-disable-next-line no-restricted-globals -- it is wall-clock time by its meaning
    return Math.ceil(Date.now() + this.timeLeft);
  }

  /** @internal Ms until {@link deadline}, below 0 when it is over. */
  get timeLeft(): number {
    if (this.#timeoutMs === 0) return Infinity;
    return this.#receivedAt + this.#timeoutMs - this.#claim.owner.turns.clock.now();
  }

  /** Aborts when the caller gives up, by timeout or abort, and when the connection to the client ends. */
  get signal(): AbortSignal {
    return this.#claim.signal;
  }

  /** Whether the caller has given up; asks shared memory itself, so it is true even in a blocking handler. */
  get aborted(): boolean {
    return this.#claim.isGivenUp;
  }

  /** Whether there is an answer already. */
  get answered(): boolean {
    return this.#claim.isAnswered;
  }

  /**
   * Memory of the response in place: fill it and answer with it as `body`, and no copy is made. Taken away (length 0)
   * when the request is answered. One reservation per request; length 0 when it is answered already.
   *
   * @throws {PayloadTooLargeError} above the bus's payload limit.
   */
  reserve(bytes: number): Uint8Array {
    return this.#claim.reserve(bytes);
  }

  /**
   * Answers at once, while the handler goes on: it may return nothing then. The first answer counts. To answer after the
   * handler has returned, {@link defer}.
   *
   * @throws {PayloadTooLargeError}, {HeadTooLargeError}, {InvalidConfigError}: the caller got an error instead.
   */
  respond(answer: Exclude<Answerable, Response>): Delivery {
    return this.#claim.respond(this, answer);
  }

  /**
   * Returns the function that answers, as {@link respond} does, at any later time; a handler that has called this may return
   * nothing. Keep the function: when it is collected as garbage without an answer, the caller gets a {@link RemoteError}
   * whose `remoteCode` is `"NO_ANSWER"`.
   *
   *     const answer = request.defer();
   *     queue.push({ order: request.json(), done: () => answer("done") });
   */
  defer(): DeferredAnswer {
    if (!this.#deferred) {
      this.#deferred = (answer) => this.respond(answer);
      this.#claim.defer(this);
    }
    return this.#deferred;
  }

  /** @internal A deferred answer failed: the caller gets the error, unless it has an answer, and `handlerError` tells it. */
  fail(error: unknown): void {
    this.#claim.fail(error);
    this.#claim.owner.failedLate(this, error);
  }

  /** @internal Whether {@link defer} was called. */
  get isDeferred(): boolean {
    return this.#deferred !== null;
  }

  /** @internal */
  get payloadBytes(): number {
    return this.#claim.owner.payloadBytes;
  }

  /** @internal */
  get head(): Head {
    return this.#head;
  }

  /** @internal */
  get claim(): Claim {
    return this.#claim;
  }
}
