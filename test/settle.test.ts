/** Every request settles, with any worker: simultaneous events, a worker that overwrites its region, sources that call the bus. */

import { expect, test } from "bun:test";
import { HeadReader } from "../src/bus/head.ts";
import {
  type BusResponse,
  type DeferredAnswer,
  type SlotBus,
  type SlotbusError,
  type StreamedResponse,
} from "../src/index.ts";
import { C, native } from "../src/native/library.ts";
import { RawWorker } from "./raw-worker.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";

/** A bus, and in this process a raw worker that has claimed one request in each of the two lowest slots. */
async function twoClaims(space: Workspace, second: (bus: SlotBus) => Promise<unknown>) {
  const { bus, worker } = await RawWorker.withBus(space);
  const promises = [bus.request({ path: "/first", id: "first" }), second(bus)];
  const claims: { slot: number; token: number; path: string }[] = [];
  for (const path of ["/first", "/second"]) {
    await worker.take();
    claims.push({ slot: worker.slot, token: worker.token, path });
  }
  // The client checks low slots first, so the answer that ends the worker's life must be in the lower slot.
  claims.sort((a, b) => a.slot - b.slot);
  return { bus, worker, promises, claims };
}

for (const kind of ["request", "borrow", "stream"] as const) {
  test(`a ${kind} whose answer begins in the batch that evicts its worker, and ends before the eviction, gets its answer`, async () => {
    await using space = new Workspace();
    const { bus, worker, promises, claims } = await twoClaims(space, (bus) => bus[kind]({ path: "/second" }));
    const [spoilt, begun] = claims;
    const settled = Promise.allSettled(promises);

    // Both events are there before the client checks once.
    Object.assign(worker, begun);
    worker.begin(worker.writeHead());
    Object.assign(worker, spoilt);
    worker.arena.fill(0xff);
    worker.complete(40, 40, 0, 200);
    // As if the worker ran on another processor while the client reads the head that ends its life.
    const { read } = HeadReader.prototype;
    HeadReader.prototype.read = function (arena, length) {
      if (length === 40) {
        HeadReader.prototype.read = read;
        Object.assign(worker, begun);
        worker.finish();
      }
      return read.call(this, arena, length);
    };
    try {
      const results = await settled;
      const of = (path: string): PromiseSettledResult<unknown> => results[path === "/first" ? 0 : 1]!;
      expect([spoilt!.path, of(spoilt!.path).status]).toEqual([spoilt!.path, "rejected"]);
      const whole = of(begun!.path) as PromiseFulfilledResult<BusResponse | StreamedResponse>;
      expect(whole.status).toBe("fulfilled");
      expect(await whole.value.text()).toBe("");
    } finally {
      HeadReader.prototype.read = read;
    }
    await until(() => bus.workers.length === 0, "it is evicted");
    expect(bus.stats()).toMatchObject({ workersEvicted: 1, inFlight: 0, unsettledAtEnd: 0 });
    worker.close();
  });
}

test("of two workers that break the protocol in one batch, neither gets the other's unclaimed request", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const workers = [
    await RawWorker.open(space.directory, space.name),
    await RawWorker.open(space.directory, space.name),
  ];
  await bus.ready({ workers: 2 });
  const failing = workers.map(() => rejection<SlotbusError>(bus.request({ path: "/claimed" })));
  for (const worker of workers) await worker.take();
  const moved = workers.map(() => bus.request({ path: "/unclaimed" }));
  for (const worker of workers) {
    const claimed = worker.slot;
    worker.arena.fill(0xff);
    // None of its slots can be reserved now: each attempt would fail again.
    for (worker.slot = 0; worker.slot < 32; worker.slot++) if (worker.word % 16n === 0n) worker.word = 7n;
    worker.slot = claimed;
    worker.complete(40, 40, 0, 200);
  }
  for (const error of await Promise.all(failing)) expect(error.code).toBe("REGION_CORRUPT");
  await space.worker((request) => request.path);
  for (const answer of await Promise.all(moved)) expect(answer.text()).toBe("/unclaimed");
  expect(bus.stats()).toMatchObject({ workersEvicted: 2, inFlight: 0 });
  for (const worker of workers) worker.close();
});

