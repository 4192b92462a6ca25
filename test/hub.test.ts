import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { Elysia } from "elysia";
import { Hono } from "hono";
import { existsSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BusExistsError, HubError, InvalidConfigError } from "../src/errors.ts";
import type { Answerable } from "../src/bus/answer.ts";
import { Hub, type HubOptions, type HubRoutes, HubWorker, sse } from "../src/hub/index.ts";
import { HubClient } from "../src/hub/client.ts";
import { hubOptions } from "../src/hub/options.ts";
import { Registry } from "../src/hub/registry.ts";
import { Stage } from "./hub-stage.ts";
import { leaves } from "./leaks.ts";
import { rejection, stop, until, Workspace } from "./support.ts";

/** Ignores processes that come and go. */
const nobody = { changed: () => {}, tell: () => {} };

async function failureOf(response: Response): Promise<{ status: number; code: string }> {
  const { code, error, request_id } = (await response.json()) as Record<string, string>;
  expect(error).toBeString();
  expect(request_id).toBe(response.headers.get("x-request-id")!);
  return { status: response.status, code: code! };
}

describe("a request", () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open({ payloadBytes: 1 << 20, timeout: 400, bodyTimeout: 200 });
    await stage.worker();
  });
  afterAll(() => stage[Symbol.asyncDispose]());
  beforeEach(() => leaves(/^armed timer/)); // the hub outlives each test, and its timers with it

  test("goes to a worker in another process, by its route, with parameters and query", async () => {
    const response = await stage.fetch("/w/users/a%20b?x=1&x=2");
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("application/json");
    const { id, query, pid } = (await response.json()) as { id: string; query: unknown; pid: number };
    expect([id, query]).toEqual([
      "a b",
      [
        ["x", "1"],
        ["x", "2"],
      ],
    ]);
    expect(pid).toBe(stage.workers[0]!.pid);
    expect(pid).not.toBe(process.pid);
  });

  test("no TCP connection leads from the hub to its worker", async () => {
    await stage.fetch("/w/users/1");
    const inodes = (pid: number): Set<string> => {
      const links = readdirSync(`/proc/${pid}/fd`).map((fd) => {
        try {
          return Bun.spawnSync(["readlink", `/proc/${pid}/fd/${fd}`])
            .stdout.toString()
            .trim();
        } catch {
          return "";
        }
      });
      return new Set(links.map((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? "").filter(Boolean));
    };
    const tcp = await Promise.all(["tcp", "tcp6"].map((table) => Bun.file(`/proc/net/${table}`).text()));
    const own = inodes(stage.workers[0]!.pid);
    const ofWorker = tcp
      .join("\n")
      .split("\n")
      .filter((line) => own.has(line.trim().split(/\s+/)[9] ?? ""));
    expect(ofWorker).toEqual([]);
    expect(own.size).toBeGreaterThan(0);
  });

  test.each([0, 1, 1_000, 300_000, 1 << 20])("with a body of %d bytes is echoed whole", async (bytes) => {
    const body = new Uint8Array(bytes).map((_, i) => i * 31);
    const response = await stage.fetch("/w/echo", { method: "POST", body, headers: { "content-type": "x/y" } });
    expect(response.headers.get("content-type")).toBe("x/y");
    expect(await response.bytes()).toEqual(body);
  });

  test("whose body comes in chunks is echoed whole", async () => {
    async function* parts(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 20; i++) yield new Uint8Array(1_000).fill(i);
    }
    const body = new ReadableStream({ type: "bytes", start() {} });
    void body.cancel();
    const response = await stage.fetch("/w/echo", { method: "POST", body: parts() as never });
    expect((await response.bytes()).length).toBe(20_000);
  });

  test("one byte above the limit is 413, before the body is read, or while it is read", async () => {
    const body = new Uint8Array((1 << 20) + 1);
    expect(await failureOf(await stage.fetch("/w/echo", { method: "POST", body }))).toEqual({
      status: 413,
      code: "PAYLOAD_TOO_LARGE",
    });
    async function* parts(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 17; i++) yield new Uint8Array(65_536);
    }
    const streamed = await stage.fetch("/w/echo", { method: "POST", body: parts() as never });
    expect(await failureOf(streamed)).toEqual({ status: 413, code: "PAYLOAD_TOO_LARGE" });
  });

  test("whose body stops arriving is 408", async () => {
    const head = "POST /w/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc";
    expect(await stage.raw(head)).toStartWith("HTTP/1.1 408 ");
    expect(
      await stage.raw("POST /w/echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    ).toStartWith("HTTP/1.1 408 ");
  });

  test("HEAD is a GET without its body", async () => {
    const response = await stage.fetch("/w/users/1", { method: "HEAD" });
    expect(response.status).toBe(200);
    expect(Number(response.headers.get("content-length"))).toBeGreaterThan(10);
    expect(await response.text()).toBe("");
    expect((await stage.fetch("/w/stream", { method: "HEAD" })).status).toBe(200);
  });

  test.each([
    ["GET", "/none", 404, "NO_ROUTE"],
    ["POST", "/w/users/1", 405, "METHOD"],
    ["GET", "/w/users/%ff", 400, "BAD_PATH"],
    ["GET", "/w/throw", 500, "HANDLER_FAILED"],
    ["GET", "/w/nothing", 500, "NO_ANSWER"],
    ["GET", "/w/slow", 504, "TIMEOUT"],
    ["POST", "/internal/register", 404, "NO_ROUTE"],
    ["GET", "/__ping__", 404, "NO_ROUTE"],
    ["POST", "/__sse__", 404, "NO_ROUTE"],
  ])("%s %s is %d %s", async (method, path, status, code) => {
    const response = await stage.fetch(path, { method });
    if (status === 405) expect(response.headers.get("allow")).toBe("GET, HEAD");
    const text = await response.clone().text();
    expect(text).not.toContain("secret");
    expect(await failureOf(response)).toEqual({ status, code });
  });

  test("for a WebSocket is 501 at once", async () => {
    const upgrade =
      "GET /w/users/1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n";
    expect(await stage.raw(upgrade, 300)).toStartWith("HTTP/1.1 501 ");
  });

  test("passes on the client's headers, and adds where the request came from", async () => {
    const response = await stage.fetch("/w/headers", {
      method: "POST",
      headers: [
        ["x-a", "1"],
        ["x-a", "2"],
        ["te", "trailers"],
        ["proxy-authorization", "secret"],
        ["x-forwarded-for", "6.6.6.6"],
        ["x-forwarded-proto", "https"],
        ["x-request-id", "mine-1"],
      ] as never,
    });
    const sent = new Headers((await response.json()) as [string, string][]);
    expect(sent.get("x-a")).toBe("1, 2");
    for (const name of ["te", "proxy-authorization", "connection", "transfer-encoding"])
      expect(sent.has(name)).toBeFalse();
    expect(sent.get("x-forwarded-for")).toContain("127.0.0.1");
    expect(sent.get("x-forwarded-for")).not.toContain("6.6.6.6");
    expect(sent.get("x-forwarded-proto")).toBe("http");
    expect(sent.get("x-forwarded-host")).toBe(stage.hub.url!.host);
    expect([sent.get("x-request-id"), response.headers.get("x-request-id")]).toEqual(["mine-1", "mine-1"]);
  });

  test("a client's id is used if it is at most 128 plain characters; otherwise each request gets one of the hub", async () => {
    const answered: string[] = [];
    for (const id of ["a".repeat(128), "a".repeat(129), "a b", "", "é"]) {
      const response = await stage.fetch("/w/users/1", { headers: { "x-request-id": id } });
      answered.push(response.headers.get("x-request-id")!);
    }
    expect(answered.shift()).toBe("a".repeat(128));
    for (const id of answered) expect(id).toMatch(/^[\w-]{12}\.\w+$/);
    expect(new Set(answered).size).toBe(4); // though the worker's answers are equal
  });

  test("headers named in the connection header are not passed on", async () => {
    const answer = await stage.raw(
      "POST /w/headers HTTP/1.1\r\nHost: h\r\nConnection: close, X-Private\r\nX-Private: 1\r\nX-Open: 2\r\nContent-Length: 0\r\n\r\n",
    );
    expect(answer).toContain('["x-open","2"]');
    expect(answer).not.toContain("x-private");
  });

  test("an answer keeps its headers, except the connection's", async () => {
    const response = await stage.fetch("/w/odd");
    expect(await response.text()).toBe("body");
    expect(response.headers.get("content-length")).toBe("4");
    for (const name of ["x-private", "keep-alive", "transfer-encoding"]) expect(response.headers.has(name)).toBeFalse();
    expect(response.headers.get("x-many")).toBe("1, 2");
    expect(response.headers.getSetCookie()).toEqual(["a=1", "b=2"]);
  });

  test("a streamed answer arrives piece by piece", async () => {
    const response = await stage.fetch("/w/stream");
    const pieces: string[] = [];
    for await (const piece of response.body!) pieces.push(new TextDecoder().decode(piece));
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.join("")).toBe([0, 1, 2, 3, 4].map((i) => `part ${i}\n`).join(""));
  });

  test("a client that goes away aborts the handler's signal", async () => {
    const [worker] = stage.workers;
    worker!.lines.length = 0;
    const controller = new AbortController();
    const asked = stage.fetch("/w/slow", { signal: controller.signal });
    await worker!.line("slow begins");
    controller.abort();
    await rejection(asked);
    await worker!.line("slow aborted", 300);
  });
});

