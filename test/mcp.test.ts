/** Servers and clients of the Model Context Protocol: cancellation, progress, sessions of socket clients. Both sides are the official SDK's. */

import { expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { Client, type ClientOptions } from "@modelcontextprotocol/sdk/client/index.js";
import { ReadBuffer, serializeMessage } from "@modelcontextprotocol/sdk/shared/stdio.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import {
  CreateMessageRequestSchema,
  type JSONRPCMessage,
  LoggingMessageNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import type { StdioBus } from "../src/stdio/bus.ts";
import type { WorkerNotification } from "../src/stdio/events.ts";
import type { StartingWorker, StdioPoolOptions } from "../src/stdio/options.ts";
import { RawStdioBus } from "../src/stdio/raw.ts";
import type { RpcMessage } from "../src/stdio/rpc.ts";
import { fixture, folder, running } from "./stdio-stage.ts";
import { rejection, until } from "./wait.ts";

type Result = { content: { text: string }[] };

/** A pool of the fixture. */
const tools = (options: Partial<StdioPoolOptions> = {}): StdioPoolOptions =>
  fixture("mcp-worker.ts", { protocol: "mcp", ...options });

const everything: StdioPoolOptions = {
  id: "everything",
  command: process.execPath,
  args: [Bun.resolveSync("@modelcontextprotocol/server-everything/dist/index.js", import.meta.dir)],
  protocol: "mcp",
};

/** A bus, and its workers' standard error. */
async function logged(pools: StdioPoolOptions[], timeout = 30_000): Promise<{ bus: StdioBus; log: string[] }> {
  const log: string[] = [];
  return { bus: await running({ pools, timeout }, { log: (_, line) => log.push(line) }), log };
}

const call = (name: string, given: object, _meta?: object): object => ({ name, arguments: given, _meta });
const work = (name: string, steps: number, _meta?: object): object => call("work", { name, steps }, _meta);
const forever = 1_000_000;

/** The transport of a client: lines over a unix socket. */
class SocketTransport implements Transport {
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: (message: JSONRPCMessage) => void;
  /** All messages received. */
  readonly received: JSONRPCMessage[] = [];
  readonly #socket: Socket;

  constructor(path: string) {
    const buffer = new ReadBuffer();
    this.#socket = connect(path);
    this.#socket.on("data", (bytes: Buffer) => {
      buffer.append(bytes);
      for (let read = buffer.readMessage(); read; read = buffer.readMessage()) {
        this.received.push(read);
        const message = read;
        // One each turn: the SDK drops a progress listener when the answer comes in the same turn.
        setImmediate(() => this.onmessage?.(message));
      }
    });
    this.#socket.on("close", () => this.onclose?.());
    this.#socket.on("error", (error) => this.onerror?.(error));
  }

  async start(): Promise<void> {}

  async send(message: JSONRPCMessage): Promise<void> {
    this.#socket.write(serializeMessage(message));
  }

  async close(): Promise<void> {
    this.#socket.destroy();
  }
}

/** A client of the SDK after `initialize`. */
async function client(path: string, options: ClientOptions = {}): Promise<{ client: Client } & SocketSide> {
  const transport = new SocketTransport(path);
  const errors: Error[] = [];
  const client = new Client({ name: "test", version: "1" }, options);
  client.onerror = (error) => errors.push(error);
  await client.connect(transport);
  return { client, received: transport.received, errors, [Symbol.asyncDispose]: () => client.close() };
}

interface SocketSide extends AsyncDisposable {
  readonly received: JSONRPCMessage[];
  readonly errors: Error[];
}

