import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BusExistsError, HubError, InvalidConfigError } from "../src/errors.ts";
import { createHub, type HubOptions, HubWorker } from "../src/hub/index.ts";
import { HubClient } from "../src/hub/client.ts";
import { Stage } from "./hub-stage.ts";
import { rejection, until, Workspace } from "./support.ts";

async function failureOf(response: Response): Promise<{ status: number; code: string }> {
  const { code, error, request_id } = (await response.json()) as Record<string, string>;
  expect(error).toBeString();
  expect(request_id).toBe(response.headers.get("x-request-id")!);
  return { status: response.status, code: code! };
}

describe("a request", () => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await Stage.open({ payloadLimit: 1 << 20, timeout: 400, bodyTimeout: 200 });
    await stage.worker();
  });
  afterAll(() => stage[Symbol.asyncDispose]());

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

  test("one byte over the limit is 413, said before the body is read, or while it is", async () => {
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

  test("whose body stops coming is 408", async () => {
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

  test("carries what is the client's, and says where it came from", async () => {
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

  test("headers that the header connection names go no further", async () => {
    const answer = await stage.raw(
      "POST /w/headers HTTP/1.1\r\nHost: h\r\nConnection: close, X-Private\r\nX-Private: 1\r\nX-Open: 2\r\nContent-Length: 0\r\n\r\n",
    );
    expect(answer).toContain('["x-open","2"]');
    expect(answer).not.toContain("x-private");
  });

  test("an answer keeps its headers, and loses those of the connection", async () => {
    const response = await stage.fetch("/w/odd");
    expect(await response.text()).toBe("body");
    expect(response.headers.get("content-length")).toBe("4");
    for (const name of ["x-private", "keep-alive", "transfer-encoding"]) expect(response.headers.has(name)).toBeFalse();
    expect(response.headers.get("x-many")).toBe("1, 2");
    expect(response.headers.getSetCookie()).toEqual(["a=1", "b=2"]);
  });

  test("an answer that streams comes piece by piece", async () => {
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
  test("has its name alone, and gives it back with all its files", async () => {
    await using stage = await Stage.open();
    const error = await rejection(createHub({ directory: stage.workspace.directory }));
    expect(error).toBeInstanceOf(BusExistsError);
    expect(statSync(join(stage.workspace.directory, "hub.control")).mode & 0o777).toBe(0o600);
    await stage.worker();
    await stage.hub.close();
    await stage.workers[0]!.kill();
    expect(readdirSync(stage.workspace.directory)).toEqual([]);
  });

  test("takes the place of one that was killed", async () => {
    await using stage = new Stage() as Stage;
    writeFileSync(join(stage.workspace.directory, "hub.control"), "");
    await stage.start();
    await stage.worker();
    expect((await stage.fetch("/w/users/1")).status).toBe(200);
  });

  test("answers inside a server of one's own", async () => {
    await using stage = new Stage() as Stage;
    stage.hub = await createHub({ directory: stage.workspace.directory });
    expect(stage.hub.url).toBeNull();
    await stage.worker();
    const own = Bun.serve({ port: 0, fetch: (request, server) => stage.hub.fetch(request, server) });
    const response = await fetch(new URL("/w/users/5", own.url));
    expect(((await response.json()) as { id: string }).id).toBe("5");
    await own.stop(true);
  });

  test("that closes does not wait for what hangs, and does not invite to try again what may have run", async () => {
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

  test.each([
    [{ name: "a.b" }],
    [{ name: "" }],
    [{ name: "x".repeat(25) }],
    [{ port: -1 }],
    [{ port: 1.5 }],
    [{ timeout: -1 }],
    [{ payloadLimit: 0 }],
    [{ adminToken: "short" }],
    [{ ping: { interval: 0 } }],
    [{ sse: { clientBytes: 1 } }],
  ] as [HubOptions][])("refuses %p", async (options) => {
    await using workspace = new Workspace();
    expect(await rejection(createHub({ directory: workspace.directory, ...options }))).toBeInstanceOf(
      InvalidConfigError,
    );
    expect(readdirSync(workspace.directory)).toEqual([]);
  });
});

describe("workers", () => {
  test("two of one name share its requests, two names have their own", async () => {
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

  test("one that dies with a request is 502; then its routes are 503, and after a while 404", async () => {
    await using stage = await Stage.open({ goneFor: 150 });
    await stage.worker();
    expect(await failureOf(await stage.fetch("/w/die"))).toEqual({ status: 502, code: "WORKER_DIED" });
    const gone = await stage.fetch("/w/users/1");
    expect(gone.headers.get("retry-after")).toBe("1");
    expect(await failureOf(gone)).toEqual({ status: 503, code: "NO_WORKER" });
    await Bun.sleep(250);
    expect(await failureOf(await stage.fetch("/w/users/1"))).toEqual({ status: 404, code: "NO_ROUTE" });
  });

  test("of a new hub may be on their way: until one came, a path is 503, and a browser's stream comes again", async () => {
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

  test("one that comes again is served at once", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    await worker.kill();
    await stage.worker();
    expect((await stage.fetch("/w/users/1")).status).toBe(200);
  });

  test("one that stops finishes what runs, and leaves", async () => {
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

  test("find a hub that restarts, and one that comes late", async () => {
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

  test("while one registers again under load, no request sees a gap", async () => {
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

  test("a route that another living name has is refused by name; of one that is gone it is free", async () => {
    await using stage = await Stage.open();
    const first = await stage.worker("a", ["GET /same/:x"]);
    const client = stage.client();
    const register = () =>
      client.call("/internal/register", { name: "b", routes: [{ method: "GET", path: "/same/{y}" }] });
    const error = await rejection<HubError>(register());
    expect([error.status, error.reason]).toEqual([409, "ROUTE_TAKEN"]);
    expect(error.message).toContain('worker "a"');
    await first.kill();
    await until(() => stage.hub !== null, "");
    await Bun.sleep(100);
    await register();
  });

  test("one whose event loop hangs is evicted by pings, one that is full is not", async () => {
    await using stage = await Stage.open({ ping: { interval: 50, timeout: 100, misses: 3 }, slots: 2 });
    const hung = await stage.worker("a");
    const full = await stage.worker("b");
    const slow = [stage.fetch("/b/slow?ms=1500"), stage.fetch("/b/slow?ms=1500")];
    void stage.fetch("/a/block?ms=1500").catch(() => {});
    await hung.line("blocks");
    await until(() => false, "time", 900).catch(() => {});
    expect((await stage.fetch("/a/users/1")).status).toBe(503);
    expect(full.lines.some((line) => line.startsWith("disconnected"))).toBeFalse();
    for (const one of slow) expect((await one).status).toBe(200);
    await until(() => hung.lines.filter((line) => line === "connected").length === 2, "it comes again");
    expect((await stage.fetch("/a/users/1")).status).toBe(200);
  });
});

describe("the control socket", () => {
  test.each([
    ["/internal/register", {}, 400, "BAD_FIELD"],
    ["/internal/register", { name: "a/b", routes: [] }, 400, "BAD_NAME"],
    ["/internal/register", { name: "../x", routes: [] }, 400, "BAD_NAME"],
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

  test("a worker that nobody listens to says so", async () => {
    await using workspace = new Workspace();
    const error = await rejection<HubError>(new HubClient("hub", workspace.directory).call("/health"));
    expect([error.status, error.retryable]).toEqual([0, true]);
    expect(existsSync(join(workspace.directory, "hub.control"))).toBeFalse();
  });

  test("routes are named twice or too late in one worker: a typed error", async () => {
    const worker = new HubWorker({ name: "x" }).get("/a", () => "a");
    expect(() => worker.get("/a", () => "b")).toThrow(InvalidConfigError);
    expect(() => worker.route("BREW", "/a", () => "b")).toThrow(InvalidConfigError);
    expect(() => worker.get("a", () => "b")).toThrow("is no pattern");
  });
});