describe("a hub", () => {
  test("has its name alone, and frees it with all its files", async () => {
    await using stage = await Stage.open();
    const error = await rejection(Hub.start({ directory: stage.workspace.directory, port: 0 }));
    expect(error).toBeInstanceOf(BusExistsError);
    expect(statSync(join(stage.workspace.directory, "hub.control")).mode & 0o777).toBe(0o600);
    await stage.worker();
    await stage.hub.close();
    await stage.workers[0]!.kill();
    expect(readdirSync(stage.workspace.directory)).toEqual([]);
  });

  test("takes the place of a killed hub", async () => {
    await using stage = new Stage() as Stage;
    writeFileSync(join(stage.workspace.directory, "hub.control"), "");
    await stage.start();
    await stage.worker();
    expect((await stage.fetch("/w/users/1")).status).toBe(200);
  });

  test("answers inside your own server", async () => {
    await using stage = new Stage() as Stage;
    stage.hub = await Hub.start({ directory: stage.workspace.directory, port: false });
    expect(stage.hub.url).toBeNull();
    await stage.worker();
    const own = Bun.serve({ port: 0, fetch: (request, server) => stage.hub.fetch(request, server) });
    const response = await fetch(new URL("/w/users/5", own.url));
    expect(((await response.json()) as { id: string }).id).toBe("5");
    await own.stop(true);
  });

  test("that closes does not wait for hung requests, and does not offer a retry for those that may have run", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    const hung = stage.hub.fetch(new Request("http://h/w/slow")) as Promise<Response>;
    await worker.line("slow begins");
    const began = performance.now();
    await stage.hub.close({ timeout: 100 });
    expect(performance.now() - began).toBeLessThan(2_000);
    const response = await hung;
    expect(response.headers.has("retry-after")).toBeFalse();
    expect(await failureOf(response)).toEqual({ status: 502, code: "HUB_CLOSED" });
    const late = await stage.hub.fetch(new Request("http://h/w/users/1"));
    expect(late.status).toBe(503);
  });

  test("that closes does not wait for a client that has sent half a request", async () => {
    await using stage = await Stage.open();
    await stage.worker();
    const halves = ["GET /w/us", "POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"];
    const asked = halves.map((half) => stage.raw(half, 10_000));
    const slow = stage.fetch("/w/slow?ms=300");
    await stage.workers[0]!.line("slow begins");
    const began = performance.now();
    await stage.hub.close();
    expect(performance.now() - began).toBeLessThan(4_000); // it would wait 5 s for running requests
    expect((await slow).status).toBe(200);
    await Promise.all(asked);
  });

  test("that closes ends an event stream at once, and that stream does not keep its process alive", async () => {
    await using workspace = new Workspace();
    const program = `
      import { Hub } from ${JSON.stringify(join(import.meta.dir, "../src/hub/index.ts"))};
      const hub = await Hub.start({ directory: ${JSON.stringify(workspace.directory)}, port: false });
      await hub.close();
      const headers = { host: "localhost" };
      const server = { timeout() {}, requestIP: () => ({ address: "127.0.0.1" }) };
      for (const path of ["/events", "/_slotbus/stream"]) {
        const response = await hub.fetch(new Request("http://localhost" + path, { headers }), server);
        console.log(response.status, (await response.text()).length < 100);
      }`;
    const child = Bun.spawn([process.execPath, "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
      timeout: 10_000,
    });
    expect(await child.stdout.text()).toBe("200 true\n200 true\n");
    expect(await child.exited).toBe(0);
  }, 20_000);

  test("in your own server, reports the protocol of the request, and lets an app's event stream be quiet", async () => {
    await using stage = new Stage() as Stage;
    stage.hub = await Hub.start({ directory: stage.workspace.directory, port: false });
    async function* quiet(): AsyncGenerator<string> {
      yield "data: 1\n\n";
      await Bun.sleep(6_000);
      yield "data: 2\n\n";
    }
    const worker = await stage.serve({
      "/headers": { POST: ({ headers }) => ({ json: headers.get("x-forwarded-proto") }) },
      "/quiet": () => ({ contentType: "text/event-stream", body: quiet() }),
    });
    const asked = await stage.hub.fetch(new Request("https://h/headers", { method: "POST", headers: { host: "h" } }));
    expect(await asked.json()).toBe("https");
    const own = Bun.serve({ port: 0, idleTimeout: 1, fetch: (request, server) => stage.hub.fetch(request, server) });
    expect(await (await fetch(new URL("/quiet", own.url))).text()).toBe("data: 1\n\ndata: 2\n\n");
    await own.stop(true);
    await worker.close();
  }, 20_000);

  test.each([
    [{ name: "a.b" }],
    [{ name: "" }],
    [{ name: "x".repeat(25) }],
    [{ port: -1 }],
    [{ port: 1.5 }],
    [{ timeout: -1 }],
    [{ timeout: 0 }],
    [{ payloadBytes: 0 }],
    [{ queue: 5 } as never],
    [{ queue: { limits: 5 } } as never],
    [{ payloadLimit: 5 } as never],
    [{ adminToken: "short" }],
    [{ ping: { interval: 0 } }],
    [{ sse: { clientBytes: 1 } }],
  ] as [HubOptions][])("refuses %p", async (options) => {
    await using workspace = new Workspace();
    expect(await rejection(Hub.start({ directory: workspace.directory, port: 0, ...options }))).toBeInstanceOf(
      InvalidConfigError,
    );
    expect(readdirSync(workspace.directory)).toEqual([]);
  });
});

