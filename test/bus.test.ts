/** The client's side, with workers of this process; crash.test.ts has workers that die. */

import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  ClosedError,
  BusExistsError,
  BusOverloadedError,
  type DeferredAnswer,
  HeadTooLargeError,
  InvalidConfigError,
  NoWorkerError,
  NotReadyError,
  PayloadTooLargeError,
  RemoteError,
  RequestTimeoutError,
  SlotBus,
  type SlotBusOptions,
  type WorkerInfo,
  type WorkerRequest,
  type SlotbusError,
  SlotWorker,
  type BusResponse,
  WorkerDiedError,
} from "../src/index.ts";
import { type InnerOptions, lateSignal } from "../src/bus/call.ts";
import { descriptors, mappings, pattern, rejection, same, stop, until, Workspace } from "./support.ts";

const echo = (request: WorkerRequest) => ({ contentType: "test/echo", body: request.body });

describe("requests", () => {
  test("a body comes back with status, content type and bytes as the handler gave them", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(echo);
    const response = await bus.request({ method: "POST", path: "/", body: "hello" });
    expect([response.status, response.ok, response.contentType, response.text()]).toEqual([
      200,
      true,
      "test/echo",
      "hello",
    ]);
  });

  test("ten requests in a row are each answered with their own path", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.path);
    for (let i = 0; i < 10; i++) expect((await bus.request({ path: `/path/${i}` })).text()).toBe(`/path/${i}`);
  });

  test("twenty requests made before any is awaited are each answered with their own id and body", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ headers: { id: request.id }, body: request.body }));
    const all = Array.from({ length: 20 }, (_, i) => bus.request({ path: "/", id: `id-${i}`, body: `body ${i}` }));
    for (const [i, response] of (await Promise.all(all)).entries()) {
      expect([response.headers.get("ID"), response.text()]).toEqual([`id-${i}`, `body ${i}`]);
    }
  });

  test("more requests than slots are all answered, and no slot stays in use", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(
      async (request) => {
        if (Number(request.query) % 7 === 0) await Bun.sleep(1);
        return request.body;
      },
      { slots: 4 },
    );
    const all = Array.from({ length: 500 }, (_, i) => bus.request({ path: "/", query: String(i), body: `${i}` }));
    expect(bus.stats().queued).toBe(496);
    const texts = (await Promise.all(all)).map((response) => response.text());
    expect(texts).toEqual(Array.from({ length: 500 }, (_, i) => `${i}`));
    expect(bus.diagnostics().slots.map(({ state }) => state)).toEqual(["FREE", "FREE", "FREE", "FREE"]);
  });

  test("an empty body arrives empty, and 204 has none", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => (request.body.length === 0 ? null : "not empty"));
    const response = await bus.request({ path: "/", body: "" });
    expect([response.status, response.body.length]).toEqual([204, 0]);
  });

  for (const [bytes, what] of [
    [64, "inline"],
    [76_533, "beyond the inline size"],
    [524_288, "512 KiB"],
  ] as const) {
    test(`a body of ${bytes} bytes (${what}) comes back identical`, async () => {
      await using space = new Workspace();
      const { bus } = await space.pair(echo);
      expect(bytes > bus.options.inlineBytes).toBe(what !== "inline");
      const body = pattern(bytes);
      for (let i = 0; i < 5; i++) expect(same((await bus.request({ path: "/", body })).body, body)).toBe(true);
    });
  }

  test("a small body right after a large one in the same slot carries none of its bytes", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(echo, { slots: 1 });
    const large = await bus.request({ path: "/", body: pattern(100_000) });
    const small = await bus.request({ path: "/", body: "small" });
    expect([large.body.length, small.text()]).toEqual([100_000, "small"]);
    expect(same(large.body, pattern(100_000))).toBe(true);
  });

  test("a body of exactly the payload limit goes through, one byte more is refused with both numbers", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(echo, { payloadBytes: 10_000 });
    const body = pattern(10_000);
    expect(same((await bus.request({ path: "/", headers: { a: "b" }, body })).body, body)).toBe(true);
    const error = await rejection<PayloadTooLargeError>(bus.request({ path: "/", body: pattern(10_001) }));
    expect(error).toBeInstanceOf(PayloadTooLargeError);
    expect([error.bytes, error.limit, error.mayHaveExecuted]).toEqual([10_001, 10_000, false]);
    expect((await rejection(bus.request({ path: "/", body: "ä".repeat(5_001) }))).message).toContain("10002");
    expect(bus.stats().inFlight).toBe(0);
  });

  test("an answer one byte above the limit is an error that says so, and the slot is free again", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => new Uint8Array(Number(request.query)), {
      payloadBytes: 10_000,
      slots: 1,
    });
    expect((await bus.request({ path: "/", query: "10000" })).body.length).toBe(10_000);
    const error = await rejection<RemoteError>(bus.request({ path: "/", query: "10001" }));
    expect([error.code, error.remoteCode, error.mayHaveExecuted]).toEqual(["REMOTE", "PAYLOAD_TOO_LARGE", true]);
    expect((await bus.request({ path: "/", query: "1" })).body.length).toBe(1);
  });

  test("a head of exactly the limit goes through, one byte more is refused with both numbers", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ json: request.headers.get("x")!.length }), { headBytes: 1024 });
    let fits = 900;
    while (
      fits < 1100 &&
      (await bus.request({ path: "/", headers: { x: "v".repeat(fits + 1) } }).then(
        () => true,
        () => false,
      ))
    )
      fits++;
    const error = await rejection<HeadTooLargeError>(bus.request({ path: "/", headers: { x: "v".repeat(fits + 1) } }));
    expect(error).toBeInstanceOf(HeadTooLargeError);
    expect([error.bytes, error.limit, error.mayHaveExecuted]).toEqual([1025, 1024, false]);
  });

  test("100 KiB of headers arrive", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ headers: { back: request.headers.get("x")! } }));
    const value = "v".repeat(100 * 1024);
    expect((await bus.request({ path: "/", headers: { x: value } })).headers.get("back")).toBe(value);
  });

  test("method, path, pattern, parameters, query and headers reach the handler unchanged, and in their order", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((r) => ({
      json: [r.method, r.path, r.pattern, r.params, r.query, r.headers.entries(), r.headers.getAll("B"), r.id],
    }));
    const headers: [string, string][] = [
      ["b", "1"],
      ["a", "2"],
      ["B", "3"],
    ];
    for (const text of ["plain", "grün", "日本語 🎉"]) {
      const response = await bus.request({
        method: "PATCH",
        path: `/users/${text}`,
        pattern: "/users/:name",
        params: { name: text },
        query: `q=${text}`,
        headers: [...headers, ["text", text]],
        id: `id ${text}`,
      });
      expect(response.json<unknown[]>()).toEqual([
        "PATCH",
        `/users/${text}`,
        "/users/:name",
        { name: text },
        `q=${text}`,
        [...headers, ["text", text]],
        ["1", "3"],
        `id ${text}`,
      ]);
    }
  });

  test("the method is GET without a body, and POST with one", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.method);
    expect((await bus.request({ path: "/" })).text()).toBe("GET");
    expect((await bus.request({ path: "/", body: "x" })).text()).toBe("POST");
  });

  test("generated ids are unique and the same in handler and diagnostics", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async (request) => {
      const seen = bus.diagnostics().slots.filter(({ requestId }) => requestId === request.id).length;
      return { json: [request.id, seen] };
    });
    const all = await Promise.all(Array.from({ length: 50 }, () => bus.request({ path: "/" })));
    const answers = all.map((response) => response.json<[string, number]>());
    expect(new Set(answers.map(([id]) => id)).size).toBe(50);
    expect(answers.every(([, seen]) => seen === 1)).toBe(true);
  });

  const bad: [string, Parameters<SlotBus["request"]>[0], RegExp][] = [
    ["an unknown method", { path: "/", method: "BREW" as "GET" }, /"BREW" is not a valid method.*GET, POST/],
    ["a header with a line break", { path: "/", headers: { a: "b\r\nc: d" } }, /line break or NUL/],
    ["a header with a NUL", { path: "/", headers: [["a", "b\0"]] }, /line break or NUL/],
    ["a header name with a space", { path: "/", headers: { "a b": "c" } }, /"a b" is not a valid header name/],
    [
      "a header that is a number",
      { path: "/", headers: [["a", 1 as unknown as string]] },
      /A header of a request is 1; it must be text/,
    ],
    ["a path with a line break", { path: "/a\nb" }, /line break or NUL/],
    ["a path that is a number", { path: 7 as unknown as string }, /path is 7; it must be text/],
    ["a body and json", { path: "/", body: "a", json: 1 }, /both `body` and `json`/],
    [
      "a body that is a number",
      { path: "/", body: 7 as unknown as string },
      /body is 7; it must be text or bytes\. Use `json`/,
    ],
    [
      "a body that is an object",
      { path: "/", body: { a: 1 } as unknown as string },
      /body is \{ a: 1, \}; it must be text/,
    ],
    [
      "a pair that is missing",
      { path: "/", headers: [undefined as never] },
      /headers\[0\] is undefined; it must be a pair/,
    ],
    [
      "headers that are a number",
      { path: "/", headers: 5 as never },
      /headers is 5; it must be a list of headers\. Pass/,
    ],
  ];
  for (const [what, request, message] of bad) {
    test(`${what} is refused at once, with a worker and without, and takes no slot`, async () => {
      await using space = new Workspace();
      const bus = await space.bus({ slots: 1 });
      expect((await rejection(bus.request(request))).message).toMatch(message);
      await space.worker(echo);
      await bus.ready();
      const error = await rejection<InvalidConfigError>(bus.request(request));
      expect(error).toBeInstanceOf(InvalidConfigError);
      expect(error.message).toMatch(message);
      expect(error.mayHaveExecuted).toBe(false);
      expect((await bus.request({ path: "/", body: "still works" })).text()).toBe("still works");
    });
  }
});

