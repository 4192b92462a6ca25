/** One end of a JSON-RPC conversation: messages in and out, and the requests of both sides that are not answered yet. */

import { RpcError } from "../errors.ts";
import { Fault, type Framing, type MessageReader, messageReader } from "./framing.ts";
import {
  cancelJson,
  cancelledId,
  idOfToken,
  pieceIn,
  progressJson,
  type Protocol,
  type ProtocolName,
  protocols,
  tokenIn,
} from "./protocol.ts";
import { errorJson, kindOf, notificationJson, responseJson, RPC, type RpcId, type RpcMessage } from "./rpc.ts";
import { type ByteSink, MessageWriter } from "./writer.ts";

/** How much a peer takes from the other side. */
export interface PeerLimits {
  readonly framing: Framing;
  readonly protocol: ProtocolName;
  /** Longest message, in bytes. */
  readonly messageBytes: number;
  /** Requests and notifications of the other side at once; with so many nothing is read. */
  readonly concurrency: number;
  /** With so many bytes that the other side has not taken, nothing is read. `Infinity` for an end that asks: it must read answers. */
  readonly queuedBytes: number;
}

/**
 * What a peer tells its owner, in the order of the messages. The peer does not read the next message before a promise that a
 * method returns has settled.
 */
export interface PeerOwner<C> {
  /** A whole message came: any JSON, maybe a batch. `false` discards it. */
  received(message: unknown): boolean;
  /** Bytes that are not a message. */
  misread(fault: Fault): void;
  /** JSON that is not a message. */
  invalid(message: unknown): void;
  /** A message longer than the limit comes; its bytes are discarded until it ends. */
  skips?(): void;
  /** A request. {@link RpcPeer.answer} or {@link RpcPeer.respond} answers it, now or later. */
  asked(request: PeerRequest): Promise<unknown> | null;
  /** A notification, except what gives up a request, and the progress of a call. */
  notified(message: RpcMessage): Promise<unknown> | null;
  /** A request has the id of one that is not answered yet; the peer has refused it. */
  repeated?(id: RpcId): void;
  /** The answer to a call, which is not open any more. */
  answered(call: C, response: RpcMessage): void;
  /** A response to no open call. */
  strayed?(response: RpcMessage): void;
  /** Progress of an open call. */
  progressed?(call: C, value: unknown): Promise<unknown> | null;
  /** So many bytes of a message wait to be written. */
  posted?(bytes: number): void;
  /** The sink took all that waited, or a part of it. */
  wrote?(): void;
  /** The sink failed; nothing is written any more. */
  broken?(): void;
}

const resolved = Promise.resolve();

/** A request or notification of the other side, as the handlers of a worker get it. Its functions need no `this`. */
export class PeerRequest {
  /** `undefined`: it is a notification. */
  readonly id: RpcId | undefined;
  readonly message: RpcMessage;
  readonly method: string;
  readonly key: string | undefined;
  readonly #peer: RpcPeer<unknown>;
  #controller: AbortController | null = null;

  /** @internal */
  constructor(peer: RpcPeer<unknown>, message: RpcMessage) {
    this.#peer = peer;
    this.id = message.id;
    this.message = message;
    this.method = message.method!;
    this.key = typeof message["key"] === "string" ? message["key"] : undefined;
  }

