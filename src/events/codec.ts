/**
 * An event as bytes: version and kind of payload (1 byte each), lengths of topic, id and attributes (2 bytes each, little
 * endian), then these, the attributes as JSON, then the payload.
 */

import { WholeBody } from "../body.ts";
import { checkText, isText, shown } from "../check.ts";
import { type Codec, json } from "../codec.ts";
import { InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import { fast, type FastBuffer } from "../fast-buffer.ts";
import type { EventRecord, EventRing } from "../fleet/event-ring.ts";
import type { Arriving } from "../jsonify.ts";

/** What an attribute can be. */
export type AttributeValue = string | number | boolean;
/** Few and small: they are read before the payload, to filter. */
export type Attributes = Readonly<Record<string, AttributeValue>>;

/**
 * An event of a bus; `topic` tells what its payload is. `body`, `bytes()`, `text()` and `json()` are what the codec of the publisher
 * made of the payload, as a copy that is made when it is asked for.
 */
export type BusEvent<Topics extends object = Record<string, unknown>, T extends keyof Topics = keyof Topics> = {
  [Topic in T & string]: WholeBody & {
    readonly topic: Topic;
    readonly payload: Arriving<Topics[Topic]>;
    /** As given, or as bound; `null` when it has none. */
    readonly id: string | null;
    readonly attributes: Attributes;
    /** Wall clock of the publisher, in ms. */
    readonly time: number;
    /** Index of the member that published it, and which of those that had it. */
    readonly writer: number;
    readonly incarnation: number;
    /** Place in the ring. */
    readonly position: number;
  };
}[T & string];

const encoder = new TextEncoder();

/** An event that was read. Its own fields are plain, so that it can be taken apart and sent on. */
class ReadEvent extends WholeBody {
  readonly topic: string;
  readonly payload: unknown;
  readonly id: string | null;
  readonly attributes: Attributes;
  readonly time: number;
  readonly writer: number;
  readonly incarnation: number;
  readonly position: number;
  readonly #coded: Uint8Array | string;

  constructor(decoder: EventDecoder, record: EventRecord, payload: unknown, coded: Uint8Array | string) {
    super();
    this.topic = decoder.topic;
    this.payload = payload;
    this.id = decoder.id;
    this.attributes = decoder.attributes;
    this.time = record.time;
    this.writer = record.writer;
    this.incarnation = record.incarnation;
    this.position = record.position;
    this.#coded = coded;
  }

  get body(): Uint8Array {
    return typeof this.#coded === "string" ? encoder.encode(this.#coded) : this.#coded.slice();
  }
}

const VERSION = 1;
const FIXED = 8;
const NONE = 0;
const BYTES = 1;
const CODED = 2;
/** The same, each byte below 128: it is read without a look at each. */
const CODED_ASCII = 3;
const TOPIC_MAX = 255;
const ID_MAX = 255;
const NAME_MAX = 255;
const ATTRIBUTES_MAX = 8_192;
const TOPICS_KEPT = 1_024;

const noAttributes: Attributes = Object.freeze({});
/** Topics that were checked, as bytes. */
const topics = new Map<string, Buffer>();

/** Throws {@link InvalidConfigError} unless events can have that topic. */
export function checkTopic(topic: unknown): Buffer {
  const known = topics.get(topic as string);
  if (known) return known;
  const text = checkText("topic", topic, TOPIC_MAX);
  if (text.includes("*")) throw new InvalidConfigError(`topic is ${JSON.stringify(text)}; \`*\` is for filters.`);
  const bytes = Buffer.from(text);
  if (topics.size >= TOPICS_KEPT) topics.clear();
  topics.set(text, bytes);
  return bytes;
}

/** Whether it can be the id of an event. */
export function isId(id: unknown): id is string {
  return isText(id, ID_MAX);
}

/** Throws {@link InvalidConfigError} unless a filter can name topics so: a topic, or what topics begin with and a star. */
export function checkPattern(pattern: unknown): string {
  const end = typeof pattern === "string" && pattern.endsWith("*") ? -1 : undefined;
  if (pattern !== "*") checkText("topic", typeof pattern === "string" ? pattern.slice(0, end) : pattern, TOPIC_MAX);
  return pattern as string;
}

/** Throws {@link InvalidConfigError} unless attributes can have that name. */
export function checkAttribute(name: unknown): string {
  const text = checkText("the name of an attribute", name, NAME_MAX);
  if (text !== "id") return text;
  throw new InvalidConfigError("an attribute cannot be called `id`.", { hint: "Events have an `id` of their own." });
}

export function checkId(id: unknown): string {
  return checkText("id", id, ID_MAX);
}

/** The attributes as JSON. Throws {@link InvalidConfigError}. */
export function encodeAttributes(attributes: Attributes): string {
  if (typeof attributes !== "object" || attributes === null || Array.isArray(attributes)) {
    throw new InvalidConfigError(`attributes is ${shown(attributes)}; it must be an object.`);
  }
  for (const name in attributes) {
    checkAttribute(name);
    const value: unknown = attributes[name];
    if (typeof value === "string" ? value.isWellFormed() : typeof value === "boolean" || Number.isFinite(value))
      continue;
    throw new InvalidConfigError(`attribute ${name} is ${shown(value)}.`, {
      hint: "Attributes are text, finite numbers or booleans; the rest belongs into the payload.",
    });
  }
  const text = JSON.stringify(attributes);
  if (Buffer.byteLength(text) <= ATTRIBUTES_MAX) return text;
  throw new InvalidConfigError(`the attributes are more than ${ATTRIBUTES_MAX} bytes.`, {
    hint: "What is not filtered by belongs into the payload.",
  });
}

/** Writes an event into the ring's draft; returns its bytes. Throws {@link PayloadTooLargeError}. */
export function encodeEvent(
  ring: EventRing,
  topic: Buffer,
  id: string | null,
  attributes: string,
  payload: unknown,
  codec: Codec,
): number {
  const isBytes = payload instanceof Uint8Array;
  const coded = isBytes || payload === undefined ? payload : codec.encode(payload);
  const length = coded === undefined ? 0 : coded.length;
  if (length > ring.payloadBytes) {
    const bytes = typeof coded === "string" ? Buffer.byteLength(coded) : length;
    throw new PayloadTooLargeError("event", bytes, ring.payloadBytes);
  }
  const idLength = id === null ? 0 : id.length;
  const most = FIXED + topic.length + 3 * (idLength + attributes.length) + (typeof coded === "string" ? 3 : 1) * length;
  const memory = ring.draft(most);
  const text = memory as unknown as FastBuffer;
  let at = FIXED;
  memory.set(topic, at);
  at += topic.length;
  const idBytes = idLength === 0 ? 0 : text.utf8Write(id!, at);
  at += idBytes;
  const attributeBytes = attributes === "" ? 0 : text.utf8Write(attributes, at);
  at += attributeBytes;
  memory[0] = VERSION;
  memory[1] = coded === undefined ? NONE : isBytes ? BYTES : CODED;
  memory[2] = topic.length;
  memory[3] = 0;
  memory[4] = idBytes;
  memory[5] = 0;
  memory[6] = attributeBytes & 255;
  memory[7] = attributeBytes >> 8;
  if (typeof coded === "string") {
    const bytes = text.utf8Write(coded, at);
    if (bytes === coded.length) memory[1] = CODED_ASCII;
    return at + bytes;
  }
  if (coded) memory.set(coded, at);
  return at + length;
}

/** The event that a reader stands at. Its payload is decoded once, when somebody asks for the event. */
export class EventDecoder {
  topic = "";
  readonly #record: EventRecord;
  readonly #codec: Codec;
  #memory: Buffer = Buffer.alloc(0);
  #idAt = 0;
  #attributesAt = 0;
  #payloadAt = 0;
  #id: string | null | undefined;
  #attributes: Attributes | undefined;
  #event: ReadEvent | null = null;
  /** Of `topic`: most events have that of the one before. */
  #topicBytes = new Uint8Array(0);

  constructor(record: EventRecord, codec: Codec) {
    this.#record = record;
    this.#codec = codec;
  }

  /** Reads the head of the record; `false` when it is not an event of a bus. */
  read(): boolean {
    const { memory, start, end } = this.#record;
    const length = end - start;
    if (length < FIXED || memory[start] !== VERSION || memory[start + 1]! > CODED_ASCII) return false;
    const topicAt = start + FIXED;
    this.#memory = memory;
    this.#idAt = topicAt + memory[start + 2]! + memory[start + 3]! * 256;
    this.#attributesAt = this.#idAt + memory[start + 4]! + memory[start + 5]! * 256;
    this.#payloadAt = this.#attributesAt + memory[start + 6]! + memory[start + 7]! * 256;
    if (this.#payloadAt > end) return false;
    if (!this.#isSameTopic(memory, topicAt)) {
      this.topic = fast.utf8Slice.call(memory, topicAt, this.#idAt);
      this.#topicBytes = new Uint8Array(memory.subarray(topicAt, this.#idAt)); // a copy
    }
    this.#id = undefined;
    this.#attributes = undefined;
    this.#event = null;
    return true;
  }

  get id(): string | null {
    if (this.#id === undefined) {
      const isThere = this.#attributesAt > this.#idAt;
      this.#id = isThere ? fast.utf8Slice.call(this.#memory, this.#idAt, this.#attributesAt) : null;
    }
    return this.#id;
  }

  /** Throws when they are no JSON. */
  get attributes(): Attributes {
    if (this.#attributes === undefined) {
      const isThere = this.#payloadAt > this.#attributesAt;
      this.#attributes = isThere
        ? (JSON.parse(fast.utf8Slice.call(this.#memory, this.#attributesAt, this.#payloadAt)) as Attributes)
        : noAttributes;
    }
    return this.#attributes;
  }

  attribute(name: string): AttributeValue | undefined {
    const { attributes } = this;
    return Object.hasOwn(attributes, name) ? attributes[name] : undefined;
  }

  /** Throws what the codec throws. */
  toEvent(): BusEvent {
    return (this.#event ??= this.#decode());
  }

  #isSameTopic(memory: Uint8Array, topicAt: number): boolean {
    const known = this.#topicBytes;
    if (known.length !== this.#idAt - topicAt || known.length === 0) return false;
    for (let i = 0; i < known.length; i++) if (known[i] !== memory[topicAt + i]) return false;
    return true;
  }

  #decode(): ReadEvent {
    const record = this.#record;
    const { start, end } = record;
    const kind = this.#memory[start + 1];
    if (kind === NONE) return new ReadEvent(this, record, undefined, "");
    if (kind !== BYTES && this.#codec === json) {
      const slice = kind === CODED_ASCII ? fast.asciiSlice : fast.utf8Slice;
      const text = slice.call(this.#memory, this.#payloadAt, end);
      return new ReadEvent(this, record, JSON.parse(text), text);
    }
    const bytes = new Uint8Array(this.#memory.subarray(this.#payloadAt, end)); // a copy: codecs may keep it
    return new ReadEvent(this, record, kind === BYTES ? bytes : this.#codec.decode(bytes), bytes);
  }
}
