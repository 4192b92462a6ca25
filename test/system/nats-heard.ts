/** What subscriptions over NATS got: events, and gaps. */

import type { Filter, PortableEventBus, SubscribeOptions } from "../../src/events/index.ts";

/** What a subscription got so far. */
export interface Heard {
  readonly events: unknown[];
  /** Number of events that its gaps tell. */
  lost: number;
  /** Number of gaps with an unknown number of events. */
  unknown: number;
  readonly subscription: { close(): void | Promise<void> };
  readonly done: Promise<void>;
}

export async function hear(bus: PortableEventBus, filter: Filter, options?: SubscribeOptions): Promise<Heard> {
  const subscription = await bus.subscribe(filter, options);
  const heard = { events: [] as unknown[], lost: 0, unknown: 0, subscription, done: Promise.resolve() };
  heard.done = (async () => {
    for await (const item of subscription) {
      if (item.topic !== null) heard.events.push(item.payload);
      else {
        heard.lost += item.overwritten + item.dropped;
        if (item.epoch !== undefined) heard.unknown++;
      }
    }
  })();
  return heard;
}