test("onProgress gets the progress of its own call; a caller's token stays, and without onProgress progress is a notification", async () => {
  const { bus, log } = await logged([tools()]);
  await using _ = bus;
  const told: WorkerNotification[] = [];
  const reading = (async () => {
    for await (const notification of bus.subscribe()) told.push(notification);
  })();
  const steps = (name: string): object[] =>
    [1, 2, 3].map((progress) => ({ progress, total: 3, message: `${name} ${progress}` }));
  const seen: Record<string, unknown[]> = { a: [], b: [], own: [] };
  const ask = (name: string, meta?: object): Promise<Result> =>
    bus.request<Result>("tools/call", work(name, 3, meta), { onProgress: (piece) => seen[name]!.push(piece) });
  const answers = await Promise.all([ask("a", { other: 1 }), ask("b"), ask("own", { progressToken: 1 })]);
  expect(answers.map(({ content }) => content[0]!.text)).toEqual(["a", "b", "own"]);
  expect(seen).toEqual({ a: steps("a"), b: steps("b"), own: steps("own") });
  expect(told).toEqual([]);
  await until(() => log.filter((line) => line.startsWith("began")).length === 3, "the log of three calls");
  const tokens = log.filter((line) => line.startsWith("began")).map((line) => JSON.parse(line.slice(6)));
  expect(tokens).toEqual([
    ["a", expect.stringMatching(/^slotbus:\d+$/)],
    ["b", expect.stringMatching(/^slotbus:\d+$/)],
    ["own", 1],
  ]);

  await bus.request("tools/call", work("told", 3, { progressToken: "mine" }));
  await until(() => told.length >= 3, "three notifications");
  expect(told.map(({ method, params }) => [method, params])).toEqual(
    steps("told").map((step) => ["notifications/progress", { ...step, progressToken: "mine" }]),
  );
  expect(bus.stats()).toMatchObject({ late: 0, protocolErrors: 0 });
  await bus.close();
  await reading;
});

test("an abort, a timeout and a failing onProgress stop the server's work and say why", async () => {
  const { bus, log } = await logged([tools()]);
  await using _ = bus;
  const has = (line: string): Promise<void> => until(() => log.includes(line), line);
  const began = (name: string): Promise<void> =>
    until(() => log.some((line) => line.startsWith(`began ["${name}"`)), `${name} began`);

  const controller = new AbortController();
  const aborted = rejection(bus.request("tools/call", work("one", forever), { signal: controller.signal }));
  await began("one");
  controller.abort(new Error("not needed"));
  expect((await aborted).message).toBe("not needed");
  await has('stopped ["one","not needed"]');

  const late = rejection(bus.request("tools/call", work("two", forever), { timeout: 500 }));
  expect((await late).message).toContain("timed out after");
  await until(() => log.some((line) => /^stopped \["two",".*timed out after.*"\]$/.test(line)), "the second stopped");

  const onProgress = (): never => {
    throw new Error("no room");
  };
  expect((await rejection(bus.request("tools/call", work("three", forever), { onProgress }))).message).toBe("no room");
  await has('stopped ["three","no room"]');
  expect(await bus.request("ping", {})).toEqual({});
  expect(bus.stats()).toMatchObject({ inFlight: 0, protocolErrors: 0 });
});

test("server-everything does not answer a cancelled call, and reports its steps to onProgress", async () => {
  await using bus = await running({ pools: [everything] });
  const long = (duration: number, steps: number): object => call("trigger-long-running-operation", { duration, steps });
  const seen: unknown[] = [];
  const controller = new AbortController();
  const given = rejection(bus.request("tools/call", long(2, 1), { signal: controller.signal }));
  const kept = bus.request<Result>("tools/call", long(2.4, 8), { onProgress: (piece) => seen.push(piece) });
  await until(() => seen.length > 0, "the first step");
  controller.abort();
  expect((await given).name).toBe("AbortError");
  expect((await kept).content[0]!.text).toContain("completed");
  expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((progress) => ({ progress, total: 8 })));
  expect(bus.stats()).toMatchObject({ late: 0, protocolErrors: 0, inFlight: 0 }); // it was cancelled: otherwise its answer would be late
});

