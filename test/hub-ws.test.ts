/** WebSockets of a hub: handlers in any process of a worker, messages in order and at most once, limits, and all restarts. */

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { Hub, type HubMessageInfo, type HubOptions, type HubSocket, HubWorker, ws } from "../src/hub/index.ts";
import { COMMANDS_PATH } from "../src/hub/socket-commands.ts";
import { Stage } from "./hub-stage.ts";
import { SocketClient } from "./socket-client.ts";
import { Child, rejection, until } from "./support.ts";

/** The part of the npm package `ws` that the tests use. */
interface NpmSocket {
  readonly extensions: string;
  on(event: "open" | "pong", listener: (value: unknown) => void): this;
  on(event: "message", listener: (data: Buffer, isBinary: boolean) => void): this;
  on(event: "close", listener: (code: number, reason: Buffer) => void): this;
  send(data: string | Buffer, options?: { fin: boolean }): void;
  ping(): void;
  close(code: number, reason: string): void;
}

/** A hub, and worker processes with WebSockets. */
class SocketStage extends Stage {
  static override async open(options: HubOptions = {}): Promise<SocketStage> {
    const stage = new SocketStage();
    await stage.start(options);
    return stage;
  }

  async chat(): Promise<Child> {
    const child = new Child("hub-sockets.ts", ["hub", "chat", this.workspace.directory], {});
    this.workers.push(child);
    await child.line("connected");
    return child;
  }

  connect(path = "/chat/1", options: Bun.WebSocketOptions = {}): Promise<SocketClient> {
    return SocketClient.open(this.hub, path, options);
  }
}

const textOf = (messages: readonly (string | Uint8Array)[]): string[] => messages.map(String);

