/** The log of `slotbus hub`, and the hub's events that it is made from. */

import { describe, expect, test } from "bun:test";
import { closeSync, constants, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { LineWriter } from "../src/cli/log.ts";
import { HubClient } from "../src/hub/client.ts";
import { type HubOptions, type HubRequestInfo, HubWorker } from "../src/hub/index.ts";
import { Stage } from "./hub-stage.ts";
import { Child, rejection, until, Workspace } from "./support.ts";

const COMMAND = "../../src/cli/slotbus.ts";
const routes = {
  "/users/:id": () => "seven",
  "/stream": () => ({
    body: (async function* (): AsyncGenerator<string> {
      yield "a";
      await Bun.sleep(5);
      yield "b";
    })(),
  }),
};

describe("the event `request`", () => {
  async function told(options: HubOptions, path: string, init: RequestInit = {}): Promise<HubRequestInfo> {
    await using stage = await Stage.open(options);
    await using _worker = await stage.serve(routes);
    const heard: HubRequestInfo[] = [];
    stage.hub.on("request", (request) => heard.push(request));
    const response = await stage.fetch(path, init);
    await response.text();
    expect(heard.map(({ id, status }) => [id, status])).toEqual([
      [response.headers.get("x-request-id")!, response.status],
    ]);
    expect(heard[0]!.ms).toBeGreaterThan(0);
    return { ...heard[0]!, id: "", ms: 0 };
  }

  const base = { id: "", ms: 0, method: "GET", status: 200, address: "127.0.0.1" };

  test("gives the client, the path, the worker, the status and the time", async () => {
    const users = { ...base, path: "/users/7", worker: "w" };
    expect(await told({}, "/users/7?secret=1")).toEqual({ ...users, bytes: 5 });
    expect(await told({}, "/users/7", { method: "HEAD" })).toEqual({ ...users, method: "HEAD", bytes: 0 });
    expect(await told({}, "/stream")).toEqual({ ...users, path: "/stream", bytes: null });
    expect(await told({ goneFor: 0 }, "/none")).toEqual({
      ...base,
      path: "/none",
      status: 404,
      worker: null,
      bytes: null,
    });
  });

  test("gives the client that a trusted proxy names", async () => {
    const headers = { "x-forwarded-for": "10.6.6.6, 10.0.0.1" }; // the client wrote the first one
    expect((await told({ trustProxy: true }, "/users/7", { headers })).address).toBe("10.0.0.1");
    const odd = { "x-forwarded-for": "10.0.0.1 GET /users/8 200" }; // would look like a field of a text line
    expect((await told({ trustProxy: true }, "/users/7", { headers: odd })).address).toBeNull();
    expect((await told({ trustProxy: true }, "/users/7")).address).toBe("127.0.0.1");
    expect((await told({}, "/users/7", { headers })).address).toBe("127.0.0.1");
  });
});

test("the event `refused` names a refused registration, and the reason", async () => {
  await using stage = await Stage.open();
  await using _worker = await stage.serve(routes);
  const refused: unknown[] = [];
  stage.hub.on("refused", (worker, reason) => refused.push(worker, reason));
  await rejection(stage.serve({ "/users/:name": () => "" }, { name: "other" }));
  await rejection(stage.client().call("/internal/register", { name: "no name", routes: [] }));
  const same = 'GET /users/:name matches the same paths as /users/:id of worker "w".';
  expect(refused).toEqual([
    { name: "other", pid: process.pid },
    same,
    { name: "no name", pid: null },
    expect.stringContaining("no name"),
  ]);
});

// ---- the command ----------------------------------------------------------------------------------------------------

/** `slotbus hub`; `shell` runs before it, in the same process. */
async function start(workspace: Workspace, args: string[], shell: string): Promise<Child & { url: URL }> {
  const all = ["hub", "--port", "0", "--directory", workspace.directory, ...args];
  const child = new Child(COMMAND, all, { SLOTBUS_ADMIN_TOKEN: "", SLOTBUS_CONTROL_TOKEN: "" }, shell);
  await until(() => child.lines.length > 0, "it listens", 20_000);
  return Object.assign(child, { url: new URL(/http:[^\s";]+/.exec(child.lines[0]!)![0]) });
}

async function end(hub: Child): Promise<void> {
  hub.process.kill("SIGTERM");
  expect(await hub.process.exited).toBe(0);
}

interface Line {
  level: string;
  event: string;
  time: string;
  [name: string]: unknown;
}

const parsed = (text: string): Line[] =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line);

describe("slotbus hub --log", () => {
  test.each([
    ["off", []],
    ["warn", ["died", "refused"]],
    ["info", ["died", "joined", "left", "refused"]],
    [null, ["died", "joined", "left", "refused"]],
    ["requests", ["died", "joined", "left", "refused", "request"]],
  ])(
    "%s says, as JSON lines when nobody looks: %j",
    async (level, events) => {
      await using workspace = new Workspace();
      const log = join(workspace.directory, "log");
      workspace.leftovers.push("log");
      await using hub = await start(workspace, level === null ? [] : ["--log", level], `exec 2>${log}`);
      const worker = (name: string): Child => new Child("hub-worker.ts", ["hub", name, workspace.directory, "[]"], {});
      await using left = worker("left");
      await using killed = worker("killed");
      for (const one of [left, killed]) await one.line("connected");
      const same = { "/left/users/:other": () => "" };
      await rejection(HubWorker.start({ name: "same", directory: workspace.directory, routes: same }));
      const { headers } = await fetch(new URL("/left/users/7?secret=1", hub.url));
      left.process.kill("SIGTERM");
      await left.line("stopped");
      await killed.kill();
      await until(async () => (await fetch(new URL("/killed/users/7", hub.url))).status === 503, "it is gone");
      await end(hub);
      const lines = parsed(readFileSync(log, "utf8"));
      expect([...new Set(lines.map(({ event }) => event))].sort()).toEqual(events);
      const of = (event: string): Line[] => lines.filter((line) => line.event === event);
      for (const { time, level: of } of lines)
        expect([new Date(time).toISOString(), ["info", "warn"].includes(of)]).toEqual([time, true]);
      if (events.includes("died")) {
        expect(of("died")).toEqual([expect.objectContaining({ level: "warn", worker: "killed", pid: killed.pid })]);
        expect(of("refused")).toEqual([
          expect.objectContaining({ worker: "same", reason: expect.stringContaining('"left"') }),
        ]);
      }
      if (events.includes("joined")) {
        expect(
          of("joined")
            .map(({ worker }) => worker)
            .sort(),
        ).toEqual(["killed", "left"]);
        expect(of("left")).toEqual([expect.objectContaining({ level: "info", worker: "left", pid: left.pid })]);
      }
      if (events.includes("request"))
        expect(of("request")[0]).toMatchObject({
          method: "GET",
          path: "/left/users/7",
          status: 200,
          bytes: expect.any(Number),
          worker: "left",
          address: "127.0.0.1",
          id: headers.get("x-request-id"),
        });
    },
    30_000,
  );

  test("on a terminal it is text, with control characters of clients and workers replaced", async () => {
    await using workspace = new Workspace();
    let text = "";
    await using terminal = new Bun.Terminal({
      cols: 200,
      rows: 24,
      data: (_terminal, data) => (text += Buffer.from(data).toString()),
    });
    const args = ["hub", "--port", "0", "--directory", workspace.directory, "--log", "requests"];
    const hub = Bun.spawn([process.execPath, join(import.meta.dir, "fixtures", COMMAND), ...args], { terminal });
    await until(() => text.includes("listens on"), "it listens", 20_000);
    const url = new URL(/http:[^\s;]+/.exec(text)![0]);
    await using worker = await HubWorker.start({ name: "w", directory: workspace.directory, routes });
    await fetch(new URL("/users/7", url), { headers: { "x-request-id": "mine" } });
    const client = new HubClient("hub", workspace.directory, true);
    await rejection(client.call("/internal/register", { name: "\u001b[31mred\n", routes: [] }));
    await until(() => text.includes("refused"), "all is logged");
    expect(text).toMatch(/^\d\d:\d\d:\d\d worker w \(pid \d+\) joined\r$/m);
    expect(text).toMatch(/^\d\d:\d\d:\d\d GET \/users\/7 200 \d+\.\d ms 5 B w 127\.0\.0\.1 mine\r$/m);
    expect(text).toMatch(/^\d\d:\d\d:\d\d worker \?\[31mred\? \(pid -\) refused: /m);
    expect(text).not.toContain("\u001b[31m");
    await worker.close();
    hub.kill("SIGTERM");
    expect(await hub.exited).toBe(0);
  }, 30_000);

  /** A pipe that the test reads when it wants. */
  function fifo(workspace: Workspace): { path: string; fd: number } {
    const path = join(workspace.directory, "fifo");
    workspace.leftovers.push("fifo");
    expect(Bun.spawnSync(["mkfifo", path]).exitCode).toBe(0);
    return { path, fd: openSync(path, constants.O_RDWR | constants.O_NONBLOCK) };
  }

  function readAll(fd: number): string {
    const buffer = Buffer.alloc(1 << 20);
    try {
      return buffer.toString("utf8", 0, readSync(fd, buffer));
    } catch (error) {
      if ((error as { code?: unknown }).code === "EAGAIN") return "";
      throw error;
    }
  }

  /** Sends requests with long paths, and waits for their answers. */
  async function ask(url: URL, count: number): Promise<void> {
    const path = `/users/${"x".repeat(4_000)}`;
    for (let done = 0; done < count; done += 50) {
      const answers = await Promise.all(Array.from({ length: 50 }, () => fetch(new URL(path, url))));
      for (const answer of answers) expect([answer.status, await answer.text()]).toEqual([200, "seven"]);
    }
  }

  test("a reader that stops delays no request, and gets the number of lost lines", async () => {
    await using workspace = new Workspace();
    const { path, fd } = fifo(workspace);
    await using hub = await start(workspace, ["--log", "requests"], `exec 2>${path}`);
    await using worker = await HubWorker.start({ name: "w", directory: workspace.directory, routes });
    await ask(hub.url, 500); // 2 MB of log: the pipe and the queue are full
    await ask(hub.url, 1_000);
    let text = "";
    const lost = (): number =>
      parsed(text.slice(0, text.lastIndexOf("\n") + 1)).reduce((sum, { lines }) => sum + Number(lines ?? 0), 0);
    const requests = (): number => text.split('"event":"request"').length - 1;
    await until(() => {
      for (let more = readAll(fd); more !== ""; more = readAll(fd)) text += more;
      return requests() > 200;
    }, "what waited is read");
    await ask(hub.url, 50);
    await until(() => {
      text += readAll(fd);
      return requests() + lost() === 1_550;
    }, "each request is a line, or is counted as lost");
    expect(lost()).toBeGreaterThan(1_000);
    await worker.close();
    await end(hub);
    closeSync(fd);
  }, 60_000);

  test("waiting lines for a reader are bounded", async () => {
    await using workspace = new Workspace();
    const { path, fd } = fifo(workspace);
    const out = openSync(path, constants.O_WRONLY);
    const writer = new LineWriter(out, (lost) => `lost ${lost}`);
    Bun.gc(true);
    const before = process.memoryUsage.rss();
    for (let at = 0; at < 200_000; at++) {
      writer.line(`line ${at} ${"x".repeat(1_000)}`);
      if (at % 100 === 0) await Bun.sleep(0);
    }
    Bun.gc(true);
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 << 20); // of 200 MB
    let text = "";
    let outcome: string = "waits";
    void writer.drain(10_000).then((isDrained) => (outcome = isDrained ? "drained" : "late"));
    const read = (): void => {
      for (let more = readAll(fd); more !== ""; more = readAll(fd)) text += more;
    };
    await until(
      () => {
        read();
        return outcome !== "waits";
      },
      "all is written",
      20_000,
    );
    read();
    expect(outcome).toBe("drained");
    const lost = [...text.matchAll(/^lost (\d+)$/gm)].reduce((sum, [, lines]) => sum + Number(lines), 0);
    expect(lost).toBeGreaterThan(100_000);
    expect(text.match(/^line /gm)!.length + lost).toBe(200_000);
    closeSync(out);
    closeSync(fd);
  }, 30_000);

  test("a reader that never reads does not delay the end of the hub, and a reader that left does not end the hub", async () => {
    for (const goes of [false, true]) {
      await using workspace = new Workspace();
      const { path, fd } = fifo(workspace);
      await using hub = await start(workspace, ["--log", "requests"], `exec 2>${path}`);
      await using worker = await HubWorker.start({ name: "w", directory: workspace.directory, routes });
      if (goes) closeSync(fd);
      await ask(hub.url, 300);
      await worker.close();
      const began = performance.now();
      await end(hub);
      expect(performance.now() - began).toBeLessThan(5_000);
      if (!goes) closeSync(fd);
    }
  }, 60_000);
});
