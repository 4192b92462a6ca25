/** Events over NATS without a server: subjects, heads, heartbeats, and how lost events are found. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { and, covers, equals, type Filter, not, or, patternsOf, topic, where } from "../src/events/filter.ts";
import {
  Batch,
  countEvents,
  decodeBeat,
  encodeBeats,
  EVENT_HEAD_BYTES,
  eventHead,
  head,
  HEAD_BYTES,
  patternTokens,
  subjectsOf,
  topicOf,
  topicTokens,
} from "../src/events/nats/format.ts";
import { type Progress, Sequences } from "../src/events/nats/sequences.ts";

const P = "1.2";

test("a lost event of a topic is counted, also between other events of the publisher", () => {
  const reader = new Sequences();
  expect([1, 2, 5, 6, 6, 4].map((seq) => reader.events(P, "a", 0, seq, 1))).toEqual([0, 0, 2, 0, 0, 0]);
  expect([reader.events(P, "b", 3, 7, 1), reader.events(P, "b", 3, 8, 1), reader.events("3.4", "a", 0, 9, 1)]).toEqual([
    0, 0, 0,
  ]);
  expect(reader.events(P, "a", 0, 8, 1)).toBe(1);
});

test("events that come together count from the first one", () => {
  const reader = new Sequences();
  expect([reader.events(P, "a", 0, 1, 5), reader.events(P, "a", 0, 6, 2), reader.events(P, "a", 0, 10, 3)]).toEqual([
    0, 0, 2,
  ]);
  expect([
    reader.events(P, "a", 0, 13, 1),
    reader.beat(P, 20, [["b", 20, 0]]),
    reader.events(P, "b", 20, 4, 3),
  ]).toEqual([0, 0, 3]);
});

test("a heartbeat finds a lost last event, once", () => {
  const reader = new Sequences();
  reader.events(P, "a", 0, 1, 1);
  const beat: Progress[] = [["a", 0, 3]];
  expect([reader.beat(P, 3, beat), reader.beat(P, 3, beat), reader.events(P, "a", 0, 4, 1)]).toEqual([2, 0, 0]);
});

test("the first events of a topic that began after the reader are not missed, and those before are not counted", () => {
  const reader = new Sequences();
  expect(reader.beat(P, 10, [["old", 4, 6]])).toBe(0);
  expect(reader.events(P, "old", 4, 8, 1)).toBe(1);
  expect(reader.events(P, "older", 2, 3, 1)).toBe(0);
  expect(reader.events(P, "new", 10, 3, 1)).toBe(2);
  expect(reader.beat(P, 20, [["newer", 12, 2]])).toBe(2);
  reader.clear();
  expect([reader.events(P, "new", 10, 9, 1), reader.beat(P, 20, [["newer", 12, 5]])]).toEqual([0, 0]);
});

test("a topic that its publisher has forgotten starts again", () => {
  const reader = new Sequences();
  reader.events(P, "a", 0, 7, 1);
  expect([reader.events(P, "a", 50, 3, 1), reader.events(P, "a", 0, 8, 1), reader.events(P, "a", 50, 4, 1)]).toEqual([
    2, 0, 0,
  ]);
});

test("what is remembered of publishers and topics has a limit", () => {
  const reader = new Sequences();
  reader.events(P, "first", 0, 1, 1);
  for (let n = 0; n < 5_000; n++) reader.events(P, `topic ${n}`, 0, 1, 1);
  expect([reader.events(P, "topic 4999", 0, 3, 1), reader.events(P, "first", 0, 9, 1)]).toEqual([1, 0]);
  for (let n = 0; n < 5_000; n++) reader.events(`${n}.1`, "a", 0, 1, 1);
  expect([reader.events("4999.1", "a", 0, 3, 1), reader.events("0.1", "a", 0, 9, 1)]).toEqual([1, 0]);
});

test("a reader that receives any part of the events counts exactly the others", () => {
  const step = fc.record({ topic: fc.constantFrom("a", "b", "c"), isLost: fc.boolean(), beats: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const reader = new Sequences();
      const sent = new Map<string, [base: number, seq: number]>();
      let [published, received, counted] = [0, 0, 0];
      const beat = (): number =>
        reader.beat(
          P,
          published,
          [...sent].map(([name, [base, seq]]): Progress => [name, base, seq]),
        );
      beat();
      for (const { topic: name, isLost, beats } of steps) {
        const [base, seq] = sent.get(name) ?? [published, 0];
        sent.set(name, [base, seq + 1]);
        published++;
        if (!isLost) {
          received++;
          counted += reader.events(P, name, base, seq + 1, 1);
        }
        if (beats) counted += beat();
      }
      counted += beat();
      expect(received + counted).toBe(published);
    }),
  );
});

test("the subjects of a fleet and a ring are apart from all other subjects", () => {
  const rings = [
    ["a", "b"],
    ["a.b", "c"],
    ["a", "b.c"],
    ["a.e", "b"],
  ].map(([fleet, ring]) => subjectsOf("slotbus", fleet!, ring!).events);
  expect(rings[0]).toBe("slotbus.a.e.b.t.");
  for (const one of rings) expect(rings.filter((other) => other.startsWith(one))).toEqual([one]);
});

test("a topic comes back from its tokens, and a pattern of topics is a wildcard of subjects", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }), (text) => {
      if (!text.isWellFormed()) return;
      expect(topicOf(topicTokens(text))).toBe(text);
      expect(topicTokens(text)).toMatch(/^[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*$/);
    }),
  );
  expect([topicTokens("a..b "), topicTokens("."), topicTokens("a.>")]).toEqual(["a.=.b=20", "=.=", "a.=3E"]);
  expect(["*", "a.*", "a.b.*", "a.b", "a..*"].map(patternTokens)).toEqual([">", "a.>", "a.b.>", "a.b", "a.=.>"]);
  expect([topicOf("a.*"), topicOf("a.=zz")]).toEqual([null, null]);
});

test("the server sends what a filter can match, and nothing twice", () => {
  const any = where(() => true);
  const filters: [Filter, string[]][] = [
    [{ all: true }, ["*"]],
    [topic("a"), ["a"]],
    [topic("*"), ["*"]],
    [or(topic("a.b"), topic("a.*"), topic("a.b.*"), topic("c"), topic("c")), ["a.*", "c"]],
    [or(topic("a"), equals("k", 1)), ["*"]],
    [and(topic("a.*"), any), ["a.*"]],
    [and(or(topic("a"), topic("b")), topic("a"), equals("k", 1)), ["a"]],
    [not(topic("a")), ["*"]],
    [and(any), ["*"]],
    [or(), []],
  ];
  for (const [filter, patterns] of filters) expect([filter, patternsOf(filter)]).toEqual([filter, patterns]);
  expect([covers("a.*", "a.b"), covers("a.*", "a"), covers("a", "a.b"), covers("*", "a")]).toEqual([
    true,
    false,
    false,
    true,
  ]);
});

/** A message with events of the topic `a.b`: each has this payload. */
function messageOf(payloads: readonly string[], seq: number, time: number): Buffer {
  const batch = new Batch(1, 0xffff_ffff);
  for (const [n, payload] of payloads.entries()) {
    const event = Buffer.concat([Buffer.from([1, 1, 3, 0, 0, 0, 0, 0]), Buffer.from(`a.b${payload}`)]);
    batch.add(Buffer.concat([event, Buffer.alloc(100)]), event.length, time + n);
  }
  expect(batch.count).toBe(payloads.length);
  return batch.take(3, seq);
}