describe("a connection", () => {
  test("gets what its handlers send: text, bytes, and nothing that another one was sent", async () => {
    await using stage = await SocketStage.open();
    const seen: unknown[] = [];
    await using _w = await stage.serve({
      "/echo/:id": ws({
        open: (socket, request) => socket.send(`${request.path} ${socket.params["id"]} ${request.query.get("q")}`),
        message: (socket, message) => {
          seen.push(message);
          socket.send(message);
        },
      }),
    });
    const client = await stage.connect("/echo/a%20b?q=1");
    const other = await stage.connect("/echo/c");
    client.send("ünï\ufeff");
    client.send(new Uint8Array([0, 255, 1]));
    client.send("");
    client.send(new Uint8Array());
    expect(await client.received(5)).toEqual([
      "/echo/a%20b a b 1",
      "ünï\ufeff",
      Buffer.from([0, 255, 1]),
      "",
      Buffer.alloc(0),
    ]);
    expect(seen[1]).toBeInstanceOf(Uint8Array);
    expect(textOf(other.messages)).toEqual(["/echo/c c null"]);
    expect(stage.hub.sockets).toBe(2);
    client.close();
    other.close();
    await until(() => stage.hub.sockets === 0, "no connection");
  });

  test("is refused by `open` with its response, and by the hub without a WebSocket route", async () => {
    await using stage = await SocketStage.open();
    const errors: unknown[] = [];
    let closes = 0;
    const worker = await stage.serve({
      "/open/:how": ws({
        open({ params }) {
          if (params["how"] === "throw") throw new Error("broken");
          return params["how"] === "false" ? false : { status: 402, headers: { "x-why": "money" }, json: { pay: 1 } };
        },
        close: () => void closes++,
      }),
      "/plain": () => "plain",
    });
    await using _w = worker;
    worker.on("handlerError", (error) => errors.push(error));
    const handshake = {
      upgrade: "websocket",
      connection: "Upgrade",
      "sec-websocket-version": "13",
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    };
    const ask = async (path: string, headers: Record<string, string> = handshake) => {
      const response = await stage.fetch(path, { headers });
      return { status: response.status, headers: response.headers, json: (await response.json()) as { code?: string } };
    };
    const { status, headers, json } = await ask("/open/pay");
    expect([status, headers.get("x-why"), json]).toEqual([402, "money", { pay: 1 }] as never);
    expect(await ask("/open/false")).toMatchObject({ status: 403, json: { code: "REFUSED" } });
    expect(await ask("/open/throw")).toMatchObject({ status: 500, json: { code: "HANDLER_FAILED" } });
    expect((errors[0] as Error).message).toBe("broken");
    expect(await ask("/plain")).toMatchObject({ status: 501, json: { code: "NO_WEBSOCKET" } });
    expect(await ask("/none")).toMatchObject({ status: 404 });
    expect(await ask("/open/x", {})).toMatchObject({ status: 426, json: { code: "NO_HANDSHAKE" } });
    expect(await ask("/open/x", { ...handshake, "sec-websocket-version": "8" })).toMatchObject({ status: 426 });
    expect(await ask("/open/x", { upgrade: "websocket" })).toMatchObject({
      status: 400,
      json: { code: "BAD_HANDSHAKE" },
    });
    expect(closes).toBe(0);
    expect(stage.hub.sockets).toBe(0);
    await worker.close();
    expect(await ask("/open/x")).toMatchObject({ status: 503, json: { code: "NO_WORKER" } });
  });

  test("of a page of another origin is refused unless the hub lists the origin", async () => {
    const routes = { "/s": ws({}) };
    const origin = (value: string) => ({ headers: { origin: value } });
    {
      await using stage = await SocketStage.open();
      await using _w = await stage.serve(routes);
      (await stage.connect("/s", origin(`http://${stage.hub.url!.host}`))).close();
      (await stage.connect("/s", origin(`https://${stage.hub.url!.host}`))).close(); // TLS ends before the hub
      for (const other of ["http://evil.example", "null", "http://127.0.0.1:1", ""])
        if (other !== "") expect((await rejection(stage.connect("/s", origin(other)))).message).toContain("403");
    }
    await using stage = await SocketStage.open({ ws: { origins: ["https://app.example"] } });
    await using _w = await stage.serve(routes);
    (await stage.connect("/s", origin("https://app.example"))).close();
    (await stage.connect("/s")).close(); // not a browser
    const own = `http://${stage.hub.url!.host}`;
    expect((await rejection(stage.connect("/s", origin(own)))).message).toContain("403");
  });

  test("has the subprotocol that `open` chooses", async () => {
    await using stage = await SocketStage.open();
    await using _w = await stage.serve({
      "/s": ws({
        open(socket, { headers }) {
          if (headers.get("sec-websocket-protocol")?.includes("v2")) socket.protocol = "v2";
        },
      }),
    });
    const client = await stage.connect("/s", { protocols: ["v1", "v2"] });
    expect(client.ws.protocol).toBe("v2");
    client.close();
  });

  test("keeps its data: any process of the worker gets it with the next message", async () => {
    await using stage = await SocketStage.open();
    const serve = () =>
      stage.serve({
        "/s": ws({
          open: (socket) => void (socket.data = { count: 0, "ü€": "😀\n" }),
          message(socket) {
            const { count, ...rest } = socket.data as { count: number };
            socket.data = { count: count + 1, ...rest };
            socket.send(JSON.stringify(socket.data));
          },
        }),
      });
    const first = await serve();
    const client = await stage.connect("/s");
    client.send("1");
    await client.received(1);
    await using _second = await serve();
    await first.close();
    client.send("2");
    expect(textOf(await client.received(2))).toEqual(['{"count":1,"ü€":"😀\\n"}', '{"count":2,"ü€":"😀\\n"}']);
    client.close();
  });
});

