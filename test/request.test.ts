/** A request on both sides: what is refused before it is sent, what a handler sees, what it may keep. */

import { describe, expect, test } from "bun:test";
import {
  type BusRequest,
  InvalidConfigError,
  RemoteError,
  RequestTimeoutError,
  type WorkerRequest,
} from "../src/index.ts";
import { answered, thrown } from "./fixtures/odd.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";

describe("what cannot be sent", () => {
  const wrong: [string, object][] = [
    ["an id that is a number", { path: "/", id: 7 }],
    ["a pattern that is a number", { path: "/", pattern: 7 }],
    ["a header of a record that is a number", { path: "/", headers: { a: 7 } }],
    ["a header of a record that is null", { path: "/", headers: { a: null } }],
    ["a header pair without a value", { path: "/", headers: [["a"]] }],
    ["a header pair that is null", { path: "/", headers: [null] }],
    ["headers that are a number", { path: "/", headers: 7 }],
    ["headers that are a text", { path: "/", headers: "a: b" }],
    ["a method that is a number", { path: "/", method: 7 }],
    ["an id with a line break", { path: "/", id: "a\nb" }],
    ["a query with a NUL", { path: "/", query: "a\0b" }],
    ["a parameter with a line break", { path: "/", params: { a: "b\rc" } }],
    ["a parameter's name with a line break", { path: "/", params: { "a\nb": "c" } }],
    ["a pattern with a line break", { path: "/", pattern: "/\n" }],
    ["a body that is a Date", { path: "/", body: new Date() }],
    ["json that contains a bigint", { path: "/", json: { a: 1n } }],
  ];
  for (const [what, request] of wrong) {
    test(`${what}: the call is refused with its name, no handler runs, and worker and slot are unchanged`, async () => {
      await using space = new Workspace();
      let calls = 0;
      const { bus } = await space.pair(() => String(++calls), { slots: 1, timeout: 5_000 });
      const error = await rejection(bus.request(request as BusRequest));
      if (what.startsWith("json")) expect(error).toBeInstanceOf(TypeError);
      else expect(error).toBeInstanceOf(InvalidConfigError);
      expect([calls, bus.stats().inFlight, bus.workers.length]).toEqual([0, 0, 1]);
      expect((await bus.request({ path: "/" })).text()).toBe("1");
      expect(bus.stats().workersEvicted + bus.stats().workersDied).toBe(0);
    });
  }
});

describe("what arrives", () => {
  test("json arrives both ways, and values that JSON omits are an empty body", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => {
      if (request.path === "/empty") return String(request.body.length);
      return { json: { back: request.json<unknown>(), method: request.method } };
    });
    const value = { a: [1, "zwei", null, { "drei/3": true }] };
    const response = await bus.request({ path: "/", json: value });
    expect(response.contentType).toBe("application/json");
    expect(response.json<unknown>()).toEqual({ back: value, method: "POST" });
    expect((await bus.request({ path: "/empty", json: () => 1 })).text()).toBe("0");
    expect((await bus.request({ path: "/", json: null })).json<unknown>()).toEqual({ back: null, method: "POST" });
  });

  test("a body that is not JSON makes `json()` throw in the handler, and the caller gets that error", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ json: request.json<unknown>() }));
    const error = await rejection<RemoteError>(bus.request({ path: "/", body: "{" }));
    expect([error.remoteName, error.remoteCode]).toEqual(["SyntaxError", "HANDLER_FAILED"]);
  });

  test("bytes of every kind of body arrive: text, array, buffer, view into the middle of a buffer", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => request.body);
    const bytes = pattern(100);
    for (const body of [bytes, bytes.slice().buffer, new DataView(bytes.slice().buffer), Buffer.from(bytes)]) {
      expect(same((await bus.request({ path: "/", body })).body, bytes)).toBe(true);
    }
    expect(same((await bus.request({ path: "/", body: bytes.subarray(10, 30) })).body, bytes.slice(10, 30))).toBe(true);
    expect((await bus.request({ path: "/", body: "äöü 日本 🎉" })).text()).toBe("äöü 日本 🎉");
  });

  test("a URLSearchParams query arrives as its text, and no query as null", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => `[${request.query}]`);
    const query = new URLSearchParams({ a: "b c", d: "é" });
    expect((await bus.request({ path: "/", query })).text()).toBe(`[${query}]`);
    expect((await bus.request({ path: "/" })).text()).toBe("[]");
  });

  test("parameters named like members of an object are ordinary parameters", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({
      json: [Object.entries(request.params), "hasOwnProperty" in request.params],
    }));
    const params = JSON.parse('{"__proto__":"a","constructor":"b","":"c"}') as Record<string, string>;
    const seen = (await bus.request({ path: "/", params })).json<[[string, string][], boolean]>();
    expect(seen[0]).toEqual([
      ["__proto__", "a"],
      ["constructor", "b"],
      ["", "c"],
    ]);
    expect(seen[1]).toBe(false);
  });

  test("ten headers with duplicates keep their order both ways", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({ headers: request.headers }));
    const headers = Array.from({ length: 10 }, (_, i): [string, string] => [`X-${i % 4}`, `value ${i}`]);
    const response = await bus.request({ path: "/", headers });
    expect(response.headers.entries()).toEqual(headers);
    expect(response.headers.getAll("x-1")).toEqual(["value 1", "value 5", "value 9"]);
  });

  test("two requests that differ only in one character stay different", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((r) => [r.path, r.query, r.id, r.headers.get("h"), r.params["p"]].join(" "));
    for (let i = 0; i < 200; i++) {
      const [a, b, c, d, e] = Array.from({ length: 5 }, (_, n) => (i >> n) & 1);
      const request = { path: `/${a}`, query: `${b}`, id: `${c}`, headers: { h: `${d}` }, params: { p: `${e}` } };
      expect((await bus.request(request)).text()).toBe(`/${a} ${b} ${c} ${d} ${e}`);
    }
  });
});

