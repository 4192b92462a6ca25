/** The worker's side. */

import { describe, expect, test } from "bun:test";
import { channel } from "node:diagnostics_channel";
import { join } from "node:path";
import { z } from "zod";
import {
  type SlotbusError,
  ClosedError,
  BusNotFoundError,
  contract,
  type DeferredAnswer,
  InvalidConfigError,
  PayloadTooLargeError,
  RemoteError,
  rpc,
  stream,
  typed,
  type WorkerRequest,
} from "../src/index.ts";
import { leaves } from "./leaks.ts";
import { pattern, rejection, same, until, Workspace, descriptors } from "./support.ts";

describe("answers", () => {
  test("a handler that throws or rejects: the caller gets name, message and stack, the worker's event gets the error", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair((request) => {
      if (request.path === "/throw") throw new TypeError("thrown");
      if (request.path === "/string") throw "a string";
      return Promise.reject(new RangeError("rejected"));
    });
    const seen: string[] = [];
    worker.on("handlerError", (error, { path }) => seen.push(`${path} ${error}`));
    const thrown = await rejection<RemoteError>(bus.request({ path: "/throw" }));
    expect([thrown.code, thrown.remoteName, thrown.message, thrown.mayHaveExecuted]).toEqual([
      "REMOTE",
      "TypeError",
      "TypeError: thrown",
      true,
    ]);
    expect(thrown.remoteStack).toContain("worker.test.ts");
    expect((await rejection<RemoteError>(bus.request({ path: "/reject" }))).remoteName).toBe("RangeError");
    expect((await rejection<RemoteError>(bus.request({ path: "/string" }))).message).toContain("the string a string");
    await until(() => seen.length === 3, "three errors reported");
    expect(seen[0]).toBe("/throw TypeError: thrown");
    expect(bus.stats().inFlight).toBe(0);
  });

  test("an error longer than the inline size arrives cut, and says so", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(() => {
      throw new Error("é".repeat(100_000));
    });
    const error = await rejection<RemoteError>(bus.request({ path: "/" }));
    expect(error.message.length).toBeWithin(1_000, 10_000);
    expect(error.message).toContain("[cut, 100000 characters]");
  });

  for (const [what, value] of [
    ["a number", 7],
    ["a function", () => {}],
    ["an object of unknown keys", { hello: 1 }],
    ["a class instance", new Map()],
    ["a boolean", true],
    ["an unknown status", { status: 99 }],
    ["a status of 600", { status: 600 }],
  ] as const) {
    test(`a handler that answers with ${what} gets an error that lists the valid answers`, async () => {
      await using space = new Workspace();
      const { bus } = await space.pair(() => value as unknown as string, { slots: 1 });
      const error = await rejection<RemoteError>(bus.request({ path: "/" }));
      expect([error.remoteCode, error.mayHaveExecuted]).toEqual(["INVALID_CONFIG", true]);
      expect(error.message).toMatch(/cannot respond with|it must be 200 to 599/);
      expect(bus.stats().inFlight).toBe(0);
    });
  }

  test("201 with two headers keeps their order, and header errors reach the caller", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => ({
      status: 201,
      contentType: "a/b",
      headers: [
        ["x-second", "2"],
        ["x-first", request.path === "/bad" ? "1\n2" : "1"],
        ["x-second", "3"],
      ],
    }));
    const response = await bus.request({ path: "/" });
    expect([response.status, response.contentType]).toEqual([201, "a/b"]);
    expect(response.headers.entries()).toEqual([
      ["x-second", "2"],
      ["x-first", "1"],
      ["x-second", "3"],
    ]);
    expect((await rejection<RemoteError>(bus.request({ path: "/bad" }))).message).toContain("line break or NUL");
  });

  test("text, bytes, buffers, json, null and Response are valid answers", async () => {
    await using space = new Workspace();
    const answers: Record<string, () => Parameters<WorkerRequest["respond"]>[0] | Response> = {
      "/text": () => "grün",
      "/bytes": () => new Uint8Array([1, 2, 3]),
      "/buffer": () => new Uint8Array([1, 2, 3]).buffer,
      "/view": () => new DataView(new Uint8Array([1, 2, 3]).buffer, 1, 2),
      "/json": () => ({ json: { a: [1] } }),
      "/null": () => null,
      "/response": () => new Response("web", { status: 418, headers: { "content-type": "a/b" } }),
    };
    const { bus } = await space.pair((request) => answers[request.path]!());
    const ask = async (path: string) => {
      const { status, contentType, body } = await bus.request({ path });
      return [status, contentType, Buffer.from(body).toString()];
    };
    expect(await ask("/text")).toEqual([200, "text/plain;charset=utf-8", "grün"]);
    expect(await ask("/bytes")).toEqual([200, "", "\x01\x02\x03"]);
    expect(await ask("/buffer")).toEqual([200, "", "\x01\x02\x03"]);
    expect(await ask("/view")).toEqual([200, "", "\x02\x03"]);
    expect(await ask("/json")).toEqual([200, "application/json", '{"a":[1]}']);
    expect(await ask("/null")).toEqual([204, "", ""]);
    expect(await ask("/response")).toEqual([418, "a/b", "web"]);
  });

  test("an answer 5 ms later from elsewhere arrives, a second one is reported as a duplicate", async () => {
    await using space = new Workspace();
    const deliveries: string[] = [];
    const { bus } = await space.pair((request) => {
      const answer = request.defer();
      setTimeout(() => deliveries.push(answer("later"), answer("again")), 5);
    });
    expect((await bus.request({ path: "/" })).text()).toBe("later");
    expect(deliveries).toEqual(["sent", "duplicate"]);
  });

  test("a second answer never reaches the next request in the slot", async () => {
    await using space = new Workspace();
    const kept: WorkerRequest[] = [];
    const { bus } = await space.pair(
      (request) => {
        kept.push(request);
        for (const old of kept.slice(0, -1)) expect(old.respond("foreign")).toBe("duplicate");
        return request.path;
      },
      { slots: 1 },
    );
    for (let i = 0; i < 20; i++) expect((await bus.request({ path: `/${i}` })).text()).toBe(`/${i}`);
    expect(kept.length).toBe(20);
  });

  test("a dropped deferred answer: when it is collected, its caller gets an error, and so does `handlerError`", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair((request) => void request.defer());
    const heard: unknown[] = [];
    worker.on("handlerError", (error, { path }) => heard.push((error as SlotbusError).code, path));
    const forgotten = rejection<RemoteError>(
      bus.request({ path: "/gone", body: pattern(40_000) }, { timeout: 20_000 }),
    );
    await until(() => {
      Bun.gc(true);
      return Bun.peek.status(forgotten) === "fulfilled";
    }, "the request is collected");
    expect((await forgotten).remoteCode).toBe("NO_ANSWER");
    expect((await forgotten).message).toContain("The deferred answer to /gone was dropped");
    await until(() => heard.length > 0, "the event");
    expect(heard).toEqual(["NO_ANSWER", "/gone"]);
  }, 30_000);

  test("a deferred answer waits as long as its request or its function is referenced, through garbage collections", async () => {
    await using space = new Workspace();
    const kept: { answers: DeferredAnswer[]; requests: WorkerRequest[] } = { answers: [], requests: [] };
    const { bus } = await space.pair((request) => {
      const answer = request.defer();
      if (request.path === "/request") kept.requests.push(request);
      else kept.answers.push(answer);
    });
    const all = ["/request", "/function"].map((path) => bus.request({ path }, { timeout: 20_000 }));
    await until(() => kept.answers.length + kept.requests.length === 2, "both run");
    for (let i = 0; i < 5; i++) {
      Bun.gc(true);
      await new Promise((done) => setImmediate(done));
    }
    expect([kept.requests[0]!.respond("1"), kept.answers[0]!("2")]).toEqual(["sent", "sent"]);
    expect((await Promise.all(all)).map((response) => response.text())).toEqual(["1", "2"]);
  }, 30_000);

  test("an answer that is too large throws where respond is called, and its caller gets an error too", async () => {
    await using space = new Workspace();
    let thrown: unknown;
    const { bus } = await space.pair(
      (request) => {
        try {
          request.respond(new Uint8Array(2_000));
        } catch (error) {
          thrown = error;
        }
        return undefined;
      },
      { payloadBytes: 1_000 },
    );
    expect((await rejection<RemoteError>(bus.request({ path: "/" }))).remoteCode).toBe("PAYLOAD_TOO_LARGE");
    expect(thrown).toBeInstanceOf(PayloadTooLargeError);
  });
});

