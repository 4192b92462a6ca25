/** The worker's end of a stdio bus: reads requests, runs their handlers, writes each answer. */

import { RpcError } from "../errors.ts";
import type { Fault, Framing } from "./framing.ts";
import { type PeerOwner, PeerRequest, RpcPeer } from "./peer.ts";
import { errorJson, READY, RPC, type RpcMessage } from "./rpc.ts";
import type { BytePair } from "./writer.ts";

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

/**
 * Answers a call with what it returns, or with the error it throws: an {@link RpcError} with its code and data. Of an async generator
 * each `yield` is progress, and what it returns is the answer.
 */
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

/** Handlers behind a pair of byte streams. */
export class StdioWorker implements PeerOwner<never> {
  /** Resolves when the host's end is reached or {@link stop} was called, and all was answered and written. */
  readonly done: Promise<void>;
  readonly #handlers: ServeHandlers;
  readonly #peer: RpcPeer;
  #received = 0;
  #isStopped = false;
  #reader: { cancel(): Promise<void> } | null = null;

  constructor(handlers: ServeHandlers, pair: BytePair, framing: Framing, announces: boolean) {
    this.#handlers = handlers;
    const limits = { messageBytes: MESSAGE_MAX, concurrency: Infinity, queuedBytes: QUEUED_MAX };
    this.#peer = new RpcPeer(this, pair.sink, { ...limits, framing, protocol: "json-rpc" }, callerGone);
    if (announces) this.#peer.post(READY_JSON);
    this.done = this.#run(pair.source);
  }

  /** Reads nothing more; what runs is answered. */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    void this.#reader?.cancel().catch(() => {});
  }

  async #run(source: BytePair["source"]): Promise<void> {
    const reader = source.getReader();
    this.#reader = reader;
    try {
      for (let read = await reader.read(); !read.done && !this.#isStopped; read = await reader.read()) {
        const hold = this.#peer.push(read.value);
        this.#peer.out.write();
        if (hold) await hold;
      }
    } catch {
      // The pipe broke: the same as its end.
    }
    await this.#peer.drain();
  }

  received(): boolean {
    if (++this.#received % WRITE_EVERY === 0) this.#peer.out.write();
    return true;
  }

  misread(fault: Fault): void {
    this.#peer.post(errorJson(null, new RpcError(RPC.parseError, `${fault}`)));
  }

  invalid(): void {
    this.#peer.post(errorJson(null, new RpcError(RPC.invalidRequest, "this is no request")));
  }

  asked(request: PeerRequest): null {
    const { id, message } = request;
    const handler = this.#handlerOf(message);
    try {
      if (!handler) throw new RpcError(RPC.methodNotFound, `there is no method ${JSON.stringify(message.method)}`);
      this.#peer.answer(id!, answerOf(handler(message.params, request), request));
    } catch (error) {
      this.#peer.respond(id!, errorJson(id!, error));
    }
    return null;
  }

  /** The result of its handler is ignored; what the handler throws goes to the log. */
  notified(message: RpcMessage): null {
    const handler = this.#handlerOf(message);
    if (!handler) return null;
    const done = this.#peer.begin();
    const request = new PeerRequest(this.#peer, message);
    Promise.try(() => answerOf(handler(message.params, request), request))
      .catch((error) => console.error(`notification ${message.method}:`, error))
      .finally(done);
    return null;
  }

  #handlerOf({ method }: RpcMessage): ServeHandler | undefined {
    return Object.hasOwn(this.#handlers, method!) ? this.#handlers[method!] : undefined;
  }

  /** Nobody reads the answers. */
  broken(): void {
    this.#peer.stopWriting(callerGone());
    this.stop();
  }

  answered(): void {} // it asks nothing
}

/** What a handler answers: what it returned, or a promise for what its generator will return. */
export function answerOf(returned: unknown, context: ServeContext): unknown {
  const isGenerator = typeof returned === "object" && returned !== null && Symbol.asyncIterator in returned;
  return isGenerator ? finishOf(returned as AsyncGenerator, context) : returned;
}

async function finishOf(generator: AsyncGenerator, { progress, signal }: ServeContext): Promise<unknown> {
  for (let step = await generator.next(); ; step = await generator.next()) {
    if (step.done) return step.value;
    await progress(step.value);
    if (!signal.aborted) continue;
    await generator.return(undefined);
    throw signal.reason;
  }
}

function callerGone(): DOMException {
  return new DOMException("the caller gave up: timeout, abort or its end", "AbortError");
}