describe("workers", () => {
  test("two of one name share its requests, two names get their own", async () => {
    await using stage = await Stage.open();
    await Promise.all([stage.worker("a"), stage.worker("a"), stage.worker("b")]);
    const pids = new Set<number>();
    const ask = async (): Promise<void> => {
      const answers = await Promise.all(Array.from({ length: 20 }, () => stage.fetch("/a/users/1")));
      for (const answer of answers) pids.add(((await answer.json()) as { pid: number }).pid);
    };
    for (let round = 0; round < 50 && pids.size < 2; round++) await ask();
    expect(pids).toEqual(new Set(stage.workers.slice(0, 2).map(({ pid }) => pid)));
    expect((await stage.fetch("/b/users/1")).status).toBe(200);
    const { workers } = (await (await stage.fetch("/health")).json()) as { workers: { name: string }[] };
    expect(workers.map(({ name }) => name).sort()).toEqual(["a", "a", "b"]);
  });

  test("a worker that dies with a request gives 502; then its routes are 503, and after a while 404", async () => {
    await using stage = await Stage.open({ goneFor: 150 });
    await stage.worker();
    expect(await failureOf(await stage.fetch("/w/die"))).toEqual({ status: 502, code: "WORKER_DIED" });
    const gone = await stage.fetch("/w/users/1");
    expect(gone.headers.get("retry-after")).toBe("1");
    expect(await failureOf(gone)).toEqual({ status: 503, code: "NO_WORKER" });
    await Bun.sleep(250);
    expect(await failureOf(await stage.fetch("/w/users/1"))).toEqual({ status: 404, code: "NO_ROUTE" });
  });

  test("may still connect after a hub's start: until one did, a path is 503, and a browser's stream retries", async () => {
    await using stage = await Stage.open({ goneFor: 2_000 });
    const none = await stage.fetch("/w/users/1");
    expect(none.headers.get("retry-after")).toBe("1");
    expect(await failureOf(none)).toEqual({ status: 503, code: "NO_WORKER" });
    expect((await stage.fetch("/internal/register", { method: "POST" })).status).toBe(404);
    await stage.worker();
    expect((await stage.fetch("/other")).status).toBe(404);
    const stream = (): Promise<Response> => stage.fetch("/other", { headers: { accept: "text/event-stream" } });
    const early = await stream();
    expect([early.status, await early.text()]).toEqual([200, "retry: 1000\n\n"]);
    await until(async () => (await stream()).status === 404, "a 404 when the hub is no longer new");
  });

  test("of a restarted hub reconnect one by one: until then their paths are 503, never 404", async () => {
    await using stage = await Stage.open({ goneFor: 3_000 });
    const [first, second] = [await stage.worker("a"), await stage.worker("b")];
    await stage.hub.close({ timeout: 0 });
    await first.line("disconnected");
    await second.line("disconnected");
    await stop(second); // it takes longer
    first.lines.length = second.lines.length = 0;
    await stage.start({ goneFor: 3_000 });
    await first.line("connected");
    const early = await stage.fetch("/b/users/1");
    expect(early.headers.get("retry-after")).toBe("1");
    expect(await failureOf(early)).toEqual({ status: 503, code: "NO_WORKER" });
    second.process.kill("SIGCONT");
    await second.line("connected");
    expect((await stage.fetch("/b/users/1")).status).toBe(200);
    await until(async () => (await stage.fetch("/none")).status === 404, "a 404 when the hub is no longer new", 10_000);
  });

  test("a worker that reconnects is served at once", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    await worker.kill();
    await stage.worker();
    expect((await stage.fetch("/w/users/1")).status).toBe(200);
  });

  test("a worker that stops finishes its running requests, and leaves", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    const slow = stage.fetch("/w/slow?ms=200");
    await worker.line("slow begins");
    worker.process.kill("SIGTERM");
    expect((await slow).status).toBe(200);
    await worker.line("stopped");
    expect(await worker.process.exited).toBe(0);
    expect((await stage.fetch("/w/users/1")).status).toBe(503);
  });

  test("find a restarted hub, and a hub that starts late", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    await stage.hub.close();
    await worker.line("disconnected");
    await worker.line("retry");
    worker.lines.length = 0;
    await stage.start();
    await worker.line("connected");
    expect((await stage.fetch("/w/users/1")).status).toBe(200);
  });

  test("while a worker registers again under load, no request fails", async () => {
    await using stage = await Stage.open();
    await stage.worker();
    const client = stage.client();
    const routes = [{ method: "GET", path: "/w/users/:id" }];
    let done = false;
    const statuses = new Set<number>();
    const load = (async () => {
      while (!done) statuses.add((await stage.fetch("/w/users/1")).status);
    })();
    for (let i = 0; i < 200; i++)
      await client.call("/internal/register", { name: "w", routes, pid: stage.workers[0]!.pid });
    done = true;
    await load;
    expect([...statuses]).toEqual([200]);
  });

  test("a route of another living name is refused with that name; the route of a dead worker is free", async () => {
    await using stage = await Stage.open();
    const first = await stage.worker("a", ["GET /same/:x"]);
    const client = stage.client();
    const register = () =>
      client.call("/internal/register", { name: "b", routes: [{ method: "GET", path: "/same/{y}" }] });
    const error = await rejection<HubError>(register());
    expect([error.status, error.reason]).toEqual([409, "ROUTE_TAKEN"]);
    expect(error.message).toContain('worker "a"');
    const ask = () => stage.fetch("/same/1");
    await first.kill();
    await until(async () => (await ask()).status === 503, "its route is 503");
    await using _b = await stage.serve({ "/same/{y}": () => "b" }, { name: "b" });
    expect(await (await ask()).text()).toBe("b"); // though the hub still has the dead worker's route
  });

  test("that are full with a full queue: 503, and when to try again", async () => {
    await using stage = await Stage.open({ slots: 1, queue: { limit: 1 } });
    const worker = await stage.worker();
    const running = stage.fetch("/w/slow?ms=400");
    await worker.line("slow begins");
    const [one, other] = await Promise.all([stage.fetch("/w/users/1"), stage.fetch("/w/users/2")]);
    const [waited, refused] = one.status === 200 ? [one, other] : [other, one];
    expect([(await running).status, waited.status]).toEqual([200, 200]);
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(await failureOf(refused)).toEqual({ status: 503, code: "OVERLOADED" });
  });

  test("a worker that its hub dropped without a message notices, and reconnects", async () => {
    await using stage = await Stage.open();
    const worker = await stage.serve({ "/a": () => "a" }, { watchdog: 20, reconnect: { initial: 20 } });
    const reasons: string[] = [];
    worker.on("disconnected", ({ message }) => reasons.push(message));
    let connected = 1;
    worker.on("connected", () => connected++);
    const client = stage.client();
    const ids = async () => (await client.call<{ workers: { worker_id: string }[] }>("/health")).workers;
    await client.call("/internal/unregister", { worker_id: (await ids())[0]!.worker_id });
    await until(() => connected === 2, "it reconnects");
    expect(reasons).toEqual(['Hub "hub" no longer knows this worker.']);
    expect(await (await stage.fetch("/a")).text()).toBe("a");
    expect((await ids()).length).toBe(1);
    await worker.close();
  });

  test("retry after 1 s, then after twice as long up to 30 s, each a random part shorter; a success starts over", async () => {
    await using stage = await Stage.open();
    const usual = await stage.serve({}, { name: "u" });
    const first = new Promise<number>((resolve) => usual.once("retry", (_reason, ms) => resolve(ms)));
    const waits: number[] = [];
    const worker = await stage.serve({}, { reconnect: { initial: 8, max: 64 } });
    worker.on("retry", (_reason, ms) => waits.push(ms));
    await stage.hub.close({ timeout: 0 });
    expect(await first).toBeWithin(500, 1_001);
    await usual.close();
    await until(() => waits.length >= 12, "tries");
    for (const [at, ms] of waits.entries()) {
      const full = Math.min(64, 8 * 2 ** at);
      expect(ms).toBeWithin(full / 2, full + 1);
    }
    expect(new Set(waits.slice(3)).size).toBeGreaterThan(1);
    const connected = new Promise<void>((resolve) => worker.once("connected", resolve));
    await stage.start();
    await connected;
    waits.length = 0;
    await stage.hub.close({ timeout: 0 });
    await until(() => waits.length > 0, "it tries again");
    expect(waits[0]!).toBeWithin(4, 9);
    await worker.close();
  });

  test("answer in every supported form, and 404 for a route that they do not have", async () => {
    await using stage = await Stage.open();
    const answers: Record<string, () => Answerable> = {
      "/json": () => ({ status: 201, json: [1] }),
      "/text": () => "text",
      "/error": () => ({ status: 418, json: { error: "no tea" } }),
      "/status": () => ({ status: 202 }),
      "/nothing": () => null,
      "/bytes": () => ({ body: Uint8Array.of(104, 105), contentType: "application/octet-stream" }),
      "/response": () => new Response("r", { status: 203, headers: { "content-type": "text/x" } }),
    };
    const worker = await stage.serve(answers);
    const ask = async (path: string): Promise<string> => {
      const response = await stage.fetch(path);
      return `${response.status} ${response.headers.get("content-type")} ${await response.text()}`;
    };
    expect(await Promise.all(Object.keys(answers).map(ask))).toEqual([
      "201 application/json [1]",
      "200 text/plain;charset=utf-8 text",
      '418 application/json {"error":"no tea"}',
      "202 null ",
      "204 null ",
      "200 application/octet-stream hi",
      "203 text/x r",
    ]);
    const routes = [{ method: "GET", path: "/other" }];
    await stage.client().call("/internal/register", { name: "w", routes, pid: process.pid });
    expect(await ask("/other")).toBe('404 application/json {"error":"No handler for GET /other."}');
    await worker.close();
  });

  test("get the client's address from a proxy in front, when the hub trusts it", async () => {
    await using stage = await Stage.open({ trustProxy: true });
    await stage.worker();
    const forwarded = { "x-forwarded-for": "6.6.6.6", "x-forwarded-proto": "https", "x-forwarded-host": "example.org" };
    const response = await stage.fetch("/w/headers", { method: "POST", headers: forwarded });
    const sent = new Map((await response.json()) as [string, string][]);
    expect(Object.keys(forwarded).map((name) => sent.get(name))).toEqual([
      "6.6.6.6, 127.0.0.1",
      "https",
      "example.org",
    ]);
  });

  test("a worker mounts apps with a fetch: each sees its own paths, with methods, queries and bodies", async () => {
    await using stage = await Stage.open();
    const hono = new Hono();
    hono.get("/", (context) => context.text("hono's root"));
    hono.get("/hello/:name", (context) =>
      context.text(`hello ${context.req.param("name")}${context.req.query("mark")}`),
    );
    hono.put("/bytes", async (context) => context.json((await context.req.arrayBuffer()).byteLength, 201));
    const plain = {
      fetch: ({ url, method }: Request) => new Response(`${method} ${new URL(url).pathname}`, { status: 202 }),
    };
    const elysia = new Elysia()
      .get("/", () => "elysia's root")
      .get("/users/:id", ({ params, query }) => ({ id: params.id, mark: query["mark"] }))
      .post("/json", ({ body }) => body);
    const worker = await stage.serve({ "/pages/*": hono, "/elysia/*": elysia, "/é/*": plain, "/*": plain });
    const ask = async (path: string, init?: RequestInit) => {
      const response = await stage.fetch(path, init);
      return `${response.status} ${await response.text()}`;
    };
    expect(await ask("/pages")).toBe("200 hono's root");
    expect(await ask("/pages/hello/you?mark=!")).toBe("200 hello you!");
    expect(await ask("/pages/bytes", { method: "PUT", body: new Uint8Array(400_000) })).toBe("201 400000");
    expect(await ask("/pages/none")).toBe("404 404 Not Found");
    expect(await ask("/elysia")).toBe("200 elysia's root");
    expect(await ask("/elysia/users/7?mark=!")).toBe('200 {"id":"7","mark":"!"}');
    const json = { method: "POST", body: '{"a":[1]}', headers: { "content-type": "application/json" } };
    expect(await ask("/elysia/json", json)).toBe('200 {"a":[1]}');
    expect(await ask("/elysia/none")).toBe("404 NOT_FOUND");
    expect((await stage.fetch("/other")).headers.get("content-type")).toBe("text/plain;charset=utf-8");
    expect(await ask("/é/a/b")).toBe("202 GET /a/b");
    expect(await ask("/pagesx", { method: "DELETE" })).toBe("202 DELETE /pagesx");
    expect((await stage.fetch("/pages/hello/you", { method: "HEAD" })).status).toBe(200);
    await worker.close();
  });

  test("a refused worker leaves no bus behind", async () => {
    await using stage = await Stage.open();
    await stage.worker("a", ["GET /same/:x"]);
    const before = readdirSync(stage.workspace.directory);
    const routes = [{ method: "GET", path: "/same/{y}" }];
    const error = await rejection<HubError>(stage.client().call("/internal/register", { name: "b", routes }));
    expect(error.status).toBe(409);
    expect(readdirSync(stage.workspace.directory)).toEqual(before);
  });

  test("of two new names with one route at once, one is refused, and its bus is closed", async () => {
    await using workspace = new Workspace();
    const registry = new Registry(hubOptions.resolve({ directory: workspace.directory, goneFor: 50 }), nobody);
    const register = (name: string) =>
      registry.register(name, [{ method: "GET", path: "/same" }], { pid: null, instance: null });
    const results = await Promise.allSettled([register("a"), register("b")]);
    expect(results.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    expect(registry.services.length).toBe(2); // otherwise they did not start at once
    const buses = () => readdirSync(workspace.directory).filter((file) => file.endsWith(".sock"));
    await until(() => buses().length === 1, "one bus is left", 2_000);
    await registry.close({ timeout: 0 });
    expect(readdirSync(workspace.directory)).toEqual([]);
  });

  test("a worker that registers while the hub closes gets an error, and no bus stays", async () => {
    await using workspace = new Workspace();
    const registry = new Registry(hubOptions.resolve({ directory: workspace.directory }), nobody);
    const registered = rejection(registry.register("a", [], { pid: null, instance: null }));
    await registry.close({ timeout: 0 });
    expect(readdirSync(workspace.directory)).toEqual([]);
    expect(await registered).toMatchObject({ status: 503, code: "CLOSING" });
    expect(await rejection(registry.register("b", [], { pid: null, instance: null }))).toMatchObject({
      status: 503,
      code: "CLOSING",
    });
  });

  test("a request that waits for a worker gets NO_WORKER when the hub forgets the worker, and CLOSING when the hub closes", async () => {
    await using stage = await Stage.open({ goneFor: 50 });
    const client = stage.client();
    const routes = [{ method: "GET", path: "/ghost" }];
    const register = () => client.call<{ worker_id: string }>("/internal/register", { name: "ghost", routes });
    const waiting = async (): Promise<{ answer: Promise<Response> }> => {
      const answer = stage.fetch("/ghost");
      const metrics = async (): Promise<string> => (await stage.fetch("/_slotbus/metrics")).text();
      await until(async () => /^slotbus_hub_queued\{.*\} 1$/m.test(await metrics()), "the request waits");
      return { answer };
    };
    const { worker_id } = await register();
    const forgotten = await waiting();
    await client.call("/internal/unregister", { worker_id });
    expect(await failureOf(await forgotten.answer)).toEqual({ status: 503, code: "NO_WORKER" });
    await register();
    const last = await waiting();
    await stage.hub.close({ timeout: 0 });
    expect(await last.answer.then(failureOf)).toEqual({ status: 503, code: "CLOSING" });
  });

  test("a worker that registers and does not attach within 5 s is forgotten; an attached worker stays", async () => {
    await using stage = await Stage.open();
    await stage.worker();
    const client = stage.client();
    const pid = 2 ** 30; // no process has it
    const routes = [{ method: "GET", path: "/ghost" }];
    await client.call("/internal/register", { name: "ghost", routes, pid });
    await client.call("/internal/register", { name: "w", routes: [{ method: "GET", path: "/w/users/:id" }], pid });
    const names = async () =>
      (await client.call<{ workers: { name: string; pid: number }[] }>("/health")).workers.map((one) => one.name);
    expect((await names()).sort()).toEqual(["ghost", "w", "w"]);
    await until(async () => (await names()).length === 1, "they are forgotten");
    expect(await names()).toEqual(["w"]);
    expect((await stage.fetch("/w/users/1")).status).toBe(200);
    expect(await failureOf(await stage.fetch("/ghost"))).toEqual({ status: 503, code: "NO_WORKER" });
  }, 15_000);

  test("three workers of one name in one process all stay", async () => {
    await using stage = await Stage.open();
    const workers: HubWorker[] = [];
    for (let i = 0; i < 3; i++) workers.push(await stage.serve({ "/a": () => "a" }));
    const known = async () => (await stage.client().call<{ workers: unknown[] }>("/health")).workers.length;
    expect(await known()).toBe(3); // their watchdogs find them
    await workers.pop()!.close();
    await until(async () => (await known()) < 3, "its end");
    expect(await known()).toBe(2);
    await Promise.all(workers.map((worker) => worker.close()));
  });

  test("a route whose handler returns nothing is 500 at once, and in the worker's log without a listener", async () => {
    await using stage = await Stage.open();
    const program = `
      import { HubWorker } from ${JSON.stringify(join(import.meta.dir, "../src/hub/index.ts"))};
      const worker = await HubWorker.start({
        name: "w",
        directory: ${JSON.stringify(stage.workspace.directory)},
        routes: { "/forgot": async (request) => void (await request.json()), "/app/*": { fetch: () => {} } },
      });
      process.on("SIGTERM", () => worker.close());
      console.log("connected");`;
    await using child = Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", "pipe", "pipe"] });
    await child.stdout.getReader().read();
    const started = performance.now();
    for (const path of ["/forgot", "/app/x"]) {
      const response = await stage.fetch(path, { method: "POST", body: "{}" });
      expect([response.status, await response.json()]).toMatchObject([
        500,
        { error: "The handler returned nothing.", code: "NO_ANSWER" },
      ]);
    }
    expect(performance.now() - started).toBeLessThan(5_000); // the hub's own limit is 30 s
    child.kill("SIGTERM");
    const log = await child.stderr.text();
    expect(log).toMatch(/^worker "w": \/forgot \(.+\): The handler of \/forgot returned nothing\. Return the answer/m);
    expect(log).toContain("The handler of /app/x returned nothing.");
  });

  test("a deferred handler may answer with any value it may return, and its failures are reported the same way", async () => {
    await using stage = await Stage.open();
    const failed: string[] = [];
    const later =
      (answer: () => Answerable): HubRoutes[string] =>
      (request) => {
        const done = request.defer();
        setTimeout(() => {
          done(answer());
          done("only the first counts");
        }, 5);
      };
    const broken = (): ReadableStream => new ReadableStream({ start: (to) => to.error(new RangeError("no more")) });
    const worker = await stage.serve({
      "/json": later(() => ({ json: { a: 1 } })),
      "/response": later(() => new Response("made", { status: 201, headers: { "x-a": "1" } })),
      "/plain": later(() => ({ status: 202, body: "plain" })),
      "/broken": later(() => new Response(broken())),
      "/invalid": later(() => ({ status: 99 })),
      "/async": async (request) => {
        const done = request.defer();
        done({ json: await request.json() });
      },
      "/dropped": (request) => void request.defer(),
    });
    worker.on("handlerError", (error, { path }) => failed.push(`${path} ${(error as Error).name}`));
    const ask = async (path: string): Promise<unknown[]> => {
      const response = await stage.fetch(path, { method: "POST", body: '{"b":2}' });
      return [response.status, response.headers.get("x-a"), await response.text()];
    };
    expect(await ask("/json")).toEqual([200, null, '{"a":1}']);
    expect(await ask("/response")).toEqual([201, "1", "made"]);
    expect(await ask("/plain")).toEqual([202, null, "plain"]);
    expect(await ask("/async")).toEqual([200, null, '{"b":2}']);
    for (const path of ["/broken", "/invalid"]) {
      expect(await ask(path)).toMatchObject([500, null, expect.stringContaining("HANDLER_FAILED")]);
    }
    let dropped: unknown[] | null = null;
    void ask("/dropped").then((answer) => (dropped = answer));
    await until(() => {
      Bun.gc(true);
      return dropped !== null;
    }, "the deferred answer is collected");
    expect(dropped as unknown).toMatchObject([500, null, expect.stringContaining("NO_ANSWER")]);
    expect(failed).toEqual(["/broken RangeError", "/invalid InvalidConfigError", "/dropped SlotbusError"]);
    await worker.close();
  }, 15_000);

  test("a worker without listeners says on stderr, once, why it cannot reach its hub", async () => {
    await using workspace = new Workspace();
    const program = `
      import { HubWorker } from ${JSON.stringify(join(import.meta.dir, "../src/hub/index.ts"))};
      const reconnect = { initial: 10, max: 20 };
      const directory = ${JSON.stringify(workspace.directory)};
      const error = await HubWorker.start({ name: "w", hub: "none", directory, reconnect, routes: {}, timeout: 2_000 }).catch((error) => error);
      console.log(error.name, error.retryable);`;
    const child = Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", "pipe", "pipe"] });
    const socket = join(workspace.directory, "none.control");
    expect(await child.stderr.text()).toBe(
      `worker "w" cannot connect to its hub and keeps trying: Hub "none" does not respond. ` +
        `Start the hub, or correct the hub's name or directory; its socket is ${socket}.\n`,
    );
    expect(await child.stdout.text()).toBe("HubError true\n");
    expect(await child.exited).toBe(0);
  });

  test("a worker whose event loop hangs is evicted by pings; a full worker is not", async () => {
    await using stage = await Stage.open({ ping: { interval: 50, timeout: 100, maxMisses: 3 }, slots: 2 });
    const hung = await stage.worker("a");
    const full = await stage.worker("b");
    const idle = await stage.worker("c");
    const slow = [stage.fetch("/b/slow?ms=1500"), stage.fetch("/b/slow?ms=1500")];
    void stage.fetch("/a/block?ms=1500").catch(() => {});
    await hung.line("blocks");
    await until(() => false, "time", 900).catch(() => {});
    expect((await stage.fetch("/a/users/1")).status).toBe(503);
    for (const well of [full, idle]) expect(well.lines.some((line) => line.startsWith("disconnected"))).toBeFalse();
    for (const one of slow) expect((await one).status).toBe(200);
    await until(() => hung.lines.filter((line) => line === "connected").length === 2, "it reconnects");
    expect(hung.lines).toContain('disconnected Bus "hub.a" evicted this worker: it missed 3 pings.');
    expect((await stage.fetch("/a/users/1")).status).toBe(200);
  });
});

