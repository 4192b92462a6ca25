/** The programs of docs/recipes.md, run as they stand there. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import sharp from "sharp";
import { commandsOf } from "./docs-blocks.ts";
import type { Program } from "./program.ts";
import { blocks, Recipes, shownOf } from "./recipes.ts";
import { until } from "./wait.ts";

const [runWriter = "", runServer = ""] = blocks.filter(({ language }) => language === "sh").flatMap(commandsOf);
/** Longest wait for a state, in ms: other tests may use the processors. */
const PATIENCE_MS = 30_000;

let recipes: Recipes;
beforeAll(() => {
  recipes = new Recipes();
});
afterAll(() => recipes[Symbol.dispose]());
const start: Recipes["start"] = (command, env) => recipes.start(command, env);

function freePort(): string {
  using server = Bun.serve({ port: 0, fetch: () => new Response() });
  return `${server.port}`;
}

async function end(program: Program): Promise<void> {
  program.process.kill("SIGTERM");
  expect(await program.process.exited).toBe(0);
}

/** Fetches on a connection of its own, so that any process of a port may answer. */
async function get(url: string, init: RequestInit = {}): Promise<Response> {
  return fetch(url, { keepalive: false, ...init });
}

test("Hono with a pool hashes and verifies in another process, and ends in order", async () => {
  const port = freePort();
  await using server = start("bun hono-server.ts", { PORT: port });
  await server.line("listens", PATIENCE_MS);
  const post = (path: string, body: string): Promise<Response> =>
    get(`http://localhost:${port}${path}`, { method: "POST", body });
  const hash = await (await post("/hash", "secret")).text();
  expect(await Bun.password.verify("secret", hash)).toBe(true);
  expect(await (await post("/verify", JSON.stringify({ password: "secret", hash }))).json()).toBe(true);
  expect(await (await post("/verify", JSON.stringify({ password: "guess", hash }))).json()).toBe(false);
  expect((await post("/verify", JSON.stringify({ password: "guess", hash: "nonsense" }))).status).toBe(500);
  const all = await Promise.all(Array.from({ length: 140 }, () => post("/hash", "secret")));
  expect(new Set(all.map(({ status }) => status))).toEqual(new Set([200, 503]));
  const busy = await Promise.all(all.filter(({ status }) => status === 503).map((response) => response.text()));
  expect(busy).toContain("BusOverloadedError");
  await end(server);
}, 60_000);

test("one process does the cron job, and after its death another one, with a higher token", async () => {
  await using all = new AsyncDisposableStack();
  const processes = [1, 2, 3].map(() => all.use(start("bun cron.ts", { EVERY_MS: "20" })));
  const leaders = (): Program[] => processes.filter(({ lines }) => lines.length > 0);
  await until(() => leaders().some(({ lines }) => lines.length >= 3), "three jobs", PATIENCE_MS);
  const [first] = leaders();
  expect(leaders()).toHaveLength(1);
  first!.process.kill("SIGKILL");
  await until(() => leaders().length === 2, "another leader", PATIENCE_MS);
  const token = ({ lines }: Program): number => Number(/token (\d+)/.exec(lines[0]!)![1]);
  expect(token(leaders().find((one) => one !== first)!)).toBeGreaterThan(token(first!));
}, 60_000);

test("a message reaches the sockets of all processes of a port", async () => {
  const port = freePort();
  await using all = new AsyncDisposableStack();
  const servers = [1, 2].map(() => all.use(start("bun chat.ts", { PORT: port })));
  for (const server of servers) await server.line("process", PATIENCE_MS);
  const sockets: { pid: string; texts: string[]; socket: WebSocket }[] = [];
  const open = async (room: string): Promise<(typeof sockets)[number]> => {
    const socket = new WebSocket(`ws://localhost:${port}/${room}`);
    all.defer(() => socket.terminate());
    const texts: string[] = [];
    socket.onmessage = ({ data }) => texts.push(String(data));
    await until(() => texts.length === 1, "the welcome");
    return { pid: texts.shift()!, texts, socket };
  };
  await until(
    async () => {
      sockets.push(await open("red"));
      return new Set(sockets.map(({ pid }) => pid)).size === 2;
    },
    "sockets of both processes",
    PATIENCE_MS,
  );
  const other = await open("blue");
  sockets[0]!.socket.send("hello");
  await until(() => sockets.every(({ texts }) => texts.length === 1), "the message");
  expect(sockets.every(({ texts }) => texts[0] === "hello")).toBe(true);
  other.socket.send("bye");
  await until(() => other.texts.length === 1, "the message of the other room");
  expect([other.texts, sockets[0]!.texts]).toEqual([["bye"], ["hello"]]);
}, 60_000);

