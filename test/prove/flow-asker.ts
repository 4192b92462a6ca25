/** Requests streams on a bus, sends, checks and cancels them, and records how each stream ended. */

import {
  ClosedError,
  type BusResponse,
  NoWorkerError,
  RemoteError,
  RequestTimeoutError,
  SlotbusError,
  type StreamedResponse,
  StreamTimeoutError,
  WorkerDiedError,
} from "../../src/index.ts";
import { type Asker, gaveUp, LIMIT, TIMEOUT_MS } from "./asker.ts";
import * as f from "./flows.ts";
import { leakSome } from "./memory.ts";
import * as b from "./soak/request-books.ts";

/** Timeout of the body, unless the plan sets a short one. */
const DEADLINE_MS = 2_000;
/** Number of chunks before which a slow reader sleeps, and the longest sleep. */
const SLEEPS = 8;
const SLEEP_MS = 5;

/** Plan of one stream. */
interface Plan extends f.FlowOrder {
  kind: b.Kind;
  tag: string;
  /** Requests the response as a whole, not as a stream. */
  collects: boolean;
  timeout: number;
  deadline: number;
  /** Byte at which the reader of the response stops; -1: never. */
  readerLeavesAt: number;
  /** Byte at which the caller's source fails, with `error`; -1: never. */
  sourceFailsAt: number;
  error: Error;
  slowReader: boolean;
}

/** State of an open stream. */
interface Course {
  plan: Plan;
  arrival: f.Arrival;
  /** The response's head has arrived. */
  headed: boolean;
  /** Of the request's body. */
  given: { bytes: number; ended: boolean };
}

export class FlowAsker {
  /** Answers counted by the bus that may not be counted here: of `request`, what became of its head is not to be seen. */
  unsure = 0;
  /** Streams left before their end: the bus may call the answer dropped. */
  left = 0;
  readonly #asker: Asker;
  readonly #books: b.RequestBooks;
  readonly #random: b.Random;

  constructor(asker: Asker, books: b.RequestBooks, seed: number) {
    this.#asker = asker;
    this.#books = books;
    this.#random = new b.Random(seed);
  }

  /** Runs one stream to its end. `long`: a slow stream of the largest size. */
  async one(long = false): Promise<void> {
    const plan = this.#plan(long);
    const { id, kind } = plan;
    const random = this.#random;
    const controller = random.chance(long ? 0.05 : 0.03) ? new AbortController() : null;
    const idempotent = random.chance(0.2);
    const given = { bytes: 0, ended: kind === "download" };
    const course: Course = {
      plan,
      arrival: new f.Arrival(f.answerNonce(plan.nonce), kind === "echo" ? plan.requestBytes : plan.responseBytes),
      headed: false,
      given,
    };
    const request = {
      path: kind,
      id: String(id),
      query: f.writeOrder(plan),
      body: kind === "download" ? undefined : this.#source(plan, given),
    };
    const options = { timeout: plan.timeout, idempotent, signal: controller?.signal };
    this.#books.outcome[id] = b.ISSUED | (idempotent ? b.IDEMPOTENT : 0);
    this.#asker.waiting.set(id, { deadline: Date.now() + plan.timeout, lost: false });
    const { bus } = this.#asker;
    const whole = plan.collects ? bus.request(request, options) : null;
    const streamed = plan.collects ? null : bus.stream(request, { ...options, deadline: plan.deadline });
    if (controller) this.#asker.abortSoon(id, controller);
    try {
      if (whole) this.#checkWhole(course, await whole);
      if (streamed) await this.#read(course, await streamed);
    } catch (error) {
      this.#failed(course, error, controller);
    }
    this.#books.countStream(given.bytes + course.arrival.bytes);
  }

  // ---- what is asked --------------------------------------------------------------------------------------------------

