/** A request as a handler sees it, and the ways to respond. */

import { WholeBody } from "../body.ts";
import { InvalidConfigError } from "../errors.ts";
import { detach } from "../detach.ts";
import type { Answerable } from "./answer.ts";
import type { AppServer } from "./app.ts";
import { BodyReader, StreamedBody } from "./body-reader.ts";
import type { Claim, Delivery } from "./claim.ts";
import { METHODS, type Method, REQUEST_STRINGS } from "./codec.ts";
import type { Head } from "./head.ts";
import type { HeaderList } from "./headers.ts";
import { isTraceparent, TRACEPARENT } from "./tracing.ts";
import { bodyReleased } from "../errors/plain.ts";

/** Sends a deferred response; see {@link WorkerRequest.defer}. */
export type DeferredAnswer = (answer: Exclude<Answerable, Response>) => Delivery;

/**
 * Handles a request; the return value is the response. A handler may return nothing only if it called `request.respond(answer)` or
 * `request.defer()`. If a handler throws or rejects, the caller gets a {RemoteError}. If it returns nothing, the caller gets a
 * {RemoteError} whose `remoteCode` is `"NO_ANSWER"`.
 */
export type Handler = (request: WorkerRequest) => Answerable | void | Promise<Answerable | void>;

/** Handler of `SlotWorker.serveSync`; see {@link Handler}. */
export type SyncHandler = (request: WorkerRequest) => Exclude<Answerable, Response> | void;

/** An object with a WHATWG `fetch` method, for example a Hono or Elysia app. */
export interface FetchHandler {
  fetch(request: Request, server: AppServer): Response | Promise<Response>;
}

/**
 * The body of a request in shared memory, without a copy. The borrow ends when it is released, when the request gets its response
 * (a streamed response: when the stream ends), or when the connection to the client ends. After that its methods throw
 * `BODY_RELEASED`, and arrays taken from it have length 0.
 *
 *     using view = request.borrow();
 *     hash.update(view.body);
 */
export class BorrowedBody extends WholeBody implements Disposable {
  #bytes: Uint8Array<ArrayBuffer> | null;
  readonly #onHeld: () => void;

  /** @internal `onHeld` is called if the memory cannot be detached. */
  constructor(bytes: Uint8Array<ArrayBuffer>, onHeld: () => void) {
    super();
    this.#bytes = bytes;
    this.#onHeld = onHeld;
  }

