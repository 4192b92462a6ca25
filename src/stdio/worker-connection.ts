/** One worker's end of the bus: the calls that it has, over a pair of byte streams, until its process has ended. */

import type { Clock, Timer } from "../clock.ts";
import { SlotbusError, type ExitReport, WorkerDiedError } from "../errors.ts";
import type { WorkerLink, WorkerProcess } from "../supervisor/process.ts";
import type { Call } from "./call.ts";
import type { LinkIdentity, WorkerRequestHandler } from "./events.ts";
import type { Fault } from "./framing.ts";
import { type PeerLimits, type PeerOwner, type PeerRequest, RpcPeer } from "./peer.ts";
import { idOfToken, ownToken, pieceIn, type Protocol, protocols, tokenIn } from "./protocol.ts";
import { methodJson, peekId, readError, READY, type RpcId, type RpcMessage, toJson } from "./rpc.ts";
import { noTraffic } from "./stats.ts";
import type { BytePair } from "./writer.ts";

/** What a connection may take and what it does with what is wrong. */
export interface ConnectionLimits extends PeerLimits {
  readonly maxTimeouts: number;
  readonly onFault: "skip" | "restart";
}

/** What a connection needs of its process. */
export type ConnectionProcess = Pick<WorkerProcess, "kill" | "served" | "recycle">;

/** What a connection tells its bus. */
export interface ConnectionHost {
  /** The worker asks. Its answer is awaited; a rejection is answered as an error. */
  asked(worker: LinkIdentity, message: RpcMessage, signal: AbortSignal, own?: WorkerRequestHandler): unknown;
  /** A notification; what comes next is read when a promise that is returned has settled. */
  notified(worker: LinkIdentity, message: RpcMessage): Promise<unknown> | null;
  /** Something that is no message, or no message that fits. */
  fault(worker: LinkIdentity, error: SlotbusError): void;
}

/** What a connection tells its pool. */
export interface ConnectionOwner {
  readonly clock: Clock;
  /** The worker answered, or its answer cannot be read. */
  settled(call: Call, isError: boolean, value: unknown): void;
  /** It can take a call again that it could not take before. */
  hasRoom(connection: WorkerConnection): void;
  /** The worker has ended with these unanswered. */
  died(calls: Call[], report: ExitReport): void;
  /** Its process has ended and all that it wrote was read. */
  gone(connection: WorkerConnection): void;
  /** It can take no more: it closed a stream, or its process has ended. */
  closed(connection: WorkerConnection): void;
}

/** From the end of a process to the end of its output, in ms: a child of its own may hold the pipe open. */
const LAST_WORDS_MS = 200;
/** From the end of its output or input to SIGTERM, and from that to SIGKILL, in ms: nobody can use it any more. */
const SILENT_MS = 1_000;
const OUTPUT_HINT = "A worker writes messages to standard output and nothing else; its log belongs on standard error.";
const RESPONSE_HINT =
  "A response has the id of its request as it was sent, and either `result` (null for no value) or `error`.";

