/** One request in the worker, from its claim to its response. */

import { detach } from "../detach.ts";
import { PayloadTooLargeError } from "../errors.ts";
import {
  type Answer,
  type Answerable,
  checkAnswer,
  type PlainAnswer,
  sourceOf,
  statusOf,
  takeApart,
} from "./answer.ts";
import { BodyReader, type Incoming } from "./body-reader.ts";
import { BodyWriter, endSource, type Outgoing, type SendEnd, type StreamSource } from "./body-writer.ts";
import type { BodyLike, HeadWriter } from "./codec.ts";
import { flattenHeaders } from "./headers.ts";
import type { Turns } from "./turns.ts";
import { noAnswer, bodyReleased } from "../errors/plain.ts";

/**
 * What happened to a response. `"late"`: the caller had given up. `"duplicate"`: the request already had a response. `"closed"`:
 * the connection to the client has ended.
 */
export type Delivery = "sent" | "late" | "duplicate" | "closed";

/** Identifies the request to which an error belongs. */
export interface RequestName {
  readonly id: string;
  readonly path: string;
}

/** The worker's end of a connection, as its claims use it. */
export interface ClaimOwner {
  readonly payloadBytes: number;
  readonly turns: Turns;
  readonly heads: HeadWriter;
  /** Whether the connection is open. */
  readonly isOpen: boolean;
  /** Returns the generated id of a request whose caller passed none. */
  idOf(serial: number): string;
  /** Whether the claim still owns its slot. */
  holds(claim: Claim): boolean;
  /** Whether the caller has given up. Reads shared memory. */
  isGivenUp(claim: Claim): boolean;
  /** Returns the request body in shared memory. The claim must own its slot ({@link holds}). */
  bodyOf(claim: Claim): Uint8Array;
  /** As {@link bodyOf}, but the view can be detached separately. */
  lendBody(claim: Claim): Uint8Array<ArrayBuffer>;
  /** Returns memory for the response body, as a view that can be detached separately. */
  lendAnswer(claim: Claim, bytes: number): Uint8Array<ArrayBuffer>;
  /**
   * Responds with the head in {@link heads}. Calls `claim.settle` before the caller can see the response, and throws only before
   * that call.
   */
  answer(claim: Claim, status: number, body: BodyLike): Delivery;
  /** As {@link answer}, with an error. */
  fail(claim: Claim, error: unknown): Delivery;
  /**
   * Starts a response with `status` and the head in {@link heads}. Returns the writer for its body; `null` if the caller gave up.
   */
  begin(claim: Claim, status: number): Outgoing | null;
  /** Encodes the error that ends a stream. */
  errorHead(error: unknown): Uint8Array;
  /** Takes the slot from the claim. Returns `false` if the claim did not own it. */
  release(claim: Claim): boolean;
  /** Called when lent memory could not be detached because user code still holds it. */
  keptMemory(): void;
  /** Called when work of a handler failed after the handler returned: see `Arrivals.failedLate`. */
  failedLate(request: RequestName, error: unknown): void;
}

/** A deferred response. Holds no reference that would keep its request alive. */
interface Deferral extends RequestName {
  claim: Claim;
}

/** Responds with an error when the function of a deferred response is garbage-collected. */
const deferrals = new FinalizationRegistry<Deferral>(({ claim, id, path }) => claim.drop({ id, path }));

/** A view of shared memory that is detached when it is released. */
export interface Loan {
  release(): void;
}

/**
 * A request that a worker has claimed, until it has a response. Tracks where the body is, which views are lent, and the response.
 * Does not refer to its `WorkerRequest`: a request whose deferred response was dropped can then be garbage-collected, and its
 * caller gets an error.
 */
export class Claim {
  readonly owner: ClaimOwner;
  /** Index of the slot of the request. */
  readonly slot: number;
  readonly token: number;
  /** Offset and size of the body, in bytes. */
  readonly bodyOffset: number;
  readonly bodyBytes: number;
  isAnswered = false;
  /** Reader of a body that streams. */
  reader: BodyReader | null = null;
  /** Memory for the response body in the slot, if user code reserved it. */
  reserved: Uint8Array<ArrayBuffer> | null = null;
  #writer: BodyWriter | null = null;
  /** Copy of the body; `null` before the body is copied. */
  #own: Uint8Array | null;
  /** Whether user code has read the copy. */
  #isAsked = false;
  /** Whether the body was read in shared memory, by a borrow or by the library. It is then not copied when the claim ends. */
  #isLent = false;
  #loans: Loan[] | null = null;
  #controller: AbortController | null = null;
  #abortReason: unknown = undefined;