describe("a handler that returns nothing", () => {
  const nothing: Record<string, (request: WorkerRequest) => Promise<void> | void> = {
    "at once": () => {},
    "in a promise that is settled already": async () => {},
    "in a promise that settles later": async () => void (await Bun.sleep(1)),
    "after it has read its body": (request) => void request.body,
  };
  for (const [how, handler] of Object.entries(nothing)) {
    test(`${how}: its caller, \`handlerError\` and a late answer get the error at once`, async () => {
      await using space = new Workspace();
      const heard: unknown[] = [];
      const kept: WorkerRequest[] = [];
      const { bus, worker } = await space.pair((request) => (kept.push(request), handler(request)), { slots: 1 });
      worker.on("handlerError", (error, about) => heard.push([(error as SlotbusError).code, about]));
      const error = await rejection<RemoteError>(
        bus.request({ path: "/x", id: "7", body: pattern(40_000) }, { timeout: 2_000 }),
      );
      expect([error.remoteCode, error.remoteName, error.mayHaveExecuted]).toEqual(["NO_ANSWER", "SlotbusError", true]);
      expect(error.message).toStartWith(
        "SlotbusError: The handler of /x returned nothing. Return the answer, or call ",
      );
      await until(() => heard.length > 0, "the event");
      expect(heard).toEqual([["NO_ANSWER", { id: "7", path: "/x" }]]);
      expect([kept[0]!.respond("late"), bus.stats().inFlight, worker.running]).toEqual(["duplicate", 0, 0]);
    });
  }

  test("without a listener it is one line on the worker's standard error; other failures print nothing", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "fixtures/worker.ts"), space.name], {
      env: { ...process.env, SLOTBUS_DIR: space.directory },
      stdio: ["ignore", "ignore", "pipe"],
    });
    await bus.ready();
    await rejection(bus.request({ path: "/throw" }));
    expect((await rejection<RemoteError>(bus.request({ path: "/nothing", id: "7" }))).remoteCode).toBe("NO_ANSWER");
    child.kill("SIGTERM");
    const lines = (await child.stderr.text()).trim().split("\n");
    expect(lines).toEqual([
      `worker of bus "${space.name}", request 7: The handler of /nothing returned nothing. ` +
        "Return the answer, or call `request.defer()` first to answer later.",
    ]);
  });

  test("is not a failure after `respond`, `defer`, or the end of its caller", async () => {
    await using space = new Workspace();
    const heard: unknown[] = [];
    const { bus, worker } = await space.pair(
      async (request) => {
        if (request.path === "/respond") request.respond({ status: 202 });
        if (request.path === "/defer") setTimeout(request.defer(), 1, "deferred");
        if (request.path !== "/gone") return;
        await new Promise((resolve) => request.signal.addEventListener("abort", resolve));
      },
      { slots: 1 },
    );
    worker.on("handlerError", (error) => heard.push(error));
    expect((await bus.request({ path: "/respond" })).status).toBe(202);
    expect((await bus.request({ path: "/defer" })).text()).toBe("deferred");
    expect(await rejection(bus.request({ path: "/gone" }, { timeout: 30 }))).toHaveProperty("code", "TIMEOUT");
    await until(() => bus.stats().inFlight === 0, "the slot is back");
    expect((await bus.request({ path: "/respond" })).status).toBe(202);
    expect(heard).toEqual([]);
  });

  test("is a failure of an app with `fetch`, and in the trace of the handler", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const worker = await space.worker();
    worker.serve({ fetch: () => undefined as unknown as Response });
    await bus.ready();
    const traced: unknown[] = [];
    const onError = (message: unknown): void => void traced.push((message as { error: SlotbusError }).error.code);
    expect((await rejection<RemoteError>(bus.request({ path: "/app" }))).remoteCode).toBe("NO_ANSWER");
    const onStart = (): void => {}; // without a subscriber for the start nothing is traced
    channel("tracing:slotbus.handle:start").subscribe(onStart);
    channel("tracing:slotbus.handle:error").subscribe(onError);
    try {
      expect((await rejection<RemoteError>(bus.request({ path: "/app" }))).remoteCode).toBe("NO_ANSWER");
    } finally {
      channel("tracing:slotbus.handle:start").unsubscribe(onStart);
      channel("tracing:slotbus.handle:error").unsubscribe(onError);
    }
    expect(traced).toEqual(["NO_ANSWER"]);
  });

  test("of a typed method is fine without a declared output; with items or an output it is an error", async () => {
    await using space = new Workspace();
    const methods = contract("typed", {
      none: rpc<void, void>(),
      some: rpc({ input: typed<void>(), output: z.string() }),
      list: stream<void, number>(),
    });
    const bus = await space.bus();
    (await space.worker()).implement(methods, {
      none: () => {},
      some: () => undefined as unknown as string,
      list: () => undefined as unknown as number[],
    });
    await bus.ready();
    const client = bus.client(methods);
    expect(await client.none()).toBeUndefined();
    expect(await rejection(client.some())).toHaveProperty("code", "VALIDATION");
    expect((await rejection(client.list().next())).message).toContain(
      "The handler of /typed/list did not return an iterable.",
    );
  });
});