const topicBytes = Buffer.from("a.b");

test("a message has the events that were published together, each with its own time", () => {
  const time = 1_795_580_784_860;
  const payloads = ["one", "", "x".repeat(100_000), "four"];
  const message = messageOf(payloads, 2 ** 40 + 4, time);
  expect([head.isValid(message), countEvents(message, topicBytes)]).toEqual([true, 4]);
  expect([head.writer(message), head.incarnation(message)]).toEqual([1, 0xffff_ffff]);
  expect([head.base(message), head.seq(message), head.time(message)]).toEqual([3, 2 ** 40 + 4, time]);
  let at = HEAD_BYTES;
  for (const [n, payload] of payloads.entries()) {
    const from = at + EVENT_HEAD_BYTES;
    expect(eventHead.time(message, at)).toBe(time + n);
    at = from + eventHead.length(message, at);
    expect(message.toString("latin1", from + 8, at)).toBe(`a.b${payload}`);
  }
  expect(at).toBe(message.length);
});

test("a message with a wrong head, or with one event that is cut off or has another topic, has no events", () => {
  const message = messageOf(["one", "two"], 1, 2);
  const wrong: ((copy: Buffer) => unknown)[] = [
    (copy) => (copy[0] = 2),
    (copy) => copy.writeBigUInt64LE(2n ** 53n, 16),
    (copy) => copy.writeBigUInt64LE(2n ** 64n - 1n, 24),
    (copy) => copy.writeBigUInt64LE(2n ** 53n, 32),
  ];
  for (const change of wrong) {
    const copy = Buffer.from(message);
    change(copy);
    expect(head.isValid(copy)).toBe(false);
  }
  expect(head.isValid(message.subarray(0, HEAD_BYTES - 1))).toBe(false);
  const count = (copy: Buffer): number => countEvents(copy, topicBytes);
  for (let end = HEAD_BYTES; end < message.length; end++)
    expect(count(message.subarray(0, end))).toBe(end === HEAD_BYTES + (message.length - HEAD_BYTES) / 2 ? 1 : 0);
  const second = HEAD_BYTES + (message.length - HEAD_BYTES) / 2;
  for (const length of [0, 7, 10, 12, 0xffff_ffff]) {
    const copy = Buffer.from(message);
    copy.writeUInt32LE(length, second);
    expect(count(copy)).toBe(0);
  }
  const other = Buffer.from(message);
  other[other.lastIndexOf("a.b")] = 98;
  expect([count(message), count(other), countEvents(message, Buffer.from("a."))]).toEqual([2, 0, 0]);
});

test("heartbeats have all topics, and text that is not a heartbeat is ignored", () => {
  const topics = Array.from({ length: 600 }, (_, n): Progress => [`t${n}`, n, 1]);
  const beats = encodeBeats({ publisher: P, count: 600, topics }).map((text) => decodeBeat(text)!);
  expect(beats.flatMap((beat) => beat.topics)).toEqual(topics);
  expect([encodeBeats({ publisher: P, count: 0, topics: [] }).length, beats.length]).toEqual([1, 3]);
  const right = { v: 1, publisher: P, count: 1, topics: [["a", 0, 1]] };
  expect(decodeBeat(JSON.stringify(right))).not.toBeNull();
  const wrong = [
    { v: 2 },
    { publisher: "x" },
    { publisher: 1 },
    { count: -1 },
    { topics: null },
    { topics: [["a", 0]] },
    { topics: [[1, 0, 1]] },
    { topics: [["a", 0.5, 1]] },
    { topics: Array.from({ length: 257 }, () => ["a", 0, 1]) },
  ];
  for (const change of wrong)
    expect([change, decodeBeat(JSON.stringify({ ...right, ...change }))]).toEqual([change, null]);
  for (const text of ["", "null", "7", "{"]) expect(decodeBeat(text)).toBeNull();
});
