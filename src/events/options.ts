/** Options of event buses, of a publish, of subscriptions and of bindings. */

import { checkCodec, type Codec } from "../codec.ts";
import { InvalidConfigError } from "../errors.ts";
import { aFleet } from "../fleet/fleet.ts";
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
  /** What carries the events. */
  fleet: aFleet,
  /** Name of the ring. Everybody else who uses this ring must use it as a bus, too. */
  ring: needed(custom<string>(undefined, "name of a ring", (ring) => ring)),
  /** Turns payloads into bytes. Bytes (`Uint8Array`) and `undefined` travel as they are. */
  codec,
};

/** Over which ring of which fleet a bus runs. */
export interface EventBusOptions extends Given<typeof eventBusRows> {}

/** @internal */
export const eventBusOptions = new Options("an event bus", eventBusRows);

const localBusRows = {
  /** Events kept for readers that are behind. */
  maxEvents: integer(4_096, 8, 1_048_576),
  /** Size of the largest event, in bytes. */
  payloadBytes: bytes(131_072, 1, 1_073_741_824),
  /** Turns payloads into bytes. Bytes (`Uint8Array`) and `undefined` travel as they are. */
  codec,
};

/** Size of a bus inside one thread. */
export interface LocalBusOptions extends Given<typeof localBusRows> {}

/** @internal */
export const localBusOptions = new Options("a local bus", localBusRows);

const publishRows = {
  /** What subscribers can filter by without decoding the payload. */
  attributes: optional(
    custom<Attributes>(undefined, "text, numbers, booleans by name", (value) => (encodeAttributes(value), value)),
  ),
  /** Id of the event. Bindings give one to events that have none. */
  id: optional(custom<string>(undefined, "1 to 255 bytes", checkId)),
};

/** What an event carries beside its payload. */
export interface PublishOptions extends Given<typeof publishRows> {}

/** @internal */
export const publishOptions = new Options("a publish", publishRows);

const subscribeRows = {
  /** Where the subscription begins, as for a cursor. */
  from,
  queue: group({
    /**
     * Events kept for the reader; they are taken out of the ring as they come. 0: none, each is taken out of the ring when
     * it is asked for, which loses nothing until the ring itself overwrites it.
     */
    limit: integer(256, 0, 1_048_576),
    /**
     * What happens when the queue is full and nobody reads: `"drop-newest"` and `"drop-oldest"` lose an event; `"close"`
     * ends the subscription with {@link EventsLostError} behind what is queued, also when the ring overwrites.
     */
    policy: choice("drop-newest", ["drop-newest", "drop-oldest", "close"]),
  }),
  /** Ends the subscription at once; reading rejects with `signal.reason`. */
  signal,
  /** Replaces the codec of the bus. */
  codec,
};

/** Where a subscription begins, what it keeps and what it does when it is full. */
export interface SubscribeOptions extends Given<typeof subscribeRows> {}

/** @internal */
export const subscribeOptions = new Options("a subscription", subscribeRows);

const aTopic = custom<string>(undefined, "a topic", (topic) => (checkTopic(topic), topic));

const bindRows = {
  on: needed(aTopic),
  /** Attributes that make up the key, and fields of that name in the payload of a binding event; none is called `id`. */
  key: needed(custom<string | readonly string[], readonly string[]>(undefined, "names of attributes", checkKey)),
  /** Field of that payload with the id: text of 1 to 255 bytes. */
  id: needed(
    custom<string>(undefined, "name of a field", (id, name) =>
      typeof id === "string" && id !== "" ? id : refuse(name, id, "the name of a field"),
    ),
  ),
  unbindOn: optional(aTopic),
  /** Keys kept; beyond that the one that was not used for the longest time goes. */
  maxKeys: integer(65_536, 1, 1_048_576),
};

function checkKey(key: string | readonly string[]): readonly string[] {
  const names = typeof key === "string" ? [key] : key;
  if (!Array.isArray(names) || names.length === 0) throw new InvalidConfigError("`key` must be names of attributes.");
  return names.map(checkAttribute);
}

/** How ids are bound, and how many are kept. */
export interface BindingOptions<Topics extends object = Record<string, unknown>> extends Omit<
  Given<typeof bindRows>,
  "on" | "unbindOn"
> {
  /** Topic of the events that bind. Such an event has the id of its payload, whatever id it was given. */
  on: keyof Topics & string;
  /** Topic of the events that end a binding; they carry the key in payload or attributes. */
  unbindOn?: (keyof Topics & string) | undefined;
}

/** @internal */
export type ResolvedBinding = Resolved<typeof bindRows>;

/** @internal */
export const bindOptions = new Options("a binding", bindRows);
