/** Rings: order, loss, no torn frames, sleepers. Other writers and readers are real processes. */

import { describe, expect, test } from "bun:test";
import { ClosedError, InvalidConfigError, PayloadTooLargeError } from "../src/errors.ts";
import type { CursorItem, Frame } from "../src/fleet/ring.ts";
import { FleetSpace, isProved, provable, words } from "./fleet-space.ts";
import { rejection, sockets, until } from "./support.ts";

const SMALL = { rings: { events: { frames: 16, frameBytes: 64 } } };

function texts(items: CursorItem[]): (string | CursorItem)[] {
  return items.map((item) => ("body" in item ? Buffer.from(item.body).toString() : item));
}

function frames(items: CursorItem[]): Frame[] {
  return items.filter((item): item is Frame => "body" in item);
}

describe("a cursor", () => {
  test("at the oldest event reads the history once; at the head it sees only new events", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(SMALL);
    const ring = fleet.ring("events");
    for (const text of ["a", "b", "c"]) ring.publish(text);
    const oldest = ring.cursor({ from: "oldest" });
    const head = ring.cursor();
    expect(texts(oldest.poll())).toEqual(["a", "b", "c"]);
    expect(oldest.poll()).toEqual([]);
    expect(head.poll()).toEqual([]);
    ring.publish("d");
    expect(texts(oldest.poll())).toEqual(["d"]);
    expect(texts(head.poll())).toEqual(["d"]);
  });

  test("a frame gives kind, time, writer, position and number, and its body is a copy", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(SMALL);
    const other = await space.join();
    const ring = fleet.ring("events");
    ring.publish("first");
    const cursor = ring.cursor();
    other.ring("events").publish(new Uint8Array([1, 2, 3]), { kind: 0xffff_ffff });
    const [frame] = frames(cursor.poll());
    const { time, ...rest } = frame!;
    expect(rest).toEqual({
      kind: 0xffff_ffff,
      writer: other.index,
      incarnation: other.incarnation,
      position: 1,
      event: 1,
      body: new Uint8Array([1, 2, 3]),
    });
    expect(Math.abs(time - Date.now())).toBeLessThan(60_000);
    for (let i = 0; i < 40; i++) ring.publish("overwritten");
    cursor.poll();
    expect([...frame!.body]).toEqual([1, 2, 3]);
  });

  test("with one event more than the ring holds, one is lost, and the rest starts with the second", async () => {
    await using space = new FleetSpace();
    const ring = (await space.join(SMALL)).ring("events");
    const cursor = ring.cursor();
    for (let i = 1; i <= 17; i++) ring.publish(`${i}`);
    const items = texts(cursor.poll());
    expect(items).toEqual([{ overwritten: 1 }, ...Array.from({ length: 16 }, (_, i) => `${i + 2}`)]);
    expect(cursor.lost).toBe(1);
    expect(texts(ring.cursor({ from: "oldest" }).poll()).length).toBe(16);
  });

  test("two cursors are independent: an active reader loses nothing while another reader does", async () => {
    await using space = new FleetSpace();
    const ring = (await space.join(SMALL)).ring("events");
    const fast = ring.cursor();
    const slow = ring.cursor();
    const read: (string | CursorItem)[] = [];
    for (let i = 0; i < 100; i++) {
      ring.publish(`${i}`);
      read.push(...texts(fast.poll()));
    }
    expect(read).toEqual(Array.from({ length: 100 }, (_, i) => `${i}`));
    expect(fast.lost).toBe(0);
    expect(slow.poll()[0]).toEqual({ overwritten: 84 });
    expect(slow.lost).toBe(84);
  });

  test("poll takes as many as asked for, and for await takes the rest, in order", async () => {
    await using space = new FleetSpace();
    const ring = (await space.join(SMALL)).ring("events");
    const cursor = ring.cursor({ batch: 3 });
    for (let i = 0; i < 10; i++) ring.publish(`${i}`);
    expect(texts(cursor.poll(1))).toEqual(["0"]);
    expect(texts(cursor.poll())).toEqual(["1", "2", "3"]);
    const rest: CursorItem[] = [];
    for await (const item of cursor) if (rest.push(item) === 6) break;
    expect(texts(rest)).toEqual(["4", "5", "6", "7", "8", "9"]);
    expect(cursor.closed).toBe(true);
  });

  test("a bookmark continues where reading ended, in the middle of a batch too, and counts events lost since", async () => {
    await using space = new FleetSpace();
    const ring = (await space.join(SMALL)).ring("events");
    const first = ring.cursor();
    for (let i = 0; i < 10; i++) ring.publish(`${i}`.repeat(i === 3 ? 100 : 1)); // number 3 has two frames
    for await (const item of first) if (texts([item])[0] === "3".repeat(100)) break;
    const { bookmark } = first;
    expect(bookmark).toMatchObject({ position: 5, event: 4 });
    expect(texts(ring.cursor({ from: bookmark }).poll())).toEqual(["4", "5", "6", "7", "8", "9"]);
    expect(texts(ring.cursor({ from: bookmark.position }).poll(1))).toEqual(["4"]);
    for (let i = 0; i < 20; i++) ring.publish("later");
    const late = ring.cursor({ from: bookmark });
    const found = late.poll();
    expect(found[0]).toEqual({ overwritten: 10 });
    expect(found.length).toBe(17);
    expect(late.lost).toBe(10);
    const plain = ring.cursor({ from: bookmark.position });
    expect(plain.poll()[0]).toEqual({ overwritten: 10 });
    expect(plain.lost).toBe(10);
    expect(ring.cursor({ from: ring.head }).poll()).toEqual([]);
  });

  test("a bookmark of an earlier epoch gives a gap in band, and then all stored events", async () => {
    await using space = new FleetSpace();
    const before = await space.join(SMALL);
    before.ring("events").publish("before");
    const cursor = before.ring("events").cursor({ from: "oldest" });
    cursor.poll();
    const { bookmark } = cursor;
    await before.close();
    const fleet = await space.join(SMALL);
    expect(fleet.epoch).toBeGreaterThan(before.epoch);
    fleet.ring("events").publish("after");
    const later = fleet.ring("events").cursor({ from: bookmark });
    expect(texts(later.poll())).toEqual([{ epoch: fleet.epoch }, "after"]);
    const loop = fleet.ring("events").cursor({ from: bookmark });
    expect((await loop.next()).value).toEqual({ epoch: fleet.epoch });
    expect(texts([(await loop.next()).value])).toEqual(["after"]);
  });

  test("for await sleeps until there is an event, gets each event once, and ends with close", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(SMALL);
    const ring = fleet.ring("events");
    const before = sockets();
    const cursor = ring.cursor();
    const got: string[] = [];
    const reading = (async () => {
      for await (const item of cursor) got.push(texts([item])[0] as string);
    })();
    const expected: string[] = [];
    for (let round = 0; round < 20; round++) {
      await Bun.sleep(round % 4);
      for (let i = 0; i <= round % 7; i++) {
        ring.publish(`${round}.${i}`);
        expected.push(`${round}.${i}`);
      }
      await until(() => got.length === expected.length, "all were read");
    }
    expect(got).toEqual(expected);
    const own = sockets().difference(before);
    expect(own.size).toBeGreaterThan(0);
    cursor.close();
    cursor.close();
    await reading;
    await until(() => sockets().isDisjointFrom(own), "the sleeper's socket is closed");
  });

  test("several calls of next at once get each event once, in order", async () => {
    await using space = new FleetSpace();
    const ring = (await space.join(SMALL)).ring("events");
    const cursor = ring.cursor();
    const asked = [cursor.next(), cursor.next(), cursor.next()];
    for (const text of ["a", "b", "c"]) ring.publish(text);
    expect(texts((await Promise.all(asked)).map(({ value }) => value))).toEqual(["a", "b", "c"]);
  });

  test("a signal ends it with its reason; with an aborted signal it does not open", async () => {
    await using space = new FleetSpace();
    const ring = (await space.join(SMALL)).ring("events");
    const abort = new AbortController();
    const cursor = ring.cursor({ signal: abort.signal });
    const next = cursor.next();
    const why = new Error("enough");
    abort.abort(why);
    expect(await rejection(next)).toBe(why);
    expect(await cursor.next()).toEqual({ done: true, value: undefined });
    expect(() => ring.cursor({ signal: abort.signal })).toThrow(why);
  });

  test("an unfinished event is waited for, and a killed writer's event leaves no gap", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(SMALL);
    const child = space.child("fleet-member.ts", "idle");
    const index = Number((await child.line("joined")).split(" ")[1]);
    const ring = fleet.ring("events");
    const cursor = ring.cursor();
    ring.publish("a");
    // The child has the lock and has begun frame 1: odd seq, half a payload.
    space.poke(space.ringOffset(), words(index + 1));
    space.poke(space.frameOffset() + 112, words(2 * 1 + 1, 0));
    expect(texts(cursor.poll())).toEqual(["a"]);
    expect(cursor.poll()).toEqual([]);
    const next = cursor.next();
    await child.kill();
    ring.publish("b");
    expect(texts([(await next).value])).toEqual(["b"]);
    ring.publish("c");
    expect(frames(cursor.poll()).map(({ position, event }) => [position, event])).toEqual([[2, 2]]);
    expect(cursor.lost).toBe(0);
  });

  const bad: [string, object][] = [
    ["from a word", { from: "tail" }],
    ["from nothing", { from: null }],
    ["from a negative position", { from: -1 }],
    ["from half a position", { from: 0.5 }],
    ["from NaN", { from: NaN }],
    ["from a position that is not there yet", { from: 1 }],
    ["from a bookmark without a position", { from: { epoch: 1 } }],
    ["with an empty batch", { batch: 0 }],
    ["with an endless batch", { batch: Infinity }],
    ["with an invalid signal", { signal: 7 }],
    ["without options", null as never],
    ["with an unknown option", { start: "head" }],
  ];
  test.each(bad)("%s is refused", async (_, options) => {
    await using space = new FleetSpace();
    const ring = (await space.join(SMALL)).ring("events");
    expect(() => ring.cursor(options)).toThrow(InvalidConfigError);
    expect(() => ring.cursor().poll(0)).toThrow(InvalidConfigError);
  });
});