describe("bodies", () => {
  test("a body up to the inline size may be kept", async () => {
    await using space = new Workspace();
    const kept: Uint8Array[] = [];
    const { bus } = await space.pair((request) => (kept.push(request.body), "x"));
    for (let i = 0; i < 10; i++) await bus.request({ path: "/", body: pattern(1_000 + i) });
    for (const [i, body] of kept.entries()) expect(same(body, pattern(1_000 + i))).toBe(true);
  });

  test("a view that outlives its request crashes nothing, then or at the end", async () => {
    await using space = new Workspace();
    let carried: ArrayBuffer | null = null;
    const { bus, worker } = await space.pair((request) => {
      carried = (request.borrow().body.buffer as ArrayBuffer).transfer();
      return "x";
    });
    expect((await bus.request({ path: "/", body: pattern(40_000) })).text()).toBe("x");
    expect((await bus.request({ path: "/", body: pattern(40_000) })).text()).toBe("x");
    await worker.close();
    expect(new Uint8Array(carried!).at(-1)).toBe(0); // its pages were freed, the address space stays
  });

  test("a response written in place arrives whole or in part, and then its memory is detached", async () => {
    await using space = new Workspace();
    let memory: Uint8Array | null = null;
    const { bus } = await space.pair((request) => {
      memory = request.reserve(60_000);
      memory.set(pattern(60_000));
      const part = request.path === "/part" ? memory.subarray(1_000, 3_000) : memory;
      return { headers: { "x-a": "b" }, body: part };
    });
    const whole = await bus.request({ path: "/" });
    expect([whole.headers.get("x-a"), same(whole.body, pattern(60_000)), memory!.length]).toEqual(["b", true, 0]);
    expect(same((await bus.request({ path: "/part" })).body, pattern(60_000).slice(1_000, 3_000))).toBe(true);
  });

  test("at most the payload limit can be reserved", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => (request.reserve(1_001), "x"), { payloadBytes: 1_000 });
    expect((await rejection<RemoteError>(bus.request({ path: "/" }))).remoteCode).toBe("PAYLOAD_TOO_LARGE");
  });
});

