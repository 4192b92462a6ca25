/** Every public signature: parameters and results of all methods, getters, functions, statics and events. */

import { expect, test } from "bun:test";
import type { NatsConnection } from "@nats-io/transport-node";
import type { Server } from "bun";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type * as B from "slotbus";
import { SlotBus, SlotWorker } from "slotbus";
import type * as H from "slotbus/hub";
import { Hub, type HubEmitter, type HubRequest, HubWorker, type limit, sse, type ws } from "slotbus/hub";
import type { nats, NatsOptions, NatsVia } from "slotbus/nats";
import type { instrument, InstrumentOptions } from "slotbus/otel";
import { Pool, type PoolEvents, type PoolStats, type RunName, type StreamName, task, type Task } from "slotbus/pool";
import type * as L from "slotbus/pool";
import type * as W from "slotbus/serve";
import type { callBus, serve } from "slotbus/serve";
import type * as S from "slotbus/stdio";
import { type fromStdioBusConfig, RawStdioBus, StdioBus, type StdioServer } from "slotbus/stdio";
import type { Subscription as StdioSubscription } from "slotbus/stdio";
import type * as P from "slotbus/supervisor";
import type { Supervisor } from "slotbus/supervisor";
import type * as T from "slotbus/testing";
import { type assertNoLeaks, crashWorker, type fakeClock, type LeakError, TestBus } from "slotbus/testing";
import manifest from "../package.json";
import { type Emits, type Equal, type Expect, type Failed, type Getters, shop, type Text } from "./signatures-bus.ts";

type Push = (path: string, type: string, data: unknown) => Promise<number>;
type PushAll = (pattern: string, params: Text, type: string, data: unknown) => Promise<number>;
type FetchOfHub = (request: Request, server?: Server<unknown>) => Response | Promise<Response>;

type Work = {
  resize(image: Uint8Array, options: { width: number }): Promise<Uint8Array>;
  now(): Date;
  rows(path: string): AsyncGenerator<string[], void>;
  ids(): Generator<number, void>;
  later(): Promise<ReadableStream<Uint8Array>>;
  fails(): never;
  version: string;
};
declare const pool: Pool<Work>;
declare const untyped: Pool;

export const ofPool = async (): Promise<void> => {
  const image: Uint8Array = await pool.run("resize", [new Uint8Array(1), { width: 2 }], { timeout: 1, signal });
  const now: Date = await pool.run("now", [], { idempotent: true });
  for await (const row of pool.stream("rows", ["a.csv"])) row.at(0)?.trim();
  for await (const id of pool.stream("ids", [])) id.toFixed();
  for await (const bytes of pool.stream("later", [])) bytes.subarray();
  void [image, now, await untyped.run("any", [1, "two"])];
  for await (const item of untyped.stream("any", [])) void item.any;
  // @ts-expect-error: no such function
  void pool.run("resized", []);
  // @ts-expect-error: a width is a number
  void pool.run("resize", [new Uint8Array(1), { width: "2" }]);
  // @ts-expect-error: an argument is missing
  void pool.run("resize", [new Uint8Array(1)]);
  // @ts-expect-error: a generator streams
  void pool.run("rows", ["a.csv"]);
  // @ts-expect-error: not a generator
  void pool.stream("now", []);
  // @ts-expect-error: not a function
  void pool.run("version", []);
  // @ts-expect-error: no such option
  void pool.run("now", [], { worker: 1 });
};
declare const signal: AbortSignal;

