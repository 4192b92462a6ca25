/** One worker's end of the bus: what it was asked and has not answered, over a pair of byte streams. */

import { type ExitReport, ProtocolError, WorkerExitedError } from "../errors.ts";
import type { WorkerLink, WorkerProcess } from "../supervisor/process.ts";
import { Fault, type Framing, type MessageReader, messageReader, Outbox } from "./framing.ts";
import { CANCEL, errorJson, kindOf, PROGRESS, peekId, readError, READY, responseJson, toJson } from "./rpc.ts";
import type { RpcId, RpcMessage } from "./rpc.ts";

/** Where bytes go. */
export interface ByteSink {
  /** Takes bytes or text. Returns `null` when it could take more at once, else a promise for when it can. */
  write(data: string | Uint8Array): Promise<unknown> | null;
  end(): void;
}

/** A pair of byte streams with a peer behind it. */
export interface BytePair {
  readonly sink: ByteSink;
  readonly source: ReadableStream<Uint8Array>;
}

/** A {@link ByteSink} over Bun's. */
export function sinkOf(sink: Bun.FileSink): ByteSink {
  return {
    write(data) {
      const written: unknown = sink.write(data);
      const flushed: unknown = sink.flush();
      // Both are the same promise while the pipe is full; each must have somebody who hears of its failure.
      if (flushed instanceof Promise && flushed !== written) flushed.catch(() => {});
      return written instanceof Promise ? written : flushed instanceof Promise ? flushed : null;
    },
    end() {
      try {
        const ended: unknown = sink.end();
        if (ended instanceof Promise) ended.catch(() => {});
      } catch {
        // The pipe is broken already.
      }
    },
  };
}

/** What a call is asked with. */
export interface CallOptions {
  /** Goes to the worker that has this key, as long as it lives; SDK workers see it as `ctx.key`. */
  key?: string | undefined;
  /** In ms, from the call to the answer; `Infinity` for none. Default: `limits.timeout`. */
  timeout?: number | undefined;
  /** Rejects with `signal.reason`; the worker is sent `$/cancelRequest`. */
  signal?: AbortSignal | undefined;
  /** May run twice: if its worker ends it is sent to another one, once, within the same timeout. */
  idempotent?: boolean | undefined;
  /**
   * Called with each piece the worker sends before its answer, in order. While a promise that it returns is pending, nothing
   * more is read from that worker.
   */
  onProgress?: ((value: unknown) => unknown) | undefined;
}

type Resolve = (value: unknown) => void;
type Reject = (reason: unknown) => void;

const none: CallOptions = {};
const settledAlready = (): void => {};

/** What somebody waits for. */
export class Call {
  /** A request answers with its result, a message with its whole response, a notification when it was written. */
  readonly kind: "request" | "notification" | "message";
  readonly method: string;
  readonly params: unknown;
  readonly message: RpcMessage | null;
  readonly options: CallOptions;
  readonly startedAt: number;
  /** When it times out, as `performance.now()` counts; `Infinity`: never. */
  readonly deadline: number;
  resolve: Resolve;
  reject: Reject;
  isSettled = false;
  /** It was sent before, to a worker that has ended. */
  wasRetried = false;
  sentAt = 0;
  link: StdioLink | null = null;
  id = 0;
  onAbort: (() => void) | null = null;
  /** Called once, when it settles. */
  onSettled: (() => void) | null = null;

  constructor(
    kind: Call["kind"],
    method: string,
    params: unknown,
    message: RpcMessage | null,
    options: CallOptions | undefined,
    startedAt: number,
    timeoutMs: number,
    resolve: Resolve,
    reject: Reject,
  ) {
    this.kind = kind;
    this.method = method;
    this.params = params;
    this.message = message;
    this.options = options ?? none;
    this.startedAt = startedAt;
    this.deadline = startedAt + timeoutMs;
    this.resolve = resolve;
    this.reject = reject;
  }