test("a pool initializes each process once; a second initialize gets the same answer; initialize is never cancelled", async () => {
  const { bus, log } = await logged([tools({ restart: { backoff: { initial: 1 } } })]);
  await using _ = bus;
  const asked = {
    protocolVersion: "2025-06-18",
    capabilities: { sampling: {} },
    clientInfo: { name: "x", version: "1" },
  };
  const first = await bus.request<{ serverInfo: object; instructions: string }>("initialize", asked);
  expect(first).toMatchObject({ serverInfo: { name: "fixture" }, protocolVersion: "2025-06-18" });
  expect(await bus.request("initialize", asked)).toEqual(first);
  const newer = { ...asked, protocolVersion: "2099-01-01" };
  expect(await bus.request("initialize", newer)).toEqual({ ...first, protocolVersion: "2025-11-25" });
  await bus.notify("notifications/initialized");
  await bus.request("ping");
  await until(() => log.length > 0, "the log of the greeting");
  expect(log).toEqual(["initialized {}"]); // initialized only by the pool
  process.kill(Number(first.instructions), "SIGKILL");
  await until(() => bus.workers.some(({ life }) => life === 2), "the next life");
  expect((await bus.request<typeof first>("initialize", asked)).instructions).not.toBe(first.instructions);
  await until(() => log.length === 2, "its greeting");

  const lines: string[] = []; // a program that answers nothing and logs its input
  const silent = { id: "s", command: "sh", args: ["-c", 'while read -r line; do echo "$line" >&2; done'] };
  const options = { pools: [{ ...silent, protocol: "mcp" as const, initialize: () => {} }] };
  await using mute = await running(options, { log: (__, line) => lines.push(line) });
  for (const method of ["initialize", "other"]) await rejection(mute.request(method, {}, { timeout: 50 }));
  await mute.notify("end");
  await until(() => lines.length === 4, "four messages");
  const read = lines.map((line) => JSON.parse(line) as RpcMessage);
  expect(read.map(({ method }) => method)).toEqual(["initialize", "other", "notifications/cancelled", "end"]);
  expect(read[2]!.params).toEqual({ requestId: read[1]!.id, reason: expect.stringContaining("timed out after") });
});

/** Sends the client's capabilities. */
const capable = {
  async initialize(worker: StartingWorker): Promise<void> {
    const clientInfo = { name: "host", version: "1" };
    const capabilities = { sampling: {} };
    await worker.request("initialize", { protocolVersion: "2025-06-18", capabilities, clientInfo });
    await worker.notify("notifications/initialized");
  },
};

test("a worker that cancels its own request aborts the handler and gets no answer; its ping is answered", async () => {
  const { bus } = await logged([tools(capable)]);
  await using _ = bus;
  const stopped = Promise.withResolvers<unknown>();
  bus.onRequest("sampling/createMessage", async (__, { signal }) => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    stopped.resolve(signal.reason);
    return { model: "none", role: "assistant", content: { type: "text", text: "too late" } };
  });
  const { content } = await bus.request<Result>("tools/call", call("ask", { question: "?", timeout: 50 }));
  expect(content[0]!.text).toContain("timed out");
  expect(((await stopped.promise) as Error).name).toBe("AbortError");
  expect((await bus.request<Result>("tools/call", call("ping", {}))).content[0]!.text).toBe("{}");
  expect(bus.stats()).toMatchObject({ protocolErrors: 0 });

  // A program that sends a request after its first line, cancels it, and logs its later input.
  const lines: string[] = [];
  const messages = [
    { jsonrpc: "2.0", id: 1, method: "roots/list" },
    { jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: 1 } },
  ].map((message) => JSON.stringify(message));
  const script = 'read -r go; printf "%s\\n" "$@"; while read -r line; do echo "$line" >&2; done';
  const asks = { id: "s", command: "sh", args: ["-c", script, "sh", ...messages], protocol: "mcp" as const };
  await using other = await running(
    { pools: [{ ...asks, initialize: () => {} }] },
    { log: (_, line) => lines.push(line) },
  );
  const aborted = Promise.withResolvers<void>();
  other.onRequest("roots/list", async (__, { signal }) => {
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
    aborted.resolve();
    return { roots: [] };
  });
  await other.notify("go");
  await aborted.promise;
  for (const count of [1, 2]) {
    await other.notify("next");
    await until(() => lines.length >= count, "the next line");
  }
  expect(lines.map((line) => (JSON.parse(line) as RpcMessage).method)).toEqual(["next", "next"]);
});