export type OfPool = [
  Expect<Equal<typeof Pool.start<Work>, (options: L.PoolOptions) => Promise<Pool<Work>>>>,
  Expect<Equal<RunName<Work>, "resize" | "now" | "fails">>,
  Expect<Equal<StreamName<Work>, "rows" | "ids" | "later">>,
  Expect<Equal<Parameters<Pool<Work>["run"]>[0], RunName<Work>>>,
  Expect<Equal<Parameters<Pool<Work>["stream"]>[0], StreamName<Work>>>,
  Expect<Equal<Parameters<Pool<Work>["run"]>[2], L.RunOptions | undefined>>,
  Expect<Getters<Pool, "name", string>>,
  Expect<Equal<Pick<Pool, "closed" | "drain" | "close">, Pick<SlotBus, "closed" | "drain" | "close">>>,
  Expect<Equal<Pool["stats"], () => PoolStats>>,
  Expect<Emits<Pool, PoolEvents>>,
  Expect<Equal<keyof PoolEvents, "joined" | "left" | "died" | "log" | "paused" | "resumed">>,
  Expect<Equal<typeof task, () => Task>>,
  Expect<Equal<Pick<Task, "name" | "id">, { readonly name: string; readonly id: string }>>,
  Expect<Equal<Pick<Task, "signal" | "deadline">, { readonly signal: AbortSignal; readonly deadline: number }>>,
];

type Message = string | Uint8Array;
type ForTopic = (topic: string) => void;
type OfTopic = (id: string, topic: string) => Promise<void>;
type Refused = { readonly name: string; readonly pid: number | null };
type Named = { readonly id: string; readonly method: string; readonly path: string };

