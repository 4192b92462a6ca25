/** What a hub has for a network: proxies it trusts, limits per client and per route, and an end that load balancers see first. */

import { describe, expect, test } from "bun:test";
import { InvalidConfigError } from "../src/errors.ts";
import { clientKey, ClientLimits } from "../src/hub/client-limits.ts";
import { Failure } from "../src/hub/failure.ts";
import { type HubError, type HubOptions, type HubRequestInfo, limit, sse } from "../src/hub/index.ts";
import { hubOptions } from "../src/hub/options.ts";
import { Proxies } from "../src/hub/proxies.ts";
import { Stage } from "./hub-stage.ts";
import { rejection, until } from "./support.ts";

const from = (address: string): RequestInit => ({ headers: { "x-forwarded-for": address } });

describe("trustProxy", () => {
  test("a list of proxies names the client as the last address that is not a proxy", async () => {
    await using stage = await Stage.open({ trustProxy: ["127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"] });
    await using _w = await stage.serve({
      "/headers": ({ headers }) => ({ json: ["for", "proto"].map((name) => headers.get(`x-forwarded-${name}`)) }),
      "/app/*": { fetch: (request, server) => Response.json((server as Bun.Server<unknown>).requestIP(request)) },
    });
    const seen: (string | null)[] = [];
    stage.hub.on("request", ({ address }) => seen.push(address));
    const ask = async (route: string): Promise<unknown> => {
      const headers = { "x-forwarded-for": route, "x-forwarded-proto": "https" };
      const app = (await (await stage.fetch("/app/", { headers })).json()) as { address: string } | null;
      expect(app?.address ?? null).toBe(seen.at(-1)!);
      return (await stage.fetch("/headers", { headers })).json();
    };
    expect(await ask("6.6.6.6, 7.7.7.7")).toEqual(["7.7.7.7, 127.0.0.1", "https"]); // the first entry is the client's own word
    expect(await ask("6.6.6.6, 7.7.7.7, 10.1.2.3, 2001:db8::9")).toEqual(["7.7.7.7, 127.0.0.1", "https"]);
    expect(await ask("10.0.0.1, 10.0.0.2")).toEqual(["10.0.0.1, 127.0.0.1", "https"]); // proxies only: the first of them
    expect(await ask("7.7.7.7, nobody")).toEqual(["unknown, 127.0.0.1", "https"]);
    await until(() => seen.length === 8, "all requests are reported");
    expect(seen.map(String).filter((_, at) => at % 2 === 1)).toEqual(["7.7.7.7", "7.7.7.7", "10.0.0.1", "null"]);
  });

  test("headers of a peer that is not in the list are replaced", async () => {
    await using stage = await Stage.open({ trustProxy: ["10.0.0.0/8", "unix"] });
    await stage.worker();
    const headers = { "x-forwarded-for": "6.6.6.6", "x-forwarded-proto": "https", "x-forwarded-host": "a.example" };
    const response = await stage.fetch("/w/headers", { method: "POST", headers });
    const sent = new Map((await response.json()) as [string, string][]);
    const host = stage.hub.url!.host;
    expect(Object.keys(headers).map((name) => sent.get(name))).toEqual(["127.0.0.1", "http", host]);
  });

  test("peers on a unix socket are trusted by their own word, and addresses in all spellings", () => {
    const proxies = new Proxies(["unix", "10.0.0.0/8", "::1", "192.168.7.7"]);
    const peers = [null, "10.9.9.9", "::ffff:10.9.9.9", "::1", "192.168.7.7"];
    expect(peers.filter((peer) => !proxies.trusts(peer))).toEqual([]);
    expect(["11.0.0.1", "::2", "192.168.7.8"].filter((peer) => proxies.trusts(peer))).toEqual([]);
    expect(new Proxies(["10.0.0.0/8"]).trusts(null)).toBe(false);
    expect(proxies.routeOf(null, "7.7.7.7")).toBe("7.7.7.7, unknown");
    expect(proxies.routeOf("11.0.0.1", "7.7.7.7")).toBe("11.0.0.1");
  });

  test("entries that are not addresses are refused with their place", () => {
    const given = (trustProxy: unknown) => () => hubOptions.resolve({ trustProxy } as HubOptions);
    for (const bad of ["10.0.0.0/33", "::1/129", "10.0.0", "example.org", "10.0.0.0/", "", "10.0.0.0/8/8", 7]) {
      expect(given(["127.0.0.1", bad])).toThrow(InvalidConfigError);
      expect(given(["127.0.0.1", bad])).toThrow("trustProxy[1] is ");
    }
    for (const bad of [[], "127.0.0.1", 1]) expect(given(bad)).toThrow("true, false or a list of addresses");
    expect(given(["10.0.0.0/0", "::/0", "::1", "unix"])).not.toThrow();
  });
});

