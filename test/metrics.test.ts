/** Statistics in shared memory, Prometheus' text, tracing channels, traceparent, OpenTelemetry. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { channel } from "node:diagnostics_channel";
import { context, ROOT_CONTEXT, type Span, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { BusObserver } from "../src/native/observer.ts";
import { bucketEdge, quantileUs } from "../src/native/statistics.ts";
import {
  type HandleTrace,
  handleTraces,
  isTraceparent,
  requestStart,
  type RequestTrace,
  requestTraces,
} from "../src/bus/tracing.ts";
import { contract, rpc } from "../src/index.ts";
import { InvalidConfigError, RemoteError } from "../src/index.ts";
import { instrument } from "../src/otel.ts";
import { FleetSpace } from "./fleet-space.ts";
import { Stage } from "./hub-stage.ts";
import { rejection, until, Workspace } from "./support.ts";

const TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/** `name{labels} value` lines of Prometheus' text. */
function valuesOf(text: string): Map<string, number> {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ")))]),
  );
}

// ---- shared memory ----------------------------------------------------------------------------------------------------

test("an observer sees the counters, gauges and the histogram that the client reports", async () => {
  await using space = new Workspace();
  const held = Promise.withResolvers<void>();
  const { bus, worker } = await space.pair(async ({ path }) => {
    if (path === "/hold") await held.promise;
    if (path === "/fail") throw new Error("no");
    return "x";
  });
  using observer = await BusObserver.open({ name: space.name, directory: space.directory });
  for (let i = 0; i < 100; i++) await bus.request({ path: "/" });
  await rejection(bus.request({ path: "/fail" }));
  const holding = Array.from({ length: 3 }, () => bus.request({ path: "/hold" }));
  await until(() => observer.read().workers[0]?.slots.CLAIMED === 3, "three are claimed");
  const during = observer.read();
  expect(during).toMatchObject({ pid: process.pid, slots: 32, unsettled: 3, queued: 0, silentMs: 0, isThere: true });
  expect(during.workers).toMatchObject([{ pid: process.pid, uid: process.geteuid!(), concurrency: 32, inFlight: 3 }]);
  expect(during.workers[0]!.slots.FREE).toBe(29);
  held.resolve();
  await Promise.all(holding);
  await until(() => observer.read().workers[0]?.inFlight === 0, "all have ended");
  const after = observer.read();
  expect(after).toMatchObject({ unsettled: 0, queued: 0 });
  expect(after.counters).toMatchObject({ published: 104, responses: 104, errors: 1, workers_joined: 1 });
  expect(after.roundTrips.reduce((sum, one) => sum + one)).toBe(104);
  expect(quantileUs(after.roundTrips, 0.5)).toBe(bus.stats().roundTripUs.p50);
  expect(quantileUs(after.roundTrips, 0.99)).toBe(bus.stats().roundTripUs.p99);
  expect(after.roundTripSum / 104 / 1_000).toBeWithin(0.1, 60_000_000);
  await worker.close();
  await until(() => observer.read().workers.length === 0, "the worker has left");
  expect(observer.read().counters.workers_left).toBe(1);
  await bus.close();
  await until(() => !observer.read().isThere, "the bus is closed");
  expect(observer.read().counters.responses).toBe(104); // its last words
});

test("a queued request shows as queued", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  using observer = await BusObserver.open({ name: space.name, directory: space.directory });
  const answers = [1, 2].map(() => rejection(bus.request({ path: "/" }, { timeout: 1_000 })));
  await until(() => observer.read().queued === 2, "two are queued");
  await Promise.all(answers);
  await until(() => observer.read().queued === 0, "none is queued");
});

