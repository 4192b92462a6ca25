/** The worker's end of a stdio bus: reads requests, runs their handlers, writes each answer. */

import { RpcError } from "../errors.ts";
import { Fault, type Framing, type MessageReader, messageReader, Outbox } from "./framing.ts";
import type { BytePair } from "./link.ts";
import { CANCEL, errorJson, kindOf, PROGRESS, RPC, READY, responseJson, toJson } from "./rpc.ts";
import type { RpcId, RpcMessage } from "./rpc.ts";

/** What a handler knows of its call besides the params; the same over stdio and over a bus. Its functions need no `this`. */
export interface ServeContext {
  readonly method: string;
  /** The caller's key; `undefined`: it gave none. */
  readonly key: string | undefined;
  /** Aborts when the caller gives up, by timeout or abort, or is gone. */
  readonly signal: AbortSignal;
  /** Sends the caller a piece of the answer before the answer. Resolves when more can be sent: a handler that awaits it has no queue. */
  readonly progress: (value: unknown) => Promise<void>;
  /** Tells the host something that is no part of the answer. */
  readonly notify: (method: string, params?: unknown) => Promise<void>;
}

/** Answers a call with what it returns, or with the error it throws: an {@link RpcError} with its code and data. */
export type ServeHandler = { handle(params: unknown, context: ServeContext): unknown }["handle"];

/** Handlers by method. */
export type ServeHandlers = Readonly<Record<string, ServeHandler>>;

/** Longest message of a host, in bytes. */
const MESSAGE_MAX = 2 ** 30;
/** With so many bytes of answers that the host has not taken, nothing is read. */
const QUEUED_MAX = 2 ** 20;
/** After so many messages their answers go out, though more were read: the host works on them meanwhile. */
const WRITE_EVERY = 8;
const READY_JSON = `{"jsonrpc":"2.0","method":"${READY}","params":{"slotbus":1}}`;
const resolved = Promise.resolve();

/** Handlers behind a pair of byte streams. */
export class StdioWorker {
  /** Resolves when the host's end is reached or {@link stop} was called, and all was answered and written. */
  readonly done: Promise<void>;
  readonly #handlers: ServeHandlers;
  readonly #pair: BytePair;
  readonly #messages: MessageReader;
  readonly #outbox: Outbox;
  readonly #running = new Map<RpcId, StdioContext>();
  /** Notifications whose handlers run. */
  #notices = 0;
  #writing = 0;
  #isScheduled = false;
  #isBroken = false;
  #isStopped = false;
  #reader: { cancel(): Promise<void> } | null = null;
  #waiters: (() => void)[] = [];

  constructor(handlers: ServeHandlers, pair: BytePair, framing: Framing, announces: boolean) {
    this.#handlers = handlers;
    this.#pair = pair;
    this.#messages = messageReader(framing, MESSAGE_MAX);
    this.#outbox = new Outbox(framing);
    if (announces) this.post(READY_JSON);
    this.done = this.#run();
  }