  /** Settles it, the first time. Returns whether it was. */
  settle(isError: boolean, value: unknown): boolean {
    if (this.isSettled) return false;
    this.isSettled = true;
    this.onSettled?.();
    if (this.onAbort) this.options.signal!.removeEventListener("abort", this.onAbort);
    if (isError) this.reject(value);
    else this.resolve(value);
    this.resolve = settledAlready;
    this.reject = settledAlready;
    return true;
  }
}

/** Who a worker is. */
export interface LinkIdentity {
  /** Id of its pool. */
  readonly pool: string;
  /** Its index in the pool. */
  readonly worker: number;
  /** 1 for its first process, 2 for the next, … */
  readonly life: number;
  readonly pid: number;
}

/** What a link may take and what it does with what is wrong. */
export interface LinkLimits {
  readonly framing: Framing;
  readonly maxInFlight: number;
  readonly maxQueuedBytes: number;
  readonly maxMessageBytes: number;
  readonly maxTimeouts: number;
  readonly onFault: "skip" | "restart";
}

/** What a link counts; the bus adds these up. */
export class LinkCounts {
  messagesIn = 0;
  bytesIn = 0;
  messagesOut = 0;
  bytesOut = 0;
  late = 0;
  protocolErrors = 0;

  add(other: LinkCounts): void {
    this.messagesIn += other.messagesIn;
    this.bytesIn += other.bytesIn;
    this.messagesOut += other.messagesOut;
    this.bytesOut += other.bytesOut;
    this.late += other.late;
    this.protocolErrors += other.protocolErrors;
  }
}

/** What a link needs of its process. */
export type LinkProcess = Pick<WorkerProcess, "kill" | "served" | "recycle">;

/** What a link tells its bus. */
export interface LinkOwner {
  /** The worker answered, or its answer cannot be read. */
  settled(call: Call, isError: boolean, value: unknown): void;
  /** It can take a call again that it could not take before. */
  hasRoom(link: StdioLink): void;
  /** The worker asks. Its answer is awaited; a rejection is answered as an error. */
  asked(link: StdioLink, message: RpcMessage, signal: AbortSignal): unknown;
  /** A notification; what comes next is read when a promise that is returned has settled. */
  notified(link: StdioLink, message: RpcMessage): Promise<unknown> | null;
  /** Something that is no message, or no message that fits. */
  fault(link: StdioLink, error: ProtocolError): void;
  /** The worker has ended with these unanswered. */
  died(calls: Call[], report: ExitReport): void;
  /** Its process has ended and all that it wrote was read. */
  gone(link: StdioLink): void;
  /** It can take no more: it closed a stream, or its process has ended. */
  closed(link: StdioLink): void;
}

/** From the end of a process to the end of its output, in ms: a child of its own may hold the pipe open. */
const LAST_WORDS_MS = 200;
/** From the end of its output or input to SIGTERM, and from that to SIGKILL, in ms: nobody can use it any more. */
const SILENT_MS = 1_000;
const OUTPUT_HINT = "A worker writes messages to standard output and nothing else; its log belongs on standard error.";
const RESPONSE_HINT =
  "A response has the id of its request as it was sent, and either `result` (null for no value) or `error`.";
/** Times a write is put off for others of the same turn. */
const PUT_OFF = 3;
const names = new Map<string, string>();
const NAMES_MAX = 1_024;

/** The beginning of a request's JSON behind its id. */
function methodJson(method: string): string {
  let json = names.get(method);
  if (json === undefined) {
    json = `,"method":${JSON.stringify(method)}`;
    if (names.size < NAMES_MAX) names.set(method, json);
  }
  return json;
}

