/** The event bus that `EventBus.open` returns for a fleet on a NATS server. */

import { ClosedError } from "../../errors.ts";
import type { EventRing } from "../../fleet/event-ring.ts";
import { type NatsFleet, unsupported } from "../../fleet/nats.ts";
import { checkRingName } from "../../fleet/options.ts";
import type { BusEvent } from "../codec.ts";
import { all, type Filter } from "../filter.ts";
import type { PublishOptions, SubscribeOptions } from "../options.ts";
import type { PortableEventBus, PortableSubscription } from "../portable.ts";
import { NatsRing } from "./ring.ts";

/** Longest wait for the server to know a subscription, in ms. */
const KNOWN_MS = 5_000;

/** @internal */
export class NatsEventBus<Topics extends object> implements PortableEventBus<Topics> {
  readonly #ring: NatsRing;
  readonly #bus: PortableEventBus<Topics>;

  /** `over` makes a bus on any ring. */
  static async open<Topics extends object>(
    fleet: NatsFleet,
    ring: string,
    over: (ring: EventRing) => PortableEventBus<Topics>,
  ): Promise<NatsEventBus<Topics>> {
    if (fleet.closed) throw new ClosedError(`Fleet "${fleet.name}"`);
    const carrier = new NatsRing(fleet, checkRingName(ring));
    return new NatsEventBus(carrier, over(carrier));
  }

  private constructor(ring: NatsRing, bus: PortableEventBus<Topics>) {
    this.#ring = ring;
    this.#bus = bus;
    ring.onClose(() => this.close());
  }

  get closed(): boolean {
    return this.#bus.closed;
  }

  /** As `EventBus.publish`; also throws `DISCONNECTED`: then nothing was published. */
  publish<T extends keyof Topics & string>(topic: T, payload: Topics[T], options?: PublishOptions): void {
    void this.#bus.publish(topic, payload, options);
  }

  /** As `EventBus.subscribe`. Resolves when the server knows the subscription: every later event arrives. */
  async subscribe<T extends keyof Topics>(
    filter: Filter<never>,
    options?: SubscribeOptions,
  ): Promise<PortableSubscription<BusEvent<Topics, T>>> {
    const subscription = await this.#bus.subscribe<T>(filter, options);
    try {
      await this.#ring.flush(KNOWN_MS);
    } catch (error) {
      await subscription.close();
      throw error;
    }
    return subscription;
  }

  subscribeAll(options?: SubscribeOptions): Promise<PortableSubscription<BusEvent<Topics>>> {
    return this.subscribe<keyof Topics>(all(), options);
  }

  /** Ids bound to keys, which needs one order of all events. @throws {UnsupportedError} */
  bind(): never {
    throw unsupported("`bind`");
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.#ring.close();
    await this.#bus.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