describe("messages", () => {
  test("of one connection are handled in order and one at a time, by two processes of the worker", async () => {
    await using stage = await SocketStage.open();
    let running = 0;
    let most = 0;
    const handled: string[] = [];
    const serve = (name: string) =>
      stage.serve({
        "/s": ws({
          async message(socket, message) {
            most = Math.max(most, ++running);
            handled.push(name);
            const n = Number(message);
            if (n % 3 === 0) await Bun.sleep(1);
            if (n % 3 === 1) await Promise.resolve();
            socket.send(message);
            running--;
          },
        }),
      });
    await using _a = await serve("a");
    await using _b = await serve("b");
    const client = await stage.connect("/s");
    const sent = Array.from({ length: 300 }, (_, n) => `${n}`);
    for (const message of sent) client.send(message);
    expect(textOf(await client.received(300))).toEqual(sent);
    expect(most).toBe(1);
    client.close();
  });

  test("that a slow handler sends arrive before its end, and before what it sends then", async () => {
    await using stage = await SocketStage.open();
    const end = Promise.withResolvers<void>();
    let kept: HubSocket | null = null;
    await using worker = await stage.serve({
      "/s": ws({
        async message(socket) {
          socket.send("begins");
          await Bun.sleep(1);
          socket.send("works");
          await end.promise;
          void worker.sockets.send(socket.id, "by id");
          socket.send("ends");
          kept = socket;
        },
      }),
    });
    const client = await stage.connect("/s");
    client.send("go");
    expect(textOf(await client.received(2))).toEqual(["begins", "works"]);
    end.resolve();
    expect(textOf(await client.received(4)).slice(2)).toEqual(["by id", "ends"]);
    kept!.send("afterwards");
    expect(textOf(await client.received(5))[4]).toBe("afterwards");
    client.close();
  });

  test("to a topic reach its subscribers of the same worker name; to an id, that connection, from any process", async () => {
    await using stage = await SocketStage.open();
    await stage.chat();
    await using other = await stage.serve(
      { "/other": ws({ open: (socket) => socket.subscribe("1") }) },
      { name: "other" },
    );
    await using worker = await stage.serve(
      { "/w": ws({ open: (socket) => socket.send(socket.id) }) },
      { name: "chat2" },
    );
    const [a, b, c] = [await stage.connect(), await stage.connect(), await stage.connect("/chat/2")];
    const foreign = await stage.connect("/other");
    a.send("publish 1 hello");
    expect(textOf(await b.received(1))).toEqual(["hello"]);
    expect((await a.received(1))[0]).toContain("publish 1 hello"); // not the message itself
    expect(c.messages).toEqual([]);
    await other.sockets.publish("1", "from other");
    expect(textOf(await foreign.received(1))).toEqual(["from other"]);
    const w = await stage.connect("/w");
    const id = String((await w.received(1))[0]);
    c.send(`to ${id} no`); // a connection of another worker name
    await c.received(1);
    await worker.sockets.subscribe(id, "t");
    await worker.sockets.publish("t", new Uint8Array([1]));
    await worker.sockets.unsubscribe(id, "t");
    await worker.sockets.publish("t", "no");
    await worker.sockets.send(id, "yes");
    await worker.sockets.send("unknown", "no");
    await worker.sockets.close(id, 4_001, "enough");
    expect(await w.end()).toEqual({ code: 4_001, reason: "enough" });
    expect(w.messages.slice(1)).toEqual([Buffer.from([1]), "yes"]);
    expect(textOf(a.messages)).toHaveLength(1);
    for (const client of [a, b, c, foreign]) client.close();
  });

  test("many at once from outside of a handler: all arrive in order", async () => {
    await using stage = await SocketStage.open();
    const ids: string[] = [];
    await using worker = await stage.serve({ "/s": ws({ open: ({ id }) => void ids.push(id) }) });
    const client = await stage.connect("/s");
    const large = "x".repeat(300 << 10);
    const sends: Promise<void>[] = [];
    for (let n = 0; n < 500; n++) sends.push(worker.sockets.send(ids[0]!, n % 100 === 0 ? `${n} ${large}` : `${n}`));
    await Promise.all(sends);
    const received = textOf(await client.received(500)).map((text) => text.split(" ")[0]);
    expect(received).toEqual(Array.from({ length: 500 }, (_, n) => `${n}`));
    client.close();
  });

  test("that cannot be sent are refused where they are made", async () => {
    await using stage = await SocketStage.open();
    const messages: string[] = [];
    const attempt = (act: () => void): void => {
      try {
        act();
        messages.push("none");
      } catch (error) {
        messages.push((error as Error).message);
      }
    };
    await using worker = await stage.serve({
      "/s": ws({
        open(socket) {
          attempt(() => socket.send(5 as never));
          attempt(() => socket.send("x".repeat((2 << 20) + 1)));
          attempt(() => socket.subscribe(""));
          attempt(() => socket.publish("x".repeat(201), ""));
          attempt(() => socket.close(1_001));
          attempt(() => socket.close(1_000, "x".repeat(124)));
          attempt(() => (socket.data = "x".repeat(4_096)));
          attempt(() => (socket.data = undefined));
        },
      }),
    });
    (await stage.connect("/s")).close();
    expect(messages).toHaveLength(8);
    expect(messages).not.toContain("none");
    expect(() => worker.sockets.close("id", 5)).toThrow("Invalid close code 5");
    for (const body of [
      Buffer.from([1, 97, 99, 0, 0, 0, 0, 0]),
      Buffer.from([0, 1, 0]),
      Buffer.from([0, 1, 0, 1, 0, 0, 0]),
    ]) {
      const response = await fetch(`http://hub${COMMANDS_PATH}`, {
        unix: `${stage.workspace.directory}/hub.control`,
        method: "POST",
        body,
      });
      expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([400, "BAD_COMMANDS"]);
    }
  });
});