describe("time", () => {
  test("a request that nobody can take is refused with NoWorkerError after its timeout, or at once", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const start = performance.now();
    const error = await rejection(bus.request({ path: "/" }, { timeout: 60 }));
    expect(error).toBeInstanceOf(NoWorkerError);
    expect(performance.now() - start).toBeWithin(55, 4_000);
    const at = performance.now();
    expect(await rejection(bus.request({ path: "/" }, { waitForWorker: false }))).toBeInstanceOf(NoWorkerError);
    expect(performance.now() - at).toBeLessThan(500); // a request's timeout is 30 s
  });

  test("a request made before any worker is answered when one comes", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const early = bus.request({ path: "/early" });
    await space.worker((request) => request.path);
    expect((await early).text()).toBe("/early");
  });

  test("a handler that never answers: the caller times out, the handler's signal aborts, the slot leaves quarantine later", async () => {
    await using space = new Workspace();
    let held: WorkerRequest | null = null;
    let aborted = 0;
    const { bus } = await space.pair(
      (request) => {
        if (request.path !== "/hang") return "fine";
        held = request;
        request.signal.addEventListener("abort", () => aborted++);
        request.defer();
      },
      { slots: 1 },
    );
    const error = await rejection<RequestTimeoutError>(bus.request({ path: "/hang" }, { timeout: 500 }));
    expect(error).toBeInstanceOf(RequestTimeoutError);
    expect([error.mayHaveExecuted, error.retryable, error.queuedMs]).toEqual([true, false, 0]);
    expect(error.ranMs).toBeWithin(1, 4_000);
    await until(() => aborted === 1, "the handler's signal aborted");
    expect(bus.diagnostics().slots.map(({ state }) => state)).toEqual(["ABANDONED"]);
    const queued = bus.request({ path: "/fine" }, { timeout: 5_000 });
    expect(bus.stats().queued).toBe(1); // the only slot is quarantined
    expect(held!.aborted).toBe(true);
    expect(held!.defer()("late")).toBe("late");
    expect((await queued).text()).toBe("fine");
    expect([bus.stats().abandoned, bus.stats().timeouts]).toEqual([1, 1]);
  });

  test("a request that times out behind a busy worker was never executed, and says how long it waited", async () => {
    await using space = new Workspace();
    const seen: WorkerRequest[] = []; // kept: when a deferred answer is collected, its caller gets an error
    const bus = await space.bus();
    await space.worker(
      (request) => {
        seen.push(request);
        request.defer();
      },
      { concurrency: 1 },
    );
    await bus.ready();
    const first = bus.request({ path: "/first" }, { timeout: 700 });
    const second = await rejection<RequestTimeoutError>(bus.request({ path: "/second" }, { timeout: 40 }));
    expect(second).toBeInstanceOf(RequestTimeoutError);
    expect([second.mayHaveExecuted, second.retryable, second.ranMs]).toEqual([false, true, 0]);
    expect(second.queuedMs).toBeWithin(35, 4_000);
    await rejection(first);
    expect(seen.map(({ path }) => path)).toEqual(["/first"]);
  });

  test("a request that times out in the slot of a worker that does not claim it was never executed, and says so", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    await space.worker(); // attached, and not serving
    await bus.ready();
    const error = await rejection<RequestTimeoutError>(bus.request({ path: "/" }, { timeout: 40 }));
    expect(error).toBeInstanceOf(RequestTimeoutError);
    expect([error.mayHaveExecuted, bus.stats().inFlight]).toEqual([false, 0]);
  });

  test("the deadline that the handler sees is the caller's", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ json: request.deadline - Date.now() }));
    expect((await bus.request({ path: "/" }, { timeout: 5_000 })).json<number>()).toBeWithin(4_000, 5_050);
    const none = await bus.request({ path: "/" }, { timeout: Infinity });
    expect(none.json<number | null>()).toBe(null); // Infinity as JSON
  });

  test("an invalid timeout is refused", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    for (const timeout of [-1, NaN, 2 ** 32]) {
      expect((await rejection(bus.request({ path: "/" }, { timeout }))).message).toMatch(/timeout is/);
    }
  });
});

