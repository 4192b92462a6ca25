/** The hub's side: takes requests, hands each to a worker through shared memory, settles it once. */

import { EventEmitter } from "node:events";
import {
  BusClosedError,
  BusExistsError,
  BusOverloadedError,
  InvalidConfigError,
  NoWorkerError,
  PayloadTooLargeError,
  PermissionDeniedError,
  RegionCorruptError,
  RequestTimeoutError,
  ResourceError,
  StreamTimeoutError,
  WorkerDiedError,
} from "../errors.ts";
import { checkCloseLimit, checkInteger, checkTimeout } from "../check.ts";
import { nextTurn, startTimer, systemClock } from "../clock.ts";
import { Hold } from "../hold.ts";
import type { Supervisor } from "../supervisor/index.ts";
import { makeClient } from "../contract/client.ts";
import type { Client, Contract } from "../contract/contract.ts";
import { fileError, openDirectory } from "../native/directory.ts";
import { C, cString, detach, errorText, native, type Pointer, view } from "../native/library.ts";
import {
  Arena,
  bodyLength,
  bodyOffset,
  encodeHead,
  encodeMethod,
  Head,
  HeadReader,
  HeadWriter,
  REQUEST_STRINGS,
  writeBody,
} from "./codec.ts";
import {
  type BusRequest,
  collectStrings,
  headerOf,
  type RequestOptions,
  signalOf,
  strings,
  tracedOptions,
} from "./call.ts";
import { cancelBody } from "./control.ts";
import { Crew } from "./crew.ts";
import { Driver } from "./driver.ts";
import { fetchThrough } from "./fetch.ts";
import type { Link } from "./link.ts";
import { busMetrics, readSnapshot, STATE_NAMES, type StateName } from "./metrics.ts";
import { type ResolvedBusOptions, resolveBusOptions, type SlotBusOptions, UNRESPONSIVE_MS } from "./options.ts";
import { ends, type Kind, makePromise, Pending, PendingQueue } from "./pending.ts";
import { ReadyWaiters } from "./ready.ts";
import { Reception } from "./reception.ts";
import { HubChannel, HubStream, type StreamOwner } from "./hub-stream.ts";
import {
  BorrowedResponse,
  BusResponse,
  ERROR_STRINGS,
  RESPONSE_STRINGS,
  remoteError,
  StreamedResponse,
} from "./response.ts";
import { type BusStats, readCounters } from "./stats.ts";
import { endSource, errorHead, isStreamSource, Receiver, type StreamSource } from "./stream.ts";
import { requestListeners, type RequestTrace, requestTraces } from "./tracing.ts";

/** For how many workers {@link SlotBus.ready} waits, and how long. */
export interface ReadyOptions {
  /** Workers that are to be attached: 0 to 64. Default 1. */
  workers?: number;
  /** Longest wait in ms; `Infinity` or 0 for no limit. Default 30 000. */
  timeout?: number;
  /** Ends the wait; `ready` rejects with `signal.reason`. */
  signal?: AbortSignal;
}

/** A worker in an event of the bus. */
export interface WorkerInfo {
  /** Of this attachment; no other of the bus has it. */
  id: number;
  pid: number;
  uid: number;
  /** Requests it takes at once. */
  concurrency: number;
}

/** Events of a bus, with the arguments of their listeners. */
export interface SlotBusEvents {
  /** A worker attached. */
  workerJoined: [worker: WorkerInfo];
  /** A worker closed in good order. */
  workerLeft: [worker: WorkerInfo];
  /** A worker's connection ended without a goodbye, or the bus evicted it; `reason` says which. */
  workerDied: [worker: WorkerInfo, reason: string];
  /**
   * A worker that the bus did not start has requests, and its event loop has not turned for `workers.unresponsive` ms. It is chosen
   * last until it turns. (A worker that the bus started is evicted and its process replaced: `workerDied`.)
   */
  workerUnresponsive: [worker: WorkerInfo];
  /** The event loop of such a worker turns again. */
  workerResponsive: [worker: WorkerInfo];
  /** A connection was turned away: another user, another version, silence, garbage. */
  peerRefused: [peer: { pid: number; uid: number }, reason: string];
}

/** One slot in {@link SlotBus.diagnostics}. */
export interface SlotDiagnostics {
  workerPid: number;
  slot: number;
  state: StateName;
  /** Since the hub last moved it, in ms. */
  ageMs: number;
  /** Of the request in it. */
  requestId: string | null;
  /** Its response is lent out. */
  borrowed: boolean;
}

/** Between two looks at deadlines while something is in flight, in ms. */
const TICK_MS = 20;
/** Default timeout of `ready`, in ms. */
const READY_MS = 30_000;
/** Default limit of the drain in `close`, in ms. */
const CLOSE_MS = 5_000;
/** Between two looks at whether a dead worker's process has ended, in ms. */
const DEATH_POLL_MS = 2;
const DEFECT = "This is a defect in slotbus. Report it, with the program that the worker ran.";
const noOptions: RequestOptions = {};
/** Bodies that were asked for their first bytes; of any other a rejected request is the end. */
const begunSources = new WeakSet<StreamSource>();

/**
 * A bus: one process owns the name and asks, any number of worker processes answer.
 *
 *     await using bus = await SlotBus.create({ name: "shop" });
 *     const response = await bus.request({ path: "/hello", body: "Ada" });
 */
