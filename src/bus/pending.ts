/** A request on its way: its promise, and its place in the hub's queue or in a worker's slot. */

import type { Link } from "./link.ts";
import type { BusRequest, RequestOptions } from "./bus.ts";
import type { BusResponse } from "./response.ts";

/** What a settled request resolves to is decided by how it was asked for. */
export type Kind = "copy" | "borrow" | "sync";

let grabbedResolve: (value: BusResponse) => void;
let grabbedReject: (reason: unknown) => void;
// One executor for all promises: no closure is made per request.
const grab = (resolve: (value: BusResponse) => void, reject: (reason: unknown) => void): void => {
  grabbedResolve = resolve;
  grabbedReject = reject;
};

export class Pending {
  /** Of every kind but `"sync"`, whose outcome is read here when it has settled. */
  readonly promise: Promise<BusResponse> | null = null;
  outcome: unknown = undefined;
  failed = false;
  readonly resolve: (value: BusResponse) => void;
  readonly reject: (reason: unknown) => void;
  readonly request: BusRequest;
  readonly options: RequestOptions;
  readonly kind: Kind;
  /** Number of the request on its bus. */
  readonly serial: number;
  /** 0: none. */
  readonly timeoutMs: number;
  /** `performance.now()` of the call; 0 until somebody needs it, which a request that never queues does not. */
  startedAt = 0;
  /** `performance.now()` of its publication, when it was queued before. */
  sentAt = 0;
  settled = false;
  /** It ran, or may have, on a worker that died. */
  retried = false;
  /** Where it was published last. */
  link: Link | null = null;
  slot = 0;
  onAbort: (() => void) | null = null;
  queued = false;
  next: Pending | null = null;
  previous: Pending | null = null;

  constructor(request: BusRequest, options: RequestOptions, kind: Kind, serial: number, timeoutMs: number) {
    if (kind === "sync") {
      this.resolve = (value) => {
        this.outcome = value;
      };
      this.reject = (reason) => {
        this.outcome = reason;
        this.failed = true;
      };
    } else {
      this.promise = new Promise(grab);
      this.resolve = grabbedResolve;
      this.reject = grabbedReject;
    }
    this.request = request;
    this.options = options;
    this.kind = kind;
    this.serial = serial;
    this.timeoutMs = timeoutMs;
  }

  /** Ms left of the timeout at `now`, when it is published after it had queued; at least 1, or 0 for no timeout. */
  timeLeft(now: number): number {
    this.sentAt = now;
    return this.timeoutMs === 0 ? 0 : Math.max(1, Math.ceil(this.timeoutMs - (now - this.startedAt)));
  }

  /** How a request whose time is over at `now` has spent it. */
  times(now: number): { queuedMs: number; ranMs: number } {
    if (this.startedAt === 0) return { queuedMs: 0, ranMs: this.timeoutMs }; // never queued
    if (this.sentAt === 0) return { queuedMs: now - this.startedAt, ranMs: 0 }; // never published
    return { queuedMs: this.sentAt - this.startedAt, ranMs: now - this.sentAt };
  }
}

/** First in, first out, with removal from the middle; O(1) each. */
export class PendingQueue {
  length = 0;
  #head: Pending | null = null;
  #tail: Pending | null = null;

  get head(): Pending | null {
    return this.#head;
  }

  pushBack(pending: Pending): void {
    pending.previous = this.#tail;
    pending.next = null;
    if (this.#tail) this.#tail.next = pending;
    else this.#head = pending;
    this.#tail = pending;
    this.#count(pending, true);
  }

  /** For what comes back from a dead worker: it was here before all others. */
  pushFront(pending: Pending): void {
    pending.next = this.#head;
    pending.previous = null;
    if (this.#head) this.#head.previous = pending;
    else this.#tail = pending;
    this.#head = pending;
    this.#count(pending, true);
  }

  remove(pending: Pending): void {
    if (!pending.queued) return;
    if (pending.previous) pending.previous.next = pending.next;
    else this.#head = pending.next;
    if (pending.next) pending.next.previous = pending.previous;
    else this.#tail = pending.previous;
    pending.next = null;
    pending.previous = null;
    this.#count(pending, false);
  }

  #count(pending: Pending, queued: boolean): void {
    pending.queued = queued;
    this.length += queued ? 1 : -1;
  }
}