describe("aborts", () => {
  const reason = new Error("changed my mind");

  test("an abort before the call rejects with the reason and sends nothing", async () => {
    await using space = new Workspace();
    let calls = 0;
    const { bus } = await space.pair(() => String(calls++));
    expect(await rejection(bus.request({ path: "/" }, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect([calls, bus.stats().requests]).toEqual([0, 0]);
  });

  test("an abort while queued rejects with the reason and leaves the queue", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const controller = new AbortController();
    const waiting = bus.request({ path: "/" }, { signal: controller.signal });
    expect(bus.stats().queued).toBe(1);
    controller.abort(reason);
    expect(await rejection(waiting)).toBe(reason);
    expect([bus.stats().queued, bus.stats().aborts]).toEqual([0, 1]);
  });

  test("an abort while the handler runs aborts its signal, and its answer is reported as late", async () => {
    await using space = new Workspace();
    const { promise: late, resolve: tell } = Promise.withResolvers<string>();
    const { promise: started, resolve: start } = Promise.withResolvers<void>();
    const { bus } = await space.pair(
      (request) => {
        if (request.path === "/next") return "next";
        start();
        const answer = request.defer();
        request.signal.addEventListener("abort", () => tell(answer("too late")));
      },
      { slots: 1 },
    );
    const controller = new AbortController();
    const running = bus.request({ path: "/" }, { signal: controller.signal });
    await started;
    controller.abort(reason);
    expect(await rejection(running)).toBe(reason);
    expect(await late).toBe("late");
    expect((await bus.request({ path: "/next" })).text()).toBe("next");
  });

  test("a signal that is asked for late is asked for when there is no answer, and ends what runs, queues or streams", async () => {
    await using space = new Workspace();
    async function* endless() {
      for (;;) yield "x";
    }
    const { bus } = await space.pair(
      ({ path }) => (path === "/now" ? "now" : path === "/stream" ? { body: endless() } : new Promise(() => {})),
      { slots: 1 },
    );
    const controller = new AbortController();
    let asked = 0;
    const late: InnerOptions = {
      [lateSignal]: () => {
        asked++;
        return controller.signal;
      },
    };
    expect(await (await bus.stream({ path: "/now" }, late)).text()).toBe("now");
    expect(asked).toBeLessThan(3); // a tick may have run in between, and the answer reads it again
    const streams = await bus.stream({ path: "/stream" }, late);
    const read = rejection(streams.bytes());
    controller.abort(reason);
    expect(await read).toBe(reason);
    // Aborted before the signal was read: that is noticed too.
    const runs = rejection(bus.stream({ path: "/never" }, late));
    const waits = rejection(bus.stream({ path: "/never" }, late));
    const begins = await bus.stream({ path: "/stream" }, late).catch((error: unknown) => error);
    expect([await runs, await waits, begins]).toEqual([reason, reason, reason]);
    expect(bus.stats().queued).toBe(0);
  });

  test("a handler hears that its caller gave up before it hears that the client has closed", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const heard: string[] = [];
    const { promise: started, resolve: start } = Promise.withResolvers<WorkerRequest>();
    await space.worker((request) => {
      request.signal.addEventListener("abort", () => heard.push(request.signal.reason.name));
      request.defer();
      start(request);
    });
    await bus.ready();
    const controller = new AbortController();
    const running = rejection(bus.request({ path: "/" }, { signal: controller.signal }));
    const held = await started;
    controller.abort(reason);
    await running;
    await bus.close({ timeout: 0 });
    await until(() => heard.length === 1, "the handler hears");
    expect([heard, held.aborted]).toEqual([["AbortError"], true]);
  });

  test("a settled request leaves no listener on the caller's signal", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(() => "x");
    const controller = new AbortController();
    let listeners = 0;
    const { addEventListener, removeEventListener } = controller.signal;
    controller.signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
      listeners++;
      addEventListener.apply(controller.signal, args);
    };
    controller.signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
      listeners--;
      removeEventListener.apply(controller.signal, args);
    };
    for (let i = 0; i < 20; i++) await bus.request({ path: "/" }, { signal: controller.signal });
    expect(listeners).toBe(0);
    expect(bus.stats().responses).toBe(20);
  });
});

