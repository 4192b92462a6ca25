/** A request on its way: its promise, and its place in the hub's queue or in a worker's slot. */

import type { Link } from "./link.ts";
import type { BusRequest, RequestOptions } from "./bus.ts";

/** What a settled request resolves to is decided by how it was asked for. */
export type Kind = "copy" | "borrow" | "sync";

let grabbedResolve: (value: never) => void;
let grabbedReject: (reason: unknown) => void;
// One executor for all promises: no closure is made per request.
const grab = (resolve: (value: never) => void, reject: (reason: unknown) => void): void => {
  grabbedResolve = resolve;
  grabbedReject = reject;
};

export class Pending {
  /** Of every kind but `"sync"`, whose outcome is read here when it has settled. */
  readonly promise: Promise<never> | null = null;
  outcome: unknown = undefined;
  failed = false;
  readonly resolve: (value: never) => void;
  readonly reject: (reason: unknown) => void;
  readonly request: BusRequest;
  readonly options: RequestOptions;
  readonly kind: Kind;
  readonly serial: number;
  readonly timeoutMs: number;
  /** `performance.now()` of the call. */
  readonly startedAt: number;
  /** `performance.now()` when it left the queue; unset when it never queued. */
  sentAt = 0;
  queuedOnce = false;
  settled = false;
  retried = false;
  link: Link | null = null;
  slot = 0;
  onAbort: (() => void) | null = null;
  next: Pending | null = null;
  previous: Pending | null = null;
  queued = false;

  constructor(
    request: BusRequest,
    options: RequestOptions,
    kind: Kind,
    serial: number,
    timeoutMs: number,
    startedAt: number,
  ) {
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
    this.startedAt = startedAt;
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
