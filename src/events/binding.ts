/**
 * Bindings: an event of one topic binds a key to an id. Later events with this key and without an id get that id when
 * they are published, so that subscribers can filter by it.
 *
 * The order of events in the ring decides: before a publisher looks up a key, it reads the binding events of all
 * members.
 */

import type { Codec } from "../codec.ts";
import type { EventReader, EventRing } from "../fleet/event-ring.ts";
import { type Attributes, EventDecoder, isId } from "./codec.ts";
import type { ResolvedBinding } from "./options.ts";
import { Pump } from "./pump.ts";

/** Counters of a binding, since it was created. */
export interface BindingCounts {
  /** Number of keys that are bound now. */
  size: number;
  /** Number of binding events read, including those that bound a key again. */
  bound: number;
  /** Number of keys that an event of `unbindOn` unbound. */
  unbound: number;
  /** Number of keys that were discarded because of `maxKeys`. */
  evicted: number;
  /** Number of binding events with an incomplete key or an invalid id. Subscribers still get them. */
  invalid: number;
  /** Number of events published by this bus that got an id. */
  hits: number;
  /** Number of events published by this bus whose key was not bound. */
  misses: number;
  /** Number of events that were overwritten before this binding read them. Binding events may be among them. */
  overwritten: number;
}

const BATCH = 64;
/** Number of batches read in the background on one turn of the event loop. */
const BATCHES_PER_TURN = 16;

/** Adds ids to events that its bus publishes. Created by `bus.bind`. */
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
      () => {}, // the next publish reads again and throws the error
    );
  }

  get closed(): boolean {
    return this.#reader.closed;
  }

  get counts(): BindingCounts {
    this.learn();
    return { size: this.#ids.size, ...this.#counts };
  }

  /** Ends the binding: later events get no id from it. Calling it again does nothing. */
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

  /** @internal Reads all binding events up to the present end of the ring. Later events are left to the next call. */
  learn(): void {
    if (this.closed) return;
    const end = this.#ring.head;
    while (!this.closed && this.#reader.nextPosition < end && this.#learnBatch());
  }

  /** @internal Returns the id that is bound to the key in these attributes. */
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
    this.#ids.set(key, id); // now the most recently used
    return id;
  }

  /** @internal Returns the id in the payload if this is a binding event. */
  ownId(topic: string, payload: unknown): string | null {
    return topic === this.#options.on ? this.#idIn(payload) : null;
  }

  #learnSome(): "more" | "empty" {
    for (let batch = 0; batch < BATCHES_PER_TURN; batch++) if (!this.#learnBatch()) return "empty";
    return "more";
  }

  /** Reads a batch of events. Returns `false` if there was none. */
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
          `An event of topic ${JSON.stringify(this.#options.on)} was not bound: incomplete key or invalid id.`,
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

/** Returns the result of `read`, or `null` if it throws because the codec or `JSON.parse` cannot read the bytes. */
function readable(read: () => unknown): unknown {
  try {
    return read();
  } catch {
    return null;
  }
}
