/** The worker side of a bus, independent of its wire: concurrency, handler, drain. Each request gets one response. */

import { type Clock, nextTurn, startTimer } from "../clock.ts";
import type { Answerable } from "./answer.ts";
import type { RequestName } from "./claim.ts";
import { answerOf } from "./fetch.ts";
import type { Handler, SyncHandler, WorkerRequest } from "./request.ts";
import { handleStart, type HandleTrace, handleTraces } from "./tracing.ts";
import type { Arrivals, WorkerWire } from "./wire.ts";
import { noAnswer } from "../errors/plain.ts";
import { peek, peekStatus } from "../runtime.ts";

/** Receives the events of a worker. */
export interface ReceiverEvents {
  connected(): void;
  disconnected(reason: Error): void;
  refused(error: Error): void;
  /** A handler failed. The caller got the error too. */
  handlerError(error: unknown, request: RequestName): void;
}

/** Runs the handler of a worker for the requests that its wire reports. */
export class Receiver implements Arrivals {
  readonly name: string;
  readonly clock: Clock;
  readonly wire: WorkerWire;
  readonly #concurrency: number;
  readonly #events: ReceiverEvents;
  #handler: Handler | null = null;
  #idle: (() => void)[] = [];
  /** Number of requests taken so far. */
  served = 0;

  /** `makeWire` creates the wire, which reports to the receiver. */
  constructor(
    name: string,
    concurrency: number,
    clock: Clock,
    events: ReceiverEvents,
    makeWire: (arrivals: Arrivals) => WorkerWire,
  ) {
    this.name = name;
    this.clock = clock;
    this.#concurrency = concurrency;
    this.#events = events;
    this.wire = makeWire(this);
  }

  get handler(): Handler | null {
    return this.#handler;
  }

  /** Handles requests from the event loop; from now on `handler` gets them. */
  serve(handler: Handler): void {
    this.#handler = handler;
    this.wire.listen();
  }

  /** Handles requests in a blocking loop: see `block` of {@link WorkerWire}. */
  serveSync(handler: SyncHandler, isOver: () => boolean, isStopping: () => boolean): void {
    this.wire.block((request) => this.#handleSync(request, handler), isOver, isStopping);
  }

  // ---- reports of the wire --------------------------------------------------------------------------------------------

  get canTake(): boolean {
    return this.#handler !== null && this.wire.running < this.#concurrency;
  }

  arrived(request: WorkerRequest): void {
    this.served++;
    let answer: ReturnType<Handler>;
    try {
      answer = handleStart.hasSubscribers ? this.#handleTraced(request) : this.#handler!(request);
    } catch (error) {
      this.#failed(request, error);
      return;
    }
    if (answer instanceof Promise) {
      // An async function that awaited nothing returns a settled promise: its value is sent at once.
      const settled = peek(answer);
      if (settled !== answer && peekStatus(answer) === "fulfilled") this.#answer(request, settled as Answerable);
      else this.#answerLater(request, answer);
    } else {
      this.#answer(request, answer);
    }
  }

  answered(): void {
    if (this.#idle.length > 0 && this.wire.running === 0) this.#tellIdle();
  }

  connected(): void {
    this.#events.connected();
  }

  disconnected(reason: Error): void {
    this.#tellIdle();
    this.#events.disconnected(reason);
  }

  refused(error: Error): void {
    this.#events.refused(error);
  }

  failedLate(request: RequestName, error: unknown): void {
    this.#events.handlerError(error, request);
  }

  // ---- responses ------------------------------------------------------------------------------------------------------

  #handleTraced(request: WorkerRequest): Promise<Answerable | void> {
    const trace = traceOf(this.name, request, false);
    const run = async (): Promise<Answerable | void> => {
      const handle = (): ReturnType<Handler> => this.#handler!(request);
      return checkAnswered(request, await (trace.around ? trace.around(handle) : handle()));
    };
    return handleTraces.tracePromise(run, trace) as Promise<Answerable | void>;
  }

  #answerLater(request: WorkerRequest, answer: Promise<Answerable | void>): void {
    answer.then(
      (value) => this.#answer(request, value),
      (error) => this.#failed(request, error),
    );
  }

  #answer(request: WorkerRequest, answer: Answerable | void): void {
    if (answer === undefined) {
      this.#answerNothing(request);
      return;
    }
    if (answer instanceof Response) {
      this.#answerLater(request, answerOf(answer, request));
      return;
    }
    try {
      request.claim.respond(request, answer);
    } catch (error) {
      this.#events.handlerError(error, request);
    }
  }

  /** Fails a request whose handler returned nothing, unless it responded or deferred, or the caller gave up. */
  #answerNothing(request: WorkerRequest): void {
    if (request.answered || request.isDeferred) return;
    const isWanted = !request.aborted;
    const error = noAnswer(request.path);
    request.claim.fail(error);
    if (isWanted) this.#events.handlerError(error, request);
  }

  #failed(request: WorkerRequest, error: unknown): void {
    request.claim.fail(error);
    this.#events.handlerError(error, request);
  }

  #handleSync(request: WorkerRequest, handler: SyncHandler): void {
    this.served++;
    try {
      const answer = handleStart.hasSubscribers ? handleTracedSync(this.name, request, handler) : handler(request);
      if (answer === undefined) this.#answerNothing(request);
      else if (!request.answered) request.claim.respond(request, answer);
    } catch (error) {
      this.#failed(request, error);
    }
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  /** Takes no new requests. Resolves when all running requests have a response, or after `limit` ms. */
  async drain(limit: number): Promise<void> {
    const deadline = this.clock.now() + limit;
    this.wire.drain();
    await nextTurn(this.clock);
    while (this.wire.running > 0 && this.clock.now() < deadline) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#idle.push(resolve);
      const timer = startTimer(this.clock, Math.max(1, deadline - this.clock.now()), resolve);
      await promise;
      timer.close();
    }
  }

  #tellIdle(): void {
    for (const done of this.#idle.splice(0)) done();
  }
}

/** Returns the message for subscribers of the tracing channel. */
function traceOf(bus: string, request: WorkerRequest, sync: boolean): HandleTrace {
  const { id, method, path, pattern, traceparent } = request;
  return { bus, id, method, path, pattern, sync, traceparent, around: null };
}

function handleTracedSync<T>(bus: string, request: WorkerRequest, handler: (request: WorkerRequest) => T): T {
  const trace = traceOf(bus, request, true);
  const handle = (): T => handler(request);
  const run = (): T => checkAnswered(request, trace.around ? trace.around(handle) : handle());
  return handleTraces.traceSync(run, trace) as T;
}

/** Throws if a handler returned nothing and neither responded nor deferred, so that its trace shows a failure. */
function checkAnswered<T>(request: WorkerRequest, answer: T): T {
  if (answer === undefined && !request.answered && !request.isDeferred && !request.aborted)
    throw noAnswer(request.path);
  return answer;
}
