/** Events over NATS without a server: subjects, heads, heartbeats, and how lost events are found. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { and, covers, equals, type Filter, not, or, patternsOf, topic, where } from "../src/events/filter.ts";
import {
  decodeBeat,
  Draft,
  encodeBeats,
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
  expect([1, 2, 5, 6, 6, 4].map((seq) => reader.event(P, "a", 0, seq))).toEqual([0, 0, 2, 0, 0, 0]);
  expect([reader.event(P, "b", 3, 7), reader.event(P, "b", 3, 8), reader.event("3.4", "a", 0, 9)]).toEqual([0, 0, 0]);
  expect(reader.event(P, "a", 0, 8)).toBe(1);
});

test("a heartbeat finds a lost last event, once", () => {
  const reader = new Sequences();
  reader.event(P, "a", 0, 1);
  const beat: Progress[] = [["a", 0, 3]];
  expect([reader.beat(P, 3, beat), reader.beat(P, 3, beat), reader.event(P, "a", 0, 4)]).toEqual([2, 0, 0]);
});

test("the first events of a topic that began after the reader are not missed, and those before are not counted", () => {
  const reader = new Sequences();
  expect(reader.beat(P, 10, [["old", 4, 6]])).toBe(0);
  expect(reader.event(P, "old", 4, 8)).toBe(1);
  expect(reader.event(P, "older", 2, 3)).toBe(0);
  expect(reader.event(P, "new", 10, 3)).toBe(2);
  expect(reader.beat(P, 20, [["newer", 12, 2]])).toBe(2);
  reader.clear();
  expect([reader.event(P, "new", 10, 9), reader.beat(P, 20, [["newer", 12, 5]])]).toEqual([0, 0]);
});

test("a topic that its publisher has forgotten starts again", () => {
  const reader = new Sequences();
  reader.event(P, "a", 0, 7);
  expect([reader.event(P, "a", 50, 3), reader.event(P, "a", 0, 8), reader.event(P, "a", 50, 4)]).toEqual([2, 0, 0]);
});

test("what is remembered of publishers and topics has a limit", () => {
  const reader = new Sequences();
  reader.event(P, "first", 0, 1);
  for (let n = 0; n < 5_000; n++) reader.event(P, `topic ${n}`, 0, 1);
  expect([reader.event(P, "topic 4999", 0, 3), reader.event(P, "first", 0, 9)]).toEqual([1, 0]);
  for (let n = 0; n < 5_000; n++) reader.event(`${n}.1`, "a", 0, 1);
  expect([reader.event("4999.1", "a", 0, 3), reader.event("0.1", "a", 0, 9)]).toEqual([1, 0]);
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
          counted += reader.event(P, name, base, seq + 1);
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

test("a message with a wrong head is not an event", () => {
  const draft = new Draft(9, 1, 0xffff_ffff);
  draft.event.fill(7);
  const message = draft.message(9, 3, 2 ** 40 + 4, 1_795_580_784_860);
  expect(message.length).toBe(HEAD_BYTES + 9);
  const big = 2 ** 53 - 1;
  expect([message[HEAD_BYTES], head.isValid(message), head.isValid(draft.message(9, big, big, big))]).toEqual([
    7,
    true,
    true,
  ]);
  expect([head.writer(message), head.incarnation(message)]).toEqual([1, 0xffff_ffff]);
  expect([head.base(message), head.seq(message), head.time(message)]).toEqual([3, 2 ** 40 + 4, 1_795_580_784_860]);
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
