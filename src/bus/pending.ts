/** A request on its way: its promise, and its place in the hub's queue or in a worker's slot. */

import type { Link } from "./link.ts";
import type { BusRequest, RequestOptions } from "./call.ts";
import type { BusResponse, StreamedResponse } from "./response.ts";

/** What a settled request resolves to is decided by how it was asked for. */
export type Kind = "copy" | "borrow" | "sync" | "stream";

type Resolve = (value: BusResponse | StreamedResponse) => void;
type Reject = (reason: unknown) => void;

/** What {@link makePromise} made last. */
export const ends: { resolve: Resolve; reject: Reject } = { resolve: () => {}, reject: () => {} };
const settledAlready = (): void => {};

const grab = (resolve: Resolve, reject: Reject): void => {
  ends.resolve = resolve;
  ends.reject = reject;
};

/** A promise; `ends` settles it. One executor for all promises: no closure is made per request. */
export function makePromise(): Promise<BusResponse | StreamedResponse> {
  return new Promise(grab);
}

/** What only a request has that was not sent at once, or not for the first time. */
class Wait {
  startedAt = 0;
  sentAt = 0;
  retried = false;
  queued = false;
  next: Pending | null = null;
  previous: Pending | null = null;
}

/** Twelve fields are 112 bytes in JavaScriptCore; one more, and an object takes 160. */
export class Pending {
  readonly request: BusRequest;
  readonly options: RequestOptions;
  readonly kind: Kind;
  /** Number of the request on its bus. */
  readonly serial: number;
  /** 0: none. */
  readonly timeoutMs: number;
  resolve: Resolve;
  reject: Reject;
  settled = false;
  /** Where it was published last. */
  link: Link | null = null;
  slot = 0;
  onAbort: (() => void) | null = null;
  #wait: Wait | null = null;

  constructor(
    request: BusRequest,
    options: RequestOptions,
    kind: Kind,
    serial: number,
    timeoutMs: number,
    resolve: Resolve,
    reject: Reject,
  ) {
    this.request = request;
    this.options = options;
    this.kind = kind;
    this.serial = serial;
    this.timeoutMs = timeoutMs;
    this.resolve = resolve;
    this.reject = reject;
  }

  /** Its promise is settled; what it was settled with may be collected as garbage while the slot is still in use. */
  forget(): void {
    this.resolve = settledAlready;
    this.reject = settledAlready;
  }

  /** For what is read or written only when a request waits. */
  get wait(): Wait {
    return (this.#wait ??= new Wait());
  }

  /** `performance.now()` of the call; 0 until somebody needs it, which a request that never queues does not. */
  get startedAt(): number {
    return this.#wait === null ? 0 : this.#wait.startedAt;
  }

  set startedAt(now: number) {
    this.wait.startedAt = now;
  }

  /** It ran, or may have, on a worker that died. */
  get retried(): boolean {
    return this.#wait !== null && this.#wait.retried;
  }

  /** It waits in the queue. */
  get queued(): boolean {
    return this.#wait !== null && this.#wait.queued;
  }

  /** Ms left of the timeout at `now`, when it is published after it had queued; at least 1, or 0 for no timeout. */
  timeLeft(now: number): number {
    this.wait.sentAt = now;
    return this.timeoutMs === 0 ? 0 : Math.max(1, Math.ceil(this.timeoutMs - (now - this.startedAt)));
  }

  /** How a request whose time is over at `now` has spent it. */
  times(now: number): { queuedMs: number; ranMs: number } {
    const { startedAt, sentAt } = this.wait;
    if (startedAt === 0) return { queuedMs: 0, ranMs: this.timeoutMs }; // never queued
    if (sentAt === 0) return { queuedMs: now - startedAt, ranMs: 0 }; // never published
    return { queuedMs: sentAt - startedAt, ranMs: now - sentAt };
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
    const { wait } = pending;
    wait.previous = this.#tail;
    wait.next = null;
    if (this.#tail) this.#tail.wait.next = pending;
    else this.#head = pending;
    this.#tail = pending;
    this.#count(wait, true);
  }

  /** For what comes back from a dead worker: it was here before all others. */
  pushFront(pending: Pending): void {
    const { wait } = pending;
    wait.next = this.#head;
    wait.previous = null;
    if (this.#head) this.#head.wait.previous = pending;
    else this.#tail = pending;
    this.#head = pending;
    this.#count(wait, true);
  }

  remove(pending: Pending): void {
    const { wait } = pending;
    if (!wait.queued) return;
    if (wait.previous) wait.previous.wait.next = wait.next;
    else this.#head = wait.next;
    if (wait.next) wait.next.wait.previous = wait.previous;
    else this.#tail = wait.previous;
    wait.next = null;
    wait.previous = null;
    this.#count(wait, false);
  }

  #count(wait: Wait, queued: boolean): void {
    wait.queued = queued;
    this.length += queued ? 1 : -1;
  }
}