describe("limits per client", () => {
  const codeOf = async (response: Response) => [response.status, ((await response.json()) as { code: string }).code];

  test("concurrency counts streams while they are open, and other clients and /health are not concerned", async () => {
    await using stage = await Stage.open({ trustProxy: true, perClient: { concurrency: 2 } });
    await stage.worker();
    const controller = new AbortController();
    const events = await stage.fetch("/events", { ...from("7.7.7.7"), signal: controller.signal });
    expect(events.status).toBe(200);
    const read = events.text().catch(() => "aborted"); // Bun ends a stream that nobody reads when it collects garbage
    const slow = stage.fetch("/w/slow?ms=300", from("7.7.7.7"));
    await stage.workers[0]!.line("slow begins");
    const refused = await stage.fetch("/w/users/1", from("7.7.7.7"));
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(await codeOf(refused)).toEqual([429, "CLIENT_LIMIT"]);
    expect((await stage.fetch("/health", from("7.7.7.7"))).status).toBe(200);
    expect((await stage.fetch("/w/users/1", from("8.8.8.8"))).status).toBe(200);
    expect((await slow).status).toBe(200);
    const streamed = await stage.fetch("/w/stream", from("7.7.7.7"));
    expect((await streamed.text()).split("\n").length).toBe(6);
    const ask = () => stage.fetch("/w/users/1", from("7.7.7.7"));
    expect((await ask()).status).toBe(200); // the slow request and the streamed one have ended; the event stream runs
    controller.abort();
    expect(await read).toBe("aborted");
    await until(() => stage.hub.clients === 0, "the hub sees that the event stream has ended");
    const two = await Promise.all([stage.fetch("/w/slow?ms=50", from("7.7.7.7")), ask()]);
    expect(two.map(({ status }) => status)).toEqual([200, 200]);
  });

  test("rate and burst limit the requests that begin", async () => {
    await using stage = await Stage.open({ perClient: { rate: 1, burst: 3 } });
    await stage.worker();
    const ask = async (): Promise<Response> => stage.fetch("/w/users/1");
    const four = [await ask(), await ask(), await ask(), await ask()];
    expect(four.map(({ status }) => status)).toEqual([200, 200, 200, 429]);
    expect(four[3]!.headers.get("retry-after")).toBe("1");
    await until(async () => (await ask()).status === 200, "a second later, another request", 3_000);
  });

  test("a broken stream ends the request of its client too", async () => {
    await using stage = await Stage.open({ perClient: { concurrency: 1 } });
    await using worker = await stage.serve({
      "/broken": () => ({
        body: (async function* () {
          yield "one";
          throw new Error("broken");
        })(),
      }),
    });
    worker.on("handlerError", () => {});
    await rejection(stage.fetch("/broken").then((broken) => broken.text()));
    await until(async () => (await stage.fetch("/none")).status === 404, "the next request is not refused");
  });

  test("a client is an IPv4 address or an IPv6 subnet of 64 bits", () => {
    expect(["10.0.0.1", "::ffff:10.0.0.1", "::FFFF:10.0.0.1"].map(clientKey)).toEqual(Array(3).fill("10.0.0.1"));
    const same = ["2001:db8:0:7::1", "2001:DB8:0:7:1:2:3:4", "2001:0db8:0000:0007::"].map(clientKey);
    expect(new Set(same)).toEqual(new Set(["2001:db8:0:7"]));
    expect(clientKey("::1")).toBe("0:0:0:0");
    expect(clientKey("2001:db8::8:0:0:0:1")).not.toBe(same[0]!);
  });

  test("clients are forgotten when they use nothing, and their number has a limit", () => {
    const { perClient } = hubOptions.resolve({ perClient: { rate: 10, burst: 10 } });
    const limits = new ClientLimits(perClient);
    const running = limits.enter("1.1.1.1", 2_000);
    for (let at = 0; at < 100_100; at++) limits.enter(`10.${at >> 16}.${(at >> 8) & 255}.${at & 255}`, 2_000)();
    expect(limits.size).toBe(100_000);
    limits.enter("9.9.9.9", 2_500)();
    limits.enter("9.9.9.9", 4_000)();
    expect(limits.size).toBe(2); // the running one, and the newest
    running();
    running(); // once more changes nothing
    expect(() => {
      for (let at = 0; at < 11; at++) limits.enter("9.9.9.9", 4_000);
    }).toThrow(Failure);
  });
});

