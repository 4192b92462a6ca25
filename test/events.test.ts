/** The event bus: filters, queues and their policies, gaps, late binding, and counts that add up. */

import { afterEach, describe, expect, spyOn, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  and,
  all,
  type BusEvent,
  equals,
  EventBus,
  EventsLostError,
  type Filter,
  type Gap,
  InvalidConfigError,
  type LocalBusOptions,
  not,
  or,
  PayloadTooLargeError,
  type SubscribeOptions,
  Subscription,
  topic,
  where,
} from "../src/events/index.ts";
import { json } from "../src/codec.ts";
import { EventDecoder } from "../src/events/codec.ts";
import { FleetSpace } from "./fleet-space.ts";
import { rejection, until } from "./support.ts";

type Topics = {
  "order.placed": { n: number };
  "order.paid": { n: number };
  opened: { connector?: unknown; session?: unknown; user?: unknown };
  closed: { connector: string; session: string } | undefined;
  said: { text: string };
  bytes: Uint8Array;
};
type Item = BusEvent<Topics> | Gap;

const EVENTS = { rings: { events: { frames: 1_024, frameBytes: 128 } } };

/** The carriers of the bus under test. */
const CARRIERS = ["in this thread", "in a fleet"] as const;
const spaces: FleetSpace[] = [];

afterEach(async () => {
  for (const space of spaces.splice(0)) await space[Symbol.asyncDispose]();
});

/** A bus for one test. With a fleet, `maxEvents` is its number of frames, and a quarter of its bytes is the largest event. */
async function open<T extends object = Record<string, unknown>>(
  carrier: (typeof CARRIERS)[number],
  options: LocalBusOptions = {},
): Promise<EventBus<T>> {
  if (carrier === "in this thread") return EventBus.local<T>(options);
  const { maxEvents: frames = 4_096, payloadBytes, codec } = options;
  const space = new FleetSpace();
  spaces.push(space);
  const frameBytes = payloadBytes === undefined ? 512 : (payloadBytes * 4) / frames;
  const fleet = await space.join({ rings: { events: { frames, frameBytes } } });
  return EventBus.open<T>({ fleet, ring: "events", codec });
}

/** A short form of an item: its number, or its gap. */
function short(item: Item): unknown {
  if (item.topic === null) return { ...item, topic: undefined };
  return item.topic === "order.placed" || item.topic === "order.paid" ? item.payload.n : item.topic;
}

const lost = (overwritten: number, dropped: number): object => ({ topic: undefined, overwritten, dropped });

function place(bus: EventBus<Topics>, from: number, to: number): void {
  for (let n = from; n <= to; n++) bus.publish("order.placed", { n });
}

/** Waits some turns of the event loop until the reader is idle. */
async function rest(): Promise<void> {
  for (let i = 0; i < 5; i++) await Bun.sleep(1);
}