test("edges of the histogram rise, and a quantile is the edge of the bucket that contains it", () => {
  for (let bucket = 1; bucket < 1_000; bucket++) expect(bucketEdge(bucket)).toBeGreaterThan(bucketEdge(bucket - 1));
  const buckets = Array.from({ length: 1_312 }, () => 0);
  expect(quantileUs(buckets, 0.5)).toBe(0);
  buckets[100] = 99;
  buckets[200] = 1;
  expect(quantileUs(buckets, 0.99)).toBe(bucketEdge(100) / 1_000);
  expect(quantileUs(buckets, 0.999)).toBe(bucketEdge(200) / 1_000);
});

test("a member shows the positions of its first five cursors; a member at a dead one's place starts without cursors", async () => {
  await using space = new FleetSpace();
  const fleet = await space.join({ rings: { events: {}, other: {} } });
  const child = space.child("fleet-member.ts", "read");
  await until(() => fleet.members().length === 2, "the child has joined");
  await until(() => fleet.handle.cursors(1).length === 1, "the child reads");
  fleet.ring("events").publish("x");
  await until(() => fleet.handle.cursors(1)[0]?.position === 1, "the child has read");
  await child.kill();
  const next = await space.join();
  expect([next.index, fleet.handle.cursors(1)]).toEqual([1, []]);
  const cursors = Array.from({ length: 6 }, () => next.ring("other").cursor());
  expect(fleet.handle.cursors(1)).toEqual(Array.from({ length: 5 }, () => ({ ring: "other", position: 0 })));
  cursors[2]!.close();
  expect(fleet.handle.cursors(1).length).toBe(4);
  cursors[5]!.close(); // it never had a place
  expect(fleet.handle.cursors(1).length).toBe(4);
  next.ring("events").cursor({ from: "oldest" });
  expect(fleet.handle.cursors(1)).toContainEqual({ ring: "events", position: 0 });
});

// ---- Prometheus -------------------------------------------------------------------------------------------------------

test("metrics() is Prometheus' text: counters, gauges, and a histogram whose buckets are cumulative", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => "x");
  for (let i = 0; i < 50; i++) await bus.request({ path: "/" });
  const text = bus.metrics();
  const values = valuesOf(text);
  const of = (name: string, labels = ""): number => values.get(`slotbus_${name}{bus="${space.name}"${labels}}`)!;
  expect([of("responses_total"), of("errors_total"), of("workers"), of("queued")]).toEqual([50, 0, 1, 0]);
  expect(of("slots", ',state="FREE"')).toBe(32);
  const buckets = [...values].filter(([name]) => name.startsWith("slotbus_round_trip_seconds_bucket"));
  expect(buckets.length).toBeGreaterThan(20);
  for (let i = 1; i < buckets.length; i++) expect(buckets[i]![1]).toBeGreaterThanOrEqual(buckets[i - 1]![1]);
  expect(buckets.at(-1)).toEqual([`slotbus_round_trip_seconds_bucket{bus="${space.name}",le="+Inf"}`, 50]);
  expect(of("round_trip_seconds_count")).toBe(50);
  expect(of("round_trip_seconds_sum")).toBeGreaterThan(0);
  for (const line of text.trim().split("\n")) expect(line).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+\{[^}]*\} [\d.e+-]+)$/);
  await bus.close();
  expect(valuesOf(bus.metrics()).get(`slotbus_responses_total{bus="${space.name}"}`)).toBe(50);
});

// ---- tracing channels ---------------------------------------------------------------------------------------------------

/** Messages published while it is open, as `channel: message`. */
class Heard<T extends object> implements Disposable {
  readonly events: [string, T][] = [];
  readonly #unsubscribe: () => void;

  constructor(name: string) {
    const parts = ["start", "end", "asyncStart", "asyncEnd", "error"].map((part) => {
      const one = channel(`tracing:${name}:${part}`);
      const listener = (message: unknown): void => void this.events.push([part, message as T]);
      one.subscribe(listener);
      return () => one.unsubscribe(listener);
    });
    this.#unsubscribe = () => parts.forEach((undo) => undo());
  }

  get parts(): string[] {
    return this.events.map(([part]) => part);
  }

  [Symbol.dispose](): void {
    this.#unsubscribe();
  }
}