describe("a worker", () => {
  test("that dies while it handles a message: the connection stays, the message is reported, the next goes elsewhere", async () => {
    await using stage = await SocketStage.open();
    stage.workspace.leavesKilled = true;
    const lost: HubMessageInfo[] = [];
    stage.hub.on("messageLost", (message) => lost.push(message));
    await stage.chat();
    await stage.chat();
    const client = await stage.connect();
    client.send("one");
    client.send("die now");
    client.send("two");
    client.send("three");
    const received = textOf(await client.received(4)).map((text) => text.replace(/^\d+ /, ""));
    expect(received).toEqual(["one", "lost true", "two", "three"]);
    expect(lost).toEqual([
      { worker: "chat", connection: expect.any(String), path: "/chat/1", reason: expect.stringContaining("pid") },
    ]);
    expect(await (await stage.fetch("/_slotbus/metrics")).text()).toContain("slotbus_hub_socket_losses_total 1");
    expect(client.closed).toBeNull();
    client.close();
  });

  test("that is replaced while messages run: no connection closes, each message has its answer, in order", async () => {
    await using stage = await SocketStage.open();
    const lost: unknown[] = [];
    stage.hub.on("messageLost", (message) => lost.push(message));
    let current = await stage.chat();
    const clients = await Promise.all(Array.from({ length: 20 }, (_, n) => stage.connect(`/chat/${n}`)));
    let sent = 0;
    let isOver = false;
    const sending = (async () => {
      for (; !isOver; sent++) {
        for (const client of clients) client.send(`${sent % 5 === 0 ? "sleep 5" : "n"} ${sent}`);
        await Bun.sleep(5);
      }
    })();
    const pids = new Set<string>();
    for (let round = 0; round < 3; round++) {
      const next = await stage.chat();
      await current.kill("SIGTERM");
      expect(current.lines).toContain("stopped");
      current = next;
    }
    isOver = true;
    await sending;
    for (const client of clients) {
      const received = textOf(await client.received(sent));
      expect(received.map((text) => Number(text.split(" ").at(-1)))).toEqual(Array.from({ length: sent }, (_, n) => n));
      for (const text of received) pids.add(text.split(" ")[0]!);
      expect(client.closed).toBeNull();
      client.close();
    }
    expect(pids.size).toBeGreaterThan(1); // else nothing was replaced
    expect(lost).toEqual([]);
  });

  test("that is away for a while gets the messages when it is back; one that stays away ends the connection", async () => {
    await using stage = await SocketStage.open({ goneFor: 1_500 });
    const serve = () => stage.serve({ "/s": ws({ message: (socket, message) => socket.send(message) }) });
    const first = await serve();
    const client = await stage.connect("/s");
    await first.close();
    client.send("a");
    client.send("b");
    const second = await serve();
    expect(textOf(await client.received(2))).toEqual(["a", "b"]);
    await second.close();
    expect(await client.end()).toEqual({ code: 1_001, reason: "The worker has gone." });
  });

  test("gets `close` once, after the last message, also when the client is killed or the hub ends", async () => {
    await using stage = await SocketStage.open();
    const seen: string[] = [];
    await using _w = await stage.serve({
      "/s/:n": ws({
        async message({ params }, message) {
          await Bun.sleep(5);
          seen.push(`${params["n"]} ${message}`);
        },
        close: ({ params }, code, reason) => void seen.push(`${params["n"]} close ${code} ${reason}`),
      }),
    });
    const client = await stage.connect("/s/1");
    client.send("a");
    client.send("b");
    client.ws.close(3_210, "done");
    await until(() => seen.length === 3, "the end");
    expect(seen).toEqual(["1 a", "1 b", "1 close 3210 done"]);
    const killed = await stage.connect("/s/2");
    killed.ws.terminate();
    await until(() => seen.length === 4, "the second end");
    expect(seen[3]).toStartWith("2 close 1006");
    const last = await stage.connect("/s/3");
    await stage.hub.close();
    expect(await last.end()).toMatchObject({ code: 1_001 });
    expect(seen.slice(4)).toEqual(["3 close 1001 The hub is closing."]);
  });

  test("whose handler fails reports it, and the connection stays; one that takes too long ends it", async () => {
    await using stage = await SocketStage.open({ timeout: 300 });
    const errors: string[] = [];
    const lost: HubMessageInfo[] = [];
    stage.hub.on("messageLost", (message) => lost.push(message));
    const never = Promise.withResolvers<void>();
    const worker = await stage.serve({
      "/s": ws({
        message(socket, message) {
          socket.send(message);
          if (message === "throw") throw new Error("thrown");
          if (message === "reject") return Promise.reject(new Error("rejected"));
          return message === "hang" ? never.promise : undefined;
        },
      }),
    });
    worker.on("handlerError", (error) => errors.push((error as Error).message));
    const client = await stage.connect("/s");
    for (const message of ["throw", "reject", "hang", "next"]) client.send(message);
    expect(await client.end()).toEqual({ code: 1_011, reason: "The worker did not handle a message in time." });
    expect(textOf(client.messages)).toEqual(["throw", "reject", "hang"]);
    expect(errors).toEqual(["thrown", "rejected"]);
    expect(lost).toHaveLength(1);
    never.resolve();
    await worker.close();
  });
});

