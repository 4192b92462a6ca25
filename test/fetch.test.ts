/** WHATWG requests and responses over the bus. */

import { expect, test } from "bun:test";
import { InvalidConfigError, PayloadTooLargeError, RemoteError, RequestTimeoutError } from "../src/index.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";

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

test("a relative url, a Request and a repeated Set-Cookie work", async () => {
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

test("streamed bodies arrive whole, both ways, longer than the ring", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  await space
    .worker()
    .then((worker) =>
      worker.serve({ fetch: async (request) => new Response(stream((await request.bytes()).length / 1_000)) }),
    );
  for (const chunks of [5, 600]) {
    const response = await bus.fetch("/", { method: "POST", body: stream(chunks) });
    const bytes = await response.bytes();
    expect([bytes.length, bytes[0], bytes[bytes.length - 1]]).toEqual([chunks * 1_000, 1, chunks & 255]);
  }
});

test("an endless request body reaches the handler in pieces, and is cancelled when the handler has answered", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ payloadBytes: 10_000 });
  const seen: number[] = [];
  const fetch = async (request: Request): Promise<Response> => {
    const reader = request.body!.getReader();
    for (let bytes = 0; bytes < 50_000;) {
      const { value } = await reader.read();
      bytes += value!.length;
      seen.push(value![0]!);
    }
    return new Response("enough");
  };
  await space.worker().then((worker) => worker.serve({ fetch }));
  let cancelled = 0;
  const response = await bus.fetch("/", { method: "POST", body: stream(Infinity, () => cancelled++) });
  expect(await response.text()).toBe("enough");
  expect(seen[0]).toBe(1);
  await until(() => cancelled === 1, "the body is cancelled");
});

test("a silent request body is sent all the same, and times out with the request", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async (request) => String((await request.incoming.bytes()).length));
  let cancelled = 0;
  const body = new ReadableStream<Uint8Array>({ pull: () => new Promise(() => {}), cancel: () => void cancelled++ });
  const start = performance.now();
  const late = await rejection<RequestTimeoutError>(bus.fetch("/", { method: "POST", body, timeout: 500 }));
  expect([late.code, late.mayHaveExecuted]).toEqual(["TIMEOUT", true]);
  expect(performance.now() - start).toBeWithin(490, 5_000);
  await until(() => cancelled === 1, "the body is cancelled");
});

test("a body that is never sent is cancelled too", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  let cancelled = 0;
  const init = { method: "POST", body: stream(Infinity, () => cancelled++), waitForWorker: false };
  expect(await rejection(bus.fetch("/", init))).toHaveProperty("code", "NO_WORKER");
  await until(() => cancelled === 1, "the body is cancelled");
});

test("a call that fails before its body is read cancels the body", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  let cancelled = 0;
  const body = (): ReadableStream<Uint8Array> => stream(Infinity, () => cancelled++);
  const aborted = AbortSignal.abort(new Error("aborted"));
  const post = (init: RequestInit): Request => new Request("http://x/", { method: "POST", ...init });
  const calls: [what: string, call: () => Promise<unknown>, error: string | RegExp][] = [
    ["an aborted signal", () => bus.fetch("/", { method: "POST", body: body(), signal: aborted }), "aborted"],
    ["one of a Request", () => bus.fetch(post({ body: body(), signal: aborted })), "aborted"],
    ["one beside a Request", () => bus.fetch(post({ body: body() }), { signal: aborted }), "aborted"],
    ["a method", () => bus.fetch("/", { method: "PROPFIND", body: body() }), /PROPFIND/],
    ["a timeout", () => bus.fetch("/", { method: "POST", body: body(), timeout: -1 }), /timeout/],
    ["a header", () => bus.fetch("/", { method: "POST", body: body(), headers: { "a b": "" } }), /header/],
    ["an address", () => bus.fetch("http://", { method: "POST", body: body() }), /URL/],
  ];
  for (const [index, [what, call, error]] of calls.entries()) {
    expect((await rejection(call())).message, what).toMatch(error);
    await until(() => cancelled === index + 1, `the body is cancelled: ${what}`);
  }
  await bus.close();
  expect(await rejection(bus.fetch(post({ body: body() })))).toHaveProperty("code", "CLOSED");
  await until(() => cancelled === calls.length + 1, "the body is cancelled: the bus is closed");
});

test("the body of a Request is cancelled when its handler has answered without reading all of it", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async (request) => {
    for await (const bytes of request.incoming.chunks()) return bytes.length > 0 ? "enough" : "nothing";
  });
  let cancelled = 0;
  const request = new Request("http://x/", { method: "POST", body: stream(Infinity, () => cancelled++) });
  expect(await (await bus.fetch(request)).text()).toBe("enough");
  await until(() => cancelled === 1, "the body is cancelled");
});