export type OfHub = [
  Expect<Equal<typeof Hub.start, (options?: H.HubOptions) => Promise<Hub>>>,
  Expect<Getters<Hub, "options", H.ResolvedHubOptions>>,
  Expect<Getters<Hub, "name", string>>,
  Expect<Getters<Hub, "clients" | "sockets", number>>,
  Expect<Getters<Hub, "websocket", Bun.WebSocketHandler<unknown>>>,
  Expect<Getters<Hub, "url" | "controlUrl", URL | null>>,
  Expect<Getters<Hub, "fetch", FetchOfHub>>,
  Expect<Equal<Pick<Hub, "closed" | "drain" | "close">, Pick<SlotBus, "closed" | "drain" | "close">>>,
  Expect<Emits<Hub, H.HubEvents>>,
  Expect<Equal<[H.HubEvents["joined"], H.HubEvents["left"]], [[worker: H.HubWorkerInfo], [worker: H.HubWorkerInfo]]>>,
  Expect<Equal<H.HubEvents["died"], [worker: H.HubWorkerInfo, reason: string]>>,
  Expect<Equal<H.HubEvents["refused"], [worker: Refused, reason: string]>>,
  Expect<Equal<H.HubEvents["request"], [request: H.HubRequestInfo]>>,
  Expect<Equal<Pick<H.HubRequestInfo, "id" | "method" | "path">, Named>>,
  Expect<Equal<Pick<H.HubRequestInfo, "status" | "ms">, { readonly status: number; readonly ms: number }>>,
  Expect<Equal<[H.HubRequestInfo["bytes"], H.HubRequestInfo["worker" | "address"]], [number | null, string | null]>>,
  Expect<Equal<H.HubEvents["messageLost"], [message: H.HubMessageInfo]>>,
  Expect<Equal<keyof H.HubEvents, "joined" | "left" | "died" | "refused" | "request" | "messageLost">>,
  Expect<Equal<typeof HubWorker.start, <Of extends string>(options: H.HubWorkerOptions<Of>) => Promise<HubWorker>>>,
  Expect<Getters<HubWorker, "name" | "hub", string>>,
  Expect<Getters<HubWorker, "connected" | "closed", boolean>>,
  Expect<Equal<HubWorker["emitter"], (source?: string) => HubEmitter>>,
  Expect<Equal<[HubWorker["drain"], HubWorker["close"]], [SlotBus["drain"], SlotBus["close"]]>>,
  Expect<Emits<HubWorker, H.HubWorkerEvents>>,
  Expect<Equal<H.HubWorkerEvents["connected"], []>>,
  Expect<Equal<H.HubWorkerEvents["disconnected"], [reason: Error]>>,
  Expect<Equal<H.HubWorkerEvents["retry"], [reason: Error, waitMs: number]>>,
  Expect<Equal<H.HubWorkerEvents["handlerError"], [error: unknown, request: Failed]>>,
  Expect<Equal<keyof H.HubWorkerEvents, "connected" | "disconnected" | "retry" | "handlerError">>,
  Expect<Getters<HubWorker, "sockets", H.HubSockets>>,
  Expect<Equal<typeof ws, <Of extends string = string>(handlers: H.SocketHandlers<Of>) => H.SocketRoute>>,
  Expect<Getters<H.SocketRoute, "handlers", H.SocketHandlers>>,
  Expect<Getters<H.HubSocket, "id", string>>,
  Expect<Getters<H.HubSocket<"/a/:id">, "params", Readonly<Record<"id", string>>>>,
  Expect<Equal<Pick<H.HubSocket, "data" | "protocol">, { data: unknown; protocol: string }>>,
  Expect<Equal<H.HubSocket["send"], (message: Message) => void>>,
  Expect<Equal<H.HubSocket["publish"], (topic: string, message: Message) => void>>,
  Expect<Equal<H.HubSocket["subscribe"], ForTopic>>,
  Expect<Equal<H.HubSocket["unsubscribe"], ForTopic>>,
  Expect<Equal<H.HubSocket["close"], (code?: number, reason?: string) => void>>,
  Expect<Equal<H.HubSockets["send"], (id: string, message: Message) => Promise<void>>>,
  Expect<Equal<H.HubSockets["publish"], (topic: string, message: Message) => Promise<void>>>,
  Expect<Equal<H.HubSockets["subscribe"], OfTopic>>,
  Expect<Equal<H.HubSockets["unsubscribe"], OfTopic>>,
  Expect<Equal<H.HubSockets["close"], (id: string, code?: number, reason?: string) => Promise<void>>>,
  Expect<Getters<HubRequest, "raw", B.WorkerRequest>>,
  Expect<Getters<HubRequest, "method" | "path" | "pattern" | "id", string>>,
  Expect<Getters<HubRequest, "traceparent", string | null>>,
  Expect<Getters<HubRequest<"/a/:id/{kind}/*rest">, "params", Readonly<Record<"id" | "kind" | "rest", string>>>>,
  Expect<Getters<HubRequest, "params", Text>>,
  Expect<Getters<HubRequest, "query", URLSearchParams>>,
  Expect<Getters<HubRequest, "headers", B.HeaderList>>,
  Expect<Getters<HubRequest, "signal", AbortSignal>>,
  Expect<Equal<HubRequest["defer"], () => (answer: B.Answerable) => void>>,
  Expect<Equal<keyof H.PathParams<"/plain/*">, never>>,
  Expect<Getters<HubEmitter, "source", string>>,
  Expect<Equal<Parameters<typeof limit>[0], H.RouteLimitOptions>>,
  Expect<Equal<ReturnType<typeof limit>, H.LimitedRoute<object>>>,
  Expect<Getters<H.LimitedRoute<7>, "entry", 7>>,
  Expect<Getters<H.LimitedRoute, "limits", H.RouteLimitOptions>>,
  Expect<Equal<HubEmitter["emit"], (type: string, data: unknown) => Promise<number>>>,
  Expect<Equal<[HubEmitter["ssePush"], HubEmitter["ssePushByPattern"]], [Push, PushAll]>>,
  Expect<Equal<typeof sse, (handlers?: H.SseHandlers) => H.SseRoute>>,
  Expect<Getters<H.SseRoute, "handlers", H.SseHandlers>>,
];

type Tell = (method: string, params?: unknown, options?: S.StdioRequestOptions) => Promise<void>;
type AskStdio = <Answer = unknown>(
  method: string,
  params?: unknown,
  options?: S.StdioRequestOptions,
) => Promise<Answer>;
type SendStdio = (message: S.RpcMessage, options?: S.StdioRequestOptions) => Promise<S.RpcMessage | undefined>;
type Notifications = StdioSubscription<S.WorkerNotification>;
type Core = "closed" | "workers" | "drain" | "close" | "ref" | "unref" | "resize" | "reload" | "stats";
type EndOfWorker = [worker: S.LinkIdentity, report: B.ExitReport];