describe("the queue", () => {
  test("a full queue rejects with BusOverloadedError and the numbers", async () => {
    await using space = new Workspace();
    const bus = await space.bus({ queue: { limit: 2 } });
    const waiting = [bus.request({ path: "/1" }), bus.request({ path: "/2" })];
    const error = await rejection<BusOverloadedError>(bus.request({ path: "/3" }, { timeout: 100 }));
    expect(error).toBeInstanceOf(BusOverloadedError);
    expect(error.message).toMatch(/queued: 2/);
    expect([error.mayHaveExecuted, bus.stats().overloaded]).toEqual([false, 1]);
    await space.worker((request) => request.path);
    expect((await Promise.all(waiting)).map((r) => r.text())).toEqual(["/1", "/2"]);
  });

  test('with policy "wait" a full queue makes callers wait instead', async () => {
    await using space = new Workspace();
    const bus = await space.bus({ queue: { limit: 1, policy: "wait" } });
    const waiting = Array.from({ length: 5 }, (_, i) => bus.request({ path: `/${i}` }));
    await space.worker((request) => request.path);
    expect((await Promise.all(waiting)).map((r) => r.text())).toEqual(["/0", "/1", "/2", "/3", "/4"]);
  });

  test("a slow worker delays only its own requests", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const { promise: gate, resolve: open } = Promise.withResolvers<string>();
    const slow = await space.worker(() => gate, { concurrency: 1 });
    await bus.ready();
    const stuck = bus.request({ path: "/" });
    await until(() => slow.running === 1, "the slow worker runs");
    await space.worker(() => "fast");
    await bus.ready({ workers: 2 });
    for (let i = 0; i < 100; i++) expect((await bus.request({ path: "/" })).text()).toBe("fast");
    expect([slow.running, Bun.peek.status(stuck)]).toEqual([1, "pending"]);
    open("slow");
    expect((await stuck).text()).toBe("slow");
  });

  test("several workers share the load", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const workers = await Promise.all(
      Array.from({ length: 3 }, () => space.worker(async () => (await Bun.sleep(1), "x"))),
    );
    await bus.ready({ workers: 3 });
    await Promise.all(Array.from({ length: 60 }, () => bus.request({ path: "/" })));
    expect(workers.map((worker) => worker.served)).toEqual([20, 20, 20]);
  });

  test("a worker never runs more than its concurrency", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    let most = 0;
    const worker = await space.worker(
      async () => {
        most = Math.max(most, worker.running);
        await Bun.sleep(1);
        return "x";
      },
      { concurrency: 3 },
    );
    await Promise.all(Array.from({ length: 30 }, () => bus.request({ path: "/" })));
    expect(most).toBe(3);
  });
});

describe("borrowed responses", () => {
  test("the view holds the bytes, its slot shows as lent, and release ends both", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(echo, { slots: 1 });
    const body = pattern(50_000);
    const response = await bus.borrow({ path: "/", body });
    expect(same(response.body, body)).toBe(true);
    const [slot] = bus.diagnostics().slots;
    expect([slot!.state, slot!.borrowed]).toEqual(["DONE", true]);
    const queued = bus.request({ path: "/", body: "next" });
    expect(bus.stats().queued).toBe(1);
    expect([response.text().length, response.bytes().length]).toEqual([50_000, 50_000]);
    response.release();
    response.release();
    expect(response.body.length).toBe(0);
    for (const read of ["text", "json", "bytes", "toResponse"] as const) {
      expect(() => response[read]()).toThrow(expect.objectContaining({ code: "BODY_RELEASED" }));
    }
    expect((await queued).text()).toBe("next");
    expect(bus.diagnostics().slots[0]!.state).toBe("FREE");
  });

  test("a lent response outlives its worker and its bus", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair(echo);
    const before = mappings();
    const response = await bus.borrow({ path: "/", body: pattern(50_000) });
    await worker.close();
    await until(() => bus.workers.length === 0, "the worker left");
    expect(same(response.body, pattern(50_000))).toBe(true);
    await bus.close();
    expect(same(response.body, pattern(50_000))).toBe(true);
    response.release();
    expect(response.body.length).toBe(0);
    expect(mappings()).toBeLessThan(before);
  });

  test("an error is not lent: the slot is free at once", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(
      () => {
        throw new Error("no");
      },
      { slots: 1 },
    );
    expect(await rejection(bus.borrow({ path: "/" }))).toBeInstanceOf(RemoteError);
    expect(bus.stats().inFlight).toBe(0);
  });
});