test("an endless Response streams, above the payload limit too, and is cancelled when its reader leaves", async () => {
  await using space = new Workspace();
  let cancelled = 0;
  const { bus } = await space.pair(() => new Response(stream(Infinity, () => cancelled++)), { payloadBytes: 10_000 });
  const reader = (await bus.fetch("/")).body!.getReader();
  let bytes = 0;
  while (bytes < 100_000) bytes += (await reader.read()).value!.length;
  expect(cancelled).toBe(0);
  await reader.cancel();
  await until(() => cancelled === 1, "the handler's stream is cancelled");
});

test("a Response with a silent body comes at once, with its head", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => new Response(never(), { status: 203 }));
  const response = await bus.fetch("/", { timeout: 2_000 });
  expect(response.status).toBe(203);
  await response.body!.cancel();
});

test("a body in memory is sent whole, with any declared length", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => `${request.streams} ${request.body.length}`, { payloadBytes: 1_000 });
  const whole = { method: "POST", body: "x".repeat(101), headers: { "content-length": "5000" } };
  expect(await (await bus.fetch("/", whole)).text()).toBe("false 101");
  const chunks = ["a", "bc"].map((text) => new TextEncoder().encode(text));
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
  expect(await (await bus.fetch("/", { method: "POST", body })).text()).toBe("false 3");
});

test("a Response with a body in memory comes whole: its slot is free before it is read", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => new Response("whole"));
  const response = await bus.fetch("/");
  expect(bus.stats().inFlight).toBe(0);
  expect(await response.text()).toBe("whole");
});

test("a Response of text without a type is text/plain, of other bytes octet-stream", async () => {
  await using space = new Workspace();
  const answers: Record<string, () => Response> = {
    "/text": () => new Response("grün"),
    "/bytes": () => new Response(Uint8Array.of(0xff, 0xfe)),
    "/typed": () => new Response("a,b", { headers: { "content-type": "text/csv" } }),
    "/none": () => new Response(null),
  };
  const { bus } = await space.pair(({ path }) => answers[path]!());
  const typeOf = async (path: string) => (await bus.fetch(path)).headers.get("content-type");
  expect(await typeOf("/text")).toBe("text/plain;charset=utf-8");
  expect(await typeOf("/bytes")).toBe("application/octet-stream");
  expect(await typeOf("/typed")).toBe("text/csv");
  expect(await typeOf("/none")).toBe(null);
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

test("a timeout of Infinity means no timeout, as for a request", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async (request) => {
    const later = Promise.withResolvers<string>();
    setTimeout(() => later.resolve(request.text()), 60); // longer than any tick
    return later.promise;
  });
  expect((await bus.request({ path: "/", body: "a" }, { timeout: Infinity })).text()).toBe("a");
  expect(await (await bus.fetch("/", { timeout: Infinity, method: "POST", body: "b" })).text()).toBe("b");
});

test("a timeout of 0 sends nothing, and ends the body", async () => {
  await using space = new Workspace();
  const { bus, worker } = await space.pair(() => "x");
  let cancelled = 0;
  const endless = (): ReadableStream => new ReadableStream({ pull: () => {}, cancel: () => void cancelled++ });
  const error = await rejection<RequestTimeoutError>(
    bus.fetch("/", { timeout: 0, method: "POST", body: endless(), duplex: "half" } as object),
  );
  expect(error).toBeInstanceOf(RequestTimeoutError);
  expect([error.mayHaveExecuted, bus.stats().published, worker.served]).toEqual([false, 0, 0]);
  await until(() => cancelled === 1, "the body is ended");
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

test("a body whose stream fails, or had failed, rejects with that failure, and nothing is sent", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => "x");
  const failing = (when: "start" | "pull"): ReadableStream<Uint8Array> =>
    new ReadableStream({
      [when]: (controller: ReadableStreamDefaultController) => controller.error(new Error("disk full")),
    });
  for (const when of ["start", "pull"] as const) {
    expect((await rejection(bus.fetch("/", { method: "POST", body: failing(when) }))).message).toBe("disk full");
  }
  expect(bus.stats().requests).toBe(0);
});

test("a body that fails after its first bytes were sent rejects with that failure, and its handler's signal aborts", async () => {
  await using space = new Workspace();
  const { promise: told, resolve } = Promise.withResolvers<string>();
  const { bus } = await space.pair(async (request) => {
    await request.incoming.bytes().catch((error: Error) => resolve(error.name));
    return "x";
  });
  let pulls = 0;
  const body = new ReadableStream<Uint8Array>({
    pull: async (controller) => {
      await Bun.sleep(5);
      if (++pulls > 3) throw new Error("disk full");
      controller.enqueue(new Uint8Array(10));
    },
  });
  expect((await rejection(bus.fetch("/", { method: "POST", body }))).message).toBe("disk full");
  expect(await told).toBe("AbortError");
});