export type OfStdio = [
  Expect<Equal<Parameters<typeof StdioBus.start>[0], S.StdioBusOptions>>,
  Expect<Equal<ReturnType<typeof StdioBus.start>, Promise<StdioBus>>>,
  Expect<Getters<StdioBus, "closed", boolean>>,
  Expect<Getters<StdioBus, "workers", S.LinkIdentity[]>>,
  Expect<Equal<StdioBus["request"], AskStdio>>,
  Expect<Equal<StdioBus["notify"], Tell>>,
  Expect<Equal<StdioBus["send"], SendStdio>>,
  Expect<Equal<StdioBus["onRequest"], (method: string, handler: S.WorkerRequestHandler) => () => void>>,
  Expect<Equal<StdioBus["subscribe"], (options?: S.NotificationOptions) => Notifications>>,
  Expect<Equal<StdioBus["serve"], (options: S.ServeOptions) => Promise<StdioServer>>>,
  Expect<Equal<StdioBus["drain"], (options?: B.DrainOptions) => Promise<void>>>,
  Expect<Equal<StdioBus["close"], (options?: B.CloseOptions) => Promise<S.PoolExitReport[]>>>,
  Expect<Equal<[StdioBus["ref"], StdioBus["unref"]], [() => void, () => void]>>,
  Expect<Equal<StdioBus["resize"], (pool: string, instances: number) => Promise<void>>>,
  Expect<Equal<StdioBus["reload"], (options: S.StdioBusOptions) => Promise<S.StdioReloadReport>>>,
  Expect<Equal<StdioBus["stats"], () => S.StdioStats>>,
  Expect<Emits<StdioBus, S.StdioBusEvents>>,
  Expect<Equal<S.StdioBusEvents["joined"], [worker: S.LinkIdentity]>>,
  Expect<Equal<S.StdioBusEvents["left"], EndOfWorker>>,
  Expect<Equal<S.StdioBusEvents["died"], EndOfWorker>>,
  Expect<Equal<S.StdioBusEvents["log"], [worker: Omit<S.LinkIdentity, "life">, line: string]>>,
  Expect<Equal<S.StdioBusEvents["failed"], [error: B.WorkerFailedError, pool: string]>>,
  Expect<Equal<S.StdioBusEvents["paused"], [error: B.WorkerFailedError, pool: string]>>,
  Expect<Equal<S.StdioBusEvents["resumed"], [pool: string]>>,
  Expect<Equal<S.StdioBusEvents["fault"], [error: B.SlotbusError, worker: S.LinkIdentity]>>,
  Expect<Equal<S.StdioBusEvents["refused"], [reason: string]>>,
  Expect<Equal<typeof RawStdioBus.start, (options: S.StdioBusOptions) => Promise<RawStdioBus>>>,
  Expect<Equal<RawStdioBus["send"], (message: string | S.RpcMessage) => void>>,
  Expect<Equal<RawStdioBus["subscribe"], (options?: S.SubscribeOptions) => StdioSubscription<string>>>,
  Expect<Equal<Pick<RawStdioBus, Core>, Pick<StdioBus, Core>>>,
  Expect<Getters<StdioServer, "port" | "clientCount", number>>,
  Expect<Getters<StdioServer, "path" | "token", string | null>>,
  Expect<Getters<StdioServer, "closed", boolean>>,
  Expect<Getters<StdioServer, "done", Promise<void>>>,
  Expect<Equal<StdioServer["close"], () => Promise<void>>>,
  Expect<Getters<StdioSubscription<1>, "closed", boolean>>,
  Expect<Getters<StdioSubscription<1>, "queued" | "lost", number>>,
  Expect<Equal<StdioSubscription<1>["next"], () => Promise<IteratorResult<1>>>>,
  Expect<
    Equal<
      [StdioSubscription<1>["return"], StdioSubscription<1>["close"]],
      [() => Promise<IteratorResult<1>>, () => void]
    >
  >,
  Expect<Equal<typeof fromStdioBusConfig, (given: string | S.StdioBusConfig) => S.StdioBusOptions>>,
];

type StartPool = <Link extends P.WorkerLink>(
  options: P.PoolOptions,
  transport: P.Transport<Link>,
) => Promise<Supervisor<Link>>;
type EndOfStatus = [worker: P.WorkerStatus, report: B.ExitReport];

