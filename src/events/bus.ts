/** Events with topics over a ring: one publish is seen by every subscriber of every process. */

import { checkOptions } from "../check.ts";
import { checkCodec, type Codec, json } from "../codec.ts";
import { FleetClosedError, InvalidConfigError } from "../errors.ts";
import { Fleet } from "../fleet/fleet.ts";
import type { RingOptions } from "../fleet/options.ts";
import type { Ring } from "../fleet/ring.ts";
import { Binding, type BindingOptions } from "./binding.ts";
import { all, type Filter } from "./filter.ts";
import { type Attributes, type BusEvent, checkId, checkTopic, encodeAttributes, encodeEvent } from "./codec.ts";
import { type SubscribeOptions, Subscription } from "./subscription.ts";

/** Over which ring of which fleet a bus runs. */
export interface EventBusOptions {
  fleet: Fleet;
  /** Name of the ring. Others that use it must use it as a bus too. */
  ring: string;
  /** Turns payloads into bytes. Default JSON. Bytes (`Uint8Array`) and `undefined` travel as they are. */
  codec?: Codec | undefined;
}

/** Size of a bus inside one process. */
export interface LocalBusOptions extends RingOptions {
  codec?: Codec | undefined;
}

/** What an event carries beside its payload. */
export interface PublishOptions {
  /** What subscribers can filter by without decoding the payload. */
  attributes?: Attributes | undefined;
  /** Text of 1 to 255 bytes. Bindings give one to events that have none. */
  id?: string | undefined;
}

const noOptions: PublishOptions = {};

/**
 * A bus of typed events.
 *
 *     const bus = new EventBus<{ "cache.invalid": { key: string } }>({ fleet, ring: "events" });
 *     bus.publish("cache.invalid", { key: "user:7" });
 *     for await (const event of bus.subscribe(topic("cache.*"))) if (event.topic) forget(event.payload.key);
 */
export class EventBus<Topics extends object = Record<string, unknown>> implements AsyncDisposable {
  readonly fleet: Fleet;
  readonly #ring: Ring;
  readonly #codec: Codec;
  readonly #ownsFleet: boolean;
  readonly #forget: () => void;
  readonly #subscriptions = new Map<number, { close(): void }>();
  readonly #bindings = new Set<Binding>();
  #nextId = 0;
  #published = 0;
  #open = true;

  /** A bus of this thread alone, without a file: a fleet in memory with one ring, which `close` leaves. */
  static local<Topics extends object = Record<string, unknown>>(options: LocalBusOptions = {}): EventBus<Topics> {
    const { codec, frames = 4_096, payload = 512 } = checkOptions("a local bus", options);
    const name = `local-${crypto.randomUUID()}`;
    const fleet = Fleet.joinNow({ name, memory: true, members: 1, leases: 1, rings: { events: { frames, payload } } });
    try {
      return new EventBus<Topics>({ fleet, ring: "events", codec }, true);
    } catch (error) {
      void fleet.leave();
      throw error;
    }
  }

  /** @throws {InvalidConfigError}, {@link FleetClosedError} */
  constructor(options: EventBusOptions);
  /** @internal */
  constructor(options: EventBusOptions, ownsFleet: boolean);
  constructor(options: EventBusOptions, ownsFleet = false) {
    const { fleet, ring, codec = json } = checkOptions("an event bus", options);
    if (!(fleet instanceof Fleet)) throw new InvalidConfigError("an event bus needs `fleet`, of Fleet.join.");
    this.fleet = fleet;
    this.#ring = fleet.ring(ring);
    this.#codec = codec === json ? json : checkCodec(codec);
    this.#ownsFleet = ownsFleet;
    this.#forget = fleet.onLeave(() => this.#close());
  }

  get isOpen(): boolean {
    return this.#open;
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
   * {@link FleetBusyError}; {@link FleetClosedError}; what the codec throws. Then nothing was published.
   */
  publish<T extends keyof Topics & string>(topic: T, payload: Topics[T], options: PublishOptions = noOptions): void {
    this.#checkOpen();
    const bytes = checkTopic(topic);
    const { attributes, id } = checkOptions("a publish", options);
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
   * @throws {InvalidConfigError}; {@link FleetClosedError}; `signal.reason`.
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
    if (subscription.isOpen) this.#subscriptions.set(id, subscription);
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
   * @throws {InvalidConfigError}; {@link FleetClosedError}.
   */
  bind(options: BindingOptions<Topics>): Binding {
    this.#checkOpen();
    if (this.fleet.isObserver) throw new InvalidConfigError("an observer publishes nothing: there is nothing to bind.");
    const forget = (closed: Binding): void => void this.#bindings.delete(closed);
    const binding = new Binding(this.#ring, this.#codec, options as BindingOptions, forget);
    this.#bindings.add(binding);
    return binding;
  }

  /** Closes subscriptions and bindings. The fleet stays, but that of a local bus. May be called again. */
  async close(): Promise<void> {
    this.#close();
    if (this.#ownsFleet) await this.fleet.leave();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#forget();
    for (const subscription of this.#subscriptions.values()) subscription.close();
    for (const binding of this.#bindings) binding.close();
  }

  #checkOpen(): void {
    if (!this.#open) throw new FleetClosedError("the event bus", "Make a new one, of a fleet that is joined.");
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