describe("life", () => {
  test("a second client on a live name is refused with the pid of the first", async () => {
    await using space = new Workspace();
    await space.bus();
    const error = await rejection<BusExistsError>(space.bus());
    expect(error).toBeInstanceOf(BusExistsError);
    expect(error.ownerPid).toBe(process.pid);
    expect(error.message).toBe(
      `A bus, hub or pool named "${space.name}" is already running (pid ${process.pid}, this process). ` +
        "Close it first, or choose another name.",
    );
  });

  test("the error for a name in use gives the other process's pid", async () => {
    await using space = new Workspace();
    space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
    const child = space.child("lonely.ts", "ref");
    await child.line("open");
    expect((await rejection(space.bus())).message).toBe(
      `A bus, hub or pool named "${space.name}" is already running (pid ${child.pid}). Choose another name, or stop that process.`,
    );
    writeFileSync(join(space.directory, `${space.name}.lock`), `${process.pid}\n`); // as in two containers
    expect((await rejection(space.bus())).message).toContain(`(pid ${process.pid}). Choose another name`);
  });

  test("a socket and a lock file of a dead client do not prevent a new one", async () => {
    await using space = new Workspace();
    writeFileSync(join(space.directory, `${space.name}.sock`), "");
    writeFileSync(join(space.directory, `${space.name}.lock`), "1\n"); // names a live process: only the lock counts
    const { bus } = await space.pair(echo);
    expect((await bus.request({ path: "/", body: "x" })).text()).toBe("x");
  });

  test("close with work in flight waits for it; with no time it rejects the rest and says whether it ran", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async () => (await Bun.sleep(50), "done"));
    const running = bus.request({ path: "/" });
    const closing = bus.close();
    expect((await running).text()).toBe("done");
    await closing;

    const kept: DeferredAnswer[] = []; // kept: a collected request gets an error
    const second = await space.pair((request) => void kept.push(request.defer()));
    const stuck = second.bus.request({ path: "/" });
    await until(() => second.worker.running === 1, "the handler runs");
    const waiting = rejection<ClosedError>(stuck);
    await second.bus.close({ timeout: 0 });
    const error = await waiting;
    expect(error).toBeInstanceOf(ClosedError);
    expect(error.mayHaveExecuted).toBe(true);
  });

  test("close rejects queued requests with mayHaveExecuted false", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const queued = rejection<ClosedError>(bus.request({ path: "/" }));
    await bus.close({ timeout: 0 });
    expect([(await queued).code, (await queued).mayHaveExecuted]).toEqual(["CLOSED", false]);
  });

  test("close may be called several times at once, and everything after it is refused", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(echo);
    await bus.request({ path: "/" });
    await Promise.all([bus.close(), bus.close(), bus.close({ timeout: 0 })]);
    await bus.close();
    expect(await rejection(bus.request({ path: "/" }))).toBeInstanceOf(ClosedError);
    expect(await rejection(bus.ready())).toBeInstanceOf(ClosedError);
    expect(await rejection(bus.fetch("/"))).toBeInstanceOf(ClosedError);
    expect(() => bus.requestSync({ path: "/" })).toThrow(ClosedError);
    expect([bus.stats().responses, bus.diagnostics().slots.length]).toEqual([1, 0]);
    bus.ref();
    bus.unref();
  });

  test("drain takes no new requests and waits for the running ones", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async () => (await Bun.sleep(30), "done"));
    const running = bus.request({ path: "/" });
    const draining = bus.drain();
    expect(await rejection(bus.request({ path: "/" }))).toBeInstanceOf(ClosedError);
    await draining;
    expect(Bun.peek.status(running)).toBe("fulfilled");
  });

  test("ready waits for as many workers as asked, and an abort ends the wait", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const two = bus.ready({ workers: 2 });
    await space.worker(echo);
    await bus.ready();
    expect(Bun.peek.status(two)).toBe("pending");
    await space.worker(echo);
    await two;
    const controller = new AbortController();
    const never = rejection(bus.ready({ workers: 9, signal: controller.signal }));
    controller.abort("enough");
    expect((await never) as unknown).toBe("enough");
  });

  test("events are emitted for workers that join and leave", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const events: string[] = [];
    bus.on("joined", ({ pid }) => events.push(`joined ${pid}`));
    bus.on("left", ({ pid }) => events.push(`left ${pid}`));
    bus.on("died", ({ pid }) => events.push(`died ${pid}`));
    const worker = await space.worker(echo);
    await bus.ready();
    await worker.close();
    await until(() => events.length === 2, "two events");
    expect(events).toEqual([`joined ${process.pid}`, `left ${process.pid}`]);
  });

  test("stats count requests, and have percentiles", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => {
      if (request.path === "/throw") throw new Error("no");
      return "x";
    });
    for (let i = 0; i < 100; i++) await bus.request({ path: "/" });
    await rejection(bus.request({ path: "/throw" }));
    const stats = bus.stats();
    expect([stats.requests, stats.responses, stats.errors, stats.workersJoined]).toEqual([101, 101, 1, 1]);
    expect(stats.roundTripUs.p50).toBeGreaterThan(0);
    expect(stats.roundTripUs.p99).toBeGreaterThanOrEqual(stats.roundTripUs.p50);
    expect(stats.workers).toEqual([{ pid: process.pid, concurrency: 32, inFlight: 0 }]);
  });

  test("a timeout of 0 sends nothing: the request rejects at once, async or blocking, and its source ends", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair(() => "x");
    let ended = 0;
    async function* source(): AsyncGenerator<string> {
      yield "never";
    }
    const body = source();
    body.return = async () => ({ done: true, value: void ended++ });
    const zero = { timeout: 0 };
    const errors = [
      await rejection<RequestTimeoutError>(bus.request({ path: "/", body }, zero)),
      await rejection<RequestTimeoutError>(bus.borrow({ path: "/" }, zero)),
      await rejection<RequestTimeoutError>(bus.stream({ path: "/" }, zero)),
      await rejection<RequestTimeoutError>((async () => bus.requestSync({ path: "/" }, zero))()),
    ];
    for (const error of errors) {
      expect(error).toBeInstanceOf(RequestTimeoutError);
      expect([error.mayHaveExecuted, error.message]).toEqual([false, expect.stringContaining("0 ms")]);
    }
    const { timeouts, published, unsettledAtEnd } = bus.stats();
    expect([timeouts, published, unsettledAtEnd, worker.served, ended]).toEqual([4, 0, 0, 0, 1]);
    expect((await bus.request({ path: "/" })).text()).toBe("x");
  });

  test("ready, drain and close with a timeout of 0 do not wait", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    expect(await rejection(bus.ready({ timeout: 0 }))).toBeInstanceOf(NotReadyError);
    const held: DeferredAnswer[] = [];
    const worker = await space.worker((request) => void held.push(request.defer()));
    await bus.ready();
    await bus.ready({ timeout: 0 });
    const running = rejection(bus.request({ path: "/" }));
    await until(() => held.length === 1, "it runs");
    await worker.drain({ timeout: 0 });
    await bus.drain({ timeout: 0 });
    await bus.close({ timeout: 0 });
    expect(await running).toBeInstanceOf(ClosedError);
  });

  test("closed is true from the call of close on; drain alone does not set it", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair(() => "x");
    for (const one of [worker, bus]) {
      await one.drain();
      expect(one.closed).toBe(false);
      const closing = one.close();
      expect(one.closed).toBe(true);
      await closing;
      await one.drain({ timeout: 0 });
      expect(await rejection(one.close({ timeuot: 0 } as object))).toBeInstanceOf(InvalidConfigError);
      expect(one.closed).toBe(true);
    }
  });

  test("a worker that does not reconnect is closed when its client has ended", async () => {
    await using space = new Workspace();
    const first = await space.bus();
    const once = await space.worker(() => "x", { reconnect: false });
    const again = await space.worker(() => "x");
    let seen: boolean | null = null;
    once.on("disconnected", () => (seen = once.closed));
    await first.close();
    await until(() => seen !== null && !again.connected, "both have lost it");
    expect([seen, once.closed, again.closed]).toEqual([true, true, false]);
    const second = await space.bus();
    await second.ready();
    expect([again.closed, once.connected]).toEqual([false, false]);
  });

  test("name and options can be read, with defaults filled in", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    expect(bus.name).toBe(space.name);
    const { slots, payloadBytes, headBytes, inlineBytes, timeout, queue } = bus.options;
    expect([slots, payloadBytes, headBytes, inlineBytes, timeout]).toEqual([32, 16_777_216, 131_072, 16_384, 30_000]);
    expect(queue).toEqual({ limit: 1024, policy: "reject" });
  });

  test("a thousand buses and three hundred workers leave no descriptor and no mapping", async () => {
    await using space = new Workspace();
    const cycle = async (): Promise<void> => {
      const bus = await SlotBus.create({ name: space.name, directory: space.directory, payloadBytes: 4096, slots: 2 });
      await bus.close();
    };
    await cycle();
    const before = [descriptors(), mappings()];
    for (let i = 0; i < 1000; i++) await cycle();
    const bus = await space.bus({ payloadBytes: 4096, slots: 2 });
    for (let i = 0; i < 300; i++) {
      const worker = await space.worker(echo);
      await bus.ready();
      expect((await bus.request({ path: "/", body: "x" })).text()).toBe("x");
      await worker.close();
      await until(() => bus.workers.length === 0, "the worker left");
    }
    await bus.close();
    await until(() => descriptors() <= before[0]!, "descriptors are closed");
    expect(mappings()).toBe(before[1]!);
  }, 60_000);
});