export type OfSupervisor = [
  Expect<Equal<typeof Supervisor.start, StartPool>>,
  Expect<Getters<Supervisor, "links", readonly P.WorkerLink[]>>,
  Expect<Getters<Supervisor, "closed" | "isDown", boolean>>,
  Expect<Getters<Supervisor, "workers", readonly P.WorkerStatus[]>>,
  Expect<Getters<Supervisor, "pausedFor", B.WorkerFailedError | null>>,
  Expect<Equal<Supervisor["close"], (options?: B.CloseOptions) => Promise<B.ExitReport[]>>>,
  Expect<Equal<Supervisor["resize"], (instances: number) => Promise<void>>>,
  Expect<Equal<[Supervisor["ref"], Supervisor["unref"]], [() => void, () => void]>>,
  Expect<Emits<Supervisor, P.SupervisorEvents>>,
  Expect<Equal<P.SupervisorEvents["joined"], [worker: P.WorkerStatus]>>,
  Expect<Equal<P.SupervisorEvents["left"], EndOfStatus>>,
  Expect<Equal<P.SupervisorEvents["died"], EndOfStatus>>,
  Expect<Equal<P.SupervisorEvents["state"], [worker: P.WorkerStatus, previous: P.WorkerState]>>,
  Expect<Equal<P.SupervisorEvents["log"], [worker: { id: number; pid: number }, line: string]>>,
  Expect<Equal<P.SupervisorEvents["failed"], [error: B.WorkerFailedError]>>,
  Expect<Equal<P.SupervisorEvents["paused"], [error: B.WorkerFailedError]>>,
  Expect<Equal<P.SupervisorEvents["resumed"], []>>,
];

type CallBus = <Answer = unknown>(
  bus: Asker,
  method: string,
  params?: unknown,
  options?: W.BusCallOptions,
) => Promise<Answer>;
type Asker = Parameters<typeof callBus>[0];
type AddWorker = TestBus["worker"];
type WorkerOfTest = Partial<Omit<B.SlotWorkerOptions, "name" | "directory">>;

export type OfServeAndTesting = [
  Expect<Equal<typeof serve, (handlers: W.ServeHandlers, options?: W.ServeWorkerOptions) => Promise<W.Served>>>,
  Expect<Equal<typeof callBus, CallBus>>,
  Expect<SlotBus extends Asker ? (string extends Asker ? false : true) : false>,
  Expect<Getters<W.Served, "over", "stdio" | "bus">>,
  Expect<Getters<W.Served, "closed", boolean>>,
  Expect<Getters<W.Served, "done", Promise<void>>>,
  Expect<Equal<W.Served["drain"], (options?: { timeout?: number | undefined }) => Promise<void>>>,
  Expect<Equal<W.Served["close"], (options?: { timeout?: number | undefined }) => Promise<void>>>,
  Expect<Equal<typeof TestBus.create, (options?: T.TestBusOptions) => Promise<TestBus>>>,
  Expect<Getters<TestBus, "bus", SlotBus>>,
  Expect<Getters<TestBus, "directory" | "name", string>>,
  Expect<Getters<TestBus, "env", { SLOTBUS_DIR: string; SLOTBUS_NAME: string }>>,
  Expect<
    Equal<Parameters<AddWorker>, [contract: B.Contract, handlers: B.Handlers<B.Contract>, options?: WorkerOfTest]>
  >,
  Expect<Equal<ReturnType<TestBus["worker"]>, Promise<SlotWorker>>>,
  Expect<Equal<TestBus["spawn"], (program: string | URL, args?: readonly string[]) => Promise<B.WorkerInfo>>>,
  Expect<Equal<TestBus["close"], () => Promise<void>>>,
  Expect<Equal<Parameters<typeof crashWorker>[0], SlotBus>>,
  Expect<Equal<ReturnType<typeof crashWorker>, Promise<B.WorkerInfo>>>,
  Expect<Equal<typeof fakeClock, (start?: number) => T.FakeClock>>,
  Expect<Getters<T.FakeClock, "now", () => number>>,
  Expect<Equal<T.FakeClock["advance"], (ms: number) => number>>,
  Expect<Equal<typeof assertNoLeaks, <Of>(work: () => Of | Promise<Of>, options?: T.LeakOptions) => Promise<Of>>>,
  Expect<Getters<LeakError, "name", "LeakError">>,
  Expect<Getters<LeakError, "leaks", readonly T.Leak[]>>,
  Expect<Equal<typeof nats, (given?: NatsOptions | NatsConnection) => NatsVia>>,
  Expect<Equal<typeof instrument, (options?: InstrumentOptions) => Disposable>>,
];

