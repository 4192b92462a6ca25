/** The worker's side of a stdio bus: reads requests, runs handlers, writes responses. */

import { RpcError } from "../errors.ts";
import type { Fault, Framing } from "./framing.ts";
import { type PeerOwner, PeerRequest, RpcPeer } from "./peer.ts";
import { errorJson, READY, RPC, type RpcMessage } from "./rpc.ts";
import type { BytePair } from "./writer.ts";

/** Context of a call, for its handler; the same over stdio and over a bus. Its functions can be called without `this`. */
export interface ServeContext {
  readonly method: string;
  /** The caller's `key`, if it set one. */
  readonly key: string | undefined;
  /** Aborted when the caller cancels, times out or disconnects. */
  readonly signal: AbortSignal;
  /** Sends progress to the caller. Resolves when more can be sent; await it to keep the queue short. */
  readonly progress: (value: unknown) => Promise<void>;
  /** Sends a notification to the host. */
  readonly notify: (method: string, params?: unknown) => Promise<void>;
}

/**
 * Handles a call. The result is its return value, or the error that it throws; an {@link RpcError} keeps its code and data. In
 * an async generator each `yield` sends progress, and the return value is the result.
 */
export type ServeHandler = { handle(params: unknown, context: ServeContext): unknown }["handle"];

/** Handlers by method. */
export type ServeHandlers = Readonly<Record<string, ServeHandler>>;

/** Longest message from the host, in bytes. */
const MESSAGE_MAX = 2 ** 30;
/** Bytes of unwritten responses at which the worker stops reading. */
const QUEUED_MAX = 2 ** 20;
/** Number of messages after which responses are written before more are handled, so that the host can already work on them. */
const WRITE_EVERY = 8;
const READY_JSON = `{"jsonrpc":"2.0","method":"${READY}","params":{"slotbus":1}}`;

/** Serves handlers on a pair of byte streams. */
export class StdioWorker implements PeerOwner<never> {
  /** Resolves when input has ended or {@link stop} was called, and all responses are written. */
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

  /** Stops reading. Running calls finish. */
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
      // A broken pipe counts as the end of input.
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
    this.#peer.post(errorJson(null, new RpcError(RPC.invalidRequest, "this is not a request")));
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

  /** Runs a notification's handler. Its result is ignored, its error is logged. */
  notified(message: RpcMessage): null {
    const handler = this.#handlerOf(message);
    if (!handler) return null;
    const done = this.#peer.begin();
    const request = new PeerRequest(this.#peer, message);
    Promise.try(() => answerOf(handler(message.params, request), request))
      .catch((error) => console.error(`The handler of the notification ${message.method} failed:`, error))
      .finally(done);
    return null;
  }

  #handlerOf({ method }: RpcMessage): ServeHandler | undefined {
    return Object.hasOwn(this.#handlers, method!) ? this.#handlers[method!] : undefined;
  }

  /** The host no longer reads responses. */
  broken(): void {
    this.#peer.stopWriting(callerGone());
    this.stop();
  }

  answered(): void {} // a worker sends no requests
}

/** Returns the result of a handler; for a generator, a promise of its return value. */
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
  return new DOMException("The caller gave up: it cancelled the request, timed out or disconnected.", "AbortError");
}
