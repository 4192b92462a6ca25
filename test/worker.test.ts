/** The worker's side. */

import { describe, expect, test } from "bun:test";
import {
  BusClosedError,
  BusNotFoundError,
  contract,
  InvalidConfigError,
  PayloadTooLargeError,
  RemoteError,
  type WorkerRequest,
} from "../src/index.ts";
import { pattern, rejection, same, until, Workspace, descriptors } from "./support.ts";

describe("answers", () => {
  test("a handler that throws or rejects: the caller gets name, message and stack, the worker's event the error", async () => {
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
    ["a status that is none", { status: 99 }],
    ["a status of 600", { status: 600 }],
  ] as const) {
    test(`a handler that answers with ${what} is told what it may answer with`, async () => {
      await using space = new Workspace();
      const { bus } = await space.pair(() => value as unknown as string, { slots: 1 });
      const error = await rejection<RemoteError>(bus.request({ path: "/" }));
      expect([error.remoteCode, error.mayHaveExecuted]).toEqual(["INVALID_CONFIG", true]);
      expect(error.message).toMatch(/cannot answer with|it must be 200 to 599/);
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

  test("text, bytes, buffers, json, null and Response are answers", async () => {
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

  test("an answer 5 ms later from elsewhere arrives, a second one is told that it is a duplicate", async () => {
    await using space = new Workspace();
    const deliveries: string[] = [];
    const { bus } = await space.pair((request) => {
      setTimeout(() => deliveries.push(request.respond("later"), request.respond("again")), 5);
      return undefined;
    });
    expect((await bus.request({ path: "/" })).text()).toBe("later");
    expect(deliveries).toEqual(["sent", "duplicate"]);
  });

  test("a second answer never reaches the request that has the slot by then", async () => {
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

  test("a handler that lets go of its request without an answer: the caller is told when it is collected", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(() => undefined);
    const forgotten = rejection<RemoteError>(bus.request({ path: "/" }, { timeout: 20_000 }));
    await until(() => {
      Bun.gc(true);
      return Bun.peek.status(forgotten) === "fulfilled";
    }, "the request is collected");
    expect((await forgotten).message).toContain("let go of the request");
  }, 30_000);

  test("what is too large is thrown where respond is called, and the caller hears too", async () => {
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
      { payloadLimit: 1_000 },
    );
    expect((await rejection<RemoteError>(bus.request({ path: "/" }))).remoteCode).toBe("PAYLOAD_TOO_LARGE");
    expect(thrown).toBeInstanceOf(PayloadTooLargeError);
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

  test("a larger body is a view that is taken away with the answer", async () => {
    await using space = new Workspace();
    let view: Uint8Array | null = null;
    let request: WorkerRequest | null = null;
    const { bus } = await space.pair(async (given) => {
      request = given;
      view = given.body;
      expect(same(view, pattern(40_000))).toBe(true);
      await Bun.sleep(1);
      expect(view.length).toBe(40_000);
      return "x";
    });
    await bus.request({ path: "/", body: pattern(40_000) });
    expect([view!.length, request!.body.length]).toEqual([0, 0]);
  });

  test("a view that was carried away crashes nothing, then or at the end", async () => {
    await using space = new Workspace();
    let carried: ArrayBuffer | null = null;
    const { bus, worker } = await space.pair((request) => {
      carried = (request.body.buffer as ArrayBuffer).transfer();
      return "x";
    });
    expect((await bus.request({ path: "/", body: pattern(40_000) })).text()).toBe("x");
    expect((await bus.request({ path: "/", body: pattern(40_000) })).text()).toBe("x");
    await worker.close();
    expect(new Uint8Array(carried!).at(-1)).toBe(0); // its pages were given back, the address space stays
  });

  test("a response written in place arrives whole or in part, and its memory is taken away", async () => {
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

  test("no more can be reserved than the payload limit", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => (request.reserve(1_001), "x"), { payloadLimit: 1_000 });
    expect((await rejection<RemoteError>(bus.request({ path: "/" }))).remoteCode).toBe("PAYLOAD_TOO_LARGE");
  });
});

describe("life", () => {
  test("without a hub open rejects, at once or after the wait, and names the directory", async () => {
    await using space = new Workspace();
    const error = await rejection<BusNotFoundError>(space.worker(undefined, { wait: 0 }));
    expect(error).toBeInstanceOf(BusNotFoundError);
    expect(error.message).toContain(space.directory);
    const start = performance.now();
    await rejection(space.worker(undefined, { wait: 60 }));
    expect(performance.now() - start).toBeWithin(55, 2_000);
  });

  test("a worker that was opened first attaches when the hub comes", async () => {
    await using space = new Workspace();
    const opening = space.worker((request) => request.path);
    const bus = await space.bus();
    await opening;
    expect((await bus.request({ path: "/" })).text()).toBe("/");
  });

  test("when the hub closes the worker says so and attaches to the next one", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair((request) => request.path);
    const events: string[] = [];
    worker.on("disconnected", (reason) => events.push(reason.code));
    worker.on("connected", () => events.push("connected"));
    await bus.close();
    await until(() => events.includes("BUS_CLOSED"), "disconnected");
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

  test("close answers what runs first, and what the hub had published is not lost", async () => {
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

  test("close any number of times; after it serve is refused and answers are told that it is closed", async () => {
    await using space = new Workspace();
    let kept: WorkerRequest | null = null;
    const { bus, worker } = await space.pair((request) => {
      kept = request;
      return undefined;
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
    expect(() => worker.serve(() => "x")).toThrow(BusClosedError);
    expect(() => worker.serveSync(() => "x")).toThrow(BusClosedError);
  });

  test("SIGTERM, when asked for, lets the running handler finish and then ends the process as it would have", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = space.child("worker.ts");
    await bus.ready();
    const running = bus.request({ path: "/slow", query: "200", body: "finished" });
    await child.line("got /slow");
    child.process.kill("SIGTERM");
    expect((await running).text()).toBe("finished");
    await child.process.exited;
    expect([child.process.signalCode, bus.stats().workersLeft]).toEqual(["SIGTERM", 1]);
  });

  test("options that are none are refused", async () => {
    await using space = new Workspace();
    await space.bus();
    for (const options of [
      { concurrency: 0 },
      { concurrency: 257 },
      { concurrency: 1.5 },
      { wait: -1 },
      { spin: -1 },
      { reconnect: { min: 0 } },
      { reconnect: { min: 10, max: 5 } },
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

  test("a handler may ask the same bus for another worker's answer", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async (request) => {
      if (request.path === "/inner") return "inner";
      return `outer ${(await bus.request({ path: "/inner" })).text()}`;
    });
    expect((await bus.request({ path: "/" })).text()).toBe("outer inner");
  });

  test("a worker runs in a Bun Worker thread", async () => {
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
  test("a blocking worker answers, reports what it throws, and ends with its hub", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = space.child("sync-worker.ts");
    await bus.ready();
    for (let i = 0; i < 300; i++) {
      expect((await bus.request({ path: "/", body: `${i}` })).json<unknown>()).toEqual({
        pid: child.pid,
        body: `${i}`,
      });
    }
    expect((await rejection<RemoteError>(bus.request({ path: "/throw" }))).remoteName).toBe("TypeError");
    expect(await rejection(bus.request({ path: "/hang" }, { timeout: 50 }))).toHaveProperty("code", "TIMEOUT");
    await child.line("aborted"); // `request.aborted` is the word itself: no event loop runs there
    expect((await bus.request({ path: "/" })).status).toBe(200);
    await bus.close();
    await child.line("ended");
    expect(await child.process.exited).toBe(0);
  });

  test("a blocking worker is woken after a pause longer than any spin or futex slice", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    space.child("sync-worker.ts");
    await bus.ready();
    for (let i = 0; i < 10; i++) {
      await Bun.sleep(30 + i);
      const { bells } = bus.stats();
      const start = performance.now();
      await bus.request({ path: "/" });
      expect(performance.now() - start).toBeLessThan(500);
      expect(bus.stats().bells).toBe(bells + 1); // it slept: it had to be rung for
    }
  });

  test("close inside the handler ends the loop", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = space.child("sync-worker.ts");
    await bus.ready();
    expect((await bus.request({ path: "/stop" })).status).toBe(200);
    await child.line("ended");
    expect(await child.process.exited).toBe(0);
    await until(() => bus.workers.length === 0, "it left");
    expect(bus.stats().workersLeft).toBe(1);
  });
});

test("wait: Infinity waits for the hub for as long as it takes", async () => {
  await using space = new Workspace();
  const opening = space.worker((request) => request.path, { wait: Infinity });
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

test("a worker that serves only after its hub has ended attaches to the next one", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const worker = await space.worker();
  await bus.ready();
  await bus.close();
  const next = await space.bus();
  worker.serve((request) => request.path);
  expect((await next.request({ path: "/next" })).text()).toBe("/next");
});

test("a handler that is replaced while requests run: those that run end with the old one", async () => {
  await using space = new Workspace();
  const kept: WorkerRequest[] = [];
  const { bus, worker } = await space.pair((request) => void kept.push(request));
  const old = bus.request({ path: "/" });
  await until(() => kept.length === 1, "the old one has it");
  worker.serve(() => "new", { replace: true });
  expect((await bus.request({ path: "/" })).text()).toBe("new");
  kept[0]!.respond("old");
  expect((await old).text()).toBe("old");
});

test("a second serve is refused unless it says that it replaces; a contract's handlers do not count", async () => {
  await using space = new Workspace();
  const { bus, worker } = await space.pair(() => "first");
  expect(() => worker.serve(() => "second")).toThrow(InvalidConfigError);
  expect(() => worker.serve({ fetch: () => new Response("second") })).toThrow("has a handler already");
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

test("a worker closed while it has no hub stops looking for one, and leaves no descriptor", async () => {
  await using space = new Workspace();
  const before = descriptors();
  const bus = await space.bus();
  const workers = await Promise.all(
    Array.from({ length: 5 }, () => space.worker(() => "x", { reconnect: { min: 1, max: 5 } })),
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

test("drain of a worker: nothing new comes, what runs is answered, and the others take over", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const kept: WorkerRequest[] = [];
  const draining = await space.worker((request) => void kept.push(request), { concurrency: 2 });
  await bus.ready();
  const running = bus.request({ path: "/" });
  await until(() => kept.length === 1, "it runs");
  const drained = draining.drain();
  await space.worker(() => "other");
  await bus.ready({ workers: 2 });
  for (let i = 0; i < 50; i++) expect((await bus.request({ path: "/" })).text()).toBe("other");
  expect(Bun.peek.status(drained)).toBe("pending");
  kept[0]!.respond("drained");
  expect((await running).text()).toBe("drained");
  await drained;
  expect([kept.length, draining.running, draining.connected]).toEqual([1, 0, true]);
});

test("a blocking worker that is to reconnect attaches to the next hub by itself", async () => {
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

test("the first attachment is told by `connected`, like every later one", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  let connected = 0;
  const worker = await space.worker(() => "x");
  worker.on("connected", () => connected++);
  expect((await bus.request({ path: "/" })).text()).toBe("x");
  await until(() => connected > 0, "the event", 500);
  expect(connected).toBe(1);
});
