/** Reads the events of a ring over NATS that a filter wants, and finds out which were lost. */

import type { Msg, Subscription } from "@nats-io/transport-node";
import { SlotbusError, ClosedError } from "../../errors.ts";
import type { EventReader } from "../../fleet/event-ring.ts";
import type { NatsFleet } from "../../fleet/nats.ts";
import { covers } from "../filter.ts";
import { countEvents, decodeBeat, EVENT_HEAD_BYTES, eventHead, head, HEAD_BYTES } from "./format.ts";
import { patternTokens, type Subjects, topicOf } from "./format.ts";
import { bound, Sequences } from "./sequences.ts";

/** Events that wait for the subscription, which reads them in the next turn of the event loop: a limit against a blocked loop. */
const EVENTS_MAX = 16_384;
const BYTES_MAX = 64 * 1_048_576;
const TOPICS_KEPT = 1_024;

/** A message that waits. `memory` is `null` for a new connection. */
interface Waiting {
  readonly memory: Buffer | null;
  /** Number of its events. */
  readonly count: number;
  /** Number of its events that were read, and where the next one begins. */
  read: number;
  at: number;
  /** Number of events that were lost before it. */
  lost: number;
}

function waiting(memory: Buffer | null, count: number, lost: number): Waiting {
  return { memory, count, read: 0, at: HEAD_BYTES, lost };
}

/** A topic, as the events of its subject must have it. */
interface Known {
  readonly topic: string;
  readonly bytes: Uint8Array;
}

/** Stands for a message that has no events: the subscription counts it as one that it cannot decode. */
const NOTHING = Buffer.alloc(HEAD_BYTES + EVENT_HEAD_BYTES + 1);
NOTHING[HEAD_BYTES] = 1; // its length

export class NatsReader implements EventReader {
  closed = false;
  left = 0;
  lost = 0;
  nextPosition = 0;
  memory: Buffer = Buffer.alloc(0);
  start = 0;
  end = 0;
  time = 0;
  writer = 0;
  incarnation = 0;
  position = 0;
  readonly #fleet: NatsFleet;
  readonly #subjects: Subjects;
  /** Subject for the answers of publishers. */
  readonly #answers: string;
  readonly #patterns: readonly string[];
  readonly #subscriptions: Subscription[] = [];
  readonly #sequences = new Sequences();
  readonly #unwatch: () => void;
  /** Topics by subject. */
  readonly #topics = new Map<string, Known>();
  /** Publisher of the last event, and its name: most events have the publisher of the previous event. */
  #writer = -1;
  #incarnation = -1;
  #publisher = "";
  #waiting: Waiting[] = [];
  /** Index of the oldest message that waits. */
  #at = 0;
  /** Number of events that wait, and bytes of their messages. */
  #events = 0;
  #bytes = 0;
  /** Number of events that were lost after the last message. */
  #lostSince = 0;
  /** Number of events that were lost before the oldest message that waits. */
  #lostBefore = 0;
  /** Number of connections after the first one. */
  #connections = 0;
  #newEpoch: number | null = null;
  #failure: SlotbusError | null = null;
  #wake: (() => void) | null = null;
  #isWaking = false;

  constructor(fleet: NatsFleet, subjects: Subjects, patterns: readonly string[]) {
    this.#fleet = fleet;
    this.#subjects = subjects;
    const { connection } = fleet;
    this.#patterns = patterns;
    const onBeat = this.#guarded((message) => this.#onBeat(message));
    for (const pattern of patterns) {
      const subject = subjects.events + patternTokens(pattern);
      const known = pattern.endsWith("*") ? null : knownOf(pattern);
      const callback = this.#guarded((message) => this.#onEvent(message, known));
      this.#subscriptions.push(connection.subscribe(subject, { callback }));
    }
    this.#answers = `${inboxPrefixOf(connection)}.${crypto.randomUUID().replaceAll("-", "")}`;
    for (const subject of [subjects.beats, this.#answers])
      this.#subscriptions.push(connection.subscribe(subject, { callback: onBeat }));
    this.#unwatch = fleet.link.watch((isConnected) => {
      if (isConnected) this.#onConnected();
    });
    this.#ask();
  }

  /** Publishers answer how far they are. */
  #ask(): void {
    if (this.#fleet.link.isConnected) this.#fleet.connection.publish(this.#subjects.asks, "", { reply: this.#answers });
  }