/** The host's end of one worker: never more calls and bytes than its limits, and every call goes back to its owner once. */
export class StdioLink implements WorkerLink {
  readonly identity: LinkIdentity;
  readonly counts = new LinkCounts();
  /** Calls that must go to this worker and wait until it has room. */
  readonly waiting = new Set<Call>();
  readonly #limits: LinkLimits;
  readonly #owner: LinkOwner;
  readonly #pair: BytePair;
  readonly #process: LinkProcess;
  readonly #outbox: Outbox;
  readonly #messages: MessageReader;
  readonly #pending = new Map<number, Call>();
  #nextId = 1;
  /** Bytes that the pipe has not taken yet, without those of the outbox. */
  #writing = 0;
  #isFlushing = false;
  #putOff = 0;
  #seenBytes = 0;
  /** Requests of the worker whose handlers run, by JSON of their id. */
  readonly #running = new Map<string, AbortController>();
  #hold: Promise<unknown> | null = null;
  #isReadEnded = false;
  #isBroken = false;
  #report: ExitReport | null = null;
  #isDead = false;
  #reader: { cancel(): Promise<void> } | null = null;
  #silence: ReturnType<typeof setTimeout> | null = null;
  #idle: (() => void)[] = [];
  #speaksKeys = false;
  /** Since its last answer. */
  #timeouts = 0;
  #wasFull = false;
  readonly #ready = Promise.withResolvers<void>();

  constructor(identity: LinkIdentity, pair: BytePair, limits: LinkLimits, owner: LinkOwner, process: LinkProcess) {
    this.identity = identity;
    this.#pair = pair;
    this.#limits = limits;
    this.#owner = owner;
    this.#process = process;
    this.#outbox = new Outbox(limits.framing);
    this.#messages = messageReader(limits.framing, limits.maxMessageBytes);
    this.#ready.promise.catch(() => {});
    void this.#read();
  }

  /** Resolves when the worker said `$/ready`. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Calls it has and has not answered. */
  get inFlight(): number {
    return this.#pending.size;
  }

  /** Bytes that its pipe has not taken. */
  get queuedBytes(): number {
    return this.#outbox.bytes + this.#writing;
  }

  /** Calls that are with it now. */
  get calls(): Iterable<Call> {
    return this.#pending.values();
  }

  /** Whether its process and its pipes are there. */
  get isOpen(): boolean {
    return !this.#isBroken && !this.#isReadEnded && this.#report === null;
  }

  /** Whether its process has ended. */
  get hasEnded(): boolean {
    return this.#report !== null;
  }

  /** Whether it takes one more. */
  canTake(): boolean {
    const takes =
      this.#pending.size < this.#limits.maxInFlight && this.#outbox.bytes + this.#writing < this.#limits.maxQueuedBytes;
    if (!takes) this.#wasFull = true;
    return takes && this.isOpen;
  }

  /** Sends a call. Throws `InvalidConfigError` for what has no JSON; then nothing was sent. */
  send(call: Call): void {
    const id = this.#nextId;
    const json = this.#encode(call, id);
    if (call.kind === "notification") {
      this.#post(json);
      this.#owner.settled(call, false, undefined);
      return;
    }
    this.#nextId = id + 1;
    call.link = this;
    call.id = id;
    call.sentAt = performance.now();
    this.#pending.set(id, call);
    this.#post(json);
  }