export class SlotBus extends EventEmitter<SlotBusEvents> implements AsyncDisposable {
  readonly options: ResolvedBusOptions;
  readonly #hub: Pointer;
  readonly #events: Uint32Array<ArrayBuffer>;
  readonly #streamOwner: StreamOwner;
  readonly #dir: number;
  readonly #lock: number;
  readonly #tag: string;
  readonly #driver: Driver;
  readonly #reception: Reception;
  readonly #queue = new PendingQueue();
  readonly #heads = new HeadWriter();
  readonly #answers = new HeadReader(RESPONSE_STRINGS);
  /** Attached workers. */
  #links: Link[] = [];
  /** The same by the index C knows them by. */
  readonly #byIndex: (Link | undefined)[] = [];
  /** Events are being handled: see {@link #handleEvents}. */
  #handling = false;
  /** Workers whose life ends when all events are handled. */
  readonly #condemned: Link[] = [];
  /** Ended, with responses lent out: their regions stay. */
  readonly #lending = new Set<Link>();
  /** Memory that is lent out, and how it is given back: when nobody can reach it any more, its borrow was forgotten. */
  readonly #lent = new FinalizationRegistry<(held: boolean) => void>((giveBack) => {
    native.sb_stats_add(this.#hub, C.SB_C_FORGOTTEN, 1);
    giveBack(true); // the memory may have been carried away before
  });
  #serial = 0;
  #unsettled = 0;
  /** See {@link BusStats.unsettledAtEnd}. */
  #unsettledAtEnd = 0;
  /** Idempotent requests that wait for the proof that their first worker's process has ended. */
  readonly #proofWaiters = new Set<Pending>();
  #tick: ReturnType<typeof setTimeout> | null = null;
  /** The tick that is due does not keep the process alive. */
  #isTickUnref = false;
  /** `performance.now()` of the last tick. */
  #tickedAt = 0;
  #scratch: Arena | null = null;
  #draining = false;
  #closed = false;
  #closing: Promise<void> | null = null;
  #finalStats: BusStats | null = null;
  #finalMetrics: string | null = null;
  readonly #ready: ReadyWaiters;
  /** Set by {@link ref}. */
  readonly #hold = new Hold();
  #drainWaiters: (() => void)[] = [];
  /** The workers that the bus starts itself. */
  readonly #crew: Crew | null;
  /** Most requests that were not settled at one time. */
  #peak = 0;
  /** Workers that get nothing new, and who waits until they have nothing any more. */
  #linkDrains: { link: Link; done: () => void }[] = [];

  /**
   * Takes the name and listens for workers.
   *
   * @throws (rejects) {InvalidNameError}, {@link InvalidConfigError}; {@link BusExistsError} when a live hub has the
   * name; {@link PermissionDeniedError} for a directory that is not ours alone; {@link ResourceError}; with `workers` as
   * `Supervisor.start` when one does not get ready.
   */
  static async create(options: SlotBusOptions): Promise<SlotBus> {
    const resolved = resolveBusOptions(options);
    const dir = openDirectory(resolved.directory, { create: true, shared: resolved.allowedUids.length > 0 })!;
    await closeReloaded(resolved);
    let lock = -1;
    let bus: SlotBus;
    try {
      lock = takeName(dir, resolved.name);
      bus = new SlotBus(resolved, dir, lock);
      openBuses.set(keyOf(resolved), {
        module: thisModule,
        file: import.meta.path,
        close: () => bus.close({ timeout: 0 }),
        leave: () => bus.#leave(),
      });
    } catch (error) {
      if (lock >= 0) native.sb_name_unlock(dir, cString(resolved.name), lock);
      native.sb_fd_close(dir);
      throw error;
    }
    try {
      await bus.#crew?.start();
      return bus;
    } catch (error) {
      await bus.close({ timeout: 0 });
      throw error;
    }
  }

  private constructor(options: ResolvedBusOptions, dir: number, lock: number) {
    super();
    this.options = options;
    this.#dir = dir;
    this.#lock = lock;
    const tag = crypto.getRandomValues(new Uint32Array(1))[0]!;
    this.#tag = tag.toString(36);
    const flags = options.instrumentation ? C.SB_FLAG_TIMING : 0;
    const { slots, payloadLimit, headLimit, inlineSize } = options;
    const hub = native.sb_client_open(slots, payloadLimit, headLimit, inlineSize, flags, tag) as Pointer | null;
    if (!hub) throw new ResourceError(`the hub's memory could not be had: ${errorText(native.sb_error_last())}.`);
    this.#hub = hub;
    this.#events = new Uint32Array(
      view(native.sb_client_events(hub) as number, (C.SB_BATCH + 1) * C.SB_EVENT_WORDS * 4),
    );
    this.#streamOwner = this.#makeStreamOwner(hub);
    this.#driver = new Driver(
      {
        poll: (spinNs) => this.#handleEvents(native.sb_client_poll(hub, spinNs)),
        mayReceive: () => this.#unsettled > this.#queue.length,
        park: () => native.sb_client_park(hub) === 1,
        unpark: () => native.sb_client_unpark(hub),
        spread: () => void native.sb_client_spread(hub),
      },
      options.spin,
    );
    try {
      this.#reception = new Reception(hub, dir, options, {
        attached: (link) => this.#welcome(link),
        data: (link, bytes) => this.#read(link, bytes),
        message: (link, type) => this.#message(link, type),
        closed: (link) => this.#end(link, "ended"),
        refused: (peer, reason) => {
          this.#ready.note(`pid ${peer.pid} was refused: ${reason}`);
          queueMicrotask(() => this.emit("peerRefused", peer, reason));
        },
      });
    } catch (error) {
      detach(this.#events.buffer);
      detach(this.#streamOwner.look.buffer as ArrayBuffer);
      native.sb_client_close(hub);
      throw error;
    }
    const company = {
      options,
      drain: (link: Link) => this.#drainLink(link),
      takePeak: () => this.#takePeak(),
      placesPerWorker: () => this.#placesPerWorker(),
      restarted: () => native.sb_stats_add(hub, C.SB_C_RESTARTED, 1),
      paused: (isPaused: boolean) => native.sb_stats_add(hub, isPaused ? C.SB_C_PAUSED : C.SB_C_RESUMED, 1),
      lost: () => this.#pump(),
    };
    this.#crew = options.workers ? new Crew(options.workers, company) : null;
    this.#ready = new ReadyWaiters(options.name, () => this.#crew?.lastFailure ?? null);
  }

  get name(): string {
    return this.options.name;
  }

  /** Attached workers. */
  get workers(): WorkerInfo[] {
    return this.#links.map(infoOf);
  }

  /**
   * The processes of the workers that the bus starts itself, and their events; `null` without the option `workers`. Calling
   * `resize()` with the current size restarts workers that were paused or given up. The bus decides the size otherwise.
   */
  get supervisor(): Supervisor | null {
    return this.#crew?.supervisor ?? null;
  }

  /**
   * Sends a request and resolves to the answer, whatever its status.
   *
   * @throws (rejects) {@link InvalidConfigError}, {HeadTooLargeError}, {@link PayloadTooLargeError}: nothing was sent;
   * {@link BusOverloadedError}, {@link NoWorkerError}, {@link RequestTimeoutError}, {@link WorkerDiedError},
   * {RemoteError} (the handler failed), {@link RegionCorruptError}, {@link BusClosedError}; `signal.reason`.
   */
  request(request: BusRequest, options: RequestOptions = noOptions): Promise<BusResponse> {
    return this.#ask(request, options, "copy") as Promise<BusResponse>;
  }

  /**
   * As {@link request}, but the body is a view of shared memory until it is released.
   *
   *     using response = await bus.borrow({ path: "/frame" });
   */
  borrow(request: BusRequest, options: RequestOptions = noOptions): Promise<BorrowedResponse> {
    return this.#ask(request, options, "borrow") as Promise<BorrowedResponse>;
  }

  /**
   * As {@link request}, but resolves as soon as the head of the answer is here; its body streams. The timeout is that of
   * the head; `signal` ends the stream too.
   */
  stream(request: BusRequest, options: RequestOptions = noOptions): Promise<StreamedResponse> {
    return this.#ask(request, options, "stream") as unknown as Promise<StreamedResponse>;
  }

  /**
   * As {@link request}, blocking the thread: no event loop runs until the answer is here. Does not queue: a worker must
   * be attached and have a free slot. May be called inside a handler, but not for a worker of the same thread.
   */
  requestSync(request: BusRequest, options: RequestOptions = noOptions): BusResponse {
    if (!requestListeners.now) return this.#askSync(request, options);
    const trace = this.#traceOf(request, options, "sync");
    const ask = (): BusResponse => this.#askSync({ ...request, id: trace.id }, tracedOptions(trace, options));
    return requestTraces.traceSync(ask, trace) as BusResponse;
  }

  #askSync(request: BusRequest, options: RequestOptions): BusResponse {
    const timeoutMs = this.#admit(options);
    const link = options.worker === undefined ? this.#pick() : this.#only(options.worker);
    if (!link && this.#links.length === 0) throw new NoWorkerError(this.name, 0, "bus", this.#crew?.downFor);
    if (!link)
      throw new BusOverloadedError(`bus "${this.name}" has no free slot, and a blocking request cannot queue.`);
    let outcome: BusResponse | null = null;
    let failure: unknown = null;
    const pending = new Pending(
      request,
      options,
      "sync",
      ++this.#serial,
      timeoutMs,
      (response) => {
        outcome = response as BusResponse;
      },
      (reason) => {
        failure = reason;
      },
    );
    this.#unsettled++;
    this.#send(link, pending);
    if (!pending.settled) this.#waitFor(link, pending);
    this.#driver.wake(); // since the wait began the other workers' answers ring nobody
    if (!outcome) throw failure;
    return outcome;
  }

  /**
   * The same as `fetch`, answered by a worker: `await bus.fetch("/users/7")`, or any WHATWG `Request`. A body that is
   * not whole streams, both ways. Rejects as {@link stream} does, and with the error of a body that fails.
   */
  fetch(input: string | URL | Request, init?: RequestInit & RequestOptions): Promise<Response> {
    return fetchThrough(this, input, init);
  }

  /**
   * The methods of a contract as functions: `await client.hello({ name: "Ada" }, { timeout: 500 })`. Make one and keep it.
   * They reject as {@link request} does, and with {ValidationError}, {ContractError}, {ContractMismatchError}.
   */
  client<C extends Contract>(contract: C): Client<C> {
    return makeClient(this, contract);
  }

  /**
   * Resolves when `workers` (0-64, default 1) are attached.
   *
   * @throws (rejects) {NotReadyError} after `timeout` ms (default 30 000, `Infinity` or 0 for none), with the number of workers
   * that came and why others did not; {@link BusClosedError}; {@link InvalidConfigError}; `signal.reason`.
   */
  async ready({ workers = 1, timeout = READY_MS, signal }: ReadyOptions = {}): Promise<void> {
    checkInteger("workers", workers, 0, C.SB_LINKS_MAX);
    const limit = checkTimeout("timeout", timeout);
    if (this.#closed) throw this.#closedError();
    signal?.throwIfAborted();
    if (this.#links.length >= workers) return;
    await this.#ready.wait(workers, limit, signal, () => this.#links.length);
  }

  /** State, worker and age of every slot, and what waits in the queue. */
  diagnostics(): { slots: SlotDiagnostics[]; queued: { requestId: string; ageMs: number }[] } {
    const slots: SlotDiagnostics[] = [];
    const words = new Uint32Array(2 * C.SB_SLOTS_MAX);
    for (const link of this.#links) {
      const count = native.sb_link_snapshot(this.#hub, link.index, words);
      for (let slot = 0; slot < count; slot++) {
        const pending = link.pending[slot];
        slots.push({
          workerPid: link.peer.pid,
          slot,
          state: STATE_NAMES[words[2 * slot]!] ?? "FREE",
          ageMs: words[2 * slot + 1]!,
          requestId: pending ? this.#idOf(pending) : null,
          borrowed: pending?.kind === "borrow" && pending.settled,
        });
      }
    }
    const queued = [];
    for (let pending = this.#queue.head; pending; pending = pending.wait.next) {
      queued.push({ requestId: this.#idOf(pending), ageMs: performance.now() - pending.startedAt });
    }
    return { slots, queued };
  }

  /** Counters since the start, and percentiles of the round trip; after `close` their last values. */
  stats(): BusStats {
    return (
      this.#finalStats ?? {
        ...readCounters(this.#hub),
        requests: this.#serial,
        wakeups: this.#driver.wakeups,
        unsettledAtEnd: this.#unsettledAtEnd,
        queued: this.#queue.length,
        inFlight: this.#links.reduce((sum, link) => sum + link.used, 0),
        workers: this.#links.map(({ peer, concurrency, used }) => ({ pid: peer.pid, concurrency, inFlight: used })),
      }
    );
  }

  /**
   * Counters, gauges and the histogram of the round trip as Prometheus' text (version 0.0.4), each with the label `bus`;
   * after `close` their last values.
   */
  metrics(): string {
    if (this.#finalMetrics !== null) return this.#finalMetrics;
    this.#sample(this.#tick !== null);
    const copy = Buffer.alloc(C.SB_STATS_BYTES);
    native.sb_stats_read(this.#hub, copy);
    return busMetrics(this.name, readSnapshot(copy, native.sb_now_ms()));
  }

  /** Keeps the process alive while the bus is open. Without it, only promises that are pending do. */
  ref(): void {
    if (!this.#closed) this.#hold.set(true);
  }

  unref(): void {
    this.#hold.set(false);
  }

  /**
   * Ends the attachment of a worker, by its `id`, as if it had broken the protocol: what it has is settled, `workerDied`
   * gives `reason`. `false`: it is not attached. Its process is left alone, and may attach again.
   */
  evict(worker: number, reason: string): boolean {
    const link = this.#links.find(({ life }) => life === worker);
    if (link) this.#evict(link, reason);
    return link !== undefined;
  }

  /** Takes nothing new, and resolves when all that was taken has settled, or after `timeout` ms (default: none). */
  async drain({ timeout = Infinity }: { timeout?: number } = {}): Promise<void> {
    const limit = checkTimeout("timeout", timeout);
    this.#draining = true;
    if (this.#unsettled === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#drainWaiters.push(resolve);
    const timer = startTimer(systemClock, limit, resolve);
    await promise;
    timer.close();
  }

  /**
   * Drains for `timeout` ms (default 5000), rejects the rest with {@link BusClosedError}, says goodbye to the workers
   * and gives the name back. Workers that the bus has started are stopped. Any number of times, at any time.
   */
  async close({ timeout = CLOSE_MS }: { timeout?: number } = {}): Promise<void> {
    const limit = checkCloseLimit(timeout);
    this.#closing ??= this.#close(limit);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- the way out ----------------------------------------------------------------------------------------------------

  /** Timeout of a request that may be made now, in ms, 0 for none; throws otherwise. */
  #admit(options: RequestOptions): number {
    if (this.#closed || this.#draining) throw this.#closedError();
    if (options === noOptions) return this.options.timeout;
    if (options.signal?.aborted) throw options.signal.reason;
    if (options.deadline !== undefined) checkTimeout("deadline", options.deadline);
    if (options.idle !== undefined) checkTimeout("idle", options.idle);
    return options.timeout === undefined ? this.options.timeout : checkTimeout("timeout", options.timeout);
  }

  #ask(request: BusRequest, options: RequestOptions, kind: Kind): Promise<BusResponse | StreamedResponse> {
    return requestListeners.now ? this.#askTraced(request, options, kind) : this.#submit(request, options, kind);
  }

  #askTraced(request: BusRequest, options: RequestOptions, kind: Kind): Promise<BusResponse | StreamedResponse> {
    const trace = this.#traceOf(request, options, kind);
    const ask = (): Promise<BusResponse | StreamedResponse> =>
      this.#submit({ ...request, id: trace.id }, tracedOptions(trace, options), kind);
    return requestTraces.tracePromise(ask, trace) as Promise<BusResponse | StreamedResponse>;
  }

  /** What subscribers of the tracing channel are told. */
  #traceOf(request: BusRequest, options: RequestOptions, kind: Kind): RequestTrace {
    const { method, body, json, path, pattern = "", headers } = request;
    return {
      bus: this.name,
      id: request.id ?? `${this.#tag}-${(this.#serial + 1).toString(36)}`,
      method: method ?? (body === undefined && json === undefined ? "GET" : "POST"),
      path,
      pattern,
      kind,
      traceparent: options.traceparent ?? headerOf(headers),
    };
  }

  #submit(request: BusRequest, options: RequestOptions, kind: Kind): Promise<BusResponse | StreamedResponse> {
    let timeoutMs: number;
    try {
      timeoutMs = this.#admit(options);
    } catch (error) {
      endSource(request.body);
      return Promise.reject(error);
    }
    const promise = makePromise();
    const { resolve, reject } = ends;
    const pending = new Pending(request, options, kind, ++this.#serial, timeoutMs, resolve, reject);
    if (++this.#unsettled > this.#peak) this.#peak = this.#unsettled;
    if (this.#tick === null) this.#tick = setTimeout(this.#onTick, TICK_MS);
    else if (this.#isTickUnref) this.#refTick();
    const link = this.#queue.length === 0 && options.worker === undefined ? this.#pick() : null;
    if (link) this.#send(link, pending);
    else this.#sendLater(pending);
    if (options.signal && !pending.settled) this.#watch(pending, options.signal);
    return promise;
  }

  #watch(pending: Pending, signal: AbortSignal): void {
    pending.onAbort = () => {
      if (pending.settled) return;
      native.sb_stats_add(this.#hub, C.SB_C_ABORTS, 1);
      this.#giveUp(pending);
      this.#reject(pending, signal.reason);
      this.#pump();
    };
    if (signal.aborted) pending.onAbort();
    else signal.addEventListener("abort", pending.onAbort, { once: true });
  }

  /** From now on, whoever has a signal that is asked for late can abort. */
  #watchLate(): void {
    const waiting = this.#links.flatMap((link) => link.pending);
    for (let pending = this.#queue.head; pending; pending = pending.wait.next) waiting.push(pending);
    for (const pending of waiting) {
      if (!pending || pending.settled || pending.onAbort || !pending.options.lateSignal) continue;
      this.#watch(pending, pending.options.lateSignal());
    }
  }

  /** The worker with the fewest requests that can take one more, a suspect or unresponsive one last; `null` when none can. */
  #pick(): Link | null {
    const links = this.#links;
    let best: Link | null = null;
    for (let i = 0; i < links.length; i++) {
      const link = links[i]!;
      if (link.suspect && native.sb_link_parked(this.#hub, link.index) === 1) link.suspect = false;
      if (link.credit > 0 && (best === null || isBetter(link, best))) best = link;
    }
    return best;
  }

  /** That worker, which can take one more; throws when it cannot. */
  #only(id: number): Link {
    const link = this.#links.find(({ life }) => life === id);
    if (!link) throw new NoWorkerError(this.name, 0);
    if (link.credit > 0) return link;
    throw new BusOverloadedError(`worker pid ${link.peer.pid} has ${link.used} requests.`);
  }

  #sendTo(id: number, pending: Pending): void {
    try {
      this.#send(this.#only(id), pending);
    } catch (error) {
      this.#reject(pending, error);
    }
  }

  /** It goes first again, unless it was for one worker alone. */
  #putBack(pending: Pending): void {
    if (pending.options.worker === undefined) this.#queue.pushFront(pending);
    else this.#reject(pending, new NoWorkerError(this.name, 0));
  }

  /** When a worker can take it; one for a certain worker now or never. */
  #sendLater(pending: Pending): void {
    if (pending.options.worker === undefined) this.#enqueue(pending);
    else this.#sendTo(pending.options.worker, pending);
  }

  #enqueue(pending: Pending): void {
    const { limit, policy } = this.options.queue;
    const down = this.#links.length === 0 ? this.#crew?.downFor : null;
    if (down || (this.#links.length === 0 && pending.options.waitForWorker === false)) {
      this.#reject(pending, new NoWorkerError(this.name, 0, "bus", down));
    } else if (policy === "reject" && this.#queue.length >= limit) {
      native.sb_stats_add(this.#hub, C.SB_C_OVERLOADED, 1);
      const places = this.#links.reduce((sum, link) => sum + link.concurrency, 0);
      const busy = `all ${places} places of its ${this.#links.length} workers are taken and ${limit} requests wait`;
      this.#reject(pending, new BusOverloadedError(`bus "${this.name}": ${busy}.`));
    } else {
      pending.startedAt = performance.now();
      try {
        this.#rehearse(pending.request, pending.options);
        this.#queue.pushBack(pending);
        this.#crew?.grow(this.#unsettled);
      } catch (error) {
        this.#reject(pending, error);
      }
    }
  }

  /** What is wrong with a request is said when it is made, not when a worker comes. */
  #rehearse(request: BusRequest, options: RequestOptions): void {
    this.#scratch ??= new Arena(new ArrayBuffer(this.options.headLimit));
    const parameters = collectStrings(request, options.traceparent);
    encodeHead(this.#scratch, strings, parameters, REQUEST_STRINGS + 2 * parameters, this.options.headLimit, "request");
    if (request.method !== undefined) encodeMethod(request.method);
    const bytes = isStreamSource(request.body) ? 0 : bodyLength(request.body);
    if (bytes > this.options.payloadLimit) throw new PayloadTooLargeError("request", bytes, this.options.payloadLimit);
  }

  /** Writes the request into a slot of `link` and publishes it. Never throws: the request settles, or queues. */
  #send(link: Link, pending: Pending): void {
    const hub = this.#hub;
    const slot = native.sb_slot_reserve(hub, link.index);
    if (slot < 0) {
      if (pending.startedAt === 0) pending.startedAt = performance.now();
      this.#putBack(pending);
      this.#evict(link, "it changed a slot that was free");
      return;
    }
    link.used++;
    let bytes = 0;
    let rang = 0;
    try {
      const request = pending.request;
      const arena = link.requestArena(slot);
      const parameters = collectStrings(request, pending.options.traceparent);
      const firstHeader = REQUEST_STRINGS + 2 * parameters;
      const head = this.#heads.write(arena, strings, parameters, firstHeader, this.options.headLimit, "request");
      const offset = bodyOffset(head);
      const body = request.json === undefined ? request.body : JSON.stringify(request.json);
      const streams = isStreamSource(body);
      const length = streams ? 0 : writeBody(arena, offset, body, this.options.payloadLimit, "request");
      bytes = offset + length;
      let method = request.method === undefined ? (streams || length > 0 ? 1 : 0) : encodeMethod(request.method);
      if (streams) {
        method += C.SB_STREAMS;
        link.streams[slot] = this.#openStream(link, slot, body);
      }
      pending.link = link;
      pending.slot = slot;
      link.pending[slot] = pending; // registered first, published after
      const left = pending.startedAt === 0 ? pending.timeoutMs : pending.timeLeft(performance.now());
      rang = native.sb_slot_publish(hub, link.index, slot, method, head, offset, length, left, pending.serial);
    } catch (error) {
      link.pending[slot] = null;
      link.streams[slot] = undefined;
      link.used--;
      native.sb_slot_cancel(hub, link.index, slot);
      this.#reject(pending, error);
      return;
    }
    this.#driver.expect(bytes, rang === 1);
  }

  /** Gives queued requests to workers that have room. */
  #pump(): void {
    for (let pending = this.#queue.head; pending; pending = this.#queue.head) {
      const link = this.#pick();
      if (!link) {
        const down = this.#links.length === 0 ? this.#crew?.downFor : null;
        if (!down) return this.#crew?.grow(this.#unsettled);
        this.#queue.remove(pending);
        const waitedMs = performance.now() - pending.startedAt;
        this.#reject(pending, new NoWorkerError(this.name, waitedMs, "bus", down, pending.retried));
        continue;
      }
      this.#queue.remove(pending);
      this.#send(link, pending);
    }
  }

  // ---- the way back ---------------------------------------------------------------------------------------------------

  /**
   * Handles what a poll or a tick found. C reports an event once, so all of them are handled before a worker that broke the
   * protocol in one of them is ended. No code of the user runs in here, and nothing else fills the buffer meanwhile.
   */
  #handleEvents(count: number, first = 0): number {
    this.#handling = true;
    for (let n = 0, at = first * C.SB_EVENT_WORDS; n < count; n++, at += C.SB_EVENT_WORDS) {
      const link = this.#byIndex[this.#events[at + 1]!];
      if (!link || link.life !== this.#events[at + 2]!) continue; // of a worker that has ended since
      try {
        this.#handleEvent(link, at);
      } catch (cause) {
        this.#evict(link, `what it wrote could not be handled: ${String(cause)}`);
      }
    }
    this.#handling = false;
    if (this.#condemned.length > 0) {
      for (const link of this.#condemned.splice(0)) this.#end(link, `was evicted (${link.evictedFor})`);
    }
    if (count > 0 && this.#queue.length > 0) this.#pump();
    if (this.#linkDrains.length > 0) this.#tellLinkDrains();
    return count;
  }

  #handleEvent(link: Link, at: number): void {
    const words = this.#events;
    const kind = words[at]! & 0xffff;
    const slot = words[at]! >>> 16;
    if (kind === C.SB_EV_DONE) this.#deliver(link, slot, at);
    else if (kind === C.SB_EV_STREAM) this.#flow(link, slot, at);
    else this.#handleRare(link, slot, kind, words[at + 7]!);
  }

  #handleRare(link: Link, slot: number, kind: number, token: number): void {
    const pending = link.pending[slot] ?? null;
    switch (kind) {
      case C.SB_EV_FREED:
        link.used--;
        link.suspect = false;
        break;
      case C.SB_EV_TIMEOUT_QUEUED:
        this.#closeStream(link, slot);
        link.used--;
        link.suspect = true;
        link.pending[slot] = null;
        if (pending) this.#timeOut(pending, false);
        break;
      case C.SB_EV_TIMEOUT_RUNNING:
        this.#closeStream(link, slot);
        link.pending[slot] = null;
        link.writer.send(C.SB_MSG_CANCEL, cancelBody(slot, token));
        if (pending) this.#timeOut(pending, true);
        break;
      case C.SB_EV_CORRUPT:
        this.#evict(link, `it left slot ${slot} in a state no legal step leads to`);
        break;
      case C.SB_EV_STUCK:
        this.#evict(link, `more than half its slots hung for ${C.SB_STUCK_MS} ms`);
        break;
    }
  }

  /** A response is in a slot: copies it out, frees the slot, then looks at what it is. */
  #deliver(link: Link, slot: number, at: number): void {
    const words = this.#events;
    const headBytes = words[at + 3]!;
    const offset = words[at + 4]!;
    const bodyBytes = words[at + 5]!;
    const status = words[at + 6]!;
    const pending = link.pending[slot];
    link.suspect = false;
    link.process?.served();
    if (link.streams[slot]) this.#closeStream(link, slot);
    if (!pending || pending.settled) {
      this.#free(link, slot);
      return;
    }
    const lending = pending.kind === "borrow" && status !== 0;
    const arena = link.responseArena(slot);
    const body = lending ? null : arena.bytes.slice(offset, offset + bodyBytes);
    let head: Head;
    try {
      head =
        status === 0 ? new Head(arena.bytes.slice(0, headBytes), ERROR_STRINGS) : this.#answers.read(arena, headBytes);
    } catch (cause) {
      const message = `worker pid ${link.peer.pid} answered request ${this.#idOf(pending)} with a malformed head.`;
      this.#reject(pending, new RegionCorruptError(message, { cause, mayHaveExecuted: true }));
      this.#evict(link, "it answered with a malformed head");
      return;
    }
    if (!lending && !this.#free(link, slot)) {
      this.#rejectCorrupt(link, pending); // settled already, unless the link had ended before
      return;
    }
    if (this.options.instrumentation) this.#instrument(link, slot, pending);
    if (status === 0) {
      native.sb_stats_add(this.#hub, C.SB_C_ERRORS, 1);
      this.#reject(pending, remoteError(head));
    } else if (body === null) {
      this.#lend(link, slot, pending, status, head, offset, bodyBytes);
    } else if (pending.kind === "stream") {
      this.#resolve(pending, new StreamedResponse(status, link.peer.pid, head, body));
    } else {
      this.#resolve(pending, new BusResponse(status, link.peer.pid, head, body));
    }
  }

  // ---- streamed bodies ------------------------------------------------------------------------------------------------

  #makeStreamOwner(hub: Pointer): StreamOwner {
    return {
      hub,
      look: new Uint32Array(view(native.sb_client_look(hub) as number, 32)),
      headLimit: this.options.headLimit,
      stride: native.sb_client_stride(hub),
      moved: (bytes, rang) => this.#driver.expect(bytes, rang),
      corrupt: (link, slot) => this.#evict(link, `it wrote impossible counts into the rings of slot ${slot}`),
    };
  }

  #openStream(link: Link, slot: number, source: StreamSource | null): HubStream {
    return new HubStream(new HubChannel(this.#streamOwner, link, slot), source);
  }

  /** The rings of a slot moved, its response begins, or ends. */
  #flow(link: Link, slot: number, at: number): void {
    const words = this.#events;
    const [headBytes, done, status] = [words[at + 3]!, words[at + 5] === 1, words[at + 6]!];
    link.suspect = false;
    if (status !== 0 && !this.#beginResponse(link, slot, headBytes, status)) return;
    const stream = link.streams[slot];
    if (stream?.source) this.#sendBody(link, slot, stream, stream.source);
    stream?.moved();
    if (done && link.state !== "ended") this.#finishStream(link, slot);
  }

  /** `false`: nobody waits for it, or its head is malformed. */
  #beginResponse(link: Link, slot: number, headBytes: number, status: number): boolean {
    const pending = link.pending[slot];
    if (!pending || pending.settled) return true;
    if (pending.kind === "sync") {
      this.#giveUp(pending);
      const message = `request ${this.#idOf(pending)} was answered with a stream, which a blocking request cannot read.`;
      this.#reject(
        pending,
        new InvalidConfigError(message, { hint: "Use `request` or `stream`.", mayHaveExecuted: true }),
      );
      return false;
    }
    let head: Head;
    try {
      head = this.#answers.read(link.responseArena(slot), headBytes);
    } catch (cause) {
      const message = `worker pid ${link.peer.pid} answered request ${this.#idOf(pending)} with a malformed head.`;
      this.#reject(pending, new RegionCorruptError(message, { cause, mayHaveExecuted: true }));
      this.#evict(link, "it answered with a malformed head");
      return false;
    }
    const stream = (link.streams[slot] ??= this.#openStream(link, slot, null));
    const receiver = new Receiver(stream.channel, () => this.#leaveStream(link, slot, stream));
    stream.receiver = receiver;
    const { pid } = link.peer;
    if (pending.kind === "stream") {
      this.#unsettled++; // until the stream has ended
      const response = new StreamedResponse(status, pid, head, receiver);
      stream.reader = response;
      this.#resolve(pending, response);
      pending.forget();
      const { deadline, idle } = pending.options;
      const signal = signalOf(pending.options);
      if (signal) stream.watch(signal, () => this.#breakStream(link, slot, stream, signal.reason));
      if (deadline !== undefined || idle !== undefined) this.#limitStream(link, slot, pending, stream, receiver);
    } else {
      this.#collect(link, slot, pending, stream, (body) =>
        pending.kind === "borrow"
          ? new BorrowedResponse(status, pid, head, body, null)
          : new BusResponse(status, pid, head, body),
      );
    }
    return true;
  }

  #limitStream(link: Link, slot: number, pending: Pending, stream: HubStream, receiver: Receiver): void {
    const { deadline = 0, idle = 0 } = pending.options;
    const over = (limit: "deadline" | "idle", ms: number): void => {
      const error = new StreamTimeoutError(this.#idOf(pending), limit, ms, receiver.bytes);
      this.#breakStream(link, slot, stream, error);
    };
    stream.limit(checkTimeout("deadline", deadline), () => over("deadline", deadline));
    stream.limitIdle(checkTimeout("idle", idle), () => over("idle", idle));
  }

  /** Whoever asked for the whole answer gets it when it is whole, within the same timeout. */
  #collect(
    link: Link,
    slot: number,
    pending: Pending,
    stream: HubStream,
    make: (body: Uint8Array) => BusResponse,
  ): void {
    if (pending.timeoutMs > 0) {
      const left = Math.max(1, native.sb_slot_time_left(this.#hub, link.index, slot));
      stream.limit(left, () => {
        if (pending.settled) return;
        this.#timeOut(pending, true);
        this.#breakStream(link, slot, stream, null);
      });
    }
    stream.receiver!.collect(this.options.payloadLimit, "response").then(
      (body) => {
        if (!pending.settled) this.#resolve(pending, make(body));
      },
      (error) => this.#reject(pending, error),
    );
  }

  /** The worker has claimed the request and wants its body. */
  #sendBody(link: Link, slot: number, stream: HubStream, source: StreamSource): void {
    stream.source = null;
    begunSources.add(source);
    stream.sender!.send(source, (end) => {
      if (link.streams[slot] !== stream) return;
      if (end.how === "sent") stream.channel.move(0, 0, C.SB_FLOW_END, 0);
      if (end.how !== "failed") return;
      const pending = link.pending[slot];
      this.#breakStream(link, slot, stream, end.error);
      if (pending) this.#reject(pending, end.error);
    });
  }

  /** The response is whole: what the ring holds is copied out, and the slot is free. */
  #finishStream(link: Link, slot: number): void {
    const stream = link.streams[slot];
    link.process?.served();
    if (stream?.receiver) {
      stream.receiver.end(() => this.#streamError(stream));
      if (link.pending[slot]?.kind === "stream") this.#settleOne();
    }
    this.#closeStream(link, slot);
    if (link.state !== "ended") this.#free(link, slot);
  }

  #streamError({ channel }: HubStream): { error: unknown } {
    const bytes = errorHead(channel);
    native.sb_stats_add(this.#hub, C.SB_C_ERRORS, 1);
    try {
      if (bytes) return { error: remoteError(new Head(bytes, ERROR_STRINGS)) };
    } catch (cause) {
      const message = "a stream ended with a malformed error.";
      return { error: new RegionCorruptError(message, { cause, mayHaveExecuted: true }) };
    }
    return { error: new RegionCorruptError("a worker ended a stream without saying how.", { mayHaveExecuted: true }) };
  }

  /** The reader of a response wants no more of it. */
  #leaveStream(link: Link, slot: number, stream: HubStream): void {
    if (link.streams[slot] !== stream) return;
    const pending = link.pending[slot];
    if (pending?.kind === "stream" && stream.receiver) this.#settleOne();
    this.#closeStream(link, slot);
    if (link.state !== "ended") this.#withdraw(link, slot);
    this.#pump();
  }

  /** A stream ends before its time: by an abort, a timeout, or a source that failed. */
  #breakStream(link: Link, slot: number, stream: HubStream, error: unknown): void {
    const { receiver } = stream;
    this.#leaveStream(link, slot, stream);
    receiver?.fail(error);
  }

  #closeStream(link: Link, slot: number): void {
    link.streams[slot]?.close();
    link.streams[slot] = undefined;
  }

  #lend(link: Link, slot: number, pending: Pending, status: number, head: Head, offset: number, bytes: number): void {
    link.borrowed++;
    const giveBack = (held: boolean): void => {
      this.#lent.unregister(giveBack);
      link.borrowed--;
      if (held) link.isHeld = true;
      if (link.state !== "ended") {
        this.#free(link, slot);
        this.#pump();
      } else if (link.borrowed === 0) {
        this.#forget(link);
      }
    };
    const body = link.lend(slot, offset, bytes);
    this.#lent.register(body.buffer, giveBack, giveBack); // a view of it keeps it, whoever has the view
    this.#resolve(pending, new BorrowedResponse(status, link.peer.pid, head, body, giveBack));
    pending.forget();
  }

  /** DONE to FREE. `false`: the worker had changed the slot since it answered; it is evicted, its requests settled. */
  #free(link: Link, slot: number): boolean {
    const intact = native.sb_slot_release(this.#hub, link.index, slot) === 0;
    if (intact) {
      link.pending[slot] = null;
      link.used--;
    } else {
      this.#evict(link, `it changed slot ${slot} after it had answered`);
    }
    return intact;
  }

  #instrument(link: Link, slot: number, pending: Pending): void {
    const timing = {
      id: this.#idOf(pending),
      path: pending.request.path,
      workerPid: link.peer.pid,
      claimUs: native.sb_slot_claim_delay(this.#hub, link.index, slot) / 1000,
      roundTripUs: native.sb_slot_round_trip(this.#hub, link.index, slot) / 1000,
    };
    queueMicrotask(() => this.options.instrumentation?.(timing));
  }

  // ---- settling -------------------------------------------------------------------------------------------------------

  #resolve(pending: Pending, value: BusResponse | StreamedResponse): void {
    this.#settle(pending);
    pending.resolve(value);
  }

  #reject(pending: Pending, reason: unknown): void {
    if (pending.settled) return;
    this.#settle(pending);
    if (!begunSources.has(pending.request.body as StreamSource)) endSource(pending.request.body);
    pending.reject(reason);
  }

  #settle(pending: Pending): void {
    pending.settled = true;
    if (pending.onAbort) signalOf(pending.options)?.removeEventListener("abort", pending.onAbort);
    this.#settleOne();
  }

  #settleOne(): void {
    if (--this.#unsettled === 0 && this.#drainWaiters.length > 0) {
      for (const done of this.#drainWaiters.splice(0)) done();
    }
    if (this.#linkDrains.length > 0) this.#tellLinkDrains();
  }

  #timeOut(pending: Pending, running: boolean): void {
    native.sb_stats_add(this.#hub, C.SB_C_TIMEOUTS, 1);
    const { queuedMs, ranMs } = pending.times(performance.now());
    const id = this.#idOf(pending);
    this.#reject(pending, new RequestTimeoutError(id, pending.timeoutMs, queuedMs, ranMs, running || pending.retried));
  }

  /** Takes a request out of the queue or away from its worker. Returns whether a handler may have run. */
  #giveUp(pending: Pending): boolean {
    this.#queue.remove(pending);
    const { link, slot } = pending;
    if (!link || link.pending[slot] !== pending) return pending.retried;
    this.#closeStream(link, slot);
    return this.#withdraw(link, slot) || pending.retried;
  }

  /** Takes a published request away from its worker. Returns whether a handler may have run. */
  #withdraw(link: Link, slot: number): boolean {
    const result = native.sb_slot_withdraw(this.#hub, link.index, slot);
    if (result === C.SB_DONE) {
      native.sb_stats_add(this.#hub, C.SB_C_DROPPED, 1);
      this.#free(link, slot);
      return true;
    }
    link.pending[slot] = null;
    if (result === C.SB_FREE) {
      link.used--;
      return false;
    }
    if (result === C.SB_ABANDONED) {
      link.writer.send(C.SB_MSG_CANCEL, cancelBody(slot, native.sb_slot_token(this.#hub, link.index, slot)));
    } else {
      this.#evict(link, `it left slot ${slot} in a state no legal step leads to`);
    }
    return true;
  }

  /** The blocking part of {@link requestSync}: afterwards the request is settled. */
  #waitFor(picked: Link, pending: Pending): void {
    const link = pending.link ?? picked; // another one, when the picked one had to be evicted
    const spinNs = this.options.spin * 1000;
    const result = native.sb_slot_wait(this.#hub, link.index, pending.slot, pending.timeoutMs, spinNs);
    if (result === 0) this.#handleEvents(1, C.SB_BATCH);
    // The tick judges by the same deadline, so it has an event for this slot, among others.
    else if (result === -C.SB_ETIMEDOUT) while (this.#handleEvents(native.sb_client_tick(this.#hub)) === C.SB_BATCH);
    else if (link.state !== "ended") this.#end(link, "ended");
    // What the end of a worker put back into the queue cannot wait there: nobody runs the event loop.
    if (pending.settled) return;
    const ran = this.#giveUp(pending);
    this.#reject(pending, new WorkerDiedError(this.#idOf(pending), link.peer.pid, "ended", ran));
  }

  // ---- time -----------------------------------------------------------------------------------------------------------

  readonly #onTick = (): void => {
    this.#tick = null;
    if (this.#closed) return;
    while (this.#handleEvents(native.sb_client_tick(this.#hub)) === C.SB_BATCH);
    this.#watchWorkers();
    for (const link of this.#links) for (const stream of link.streams) stream?.age();
    this.#expireQueued();
    this.#watchLate();
    const quarantined = this.#links.some((link) => link.used > link.borrowed);
    const goesOn = this.#unsettled > 0 || quarantined;
    this.#sample(goesOn);
    if (goesOn) {
      this.#tick = setTimeout(this.#onTick, TICK_MS);
      this.#isTickUnref = this.#unsettled === 0;
      if (this.#isTickUnref) this.#tick.unref();
    } else {
      for (const link of this.#links) native.sb_link_trim(this.#hub, link.index);
    }
  };

  /** The tick keeps the process alive while a request is pending, not for a slot that waits for its worker. */
  #refTick(): void {
    this.#isTickUnref = false;
    this.#tick?.ref();
  }

  /** Finds workers that end, or whose event loop does not turn. */
  #watchWorkers(): void {
    const now = performance.now();
    // A tick that comes late tells of this process: the workers have had no longer than a tick to be seen.
    const ms = Math.min(now - this.#tickedAt, 2 * TICK_MS);
    this.#tickedAt = now;
    for (const link of this.#links.slice()) {
      const hasRequests = link.used > link.borrowed;
      if (hasRequests && link.isEnding()) this.#end(link, "ended");
      else if (hasRequests || link.unresponsive) this.#watchTurns(link, ms);
    }
  }

  #watchTurns(link: Link, ms: number): void {
    const limit = this.options.workers?.unresponsive ?? UNRESPONSIVE_MS;
    const before = link.stalledMs;
    if (native.sb_link_turned(this.#hub, link.index) === 1) {
      link.stalledMs = 0;
      if (!link.unresponsive) return;
      link.unresponsive = false;
      queueMicrotask(() => this.emit("workerResponsive", infoOf(link)));
      return;
    }
    link.stalledMs += ms;
    // A worker that waits in async handlers is parked and has no reason to turn: a bell is one.
    if (before < limit / 2 && link.stalledMs >= limit / 2) link.writer.send(C.SB_MSG_BELL);
    if (link.unresponsive || link.stalledMs < limit) return;
    link.unresponsive = true;
    if (this.#crew?.owns(link)) this.#evict(link, `its event loop has not turned for ${limit} ms`);
    else queueMicrotask(() => this.emit("workerUnresponsive", infoOf(link)));
  }

  /** Shows observers what is in flight. `ticking`: a look like this one follows. */
  #sample(ticking: boolean): void {
    native.sb_stats_sample(this.#hub, this.#queue.length, this.#unsettled, ticking ? 1 : 0);
  }

  #expireQueued(): void {
    const now = performance.now();
    for (let pending = this.#queue.head; pending;) {
      const { next }: { next: Pending | null } = pending.wait;
      if (pending.timeoutMs > 0 && now - pending.startedAt >= pending.timeoutMs) {
        this.#queue.remove(pending);
        if (this.#links.length > 0 || pending.retried) {
          this.#timeOut(pending, false);
        } else {
          native.sb_stats_add(this.#hub, C.SB_C_TIMEOUTS, 1);
          this.#reject(pending, new NoWorkerError(this.name, now - pending.startedAt, "bus", this.#crew?.givenUp));
        }
      }
      pending = next;
    }
  }

  // ---- workers --------------------------------------------------------------------------------------------------------

  #welcome(link: Link): void {
    native.sb_stats_add(this.#hub, C.SB_C_JOINED, 1);
    native.sb_stats_link(this.#hub, link.index, link.peer.pid, link.peer.uid);
    this.#links.push(link);
    this.#byIndex[link.index] = link;
    this.#crew?.joined(link);
    this.#driver.wake();
    queueMicrotask(() => this.emit("workerJoined", infoOf(link)));
    this.#ready.tell(this.#links.length);
    this.#pump();
  }

  /** Gives a worker nothing new; resolves when it has no request any more. Its end is a departure then. */
  #drainLink(link: Link): Promise<void> {
    link.draining = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#linkDrains.push({ link, done: resolve });
    this.#tellLinkDrains();
    return promise;
  }

  #tellLinkDrains(): void {
    this.#linkDrains = this.#linkDrains.filter(({ link, done }) => {
      if (link.state !== "ended" && link.used > link.borrowed) return true;
      link.leaving = true;
      done();
      return false;
    });
  }

  #takePeak(): number {
    const peak = this.#peak;
    this.#peak = this.#unsettled;
    return peak;
  }

  #placesPerWorker(): number {
    const links = this.#links;
    return links.length === 0
      ? this.options.slots
      : links.reduce((sum, link) => sum + link.concurrency, 0) / links.length;
  }

  #read(link: Link, bytes: Uint8Array): void {
    let messages = 0;
    const bells = link.reader.read(bytes, (type) => {
      messages++;
      this.#message(link, type);
    });
    if (link.state === "ended") return;
    if (native.sb_link_bell(this.#hub, link.index, bells + messages) !== 0) {
      this.#evict(link, `it rang more than ${C.SB_BELLS_PER_SECOND} times a second without work`);
    } else if (bells > 0) this.#driver.ring();
  }

  #message(link: Link, type: number): void {
    if (type === C.SB_MSG_DRAIN || type === C.SB_MSG_GOODBYE) {
      link.draining = true;
      if (type === C.SB_MSG_GOODBYE) link.leaving = true;
    } else {
      this.#evict(link, `it sent a message of type ${type}`);
    }
  }

  #evict(link: Link, reason: string): void {
    if (link.state === "ended" || link.evictedFor !== null) return;
    link.evictedFor = reason;
    if (this.#handling) this.#condemned.push(link);
    else this.#end(link, `was evicted (${reason})`);
  }

  /** The end of a worker's life: the socket first, then each slot is judged by its state, hints ignored. */
  #end(link: Link, how: string): void {
    link.state = "ended";
    link.hasClosed = how === "ended";
    this.#links = this.#links.filter((other) => other !== link);
    this.#byIndex[link.index] = undefined;
    native.sb_link_stop(this.#hub, link.index);
    link.cut();
    const unclaimed: Pending[] = [];
    const unsettled = link.pending.filter((pending) => pending !== null && !pending.settled) as Pending[];
    for (let slot = 0; slot < link.pending.length; slot++) {
      const pending = link.pending[slot];
      const stream = link.streams[slot];
      try {
        if (stream?.receiver) this.#judgeStream(link, slot, stream, stream.receiver, how);
        else if (pending && !pending.settled) this.#judge(link, slot, pending, how, unclaimed);
      } catch (cause) {
        if (pending) this.#rejectCorrupt(link, pending, cause);
      }
    }
    for (const pending of unclaimed.reverse()) this.#putBack(pending);
    if (unsettled.length > 0) setImmediate(() => this.#audit(link, unsettled));
    if (link.borrowed === 0) this.#forget(link);
    else this.#lending.add(link);
    this.#report(link, how);
    this.#crew?.left(link);
    if (this.#linkDrains.length > 0) this.#tellLinkDrains();
    this.#pump();
  }

  /** The net under {@link #end}: rejects and counts the requests of a worker that are neither settled nor elsewhere by now. */
  #audit(link: Link, had: Pending[]): void {
    for (const pending of had) {
      const isElsewhere = pending.link !== link && pending.link?.pending[pending.slot] === pending;
      if (pending.settled || isElsewhere || pending.queued || this.#proofWaiters.has(pending)) continue;
      this.#unsettledAtEnd++;
      const message = `request ${this.#idOf(pending)} was not settled when worker pid ${link.peer.pid} ended.`;
      this.#reject(pending, new RegionCorruptError(message, { hint: DEFECT, mayHaveExecuted: true }));
    }
  }

  /** What was committed of a response that streamed is delivered, then the error. */
  #judgeStream(link: Link, slot: number, stream: HubStream, receiver: Receiver, how: string): void {
    const pending = link.pending[slot];
    const result = native.sb_slot_withdraw(this.#hub, link.index, slot);
    receiver.end(() => {
      if (result === C.SB_DONE) return this.#streamError(stream);
      const id = pending ? this.#idOf(pending) : "?";
      return { error: this.#closed ? this.#closedError(true) : new WorkerDiedError(id, link.peer.pid, how, true) };
    });
    if (pending?.kind === "stream") this.#settleOne();
    link.pending[slot] = null;
    this.#closeStream(link, slot);
  }

  #judge(link: Link, slot: number, pending: Pending, how: string, unclaimed: Pending[]): void {
    const wasSending = link.streams[slot]?.source === null;
    this.#closeStream(link, slot);
    const result = native.sb_slot_withdraw(this.#hub, link.index, slot);
    if (result === C.SB_DONE) return this.#deliverLast(link, slot);
    link.pending[slot] = null;
    if (pending.startedAt === 0) {
      const left = native.sb_slot_time_left(this.#hub, link.index, slot);
      pending.startedAt = performance.now() - pending.timeoutMs + left;
    }
    if (result === C.SB_FREE) {
      unclaimed.push(pending);
    } else if (
      result === C.SB_ABANDONED &&
      pending.options.idempotent &&
      pending.options.worker === undefined &&
      !pending.retried &&
      !wasSending &&
      pending.kind !== "sync"
    ) {
      this.#retryAfterDeath(link, pending);
    } else if (result === C.SB_ABANDONED) {
      this.#reject(pending, new WorkerDiedError(this.#idOf(pending), link.peer.pid, how, true));
    } else {
      this.#rejectCorrupt(link, pending);
    }
  }

  /** A worker that has ended had answered: its response is in the event behind those of a poll. */
  #deliverLast(link: Link, slot: number): void {
    const at = C.SB_BATCH * C.SB_EVENT_WORDS;
    if ((this.#events[at]! & 0xffff) === C.SB_EV_DONE) {
      this.#deliver(link, slot, at);
    } else {
      this.#flow(link, slot, at);
      this.#finishStream(link, slot);
    }
  }

  #rejectCorrupt(link: Link, pending: Pending, cause?: unknown): void {
    const message = `worker pid ${link.peer.pid} corrupted the slot of request ${this.#idOf(pending)}.`;
    this.#reject(pending, new RegionCorruptError(message, { cause, mayHaveExecuted: true }));
  }

  /** Two runs of an idempotent request must not overlap: the second waits for proof that the first has ended. */
  #retryAfterDeath(link: Link, pending: Pending): void {
    pending.wait.retried = true;
    link.retries++;
    this.#proofWaiters.add(pending);
    const attempt = (): void => {
      const over = pending.timeoutMs > 0 && performance.now() - pending.startedAt >= pending.timeoutMs;
      if (!pending.settled && !over && !this.#closed && !link.hasEnded()) {
        setTimeout(attempt, DEATH_POLL_MS);
        return;
      }
      this.#proofWaiters.delete(pending);
      if (--link.retries === 0 && !link.evictedFor) link.forgetProcess();
      if (pending.settled) return;
      if (over) return this.#timeOut(pending, true);
      native.sb_stats_add(this.#hub, C.SB_C_RETRIES, 1);
      this.#queue.pushFront(pending);
      this.#pump();
    };
    setTimeout(attempt, 0);
  }

  #report(link: Link, how: string): void {
    const counter = link.evictedFor ? C.SB_C_EVICTED : link.leaving ? C.SB_C_LEFT : C.SB_C_DIED;
    native.sb_stats_add(this.#hub, counter, 1);
    if (!this.#closed) this.#ready.note(`pid ${link.peer.pid} ${counter === C.SB_C_LEFT ? "left" : how}`);
    if (link.evictedFor) this.#reception.remember(link);
    else if (link.retries === 0) link.forgetProcess();
    queueMicrotask(() => {
      if (counter === C.SB_C_LEFT) this.emit("workerLeft", infoOf(link));
      else this.emit("workerDied", infoOf(link), how);
    });
  }

  /** Lets go of an ended worker's region; with the last one of a closed bus, of the hub's memory. */
  #forget(link: Link): void {
    this.#lending.delete(link);
    if (!link.drop()) native.sb_stats_add(this.#hub, C.SB_C_UNMAPPED, 1);
    if (this.#finalStats && this.#lending.size === 0) native.sb_client_close(this.#hub);
  }

  // ---- the end --------------------------------------------------------------------------------------------------------

  async #close(limit: number): Promise<void> {
    await this.drain({ timeout: limit });
    this.#closed = true;
    this.#driver.stop();
    if (this.#tick) clearTimeout(this.#tick);
    for (let pending = this.#queue.head; pending; pending = this.#queue.head) {
      this.#queue.remove(pending);
      this.#reject(pending, this.#closedError(pending.retried));
    }
    for (const pending of this.#proofWaiters) this.#reject(pending, this.#closedError(true));
    for (const link of this.#links.slice()) {
      for (const pending of link.pending) {
        if (pending && !pending.settled && !link.streams[pending.slot]?.receiver)
          this.#reject(pending, this.#closedError(this.#giveUp(pending)));
      }
      if (link.state === "ended") continue;
      link.writer.send(C.SB_MSG_GOODBYE);
      link.leaving = true;
      this.#end(link, "left");
    }
    this.#reception.close();
    this.#leave();
    this.#hold.set(false);
    this.#ready.close(this.#closedError());
    if (this.#unsettled > 0) await nextTurn(systemClock); // a body that is gathered settles soon
    this.#unsettledAtEnd += this.#unsettled;
    this.#finalMetrics = this.metrics();
    this.#finalStats = this.stats();
    detach(this.#events.buffer);
    detach(this.#streamOwner.look.buffer as ArrayBuffer);
    if (this.#lending.size === 0) native.sb_client_close(this.#hub);
    await this.#crew?.stop();
  }

  /** Gives the name back. */
  #leave(): void {
    openBuses.delete(keyOf(this.options));
    native.sb_name_unlock(this.#dir, cString(this.name), this.#lock);
    native.sb_fd_close(this.#dir);
  }

  #closedError(mayHaveExecuted = false): BusClosedError {
    return new BusClosedError(`bus "${this.name}"`, { mayHaveExecuted });
  }

  #idOf(pending: Pending): string {
    return pending.request.id ?? `${this.#tag}-${pending.serial.toString(36)}`;
  }
}

function isBetter(link: Link, than: Link): boolean {
  const one = link.suspect || link.unresponsive;
  const other = than.suspect || than.unresponsive;
  return one === other ? link.used < than.used : other;
}

function infoOf(link: Link): WorkerInfo {
  return { id: link.life, pid: link.peer.pid, uid: link.peer.uid, concurrency: link.concurrency };
}

// ---- the name, and the buses of this process --------------------------------------------------------------------------

function takeName(dir: number, name: string): number {
  const owner = new Uint32Array(1);
  const lock = native.sb_name_lock(dir, cString(name), owner);
  if (lock >= 0) return lock;
  if (lock === -C.SB_EEXISTS) throw new BusExistsError(name, owner[0]!);
  if (lock === -C.SB_EPERM) {
    throw new PermissionDeniedError(`${name}.lock is no file of ours alone.`, {
      hint: `It must be a file, no link, with one name, of uid ${process.geteuid?.()}. Remove it.`,
    });
  }
  throw fileError(lock, `Cannot lock the name "${name}"`);
}

interface OpenBus {
  /** Which evaluation of which file made it. */
  module: object;
  file: string;
  close(): Promise<void>;
  leave(): void;
}

const thisModule = {};
const registryKey = Symbol.for("slotbus.open-buses");
const shared = globalThis as { [registryKey]?: Map<string, OpenBus> };
const openBuses = (shared[registryKey] ??= watchExit(new Map<string, OpenBus>()));

function keyOf({ directory, name }: ResolvedBusOptions): string {
  return `${directory}/${name}`;
}

/** After `--hot` reload the module runs again in the same process, where its older self still holds the name. */
async function closeReloaded(options: ResolvedBusOptions): Promise<void> {
  const old = openBuses.get(keyOf(options));
  if (old && old.file === import.meta.path && old.module !== thisModule) await old.close();
}

/** A process that exits without `close` leaves no file behind. (After a kill, the next hub clears up.) */
function watchExit(buses: Map<string, OpenBus>): Map<string, OpenBus> {
  process.on("exit", () => {
    for (const bus of buses.values()) bus.leave();
  });
  return buses;
}