  /** 0 B to 2 MiB: usually short, sometimes around the ring's size. */
  #length(): number {
    const random = this.#random;
    const dice = random.below(100);
    if (dice < 2) return random.below(f.LONGEST + 1);
    if (dice < 5) return Math.min(f.LONGEST, Math.max(0, f.RING * (1 + random.below(3)) + random.below(33) - 16));
    return random.size(dice < 20 ? 65_536 : 2_048);
  }

  #plan(long: boolean): Plan {
    const random = this.#random;
    leakSome();
    const id = this.#books.next++;
    const nonce = random.next();
    const kind = random.pick(b.KINDS);
    const length = long ? f.LONGEST - random.below(f.RING) : this.#length();
    const responseBytes = kind === "upload" ? 0 : length;
    const collects = kind === "upload" ? random.chance(0.5) : length <= LIMIT && random.chance(0.2);
    const plan: Plan = {
      id,
      nonce,
      kind,
      tag: `${id}.${nonce}`,
      collects,
      requestBytes: kind === "download" ? 0 : length,
      responseBytes,
      pace: long ? 12 : random.chance(0.015) ? 1 + random.below(6) : 0,
      failAt: -1,
      leaveAt: -1,
      timeout: random.chance(0.01) ? 1 + random.below(40) : TIMEOUT_MS,
      deadline: random.chance(long ? 0.1 : 0.01) ? 1 + random.below(60) : DEADLINE_MS,
      readerLeavesAt: -1,
      sourceFailsAt: -1,
      error: new Error(`the source of ${id} failed`),
      slowReader: random.chance(0.015),
    };
    const at = random.below(length + 1);
    const dice = random.below(100);
    if (dice < 4) plan.failAt = at;
    else if (dice < 8 && kind !== "download") plan.sourceFailsAt = at;
    else if (dice < 12 && kind === "upload") plan.leaveAt = at;
    else if (dice < 16 && kind !== "upload" && !collects) plan.readerLeavesAt = at;
    return plan;
  }

  #source(plan: Plan, given: Course["given"]): AsyncIterable<Uint8Array> | ReadableStream<Uint8Array> {
    const { nonce, requestBytes: length, pace, sourceFailsAt: failAt, error } = plan;
    const counted = (async function* () {
      for await (const bytes of f.generate({ nonce, length, pace, failAt, error })) {
        given.bytes += bytes.length;
        yield bytes;
      }
      given.ended = true;
    })();
    return nonce % 4 === 0 ? f.asStream(counted) : counted;
  }

  // ---- what comes -----------------------------------------------------------------------------------------------------

  #checkWhole(course: Course, response: BusResponse): void {
    this.#asker.own.answers++;
    course.arrival.add(course.plan.kind === "upload" ? new Uint8Array(0) : response.body);
    this.#whole(course, response.headers.get("tag"), response.text());
  }

  async #read(course: Course, response: StreamedResponse): Promise<void> {
    const { plan, arrival } = course;
    this.#asker.own.answers++;
    course.headed = true;
    this.#asker.waiting.set(plan.id, { deadline: Date.now() + plan.deadline, lost: false });
    const tag = response.headers.get("tag");
    if (tag !== plan.tag) this.#wrong(course, `answered with ${tag}`);
    if (plan.kind === "upload") return this.#whole(course, tag, await response.text());
    let sleeps = plan.slowReader ? SLEEPS : 0;
    for await (const chunk of plan.nonce % 2 === 0 ? response.stream() : response.chunks()) {
      arrival.add(chunk);
      if (plan.readerLeavesAt >= 0 && arrival.bytes >= plan.readerLeavesAt) break;
      if (sleeps-- > 0) await Bun.sleep(this.#random.below(SLEEP_MS));
    }
    if (plan.readerLeavesAt < 0 || arrival.bytes < plan.readerLeavesAt) return this.#whole(course, tag, "");
    if (plan.nonce % 3 === 0) response.cancel(); // once more
    this.left++;
    this.#end(course, "left", b.ABORTED);
  }

  /** Judges a stream that ended without an error. */
  #whole(course: Course, tag: string | null, text: string): void {
    const { plan, arrival } = course;
    const { kind, leaveAt, requestBytes } = plan;
    if (tag !== plan.tag) this.#wrong(course, `answered with ${tag}`);
    if (plan.failAt >= 0 || plan.sourceFailsAt >= 0) this.#wrong(course, "ended, and its source had failed");
    if (kind === "upload") {
      const read = Number(text);
      const right = leaveAt < 0 ? read === requestBytes : read >= leaveAt && read <= requestBytes;
      if (text === "" || !right) this.#wrong(course, `the handler read "${text}" bytes`);
    } else if (arrival.bytes !== (kind === "echo" ? requestBytes : plan.responseBytes)) {
      this.#wrong(course, "ended too soon");
    }
    if (this.#books.runs[plan.id]! < b.REPLIED) this.#wrong(course, "answered, and no handler did");
    this.#end(course, leaveAt < 0 ? "whole" : "left", b.ANSWERED);
  }

  #failed(course: Course, error: unknown, controller: AbortController | null): void {
    const { plan, arrival, headed } = course;
    const { own } = this.#asker;
    if (plan.collects) this.unsure++;
    else if (headed) this.left++;
    if (controller?.signal.aborted && error === gaveUp) {
      if (!headed) own.aborts++;
      return this.#end(course, "aborted", b.ABORTED);
    }
    if (error === plan.error && plan.sourceFailsAt >= 0) {
      if (course.given.bytes !== plan.sourceFailsAt) this.#wrong(course, "its source failed too soon");
      return this.#end(course, "source", b.FAILED);
    }
    if (!(error instanceof SlotbusError)) {
      this.#wrong(course, `failed with ${Bun.inspect(error)}`);
      return this.#end(course, "lost", b.FAILED);
    }
    const bit = error.mayHaveExecuted ? b.FAILED : b.REFUSED;
    if (error instanceof WorkerDiedError) {
      const got = plan.kind === "upload" ? course.given.bytes : arrival.bytes;
      const all = plan.kind === "download" ? plan.responseBytes : plan.requestBytes;
      if (!this.#asker.isDead(error.pid)) this.#wrong(course, `pid ${error.pid} was not killed: ${error.message}`);
      this.#end(course, got > 0 && got < all ? "died midway" : "died", bit, error.pid);
    } else if (error instanceof RemoteError) {
      if (!headed && !plan.collects) own.answers++;
      if (plan.failAt < 0 || !error.message.endsWith(`refused ${plan.tag}`))
        this.#wrong(course, `failed with ${error.message}`);
      if (headed && arrival.bytes !== plan.failAt) this.#wrong(course, `failed, and not after ${plan.failAt} bytes`);
      this.#end(course, "refused", bit);
    } else if (error instanceof StreamTimeoutError && headed) {
      this.#asker.onGiveUp("timeout", "streaming");
      this.#end(course, "late", bit);
    } else if (error instanceof RequestTimeoutError && !headed) {
      own.timeouts++;
      this.#asker.onGiveUp("timeout", error.mayHaveExecuted ? "claimed" : error.ranMs > 0 ? "ready" : "queued");
      this.#end(course, "late", bit);
    } else if (error instanceof NoWorkerError && !headed) {
      own.timeouts++;
      this.#asker.onGiveUp("timeout", "queued");
      this.#end(course, "late", bit);
    } else {
      if (!(this.#asker.mayClose && error instanceof ClosedError)) this.#wrong(course, `failed with ${error.message}`);
      this.#end(course, "lost", bit);
    }
  }

  #wrong({ plan, arrival, given }: Course, what: string): void {
    const { id, kind, requestBytes, responseBytes, tag } = plan;
    const bytes = `${given.bytes} of ${requestBytes} bytes sent, ${arrival.bytes} of ${responseBytes} read`;
    this.#asker.wrong(id, `stream ${tag} (${kind}, ${bytes}): ${what}`);
  }

  /** Records the end of a stream; called once per stream. */
  #end(course: Course, end: b.StreamEnd, bit: number, died = 0): void {
    const { plan, arrival } = course;
    if (arrival.wrong) this.#wrong(course, arrival.wrong);
    this.#books.countEnd(plan.kind, end);
    if (died > 0) this.#asker.heardOf(died);
    this.#asker.settle(plan.id, bit, died, !plan.slowReader);
  }
}