/** Compiled, never run: each marked line must not compile. */
export const wrong = async (b: SlotBus, s: StdioBus, t: TestBus): Promise<void> => {
  const via: NatsVia | undefined = undefined as NatsVia | undefined;
  const remote = { bus: await SlotBus.connect({ name: "x", via }), worker: await SlotWorker.open({ name: "x", via }) };
  await remote.bus.request({ path: "/" });
  // @ts-expect-error: a bus over NATS has no shared memory
  void remote.bus.borrow({ path: "/" });
  // @ts-expect-error: a bus over NATS does not block
  remote.bus.requestSync({ path: "/" });
  // @ts-expect-error: a worker over NATS does not block
  remote.worker.serveSync(() => "x");
  // @ts-expect-error: created by start
  new Hub({});
  // @ts-expect-error: created by start
  new HubWorker({ name: "x", routes: {} });
  // @ts-expect-error: created by start
  new StdioBus({ pools: [] });
  // @ts-expect-error: created by start
  new RawStdioBus({ pools: [] });
  // @ts-expect-error: created by create
  new TestBus({});
  // @ts-expect-error: no such option
  void Hub.start({ prot: 1 });
  // @ts-expect-error: a worker has a name
  void HubWorker.start({ routes: {} });
  // @ts-expect-error: the pattern has no such parameter
  void HubWorker.start({ name: "x", routes: { "/a/:id": ({ params }) => params.name } });
  // @ts-expect-error: a stream of events is a route for GET
  void HubWorker.start({ name: "x", routes: { "/a": { POST: sse() } } });
  // @ts-expect-error: pools must be given
  void StdioBus.start({ timeout: 1 });
  // @ts-expect-error: a pool has a command
  void StdioBus.start({ pools: [{ id: "x" }] });
  // @ts-expect-error: an answer is a promise
  s.request<number>("add").toFixed();
  // @ts-expect-error: only a subscription to events has an id
  void s.subscribe().id;
  // @ts-expect-error: the directory of a test is its own
  void TestBus.create({ directory: "/" });
  // @ts-expect-error: no handlers for a contract
  void t.worker(shop);
  // @ts-expect-error: no such signal
  void crashWorker(b, { signal: "SIGNONE" });
};

const root = join(import.meta.dir, "..");
const read = (file: string): string => readFileSync(join(root, file), "utf8");
const types = read("test/signatures.test.ts") + read("test/signatures-bus.ts");
type Class = { readonly name: string; readonly prototype: object };

/** Whether a value was declared by `class`. */
function isClass(value: unknown): value is Class {
  return typeof value === "function" && /^class\b/.test(Function.prototype.toString.call(value));
}

/** What an entry exports: its values, and the classes that it exports only as types. */
async function exportsOf(entry: string): Promise<Map<string, unknown>> {
  const found = new Map<string, unknown>(Object.entries(await import(join(root, entry))));
  for (const [, names, from] of read(entry).matchAll(/^export (?:type )?\{([^}]*)\} from "([^"]+)"/gm)) {
    const module = (await import(join(root, dirname(entry), from!))) as Record<string, unknown>;
    for (const name of names!.split(",").map((one) => one.replace("type ", "").trim()))
      if (isClass(module[name])) found.set(name, module[name]);
  }
  return found;
}

/** The text of each class of src, by its name; one name occurs twice. */
const sources = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .flatMap((file) => [
    ...read(join("src", file)).matchAll(
      /^(?:export )?(?:abstract )?class (\w+)(?:[^\n]*\{\}|[^]*?^(?:\}|\S[^\n]*\{\}))\n/gm,
    ),
  ]);

