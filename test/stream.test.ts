/** Streamed bodies: both directions, backpressure, ends and errors in order, when either side leaves or dies. */

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import {
  type BusResponse,
  PayloadTooLargeError,
  RemoteError,
  RequestTimeoutError,
  SlotbusError,
  WorkerDiedError,
} from "../src/index.ts";
import { C, native } from "../src/native/library.ts";
import { RawWorker } from "./raw-worker.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";
import { within } from "./wait.ts";

const RING = 262_144;

/** Yields `count` pieces of `bytes` bytes that encode their position in the stream; `onEnd` is called at any end. */
async function* pieces(count: number, bytes: number, onEnd: (sent: number) => void = () => {}) {
  let sent = 0;
  try {
    for (; sent < count; sent++) yield new Uint8Array(bytes).fill(sent & 255);
  } finally {
    onEnd(sent);
  }
}

async function read(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

/** Reads to the end; returns the bytes before it, and the error. */
async function readToError(chunks: AsyncIterable<Uint8Array>): Promise<{ text: string; error: SlotbusError }> {
  let text = "";
  try {
    for await (const chunk of chunks) text += Buffer.from(chunk).toString();
  } catch (error) {
    return { text, error: error as SlotbusError };
  }
  throw new Error(`it ended without an error after "${text}"`);
}

/** Bytes of shared memory that this process has mapped and touched. */
function touched(): number {
  const mappings = readFileSync("/proc/self/smaps", "latin1").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const ours = mappings.filter((mapping) => mapping.split("\n")[0]!.includes("memfd:slotbus"));
  return ours.reduce((sum, mapping) => sum + Number(/^Rss: +(\d+) kB/m.exec(mapping)![1]) * 1_024, 0);
}

function expectAtRest(bus: Awaited<ReturnType<Workspace["bus"]>>): Promise<void> {
  const free = (): boolean => bus.diagnostics().slots.every(({ state }) => state === "FREE");
  return until(() => free() && bus.stats().inFlight === 0, "every slot is free");
}

describe("an answer", () => {
  test("the head arrives before the body has ended, and pieces as they are made", async () => {
    await using space = new Workspace();
    const go = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const { bus } = await space.pair(async function* () {
      yield "first";
      await go[0]!.promise;
      yield "second";
      await go[1]!.promise;
    });
    await using response = await bus.stream({ path: "/" });
    expect([response.status, response.ok]).toEqual([200, true]);
    const chunks = response.chunks();
    expect(Buffer.from((await chunks.next()).value!).toString()).toBe("first");
    const second = chunks.next();
    await Bun.sleep(5);
    expect(Bun.peek.status(second)).toBe("pending");
    go[0]!.resolve();
    expect(Buffer.from((await second).value!).toString()).toBe("second");
    go[1]!.resolve();
    expect((await chunks.next()).done).toBe(true);
    await expectAtRest(bus);
  });

  test("generators, streams, bodies of answers and Responses stream, with their heads", async () => {
    await using space = new Workspace();
    const source = (): ReadableStream<Uint8Array> => new Blob(["stre", "amed"]).stream();
    const { bus } = await space.pair((request) => {
      if (request.path === "/generator") return pieces(3, 2);
      if (request.path === "/stream") return source();
      if (request.path === "/answer") return { status: 202, contentType: "a/b", headers: { x: "1" }, body: source() };
      return new Response(pieces(2, 40_000) as unknown as ReadableStream, {
        status: 203,
        headers: { "content-type": "c/d" },
      });
    });
    expect([...(await (await bus.stream({ path: "/generator" })).bytes())]).toEqual([0, 0, 1, 1, 2, 2]);
    expect(await (await bus.stream({ path: "/stream" })).text()).toBe("streamed");
    const answer = await bus.stream({ path: "/answer" });
    expect([answer.status, answer.contentType, answer.headers.get("x"), await answer.text()]).toEqual([
      202,
      "a/b",
      "1",
      "streamed",
    ]);
    const response = await bus.stream({ path: "/response" });
    expect([response.status, response.contentType, (await response.bytes()).length]).toEqual([203, "c/d", 80_000]);
    await expectAtRest(bus);
  });

  test("a body in memory can be read as a stream, and an empty stream is empty", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => (request.path === "/empty" ? pieces(0, 1) : "whole"));
    expect((await read((await bus.stream({ path: "/" })).chunks())).toString()).toBe("whole");
    expect(await (await bus.stream({ path: "/" })).stream().getReader().read()).toEqual({
      done: false,
      value: new Uint8Array(Buffer.from("whole")),
    } as never);
    expect((await read((await bus.stream({ path: "/empty" })).chunks())).length).toBe(0);
    expect((await bus.request({ path: "/empty" })).body.length).toBe(0);
  });

  test("request, borrow and fetch take it whole; above the payload limit request refuses it and its source ends", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus } = await space.pair((request) => pieces(Number(request.query), 1_000, () => ended++), {
      payloadBytes: 300_000,
    });
    const expected = await read(pieces(300, 1_000));
    expect(same((await bus.request({ path: "/", query: "300" })).body, expected)).toBe(true);
    using borrowed = await bus.borrow({ path: "/", query: "300" });
    expect(same(borrowed.body, expected)).toBe(true);
    expect(same(await (await bus.fetch("/?300")).bytes(), expected)).toBe(true);
    const error = await rejection<PayloadTooLargeError>(bus.request({ path: "/", query: "100000" }));
    expect([error.code, error.mayHaveExecuted]).toEqual(["PAYLOAD_TOO_LARGE", true]);
    await until(() => ended === 4, "the source has ended");
    await expectAtRest(bus);
  });

  test("its source runs to its first piece within `respond`, after the head has left", async () => {
    await using space = new Workspace();
    const steps: string[] = [];
    const { bus } = await space.pair((request) => {
      async function* later(): AsyncGenerator<string> {
        steps.push("async", request.respond("twice"));
        yield "a";
      }
      function* now(): Generator<string> {
        steps.push("sync", request.respond("twice"));
        yield "b";
      }
      request.respond(request.path === "/async" ? later() : now());
      steps.push("responded");
    });
    for (const [path, text] of [
      ["/async", "a"],
      ["/sync", "b"],
    ] as const) {
      expect(await (await bus.stream({ path })).text()).toBe(text);
    }
    expect(steps).toEqual(["async", "duplicate", "responded", "sync", "duplicate", "responded"]);
  });

  test("an error before, after the first piece, and at the end arrives in its place", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair(async function* (request) {
      for (let i = 0; i < Number(request.query); i++) yield `${i},`;
      throw new RangeError(`after ${request.query}`);
    });
    const heard: string[] = [];
    worker.on("handlerError", (error, { path }) => heard.push(`${path} ${error}`));
    for (const count of [0, 1, 500]) {
      const { text, error } = await readToError((await bus.stream({ path: "/", query: `${count}` })).chunks());
      expect(text).toBe(Array.from({ length: count }, (_, i) => `${i},`).join(""));
      expect(error).toBeInstanceOf(RemoteError);
      expect((error as RemoteError).message).toContain(`after ${count}`);
      expect((error as RemoteError).remoteName).toBe("RangeError");
    }
    expect(await rejection(bus.request({ path: "/", query: "3" }))).toBeInstanceOf(RemoteError);
    expect(heard).toEqual([0, 1, 500, 3].map((count) => `/ RangeError: after ${count}`)); // by the worker's own too
    await expectAtRest(bus);
  });

  test("an error fits into the smallest ring", async () => {
    for (const [payloadBytes, headBytes] of [
      [1, 4_032],
      [64, 4_032],
      [200, 3_840],
      [1_000, 3_072],
    ] as const) {
      await using space = new Workspace();
      const { bus } = await space.pair(
        async function* () {
          yield "x".repeat(5_000);
          throw new RangeError("a".repeat(5_000));
        },
        { payloadBytes, headBytes },
      );
      const { text, error } = await readToError((await bus.stream({ path: "/" }, { deadline: 5_000 })).chunks());
      expect([text.length, error.code, (error as RemoteError).remoteName]).toEqual([5_000, "REMOTE", "RangeError"]);
      await expectAtRest(bus);
    }
  });

  test("a synchronous generator streams too, also as a request's body", async () => {
    await using space = new Workspace();
    function* source() {
      for (let i = 0; i < 300; i++) yield new Uint8Array(1_000).fill(i & 255);
    }
    const { bus } = await space.pair((request) => (request.streams ? request.incoming.bytes() : source()));
    const expected = await read(pieces(300, 1_000));
    expect(same(await (await bus.stream({ path: "/" })).bytes(), expected)).toBe(true);
    expect(same((await bus.request({ path: "/", body: source() })).body, expected)).toBe(true);
  });

  test("pieces read into a buffer are views of it, at most its size, with the same bytes", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) =>
      request.path === "/whole"
        ? Buffer.alloc(1_000, 7)
        : request.streams
          ? request.incoming.bytes()
          : pieces(60, 7_001),
    );
    const into = new Uint8Array(30_000);
    const parts: Buffer[] = [];
    for await (const chunk of (await bus.stream({ path: "/" })).chunks({ into })) {
      expect([chunk.buffer === into.buffer, chunk.byteOffset, chunk.length <= 30_000]).toEqual([true, 0, true]);
      parts.push(Buffer.from(chunk)); // a copy
      if (parts.length % 3 === 0) await Bun.sleep(1); // the end arrives while `into` is being read
    }
    expect(same(Buffer.concat(parts), await read(pieces(60, 7_001)))).toBe(true);
    const small: number[] = [];
    for await (const chunk of (await bus.stream({ path: "/whole" })).chunks({ into: new Uint8Array(300) }))
      small.push(chunk.length, chunk[0]!);
    expect(small).toEqual([300, 7, 300, 7, 300, 7, 100, 7]);
    await using empty = await bus.stream({ path: "/" });
    expect(() => empty.chunks({ into: new Uint8Array(0) })).toThrow(/it must be a Uint8Array of at least 1 byte/);
    expect(() => empty.chunks({ onto: new Uint8Array(1) } as object)).toThrow(/chunks has no option "onto"/);
  });

  test("a view in `into` stays unchanged while the rest arrives and the slot is freed", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(() => pieces(40, 1_000));
    const chunks = (await bus.stream({ path: "/" })).chunks({ into: new Uint8Array(1_500) });
    const { value } = await chunks.next();
    const before = [...value!];
    await expectAtRest(bus);
    expect([...value!]).toEqual(before);
    const rest: number[] = [...before];
    for await (const chunk of chunks) rest.push(...chunk);
    expect(same(Uint8Array.from(rest), await read(pieces(40, 1_000)))).toBe(true);
  });

  test("an answer that cannot be sent ends its source", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus } = await space.pair((request) => {
      const body = new ReadableStream({ cancel: () => void ended++ });
      if (request.path === "/status") return { status: 99, body };
      request.respond("first");
      expect(request.respond({ body })).toBe("duplicate");
    });
    expect((await rejection(bus.stream({ path: "/status" }))).message).toContain("status 99");
    expect((await bus.request({ path: "/twice" })).text()).toBe("first");
    await until(() => ended === 2, "both have ended");
    const body = new ReadableStream({ cancel: () => void ended++ });
    expect(await rejection(bus.request({ path: "/", body, json: 1 }))).toHaveProperty("code", "INVALID_CONFIG");
    const unsent = new ReadableStream({ cancel: () => void ended++ });
    expect(await rejection(bus.request({ path: "/", body: unsent }, { timeout: -1 }))).toHaveProperty(
      "code",
      "INVALID_CONFIG",
    );
    await until(() => ended === 4, "the caller's sources end too");
  });

  test("a piece that is neither bytes nor text is an error that says so", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async function* () {
      yield "fine";
      yield 7 as unknown as string;
    });
    const { text, error } = await readToError((await bus.stream({ path: "/" })).chunks());
    expect([text, error.message]).toEqual(["fine", expect.stringContaining("A stream yielded 7")]);
  });
});