describe("life", () => {
  test("without a client open rejects, at once or after the timeout, and names the directory", async () => {
    await using space = new Workspace();
    const error = await rejection<BusNotFoundError>(space.worker(undefined, { timeout: 0 }));
    expect(error).toBeInstanceOf(BusNotFoundError);
    expect(error.message).toContain(space.directory);
    const start = performance.now();
    await rejection(space.worker(undefined, { timeout: 60 }));
    expect(performance.now() - start).toBeWithin(55, 2_000);
  });

  test("a worker that was opened first attaches when the client starts", async () => {
    await using space = new Workspace();
    const opening = space.worker((request) => request.path);
    const bus = await space.bus();
    await opening;
    expect((await bus.request({ path: "/" })).text()).toBe("/");
  });

  test("when the client closes, the worker emits it and attaches to the next client", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair((request) => request.path);
    const events: string[] = [];
    worker.on("disconnected", (reason) => events.push(reason.code));
    worker.on("connected", () => events.push("connected"));
    await bus.close();
    await until(() => events.includes("CLOSED"), "disconnected");
    expect(worker.connected).toBe(false);
    const next = await space.bus();
    expect((await next.request({ path: "/again" })).text()).toBe("/again");
    expect(events.at(-1)).toBe("connected");
  });

  test("with reconnect false it stays detached", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const worker = await space.worker(() => "x", { reconnect: false });
    await bus.ready();
    await bus.close();
    await until(() => !worker.connected, "detached");
    const next = await space.bus();
    expect(await rejection(next.request({ path: "/" }, { timeout: 150 }))).toHaveProperty("code", "NO_WORKER");
  });

  test("close answers running requests first, and the client's published requests are not lost", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const first = await space.worker(async (request) => (await Bun.sleep(20), `first ${request.path}`), {
      concurrency: 2,
    });
    await bus.ready();
    const all = Array.from({ length: 6 }, (_, i) => bus.request({ path: `/${i}` }));
    await until(() => first.running === 2, "two run");
    const closing = first.close();
    await space.worker((request) => `second ${request.path}`);
    await closing;
    const texts = (await Promise.all(all)).map((response) => response.text());
    expect(texts.slice(0, 2)).toEqual(["first /0", "first /1"]);
    expect(texts.slice(2)).toEqual([2, 3, 4, 5].map((i) => `second /${i}`));
    await until(() => bus.workers.length === 1, "the first left");
    expect([bus.stats().workersLeft, bus.stats().workersDied]).toEqual([1, 0]);
  });

  test("close may be called several times; after it serve is refused and answers are reported as closed", async () => {
    await using space = new Workspace();
    let kept: WorkerRequest | null = null;
    const { bus, worker } = await space.pair((request) => {
      kept = request;
      request.defer();
    });
    const lost = rejection(bus.request({ path: "/" }));
    await until(() => kept !== null, "the handler runs");
    await Promise.all([worker.close({ timeout: 0 }), worker.close()]);
    expect(await lost).toHaveProperty("code", "WORKER_DIED");
    expect([kept!.respond("x"), kept!.aborted, kept!.signal.aborted, kept!.body.length]).toEqual([
      "closed",
      true,
      true,
      0,
    ]);
    expect(() => worker.serve(() => "x")).toThrow(ClosedError);
    expect(() => worker.serveSync(() => "x")).toThrow(ClosedError);
  });

  test("SIGTERM, when asked for, lets the running handler finish and then ends the process as it would have", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("worker.ts");
    const running = bus.request({ path: "/slow", query: "200", body: "finished" });
    await child.line("got /slow");
    child.process.kill("SIGTERM");
    expect((await running).text()).toBe("finished");
    await child.process.exited;
    expect([child.process.signalCode, bus.stats().workersLeft]).toEqual(["SIGTERM", 1]);
  });

  test("invalid options are refused", async () => {
    await using space = new Workspace();
    await space.bus();
    for (const options of [
      { concurrency: 0 },
      { concurrency: 257 },
      { concurrency: 1.5 },
      { timeout: -1 },
      { spin: -1 },
      { reconnect: { initial: 0 } },
      { wait: 5 } as object,
      { reconnect: { initial: 10, max: 5 } },
    ]) {
      expect(await rejection(space.worker(undefined, options))).toBeInstanceOf(InvalidConfigError);
    }
    const worker = await space.worker();
    expect(() => worker.serve(7 as unknown as () => string)).toThrow(InvalidConfigError);
  });

  test("requests wait in the slots of a worker that does not serve yet", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const worker = await space.worker();
    await bus.ready();
    const waiting = bus.request({ path: "/waits" });
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "READY"), "it is published");
    worker.serve((request) => request.path);
    expect((await waiting).text()).toBe("/waits");
  });

  test("a handler may call another worker on the same bus", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async (request) => {
      if (request.path === "/inner") return "inner";
      return `outer ${(await bus.request({ path: "/inner" })).text()}`;
    });
    expect((await bus.request({ path: "/" })).text()).toBe("outer inner");
  });

  test("a worker runs in a Bun Worker thread", async () => {
    leaves(/mapping/); // no code of a terminated thread runs, so nothing unmaps its region
    await using space = new Workspace();
    const bus = await space.bus();
    const code = `
      import { SlotWorker } from ${JSON.stringify(new URL("../src/index.ts", import.meta.url).pathname)};
      const worker = await SlotWorker.open({ name: ${JSON.stringify(space.name)}, directory: ${JSON.stringify(space.directory)} });
      worker.serve((request) => "thread " + request.text());`;
    const thread = new Worker(URL.createObjectURL(new Blob([code], { type: "application/typescript" })));
    await bus.ready();
    for (let i = 0; i < 100; i++) expect((await bus.request({ path: "/", body: `${i}` })).text()).toBe(`thread ${i}`);
    const ended = new Promise((resolve) => thread.addEventListener("close", resolve));
    thread.terminate();
    await ended;
    await until(() => bus.workers.length === 0, "the thread's worker is gone");
  });
});

