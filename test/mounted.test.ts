/** What an app behind the bus can rely on: its URL, the client's address, HEAD, and files. */

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Elysia } from "elysia";
import { Hono } from "hono";
import { getConnInfo, upgradeWebSocket } from "hono/bun";
import { csrf } from "hono/csrf";
import { HTTPException } from "hono/http-exception";
import { InvalidConfigError } from "../src/index.ts";
import { cert, key } from "./fixtures/certificate.ts";
import { Stage } from "./hub-stage.ts";
import { rejection, Workspace } from "./support.ts";

const FILES = join(import.meta.dir, "differential/files");
const FORM = "application/x-www-form-urlencoded";

function hono(): Hono {
  const app = new Hono();
  app.use("/csrf", csrf());
  app.post("/csrf", (c) => c.text("passed"));
  app.get("/url", (c) => c.json([c.req.url, c.req.header("host")]));
  app.get("/on", (c) => c.redirect(new URL("/url", c.req.url).href));
  app.get("/address", (c) => c.json(getConnInfo(c).remote));
  app.get(
    "/socket",
    upgradeWebSocket(() => ({})),
  );
  app.onError((error, c) => {
    if (error instanceof HTTPException) return error.getResponse();
    return c.text(`${error instanceof InvalidConfigError} ${error.message}`, 500);
  });
  return app;
}

test("a hub inside a server with TLS: url, redirects and csrf use https", async () => {
  await using stage = await Stage.open({ port: false });
  await using _worker = await stage.serve({ "/*": hono() });
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", tls: { cert, key }, fetch: stage.hub.fetch });
  try {
    const ask = (path: string, init: BunFetchRequestInit = {}): Promise<Response> =>
      fetch(`https://localhost:${server.port}${path}`, { ...init, tls: { ca: cert }, redirect: "manual" });
    const host = `localhost:${server.port}`;
    expect(await (await ask("/url")).json()).toEqual([`https://${host}/url`, host]);
    expect((await ask("/on")).headers.get("location")).toBe(`https://${host}/url`);
    const post = (origin: string): Promise<Response> =>
      ask("/csrf", { method: "POST", body: "a=1", headers: { origin, "content-type": FORM } });
    expect(await (await post(`https://${host}`)).text()).toBe("passed");
    expect((await post(`http://${host}`)).status).toBe(403);
    expect(await (await ask("/address")).json()).toEqual({ address: "127.0.0.1", addressType: "IPv4", port: 0 });
  } finally {
    await server.stop(true);
  }
});

test("a file that is truncated while it is sent does not look complete", async () => {
  const directory = mkdtempSync(join(tmpdir(), "mounted-"));
  try {
    const path = join(directory, "big.bin");
    await using stage = await Stage.open();
    await using worker = await stage.serve({ "/*": { fetch: () => new Response(Bun.file(path)) } });
    const failures: string[] = [];
    worker.on("handlerError", (error) => failures.push(String(error)));
    for (const headers of [[], [["range", "bytes=0-7999999"]]] as [string, string][][]) {
      await Bun.write(path, new Uint8Array(9_000_000));
      const reader = (await stage.fetch("/", { headers })).body!.getReader();
      await reader.read();
      truncateSync(path, 1_000);
      const rest = async (): Promise<void> => {
        while (!(await reader.read()).done);
      };
      await rejection(rest());
    }
    expect(failures).toHaveLength(2);
    for (const failure of failures) expect(failure).toContain("The file became shorter while it was sent");
  } finally {
    rmSync(directory, { recursive: true });
  }
});

/** Headers from a proxy in front of the hub. */
const PROXIED = {
  "x-forwarded-proto": "https",
  "x-forwarded-host": "shop.test",
  "x-forwarded-for": "10.9.9.9, 2001:db8::7",
};

