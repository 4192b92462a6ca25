/** Typed events over a ring: every subscriber in every process gets each published event. */

import { checkOptions } from "../check.ts";
import { type Codec, json } from "../codec.ts";
import { ClosedError, InvalidConfigError } from "../errors.ts";
import { overNats } from "../fleet/nats.ts";
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
  type PortableEventBusOptions,
  localBusOptions,
  type PublishOptions,
  publishOptions,
  type SubscribeOptions,
} from "./options.ts";
import type { PortableEventBus } from "./portable.ts";
import { Subscription } from "./subscription.ts";

const noOptions: PublishOptions = {};

/**
 * Publishes events with topics and typed payloads to the subscribers of all processes of a fleet.
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

  /** Opens a bus on a ring of a fleet. @throws (rejects) {InvalidConfigError}, {@link ClosedError} */
  static open<Topics extends object = Record<string, unknown>>(options: EventBusOptions): Promise<EventBus<Topics>>;
  /** Opens a bus on a fleet of any engine. @throws (rejects) as above; `DISCONNECTED` */
  static open<Topics extends object = Record<string, unknown>>(
    options: PortableEventBusOptions,
  ): Promise<PortableEventBus<Topics>>;
  static async open<Topics extends object = Record<string, unknown>>(
    options: PortableEventBusOptions,
  ): Promise<EventBus<Topics> | PortableEventBus<Topics>> {
    const { fleet, ring, codec } = eventBusOptions.resolve(options as EventBusOptions);
    const far = overNats(fleet);
    if (!far) return new EventBus<Topics>(fleet.ring(ring), codec ?? json);
    const { NatsEventBus } = await import("./nats/bus.ts");
    return NatsEventBus.open<Topics>(far, ring, (carrier) => new EventBus<Topics>(carrier, codec ?? json));
  }

  /** Opens a bus inside this thread. It needs no fleet and no file. @throws (rejects) {InvalidConfigError} */
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

  /** Whether the bus or its fleet is closed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Number of events published through this object. */
  get published(): number {
    return this.#published;
  }

  /** Number of open subscriptions of this object. */
  get subscriptions(): number {
    return this.#subscriptions.size;
  }

  /**
   * Publishes an event to all subscribers of all members. Never waits for subscribers, and succeeds without any. Waits
   * microseconds for another publisher of the ring, and up to 1 s if that publisher was stopped (SIGSTOP) while it
   * published.
   *
   * @throws {InvalidConfigError} if the topic, the id or the attributes are invalid; {@link PayloadTooLargeError};
   * {@link FleetBusyError}; {@link ClosedError}; errors of the codec. If it throws, nothing was published.
   */
  publish<T extends keyof Topics & string>(topic: T, payload: Topics[T], options: PublishOptions = noOptions): void {
    this.#checkOpen();
    const bytes = checkTopic(topic);
    if (options !== noOptions) checkPublish(options);
    const { attributes, id } = options;
    const text = attributes === undefined ? "" : encodeAttributes(attributes);
    let known: string | null = id === undefined ? null : checkId(id);
    if (this.#bindings.size > 0) known = this.#bindId(topic, payload, attributes, known);
    this.#ring.send(encodeEvent(this.#ring, bytes, known, text, payload, this.#codec), 0, topic);
    this.#published++;
  }

  /**
   * Subscribes to the events that match the filter, from now on or from the place `from`. A filter for one topic
   * narrows the type of the events. For other filters, name the topics:
   *
   *     bus.subscribe<"order.paid" | "order.sent">(topic("order.*"));
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

  /** Subscribes to all events. */
  subscribeAll(options: SubscribeOptions = {}): Subscription<BusEvent<Topics>> {
    return this.subscribe(all(), options);
  }

  /** Closes the subscription with this id. Does nothing if it does not exist. */
  unsubscribe(id: number): void {
    this.#subscriptions.get(id)?.close();
  }

  /**
   * Adds ids to events that this bus publishes without one. An event of the topic `on`, published by any process, binds
   * a key to an id; later events with this key in their attributes get the id. Call it in every process that publishes
   * such events.
   *
   *     bus.bind({ on: "session.opened", key: ["connector", "session"], id: "user", unbindOn: "session.closed" });
   *
   * @throws {InvalidConfigError}; {@link ClosedError}.
   */
  bind(options: BindingOptions<Topics>): Binding {
    this.#checkOpen();
    if (this.#ring.isObserver) {
      throw new InvalidConfigError("An observer cannot bind ids, because it cannot publish events.", {
        hint: "Join the fleet with `Fleet.join`.",
      });
    }
    const forget = (closed: Binding): void => void this.#bindings.delete(closed);
    const binding = new Binding(this.#ring, this.#codec, bindOptions.resolve(options as BindingOptions), forget);
    this.#bindings.add(binding);
    return binding;
  }

  /** Closes the bus with its subscriptions and bindings, but not the fleet. Calling it again does nothing. */
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
      throw new ClosedError("The event bus", { hint: "Open another bus, on a fleet that is still open." });
  }

  /**
   * Returns the id of an event: of its payload for a binding event, else the given id, else the id bound to its key.
   */
  #bindId(topic: string, payload: unknown, attributes: Attributes | undefined, id: string | null): string | null {
    for (const binding of this.#bindings) {
      binding.learn();
      id ??= binding.find(attributes);
    }
    for (const binding of this.#bindings) id = binding.ownId(topic, payload) ?? id;
    return id;
  }
}

/** Runs for each publish with options, so it does not allocate a list of their keys. */
function checkPublish(options: PublishOptions): void {
  for (const key in checkOptions("publish()", options))
    if (key !== "attributes" && key !== "id") publishOptions.check(options);
}
