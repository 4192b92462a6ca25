/** Who may use a server of a stdio bus: bytes from browsers, connections without the token, broken JSON-RPC. */

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type NetConnectOpts, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StdioBus } from "../src/stdio/bus.ts";
import type { Framing } from "../src/stdio/framing.ts";
import type { ServeOptions } from "../src/stdio/options.ts";
import type { StdioServer } from "../src/stdio/server.ts";
import { leaves } from "./leaks.ts";
import { fixture, running } from "./stdio-stage.ts";
import { until } from "./wait.ts";

let bus: StdioBus;
let directory: string;
const told: string[] = [];
let sockets = 0;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "slotbus-clients-"));
  bus = await running(
    { pools: [fixture("stdio-worker.ts", { ready: true })] },
    { refused: (reason) => told.push(reason), fault: ({ message }) => told.push(`worker: ${message}`) },
  );
});
beforeEach(() => leaves(/^armed timer/)); // the bus outlives each test, and its timers with it
afterAll(async () => {
  await bus.close();
  rmSync(directory, { recursive: true });
});

type Door = "unix" | "tcp" | "tcp without a token";

function optionsOf(door: Door): ServeOptions {
  if (door === "unix") return { unix: join(directory, `${++sockets}.sock`) };
  return { tcp: door === "tcp" ? { port: 0 } : { port: 0, token: false } };
}

const whereOf = ({ path, port }: StdioServer): NetConnectOpts =>
  path === null ? { host: "127.0.0.1", port } : { path };

/** A peer that writes bytes and records the answer. */
class Peer implements Disposable {
  readonly #socket: Socket;
  text = "";
  isClosed = false;

  constructor(server: StdioServer, bytes: string | Uint8Array = "") {
    this.#socket = connect(whereOf(server), () => this.write(bytes));
    this.#socket.on("data", (data) => (this.text += data.toString("latin1")));
    this.#socket.on("close", () => (this.isClosed = true));
    this.#socket.on("error", () => {}); // a reset; `close` follows
  }

  write(bytes: string | Uint8Array): void {
    if (bytes.length > 0) this.#socket.write(bytes);
  }

  send(...messages: object[]): void {
    this.write(messages.map((message) => `${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`).join(""));
  }

