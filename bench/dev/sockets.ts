/**
 * Compares WebSockets of the hub with a bare `Bun.serve`: `bun bench/dev/sockets.ts [--quick] [--json] [--clients 1000]`.
 *
 * Contestants alternate in each round; the program prints medians. The client is a process of its own that writes and counts raw
 * frames, so that it costs less than what it measures.
 *
 *   echo      32 connections, one message of 64 B in flight on each
 *   publish   one connection asks for a message to all clients of a topic, again when the last one has arrived everywhere
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const options = {
  quick: { type: "boolean" },
  json: { type: "boolean" },
  clients: { type: "string", default: "1000" },
  client: { type: "string" },
} as const;
const { values } = parseArgs({ options });
const MESSAGE_BYTES = 64;
const ECHO_CONNECTIONS = 32;

// ---- the client -----------------------------------------------------------------------------------------------------

/** A frame of a client: text of {@link MESSAGE_BYTES} bytes, masked with zeros. */
const frame = Buffer.concat([Buffer.from([0x81, 0x80 | MESSAGE_BYTES, 0, 0, 0, 0]), Buffer.alloc(MESSAGE_BYTES, "x")]);
/** Size of the same message as the server sends it. */
const ANSWER_BYTES = 2 + MESSAGE_BYTES;

interface Line {
  readonly send: () => void;
}

/** Opens a connection; `received` gets the number of whole messages of each read. */
async function openLine(port: number, received: (line: Line, messages: number) => void): Promise<Line> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let isOpen = false;
  let bytes = 0;
  const line: Line = { send: () => void socket.write(frame) };
  const socket = await Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      data(_socket, data) {
        if (!isOpen) {
          if (!data.toString("latin1").startsWith("HTTP/1.1 101")) throw new Error(data.toString());
          isOpen = true;
          bytes = data.length - data.indexOf("\r\n\r\n") - 4;
          resolve();
        } else bytes += data.length;
        const messages = Math.floor(bytes / ANSWER_BYTES);
        bytes %= ANSWER_BYTES;
        if (messages > 0) received(line, messages);
      },
      close() {
        throw new Error("the server has closed a connection");
      },
    },
  });
  socket.write(
    `GET /echo HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n` +
      "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
  );
  await promise;
  return line;
}

async function echoes(port: number, ms: number): Promise<number> {
  let total = 0;
  const lines = await Promise.all(
    Array.from({ length: ECHO_CONNECTIONS }, () =>
      openLine(port, (line, messages) => {
        total += messages;
        for (let n = 0; n < messages; n++) line.send();
      }),
    ),
  );
  for (const line of lines) line.send();
  return rateOf(() => total, ms);
}

async function publications(port: number, ms: number, clients: number): Promise<number> {
  let total = 0;
  const received = (_line: Line, messages: number): void => {
    total += messages;
    if (total % clients === 0) publisher.send();
  };
  const lines: Line[] = [];
  for (let n = 0; n < clients; n++) lines.push(await openLine(port, received));
  const publisher = lines[0]!;
  publisher.send();
  return rateOf(() => total, ms);
}

/** Per second, after a warm-up of a third of the time. */
async function rateOf(read: () => number, ms: number): Promise<number> {
  await Bun.sleep(ms / 3);
  const [before, began] = [read(), performance.now()];
  await Bun.sleep(ms);
  return ((read() - before) / (performance.now() - began)) * 1_000;
}

if (values.client !== undefined) {
  const [kind, port, ms, clients] = values.client.split(",");
  const run =
    kind === "echo" ? echoes(Number(port), Number(ms)) : publications(Number(port), Number(ms), Number(clients));
  console.log(await run);
  process.exit();
}

// ---- the contestants ------------------------------------------------------------------------------------------------

const ROUNDS = values.quick ? 3 : 7;
const MS = values.quick ? 800 : 1_500;
const folder = mkdtempSync(join(tmpdir(), "slotbus-sockets-bench-"));
const root = join(import.meta.dir, "../..");
const children: Bun.Subprocess[] = [];

function start(command: string[]): void {
  const env = { ...process.env, SLOTBUS_DIR: folder };
  children.push(Bun.spawn(command, { stdio: ["ignore", "ignore", "inherit"], env }));
}

function startBun(name: string, source: string): void {
  const file = join(folder, `${name}.ts`);
  writeFileSync(file, source);
  start([process.execPath, file]);
}

function freePort(): number {
  const server = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = server;
  void server.stop(true);
  return port!;
}

/** The same with both: `kind` is "echo" or "publish". */
const bare = (kind: string, port: number): string => `
  const server = Bun.serve({
    port: ${port},
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("up")),
    websocket: {
      open: (ws) => ${kind === "echo" ? "{}" : 'ws.subscribe("all")'},
      message: (ws, text) => ${kind === "echo" ? "ws.send(text)" : 'server.publish("all", text)'},
    },
  });`;

const hub = (kind: string, name: string): string => `
  import { HubWorker, ws } from ${JSON.stringify(join(root, "src/hub/index.ts"))};
  const worker = await HubWorker.start({
    hub: ${JSON.stringify(name)},
    name: "w",
    reconnect: { initial: 20 },
    routes: {
      "/": () => "up",
      "/echo": ws({
        open: (socket) => ${kind === "echo" ? "{}" : 'socket.subscribe("all")'},
        message: (socket, text) => ${kind === "echo" ? "socket.send(text)" : '{ worker.sockets.publish("all", text); }'},
      }),
    },
  });
  process.on("SIGTERM", () => void worker.close());`;

async function untilUp(port: number): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(`http://127.0.0.1:${port}/`).catch(() => null);
    if (response?.status === 200) return;
    if (attempt === 500) throw new Error(`nothing answers on port ${port}`);
    await Bun.sleep(20);
  }
}

function measure(kind: string, port: number): number {
  const command = [process.execPath, import.meta.path, "--client", `${kind},${port},${MS},${values.clients}`];
  const { stdout, exitCode } = Bun.spawnSync(command, { stderr: "inherit" });
  if (exitCode !== 0) throw new Error(`the client of ${kind} failed`);
  return Number(stdout.toString());
}

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;

try {
  const bars: object[] = [];
  for (const [kind, atLeast, aim] of [
    ["echo", 0.4, 0.7],
    ["publish", 0.6, 0.9],
  ] as const) {
    const [bareport, hubPort] = [freePort(), freePort()];
    startBun(`bare-${kind}`, bare(kind, bareport));
    start([process.execPath, join(root, "src/cli/slotbus.ts"), "hub", "--port", String(hubPort), "--name", kind]);
    startBun(`worker-${kind}`, hub(kind, kind));
    await untilUp(bareport);
    await untilUp(hubPort);
    const rounds = Array.from({ length: ROUNDS }, () => ({
      bare: measure(kind, bareport),
      hub: measure(kind, hubPort),
    }));
    const measured = Number(median(rounds.map((round) => round.hub / round.bare)).toFixed(3));
    bars.push({
      name: `WebSocket ${kind}, messages/s: hub ÷ bare`,
      bare: Math.round(median(rounds.map((round) => round.bare))),
      hub: Math.round(median(rounds.map((round) => round.hub))),
      measured,
      at_least: atLeast,
      aim,
      met: measured >= atLeast,
    });
  }
  if (values.json) console.log(JSON.stringify({ bars }, null, 2));
  else console.table(bars);
} finally {
  for (const child of children) child.kill("SIGTERM");
  for (const child of children) await child.exited;
  rmSync(folder, { recursive: true });
}