const WORDS = String.raw`(?:(?:public|static|override|async|abstract|readonly|declare|get|set)\s+|\*\s*)*`;
const INTERNAL = new RegExp(
  String.raw`/\*\*(?:(?!\*/)[^])*@internal(?:(?!\*/)[^])*\*/\s*(?:protected |private )?${WORDS}(\w+)`,
  "g",
);
const HIDDEN = new RegExp(String.raw`^  (?:abstract )?(?:private|protected) ${WORDS}(\w+)`, "gm");
const FIELD = new RegExp(String.raw`^  ${WORDS}([a-z]\w*)[?!]?(?:: | = )`, "gm");
const namesOf = (pattern: RegExp, text: string): string[] => [...text.matchAll(pattern)].map((match) => match[1]!);

/** Public members that a class itself declares. */
function membersOf(one: Class): string[] {
  const plain = (object: object): string[] =>
    Object.getOwnPropertyNames(object).filter((name) => name !== "constructor");
  const statics = plain(one).filter((name) => !["length", "name", "prototype"].includes(name));
  const members = plain(one.prototype);
  const named = sources.filter(([, name]) => name === one.name).map(([text]) => text);
  const text = named.find((source) => [...members, ...statics].every((name) => source.includes(name)));
  if (text === undefined) throw new Error(`no source of class ${one.name}`);
  const hidden = new Set([...namesOf(INTERNAL, text), ...namesOf(HIDDEN, text)]);
  return [...new Set([...members, ...(text.endsWith("{}\n") ? [] : namesOf(FIELD, text))])]
    .filter((name) => !hidden.has(name))
    .concat(statics.filter((name) => !hidden.has(name)).map((name) => `typeof ${name}`));
}

/** Whether the types above name a member of a class: `Class["member"]`, `Getters<Class, "member">`, `typeof Class.member`. */
function isTyped(name: string, member: string): boolean {
  if (member.startsWith("typeof ")) return types.includes(`typeof ${name}.${member.slice(7)}`);
  const keys = String.raw`\s*\|?\s*(?:"\w+"\s*\|\s*)*"${member}"`;
  return new RegExp(String.raw`\b${name}(?:<[^;\n]*?>)?(?:\[${keys}|,${keys})`).test(types);
}

test("every public member of every exported class, and every exported function, has a type test", async () => {
  const missing = new Set<string>();
  const seen = new Map<string, boolean>();
  for (const [entry, file] of Object.entries(manifest.exports).filter(([, path]) => path.endsWith(".ts"))) {
    for (const [exported, value] of await exportsOf(file)) {
      const name = entry === "./stdio" && exported === "Subscription" ? "StdioSubscription" : exported;
      if (!isClass(value)) {
        const isThere = new RegExp(String.raw`typeof (?:\w\.)?${name}\b`).test(types);
        if (typeof value === "function" && !isThere) missing.add(`${entry}: ${name}`);
        continue;
      }
      // An inherited member is the same in all classes: one type test is enough.
      for (let one: Class = value; sources.some(([, known]) => known === one.name); one = Object.getPrototypeOf(one)) {
        for (const member of membersOf(one)) {
          const key = `${one === value ? name : one.name} ${member}`;
          seen.set(key, (seen.get(key) ?? false) || isTyped(name, member));
        }
      }
    }
  }
  for (const [key, isThere] of seen) if (!isThere) missing.add(key);
  expect([...missing]).toEqual([]);
  expect(seen.size).toBeGreaterThan(200);
  expect(
    ["SlotBus request", "SlotBus options", "Closing close", "SlotBus typeof create", "Ring head"].filter(
      (key) => !seen.has(key),
    ),
  ).toEqual([]);
  expect([...seen.keys()].filter((key) => /constructor|#| finish$| audience$/.test(key))).toEqual([]);
  expect([isTyped("SlotBus", "requests"), isTyped("Hub", "request"), isTyped("SlotBus", "typeof open")]).toEqual([
    false,
    false,
    false,
  ]);
});
