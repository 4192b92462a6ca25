/** The hub's side: takes requests, hands each to a worker through shared memory, settles it once. */

import { EventEmitter } from "node:events";
import type { Socket, UnixSocketListener } from "bun";
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
  SlotbusError,
  UnsupportedError,
  WorkerDiedError,
} from "../errors.ts";
import { C, cString, errorText, native, type Pointer, view } from "../native/library.ts";
import { type BodyLike, bodyLength, bodyOffset, encodeMethod, Head, METHODS, type Method, writeBody, writeHead } from "./codec.ts";
import { cancelBody } from "./control.ts";
import { Driver } from "./driver.ts";
import { fetchThrough } from "./fetch.ts";
import { flattenHeaders, type HeadersLike } from "./headers.ts";
import { identify, Link, readJoin } from "./link.ts";
import { checkTimeout, type ResolvedBusOptions, resolveBusOptions, type SlotBusOptions } from "./options.ts";
import { type Kind, Pending, PendingQueue } from "./pending.ts";
import { BorrowedResponse, BusResponse, ERROR_STRINGS, remoteError } from "./response.ts";

/** A request to a worker. */
export interface BusRequest {
  /** Default `"GET"`, or `"POST"` when there is a body. */
  method?: Method;
  /** What is asked for, as the handler will see it: `"/users/7"`. */
  path: string;
  /** Route pattern that a router found: `"/users/:id"`. */
  pattern?: string;
  /** Path parameters that a router found. */
  params?: Readonly<Record<string, string>>;
  /** Query without its `?`. */
  query?: string | URLSearchParams;
  headers?: HeadersLike;
  /** Bytes or text. Not copied before it is sent: leave it unchanged until the request settles. */
  body?: BodyLike;
  /** A value sent as JSON in place of `body`. */
  json?: unknown;
  /** Seen by the handler, in errors and diagnostics. Default: generated. */
  id?: string;
}

export interface RequestOptions {
  /** In ms, from the call to the answer; `Infinity` for none. Default: the bus's `timeout`. */
  timeout?: number;
  /** Rejects with `signal.reason`; the handler's `request.signal` aborts too. */
  signal?: AbortSignal;
  /** The request may run twice: if its worker dies it is sent once more, within the same timeout. */
  idempotent?: boolean;
  /** `false`: reject with NoWorkerError at once when no worker is attached. Default `true`: wait. */
  waitForWorker?: boolean;
}

/** A worker in an event of the bus. */
export interface WorkerInfo {
  pid: number;
  uid: number;
  /** Requests it takes at once. */
  concurrency: number;
}

export interface SlotBusEvents {
  /** A worker attached. */
  workerJoined: [worker: WorkerInfo];
  /** A worker closed in good order. */
  workerLeft: [worker: WorkerInfo];
  /** A worker's connection ended without a goodbye, or the bus evicted it (then `reason` says why). */
  workerDied: [worker: WorkerInfo, reason: string];
  /** A connection was turned away: another user, another version, silence, garbage. */
  peerRefused: [peer: { pid: number; uid: number }, reason: string];
}

/** One slot in {@link SlotBus.diagnostics}. */
export interface SlotDiagnostics {
  workerPid: number;
  slot: number;
  state: "FREE" | "WRITING" | "READY" | "CLAIMED" | "DONE" | "ABANDONED";
  /** Since the hub last moved it, in ms. */
  ageMs: number;
  /** Of the request in it. */
  requestId: string | null;
  borrowed: boolean;
}

export interface BusStats {
  requests: number;
  responses: number;
  errors: number;
  timeouts: number;
  aborts: number;
  overloaded: number;
  retries: number;
  /** Published and taken back before a worker claimed them. */
  withdrawn: number;
  /** Given up while a handler ran. */
  abandoned: number;
  /** Answers that came after the caller had aborted. */
  dropped: number;
  bells: number;
  wakeups: number;
  workersJoined: number;
  workersLeft: number;
  workersDied: number;
  workersEvicted: number;
  peersRefused: number;
  /** Regions whose address space stayed because a view was held at close. */
  heldRegions: number;
  queued: number;
  inFlight: number;
  workers: { pid: number; concurrency: number; inFlight: number }[];
  /** From publication to delivery in µs; upper edges of buckets 3 % wide. */
  roundTripUs: { p50: number; p99: number; p999: number };
}

const STATE_NAMES = ["FREE", "WRITING", "READY", "CLAIMED", "DONE", "ABANDONED"] as const;
const TICK_MS = 20;
const HANDSHAKE_MS = 2_000;
const HANDSHAKES = 8;
const ZOMBIES = 4;
const CLOSE_MS = 5_000;
const DEATH_POLL_MS = 2;
const EVENT_BYTES = C.SB_EVENT_WORDS * 4;
const noOptions: RequestOptions = {};

/** Buses of this process by lock path: with `--hot`, the reloaded module closes what it left open. */
const registry = ((globalThis as Record<symbol, unknown>)[Symbol.for("slotbus.buses")] ??= new Map<
  string,
  { module: string; close(): Promise<void> }
>()) as Map<string, { module: object; close(options: { timeout: number }): Promise<void> }>;
const thisModule = {};

/**
 * A bus: one process owns the name and asks, any number of worker processes answer.
 *
 *     await using bus = await SlotBus.create({ name: "shop" });
 *     const response = await bus.request({ path: "/hello", body: "Ada" });
 */