describe("a request", () => {
  test("its body arrives in order, at any length, and reading it is optional", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async (request) => {
      expect(request.streams).toBe(true);
      expect(() => request.body).toThrow(/streams/);
      if (request.path === "/ignore") {
        await request.incoming.chunks().next();
        return "ignored the rest";
      }
      if (request.path === "/bytes") return await request.incoming.bytes();
      return { body: request.incoming.chunks() };
    });
    const expected = await read(pieces(40, 70_001));
    const echoed = await bus.stream({ path: "/echo", body: pieces(40, 70_001) });
    expect(same(await echoed.bytes(), expected)).toBe(true);
    const streamed = new Response(pattern(100_000) as Uint8Array<ArrayBuffer>).body!;
    expect(same((await bus.request({ path: "/bytes", body: streamed })).body, pattern(100_000))).toBe(true);
    let ended = 0;
    const ignored = await bus.request({ path: "/ignore", body: pieces(1e9, 5_000, () => ended++) });
    expect(ignored.text()).toBe("ignored the rest");
    await until(() => ended === 1, "the source has ended");
    await expectAtRest(bus);
  });

  test("a source that waits for room wakes, even when the other direction moved meanwhile", async () => {
    await using space = new Workspace();
    const [full, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const { bus } = await space.pair(async function* (request) {
      await full.promise;
      yield "first,";
      await go.promise;
      yield String((await read(request.incoming.chunks())).length);
    });
    let asked = 0;
    const body = (async function* () {
      for (; asked < 10; asked++) yield new Uint8Array(RING / 2);
    })();
    const answer = await bus.stream({ path: "/", body });
    let text = "";
    const reading = (async () => {
      for await (const chunk of answer.chunks()) text += Buffer.from(chunk).toString();
      return "ended";
    })();
    await until(() => asked === 2, "the ring of the request is full");
    full.resolve();
    await until(() => text === "first,", "bytes of the answer while the source waits");
    expect(asked).toBe(2);
    go.resolve();
    expect(await within(reading, 2_000)).toBe("ended"); // the source went on
    expect(text).toBe(`first,${10 * (RING / 2)}`);
    await expectAtRest(bus);
  });

  test("a source that fails: the caller gets its error, the handler the pieces before it and an abort", async () => {
    await using space = new Workspace();
    const { promise: heard, resolve } = Promise.withResolvers<{ text: string; error: Error; aborted: boolean }>();
    const { bus } = await space.pair(async (request) => {
      const { text, error } = await readToError(request.incoming.chunks());
      resolve({ text, error, aborted: request.aborted });
      return "too late";
    });
    const broken = new TypeError("the source broke");
    const body = (async function* () {
      yield "before";
      await Bun.sleep(20);
      throw broken;
    })();
    expect(await rejection(bus.request({ path: "/", body }))).toBe(broken as never);
    const { text, error, aborted } = await heard;
    expect([text, error.name, aborted]).toEqual(["before", "AbortError", true]);
    await expectAtRest(bus);
  });

  test("a drain does not wait for a request whose source failed before the answer began", async () => {
    await using space = new Workspace();
    const { promise: go, resolve } = Promise.withResolvers<void>();
    const { bus } = await space.pair(async (request) => {
      if (request.path === "/slow") await go;
      else await readToError(request.incoming.chunks());
      return "late";
    });
    const slow = bus.request({ path: "/slow" });
    const body = (async function* () {
      yield "before";
      throw new TypeError("the source broke");
    })();
    expect((await rejection(bus.stream({ path: "/", body }))).message).toBe("the source broke");
    const drained = bus.drain();
    await Bun.sleep(20);
    expect(Bun.peek.status(drained)).toBe("pending");
    resolve();
    expect((await slow).text()).toBe("late");
    await drained;
  });

  test("its source is not read before a worker has claimed it", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    let asked = 0;
    const body = (async function* () {
      asked++;
      yield "body";
    })();
    const pending = bus.request({ path: "/", body });
    await Bun.sleep(10);
    const worker = await space.worker();
    await bus.ready();
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "READY"), "it is published");
    expect(asked).toBe(0);
    worker.serve(async (request) => request.incoming.bytes());
    expect((await pending).text()).toBe("body");
    expect(asked).toBe(1);
  });
});