/** The host's end of one worker: never more calls and bytes than its limits, and every call goes back to its owner once. */
export class WorkerConnection implements WorkerLink, PeerOwner<Call> {
  readonly identity: LinkIdentity;
  readonly counts = noTraffic();
  /** For its own requests, before those of the bus. */
  readonly handlers = new Map<string, WorkerRequestHandler>();
  /** Calls that must go to this worker and wait until it has room. */
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
  /** The last message may be cut off by the end of the worker. */
  #isLast = false;
  /** What was read is held up by its receiver. */
  #isHeld = false;
  #reader: { cancel(): Promise<void> } | null = null;
  #silence: Timer | null = null;
  #speaksKeys = false;
  /** What the worker answered to the first request of its life, for the others that ask it; `undefined`: it was not asked. */
  #greeting: unknown;
  #isGreeted = false;
  /** Since its last answer. */
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
    // Answers are read however much waits to be written, or worker and host might wait for each other.
    const gaveUp = (): unknown => new DOMException("the worker gave up", "AbortError");
    this.#peer = new RpcPeer(this, pair.sink, { ...limits, queuedBytes: Infinity }, gaveUp);
    this.#ready.promise.catch(() => {});
    void this.#read(pair.source);
  }

  /** Resolves when the worker said `$/ready`. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Calls it has and has not answered. */
  get inFlight(): number {
    return this.#peer.calls.size;
  }

  /** Bytes that its pipe has not taken. */
  get queuedBytes(): number {
    return this.#peer.out.queuedBytes;
  }

  /** Calls that are with it now. */
  get calls(): Iterable<Call> {
    return this.#peer.calls.values();
  }

  /** Whether its process and its pipes are there. */
  get isOpen(): boolean {
    return this.#peer.out.isOpen;
  }

  /** Whether its process has ended. */
  get hasEnded(): boolean {
    return this.#report !== null;
  }

  /** Whether it takes one more. */
  canTake(): boolean {
    const peer = this.#peer;
    const takes = peer.calls.size < this.#limits.concurrency && peer.out.queuedBytes < this.#limits.queuedBytes;
    if (!takes) this.#wasFull = true;
    return takes && peer.out.isOpen;
  }

  /** Sends a call. Throws `InvalidConfigError` for what has no JSON; then nothing was sent. */
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

  /** The params of a call with a token for its progress; one that the caller gave stays. */
  #withToken({ params }: Call, id: number): unknown {
    return this.#protocol.tokensOf(params).length > 0 ? params : this.#protocol.withToken(params, ownToken(id));
  }

  /** A worker is greeted once in its life: by its pool, or by who asks first. */
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

  /** Its caller gave up. The worker is told, and why; an answer that comes yet is counted as late. */
  giveUp(call: Call, reason: unknown): void {
    if (this.#peer.cancel(call.id, reason, call.method === this.#protocol.greeting)) this.#madeRoom();
  }

  /** The answer to a call did not come in time; the call is given up besides. */
  timedOut(): void {
    if (++this.#timeouts === this.#limits.maxTimeouts) this.#process.recycle();
  }

  /** Resolves when all was answered, by it and to it, and written. */
  async drain(): Promise<void> {
    await Promise.race([this.#peer.drain(), this.#dead.promise]);
  }

  // ---- its end --------------------------------------------------------------------------------------------------------

  /** The process has ended. */
  ended(report: ExitReport): void {
    if (this.#report) return;
    this.#report = report;
    this.#ready.reject(new SlotbusError("PROTOCOL", "the worker ended before it was ready."));
    this.#peer.stopWriting(new WorkerDiedError(null, report.pid, report, true));
    this.#owner.closed(this);
    if (this.#isReadEnded) this.#leave();
    else this.#hearLastWords();
  }

  /** Reads to the end, which may not come. While its reader is held the rest stays where it is, and its calls fail. */
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

  /** It closed its input. It may have ended; if it has not, it is of no use any more. */
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
      // The pipe broke: the same as its end.
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
    // Workers of JSON-RPC 1.0 send both members, one of which is null.
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
      const what = `answered ${call.method} with the text "${id}" as its id, not the number`;
      return this.#failCall(call, what, RESPONSE_HINT);
    }
    // A worker that could not read a message answers so.
    const why = id === null && error ? `, error ${JSON.stringify(error).slice(0, 200)}` : "";
    this.#fault(`answered a request that it was not sent: id ${JSON.stringify(id)}${why}`, RESPONSE_HINT);
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

  /** Its caller could not take a piece of progress. */
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
    this.#fault(`asked twice with id ${JSON.stringify(id)}`);
  }

  // ---- what is wrong --------------------------------------------------------------------------------------------------

  misread(fault: Fault): void {
    if (this.#isLast) return; // the end of the worker cut it off
    const id = peekId(fault.head, fault.tail);
    const call = typeof id === "number" ? this.#peer.take(id) : undefined;
    if (call) this.#failCall(call, `sent ${fault}`);
    else this.#fault(`sent ${fault}`);
    if (fault.isFatal && this.#limits.onFault === "skip") this.#process.kill("SIGKILL");
  }

  invalid(message: unknown): void {
    this.#fault(`sent JSON that is not a JSON-RPC message: ${Bun.inspect(message, { depth: 0 }).slice(0, 80)}`);
  }

  /** The answer to a call cannot be used. */
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
