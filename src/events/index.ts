/** slotbus/events: publish and subscribe between processes of one machine. */

export { Fleet } from "../fleet/fleet.ts";
export type { FleetMember } from "../native/fleet.ts";
export type {
  CursorOptions,
  FleetObserveOptions,
  FleetOptions,
  FleetSizes,
  FleetVia,
  PortableFleetOptions,
  RingOptions,
} from "../fleet/options.ts";
export type { PortableFleet } from "../fleet/portable.ts";
export type { Bookmark, From } from "../fleet/event-ring.ts";
export { Cursor, type CursorItem, type Frame, type Ring } from "../fleet/ring.ts";
export { Binding, type BindingCounts } from "./binding.ts";
export { EventBus } from "./bus.ts";
export { all, and, equals, type Filter, not, or, topic, where } from "./filter.ts";
export type { Attributes, AttributeValue, BusEvent } from "./codec.ts";
export type {
  BindingOptions,
  EventBusOptions,
  LocalBusOptions,
  PortableEventBusOptions,
  PublishOptions,
  SubscribeOptions,
} from "./options.ts";
export type { PortableEventBus, PortableSubscription } from "./portable.ts";
export { type Gap, Subscription, type SubscriptionCounts } from "./subscription.ts";
export * from "../errors.ts";