describe("serveSync", () => {
  test("a blocking worker answers, reports what it throws, and ends with its client", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("sync-worker.ts");
    for (let i = 0; i < 300; i++) {
      expect((await bus.request({ path: "/", body: `${i}` })).json<unknown>()).toEqual({
        pid: child.pid,
        body: `${i}`,
      });
    }
    expect((await rejection<RemoteError>(bus.request({ path: "/throw" }))).remoteName).toBe("TypeError");
    expect(await rejection(bus.request({ path: "/hang" }, { timeout: 500 }))).toHaveProperty("code", "TIMEOUT");
    await child.line("aborted"); // `request.aborted` reads the word itself: no event loop runs there
    expect((await bus.request({ path: "/" })).status).toBe(200);
    await bus.close();
    await child.line("ended");
    expect(await child.process.exited).toBe(0);
  });

  test("a blocking handler that returns nothing fails at once with handlerError; a later call answers its deferred requests", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("sync-worker.ts");
    expect((await rejection<RemoteError>(bus.request({ path: "/nothing" }))).remoteCode).toBe("NO_ANSWER");
    await child.line("handlerError The handler of /nothing returned nothing.");
    const deferred = Array.from({ length: 3 }, () => bus.request({ path: "/defer" }));
    await until(
      () => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === 3,
      "three are deferred",
    );
    expect((await bus.request({ path: "/answer" })).text()).toBe("now");
    expect((await Promise.all(deferred)).map((response) => response.text())).toEqual(Array(3).fill("deferred"));
  });

  test("a blocking worker is woken after a pause longer than any spin or futex slice", async () => {
    await using space = new Workspace();
    const { bus } = await space.remote("sync-worker.ts");
    let woken = 0;
    for (let i = 0; i < 10; i++) {
      await Bun.sleep(30 + i);
      const { bells } = bus.stats();
      const start = performance.now();
      await bus.request({ path: "/" });
      expect(performance.now() - start).toBeLessThan(2_000);
      woken += bus.stats().bells - bells;
    }
    expect(woken).toBeWithin(6, 11); // it slept in most pauses: it needed a bell
  });

  test("close inside the handler ends the loop", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("sync-worker.ts");
    expect((await bus.request({ path: "/stop" })).status).toBe(200);
    await child.line("ended");
    expect(await child.process.exited).toBe(0);
    await until(() => bus.workers.length === 0, "it left");
    expect(bus.stats().workersLeft).toBe(1);
  });
});

