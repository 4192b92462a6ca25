/** One end of a JSON-RPC connection: messages in and out, and the open requests of both sides. */

import { RpcError } from "../errors.ts";
import { peek, peekStatus } from "../runtime.ts";
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

/** Limits of a peer. */
export interface PeerLimits {
  readonly framing: Framing;
  readonly protocol: ProtocolName;
  /** Longest message, in bytes. */
  readonly messageBytes: number;
  /** Requests and notifications of the other side that run at once. Reading pauses at the limit. */
  readonly concurrency: number;
  /** Unwritten bytes at which reading pauses. `Infinity` for the side that sends requests, as it must read responses. */
  readonly queuedBytes: number;
}

/**
 * Callbacks of a peer, called in the order of the messages. If a callback returns a promise, the peer reads the next message
 * when it has settled.
 */
export interface PeerOwner<C> {
  /** Received a whole message: any JSON, possibly a batch. Return `false` to discard it. */
  received(message: unknown): boolean;
  /** Received bytes that are not a message. */
  misread(fault: Fault): void;
  /** Received JSON that is not a message. */
  invalid(message: unknown): void;
  /** The current message is longer than the limit. Its bytes are discarded until it ends. */
  skips?(): void;
  /** Received a request. Call {@link RpcPeer.answer} or {@link RpcPeer.respond}, now or later. */
  asked(request: PeerRequest): Promise<unknown> | null;
  /** Received a notification, except cancel notifications and progress of open calls. */
  notified(message: RpcMessage): Promise<unknown> | null;
  /** Received a request with the id of an open request. The peer has rejected it. */
  repeated?(id: RpcId): void;
  /** Received the response to a call. The call is no longer open. */
  answered(call: C, response: RpcMessage): void;
  /** Received a response without an open call. */
  strayed?(response: RpcMessage): void;
  /** Received progress of an open call. */
  progressed?(call: C, value: unknown): Promise<unknown> | null;
  /** Queued a message of this many bytes. */
  posted?(bytes: number): void;
  /** The sink took some or all of the queued bytes. */
  wrote?(): void;
  /** The sink failed. Nothing more is written. */
  broken?(): void;
}

const resolved = Promise.resolve();

/** A request or notification of the other side, as handlers of a worker get it. Its functions can be called without `this`. */
export class PeerRequest {
  /** Id of the request; `undefined` for a notification. */
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

