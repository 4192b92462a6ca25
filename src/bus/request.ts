/** A request as a handler sees it, and the ways to answer it. */

import { InvalidConfigError } from "../errors.ts";
import { detach, view } from "../native/library.ts";
import { type BodyLike, type Head, METHODS, type Method, REQUEST_STRINGS } from "./codec.ts";
import type { HeaderList, HeadersLike } from "./headers.ts";
import type { Session } from "./session.ts";
import { isTraceparent, TRACEPARENT } from "./tracing.ts";
import { type Channel, type ChunkOptions, type Chunks, Receiver, type Sender, type StreamSource } from "./stream.ts";

/** An answer with more than a body. */
export interface Answer {
  /** 200-599; default 200. */
  status?: number;
  headers?: HeadersLike;
  /** Default: of text and JSON their own, of bytes none. */
  contentType?: string;
  /** A stream goes out as it comes, as far as the caller reads. */
  body?: BodyLike | StreamSource;
  /** A value sent as JSON in place of `body`. */
  json?: unknown;
}

/** What a handler may answer with. `null` is 204; a stream, an async generator and a `Response` with one go out as they come. */
export type Answerable = BodyLike | Answer | Response | StreamSource;

/** What can be answered without waiting. */
export type PlainAnswer = BodyLike | (Omit<Answer, "body"> & { body?: BodyLike });

/**
 * What became of an answer: `"sent"`; `"late"`: the caller had given up; `"duplicate"`: there was an answer
 * before; `"closed"`: the connection to the hub has ended.
 */
export type Delivery = "sent" | "late" | "duplicate" | "closed";

const decoder = new TextDecoder();

/**
 * What the session keeps of a request until it is answered. It does not lead to the {@link WorkerRequest}, so one that
 * its handler let go of can be collected, and its caller told.
 */
export class Claim {
  readonly slot: number;
  readonly token: number;
  answered = false;
  /** Of a body that streams, of an answer that does, of both. */
  channel: Channel | null = null;
  receiver: Receiver | null = null;
  sender: Sender | null = null;
  /** Views of shared memory that were handed out. */
  body: Uint8Array<ArrayBuffer> | null = null;
  reserved: Uint8Array<ArrayBuffer> | null = null;
  #controller: AbortController | null = null;
  #abortReason: unknown = undefined;

  constructor(slot: number, token: number) {
    this.slot = slot;
    this.token = token;
  }

  get isAborted(): boolean {
    return this.#abortReason !== undefined;
  }

  get signal(): AbortSignal {
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
    this.sender?.stop();
    this.receiver?.fail(reason);
  }

  /** Takes the views away. Returns how many could not be. */
  detachViews(): number {
    let held = 0;
    for (const lent of [this.body, this.reserved]) {
      if (lent && !detach(lent.buffer)) held++;
    }
    return held;
  }
}

/** One request. It can be kept and answered later; its large body cannot (see {@link WorkerRequest.body}). */
export class WorkerRequest {
  readonly method: Method;
  readonly #session: Session;
  readonly #claim: Claim;
  readonly #head: Head;
  readonly #serial: number;
  readonly #timeoutMs: number;
  readonly #receivedAt: number;
  readonly #bodyAddress: number;
  readonly #bodyBytes: number;
  readonly #copy: Uint8Array | null;
  readonly #streams: boolean;
  #params: Readonly<Record<string, string>> | null = null;

  /** @internal `copy` is the body when it was copied; otherwise it lies at `bodyAddress`. */
  constructor(
    session: Session,
    claim: Claim,
    method: number,
    serial: number,
    timeoutMs: number,
    receivedAt: number,
    head: Head,
    copy: Uint8Array | null,
    bodyAddress: number,
    bodyBytes: number,
  ) {
    this.#session = session;
    this.#claim = claim;
    this.method = METHODS[method]!;
    this.#serial = serial;
    this.#timeoutMs = timeoutMs;
    this.#receivedAt = receivedAt;
    this.#head = head;
    this.#copy = copy;
    this.#bodyAddress = bodyAddress;
    this.#bodyBytes = bodyBytes;
    this.#streams = claim.receiver !== null;
  }

  /** What was asked for. */
  get path(): string {
    return this.#head.string(0);
  }

  /** Query without its `?`; `""` when there is none. */
  get query(): string {
    return this.#head.string(1);
  }