  /** `own` is a copy of the body; `null` if the body has not been copied yet. */
  constructor(
    owner: ClaimOwner,
    slot: number,
    token: number,
    bodyOffset: number,
    bodyBytes: number,
    own: Uint8Array | null,
  ) {
    this.owner = owner;
    this.slot = slot;
    this.token = token;
    this.bodyOffset = bodyOffset;
    this.bodyBytes = bodyBytes;
    this.#own = own;
  }

  /** Sets the reader of a body that streams. */
  streams(incoming: Incoming): void {
    this.reader = new BodyReader("request", incoming, this.owner.turns, () => {});
  }

  get isAborted(): boolean {
    return this.#abortReason !== undefined;
  }

  /** Whether the caller has given up. Reads shared memory. */
  get isGivenUp(): boolean {
    return this.isAborted || (!this.isAnswered && this.owner.isGivenUp(this));
  }

  get signal(): AbortSignal {
    if (!this.isAborted && this.isGivenUp) this.abort(callerGone());
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.isAborted) this.#controller.abort(this.#abortReason);
    }
    return this.#controller.signal;
  }

  /** Aborts the signal and the streams: the caller gave up, or the connection ended. */
  abort(reason: unknown): void {
    if (this.isAborted) return;
    this.#abortReason = reason;
    this.#controller?.abort(reason);
    this.#writer?.stop();
    this.reader?.fail(reason);
  }

  // ---- its body -------------------------------------------------------------------------------------------------------

  /** Returns a copy of the body, for user code. @throws `BODY_RELEASED` */
  body(request: RequestName): Uint8Array {
    this.#isAsked = true;
    return (this.#own ??= this.#held(request).bodyOf(this).slice());
  }

  /** Lends the body. `loan` creates the object that is released at the end of the claim. @throws `BODY_RELEASED` */
  borrow<Borrowed extends Loan>(request: RequestName, loan: (bytes: Uint8Array<ArrayBuffer>) => Borrowed): Borrowed {
    const bytes = this.#held(request).lendBody(this);
    this.#isLent = true;
    const borrowed = loan(bytes);
    (this.#loans ??= []).push(borrowed);
    return borrowed;
  }

  /** Returns the copy if it exists; otherwise the bytes in shared memory, for immediate use only. @throws `BODY_RELEASED` */
  peek(request: RequestName): Uint8Array {
    this.#isLent = true;
    return this.#own ?? this.#held(request).bodyOf(this);
  }

  #held(request: RequestName): ClaimOwner {
    if (this.owner.holds(this)) return this.owner;
    throw bodyReleased(`The body of request ${request.id}`);
  }

  /**
   * Copies the body, which user code may read later, because the claim loses its slot: now or, with `isBegun`, at any later time.
   * Does not copy a body that was lent and never read with {@link body}.
   */
  keepBody(isBegun = false): void {
    if (this.#isLent) {
      if (!this.#isAsked && !isBegun) this.#own = null;
    } else if (!this.#own) {
      try {
        this.#own = this.owner.bodyOf(this).slice();
      } catch {
        this.#isLent = true; // out of memory: a later read throws `BODY_RELEASED`
      }
    }
  }

  /**
   * Returns memory in the slot for the response body; length 0 if the request already has a response.
   * @throws {PayloadTooLargeError}
   */
  reserve(bytes: number): Uint8Array {
    const { owner } = this;
    if (!(bytes >= 0 && bytes <= owner.payloadBytes)) {
      throw new PayloadTooLargeError("response", bytes, owner.payloadBytes, true);
    }
    if (this.isAnswered || !owner.isOpen) return new Uint8Array(0);
    return (this.reserved ??= owner.lendAnswer(this, bytes));
  }

  // ---- its answer -----------------------------------------------------------------------------------------------------

  /**
   * Responds with a value. If the value cannot be sent, responds with the error and throws it. Closes a stream source that is not
   * sent.
   */
  respond(request: RequestName, answer: Exclude<Answerable, Response>): Delivery {
    const { owner } = this;
    const source = sourceOf(answer);
    if (this.isAnswered || !owner.isOpen) {
      endSource(source);
      return this.isAnswered ? "duplicate" : "closed";
    }
    try {
      if (!source) return this.#write(answer as PlainAnswer);
      return this.#stream(request, source === answer ? {} : checkAnswer(answer), source);
    } catch (error) {
      endSource(source);
      this.fail(error);
      throw error;
    }
  }

  /** Responds with an error. */
  fail(error: unknown): Delivery {
    if (this.isAnswered) return "duplicate";
    return this.owner.isOpen ? this.owner.fail(this, error) : "closed";
  }

  #write(answer: PlainAnswer): Delivery {
    const { owner } = this;
    const strings = owner.heads.take();
    const body = takeApart(answer, strings);
    owner.heads.put(strings);
    if (this.isAnswered) return "duplicate"; // `takeApart` runs user code, which may have responded
    return owner.answer(this, statusOf(answer), body);
  }

  /** Sends the head now and the body while the source produces it. */
  #stream(request: RequestName, { status = 200, contentType = "", headers }: Answer, source: StreamSource): Delivery {
    const { owner } = this;
    const strings = owner.heads.take();
    strings.push(contentType);
    if (headers) flattenHeaders(headers, strings);
    owner.heads.put(strings);
    const isDuplicate = this.isAnswered; // `flattenHeaders` runs user code, which may have responded
    const outgoing = isDuplicate ? null : owner.begin(this, status);
    if (!outgoing) {
      endSource(source);
      return isDuplicate ? "duplicate" : "late";
    }
    this.#writer = new BodyWriter(outgoing, owner.turns);
    this.#writer.start(source, (end) => this.#finish(request, outgoing, end));
    return "sent";
  }

  /** Ends a streamed response whose source has ended. */
  #finish(request: RequestName, outgoing: Outgoing, end: SendEnd): void {
    if (!this.owner.isOpen) return;
    void outgoing.end(end.how === "failed" ? this.owner.errorHead(end.error) : null);
    if (end.how === "failed") this.owner.failedLate(request, end.error);
  }

  /** Ends the claim: from now on the client owns the slot. */
  settle(): void {
    if (!this.owner.release(this)) return;
    if (this.reader?.isOpen) this.reader.fail(new DOMException("The request already has a response.", "AbortError"));
    if (this.#isLent || !this.#own) this.keepBody();
    this.detachViews();
  }

  /** Returns bytes that {@link settle} does not detach: `bytes`, moved or copied if they may be in a view of this claim. */
  outlive(bytes: Uint8Array): Uint8Array {
    const { byteOffset, length } = bytes;
    const { reserved } = this;
    if (reserved?.buffer === bytes.buffer) return new Uint8Array(reserved.buffer.transfer(), byteOffset, length);
    return this.#loans ? bytes.slice() : bytes;
  }

  /** Detaches all lent views. */
  detachViews(): void {
    if (this.#loans) for (const loan of this.#loans) loan.release();
    if (this.reserved && !detach(this.reserved.buffer)) this.owner.keptMemory();
  }

  /** Responds with an error if `request` is garbage-collected without a response. */
  defer(request: RequestName & object): void {
    deferrals.register(request, { claim: this, id: request.id, path: request.path });
  }

  /** Responds with an error because the function of the deferred response was garbage-collected. */
  drop(request: RequestName): void {
    if (this.isAnswered || !this.owner.isOpen) return;
    this.#isLent = true; // no code is left that could read the body
    const error = noAnswer(request.path, "dropped");
    this.fail(error);
    this.owner.failedLate(request, error);
  }
}

/** Returns the abort reason of a request whose caller gave up. The client does not send the reason. */
export function callerGone(): DOMException {
  return new DOMException("The caller gave up: it cancelled the request, timed out or disconnected.", "AbortError");
}