  #guarded(onMessage: (message: Msg) => void): (error: Error | null, message: Msg) => void {
    return (error, message) => {
      if (this.closed) return;
      if (!error) return onMessage(message);
      const isDenied = /permission/i.test(error.message);
      const what = `The NATS server refused a subscription: ${error.message}.`;
      this.#failure = new SlotbusError(isDenied ? "PERMISSION_DENIED" : "RESOURCE", what, {
        hint: "Check the permissions and limits of this user.",
        cause: error,
      });
      this.#wakeSoon();
    };
  }

  /** `only`: the topic of a subscription to one topic. */
  #onEvent(message: Msg, only: Known | null): void {
    const { data } = message;
    const memory = Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.length);
    const known = only ?? this.#topics.get(message.subject) ?? this.#learn(message.subject);
    const count = known && head.isValid(memory) ? countEvents(memory, known.bytes) : 0;
    if (!known || count === 0) return this.#push(waiting(NOTHING, 1, 0));
    const writer = head.writer(memory);
    const incarnation = head.incarnation(memory);
    if (writer !== this.#writer || incarnation !== this.#incarnation) {
      this.#writer = writer;
      this.#incarnation = incarnation;
      this.#publisher = `${writer}.${incarnation}`;
    }
    const lost = this.#sequences.events(this.#publisher, known.topic, head.base(memory), head.seq(memory), count);
    this.#push(waiting(memory, count, lost));
  }

  #learn(subject: string): Known | null {
    const topic = topicOf(subject.slice(this.#subjects.events.length));
    if (topic === null) return null;
    const known = knownOf(topic);
    bound(this.#topics, TOPICS_KEPT).set(subject, known);
    return known;
  }

  #onBeat(message: Msg): void {
    const beat = decodeBeat(message.string());
    if (!beat) return;
    const wanted = beat.topics.filter(([topic]) => this.#patterns.some((pattern) => covers(pattern, topic)));
    const lost = this.#sequences.beat(beat.publisher, beat.count, wanted);
    if (lost === 0) return;
    this.#lostSince += lost;
    this.#wakeSoon();
  }

  /** After a lost connection, nobody knows how many events were missed. */
  #onConnected(): void {
    this.#sequences.clear();
    this.#push(waiting(null, 0, 0));
    this.#ask();
  }

  #push(last: Waiting): void {
    last.lost += this.#lostSince;
    this.#lostSince = 0;
    this.#waiting.push(last);
    this.#events += last.count;
    this.#bytes += last.memory?.length ?? 0;
    while (this.#events > EVENTS_MAX || this.#waiting.length - this.#at > EVENTS_MAX || this.#bytes > BYTES_MAX) {
      const dropped = this.#take();
      const missing = dropped.count - dropped.read;
      this.#events -= missing;
      this.#lostBefore += dropped.lost + missing;
      this.left = Math.max(0, this.left - missing); // a batch begins with the oldest messages
      if (!dropped.memory) this.#newEpoch = ++this.#connections;
    }
    this.#wakeSoon();
  }

  #take(): Waiting {
    const first = this.#waiting[this.#at++]!;
    this.#bytes -= first.memory?.length ?? 0;
    if (this.#at * 2 >= this.#waiting.length) {
      this.#waiting = this.#waiting.slice(this.#at);
      this.#at = 0;
    }
    return first;
  }

  takeNewEpoch(): number | null {
    const epoch = this.#newEpoch;
    this.#newEpoch = null;
    return epoch;
  }

  /** A batch ends before a message with lost events before it, and at a new connection. */
  poll(max: number): number {
    if (this.closed) throw new ClosedError("The reader", { hint: "Open another subscription." });
    if (this.#failure) throw this.#failure;
    this.lost = this.#lostBefore;
    this.#lostBefore = 0;
    this.left = 0;
    for (let at = this.#at; at < this.#waiting.length && this.left < max; at++) {
      const one = this.#waiting[at]!;
      if (at === this.#at) {
        this.lost += one.lost;
        one.lost = 0;
      } else if (one.lost > 0) break;
      if (one.memory) this.left += Math.min(one.count - one.read, max - this.left);
      else if (this.left > 0) break;
      else {
        this.#take();
        this.#newEpoch = ++this.#connections;
        break;
      }
    }
    if (this.#at === this.#waiting.length) {
      this.lost += this.#lostSince;
      this.#lostSince = 0;
    }
    this.nextPosition += this.left;
    return this.left;
  }

  next(): boolean {
    if (this.left === 0) return false;
    this.left--;
    const first = this.#waiting[this.#at]!;
    const memory = first.memory!;
    this.memory = memory;
    this.start = first.at + EVENT_HEAD_BYTES;
    this.end = this.start + eventHead.length(memory, first.at);
    this.writer = head.writer(memory);
    this.incarnation = head.incarnation(memory);
    this.position = head.seq(memory) + first.read;
    this.time = eventHead.time(memory, first.at);
    first.at = this.end;
    this.#events--;
    if (++first.read === first.count) this.#take();
    return true;
  }

  listen(wake: () => void): boolean {
    if (this.#waiting.length > this.#at || this.#lostSince > 0 || this.#newEpoch !== null || this.#failure)
      return false;
    this.#wake = wake;
    return true;
  }

  /** Wakes the subscription after the messages that arrived together. */
  #wakeSoon(): void {
    if (!this.#wake || this.#isWaking) return;
    this.#isWaking = true;
    queueMicrotask(() => {
      this.#isWaking = false;
      this.#wakeNow();
    });
  }

  #wakeNow(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.left = 0;
    this.#waiting = [];
    this.#at = 0;
    this.#unwatch();
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
    this.#wakeNow();
  }
}

function knownOf(topic: string): Known {
  return { topic, bytes: new Uint8Array(Buffer.from(topic)) };
}

function inboxPrefixOf(connection: object): string {
  return (connection as { options?: { inboxPrefix?: string } }).options?.inboxPrefix ?? "_INBOX";
}
