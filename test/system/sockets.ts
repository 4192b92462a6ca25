/** WebSockets of a hub: in Debian's Chromium, and in large numbers. */

import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { Hub, HubWorker, ws } from "../../src/hub/index.ts";
import { type Checks, expect, Lacking, needTool, note, Place, Program, until } from "./checks.ts";

// ---- a browser ------------------------------------------------------------------------------------------------------

/** Runs in the page: opens a WebSocket, and remembers what it receives. */
const OPEN = `async (url) => {
  const socket = new WebSocket(url, ["v1", "v2"]);
  socket.binaryType = "arraybuffer";
  window.socket = socket;
  window.received = [];
  window.ended = null;
  socket.onmessage = ({ data }) => received.push(typeof data === "string" ? data : [...new Uint8Array(data)]);
  socket.onclose = ({ code, reason }) => (ended = [code, reason]);
  await new Promise((resolve) => (socket.onopen = socket.onerror = resolve));
  return [socket.readyState, socket.protocol, socket.extensions];
}`;

async function browserKeepsItsSocket(): Promise<void> {
  const executablePath = needTool("chromium");
  using place = new Place();
  const directory = place.directory;
  await using hub = await Hub.start({ port: 0, directory, ws: { compress: true } });
  const serve = (name: string): Promise<HubWorker> =>
    HubWorker.start({
      name: "pages",
      directory,
      routes: {
        "/page": () => ({ body: "<!doctype html><title>page</title>", contentType: "text/html" }),
        "/socket": ws({
          open: (socket) => void (socket.protocol = "v2"),
          message(socket, message) {
            if (message === "end") return socket.close(3_001, name);
            socket.send(typeof message === "string" ? `${name} ${message}` : message);
            return undefined;
          },
        }),
      },
    });
  const first = await serve("first");
  const args = [
    "--host-resolver-rules=MAP *.example 127.0.0.1",
    ...(process.geteuid?.() === 0 ? ["--no-sandbox"] : []),
  ];
  const browser = await chromium.launch({ executablePath, args });
  try {
    const page = await browser.newPage();
    const { port } = hub.url!;
    const url = `ws://127.0.0.1:${port}/socket`;
    const open = async (from: string): Promise<unknown> => {
      await page.goto(`http://${from}:${port}/page`);
      return page.evaluate(`(${OPEN})(${JSON.stringify(url)})`);
    };
    const foreign = JSON.stringify(await open("other.example"));
    expect(foreign === '[3,"",""]', `a page of another origin has ${foreign}`);
    const own = JSON.stringify(await open("127.0.0.1"));
    expect(own.startsWith('[1,"v2","permessage-deflate'), `a page of the hub's origin has ${own}`);
    const ask = (code: string): Promise<unknown> => page.evaluate(`{ ${code}; null }`);
    const has = async (count: number): Promise<string> => {
      await page.waitForFunction(`received.length >= ${count} || ended`);
      return JSON.stringify(await page.evaluate("received"));
    };
    await ask('socket.send("a".repeat(3)); socket.send(new Uint8Array([0, 255]))');
    expect((await has(2)) === '["first aaa",[0,255]]', `the page received ${await has(2)}`);
    await using _second = await serve("second");
    await first.close();
    await ask('socket.send("b")');
    expect((await has(3)).endsWith('"second b"]'), `after the restart the page has ${await has(3)}`);
    await ask('socket.send("end")');
    await page.waitForFunction("ended");
    const ended = JSON.stringify(await page.evaluate("ended"));
    expect(ended === '[3001,"second"]', `the end is ${ended}`);
  } finally {
    await browser.close();
  }
}

// ---- many -----------------------------------------------------------------------------------------------------------

const IDLE = 5_000;
const DEAF = 200;
/** Most memory of the hub for one idle connection, in bytes. */
const IDLE_BYTES = 16 << 10;

function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))![1]) * 1_024;
}