test("clients of the SDK share a worker over a socket: equal ids and tokens do not collide, each cancels its own calls", async () => {
  using directory = folder();
  const { bus, log } = await logged([tools()]);
  await using _ = bus;
  const { path } = await bus.serve({ unix: join(directory.path, "mcp.sock") });
  await using a = await client(path!);
  await using b = await client(path!);
  expect(a.client.getServerVersion()).toEqual({ name: "fixture", version: "1" });
  expect((await b.client.listTools()).tools.map(({ name }) => name)).toContain("work");
  await a.client.listTools(); // so that both have the same id

  const seen: Record<string, unknown[]> = { a: [], b: [] };
  const asked = async (name: "a" | "b", steps: number, signal?: AbortSignal): Promise<unknown> => {
    const onprogress = ({ message }: { message?: string }): number => seen[name]!.push(message);
    const sdk = name === "a" ? a.client : b.client;
    return (await sdk.callTool({ name: "work", arguments: { name, steps } }, undefined, { onprogress, signal }))
      .content;
  };
  expect(await Promise.all([asked("a", 3), asked("b", 3)])).toEqual([
    [{ type: "text", text: "a" }],
    [{ type: "text", text: "b" }],
  ]);
  expect(seen).toEqual({ a: ["a 1", "a 2", "a 3"], b: ["b 1", "b 2", "b 3"] });

  const controller = new AbortController();
  const given = rejection(asked("a", forever, controller.signal));
  const kept = asked("b", 60);
  await until(() => seen["a"]!.length > 5 && seen["b"]!.length > 5, "both are under way");
  controller.abort("changed my mind");
  await given;
  await until(() => log.some((line) => line.startsWith('stopped ["a"')), "the first stopped");
  expect(await kept).toEqual([{ type: "text", text: "b" }]);
  expect(log.filter((line) => line.startsWith("stopped")).length).toBe(1);
  expect(log.filter((line) => line.startsWith("initialized")).length).toBe(1);
  await a.client.ping();
  const answers = a.received.filter((message) => "result" in message || "error" in message);
  expect(answers.length).toBe(4); // initialize, tools/list, work, ping: none for the cancelled request
  // Progress that was sent before the cancel may still arrive.
  expect(a.errors.filter(({ message }) => !/progress .*"message":"a \d+"/.test(message))).toEqual([]);
  expect(b.errors).toEqual([]);

  // A client that leaves stops its requests.
  const gone = rejection(asked("b", forever));
  await until(() => log.filter((line) => line.startsWith('began ["b"')).length === 3, "it began");
  await b.client.close();
  await gone;
  await until(() => log.some((line) => line.startsWith('stopped ["b"')), "that stopped too");
  expect(bus.stats()).toMatchObject({ protocolErrors: 0, inFlight: 0 });
});

