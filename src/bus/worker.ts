/** The worker's side: attaches to a hub, claims its requests, answers each once. */

import { EventEmitter } from "node:events";
import type { SocketHandler, UnixSocketOptions } from "bun";
import { backoff, type Backoff } from "../backoff.ts";
import { checkCloseLimit, checkInteger, checkOptions, checkTimeout } from "../check.ts";
import { nextTurn, startTimer, systemClock } from "../clock.ts";
import {
  BusClosedError,
  BusNotFoundError,
  InvalidConfigError,
  NoAnswerError,
  PermissionDeniedError,
  ProtocolError,
  RegionCorruptError,
  ResourceError,
  SlotbusError,
  VersionMismatchError,
} from "../errors.ts";
import type { Contract, Handlers } from "../contract/contract.ts";
import { Implementations } from "../contract/implementations.ts";
import { openDirectory } from "../native/directory.ts";
import { C, cString, errorText, native, type Pointer } from "../native/library.ts";
import { checkName, resolveDirectory } from "../runtime-directory.ts";
import { readCancel } from "./control.ts";
import { DEFAULT_SPIN_US, Driver } from "./driver.ts";
import { answerOf, toWebRequest } from "./fetch.ts";
import {
  type Answerable,
  callerGone,
  type FetchHandler,
  type Handler,
  type SyncHandler,
  type WorkerRequest,
} from "./request.ts";
import { Session } from "./session.ts";
import { handleTraces, type HandleTrace, handleListeners } from "./tracing.ts";

/** What `SlotWorker.open` takes. */
export interface SlotWorkerOptions {
  /** Name of the bus. Default `$SLOTBUS_NAME`, which a bus sets for the workers that it starts. */
  name?: string;
  /** Requests taken at once, 1-256. Default: as many as the bus has slots. */
  concurrency?: number;
  /** How long to wait for the hub to appear, in ms. Default 5000; 0: reject at once. */
  wait?: number;
  /**
   * Attach again when the hub ends. Default: 10 ms, doubling to 1000 ms, with jitter; not when the name was taken from the
   * environment. `false`: don't.
   */
  reconnect?: false | { min?: number; max?: number };
  /** Longest spin on the event loop before parking, in µs. Default 50, or 0 on one processor. */
  spin?: number;
  /** On SIGTERM: finish what runs, leave the bus, then let the signal do what it would have done. Default `false`. */
  drainOnSigterm?: boolean;
  /** Runtime directory. Default `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
}

/** Events of a worker, with the arguments of their listeners. */
export interface SlotWorkerEvents {
  /** Attached, for the first time or again. */
  connected: [];
  /** The hub ended or closed the connection. */
  disconnected: [reason: SlotbusError];
  /** A handler failed; its caller was told too. Without a listener a {@link NoAnswerError} is one line on standard error. */
  handlerError: [error: unknown, request: { id: string; path: string }];
}

const HANDSHAKE_MS = 2_000;
const CLOSE_MS = 5_000;
const BATCH = 64;

/**
 * A worker of a bus.
 *
 *     const worker = await SlotWorker.open({ name: "shop" });
 *     worker.serve((request) => `hello ${request.text()}`);
 */
export class SlotWorker extends EventEmitter<SlotWorkerEvents> implements AsyncDisposable {
  readonly name: string;
  readonly #directory: string;
  readonly #ownDirectory: boolean;
  readonly #concurrency: number;
  readonly #reconnect: Backoff | null;
  readonly #driver: Driver;
  #session: Session | null = null;
  #handler: Handler | null = null;
  #contracts: Implementations | null = null;
  #draining = false;
  #closed = false;
  #closing: Promise<void> | null = null;
  #idle: (() => void)[] = [];
  #served = 0;
  /** In {@link serveSync}. */
  #isBlocking = false;

