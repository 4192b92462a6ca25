import { describe, expect, test } from "bun:test";
import {
  BusClosedError,
  BusNotFoundError,
  InvalidConfigError,
  type RemoteError,
  type SlotBus,
  StreamNotSupportedError,
  type WorkerRequest,
  SlotWorker,
} from "../src/index.ts";
import { pattern, rejection, same, until, Workspace, descriptors } from "./support.ts";

// ---- bus.test.ts
test("a close or drain with a time that is none is refused, and the bus can still be used and closed", async () => {
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

test("a limit of more than 24 days is no limit of 1 ms", async () => {
  await using space = new Workspace();
  const kept: WorkerRequest[] = [];
  const { bus } = await space.pair((request) => void kept.push(request));
  const running = bus.request({ path: "/" });
  await until(() => kept.length === 1, "it runs");
  const draining = bus.drain({ timeout: 3_000_000_000 });
  const turns = Promise.withResolvers<void>();
  setTimeout(turns.resolve, 30);
  await turns.promise;
  expect(Bun.peek.status(draining)).toBe("pending");
  kept[0]!.respond("x");
  await Promise.all([running, draining]);
});

test("with a queue limit of 0 what cannot be sent at once is refused", async () => {
  await using space = new Workspace();
  const kept: WorkerRequest[] = [];
  const { bus } = await space.pair((request) => void kept.push(request), { slots: 1, queue: { limit: 0 } });
  const running = bus.request({ path: "/" });
  expect((await rejection(bus.request({ path: "/" }))).message).toMatch(/1 places of its 1 workers are taken and 0 /);
  await until(() => kept.length === 1, "it runs");
  kept[0]!.respond("x");
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

test("queued requests are sent in the order in which they were made, whatever leaves from the middle", async () => {
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
  expect(await rejection(closed.request({ path: "/" }))).toBeInstanceOf(BusClosedError);
  expect(worker.connected).toBe(false);
  await space.bus(); // the name is free
});

// ---- worker.test.ts
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
  worker.serve(() => "new");
  expect((await bus.request({ path: "/" })).text()).toBe("new");
  kept[0]!.respond("old");
  expect((await old).text()).toBe("old");
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

// ---- fetch.test.ts
const never = (): ReadableStream<Uint8Array> => new ReadableStream({ pull: () => new Promise(() => {}) });

describe("fetch", () => {
  test("a timeout of 0 is none, as for a request", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(async (request) => {
      const later = Promise.withResolvers<string>();
      setTimeout(() => later.resolve(request.text()), 60); // longer than any tick
      return later.promise;
    });
    expect((await bus.request({ path: "/", body: "a" }, { timeout: 0 })).text()).toBe("a");
    expect(await (await bus.fetch("/", { timeout: 0, method: "POST", body: "b" })).text()).toBe("b");
  });

  test("a signal that has aborted, or aborts while the body is collected, ends the call with its reason", async () => {
    await using space = new Workspace();
    let calls = 0;
    const { bus } = await space.pair(() => String(calls++));
    const done = AbortSignal.abort(new Error("before"));
    expect((await rejection(bus.fetch("/", { method: "POST", body: never(), signal: done }))).message).toBe("before");
    const controller = new AbortController();
    const collecting = rejection(bus.fetch("/", { method: "POST", body: never(), signal: controller.signal }));
    controller.abort(new Error("while"));
    expect((await collecting).message).toBe("while");
    const request = new Request("http://x/", { method: "POST", body: never(), signal: done });
    expect((await rejection(bus.fetch(request))).message).toBe("before");
    expect([calls, bus.stats().requests]).toEqual([0, 0]);
  });

  test("a body whose stream fails rejects with that failure, and nothing is sent", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair(() => "x");
    const body = new ReadableStream({
      pull: (controller) => controller.error(new Error("disk full")),
    });
    expect((await rejection(bus.fetch("/", { method: "POST", body }))).message).toBe("disk full");
    expect(bus.stats().requests).toBe(0);
  });

  test("a body of exactly the limit is collected, streamed or not, and one byte more is refused", async () => {
    await using space = new Workspace();
    const { bus } = await space.pair((request) => String(request.body.length), { payloadLimit: 5_000 });
    const streamed = (bytes: number): ReadableStream<Uint8Array> =>
      new ReadableStream({
        start: (controller) => {
          controller.enqueue(new Uint8Array(bytes - 1));
          controller.enqueue(new Uint8Array(1));
          controller.close();
        },
      });
    for (const body of [streamed(5_000), new Uint8Array(5_000)]) {
      expect(await (await bus.fetch("/", { method: "POST", body })).text()).toBe("5000");
    }
    const error = await rejection<StreamNotSupportedError>(bus.fetch("/", { method: "POST", body: streamed(5_001) }));
    expect([error.code, error.mayHaveExecuted]).toEqual(["STREAM_NOT_SUPPORTED", false]);
    expect(error.message).toContain("5001 bytes (limit 5000)");
  });

  test("a failing fetch handler, and a Response whose stream fails, reach the caller as the worker's error", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    await space.worker().then((worker) =>
      worker.serve({
        fetch: (request) => {
          if (request.url.endsWith("/throw")) throw new RangeError("thrown");
          return new Response(new ReadableStream({ pull: (c) => c.error(new RangeError("broken")) }));
        },
      }),
    );
    for (const [path, message] of [
      ["/throw", "RangeError: thrown"],
      ["/stream", "RangeError: broken"],
    ] as const) {
      const error = await rejection<RemoteError>(bus.fetch(path));
      expect([error.code, error.message]).toEqual(["REMOTE", message]);
    }
    expect(bus.stats().inFlight).toBe(0);
  });

  test("a header that the web cannot carry is the worker's error for a fetch handler, and text for any other", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const worker = await space.worker((request) => request.headers.get("h"));
    const request = { path: "/", headers: { h: "日本" } };
    expect((await bus.request(request)).text()).toBe("日本");
    worker.serve({ fetch: (given) => new Response(given.headers.get("h")) });
    const error = await rejection<RemoteError>(bus.request(request));
    expect([error.code, error.remoteName]).toEqual(["REMOTE", "TypeError"]);
    expect((await bus.request({ path: "/", headers: { h: "fine" } })).text()).toBe("fine");
  });

  test("redirects, HEAD and a status without a body arrive as they were given", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    await space.worker().then((worker) =>
      worker.serve({
        fetch: (request) => {
          const { pathname } = new URL(request.url);
          if (pathname === "/moved") return Response.redirect("http://elsewhere/", 302);
          return new Response(request.method === "HEAD" ? null : "x", { headers: { method: request.method } });
        },
      }),
    );
    const moved = await bus.fetch("/moved");
    expect([moved.status, moved.headers.get("location")]).toEqual([302, "http://elsewhere/"]);
    const head = await bus.fetch("/", { method: "HEAD" });
    expect([head.headers.get("method"), await head.text()]).toEqual(["HEAD", ""]);
  });

  test("waitForWorker and idempotent are passed on, and no worker is said as for a request", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    expect(await rejection(bus.fetch("/", { waitForWorker: false }))).toHaveProperty("code", "NO_WORKER");
    expect(await rejection(bus.fetch("/", { timeout: 40 }))).toHaveProperty("code", "NO_WORKER");
  });
});
void [BusNotFoundError, pattern, same];
