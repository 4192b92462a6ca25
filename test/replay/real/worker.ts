/** A worker of a real world: the same handlers, above the wire of shared memory. */

import type { WorkerRequest } from "../../../src/bus/request.ts";
import { BusNotFoundError } from "../../../src/errors.ts";
import { SlotWorker } from "../../../src/index.ts";
import { until } from "../../wait.ts";
import { Call, type Run, type Source } from "../books.ts";
import { chooseWorker } from "../bus.ts";
import { Cells } from "../cells.ts";
import { handlerOf } from "../contracts.ts";
import { checkCalls } from "../invariants.ts";
import { type Claimed, World } from "../world.ts";
import { SharedBooks } from "./books.ts";
import { NO_LINK, OwnHost, Pauses, PeerHost, RealTime } from "./host.ts";
import { choicesOf, type Judged, type Setting } from "./orders.ts";

/** Longest time until a worker finds its bus, until it has attached, and until its handlers have ended after its close, in ms. */
const OPEN_MS = 1_000;
const HANDSHAKE_MS = 2_000;
const REST_MS = 10_000;

/** The host of the client, as its workers know it. */
class ClientHost extends PeerHost {
  readonly #pauses: Pauses;

  constructor(own: OwnHost, pauses: Pauses) {
    super(own, 0);
    this.#pauses = pauses;
  }

  override wasStopped(ms = 0): boolean {
    return this.#pauses.has(ms);
  }
}

/** What one worker of a world does and sees. */
export class WorkerWorld extends World {
  override readonly isExact = false;
  readonly #books: SharedBooks;
  readonly #pulse: NodeJS.Timeout;
  readonly #host: OwnHost;
  readonly #client: ClientHost;
  readonly #name: string;
  readonly #worker: Promise<SlotWorker | null>;
  readonly #claimed = new Map<number, Call>();

  constructor({ seed, isCalm, epoch, books, bus, name }: Setting, index: number) {
    const time = new RealTime(epoch);
    super(choicesOf(seed, isCalm), new Cells(), isCalm, time);
    this.#books = new SharedBooks(books);
    const pauses = new Pauses(new Int32Array(2), time);
    this.#pulse = pauses.start();
    this.#host = new OwnHost(time, pauses, () => {});
    this.#client = new ClientHost(this.#host, new Pauses(this.#books.pauses, time));
    this.#name = `bus${bus} worker${index}`;
    this.#worker = this.#open(name);
  }

  async #open(name: string): Promise<SlotWorker | null> {
    const die = this.choices.die(this.#name);
    const { concurrency, reconnectMs } = chooseWorker(this, die);
    const reconnect = reconnectMs > 0 && { initial: reconnectMs, max: reconnectMs };
    try {
      const worker = await SlotWorker.open({ name, concurrency, reconnect, timeout: OPEN_MS });
      worker.on("handlerError", (error) => this.handlerFailed(error));
      return worker.serve(handlerOf(this, die));
    } catch (error) {
      // The bus is gone, or its client stands still.
      const isFaultless = error instanceof BusNotFoundError || this.#client.wasStopped(OPEN_MS + HANDSHAKE_MS);
      this.expect(isFaultless, `${this.#name} cannot attach: ${String(error)}`);
      return null;
    }
  }

  override claimOf(request: WorkerRequest): Claimed {
    const index = Number(request.headers.get("x-call"));
    const { path } = request;
    this.expect(!path.startsWith("/call/") || path === `/call/${index}`, `call ${index}: its path is ${path}`);
    let call = this.#claimed.get(index);
    if (!call) {
      call = this.#books.call(new Call(index, this.choices.die(`call ${index}`), this.#client), false);
      this.#claimed.set(index, call);
    }
    return { call, end: { host: this.#host, link: NO_LINK } };
  }

  override began(call: Call, run: Run): void {
    this.expect(this.#books.began(call, run), `call ${call.index}: two runs began at once`);
    super.began(call, run);
  }

  override opened(source: Source): void {
    this.#books.source(source);
    super.opened(source);
  }

  /** Closes the worker. Resolves when its handlers have ended. */
  async close(limitMs: number): Promise<Judged> {
    const worker = await this.#worker;
    await worker?.close({ timeout: limitMs });
    const isOver = (): boolean =>
      this.sources.every(({ ended, isInside }) => ended !== null && !isInside) &&
      this.entered.every(({ isInside }) => !isInside);
    await until(isOver, "all handlers have ended", REST_MS).catch(() => {}); // the next lines say which has not
    checkCalls(this);
    const left = worker?.running ?? 0;
    this.expect(left === 0, `${this.#name} still has ${left} requests`);
    clearInterval(this.#pulse);
    (this.time as RealTime).end();
    return { is: "judged", failure: this.failure, calls: 0, faults: 0, outcomes: {} };
  }
}