  /** Route pattern the hub's router found; `""` when it has none. */
  get pattern(): string {
    return this.#head.string(2);
  }

  /** Id of the request: the caller's own, or a generated one. */
  get id(): string {
    return this.#head.string(3) || this.#session.requestId(this.#serial);
  }

  /** Path parameters the hub's router found. */
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
   * The body's bytes. Up to the bus's `inlineSize` a copy that may be kept; above it a view of shared memory
   * that is taken away (length 0) when the request is answered or its handler ends.
   */
  get body(): Uint8Array {
    const claim = this.#claim;
    if (this.#streams) {
      throw new InvalidConfigError(`the body of request ${this.id} streams.`, {
        hint: "Read it with `chunks()`, `stream()` or `await bytes()`.",
      });
    }
    if (this.#copy) return this.#copy;
    if (!claim.body) {
      const gone = claim.answered || !this.#session.open;
      claim.body = new Uint8Array(gone ? new ArrayBuffer(0) : view(this.#bodyAddress, this.#bodyBytes));
    }
    return claim.body;
  }

  /** Whether the body streams: then {@link body}, {@link text} and {@link json} throw, and it is read once. */
  get streams(): boolean {
    return this.#streams;
  }

  /** The body's bytes as they come, in pieces of at most 64 KiB or as large as `into`. Leaving the loop early cancels. */
  chunks(options?: ChunkOptions): Chunks {
    const receiver = this.#streams ? this.#claim.receiver! : Receiver.of(this.body);
    return receiver.chunks(options);
  }

  /** The body as a WHATWG stream. */
  stream(): ReadableStream<Uint8Array> {
    if (this.#streams) return this.#claim.receiver!.stream();
    return new Blob([this.body as Uint8Array<ArrayBuffer>]).stream();
  }

  /** All of the body, up to `limit` bytes (default: none). */
  async bytes(limit = Infinity): Promise<Uint8Array> {
    return this.#streams ? this.#claim.receiver!.collect(limit, "request") : this.body;
  }

  /** The body as UTF-8 text. */
  text(): string {
    return decoder.decode(this.body);
  }

  /** The body as JSON. Throws `SyntaxError` when it is not. */
  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T;
  }

  /** When the caller gives up at the latest, as `Date.now()` counts; `Infinity` without a timeout. */
  get deadline(): number {
    return Math.ceil(Date.now() + this.timeLeft);
  }

  /** @internal Ms until {@link deadline}, below 0 when it is over. */
  get timeLeft(): number {
    return this.#timeoutMs === 0 ? Infinity : this.#receivedAt + this.#timeoutMs - performance.now();
  }

  /** Aborts when the caller gives up, by timeout or abort, and when the connection to the hub ends. */
  get signal(): AbortSignal {
    if (!this.#claim.answered && this.#session.isGivenUp(this.#claim)) this.#claim.abort(callerGone());
    return this.#claim.signal;
  }

  /** Whether the caller has given up; asks shared memory itself, so it is true even in a blocking handler. */
  get aborted(): boolean {
    return this.#claim.isAborted || (!this.#claim.answered && this.#session.isGivenUp(this.#claim));
  }

  /** Whether there is an answer already. */
  get answered(): boolean {
    return this.#claim.answered;
  }

  /**
   * Memory of the response in place: fill it and answer with it as `body`, and no copy is made. Taken away (length 0)
   * when the request is answered. One reservation per request; length 0 when it is answered already.
   *
   * @throws {PayloadTooLargeError} above the bus's payload limit.
   */
  reserve(bytes: number): Uint8Array {
    return this.#session.reserve(this.#claim, bytes);
  }

  /**
   * Answers, now or later; a handler that answers so returns `undefined`. The first answer counts.
   *
   * @throws {PayloadTooLargeError}, {HeadTooLargeError}, {InvalidConfigError}: the caller got an error instead.
   */
  respond(answer: Exclude<Answerable, Response>): Delivery {
    return this.#session.respond(this, answer);
  }

  /** @internal */
  get payloadLimit(): number {
    return this.#session.payloadLimit;
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

/** Reason of a signal whose caller timed out or aborted; the hub does not say which. */
export function callerGone(): DOMException {
  return new DOMException("the caller gave up: timeout or abort", "AbortError");
}