describe("limits", () => {
  test("of messages: too large is 1009, too many that wait is 1008", async () => {
    await using stage = await SocketStage.open({ ws: { messageBytes: 1_000, waitingBytes: 2_048 } });
    const end = Promise.withResolvers<void>();
    const seen: string[] = [];
    await using _w = await stage.serve({
      "/s": ws({
        async message(_socket, message) {
          seen.push(String(message).slice(0, 1));
          await end.promise;
        },
      }),
    });
    const large = await stage.connect("/s");
    large.send("x".repeat(1_001));
    expect((await large.end()).code).toBe(1_009);
    const fast = await stage.connect("/s");
    for (let n = 0; n < 5; n++) fast.send(`${n}${"x".repeat(900)}`);
    expect(await fast.end()).toEqual({ code: 1_008, reason: "Too many messages wait for the worker." });
    end.resolve();
    await until(() => seen.length === 3, "the messages that fitted");
    expect(seen).toEqual(["0", "1", "2"]);
  });

  test("of clients that do not read: they are disconnected, and the others get everything", async () => {
    await using stage = await SocketStage.open({ ws: { clientBytes: 64 << 10 } });
    await using worker = await stage.serve({ "/s": ws({ open: (socket) => socket.subscribe("all") }) });
    const reader = await stage.connect("/s");
    const { connect } = await import("node:net");
    const deaf = Array.from({ length: 20 }, () => connect(Number(stage.hub.url!.port), "127.0.0.1"));
    for (const socket of deaf) {
      socket.on("error", () => {});
      socket.pause();
      socket.write(
        "GET /s HTTP/1.1\r\nhost: hub\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n" +
          "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
      );
    }
    await until(() => stage.hub.sockets === 21, "21 connections");
    const message = "x".repeat(100 << 10);
    for (let n = 0; n < 200; n++) await worker.sockets.publish("all", message);
    await reader.received(200, 20_000);
    await until(() => stage.hub.sockets === 1, "only the reader is left");
    expect(reader.messages.every((text) => text === message)).toBe(true);
    for (const socket of deaf) socket.destroy();
    reader.close();
  });

  test("of connections: of the hub process 503, of one client 429 until one of them ends", async () => {
    await using stage = await SocketStage.open({ ws: { maxConnections: 2 }, perClient: { concurrency: 3 } });
    await using _w = await stage.serve({ "/s": ws({}), "/http": () => "x" });
    const [a] = [await stage.connect("/s"), await stage.connect("/s")];
    expect((await rejection(stage.connect("/s"))).message).toContain("503");
    a!.close();
    await until(() => stage.hub.sockets === 1, "one is left");
    (await stage.connect("/s")).close();
    await until(() => stage.hub.sockets === 1, "one is left");
    expect((await stage.fetch("/http")).status).toBe(200);
  });
});