test("a request that is still pending after its worker's end is rejected then, and counted as a defect", async () => {
  await using space = new Workspace();
  space.unsettled = 1;
  const { bus, worker } = await RawWorker.withBus(space);
  const lost = rejection<SlotbusError>(bus.request({ path: "/", id: "lost" }, { timeout: Infinity }));
  await worker.take();
  // A defect made for this test: at the worker's end, the withdrawn slot reports a response that never began.
  const broken = native as { sb_slot_withdraw: (...args: unknown[]) => number };
  const withdraw = broken.sb_slot_withdraw;
  broken.sb_slot_withdraw = (...args) => {
    withdraw(...args);
    return C.SB_DONE;
  };
  try {
    expect(bus.evict(bus.workers[0]!.id, "the test says so")).toBe(true);
  } finally {
    broken.sb_slot_withdraw = withdraw;
  }
  const deadline = Promise.withResolvers<string>();
  const timer = setTimeout(deadline.resolve, 2_000, "nothing settled it");
  expect(await Promise.race([lost, deadline.promise])).toMatchObject({ code: "REGION_CORRUPT" });
  clearTimeout(timer);
  const error = await lost;
  expect([error.code, error.mayHaveExecuted, bus.stats().unsettledAtEnd]).toEqual(["REGION_CORRUPT", true, 1]);
  expect(error.message).toContain("Request lost was not settled");
  worker.close();
});

test("a worker that overwrites its region leaves no caller waiting", async () => {
  let answered = 0;
  for (let seed = 1; seed <= 24; seed++) {
    await using space = new Workspace();
    const bus = await space.bus({ slots: 32 });
    const child = space.child("scribbler.ts", String(seed));
    await child.line("attached");
    await bus.ready();
    const options = { timeout: Infinity };
    const settled: Promise<unknown>[] = Array.from({ length: 24 }, async (_, n) => {
      const request = { path: `/${n}`, body: pattern(n * 100) };
      if (n % 3 === 0) return bus.request(request, options);
      if (n % 3 === 1) return (await bus.borrow(request, options)).release();
      const response = await bus.stream(request, options);
      for await (const _ of response.chunks());
      return undefined;
    });
    const all = Promise.allSettled(settled);
    await Promise.race([until(() => bus.workers.length === 0, "it is evicted", 60_000), all]);
    await child.kill();
    await until(() => bus.workers.length === 0, "it is gone");
    // Its unclaimed requests wait for another worker; there is none.
    await bus.close({ timeout: 0 });
    const results = await all;
    answered += results.filter(({ status }) => status === "fulfilled").length;
    expect([seed, bus.stats().unsettledAtEnd, bus.stats().inFlight]).toEqual([seed, 0, 0]);
  }
  expect(answered).toBeLessThan(24 * 24); // otherwise it wrote too late to corrupt anything
}, 120_000);

/** A value whose JSON is made by user code. */
function json(make: () => unknown): { toJSON(): unknown } {
  return { toJSON: make };
}

test("user code that runs while a request is encoded may use the bus, or close it", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => request.text(), { slots: 1 });
  const inner: Promise<BusResponse>[] = [];
  const nested = json(() => {
    inner.push(bus.request({ path: "/inner", body: "inner" }));
    return "outer";
  });
  expect((await bus.request({ path: "/", json: nested })).text()).toBe('"outer"');
  expect((await inner[0]!).text()).toBe("inner");
  const closing = json(() => {
    void bus.close({ timeout: 0 });
    return "closed";
  });
  const error = await rejection<SlotbusError>(bus.request({ path: "/", json: closing }));
  expect([error.code, error.mayHaveExecuted, bus.stats().unsettledAtEnd]).toEqual(["CLOSED", false, 0]);
});

test("a request is encoded once, even when it queues, and its encoding runs before it is published", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ slots: 1 });
  let encoded = 0;
  const headers = {
    get name() {
      encoded++;
      return "value";
    },
  };
  let stringified = 0;
  const ask = (): Promise<BusResponse> =>
    bus.request({ path: "/", headers, json: json(() => ++stringified), method: "POST" });
  const answers = [ask(), ask(), ask()];
  await space.worker((request) => `${request.headers.get("name")} ${request.text()}`);
  expect((await Promise.all(answers)).map((answer) => answer.text())).toEqual(["value 1", "value 2", "value 3"]);
  expect([encoded, stringified]).toEqual([3, 3]);
});