describe("the control socket", () => {
  test.each([
    ["/internal/register", {}, 400, "BAD_FIELD"],
    ["/internal/register", { name: "a/b", routes: [] }, 400, "INVALID_CONFIG"],
    ["/internal/register", { name: "../x", routes: [] }, 400, "INVALID_CONFIG"],
    ["/internal/register", { name: "a", routes: "x" }, 400, "BAD_REGISTRATION"],
    ["/internal/register", { name: "a", routes: [{ method: "get", path: "/a" }] }, 400, "BAD_ROUTE"],
    ["/internal/register", { name: "a", routes: [{ method: "GET", path: "/a/../b" }] }, 400, "BAD_ROUTE"],
    ["/internal/register", { name: "a", routes: [{ method: "POST", path: "/a", sse: true }] }, 400, "BAD_ROUTE"],
    [
      "/internal/register",
      {
        name: "a",
        routes: [
          { method: "GET", path: "/a/:x" },
          { method: "GET", path: "/a/:y" },
        ],
      },
      409,
      "ROUTE_TWICE",
    ],
    ["/internal/unregister", { worker_id: "none" }, 404, "NO_WORKER"],
    ["/internal/emit", { source: "s", event_type: "a\nb", data: "" }, 400, "INVALID_CONFIG"],
    ["/internal/sse-push", { path: "/none", event_type: "a", data: "" }, 404, "NO_STREAM"],
    ["/internal/none", {}, 404, "NO_ACTION"],
  ])("%s %j is %d %s", async (path, body, status, reason) => {
    await using stage = await Stage.open();
    const error = await rejection<HubError>(stage.client().call(path, body));
    expect(error).toBeInstanceOf(HubError);
    expect([error.status, error.reason]).toEqual([status, reason]);
  });

  test("a worker without listeners says so", async () => {
    await using workspace = new Workspace();
    const call = () => rejection<HubError>(new HubClient("hub", workspace.directory, true).call("/internal/emit", {}));
    const error = await call();
    expect([error.status, error.retryable, error.mayHaveExecuted]).toEqual([0, true, false]);
    const socket = join(workspace.directory, "hub.control");
    expect(existsSync(socket)).toBeFalse();
    const asked = { bytes: 0 };
    const data = (peer: { end(): void }, bytes: Uint8Array): void => void ((asked.bytes += bytes.length), peer.end());
    const dies = Bun.listen({ unix: socket, socket: { data } });
    const broken = await call();
    expect([broken.status, broken.retryable, broken.mayHaveExecuted]).toEqual([0, true, true]);
    expect(asked.bytes).toBeGreaterThan(0);
    dies.stop(true);
    rmSync(socket, { force: true });
  });

  test("a malformed route is one typed error that names its pattern; names are checked before anything is sent", async () => {
    await using workspace = new Workspace();
    const { directory } = workspace;
    const problem = async (options: object): Promise<Error> =>
      rejection(HubWorker.start({ name: "x", routes: {}, directory, timeout: 0, ...options } as never));
    const app = { fetch: () => new Response() };
    for (const [routes, why] of [
      [{ a: () => "b" }, 'Invalid route pattern "a"'],
      [{ "/a": 3 }, 'Invalid route "/a": it is 3.'],
      [{ "/a": {} }, 'Invalid route "/a": it has no handler.'],
      [{ "/a": { BREW: () => "b" } }, 'Invalid route "/a": "BREW" is not an HTTP method.'],
      [{ "/a": { GET: "b" } }, 'Invalid route "/a": the handler of GET is "b".'],
      [{ "/a": { POST: sse() } }, 'Invalid route "/a": the handler of POST is'],
      [{ "/a": app }, 'Invalid route "/a": an app needs a pattern'],
      [{ "/:tenant/*": app }, 'Invalid route "/:tenant/*": an app needs a pattern'],
      [3, "`routes` is 3"],
    ] as [object, string][]) {
      const error = await problem({ routes });
      expect(error).toBeInstanceOf(InvalidConfigError);
      expect(error.message).toStartWith(why);
    }
    expect(await problem({ name: "../x" })).toBeInstanceOf(InvalidConfigError);
    expect(await problem({ name: "x".repeat(61) })).toBeInstanceOf(InvalidConfigError);
    expect(await problem({ hub: "../x" })).toBeInstanceOf(InvalidConfigError);
    expect((await problem({ backoff: {} })).message).toStartWith('a worker of a hub has no option "backoff".');
    expect(await problem({})).toMatchObject({ name: "HubError", status: 0, retryable: true });
    expect(readdirSync(directory)).toEqual([]);
  });
});

