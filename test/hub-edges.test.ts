/** The edges of a hub: streams that break, hosts that are not hosts, spellings of a path. */

import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HubWorker, sse } from "../src/hub/index.ts";
import { Stage } from "./hub-stage.ts";
import { Wires } from "./hub-wire.ts";
import { until } from "./support.ts";

describe("an answer that breaks off", () => {
  const routes = {
    "/at-once": () => ({
      body: new ReadableStream({ pull: (controller) => controller.error(new Error("a secret of the handler")) }),
    }),
    "/later": () => ({
      body: (async function* (): AsyncGenerator<string> {
        yield "a piece";
        await Bun.sleep(20);
        throw new Error("a secret of the handler");
      })(),
    }),
    "/response": () =>
      new Response(
        new ReadableStream({
          pull: async (controller) => {
            controller.enqueue("a piece");
            await Bun.sleep(20);
            throw new Error("a secret of the handler");
          },
        }),
      ),
  };

  test("is logged by its worker, not by the hub, and its client sees that it is incomplete", async () => {
    const folder = mkdtempSync(join(tmpdir(), "slotbus-hub-stderr-"));
    const log = join(folder, "stderr");
    {
      await using wires = await Wires.open({}, `exec 2>${log}`);
      const { directory } = wires.workspace;
      await using worker = await HubWorker.start({ name: "breaks", directory, routes });
      const failed: string[] = [];
      worker.on("handlerError", (error, { path }) => failed.push(`${path} ${(error as Error).message}`));
      for (const path of Object.keys(routes)) {
        const wire = wires.send(`GET ${path} HTTP/1.1\r\nHost: h\r\n\r\n`);
        await until(() => wire.ended, "the connection is closed");
        expect(wire.text).not.toContain("secret");
        expect(wire.text).not.toMatch(/\r\n0\r\n\r\n$/); // the last chunk of a body
      }
      await until(() => failed.length === 3, "the worker reports all three");
      expect(failed).toEqual(Object.keys(routes).map((path) => `${path} a secret of the handler`));
    }
    expect(readFileSync(log, "utf8")).toBe("");
    rmSync(folder, { recursive: true });
  });

  test("is an error when `hub.fetch` is called without a server", async () => {
    await using stage = await Stage.open();
    await using worker = await stage.serve(routes);
    worker.on("handlerError", () => {});
    const response = await stage.hub.fetch(new Request("http://h/later"));
    const error = await response.text().catch((error: unknown) => error);
    expect(error).toMatchObject({ code: "REMOTE" });
  });
});

describe("a host", () => {
  const app = { fetch: (request: Request) => new Response(request.url) };

  test("that is not valid in a URL is 400, for a handler and for a mounted app", async () => {
    await using stage = await Stage.open();
    await using _worker = await stage.serve({ "/plain": () => "plain", "/app/*": app });
    const status = async (host: string, path: string): Promise<string> => {
      const text = await stage.raw(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
      return `${text.split(" ")[1]} ${/"code":"(\w+)"/.exec(text)?.[1] ?? ""}`;
    };
    for (const host of ["a:99999", "a:65536", "a:x", "a:-1", ":80", "a:80:90", "[::1]:99999", "1.2.3.256", "a%20b"])
      for (const path of ["/plain", "/app/x", "/events", "/_slotbus/health", "/none"])
        expect([host, path, await status(host, path)]).toEqual([host, path, "400 BAD_HOST"]);
    for (const host of ["a", "a:65535", "a:", "[::1]:80", "1.2.3.4"])
      for (const path of ["/plain", "/app/x"])
        expect([host, path, await status(host, path)]).toEqual([host, path, "200 "]);
  });
});

describe("a path of an event stream", () => {
  test.each([
    ["/feed/a@b", "/feed/a%40b"],
    ["/feed/a%40b", "/feed/a@b"],
    ["/feed/%61%2d%7E", "/feed/a-~"],
    ["/feed/%C3%A9", "/feed/é"],
    ["/feed/%c3%a9/", "/feed/%C3%A9"],
    ["/feed/a%2Fb", "/feed/a%2fb"],
    ["/feed/a%25b", "/feed/%61%25b"],
  ])("client of %s, push to %s: one stream, with its ids and its past", async (listened, pushed) => {
    await using stage = await Stage.open();
    await using worker = await stage.serve({ "/feed/:room": sse() });
    const emitter = worker.emitter();
    const controller = new AbortController();
    const { signal } = controller;
    const first = (await stage.fetch(listened, { signal })).body!.getReader();
    expect(await emitter.ssePush(pushed, "t", "one")).toBe(1);
    const id = await idIn(first, "one");
    const second = (await stage.fetch(pushed, { signal, headers: { "last-event-id": id } })).body!.getReader();
    expect(await emitter.ssePush(listened, "t", "two")).toBe(2);
    const [a, b] = await Promise.all([idIn(first, "two"), idIn(second, "two")]);
    expect(a).toBe(b);
    const third = (await stage.fetch(pushed, { signal, headers: { "last-event-id": id } })).body!.getReader();
    expect(await idIn(third, "two")).toBe(a);
    controller.abort();
  });

  test("%2F is not a slash, and no other path matches", async () => {
    await using stage = await Stage.open();
    await using worker = await stage.serve({ "/feed/:room": sse(), "/feed/:room/:sub": sse(), "/at/@me": sse() });
    const controller = new AbortController();
    const stream = await stage.fetch("/feed/a%2Fb", { signal: controller.signal }); // used below: a dropped response is cancelled
    for (const other of ["/feed/a/b", "/feed/a%252Fb", "/feed/A%2Fb", "/feed/a%2Fb/c", "/feed/a%2F", "/at/%40me"])
      expect([other, await worker.emitter().ssePush(other, "t", "")]).toEqual([other, 0]);
    expect(await worker.emitter().ssePush("/feed/a%2fb", "t", "")).toBe(1);
    expect(stream.status).toBe(200);
    controller.abort();
  });
});

/** Reads until an event with this data has come; returns its id. */
async function idIn(reader: Pick<ReadableStreamDefaultReader<Uint8Array>, "read">, data: string): Promise<string> {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`the stream ended before ${data}: ${text}`);
    text += new TextDecoder().decode(value);
    const id = new RegExp(`id: (\\S+)\nevent: t\ndata: ${data}\n`).exec(text)?.[1];
    if (id !== undefined) return id;
  }
}