test("slotbus.request reports each request: its id, its answer or its error, for all ways to ask", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(({ path }) => {
    if (path === "/fail") throw new Error("no");
    return { status: 201, body: "x" };
  });
  using heard = new Heard<RequestTrace>("slotbus.request");
  const seen = new Map<string, string>();
  const ids = (await Promise.all([
    bus.request({ path: "/a", pattern: "/:x", body: "1" }),
    bus.request({ path: "/b", id: "mine" }),
  ])) as unknown[];
  expect(ids.length).toBe(2);
  expect(heard.parts.filter((part) => part !== "asyncStart" && part !== "end")).toEqual([
    "start",
    "start",
    "asyncEnd",
    "asyncEnd",
  ]);
  for (const [part, { path, id }] of heard.events) {
    expect(seen.get(path) ?? id).toBe(id); // one message per request, on all its channels
    seen.set(path, id);
    expect(part).toBeString();
  }
  expect(seen.get("/b")).toBe("mine");
  const first = heard.events[0]![1];
  expect(first).toMatchObject({ bus: space.name, method: "POST", path: "/a", pattern: "/:x", kind: "copy" });
  expect(first.result).toMatchObject({ status: 201, workerPid: process.pid });
  heard.events.length = 0;
  await rejection(bus.request({ path: "/fail" }));
  expect(heard.parts).toEqual(["start", "end", "error", "asyncStart", "asyncEnd"]);
  expect(heard.events[2]![1].error).toBeInstanceOf(RemoteError);
  heard.events.length = 0;
  using borrowed = await bus.borrow({ path: "/x" });
  const streamed = await bus.stream({ path: "/x" });
  await streamed.bytes();
  expect(borrowed.status).toBe(201);
  expect(heard.events.filter(([part]) => part === "start").map(([, { kind }]) => kind)).toEqual(["borrow", "stream"]);
});

test("the id in a channel's message is the id that the handler and the error have", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(({ id }) => id);
  using heard = new Heard<RequestTrace>("slotbus.request");
  const answer = (await bus.request({ path: "/" })).text();
  expect(answer).toBe(heard.events[0]![1].id);
  expect(answer).not.toBe("");
});

test("slotbus.handle reports each run of a handler, and runs it inside a subscriber's context", async () => {
  await using space = new Workspace();
  let inside = 0;
  const { bus } = await space.pair(({ path }) => {
    if (path === "/fail") throw new Error("no");
    return String(inside);
  });
  using heard = new Heard<HandleTrace>("slotbus.handle");
  const onStart = (message: unknown): void => {
    (message as HandleTrace).around = (run) => {
      inside++;
      try {
        return run();
      } finally {
        inside--;
      }
    };
  };
  channel("tracing:slotbus.handle:start").subscribe(onStart);
  expect((await bus.request({ path: "/" }, { traceparent: TRACEPARENT })).text()).toBe("1");
  expect(inside).toBe(0);
  expect(heard.events[0]![1]).toMatchObject({ bus: space.name, path: "/", sync: false, traceparent: TRACEPARENT });
  heard.events.length = 0;
  await rejection(bus.request({ path: "/fail" }));
  expect(heard.parts).toContain("error");
  expect(heard.parts.at(-1)).toBe("asyncEnd");
  channel("tracing:slotbus.handle:start").unsubscribe(onStart);
});

test("without a subscriber nothing is published, and no message is made", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => "x");
  {
    using heard = new Heard("slotbus.request");
    await bus.request({ path: "/" });
    expect(heard.events.length).toBe(4);
  }
  for (const { start, end, asyncStart, asyncEnd, error } of [requestTraces, handleTraces])
    for (const one of [start, end, asyncStart, asyncEnd, error]) expect(one.hasSubscribers).toBe(false);
  let read = 0;
  const request = {
    path: "/",
    get pattern(): string {
      read++;
      return "";
    },
  };
  await bus.request(request);
  expect(read).toBe(1); // read by the encoding; a message would read it too
});