test("a worker's notifications and requests go to the clients of its session, in one pool of several", async () => {
  using directory = folder();
  const { bus, log } = await logged([tools({ id: "other" }), tools({ ...capable, id: "tools", instances: 2 })]);
  await using _ = bus;
  const { path } = await bus.serve({ unix: join(directory.path, "mcp.sock"), pool: "tools" });
  expect(await rejection(bus.serve({ unix: path!, pool: "nope" }))).toMatchObject({ code: "UNKNOWN_POOL" });
  const heard: string[] = [];
  const open = async (name: string): Promise<{ client: Client } & SocketSide> => {
    const side = await client(path!, { capabilities: { sampling: {} } });
    side.client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      heard.push(`${name}: ${params.data}`);
    });
    side.client.setRequestHandler(CreateMessageRequestSchema, ({ params: { messages } }) => {
      const [{ content }] = messages as unknown as [{ content: { text: string } }];
      return { model: "none", role: "assistant", content: { type: "text", text: `${name} heard ${content.text}` } };
    });
    return side;
  };
  const use = (side: { client: Client }, name: string, given: Record<string, unknown>): Promise<string> =>
    side.client.callTool({ name, arguments: given }).then(({ content }) => (content as Result["content"])[0]!.text);

  await using a = await open("a");
  const worker = a.client.getInstructions();
  const others: Awaited<ReturnType<typeof open>>[] = [];
  const hasWorker = (own: boolean) => others.find(({ client }) => (client.getInstructions() === worker) === own);
  while (!hasWorker(true) || !hasWorker(false)) others.push(await open(`${others.length}`)); // one shares the worker, one does not
  const same = hasWorker(true)!;
  const mates = others.filter(({ client }) => client.getInstructions() === worker);
  const name = others.indexOf(same);

  await use(a, "say", { data: "hi" });
  const all = ["a", ...mates.map((mate) => `${others.indexOf(mate)}`)].map((who) => `${who}: hi`).sort();
  // Progress of the host's own requests, one on each worker, with a token that a client may use too.
  const own = work("host", 2, { progressToken: "host" });
  for (let i = 0; i < 2; i++) await bus.request("tools/call", own, { pool: "tools" });
  await Promise.all([a, ...others].map(({ client }) => client.ping())); // so that all have read earlier notifications
  expect(heard.sort()).toEqual(all);
  const methods = [a, ...others].flatMap(({ received }) => received.map((message) => (message as RpcMessage).method));
  expect(methods).not.toContain("notifications/progress");

  const question = { question: "who?", timeout: 5_000 };
  expect(await use(a, "ask", question)).toContain("a heard who?");
  expect(await use(same, "ask", question)).toContain(`${name} heard who?`);
  // With requests of two clients the host does not guess.
  const controller = new AbortController();
  const busy = rejection(
    a.client.callTool({ name: "work", arguments: { name: "busy", steps: forever } }, undefined, {
      signal: controller.signal,
    }),
  );
  await until(() => log.some((line) => line.startsWith('began ["busy"')), "it is busy");
  expect(await use(same, "ask", question)).toContain("requests of 2 clients");
  controller.abort();
  await busy;
  for (const other of others) await other.client.close();
});

test("with concurrency 1 a worker's request belongs to its only running request, even if other clients wait", async () => {
  using directory = folder();
  const { bus } = await logged([tools({ ...capable, concurrency: 1 })]);
  await using _ = bus;
  const { path } = await bus.serve({ unix: join(directory.path, "mcp.sock") });
  const open = async (name: string): Promise<{ client: Client } & SocketSide> => {
    const side = await client(path!, { capabilities: { sampling: {} } });
    side.client.setRequestHandler(CreateMessageRequestSchema, async () => {
      await until(() => bus.stats().waiting === 1, "the other one waits");
      return { model: "none", role: "assistant", content: { type: "text", text: `${name} heard it` } };
    });
    return side;
  };
  await using b = await open("b");
  await using a = await open("a");
  const asked = a.client.callTool({ name: "ask", arguments: { question: "who?", timeout: 5_000 } });
  await until(() => bus.stats().inFlight === 1, "the question's request is under way");
  const behind = b.client.callTool({ name: "say", arguments: { data: "behind" } });
  expect(JSON.stringify((await asked).content)).toContain("a heard it");
  await behind;
});

test("a worker that a reload replaces still reaches the client whose call it has, and no other client", async () => {
  using directory = folder();
  const { bus, log } = await logged([tools(capable)]);
  await using _ = bus;
  const { path } = await bus.serve({ unix: join(directory.path, "mcp.sock") });
  const heard: string[] = [];
  const reloaded = Promise.withResolvers<unknown>();
  const open = async (name: string): Promise<{ client: Client } & SocketSide> => {
    const side = await client(path!, { capabilities: { sampling: {} } });
    side.client.setNotificationHandler(LoggingMessageNotificationSchema, () => void heard.push(name));
    side.client.setRequestHandler(CreateMessageRequestSchema, async () => {
      await reloaded.promise;
      return { model: "none", role: "assistant", content: { type: "text", text: `${name} heard it` } };
    });
    return side;
  };
  await using a = await open("a");
  await using b = await open("b");
  const asked = a.client.callTool({ name: "ask", arguments: { question: "?", timeout: 5_000, times: 2 } });
  await until(() => a.received.some((message) => "method" in message), "its first question");
  await bus.reload({ pools: [tools({ ...capable, env: { A: "1" } })] });
  const controller = new AbortController();
  const busy = rejection(
    b.client.callTool({ name: "work", arguments: { name: "busy", steps: forever } }, undefined, controller),
  );
  await until(() => log.some((line) => line.startsWith('began ["busy"')), "the other one asks the new worker");
  reloaded.resolve(null);
  expect(JSON.stringify((await asked).content)).toContain("a heard it");
  await b.client.ping(); // so that it has read earlier notifications
  expect(heard).toEqual(["a", "a"]);
  controller.abort();
  await busy;
  expect((await a.client.listTools()).tools.length).toBeGreaterThan(0);
});

