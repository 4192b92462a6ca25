/** WHATWG requests and responses over the bus. */

import { expect, test } from "bun:test";
import { InvalidConfigError, PayloadTooLargeError, RemoteError, StreamNotSupportedError } from "../src/index.ts";
import { pattern, rejection, same, Workspace } from "./support.ts";

/** A stream of `chunks` chunks of 1000 bytes; Infinity never ends. */
function stream(chunks: number, onCancel: () => void = () => {}): ReadableStream<Uint8Array> {
  let sent = 0;
  return new ReadableStream({
    pull: async (controller) => {
      await Bun.sleep(0);
      if (sent++ < chunks) controller.enqueue(new Uint8Array(1_000).fill(sent));
      else controller.close();
    },
    cancel: onCancel,
  });
}

const echo = {
  fetch: async (request: Request): Promise<Response> => {
    const url = new URL(request.url);
    return new Response(await request.bytes(), {
      status: 201,
      headers: {
        "x-seen": [request.method, url.host, url.pathname, url.search, request.headers.get("x-in")].join(" "),
        "content-type": request.headers.get("content-type") ?? "none",
      },
    });
  },
};

test("method, url, headers and body reach a fetch handler, status and headers come back", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  await space.worker().then((worker) => worker.serve(echo));
  const response = await bus.fetch("http://shop.example/a%20b?q=1&q=2", {
    method: "PUT",
    headers: { "x-in": "yes", "content-type": "a/b" },
    body: pattern(30_000) as Uint8Array<ArrayBuffer>,
  });
  expect([response.status, response.headers.get("content-type")]).toEqual([201, "a/b"]);
  expect(response.headers.get("x-seen")).toBe("PUT shop.example /a%20b ?q=1&q=2 yes");
  expect(same(await response.bytes(), pattern(30_000))).toBe(true);
});

test("a relative url, a Request and a Set-Cookie twice are fine", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const app = {
    fetch: (request: Request) => {
      const headers = new Headers([
        ["set-cookie", "a=1"],
        ["set-cookie", "b=2"],
      ]);
      return new Response(new URL(request.url).pathname, { headers });
    },
  };
  await space.worker().then((worker) => worker.serve(app));
  expect(await (await bus.fetch("/relative")).text()).toBe("/relative");
  const response = await bus.fetch(new Request("http://x/given", { method: "POST", body: "x" }));
  expect([await response.text(), response.headers.getSetCookie()]).toEqual(["/given", ["a=1", "b=2"]]);
});

test("streamed bodies that end are collected, both ways", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  await space
    .worker()
    .then((worker) =>
      worker.serve({ fetch: async (request) => new Response(stream((await request.bytes()).length / 1_000)) }),
    );
  const response = await bus.fetch("/", { method: "POST", body: stream(5) });
  expect((await response.bytes()).length).toBe(5_000);
});

test("a streamed request above the limit, or not ended by the deadline, is refused unsent and cancelled", async () => {
  await using space = new Workspace();
  let calls = 0;
  const { bus } = await space.pair(() => `${calls++}`, { payloadLimit: 10_000 });
  let cancelled = 0;
  const large = await rejection<StreamNotSupportedError>(
    bus.fetch("/", { method: "POST", body: stream(Infinity, () => cancelled++) }),
  );
  expect(large).toBeInstanceOf(StreamNotSupportedError);
  expect([large.mayHaveExecuted, cancelled, calls]).toEqual([false, 1, 0]);
  const stuck = new ReadableStream<Uint8Array>({ pull: () => new Promise(() => {}) });
  const start = performance.now();
  expect(await rejection(bus.fetch("/", { method: "POST", body: stuck, timeout: 60 }))).toBeInstanceOf(
    StreamNotSupportedError,
  );
  expect(performance.now() - start).toBeWithin(50, 2_000);
});

test("a streamed response above the limit, or not ended by the deadline, is an error of the worker", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(
    (request) =>
      new Response(
        request.path === "/large" ? stream(Infinity) : new ReadableStream({ pull: () => new Promise(() => {}) }),
      ),
    { payloadLimit: 10_000 },
  );
  const large = await rejection<RemoteError>(bus.fetch("/large"));
  expect([large.remoteCode, large.mayHaveExecuted]).toEqual(["STREAM_NOT_SUPPORTED", true]);
  const late = await rejection(bus.fetch("/stuck", { timeout: 80 }));
  expect(late).toHaveProperty("mayHaveExecuted", true);
});

test("a body that declares more than the limit is refused before it is read", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => "x", { payloadLimit: 100 });
  const init = { method: "POST", body: "x".repeat(101), headers: { "content-length": "101" } };
  expect(await rejection(bus.fetch("/", init))).toBeInstanceOf(PayloadTooLargeError);
});

test("an abort reaches the handler's request.signal, and the caller gets the reason", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const { promise: aborted, resolve } = Promise.withResolvers<void>();
  const { promise: started, resolve: start } = Promise.withResolvers<void>();
  const app = {
    fetch: (request: Request) => {
      start();
      request.signal.addEventListener("abort", () => resolve());
      return new Promise<Response>(() => {});
    },
  };
  await space.worker().then((worker) => worker.serve(app));
  const controller = new AbortController();
  const pending = rejection(bus.fetch("/", { signal: controller.signal }));
  await started;
  controller.abort(new Error("enough"));
  expect((await pending).message).toBe("enough");
  await aborted;
});

test("204 and 304 have no body, and an unknown method is refused", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => ({ status: Number(request.query) }));
  for (const status of [204, 304]) expect((await bus.fetch(`/?${status}`)).body).toBeNull();
  expect(await rejection(bus.fetch("/", { method: "PROPFIND" }))).toBeInstanceOf(InvalidConfigError);
});

const never = (): ReadableStream<Uint8Array> => new ReadableStream({ pull: () => new Promise(() => {}) });

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