export class SlotBus extends EventEmitter<SlotBusEvents> implements AsyncDisposable {
  readonly options: ResolvedBusOptions;
  readonly #hub: Pointer;
  readonly #events: Uint32Array;
  readonly #dir: number;
  readonly #lock: number;
  readonly #tag: string;
  readonly #driver: Driver;
  readonly #queue = new PendingQueue();
  readonly #stride: number;
  #listener: UnixSocketListener<Link> | null = null;
  #links: Link[] = [];
  /** By link index. */
  readonly #byIndex: (Link | undefined)[] = [];
  readonly #handshakes = new Set<Link>();
  #zombies: Link[] = [];
  #serial = 0;
  #unsettled = 0;
  #tick: ReturnType<typeof setTimeout> | null = null;
  #closing: Promise<void> | null = null;
  #draining = false;
  #closed = false;
  #waiters: { count: number; done: () => void }[] = [];
  #idle: (() => void)[] = [];

  /**
   * Takes the name and listens for workers.
   *
   * @throws {InvalidNameError}, {InvalidConfigError}; {@link BusExistsError} when a live hub has the name;
   * {@link PermissionDeniedError} for a directory that is not ours alone; {@link ResourceError}.
   */
  static async create(options: SlotBusOptions): Promise<SlotBus> {
    const resolved = resolveBusOptions(options);
    const shared = resolved.allowedUids.length > 0 ? 1 : 0;
    const dir = native.sb_dir_open(cString(resolved.directory), 1, shared);
    if (dir < 0) throw directoryError(dir, resolved.directory, shared === 1);
    const key = `${resolved.directory}/${resolved.name}`;
    const old = registry.get(key);
    if (old && old.module !== thisModule && process.execArgv.includes("--hot")) await old.close({ timeout: 0 });
    const lock = takeName(dir, resolved.name);
    let bus: SlotBus;
    try {
      bus = new SlotBus(resolved, dir, lock);
    } catch (error) {
      native.sb_name_unlock(dir, cString(resolved.name), lock);
      native.sb_fd_close(dir);
      throw error;
    }
    registry.set(key, { module: thisModule, close: (how) => bus.close(how) });
    return bus;
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
    const hub = native.sb_hub_open(slots, payloadLimit, headLimit, inlineSize, flags, tag);
    if (!hub) throw new ResourceError(`the hub's memory could not be had: ${errorText(-native.sb_error_number())}.`);
    this.#hub = hub as Pointer;
    this.#stride = native.sb_hub_stride(hub);
    this.#events = new Uint32Array(view(native.sb_hub_events(hub) as number, C.SB_BATCH * EVENT_BYTES));
    this.#driver = new Driver(
      {
        poll: (spinNs) => this.#handleEvents(native.sb_hub_poll(hub, spinNs)),
        park: () => native.sb_hub_park(hub) === 1,
        unpark: () => native.sb_hub_unpark(hub),
      },
      options.spin,
    );
    try {
      this.#listen();
    } catch (cause) {
      native.sb_hub_close(hub);
      throw cause instanceof SlotbusError
        ? cause
        : new ResourceError(`bus "${options.name}" cannot listen: ${(cause as Error).message}`, { cause });
    }
  }

  get name(): string {
    return this.options.name;
  }

  /** Attached workers. */
  get workers(): WorkerInfo[] {
    return this.#links.map(infoOf);
  }

  /**
   * Sends a request and resolves to the answer, whatever its status.
   *
   * @throws (rejects) {InvalidConfigError}, {HeadTooLargeError}, {@link PayloadTooLargeError}: nothing was sent;
   * {@link BusOverloadedError}, {@link NoWorkerError}, {@link RequestTimeoutError}, {@link WorkerDiedError},
   * {RemoteError} (the handler failed), {@link RegionCorruptError}, {@link BusClosedError}; `signal.reason`.
   */
  request(request: BusRequest, options: RequestOptions = noOptions): Promise<BusResponse> {
    return this.#submit(request, options, "copy");
  }

  /**
   * As {@link request}, but the body is a view of shared memory until it is released.
   *
   *     using response = await bus.borrow({ path: "/frame" });
   */
  borrow(request: BusRequest, options: RequestOptions = noOptions): Promise<BorrowedResponse> {
    return this.#submit(request, options, "borrow");
  }

  /**
   * As {@link request}, blocking the thread: no event loop runs until the answer is here. Does not queue: a worker
   * must be attached and have a free slot. May be called inside a handler, but not for a worker of this thread.
   */
  requestSync(request: BusRequest, options: RequestOptions = noOptions): BusResponse {
    if (this.#closed || this.#draining) throw this.#closedError();
    if (options.signal?.aborted) throw options.signal.reason;
    const timeoutMs = options.timeout === undefined ? this.options.timeout : checkTimeout("timeout", options.timeout);
    const link = this.#pick();
    if (!link) {
      if (this.#links.length === 0) throw new NoWorkerError(this.name, 0);
      throw new BusOverloadedError(`bus "${this.name}": no slot is free, and a blocking request cannot queue.`);
    }
    const pending = new Pending(request, options, "sync", ++this.#serial, timeoutMs, performance.now());
    this.#unsettled++;
    this.#send(link, pending);
    if (!pending.settled) this.#waitFor(link, pending);
    this.#driver.wake(); // the other workers' answers ring nobody since the wait began
    if (pending.failed) throw pending.outcome;
    return pending.outcome as BusResponse;
  }

  /**
   * The same as `fetch`, answered by a worker: `await bus.fetch("/users/7")`, or any WHATWG `Request`. The
   * `Response`'s body is there already. Relative URLs are fine.
   */
  fetch(input: string | URL | Request, init?: RequestInit & RequestOptions): Promise<Response> {
    return fetchThrough(this, input, init);
  }

  /** Resolves when `workers` (default 1) are attached. Rejects when the bus closes or `signal` aborts. */
  ready({ workers = 1, signal }: { workers?: number; signal?: AbortSignal } = {}): Promise<void> {
    if (this.#closed) return Promise.reject(this.#closedError());
    if (this.#links.length >= workers) return Promise.resolve();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiter = {
      count: workers,
      done: () => (this.#closed ? reject(this.#closedError()) : resolve()),
    };
    this.#waiters.push(waiter);
    signal?.addEventListener(
      "abort",
      () => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        reject(signal.reason);
      },
      { once: true },
    );
    return promise;
  }

  /** State, worker and age of every slot. */
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
          borrowed: pending?.settled ?? false,
        });
      }
    }
    const queued = [];
    for (let p = this.#queue.head; p; p = p.next) {
      queued.push({ requestId: this.#idOf(p), ageMs: performance.now() - p.startedAt });
    }
    return { slots, queued };
  }

  /** Counters since the start, and percentiles of the round trip. */
  stats(): BusStats {
    const get = (counter: number) => (this.#closed ? 0 : native.sb_stats_get(this.#hub, counter));
    const us = (q: number) => (this.#closed ? 0 : native.sb_stats_quantile(this.#hub, q) / 1000);
    return {
      requests: this.#serial,
      responses: get(C.SB_C_RESPONDED),
      errors: get(C.SB_C_ERRORS),
      timeouts: get(C.SB_C_TIMEOUTS),
      aborts: get(C.SB_C_ABORTS),
      overloaded: get(C.SB_C_OVERLOADED),
      retries: get(C.SB_C_RETRIES),
      withdrawn: get(C.SB_C_WITHDRAWN),
      abandoned: get(C.SB_C_ABANDONED),
      dropped: get(C.SB_C_DROPPED),
      bells: get(C.SB_C_BELLS),
      wakeups: this.#driver.wakeups,
      workersJoined: get(C.SB_C_JOINED),
      workersLeft: get(C.SB_C_LEFT),
      workersDied: get(C.SB_C_DIED),
      workersEvicted: get(C.SB_C_EVICTED),
      peersRefused: get(C.SB_C_REFUSED),
      heldRegions: get(C.SB_C_UNMAPPED),
      queued: this.#queue.length,
      inFlight: this.#links.reduce((sum, link) => sum + link.used, 0),
      workers: this.#links.map((link) => ({
        pid: link.peer.pid,
        concurrency: link.concurrency,
        inFlight: link.used,
      })),
      roundTripUs: { p50: us(0.5), p99: us(0.99), p999: us(0.999) },
    };
  }

  /** Keeps the process alive while the bus is open. Without it, only requests that wait do. */
  ref(): void {
    this.#listener?.ref();
  }

  unref(): void {
    this.#listener?.unref();
  }

  /** Takes nothing new, and resolves when all that was taken has settled. `timeout` in ms, default none. */
  async drain({ timeout = Infinity }: { timeout?: number } = {}): Promise<void> {
    this.#draining = true;
    if (this.#unsettled === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#idle.push(resolve);
    const limit = checkTimeout("timeout", timeout);
    const timer = limit > 0 ? setTimeout(resolve, limit) : null;
    await promise;
    if (timer) clearTimeout(timer);
  }

  /**
   * Drains for `timeout` ms (default 5000), rejects the rest with {@link BusClosedError}, says goodbye to the
   * workers and gives the name back. Any number of times, at any time.
   */
  close({ timeout = CLOSE_MS }: { timeout?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(timeout);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- the way out ------------------------------------------------------------------------------------------

  #submit<T extends BusResponse>(request: BusRequest, options: RequestOptions, kind: Kind): Promise<T> {
    let timeoutMs = this.options.timeout;
    if (options !== noOptions) {
      if (options.timeout !== undefined) {
        try {
          timeoutMs = checkTimeout("timeout", options.timeout);
        } catch (error) {
          return Promise.reject(error);
        }
      }
      if (options.signal?.aborted) return Promise.reject(options.signal.reason);
    }
    if (this.#closed || this.#draining) return Promise.reject(this.#closedError());
    const pending = new Pending(request, options, kind, ++this.#serial, timeoutMs, performance.now());
    this.#unsettled++;
    if (this.#tick === null) this.#tick = setTimeout(this.#onTick, TICK_MS);
    const link = this.#queue.length === 0 ? this.#pick() : null;
    if (link) this.#send(link, pending);
    else this.#enqueue(pending);
    const signal = options.signal;
    if (signal && !pending.settled) {
      pending.onAbort = () => this.#abort(pending, signal.reason);
      signal.addEventListener("abort", pending.onAbort, { once: true });
    }
    return pending.promise as Promise<never>;
  }

  /** The worker with the most room; `null` when none has any. */
  #pick(): Link | null {
    const links = this.#links;
    let best: Link | null = null;
    for (let i = 0; i < links.length; i++) {
      const link = links[i]!;
      if (link.credit > 0 && (best === null || link.used < best.used)) best = link;
    }
    return best;
  }

  #enqueue(pending: Pending): void {
    if (this.#links.length === 0 && pending.options.waitForWorker === false) {
      this.#reject(pending, new NoWorkerError(this.name, 0));
      return;
    }
    const { limit, policy } = this.options.queue;
    if (policy === "reject" && this.#queue.length >= limit) {
      native.sb_stats_add(this.#hub, C.SB_C_OVERLOADED, 1);
      const slots = this.#links.reduce((sum, link) => sum + link.concurrency, 0);
      this.#reject(
        pending,
        new BusOverloadedError(
          `bus "${this.name}": ${slots} slots of ${this.#links.length} workers are in use and ${limit} requests wait.`,
        ),
      );
      return;
    }
    try {
      this.#checkRequest(pending.request);
      pending.queuedOnce = true;
      this.#queue.pushBack(pending);
    } catch (error) {
      this.#reject(pending, error);
    }
  }

  /** What is wrong with a request is said when it is made, not when a worker comes. */
  #checkRequest(request: BusRequest): void {
    if (request.method !== undefined) encodeMethod(request.method);
    const bytes = request.json === undefined ? bodyLength(request.body) : 0;
    if (bytes > this.options.payloadLimit) throw new PayloadTooLargeError("request", bytes, this.options.payloadLimit);
  }

  /** Writes the request into a slot of `link` and publishes it. Never throws: the request settles instead. */
  #send(link: Link, pending: Pending): void {
    const hub = this.#hub;
    const slot = native.sb_slot_reserve(hub, link.index);
    if (slot < 0) {
      if (slot === -C.SB_ECORRUPT) this.#evict(link, "it changed a free slot");
      this.#queue.pushFront(pending);
      return;
    }
    link.used++;
    const request = pending.request;
    try {
      const arena = link.requestArena(slot);
      const parameters = collectStrings(request);
      const head = writeHead(arena, strings, parameters, this.options.headLimit, "request");
      const offset = bodyOffset(head);
      const body = request.json === undefined ? request.body : JSON.stringify(request.json);
      const length = writeBody(arena, offset, body, this.options.payloadLimit, "request");
      const method = request.method === undefined ? (length > 0 ? 1 : 0) : encodeMethod(request.method);
      let left = pending.timeoutMs;
      if (pending.queuedOnce) {
        pending.sentAt = performance.now();
        if (left > 0) left = Math.max(1, Math.ceil(left - (pending.sentAt - pending.startedAt)));
      }
      pending.link = link;
      pending.slot = slot;
      link.pending[slot] = pending; // registered first, published after
      native.sb_slot_publish(hub, link.index, slot, method, head, offset, length, left, pending.serial);
    } catch (error) {
      link.pending[slot] = null;
      link.used--;
      native.sb_slot_cancel(hub, link.index, slot);
      this.#reject(pending, error);
      return;
    }
    this.#driver.expect();
  }

  /** Gives queued requests to workers that have room. */
  #pump(): void {
    for (let pending = this.#queue.head; pending; pending = this.#queue.head) {
      const link = this.#pick();
      if (!link) return;
      this.#queue.remove(pending);
      this.#send(link, pending);
      if (pending.queued) return; // it came back: the worker it was given to was evicted
    }
  }

  // ---- the way back -----------------------------------------------------------------------------------------

  /** Handles what a poll or a tick found. No code of the user runs in here. */
  #handleEvents(count: number): number {
    const words = this.#events;
    for (let n = 0, at = 0; n < count; n++, at += C.SB_EVENT_WORDS) {
      const first = words[at]!;
      const link = this.#byIndex[words[at + 1]!];
      if (!link || link.life !== words[at + 2]!) continue;
      const kind = first & 0xffff;
      const slot = first >>> 16;
      if (kind === C.SB_EV_DONE) this.#deliver(link, slot, at);
      else this.#handleRare(link, slot, kind, words[at + 7]!);
    }
    if (count > 0 && this.#queue.length > 0) this.#pump();
    return count;
  }

  #handleRare(link: Link, slot: number, kind: number, token: number): void {
    const pending = link.pending[slot] ?? null;
    switch (kind) {
      case C.SB_EV_FREED:
        link.used--;
        break;
      case C.SB_EV_TIMEOUT_QUEUED:
        link.used--;
        link.pending[slot] = null;
        if (pending) this.#timeOut(pending, false);
        break;
      case C.SB_EV_TIMEOUT_RUNNING:
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

  /** A response is in a slot: copies it out, frees the slot, settles the request. */
  #deliver(link: Link, slot: number, at: number): void {
    const words = this.#events;
    const headBytes = words[at + 3]!;
    const offset = words[at + 4]!;
    const bodyLength = words[at + 5]!;
    const status = words[at + 6]!;
    const pending = link.pending[slot] ?? null;
    if (pending === null || pending.settled) {
      this.#drop(link, slot);
      return;
    }
    const borrowing = pending.kind === "borrow" && status !== 0;
    const copy = link.responseArena(slot).bytes.slice(0, borrowing ? headBytes : offset + bodyLength);
    if (!borrowing) {
      link.pending[slot] = null;
      link.used--;
      if (native.sb_slot_release(this.#hub, link.index, slot) !== 0) {
        link.used++;
        link.pending[slot] = pending;
        this.#evict(link, `it changed slot ${slot} after it had answered`);
        return;
      }
    }
    try {
      const head = new Head(copy, headBytes, status === 0 ? ERROR_STRINGS : 1);
      if (status === 0) {
        native.sb_stats_add(this.#hub, C.SB_C_ERRORS, 1);
        this.#reject(pending, remoteError(head));
      } else if (borrowing) {
        this.#lend(link, slot, pending, status, head, offset, bodyLength);
      } else {
        if (this.options.instrumentation) this.#instrument(link, slot, pending);
        const body = copy.subarray(offset, offset + bodyLength);
        this.#resolve(pending, new BusResponse(status, link.peer.pid, head, body));
      }
    } catch (cause) {
      this.#reject(
        pending,
        new RegionCorruptError(`worker pid ${link.peer.pid} answered ${this.#idOf(pending)} with a malformed head.`, {
          cause,
          mayHaveExecuted: true,
        }),
      );
      this.#evict(link, "it answered with a malformed head");
    }
  }

  #lend(link: Link, slot: number, pending: Pending, status: number, head: Head, offset: number, bytes: number): void {
    link.borrowed++;
    const release = (): void => {
      link.borrowed--;
      if (link.state === "ended") {
        if (link.borrowed === 0) this.#forget(link);
      } else {
        this.#drop(link, slot);
        this.#pump();
      }
    };
    const body = link.lend(slot, offset, bytes);
    this.#resolve(pending, new BorrowedResponse(status, link.peer.pid, head, body, release));
  }

  /** Frees a slot whose response nobody waits for. */
  #drop(link: Link, slot: number): void {
    link.pending[slot] = null;
    link.used--;
    if (native.sb_slot_release(this.#hub, link.index, slot) !== 0) {
      this.#evict(link, `it changed slot ${slot} after it had answered`);
    }
  }

  #instrument(link: Link, slot: number, pending: Pending): void {
    const timing = {
      id: this.#idOf(pending),
      method: pending.request.method ?? METHODS[0],
      path: pending.request.path,
      workerPid: link.peer.pid,
      claimUs: native.sb_slot_claim_delay(this.#hub, link.index, slot) / 1000,
      roundTripUs: native.sb_slot_round_trip(this.#hub, link.index, slot) / 1000,
    };
    queueMicrotask(() => this.options.instrumentation?.(timing));
  }

  // ---- settling -----------------------------------------------------------------------------------------------

  #resolve(pending: Pending, value: BusResponse): void {
    this.#settle(pending);
    pending.resolve(value as never);
  }

  #reject(pending: Pending, reason: unknown): void {
    if (pending.settled) return;
    this.#settle(pending);
    pending.reject(reason);
  }

  #settle(pending: Pending): void {
    pending.settled = true;
    if (pending.onAbort) pending.options.signal?.removeEventListener("abort", pending.onAbort);
    if (--this.#unsettled === 0 && this.#idle.length > 0) {
      for (const done of this.#idle.splice(0)) done();
    }
  }

  #timeOut(pending: Pending, running: boolean): void {
    native.sb_stats_add(this.#hub, C.SB_C_TIMEOUTS, 1);
    const now = performance.now();
    const sentAt = pending.queuedOnce ? pending.sentAt : pending.startedAt;
    this.#reject(
      pending,
      new RequestTimeoutError(
        this.#idOf(pending),
        pending.timeoutMs,
        (pending.link ? sentAt : now) - pending.startedAt,
        pending.link ? now - sentAt : 0,
        running,
      ),
    );
  }

  #abort(pending: Pending, reason: unknown): void {
    if (pending.settled) return;
    native.sb_stats_add(this.#hub, C.SB_C_ABORTS, 1);
    this.#giveUp(pending);
    this.#reject(pending, reason);
    this.#pump();
  }

  /** Takes a request out of the queue or away from its worker. Returns whether a handler may have run. */
  #giveUp(pending: Pending): boolean {
    if (pending.queued) {
      this.#queue.remove(pending);
      return false;
    }
    const { link, slot } = pending;
    if (!link || link.state === "ended" || link.pending[slot] !== pending) return pending.retried;
    const result = native.sb_slot_withdraw(this.#hub, link.index, slot);
    if (result === C.SB_ABANDONED) {
      link.pending[slot] = null;
      const token = native.sb_slot_token(this.#hub, link.index, slot);
      link.writer.send(C.SB_MSG_CANCEL, cancelBody(slot, token));
      return true;
    }
    if (result === C.SB_FREE) {
      link.pending[slot] = null;
      link.used--;
      return pending.retried;
    }
    if (result === C.SB_DONE) {
      native.sb_stats_add(this.#hub, C.SB_C_DROPPED, 1);
      this.#drop(link, slot);
    } else {
      queueMicrotask(() => this.#evict(link, `it left slot ${slot} in a state no legal step leads to`));
    }
    return true;
  }

  #waitFor(link: Link, pending: Pending): void {
    const spinNs = Math.max(this.options.spin, 1) * 1000;
    const result = native.sb_slot_wait(this.#hub, link.index, pending.slot, pending.timeoutMs, spinNs);
    if (result === 0) this.#handleEvents(1);
    else if (result === -C.SB_ETIMEDOUT) this.#timeOut(pending, this.#giveUp(pending));
    else this.#end(link, "ended");
    // What an end has put back into the queue cannot wait there: nobody runs the event loop.
    if (!pending.settled) this.#queue.remove(pending);
    this.#reject(pending, new WorkerDiedError(this.#idOf(pending), link.peer.pid, "ended", false));
  }

  // ---- time ---------------------------------------------------------------------------------------------------

  readonly #onTick = (): void => {
    this.#tick = null;
    if (this.#closed) return;
    let found: number;
    do {
      found = this.#handleEvents(native.sb_hub_tick(this.#hub));
    } while (found === C.SB_BATCH);
    this.#expireQueued();
    if (this.#unsettled > 0 || this.#links.some((link) => link.used > 0)) {
      this.#tick = setTimeout(this.#onTick, TICK_MS);
      if (this.#unsettled === 0) this.#tick.unref();
    } else {
      for (const link of this.#links) native.sb_link_trim(this.#hub, link.index);
    }
  };

  #expireQueued(): void {
    const now = performance.now();
    for (let pending = this.#queue.head; pending; ) {
      const next: Pending | null = pending.next;
      if (pending.timeoutMs > 0 && now - pending.startedAt >= pending.timeoutMs) {
        this.#queue.remove(pending);
        if (this.#links.length > 0) {
          this.#timeOut(pending, pending.retried);
        } else {
          native.sb_stats_add(this.#hub, C.SB_C_TIMEOUTS, 1);
          this.#reject(pending, new NoWorkerError(this.name, now - pending.startedAt));
        }
      }
      pending = next;
    }
  }

  // ---- workers come -------------------------------------------------------------------------------------------

  #listen(): void {
    const { name, allowedUids } = this.options;
    this.#listener = Bun.listen<Link>({
      unix: `/proc/self/fd/${this.#dir}/${name}.sock`,
      socket: {
        open: (socket) => this.#accept(socket),
        data: (socket, bytes) => socket.data?.reader && this.#read(socket.data, bytes),
        close: (socket) => socket.data && this.#disconnected(socket.data),
        error: () => {}, // `close` follows and settles what is to be settled
      },
    });
    const error = native.sb_name_expose(this.#dir, cString(name), allowedUids.length > 0 ? 1 : 0);
    if (error !== 0) {
      this.#listener.stop(true);
      throw new ResourceError(`bus "${name}" cannot set its socket's rights: ${errorText(error)}.`);
    }
    this.#listener.unref();
  }

  #accept(socket: Socket<Link>): void {
    socket.unref();
    const fd = (socket as unknown as { fd: number }).fd;
    const peer = identify(fd);
    if (!peer) {
      socket.terminate();
      return;
    }
    const link = new Link(this.#hub, this.#stride, socket, fd, peer);
    socket.data = link;
    const allowed = peer.uid === process.geteuid?.() || this.options.allowedUids.includes(peer.uid);
    if (!allowed) return this.#refuse(link, C.SB_EPERM, `user ${peer.uid} is not allowed`);
    if (this.#closing) return this.#refuse(link, C.SB_ECLOSED, "the bus is closing");
    if (this.#handshakes.size >= HANDSHAKES) return this.#refuse(link, C.SB_EBUSY, "too many handshakes at once");
    this.#zombies = this.#zombies.filter((zombie) => !this.#buried(zombie));
    if (this.#zombies.length >= ZOMBIES && this.#zombies.some((zombie) => zombie.peer.pid === peer.pid)) {
      return this.#refuse(link, C.SB_EPERM, `${ZOMBIES} evicted workers still live, this one among them`);
    }
    this.#handshakes.add(link);
    link.handshakeTimer = setTimeout(() => {
      this.#refuse(link, C.SB_ETIMEDOUT, `the handshake took longer than ${HANDSHAKE_MS} ms`);
    }, HANDSHAKE_MS);
    link.handshakeTimer.unref();
  }

  #buried(zombie: Link): boolean {
    if (!zombie.hasEnded()) return false;
    zombie.closePidfd();
    return true;
  }

  #refuse(link: Link, error: number, reason: string): void {
    native.sb_stats_add(this.#hub, C.SB_C_REFUSED, 1);
    native.sb_join_refuse(link.fd, error);
    const { pid, uid } = link.peer;
    this.#handshakes.delete(link);
    this.#release(link);
    link.socket.end(); // what was sent is still read; terminate would throw it away
    link.closePidfd();
    queueMicrotask(() => this.emit("peerRefused", { pid, uid }, reason));
  }

  #read(link: Link, bytes: Uint8Array): void {
    if (link.state === "ended") return;
    const bells = link.reader.read(bytes, (type, body) => this.#message(link, type, body));
    if (bells === 0 || (link.state as string) === "ended") return;
    if (link.state !== "attached") return this.#refuse(link, C.SB_EPROTO, "it rang before it joined");
    if (native.sb_link_bell(this.#hub, link.index, bells) !== 0) {
      return this.#evict(link, `it rang more than ${C.SB_BELLS_PER_SECOND} times a second without work`);
    }
    this.#driver.wake();
  }

  #message(link: Link, type: number, body: Uint8Array): void {
    if (link.state === "ended") return;
    if (link.state === "joining" && type === C.SB_MSG_JOIN) return this.#join(link, body);
    if (link.state === "offered" && type === C.SB_MSG_ATTACHED) return this.#attached(link);
    if (link.state === "attached" && type === C.SB_MSG_DRAIN) {
      link.draining = true;
    } else if (link.state === "attached" && type === C.SB_MSG_GOODBYE) {
      link.leaving = true;
      link.draining = true;
    } else if (link.state === "attached" || link.state === "observing") {
      this.#evict(link, `it sent a message of type ${type}`);
    } else {
      this.#refuse(link, C.SB_EPROTO, `it sent a message of type ${type} while ${link.state}`);
    }
  }

  #join(link: Link, body: Uint8Array): void {
    const { error, role, concurrency } = readJoin(body);
    if (error === -C.SB_EVERSION) {
      return this.#refuse(link, C.SB_EVERSION, `it speaks protocol versions ${role}-${concurrency}, this bus ${C.SB_ABI}`);
    }
    if (error !== 0) return this.#refuse(link, C.SB_EPROTO, "its JOIN is malformed");
    if (role === C.SB_ROLE_OBSERVER) {
      native.sb_hub_observe(this.#hub, link.fd);
      link.state = "observing";
      this.#handshakeOver(link);
      return;
    }
    const index = native.sb_link_offer(this.#hub, link.fd, concurrency);
    if (index < 0) return this.#refuse(link, -index, `no region for it: ${errorText(index)}`);
    link.bind(index, Math.min(concurrency, this.options.slots));
    link.state = "offered";
  }

  #attached(link: Link): void {
    this.#handshakeOver(link);
    link.state = "attached";
    native.sb_link_start(this.#hub, link.index);
    native.sb_stats_add(this.#hub, C.SB_C_JOINED, 1);
    this.#links.push(link);
    this.#byIndex[link.index] = link;
    this.#driver.wake();
    queueMicrotask(() => this.emit("workerJoined", infoOf(link)));
    this.#tellWaiters();
    this.#pump();
  }

  #handshakeOver(link: Link): void {
    this.#handshakes.delete(link);
    if (link.handshakeTimer) clearTimeout(link.handshakeTimer);
    link.handshakeTimer = null;
  }

  #tellWaiters(): void {
    const ready = this.#waiters.filter((waiter) => this.#closed || this.#links.length >= waiter.count);
    this.#waiters = this.#waiters.filter((waiter) => !ready.includes(waiter));
    for (const waiter of ready) waiter.done();
  }

  // ---- workers go ---------------------------------------------------------------------------------------------

  /** Bun says that the socket is closed: after this no byte of the worker comes. */
  #disconnected(link: Link): void {
    link.writer.close();
    if (link.state === "ended") return;
    if (link.state !== "attached") {
      this.#handshakes.delete(link);
      this.#release(link);
      link.closePidfd();
      return;
    }
    this.#end(link, "ended");
  }

  #evict(link: Link, reason: string): void {
    if (link.state === "ended") return;
    if (link.state !== "attached") {
      this.#refuse(link, C.SB_EPROTO, reason);
      return;
    }
    link.evictedFor = reason;
    this.#end(link, `was evicted (${reason})`);
  }

  /** The end of a worker's life: socket first, then each slot is judged by its state, hints ignored. */
  #end(link: Link, how: string): void {
    const hub = this.#hub;
    link.state = "ended";
    this.#links = this.#links.filter((other) => other !== link);
    native.sb_link_stop(hub, link.index);
    link.cut();
    const orphans: Pending[] = [];
    for (let slot = 0; slot < link.pending.length; slot++) {
      const pending = link.pending[slot];
      if (pending && !pending.settled) this.#judge(link, slot, pending, how, orphans);
    }
    for (const pending of orphans.reverse()) this.#queue.pushFront(pending);
    this.#byIndex[link.index] = undefined;
    if (link.borrowed === 0) this.#forget(link);
    this.#report(link, how);
    this.#pump();
  }

  #judge(link: Link, slot: number, pending: Pending, how: string, orphans: Pending[]): void {
    const result = native.sb_slot_withdraw(this.#hub, link.index, slot);
    if (result === C.SB_DONE) {
      this.#deliver(link, slot, 0);
      return;
    }
    link.pending[slot] = null;
    pending.link = null;
    if (result === C.SB_FREE) {
      if (this.#closed) return this.#reject(pending, this.#closedError());
      pending.queuedOnce = true;
      orphans.push(pending);
    } else if (result === C.SB_ABANDONED && pending.options.idempotent && !pending.retried) {
      pending.retried = true;
      pending.queuedOnce = true;
      this.#retryAfterDeath(link, pending);
    } else if (result === C.SB_ABANDONED) {
      this.#reject(pending, new WorkerDiedError(this.#idOf(pending), link.peer.pid, how, true));
    } else {
      const message = `worker pid ${link.peer.pid} corrupted the slot of request ${this.#idOf(pending)}.`;
      this.#reject(pending, new RegionCorruptError(message, { mayHaveExecuted: true }));
    }
  }

  /** Two runs of an idempotent request must not overlap: the second waits for proof that the first ended. */
  #retryAfterDeath(link: Link, pending: Pending): void {
    const attempt = (): void => {
      if (pending.settled) return;
      const spent = performance.now() - pending.startedAt;
      if (this.#closed) {
        this.#reject(pending, this.#closedError(true));
      } else if (pending.timeoutMs > 0 && spent >= pending.timeoutMs) {
        this.#timeOut(pending, true);
      } else if (link.hasEnded()) {
        native.sb_stats_add(this.#hub, C.SB_C_RETRIES, 1);
        this.#queue.pushFront(pending);
        this.#pump();
      } else {
        setTimeout(attempt, DEATH_POLL_MS);
      }
    };
    setTimeout(attempt, 0);
  }

  /** Lets go of a worker's region. */
  #forget(link: Link): void {
    if (!this.#closed || link.index >= 0) this.#release(link);
  }

  #release(link: Link): void {
    link.state = "ended";
    link.writer.close();
    if (link.handshakeTimer) clearTimeout(link.handshakeTimer);
    link.handshakeTimer = null;
    if (!link.drop()) native.sb_stats_add(this.#hub, C.SB_C_UNMAPPED, 1);
  }

  #report(link: Link, how: string): void {
    const info = infoOf(link);
    if (link.evictedFor) {
      native.sb_stats_add(this.#hub, C.SB_C_EVICTED, 1);
      this.#zombies.push(link);
    } else if (link.leaving) {
      native.sb_stats_add(this.#hub, C.SB_C_LEFT, 1);
    } else {
      native.sb_stats_add(this.#hub, C.SB_C_DIED, 1);
    }
    if (!link.evictedFor) this.#closePidfdLater(link);
    queueMicrotask(() => {
      if (link.leaving) this.emit("workerLeft", info);
      else this.emit("workerDied", info, how);
    });
  }

  /** A retry may still look at it; at the latest when its deadline is over nobody does. */
  #closePidfdLater(link: Link): void {
    const look = (): void => {
      if (link.hasEnded() || this.#closed || link.leaving) link.closePidfd();
      else setTimeout(look, 50).unref();
    };
    setTimeout(look, 50).unref();
  }

  // ---- the end ------------------------------------------------------------------------------------------------

  async #close(timeout: number): Promise<void> {
    await this.drain({ timeout: timeout > 0 ? timeout : 0.001 });
    this.#closed = true;
    this.#driver.stop();
    if (this.#tick) clearTimeout(this.#tick);
    for (let pending = this.#queue.head; pending; pending = this.#queue.head) {
      this.#queue.remove(pending);
      this.#reject(pending, this.#closedError(pending.retried));
    }
    for (const link of this.#links.slice()) {
      link.leaving = true;
      for (const pending of link.pending) {
        if (pending && !pending.settled) this.#reject(pending, this.#closedError(this.#giveUp(pending)));
      }
      link.writer.send(C.SB_MSG_GOODBYE);
      this.#end(link, "ended");
    }
    for (const link of this.#handshakes) this.#refuse(link, C.SB_ECLOSED, "the bus closed");
    for (const zombie of this.#zombies) zombie.closePidfd();
    this.#listener?.stop(true);
    native.sb_name_unlock(this.#dir, cString(this.name), this.#lock);
    native.sb_fd_close(this.#dir);
    registry.delete(`${this.options.directory}/${this.name}`);
    this.#tellWaiters();
  }

  #closedError(mayHaveExecuted = false): BusClosedError {
    return new BusClosedError(`bus "${this.name}"`, { mayHaveExecuted });
  }

  #idOf(pending: Pending): string {
    return pending.request.id ?? `${this.#tag}-${pending.serial.toString(36)}`;
  }
}

// Written and read within one synchronous call; one array for all requests.
const strings: string[] = [];

/** Collects the strings of a request's head into `strings`; returns the number of path parameters. */
function collectStrings(request: BusRequest): number {
  const { path, query, params, headers } = request;
  if (typeof path !== "string") throw new InvalidConfigError(`path is ${typeof path}; it must be a string.`);
  strings.length = 0;
  strings.push(path, query === undefined ? "" : String(query), request.pattern ?? "", request.id ?? "");
  let parameters = 0;
  if (params !== undefined) {
    for (const name in params) {
      strings.push(name, String(params[name]));
      parameters++;
    }
  }
  if (headers !== undefined) flattenHeaders(headers, strings);
  return parameters;
}

function infoOf(link: Link): WorkerInfo {
  return { pid: link.peer.pid, uid: link.peer.uid, concurrency: link.concurrency };
}

function directoryError(code: number, directory: string, shared: boolean): SlotbusError {
  if (code === -C.SB_EUNSUPPORTED) return new UnsupportedError(`slotbus cannot run here: ${errorText(code)}.`);
  if (code === -C.SB_EDIR) {
    return new PermissionDeniedError(`${directory} is not a directory of ours that is closed to others.`, {
      hint: `It must belong to uid ${process.geteuid?.()} and have mode ${shared ? "0711" : "0700"}.`,
    });
  }
  return new ResourceError(`${directory} cannot be opened: ${errorText(code)}.`);
}

function takeName(dir: number, name: string): number {
  const owner = new Uint32Array(1);
  const lock = native.sb_name_lock(dir, cString(name), owner);
  if (lock >= 0) return lock;
  native.sb_fd_close(dir);
  if (lock === -C.SB_EEXISTS) throw new BusExistsError(name, owner[0]!);
  throw new ResourceError(`the name "${name}" cannot be locked: ${errorText(lock)}.`);
}
