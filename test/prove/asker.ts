/** Sends requests that the books can judge, checks every response, and records how and when each request settled. */

import { readFileSync } from "node:fs";
import {
  type BorrowedResponse,
  type BusResponse,
  ClosedError,
  NoWorkerError,
  RemoteError,
  RequestTimeoutError,
  type SlotBus,
  SlotbusError,
  WorkerDiedError,
} from "../../src/index.ts";
import { same } from "../support.ts";
import { leakSome } from "./memory.ts";
import * as b from "./soak/request-books.ts";
import type { Times } from "./soak/times.ts";

/** Largest body. */
export const LIMIT = 2 ** 20;
/** Timeout of a request, unless a short one is chosen. */
export const TIMEOUT_MS = 2_500;
/** Time after its timeout when an unsettled request counts as lost, in ms. */
const LOST_MS = 15_000;
const POOL = 2 * LIMIT;
/** Interval at which this thread samples its waiting time for a processor, in ms. */
const SAMPLE_MS = 20;
/** Longest pause of a handler, if not 30 ms. */
const WAIT_MS: Partial<Record<b.Mode, number>> = { block: 4, hold: 600 };
/** Reason of a caller's abort. */
export const gaveUp = new Error("the caller gave up");

export interface Ask {
  mode: b.Mode;
  /** Default: usually {@link TIMEOUT_MS}. */
  timeout?: number;
  /** Default: sometimes. */
  borrows?: boolean;
  /** Default: up to 1 MiB, usually less than 1 KiB. */
  size?: number;
  idempotent?: boolean;
  /** May it be aborted? Default `true`. */
  aborts?: boolean;
}

interface Asked {
  id: number;
  nonce: number;
  body: Uint8Array;
  mode: b.Mode;
  tag: string;
}

export class Asker {
  bus!: SlotBus;
  /** By id: time by which the request must settle, and whether a late one was reported. */
  readonly waiting = new Map<number, { deadline: number; lost: boolean }>();
  /** Responses that are lent now. */
  lent = 0;
  /** Expected values of the bus's counters. */
  readonly own = { answers: 0, timeouts: 0, aborts: 0 };
  /** Whether the bus is closed while requests wait. */
  mayClose = false;
  /** Workers that the bus may evict: their requests fail as if they had died. */
  readonly mayDie = new Set<number>();
  /** Called with each response and the time since its request, in ms. */
  onAnswer: (workerPid: number, ms: number) => void = () => {};
  /** Called when a request times out or is about to be aborted, with its state. */
  onGiveUp: (fault: "timeout" | "abort", state: b.State) => void = () => {};
  readonly #books: b.RequestBooks;
  readonly #times: Times;
  readonly #random: b.Random;
  readonly #broken: (what: string) => void;
  /** Samples of {@link starvedMs}. */
  readonly #starved: { at: number; ms: number }[] = [];
  readonly #pool = new Uint8Array(POOL);
  readonly #expected = new Uint8Array(LIMIT);