describe("publishing", () => {
  test("the largest event is accepted; one byte more is refused and writes nothing", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(SMALL);
    const ring = fleet.ring("events");
    const cursor = ring.cursor();
    expect(ring.payloadBytes).toBe(4 * 64);
    ring.publish(provable(1, 2, 256));
    ring.publish("ä".repeat(128));
    ring.publish("");
    for (const payload of [new Uint8Array(257), "x".repeat(257), "ä".repeat(129)]) {
      expect(() => ring.publish(payload)).toThrow(PayloadTooLargeError);
    }
    expect(ring.head).toBe(9);
    const [first, second, third] = frames(cursor.poll());
    expect(isProved(first!.body)).toBe(true);
    expect(texts([second!, third!])).toEqual(["ä".repeat(128), ""]);
  });

  test("events larger than a batch arrive whole", async () => {
    await using space = new FleetSpace();
    const ring = (await space.join({ rings: { big: { frames: 64, frameBytes: 65_536 } } })).ring("big");
    const cursor = ring.cursor();
    for (const bytes of [10, 300_000, 20, 1_048_576, 262_144, 30]) ring.publish(provable(1, bytes, bytes));
    const found = frames(cursor.poll());
    expect(found.map(({ body }) => body.length)).toEqual([10, 300_000, 20, 1_048_576, 262_144, 30]);
    for (const { body } of found) expect(isProved(body)).toBe(true);
  });

  test("payloads that are not bytes or text are refused, and kinds that are not 32-bit numbers", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join(SMALL);
    const ring = fleet.ring("events");
    for (const payload of [null, undefined, 7, {}, [1], new ArrayBuffer(8)]) {
      expect(() => ring.publish(payload as never)).toThrow(InvalidConfigError);
    }
    for (const kind of [-1, 0.5, NaN, 2 ** 32, "1"]) {
      expect(() => ring.publish("x", { kind: kind as never })).toThrow(InvalidConfigError);
    }
    expect(() => ring.publish("x", null as never)).toThrow(InvalidConfigError);
    expect(() => ring.publish("x", { king: 1 } as never)).toThrow('publish() has no option "king". Did you mean kind?');
    expect(ring.head).toBe(0);
    for (const name of ["none", 5n, Object.create(null), Symbol("x")]) {
      expect(() => fleet.ring(name as never)).toThrow(InvalidConfigError);
    }
    expect(await rejection(space.join({ rings: { "a b": {} } }))).toBeInstanceOf(InvalidConfigError);
    await fleet.close();
    expect(() => ring.publish("x")).toThrow(ClosedError);
  });

  test("by several processes at once gives each event its own number, without gaps, in each writer's order", async () => {
    await using space = new FleetSpace();
    const fleet = await space.join({ rings: { events: { frames: 16_384, frameBytes: 64 } } });
    const cursor = fleet.ring("events").cursor();
    const writers = Array.from({ length: 4 }, () => space.child("fleet-member.ts", "publish", "1000", "200"));
    const found: Frame[] = [];
    await until(() => {
      found.push(...frames(cursor.poll(5_000)));
      return found.length === 4_000;
    }, "all events came");
    expect(cursor.lost).toBe(0);
    expect(found.map(({ event }) => event)).toEqual(Array.from({ length: 4_000 }, (_, i) => i));
    let position = 0;
    const next = new Map<number, number>();
    for (const frame of found) {
      expect(frame.position).toBe(position);
      position += Math.max(1, Math.ceil(frame.body.length / 64));
      const number = Buffer.from(frame.body).readUInt32LE(4);
      expect(number).toBe(next.get(frame.writer) ?? 0);
      next.set(frame.writer, number + 1);
      if (!isProved(frame.body)) throw new Error("a torn event");
    }
    expect([...next.values()]).toEqual([1_000, 1_000, 1_000, 1_000]);
    expect(writers.length).toBe(4);
  });
});