test("a tracing channel reports while start has a subscriber; a subscriber to another channel alone gets nothing", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(() => "x");
  const told: string[] = [];
  const onEnd = (message: unknown): void => void told.push((message as RequestTrace).path);
  const onStart = (): void => {};
  channel("tracing:slotbus.request:asyncEnd").subscribe(onEnd);
  await bus.request({ path: "/alone" });
  channel("tracing:slotbus.request:start").subscribe(onStart);
  await bus.request({ path: "/with-start" });
  channel("tracing:slotbus.request:start").unsubscribe(onStart);
  await bus.request({ path: "/after" });
  channel("tracing:slotbus.request:asyncEnd").unsubscribe(onEnd);
  expect(told).toEqual(["/with-start"]);
});

test("two copies of slotbus in one process both see the subscribers of a tracing channel", async () => {
  const path = "../src/bus/tracing.ts?copy";
  const others = (await import(path)) as typeof import("../src/bus/tracing.ts");
  expect(others.requestTraces).not.toBe(requestTraces);
  {
    using _ = new Heard<RequestTrace>("slotbus.request");
    expect([requestStart.hasSubscribers, others.requestStart.hasSubscribers]).toEqual([true, true]);
  }
  expect([requestStart.hasSubscribers, others.requestStart.hasSubscribers]).toEqual([false, false]);
});

// ---- traceparent --------------------------------------------------------------------------------------------------------

test("traceparent is taken from an option or a header, the option first, and the handler sees it", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(({ traceparent, headers }) => ({
    json: { traceparent, headers: headers.entries() },
  }));
  const other = TRACEPARENT.replace("4bf9", "1111");
  type Seen = { traceparent: string | null; headers: [string, string][] };
  const ask = async (...args: Parameters<typeof bus.request>): Promise<Seen> =>
    (await bus.request(...args)).json<Seen>();
  expect(await ask({ path: "/" })).toEqual({ traceparent: null, headers: [] });
  expect((await ask({ path: "/", headers: { traceparent: other } })).traceparent).toBe(other);
  const both = {
    path: "/",
    headers: [
      ["a", "1"],
      ["Traceparent", other],
      ["b", "2"],
    ] as [string, string][],
  };
  expect(await ask(both, { traceparent: TRACEPARENT })).toEqual({
    traceparent: TRACEPARENT,
    headers: [
      ["a", "1"],
      ["b", "2"],
      ["traceparent", TRACEPARENT],
    ],
  });
  const params = { path: "/", params: { traceparent: "a parameter" } };
  expect((await ask(params, { traceparent: TRACEPARENT })).traceparent).toBe(TRACEPARENT);
  expect((await ask({ path: "/", headers: { traceparent: "garbage" } })).traceparent).toBeNull();
  expect(await rejection(bus.request({ path: "/" }, { traceparent: "garbage" }))).toBeInstanceOf(InvalidConfigError);
  const answer = await bus.fetch("/", { traceparent: TRACEPARENT });
  expect(((await answer.json()) as Seen).traceparent).toBe(TRACEPARENT);
});

test("a queued request keeps its traceparent, and an invalid one is refused before it queues", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  expect(await rejection(bus.request({ path: "/" }, { traceparent: "x" }))).toBeInstanceOf(InvalidConfigError);
  const answer = bus.request({ path: "/" }, { traceparent: TRACEPARENT });
  await space.worker(({ traceparent }) => traceparent ?? "none");
  expect((await answer).text()).toBe(TRACEPARENT);
});

test("a typed call carries a traceparent too", async () => {
  await using space = new Workspace();
  const demo = contract("demo", { where: rpc<undefined, string>() });
  const bus = await space.bus();
  const worker = await space.worker();
  worker.implement(demo, { where: (_, ctx) => ctx.headers.get("traceparent") ?? "none" });
  await bus.ready();
  expect(await bus.client(demo).where(undefined, { traceparent: TRACEPARENT })).toBe(TRACEPARENT);
});