describe("a streamed request that was not claimed", () => {
  test("goes to another worker with its whole body when its worker ends", async () => {
    await using space = new Workspace();
    const { bus, worker: first } = await RawWorker.withBus(space);
    let asked = 0;
    const body = (async function* () {
      asked++;
      yield pattern(300_000);
    })();
    const pending = bus.request({ path: "/", body, method: "POST" }, { timeout: 3_000 });
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "READY"), "it is published");
    first.close();
    await until(() => bus.workers.length === 0, "its worker has ended");
    expect([asked, bus.stats().queued]).toEqual([0, 1]);
    await space.worker(async (request) => request.incoming.bytes());
    expect(same((await pending).body, pattern(300_000))).toBe(true);
    expect(asked).toBe(1);
  });
});

test("a source that aborts its own request writes nothing into the next request of its slot", async () => {
  await using space = new Workspace();
  const { bus, child: worker } = await space.remote("early-worker.ts", {
    slots: 1,
    headBytes: 1_024,
    payloadBytes: 1_000_000,
  });
  const abort = new AbortController();
  let next: Promise<BusResponse> | null = null;
  function* source(): Generator<Uint8Array> {
    for (let sent = 1; ; sent++) {
      if (sent === 5) {
        const deadline = performance.now() + 4_000;
        while (bus.diagnostics().slots[0]!.state !== "DONE") expect(performance.now()).toBeLessThan(deadline);
        abort.abort(new Error("enough"));
        next = bus.request({ path: "/second", body: new Uint8Array(900_000).fill(7) });
      }
      yield new Uint8Array(1_000).fill(9);
    }
  }
  await rejection(bus.request({ path: "/first", body: source() }, { signal: abort.signal }));
  expect((await next!).text()).toBe("byte -1 differs");
  await worker.kill();
});

