/** slotbus/events: what happened, told to all members of a fleet. */

export { Fleet, type FleetObserveOptions, type FleetOptions } from "../fleet/fleet.ts";
export type { FleetMember } from "../native/fleet.ts";
export type { FleetSizes, RingOptions } from "../fleet/options.ts";
export type { Bookmark, From } from "../fleet/reader.ts";
export { Cursor, type CursorItem, type CursorOptions, type Frame, type Ring } from "../fleet/ring.ts";
export { Binding, type BindingCounts, type BindingOptions } from "./binding.ts";
export { EventBus, type EventBusOptions, type LocalBusOptions, type PublishOptions } from "./bus.ts";
export { all, and, equals, type Filter, not, or, topic, where } from "./filter.ts";
export type { Attributes, AttributeValue, BusEvent } from "./codec.ts";
export { type Gap, type SubscribeOptions, Subscription, type SubscriptionCounts } from "./subscription.ts";
export * from "../errors.ts";