test("a traceparent is checked by W3C's rules", () => {
  expect(isTraceparent(TRACEPARENT)).toBe(true);
  const [version, traceId, spanId, flags] = TRACEPARENT.split("-") as [string, string, string, string];
  for (const wrong of [
    "",
    null,
    undefined,
    TRACEPARENT.toUpperCase(),
    `ff-${traceId}-${spanId}-${flags}`,
    `${version}-${"0".repeat(32)}-${spanId}-${flags}`,
    `${version}-${traceId}-${"0".repeat(16)}-${flags}`,
    `${TRACEPARENT}-more`,
    ` ${TRACEPARENT}`,
  ])
    expect([wrong, isTraceparent(wrong)]).toEqual([wrong, false]);
});

test("through the hub: a client's traceparent reaches the worker's process", async () => {
  await using stage = await Stage.open();
  await stage.worker("w");
  const answer = await stage.fetch("/w/headers", { method: "POST", headers: { traceparent: TRACEPARENT } });
  expect((await answer.json()) as [string, string][]).toContainEqual(["traceparent", TRACEPARENT]);
}, 20_000);

test("the hub's own metrics are Prometheus' text from the same writer", async () => {
  await using stage = await Stage.open();
  await stage.worker("w");
  expect((await stage.fetch("/w/users/7")).status).toBe(200);
  const answer = await stage.fetch("/_slotbus/metrics");
  expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  const values = valuesOf(await answer.text());
  expect(values.get('slotbus_hub_requests_total{worker="w",status="200"}')).toBe(1);
  expect(values.get('slotbus_hub_request_duration_seconds_bucket{worker="w",le="+Inf"}')).toBe(1);
  expect(values.get('slotbus_hub_processes{worker="w"}')).toBe(1);
  expect(values.get("slotbus_hub_event_clients")).toBe(0);
}, 20_000);

// ---- OpenTelemetry ------------------------------------------------------------------------------------------------------

const exporter = new InMemorySpanExporter();
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
const manager = new AsyncLocalStorageContextManager();

beforeAll(() => void context.setGlobalContextManager(manager.enable()));
afterAll(() => context.disable());

/** Ended spans, in the order of their ends; empties the exporter. */
function takeSpans(): ReadableSpan[] {
  const spans = exporter.getFinishedSpans().slice();
  exporter.reset();
  return spans;
}

interface ToldSpan {
  name: string;
  kind: SpanKind;
  status: SpanStatusCode;
  attributes: Record<string, unknown>;
  trace: string;
  span: string;
  parent?: string;
}

test("a request and its handler in another process are two spans of one trace, and what the handler does is inside", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  using _ = instrument({ tracerProvider: provider });
  const child = space.child("traced-worker.ts");
  await child.line("ready");
  await bus.ready();
  takeSpans();
  const root: Span = provider.getTracer("test").startSpan("root", {}, ROOT_CONTEXT);
  const answers = await context.with(trace.setSpan(ROOT_CONTEXT, root), () =>
    Promise.all([bus.request({ path: "/outer", pattern: "/:way" }), rejection(bus.request({ path: "/fail" }))]),
  );
  root.end();
  const sent = answers[0].text();
  const spans = takeSpans();
  expect(spans.map(({ name, kind }) => [name, kind]).sort()).toEqual([
    ["GET /:way", SpanKind.CLIENT],
    [`GET ${space.name}`, SpanKind.CLIENT],
    ["root", SpanKind.INTERNAL],
  ]);
  const [outer, failed] = ["GET /:way", `GET ${space.name}`].map((name) => spans.find((span) => span.name === name)!);
  expect(outer!.parentSpanContext!.spanId).toBe(root.spanContext().spanId);
  expect(outer!.attributes).toMatchObject({
    "slotbus.bus": space.name,
    "http.request.method": "GET",
    "http.route": "/:way",
    "url.path": "/outer",
    "http.response.status_code": 200,
    "slotbus.worker.pid": child.pid,
  });
  expect(sent).toBe(`00-${outer!.spanContext().traceId}-${outer!.spanContext().spanId}-01`);
  expect(failed!.status).toEqual({ code: SpanStatusCode.ERROR, message: "TypeError: it should fail" });
  expect(failed!.attributes["error.type"]).toBe("REMOTE");
  expect(failed!.events[0]!.name).toBe("exception");
  child.process.kill("SIGTERM");
  await child.line("told");
  const told = child.lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line) as ToldSpan);
  const handler = told.find(({ name }) => name === "GET /:way")!;
  expect(handler).toMatchObject({
    kind: SpanKind.SERVER,
    trace: root.spanContext().traceId,
    parent: outer!.spanContext().spanId,
  });
  expect(handler.attributes["slotbus.request.id"]).toBe(outer!.attributes["slotbus.request.id"]!);
  const inner = told.find(({ name }) => name === "inner")!;
  expect(inner).toMatchObject({ trace: handler.trace, parent: handler.span });
  const broken = told.find(({ name }) => name === `GET ${space.name}`)!;
  expect(broken).toMatchObject({ status: SpanStatusCode.ERROR, parent: failed!.spanContext().spanId });
}, 20_000);