describe.each(CARRIERS)("publishing and subscribing, %s", (carrier) => {
  test("a subscriber to all receives what is published after it subscribed, with id and attributes", async () => {
    await using bus = await open<Topics>(carrier);
    bus.publish("order.placed", { n: 0 });
    const subscription = bus.subscribeAll();
    bus.publish("order.paid", { n: 1 }, { id: "a-1", attributes: { shop: "x", cents: 250, gift: true } });
    const [event] = subscription.poll();
    expect(event).toMatchObject({
      topic: "order.paid",
      payload: { n: 1 },
      id: "a-1",
      attributes: { shop: "x", cents: 250, gift: true },
      position: 1,
      writer: 0,
    });
    expect(subscription.poll()).toEqual([]);
    expect([bus.published, bus.subscriptions, subscription.lost]).toEqual([2, 1, 0]);
  });

  test("publishing without a subscriber succeeds, and a later subscriber from the oldest event sees it", async () => {
    await using bus = await open<Topics>(carrier);
    place(bus, 1, 3);
    expect(bus.subscribeAll().poll()).toEqual([]);
    expect(bus.subscribeAll({ from: "oldest" }).poll().map(short)).toEqual([1, 2, 3]);
    expect(
      bus
        .subscribeAll({ from: 1, queue: { limit: 0 } })
        .poll()
        .map(short),
    ).toEqual([2, 3]);
  });

  test("payloads: JSON, bytes unchanged, nothing, a custom codec", async () => {
    await using bus = await open(carrier);
    const values = [null, 0, "ä\0€", [1, { a: [] }], { deep: { x: true } }, undefined];
    const subscription = bus.subscribeAll();
    for (const value of values) bus.publish("any", value);
    const bytes = new Uint8Array([0, 255, 128]);
    bus.publish("any", bytes);
    bytes.fill(1);
    const got = subscription.poll().map((event) => (event as BusEvent).payload);
    expect(got).toEqual([...values, new Uint8Array([0, 255, 128])]);
    expect(got[6]).toBeInstanceOf(Uint8Array);

    const hex = {
      contentType: "text/hex",
      encode: (value: unknown) => Buffer.from(String(value)).toString("hex"),
      decode: (given: Uint8Array) => Buffer.from(Buffer.from(given).toString(), "hex").toString(),
    };
    await using coded = await open(carrier, { codec: hex });
    const decoded = coded.subscribeAll();
    const plain = coded.subscribeAll({ codec: { ...hex, decode: (given) => Buffer.from(given).toString() } });
    coded.publish("any", "hi");
    expect((decoded.poll()[0] as BusEvent).payload).toBe("hi");
    expect((plain.poll()[0] as BusEvent).payload).toBe("6869");
  });

  const long = "x".repeat(256);
  const bad: [string, (bus: EventBus) => unknown][] = [
    ["an empty topic", (bus) => bus.publish("", 1)],
    ["a topic with NUL", (bus) => bus.publish("a\0b", 1)],
    ["a topic that is a number", (bus) => bus.publish(7 as never, 1)],
    ["a topic of 256 bytes", (bus) => bus.publish(long, 1)],
    ["a topic of 258 bytes in 86 characters", (bus) => bus.publish("€".repeat(86), 1)],
    ["a topic that is a pattern", (bus) => bus.publish("a.*", 1)],
    ["half a surrogate pair", (bus) => bus.publish("\ud800", 1)],
    ["an empty id", (bus) => bus.publish("a", 1, { id: "" })],
    ["an id that is a number", (bus) => bus.publish("a", 1, { id: 7 as never })],
    ["an id of 256 bytes", (bus) => bus.publish("a", 1, { id: long })],
    ["an attribute called id", (bus) => bus.publish("a", 1, { attributes: { id: "x" } })],
    ["an attribute without a name", (bus) => bus.publish("a", 1, { attributes: { "": 1 } })],
    ["an attribute's name of 256 bytes", (bus) => bus.publish("a", 1, { attributes: { [long]: 1 } })],
    ["an attribute that is an object", (bus) => bus.publish("a", 1, { attributes: { x: {} as never } })],
    ["an attribute that is NaN", (bus) => bus.publish("a", 1, { attributes: { x: NaN } })],
    ["a list of attributes", (bus) => bus.publish("a", 1, { attributes: [] as never })],
    ["8 KiB of attributes", (bus) => bus.publish("a", 1, { attributes: { x: "y".repeat(8_192) } })],
    ["a filter that is null", (bus) => bus.subscribe(null as never)],
    ["a filter that is a function", (bus) => bus.subscribe((() => true) as never)],
    ["a filter with two kinds", (bus) => bus.subscribe({ all: true, topic: "a" } as never)],
    ["a filter that is unknown", (bus) => bus.subscribe({ kind: 1 } as never)],
    ["an empty pattern", (bus) => bus.subscribe(topic(""))],
    ["a pattern with a star in it", (bus) => bus.subscribe(topic("a.*.b"))],
    ["a pattern whose star follows no dot", (bus) => bus.subscribe(topic("a*"))],
    ["equals with an object", (bus) => bus.subscribe(equals("a", {} as never))],
    ["equals with NaN", (bus) => bus.subscribe(equals("a", NaN))],
    ["equals without a name", (bus) => bus.subscribe(equals("", 1))],
    ["and of no list", (bus) => bus.subscribe({ and: 1 } as never)],
    ["a wrong filter within not", (bus) => bus.subscribe(not(or(all(), { x: 1 } as never)))],
    ["where without a function", (bus) => bus.subscribe({ where: "x" } as never)],
    ["a filter that contains itself", (bus) => bus.subscribe(endless())],
    ["a negative queue", (bus) => bus.subscribeAll({ queue: { limit: -1 } })],
    ["half a queue", (bus) => bus.subscribeAll({ queue: { limit: 0.5 } })],
    ["an unknown policy", (bus) => bus.subscribeAll({ queue: { policy: "block" as never } })],
    ["an unknown start", (bus) => bus.subscribeAll({ from: "tail" as never })],
    ["a codec without functions", (bus) => bus.subscribeAll({ codec: {} as never })],
    ["a binding without a key", (bus) => bus.bind({ on: "a", id: "i" } as never)],
    ["a binding with an empty key", (bus) => bus.bind({ on: "a", key: [], id: "i" })],
    ["a binding on no topic", (bus) => bus.bind({ on: "", key: "k", id: "i" })],
    ["a binding with no keys", (bus) => bus.bind({ on: "a", key: "k", id: "i", maxKeys: 0 })],
    ["a binding with a key with NUL", (bus) => bus.bind({ on: "a", key: "k\0", id: "i" })],
    ["a binding with a key of 256 bytes", (bus) => bus.bind({ on: "a", key: ["k", long], id: "i" })],
    ["a binding with the key id", (bus) => bus.bind({ on: "a", key: ["k", "id"], id: "i" })],
    ["a binding whose key is a number", (bus) => bus.bind({ on: "a", key: [7] as never, id: "i" })],
    ["a binding without options", (bus) => bus.bind(null as never)],
    ["a filter of a topic with NUL", (bus) => bus.subscribe(topic("a\0b"))],
    ["a filter of a topic of 256 bytes", (bus) => bus.subscribe(topic(long))],
    ["a pattern of 256 bytes and a star", (bus) => bus.subscribe(topic(`${long.slice(1)}.*`))],
    ["a pattern without a prototype", (bus) => bus.subscribe(topic(Object.create(null)))],
    ["equals with a name with NUL", (bus) => bus.subscribe(equals("a\0b", 1))],
    ["equals with a name of 256 bytes", (bus) => bus.subscribe(and(equals(long, 1)))],
    ["equals with an id that is a number", (bus) => bus.subscribe(equals("id", 7))],
    ["a topic without a prototype", (bus) => bus.publish(Object.create(null), 1)],
    ["a symbol as topic", (bus) => bus.publish(Symbol("a") as never, 1)],
    ["a publish without options", (bus) => bus.publish("a", 1, null as never)],
    ["a subscription without options", (bus) => bus.subscribeAll(null as never)],
    ["a signal without methods", (bus) => bus.subscribeAll({ signal: {} as never })],
    ["a publish with an unknown option", (bus) => bus.publish("a", 1, { ident: "x" } as never)],
    ["a subscription with an old option", (bus) => bus.subscribeAll({ policy: "close" } as never)],
    ["a binding with an old option", (bus) => bus.bind({ on: "a", key: "k", id: "i", max: 1 } as never)],
    ["a queue that is a number", (bus) => bus.subscribeAll({ queue: 5 as never })],
    ["a bus without options", () => EventBus.open(undefined as never)],
    ["a bus of null", () => EventBus.open(null as never)],
    ["a bus whose codec is null", () => EventBus.local({ codec: null as never })],
    ["a bus without a fleet", () => EventBus.open({ ring: "events" } as never)],
    ["a local bus of null", () => EventBus.local(null as never)],
    ["a local bus of frames", () => EventBus.local({ frames: 8 } as never)],
    ["a local bus of 7 events", () => EventBus.local({ maxEvents: 7 })],
  ];
  test.each(bad)("%s is refused, and nothing is published or left open", async (_, call) => {
    await using bus = await open(carrier);
    expect(await rejection((async () => call(bus))())).toBeInstanceOf(InvalidConfigError);
    expect([bus.published, bus.subscriptions]).toEqual([0, 0]);
    expect(bus.subscribeAll({ from: "oldest" }).poll()).toEqual([]);
  });

  test("the error shows the refused value: text in quotes, long text by its beginning and its bytes", async () => {
    await using bus = await open(carrier);
    expect(() => bus.publish("€".repeat(86), 1)).toThrow(`topic is "${"€".repeat(64)}"… (258 bytes); it must be text`);
    expect(() => bus.subscribeAll({ queue: { limit: "5" as never } })).toThrow(
      'queue.limit is "5"; it must be a whole number',
    );
  });

  test("topics, ids and attribute names of the maximum length are accepted", async () => {
    await using bus = await open(carrier);
    const subscription = bus.subscribe(equals("ä".repeat(127), "€"));
    const longest = "€".repeat(85);
    bus.publish(longest, 1, { id: longest, attributes: { ["ä".repeat(127)]: "€" } });
    expect(subscription.poll()).toMatchObject([{ topic: longest, id: longest }]);
  });

  test("an event larger than a quarter of the ring is refused, with text and with bytes as payload", async () => {
    await using bus = await open(carrier, { maxEvents: 16, payloadBytes: 256 });
    const subscription = bus.subscribeAll();
    for (const payload of ["x".repeat(256), new Uint8Array(256), "ä".repeat(124), new Uint8Array(248)]) {
      expect(() => bus.publish("t", payload)).toThrow(PayloadTooLargeError);
    }
    bus.publish("t", new Uint8Array(247));
    expect(subscription.poll().length).toBe(1);
    expect(bus.published).toBe(1);
  });

  test("an error of a codec is thrown to the publisher, and nothing is published", async () => {
    await using bus = await open(carrier);
    expect(() => bus.publish("a", () => {})).toThrow(TypeError);
    const cycle: Record<string, unknown> = {};
    cycle["self"] = cycle;
    expect(() => bus.publish("a", cycle)).toThrow(TypeError);
    expect(bus.published).toBe(0);
  });

  test("frames that are not events of a bus count as dropped, and the next event comes", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    await using bus = await EventBus.open({ fleet, ring: "events" });
    const subscription = bus.subscribeAll();
    const ring = fleet.ring("events");
    for (const garbage of ["", "garbage", new Uint8Array([9, 0, 1, 0, 0, 0, 0, 0, 65])]) ring.publish(garbage);
    ring.publish(new Uint8Array([1, 2, 255, 255, 0, 0, 0, 0, 65])); // a topic that ends beyond its frame
    ring.publish(new Uint8Array([1, 2, 1, 0, 0, 0, 1, 0, 65, 123])); // attributes that are not JSON, payload empty
    ring.publish(new Uint8Array([1, 2, 1, 0, 0, 0, 0, 0, 65, 123])); // a payload that is not JSON
    bus.publish("good", 1);
    expect(subscription.poll()).toMatchObject([{ topic: null, dropped: 6 }, { topic: "good" }]);
    expect(subscription.counts).toMatchObject({ received: 1, dropped: 6, undecodable: 6 });
  });
});

