/** The connection to one worker process: its open calls, over a pair of byte streams, until the process has ended. */

import type { Clock, Timer } from "../clock.ts";
import { SlotbusError, type ExitReport, WorkerDiedError } from "../errors.ts";
import { inspect } from "../runtime.ts";
import type { WorkerLink, WorkerProcess } from "../supervisor/process.ts";
import type { Call } from "./call.ts";
import type { LinkIdentity, WorkerRequestHandler } from "./events.ts";
import type { Fault } from "./framing.ts";
import { type PeerLimits, type PeerOwner, type PeerRequest, RpcPeer } from "./peer.ts";
import { idOfToken, ownToken, pieceIn, type Protocol, protocols, tokenIn } from "./protocol.ts";
import { methodJson, peekId, readError, READY, type RpcId, type RpcMessage, toJson } from "./rpc.ts";
import { noTraffic } from "./stats.ts";
import type { BytePair } from "./writer.ts";

/** Limits of a connection, and its reaction to faults. */
export interface ConnectionLimits extends PeerLimits {
  readonly maxTimeouts: number;
  readonly onFault: "skip" | "restart";
}

/** The part of its process that a connection uses. */
export type ConnectionProcess = Pick<WorkerProcess, "kill" | "served" | "recycle">;

/** Callbacks of a connection to its bus. */
export interface ConnectionHost {
  /** The worker sent a request. Returns the answer or a promise for it; a rejection becomes an error response. */
  asked(worker: LinkIdentity, message: RpcMessage, signal: AbortSignal, own?: WorkerRequestHandler): unknown;
  /** The worker sent a notification. Nothing more is read until a returned promise has settled. */
  notified(worker: LinkIdentity, message: RpcMessage): Promise<unknown> | null;
  /** The worker sent an invalid or unexpected message. */
  fault(worker: LinkIdentity, error: SlotbusError): void;
}

/** Callbacks of a connection to its pool. */
export interface ConnectionOwner {
  readonly clock: Clock;
  /** The worker answered, or its response is not valid. */
  settled(call: Call, isError: boolean, value: unknown): void;
  /** The worker, which was at its limit, can take another call. */
  hasRoom(connection: WorkerConnection): void;
  /** The worker ended with these calls open. */
  died(calls: Call[], report: ExitReport): void;
  /** The process has ended and all its output was read. */
  gone(connection: WorkerConnection): void;
  /** The worker takes no more calls: it closed a stream, or its process has ended. */
  closed(connection: WorkerConnection): void;
}

/** Time to wait for the end of output after the end of a process, in ms: a child process may hold the pipe open. */
const LAST_WORDS_MS = 200;
/** Time from the worker's closing of a stream to SIGTERM, and from SIGTERM to SIGKILL, in ms. */
const SILENT_MS = 1_000;
const OUTPUT_HINT = "Write only messages to standard output, and logs to standard error.";
const RESPONSE_HINT =
  "Send a response with the id of the request, unchanged, and either `result` (null for no value) or `error`.";

/** The connection to one worker. It keeps to its limits of calls and bytes, and settles each call exactly once. */
export class WorkerConnection implements WorkerLink, PeerOwner<Call> {
  readonly identity: LinkIdentity;
  readonly counts = noTraffic();
  /** Handlers for requests of this process. They take precedence over the bus's handlers. */
  readonly handlers = new Map<string, WorkerRequestHandler>();
  /** Calls for this worker, by key, that wait until it has room. */
  readonly waiting = new Set<Call>();
  readonly #limits: ConnectionLimits;
  readonly #protocol: Protocol;
  readonly #owner: ConnectionOwner;
  readonly #host: ConnectionHost;
  readonly #process: ConnectionProcess;
  readonly #peer: RpcPeer<Call>;
  #nextId = 1;
  #report: ExitReport | null = null;
  #isReadEnded = false;
  /** Whether the output has ended, so that the last message may be incomplete. */
  #isLast = false;
  /** Whether a receiver of its messages holds up reading. */
  #isHeld = false;
  #reader: { cancel(): Promise<void> } | null = null;
  #silence: Timer | null = null;
  #speaksKeys = false;
  /** Result of the worker's `initialize`, for further clients that send it; `undefined`: not initialized. */
  #greeting: unknown;
  #isGreeted = false;
  /** Number of timeouts since its last response. */
  #timeouts = 0;
  #wasFull = false;
  readonly #ready = Promise.withResolvers<void>();
  #isDead = false;
  readonly #dead = Promise.withResolvers<void>();