test("servers write through one SQLite process, and no write is lost when it is killed between two", async () => {
  const port = freePort();
  await using all = new AsyncDisposableStack();
  const writer = all.use(start(runWriter));
  const servers = [1, 2].map(() => all.use(start(runServer, { PORT: port })));
  for (const server of servers) await server.line("process", PATIENCE_MS);
  const visit = async (page: string): Promise<number> =>
    ((await (await get(`http://localhost:${port}/${page}`)).json()) as { count: number }).count;
  const counts = await Promise.all(Array.from({ length: 50 }, () => visit("tea")));
  expect(counts.sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i + 1));
  const { pid } = await writer.logged("joined", 1, PATIENCE_MS);
  process.kill(pid!, "SIGKILL");
  await writer.logged("died", 1, PATIENCE_MS);
  expect(await visit("tea")).toBe(51);
  expect(await (await get(`http://localhost:${port}/visits`)).json()).toEqual([{ page: "/tea", count: 51 }]);
  for (const server of servers) await end(server);
  await end(writer);
}, 60_000);

test("Hono's typed client calls an app in a worker", async () => {
  await using program = start("bun rpc-main.ts");
  expect(await program.process.exited).toBe(0);
  expect(`${program.lines.join("\n")}\n`).toBe(shownOf("rpc-main.ts"));
}, 60_000);

test("a tRPC client calls a router in a worker: batches, streams, errors, and a crash that costs one call", async () => {
  await using program = start("bun trpc-main.ts");
  expect(await program.process.exited).toBe(0);
  expect(`${program.lines.join("\n")}\n`).toBe(shownOf("trpc-main.ts"));
}, 60_000);

/** A picture of one colour, `width` by three quarters of it. */
function picture(width: number): Promise<Buffer> {
  const create = { width, height: (width * 3) / 4, channels: 3, background: "teal" } as const;
  return sharp({ create }).jpeg().toBuffer();
}

test("pictures are resized in another process; bad ones, huge ones and a bad width get an answer", async () => {
  const port = freePort();
  await using server = start("bun image-server.ts", { PORT: port });
  await server.line("listens", PATIENCE_MS);
  const post = (body: Uint8Array<ArrayBuffer> | string, query = ""): Promise<Response> =>
    get(`http://localhost:${port}/thumbnail${query}`, { method: "POST", body });
  const small = await post(new Uint8Array(await picture(1200)), "?width=300");
  expect([small.status, small.headers.get("content-type")]).toEqual([200, "image/webp"]);
  expect(await sharp(await small.bytes()).metadata()).toMatchObject({ format: "webp", width: 300, height: 225 });
  const bad = await post("not a picture");
  expect([bad.status, await bad.text()]).toEqual([422, "Input buffer contains unsupported image format"]);
  const huge = await post(new Uint8Array(await picture(10_000)));
  expect([huge.status, await huge.text()]).toEqual([422, "Input image exceeds pixel limit"]);
  expect((await post("", "?width=1e9")).status).toBe(400);
  expect((await post(new Uint8Array(21 * 1024 ** 2))).status).toBe(413);
  const all = await Promise.all(Array.from({ length: 20 }, async () => post(new Uint8Array(await picture(400)))));
  expect(new Set(all.map(({ status }) => status))).toEqual(new Set([200]));
  await end(server);
}, 60_000);