describe("backpressure", () => {
  test("a reader that stalls stops its writer within the ring's size, and no other stream", async () => {
    await using space = new Workspace();
    let made = 0;
    const { bus } = await space.pair((request) => {
      if (request.path === "/other") return "other";
      return (async function* () {
        for (;;) {
          made += 1_000;
          yield new Uint8Array(1_000);
        }
      })();
    });
    const stalled = await bus.stream({ path: "/" });
    await until(() => made > RING / 2, "the writer has filled much of the ring");
    for (let i = 0; i < 100; i++) expect((await bus.request({ path: "/other" })).text()).toBe("other");
    const before = made;
    await Bun.sleep(50);
    expect([made, made <= RING + 2_000]).toEqual([before, true]);
    const chunks = stalled.chunks();
    for (let taken = 0; taken < RING;) taken += (await chunks.next()).value!.length;
    await until(() => made > before, "it goes on");
    await chunks.return();
    await expectAtRest(bus);
  });

  test("a handler that does not read stops the caller's source within the ring's size", async () => {
    await using space = new Workspace();
    const { promise: go, resolve } = Promise.withResolvers<void>();
    const { bus } = await space.pair(async (request) => {
      await go;
      return String((await request.incoming.bytes()).length);
    });
    let made = 0;
    const body = (async function* () {
      for (; made < 1_000; made++) yield new Uint8Array(1_000);
    })();
    const pending = bus.request({ path: "/", body });
    await until(() => made > 200, "much of the ring is full");
    await Bun.sleep(50);
    expect(made).toBeLessThanOrEqual(RING / 1_000 + 2);
    resolve();
    expect((await pending).text()).toBe("1000000");
  });

  test("a stream of any length touches only its rings' shared memory", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.incoming.chunks());
    await bus.request({ path: "/", body: "the first request prefaults arenas" });
    const before = touched();
    for (const mebibytes of [1, 64]) {
      const body = pieces(mebibytes * 16, 65_536);
      let left = mebibytes * 2 ** 20;
      for await (const chunk of (await bus.stream({ path: "/", body })).chunks({ into: new Uint8Array(65_536) }))
        left -= chunk.length;
      expect(left).toBe(0);
      const grown = touched() - before;
      expect(grown).toBeGreaterThan(RING);
      expect(grown).toBeLessThan(2 * 2 * RING + 200_000); // two rings, mapped by both sides, in this one process
    }
  });

  test("thirty-two streams at once all arrive whole", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => pieces(50, 7_000 + Number(request.query)));
    const sizes = await Promise.all(
      Array.from(
        { length: 32 },
        async (_, i) => (await (await bus.stream({ path: "/", query: `${i}` })).bytes()).length,
      ),
    );
    expect(sizes).toEqual(Array.from({ length: 32 }, (_, i) => 50 * (7_000 + i)));
    await expectAtRest(bus);
  });
});