  /** Received lines, parsed. */
  get messages(): { id?: unknown; result?: unknown; error?: { code: number; message: string } }[] {
    return this.text
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line));
  }

  async received(count: number): Promise<Peer["messages"]> {
    await until(() => this.messages.length >= count, `${count} messages for a peer`);
    return this.messages;
  }

  async closed(): Promise<void> {
    await until(() => this.isClosed, "the end of a connection");
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

const ASKED = '{"jsonrpc":"2.0","id":1,"method":"echo","params":"from a page"}';
const framed: Record<Framing, (token: string) => Uint8Array> = {
  ndjson: (token) => Buffer.from(`\n${authJson(token)}\n${ASKED}\n`),
  length: (token) => Buffer.concat([authJson(token), ASKED].map((json) => lengthFrame(json))),
  "content-length": (token) =>
    Buffer.from(
      `${[authJson(token), ASKED].map((json) => `\r\nContent-Length: ${json.length}\r\n\r\n${json}`).join("")}`,
    ),
};

function authJson(token: string): string {
  return JSON.stringify({ jsonrpc: "2.0", method: "$/auth", params: { token } });
}

function lengthFrame(json: string): Buffer {
  const frame = Buffer.alloc(4 + json.length, json, "latin1");
  frame.fill(json, 4);
  frame.writeUInt32BE(json.length);
  return frame;
}

/** What Chromium sends for a page that posts `body`, and in its other ways to send. */
function bytesOfBrowser(port: number, body: Uint8Array): Record<string, Uint8Array> {
  const head = (first: string, ...more: string[]): Uint8Array =>
    Buffer.from(
      [first, `Host: 127.0.0.1:${port}`, "Connection: keep-alive", ...more, "Accept: */*", "", ""].join("\r\n"),
    );
  const length = `Content-Length: ${body.length}`;
  const elsewhere = ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"];
  const own = [`Origin: http://127.0.0.1:${port}`, "Sec-Fetch-Site: same-origin", "Content-Type: application/json"];
  const upgrade = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw=="];
  const post = head("POST / HTTP/1.1", length, ...elsewhere, "Content-Type: text/plain;charset=UTF-8");
  return {
    "a post from another origin": Buffer.concat([post, body]),
    "a post from its own origin": Buffer.concat([head("POST /a HTTP/1.1", length, ...own), body]),
    "a path that is a message": head(`GET /%0A${encodeURIComponent(ASKED)} HTTP/1.1`),
    "a preflight": head("OPTIONS / HTTP/1.1", ...elsewhere, "Access-Control-Request-Method: POST"),
    "a WebSocket": head("GET / HTTP/1.1", ...elsewhere, ...upgrade),
    "a path longer than a message may be": Buffer.concat([
      head(`POST /${"x".repeat(1_500_000)} HTTP/1.1`, length, ...elsewhere),
      body,
    ]),
  };
}

test.each([
  ["ndjson", "x".repeat(2_000_000)],
  ["length", "\n\nPOST / HTTP/1.1\r\n\r\n"], // the length of a frame of 168 MB
  ["content-length", "Content-Length: 99999999\r\n\r\n{"],
] as const)(
  "a first message above the limit ends the connection before the message is complete: %s",
  async (framing, bytes) => {
    await using server = await bus.serve({ ...optionsOf("unix"), framing });
    told.length = 0;
    using peer = new Peer(server, bytes);
    await peer.closed();
    expect([peer.text, told.length]).toEqual(["", 1]);
    expect(told[0]).toContain("the client's first message is longer than 1048576 bytes");
  },
);

describe("bytes from a browser", () => {
  for (const door of ["unix", "tcp", "tcp without a token"] as const) {
    for (const framing of ["ndjson", "length", "content-length"] as const) {
      test(`end the connection without an answer, reach no worker and are one line in the log: ${door}, ${framing}`, async () => {
        await using server = await bus.serve({ ...optionsOf(door), framing });
        const body = framed[framing](server.token ?? "none"); // also from a page that knows the token
        for (const [what, bytes] of Object.entries(bytesOfBrowser(server.port, body))) {
          told.length = 0;
          const { messagesIn, clientRefusals } = bus.stats();
          using peer = new Peer(server, bytes);
          await peer.closed();
          expect([what, peer.text, bus.stats().messagesIn]).toEqual([what, "", messagesIn]);
          await until(() => told.length > 0, "a line of the log");
          expect([what, told.length, bus.stats().clientRefusals]).toEqual([what, 1, clientRefusals + 1]);
          expect(told[0]).toStartWith(`The connection to ${server.path ?? `127.0.0.1:${server.port}`}`);
          expect(told[0]).not.toContain(server.token ?? "\0");
          expect(told[0]).not.toContain("\n");
        }
        expect(server.clientCount).toBe(0);
      });
    }
  }

  test("end the connection at their first line, though more is still to come", async () => {
    for (const door of ["unix", "tcp", "tcp without a token"] as const) {
      await using server = await bus.serve(optionsOf(door));
      using peer = new Peer(server);
      for (const byte of "POST / HTTP/1.1\r\n") peer.write(byte);
      await peer.closed();
      expect(peer.text).toBe("");
      expect(told.at(-1)).toMatch(
        /was closed: the client sent 16 bytes that are not JSON: .*(HTTP request|"POST \/ HTTP\/1\.1\\r"\.$)/,
      );
    }
  });

  test("are one line on standard error without a listener for `refused`", async () => {
    const program = `
      import { connect } from "node:net";
      import { StdioBus } from ${JSON.stringify(join(import.meta.dir, "../src/stdio/index.ts"))};
      await using bus = await StdioBus.start({ pools: [{ id: "a", command: "cat" }] });
      const { port } = await bus.serve({ tcp: { port: 0 } });
      const socket = connect(port, "127.0.0.1", () => socket.write("POST / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\\n{}\\n"));
      socket.on("error", () => {}).resume();
      await new Promise((closed) => socket.on("close", closed));`;
    const child = Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", "inherit", "pipe"] });
    const lines = (await child.stderr.text()).split("\n").filter((line) => line.includes("connection"));
    expect(lines).toEqual([
      expect.stringMatching(
        /^slotbus: The connection to 127\.0\.0\.1:\d+ from 127\.0\.0\.1 was closed: the client sent .* not JSON/,
      ),
    ]);
    expect(await child.exited).toBe(0);
  });
});

describe("a client that breaks JSON-RPC", () => {
  const ways: [what: string, bytes: string, id: string | null, code: number][] = [
    ["a line of text", "hello\n", null, -32_700],
    ["bytes that are not UTF-8", "\xff\n", null, -32_700],
    ["a batch", "[]\n", null, -32_600],
    ["JSON that is not a message", '{"id":"x"}\n', "x", -32_600],
  ];
  test.each(ways)("by %s is answered, then closed; its later bytes are not read", async (what, bytes, id, code) => {
    await using server = await bus.serve(optionsOf("unix"));
    using peer = new Peer(server);
    peer.send({ id: 1, method: "echo", params: 1 });
    await peer.received(1);
    const { messagesIn, clientRefusals } = bus.stats();
    peer.write(Buffer.concat([Buffer.from(bytes, "latin1"), Buffer.from(`${ASKED}\n`)]));
    await peer.closed();
    expect(peer.messages.slice(1)).toMatchObject([{ id, error: { code } }]);
    expect([what, bus.stats().messagesIn, bus.stats().clientRefusals]).toEqual([what, messagesIn, clientRefusals + 1]);
  });

  test("its requests are cancelled", async () => {
    await using server = await bus.serve(optionsOf("unix"));
    const aborts = await bus.request<number>("aborts");
    using peer = new Peer(server);
    peer.send({ id: 1, method: "wait" });
    await until(() => bus.stats().inFlight === 1, "the request");
    peer.write("garbage\n");
    await peer.closed();
    await until(async () => (await bus.request<number>("aborts")) === aborts + 1, "the end of its request");
    expect(peer.messages).toMatchObject([{ id: null, error: { code: -32_700 } }]);
  });

  test("with a first message that is too long, it gets an answer with the id and is closed", async () => {
    await using server = await bus.serve({ ...optionsOf("unix"), messageBytes: 1_000 });
    using peer = new Peer(server);
    peer.send({ id: "big", method: "echo", params: "x".repeat(2_000) }, { id: 2, method: "echo" });
    await peer.closed();
    expect(peer.messages).toMatchObject([{ id: "big", error: { code: -32_600 } }]);
  });
});

describe("the token of a tcp port", () => {
  const ask = { id: 2, method: "echo", params: "in" };
  const auth = (token: unknown, id?: number) => ({
    ...(id === undefined ? {} : { id }),
    method: "$/auth",
    params: { token },
  });

  test("is 32 random bytes unless one is given; a unix socket and `token: false` need no token", async () => {
    await using one = await bus.serve(optionsOf("tcp"));
    await using two = await bus.serve(optionsOf("tcp"));
    expect(one.token).toMatch(/^[0-9a-f]{64}$/);
    expect(two.token).not.toBe(one.token);
    const token = `"\\ ${"x".repeat(1_021)}`.replace(" ", "~");
    await using own = await bus.serve({ tcp: { port: 0, token } });
    expect(own.token).toBe(token);
    await using open = await bus.serve(optionsOf("tcp without a token"));
    await using unix = await bus.serve(optionsOf("unix"));
    expect([open.token, unix.token]).toEqual([null, null]);
    for (const server of [own, open, unix]) {
      using peer = new Peer(server);
      peer.send(auth(token, 1), ask); // without a token, any client is accepted
      expect(await peer.received(2)).toEqual([
        { jsonrpc: "2.0", id: 1, result: true },
        { jsonrpc: "2.0", id: 2, result: "in" },
      ] as object[]);
    }
    for (const server of [open, unix]) {
      using peer = new Peer(server);
      peer.send(ask);
      expect(await peer.received(1)).toMatchObject([{ result: "in" }]);
    }
  });

  test("opens the connection as a request or a notification, in pieces, and with megabytes after it", async () => {
    await using server = await bus.serve(optionsOf("tcp"));
    using peer = new Peer(server);
    const large = "x".repeat(1_000_000);
    for (const byte of `${JSON.stringify(auth(server.token))}\n`) peer.write(byte);
    peer.send({ ...ask, id: 3, params: large }, ask);
    const answers = await peer.received(2);
    expect(answers.map(({ result }) => (result as string).length).sort()).toEqual([1_000_000, 2]);
    using other = new Peer(server);
    other.send(auth(server.token), { ...ask, params: large });
    expect((await other.received(1))[0]!.result).toBe(large);
  });

  const wrong: [what: string, messages: (token: string) => object[], answers: object[], why: string][] = [
    [
      "another message first",
      (token) => [ask, auth(token)],
      [{ id: 2, error: { code: -32_001 } }],
      "first message was not",
    ],
    ["a notification first", (token) => [{ method: "echo" }, auth(token)], [], "first message was not"],
    ["a response first", (token) => [{ id: 1, result: 1 }, auth(token)], [{ id: 1 }], "first message was not"],
    ["a wrong token", (token) => [auth(`${token}0`, 1), ask], [{ id: 1, error: { code: -32_001 } }], "wrong token"],
    ["half of the token", (token) => [auth(token.slice(0, 32)), ask], [], "wrong token"],
    ["a token that is a number", () => [auth(7, 1), ask], [{ id: 1, error: { code: -32_001 } }], "wrong token"],
    ["no params", () => [{ method: "$/auth" }, ask], [], "wrong token"],
    ["a wrong token later", (token) => [auth(token), auth("x"), ask], [{ id: null }], "wrong token"],
    [
      "a long first message",
      (token) => [{ method: "x".repeat(5_000) }, auth(token)],
      [],
      "4096 bytes without the token",
    ],
  ];
  test.each(wrong)(
    "is required: %s ends the connection, and nothing reaches a worker",
    async (_, messages, answers, why) => {
      await using server = await bus.serve(optionsOf("tcp"));
      const { messagesIn } = bus.stats();
      told.length = 0;
      using peer = new Peer(server);
      peer.send(...messages(server.token!));
      await until(() => peer.isClosed || peer.messages.some(({ error }) => !error), "the end, or a result");
      expect(peer.messages).toMatchObject(answers);
      expect(peer.messages.length).toBe(answers.length);
      expect([bus.stats().messagesIn, told.length]).toEqual([messagesIn, 1]);
      expect(told[0]).toContain(why);
      expect(told[0]).not.toContain(server.token!.slice(0, 32));
    },
  );

  test("is not in the log, not even when a client sends it in an invalid message", async () => {
    await using server = await bus.serve({ tcp: { port: 0, token: "sixteen-letters!" } });
    told.length = 0;
    using peer = new Peer(server, "sixteen-letters!\n");
    await peer.closed();
    expect(told).toEqual([expect.stringMatching(/was closed: the client sent 16 bytes that are not JSON\.$/)]);
  });

  test("is waited for 2 s: a silent connection is closed, an authorized connection stays", async () => {
    await using server = await bus.serve(optionsOf("tcp"));
    told.length = 0;
    using good = new Peer(server);
    good.send(auth(server.token));
    const silent = [new Peer(server), new Peer(server, '{"jsonrpc":"2.0","method":"$/auth",')];
    await Promise.all(silent.map((peer) => peer.closed()));
    expect(told).toEqual(
      Array.from({ length: 2 }, () => expect.stringContaining("did not send the token within 2000 ms")),
    );
    good.send(ask);
    expect(await good.received(1)).toMatchObject([{ result: "in" }]);
    expect([good.isClosed, server.clientCount]).toEqual([false, 1]);
  });
});