/** A filter that contains itself. */
function endless(): Filter {
  const filters: Filter[] = [];
  const filter = and(...filters) as { and: Filter[] };
  filter.and.push(filter);
  return filter;
}

describe.each(CARRIERS)("filters, %s", (carrier) => {
  const published: [keyof Topics, { n: number }, Record<string, string | number | boolean>, string?][] = [
    ["order.placed", { n: 1 }, { shop: "x", vip: true }, "u1"],
    ["order.paid", { n: 2 }, { shop: "y", cents: 5 }],
    ["order.placed", { n: 3 }, { shop: "x" }, "u2"],
    ["order.paid", { n: 4 }, {}],
  ];
  const cases: [string, Filter, number[]][] = [
    ["all", all(), [1, 2, 3, 4]],
    ["a topic", topic("order.paid"), [2, 4]],
    ["a prefix", topic("order.*"), [1, 2, 3, 4]],
    ["a star", topic("*"), [1, 2, 3, 4]],
    ["a prefix that ends inside a word", topic("orde.*"), []],
    ["a topic that is only a prefix", topic("order"), []],
    ["an attribute", equals("shop", "x"), [1, 3]],
    ["an attribute of another type", equals("cents", "5"), []],
    ["a number", equals("cents", 5), [2]],
    ["a boolean", equals("vip", true), [1]],
    ["a missing attribute", equals("toString", "x"), []],
    ["an id", equals("id", "u2"), [3]],
    ["and", and(topic("order.placed"), equals("vip", true)), [1]],
    ["or", or(equals("vip", true), topic("order.paid")), [1, 2, 4]],
    ["not", not(equals("shop", "x")), [2, 4]],
    ["and of none", and(), [1, 2, 3, 4]],
    ["or of none", or(), []],
    ["a predicate", where((event) => event.payload.n > 2), [3, 4]],
    ["a predicate among others", and(topic("order.paid"), not(where((event) => event.payload.n > 2))), [2]],
    ["a predicate that does not return a boolean", where((event) => event.payload.n as never), []],
  ];
  test.each(cases)("%s", async (_, filter, expected) => {
    await using bus = await open<Topics>(carrier);
    const subscription = bus.subscribe(filter);
    for (const [name, payload, attributes, id] of published) bus.publish(name, payload as never, { attributes, id });
    expect(subscription.poll().map((item) => short(item as Item))).toEqual(expected);
    expect(subscription.counts).toMatchObject({ received: expected.length, filtered: 4 - expected.length });
  });

  test("no payload is decoded when a filter on the head refuses the event", async () => {
    let decoded = 0;
    const codec = {
      contentType: "x/y",
      encode: (value: unknown) => JSON.stringify(value),
      decode: (bytes: Uint8Array) => JSON.parse(Buffer.from(bytes).toString(), (_, value) => (decoded++, value)),
    };
    await using bus = await open(carrier, { codec });
    const subscription = bus.subscribe(
      and(
        topic("b"),
        equals("x", 1),
        where(({ payload }) => payload > 1),
      ),
    );
    for (let i = 0; i < 3; i++) {
      bus.publish("a", i, { attributes: { x: 1 } });
      bus.publish("b", i, { attributes: { x: 2 } });
      bus.publish("b", i, { attributes: { x: 1 } });
    }
    expect(subscription.poll().map((event) => (event as BusEvent).payload)).toEqual([2]);
    expect(decoded).toBe(3);
    expect(subscription.counts.filtered).toBe(8);
  });

  test("events that the filter refuses never count as lag and take no room in the queue", async () => {
    await using bus = await open<Topics>(carrier);
    const subscription = bus.subscribe(topic("said"), { queue: { limit: 1 } });
    for (let i = 0; i < 10; i++) {
      place(bus, 1, 50);
      await Bun.sleep(1);
    }
    bus.publish("said", { text: "hi" });
    await rest();
    expect([subscription.lost, subscription.counts.filtered, subscription.counts.queued]).toEqual([0, 500, 1]);
    expect(subscription.poll().length).toBe(1);
  });

  test("a flood of refused events leaves the event loop its turns", async () => {
    await using bus = await open<Topics>(carrier);
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    let flooding = true;
    const refuse = where((event) => {
      if (flooding) place(bus, event.payload.n + 1, event.payload.n + 1); // each read event publishes another
      return false;
    });
    const subscription = bus.subscribe(refuse, { queue: { limit: 0 } });
    const next = subscription.next();
    place(bus, 1, 1);
    await until(() => turns > 5, "timers run");
    flooding = false;
    expect(subscription.counts.filtered).toBeGreaterThan(100);
    clearInterval(timer);
    subscription.close();
    expect((await next).done).toBe(true);
  });

  test("a predicate that throws ends its own subscription with its error, after earlier events", async () => {
    await using bus = await open<Topics>(carrier);
    const why = new Error("predicate");
    const failing = where((event) => {
      if (event.payload.n === 2) throw why;
      return true;
    });
    const first = bus.subscribe(failing);
    const other = bus.subscribeAll();
    place(bus, 1, 3);
    expect(first.poll().map((item) => short(item as Item))).toEqual([1]);
    expect(() => first.poll()).toThrow(why);
    expect(first.closed).toBe(true);
    expect(other.poll().length).toBe(3);
    const second = bus.subscribe(failing);
    const next = second.next();
    place(bus, 2, 2);
    expect(await rejection(next)).toBe(why);
    expect(await second.next()).toEqual({ done: true, value: undefined });
  });
});