for (const slots of [1, 4]) {
  test(`headers whose getter calls the bus: both requests get their own head, and a worker of ${slots} stays when they fill it`, async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => `${request.path} ${request.headers.get("mine")} ${request.text()}`, {
      slots,
    });
    const inner: Promise<BusResponse>[] = [];
    const headers = {
      get mine() {
        if (inner.length === 0) inner.push(bus.request({ path: "/inner", headers: { mine: "b" }, body: "inner" }));
        return "a";
      },
    };
    const outer = bus.request({ path: "/outer", headers, body: "outer" });
    const texts = (await Promise.all([outer, ...inner])).map((response) => response.text());
    expect(texts).toEqual(["/outer a outer", "/inner b inner"]);
    expect(bus.stats()).toMatchObject({ workersEvicted: 0, responses: 2 });
  });
}

test("headers of an answer whose getter answers: each answer has its own head, and the first one counts", async () => {
  await using space = new Workspace();
  const deferred: DeferredAnswer[] = [];
  const deliveries: string[] = [];
  const { bus } = await space.pair((request) => {
    if (request.path === "/deferred") return void deferred.push(request.defer());
    const headers = {
      get own() {
        for (const answer of deferred.splice(0)) answer({ headers: { other: "x" }, body: "deferred" });
        if (request.path === "/twice") deliveries.push(request.respond("first"));
        return "y";
      },
    };
    const body = request.text() === "stream" ? [request.path].values() : request.path;
    if (request.path !== "/twice") return { headers, body };
    deliveries.push(request.respond({ headers, body }));
    return undefined;
  });
  for (const body of ["", "stream"]) {
    const other = bus.request({ path: "/deferred" });
    await until(() => deferred.length === 1, "it is deferred");
    const mine = await bus.request({ path: "/mine", body });
    expect([mine.text(), mine.headers.entries()]).toEqual(["/mine", [["own", "y"]]]);
    expect((await other).headers.entries()).toEqual([["other", "x"]]);
    expect((await bus.request({ path: "/twice", body })).text()).toBe("first");
    expect(deliveries.splice(0)).toEqual(["sent", "duplicate"]);
  }
});

test("a worker's unclaimed requests go first again, in the order of their calls", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const worker = await RawWorker.open(space.directory, space.name, 2);
  await bus.ready();
  // Slots that were freed in order are used in reverse.
  const before = [bus.request({ path: "/before" }), bus.request({ path: "/before" })];
  for (const _ of before) {
    await worker.take();
    worker.complete(worker.writeHead(), 1_024, 0, 200);
  }
  await Promise.all(before);
  const answers = Array.from({ length: 5 }, (_, n) => bus.request({ path: `/${n}` }));
  expect(bus.stats()).toMatchObject({ inFlight: 2, queued: 3 });
  bus.evict(bus.workers[0]!.id, "the test says so");
  expect(bus.stats()).toMatchObject({ inFlight: 0, queued: 5 });
  const seen: string[] = [];
  await space.worker((request) => (seen.push(request.path), ""), { concurrency: 1 });
  await Promise.all(answers);
  expect(seen).toEqual(["/0", "/1", "/2", "/3", "/4"]);
  worker.close();
});

test("a worker's unclaimed requests are encoded again after its end has been handled", async () => {
  await using space = new Workspace();
  const { bus, worker } = await RawWorker.withBus(space);
  let encoded = 0;
  const headers = {
    get name() {
      encoded++;
      return "value";
    },
  };
  const answers = Array.from({ length: 2 }, () => bus.request({ path: "/", headers }));
  await space.worker((request) => request.headers.get("name"));
  await bus.ready({ workers: 2 });
  bus.evict(bus.workers[0]!.id, "the test says so");
  expect([encoded, bus.stats().queued]).toEqual([2, 2]);
  for (const answer of await Promise.all(answers)) expect(answer.text()).toBe("value");
  expect(encoded).toBe(4);
  worker.close();
});

test("a caller that aborts before its request is claimed makes room for the next one in the queue", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const worker = await RawWorker.open(space.directory, space.name, 1);
  await bus.ready();
  const controller = new AbortController();
  const left = rejection(bus.request({ path: "/left" }, { signal: controller.signal }));
  const next = bus.request({ path: "/next" });
  expect(bus.stats()).toMatchObject({ inFlight: 1, queued: 1 });
  controller.abort(new Error("it left"));
  expect((await left).message).toBe("it left");
  expect(bus.stats()).toMatchObject({ inFlight: 1, queued: 0, withdrawn: 1 });
  await worker.take();
  worker.complete(worker.writeHead(), 1_024, 0, 200);
  expect((await next).status).toBe(200);
  worker.close();
});