test("readers that are lapped all the time see no torn event, and received plus lost events are all events", async () => {
  await using space = new FleetSpace();
  const fleet = await space.join(SMALL);
  const own = fleet.ring("events").cursor();
  const readers = [space.child("fleet-member.ts", "read"), space.child("fleet-member.ts", "read")];
  for (const reader of readers) await reader.line("joined");
  const writers = [
    space.child("fleet-member.ts", "flood", "0", "200"),
    space.child("fleet-member.ts", "flood", "0", "200"),
  ];
  for (const writer of writers) await writer.line("joined"); // before that SIGTERM would end it without a word
  const got = { received: 0, overwritten: 0 };
  const drain = (): void => {
    for (let items = own.poll(); items.length > 0; items = own.poll()) {
      for (const item of items) {
        if ("overwritten" in item) got.overwritten += item.overwritten;
        else if ("body" in item) {
          got.received++;
          if (!isProved(item.body)) throw new Error("a torn event");
        }
      }
    }
  };
  await until(
    () => {
      for (let i = 0; i < 20; i++) drain();
      return got.received > 2_000 && got.overwritten > 2_000;
    },
    "thousands were read and thousands lost",
    40_000,
  );
  let published = 0;
  for (const writer of writers) {
    writer.process.kill("SIGTERM");
    published += Number((await writer.line("published")).split(" ")[1]);
  }
  drain();
  expect(got.received + got.overwritten).toBe(published);
  expect(own.lost).toBe(got.overwritten);
  for (const reader of readers) {
    reader.process.kill("SIGTERM");
    const { received, overwritten, torn, counted, head, at } = JSON.parse((await reader.line("read ")).slice(5));
    expect([torn, overwritten, at]).toEqual([0, counted, head]);
    expect(received + overwritten).toBe(published);
    expect(received).toBeGreaterThan(0);
  }
}, 60_000);

test("a killed reader has no effect on the others", async () => {
  await using space = new FleetSpace();
  const fleet = await space.join(SMALL);
  const ring = fleet.ring("events");
  const cursor = ring.cursor();
  const reader = space.child("fleet-member.ts", "read");
  await reader.line("joined");
  await until(() => fleet.handle.cursors(1).length === 1, "the reader has a cursor");
  ring.publish(provable(0, 0, 20));
  await until(() => fleet.handle.cursors(1)[0]?.position === 1, "it has read");
  await reader.kill();
  const next = cursor.next();
  ring.publish(provable(0, 1, 20));
  expect(frames([(await next).value])[0]!.event).toBe(0);
  expect(frames([(await cursor.next()).value])[0]!.event).toBe(1);
});