/** Opens connections without a client's library. Resolves when the hub has answered each handshake. */
async function openRaw(port: number, path: string, count: number, data?: (bytes: number) => void): Promise<Socket[]> {
  const all: Socket[] = [];
  let opened = 0;
  for (let n = 0; n < count; n++) {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {}); // the hub disconnects those that do not read
    let isOpen = false;
    socket.on("data", (bytes) => {
      if (isOpen) return data?.(bytes.length);
      isOpen = bytes.toString("latin1").startsWith("HTTP/1.1 101");
      opened++;
      if (!data && path === "/deaf") socket.pause();
    });
    socket.write(
      `GET ${path} HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n` +
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    all.push(socket);
    if (n % 100 === 99) await until(() => opened > n - 50, `${n} handshakes`, 60_000);
  }
  await until(() => opened === count, `${count} handshakes`, 60_000);
  return all;
}

async function manyConnections(): Promise<void> {
  const limit = Number(/^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"))![1]);
  if (limit < IDLE + DEAF + 500) throw new Lacking(`a process may open only ${limit} files`);
  using place = new Place();
  const { directory } = place;
  const options = JSON.stringify({ ws: { clientBytes: 256 << 10 } });
  await using hub = new Program([
    process.execPath,
    join(import.meta.dir, "../fixtures/hub-server.ts"),
    directory,
    options,
  ]);
  const port = Number((await hub.expectLine("listens ")).slice(8));
  await using worker = await HubWorker.start({
    name: "many",
    directory,
    routes: {
      "/idle": ws({ open: (socket) => socket.subscribe("idle") }),
      "/deaf": ws({ open: (socket) => socket.subscribe("deaf") }),
      "/echo": ws({ message: (socket, message) => socket.send(message) }),
    },
  });
  const open = async (): Promise<number> => {
    const response = await fetch(`http://127.0.0.1:${port}/_slotbus/snapshot`);
    return ((await response.json()) as { sockets: { size: number } }).sockets.size;
  };
  const before = residentBytes(hub.pid);
  let idleBytes = 0;
  const idle = await openRaw(port, "/idle", IDLE, (bytes) => (idleBytes += bytes));
  const each = Math.round((residentBytes(hub.pid) - before) / IDLE);
  note(`${IDLE} idle connections: ${(each / 1_024).toFixed(1)} KiB of the hub each`);
  expect(each < IDLE_BYTES, `an idle connection takes ${each} bytes of the hub`);

  let heard = 0;
  const readers = await openRaw(port, "/deaf", 10, (bytes) => (heard += bytes));
  const deaf = await openRaw(port, "/deaf", DEAF);
  expect((await open()) === IDLE + DEAF + 10, `${await open()} connections are open`);
  const message = "x".repeat(100_000);
  for (let n = 0; n < 100; n++) await worker.sockets.publish("deaf", message);
  const whole = 10 * 100 * (message.length + 10); // each frame has a head of 10 bytes
  await until(() => heard >= whole, "the readers have everything", 60_000);
  expect(heard === whole, `the readers have ${heard} bytes of ${whole}`);
  for (let left = await open(); left > IDLE + 10; left = await open()) await Bun.sleep(20);
  expect((await open()) === IDLE + 10, "a connection that reads was closed");

  await worker.sockets.publish("idle", "hello");
  await until(() => idleBytes === IDLE * 7, "every idle connection has its message", 60_000);
  for (const socket of [...idle, ...deaf, ...readers]) socket.destroy();
  while ((await open()) > 0) await Bun.sleep(20);
  await worker.close();
  hub.kill("SIGTERM");
  await hub.ended();
}

export const checks: Checks = {
  "a page in Chromium keeps its WebSocket while the worker is replaced; a page of another origin gets none":
    browserKeepsItsSocket,
  [`${IDLE} idle WebSockets take little memory; ${DEAF} that do not read are disconnected, and the others get everything`]:
    manyConnections,
};
