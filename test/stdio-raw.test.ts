/** Messages in, messages out: the raw bus, and clients that connect to a bus from outside. */

import { describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Socket } from "bun";
import { ClosedError, InvalidConfigError } from "../src/errors.ts";
import type { StdioBus } from "../src/stdio/bus.ts";
import { type Framing, messageReader } from "../src/stdio/framing.ts";
import type { ServeOptions } from "../src/stdio/options.ts";
import { RawStdioBus } from "../src/stdio/raw.ts";
import type { RpcMessage } from "../src/stdio/rpc.ts";
import { Outbox } from "../src/stdio/writer.ts";
import { fixture, running } from "./stdio-stage.ts";
import { rejection, until } from "./support.ts";

const worker = (options: Parameters<typeof fixture>[1] = {}) => fixture("stdio-worker.ts", options);
const odd = (options: Parameters<typeof fixture>[1] = {}) => fixture("stdio-odd.ts", options);

describe("raw", () => {
  async function raw(...pools: ReturnType<typeof fixture>[]) {
    const bus = await RawStdioBus.start({ pools });
    const messages = bus.subscribe();
    return { bus, next: async () => JSON.parse((await messages.next()).value!) as RpcMessage, messages };
  }

  test("any request comes back as a response with its own id", async () => {
    const { bus, next } = await raw(worker());
    await using _ = bus;
    expect([bus.closed, bus.workers.length, bus.stats().clients]).toEqual([false, 1, 0]);
    for (const id of ["a1", 7, null]) {
      bus.send(JSON.stringify({ jsonrpc: "2.0", id, method: "echo", params: { m: 1 } }));
      expect(await next()).toEqual({ jsonrpc: "2.0", id, result: { m: 1 } });
    }
    bus.send({ id: 8, method: "nope" });
    expect(await next()).toMatchObject({ id: 8, error: { code: -32_601 } });
    const { messagesIn, messagesOut, bytesIn, lost } = bus.stats();
    expect([messagesIn, messagesOut, lost]).toEqual([4, 5, 0]);
    expect(bytesIn).toBeGreaterThan(100);
  });

  test("progress has the id of its request, notifications are unchanged, and several answers keep their order", async () => {
    const { bus, next } = await raw(worker());
    await using _ = bus;
    bus.send({ id: "p", method: "count", params: 2 });
    expect((await next()).params).toEqual({ id: "p", value: { i: 1, text: "ä" } });
    expect((await next()).params).toEqual({ id: "p", value: { i: 2, text: "ää" } });
    expect(await next()).toEqual({ jsonrpc: "2.0", id: "p", result: 2 });
    bus.send({ id: "t", method: "tell", params: [1] });
    expect(await next()).toEqual({ jsonrpc: "2.0", method: "told", params: [1] });
    expect(await next()).toEqual({ jsonrpc: "2.0", id: "t", result: "ok" });
    for (let i = 0; i < 50; i++) bus.send({ id: i, method: "echo", params: i });
    for (let i = 0; i < 50; i++) expect((await next()).result).toBe(i);
  });

  test("responses and notifications that arrive in one piece keep their order", async () => {
    const { bus, next } = await raw(odd());
    await using _ = bus;
    const lines = [
      { id: 1, result: "first" },
      { method: "second" },
      { id: 2, result: "third" },
      { method: "fourth" },
    ].map((message) => `${JSON.stringify(message)}\n`);
    bus.send({ id: "a", method: "write", params: Buffer.from("").toString("base64") });
    bus.send({ id: "b", method: "write", params: Buffer.from(lines.join("")).toString("base64") });
    const got = [await next(), await next(), await next(), await next()];
    expect(got.map(({ result, method }) => result ?? method)).toEqual(["first", "second", "third", "fourth"]);
    expect(got.map(({ id }) => id)).toEqual(["a", undefined, "b", undefined]);
  });

  test("a worker's request gets an id of the bus, and the response with that id reaches the worker", async () => {
    const { bus, next } = await raw(odd({ stop: { drain: 1 } }));
    await using _ = bus;
    bus.send({ id: "q", method: "ask", params: { id: 5, method: "which?", params: [1] } });
    const asked = await next();
    expect(asked).toMatchObject({ method: "which?", params: [1] });
    expect(asked.id).not.toBe(5); // another worker may ask with the same id
    bus.send({ jsonrpc: "2.0", id: asked.id!, result: "this" });
    expect(await next()).toMatchObject({ id: "q", result: { answer: { id: 5, result: "this" } } });
    expect(() => bus.send({ jsonrpc: "2.0", id: asked.id!, result: "again" })).toThrow(InvalidConfigError);
    bus.send({ id: "r", method: "ask", params: { id: 6, method: "other?" } });
    const other = await next();
    bus.send({ id: other.id!, error: { code: 9, message: "no", data: 1 } });
    expect(await next()).toMatchObject({ id: "r", result: { answer: { error: { code: 9, message: "no", data: 1 } } } });
  });

  test("the reader of a worker's request gets its cancellation", async () => {
    const { bus, next } = await raw(odd());
    await using _ = bus;
    bus.send({ id: "q", method: "askAndGiveUp" });
    const asked = await next();
    expect(await next()).toMatchObject({ method: "$/cancelRequest", params: { id: asked.id } });
    expect(await next()).toMatchObject({
      id: "q",
      result: { answer: { error: { message: "The worker cancelled the request." } } },
    });
    expect(() => bus.send({ id: asked.id!, result: "late" })).toThrow("No worker waits");
  });

  test("requests that a worker cannot answer are answered by the bus, with their id", async () => {
    const { bus, next } = await raw(worker({ restart: { maxRestarts: 0, giveUp: true } }), odd({ id: "b" }));
    await using _ = bus;
    bus.send({ id: "x", method: "echo", pool: "nope" });
    expect(await next()).toMatchObject({ id: "x", error: { code: -32_000, data: { code: "UNKNOWN_POOL" } } });
    bus.send({ id: "y", method: "die", params: "exit", pool: "a" });
    expect(await next()).toMatchObject({ id: "y", error: { data: { code: "WORKER_DIED", mayHaveExecuted: true } } });
    bus.send({ method: "echo", pool: "nope" });
    expect(await next()).toMatchObject({ id: null, error: { data: { code: "UNKNOWN_POOL" } } });
    expect(bus.stats().routingErrors).toBe(2);
  });

  test("an invalid message is rejected, and so is every message after the end", async () => {
    const { bus, messages } = await raw(worker());
    for (const wrong of ["{", "[]", "1", "{}", '{"id":1}']) expect(() => bus.send(wrong)).toThrow(InvalidConfigError);
    bus.send({ id: 1, method: "drain", params: 50 });
    await bus.close();
    expect(JSON.parse((await messages.next()).value!).result).toBe("drained");
    expect((await messages.next()).done).toBe(true);
    expect(() => bus.send({ id: 1, method: "echo" })).toThrow(ClosedError);
    expect(() => bus.subscribe()).toThrow(ClosedError);
  });
});

