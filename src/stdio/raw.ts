/** A stdio bus that takes and gives whole JSON-RPC messages. */

import { shown } from "../check.ts";
import { InvalidConfigError, RpcError } from "../errors.ts";
import { StdioCore } from "./core.ts";
import { type StdioBusOptions, type SubscribeOptions, subscribeOptions } from "./options.ts";
import { cancelJson, cancelledId, progressJson, type Protocol } from "./protocol.ts";
import { errorJson, fromJson, kindOf, type Question, RPC, type RpcId, type RpcMessage, settle, toJson } from "./rpc.ts";
import { Subscription } from "./subscription.ts";

const CANCELLED = new RpcError(RPC.requestCancelled, "the request was cancelled");
const nothing = (): void => {};

/**
 * A `StdioBus` for whole JSON-RPC messages as text. {@link send} passes a message to a worker; its members `pool` and
 * `sessionId` choose which one. {@link subscribe} yields the workers' responses, progress, notifications and requests. Send a
 * response to answer a worker's request. If no worker can answer a request, its response is an error with the id of the
 * request.
 *
 *     const bus = await RawStdioBus.start({ pools: [{ id: "py", command: "python3", args: ["worker.py"] }] });
 *     const messages = bus.subscribe();
 *     bus.send('{"jsonrpc":"2.0","id":"a1","method":"echo","params":{"m":1}}');
 *     for await (const message of messages) …
 */
export class RawStdioBus extends StdioCore {
  /** Open requests of workers, by the id that subscribers see. */
  readonly #questions = new Map<RpcId, Question>();
  /** Open requests by id; with equal ids, the latest. */
  readonly #requests = new Map<RpcId, AbortController>();
  #asked = 0;

  /** Starts all workers, as `StdioBus.start` does. */
  static start(options: StdioBusOptions): Promise<RawStdioBus> {
    return Promise.try(() => new RawStdioBus(options).begin());
  }

  protected override async begin(): Promise<this> {
    await super.begin();
    this.audience.onRequest("*", (_, { message, signal, pool }) => this.#ask(message, signal, this.protocolOf(pool)));
    this.audience.onNotification = (message) => this.#emit(toJson(message, "a notification"));
    return this;
  }

  /**
   * Sends a message, given as JSON text or as an object.
   *
   * @throws {InvalidConfigError} when it is not a message, or is a response that no worker waits for; {@link ClosedError}. All
   * other errors are messages to the subscribers.
   */
  send(message: string | RpcMessage): void {
    const parsed = typeof message === "string" ? fromJson<RpcMessage>(message, "The message") : message;
    const kind = kindOf(parsed);
    if (kind === "nothing") throw new InvalidConfigError(`${shown(parsed)} is not a JSON-RPC message.`);
    this.checkOpen();
    if (kind === "response") {
      const question = this.#questions.get(parsed.id!);
      if (!question)
        throw new InvalidConfigError(`No worker waits for a response with the id ${JSON.stringify(parsed.id)}.`);
      this.#questions.delete(parsed.id!);
      return settle(question, parsed);
    }
    const id = parsed.id ?? null;
    const protocol = this.protocolOf(parsed["pool"]);
    if (kind === "notification") {
      if (parsed.method === protocol.cancel) this.#requests.get(cancelledId(protocol, parsed.params))?.abort(CANCELLED);
      else this.forward(parsed, {}, nothing, (error) => this.#emit(errorJson(null, error)));
      return;
    }
    const controller = new AbortController();
    const { signal } = controller;
    this.#requests.set(id, controller);
    const settled = (json: string): void => {
      if (this.#requests.get(id) === controller) this.#requests.delete(id);
      if (protocol.answersCancelled || !signal.aborted) void this.#emit(json);
    };
    // In other protocols the sender chooses the token, and progress is a notification with that token.
    const ofId = { onProgress: (piece: unknown): unknown => this.#emit(progressJson(protocol, id, piece)) };
    this.forward(
      parsed,
      { signal, ...(protocol.token === "id" && ofId) },
      (response) => settled(toJson(response, "a response")),
      (error) => settled(errorJson(id, error)),
    );
  }

  /** Emits a worker's request. A response passed to {@link send} answers it. */
  #ask(message: RpcMessage, signal: AbortSignal, protocol: Protocol): Promise<unknown> {
    const question: Question = Promise.withResolvers<unknown>();
    const id = `w${++this.#asked}`;
    const json = toJson({ ...message, id }, "a request");
    this.#questions.set(id, question);
    signal.addEventListener("abort", () => {
      if (!this.#questions.delete(id)) return;
      void this.#emit(cancelJson(protocol, id, signal.reason));
      question.reject(signal.reason);
    });
    void this.#emit(json);
    return question.promise;
  }

  /** Subscribes to all messages from now on. Every subscription gets every message. */
  subscribe(options: SubscribeOptions = {}): Subscription<string> {
    const resolved = subscribeOptions.resolve(options);
    this.checkOpen();
    const { audience } = this;
    const leave = (closed: Subscription<string>): void => void audience.readers.delete(closed);
    const subscription = new Subscription<string>(resolved, leave, () => audience.lost++);
    audience.readers.add(subscription);
    return subscription;
  }

  /** Gives a message to all subscriptions. Nothing more is read from the worker until a returned promise resolves. */
  #emit(json: string): Promise<unknown> | null {
    let room: Promise<unknown> | null = null;
    for (const subscription of this.audience.readers) {
      const wait = subscription.push(json);
      if (wait) room = room ? Promise.all([room, wait]) : wait;
    }
    return room;
  }
}