describe("streams that never wait", () => {
  /** Reads, spending `busyUs` on each piece, and counts other work on either side in the last 200 ms. */
  async function turns(worker: { busyUs: number }, reader: { busyUs: number }) {
    await using space = new Workspace();
    const { bus } = await space.remote("worker.ts");
    let [ticks, answers, read] = [0, 0, 0];
    const answer = await bus.stream({ path: "/endless", query: `${worker.busyUs}` });
    const warm = performance.now() + 300; // from then on both are warm, and the ring is full or empty
    const end = warm + 3_000; // on a quiet machine 50 ms are enough
    const isLate = (): boolean => performance.now() > warm;
    const isOver = (): boolean => performance.now() > end || (ticks > 25 && answers > 25);
    const timer = setInterval(() => (ticks += Number(isLate())), 1);
    const others = (async () => {
      while (!isOver()) answers += Number((await bus.request({ path: "/hello" })).ok && isLate() && !isOver());
    })();
    for await (const chunk of answer.chunks({ into: new Uint8Array(4_096) })) {
      read += chunk.length;
      const until = Bun.nanoseconds() + reader.busyUs * 1_000;
      while (Bun.nanoseconds() < until);
      if (isOver()) break;
    }
    clearInterval(timer);
    await others;
    expect(read).toBeGreaterThan(RING);
    return { ticks, answers };
  }

  test("a slow reader leaves timers and other requests their turns", async () => {
    const { ticks, answers } = await turns({ busyUs: 0 }, { busyUs: 100 });
    expect(ticks).toBeGreaterThan(25);
    expect(answers).toBeGreaterThan(25);
  });

  test("a slow writer leaves other requests their turns", async () => {
    const { ticks, answers } = await turns({ busyUs: 100 }, { busyUs: 0 });
    expect(ticks).toBeGreaterThan(25);
    expect(answers).toBeGreaterThan(25);
  });
});