  /** Aborts when the other side gives up or is gone. Made when it is first read: most handlers do not. */
  get signal(): AbortSignal {
    return (this.#controller ??= new AbortController()).signal;
  }

  /** Whether the signal has aborted. */
  get isAborted(): boolean {
    return this.#controller?.signal.aborted === true;
  }

  /** Aborts the signal. */
  abort(reason: unknown): void {
    (this.#controller ??= new AbortController()).abort(reason);
  }

  /** Sends a piece of the answer before the answer, unless the signal has aborted. Resolves when more can be sent. */
  get progress(): (value: unknown) => Promise<void> {
    return (value) => {
      const isWanted = this.id !== undefined && !this.isAborted;
      return (isWanted ? this.#peer.progress(this.id, value) : this.#peer.room()) ?? resolved;
    };
  }

  /** Tells the other side something. Resolves when more can be sent. */
  get notify(): (method: string, params?: unknown) => Promise<void> {
    return (method, params) => {
      this.#peer.post(notificationJson(method, params));
      return this.#peer.room() ?? resolved;
    };
  }
}

/**
 * One end of a JSON-RPC conversation over a sink and chunks of bytes. It reads no more than the limits allow, and keeps the requests of both sides by id:
 *
 * - A call (`C` is the owner's record of it) is answered once. What comes for an id that is not open is {@link PeerOwner.strayed}.
 * - A request whose id is that of one not answered yet is refused with -32600 and does not run. The first one goes on.
 * - A request that the other side gives up aborts. It is answered all the same, unless the protocol says otherwise.
 *
 * Reading is not re-entrant: {@link push}, and whatever makes room while a message is handled, only continue after that message.
 */
export class RpcPeer<C = never> {
  readonly #owner: PeerOwner<C>;
  readonly #limits: PeerLimits;
  readonly #protocol: Protocol;
  /** Reason of a signal that the other side aborts. */
  readonly #cancelled: () => unknown;
  /** What it writes to. */
  readonly out: MessageWriter;
  readonly #messages: MessageReader;
  readonly #calls = new Map<RpcId, C>();
  /** Requests that this side has not answered. */
  readonly #requests = new Map<RpcId, PeerRequest>();
  /** The request that its owner is given just now; most are answered at once, and so are never among those above. */
  #asking: PeerRequest | null = null;
  /** Number of these, and of notifications whose handlers run. */
  #running = 0;
  /** `null`: no more bytes come. */
  #unread: (Uint8Array | null)[] = [];
  /** Promises of the owner that are waited for before more is read. */
  #holds = 0;
  #isReading = false;
  #isAllRead = true;
  #isStopped = false;
  #waiters: (() => void)[] = [];

  constructor(owner: PeerOwner<C>, sink: ByteSink, limits: PeerLimits, cancelled: () => unknown) {
    this.#owner = owner;
    this.#limits = limits;
    this.#protocol = protocols[limits.protocol];
    this.#cancelled = cancelled;
    const wrote = (): void => {
      owner.wrote?.();
      this.#wake();
    };
    const broken = (): void => {
      this.stopWriting();
      owner.broken?.();
    };
    this.out = new MessageWriter(sink, limits.framing, wrote, broken);
    this.#messages = messageReader(limits.framing, limits.messageBytes);
  }

  // ---- calls ----------------------------------------------------------------------------------------------------------

  /** Calls that the other side has not answered, by id. */
  get calls(): ReadonlyMap<RpcId, C> {
    return this.#calls;
  }

  /** Sends a request, whose id no open call may have. */
  ask(id: RpcId, call: C, json: string): void {
    this.#calls.set(id, call);
    this.post(json);
  }

  /** Takes out a call whose answer nobody waits for, and tells the other side unless it is `silent`. `false`: it is not open. */
  cancel(id: RpcId, reason: unknown, silent = false): boolean {
    if (!this.#calls.delete(id)) return false;
    if (!silent) this.post(cancelJson(this.#protocol, id, reason));
    return true;
  }

  /** Takes out the call with this id, if it is open. */
  take(id: RpcId): C | undefined {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    return call;
  }

  /** Takes out all calls: nothing answers them any more. */
  takeAll(): C[] {
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    this.#wake();
    return calls;
  }

  // ---- writing --------------------------------------------------------------------------------------------------------

  /** Writes a message with the others of this turn. */
  post(json: string): void {
    if (!this.out.isOpen) return;
    const bytes = this.out.add(json);
    this.#owner.posted?.(bytes);
  }

  /** Sends a piece of the answer to the request with this token before the answer. Returns as {@link room}. */
  progress(token: unknown, value: unknown): Promise<void> | null {
    this.post(progressJson(this.#protocol, token, value));
    return this.room();
  }

  /** Returns a promise for when fewer bytes than `limit` wait, or nothing is written any more; `null`: it is so. */
  room(limit = this.#limits.queuedBytes): Promise<void> | null {
    return this.out.queuedBytes < limit ? null : this.#until(() => this.out.queuedBytes < limit);
  }

  /** Resolves when all was answered, by this side and by the other, and written. */
  async drain(): Promise<void> {
    await this.#until(() => this.#calls.size + this.#running === 0 && this.out.queuedBytes === 0);
  }

  /** Writes nothing more and forgets what waits. A reason aborts the requests that are not answered. */
  stopWriting(reason?: unknown): void {
    this.out.close();
    if (reason !== undefined) for (const request of [this.#asking, ...this.#requests.values()]) request?.abort(reason);
    this.#wake();
  }

  async #until(isSo: () => boolean): Promise<void> {
    while (!isSo()) await new Promise<void>((wake) => this.#waiters.push(wake));
  }

  /** Something was written or answered: wakes those who wait for it, and reads on. */
  #wake(): void {
    if (this.#waiters.length > 0) for (const wake of this.#waiters.splice(0)) wake();
    if (!this.#isAllRead) this.#readOn();
  }

  // ---- reading --------------------------------------------------------------------------------------------------------

  /**
   * Takes bytes, which it keeps; `null`: no more come, and the last message may lack its end. Returns a promise for when all were
   * read; `null`: they were.
   */
  push(chunk: Uint8Array | null): Promise<void> | null {
    this.#unread.push(chunk);
    this.#isAllRead = false;
    this.#readOn();
    return this.#isAllRead ? null : this.#until(() => this.#isAllRead);
  }

  /** Reads nothing more and forgets what was not read. */
  stopReading(): void {
    this.#isStopped = true;
    this.#unread = [];
    this.#readOn();
  }

  // ---- answers --------------------------------------------------------------------------------------------------------

  /** Answers a request with a value, or when a promise of one settles. */
  answer(id: RpcId, result: unknown): void {
    const settled: unknown = result instanceof Promise ? Bun.peek(result) : result;
    if (!(result instanceof Promise) || Bun.peek.status(result) === "fulfilled") {
      return this.respond(id, responseJson(id, settled));
    }
    result.then(
      (value) => this.respond(id, responseJson(id, value)),
      (error) => this.respond(id, errorJson(id, error)),
    );
  }

  /** Answers a request with a whole response. */
  respond(id: RpcId, json: string): void {
    const request = this.#asking?.id === id ? this.#asking : this.#requests.get(id);
    if (!request) return; // it was answered before
    if (request === this.#asking) this.#asking = null;
    else this.#requests.delete(id);
    this.#running--;
    if (this.#protocol.answersCancelled || !request.isAborted) this.post(json);
    if (this.#waiters.length > 0 || !this.#isReading) this.#wake();
  }

  /** Counts a notification as running until the returned function is called. */
  begin(): () => void {
    this.#running++;
    return this.#leave;
  }

  readonly #leave = (): void => {
    this.#running--;
    this.#wake();
  };

  /** Reads what is there as far as it may. */
  #readOn(): void {
    if (this.#isReading) return;
    this.#isReading = true;
    try {
      while (!this.#isStopped) {
        if (this.#holds > 0 || this.#running >= this.#limits.concurrency) return;
        if (this.out.queuedBytes >= this.#limits.queuedBytes) return;
        const message = this.#messages.next();
        if (message !== undefined) {
          this.#receive(message);
          continue;
        }
        if (this.#messages.isSkipping) this.#owner.skips?.();
        const chunk = this.#unread.shift();
        if (chunk === undefined) break;
        if (chunk === null) this.#messages.finish();
        else this.#messages.push(chunk);
      }
    } finally {
      this.#isReading = false;
    }
    this.#isAllRead = true;
    this.#wake();
  }

  #holdFor(promise: Promise<unknown> | null): void {
    if (!promise) return;
    this.#holds++;
    promise
      .catch(() => {})
      .then(() => {
        this.#holds--;
        this.#readOn();
      });
  }

  #receive(message: unknown): void {
    if (message instanceof Fault) return this.#owner.misread(message);
    if (!this.#owner.received(message)) return;
    if (Array.isArray(message)) for (const one of message) this.#dispatch(one);
    else this.#dispatch(message);
  }

  #dispatch(message: unknown): void {
    // The shortest way for what comes most.
    const response = message as RpcMessage | null;
    if (response !== null && typeof response === "object" && typeof response.id === "number" && !response.method) {
      const call = this.#calls.get(response.id);
      if (call) return this.#answered(call, response);
    }
    switch (kindOf(message)) {
      case "request":
        return this.#holdFor(this.#asked(message as RpcMessage));
      case "notification":
        return this.#holdFor(this.#notified(message as RpcMessage));
      case "response": {
        const call = this.#calls.get(response!.id!);
        if (call) this.#answered(call, response!);
        else this.#owner.strayed?.(response!);
        return;
      }
      default:
        this.#owner.invalid(message);
    }
  }

  #answered(call: C, response: RpcMessage): void {
    this.#calls.delete(response.id!);
    this.#owner.answered(call, response);
    if (this.#waiters.length > 0) this.#wake();
  }

  #asked(message: RpcMessage): Promise<unknown> | null {
    const id = message.id!;
    if (this.#running > 0 && this.#requests.has(id)) {
      const why = `a request with id ${JSON.stringify(id)} is not answered yet`;
      this.post(errorJson(id, new RpcError(RPC.invalidRequest, why)));
      this.#owner.repeated?.(id);
      return null;
    }
    const request = new PeerRequest(this, message);
    this.#asking = request;
    this.#running++;
    const hold = this.#owner.asked(request);
    if (this.#asking) this.#requests.set(id, request);
    this.#asking = null;
    return hold;
  }

  #notified(message: RpcMessage): Promise<unknown> | null {
    const { method, params } = message;
    const protocol = this.#protocol;
    if (method === protocol.cancel) {
      this.#requests.get(cancelledId(protocol, params))?.abort(this.#cancelled());
      return null;
    }
    if (method === protocol.progress && this.#owner.progressed) {
      const call = this.#calls.get(idOfToken(protocol, tokenIn(protocol, params))!);
      if (call) return this.#owner.progressed(call, pieceIn(protocol, params));
    }
    return this.#owner.notified(message);
  }
}