describe.each(CARRIERS)("queues, %s", (carrier) => {
  test("five events for a queue of one, without a reader: the first is there, four are lost and counted", async () => {
    await using bus = await open<Topics>(carrier);
    const subscription = bus.subscribeAll({ queue: { limit: 1 } });
    place(bus, 1, 5);
    await until(() => subscription.lost === 4, "four are dropped");
    expect(subscription.counts).toMatchObject({ queued: 1, received: 0, dropped: 4, overwritten: 0 });
    expect(subscription.poll().map(short)).toEqual([1, lost(0, 4)]);
  });

  const policies: ["drop-newest" | "drop-oldest", unknown[]][] = [
    ["drop-newest", [1, 2, 3, lost(0, 4), 8]],
    ["drop-oldest", [lost(0, 5), 6, 7, 8]],
  ];
  test.each(policies)("%s behaves as documented, and reports where the gap is", async (policy, expected) => {
    await using bus = await open<Topics>(carrier);
    const subscription = bus.subscribeAll({ queue: { limit: 3, policy } });
    place(bus, 1, 7);
    await until(() => subscription.lost === 4, "four are dropped");
    if (policy === "drop-newest") expect(subscription.poll(1).map(short)).toEqual([1]);
    place(bus, 8, 8);
    await until(() => subscription.counts.queued === 3, "the last is there");
    await rest();
    const all = policy === "drop-newest" ? [1, ...subscription.poll().map(short)] : subscription.poll().map(short);
    expect(all).toEqual(expected);
  });

  test("policy close ends it after its queued events, with the number of lost ones; other subscriptions lose nothing", async () => {
    await using bus = await open<Topics>(carrier);
    const subscription = bus.subscribeAll({ queue: { limit: 2, policy: "close" } });
    const other = bus.subscribeAll();
    place(bus, 1, 3);
    await until(() => subscription.lost > 0, "one is lost");
    expect(subscription.closed).toBe(true);
    const got: unknown[] = [];
    const error = await rejection<EventsLostError>(
      (async () => {
        for await (const item of subscription) got.push(short(item));
      })(),
    );
    expect(error).toBeInstanceOf(EventsLostError);
    expect([got, error.lost]).toEqual([[1, 2, lost(0, 1)], 1]);
    expect(other.poll().map(short)).toEqual([1, 2, 3]);
    expect(bus.subscriptions).toBe(1);
  });

  test("policy close also ends it when the ring overwrites", async () => {
    await using bus = await open<Topics>(carrier, { maxEvents: 8 });
    const subscription = bus.subscribeAll({ queue: { limit: 0, policy: "close" } });
    place(bus, 1, 20);
    expect(subscription.poll().map(short)).toEqual([lost(12, 0)]);
    expect(() => subscription.poll()).toThrow(EventsLostError);
    expect(subscription.poll()).toEqual([]);
  });

  test("an active reader loses nothing of a burst far above the queue, by for await and by poll", async () => {
    await using bus = await open<Topics>(carrier, { maxEvents: 8_192 });
    const slow = bus.subscribeAll({ queue: { limit: 10 } });
    const polling = bus.subscribeAll({ queue: { limit: 10 } });
    const got: unknown[] = [];
    const reading = bus.subscribeAll({ queue: { limit: 10 } });
    const done = (async () => {
      for await (const item of reading) if (got.push(short(item)) === 5_000 || item.topic === null) break;
    })();
    await Bun.sleep(1);
    place(bus, 1, 5_000);
    expect(polling.poll(10_000).map(short)).toEqual(Array.from({ length: 5_000 }, (_, i) => i + 1));
    await done;
    expect(got).toEqual(Array.from({ length: 5_000 }, (_, i) => i + 1));
    await until(() => slow.lost === 4_990, "the slow one has lost the rest");
    expect([reading.lost, polling.lost]).toEqual([0, 0]);
  });

  test("without a queue it pulls: nothing is lost until the ring overwrites, and then the gap is reported in its place", async () => {
    await using bus = await open<Topics>(carrier, { maxEvents: 64 });
    const subscription = bus.subscribeAll({ queue: { limit: 0 } });
    place(bus, 1, 60);
    await rest();
    expect(subscription.counts.queued).toBe(0);
    expect(subscription.poll(2).map(short)).toEqual([1, 2]);
    const next: unknown[] = [];
    place(bus, 61, 200);
    for (let items = subscription.poll(); items.length > 0; items = subscription.poll()) next.push(...items.map(short));
    const gap = next.findIndex((item) => typeof item === "object");
    expect(next.slice(0, gap)).toEqual(Array.from({ length: gap }, (_, i) => i + 3)); // it had copied a batch
    expect(next.slice(gap + 1)).toEqual(Array.from({ length: 64 }, (_, i) => i + 137));
    expect(next[gap]).toEqual(lost(200 - 2 - gap - 64, 0));
    expect(subscription.lost).toBe(200 - 2 - gap - 64);
  });

  test("queued events can be read after close; then reading ends, for waiting readers at once", async () => {
    await using bus = await open<Topics>(carrier);
    const subscription = bus.subscribeAll();
    place(bus, 1, 3);
    await until(() => subscription.counts.queued === 3, "three are queued");
    bus.unsubscribe(subscription.id);
    bus.unsubscribe(subscription.id);
    bus.unsubscribe(4_711);
    place(bus, 4, 4);
    const got: unknown[] = [];
    for await (const item of subscription) got.push(short(item));
    expect(got).toEqual([1, 2, 3]);
    expect(subscription.poll()).toEqual([]);
    for (const limit of [0, 256]) {
      const other = bus.subscribeAll({ queue: { limit } });
      const next = other.next();
      other.close();
      other.close();
      expect((await next).done).toBe(true);
    }
  });

  test("ids count from 0 and are never reused; a closed subscription is forgotten with any filter", async () => {
    await using bus = await open<Topics>(carrier);
    const first = bus.subscribe(topic("never.*"));
    expect([first.id, bus.subscriptions]).toEqual([0, 1]);
    first.close();
    expect(bus.subscriptions).toBe(0);
    const second = bus.subscribe(topic("never.*"));
    expect(second.id).toBe(1);
    expect(() => bus.subscribeAll({ queue: { limit: -1 } })).toThrow(InvalidConfigError);
    expect(bus.subscribeAll().id).toBe(2);
    expect(bus.subscriptions).toBe(2);
  });

  test("a signal ends it at once with its reason; queued events count as dropped", async () => {
    await using bus = await open<Topics>(carrier);
    for (const limit of [0, 256]) {
      const abort = new AbortController();
      const waiting = bus.subscribeAll({ queue: { limit }, signal: abort.signal });
      const idle = bus.subscribeAll({ signal: abort.signal });
      const next = waiting.next();
      const why = new Error("enough");
      if (limit === 0) {
        abort.abort(why);
        expect(await rejection(next)).toBe(why);
      } else {
        place(bus, 1, 2);
        await next;
        await until(() => idle.counts.queued === 2, "two are queued");
        abort.abort(why);
        expect(idle.counts).toMatchObject({ queued: 0, dropped: 2 });
      }
      expect(() => idle.poll()).toThrow(why);
      expect((await idle.next()).done).toBe(true);
      expect(() => bus.subscribeAll({ signal: abort.signal })).toThrow(why);
    }
    expect(bus.subscriptions).toBe(0);
  });

  test("after close the signal has no effect: queued events stay", async () => {
    await using bus = await open<Topics>(carrier);
    const abort = new AbortController();
    const subscription = bus.subscribeAll({ signal: abort.signal });
    place(bus, 1, 2);
    await until(() => subscription.counts.queued === 2, "two are queued");
    subscription.close();
    abort.abort(new Error("too late"));
    expect(subscription.counts).toMatchObject({ queued: 2, dropped: 0 });
    expect(subscription.poll().map(short)).toEqual([1, 2]);
    expect((await subscription.next()).done).toBe(true);
  });

  test("leaving the loop closes it; closing the bus ends all", async () => {
    const bus = await open<Topics>(carrier);
    const first = bus.subscribeAll();
    place(bus, 1, 2);
    for await (const item of first) {
      expect(short(item)).toBe(1);
      break;
    }
    expect([first.closed, bus.subscriptions]).toEqual([true, 0]);
    const second = bus.subscribeAll();
    const next = second.next();
    await bus.close();
    await bus.close();
    expect((await next).done).toBe(true);
    expect([bus.closed, second.closed]).toEqual([true, true]);
  });

  test("closing a bus of a fleet leaves the fleet", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const bus = await EventBus.open<Topics>({ fleet, ring: "events" });
    await bus.close();
    expect([bus.closed, fleet.closed]).toEqual([true, false]);
    for (const options of [{ fleet, ring: "none" }, { fleet: {}, ring: "events" }, { fleet }]) {
      expect(await rejection(EventBus.open(options as never))).toBeInstanceOf(InvalidConfigError);
    }
  });

  test("a bookmark of an earlier epoch gives a gap with the epoch of this file, before its events", async () => {
    await using space = new FleetSpace();
    const before = await space.join(EVENTS);
    const { bookmark } = before.ring("events").cursor();
    await before.close();
    const fleet = await space.join(EVENTS);
    const bus = await EventBus.open<Topics>({ fleet, ring: "events" });
    place(bus, 1, 2);
    for (const limit of [0, 256]) {
      const subscription = bus.subscribeAll({ from: bookmark, queue: { limit } });
      const gap = { topic: undefined, overwritten: 0, dropped: 0, epoch: fleet.epoch };
      expect(subscription.poll().map(short)).toEqual([gap, 1, 2]);
      expect(subscription.lost).toBe(0);
    }
  });

  test("a subscription beside its publisher gets its turn when the event loop does, and loses nothing", async () => {
    await using bus = await open<Topics>(carrier, { maxEvents: 64 });
    const subscription = bus.subscribe(topic("order.placed"), { queue: { limit: 1_000_000 } });
    let published = 0;
    while (published < 60_000) {
      place(bus, published + 1, published + 30);
      published += 30;
      await new Promise((resolve) => setImmediate(resolve));
      if (published % 1_500 === 0) await Bun.sleep(1); // it sleeps now
    }
    await until(() => subscription.counts.queued + subscription.lost === published, "all came");
    expect(subscription.lost).toBe(0);
  });

  test("published events are each received, filtered, lost to the ring or dropped", async () => {
    await using bus = await open<Topics>(carrier, { maxEvents: 256 });
    const odd = where((event) => event.payload.n % 2 === 1);
    const options: SubscribeOptions[] = [
      { queue: { limit: 0 } },
      { queue: { limit: 4 } },
      { queue: { limit: 4, policy: "drop-oldest" } },
      { queue: { limit: 1_000 } },
    ];
    const subscriptions = options.map((one) => bus.subscribe(odd, one));
    const gaps = subscriptions.map(() => ({ overwritten: 0, dropped: 0, events: 0 }));
    const read = (i: number, max: number): number => {
      const items = subscriptions[i]!.poll(max);
      for (const item of items) {
        if (item.topic !== null) gaps[i]!.events++;
        else {
          gaps[i]!.overwritten += item.overwritten;
          gaps[i]!.dropped += item.dropped;
        }
      }
      return items.length;
    };
    let published = 0;
    for (let round = 0; round < 40; round++) {
      const burst = (round * 97) % 700;
      place(bus, published + 1, published + burst);
      published += burst;
      if (round % 3 !== 0) await Bun.sleep(round % 3);
      for (let i = 0; i < 4; i++) read(i, 1 + ((round * 13 + i) % 50));
    }
    await rest();
    for (let i = 0; i < 4; i++) while (read(i, 1_000) > 0);
    for (const [i, subscription] of subscriptions.entries()) {
      const { received, queued, filtered, overwritten, dropped } = subscription.counts;
      expect(received + filtered + overwritten + dropped).toBe(published);
      expect({ overwritten, dropped, events: received }).toEqual(gaps[i]!);
      expect([queued, subscription.lost]).toEqual([0, overwritten + dropped]);
    }
    const total = (name: "overwritten" | "dropped"): number => gaps.reduce((sum, gap) => sum + gap[name], 0);
    expect(total("overwritten")).toBeGreaterThan(0);
    expect(total("dropped")).toBeGreaterThan(0);
  });
});