describe("limits of a route", () => {
  const slow = async (): Promise<string> => {
    await Bun.sleep(600);
    return "late";
  };

  test("replace the hub's limits: shorter, smaller, longer and larger", async () => {
    await using stage = await Stage.open({ timeout: 300, payloadBytes: 1_000, bodyTimeout: 5_000 });
    await using _w = await stage.serve({
      "/short": limit({ timeout: 50 }, slow),
      "/long": limit({ timeout: Infinity }, async () => {
        await Bun.sleep(600);
        return "done";
      }),
      "/body": {
        PUT: limit({ payloadBytes: 10 }, async (request) => (await request.text()).length.toString()),
        POST: async (request) => (await request.text()).length.toString(),
      },
      "/upload/:name": limit(
        { payloadBytes: 400_000 },
        {
          PUT: async (request) => `${request.params["name"]} ${(await request.bytes()).length}`,
        },
      ),
      "/app/*": limit({ payloadBytes: 5 }, { fetch: async (request: Request) => new Response(await request.text()) }),
      "/dribble": limit({ bodyTimeout: 50 }, { POST: async (request) => await request.text() }),
    });
    const began = performance.now();
    expect((await stage.fetch("/short")).status).toBe(504);
    expect(performance.now() - began).toBeLessThan(290);
    expect(await (await stage.fetch("/long")).text()).toBe("done");
    const put = async (path: string, method: string, bytes: number): Promise<[number, string]> => {
      const response = await stage.fetch(path, { method, body: "x".repeat(bytes) });
      return [response.status, response.ok ? await response.text() : ""];
    };
    expect(await put("/body", "PUT", 10)).toEqual([200, "10"]);
    expect(await put("/body", "PUT", 11)).toEqual([413, ""]);
    expect(await put("/body", "POST", 11)).toEqual([200, "11"]);
    expect(await put("/body", "POST", 1_001)).toEqual([413, ""]);
    for (const bytes of [900, 2_000, 399_999, 400_000])
      expect(await put("/upload/a", "PUT", bytes)).toEqual([200, `a ${bytes}`]);
    expect(await put("/upload/a", "PUT", 400_001)).toEqual([413, ""]);
    expect(await put("/app/", "POST", 6)).toEqual([413, ""]);
    expect(await stage.raw("POST /dribble HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx", 400)).toContain(" 408 ");
  });

  test("that are invalid are refused where they are written, and by the hub", async () => {
    await using stage = await Stage.open();
    expect(() => limit({ timeout: 0 }, slow)).toThrow("timeout is 0");
    expect(() => limit({ payload: 1 } as never, slow)).toThrow(InvalidConfigError);
    const routes = { "/feed": { GET: limit({ timeout: 1 }, sse() as never) } };
    await expect(stage.serve(routes)).rejects.toThrow("/feed");
    await expect(stage.serve({ "/feed": limit({ timeout: 1 }, sse()) as never })).rejects.toThrow(
      "no limits of its own",
    );
    const register = (more: object) =>
      rejection<HubError>(
        stage.client().call("/internal/register", { name: "w", routes: [{ method: "GET", path: "/a", ...more }] }),
      );
    for (const bad of [{ timeout: "1" }, { body_timeout: -1 }, { payload_bytes: 0 }, { payload_bytes: 2 ** 31 }]) {
      const error = await register(bad);
      expect([error.status, error.reason]).toEqual([400, "BAD_ROUTE"]);
    }
  });
});

describe("drain", () => {
  test("health turns first: meanwhile requests are served, and their connections close", async () => {
    await using stage = await Stage.open({ drainDelay: 400 });
    await stage.worker();
    expect(await (await stage.fetch("/health")).json()).toMatchObject({ ok: true });
    expect((await stage.fetch("/w/users/1")).headers.get("connection")).not.toBe("close");
    const infos: HubRequestInfo[] = [];
    stage.hub.on("request", (info) => infos.push(info));
    const began = performance.now();
    const drained = stage.hub.drain();
    const health = await stage.fetch("/health");
    expect([health.status, await health.json()]).toMatchObject([503, { ok: false, draining: true }]);
    expect((await stage.fetch("/_slotbus/health")).status).toBe(503);
    const served = await stage.fetch("/w/users/1");
    expect([served.status, served.headers.get("connection")]).toEqual([200, "close"]);
    const slow = stage.fetch("/w/slow?ms=600");
    await stage.workers[0]!.line("slow begins");
    await drained;
    expect(performance.now() - began).toBeGreaterThanOrEqual(595);
    expect((await slow).status).toBe(200);
    expect(infos.map(({ status }) => status)).toEqual([503, 503, 200, 200]);
    await rejection(stage.fetch("/health"));
  });

  test("close with a timeout of 0 does not wait for the delay, also when drain waits for it", async () => {
    await using stage = await Stage.open({ drainDelay: 60_000 });
    await stage.worker();
    const drained = stage.hub.drain();
    expect((await stage.fetch("/w/users/1")).status).toBe(200);
    const began = performance.now();
    await stage.hub.close({ timeout: 0 });
    await drained;
    expect(performance.now() - began).toBeLessThan(5_000);
  });
});