describe("an early end", () => {
  test("an unread response is cancelled when it is collected as garbage", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus } = await space.pair(() => pieces(1e9, 5_000, () => ended++));
    const drop = async (): Promise<void> => {
      await bus.stream({ path: "/" });
    };
    for (let i = 0; i < 8; i++) await drop();
    const kept = (await bus.stream({ path: "/" })).chunks();
    const streamed = (await bus.stream({ path: "/" })).stream().getReader();
    await kept.next();
    for (let i = 0; i < 150 && ended < 7; i++) {
      Bun.gc(true);
      await Bun.sleep(10);
    }
    expect(ended).toBeGreaterThanOrEqual(7); // one may be on the stack
    for (let i = 0; i < 20; i++) {
      expect((await kept.next()).done).toBe(false);
      expect((await streamed.read()).done).toBe(false);
      Bun.gc(true);
    }
    await kept.return();
    await streamed.cancel();
  });

  test("a reader that leaves ends the generator, by each way of leaving", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus } = await space.pair(() => pieces(1e9, 5_000, () => ended++));
    for await (const chunk of (await bus.stream({ path: "/" })).chunks()) if (chunk.length > 0) break;
    await until(() => ended === 1, "break");
    (await bus.stream({ path: "/" })).cancel();
    await until(() => ended === 2, "cancel");
    await (await bus.stream({ path: "/" })).stream().cancel("enough");
    await until(() => ended === 3, "cancel of a ReadableStream");
    {
      await using response = await bus.stream({ path: "/" });
      expect(response.ok).toBe(true);
    }
    await until(() => ended === 4, "disposal");
    await expectAtRest(bus);
    expect(bus.stats().abandoned).toBe(4);
  });

  test("an abort ends the stream and the generator with its reason", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus } = await space.pair(() => pieces(1e9, 5_000, () => ended++));
    const controller = new AbortController();
    const response = await bus.stream({ path: "/" }, { signal: controller.signal });
    const chunks = response.chunks();
    await chunks.next();
    const reason = new Error("enough");
    controller.abort(reason);
    expect(await rejection(read(chunks))).toBe(reason as never);
    await until(() => ended === 1, "the generator has ended");
    await expectAtRest(bus);
  });

  test("an answer that streams too late ends its source, and a drain of its worker does not wait for it", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus, worker } = await space.pair(async (request) => {
      await new Promise<void>((done) => request.signal.addEventListener("abort", () => done()));
      return new ReadableStream({ pull: () => Bun.sleep(1), cancel: () => void ended++ });
    });
    const late = rejection(bus.request({ path: "/" }, { timeout: 500 }));
    await until(() => worker.running === 1, "it runs");
    const drained = worker.drain();
    expect(await late).toBeInstanceOf(RequestTimeoutError);
    expect(
      await within(
        drained.then(() => "drained"),
        2_000,
      ),
    ).toBe("drained");
    expect(ended).toBe(1);
    await expectAtRest(bus);
  });

  test("diagnostics give the state of a streaming slot, and count nothing as lent", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async function* () {
      yield "head";
      await new Promise(() => {});
    });
    const answer = await bus.stream({ path: "/", id: "mine" });
    const { slots } = bus.diagnostics();
    const mine = slots.filter(({ requestId }) => requestId === "mine");
    expect(mine).toMatchObject([{ state: "STREAMING", borrowed: false }]);
    answer.cancel();
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "ABANDONED"), "its handler is waited for");
  });

  test("a silent source: request times out and the slot is free at once, though the source still waits", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async function* () {
      yield "one";
      await new Promise(() => {});
    });
    const error = await rejection<RequestTimeoutError>(bus.request({ path: "/" }, { timeout: 500 }));
    expect([error.code, error.mayHaveExecuted]).toEqual(["TIMEOUT", true]);
    await expectAtRest(bus);
  });

  test("a stream has a deadline and an idle limit, and its error names the one that passed", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus } = await space.pair(async function* (request) {
      try {
        yield "one";
        if (request.path === "/quiet") await new Promise(() => {});
        for (;;) {
          await Bun.sleep(2);
          yield "more";
        }
      } finally {
        ended++;
      }
    });
    const late = await bus.stream({ path: "/" }, { deadline: 500, idle: 2_000 });
    const over = await rejection<SlotbusError>(read(late.chunks()));
    expect([over.code, over.message]).toEqual(["STREAM_TIMEOUT", expect.stringContaining("timed out after 500 ms")]);
    const quiet = await bus.stream({ path: "/quiet" }, { idle: 300 });
    const { text, error } = await readToError(quiet.chunks());
    expect([text, error.code]).toEqual(["one", "STREAM_TIMEOUT"]);
    expect(error.message).toMatch(/was idle for 300 ms; 3 bytes were read/);
    await expectAtRest(bus);
    await until(() => ended === 1, "the generator that could hear it has ended");
    expect(await rejection(bus.stream({ path: "/" }, { idle: -1 }))).toHaveProperty("code", "INVALID_CONFIG");
  });

  test("a killed worker: all sent pieces arrive, then WorkerDiedError", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("worker.ts");
    const response = await bus.stream({ path: "/count", query: "3" });
    const chunks = response.chunks();
    let text = "";
    while (!text.endsWith("2,")) text += Buffer.from((await chunks.next()).value!).toString();
    await child.kill();
    const error = await rejection<WorkerDiedError>(chunks.next());
    expect([text, error.code, error.mayHaveExecuted]).toEqual(["0,1,2,", "WORKER_DIED", true]);
    expect(bus.stats().inFlight).toBe(0);
  });

  test("a killed client: all sent pieces arrive, then ClosedError, and the request's signal aborts", async () => {
    await using space = new Workspace();
    space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
    const client = space.child("client.ts", "upload");
    await client.line("open");
    const worker = await space.worker(undefined, { reconnect: false });
    const { promise: lost, resolve } = Promise.withResolvers<void>();
    worker.on("disconnected", () => resolve());
    const { promise: ended, resolve: tell } = Promise.withResolvers<unknown[]>();
    worker.serve(async (request) => {
      const chunks = request.incoming.chunks({ into: new Uint8Array(2) });
      const first = Buffer.from((await chunks.next()).value!).toString();
      await client.line("sent");
      process.kill(client.pid, "SIGKILL");
      await lost;
      const { text, error } = await readToError(chunks);
      tell([first + text, error.code, request.aborted]);
    });
    expect(await ended).toEqual(["0,1,2,3,4,5,6,7,8,9,", "CLOSED", true]);
  });

  test("a closed bus ends its streams, the worker's generators and the callers' sources with ClosedError", async () => {
    await using space = new Workspace();
    let ended = 0;
    const { bus } = await space.pair((request) =>
      request.streams ? { body: request.incoming.chunks() } : pieces(1e9, 5_000, () => ended++),
    );
    const down = (await bus.stream({ path: "/" })).chunks();
    await down.next();
    const up = (await bus.stream({ path: "/", body: pieces(1e9, 5_000, () => ended++) })).chunks();
    await up.next();
    await bus.close({ timeout: 0 });
    for (const chunks of [down, up]) expect(await rejection(read(chunks))).toHaveProperty("code", "CLOSED");
    await until(() => ended === 2, "both sources have ended");
  });

  test("a blocking request refuses a streamed answer, and says so", async () => {
    await using space = new Workspace();
    const { bus } = await space.remote("worker.ts");
    expect(() => bus.requestSync({ path: "/count", query: "3" }, { timeout: 2_000 })).toThrow(/stream/);
    await expectAtRest(bus);
  });

  test("a blocking request refuses an already complete streamed answer too, and its worker stays", async () => {
    await using space = new Workspace();
    const { bus, worker } = await RawWorker.withBus(space);
    const library = native as { sb_slot_wait: (...args: unknown[]) => number };
    const wait = library.sb_slot_wait;
    library.sb_slot_wait = (...args) => {
      expect(worker.tryTake()).toBe(true);
      worker.begin(worker.writeHead());
      worker.finish();
      return wait(...args);
    };
    try {
      for (let i = 0; i < 3; i++) expect(() => bus.requestSync({ path: "/" })).toThrow(/stream/);
    } finally {
      library.sb_slot_wait = wait;
    }
    await expectAtRest(bus);
    expect(bus.stats().workersEvicted).toBe(0);
    worker.close();
  });
});