  /** The body, a view of shared memory. @throws `BODY_RELEASED` after the end of the borrow. */
  get body(): Uint8Array {
    if (this.#bytes) return this.#bytes;
    throw bodyReleased("The borrowed body");
  }

  /** Returns a copy of the body in your own memory. @throws `BODY_RELEASED` after the end of the borrow. */
  override bytes(): Uint8Array {
    return this.body.slice();
  }

  /** Ends the borrow. May be called any number of times. */
  release(): void {
    const bytes = this.#bytes;
    this.#bytes = null;
    if (bytes && !detach(bytes.buffer)) this.#onHeld();
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

/** The body of a request, whether it streams or not. Does not refer to the request: see {@link Claim}. */
class IncomingBody extends StreamedBody {
  protected readonly reader: BodyReader;

  constructor(reader: BodyReader) {
    super();
    this.reader = reader;
  }
}

/** One request. You may keep it, with its body, and respond later: see {@link WorkerRequest.defer}. */
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

  /** Path of the request, for example `"/users/7"`. */
  get path(): string {
    return this.#head.string(0);
  }

  /** Query without its `?`; `""` when there is none. */
  get query(): string {
    return this.#head.string(1);
  }

  /** Route pattern that a router in the client matched; `""` when there is none. */
  get pattern(): string {
    return this.#head.string(2);
  }

  /** Id of the request: set by the caller or generated. */
  get id(): string {
    return this.#head.string(3) || this.#claim.owner.idOf(this.#serial);
  }

  /** Path parameters that a router in the client extracted. */
  get params(): Readonly<Record<string, string>> {
    if (this.#params) return this.#params;
    const flat = this.#head.strings(REQUEST_STRINGS, REQUEST_STRINGS + 2 * this.#head.parameters);
    const params: Record<string, string> = Object.create(null);
    for (let i = 0; i < flat.length; i += 2) params[flat[i]!] = flat[i + 1]!;
    this.#params = params;
    return params;
  }

  /** Headers in the order of the caller, with duplicates. */
  get headers(): HeaderList {
    return this.#head.headers;
  }

  /** W3C trace context of the caller, to pass on with the handler's own requests; `null` if it is absent or malformed. */
  get traceparent(): string | null {
    const given = this.headers.get(TRACEPARENT);
    return isTraceparent(given) ? given : null;
  }

  /**
   * The body, a copy in your own memory. A body up to the bus's `inlineBytes` is copied when the request arrives, a larger body
   * on first access or when the request gets its response. {@link borrow} reads a large body without a copy.
   *
   * @throws `BODY_RELEASED` if the body was borrowed and is first read after the response; {@link InvalidConfigError} for a body
   * that streams: see {@link incoming}.
   */
  get body(): Uint8Array {
    if (this.streams) throw this.#streamsError();
    return this.#claim.body(this);
  }

  /**
   * Returns the body without a copy: a view of shared memory, valid until it is released or the request gets its response. Use it
   * for large bodies that you read at once. The view may be the body of the response, unless it was released before.
   *
   *     using view = request.borrow();
   *
   * @throws `BODY_RELEASED` once the request has a response; {@link InvalidConfigError} for a body that streams.
   */
  borrow(): BorrowedBody {
    if (this.streams) throw this.#streamsError();
    return this.#claim.borrow(this, (bytes) => new BorrowedBody(bytes, () => this.#claim.owner.keptMemory()));
  }

  /** @internal The bytes in shared memory, for immediate use by the library, never for user code. The body is not copied later. */
  peek(): Uint8Array {
    if (this.streams) throw this.#streamsError();
    return this.#claim.peek(this);
  }

  #streamsError(): InvalidConfigError {
    return new InvalidConfigError(`The body of request ${this.id} streams.`, {
      hint: "Read it with `request.incoming`: `await text()`, `json()` or `bytes()`, `chunks()` or `stream()`.",
    });
  }

  /**
   * Whether the body streams. If it does, {@link body}, {@link bytes}, {@link text}, {@link json} and {@link borrow} throw; use
   * {@link incoming}.
   */
  get streams(): boolean {
    return this.#claim.reader !== null;
  }

  /**
   * The body, whether it {@link streams} or not, for a handler that accepts both. A body that streams can be read only until the
   * request gets its response (a streamed response: until its end). A later read rejects with an `AbortError`.
   *
   *     const text = await request.incoming.text();
   *
   * @throws `BODY_RELEASED` as {@link body} does.
   */
  get incoming(): StreamedBody {
    return new IncomingBody(this.reader);
  }

  /** @internal */
  get reader(): BodyReader {
    return this.#claim.reader ?? BodyReader.of("request", this.body);
  }

  /** Time at which the request times out, in ms since the epoch, like `Date.now()`; `Infinity` without a timeout. */
  get deadline(): number {
    // oxlint-disable-next-line no-restricted-globals -- it is a wall-clock time by definition
    return Math.ceil(Date.now() + this.timeLeft);
  }

  /** @internal Time until {@link deadline}, in ms; negative after the deadline. */
  get timeLeft(): number {
    if (this.#timeoutMs === 0) return Infinity;
    return this.#receivedAt + this.#timeoutMs - this.#claim.owner.turns.clock.now();
  }

  /** Aborted when the request times out, the caller aborts it, or the connection to the client ends. */
  get signal(): AbortSignal {
    return this.#claim.signal;
  }

  /** Whether the caller has given up. Reads shared memory, so it works in a blocking handler too. */
  get aborted(): boolean {
    return this.#claim.isGivenUp;
  }

  /** Whether the request already has a response. */
  get answered(): boolean {
    return this.#claim.isAnswered;
  }

  /**
   * Returns shared memory for the response body. Fill it and respond with it as `body`: no copy is made. It has length 0 once the
   * request has a response. Each request has one reservation.
   *
   * @throws {PayloadTooLargeError} above the payload limit of the bus.
   */
  reserve(bytes: number): Uint8Array {
    return this.#claim.reserve(bytes);
  }

  /**
   * Sends the response now, while the handler continues; the handler may then return nothing. Only the first response is sent. To
   * respond after the handler has returned, call {@link defer}.
   *
   * @throws {PayloadTooLargeError}, {HeadTooLargeError}, {InvalidConfigError}; the caller then gets that error.
   */
  respond(answer: Exclude<Answerable, Response>): Delivery {
    return this.#claim.respond(this, answer);
  }

  /**
   * Returns a function that sends the response at any later time, like {@link respond}; the handler may then return nothing. Keep
   * the function: if it is garbage-collected before you call it, the caller gets a {@link RemoteError} whose `remoteCode` is
   * `"NO_ANSWER"`.
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

  /** @internal Fails a deferred response: the caller, unless it has a response, and the event `handlerError` get the error. */
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