test("a model in Python responds to a web server, also after one of its processes was killed", async () => {
  const port = freePort();
  await using server = start("bun model-server.ts", { PORT: port });
  await server.line("listens", PATIENCE_MS);
  const post = (body: string): Promise<Response> => get(`http://localhost:${port}/classify`, { method: "POST", body });
  const call = blocks.find(({ code }) => code.includes("/classify") && code.startsWith("curl"))!;
  const [, text = ""] = /"(.*?)"/.exec(call.code)!;
  expect(`${await (await post(text)).text()}\n`).toBe(call.output!);
  expect(await (await post("broken again")).json()).toMatchObject({ label: "complaint" });
  const children = await Bun.$`ps -o pid=,args= --ppid ${server.process.pid}`.text();
  const models = children.split("\n").filter((line) => line.includes("model.py"));
  expect(models).toHaveLength(2);
  process.kill(Number.parseInt(models[0]!), "SIGKILL");
  const answers = await Promise.all(Array.from({ length: 20 }, () => post(text)));
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  await end(server);
}, 60_000);

test("tokens arrive as they are made, and the model ends when the browser leaves", async () => {
  const port = freePort();
  await using server = start("bun tokens-server.ts", { PORT: port });
  await server.line("listens", PATIENCE_MS);
  const url = `http://localhost:${port}/answer?q=Why%3F`;
  expect(await (await get(`http://localhost:${port}/`)).text()).toContain("EventSource");
  const text = await (await get(url)).text();
  expect(text).toStartWith('data: "Why? "\n\ndata: "Because "\n\n');
  expect(text).toEndWith("event: end\ndata:\n\n");
  await until(() => server.lines.filter((line) => line === "the model ended").length === 1, "the end of the first");
  const abort = new AbortController();
  const response = await get(url, { signal: abort.signal });
  const { value } = await response.body!.getReader().read();
  expect(new TextDecoder().decode(value)).toStartWith('data: "Why? "');
  abort.abort();
  await until(() => server.lines.filter((line) => line === "the model ended").length === 2, "the end of the second");
}, 60_000);

interface Span {
  readonly name: string;
  readonly trace: string;
  readonly id: string;
  readonly parent: string | undefined;
}

/** The spans that the console exporter printed: each has several lines, from `{` to `}`. */
function spansOf(lines: readonly string[]): Span[] {
  return [...lines.join("\n").matchAll(/^\{\n[\s\S]*?^\}/gm)].map(([span]) => {
    const value = (pattern: RegExp): string | undefined => pattern.exec(span)?.[1];
    return {
      name: value(/^ {2}name: "(.*)"/m)!,
      trace: value(/^ {2}traceId: "(\w+)"/m)!,
      id: value(/^ {2}id: "(\w+)"/m)!,
      parent: value(/parentSpanContext: \{[^}]*spanId: "(\w+)"/),
    };
  });
}

test("an HTTP request, its request on the bus, the handler and the work in it are spans of one trace", async () => {
  const port = freePort();
  await using server = start("bun traced-server.ts", { PORT: port });
  await server.line("listens", PATIENCE_MS);
  expect(await (await get(`http://localhost:${port}/prices/tea`)).json()).toEqual({ item: "tea", price: 3 });
  const names = ["find the price", "GET traced", "GET traced", "GET /prices/:item"];
  await until(() => spansOf(server.lines).length === names.length, "the spans", PATIENCE_MS);
  const spans = spansOf(server.lines);
  expect(new Set(spans.map(({ trace }) => trace)).size).toBe(1);
  const path: Span[] = [];
  for (let next = spans.find(({ name }) => name === names[0]); next !== undefined;) {
    path.push(next);
    const { parent } = next;
    next = spans.find(({ id }) => id === parent);
  }
  expect(path.map(({ name }) => name)).toEqual(names);
}, 60_000);

test("an MCP host calls tools of two servers, and a tool that hangs or crashes costs one call", async () => {
  await using program = start("bun mcp-host.ts");
  expect([program.errors, await program.process.exited]).toEqual([[], 0]);
  expect(`${program.lines.join("\n")}\n`).toBe(shownOf("mcp-host.ts"));
}, 60_000);

/** Programs of the guides, and the program after which the page shows their output. */
const guides = [
  ["area-main.ts", "area-main.ts"],
  ["ipc-main.ts", "shout-main.ts"],
  ["shout-main.ts", "shout-main.ts"],
  ["users-main.ts", "users-main.ts"],
] as const;

test.each(guides)(
  "the guide's program %s prints what the page shows after %s",
  async (file, shown) => {
    await using program = start(`bun ${file}`);
    expect([program.errors, await program.process.exited]).toEqual([[], 0]);
    expect(`${program.lines.join("\n")}\n`).toBe(shownOf(shown));
  },
  60_000,
);
