/** Messages in, messages out: a bus for those who speak JSON-RPC themselves. */

import { InvalidConfigError, RpcError } from "../errors.ts";
import { StdioCore } from "./core.ts";
import { type StdioBusOptions, type SubscribeOptions, subscribeOptions } from "./options.ts";
import { cancelJson, cancelledId, progressJson, type Protocol } from "./protocol.ts";
import { errorJson, fromJson, kindOf, type Question, RPC, type RpcId, type RpcMessage, settle, toJson } from "./rpc.ts";
import { Subscription } from "./subscription.ts";

const CANCELLED = new RpcError(RPC.requestCancelled, "the request was cancelled");
const nothing = (): void => {};

/**
 * A `StdioBus` whose every message is a text of JSON. What is sent goes to a worker (`pool` and `sessionId` of the message
 * choose it); responses, progress, notifications and requests of workers come out of {@link subscribe}, and a response that is
 * sent answers such a request. A request that the bus cannot have answered gets an error with its own id.
 *
 *     const bus = await RawStdioBus.start({ pools: [{ id: "py", command: "python3", args: ["worker.py"] }] });
 *     const messages = bus.subscribe();
 *     bus.send('{"jsonrpc":"2.0","id":"a1","method":"echo","params":{"m":1}}');
 *     for await (const message of messages) …
 */
export class RawStdioBus extends StdioCore {
  /** Requests of workers that were told and not answered. */
  readonly #questions = new Map<RpcId, Question>();
  /** Requests that were sent and not answered; of equal ids the last. */
  readonly #requests = new Map<RpcId, AbortController>();
  #asked = 0;

  /** As `StdioBus.start`. */
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
   * Sends a message: text, or an object that is written as JSON.
   *
   * @throws {InvalidConfigError} for what is no message, and for a response that nobody waits for;
   * {@link ClosedError}. All else is told by a message.
   */
  send(message: string | RpcMessage): void {
    const parsed = typeof message === "string" ? fromJson<RpcMessage>(message, "the message") : message;
    const kind = kindOf(parsed);
    if (kind === "nothing") throw new InvalidConfigError("this is no message of JSON-RPC.");
    this.checkOpen();
    if (kind === "response") {
      const question = this.#questions.get(parsed.id!);
      if (!question) throw new InvalidConfigError(`no worker waits for an answer to ${JSON.stringify(parsed.id)}.`);
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
    // Of the other protocols the sender chooses a token, and the worker tells it.
    const ofId = { onProgress: (piece: unknown): unknown => this.#emit(progressJson(protocol, id, piece)) };
    this.forward(
      parsed,
      { signal, ...(protocol.token === "id" && ofId) },
      (response) => settled(toJson(response, "a response")),
      (error) => settled(errorJson(id, error)),
    );
  }

  /** Tells a worker's request; {@link send} of a response answers it. */
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

  /** Messages from now on. Any number of readers, each with all of them; policies as {@link SubscribeOptions} says. */
  subscribe(options: SubscribeOptions = {}): Subscription<string> {
    const resolved = subscribeOptions.resolve(options);
    this.checkOpen();
    const { audience } = this;
    const leave = (closed: Subscription<string>): void => void audience.readers.delete(closed);
    const subscription = new Subscription<string>(resolved, leave, () => audience.lost++);
    audience.readers.add(subscription);
    return subscription;
  }

  /** Returns a promise when the worker that told should not be read on. */
  #emit(json: string): Promise<unknown> | null {
    let room: Promise<unknown> | null = null;
    for (const subscription of this.audience.readers) {
      const wait = subscription.push(json);
      if (wait) room = room ? Promise.all([room, wait]) : wait;
    }
    return room;
  }
}
