import { describe, expect, setSystemTime, test } from "bun:test";
import { Exposition } from "../src/bus/exposition.ts";
import { cumulative, Meter } from "../src/hub/meter.ts";
import type { Picture, RoutePicture } from "../src/hub/status.ts";
import { Stage } from "./hub-stage.ts";
import { until } from "./support.ts";

const TOKEN = "a-token-of-the-test";

/** The events of the page's stream, in order. */
class Watcher implements Disposable {
  readonly messages: { event: string; data: unknown }[] = [];
  ended = false;
  readonly #controller = new AbortController();

  static async open(stage: Stage): Promise<Watcher> {
    const watcher = new Watcher();
    const response = await stage.fetch("/_slotbus/stream", { signal: watcher.#controller.signal });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    void watcher.#read(response);
    await until(() => watcher.of("picture").length > 0, "the first picture");
    return watcher;
  }

  of<T>(event: string): T[] {
    return this.messages.filter((message) => message.event === event).map(({ data }) => data as T);
  }

  [Symbol.dispose](): void {
    this.#controller.abort();
  }

  async #read(response: Response): Promise<void> {
    let text = "";
    try {
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        const blocks = (text + chunk).split("\n\n");
        text = blocks.pop()!;
        for (const block of blocks) {
          const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(block) ?? [];
          if (event) this.messages.push({ event, data: JSON.parse(data!) });
        }
      }
    } catch {}
    this.ended = true;
  }
}

interface Family {
  type: string;
  samples: Map<string, { name: string; labels: Record<string, string>; value: number }>;
}

/** Prometheus' text format by its grammar, version 0.0.4; throws at the first invalid line. */
function parse(text: string): Map<string, Family> {
  const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
  const LABEL = '[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\["\\\\n])*"';
  const SAMPLE = new RegExp(`^(${NAME})(?:\\{(${LABEL}(?:,${LABEL})*)\\})? (\\S+)$`);
  if (!text.endsWith("\n")) throw new Error("the last line has no end");
  const families = new Map<string, Family>();
  let current = "";
  let family: Family | null = null;
  for (const line of text.slice(0, -1).split("\n")) {
    const help = new RegExp(`^# HELP (${NAME}) (?:[^\\\\]|\\\\[\\\\n])*$`).exec(line);
    if (help) {
      current = help[1]!;
      if (families.has(current)) throw new Error(`${current} comes twice`);
      family = null;
      continue;
    }
    const type = new RegExp(`^# TYPE (${NAME}) (counter|gauge|histogram)$`).exec(line);
    if (type) {
      if (type[1] !== current || family) throw new Error(`TYPE without its HELP: ${line}`);
      families.set(current, (family = { type: type[2]!, samples: new Map() }));
      continue;
    }
    const [, name, labels = "", value] = SAMPLE.exec(line) ?? [];
    if (name === undefined) throw new Error(`this line does not match the format: ${line}`);
    const suffixes = family?.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
    if (!family || !suffixes.some((suffix) => name === current + suffix))
      throw new Error(`${line} is not of ${current}`);
    const pairs = [...labels.matchAll(/([^=,]+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, given]) => [
      key!,
      given!.replaceAll(/\\(.)/g, (_, char) => (char === "n" ? "\n" : char)),
    ]);
    const number = value === "+Inf" ? Infinity : Number(value);
    if (Number.isNaN(number)) throw new Error(`${value} is not a value`);
    const key = `${name}{${labels}}`;
    if (family.samples.has(key)) throw new Error(`${key} comes twice`);
    family.samples.set(key, { name, labels: Object.fromEntries(pairs), value: number });
  }
  return families;
}

async function metrics(stage: Stage): Promise<Map<string, Family>> {
  const response = await stage.fetch("/_slotbus/metrics");
  expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  return parse(await response.text());
}