test("a worker's request for a client that has gone, or for the host itself, goes to no other client", async () => {
  using directory = folder();
  const { bus } = await logged([tools(capable)]);
  await using _ = bus;
  const { path } = await bus.serve({ unix: join(directory.path, "mcp.sock") });
  let asked = 0;
  await using idle = await client(path!, { capabilities: { sampling: {} } });
  idle.client.setRequestHandler(CreateMessageRequestSchema, () => {
    asked++;
    return { model: "none", role: "assistant", content: { type: "text", text: "not mine" } };
  });
  const gone = await client(path!, { capabilities: { sampling: {} } });
  gone.client.setRequestHandler(CreateMessageRequestSchema, () => new Promise(() => {}));
  const call = { name: "ask", arguments: { question: "?", timeout: 5_000, times: 2 } };
  const lost = rejection(gone.client.callTool(call));
  await until(() => gone.received.some((message) => "method" in message), "its first question");
  const rest = Promise.withResolvers<void>();
  bus.onRequest("*", () => {
    rest.resolve();
    throw new Error("nobody to ask");
  });
  await gone.client.close();
  await lost;
  const { content } = await bus.request<Result>("tools/call", call);
  expect(content[0]!.text).toContain("nobody to ask");
  await rest.promise;
  expect(asked).toBe(0);
});

test("a connection uses the pool as it was at its start, after any reload", async () => {
  using directory = folder();
  const { bus } = await logged([fixture("stdio-worker.ts", { ready: true })]);
  await using _ = bus;
  const { path } = await bus.serve({ unix: join(directory.path, "mcp.sock") });
  const { path: named } = await bus.serve({ unix: join(directory.path, "named.sock"), pool: "a" });
  const progress = async (): Promise<unknown[]> => {
    await using side = await client(path!);
    const seen: unknown[] = [];
    const options = { onprogress: ({ progress }: { progress: number }) => void seen.push(progress) };
    await side.client.callTool({ name: "work", arguments: { name: "w", steps: 2 } }, undefined, options);
    return seen;
  };
  await bus.reload({ pools: [tools()] }); // another protocol
  expect(await progress()).toEqual([1, 2]);
  await bus.reload({ pools: [tools(), tools({ id: "b" })] }); // several pools now
  expect(await progress()).toEqual([1, 2]);
  await bus.reload({ pools: [tools({ id: "c" })] }); // under another id
  expect(await progress()).toEqual([1, 2]);
  expect((await rejection(client(named!))).message).toContain('There is no pool "a"');
  await bus.reload({ pools: [tools()] });
  await using side = await client(named!);
  expect((await side.client.listTools()).tools.length).toBeGreaterThan(0);
});

test("a raw bus keeps the caller's tokens, and passes cancels on", async () => {
  const log: string[] = [];
  await using bus = await RawStdioBus.start({ pools: [tools()] });
  bus.on("log", (_, line) => log.push(line));
  const messages = bus.subscribe();
  const next = async (): Promise<RpcMessage> => JSON.parse((await messages.next()).value!) as RpcMessage;
  bus.send({ id: "a", method: "tools/call", params: work("raw", forever, { progressToken: 7 }) });
  expect(await next()).toMatchObject({ method: "notifications/progress", params: { progressToken: 7, progress: 1 } });
  bus.send({ method: "notifications/cancelled", params: { requestId: "a", reason: "done" } });
  await until(() => log.some((line) => line.startsWith('stopped ["raw"')), "it stopped");
  bus.send({ id: "b", method: "ping" });
  let last = await next();
  while (last.method === "notifications/progress") last = await next();
  expect(last).toEqual({ jsonrpc: "2.0", id: "b", result: {} });
});