  constructor(
    identity: LinkIdentity,
    pair: BytePair,
    limits: ConnectionLimits,
    owner: ConnectionOwner,
    host: ConnectionHost,
    process: ConnectionProcess,
  ) {
    this.identity = identity;
    this.#limits = limits;
    this.#protocol = protocols[limits.protocol];
    if (this.#protocol.ping !== null) this.handlers.set(this.#protocol.ping, () => ({}));
    this.#owner = owner;
    this.#host = host;
    this.#process = process;
    // Reading never waits for writing, or worker and host could wait for each other.
    const gaveUp = (): unknown => new DOMException("The worker cancelled the request.", "AbortError");
    this.#peer = new RpcPeer(this, pair.sink, { ...limits, queuedBytes: Infinity }, gaveUp);
    this.#ready.promise.catch(() => {});
    void this.#read(pair.source);
  }

  /** Resolves when the worker has sent `$/ready`. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Number of open calls. */
  get inFlight(): number {
    return this.#peer.calls.size;
  }

  /** Bytes that wait for its pipe. */
  get queuedBytes(): number {
    return this.#peer.out.queuedBytes;
  }

  /** Open calls. */
  get calls(): Iterable<Call> {
    return this.#peer.calls.values();
  }

  /** Whether its process runs and its pipes are open. */
  get isOpen(): boolean {
    return this.#peer.out.isOpen;
  }

  /** Whether its process has ended. */
  get hasEnded(): boolean {
    return this.#report !== null;
  }

  /** Whether it can take another call. */
  canTake(): boolean {
    const peer = this.#peer;
    const takes = peer.calls.size < this.#limits.concurrency && peer.out.queuedBytes < this.#limits.queuedBytes;
    if (!takes) this.#wasFull = true;
    return takes && peer.out.isOpen;
  }

  /** Sends a call. @throws {InvalidConfigError} for params that cannot be written as JSON; then nothing was sent. */
  send(call: Call): void {
    if (this.#isRepeatedGreeting(call)) return this.#greet(call);
    const id = this.#nextId;
    const json = this.#encode(call, id);
    if (call.kind === "notification") {
      if (call.method === this.#protocol.greeted) this.#isGreeted = true;
      this.#peer.post(json);
      this.#owner.settled(call, false, undefined);
      return;
    }
    this.#nextId = id + 1;
    call.connection = this;
    call.id = id;
    call.sentAt = this.#owner.clock.now();
    this.#peer.ask(id, call, json);
  }

  #encode(call: Call, id: number): string {
    const { message, method, options } = call;
    const params = options.onProgress && call.kind !== "notification" ? this.#withToken(call, id) : call.params;
    const key = this.#speaksKeys && options.key !== undefined ? `,"key":${JSON.stringify(options.key)}` : "";
    if (message === null) {
      const head = call.kind === "request" ? `{"jsonrpc":"2.0","id":${id}` : '{"jsonrpc":"2.0"';
      const tail = params === undefined ? "}" : `,"params":${toJson(params, `params of ${method}`)}}`;
      return head + methodJson(method) + key + tail;
    }
    const { jsonrpc: _, id: __, pool: ___, ...rest } = message;
    const members = toJson(params === call.params ? rest : { ...rest, params }, "the message").slice(1);
    return `{"jsonrpc":"2.0"${call.kind === "message" ? `,"id":${id}` : ""}${key}${members === "}" ? "" : ","}${members}`;
  }

  /** Returns the params of a call with a progress token. A token of the caller stays. */
  #withToken({ params }: Call, id: number): unknown {
    return this.#protocol.tokensOf(params).length > 0 ? params : this.#protocol.withToken(params, ownToken(id));
  }

  /** Whether this call repeats `initialize`, which each process gets once: from its pool or from the first client. */
  #isRepeatedGreeting({ method, kind }: Call): boolean {
    const { greeting, greeted } = this.#protocol;
    return kind === "notification"
      ? method === greeted && this.#isGreeted
      : method === greeting && this.#greeting !== undefined;
  }