  constructor(books: b.RequestBooks, times: Times, seed: number, broken: (what: string) => void) {
    this.#books = books;
    this.#times = times;
    this.#random = new b.Random(seed);
    this.#broken = broken;
    new Uint32Array(this.#pool.buffer).forEach((_, i, words) => (words[i] = this.#random.next()));
    setInterval(() => this.#findLost(), 100);
    setInterval(() => {
      this.#starved.push({ at: Date.now(), ms: starvedMs() });
      if (this.#starved.length > 1_000) this.#starved.splice(0, 500);
    }, SAMPLE_MS);
  }

  /** Most requests are answered at once; some late, never, with an error, after blocking the worker. */
  pickMode(): b.Mode {
    const n = this.#random.below(1000);
    if (n < 40) return "async";
    if (n < 46) return "late";
    if (n < 50) return "never";
    if (n < 55) return "throw";
    if (n < 60) return "reject";
    if (n < 61) return "block";
    if (n < 110) return "reserve";
    return n < 160 ? "respond" : "sync";
  }

  /** Sends a request; resolves when it has settled and was checked. */
  async one(ask: Ask): Promise<void> {
    const random = this.#random;
    const { mode } = ask;
    const asked = this.#make(mode, ask.size ?? random.size(random.chance(1 / 24) ? LIMIT : 1024));
    const { id, nonce, body } = asked;
    const slow = mode === "never" || mode === "late";
    const timeout = ask.timeout ?? (slow || random.chance(0.01) ? 1 + random.below(40) : TIMEOUT_MS);
    const idempotent = ask.idempotent ?? (mode === "hold" || random.chance(0.2));
    const controller = random.chance(0.01) && (ask.aborts ?? true) ? new AbortController() : null;
    const query = `${asked.tag}.${b.checksum(body, nonce)}.${body.length}.${random.below(WAIT_MS[mode] ?? 30)}`;
    const request = { path: mode, id: String(id), query, body };
    const options = { timeout, idempotent, signal: controller?.signal };
    const borrows = ask.borrows ?? random.chance(0.03);
    this.#books.outcome[id] = b.ISSUED | (idempotent ? b.IDEMPOTENT : 0);
    this.waiting.set(id, { deadline: Date.now() + timeout, lost: false });
    const started = performance.now();
    const promise = borrows ? this.bus.borrow(request, options) : this.bus.request(request, options);
    if (controller) this.abortSoon(id, controller);
    try {
      const response = await promise;
      this.onAnswer(response.workerPid, performance.now() - started);
      this.settle(id, b.ANSWERED);
      this.own.answers++;
      await this.#check(asked, response);
    } catch (error) {
      this.#failed(asked, error, controller);
    }
  }

  /** Sends a request with `requestSync`; nothing else runs meanwhile. */
  oneSync(mode: b.Mode, timeout: number): void {
    const asked = this.#make(mode, this.#random.size(1024));
    const { id, nonce, body } = asked;
    const query = `${asked.tag}.${b.checksum(body, nonce)}.${body.length}.${this.#random.below(30)}`;
    this.#books.outcome[id] = b.ISSUED;
    this.waiting.set(id, { deadline: Date.now() + timeout, lost: false });
    try {
      const response = this.bus.requestSync({ path: mode, id: String(id), query, body }, { timeout });
      this.settle(id, b.ANSWERED);
      this.own.answers++;
      void this.#check(asked, response);
    } catch (error) {
      this.#failed(asked, error, null);
    }
  }

  #make(mode: b.Mode, size: number): Asked {
    leakSome();
    const id = this.#books.next++;
    const nonce = this.#random.next();
    const start = this.#random.below((POOL - size) / 4) * 4;
    return { id, nonce, mode, body: this.#pool.subarray(start, start + size), tag: `${id}.${nonce}` };
  }

  /** `died`: the worker whose death settled the request. `prompt`: the event loop did not delay the settlement. */
  settle(id: number, bit: number, died = 0, prompt = true): void {
    const { outcome } = this.#books;
    const before = outcome[id]!;
    outcome[id] = before | bit | (before & b.SETTLED ? b.TWICE : 0);
    const { deadline = Infinity } = this.waiting.get(id) ?? {};
    this.waiting.delete(id);
    if (!prompt) return;
    const due = died > 0 ? Math.min(deadline, this.#times.killedAt(died)) : deadline;
    const late = Date.now() - Math.max(due, this.#times.clientContinuedAt);
    if (late > 0) this.#times.add(died > 0 ? "after the death" : "after the deadline", late - this.#starvedSince(due));
  }

  /** Reports a broken promise for a request. */
  wrong(id: number, what: string): void {
    this.#books.outcome[id]! |= b.WRONG;
    this.#broken(what);
  }

  /** Records the reported death of a worker. */
  heardOf(pid: number): void {
    this.#times.hear(pid);
  }

  /** Whether a worker was killed, or may have been evicted. */
  isDead(pid: number): boolean {
    return this.mayDie.has(pid) || this.#times.killedAt(pid) < Infinity;
  }

  #wrong(asked: Asked, what: string): void {
    this.wrong(asked.id, `request ${asked.tag} (${asked.mode}, ${asked.body.length} bytes): ${what}`);
  }

  async #check(asked: Asked, response: BusResponse): Promise<void> {
    const loan = "release" in response ? (response as BorrowedResponse) : null;
    if (loan) {
      this.lent++;
      if (this.#random.chance(0.5)) await Bun.sleep(this.#random.below(12));
    }
    const right = this.#expected.subarray(0, asked.body.length);
    b.transform(asked.body, asked.nonce, right);
    const tag = response.headers.get("tag");
    if (tag !== asked.tag) this.#wrong(asked, `answered with ${tag}`);
    else if (!same(response.body, right)) this.#wrong(asked, "answered with other bytes");
    else if (this.#books.runs[asked.id]! < b.REPLIED) this.#wrong(asked, "answered, and no handler did");
    if (loan) {
      loan.release();
      this.lent--;
    }
  }

  #failed(asked: Asked, error: unknown, controller: AbortController | null): void {
    if (controller?.signal.aborted && error === gaveUp) {
      this.own.aborts++;
      return this.settle(asked.id, b.ABORTED);
    }
    if (!(error instanceof SlotbusError)) {
      this.settle(asked.id, b.FAILED);
      return this.#wrong(asked, `failed with ${Bun.inspect(error)}`);
    }
    const died = error instanceof WorkerDiedError ? error.pid : 0;
    if (died > 0) this.heardOf(died);
    this.settle(asked.id, error.mayHaveExecuted ? b.FAILED : b.REFUSED, died);
    if (error instanceof RemoteError) {
      this.own.answers++;
      const meant = asked.mode === "throw" || asked.mode === "reject";
      if (!meant || !error.message.endsWith(`refused ${asked.tag}`)) this.#wrong(asked, `failed with ${error.message}`);
    } else if (error instanceof RequestTimeoutError) {
      this.own.timeouts++;
      if (error.mayHaveExecuted) this.onGiveUp("timeout", "claimed");
      else this.onGiveUp("timeout", error.ranMs > 0 ? "ready" : "queued");
    } else if (error instanceof NoWorkerError) {
      this.own.timeouts++;
      this.onGiveUp("timeout", "queued");
    } else if (error instanceof WorkerDiedError) {
      if (!this.isDead(died)) this.#wrong(asked, `pid ${died} was not killed: ${error.message}`);
    } else if (!(this.mayClose && error instanceof ClosedError)) {
      this.#wrong(asked, `failed with ${error.message}`);
    }
  }

  /** At once, after the other side had a moment on its processor, or some milliseconds later. */
  abortSoon(id: number, controller: AbortController): void {
    const abort = (): void => {
      const state = this.waiting.has(id) ? this.#stateOf(id) : null;
      if (state) this.onGiveUp("abort", state);
      controller.abort(gaveUp);
    };
    const way = this.#random.below(3);
    if (way === 0) return void setTimeout(abort, this.#random.below(20));
    const end = performance.now() + (way === 1 ? 0 : this.#random.below(200) / 1000);
    while (performance.now() < end);
    abort();
  }

  #stateOf(id: number): b.State | null {
    const { slots, queued } = this.bus.diagnostics();
    if (queued.some(({ requestId }) => requestId === String(id))) return "queued";
    const slot = slots.find(({ requestId, borrowed }) => requestId === String(id) && !borrowed);
    return slot ? (slot.state.toLowerCase() as b.State) : null;
  }

  /** Time for which this thread has waited for a processor since then, in ms: a delay of the machine, not of the bus. */
  #starvedSince(at: number): number {
    const before = this.#starved.findLast((sample) => sample.at <= at) ?? this.#starved[0];
    return before ? starvedMs() - before.ms : 0;
  }

  #findLost(): void {
    const now = Date.now();
    for (const [id, wait] of this.waiting) {
      if (wait.lost || now < Math.max(wait.deadline, this.#times.clientContinuedAt) + LOST_MS) continue;
      this.#broken(`request ${id} has not settled ${LOST_MS} ms after its timeout`);
      wait.lost = true;
    }
  }
}

/** Total time for which this thread was runnable without a processor, in ms; 0 if the kernel does not count it. */
function starvedMs(): number {
  try {
    return Number(readFileSync("/proc/thread-self/schedstat", "latin1").split(" ")[1]) / 1e6;
  } catch {
    return 0;
  }
}

/** States of the slots of a worker (of all workers: 0), and of the queue. */
export function look(bus: SlotBus, pid: number): Map<b.State, number> {
  const found = new Map<b.State, number>();
  const add = (state: b.State): void => void found.set(state, (found.get(state) ?? 0) + 1);
  const { slots, queued } = bus.diagnostics();
  for (const { workerPid, state, borrowed } of slots) {
    if ((pid === 0 || workerPid === pid) && state !== "FREE") add(borrowed ? "lent" : (state.toLowerCase() as b.State));
  }
  if (found.size === 0) add("idle");
  if (queued.length > 0) found.set("queued", queued.length);
  return found;
}