test("behind a trusted proxy, it uses the proxy's scheme, host and client; otherwise its own", async () => {
  for (const trustProxy of [true, false]) {
    await using stage = await Stage.open({ trustProxy });
    await using _worker = await stage.serve({ "/*": hono() });
    const { host } = stage.hub.url!;
    const ask = async (path: string, more = {}): Promise<unknown> =>
      (await stage.fetch(path, { headers: { ...PROXIED, ...more } })).json();
    expect(await ask("/url")).toEqual([trustProxy ? "https://shop.test/url" : `http://${host}/url`, host]);
    expect(await ask("/url", { "x-forwarded-host": "a.test, b.test", "x-forwarded-proto": "https, http" })).toEqual([
      trustProxy ? "https://a.test/url" : `http://${host}/url`,
      host,
    ]);
    const seen = { address: "2001:db8::7", addressType: "IPv6", port: 0 };
    const own = { address: "127.0.0.1", addressType: "IPv4", port: 0 };
    expect(await ask("/address")).toEqual(trustProxy ? seen : own);
    expect(await ask("/address", { "x-forwarded-for": "[2001:db8::7]:80" })).toEqual(trustProxy ? seen : own);
    expect(await ask("/address", { "x-forwarded-for": "10.0.0.1:80" })).toMatchObject({
      address: trustProxy ? "10.0.0.1" : "127.0.0.1",
    });
    expect(await ask("/address", { "x-forwarded-for": "nobody" })).toEqual(trustProxy ? {} : own);
    const odd = await stage.fetch("/url", { headers: { "x-forwarded-host": "a:99999" } });
    expect(odd.status).toBe(trustProxy ? 400 : 200);
    const headers = { ...PROXIED, origin: "https://shop.test", "content-type": FORM };
    const posted = await stage.fetch("/csrf", { method: "POST", body: "a=1", headers });
    expect(posted.status).toBe(trustProxy ? 200 : 403);
  }
});

test("a forwarded host with a path is refused: it could reach another route", async () => {
  await using stage = await Stage.open({ trustProxy: true });
  await using _worker = await stage.serve({ "/*": hono() });
  const ask = (headers: Record<string, string>): Promise<Response> => stage.fetch("/none", { headers });
  for (const host of ["a/url?", "a/url?#", "a\\url?", "a?", "a#", "user@a", "a\tb", "a/url?, b", ", b"]) {
    const response = await ask({ "x-forwarded-host": host });
    expect([host, response.status, await response.json()]).toMatchObject([host, 400, { code: "BAD_HOST" }]);
  }
  const headers = { "x-forwarded-host": "a.test , b", "x-forwarded-proto": "HTTPS , http" };
  expect(await (await stage.fetch("/url", { headers })).json()).toEqual(["https://a.test/url", stage.hub.url!.host]);
  const empty = { "x-forwarded-host": "", "x-forwarded-for": "" };
  expect(await (await stage.fetch("/address", { headers: empty })).json()).toMatchObject({ address: "127.0.0.1" });
});

test("a host header with a path reaches no app", async () => {
  await using stage = await Stage.open({ port: false });
  await using _worker = await stage.serve({ "/*": hono() });
  await using space = new Workspace();
  const bus = await space.bus();
  await space.worker().then((worker) => worker.serve(hono()));
  for (const host of ["a/url?", "a b", "user@a"]) {
    const answered = await stage.hub.fetch(new Request("http://app.test/none", { headers: { host } }));
    expect([host, answered.status, await answered.json()]).toMatchObject([host, 400, { code: "BAD_HOST" }]);
    expect(await rejection(bus.fetch("/none", { headers: { host } }))).toMatchObject({
      message: expect.stringContaining("is not a valid host"),
    });
  }
});

test("a peer without an address keeps its place after the client that the proxy saw", async () => {
  await using stage = await Stage.open({ port: false, trustProxy: true });
  await using _worker = await stage.serve({ "/*": hono() });
  const asked = new Request("http://app.test/address", { headers: PROXIED });
  expect(await (await stage.hub.fetch(asked)).json()).toMatchObject({ address: "2001:db8::7" });
});