describe("views", () => {
  test("a body of exactly the inline size may be kept, and so may one with a byte more", async () => {
    await using space = new Workspace();
    const kept: Uint8Array[] = [];
    const { bus } = await space.pair((request) => (kept.push(request.body), String(request.body.length)), {
      slots: 1,
      inlineBytes: 8_192,
    });
    const limit = bus.options.inlineBytes;
    expect(limit).toBe(8_192);
    for (const bytes of [limit - 100, limit, limit + 1]) {
      expect((await bus.request({ path: "/", body: pattern(bytes) })).text()).toBe(String(bytes));
    }
    await bus.request({ path: "/", body: new Uint8Array(limit) }); // the only slot now holds another request
    expect(kept.slice(0, 3).map((body) => same(body, pattern(body.length)))).toEqual([true, true, true]);
    expect(kept.map(({ length }) => length)).toEqual([limit - 100, limit, limit + 1, limit]);
  });

  test("a body that is first read after the answer is whole, a late reservation is empty", async () => {
    await using space = new Workspace();
    const lengths: number[] = [];
    const { bus } = await space.pair((request) => {
      request.respond("early");
      lengths.push(request.body.length, request.reserve(10).length);
      return undefined;
    });
    expect((await bus.request({ path: "/", body: pattern(40_000) })).text()).toBe("early");
    expect(lengths).toEqual([40_000, 0]);
  });

  test("a view of an aborted request stays whole while its handler runs, with other requests meanwhile", async () => {
    await using space = new Workspace();
    let view: Uint8Array | null = null;
    const { promise: gate, resolve: open } = Promise.withResolvers<void>();
    const { bus, worker } = await space.pair(
      async (request) => {
        if (request.path !== "/slow") return "x";
        view = request.borrow().body;
        await gate;
        return same(view, pattern(40_000)) ? "whole" : "torn";
      },
      { slots: 2 },
    );
    const controller = new AbortController();
    const slow = rejection(bus.request({ path: "/slow", body: pattern(40_000) }, { signal: controller.signal }));
    await until(() => view !== null, "the handler holds the view");
    controller.abort(new Error("enough"));
    expect((await slow).message).toBe("enough");
    for (let i = 0; i < 50; i++) await bus.request({ path: "/", body: new Uint8Array(40_000).fill(i) });
    expect(bus.diagnostics().slots.filter(({ state }) => state === "ABANDONED").length).toBe(1);
    expect(same(view!, pattern(40_000))).toBe(true);
    open();
    await until(() => bus.stats().inFlight === 0, "the quarantine ends with the handler");
    expect([view!.length, worker.running]).toEqual([0, 0]);
  });

  test("a response written in place of exactly the payload limit arrives whole, with a head of 100 KiB", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(
      (request) => {
        const memory = request.reserve(1_000_000);
        memory.set(pattern(1_000_000));
        return { headers: { a: "h".repeat(100 * 1024) }, body: memory };
      },
      { payloadBytes: 1_000_000 },
    );
    const response = await bus.request({ path: "/" });
    expect([response.headers.get("a")!.length, same(response.body, pattern(1_000_000))]).toEqual([102_400, true]);
  });

  test("a handler that reserves and answers with something else sends that, even if it overlaps the reservation", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => {
      const memory = request.reserve(50_000);
      memory.set(pattern(50_000));
      if (request.path === "/text") return "other";
      return new DataView(memory.buffer as ArrayBuffer, 10, 40_000); // not a Uint8Array: copied
    });
    expect((await bus.request({ path: "/text" })).text()).toBe("other");
    expect(same((await bus.request({ path: "/view" })).body, pattern(50_000).slice(10, 40_010))).toBe(true);
  });
});