describe("a worker that breaks the rules of a stream", () => {
  /** A bus, and in the same process a raw worker that has claimed a request and written the head of its answer. */
  async function claimed(space: Workspace) {
    const { bus, worker } = await RawWorker.withBus(space);
    const reasons: string[] = [];
    bus.on("died", (_, reason) => reasons.push(reason));
    const answer = bus.stream({ path: "/" });
    await worker.take();
    return { bus, worker, reasons, answer, head: worker.writeHead() };
  }

  test("an answer that began and ended without a hint is delivered when its worker is evicted", async () => {
    await using space = new Workspace();
    const { bus, worker, reasons, answer, head } = await claimed(space);
    worker.flow({ sent: 5, ended: C.SB_FLOW_END });
    worker.forge({ head, offset: bus.options.headBytes, status: 200 + C.SB_STREAMS });
    worker.send(99, 4);
    const response = await answer;
    expect([response.status, response.contentType]).toEqual([200, "text/plain"]);
    expect([...(await response.bytes())]).toEqual([0, 0, 0, 0, 0]);
    await until(() => reasons.length === 1, "it is evicted");
    expect(reasons[0]).toMatch(/message of type 99/);
    await bus.drain();
    worker.close();
  });

  test("an idempotent request whose body was read is not sent again", async () => {
    await using space = new Workspace();
    const { bus, worker } = await RawWorker.withBus(space);
    let asked = 0;
    const body = (async function* () {
      for (;;) yield String(asked++);
    })();
    const failing = rejection<SlotbusError>(bus.request({ path: "/", body }, { idempotent: true }));
    await worker.take();
    await until(() => asked > 0, "the body is asked for");
    worker.send(99, 4);
    expect(
      await within(
        failing.then(({ code }) => code),
        2_000,
      ),
    ).toBe("WORKER_DIED");
    worker.close();
  });

  test("impossible counts and invalid ends are errors of the stream and never its end", async () => {
    const wrong = [
      { what: "more than the ring", flow: { sent: RING + 1, ended: C.SB_FLOW_END } },
      { what: "taken before sent", flow: { sent: 3, taken: 1, ended: C.SB_FLOW_END } },
      { what: "a large error", flow: { ended: C.SB_FLOW_ERROR, error: 0xffff_ffff } },
      { what: "an error larger than what is left", flow: { sent: 3, ended: C.SB_FLOW_ERROR, error: RING - 2 } },
      { what: "an end of no kind", flow: { sent: 3, ended: 3 } },
      { what: "no end", flow: { sent: 3 } },
      { what: "an error without a head", flow: { sent: 3, ended: C.SB_FLOW_ERROR, error: 7 } },
    ];
    for (const { what, flow } of wrong) {
      for (const seen of [true, false]) {
        await using space = new Workspace();
        const { bus, worker, answer, head } = await claimed(space);
        worker.begin(head);
        const response = seen ? await answer : null;
        worker.flow(flow);
        worker.setState(C.SB_DONE);
        const ended = await Promise.resolve(response ?? answer).then(
          (given) => given.bytes().then(() => "a clean end", String),
          String,
        );
        expect(`${what}, ${seen}: ${ended}`).toMatch(/(corrupt|invalid|malformed|without a valid end)/i);
        await bus.drain();
        expect(bus.stats().inFlight).toBe(0);
        worker.close();
      }
    }
  });

  test("a waiting reader gets an error when the counts become impossible, and never an end", async () => {
    await using space = new Workspace();
    const { worker, answer, head } = await claimed(space);
    worker.begin(head);
    const chunks = (await answer).chunks();
    const next = chunks.next();
    await Bun.sleep(20); // it waits
    expect(Bun.peek.status(next)).toBe("pending");
    worker.flow({ sent: RING + 1 });
    expect(String(await rejection(next))).toMatch(/invalid counts/);
    worker.close();
  });

  test("a waiting handler gets an error when its client's counts become impossible, and never an end", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const heard = Promise.withResolvers<unknown>();
    const first = Promise.withResolvers<void>();
    const worker = await space.worker(async (request) => {
      const chunks = request.incoming.chunks();
      await chunks.next();
      first.resolve();
      heard.resolve(await chunks.next().catch((error: unknown) => error));
      return "late";
    });
    await bus.ready();
    const more = Promise.withResolvers<void>();
    async function* source(): AsyncGenerator<string> {
      yield "first";
      await more.promise;
      yield "second";
    }
    const failing = rejection(bus.request({ path: "/", body: source() }));
    await first.promise; // its handler now waits for the second piece
    // As if the client had written impossible counts: the worker's next read of them returns this.
    const broken = native as { sb_worker_flow: (...args: unknown[]) => number };
    const flow = broken.sb_worker_flow;
    broken.sb_worker_flow = () => -C.SB_ECORRUPT;
    try {
      more.resolve();
      expect(await heard.promise).toMatchObject({ code: "REGION_CORRUPT" });
    } finally {
      broken.sb_worker_flow = flow;
    }
    await worker.close({ timeout: 0 });
    await failing;
  });
});