describe("sync", () => {
  test("a blocking request is answered by a worker of another process", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("worker.ts");
    for (let i = 0; i < 1000; i++) expect(bus.requestSync({ path: "/", body: `${i}` }).text()).toBe(`${i}`);
    const response = bus.requestSync({ path: "/", body: pattern(100_000) });
    expect([response.headers.get("pid"), same(response.body, pattern(100_000))]).toEqual([String(child.pid), true]);
    expect((await bus.request({ path: "/", body: "async" })).text()).toBe("async");
  });

  test("a blocking request times out, fails at a worker's death, and is refused where it would have to queue", async () => {
    await using space = new Workspace();
    const bus = await space.bus({ slots: 1 });
    expect(() => bus.requestSync({ path: "/" })).toThrow(NoWorkerError);
    const child = space.child("worker.ts");
    await bus.ready();
    let late: unknown = null;
    for (let i = 0; i < 20 && !(late instanceof RequestTimeoutError && late.mayHaveExecuted); i++) {
      try {
        bus.requestSync({ path: "/hang" }, { timeout: 300 }); // on a busy machine the worker may claim it too late
      } catch (error) {
        late = error;
        expect(error).toBeInstanceOf(RequestTimeoutError);
      }
    }
    expect(() => bus.requestSync({ path: "/" })).toThrow(BusOverloadedError);
    expect(() => bus.requestSync({ path: "/" }, { signal: AbortSignal.abort("gone") })).toThrow("gone");
    await child.kill();
    await until(() => bus.workers.length === 0, "the worker died");
    const next = space.child("worker.ts");
    await bus.ready();
    await stop(next);
    setTimeout(() => {}, 0);
    Bun.spawn(["sh", "-c", `sleep 0.1; kill -KILL ${next.pid}`], { stdio: ["ignore", "ignore", "ignore"] });
    const start = performance.now();
    expect(() => bus.requestSync({ path: "/hang" }, { timeout: 10_000 })).toThrow(/died|ended/i);
    expect(performance.now() - start).toBeWithin(50, 2_000);
  });

  test("a blocking request inside a handler of another bus is answered", async () => {
    await using inner = new Workspace();
    await using outer = new Workspace();
    const innerBus = await inner.bus();
    inner.child("worker.ts");
    await innerBus.ready();
    const { bus } = await outer.pair((request) => innerBus.requestSync({ path: "/", body: request.body }).body);
    expect((await bus.request({ path: "/", body: "nested" })).text()).toBe("nested");
  });
});

test("close and drain refuse an invalid timeout, and the bus can still be used and closed", async () => {
  await using space = new Workspace();
  const { bus, worker } = await space.pair((request) => request.path);
  for (const timeout of [NaN, 2 ** 32]) {
    expect(await rejection(bus.close({ timeout }))).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(bus.drain({ timeout }))).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(worker.close({ timeout }))).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(worker.drain({ timeout }))).toBeInstanceOf(InvalidConfigError);
  }
  expect((await bus.request({ path: "/still" })).text()).toBe("/still");
  await worker.close();
  await bus.close();
});

test("a limit above 24 days is not cut to 1 ms", async () => {
  await using space = new Workspace();
  const kept: DeferredAnswer[] = [];
  const { bus } = await space.pair((request) => void kept.push(request.defer()));
  const running = bus.request({ path: "/" });
  await until(() => kept.length === 1, "it runs");
  const draining = bus.drain({ timeout: 3_000_000_000 });
  const turns = Promise.withResolvers<void>();
  setTimeout(turns.resolve, 30);
  await turns.promise;
  expect(Bun.peek.status(draining)).toBe("pending");
  kept[0]!("x");
  await Promise.all([running, draining]);
});

test("with a queue limit of 0, a request that cannot be sent at once is refused", async () => {
  await using space = new Workspace();
  const kept: DeferredAnswer[] = [];
  const { bus } = await space.pair((request) => void kept.push(request.defer()), { slots: 1, queue: { limit: 0 } });
  const running = bus.request({ path: "/" });
  expect((await rejection(bus.request({ path: "/" }))).message).toMatch(
    /is full \(workers: 1, requests running: 1, queued: 0\)/,
  );
  await until(() => kept.length === 1, "it runs");
  kept[0]!("x");
  expect((await running).text()).toBe("x");
});

test("bus names in two directories are two buses", async () => {
  await using one = new Workspace();
  await using two = new Workspace();
  const a = await one.bus({ name: "same" });
  const b = await two.bus({ name: "same" });
  await one.worker(() => "one", { name: "same" });
  await two.worker(() => "two", { name: "same" });
  expect([(await a.request({ path: "/" })).text(), (await b.request({ path: "/" })).text()]).toEqual(["one", "two"]);
});