test("the client `ws` from npm: fragments, pings, compression", async () => {
  await using stage = await SocketStage.open({ ws: { compress: true } });
  await using _w = await stage.serve({ "/s": ws({ message: (socket, message) => socket.send(message) }) });
  const file = join(import.meta.dir, "../node_modules/ws/lib/websocket.js"); // Bun replaces the module "ws" with its own
  const { default: NodeSocket } = (await import(file)) as { default: new (url: URL) => NpmSocket };
  const url = new URL("/s", stage.hub.url!);
  url.protocol = "ws:";
  const client = new NodeSocket(url);
  const messages: string[] = [];
  let pongs = 0;
  client.on("message", (data, isBinary) => messages.push(`${isBinary} ${data}`));
  client.on("pong", () => pongs++);
  const closed = Promise.withResolvers<[number, string]>();
  client.on("close", (code, reason) => closed.resolve([code, String(reason)]));
  await new Promise((resolve) => client.on("open", resolve));
  expect(client.extensions).toContain("permessage-deflate");
  const long = "long ".repeat(10_000);
  client.send("fr", { fin: false });
  client.ping();
  client.send("ag", { fin: false });
  client.send("ment", { fin: true });
  client.send(long);
  client.send(Buffer.from("bytes"));
  await until(() => messages.length === 3 && pongs === 1, "three messages and a pong");
  expect(messages).toEqual(["false fragment", `false ${long}`, "true bytes"]);
  client.close(4_002, "bye");
  expect(await closed.promise).toEqual([4_002, "bye"]);
});

test("your own server passes `hub.websocket`; without it a handshake is 501", async () => {
  await using stage = await SocketStage.open({ port: false });
  const ends: number[] = [];
  await using worker = await stage.serve({
    "/s": ws({
      open: (socket) => socket.subscribe("t"),
      message: (socket, message) => socket.publish("t", message),
      close: (_socket, code) => void ends.push(code),
    }),
  });
  const { fetch, websocket } = stage.hub;
  const servers = [1, 2].map(() => Bun.serve({ port: 0, fetch, websocket }));
  const clients = await Promise.all(servers.map((server) => SocketClient.open(server, "/s")));
  clients[0]!.send("to the other server");
  expect(textOf(await clients[1]!.received(1))).toEqual(["to the other server"]);
  await worker.sockets.publish("t", "to both");
  for (const client of clients) expect(textOf(await client.received(1)).at(-1)).toBe("to both");
  for (const client of clients) client.close();
  const bare = Bun.serve({ port: 0, fetch });
  expect((await rejection(SocketClient.open(bare, "/s"))).message).toContain("501");
  await until(() => ends.length === 3, "`close` was called for each");
  expect(ends.sort()).toEqual([1_000, 1_000, 1_006]);
  for (const server of [...servers, bare]) await server.stop(true);
});

describe("of a shared hub", () => {
  test("a message reaches the connections of every process, by topic and by id; a killed process ends only its own", async () => {
    await using stage = new SocketStage();
    stage.workspace.leavesKilled = true;
    const { directory } = stage.workspace;
    const first = new Child("hub-server.ts", [directory, '{"shared":true}'], {});
    stage.workers.push(first);
    const url = new URL(`http://127.0.0.1:${(await first.line("listens")).split(" ")[1]}`);
    await stage.start({ shared: true });
    await using third = await Hub.start({ port: 0, directory, shared: true });
    await stage.chat();
    await using worker = await HubWorker.start({
      name: "ids",
      directory,
      routes: {
        "/ids": ws({
          open(socket) {
            socket.send(socket.id);
            socket.subscribe("t");
          },
          message(socket, message) {
            socket.send("before");
            socket.publish("t", message);
            socket.send("after");
          },
        }),
      },
    });
    const hubs = [{ url }, stage.hub, third];
    const clients = await Promise.all(hubs.map((hub) => SocketClient.open(hub, "/ids")));
    const chats = await Promise.all(hubs.map((hub) => SocketClient.open(hub, "/chat/1")));
    const ids = await Promise.all(clients.map(async (client) => String((await client.received(1))[0])));
    clients[0]!.send("published");
    expect(textOf(await clients[0]!.received(3)).slice(1)).toEqual(["before", "after"]);
    for (const client of clients.slice(1)) expect(textOf(await client.received(2))[1]).toBe("published");
    await worker.sockets.publish("t", "to all");
    for (const [n, id] of ids.entries()) await worker.sockets.send(id, `to ${n}`);
    for (const [n, client] of clients.entries())
      expect(textOf(await client.received(4)).slice(-2)).toEqual(["to all", `to ${n}`]);
    await first.kill();
    expect((await clients[0]!.end()).code).toBe(1_006);
    chats[1]!.send("publish 1 still");
    expect(textOf(await chats[2]!.received(1))).toEqual(["still"]);
    await worker.sockets.send(ids[2]!, "still too");
    expect(textOf(await clients[2]!.received(5)).at(-1)).toBe("still too");
    expect(clients.slice(1).map(({ closed }) => closed)).toEqual([null, null]);
    for (const client of [...clients, ...chats]) client.close();
  });
});