test("timeout: Infinity waits for the client without a limit", async () => {
  await using space = new Workspace();
  const opening = space.worker((request) => request.path, { timeout: Infinity });
  const outcome = opening.then(
    () => "attached",
    (error: Error) => error.message,
  );
  const turns = Promise.withResolvers<void>();
  setTimeout(turns.resolve, 50);
  await turns.promise;
  const bus = await space.bus();
  expect(await outcome).toBe("attached");
  expect((await bus.request({ path: "/" })).text()).toBe("/");
});

test("a worker that serves only after its client has ended attaches to the next one", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const worker = await space.worker();
  await bus.ready();
  await bus.close();
  const next = await space.bus();
  worker.serve((request) => request.path);
  expect((await next.request({ path: "/next" })).text()).toBe("/next");
});

test("when a handler is replaced while requests run, they end with the old one", async () => {
  await using space = new Workspace();
  const kept: DeferredAnswer[] = [];
  const { bus, worker } = await space.pair((request) => void kept.push(request.defer()));
  const old = bus.request({ path: "/" });
  await until(() => kept.length === 1, "the old one has it");
  worker.serve(() => "new", { replace: true });
  expect((await bus.request({ path: "/" })).text()).toBe("new");
  kept[0]!("old");
  expect((await old).text()).toBe("old");
});