describe.each(CARRIERS)("late binding, %s", (carrier) => {
  const RULE = { on: "opened", key: ["connector", "session"], id: "user", unbindOn: "closed" } as const;
  const key = { connector: "c", session: "s" };

  function idsOf(subscription: Subscription<BusEvent<Topics>>): (string | null)[] {
    return subscription.poll(1_000).map((item) => (item as BusEvent).id);
  }

  test("a filter on an id sees the binding event with its own id, and later events that carry only the key", async () => {
    await using bus = await open<Topics>(carrier);
    using binding = bus.bind(RULE);
    const subscription = bus.subscribe(equals("id", "u1"));
    bus.publish("said", { text: "before" }, { attributes: key });
    bus.publish("opened", { ...key, user: "u1" });
    bus.publish("said", { text: "after" }, { attributes: key });
    bus.publish("said", { text: "other" }, { attributes: { ...key, session: "t" } });
    bus.publish("said", { text: "no key" }, { attributes: { connector: "c" } });
    expect(subscription.poll()).toMatchObject([
      { topic: "opened", id: "u1" },
      { topic: "said", id: "u1", payload: { text: "after" } },
    ]);
    expect(binding.counts).toMatchObject({ size: 1, bound: 1, hits: 1, misses: 2, invalid: 0 });
  });

  test("an existing id is not changed; a binding event takes its id from its payload", async () => {
    await using bus = await open<Topics>(carrier);
    bus.bind(RULE);
    const subscription = bus.subscribeAll();
    bus.publish("opened", { ...key, user: "u1" }, { id: "given" });
    bus.publish("said", { text: "mine" }, { attributes: key, id: "given" });
    bus.publish("opened", { ...key, user: "u2" }, { attributes: key }); // u1 by the key's lookup; then its own
    bus.publish("said", { text: "last wins" }, { attributes: key });
    expect(idsOf(subscription)).toEqual(["u1", "given", "u2", "u2"]);
  });

  test("a binding event without a valid id or a whole key is published, binds nothing, and is counted", async () => {
    await using bus = await open<Topics>(carrier);
    const warn = spyOn(process, "emitWarning").mockImplementation(() => {});
    const binding = bus.bind(RULE);
    const subscription = bus.subscribeAll();
    for (const user of [7, "", "x".repeat(256), undefined, "a\0b"]) bus.publish("opened", { ...key, user });
    bus.publish("opened", { connector: "c", user: "keyless" });
    bus.publish("opened", "no object" as never);
    bus.publish("said", { text: "hi" }, { attributes: key });
    expect(idsOf(subscription)).toEqual([null, null, null, null, null, "keyless", null, null]);
    expect(binding.counts).toMatchObject({ size: 0, bound: 0, invalid: 7, hits: 0, misses: 1 });
    expect(warn).toHaveBeenCalledTimes(1);
    warn.mockRestore();
  });

  test("at most maxKeys keys are kept: the key that was not used for the longest time is dropped", async () => {
    await using bus = await open<Topics>(carrier);
    const binding = bus.bind({ ...RULE, maxKeys: 2 });
    const subscription = bus.subscribe(topic("said"));
    const say = (session: string): void =>
      bus.publish("said", { text: "" }, { attributes: { connector: "c", session } });
    for (const session of ["a", "b"]) bus.publish("opened", { connector: "c", session, user: session });
    say("a");
    bus.publish("opened", { connector: "c", session: "c", user: "c" });
    for (const session of ["a", "b", "c"]) say(session);
    expect(idsOf(subscription)).toEqual(["a", "a", null, "c"]);
    expect(binding.counts).toMatchObject({ size: 2, bound: 3, evicted: 1, hits: 3, misses: 1 });
  });

  test("unbinding forgets the key, by payload or by attributes; the unbinding event itself still has the id", async () => {
    await using bus = await open<Topics>(carrier);
    const binding = bus.bind(RULE);
    const subscription = bus.subscribeAll();
    bus.publish("opened", { ...key, user: "u1" });
    bus.publish("closed", key, { attributes: key });
    bus.publish("said", { text: "" }, { attributes: key });
    bus.publish("opened", { ...key, user: "u2" });
    bus.publish("closed", undefined, { attributes: key });
    bus.publish("said", { text: "" }, { attributes: key });
    expect(idsOf(subscription)).toEqual(["u1", "u1", null, "u2", "u2", null]);
    expect(binding.counts).toMatchObject({ size: 0, bound: 2, unbound: 2 });
    binding.close();
    binding.close();
    bus.publish("opened", { ...key, user: "u3" });
    expect(idsOf(subscription)).toEqual([null]);
  });

  test("keys differ by their parts and their types", async () => {
    await using bus = await open(carrier);
    bus.bind({ on: "opened", key: ["a", "b"], id: "id" });
    const subscription = bus.subscribe(topic("said"));
    bus.publish("opened", { a: "x", b: "yz", id: "1" });
    bus.publish("opened", { a: "xy", b: "z", id: "2" });
    bus.publish("opened", { a: 1, b: true, id: "3" });
    for (const [a, b] of [
      ["x", "yz"],
      ["xy", "z"],
      [1, true],
      ["1", "true"],
    ] as [string, string][]) {
      bus.publish("said", 0, { attributes: { a, b } });
    }
    expect(subscription.poll().map((event) => (event as BusEvent).id)).toEqual(["1", "2", "3", null]);
  });

  test("a member binds what another member published, even before it joined; the order in the ring decides", async () => {
    await using space = new FleetSpace();
    const bus = async (): Promise<EventBus<Topics>> =>
      EventBus.open({ fleet: await space.join(EVENTS), ring: "events" });
    const [first, second] = [await bus(), await bus()];
    const binding = first.bind(RULE);
    first.publish("opened", { ...key, user: "u1" });
    const late = second.bind(RULE);
    const subscription = first.subscribe(topic("said"));
    second.publish("said", { text: "" }, { attributes: key });
    second.publish("opened", { ...key, user: "u2" });
    first.publish("said", { text: "" }, { attributes: key });
    expect(idsOf(subscription)).toEqual(["u1", "u2"]);
    expect([binding.counts.bound, late.counts.bound]).toEqual([2, 2]);
  });

  test("a publish reads the existing bindings, and does not wait for bindings published meanwhile", async () => {
    await using space = new FleetSpace();
    const [fleet, other] = [await space.join(EVENTS), await space.join(EVENTS)];
    const busy = await EventBus.open<Topics>({ fleet: other, ring: "events" });
    let left = 0;
    const codec = {
      ...json,
      decode(bytes: Uint8Array): unknown {
        if (left > 0) busy.publish("opened", { ...key, user: `u${left--}` });
        return json.decode(bytes);
      },
    };
    const bus = await EventBus.open<Topics>({ fleet, ring: "events", codec });
    const binding = bus.bind(RULE);
    const subscription = busy.subscribe(topic("said"));
    busy.publish("opened", { ...key, user: "first" });
    left = 10_000; // each binding event that is read publishes another one
    bus.publish("said", { text: "" }, { attributes: key });
    expect(left).toBe(9_999);
    left = 0;
    expect(idsOf(subscription)).toEqual(["first"]);
    expect(binding.counts).toMatchObject({ bound: 2, hits: 1 });
  });
});

