/** WebSockets of mounted apps: Hono's helper and Elysia's `.ws` work as under `Bun.serve`, and survive the end of their process. */

import { expect, test } from "bun:test";
import { Stage } from "./hub-stage.ts";
import { SocketClient } from "./socket-client.ts";
import { Child, rejection, until } from "./support.ts";

class AppStage extends Stage {
  static override async open(): Promise<AppStage> {
    const stage = new AppStage();
    stage.workspace.leavesKilled = true;
    await stage.start();
    return stage;
  }

  async app(): Promise<Child> {
    const child = new Child("hub-apps.ts", [this.workspace.directory], {});
    this.workers.push(child);
    await child.line("connected");
    return child;
  }
}

test("Hono: its helper gets the path, each message and the end; a refusal is the app's response", async () => {
  await using stage = await AppStage.open();
  const child = await stage.app();
  const client = await SocketClient.open(stage.hub, "/hono/room/a?q=1");
  client.send("one");
  client.send(new Uint8Array([0, 255]));
  client.send("two");
  expect(await client.received(4)).toEqual(["open a 1", "1 one", Buffer.from([0, 255]), "2 two"]);
  client.send("end");
  expect(await client.end()).toEqual({ code: 3_001, reason: "ended" });
  await child.line("hono close 3001");
  expect((await rejection(SocketClient.open(stage.hub, "/hono/private"))).message).toContain("401");
  expect((await rejection(SocketClient.open(stage.hub, "/hono/none"))).message).toContain("404");
  expect((await stage.fetch("/hono/private")).status).toBe(401);
  expect(stage.hub.sockets).toBe(0);
});

test("Elysia: objects, topics, headers of the handshake and the end", async () => {
  await using stage = await AppStage.open();
  const child = await stage.app();
  const [a, b] = [
    await SocketClient.open(stage.hub, "/elysia/room/a"),
    await SocketClient.open(stage.hub, "/elysia/room/b"),
  ];
  a.send('{"n":1}');
  expect(await a.received(2)).toEqual(['{"open":"a"}', '{"got":{"n":1}}']);
  expect(await b.received(2)).toEqual(['{"open":"b"}', 'published {"n":1}']);
  a.ws.close(3_002);
  await child.line("elysia close 3002");
  b.close();
  const handshake =
    `GET /elysia/room/c HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
  const answer = await stage.raw(handshake, 500);
  expect(answer).toStartWith("HTTP/1.1 101 ");
  expect(answer.toLowerCase()).toContain("x-app: elysia");
  expect((await rejection(SocketClient.open(stage.hub, "/elysia/none"))).message).toContain("404");
});

test("the state of a connection is in one process; when that ends, another one repeats the handshake", async () => {
  await using stage = await AppStage.open();
  const lost: unknown[] = [];
  stage.hub.on("messageLost", (message) => lost.push(message));
  const children = [await stage.app(), await stage.app()];
  const clients = await Promise.all(
    Array.from({ length: 8 }, (_, n) => SocketClient.open(stage.hub, `/hono/room/${n}?q=2`)),
  );
  for (let n = 1; n <= 20; n++) for (const client of clients) client.send(`m${n}`);
  const first = Array.from({ length: 20 }, (_, n) => `${n + 1} m${n + 1}`);
  for (const [n, client] of clients.entries()) expect(await client.received(21)).toEqual([`open ${n} 2`, ...first]);
  await children[0]!.kill("SIGTERM");
  for (const client of clients) client.send("next");
  await until(() => clients.every(({ messages }) => String(messages.at(-1)).endsWith(" next")), "answers to all");
  const last = clients.map(({ messages }) => messages.slice(21).join());
  for (const [n, text] of last.entries()) expect([`open ${n} 2,1 next`, "21 next"]).toContain(text);
  expect(new Set(last.map((text) => text.startsWith("open"))).size).toBe(2); // else one process had all connections
  expect(lost).toEqual([]);
  await stage.app();
  clients[0]!.send("die");
  clients[0]!.send("after");
  await until(() => String(clients[0]!.messages.at(-1)) === "1 after", "the answer of the other process");
  expect(lost).toHaveLength(1);
  expect(clients.every(({ closed }) => closed === null)).toBe(true);
  for (const client of clients) client.close();
});
