/** One request on the answering side, from its claim to its answer. */

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
 * What became of an answer. `"late"`: the caller had given up; `"duplicate"`: the request was answered before; `"closed"`: the
 * connection to the client has ended.
 */
export type Delivery = "sent" | "late" | "duplicate" | "closed";

/** Names the request that an error belongs to. */
export interface RequestName {
  readonly id: string;
  readonly path: string;
}

/** The answering side of a connection, as its claims use it. */
export interface ClaimOwner {
  readonly payloadBytes: number;
  readonly turns: Turns;
  readonly heads: HeadWriter;
  /** Whether the connection has not ended. */
  readonly isOpen: boolean;
  /** Id of a request whose caller gave none. */
  idOf(serial: number): string;
  /** Whether the slot is still that of the claim. */
  holds(claim: Claim): boolean;
  /** Whether the caller has given up; asks the client's memory. */
  isGivenUp(claim: Claim): boolean;
  /** The request's body where it lies, of a claim that {@link holds} its slot. */
  bodyOf(claim: Claim): Uint8Array;
  /** The same, as a view that can be detached alone. */
  lendBody(claim: Claim): Uint8Array<ArrayBuffer>;
  /** Memory for the answer's body, as such a view. */
  lendAnswer(claim: Claim, bytes: number): Uint8Array<ArrayBuffer>;
  /** Answers with the head in {@link heads}. Calls `claim.settle` before the caller can see the answer, and throws only before that. */
  answer(claim: Claim, status: number, body: BodyLike): Delivery;
  /** Answers with an error, in the same way. */
  fail(claim: Claim, error: unknown): Delivery;
  /** Answers with `status` and the head in {@link heads}; the body goes by what it returns. `null`: the caller has given up. */
  begin(claim: Claim, status: number): Outgoing | null;
  /** Encodes the error that ends a stream. */
  errorHead(error: unknown): Uint8Array;
  /** Takes the slot from the claim. Returns `false` when it had none. */
  release(claim: Claim): boolean;
  /** Memory that was lent could not be detached: user code still has it. */
  keptMemory(): void;
  /** Work of a handler that had returned failed: see `Arrivals.failedLate`. */
  failedLate(request: RequestName, error: unknown): void;
}

/** A deferred answer, without anything that would keep its request alive. */
interface Deferral extends RequestName {
  claim: Claim;
}

/** Answers with an error when a deferred answer is dropped. Nothing here leads to the request. */
const deferrals = new FinalizationRegistry<Deferral>(({ claim, id, path }) => claim.drop({ id, path }));

/** A view of shared memory that is taken back at its end. */
export interface Loan {
  release(): void;
}

/**
 * A request that a worker has claimed, until it is answered: whose memory the body is in, what is lent of it, the answer. It does not
 * refer to its `WorkerRequest`, so that one whose deferred answer was dropped can be collected as garbage, and its caller told.
 */
export class Claim {
  readonly owner: ClaimOwner;
  /** Place of the request at its connection. */
  readonly slot: number;
  readonly token: number;
  /** Offset and size of the body, in bytes. */
  readonly bodyOffset: number;
  readonly bodyBytes: number;
  isAnswered = false;
  /** Reader of a body that streams. */
  reader: BodyReader | null = null;
  /** Memory of the answer in the slot, if it was handed out. */
  reserved: Uint8Array<ArrayBuffer> | null = null;
  #writer: BodyWriter | null = null;
  /** Copy of the body; `null` until it is copied. */
  #own: Uint8Array | null;
  /** User code has asked for the copy. */
  #isAsked = false;
  /** The body was read where it lies, by a borrow or by the library: it is not copied when the request is answered. */
  #isLent = false;
  #loans: Loan[] | null = null;
  #controller: AbortController | null = null;
  #abortReason: unknown = undefined;

  /** `own`: a copy of the body, if there is one already. */
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

  /** The body streams, as `incoming`. */
  streams(incoming: Incoming): void {
    this.reader = new BodyReader("request", incoming, this.owner.turns, () => {});
  }

  get isAborted(): boolean {
    return this.#abortReason !== undefined;
  }

  /** Whether its caller has given up; asks the client's memory itself. */
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

  /** The caller gave up, or the connection ended. */
  abort(reason: unknown): void {
    if (this.isAborted) return;
    this.#abortReason = reason;
    this.#controller?.abort(reason);
    this.#writer?.stop();
    this.reader?.fail(reason);
  }

  // ---- its body -------------------------------------------------------------------------------------------------------