  /**
   * Attaches to the bus. Requests come when {@link serve} or {@link serveSync} has been called.
   *
   * @throws (rejects) {BusNotFoundError}, {@link VersionMismatchError}, {@link PermissionDeniedError},
   * {@link InvalidConfigError}, {InvalidNameError}, {@link ResourceError}.
   */
  static async open(options: SlotWorkerOptions = {}): Promise<SlotWorker> {
    const worker = new SlotWorker(options);
    const { wait = 5_000 } = options;
    checkTimeout("wait", wait);
    const started = performance.now();
    for (let attempt = 0; ; attempt++) {
      const result = await worker.#attach();
      if (result instanceof Session) {
        worker.#adopt(result);
        break;
      }
      const waited = performance.now() - started;
      if (!result.retryable || waited >= wait) {
        throw result instanceof BusNotFoundError
          ? new BusNotFoundError(worker.name, worker.#directory, waited)
          : result;
      }
      await Bun.sleep(Math.min(backoff(attempt, { initial: 10, max: 100 }, systemClock.random), wait - waited));
    }
    if (options.drainOnSigterm) drainOnSigterm(worker);
    return worker;
  }

  private constructor(options: SlotWorkerOptions) {
    super();
    const given = checkOptions("a worker", options).name;
    this.name = checkName(given ?? process.env["SLOTBUS_NAME"]);
    this.#directory = resolveDirectory(options.directory);
    this.#ownDirectory = options.directory === undefined;
    this.#concurrency = checkInteger("concurrency", options.concurrency ?? C.SB_SLOTS_MAX, 1, C.SB_SLOTS_MAX);
    const { reconnect = given === undefined ? false : {} } = options;
    if (reconnect === false) {
      this.#reconnect = null;
    } else {
      const min = checkInteger("reconnect.min", reconnect.min ?? 10, 1, 3_600_000, " ms");
      this.#reconnect = {
        initial: min,
        max: checkInteger("reconnect.max", reconnect.max ?? 1000, min, 3_600_000, " ms"),
      };
    }
    const side = {
      poll: (spinNs: number) => this.#poll(spinNs),
      mayReceive: () => this.#session !== null && (this.#canTake() || this.#session.streams > 0),
      park: () => !this.#session || native.sb_worker_park(this.#session.native, this.#canTake() ? 1 : 0) !== 0,
      unpark: () => {
        if (this.#session) native.sb_worker_unpark(this.#session.native);
      },
      spread: () => {
        if (this.#session) native.sb_worker_spread(this.#session.native);
      },
    };
    this.#driver = new Driver(side, checkInteger("spin", options.spin ?? DEFAULT_SPIN_US, 0, 10_000, " µs"));
  }

  /** Whether a hub is attached now. */
  get connected(): boolean {
    return this.#session !== null;
  }

  /** Requests whose handlers run now. */
  get running(): number {
    return this.#session?.runningCount ?? 0;
  }

  /** Times the worker left its parked state because the hub rang. */
  get wakeups(): number {
    return this.#driver.wakeups;
  }

  /** Requests taken so far. */
  get served(): number {
    return this.#served;
  }

  /**
   * Answers requests from the event loop until the worker is closed; attaches again when the hub returns. Keeps the
   * process alive. Calls of a contract go to {@link implement}'s handlers.
   *
   * `replace: true` puts the handler in the place of the one before; requests that run end with that one.
   *
   * @throws {InvalidConfigError} when the worker has a handler already and `replace` is not set.
   */
  serve(handler: Handler | FetchHandler, { replace = false }: { replace?: boolean } = {}): this {
    if (this.#closed) throw this.#closedError();
    if (typeof handler !== "function" && typeof handler?.fetch !== "function") {
      throw new InvalidConfigError("serve takes a function, or an object with a method `fetch`.");
    }
    if (!replace && (this.#contracts ? this.#contracts.fallback : this.#handler)) {
      throw new InvalidConfigError(`this worker of "${this.name}" has a handler already; serve was called twice.`, {
        hint: "Answer all requests in one handler, or pass `{ replace: true }`.",
      });
    }
    const plain = typeof handler === "function" ? handler : fetchHandler(handler);
    if (this.#contracts) this.#contracts.fallback = plain;
    return this.#start(this.#contracts?.handle ?? plain);
  }

  /**
   * Answers the calls of a contract, as {@link serve} answers requests; may be called again, for another contract or to
   * replace the handlers of one.
   *
   *     worker.implement(demo, { hello: ({ name }) => `hello ${name}`, async *count({ to }, ctx) { … } });
   *
   * @throws {InvalidConfigError} unless there is one handler per method.
   */
  implement<C extends Contract>(contract: C, handlers: Handlers<C>): this {
    if (this.#closed) throw this.#closedError();
    this.#contracts ??= new Implementations(this.#handler, (error, request) => this.#report(request, error));
    this.#contracts.add(contract, handlers);
    return this.#start(this.#contracts.handle);
  }

  #start(handler: Handler): this {
    this.#handler = handler;
    if (this.#session && !this.#session.socket) this.#listen(this.#session);
    this.#driver.wake();
    return this;
  }

  /**
   * Answers requests in a blocking loop: the thread sleeps in the kernel between requests and no event loop runs.
   * The handler returns its answer; one that it defers can be given in a later call of the handler. Ends when the worker
   * is closed by the handler, or when the hub ends and the worker is not to reconnect.
   */
  serveSync(handler: SyncHandler): void {
    if (this.#closed) throw this.#closedError();
    if (this.#handler) throw new InvalidConfigError("this worker is served by an event loop already.");
    this.#isBlocking = true;
    try {
      this.#serveBlocking(handler);
    } finally {
      this.#isBlocking = false;
    }
  }

  #serveBlocking(handler: SyncHandler): void {
    const spinNs = DEFAULT_SPIN_US * 1000;
    let attempt = 0;
    while (!this.#closing) {
      const session = this.#session;
      if (session) {
        attempt = 0;
        this.#serveSession(session, handler, spinNs);
        if (!this.#closing)
          this.#lost(session, new BusClosedError(`the hub of "${this.name}"`, { retryable: true }), true);
      } else if (!this.#reconnect) {
        return;
      } else {
        Bun.sleepSync(backoff(attempt++, this.#reconnect, systemClock.random));
        const result = this.#attachSync();
        if (result instanceof Session) this.#adopt(result);
      }
    }
  }

  /** Takes nothing new; resolves when what runs is answered, or after `timeout` ms (default: none). */
  async drain({ timeout = Infinity }: { timeout?: number } = {}): Promise<void> {
    const limit = checkTimeout("timeout", timeout);
    const deadline = limit > 0 ? performance.now() + limit : Infinity;
    if (!this.#draining) {
      this.#draining = true;
      this.#session?.writer.send(C.SB_MSG_DRAIN);
    }
    // What the hub published before it read our message is still ours: one more poll takes it.
    this.#driver.wake();
    await nextTurn(systemClock);
    while (this.running > 0 && performance.now() < deadline) {
      const { promise, resolve: done } = Promise.withResolvers<void>();
      this.#idle.push(done);
      const timer = startTimer(systemClock, limit > 0 ? Math.max(1, deadline - performance.now()) : 0, done);
      await promise;
      timer.close();
    }
  }

  /** Drains for `timeout` ms (default 5000), says goodbye and detaches. Any number of times, at any time. */
  async close({ timeout = CLOSE_MS }: { timeout?: number } = {}): Promise<void> {
    const limit = checkCloseLimit(timeout);
    this.#closing ??= this.#close(limit);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- requests -----------------------------------------------------------------------------------------------

  #canTake(): boolean {
    return this.#handler !== null && this.running < this.#concurrency;
  }

  #poll(spinNs: number): number {
    const session = this.#session;
    if (!session) return 0;
    const now = performance.now();
    let taken = 0;
    try {
      while (taken < BATCH && session.open) {
        const canTake = this.#canTake();
        if (!canTake && session.streams === 0) break;
        const request = session.take(taken === 0 ? spinNs : 0, now, canTake);
        if (!request) break;
        taken++;
        if (request === "moved") continue;
        this.#served++;
        this.#handle(session, request);
      }
    } catch (cause) {
      this.#lost(session, new RegionCorruptError(`the hub of "${this.name}" broke the protocol.`, { cause }));
    }
    return taken;
  }

  #handle(session: Session, request: WorkerRequest): void {
    let answer: ReturnType<Handler>;
    try {
      answer = handleListeners.now ? this.#handleTraced(request) : this.#handler!(request);
    } catch (error) {
      this.#failed(session, request, error);
      return;
    }
    if (answer instanceof Promise) {
      // A promise that is settled already, as of an async function that awaited nothing, costs no turn.
      const settled = Bun.peek(answer);
      if (settled !== answer && Bun.peek.status(answer) === "fulfilled")
        this.#answer(session, request, settled as Answerable);
      else this.#answerLater(session, request, answer);
    } else {
      this.#answer(session, request, answer);
    }
  }

  #handleTraced(request: WorkerRequest): Promise<Answerable | void> {
    const trace = traceOf(this.name, request, false);
    const run = async (): Promise<Answerable | void> => {
      const handle = (): ReturnType<Handler> => this.#handler!(request);
      return checkAnswered(request, await (trace.around ? trace.around(handle) : handle()));
    };
    return handleTraces.tracePromise(run, trace) as Promise<Answerable | void>;
  }

  #answerLater(session: Session, request: WorkerRequest, answer: Promise<Answerable | void>): void {
    answer.then(
      (value) => this.#answer(session, request, value),
      (error) => this.#failed(session, request, error),
    );
  }

  #answer(session: Session, request: WorkerRequest, answer: Answerable | void): void {
    if (answer === undefined) {
      this.#answerNothing(session, request);
      return;
    }
    if (answer instanceof Response) {
      this.#answerLater(session, request, answerOf(answer, session.payloadLimit));
      return;
    }
    try {
      session.respond(request, answer);
    } catch (error) {
      this.#report(request, error);
    }
  }

  /** A handler that returned nothing has answered, or deferred it, or its caller has given up; any other has failed. */
  #answerNothing(session: Session, request: WorkerRequest): void {
    if (request.answered || request.isDeferred) return;
    const isWanted = !request.aborted;
    const error = new NoAnswerError(request.path);
    session.fail(request.claim, error);
    if (isWanted) this.#report(request, error);
  }

  #failed(session: Session, request: WorkerRequest, error: unknown): void {
    session.fail(request.claim, error);
    this.#report(request, error);
  }

  #report({ id, path }: { id: string; path: string }, error: unknown): void {
    if (this.listenerCount("handlerError") === 0) {
      if (error instanceof NoAnswerError)
        console.error(`worker of bus "${this.name}", request ${id}: ${error.message}`);
    } else if (this.#isBlocking) {
      this.emit("handlerError", error, { id, path }); // no microtask runs before the loop ends
    } else {
      queueMicrotask(() => this.emit("handlerError", error, { id, path }));
    }
  }

  readonly #onAnswer = (bytes: number): void => {
    this.#driver.expect(bytes, false); // whoever got an answer may ask again
    if (this.#idle.length > 0 && this.running === 0) this.#tellIdle();
  };

  #tellIdle(): void {
    for (const done of this.#idle.splice(0)) done();
  }

  #serveSession(session: Session, handler: SyncHandler, spinNs: number): void {
    while (!this.#closing && session.open) {
      const request = session.take(spinNs, performance.now());
      if (request === "moved") continue;
      if (!request) {
        if (native.sb_worker_wait(session.native, 0xffff_ffff) < 0) return;
        continue;
      }
      this.#served++;
      try {
        const answer = handleListeners.now ? handleTracedSync(this.name, request, handler) : handler(request);
        if (answer === undefined) this.#answerNothing(session, request);
        else if (!request.answered) session.respond(request, answer);
      } catch (error) {
        this.#failed(session, request, error);
      }
    }
  }

  // ---- attaching ----------------------------------------------------------------------------------------------

  async #attach(): Promise<Session | SlotbusError> {
    const dir = this.#openDirectory();
    if (typeof dir !== "number") return dir;
    try {
      const worker = native.sb_worker_open(dir, cString(this.name), this.#concurrency);
      if (!worker) return this.#attachError(native.sb_error_last(), new Uint32Array(2));
      const opened = worker as Pointer;
      const peer = new Uint32Array(2);
      const deadline = performance.now() + HANDSHAKE_MS;
      for (let attempt = 0; ; attempt++) {
        const step = native.sb_worker_step(opened, peer);
        if (step === 0) return new Session(opened, this.#onAnswer);
        if (step !== -C.SB_EAGAIN || performance.now() > deadline || this.#closed) {
          native.sb_worker_close(worker, 1);
          return this.#attachError(step, peer);
        }
        await Bun.sleep(backoff(attempt, { initial: 1, max: 20 }, systemClock.random));
      }
    } finally {
      native.sb_fd_close(dir);
    }
  }

  #attachSync(): Session | SlotbusError {
    const dir = this.#openDirectory();
    if (typeof dir !== "number") return dir;
    const worker = native.sb_worker_open(dir, cString(this.name), this.#concurrency);
    const peer = new Uint32Array(2);
    const deadline = performance.now() + HANDSHAKE_MS;
    let step = worker ? native.sb_worker_step(worker, peer) : native.sb_error_last();
    while (step === -C.SB_EAGAIN && performance.now() < deadline) {
      Bun.sleepSync(1);
      step = native.sb_worker_step(worker, peer);
    }
    native.sb_fd_close(dir);
    if (step === 0) return new Session(worker as Pointer, this.#onAnswer);
    if (worker) native.sb_worker_close(worker, 1);
    return this.#attachError(step, peer);
  }

  #openDirectory(): number | SlotbusError {
    try {
      const dir = openDirectory(this.#directory, { shared: !this.#ownDirectory });
      return dir ?? new BusNotFoundError(this.name, this.#directory, 0);
    } catch (error) {
      return error as SlotbusError;
    }
  }

  #attachError(code: number, peer: Uint32Array): SlotbusError {
    const what = `the hub of "${this.name}"`;
    switch (-code) {
      case C.SB_ENOBUS:
        return new BusNotFoundError(this.name, this.#directory, 0);
      case C.SB_EVERSION: {
        const same = peer[0] === C.SB_ABI && peer[1] === C.SB_ABI; // then the structures differ
        const theirs =
          peer[0] === peer[1] ? `${peer[0]}${same ? " of another build" : ""}` : `${peer[0]} to ${peer[1]}`;
        return new VersionMismatchError(what, C.SB_ABI, theirs);
      }
      case C.SB_EPERM:
        return new PermissionDeniedError(`${what} does not take workers of uid ${process.geteuid?.()}.`, {
          hint: "Name the uid in `allowedUids` of SlotBus.create.",
        });
      case C.SB_EPROTO:
        return new ProtocolError(`${what} sent something that is no handshake of slotbus.`);
      case C.SB_ECORRUPT:
        return new RegionCorruptError(`${what} sent a region that is not sealed or whose header is wrong.`);
      case C.SB_EAGAIN:
      case C.SB_ETIMEDOUT:
        return new ResourceError(`${what} did not finish the handshake in ${HANDSHAKE_MS} ms.`);
      default:
        return new ResourceError(`${what} could not be attached to: ${errorText(code)}.`);
    }
  }

  #adopt(session: Session): void {
    this.#session = session;
    session.onLateError = (request, error) => this.#report(request, error);
    session.onCorrupt = (slot) => {
      const what = `the hub of "${this.name}" wrote impossible counts into the rings of slot ${slot}.`;
      this.#lost(session, new RegionCorruptError(what));
    };
    if (this.#draining) session.writer.send(C.SB_MSG_DRAIN);
    if (this.#handler) this.#listen(session);
    this.#driver.wake();
    setImmediate(() => this.emit("connected")); // after `open` has given the worker to its user
  }

  /** Gives the control socket to the event loop; C goes on writing to it. */
  #listen(session: Session): void {
    native.sb_worker_loops(session.native);
    const socket: SocketHandler<undefined> = {
      open: (opened) => {
        session.socket = opened;
      },
      data: (_, bytes) => this.#read(session, bytes),
      close: () => this.#lost(session, new BusClosedError(`the hub of "${this.name}"`, { retryable: true })),
      error: () => {}, // `close` follows
    };
    // Bun adopts a connected descriptor; its types know only addresses.
    const options = { fd: native.sb_worker_fd(session.native), socket } as unknown as UnixSocketOptions<undefined>;
    const connecting = Bun.connect(options);
    connecting.catch((cause) => {
      this.#lost(session, new ResourceError("the control socket could not be watched.", { cause }));
    });
  }

  #read(session: Session, bytes: Uint8Array): void {
    if (!session.open) return;
    const bells = session.reader.read(bytes, (type, body) => this.#message(session, type, body));
    if (bells > 0) this.#driver.ring();
  }

  #message(session: Session, type: number, body: Uint8Array): void {
    if (type === C.SB_MSG_GOODBYE) return; // `close` follows
    const cancel = type === C.SB_MSG_CANCEL ? readCancel(body) : null;
    if (!cancel) {
      this.#lost(session, new ProtocolError(`the hub of "${this.name}" sent a message of type ${type}.`));
      return;
    }
    const claim = session.running[cancel.slot];
    if (claim?.token === cancel.token) claim.abort(callerGone());
  }

  /** The attachment is over. */
  #lost(session: Session, reason: SlotbusError, blocking = false): void {
    if (this.#session !== session) return;
    this.#detach(session, reason);
    queueMicrotask(() => this.emit("disconnected", reason));
    if (blocking || this.#closed) return;
    if (this.#reconnect && !this.#draining) void this.#attachAgain(this.#reconnect);
  }

  #detach(session: Session, reason: SlotbusError): void {
    this.#session = null;
    if (session.socket) {
      native.sb_worker_hangup(session.native); // Bun closes the descriptor
      session.socket.terminate();
    }
    session.close(reason);
    this.#tellIdle();
  }

  async #attachAgain(pauses: Backoff): Promise<void> {
    for (let attempt = 0; !this.#closed && !this.#draining; attempt++) {
      await Bun.sleep(backoff(attempt, pauses, systemClock.random));
      const result = await this.#attach();
      if (!(result instanceof Session)) continue;
      if (this.#closed) {
        native.sb_worker_goodbye(result.native); // the hub may count us as attached already
        result.close(this.#closedError());
      } else {
        this.#adopt(result);
      }
      return;
    }
  }

  // ---- the end ------------------------------------------------------------------------------------------------

  async #close(limit: number): Promise<void> {
    await this.drain({ timeout: limit });
    this.#closed = true;
    this.#driver.stop();
    drainers.delete(this);
    if (drainers.size === 0) process.off("SIGTERM", drainAll);
    const session = this.#session;
    if (!session) return;
    native.sb_worker_goodbye(session.native);
    this.#detach(session, this.#closedError());
  }

  #closedError(): BusClosedError {
    return new BusClosedError(`the worker of bus "${this.name}"`);
  }
}

/** Workers of this process that are to be drained when SIGTERM comes. */
const drainers = new Set<SlotWorker>();

function drainOnSigterm(worker: SlotWorker): void {
  if (drainers.size === 0) process.once("SIGTERM", drainAll);
  drainers.add(worker);
}

/** Once all have finished, the signal does what it would have done. */
async function drainAll(): Promise<void> {
  await Promise.all([...drainers].map((worker) => worker.close()));
  process.kill(process.pid, "SIGTERM");
}

/** What subscribers of the tracing channel are told. */
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

/** For a trace: nothing, where an answer is owed, is a failure of the handler. */
function checkAnswered<T>(request: WorkerRequest, answer: T): T {
  if (answer === undefined && !request.answered && !request.isDeferred && !request.aborted)
    throw new NoAnswerError(request.path);
  return answer;
}

function fetchHandler(app: FetchHandler): Handler {
  return (request) => app.fetch(toWebRequest(request));
}
