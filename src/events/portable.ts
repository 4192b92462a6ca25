/** Event buses of any engine. Use these types if your program may move to another engine later. */

import type { BusEvent } from "./codec.ts";
import type { Filter } from "./filter.ts";
import type { PublishOptions, SubscribeOptions } from "./options.ts";
import type { Gap } from "./subscription.ts";

/** A {@link Subscription} of any engine: only the members that every engine has. */
export interface PortableSubscription<E extends object = BusEvent> extends AsyncIterable<E | Gap>, AsyncDisposable {
  readonly closed: boolean;
  readonly lost: number;
  close(): void | Promise<void>;
}

/**
 * An {@link EventBus} of any engine. Its methods may return a promise: `await` their results.
 *
 *     for await (const event of await bus.subscribe(topic("order.*"))) …
 */
export interface PortableEventBus<Topics extends object = Record<string, unknown>> extends AsyncDisposable {
  readonly closed: boolean;
  publish<T extends keyof Topics & string>(
    topic: T,
    payload: Topics[T],
    options?: PublishOptions,
  ): void | Promise<void>;
  subscribe<T extends keyof Topics = keyof Topics>(
    filter: Filter<never>,
    options?: SubscribeOptions,
  ): PortableSubscription<BusEvent<Topics, T>> | Promise<PortableSubscription<BusEvent<Topics, T>>>;
  subscribe<T extends keyof Topics & string>(
    filter: { readonly topic: T },
    options?: SubscribeOptions,
  ): PortableSubscription<BusEvent<Topics, T>> | Promise<PortableSubscription<BusEvent<Topics, T>>>;
  subscribeAll(
    options?: SubscribeOptions,
  ): PortableSubscription<BusEvent<Topics>> | Promise<PortableSubscription<BusEvent<Topics>>>;
  close(): Promise<void>;
}