  #encode(call: Call, id: number): string {
    const { message, params, method } = call;
    const key = this.#speaksKeys && call.options.key !== undefined ? `,"key":${JSON.stringify(call.options.key)}` : "";
    if (message === null) {
      const head = call.kind === "request" ? `{"jsonrpc":"2.0","id":${id}` : '{"jsonrpc":"2.0"';
      const tail = params === undefined ? "}" : `,"params":${toJson(params, `params of ${method}`)}}`;
      return head + methodJson(method) + key + tail;
    }
    const { jsonrpc: _, id: __, pool: ___, ...rest } = message;
    const members = toJson(rest, "the message").slice(1);
    return `{"jsonrpc":"2.0"${call.kind === "message" ? `,"id":${id}` : ""}${key}${members === "}" ? "" : ","}${members}`;
  }

  /** Its caller gave up. The worker is told; an answer that comes yet is counted as late. */
  giveUp(call: Call): void {
    if (!this.#pending.delete(call.id)) return;
    if (this.isOpen) this.#post(`{"jsonrpc":"2.0","method":"${CANCEL}","params":{"id":${call.id}}}`);
    this.#madeRoom();
  }

  /** The answer to a call did not come in time; the call is given up besides. */
  timedOut(): void {
    if (++this.#timeouts === this.#limits.maxTimeouts) this.#process.recycle();
  }

  /** Resolves when all was answered, by it and to it, and written. */
  async drain(): Promise<void> {
    while (!this.#isDead && (this.#pending.size > 0 || this.queuedBytes > 0 || this.#running.size > 0)) {
      await new Promise<void>((done) => this.#idle.push(done));
    }
  }

  /** The process has ended. */
  ended(report: ExitReport): void {
    if (this.#report) return;
    this.#report = report;
    this.#ready.reject(new ProtocolError("the worker ended before it was ready."));
    if (this.#silence) clearTimeout(this.#silence);
    for (const controller of this.#running.values())
      controller.abort(new WorkerExitedError("request", this.identity.pool, report));
    this.#owner.closed(this);
    if (this.#isReadEnded) this.#leave();
    else this.#hearLastWords();
  }

  /** Reads to the end, which may not come. While its reader is held the rest stays where it is, and its calls fail. */
  #hearLastWords(): void {
    if (this.#silence) clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#die();
      if (!this.#hold) void this.#reader?.cancel().catch(() => {});
    }, LAST_WORDS_MS);
  }

  #leave(): void {
    this.#die();
    this.#owner.gone(this);
  }

  #die(): void {
    if (this.#isDead) return;
    this.#isDead = true;
    if (this.#silence) clearTimeout(this.#silence);
    const calls = [...this.#pending.values()];
    this.#pending.clear();
    this.#owner.died(calls, this.#report!);
    this.#tellIdle();
  }

  // ---- writing --------------------------------------------------------------------------------------------------------

  #post(json: string): void {
    if (!this.isOpen) return;
    this.counts.messagesIn++;
    this.counts.bytesIn += this.#outbox.add(json);
    if (this.#isFlushing || this.#writing > 0) return;
    this.#isFlushing = true;
    this.#putOff = 0;
    this.#seenBytes = 0;
    queueMicrotask(this.#flush);
  }

  /** Those who got answers in this turn ask again in its microtasks: what they ask goes out in one write. */
  readonly #flush = (): void => {
    const { bytes } = this.#outbox;
    if (bytes !== this.#seenBytes && this.#putOff++ < PUT_OFF) {
      this.#seenBytes = bytes;
      queueMicrotask(this.#flush);
      return;
    }
    this.#isFlushing = false;
    this.#write();
  };

  #write(): void {
    if (this.#outbox.bytes === 0) return this.#tellIdle();
    if (!this.isOpen) return;
    let full: Promise<unknown> | null = null;
    while (full === null && this.#outbox.bytes > 0) {
      const { bytes } = this.#outbox;
      try {
        full = this.#pair.sink.write(this.#outbox.take());
      } catch {
        return this.#break();
      }
      if (full) this.#writing = bytes - this.#outbox.bytes;
    }
    if (full) full.then(this.#onDrained, this.#onBroken);
    else this.#madeRoom();
  }

  readonly #onDrained = (): void => {
    this.#writing = 0;
    this.#write();
    this.#madeRoom();
  };

  readonly #onBroken = (): void => this.#break();

  /** Its input is closed. It may have ended; if it has not, it is of no use any more. */
  #break(): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    this.#writing = 0;
    this.#outbox.clear();
    this.#owner.closed(this);
    this.#expectEnd();
  }

  #expectEnd(): void {
    if (this.#report || this.#silence) return;
    this.#silence = setTimeout(() => {
      this.#process.kill("SIGTERM");
      this.#silence = setTimeout(() => this.#process.kill("SIGKILL"), SILENT_MS);
    }, SILENT_MS);
  }

  #madeRoom(): void {
    if (this.#wasFull && this.canTake()) {
      this.#wasFull = false;
      this.#owner.hasRoom(this);
    }
    this.#tellIdle();
  }

  #tellIdle(): void {
    if (this.#idle.length === 0) return;
    for (const done of this.#idle.splice(0)) done();
  }

  // ---- reading --------------------------------------------------------------------------------------------------------

  async #read(): Promise<void> {
    const reader = this.#pair.source.getReader();
    this.#reader = reader;
    try {
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        this.counts.bytesOut += read.value.length;
        this.#messages.push(read.value);
        for (let message = this.#messages.next(); message !== undefined; message = this.#messages.next()) {
          this.#receive(message);
          while (this.#hold) await this.#held(this.#hold);
        }
      }
    } catch {
      // The pipe broke: the same as its end.
    }
    this.#messages.finish();
    // A last line may have no end; what was cut by the end of the worker is no fault of its own.
    const last = this.#messages.next();
    if (last !== undefined && !(last instanceof Fault)) this.#receive(last);
    this.#isReadEnded = true;
    if (this.#report) return this.#leave();
    this.#owner.closed(this);
    this.#expectEnd();
  }

  async #held(hold: Promise<unknown>): Promise<void> {
    await hold.catch(() => {});
    if (this.#hold !== hold) return;
    this.#hold = null;
    if (this.#report) this.#hearLastWords();
  }

  #receive(message: unknown): void {
    if (message instanceof Fault) return this.#misread(message);
    this.counts.messagesOut++;
    if (Array.isArray(message)) for (const one of message) this.#dispatch(one);
    else this.#dispatch(message);
  }

  #dispatch(message: unknown): void {
    // The shortest way for what comes most.
    const response = message as RpcMessage | null;
    if (response !== null && typeof response === "object" && typeof response.id === "number" && !response.method) {
      const call = this.#pending.get(response.id);
      if (call) return this.#answered(call, response);
    }
    switch (kindOf(message)) {
      case "request":
        return this.#asked(message as RpcMessage);
      case "notification":
        return this.#notified(message as RpcMessage);
      case "response":
        return this.#unexpected(message as RpcMessage);
      default:
        this.#fault(`sent JSON that is not a JSON-RPC message: ${Bun.inspect(message, { depth: 0 }).slice(0, 80)}`);
    }
  }

  #answered(call: Call, response: RpcMessage): void {
    const { result, error } = response;
    const isError = error !== undefined && error !== null;
    // Workers of JSON-RPC 1.0 send both members, one of which is null.
    if (isError ? result !== undefined && result !== null : result === undefined) {
      const members = isError ? "both `result` and `error`" : "neither `result` nor `error`";
      return this.#failCall(call, `answered ${call.method} with ${members}`, RESPONSE_HINT);
    }
    this.#pending.delete(call.id);
    this.#timeouts = 0;
    this.#process.served();
    if (call.kind === "message") {
      this.#owner.settled(call, false, { ...response, id: call.message!.id ?? null });
    } else if (isError) {
      this.#owner.settled(call, true, readError(error, call.method, this.toString()));
    } else {
      this.#owner.settled(call, false, result);
    }
    this.#madeRoom();
  }

  #unexpected({ id, error }: RpcMessage): void {
    if (typeof id === "number" && Number.isInteger(id) && id > 0 && id < this.#nextId) {
      this.counts.late++;
      this.#timeouts = 0;
      return;
    }
    const call = typeof id === "string" ? this.#pending.get(Number(id)) : undefined;
    if (call && `${call.id}` === id) {
      return this.#failCall(
        call,
        `answered ${call.method} with the text "${id}" as its id, not the number`,
        RESPONSE_HINT,
      );
    }
    // A worker that could not read a message answers so.
    const why = id === null && error ? `, error ${JSON.stringify(error).slice(0, 200)}` : "";
    this.#fault(`answered a request that it was not sent: id ${JSON.stringify(id)}${why}`, RESPONSE_HINT);
  }

  #notified(message: RpcMessage): void {
    const { method, params } = message;
    if (method === READY) return this.#saidReady(params);
    if (method === CANCEL) {
      const id = (params as { id?: unknown } | undefined)?.id;
      this.#running.get(JSON.stringify(id) ?? "")?.abort(new DOMException("the worker gave up", "AbortError"));
      return;
    }
    if (method === PROGRESS) {
      const { id, value } = (typeof params === "object" && params !== null ? params : {}) as Record<string, unknown>;
      if (typeof id === "number") return this.#progressed(id, value);
    }
    const hold = this.#owner.notified(this, message);
    if (hold) this.#holdFor(hold);
  }

  #saidReady(params: unknown): void {
    if ((params as { slotbus?: unknown } | undefined)?.slotbus === 1) this.#speaksKeys = true;
    this.#ready.resolve();
  }

  #progressed(id: number, value: unknown): void {
    const call = this.#pending.get(id);
    if (!call) {
      this.counts.late++;
      return;
    }
    const { onProgress } = call.options;
    if (!onProgress) return;
    try {
      const result = onProgress(value);
      if (result instanceof Promise) this.#holdFor(result.catch((error) => this.#refuse(call, error)));
    } catch (error) {
      this.#refuse(call, error);
    }
  }

  /** Its caller could not take a piece of progress. */
  #refuse(call: Call, error: unknown): void {
    this.giveUp(call);
    this.#owner.settled(call, true, error);
  }

  #holdFor(promise: Promise<unknown>): void {
    this.#hold = this.#hold ? Promise.allSettled([this.#hold, promise]) : promise;
  }

  #asked(message: RpcMessage): void {
    const id = message.id as RpcId;
    const key = JSON.stringify(id);
    if (this.#running.has(key)) return void this.#fault(`asked twice with id ${key}`);
    const controller = new AbortController();
    this.#running.set(key, controller);
    const done = Promise.try(() => this.#owner.asked(this, message, controller.signal)).then(
      (result) => this.#respond(key, responseJson(id, result)),
      (error) => this.#respond(key, errorJson(id, error)),
    );
    if (this.#running.size >= this.#limits.maxInFlight || this.queuedBytes >= this.#limits.maxQueuedBytes) {
      this.#holdFor(this.#running.size >= this.#limits.maxInFlight ? done : this.drained());
    }
  }

  #respond(key: string, json: string): void {
    this.#running.delete(key);
    this.#post(json);
    this.#tellIdle();
  }

  /** Resolves when its pipe has taken what is queued. */
  async drained(): Promise<void> {
    while (this.isOpen && this.queuedBytes > 0) await new Promise<void>((done) => this.#idle.push(done));
  }

  // ---- what is wrong --------------------------------------------------------------------------------------------------

  #misread(fault: Fault): void {
    const id = peekId(fault.head, fault.tail);
    const call = typeof id === "number" ? this.#pending.get(id) : undefined;
    if (call) this.#failCall(call, `sent ${fault}`);
    else this.#fault(`sent ${fault}`);
    if (fault.isFatal && this.#limits.onFault === "skip") this.#process.kill("SIGKILL");
  }

  /** The answer to a call cannot be used. */
  #failCall(call: Call, what: string, hint?: string): void {
    const error = this.#fault(what, hint, true);
    this.#pending.delete(call.id);
    this.#owner.settled(call, true, error);
    this.#madeRoom();
  }

  #fault(what: string, hint = OUTPUT_HINT, isAnswer = false): ProtocolError {
    this.counts.protocolErrors++;
    const error = new ProtocolError(`${this} ${what}.`, { mayHaveExecuted: isAnswer, hint });
    this.#owner.fault(this, error);
    if (this.#limits.onFault === "restart") this.#process.kill("SIGKILL");
    return error;
  }

  /** `worker 0 of pool "x" (pid 7)`. */
  toString(): string {
    const { pool, worker, pid } = this.identity;
    return `worker ${worker} of pool "${pool}" (pid ${pid})`;
  }
}