describe("across processes", () => {
  test("every process sees a publish, in order; a killed subscriber disturbs no other, a late one sees later events", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(EVENTS);
    const bus = await EventBus.open({ fleet, ring: "events" });
    const children = [space.child("fleet-member.ts", "subscribe"), space.child("fleet-member.ts", "subscribe")];
    for (const child of children) await child.line("joined");
    const own = bus.subscribeAll();
    const publish = (from: number, to: number): void => {
      for (let n = from; n <= to; n++) bus.publish("count", { n }, { attributes: { n }, id: `${n}` });
    };
    const seen = (child: (typeof children)[number]): number[] =>
      child.lines.filter((line) => line.startsWith("event ")).map((line) => JSON.parse(line.slice(6)).payload.n);
    publish(1, 100);
    for (const child of children) await until(() => seen(child).length === 100, "100 events came");
    await children[0]!.kill();
    publish(101, 150);
    const late = space.child("fleet-member.ts", "subscribe");
    await late.line("joined");
    publish(151, 200);
    await until(() => seen(children[1]!).length === 200 && seen(late).length === 50, "the rest came");
    expect(seen(children[1]!)).toEqual(Array.from({ length: 200 }, (_, i) => i + 1));
    expect(seen(late)).toEqual(Array.from({ length: 50 }, (_, i) => i + 151));
    expect(own.poll(1_000).map((event) => (event as BusEvent<{ count: { n: number } }>).payload.n).length).toBe(200);
    expect(own.lost).toBe(0);
  });
});