/** A bus with two workers: one answers, the other takes a blocking request and never answers it. */
async function askingWorld(space: Workspace) {
  const bus = await space.bus();
  const [answering, hanging] = [space.child("worker.ts"), space.child("sync-worker.ts")];
  await bus.ready({ workers: 2 });
  const idOf = ({ pid }: { pid: number }): number => bus.workers.find((worker) => worker.pid === pid)!.id;
  const [worker, slow] = [idOf(answering), idOf(hanging)];
  /** Blocks until its timeout; the same poll finds answers that arrive meanwhile. */
  const block = (): void => {
    expect(() => bus.requestSync({ path: "/hang" }, { worker: slow, timeout: 30 })).toThrow(/timed out after 30 ms/);
  };
  /** Requests that are answered while a source blocks: after `ms`, and then one every 2 ms. */
  const beside = (ms: number): Promise<BusResponse>[] =>
    Array.from({ length: 16 }, (_, n) =>
      bus.request({ path: "/slow", query: `${ms + 2 * n}`, body: `${n}` }, { worker }),
    );
  return { bus, worker, block, beside };
}

async function expectEchoes(answers: Promise<BusResponse>[]): Promise<void> {
  for (const [n, answer] of (await Promise.all(answers)).entries()) expect(answer.text()).toBe(`${n}`);
}

for (const way of ["sync", "async"]) {
  test(`a source, ${way}, whose first step makes a blocking request does not change the events being handled`, async () => {
    await using space = new Workspace();
    const { bus, worker, block, beside } = await askingWorld(space);
    function* sync(n: number): Generator<Uint8Array> {
      block();
      yield pattern(1_000 + n);
    }
    async function* async(n: number): AsyncGenerator<Uint8Array> {
      yield* sync(n);
    }
    const source = way === "sync" ? sync : async;
    for (let round = 0; round < 3; round++) {
      const streamed = Array.from({ length: 8 }, (_, n) =>
        bus.request({ path: "/bytes", body: source(n) }, { worker }),
      );
      const others = beside(5);
      for (const [n, { body }] of (await Promise.all(streamed)).entries())
        expect(same(body, pattern(1_000 + n))).toBe(true);
      await expectEchoes(others);
    }
    expect(bus.stats()).toMatchObject({ workersEvicted: 0, workersDied: 0 });
  }, 30_000);
}

test("a source that makes a blocking request when it ends does not change the events being handled", async () => {
  await using space = new Workspace();
  const { bus, worker, block, beside } = await askingWorld(space);
  let [begun, ended, blocked] = [0, 0, 0];
  function* source(): Generator<string> {
    begun++;
    try {
      for (;;) yield "x".repeat(1_000);
    } finally {
      ended++;
      block();
      blocked++;
    }
  }
  // On a busy machine a request may time out before its source begins.
  while (begun < 8) {
    const hung = Array.from({ length: 8 }, () =>
      rejection(bus.request({ path: "/hang", body: source() }, { worker, timeout: 50 })),
    );
    const others = beside(60);
    await Promise.all(hung);
    await expectEchoes(others);
    await until(() => ended === begun, "all sources are ended");
    expect(blocked).toBe(ended);
  }
  expect(bus.stats()).toMatchObject({ workersEvicted: 0, workersDied: 0 });
}, 30_000);

test("the body of a borrow that streamed is in the caller's own memory, also after its release", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async function* () {
    for (let i = 0; i < 5; i++) {
      yield pattern(10_000);
      await Bun.sleep(1);
    }
  });
  const copies = await Promise.all(
    Array.from({ length: 12 }, async () => {
      using response = await bus.borrow({ path: "/" });
      expect(Object.getPrototypeOf(response.body)).toBe(Uint8Array.prototype);
      return [response.body.slice(), response.body] as const;
    }),
  );
  const whole = Buffer.concat(Array.from({ length: 5 }, () => pattern(10_000)));
  for (const [copy, body] of copies) expect([same(copy, whole), same(body, whole)]).toEqual([true, true]);
  expect(Object.getPrototypeOf((await bus.request({ path: "/" })).body)).toBe(Uint8Array.prototype);
  expect(Object.getPrototypeOf(await (await bus.stream({ path: "/" })).bytes())).toBe(Uint8Array.prototype);
});