  /** A copy of the body, for user code. @throws `BODY_RELEASED` */
  body(request: RequestName): Uint8Array {
    this.#isAsked = true;
    return (this.#own ??= this.#held(request).bodyOf(this).slice());
  }

  /** Lends the body: `loan` makes the object that the end of the claim releases. @throws `BODY_RELEASED` */
  borrow<Borrowed extends Loan>(request: RequestName, loan: (bytes: Uint8Array<ArrayBuffer>) => Borrowed): Borrowed {
    const bytes = this.#held(request).lendBody(this);
    this.#isLent = true;
    const borrowed = loan(bytes);
    (this.#loans ??= []).push(borrowed);
    return borrowed;
  }

  /** The copy, if there is one; else the bytes where they lie, for use at once. @throws `BODY_RELEASED` */
  peek(request: RequestName): Uint8Array {
    this.#isLent = true;
    return this.#own ?? this.#held(request).bodyOf(this);
  }

  #held(request: RequestName): ClaimOwner {
    if (this.owner.holds(this)) return this.owner;
    throw bodyReleased(`the body of request ${request.id}`);
  }

  /**
   * The claim loses its slot, now or, with `isBegun`, at any time from now on: copies the body, which user code may still ask for. A
   * body that was lent and not asked for is not copied.
   */
  keepBody(isBegun = false): void {
    if (this.#isLent) {
      if (!this.#isAsked && !isBegun) this.#own = null;
    } else if (!this.#own) {
      try {
        this.#own = this.owner.bodyOf(this).slice();
      } catch {
        this.#isLent = true; // no memory is left for it: who asks for it is told
      }
    }
  }

  /** Memory for the answer's body in the slot; of length 0 when the request is answered. @throws {PayloadTooLargeError} */
  reserve(bytes: number): Uint8Array {
    const { owner } = this;
    if (!(bytes >= 0 && bytes <= owner.payloadBytes)) {
      throw new PayloadTooLargeError("response", bytes, owner.payloadBytes, true);
    }
    if (this.isAnswered || !owner.isOpen) return new Uint8Array(0);
    return (this.reserved ??= owner.lendAnswer(this, bytes));
  }

  // ---- its answer -----------------------------------------------------------------------------------------------------

  /** Answers with a value. A value that cannot be sent is answered as an error, and thrown. Ends a source that is not sent. */
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

  /** Answers with an error. */
  fail(error: unknown): Delivery {
    if (this.isAnswered) return "duplicate";
    return this.owner.isOpen ? this.owner.fail(this, error) : "closed";
  }

  #write(answer: PlainAnswer): Delivery {
    const { owner } = this;
    const strings = owner.heads.take();
    const body = takeApart(answer, strings);
    owner.heads.put(strings);
    if (this.isAnswered) return "duplicate"; // by code of the user that ran just now
    return owner.answer(this, statusOf(answer), body);
  }

  /** Answers with a head now and sends the body as it comes. */
  #stream(request: RequestName, { status = 200, contentType = "", headers }: Answer, source: StreamSource): Delivery {
    const { owner } = this;
    const strings = owner.heads.take();
    strings.push(contentType);
    if (headers) flattenHeaders(headers, strings);
    owner.heads.put(strings);
    const isDuplicate = this.isAnswered; // by code of the user that ran just now
    const outgoing = isDuplicate ? null : owner.begin(this, status);
    if (!outgoing) {
      endSource(source);
      return isDuplicate ? "duplicate" : "late";
    }
    this.#writer = new BodyWriter(outgoing, owner.turns);
    this.#writer.send(source, (end) => this.#finish(request, outgoing, end));
    return "sent";
  }

  /** The source of a streamed answer has ended. */
  #finish(request: RequestName, outgoing: Outgoing, end: SendEnd): void {
    if (!this.owner.isOpen) return;
    void outgoing.end(end.how === "failed" ? this.owner.errorHead(end.error) : null);
    if (end.how === "failed") this.owner.failedLate(request, end.error);
  }

  /** Ends the claim: from now on the slot is the client's. */
  settle(): void {
    if (!this.owner.release(this)) return;
    if (this.reader?.isOpen) this.reader.fail(new DOMException("the request was answered", "AbortError"));
    if (this.#isLent || !this.#own) this.keepBody();
    this.detachViews();
  }

  /** Takes back all views that were lent. */
  detachViews(): void {
    if (this.#loans) for (const loan of this.#loans) loan.release();
    if (this.reserved && !detach(this.reserved.buffer)) this.owner.keptMemory();
  }

  /** Answers with an error when `request` is collected as garbage without an answer. */
  defer(request: RequestName & object): void {
    deferrals.register(request, { claim: this, id: request.id, path: request.path });
  }

  /** The deferred answer was dropped: answers with an error. */
  drop(request: RequestName): void {
    if (this.isAnswered || !this.owner.isOpen) return;
    this.#isLent = true; // nobody is left to ask for it
    const error = noAnswer(request.path, "dropped");
    this.fail(error);
    this.owner.failedLate(request, error);
  }
}

/** Reason of a signal whose caller timed out or aborted; the client does not tell which. */
export function callerGone(): DOMException {
  return new DOMException("the caller gave up: timeout or abort", "AbortError");
}
