/** Events with topics over a ring: one publish is seen by every subscriber of every process. */

import { checkOptions } from "../check.ts";
import { type Codec, json } from "../codec.ts";
import { ClosedError, InvalidConfigError } from "../errors.ts";
import type { EventRing } from "../fleet/event-ring.ts";
import { Binding } from "./binding.ts";
import { all, type Filter } from "./filter.ts";
import { type Attributes, type BusEvent, checkId, checkTopic, encodeAttributes, encodeEvent } from "./codec.ts";
import { LocalRing } from "./local-ring.ts";
import {
  bindOptions,
  type BindingOptions,
  type EventBusOptions,
  eventBusOptions,
  type LocalBusOptions,
  localBusOptions,
  type PublishOptions,
  publishOptions,
  type SubscribeOptions,
} from "./options.ts";
import type { PortableEventBus } from "./portable.ts";
import { Subscription } from "./subscription.ts";

const noOptions: PublishOptions = {};

/**
 * A bus of typed events.
 *
 *     await using bus = await EventBus.open<{ "cache.invalid": { key: string } }>({ fleet, ring: "events" });
 *     bus.publish("cache.invalid", { key: "user:7" });
 *     for await (const event of bus.subscribe(topic("cache.*"))) if (event.topic) forget(event.payload.key);
 */
export class EventBus<Topics extends object = Record<string, unknown>> implements PortableEventBus<Topics> {
  readonly #ring: EventRing;
  readonly #codec: Codec;
  readonly #forget: () => void;
  readonly #subscriptions = new Map<number, { close(): void }>();
  readonly #bindings = new Set<Binding>();
  #nextId = 0;
  #published = 0;
  #closed = false;

  /** Opens a bus over a ring of a fleet. @throws (rejects) {InvalidConfigError}, {@link ClosedError} */
  static async open<Topics extends object = Record<string, unknown>>(
    options: EventBusOptions,
  ): Promise<EventBus<Topics>> {
    const { fleet, ring, codec } = eventBusOptions.resolve(options);
    return new EventBus<Topics>(fleet.ring(ring), codec ?? json);
  }

  /** Opens a bus of this thread alone, which needs neither a file nor a fleet. @throws (rejects) {InvalidConfigError} */
  static async local<Topics extends object = Record<string, unknown>>(
    options: LocalBusOptions = {},
  ): Promise<EventBus<Topics>> {
    const { maxEvents, payloadBytes, codec } = localBusOptions.resolve(options);
    return new EventBus<Topics>(new LocalRing(maxEvents, payloadBytes), codec ?? json);
  }

  private constructor(ring: EventRing, codec: Codec) {
    this.#ring = ring;
    this.#codec = codec;
    this.#forget = ring.onClose(() => this.#close());
  }

  /** Whether it was closed, or its fleet was. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Events published through this bus. */
  get published(): number {
    return this.#published;
  }

  /** Subscriptions that are open. */
  get subscriptions(): number {
    return this.#subscriptions.size;
  }

  /**
   * Publishes an event to all subscribers of all members. Waits for none of them; nobody there is no error. It waits for
   * another publisher, for microseconds; for one that is stopped in the middle, 1 s.
   *
   * @throws {InvalidConfigError} for a topic, an id or attributes that cannot be; {@link PayloadTooLargeError};
   * {@link FleetBusyError}; {@link ClosedError}; what the codec throws. Then nothing was published.
   */
  publish<T extends keyof Topics & string>(topic: T, payload: Topics[T], options: PublishOptions = noOptions): void {
    this.#checkOpen();
    const bytes = checkTopic(topic);
    if (options !== noOptions) checkPublish(options);
    const { attributes, id } = options;
    const text = attributes === undefined ? "" : encodeAttributes(attributes);
    let known: string | null = id === undefined ? null : checkId(id);
    if (this.#bindings.size > 0) known = this.#bindId(topic, payload, attributes, known);
    this.#ring.send(encodeEvent(this.#ring, bytes, known, text, payload, this.#codec), 0);
    this.#published++;
  }

  /**
   * The events that pass the filter, from now on or from where `from` says. A filter of one topic narrows the type; with
   * another one name the topics: `bus.subscribe<"order.paid" | "order.sent">(topic("order.*"))`.
   *
   * @throws {InvalidConfigError}; {@link ClosedError}; `signal.reason`.
   */
  subscribe<T extends keyof Topics = keyof Topics>(
    filter: Filter<never>,
    options?: SubscribeOptions,
  ): Subscription<BusEvent<Topics, T>>;
  subscribe<T extends keyof Topics & string>(
    filter: { readonly topic: T },
    options?: SubscribeOptions,
  ): Subscription<BusEvent<Topics, T>>;
  subscribe<T extends keyof Topics>(filter: Filter, options: SubscribeOptions = {}): Subscription<BusEvent<Topics, T>> {
    this.#checkOpen();
    const id = this.#nextId;
    const forget = (closed: number): void => void this.#subscriptions.delete(closed);
    const subscription = new Subscription<BusEvent<Topics, T>>(id, this.#ring, filter, this.#codec, options, forget);
    this.#nextId++;
    if (!subscription.closed) this.#subscriptions.set(id, subscription);
    return subscription;
  }

  /** All events. */
  subscribeAll(options: SubscribeOptions = {}): Subscription<BusEvent<Topics>> {
    return this.subscribe(all(), options);
  }

  /** Closes the subscription of that id; one that is unknown, or closed, is none. */
  unsubscribe(id: number): void {
    this.#subscriptions.get(id)?.close();
  }

  /**
   * Gives ids to events that this bus publishes: `on` names the events that tell which id a key has, whoever publishes
   * them. Each process that publishes declares it.
   *
   *     bus.bind({ on: "session.opened", key: ["connector", "session"], id: "user", unbindOn: "session.closed" });
   *
   * @throws {InvalidConfigError}; {@link ClosedError}.
   */
  bind(options: BindingOptions<Topics>): Binding {
    this.#checkOpen();
    if (this.#ring.isObserver) throw new InvalidConfigError("an observer publishes nothing: there is nothing to bind.");
    const forget = (closed: Binding): void => void this.#bindings.delete(closed);
    const binding = new Binding(this.#ring, this.#codec, bindOptions.resolve(options as BindingOptions), forget);
    this.#bindings.add(binding);
    return binding;
  }

  /** Closes subscriptions and bindings. The fleet stays. May be called again. */
  async close(): Promise<void> {
    this.#close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#forget();
    for (const subscription of this.#subscriptions.values()) subscription.close();
    for (const binding of this.#bindings) binding.close();
  }

  #checkOpen(): void {
    if (this.#closed)
      throw new ClosedError("the event bus", { hint: "Open another one, over a fleet that is joined." });
  }

  /** First the key is looked up, if there is no id; then a binding event takes the id that it binds. */
  #bindId(topic: string, payload: unknown, attributes: Attributes | undefined, id: string | null): string | null {
    for (const binding of this.#bindings) {
      binding.learn();
      id ??= binding.find(attributes);
    }
    for (const binding of this.#bindings) id = binding.ownId(topic, payload) ?? id;
    return id;
  }
}

/** Each publish comes here that has options: no list of their keys is made. */
function checkPublish(options: PublishOptions): void {
  for (const key in checkOptions("a publish", options))
    if (key !== "attributes" && key !== "id") publishOptions.check(options);
}