  #greet(call: Call): void {
    const result = this.#protocol.greetingFor(this.#greeting, call.params);
    const response = { jsonrpc: "2.0", id: call.message?.id ?? null, result };
    this.#owner.settled(call, false, call.kind === "message" ? response : call.kind === "request" ? result : undefined);
  }

  /** Cancels a call and notifies the worker. A later response is counted as late. */
  giveUp(call: Call, reason: unknown): void {
    if (this.#peer.cancel(call.id, reason, call.method === this.#protocol.greeting)) this.#madeRoom();
  }

  /** Counts a timeout. The caller also cancels the call. */
  timedOut(): void {
    if (++this.#timeouts === this.#limits.maxTimeouts) this.#process.recycle();
  }

  /** Resolves when both sides have answered everything, and it is written. */
  async drain(): Promise<void> {
    await Promise.race([this.#peer.drain(), this.#dead.promise]);
  }

  // ---- end of the process ---------------------------------------------------------------------------------------------

  /** The process has ended. */
  ended(report: ExitReport): void {
    if (this.#report) return;
    this.#report = report;
    this.#ready.reject(new SlotbusError("PROTOCOL", "The worker ended before it was ready."));
    this.#peer.stopWriting(new WorkerDiedError(null, report.pid, report, true));
    this.#owner.closed(this);
    if (this.#isReadEnded) this.#leave();
    else this.#hearLastWords();
  }

  /**
   * Reads the rest of the output for a limited time. After that open calls fail; if a receiver holds up reading, the rest
   * waits.
   */
  #hearLastWords(): void {
    this.#setSilence(LAST_WORDS_MS, () => {
      this.#die();
      if (!this.#isHeld) void this.#reader?.cancel().catch(() => {});
    });
  }

  #leave(): void {
    this.#die();
    this.#owner.gone(this);
  }

  #die(): void {
    if (this.#isDead) return;
    this.#isDead = true;
    this.#silence?.close();
    this.#owner.died(this.#peer.takeAll(), this.#report!);
    this.#dead.resolve();
  }

  /** The worker closed its input: it has ended, or is useless and must end. */
  broken(): void {
    this.#owner.closed(this);
    this.#expectEnd();
  }

  #expectEnd(): void {
    if (this.#report || this.#silence) return;
    this.#setSilence(SILENT_MS, () => {
      this.#process.kill("SIGTERM");
      this.#setSilence(SILENT_MS, () => this.#process.kill("SIGKILL"));
    });
  }

  #setSilence(ms: number, then: () => void): void {
    this.#silence?.close();
    this.#silence = this.#owner.clock.after(ms, then);
  }

  // ---- writing and reading --------------------------------------------------------------------------------------------

  posted(bytes: number): void {
    this.counts.messagesIn++;
    this.counts.bytesIn += bytes;
  }

  wrote(): void {
    this.#madeRoom();
  }

  #madeRoom(): void {
    if (!this.#wasFull || !this.canTake()) return;
    this.#wasFull = false;
    this.#owner.hasRoom(this);
  }

  async #read(source: BytePair["source"]): Promise<void> {
    const reader = source.getReader();
    this.#reader = reader;
    try {
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        this.counts.bytesOut += read.value.length;
        const hold = this.#peer.push(read.value);
        if (hold) await this.#held(hold);
      }
    } catch {
      // A broken pipe counts as the end of output.
    }
    this.#isLast = true;
    const hold = this.#peer.push(null);
    if (hold) await this.#held(hold);
    this.#isReadEnded = true;
    if (this.#report) return this.#leave();
    this.#peer.stopWriting();
    this.#owner.closed(this);
    this.#expectEnd();
  }

  async #held(hold: Promise<void>): Promise<void> {
    this.#isHeld = true;
    await hold;
    this.#isHeld = false;
    if (this.#report) this.#hearLastWords();
  }

  received(): boolean {
    this.counts.messagesOut++;
    return true;
  }

  answered(call: Call, response: RpcMessage): void {
    const { result, error } = response;
    const isError = error !== undefined && error !== null;
    // Workers that speak JSON-RPC 1.0 send both members; one is null.
    if (isError ? result !== undefined && result !== null : result === undefined) {
      const members = isError ? "both `result` and `error`" : "neither `result` nor `error`";
      return this.#failCall(call, `answered ${call.method} with ${members}`, RESPONSE_HINT);
    }
    this.#timeouts = 0;
    this.#process.served();
    if (call.method === this.#protocol.greeting && !isError) this.#greeting = result;
    if (call.kind === "message") {
      this.#owner.settled(call, false, { ...response, id: call.message!.id ?? null });
    } else if (isError) {
      this.#owner.settled(call, true, readError(error, call.method, this.toString()));
    } else {
      this.#owner.settled(call, false, result);
    }
    this.#madeRoom();
  }

  strayed({ id, error }: RpcMessage): void {
    if (typeof id === "number" && Number.isInteger(id) && id > 0 && id < this.#nextId) {
      this.counts.late++;
      this.#timeouts = 0;
      return;
    }
    const number = Number(id);
    const call = typeof id === "string" && `${number}` === id ? this.#peer.take(number) : undefined;
    if (call) {
      const what = `answered ${call.method} with the id "${id}" as text instead of a number`;
      return this.#failCall(call, what, RESPONSE_HINT);
    }
    // A worker that cannot parse a message answers with an error and a null id.
    const why = id === null && error ? `, error ${JSON.stringify(error).slice(0, 200)}` : "";
    this.#fault(`sent a response with the id ${JSON.stringify(id)}, which no request has${why}`, RESPONSE_HINT);
  }

  notified(message: RpcMessage): Promise<unknown> | null {
    const { method, params } = message;
    if (method === READY) {
      if ((params as { slotbus?: unknown } | undefined)?.slotbus === 1) this.#speaksKeys = true;
      this.#ready.resolve();
      return null;
    }
    if (method === this.#protocol.progress) {
      const token = tokenIn(this.#protocol, params);
      if (typeof idOfToken(this.#protocol, token) === "number") {
        this.counts.late++;
        return null;
      }
      for (const call of this.calls) {
        if (!call.options.onProgress || !this.#protocol.tokensOf(call.params).includes(token)) continue;
        return this.progressed(call, pieceIn(this.#protocol, params));
      }
    }
    return this.#host.notified(this.identity, message);
  }

  progressed(call: Call, value: unknown): Promise<unknown> | null {
    try {
      const result = call.options.onProgress?.(value);
      if (!(result instanceof Promise)) return null;
      return Promise.race([result.catch((error) => this.#refuse(call, error)), call.over]);
    } catch (error) {
      this.#refuse(call, error);
      return null;
    }
  }

  /** Rejects a call whose `onProgress` failed. */
  #refuse(call: Call, error: unknown): void {
    this.giveUp(call, error);
    this.#owner.settled(call, true, error);
  }

  asked({ id, message, signal }: PeerRequest): Promise<unknown> | null {
    this.#peer.answer(
      id!,
      Promise.try(() => this.#host.asked(this.identity, message, signal, this.handlers.get(message.method!))),
    );
    return this.#peer.room(this.#limits.queuedBytes);
  }

  repeated(id: RpcId): void {
    this.#fault(`sent another request with the id ${JSON.stringify(id)} before the first was answered`);
  }

  // ---- faults ---------------------------------------------------------------------------------------------------------

  misread(fault: Fault): void {
    if (this.#isLast) return; // the end of the process cut it off
    const id = peekId(fault.head, fault.tail);
    const call = typeof id === "number" ? this.#peer.take(id) : undefined;
    if (call) this.#failCall(call, `sent ${fault}`);
    else this.#fault(`sent ${fault}`);
    if (fault.isFatal && this.#limits.onFault === "skip") this.#process.kill("SIGKILL");
  }

  invalid(message: unknown): void {
    this.#fault(`sent JSON that is not a JSON-RPC message: ${inspect(message, { depth: 0 }).slice(0, 80)}`);
  }

  /** Rejects a call whose response is not valid. */
  #failCall(call: Call, what: string, hint?: string): void {
    this.#owner.settled(call, true, this.#fault(what, hint, true));
    this.#madeRoom();
  }

  #fault(what: string, hint = OUTPUT_HINT, isAnswer = false): SlotbusError {
    this.counts.protocolErrors++;
    const error = new SlotbusError("PROTOCOL", `${this} ${what}.`, { mayHaveExecuted: isAnswer, hint });
    this.#host.fault(this.identity, error);
    if (this.#limits.onFault === "restart") this.#process.kill("SIGKILL");
    return error;
  }

  /** `worker 0 of pool "x" (pid 7)`. */
  toString(): string {
    const { pool, worker, pid } = this.identity;
    return `worker ${worker} of pool "${pool}" (pid ${pid})`;
  }
}