describe("start and end", () => {
  test("a worker with another worker's route: `start` rejects at once, although it would wait for a hub for ever", async () => {
    await using stage = await Stage.open();
    await using first = await stage.serve({ "/same/:x": () => "first" }, { name: "a" });
    expect([first.connected, first.closed]).toEqual([true, false]);
    let refusals = 0;
    const { promise: again, resolve } = Promise.withResolvers<never>();
    stage.hub.on("refused", () => ++refusals === 2 && resolve(undefined as never));
    const second = stage.serve({ "/same/:y": () => "second" }, { name: "b", reconnect: { initial: 10 } });
    const error = await rejection<HubError>(Promise.race([second, again]));
    expect([error.status, error.reason, error.retryable]).toEqual([409, "ROUTE_TAKEN", false]);
  });

  test("a request's parameters are its pattern's, for the compiler too", () => {
    const routes = <P extends string>(given: HubRoutes<P>): number => Object.keys(given).length;
    expect(
      routes({
        "/a/:id/{kind}/*rest": ({ params: { id, kind, rest } }) => id + kind + rest,
        "/b/:id": { GET: ({ params }) => params.id },
        // @ts-expect-error -- the pattern has no such parameter
        "/c/:id": ({ params }) => params.name,
        "/d/*": ({ params }) => JSON.stringify(params satisfies {}),
      }),
    ).toBe(4);
  });

  test("a handler sees its request: method, path, route, ids, parameters, query, headers, and a signal", async () => {
    await using stage = await Stage.open();
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    await using worker = await stage.serve({
      "/users/:id/*rest": ({ method, path, pattern, id, traceparent: trace, params, query, headers, signal }) => ({
        json: [method, path, pattern, id, trace, params, [...query], headers.get("x-kind"), signal.aborted],
      }),
    });
    const headers = { "x-request-id": "request-7", "x-kind": "odd", traceparent };
    const response = await stage.fetch("/users/a%20b/c/d?x=1&x=2", { method: "PUT", headers });
    expect((await response.json()) as unknown).toEqual([
      "PUT",
      "/users/a%20b/c/d",
      "/users/:id/*rest",
      "request-7",
      traceparent,
      { id: "a b", rest: "c/d" },
      [
        ["x", "1"],
        ["x", "2"],
      ],
      "odd",
      false,
    ]);
    expect(worker.connected).toBe(true);
  });

  test("a worker waits for its hub, and serves each route with its methods", async () => {
    await using stage = new Stage();
    const starting = stage.serve(
      { "/any": ({ method }) => method, "/some": { GET: () => "got", DELETE: () => ({ status: 202 }) } },
      { reconnect: { initial: 20, max: 20 } },
    );
    await stage.start();
    await using worker = await starting;
    expect(worker.connected).toBe(true);
    for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
      expect(await (await stage.fetch("/any", { method })).text()).toBe(method);
    expect(await (await stage.fetch("/some")).text()).toBe("got");
    expect((await stage.fetch("/some", { method: "DELETE" })).status).toBe(202);
    const other = await stage.fetch("/some", { method: "POST" });
    expect([other.status, other.headers.get("allow")]).toEqual([405, "GET, DELETE, HEAD"]);
  });

  test("a hub emits joined, left and died, never inside a call of its user", async () => {
    await using stage = await Stage.open();
    const told: string[] = [];
    let inside = false;
    const tell = (what: string): void => void told.push(`${what}${inside ? " inside" : ""}`);
    stage.hub.on("joined", ({ name, pid }) => tell(`joined ${name} ${pid}`));
    stage.hub.on("left", ({ name, pid }) => tell(`left ${name} ${pid}`));
    stage.hub.on("died", ({ name, pid }, reason) => tell(`died ${name} ${pid} ${typeof reason}`));
    const worker = await stage.worker("a");
    await until(() => told.length === 1, "it joined");
    await worker.kill();
    await until(() => told.length === 2, "it died");
    const own = await stage.serve({ "/b": () => "b" }, { name: "b" });
    await own.close();
    await until(() => told.length === 4, "it left");
    inside = true;
    const closing = stage.hub.close();
    inside = false;
    await closing;
    expect(told).toEqual([
      `joined a ${worker.pid}`,
      `died a ${worker.pid} string`,
      `joined b ${process.pid}`,
      `left b ${process.pid}`,
    ]);
  });

  test("drain and close may be called at any time, any number of times; drain waits for what runs, as long as it may", async () => {
    await using stage = await Stage.open();
    const answer = Promise.withResolvers<string>();
    const asked = Promise.withResolvers<void>();
    const slow = (): Promise<string> => (asked.resolve(), answer.promise);
    const worker = await stage.serve({ "/slow": slow });
    const response = stage.fetch("/slow");
    await asked.promise;
    await stage.hub.drain({ timeout: 20 });
    expect([stage.hub.closed, worker.closed]).toEqual([false, false]);
    let drained = false;
    const draining = Promise.all([stage.hub.drain(), worker.drain()]).then(() => (drained = true));
    await worker.drain({ timeout: 20 });
    expect(drained).toBe(false);
    expect(await rejection(stage.hub.drain({ timeout: -1 }))).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(worker.close({ timeout: Number.NaN }))).toBeInstanceOf(InvalidConfigError);
    answer.resolve("late");
    expect(await (await response).text()).toBe("late");
    await draining;
    await Promise.all([stage.hub.close(), stage.hub.close(), worker.close(), worker.close({ timeout: 0 })]);
    await stage.hub.drain();
    expect(worker.connected).toBe(false);
    expect(readdirSync(stage.workspace.directory)).toEqual([]);
  });
});