test("an app's calls of Bun's server: requestIP answers, tuning calls do nothing, other calls say what to do instead", async () => {
  await using stage = await Stage.open();
  const elysia = new Elysia().get("/address", ({ server, request }) => server?.requestIP(request));
  const plain = {
    fetch: (request: Request, server: Bun.Server<unknown>): Response => {
      server.timeout(request, 0);
      return Response.json([server.requestIP(request), server.requestIP(new Request(request.url))]);
    },
  };
  await using _worker = await stage.serve({ "/hono/*": hono(), "/elysia/*": elysia, "/plain/*": plain });
  const address = { address: "127.0.0.1", family: "IPv4", port: 0 };
  expect(await (await stage.fetch("/elysia/address")).json()).toEqual(address);
  expect(await (await stage.fetch("/plain/")).json()).toEqual([address, null]);
  const socket = await stage.fetch("/hono/socket", { headers: { upgrade: "other" } });
  expect(await socket.text()).toStartWith("true server.upgrade() is not available to an app behind the bus.");
  for (const method of ["publish", "subscriberCount", "fetch"] as const)
    expect(() => (elysia.server as unknown as Record<string, () => void>)[method]!()).toThrow(InvalidConfigError);
  await elysia.stop(); // like `using`
  expect(await (await stage.fetch("/elysia/address")).text()).toBe("");
  const listening = Bun.serve({ port: 0, fetch: () => new Response() });
  const other = new Elysia();
  other.server = listening;
  await using _other = await stage.serve({ "/other/*": other }, { name: "other" });
  expect(other.server).toBe(listening);
  await listening.stop(true);
});

test("Elysia answers on a bus with any name", async () => {
  const app = new Elysia()
    .get("/", () => "root")
    .get("/path", ({ server, request }) => `${server?.requestIP(request)}`);
  for (const name of ["a", "abc", "api.1", "1.2"]) {
    await using space = new Workspace();
    const bus = await space.bus({ name });
    await space.worker(undefined, { name }).then((worker) => worker.serve(app));
    expect(await (await bus.fetch("/path")).text()).toBe("null");
    expect(await (await bus.fetch("/")).text()).toBe("root");
  }
});

test("an Elysia app on both a bus and a hub sees the hub's clients, in either order of requests", async () => {
  await using stage = await Stage.open();
  await using space = new Workspace();
  const bus = await space.bus();
  const worker = await space.worker();
  for (const isBusFirst of [true, false]) {
    const app = new Elysia().get("/address", ({ server, request }) => server?.requestIP(request) ?? "unknown");
    if (isBusFirst) worker.serve(app, { replace: true });
    await using _worker = await stage.serve({ "/*": app });
    if (!isBusFirst) worker.serve(app, { replace: true });
    expect(await (await stage.fetch("/address")).json()).toMatchObject({ address: "127.0.0.1" });
    expect(await (await bus.fetch("/address")).text()).toBe("unknown");
  }
});

test("HEAD goes to the worker and route of GET, unless the same route has its own HEAD", async () => {
  await using stage = await Stage.open();
  const say = (who: string) => () => ({ headers: { who }, body: who });
  const app = { fetch: () => new Response("app", { headers: { who: "app" } }) };
  await using _app = await stage.serve({ "/*": app }, { name: "app" });
  await using _one = await stage.serve(
    {
      "/get": { GET: say("get") },
      "/own": { GET: say("own get"), HEAD: say("own head") },
      "/:id": { HEAD: say("id head") },
    },
    { name: "one" },
  );
  const who = async (method: string, path: string) => (await stage.fetch(path, { method })).headers.get("who");
  expect([await who("GET", "/get"), await who("HEAD", "/get")]).toEqual(["get", "get"]);
  expect([await who("GET", "/own"), await who("HEAD", "/own")]).toEqual(["own get", "own head"]);
  expect([await who("GET", "/other"), await who("HEAD", "/other")]).toEqual(["app", "app"]);
  const [got, asked] = await Promise.all(["GET", "HEAD"].map((method) => stage.fetch("/health", { method })));
  expect([asked!.status, asked!.headers.get("content-length")]).toEqual([200, got!.headers.get("content-length")]);
});

const LONG = "x".repeat(400_000);

