/**
 * Late binding: events of one topic tell which id a key belongs to, and events that are published later with the key and
 * without an id get it before anybody filters them.
 *
 * What is bound is what the ring says, in its order: a publisher reads the binding events of all members before it asks.
 */

import type { Codec } from "../codec.ts";
import type { EventReader, EventRing } from "../fleet/event-ring.ts";
import { type Attributes, EventDecoder, isId } from "./codec.ts";
import type { ResolvedBinding } from "./options.ts";
import { Pump } from "./pump.ts";

/** What a binding has done so far. */
export interface BindingCounts {
  /** Keys bound now. */
  size: number;
  /** Binding events read, with those that bound a key anew. */
  bound: number;
  /** Keys that `unbindOn` ended. */
  unbound: number;
  /** Keys that went because of `maxKeys`. */
  evicted: number;
  /** Binding events without a whole key or without an id that is one. They are events like any other. */
  invalid: number;
  /** Own events that got their id, and those whose key was not bound. */
  hits: number;
  misses: number;
  /** Events that were overwritten before they were read: bindings may be among them. */
  overwritten: number;
}

const BATCH = 64;
/** Batches read at once when nobody waits for it. */
const BATCHES_PER_TURN = 16;

/** Fills the ids of later events from earlier ones; made by `bus.bind`. */
export class Binding implements Disposable {
  readonly #options: ResolvedBinding;
  readonly #ids = new Map<string, string>();
  readonly #ring: EventRing;
  readonly #reader: EventReader;
  readonly #decoder: EventDecoder;
  readonly #pump: Pump;
  readonly #onClose: (binding: Binding) => void;
  readonly #counts = { bound: 0, unbound: 0, evicted: 0, invalid: 0, hits: 0, misses: 0, overwritten: 0 };

  /** @internal Use {@link EventBus.bind}. */
  constructor(ring: EventRing, codec: Codec, options: ResolvedBinding, onClose: (binding: Binding) => void) {
    this.#options = options;
    this.#onClose = onClose;
    this.#ring = ring;
    this.#reader = ring.reader("oldest");
    this.#decoder = new EventDecoder(this.#reader, codec);
    this.#pump = new Pump(
      this.#reader,
      () => this.#learnSome(),
      () => {}, // the next publish reads, and has the error
    );
  }

  get closed(): boolean {
    return this.#reader.closed;
  }

  get counts(): BindingCounts {
    this.learn();
    return { size: this.#ids.size, ...this.#counts };
  }

  /** Binds no more. May be called again. */
  close(): void {
    if (this.closed) return;
    this.#onClose(this);
    this.#pump.stop();
    this.#reader.close();
    this.#ids.clear();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** @internal Reads what the ring says about keys, to its end as it is now: what comes meanwhile is for the next call. */
  learn(): void {
    if (this.closed) return;
    const end = this.#ring.head;
    while (!this.closed && this.#reader.nextPosition < end && this.#learnBatch());
  }

  /** @internal The id bound to the key in these attributes. */
  find(attributes: Attributes | undefined): string | null {
    const key = attributes ? this.#keyIn(attributes) : null;
    if (key === null) return null;
    const id = this.#ids.get(key);
    if (id === undefined) {
      this.#counts.misses++;
      return null;
    }
    this.#counts.hits++;
    this.#ids.delete(key);
    this.#ids.set(key, id); // the last to go now
    return id;
  }

  /** @internal The id that an event of this topic and payload binds. */
  ownId(topic: string, payload: unknown): string | null {
    return topic === this.#options.on ? this.#idIn(payload) : null;
  }

  #learnSome(): "more" | "empty" {
    for (let batch = 0; batch < BATCHES_PER_TURN; batch++) if (!this.#learnBatch()) return "empty";
    return "more";
  }

  /** `false`: there was nothing. */
  #learnBatch(): boolean {
    const found = this.#reader.poll(BATCH);
    this.#counts.overwritten += this.#reader.lost;
    if (found === 0 && this.#reader.lost === 0) return false;
    const event = this.#decoder;
    while (this.#reader.next()) {
      if (!event.read()) continue;
      if (event.topic === this.#options.on) this.#bind(event);
      if (event.topic === this.#options.unbindOn) this.#unbind(event);
    }
    return true;
  }

  #bind(event: EventDecoder): void {
    const payload = readable(() => event.toEvent().payload);
    const key = this.#keyIn(payload);
    const id = this.#idIn(payload);
    if (key === null || id === null) {
      if (this.#counts.invalid++ === 0) {
        process.emitWarning(
          `an event of ${this.#options.on} has no whole key or no valid id; it binds nothing.`,
          "SlotbusWarning",
        );
      }
      return;
    }
    this.#counts.bound++;
    this.#ids.delete(key);
    this.#ids.set(key, id);
    if (this.#ids.size <= this.#options.maxKeys) return;
    this.#counts.evicted++;
    this.#ids.delete(this.#ids.keys().next().value!);
  }

  #unbind(event: EventDecoder): void {
    const key = this.#keyIn(readable(() => event.toEvent().payload)) ?? this.#keyIn(readable(() => event.attributes));
    if (key !== null && this.#ids.delete(key)) this.#counts.unbound++;
  }

  #keyIn(source: unknown): string | null {
    if (typeof source !== "object" || source === null) return null;
    const parts: unknown[] = [];
    for (const name of this.#options.key) {
      const part = Object.hasOwn(source, name) ? (source as Record<string, unknown>)[name] : undefined;
      if (typeof part !== "string" && typeof part !== "number" && typeof part !== "boolean") return null;
      parts.push(part);
    }
    return JSON.stringify(parts);
  }

  #idIn(payload: unknown): string | null {
    const { id: field } = this.#options;
    if (typeof payload !== "object" || payload === null || !Object.hasOwn(payload, field)) return null;
    const id = (payload as Record<string, unknown>)[field];
    return isId(id) ? id : null;
  }
}

/** `null` for what the codec cannot read, or is no JSON: it has no key. */
function readable(read: () => unknown): unknown {
  try {
    return read();
  } catch {
    return null;
  }
}