describe("aborts and timeouts", () => {
  test("the handler's signal gives the reason, and `aborted` is true in a handler that blocks", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("sync-worker.ts");
    const hang = () => rejection<RequestTimeoutError>(bus.request({ path: "/hang" }, { timeout: 40 }));
    let error = await hang();
    while (error instanceof RequestTimeoutError && !error.mayHaveExecuted) error = await hang(); // no handler saw it
    expect(error).toBeInstanceOf(RequestTimeoutError);
    await child.line("aborted"); // its event loop never ran

    let request: WorkerRequest | null = null;
    await using other = new Workspace();
    const pair = await other.pair((given) => void (request = given).defer());
    const controller = new AbortController();
    const gone = rejection(pair.bus.request({ path: "/" }, { signal: controller.signal }));
    await until(() => request !== null, "the handler runs");
    expect([request!.aborted, request!.signal.aborted]).toEqual([false, false]);
    controller.abort();
    expect((await gone).name).toBe("AbortError");
    expect([request!.aborted, request!.signal.aborted]).toEqual([true, true]); // before any message arrived
    expect((request!.signal.reason as Error).message).toContain("The caller gave up");
    expect(request!.defer()("x")).toBe("late");
  });

  test("the signal of an answered request does not abort when its worker closes", async () => {
    await using space = new Workspace();
    const kept: WorkerRequest[] = [];
    const { bus, worker } = await space.pair((request) => (kept.push(request), "x"));
    await bus.request({ path: "/" });
    expect([kept[0]!.aborted, kept[0]!.signal.aborted, kept[0]!.answered]).toEqual([false, false, true]);
    await worker.close();
    expect(kept[0]!.signal.aborted).toBe(false); // it was answered: nothing to abort
  });

  test("AbortSignal.timeout ends a request with its own TimeoutError, not ours", async () => {
    await using space = new Workspace();
    const kept: WorkerRequest[] = [];
    const { bus } = await space.pair((request) => (kept.push(request), void request.defer()));
    const error = await rejection(bus.request({ path: "/" }, { signal: AbortSignal.timeout(30), timeout: 5_000 }));
    expect(error.name).toBe("TimeoutError");
    expect(error).not.toBeInstanceOf(RequestTimeoutError);
    expect(bus.stats().aborts).toBe(1);
  });
});

describe("unusual handlers", () => {
  /** Each failure reaches its caller, and the one worker process goes on. */
  async function isTold(what: string, ways: string[]): Promise<void> {
    await using space = new Workspace();
    const { bus } = await space.remote("odd-worker.ts", { slots: 1, timeout: 4_000 });
    for (const way of ways) {
      const error = await rejection<RemoteError>(bus.request({ path: `/${way}/${what}` }));
      expect(`${way}: ${error.name} ${error.message}`).toStartWith(`${way}: RemoteError`);
      expect(error.mayHaveExecuted).toBe(true);
    }
    expect((await bus.request({ path: "/" })).text()).toBe("fine");
    expect([bus.stats().inFlight, bus.stats().errors, bus.stats().workersJoined]).toEqual([0, ways.length, 1]);
  }

  for (const what of Object.keys(thrown)) {
    test(`it throws or rejects with ${what}: its caller gets an error and its worker goes on`, async () => {
      await isTold(what, ["throw", "reject"]);
    }, 20_000);
  }

  for (const what of Object.keys(answered)) {
    test(`it answers with ${what}, at once or later: its caller gets an error and its worker goes on`, async () => {
      // A promise would become the thenable, and never settle.
      await isTold(what, what.startsWith("a thenable") ? ["answer"] : ["answer", "later"]);
    }, 20_000);
  }

  test("a throwing handler returns its slot: after two hundred failures every slot is free", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair(
      (request) => {
        if (Number(request.query) % 2) throw new Error("no");
        return "x";
      },
      { slots: 3 },
    );
    const all = await Promise.allSettled(
      Array.from({ length: 400 }, (_, i) => bus.request({ path: "/", query: String(i) })),
    );
    expect(all.filter(({ status }) => status === "rejected").length).toBe(200);
    expect([bus.stats().errors, bus.stats().inFlight, worker.running]).toEqual([200, 0, 0]);
  });
});