  /** Aborted when the other side cancels the request or disconnects. Created on first use, as few handlers need it. */
  get signal(): AbortSignal {
    return (this.#controller ??= new AbortController()).signal;
  }

  /** Whether the request was aborted. */
  get isAborted(): boolean {
    return this.#controller?.signal.aborted === true;
  }

  /** Aborts the request. */
  abort(reason: unknown): void {
    (this.#controller ??= new AbortController()).abort(reason);
  }

  /** Sends progress before the response, unless the request was aborted. Resolves when more can be sent. */
  get progress(): (value: unknown) => Promise<void> {
    return (value) => {
      const isWanted = this.id !== undefined && !this.isAborted;
      return (isWanted ? this.#peer.progress(this.id, value) : this.#peer.room()) ?? resolved;
    };
  }

  /** Sends a notification. Resolves when more can be sent. */
  get notify(): (method: string, params?: unknown) => Promise<void> {
    return (method, params) => {
      this.#peer.post(notificationJson(method, params));
      return this.#peer.room() ?? resolved;
    };
  }
}

/**
 * One end of a JSON-RPC connection: it writes to a sink and reads chunks of bytes, within its limits. It keeps the open
 * requests of both sides by id:
 *
 * - A call is a request of this side; `C` is the owner's record of it. It is answered once. A response with an unknown id is
 *   passed to {@link PeerOwner.strayed}.
 * - A request with the id of an open request is rejected with -32600 and does not run. The first request continues.
 * - A request that the other side cancels is aborted. It still gets a response, unless the protocol forbids that.
 *
 * Reading is not re-entrant: a message that arrives while another one is being handled waits until that is done.
 */
export class RpcPeer<C = never> {
  readonly #owner: PeerOwner<C>;
  readonly #limits: PeerLimits;
  readonly #protocol: Protocol;
  /** Returns the abort reason for a request that the other side cancels. */
  readonly #cancelled: () => unknown;
  /** Writes outgoing messages. */
  readonly out: MessageWriter;
  readonly #messages: MessageReader;
  readonly #calls = new Map<RpcId, C>();
  /** Requests of the other side that are not answered. */
  readonly #requests = new Map<RpcId, PeerRequest>();
  /** The request that is being handed to the owner. Most are answered right away and never enter `#requests`. */
  #asking: PeerRequest | null = null;
  /** Number of open requests, and of notifications whose handlers run. */
  #running = 0;
  /** Chunks that have not been read yet; `null` marks the end. */
  #unread: (Uint8Array | null)[] = [];
  /** Number of the owner's pending promises that pause reading. */
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

  /** Open calls by id. */
  get calls(): ReadonlyMap<RpcId, C> {
    return this.#calls;
  }

  /** Sends a request. No open call may have the same id. */
  ask(id: RpcId, call: C, json: string): void {
    this.#calls.set(id, call);
    this.post(json);
  }

  /** Removes a call and sends a cancel notification, unless `silent`. Returns `false` if the call is not open. */
  cancel(id: RpcId, reason: unknown, silent = false): boolean {
    if (!this.#calls.delete(id)) return false;
    if (!silent) this.post(cancelJson(this.#protocol, id, reason));
    return true;
  }

  /** Removes and returns the call with this id, if it is open. */
  take(id: RpcId): C | undefined {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    return call;
  }

  /** Removes and returns all calls. */
  takeAll(): C[] {
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    this.#wake();
    return calls;
  }

  // ---- writing --------------------------------------------------------------------------------------------------------

  /** Queues a message. It is written with the other messages of this turn. */
  post(json: string): void {
    if (!this.out.isOpen) return;
    const bytes = this.out.add(json);
    this.#owner.posted?.(bytes);
  }

  /** Sends progress of the request with this token. Returns the same as {@link room}. */
  progress(token: unknown, value: unknown): Promise<void> | null {
    this.post(progressJson(this.#protocol, token, value));
    return this.room();
  }

  /** Returns `null` if fewer than `limit` bytes are queued, or writing has stopped; otherwise a promise that resolves then. */
  room(limit = this.#limits.queuedBytes): Promise<void> | null {
    return this.out.queuedBytes < limit ? null : this.#until(() => this.out.queuedBytes < limit);
  }

  /** Resolves when both sides have answered everything, and it is written. */
  async drain(): Promise<void> {
    await this.#until(() => this.#calls.size + this.#running === 0 && this.out.queuedBytes === 0);
  }

  /** Stops writing and discards queued messages. With a reason, aborts the open requests of the other side. */
  stopWriting(reason?: unknown): void {
    this.out.close();
    if (reason !== undefined) for (const request of [this.#asking, ...this.#requests.values()]) request?.abort(reason);
    this.#wake();
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((wake) => this.#waiters.push(wake));
  }

  /** Called when something was written or answered. Wakes waiters and continues reading. */
  #wake(): void {
    if (this.#waiters.length > 0) for (const wake of this.#waiters.splice(0)) wake();
    if (!this.#isAllRead) this.#readOn();
  }

  // ---- reading --------------------------------------------------------------------------------------------------------

  /**
   * Takes ownership of bytes; `null` marks the end, where the last message may be incomplete. Returns `null` if everything has
   * been read, otherwise a promise that resolves then.
   */
  push(chunk: Uint8Array | null): Promise<void> | null {
    this.#unread.push(chunk);
    this.#isAllRead = false;
    this.#readOn();
    return this.#isAllRead ? null : this.#until(() => this.#isAllRead);
  }

  /** Stops reading and discards unread bytes. */
  stopReading(): void {
    this.#isStopped = true;
    this.#unread = [];
    this.#readOn();
  }

  // ---- answers --------------------------------------------------------------------------------------------------------

  /** Answers a request with a value, or with the outcome of a promise. */
  answer(id: RpcId, result: unknown): void {
    const settled: unknown = result instanceof Promise ? peek(result) : result;
    if (!(result instanceof Promise) || peekStatus(result) === "fulfilled") {
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
    if (!request) return; // already answered
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

  /** Reads as far as bytes and limits allow. */
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
    // Fast path for the most frequent message, a response.
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