test("queued requests are sent in the order of their calls, also when some leave the middle of the queue", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const controllers = Array.from({ length: 10 }, () => new AbortController());
  const all = controllers.map(({ signal }, i) => bus.request({ path: `/${i}` }, { signal }));
  const gone = [2, 3, 9, 0].map((i) => {
    controllers[i]!.abort(new Error("left"));
    return rejection(all[i]!);
  });
  expect((await Promise.all(gone)).map(({ message }) => message)).toEqual(Array(4).fill("left"));
  const seen: string[] = [];
  await space.worker((request) => (seen.push(request.path), "x"), { concurrency: 1 });
  await Promise.allSettled(all);
  expect(seen).toEqual(["/1", "/4", "/5", "/6", "/7", "/8"]);
});

test("`await using` closes a bus and a worker", async () => {
  await using space = new Workspace();
  let closed: SlotBus;
  let worker: SlotWorker;
  {
    await using bus = await space.bus();
    await using inner = await space.worker(() => "x");
    expect((await bus.request({ path: "/" })).text()).toBe("x");
    [closed, worker] = [bus, inner];
  }
  expect(await rejection(closed.request({ path: "/" }))).toBeInstanceOf(ClosedError);
  expect(worker.connected).toBe(false);
  await space.bus(); // the name is free
});

test("a create that fails half-way frees its name and descriptors", async () => {
  await using space = new Workspace();
  const before = [descriptors(), mappings()];
  const obstacle = join(space.directory, `${space.name}.new`);
  mkdirSync(obstacle);
  const error = await rejection(space.bus());
  expect(error).toMatchObject({ code: "RESOURCE" });
  expect(error.message).toContain("Cannot listen");
  expect(descriptors()).toBeLessThanOrEqual(before[0]!);
  expect(mappings()).toBe(before[1]!);
  rmdirSync(obstacle);
  const { bus } = await space.pair((request) => request.path);
  expect((await bus.request({ path: "/" })).text()).toBe("/");
});

test("a lock file that is a symbolic link is not followed, and its target is left alone", async () => {
  await using space = new Workspace();
  const target = join(space.directory, "target");
  writeFileSync(target, "mine");
  symlinkSync(target, join(space.directory, `${space.name}.lock`));
  expect(await rejection(space.bus())).toMatchObject({ code: "PERMISSION_DENIED" });
  expect(readFileSync(target, "utf8")).toBe("mine");
  rmSync(join(space.directory, `${space.name}.lock`));
  rmSync(target);
});

test("ready for an invalid number of workers is refused; it would wait for ever", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  for (const workers of [NaN, -1, 1.5, 65, "2" as unknown as number]) {
    const outcome = await Promise.race([
      bus.ready({ workers }).then(
        () => "resolved",
        (error: Error) => error,
      ),
      new Promise((done) => setTimeout(done, 50, "waits")),
    ]);
    expect([workers, outcome instanceof InvalidConfigError]).toEqual([workers, true]);
  }
});

test("a blocking request between queued ones leaves none of them behind", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  space.child("worker.ts");
  space.child("worker.ts");
  await bus.ready({ workers: 2 });
  for (let round = 0; round < 50; round++) {
    const waiting = Array.from({ length: 10 }, (_, i) => bus.request({ path: "/", body: `${round} ${i}` }));
    expect(bus.requestSync({ path: "/", body: "sync" }).text()).toBe("sync");
    const texts = (await Promise.all(waiting)).map((response) => response.text());
    expect(texts).toEqual(Array.from({ length: 10 }, (_, i) => `${round} ${i}`));
  }
  const hanging = rejection(bus.request({ path: "/hang" }, { timeout: 50 }));
  expect(() => bus.requestSync({ path: "/hang" }, { timeout: 300 })).toThrow(RequestTimeoutError);
  expect(await hanging).toBeInstanceOf(RequestTimeoutError);
});

test("code that runs while a request or an answer is encoded may call the bus itself", async () => {
  await using space = new Workspace();
  const inner: Promise<BusResponse>[] = [];
  const ask = (mine: string): void => void inner.push(bus.request({ path: "/inner", headers: { mine } }));
  const { bus } = await space.pair((request) => {
    const headers = { path: request.path, got: request.headers.get("mine") ?? "" };
    if (request.path !== "/nested") return { headers, body: request.body };
    return { headers, json: { toJSON: () => (ask("from the answer"), "nested") } };
  });
  const nested = await bus.request({ path: "/nested", headers: { mine: "outer" } });
  expect([nested.headers.get("got"), nested.headers.get("path"), nested.text()]).toEqual([
    "outer",
    "/nested",
    '"nested"',
  ]);
  const json = { toJSON: () => (ask("from the request"), "json") };
  const outer = await bus.request({ path: "/outer", headers: { mine: "outer" }, json });
  expect([outer.headers.get("got"), outer.headers.get("path"), outer.text()]).toEqual(["outer", "/outer", '"json"']);
  const seen = (await Promise.all(inner)).map(({ headers }) => [headers.get("path"), headers.get("got")]);
  expect(seen).toEqual([
    ["/inner", "from the answer"],
    ["/inner", "from the request"],
  ]);
});