describe("who may read it", () => {
  const pages = ["", "stream", "snapshot", "metrics", "health", "routes"];

  test("this machine under its own name; no other name, and no request made for another site", async () => {
    await using stage = await Stage.open();
    const status = async (page: string, headers: string): Promise<string> => {
      const pairs = headers.split("\r\n").map((line) => line.split(": ") as [string, string]);
      const response = await stage.fetch(`/_slotbus/${page}`, { headers: pairs });
      await response.body!.cancel();
      return String(response.status);
    };
    for (const page of pages) {
      for (const host of ["localhost", "localhost:80", "127.0.0.1:3200", "127.1.2.3", "[::1]:80"])
        expect(`${page} ${host} ${await status(page, `Host: ${host}`)}`).toBe(`${page} ${host} 200`);
      for (const other of [
        "Host: rebound.example",
        "Host: 127.0.0.1.rebound.example",
        "Host: localhost.rebound.example:3200",
        "Host: 10.0.0.1",
        "Host: localhost\r\nX-Forwarded-For: 127.0.0.1",
        "Host: localhost\r\nForwarded: for=127.0.0.1",
        "Host: localhost\r\nVia: 1.1 proxy",
        "Host: localhost\r\nX-Forwarded-Host: localhost",
        "Host: localhost\r\nX-Forwarded-Proto: http",
        "Host: localhost\r\nX-Forwarded-Port: 80",
        "Host: localhost\r\nX-Real-IP: 127.0.0.1",
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: empty",
        "Host: localhost\r\nSec-Fetch-Site: same-site\r\nSec-Fetch-Dest: script",
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: iframe",
      ])
        expect(`${page} ${other} ${await status(page, other)}`).toBe(`${page} ${other} 403`);
    }
  }, 30_000);

  test("a link from another site opens it", async () => {
    await using stage = await Stage.open();
    const headers = { "sec-fetch-site": "cross-site", "sec-fetch-dest": "document", "sec-fetch-mode": "navigate" };
    expect((await stage.fetch("/_slotbus/", { headers })).status).toBe(200);
  });

  test("a client with an unknown address does not count as this machine", async () => {
    await using stage = await Stage.open();
    const response = await stage.hub.fetch(new Request("http://localhost/_slotbus/"));
    expect(response.status).toBe(403);
  });

  test("others with the token, as a bearer token or as a browser's password", async () => {
    await using stage = await Stage.open({ adminToken: TOKEN });
    const ask = (authorization?: string) =>
      stage.fetch("/_slotbus/health", {
        headers: { host: "hub.example", ...(authorization === undefined ? {} : { authorization }) },
      });
    const basic = (text: string) => `Basic ${btoa(text)}`;
    for (const right of [`Bearer ${TOKEN}`, `bearer ${TOKEN}`, basic(`:${TOKEN}`), basic(`me:${TOKEN}`)])
      expect(`${right} ${(await ask(right)).status}`).toBe(`${right} 200`);
    for (const wrong of [`Bearer ${TOKEN}x`, "Bearer", `Basic ${TOKEN}`, basic(TOKEN.slice(1)), basic(":"), TOKEN]) {
      const response = await ask(wrong);
      expect(`${wrong} ${response.status}`).toBe(`${wrong} 401`);
      expect(response.headers.get("www-authenticate")).toStartWith("Basic ");
      expect(await response.text()).not.toContain(TOKEN);
    }
    expect((await ask()).status).toBe(401);
  });

  test("nobody without the token when there is one; without a token nobody behind a proxy, which could look like this machine", async () => {
    for (const [options, refused] of [
      [{ adminToken: TOKEN }, 401],
      [{ trustProxy: true, adminToken: TOKEN }, 401],
      [{ trustProxy: true }, 403],
    ] as const) {
      await using stage = await Stage.open(options);
      expect([options, (await stage.fetch("/_slotbus/health")).status]).toEqual([options, refused]);
      const headers = { authorization: `Bearer ${TOKEN}`, "x-forwarded-for": "10.0.0.1" };
      const given = await stage.fetch("/_slotbus/health", { headers });
      expect([options, given.status]).toEqual([options, refused === 401 ? 200 : 403]);
    }
  });

  test("the pages are read-only, and other sites cannot frame them", async () => {
    await using stage = await Stage.open();
    const post = await stage.fetch("/_slotbus/", { method: "POST" });
    expect([post.status, post.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
    expect((await stage.fetch("/_slotbus/stream", { method: "HEAD" })).status).toBe(405);
    expect((await stage.fetch("/_slotbus/nothing")).status).toBe(404);
    const moved = await stage.fetch("/_slotbus", { redirect: "manual" });
    expect([moved.status, moved.headers.get("location")]).toEqual([308, "/_slotbus/"]);
    for (const page of pages) {
      if (page === "stream") continue;
      const { status, headers } = await stage.fetch(`/_slotbus/${page}`, { method: "HEAD" });
      expect(status).toBe(200);
      expect(headers.get("cross-origin-resource-policy")).toBe("same-origin");
      expect(headers.get("x-content-type-options")).toBe("nosniff");
      expect(headers.get("cache-control")).toBe("no-store");
      expect(headers.get("access-control-allow-origin")).toBeNull();
    }
  });

  test("a route for every path does not take the hub's own paths", async () => {
    await using stage = await Stage.open();
    await stage.worker("w", ["GET /*", "POST /*", "GET /:any"]);
    expect(await (await stage.fetch("/anything/else")).json()).toEqual({ route: "GET /*", name: "w" });
    expect(await (await stage.fetch("/_slotbus/")).text()).toStartWith("<!doctype html>");
    expect(await (await stage.fetch("/health")).json()).toHaveProperty("workers");
    expect((await stage.fetch("/internal/register", { method: "POST" })).status).toBe(404);
    expect((await stage.fetch("/__ping__")).status).toBe(404);
    const events = await stage.fetch("/events", { signal: AbortSignal.timeout(5_000) });
    expect(events.headers.get("content-type")).toStartWith("text/event-stream");
    await events.body!.cancel();
    const post = await stage.fetch("/health", { method: "POST" });
    expect([post.status, post.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
  });
});

describe("the page", () => {
  test("is one document that may load nothing and requests only its own hub", async () => {
    await using stage = await Stage.open();
    const [one, two] = [await stage.fetch("/_slotbus/"), await stage.fetch("/_slotbus/")];
    const [text, policy] = [await one.text(), one.headers.get("content-security-policy")!];
    expect(Buffer.byteLength(text)).toBeLessThan(40_000);
    const nonce = /script-src 'nonce-([^']+)'/.exec(policy)![1]!;
    expect(policy).toStartWith("default-src 'none'; connect-src 'self'; ");
    expect(policy).not.toContain("unsafe");
    expect(text.split(`nonce="${nonce}"`).length).toBe(3);
    expect(two.headers.get("content-security-policy")).not.toContain(nonce);
    const addresses = [...text.matchAll(/(?:https?:)?\/\/[\w.-]+\.\w+[^\s"']*/g)].map(([address]) => address);
    expect(addresses).toEqual(["http://www.w3.org/2000/svg"]); // the name of a namespace
    expect(text).not.toMatch(/ (?:src|style|on\w+)=|innerHTML|@import|url\(/);
  });
});

describe("its stream", () => {
  test("sends everything first, then changes, and ends with the hub", async () => {
    await using stage = await Stage.open();
    await stage.worker("a");
    await stage.fetch("/a/users/1");
    using watcher = await Watcher.open(stage);
    const routes = watcher.of<RoutePicture[]>("routes")[0]!;
    expect(routes).toContainEqual({ method: "GET", pattern: "/a/feed/:room", worker: "a", sse: true, there: true });
    await stage.worker("b");
    await until(() => watcher.of("routes").length === 2, "the routes of b");
    expect(watcher.of<RoutePicture[]>("routes")[1]!.some(({ worker }) => worker === "b")).toBe(true);
    await stage.workers[1]!.kill();
    await until(() => watcher.of("routes").length === 3, "that b is gone");
    expect(watcher.of<RoutePicture[]>("routes")[2]!.find(({ worker }) => worker === "b")!.there).toBe(false);
    const pictures = watcher.of("picture").length;
    await until(() => watcher.of("picture").length > pictures + 1, "two more pictures");
    expect(watcher.of("routes").length).toBe(3);
    await stage.hub.close({ timeout: 60_000 }); // waiting for an open stream would take all of it
    await until(() => watcher.ended, "the end");
  });

  test("shows slots while they are in use, and each process of a name", async () => {
    await using stage = await Stage.open({ slots: 4 });
    await stage.worker("w");
    await stage.worker("w");
    using watcher = await Watcher.open(stage);
    const busy = (picture: Picture) =>
      picture.workers[0]!.processes.flatMap(({ slots }) => slots.map(({ state }) => state));
    const ask = () => stage.fetch("/w/slow?ms=1500").then((response) => response.status);
    const first = ask();
    const used = () =>
      watcher
        .of<Picture>("picture")
        .at(-1)!
        .workers[0]!.processes.map(({ slots }) => slots.length);
    await until(() => String(used().sort()) === "0,1", "one slot of one process in use");
    expect(await first).toBe(200);
    const slow = Array.from({ length: 10 }, ask);
    await until(() => busy(watcher.of<Picture>("picture").at(-1)!).length === 8, "all slots in use");
    const full = watcher.of<Picture>("picture").at(-1)!.workers[0]!;
    expect(full.processes.map(({ concurrency, inFlight }) => [concurrency, inFlight])).toEqual([
      [4, 4],
      [4, 4],
    ]);
    expect(full.processes.map(({ pid }) => pid).sort()).toEqual(stage.workers.map(({ pid }) => pid).sort());
    expect(new Set(busy(watcher.of<Picture>("picture").at(-1)!))).toEqual(new Set(["CLAIMED"]));
    expect(full.queued).toBe(2);
    expect(await Promise.all(slow)).toEqual(Array.from({ length: 10 }, () => 200));
    await until(() => busy(watcher.of<Picture>("picture").at(-1)!).length === 0, "all free");
    expect(watcher.of<Picture>("picture").at(-1)!.workers[0]!.statuses).toEqual({ "200": 11 });
  }, 20_000);

  test("reports each second once: its requests, its errors, its percentiles", async () => {
    await using stage = await Stage.open();
    await stage.worker("w");
    using watcher = await Watcher.open(stage);
    const seconds = () =>
      watcher.of<{ time: number; requests: number; errors: number; p50: number; p99: number }[]>("samples").flat();
    const asked = 30;
    for (let i = 0; i < asked; i++) await stage.fetch(i % 3 === 0 ? "/w/throw" : "/w/users/1");
    const total = (key: "requests" | "errors") => seconds().reduce((sum, second) => sum + second[key], 0);
    await until(() => total("errors") === asked / 3, "the errors");
    await until(() => total("requests") > asked, "all requests and the stream's");
    const pictures = watcher.of("picture").length;
    await until(() => watcher.of("picture").length > pictures + 1, "two more pictures");
    expect(total("requests")).toBe(asked + 1);
    expect(new Set(seconds().map(({ time }) => time)).size).toBe(seconds().length);
    for (const { time, p50, p99 } of seconds()) {
      expect(time % 1_000).toBe(0);
      expect(p50).toBeGreaterThan(0);
      expect(p99).toBeGreaterThanOrEqual(p50);
    }
  });
});

describe("as data", () => {
  test("health is 200 while every worker is there, and names workers that are gone", async () => {
    await using stage = await Stage.open();
    expect(await (await stage.fetch("/_slotbus/health")).json()).toEqual({ ok: true, gone: [], draining: false });
    const worker = await stage.worker("w");
    expect((await stage.fetch("/_slotbus/health")).status).toBe(200);
    await worker.kill();
    await until(async () => (await stage.fetch("/w/users/1")).status === 503, "its routes are 503");
    const response = await stage.fetch("/_slotbus/health");
    expect([response.status, await response.json()]).toEqual([503, { ok: false, gone: ["w"], draining: false }]);
  });

  test("routes are listed by path, in any order of registration", async () => {
    await using stage = await Stage.open();
    await stage.worker("w", ["GET /zebra", "POST /ant", "GET /ant"]);
    const routes = (await (await stage.fetch("/_slotbus/routes")).json()) as RoutePicture[];
    const own = routes.filter(({ pattern }) => !pattern.startsWith("/w/"));
    expect(own.map(({ method, pattern }) => `${method} ${pattern}`)).toEqual(["GET /ant", "POST /ant", "GET /zebra"]);
    const patterns = routes.map(({ pattern }) => pattern);
    expect(patterns).toEqual(patterns.toSorted());
  });

  test("metrics are Prometheus' text; counters only grow, and count each request once", async () => {
    await using stage = await Stage.open();
    await stage.worker("w");
    const before = await metrics(stage);
    for (let i = 0; i < 20; i++) await stage.fetch("/w/users/1");
    for (let i = 0; i < 3; i++) await stage.fetch("/w/throw");
    await stage.fetch("/nowhere");
    const after = await metrics(stage);
    const value = (families: Map<string, Family>, family: string, key: string) =>
      families.get(family)!.samples.get(key)?.value ?? 0;
    const requests = (labels: string) =>
      value(after, "slotbus_hub_requests_total", `slotbus_hub_requests_total${labels}`);
    expect(requests('{worker="w",status="200"}')).toBe(20);
    expect(requests('{worker="w",status="500"}')).toBe(3);
    expect(requests('{worker="",status="404"}')).toBe(1);
    expect(value(after, "slotbus_hub_processes", 'slotbus_hub_processes{worker="w"}')).toBe(1);
    expect(value(after, "slotbus_hub_slots", 'slotbus_hub_slots{worker="w"}')).toBe(32);
    expect(value(after, "slotbus_hub_worker_there", 'slotbus_hub_worker_there{worker="w"}')).toBe(1);
    let counters = 0;
    for (const [name, { type, samples }] of before) {
      expect(name.endsWith("_total")).toBe(type === "counter");
      if (type === "gauge") continue;
      for (const [key, sample] of samples) {
        counters++;
        expect(value(after, name, key)).toBeGreaterThanOrEqual(sample.value);
      }
    }
    expect(counters).toBeGreaterThan(0);
  });

  test("the latency buckets grow to +Inf, which is their count, and contain the measured times", async () => {
    await using stage = await Stage.open();
    await stage.worker("w");
    for (let i = 0; i < 10; i++) await stage.fetch("/w/users/1");
    await stage.fetch("/w/slow?ms=120");
    const { samples } = (await metrics(stage)).get("slotbus_hub_request_duration_seconds")!;
    const own = [...samples.values()].filter(({ labels }) => labels["worker"] === "w");
    const buckets = own.filter(({ name }) => name.endsWith("_bucket"));
    const bounds = buckets.map(({ labels }) => (labels["le"] === "+Inf" ? Infinity : Number(labels["le"])));
    expect(bounds).toEqual(bounds.toSorted((a, b) => a - b));
    expect(new Set(bounds).size).toBe(bounds.length);
    expect(bounds.at(-1)).toBe(Infinity);
    const counts = buckets.map(({ value }) => value);
    expect(counts).toEqual(counts.toSorted((a, b) => a - b));
    const of = (suffix: string) => own.find(({ name }) => name.endsWith(suffix))!.value;
    expect([counts.at(-1), of("_count")]).toEqual([11, 11]);
    expect(of("_sum")).toBeGreaterThan(0.12);
    const upTo100 = counts[bounds.findIndex((bound) => bound === 0.1)]!;
    expect(upTo100).toBe(10);
  });

  test("labels and help texts are escaped, with any characters", () => {
    const odd = 'a"b\\c\nd} 7\n# TYPE forged counter';
    const text = new Exposition();
    text.family("odd", "gauge", odd).sample({ worker: odd, n: 3 }, 1).sample({ worker: "" }, Infinity).sample({}, 1e21);
    const families = parse(text.toString());
    expect([...families.keys()]).toEqual(["odd"]);
    const [first, second, third] = [...families.get("odd")!.samples.values()];
    expect(first!.labels).toEqual({ worker: odd, n: "3" });
    expect(second!.value).toBe(Infinity);
    expect(third!.value).toBe(1e21);
    expect(() => parse(text.toString().replace('\\"', '"'))).toThrow();
  });
});

test("a second has the errors and percentiles of its requests, each bucket includes the smaller ones, and no count overflows", () => {
  setSystemTime(new Date("2026-01-01"));
  const meter = new Meter();
  const route = { owner: { name: "w" }, counts: { requests: 0, errors: 0, ms: 0 } };
  const statuses = [200, 499, 500, 599];
  for (let i = 1; i <= 1_000; i++) meter.record(route, statuses[i % 4]!, i / 10);
  setSystemTime(new Date("2026-01-01T00:00:01"));
  const [second, ...more] = meter.history();
  meter.record(route, 200, 1);
  setSystemTime(new Date("2026-01-01T00:00:04"));
  meter.history();
  setSystemTime();
  expect(meter.counts.get("w")!.course).toEqual([1_000, 1, 0, 0]);
  expect(route.counts).toEqual({ requests: 1_001, errors: 500, ms: expect.closeTo(50_051) });
  expect([second!.requests, second!.errors, more.length]).toEqual([1_000, 500, 0]);
  const { p50, p90, p99 } = second!;
  for (const [found, truth] of [
    [p50, 50],
    [p90, 90],
    [p99, 99],
  ] as const)
    expect(found / truth).toBeWithin(1, 1.01);
  const counts = meter.counts.get("w")!;
  const upTo = (seconds: number) => cumulative([...counts.inBucket]).find(([bound]) => bound === seconds)![1];
  expect([0.0001, 0.01, 0.1, 1].map(upTo)).toEqual([1, 101, 1_001, 1_001]);
  counts.inBucket[0] = 2 ** 32 - 1; // 32 bits overflow after some hours of load
  counts.add(200, 0.001);
  expect(counts.inBucket[0]).toBe(2 ** 32);
});