test("a second serve is refused unless it replaces explicitly; a contract's handlers do not count", async () => {
  await using space = new Workspace();
  const { bus, worker } = await space.pair(() => "first");
  expect(() => worker.serve(() => "second")).toThrow(InvalidConfigError);
  expect(() => worker.serve({ fetch: () => new Response("second") })).toThrow("already has a handler");
  worker.implement(contract("demo", {}), {});
  expect(() => worker.serve(() => "second")).toThrow(InvalidConfigError);
  expect((await bus.request({ path: "/" })).text()).toBe("first");
  const other = await space.worker();
  other.implement(contract("demo", {}), {});
  other.serve(() => "first");
  expect(() => other.serve(() => "second")).toThrow(InvalidConfigError);
  other.serve(() => "third", { replace: true });
  await worker.close();
  expect((await bus.request({ path: "/" })).text()).toBe("third");
});

test("a worker that is closed while it has no client stops looking for a client, and leaves no descriptor", async () => {
  await using space = new Workspace();
  const before = descriptors();
  const bus = await space.bus();
  const workers = await Promise.all(
    Array.from({ length: 5 }, () => space.worker(() => "x", { reconnect: { initial: 1, max: 5 } })),
  );
  await bus.ready({ workers: 5 });
  await bus.close();
  await until(() => workers.every(({ connected }) => !connected), "all are detached");
  await Promise.all(workers.map((worker) => worker.close()));
  const next = await space.bus();
  expect(await rejection(next.request({ path: "/" }, { timeout: 100 }))).toHaveProperty("code", "NO_WORKER");
  await next.close();
  await until(() => descriptors() <= before, "all descriptors are closed");
});

test("drain of a worker: it gets no new requests, running ones are answered, and the others take over", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const kept: DeferredAnswer[] = [];
  const draining = await space.worker((request) => void kept.push(request.defer()), { concurrency: 2 });
  await bus.ready();
  const running = bus.request({ path: "/" });
  await until(() => kept.length === 1, "it runs");
  const drained = draining.drain();
  await space.worker(() => "other");
  await bus.ready({ workers: 2 });
  for (let i = 0; i < 50; i++) expect((await bus.request({ path: "/" })).text()).toBe("other");
  expect(Bun.peek.status(drained)).toBe("pending");
  kept[0]!("drained");
  expect((await running).text()).toBe("drained");
  await drained;
  expect([kept.length, draining.running, draining.connected]).toEqual([1, 0, true]);
});

test("a blocking worker with reconnect attaches to the next client by itself", async () => {
  await using space = new Workspace();
  const first = await space.bus();
  const child = space.child("sync-worker.ts", "reconnect");
  await first.ready();
  expect((await first.request({ path: "/", body: "1" })).json<{ pid: number }>().pid).toBe(child.pid);
  await first.close();
  for (let life = 0; life < 3; life++) {
    const next = await space.bus();
    expect((await next.request({ path: "/", body: "2" })).json<{ pid: number }>().pid).toBe(child.pid);
    await next.close();
  }
  expect(child.process.exitCode).toBeNull();
});

test("the first attachment emits `connected`, like every later one", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  let connected = 0;
  const worker = await space.worker(() => "x");
  worker.on("connected", () => connected++);
  expect((await bus.request({ path: "/" })).text()).toBe("x");
  await until(() => connected > 0, "the event", 500);
  expect(connected).toBe(1);
});
