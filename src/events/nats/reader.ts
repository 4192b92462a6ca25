/** Reads the events of a ring over NATS that a filter wants, and finds out which were lost. */

import type { Msg, Subscription } from "@nats-io/transport-node";
import { SlotbusError, ClosedError } from "../../errors.ts";
import type { EventReader } from "../../fleet/event-ring.ts";
import type { NatsFleet } from "../../fleet/nats.ts";
import { FIXED } from "../codec.ts";
import { covers } from "../filter.ts";
import { decodeBeat, head, HEAD_BYTES, patternTokens, type Subjects, topicOf } from "./format.ts";
import { bound, Sequences } from "./sequences.ts";

/** Events that wait for the subscription, which reads them in the next turn of the event loop: a limit against a blocked loop. */
const EVENTS_MAX = 16_384;
const BYTES_MAX = 64 * 1_048_576;
const TOPICS_KEPT = 1_024;

/** A message that waits. `memory` is `null` for a new connection. */
interface Waiting {
  readonly memory: Buffer | null;
  /** Number of events that were lost before it. */
  lost: number;
}

/** A topic, as the events of its subject must have it. */
interface Known {
  readonly topic: string;
  readonly bytes: Uint8Array;
}

/** Stands for a message that is not an event: the subscription counts it. */
const NOTHING = Buffer.alloc(HEAD_BYTES + 1);

export class NatsReader implements EventReader {
  closed = false;
  left = 0;
  lost = 0;
  nextPosition = 0;
  memory: Buffer = Buffer.alloc(0);
  readonly start = HEAD_BYTES;
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
    if (!known || !head.isValid(memory) || !hasTopic(memory, known.bytes)) {
      this.#push({ memory: NOTHING, lost: 0 });
      return;
    }
    const writer = head.writer(memory);
    const incarnation = head.incarnation(memory);
    if (writer !== this.#writer || incarnation !== this.#incarnation) {
      this.#writer = writer;
      this.#incarnation = incarnation;
      this.#publisher = `${writer}.${incarnation}`;
    }
    const lost = this.#sequences.event(this.#publisher, known.topic, head.base(memory), head.seq(memory));
    this.#push({ memory, lost });
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
    this.#push({ memory: null, lost: 0 });
    this.#ask();
  }

  #push(waiting: Waiting): void {
    waiting.lost += this.#lostSince;
    this.#lostSince = 0;
    this.#waiting.push(waiting);
    this.#bytes += waiting.memory?.length ?? 0;
    while (this.#waiting.length - this.#at > EVENTS_MAX || this.#bytes > BYTES_MAX) {
      const dropped = this.#take();
      this.#lostBefore += dropped.lost + (dropped.memory ? 1 : 0);
      this.left = Math.max(0, this.left - 1); // a batch begins with the oldest messages
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
    const end = Math.min(this.#waiting.length, this.#at + max);
    for (let at = this.#at; at < end; at++) {
      const { memory, lost } = this.#waiting[at]!;
      if (at === this.#at) {
        this.lost += lost;
        this.#waiting[at]!.lost = 0;
      } else if (lost > 0) break;
      if (memory) this.left++;
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
    const memory = this.#take().memory!;
    this.memory = memory;
    this.end = memory.length;
    this.writer = head.writer(memory);
    this.incarnation = head.incarnation(memory);
    this.position = head.seq(memory);
    this.time = head.time(memory);
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

/** Whether the event in `memory` has this topic. Its subject decides who may publish it. */
function hasTopic(memory: Uint8Array, topic: Uint8Array): boolean {
  const at = HEAD_BYTES + FIXED;
  const length = memory[HEAD_BYTES + 2]! + memory[HEAD_BYTES + 3]! * 256; // NaN: the message ends before
  if (length !== topic.length || at + length > memory.length) return false;
  for (let i = 0; i < topic.length; i++) if (memory[at + i] !== topic[i]) return false;
  return true;
}

function inboxPrefixOf(connection: object): string {
  return (connection as { options?: { inboxPrefix?: string } }).options?.inboxPrefix ?? "_INBOX";
}