describe("a single worker", () => {
  /** Two workers in their own processes, with their pids. */
  async function two(space: Workspace, options: Partial<SlotBusOptions> = {}) {
    const bus = await space.bus(options);
    const children = [space.child("worker.ts"), space.child("worker.ts")];
    await bus.ready({ workers: 2 });
    return { bus, children, ids: bus.workers.map(({ id }) => id) };
  }

  test("has an id that no other attachment of the bus has, not even its own next one", async () => {
    await using space = new Workspace();
    const { bus, children, ids } = await two(space);
    expect(new Set(ids).size).toBe(2);
    const joined: WorkerInfo[] = [];
    bus.on("joined", (info) => joined.push(info));
    await children[0]!.kill();
    await until(() => bus.workers.length === 1, "one is gone");
    space.child("worker.ts");
    await until(() => joined.length === 1, "another came");
    expect(ids).not.toContain(joined[0]!.id);
    expect(bus.workers.map(({ id }) => id)).toContain(joined[0]!.id);
  });

  test("gets the requests that name it, and the other worker gets none of them", async () => {
    await using space = new Workspace();
    const { bus } = await two(space);
    for (const { id, pid } of bus.workers) {
      const all = Array.from({ length: 20 }, () => bus.request({ path: "/" }, { worker: id }));
      expect(new Set((await Promise.all(all)).map(({ workerPid }) => workerPid))).toEqual(new Set([pid]));
      expect(bus.requestSync({ path: "/" }, { worker: id }).workerPid).toBe(pid);
      const streamed = await bus.stream({ path: "/" }, { worker: id });
      expect(streamed.workerPid).toBe(pid);
      streamed.cancel();
    }
  });

  test("that takes no more: a request for it is rejected as overloaded, even with the other worker free; nothing queues", async () => {
    await using space = new Workspace();
    const { bus, ids } = await two(space, { slots: 1 });
    const [id, other] = ids as [number, number];
    const hanging = rejection(bus.request({ path: "/hang" }, { worker: id, timeout: 300 }));
    const refused = await rejection(bus.request({ path: "/" }, { worker: id }));
    expect(refused).toBeInstanceOf(BusOverloadedError);
    expect((refused as BusOverloadedError).mayHaveExecuted).toBeFalse();
    expect(() => bus.requestSync({ path: "/" }, { worker: id })).toThrow(BusOverloadedError);
    expect(bus.diagnostics().queued).toEqual([]);
    expect((await bus.request({ path: "/" }, { worker: other })).status).toBe(200);
    expect(await hanging).toBeInstanceOf(RequestTimeoutError);
  });

  test("that is not attached: a request for it is rejected at once, even with another worker free and no timeout", async () => {
    await using space = new Workspace();
    const { bus, children, ids } = await two(space);
    const gone = bus.workers.find(({ pid }) => pid === children[0]!.pid)!.id;
    await children[0]!.kill();
    await until(() => bus.workers.length === 1, "one is gone");
    for (const worker of [gone, 0, -1, Math.max(...ids) + 1]) {
      const error = await rejection(bus.request({ path: "/" }, { worker, timeout: Infinity, waitForWorker: true }));
      expect([worker, error instanceof NoWorkerError]).toEqual([worker, true]);
      expect(() => bus.requestSync({ path: "/" }, { worker })).toThrow(NoWorkerError);
    }
    expect(bus.stats().inFlight).toBe(0);
  });

  test("that dies with a request: the request is not given to another worker, idempotent or not", async () => {
    await using space = new Workspace();
    const { bus, children } = await two(space);
    const { id } = bus.workers.find(({ pid }) => pid === children[0]!.pid)!;
    const hanging = rejection(bus.request({ path: "/hang" }, { worker: id, idempotent: true }));
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "CLAIMED"), "it has the request");
    await children[0]!.kill();
    expect(await hanging).toBeInstanceOf(WorkerDiedError);
  });

  test("that dies before it began a request: the request is rejected, though another worker is free", async () => {
    await using space = new Workspace();
    const { bus, children } = await two(space);
    const { id } = bus.workers.find(({ pid }) => pid === children[0]!.pid)!;
    const begun = rejection(bus.request({ path: "/block", query: "20000" }, { worker: id }));
    await children[0]!.line("got /block");
    const waiting = rejection(bus.request({ path: "/waiting" }, { worker: id }));
    await children[0]!.kill();
    expect(await begun).toBeInstanceOf(WorkerDiedError);
    expect(await waiting).toBeInstanceOf(NoWorkerError);
    expect(children[1]!.lines).not.toContain("got /waiting");
  });

  test("that is evicted gets the reason, cut to a message's room; a worker whose bus closes gets none", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    await using worker = await SlotWorker.open({
      name: bus.name,
      directory: space.directory,
      reconnect: { initial: 1 },
    });
    const reasons: SlotbusError[] = [];
    worker.on("disconnected", (reason) => reasons.push(reason));
    worker.serve(() => null);
    for (const why of ["it was slow", `a\u0007b ${"é".repeat(300)}`]) {
      await bus.ready();
      expect(bus.evict(bus.workers[0]!.id, why)).toBeTrue();
      const before = reasons.length;
      await until(() => reasons.length > before, "it hears why");
    }
    await bus.ready();
    await bus.close();
    await until(() => reasons.length === 3, "the close is reported");
    expect(reasons.map(({ code, retryable }) => [code, retryable])).toEqual([
      ["EVICTED", true],
      ["EVICTED", true],
      ["CLOSED", true],
    ]);
    expect(reasons[0]!.message).toBe(`Bus "${bus.name}" evicted this worker: it was slow.`);
    expect(reasons[1]!.message).toBe(`Bus "${bus.name}" evicted this worker: a?b ${"é".repeat(125)}.`);
  });

  test("that is evicted: its requests settle, died gives the reason, the other worker goes on", async () => {
    await using space = new Workspace();
    const { bus, children } = await two(space);
    const left = bus.workers.find(({ pid }) => pid === children[0]!.pid)!;
    const deaths: [WorkerInfo, string][] = [];
    bus.on("died", (...death) => deaths.push(death));
    const hanging = rejection(bus.request({ path: "/hang" }, { worker: left.id, timeout: Infinity }));
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "CLAIMED"), "it has the request");
    expect(bus.evict(left.id, "it was slow")).toBeTrue();
    const error = await hanging;
    expect(error).toBeInstanceOf(WorkerDiedError);
    expect(error.message).toContain(String(left.pid));
    await until(() => deaths.length === 1, "the death is reported");
    expect(deaths[0]![0]).toEqual(left);
    expect(deaths[0]![1]).toContain("it was slow");
    expect(bus.evict(left.id, "again")).toBeFalse();
    expect(bus.evict(-1, "nobody")).toBeFalse();
    const other = bus.workers.find(({ pid }) => pid === children[1]!.pid)!;
    expect((await bus.request({ path: "/" }, { worker: other.id })).workerPid).toBe(other.pid);
    expect([bus.stats().workersEvicted, deaths.length]).toEqual([1, 1]);
    // Its process still runs, and attaches again as a new worker.
    await until(() => bus.workers.length === 2, "it comes back", 20_000);
    const again = bus.workers.find(({ pid }) => pid === left.pid)!;
    expect(again.id).not.toBe(left.id);
    expect((await bus.request({ path: "/" }, { worker: again.id })).workerPid).toBe(left.pid);
  }, 30_000);
});
