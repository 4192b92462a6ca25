/**
 * Encodes and decodes events. Format: version and kind of payload (1 byte each); lengths of topic, id and attributes
 * (2 bytes each, little endian); topic, id, attributes as JSON, payload.
 */

import { WholeBody } from "../body.ts";
import { checkText, isText, shown } from "../check.ts";
import { type Codec, json } from "../codec.ts";
import { InvalidConfigError, PayloadTooLargeError } from "../errors.ts";
import { fast, type FastBuffer } from "../fast-buffer.ts";
import type { EventRecord, EventRing } from "../fleet/event-ring.ts";
import type { Arriving } from "../jsonify.ts";

/** Value of an attribute. */
export type AttributeValue = string | number | boolean;
/** Attributes of an event, at most 8192 bytes as JSON. Filters read them without decoding the payload. */
export type Attributes = Readonly<Record<string, AttributeValue>>;

/**
 * An event of a bus. Its `topic` determines the type of its payload. `body`, `bytes()`, `text()` and `json()` read the
 * payload as the publisher's codec encoded it; each call makes a copy.
 */
export type BusEvent<Topics extends object = Record<string, unknown>, T extends keyof Topics = keyof Topics> = {
  [Topic in T & string]: WholeBody & {
    readonly topic: Topic;
    readonly payload: Arriving<Topics[Topic]>;
    /** Id that the publisher gave or a binding added; `null` if there is none. */
    readonly id: string | null;
    readonly attributes: Attributes;
    /** Time of publication by the publisher's wall clock, in ms. */
    readonly time: number;
    /** Index of the member that published the event. */
    readonly writer: number;
    /** Incarnation of that member: tells it from other members with the same index. */
    readonly incarnation: number;
    /** Position in the ring. */
    readonly position: number;
  };
}[T & string];

const encoder = new TextEncoder();

/** An event that was read. Its fields are plain own properties, so that spreading and serialising work. */
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
/** Number of bytes before the topic. */
export const FIXED = 8;
const NONE = 0;
const BYTES = 1;
const CODED = 2;
/** As CODED, with ASCII only: this decodes faster. */
const CODED_ASCII = 3;
const TOPIC_MAX = 255;
const ID_MAX = 255;
const NAME_MAX = 255;
const ATTRIBUTES_MAX = 8_192;
const TOPICS_KEPT = 1_024;

const noAttributes: Attributes = Object.freeze({});
/** Cache of valid topics and their bytes. */
const topics = new Map<string, Buffer>();

/** Returns the bytes of a topic. Throws {@link InvalidConfigError} if it is invalid. */
export function checkTopic(topic: unknown): Buffer {
  const known = topics.get(topic as string);
  if (known) return known;
  const text = checkText("topic", topic, TOPIC_MAX);
  if (text.includes("*")) {
    throw new InvalidConfigError(`topic is ${JSON.stringify(text)}; it must not contain \`*\`.`, {
      hint: "Use `*` in filters of subscriptions only.",
    });
  }
  const bytes = Buffer.from(text);
  if (topics.size >= TOPICS_KEPT) topics.clear();
  topics.set(text, bytes);
  return bytes;
}

/** Whether `id` is a valid id of an event. */
export function isId(id: unknown): id is string {
  return isText(id, ID_MAX);
}

/** Throws {@link InvalidConfigError} unless `pattern` is a topic, or a prefix of topics with `*` at its end. */
export function checkPattern(pattern: unknown): string {
  const end = typeof pattern === "string" && pattern.endsWith("*") ? -1 : undefined;
  if (pattern !== "*") checkText("topic", typeof pattern === "string" ? pattern.slice(0, end) : pattern, TOPIC_MAX);
  return pattern as string;
}

/** Throws {@link InvalidConfigError} unless `name` is a valid name of an attribute. */
export function checkAttribute(name: unknown): string {
  const text = checkText("attribute name", name, NAME_MAX);
  if (text !== "id") return text;
  throw new InvalidConfigError("An attribute cannot be named `id`: this is the id of the event.", {
    hint: "Choose another name, or pass the option `id`.",
  });
}

export function checkId(id: unknown): string {
  return checkText("id", id, ID_MAX);
}

/** Returns the attributes as JSON. Throws {@link InvalidConfigError}. */
export function encodeAttributes(attributes: Attributes): string {
  if (typeof attributes !== "object" || attributes === null || Array.isArray(attributes)) {
    throw new InvalidConfigError(`attributes is ${shown(attributes)}; it must be an object.`);
  }
  for (const name in attributes) {
    checkAttribute(name);
    const value: unknown = attributes[name];
    if (typeof value === "string" ? value.isWellFormed() : typeof value === "boolean" || Number.isFinite(value))
      continue;
    throw new InvalidConfigError(
      `attribute ${name} is ${shown(value)}; it must be text, a finite number or a boolean.`,
      {
        hint: "Put other values into the payload.",
      },
    );
  }
  const text = JSON.stringify(attributes);
  const bytes = Buffer.byteLength(text);
  if (bytes <= ATTRIBUTES_MAX) return text;
  throw new InvalidConfigError(`The attributes take ${bytes} bytes as JSON; the limit is ${ATTRIBUTES_MAX}.`, {
    hint: "Put values that no filter uses into the payload.",
  });
}

/** Writes an event into the ring's draft. Returns its length in bytes. Throws {@link PayloadTooLargeError}. */
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

/** Decodes the current event of a reader. The payload is decoded at most once, by {@link toEvent}. */
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
  /** Bytes of `topic`. Most events have the topic of the previous event, which then need not be decoded again. */
  #topicBytes = new Uint8Array(0);

  constructor(record: EventRecord, codec: Codec) {
    this.#record = record;
    this.#codec = codec;
  }

  /** Reads the head of the record. Returns `false` if the record is not an event of a bus. */
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

  /** Throws if the attributes are not JSON. */
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

  /** Returns the event with its payload. Throws errors of the codec. */
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