const CONSUMER = `import { and, type BusEvent, equals, EventBus, type Filter, Fleet, topic, where } from "slotbus/events";
import type { PortableEventBus } from "slotbus/events";
import { Contest, type PortableContest, type PortableGuard } from "slotbus/contest";
interface Topics { "order.paid": { id: number }; "order.sent": { to: string }; bye: undefined }
const fleet = await Fleet.join({ name: "shop", rings: { events: { frames: 64 } } });
const bus = await EventBus.open<Topics>({ fleet, ring: "events" });
for await (const event of bus.subscribe(topic("order.paid"))) if (event.topic) event.payload.id.toFixed();
for await (const event of bus.subscribe({ topic: "order.sent" })) if (event.topic) event.payload.to.trim();
for await (const event of bus.subscribe<"order.paid">(topic("order.paid"))) if (event.topic) event.payload.id.toFixed();
for await (const event of bus.subscribe<"order.paid" | "order.sent">(topic("order.*"))) {
  if (event.topic === "order.paid") event.payload.id.toFixed();
  else if (event.topic) event.payload.to.trim();
}
declare const some: string;
declare const filter: Filter;
for (const any of [bus.subscribe(topic("*")), bus.subscribe(topic(some)), bus.subscribe(filter), bus.subscribeAll()]) {
  for await (const event of any) if (event.topic === "bye") event.payload satisfies undefined;
}
bus.subscribe<"order.paid">(and(topic("order.paid"), equals("id", "x")));
where<BusEvent<Topics>>((event) => event.topic === "bye");
(await EventBus.open({ fleet, ring: "events" })).subscribe(topic("any.*")).poll()[0]!.topic satisfies string | null;
// @ts-expect-error another topic than the filter's
bus.subscribe<"order.paid">(topic("order.sent"));
// @ts-expect-error no topic of the bus
bus.subscribe(topic("order.payd"));
// @ts-expect-error no topic of the bus
bus.publish("order.payd", { id: 1 });
// @ts-expect-error a payload of another topic
bus.publish("order.paid", { to: "x" });
// @ts-expect-error not narrowed
for await (const event of bus.subscribe(topic("order.*"))) if (event.topic) event.payload.id;
const contest = await Contest.open({ fleet });
const attempt = contest.tryClaim({ kind: "a", label: "b" }, { ttl: 1 });
if (attempt.claimed) attempt.guard.release();
else attempt.holder.owner.trim();
for await (const item of fleet.ring("events").cursor()) {
  if ("body" in item) item.body.length.toFixed();
  else ("overwritten" in item ? item.overwritten : item.epoch).toFixed();
}
async function portable(bus: PortableEventBus<Topics>, contest: PortableContest): Promise<PortableGuard> {
  await bus.publish("order.paid", { id: 1 }, { id: "x" });
  for await (const event of await bus.subscribe(topic("order.paid"))) if (event.topic) event.payload.id.toFixed();
  // @ts-expect-error bindings are of memory only
  bus.bind({ on: "order.paid", key: "k", id: "i" });
  // @ts-expect-error a payload of another topic
  await bus.publish("order.sent", { id: 1 });
  // @ts-expect-error another engine answers later
  contest.tryClaim({ kind: "a", label: "b" }, { ttl: 1 }).claimed;
  const attempt = await contest.tryClaim({ kind: "a", label: "b" }, { ttl: 1 });
  if (!attempt.claimed) throw new Error(attempt.holder.owner);
  // @ts-expect-error another engine renews later
  attempt.guard.renew() satisfies boolean;
  (await attempt.guard.renew()) satisfies boolean;
  return (await contest.list()).length > 0 ? attempt.guard : contest.claim({ kind: "a", label: "b" }, { ttl: 1 });
}
void portable(await EventBus.local<Topics>({ maxEvents: 8 }), contest);
(await portable(bus, contest)).token.toFixed();
// @ts-expect-error options have no such key
await EventBus.open<Topics>({ fleet, ring: "events", queue: 1 });
// @ts-expect-error a queue is { limit, policy }
bus.subscribeAll({ queue: { size: 1 } });
// @ts-expect-error it begins by open
new EventBus({ fleet, ring: "events" });
// @ts-expect-error it begins by open
new Contest({ fleet });
`;

