/** A ring over NATS: publishes events to the subjects of their topics, and reads those that a filter wants. */

import type { NatsConnection, Subscription } from "@nats-io/transport-node";
import { shown } from "../../check.ts";
import { systemClock, type Timer } from "../../clock.ts";
import { PayloadTooLargeError } from "../../errors.ts";
import type { EventReader, EventRing, From } from "../../fleet/event-ring.ts";
import { holdWhile } from "../../hold.ts";
import { disconnected } from "../../nats/link.ts";
import { type NatsFleet, unsupported } from "../../fleet/nats.ts";
import { Batch, encodeBeats, EVENT_HEAD_BYTES, HEAD_BYTES, type Subjects, subjectsOf, topicTokens } from "./format.ts";
import { NatsReader } from "./reader.ts";
import { bound, type Progress } from "./sequences.ts";

/** Time between two heartbeats of a publisher, in ms. */
const BEAT_MS = 1_000;
/** Number of heartbeats that name a topic after its last event. */
const BEATS = 3;
/** Largest number of topics that a publisher counts. */
const TOPICS_MAX = 4_096;
const DRAFT_MIN = 4_096;
/** Size of a message that gets no more events, in bytes. */
const BATCH_BYTES = 32_768;

/** A topic that this publisher counts. */
interface Counted {
  readonly topic: string;
  readonly subject: string;
  readonly base: number;
  seq: number;
  /** Number of heartbeats that will still name it. */
  beats: number;
}

function random32(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}

export class NatsRing implements EventRing {
  readonly isObserver = false;
  /** Number of events published so far. */
  head = 0;
  readonly subjects: Subjects;
  readonly fleet: NatsFleet;
  readonly #writer = random32();
  readonly #incarnation = random32();
  readonly #topics = new Map<string, Counted>();
  #draft = Buffer.alloc(DRAFT_MIN);
  /** Events that are sent together at the end of the turn, and their topic. */
  readonly #batch = new Batch(this.#writer, this.#incarnation);
  #batched: Counted | null = null;
  #beat: Timer | null = null;
  /** Answers readers that begin; from the first event on. */
  #asks: Subscription | null = null;

  constructor(fleet: NatsFleet, ring: string) {
    this.fleet = fleet;
    this.subjects = subjectsOf(fleet.link.prefix, fleet.name, ring);
  }

  /** What the server accepts, without the head. */
  get payloadBytes(): number {
    return (this.fleet.connection.info?.max_payload ?? 1_048_576) - HEAD_BYTES - EVENT_HEAD_BYTES;
  }

  draft(bytes: number): Buffer {
    if (this.#draft.length < bytes) this.#draft = Buffer.alloc(2 ** Math.ceil(Math.log2(bytes)));
    return this.#draft;
  }

  /** @throws {PayloadTooLargeError}; `DISCONNECTED`: the event was not published */
  send(bytes: number, _kind: number, topic: string): void {
    const { connection } = this.fleet;
    const most = this.payloadBytes;
    if (bytes > most) throw new PayloadTooLargeError("event", bytes, most);
    this.#asks ??= this.#begin(connection);
    const counted = this.#count(topic);
    if (counted !== this.#batched || this.#batch.bytes + bytes > Math.min(BATCH_BYTES, most)) this.#sendBatch();
    this.#batch.add(this.#draft, bytes, Date.now());
    if (this.#batched === null) queueMicrotask(this.#sendBatch); // as the client library does with what it sends
    this.#batched = counted;
    counted.seq++;
    this.head++;
    counted.beats = BEATS;
    this.#beat ??= this.#startBeat();
  }

  /** Sends the events of this turn. Without a connection they are lost, which the numbers of later events show. */
  readonly #sendBatch = (): void => {
    const counted = this.#batched;
    if (!counted) return;
    this.#batched = null;
    const { count } = this.#batch;
    const message = this.#batch.take(counted.base, counted.seq - count + 1);
    if (this.fleet.link.isConnected) this.fleet.connection.publish(counted.subject, message);
  };

  reader(from: From, patterns: readonly string[] = ["*"]): EventReader {
    if (from !== "head") throw unsupported(`A subscription from ${shown(from)}`);
    return new NatsReader(this.fleet, this.subjects, patterns);
  }

  onClose(listener: () => void): () => void {
    return this.fleet.onClose(listener);
  }

  /** Resolves when the server has seen all that was sent. @throws (rejects) `DISCONNECTED` */
  async flush(ms: number): Promise<void> {
    this.#sendBatch();
    const { connection } = this.fleet;
    const { promise, reject } = Promise.withResolvers<never>();
    const fail = (): void => reject(disconnected());
    const timer = systemClock.after(ms, fail);
    const unwatch = this.fleet.link.watch((isConnected) => isConnected || fail());
    try {
      await holdWhile(Promise.race([connection.flush(), promise]));
    } finally {
      timer.close();
      unwatch();
    }
  }

  /** Stops the heartbeats. The last one names what was published since. */
  close(): void {
    this.#sendBatch();
    this.#beat?.close();
    this.#beat = null;
    if (this.#asks && this.fleet.link.isConnected) this.#sendBeats(this.subjects.beats, this.#recent());
    this.#asks?.unsubscribe();
    this.#asks = null;
  }

  /** Says that this publisher exists, and answers those who ask. */
  #begin(connection: NatsConnection): Subscription {
    this.#sendBeats(this.subjects.beats, []);
    return connection.subscribe(this.subjects.asks, {
      callback: (error, { reply }) => {
        if (!error && reply && this.fleet.link.isConnected) this.#sendBeats(reply, [...this.#topics.values()]);
      },
    });
  }

  #count(topic: string): Counted {
    const known = this.#topics.get(topic);
    if (known) {
      if (this.#topics.size > TOPICS_MAX / 2) {
        this.#topics.delete(topic);
        this.#topics.set(topic, known); // now the most recently used
      }
      return known;
    }
    const subject = this.subjects.events + topicTokens(topic);
    const counted = { topic, subject, base: this.head, seq: 0, beats: 0 };
    bound(this.#topics, TOPICS_MAX).set(topic, counted);
    return counted;
  }

  #startBeat(): Timer {
    const timer = systemClock.after(BEAT_MS, () => {
      this.#beat = null;
      const recent = this.#recent();
      if (recent.length === 0) return;
      this.#beat = this.#startBeat();
      if (!this.fleet.link.isConnected) return;
      this.#sendBeats(this.subjects.beats, recent);
      for (const counted of recent) counted.beats--;
    });
    timer.unref();
    return timer;
  }

  /** Topics whose last event may have been lost unnoticed. */
  #recent(): Counted[] {
    return [...this.#topics.values()].filter(({ beats }) => beats > 0);
  }

  #sendBeats(subject: string, counted: readonly Counted[]): void {
    this.#sendBatch(); // which they count
    const publisher = `${this.#writer}.${this.#incarnation}`;
    const topics = counted.map(({ topic, base, seq }): Progress => [topic, base, seq]);
    for (const text of encodeBeats({ publisher, count: this.head, topics }))
      this.fleet.connection.publish(subject, text);
  }
}