test("HEAD gives GET's content-length or none; never 0 when GET has a body", async () => {
  const pending = async function* () {
    await Bun.sleep(1);
    yield "later";
  };
  const app = new Hono();
  app.get("/hono", (c) => c.text("text"));
  app.get("/sized", (c) => c.text("sized", 200, { "content-length": "5" }));
  const responses: Record<string, () => Response> = {
    "/text": () => new Response("text"),
    "/long": () => new Response(LONG),
    "/blob": () => new Response(new Blob(["blob"])),
    "/file": () => new Response(Bun.file(join(FILES, "digits.txt"))),
    "/slice": () => new Response(Bun.file(join(FILES, "digits.txt")).slice(5)),
    "/empty": () => new Response(Bun.file(join(FILES, "empty.txt"))),
    "/nothing": () => new Response(""),
    "/stream": () => new Response(pending() as unknown as ReadableStream, { headers: { "content-length": "7" } }),
    "/304": () => new Response(null, { status: 304 }),
  };
  const fetching = { fetch: (request: Request) => responses[new URL(request.url).pathname]!() };
  await using stage = await Stage.open();
  await using _worker = await stage.serve({
    "/text": () => "text",
    "/json": () => ({ json: { a: 1 } }),
    "/bytes": () => new Uint8Array(3),
    "/long": () => LONG,
    "/stream": () => pending(),
    "/null": () => null,
    "/hono/*": app,
    "/app/*": fetching,
  });
  const own = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: stage.hub.fetch });
  try {
    for (const url of [stage.hub.url!, own.url]) {
      const length = async (path: string): Promise<string | null> => {
        const response = await fetch(new URL(path, url), { method: "HEAD" });
        expect(response.status).toBeLessThan(400);
        return response.headers.get("content-length");
      };
      for (const [path, expected] of Object.entries({
        "/text": "4",
        "/json": "7",
        "/bytes": "3",
        "/long": "400000",
        "/stream": null,
        "/null": null,
        "/hono/hono": null, // Hono removes the body
        "/hono/sized": "5",
        "/app/text": "4",
        "/app/long": "400000",
        "/app/blob": "4",
        "/app/file": "20",
        "/app/slice": "15",
        "/app/empty": "0",
        "/app/nothing": null, // looks as if the app had removed the body
        "/app/stream": null,
        "/app/304": null,
      }))
        expect([path, await length(path)]).toEqual([path, expected]);
    }
  } finally {
    await own.stop(true);
  }
});

test("a file is answered over the bus as by Bun.serve: a range, no range, its position; a missing file is an error", async () => {
  const directory = mkdtempSync(join(tmpdir(), "mounted-"));
  try {
    const big = join(directory, "big.bin");
    await Bun.write(big, Buffer.alloc(600_000, "0123456789"));
    const app = new Hono();
    app.get("/big", () => new Response(Bun.file(big)));
    app.get("/gone", () => new Response(Bun.file(join(directory, "gone"))));
    const oddName = join(directory, "odd\n    offset: 3\n");
    await Bun.write(oddName, "0123456789");
    app.get("/odd", () => new Response(Bun.file(oddName)));
    const later = async function* () {
      await Bun.sleep(1);
      yield "later";
    };
    const statusText = 'x\n  FileRef ("/none") {\n  Blob (1 bytes)'; // like a body in the inspection of a response
    app.get("/status", () => new Response(later() as unknown as ReadableStream, { statusText }));
    const start = (controller: ReadableStreamDefaultController<string>): void => {
      controller.enqueue("te");
      controller.enqueue("xt");
      controller.close();
    };
    app.get("/texts", () => new Response(new ReadableStream({ start }) as ReadableStream));
    app.get("/long", (c) => c.text(LONG));
    await using space = new Workspace();
    const bus = await space.bus();
    await space.worker().then((worker) => worker.serve(app));
    const range = (asked: string): Promise<Response> => bus.fetch("/big", { headers: { range: asked } });
    const part = await range("bytes=300001-599998");
    expect([part.status, part.headers.get("content-range")]).toEqual([206, "bytes 300001-599998/600000"]);
    const bytes = await part.bytes();
    expect([bytes.length, bytes[0], bytes.at(-1)]).toEqual([299_998, 49, 56]); // "1" and "8"
    const none = await range("bytes=600000-");
    expect([none.status, none.headers.get("content-range"), await none.text()]).toEqual([416, "bytes */600000", ""]);
    expect((await (await bus.fetch("/big")).bytes()).length).toBe(600_000);
    for (const headers of [[], [["range", "bytes=0-1"]]] as [string, string][][])
      expect(String(await rejection(bus.fetch("/gone", { headers })))).toContain("ENOENT");
    expect(await (await bus.fetch("/status")).text()).toBe("later");
    const odd = await bus.fetch("/odd");
    expect([odd.status, await odd.text()]).toEqual([200, "0123456789"]);
    expect(await (await bus.fetch("/texts")).text()).toBe("text");
    const long = await bus.fetch("/long");
    expect([long.headers.get("content-type"), (await long.text()).length]).toEqual([
      "text/plain;charset=utf-8",
      400_000,
    ]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