  /** Reads nothing more; what runs is answered. */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    void this.#reader?.cancel().catch(() => {});
  }

  async #run(): Promise<void> {
    const reader = this.#pair.source.getReader();
    this.#reader = reader;
    let received = 0;
    try {
      for (let read = await reader.read(); !read.done && !this.#isStopped; read = await reader.read()) {
        this.#messages.push(read.value);
        for (let message = this.#messages.next(); message !== undefined; message = this.#messages.next()) {
          this.#receive(message);
          if (++received % WRITE_EVERY === 0) this.#write();
        }
        this.#write();
        if (this.#queued > QUEUED_MAX) await this.room();
      }
    } catch {
      // The pipe broke: the same as its end.
    }
    while (this.#running.size > 0 || this.#notices > 0 || (this.#queued > 0 && !this.#isBroken)) {
      await new Promise<void>((wake) => this.#waiters.push(wake));
    }
  }

  get #queued(): number {
    return this.#outbox.bytes + this.#writing;
  }

  #receive(message: unknown): void {
    if (message instanceof Fault) {
      this.post(errorJson(null, new RpcError(RPC.parseError, `${message}`)));
      return;
    }
    if (Array.isArray(message)) for (const one of message) this.#dispatch(one);
    else this.#dispatch(message);
  }

  #dispatch(message: unknown): void {
    const kind = kindOf(message);
    if (kind === "request") this.#answer(message as RpcMessage);
    else if (kind === "notification") this.#take(message as RpcMessage);
    else if (kind === "nothing") this.post(errorJson(null, new RpcError(RPC.invalidRequest, "this is no request")));
  }

  #answer(message: RpcMessage): void {
    const id = message.id as RpcId;
    const method = message.method!;
    const handler = Object.hasOwn(this.#handlers, method) ? this.#handlers[method] : undefined;
    if (!handler) {
      this.post(errorJson(id, new RpcError(RPC.methodNotFound, `there is no method ${JSON.stringify(method)}`)));
      return;
    }
    const context = new StdioContext(this, id, message);
    try {
      const result = handler(message.params, context);
      if (!(result instanceof Promise)) this.post(responseJson(id, result));
      else this.#answerLater(id, context, result);
    } catch (error) {
      this.post(errorJson(id, error));
    }
  }

  #answerLater(id: RpcId, context: StdioContext, result: Promise<unknown>): void {
    const settled: unknown = Bun.peek(result);
    if (settled !== result && Bun.peek.status(result) === "fulfilled") {
      this.post(responseJson(id, settled));
      return;
    }
    this.#running.set(id, context);
    result.then(
      (value) => this.#answered(id, responseJson(id, value)),
      (error) => this.#answered(id, errorJson(id, error)),
    );
  }

  #answered(id: RpcId, json: string): void {
    this.#running.delete(id);
    this.post(json);
    this.#wake();
  }

  /** A notification. Nobody hears of what its handler returns; what it throws is for the log. */
  #take(message: RpcMessage): void {
    const method = message.method!;
    if (method === CANCEL) {
      const id = (message.params as { id?: RpcId } | undefined)?.id;
      if (id !== undefined) this.#running.get(id)?.abort();
      return;
    }
    const handler = Object.hasOwn(this.#handlers, method) ? this.#handlers[method] : undefined;
    if (!handler) return;
    this.#notices++;
    Promise.try(handler, message.params, new StdioContext(this, null, message))
      .catch((error) => console.error(`notification ${method}:`, error))
      .finally(() => {
        this.#notices--;
        this.#wake();
      });
  }

  // ---- writing --------------------------------------------------------------------------------------------------------

  /** Writes a message with the others of this turn. */
  post(json: string): void {
    if (this.#isBroken) return;
    this.#outbox.add(json);
    if (this.#isScheduled || this.#writing > 0) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      this.#write();
    });
  }

  /** Resolves when the host has taken most of what was written. */
  room(): Promise<void> {
    return this.#queued <= QUEUED_MAX || this.#isBroken ? resolved : this.#untilRoom();
  }

  async #untilRoom(): Promise<void> {
    while (this.#queued > QUEUED_MAX && !this.#isBroken) {
      await new Promise<void>((wake) => this.#waiters.push(wake));
    }
  }

  #write(): void {
    while (this.#outbox.bytes > 0 && this.#writing === 0 && !this.#isBroken) {
      const { bytes } = this.#outbox;
      try {
        const full = this.#pair.sink.write(this.#outbox.take());
        if (full === null) continue;
        this.#writing = bytes - this.#outbox.bytes;
        full.then(this.#onDrained, this.#onBroken);
      } catch {
        this.#onBroken();
      }
    }
    if (this.#writing === 0) this.#wake();
  }

  readonly #onDrained = (): void => {
    this.#writing = 0;
    this.#write();
    this.#wake();
  };

  /** Nobody reads the answers. */
  readonly #onBroken = (): void => {
    this.#isBroken = true;
    for (const context of this.#running.values()) context.abort();
    this.stop();
    this.#wake();
  };

  #wake(): void {
    if (this.#waiters.length === 0) return;
    for (const wake of this.#waiters.splice(0)) wake();
  }
}

class StdioContext implements ServeContext {
  readonly method: string;
  readonly key: string | undefined;
  readonly #worker: StdioWorker;
  /** `null`: it is a notification. */
  readonly #id: RpcId;
  #controller: AbortController | null = null;
  #isAborted = false;

  constructor(worker: StdioWorker, id: RpcId, { method, key }: RpcMessage) {
    this.#worker = worker;
    this.#id = id;
    this.method = method!;
    this.key = typeof key === "string" ? key : undefined;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#isAborted) this.#controller.abort(callerGone());
    return this.#controller.signal;
  }

  get progress(): ServeContext["progress"] {
    return (value) => this.#progress(value);
  }

  get notify(): ServeContext["notify"] {
    return (method, params) => this.#notify(method, params);
  }

  #progress(value: unknown): Promise<void> {
    if (this.#id !== null && !this.#isAborted) {
      const id = JSON.stringify(this.#id);
      this.#worker.post(
        `{"jsonrpc":"2.0","method":"${PROGRESS}","params":{"id":${id},"value":${toJson(value, "progress")}}}`,
      );
    }
    return this.#worker.room();
  }

  #notify(method: string, params: unknown): Promise<void> {
    const tail = params === undefined ? "" : `,"params":${toJson(params, "params")}`;
    this.#worker.post(`{"jsonrpc":"2.0","method":${JSON.stringify(method)}${tail}}`);
    return this.#worker.room();
  }

  abort(): void {
    this.#isAborted = true;
    this.#controller?.abort(callerGone());
  }
}

function callerGone(): DOMException {
  return new DOMException("the caller gave up: timeout, abort or its end", "AbortError");
}