/** A client of a server of the bus. */
class Client implements AsyncDisposable {
  readonly messages: RpcMessage[] = [];
  isClosed = false;
  readonly #socket: Socket;
  readonly #framing: Framing;

  static async connect(to: { unix: string } | { port: number }, framing: Framing = "ndjson"): Promise<Client> {
    const reader = messageReader(framing, 2 ** 30);
    let client: Client | null = null;
    const early: RpcMessage[] = [];
    const socket = {
      data: (_: Socket, bytes: Buffer) => {
        reader.push(bytes.slice());
        for (let next = reader.next(); next !== undefined; next = reader.next()) {
          (client?.messages ?? early).push(next as RpcMessage);
        }
      },
      drain: () => client?.write(),
      close: () => {
        if (client) client.isClosed = true;
      },
    };
    const made =
      "unix" in to
        ? await Bun.connect({ unix: to.unix, socket })
        : await Bun.connect({ hostname: "127.0.0.1", port: to.port, socket });
    client = new Client(made, framing);
    client.messages.push(...early);
    return client;
  }

  constructor(socket: Socket, framing: Framing) {
    this.#socket = socket;
    this.#framing = framing;
  }

  send(...messages: unknown[]): void {
    const outbox = new Outbox(this.#framing);
    for (const message of messages) outbox.add(JSON.stringify(message));
    this.write(outbox.take());
  }

  #unsent: Uint8Array = Buffer.alloc(0);

  /** Writes the rest that the socket did not take before, too. */
  write(data: string | Uint8Array = ""): void {
    this.#unsent = Buffer.concat([this.#unsent, Buffer.from(data as string)]);
    this.#unsent = this.#unsent.subarray(Math.max(0, this.#socket.write(this.#unsent)));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Resolves to that many messages once they have arrived. */
  async received(count: number): Promise<RpcMessage[]> {
    await until(() => this.messages.length >= count, `${count} messages for a client`);
    return this.messages;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.terminate();
  }
}

describe("clients", () => {
  async function served(
    options: Partial<ServeOptions>,
    run: (bus: StdioBus, connect: () => Promise<Client>, path: string) => Promise<void>,
    pool: ReturnType<typeof fixture> = worker(),
  ): Promise<void> {
    const directory = mkdtempSync(join(tmpdir(), "slotbus-stdio-"));
    const path = join(directory, "bus.sock");
    const clients: Client[] = [];
    try {
      await using bus = await running({ pools: [pool] });
      await bus.serve({ unix: path, ...options });
      await run(
        bus,
        async () => {
          const client = await Client.connect({ unix: path }, options.framing);
          clients.push(client);
          return client;
        },
        path,
      );
    } finally {
      for (const client of clients) await client[Symbol.asyncDispose]();
      expect(existsSync(path)).toBe(false);
      rmSync(directory, { recursive: true });
    }
  }

  test("two clients with the same ids get their own answers, and are counted when they connect and leave", () =>
    served({}, async (bus, connect) => {
      const [a, b] = [await connect(), await connect()];
      await until(() => bus.stats().clients === 2, "two clients");
      a.send({ id: 1, method: "late", params: 30 }, { id: "1", method: "echo", params: "a" });
      b.send({ id: 1, method: "echo", params: "b" }, { id: "1", method: "fail", params: 0 });
      expect(await a.received(2)).toEqual([
        { jsonrpc: "2.0", id: "1", result: "a" },
        { jsonrpc: "2.0", id: 1, result: 30 },
      ]);
      expect(await b.received(2)).toMatchObject([
        { id: 1, result: "b" },
        { id: "1", error: { code: 4242, message: "it said no", data: { params: 0 } } },
      ]);
      await a[Symbol.asyncDispose]();
      await until(() => bus.stats().clients === 1, "the end of one");
      expect([bus.stats().clientConnects, bus.stats().clientDisconnects]).toEqual([2, 1]);
    }));

  for (const framing of ["length", "content-length"] as const) {
    test(`a client may speak in frames: ${framing}`, () =>
      served({ framing }, async (_, connect) => {
        const client = await connect();
        client.send({ id: 1, method: "echo", params: "ä" }, { id: 2, method: "count", params: 1 });
        expect(await client.received(3)).toMatchObject([
          { id: 1, result: "ä" },
          { method: "$/progress", params: { id: 2 } },
          { id: 2, result: 1 },
        ]);
      }));
  }

  test("a request that is too long, or for an unknown pool, is answered with an error, and the next is answered", () =>
    served({ messageBytes: 1_000 }, async (_, connect) => {
      const client = await connect();
      client.send({ id: 1, method: "echo", params: 1 });
      client.write(`{"jsonrpc":"2.0","id":"big","method":"echo","params":"${"x".repeat(5_000)}"}\n`);
      client.write(`{"jsonrpc":"2.0","method":"echo","params":"${"x".repeat(5_000)}"}\n`);
      client.send({ id: 2, method: "echo", params: 2, pool: "nope" });
      const answers = await client.received(4);
      expect(answers.find(({ id }) => id === 1)).toMatchObject({ result: 1 });
      expect(answers.filter(({ id }) => id !== 1)).toMatchObject([
        { id: "big", error: { code: -32_600 } },
        { id: null, error: { code: -32_600 } },
        { id: 2, error: { code: -32_000, data: { code: "UNKNOWN_POOL" } } },
      ]);
      client.send({ id: 3, method: "echo", params: 3 });
      expect((await client.received(5))[4]).toEqual({ jsonrpc: "2.0", id: 3, result: 3 });
    }));

  test("the end of a worker is an error for each of its requests, with its id", () =>
    served({}, async (_, connect) => {
      const client = await connect();
      client.send({ id: "a", method: "late", params: 10_000 }, { id: "b", method: "die", params: "exit" });
      const ids = (await client.received(2)).map(({ id, error }) => [id, (error!.data as { code: string }).code]);
      expect(ids.sort()).toEqual([
        ["a", "WORKER_DIED"],
        ["b", "WORKER_DIED"],
      ]);
    }));

  test("an id in use is refused; $/cancelRequest and the end of the client cancel its requests", () =>
    served({}, async (bus, connect) => {
      const client = await connect();
      client.send({ id: 1, method: "wait" }, { id: 1, method: "echo" });
      expect(await client.received(1)).toMatchObject([{ id: 1, error: { code: -32_600 } }]);
      client.send({ method: "$/cancelRequest", params: { id: 1 } });
      expect((await client.received(2))[1]).toMatchObject({ id: 1, error: { code: -32_800 } });
      client.send({ id: 2, method: "wait" });
      await until(() => bus.stats().inFlight === 1, "the request");
      await client[Symbol.asyncDispose]();
      await until(() => bus.stats().inFlight === 0, "its end");
      let aborts = 0;
      for (const end = performance.now() + 5_000; aborts < 2 && performance.now() < end;) {
        aborts = await bus.request<number>("aborts");
      }
      expect(aborts).toBe(2);
    }));

  test("a client has at most `concurrency` open requests; then it is not read, and nothing is lost", () =>
    served({ concurrency: 4 }, async (bus, connect) => {
      const client = await connect();
      let most = 0;
      const timer = setInterval(() => (most = Math.max(most, bus.stats().inFlight)), 1);
      for (let i = 0; i < 200; i++) client.send({ id: i, method: "late", params: 2 });
      const answers = await client.received(200);
      clearInterval(timer);
      expect(new Set(answers.map(({ id }) => id)).size).toBe(200);
      expect(most).toBeWithin(1, 5);
    }));

  test("the end of a client that sent more than `concurrency` cancels all its requests", () =>
    served({ concurrency: 2 }, async (bus, connect) => {
      const client = await connect();
      for (let id = 0; id < 50; id++) client.send({ id, method: "wait" });
      await until(() => bus.stats().inFlight === 2, "its requests");
      await client[Symbol.asyncDispose]();
      await until(() => bus.stats().inFlight === 0 && bus.stats().clients === 0, "its end");
      expect(bus.stats().waiting).toBe(0);
    }));

  test("a client that does not read gets all of its answers when it does, and others are not delayed", () =>
    served({ queuedBytes: 64 * 1_024 }, async (bus, connect) => {
      const [slow, other] = [await connect(), await connect()];
      slow.pause();
      const text = "x".repeat(50_000);
      for (let i = 0; i < 60; i++) slow.send({ id: i, method: "echo", params: text });
      for (let i = 0; i < 20; i++) other.send({ id: i, method: "echo", params: i });
      await other.received(20);
      expect(slow.messages.length).toBeLessThan(60);
      slow.resume();
      const answers = await slow.received(60);
      expect(answers.every(({ result }) => result === text)).toBe(true);
      expect(bus.stats().lost).toBe(0);
    }));

  test("progress for a client that does not read waits at its worker", () =>
    served({ queuedBytes: 64 * 1_024 }, async (bus, connect) => {
      const slow = await connect();
      slow.pause();
      slow.send({ id: "p", method: "count", params: 40_000 });
      let bytes = 0;
      for (let now = 0; now === 0 || now !== bytes; now = bus.stats().bytesOut) {
        bytes = now;
        await Bun.sleep(100);
      }
      expect(bus.stats().inFlight).toBe(1);
      slow.resume();
      const all = await slow.received(40_001);
      expect(bus.stats().bytesOut).toBeGreaterThan(2 * bytes);
      expect(all.map(({ params }) => (params as { value: { i: number } } | undefined)?.value.i)).toEqual([
        ...Array.from({ length: 40_000 }, (_, i) => i + 1),
        undefined,
      ]);
    }));

  test("a notification with a session goes to the clients of that session only", () =>
    served(
      {},
      async (bus, connect) => {
        const [a, b] = [await connect(), await connect()];
        const note = (sessionId: string): string =>
          Buffer.from(`{"jsonrpc":"2.0","method":"update","params":{},"sessionId":"${sessionId}"}\n`).toString(
            "base64",
          );
        a.send({ id: 1, method: "echo", params: 1, sessionId: "s-a" });
        b.send({ id: 1, method: "echo", params: 1, sessionId: "s-b" });
        await Promise.all([a.received(1), b.received(1)]);
        await bus.notify("write", note("s-a"));
        await bus.notify("write", note("s-c"));
        await bus.request("echo", 1);
        expect((await a.received(2))[1]).toMatchObject({ method: "update", sessionId: "s-a" });
        expect(b.messages.length).toBe(1);
      },
      odd(),
    ));

  test("a worker's request goes to the client of its session, and that client's answer to the worker", () =>
    served(
      {},
      async (bus, connect) => {
        const [a, b] = [await connect(), await connect()];
        const ask = (id: number, sessionId: string) => ({
          id,
          method: "ask",
          params: { id: `${sessionId} ${id}`, method: "may I?", params: [1] },
          sessionId,
        });
        a.send(ask(1, "s-a"));
        b.send(ask(1, "s-b"));
        const [questionOfA] = await a.received(1);
        const [questionOfB] = await b.received(1);
        expect(questionOfA).toMatchObject({ method: "may I?", params: [1], sessionId: "s-a" });
        b.send({ id: questionOfB!.id, error: { code: 7, message: "no", data: 1 } }, { id: "nobody's", result: 1 });
        a.send({ id: questionOfA!.id, result: "yes" });
        expect((await a.received(2))[1]).toMatchObject({ id: 1, result: { answer: { result: "yes" } } });
        expect((await b.received(2))[1]).toMatchObject({ id: 1, result: { answer: { error: { code: 7, data: 1 } } } });
        // A handler for the method goes first, a handler for all methods last; a client that is gone answers nothing.
        a.send(ask(2, "s-a"));
        await a.received(3);
        await a[Symbol.asyncDispose]();
        await until(() => bus.stats().clients === 1 && bus.stats().inFlight === 0, "the end of the client");
        bus.onRequest("*", () => "any");
        b.send(ask(3, "s-b"));
        const asked = (await b.received(3))[2]!;
        b.send({ id: asked.id, result: "still b" });
        expect((await b.received(4))[3]).toMatchObject({ id: 3, result: { answer: { result: "still b" } } });
        bus.onRequest("may I?", () => "own");
        b.send(ask(4, "s-b"));
        expect((await b.received(5))[4]).toMatchObject({ id: 4, result: { answer: { result: "own" } } });
      },
      odd(),
    ));

  test("a client that ends its side after its last message, as a pipe does, gets all its answers; then it is closed", async () => {
    const program = `
import socket, sys
where = sys.argv[1]
s = socket.create_connection(("127.0.0.1", int(where))) if where.isdigit() else socket.socket(socket.AF_UNIX)
if not where.isdigit(): s.connect(where)
s.sendall(b'{"jsonrpc":"2.0","method":"$/auth","params":{"token":"%s"}}\\n' % sys.argv[2].encode())
for i in range(200): s.sendall(b'{"jsonrpc":"2.0","id":%d,"method":"late","params":20}\\n' % i)
s.sendall(b'{"jsonrpc":"2.0","id":"last","method":"late","params":50}')
s.shutdown(socket.SHUT_WR)
sys.stdout.write(s.makefile().read())`;
    await served({ concurrency: 4 }, async (bus, _, path) => {
      const { port, token } = await bus.serve({ tcp: { port: 0 }, queuedBytes: 1_024 });
      for (const where of [path, `${port}`]) {
        const client = Bun.spawn(["python3", "-c", program, where, token!], { stdout: "pipe", stderr: "inherit" });
        const lines = (await client.stdout.text()).trim().split("\n");
        const ids = lines.map((line) => (JSON.parse(line) as RpcMessage).id);
        expect(new Set(ids)).toEqual(new Set([...Array.from({ length: 200 }, (_, i) => i), "last"]));
        expect(ids.length).toBe(201);
        await until(() => bus.stats().clients === 0, "its end");
      }
      expect(bus.stats()).toMatchObject({ inFlight: 0, clientConnects: 2, clientDisconnects: 2 });
    });
  }, 20_000);

  test("a client above the limit gets an error and is closed", () =>
    served({ maxClients: 1 }, async (bus, connect) => {
      const first = await connect();
      const second = await connect();
      expect(await second.received(1)).toMatchObject([{ id: null, error: { code: -32_000 } }]);
      await until(() => second.isClosed && bus.stats().clients === 1, "its end");
      first.send({ id: 1, method: "echo", params: 1 });
      expect(await first.received(1)).toEqual([{ jsonrpc: "2.0", id: 1, result: 1 }]);
    }));

  test("the socket has mode 0600; a live socket is not replaced, a dead one is, a file never", () =>
    served({}, async (bus, connect, path) => {
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(await rejection(bus.serve({ unix: path }))).toMatchObject({ code: "ADDRESS_IN_USE" });
      const client = await connect();
      client.send({ id: 1, method: "echo", params: 1 });
      await client.received(1);
      const file = `${path}.file`;
      writeFileSync(file, "mine");
      expect(await rejection(bus.serve({ unix: file }))).toMatchObject({ code: "ADDRESS_IN_USE" });
      const dead = `${path}.dead`;
      const program = `Bun.listen({ unix: ${JSON.stringify(dead)}, socket: { data() {} } }); process.kill(process.pid, "SIGKILL")`;
      await Bun.spawn([process.execPath, "-e", program]).exited;
      expect(statSync(dead).isSocket()).toBe(true);
      const server = await bus.serve({ unix: dead });
      await using again = await Client.connect({ unix: dead });
      again.send({ id: 2, method: "echo", params: 2 });
      await again.received(1);
      await server.close();
      expect(existsSync(dead)).toBe(false);
      const before = await bus.serve({ unix: dead });
      rmSync(dead);
      const after = await bus.serve({ unix: dead });
      await before.close();
      await using other = await Client.connect({ unix: dead }); // the socket of the second server is still there
      other.send({ id: 3, method: "echo", params: 3 });
      await other.received(1);
      await after.close();
      expect(existsSync(dead)).toBe(false);
    }));

  test("of several servers that replace one dead socket at once, one listens and the others are refused", () =>
    served({}, async (bus, _, path) => {
      const dead = `${path}.dead`;
      const program = `Bun.listen({ unix: ${JSON.stringify(dead)}, socket: { data() {} } }); process.kill(process.pid, "SIGKILL")`;
      await Bun.spawn([process.execPath, "-e", program]).exited;
      const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => bus.serve({ unix: dead })));
      const refused = outcomes.filter((outcome) => outcome.status === "rejected");
      for (const { reason } of refused) expect(reason).toMatchObject({ code: "ADDRESS_IN_USE" });
      expect(refused.length).toBe(7);
      await using client = await Client.connect({ unix: dead });
      client.send({ id: 1, method: "echo", params: 1 });
      expect(await client.received(1)).toEqual([{ jsonrpc: "2.0", id: 1, result: 1 }]);
    }));

  test("over tcp it works the same; a port in use is refused; the bus's end closes all", async () => {
    const bus = await running({ pools: [worker()] });
    const server = await bus.serve({ tcp: { port: 0 } });
    expect(server.port).toBeGreaterThan(0);
    expect(await rejection(bus.serve({ tcp: { port: server.port } }))).toMatchObject({ code: "ADDRESS_IN_USE" });
    await using client = await Client.connect({ port: server.port });
    client.send({ id: 0, method: "$/auth", params: { token: server.token } });
    client.send({ id: 1, method: "drain", params: 50 });
    await until(() => bus.stats().inFlight === 1, "the request");
    await bus.close();
    expect(await client.received(2)).toEqual([
      { jsonrpc: "2.0", id: 0, result: true },
      { jsonrpc: "2.0", id: 1, result: "drained" },
    ]);
    await until(() => client.isClosed, "the end of the connection");
    expect([bus.stats().clients, server.clientCount]).toEqual([0, 0]);
    expect(await rejection(bus.serve({ tcp: { port: 0 } }))).toBeInstanceOf(ClosedError);
  });

  test("wrong options are refused", async () => {
    await using bus = await running({ pools: [worker()] });
    const wrong = [
      {},
      { unix: "/x", tcp: { port: 1 } },
      { unix: "" },
      { unix: "/" + "x".repeat(120) },
      { tcp: { port: -1 } },
      { tcp: { port: 0, token: true } },
      { tcp: { port: 0, token: "" } },
      { tcp: { port: 0, token: "fifteen letters" } },
      { tcp: { port: 0, tokn: false } },
      { tcp: { port: 0 }, framing: "raw" },
      { unx: "/x" },
    ];
    for (const options of wrong) {
      expect(await rejection(bus.serve(options as ServeOptions))).toBeInstanceOf(InvalidConfigError);
    }
  });
});
