/** Options of event buses, `publish`, `subscribe` and `bind`. */

import { shown } from "../check.ts";
import { checkCodec, type Codec } from "../codec.ts";
import { InvalidConfigError } from "../errors.ts";
import { aFleet } from "../fleet/fleet.ts";
import type { PortableFleet } from "../fleet/portable.ts";
import { from } from "../fleet/options.ts";
import {
  bytes,
  choice,
  custom,
  type Given,
  group,
  integer,
  needed,
  Options,
  optional,
  refuse,
  type Resolved,
  signal,
} from "../options.ts";
import { type Attributes, checkAttribute, checkId, checkTopic, encodeAttributes } from "./codec.ts";

const codec = optional(custom<Codec>(undefined, "a Codec", checkCodec), "JSON");

const eventBusRows = {
  /** The fleet that carries the events. */
  fleet: aFleet,
  /** Name of the ring in the fleet. All members must use this ring through an `EventBus`. */
  ring: needed(custom<string>(undefined, "name of a ring", (ring) => ring)),
  /** Turns payloads into bytes. Bytes (`Uint8Array`) and `undefined` travel as they are. */
  codec,
};

/** Fleet, ring and codec of an event bus. */
export interface EventBusOptions extends Given<typeof eventBusRows> {}

/** Fleet of any engine, ring and codec of an event bus. */
export interface PortableEventBusOptions extends Omit<EventBusOptions, "fleet"> {
  /** The fleet that carries the events. */
  fleet: PortableFleet;
}

/** @internal */
export const eventBusOptions = new Options("an event bus", eventBusRows);

const localBusRows = {
  /** Number of events that are kept for slow subscribers. */
  maxEvents: integer(4_096, 8, 1_048_576),
  /** Size of the largest event, in bytes. */
  payloadBytes: bytes(131_072, 1, 1_073_741_824),
  /** Turns payloads into bytes. Bytes (`Uint8Array`) and `undefined` travel as they are. */
  codec,
};

/** Sizes and codec of a bus inside one thread. */
export interface LocalBusOptions extends Given<typeof localBusRows> {}

/** @internal */
export const localBusOptions = new Options("a local bus", localBusRows);

const publishRows = {
  /** Values for filters, which read them without decoding the payload. At most 8192 bytes as JSON. */
  attributes: optional(
    custom<Attributes>(undefined, "text, numbers, booleans by name", (value) => (encodeAttributes(value), value)),
  ),
  /** Id of the event. A binding can add an id to events without one. */
  id: optional(custom<string>(undefined, "1 to 255 bytes", checkId)),
};

/** Attributes and id of an event. */
export interface PublishOptions extends Given<typeof publishRows> {}

/** @internal */
export const publishOptions = new Options("publish()", publishRows);

const subscribeRows = {
  /** Where the subscription starts, as for a cursor: `"head"` at new events, `"oldest"` at the oldest in the ring. */
  from,
  queue: group({
    /**
     * Largest number of events that wait in memory for the reader; they are copied out of the ring as they arrive. With
     * 0 there is no queue: each event is read from the ring on demand, and is lost only if the ring overwrites it
     * first.
     */
    limit: integer(256, 0, 1_048_576),
    /**
     * What happens if the queue is full and nobody reads. `"drop-newest"` and `"drop-oldest"` drop an event. `"close"`
     * closes the subscription: after the queued events, reading rejects with {@link EventsLostError}. `"close"` also
     * applies if the ring overwrites events.
     */
    policy: choice("drop-newest", ["drop-newest", "drop-oldest", "close"]),
  }),
  /** Closes the subscription at once when it aborts; reading then rejects with `signal.reason`. */
  signal,
  /** Codec of this subscription, instead of the codec of the bus. */
  codec,
};

/** Where a subscription starts, and what its queue keeps and drops. */
export interface SubscribeOptions extends Given<typeof subscribeRows> {}

/** @internal */
export const subscribeOptions = new Options("a subscription", subscribeRows);

const aTopic = custom<string>(undefined, "a topic", (topic) => (checkTopic(topic), topic));

const bindRows = {
  on: needed(aTopic),
  /** Names of the key's parts: attributes of later events, and fields in a binding event's payload. Not `id`. */
  key: needed(custom<string | readonly string[], readonly string[]>(undefined, "names of attributes", checkKey)),
  /** Field in the payload of a binding event that has the id: text of 1 to 255 bytes. */
  id: needed(
    custom<string>(undefined, "name of a field", (id, name) =>
      typeof id === "string" && id !== "" ? id : refuse(name, id, "the name of a field"),
    ),
  ),
  unbindOn: optional(aTopic),
  /** Largest number of bound keys. Above it, the least recently used key is discarded. */
  maxKeys: integer(65_536, 1, 1_048_576),
};

function checkKey(key: string | readonly string[]): readonly string[] {
  const names = typeof key === "string" ? [key] : key;
  if (!Array.isArray(names) || names.length === 0) {
    throw new InvalidConfigError(`key is ${shown(key)}; it must be the name of an attribute, or a list of names.`);
  }
  return names.map(checkAttribute);
}

/** Which events bind keys to ids, and how many keys are kept. */
export interface BindingOptions<Topics extends object = Record<string, unknown>> extends Omit<
  Given<typeof bindRows>,
  "on" | "unbindOn"
> {
  /** Topic of binding events. A binding event always gets the id in its payload as its own id. */
  on: keyof Topics & string;
  /** Topic of events that unbind a key. They have the key in their payload or attributes. */
  unbindOn?: (keyof Topics & string) | undefined;
}

/** @internal */
export type ResolvedBinding = Resolved<typeof bindRows>;

/** @internal */
export const bindOptions = new Options("a binding", bindRows);