test("a request continues the active span, else the given traceparent; after dispose, nothing is traced", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair(({ traceparent }) => traceparent ?? "none");
  const tracing = instrument({ tracerProvider: provider });
  takeSpans();
  const sent = (await bus.request({ path: "/" }, { traceparent: TRACEPARENT })).text();
  const spans = takeSpans();
  expect(spans.length).toBe(2); // client and server: both are in this process
  for (const span of spans) expect(span.spanContext().traceId).toBe(TRACEPARENT.split("-")[1]!);
  const client = spans.find(({ kind }) => kind === SpanKind.CLIENT)!;
  expect(client.parentSpanContext).toMatchObject({ spanId: TRACEPARENT.split("-")[2], isRemote: true });
  expect(sent).toContain(client.spanContext().spanId);
  const root = provider.getTracer("test").startSpan("root", {}, ROOT_CONTEXT);
  await context.with(trace.setSpan(ROOT_CONTEXT, root), () => bus.request({ path: "/" }, { traceparent: TRACEPARENT }));
  const inside = takeSpans().find(({ kind }) => kind === SpanKind.CLIENT)!;
  expect(inside.parentSpanContext!.spanId).toBe(root.spanContext().spanId); // the active span takes precedence
  tracing[Symbol.dispose]();
  expect((await bus.request({ path: "/" }, { traceparent: TRACEPARENT })).text()).toBe(TRACEPARENT);
  expect(takeSpans()).toEqual([]);
});

test("a blocking request is one span too", async () => {
  await using space = new Workspace();
  const { bus } = await space.remote("worker.ts");
  using _ = instrument({ tracerProvider: provider });
  takeSpans();
  expect(bus.requestSync({ path: "/" }).status).toBe(200);
  const [span, ...more] = takeSpans();
  expect(more).toEqual([]);
  expect(span!.attributes["http.response.status_code"]).toBe(200);
}, 20_000);

test("through the hub a client's trace goes on: the hub's span below the client's, the handler's below the hub's", async () => {
  await using stage = await Stage.open();
  await stage.worker("w");
  using _ = instrument({ tracerProvider: provider });
  takeSpans();
  const answer = await stage.fetch("/w/headers", { method: "POST", headers: { traceparent: TRACEPARENT } });
  const headers = new Headers((await answer.json()) as [string, string][]);
  const span = takeSpans().find(({ attributes }) => attributes["url.path"] === "/w/headers")!;
  expect(span.parentSpanContext!.spanId).toBe(TRACEPARENT.split("-")[2]!);
  expect(span.name).toBe("POST /w/headers");
  expect(headers.get("traceparent")).toBe(`00-${span.spanContext().traceId}-${span.spanContext().spanId}-01`);
}, 20_000);