test("a body of exactly the limit is sent whole, streamed or not; one byte more streams, and without a stream is refused", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(async (request) => `${request.streams} ${(await request.incoming.bytes()).length}`, {
    payloadBytes: 5_000,
  });
  const streamed = (bytes: number): ReadableStream<Uint8Array> =>
    new ReadableStream({
      start: (controller) => {
        controller.enqueue(new Uint8Array(bytes - 1));
        controller.enqueue(new Uint8Array(1));
        controller.close();
      },
    });
  const ask = async (body: ReadableStream<Uint8Array> | Uint8Array<ArrayBuffer>): Promise<string> =>
    (await bus.fetch("/", { method: "POST", body })).text();
  expect(await ask(streamed(5_000))).toBe("false 5000");
  expect(await ask(new Uint8Array(5_000))).toBe("false 5000");
  expect(await ask(streamed(5_001))).toBe("true 5001");
  expect(await rejection(bus.request({ path: "/", body: new Uint8Array(5_001) }))).toBeInstanceOf(PayloadTooLargeError);
});

test("an error of a fetch handler or of its Response's stream reaches the caller as the worker's error", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  await space.worker().then((worker) =>
    worker.serve({
      fetch: (request) => {
        if (request.url.endsWith("/throw")) throw new RangeError("thrown");
        const when = request.url.endsWith("/start") ? "start" : "pull";
        const fail = (c: ReadableStreamDefaultController): void => c.error(new RangeError("broken"));
        return new Response(new ReadableStream({ [when]: fail }));
      },
    }),
  );
  for (const [path, message] of [
    ["/throw", "RangeError: thrown"],
    ["/start", "RangeError: broken"],
    ["/pull", "RangeError: broken"],
  ] as const) {
    const error = await rejection<RemoteError>(bus.fetch(path));
    expect([error.code, error.message]).toEqual(["REMOTE", message]);
  }
  expect(bus.stats().inFlight).toBe(0);
});

test("a header that the web cannot carry is an error from a fetch handler, and text from any other handler", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const worker = await space.worker((request) => request.headers.get("h"));
  const request = { path: "/", headers: { h: "日本" } };
  expect((await bus.request(request)).text()).toBe("日本");
  worker.serve({ fetch: (given) => new Response(given.headers.get("h")) }, { replace: true });
  const error = await rejection<RemoteError>(bus.request(request));
  expect([error.code, error.remoteName]).toEqual(["REMOTE", "TypeError"]);
  expect((await bus.request({ path: "/", headers: { h: "fine" } })).text()).toBe("fine");
});

test("redirects, HEAD and a status without a body arrive unchanged", async () => {
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

test("waitForWorker and idempotent are passed on, and without a worker the error is a request's", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  expect(await rejection(bus.fetch("/", { waitForWorker: false }))).toHaveProperty("code", "NO_WORKER");
  expect(await rejection(bus.fetch("/", { timeout: 40 }))).toHaveProperty("code", "NO_WORKER");
});

test("an init takes a request's options: its worker, its stream limits; an unknown key is refused with the nearest name", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const names = ["a", "b"];
  for (const name of names) {
    const worker = await space.worker();
    worker.serve({
      fetch: ({ url }) => (url.endsWith("/endless") ? new Response(stream(Infinity)) : new Response(name)),
    });
    await bus.ready({ workers: names.indexOf(name) + 1 });
  }
  for (const [i, { id }] of bus.workers.entries()) {
    for (let n = 0; n < 4; n++) expect(await (await bus.fetch("/", { worker: id })).text()).toBe(names[i]!);
  }
  expect(await rejection(bus.fetch("/", { worker: 99 }))).toHaveProperty("code", "NO_WORKER");
  const limited = await bus.fetch("/endless", { deadline: 500 });
  expect((await rejection<Error>(limited.arrayBuffer())).message).toContain("timed out after 500 ms");
  const idle = await bus.fetch("/endless", { idle: 300 });
  await until(() => bus.stats().inFlight === 0, "nobody reads: the idle limit ends it");
  expect(await rejection(idle.arrayBuffer())).toHaveProperty("code", "STREAM_TIMEOUT");
  let cancelled = false;
  const body = stream(1, () => (cancelled = true));
  const wrong = await rejection<InvalidConfigError>(bus.fetch("/", { timeOut: 5, method: "POST", body } as object));
  expect(wrong).toBeInstanceOf(InvalidConfigError);
  expect(wrong.message).toBe('fetch has no option "timeOut". Did you mean timeout?');
  expect(cancelled).toBe(true);
  const web = { redirect: "manual", credentials: "include", cache: "no-store", keepalive: true } as const;
  expect((await bus.fetch("/", web)).status).toBe(200); // a browser's, without a meaning here
});
