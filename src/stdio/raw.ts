/** Messages in, messages out: a bus for those who speak JSON-RPC themselves. */

import type { StopOptions } from "../supervisor/options.ts";
import { InvalidConfigError } from "../errors.ts";
import { type BusStateValue, type PoolExitReport, StdioBus } from "./bus.ts";
import type { StdioBusOptions } from "./config.ts";
import {
  cancelJson,
  errorJson,
  fromJson,
  kindOf,
  progressJson,
  type Question,
  type RpcId,
  type RpcMessage,
  settle,
  toJson,
} from "./rpc.ts";
import type { StdioStats } from "./stats.ts";
import { type SubscribeOptions, Subscription } from "./subscription.ts";

/**
 * A {@link StdioBus} whose every message is a text of JSON. What is sent goes to a worker (`pool` and `sessionId` of the message
 * choose it); responses, progress, notifications and requests of workers come out of {@link subscribe}, and a response that is
 * sent answers such a request. A request that the bus cannot have answered gets an error with its own id.
 *
 *     const bus = new RawStdioBus({ pools: [{ id: "py", command: "python3", args: ["worker.py"] }] });
 *     await bus.start();
 *     const messages = bus.subscribe();
 *     bus.send('{"jsonrpc":"2.0","id":"a1","method":"echo","params":{"m":1}}');
 *     for await (const message of messages) …
 */
export class RawStdioBus implements AsyncDisposable {
  readonly #bus: StdioBus;
  readonly #subscriptions = new Set<Subscription<string>>();
  /** Requests of workers that were told and not answered. */
  readonly #questions = new Map<RpcId, Question>();
  #asked = 0;
  #dropped = 0;

  /** As those of {@link StdioBus}. @throws {InvalidConfigError} */
  constructor(options: StdioBusOptions) {
    this.#bus = new StdioBus(options);
    this.#bus.onRequest("*", (_, { message, signal }) => this.#ask(message, signal));
    this.#bus.audience.onNotification = (message) => this.#emit(toJson(message, "a notification"));
  }

  get state(): BusStateValue {
    return this.#bus.state;
  }

  /** Workers that take messages now. */
  get workerCount(): number {
    return this.#bus.workerCount;
  }

  /** Always 0: nobody but this process asks. */
  get clientCount(): number {
    return this.#bus.clientCount;
  }

  get backendType(): "process" {
    return this.#bus.backendType;
  }

  /** As {@link StdioBus.stats}; `dropped` counts messages. */
  stats(): StdioStats {
    const stats = this.#bus.stats();
    return { ...stats, dropped: stats.dropped + this.#dropped };
  }

  /** As {@link StdioBus.start}. */
  start(): Promise<void> {
    return this.#bus.start();
  }

  /** As {@link StdioBus.stop}; subscriptions end behind their last message. */
  async stop(options?: StopOptions): Promise<PoolExitReport[]> {
    const stopping = this.#bus.stop(options);
    if (!this.#bus.isRunning) for (const subscription of this.#subscriptions) subscription.release();
    const reports = await stopping;
    for (const subscription of this.#subscriptions) subscription.close();
    return reports;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** As {@link StdioBus.ref}. */
  ref(): void {
    this.#bus.ref();
  }

  unref(): void {
    this.#bus.unref();
  }

  /**
   * Sends a message: text, or an object that is written as JSON.
   *
   * @throws {InvalidConfigError} for what is no message, and for a response that nobody waits for;
   * {@link InvalidStateError} unless the bus is RUNNING. All else is told by a message.
   */
  send(message: string | RpcMessage): void {
    const parsed = typeof message === "string" ? fromJson<RpcMessage>(message, "the message") : message;
    const kind = kindOf(parsed);
    if (kind === "nothing") throw new InvalidConfigError("this is no message of JSON-RPC.");
    this.#bus.checkRunning("send");
    if (kind === "response") {
      const question = this.#questions.get(parsed.id!);
      if (!question) throw new InvalidConfigError(`no worker waits for an answer to ${JSON.stringify(parsed.id)}.`);
      this.#questions.delete(parsed.id!);
      return settle(question, parsed);
    }
    const id = parsed.id ?? null;
    const onProgress = (value: unknown): unknown => this.#emit(progressJson(id, value));
    this.#bus.forward(
      parsed,
      { onProgress },
      (response) => response && this.#emit(toJson(response, "a response")),
      (error) => this.#emit(errorJson(id, error)),
    );
  }

  /** Tells a worker's request; {@link send} of a response answers it. */
  #ask(message: RpcMessage, signal: AbortSignal): Promise<unknown> {
    const question: Question = Promise.withResolvers<unknown>();
    const id = `w${++this.#asked}`;
    const json = toJson({ ...message, id }, "a request");
    this.#questions.set(id, question);
    signal.addEventListener("abort", () => {
      if (!this.#questions.delete(id)) return;
      void this.#emit(cancelJson(id));
      question.reject(signal.reason);
    });
    void this.#emit(json);
    return question.promise;
  }

  /** Messages from now on. Any number of readers, each with all of them; policies as {@link SubscribeOptions} says. */
  subscribe(options: SubscribeOptions = {}): Subscription<string> {
    const subscription = new Subscription<string>(
      options,
      (closed) => this.#subscriptions.delete(closed),
      () => this.#dropped++,
    );
    this.#subscriptions.add(subscription);
    return subscription;
  }

  /** Returns a promise when the worker that told should not be read on. */
  #emit(json: string): Promise<unknown> | null {
    let room: Promise<unknown> | null = null;
    for (const subscription of this.#subscriptions) {
      const wait = subscription.push(json);
      if (wait) room = room ? Promise.all([room, wait]) : wait;
    }
    return room;
  }
}