test("a strict program compiles, with exact optional properties, and a filter on one topic narrows the event's type", () => {
  const folder = mkdtempSync(join(tmpdir(), "slotbus-types-"));
  const root = join(import.meta.dir, "..");
  writeFileSync(join(folder, "program.ts"), CONSUMER);
  const entry = (name: string): string[] => [join(root, "src", name, "index.ts")];
  const compilerOptions = {
    exactOptionalPropertyTypes: true,
    noPropertyAccessFromIndexSignature: true,
    skipLibCheck: true, // the sources include the NATS client, whose declarations do not compile with exact properties
    noUnusedLocals: false,
    typeRoots: [join(root, "node_modules/@types")],
    paths: { "slotbus/events": entry("events"), "slotbus/contest": entry("contest") },
  };
  const config = { extends: join(root, "tsconfig.json"), compilerOptions, include: ["*.ts"] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  const run = Bun.spawnSync([join(root, "node_modules/.bin/tsc"), "-p", folder], { stderr: "inherit" });
  rmSync(folder, { recursive: true });
  expect(run.stdout.toString()).toBe("");
  expect(run.exitCode).toBe(0);
}, 60_000);

test("the head of an event is found at any alignment and between any other frames", async () => {
  await using space = new FleetSpace();
  const fleet = await space.join({ rings: { events: {} } });
  await using bus = await EventBus.open({ fleet, ring: "events" });
  const reader = fleet.ring("events").reader("head");
  const event = new EventDecoder(reader, { contentType: "x/y", encode: () => "", decode: (bytes) => bytes.length });
  for (let i = 0; i < 200; i++) bus.publish(`t.${i}`, "x".repeat(i), { id: i % 3 ? `${i}` : undefined });
  let found = 0;
  while (reader.poll(7) > 0) {
    while (reader.next()) {
      expect([event.read(), event.topic, event.id]).toEqual([true, `t.${found}`, found % 3 ? `${found}` : null]);
      expect(event.toEvent().payload).toBe(found + 2);
      found++;
    }
  }
  expect(found).toBe(200);
  reader.close();
});
