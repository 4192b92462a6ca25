/** Several hub processes with one name: the same routes, events with the same ids, figures of the whole, and no failed request. */

import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readlinkSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { HubClient } from "../src/hub/client.ts";
import { Hub, HubEmitter, type HubError, type HubOptions, sse } from "../src/hub/index.ts";
import { Listener } from "./hub-listener.ts";
import { Stage } from "./hub-stage.ts";
import { Child, rejection, until } from "./support.ts";

/** Several hubs of one name in this process, each on its own port, and their workers. */
class Shared extends Stage {
  readonly hubs: Hub[] = [];

  static async of(count: number, options: HubOptions = {}): Promise<Shared> {
    const shared = new Shared();
    shared.workspace.leavesKilled = true; // a killed worker leaves its door
    for (let made = 0; made < count; made++) await shared.add(options);
    return shared;
  }

  async add(options: HubOptions = {}): Promise<Hub> {
    const hub = await Hub.start({ port: 0, directory: this.workspace.directory, shared: true, ...options });
    this.hubs.push(hub);
    this.hub ??= hub;
    return hub;
  }

  ask(hub: Hub, path: string): Promise<Response> {
    return fetch(new URL(path, hub.url!));
  }

  /** Status of a path in each hub. */
  statuses(path: string): Promise<number[]> {
    return Promise.all(this.hubs.map(async (hub) => (await this.ask(hub, path)).status));
  }

  listen(hub: Hub, path: string, lastId?: string): Promise<Listener> {
    return Listener.open(hub, path, lastId);
  }

  get files(): string[] {
    return readdirSync(this.workspace.directory);
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    for (const hub of this.hubs) await hub.close({ timeout: 0 });
    await super[Symbol.asyncDispose]();
  }
}

describe("registrations", () => {
  test("a worker registers once and serves every hub within 50 ms; its end is known to all of them", async () => {
    await using shared = await Shared.of(3);
    await using _other = await shared.serve({ "/other": () => "other" }, { name: "other" });
    const worker = await shared.serve({ "/a/:id": ({ params }) => params["id"]! });
    await Bun.sleep(50); // the promise is 50 ms
    expect(await shared.statuses("/a/1")).toEqual([200, 200, 200]);
    const lists = await Promise.all(
      shared.hubs.map(async (hub) => (await shared.ask(hub, "/health")).json() as Promise<{ workers: unknown[] }>),
    );
    expect(lists[0]!.workers).toHaveLength(2);
    expect(lists[1]).toEqual(lists[0]);
    expect(lists[2]).toEqual(lists[0]);
    await worker.close();
    await Bun.sleep(50);
    expect(await shared.statuses("/a/1")).toEqual([503, 503, 503]);
    expect(await shared.statuses("/other")).toEqual([200, 200, 200]);
  });

  test("a hub that starts later has the routes of the others before it listens", async () => {
    await using shared = await Shared.of(1);
    await using _w = await shared.serve({ "/a": () => "a" });
    for (let more = 0; more < 3; more++) {
      const hub = await shared.add();
      expect(await (await shared.ask(hub, "/a")).text()).toBe("a");
      expect((await shared.ask(hub, "/none")).status).toBe(404); // not 503: it has not only just begun
    }
  });

  test("two names that want one route at the same time: one of them gets it, in all hubs", async () => {
    await using shared = await Shared.of(1);
    const { directory } = shared.workspace;
    const child = new Child("hub-server.ts", [directory, '{"shared":true}'], {});
    shared.workers.push(child);
    const port = (await child.line("listens")).split(" ")[1]!;
    const register = (member: number, name: string, path: string) =>
      fetch("http://hub/internal/register", {
        unix: join(directory, `hub@${member}.control`),
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ name, routes: [{ method: "GET", path }] }),
      });
    const owners = async (url: URL | string): Promise<string[]> => {
      const routes = (await (await fetch(new URL("/_slotbus/routes", url))).json()) as { worker: string }[];
      return routes.map(({ worker }) => worker);
    };
    for (let round = 0; round < 20; round++) {
      const path = `/same${round}`;
      const answers = await Promise.all([register(0, `a${round}`, path), register(1, `b${round}`, path)]);
      expect(answers.map(({ status }) => status).sort()).toEqual([200, 409]);
    }
    const own = await owners(shared.hubs[0]!.url!);
    expect(own).toHaveLength(20);
    expect(await owners(`http://127.0.0.1:${port}`)).toEqual(own);
    await child.kill("SIGTERM");
  });

  test("an eviction by one hub is an eviction by all", async () => {
    await using shared = await Shared.of(1, { ping: { interval: 50, timeout: 50, maxMisses: 2 } });
    await shared.add({ ping: false });
    const worker = await shared.worker();
    await until(async () => (await shared.statuses("/w/users/1")).every((status) => status === 200), "both serve");
    const died: string[] = [];
    for (const hub of shared.hubs) hub.on("died", (_worker, reason) => died.push(reason));
    worker.process.kill("SIGSTOP");
    await until(() => died.length === 2, "both have evicted it");
    expect(died[0]).toContain("it missed 2 pings");
    expect(died[1]).toContain("it missed 2 pings");
    worker.process.kill("SIGCONT");
    await worker.line("disconnected");
    await until(
      async () => (await shared.statuses("/w/users/1")).every((status) => status === 200),
      "it is back in both",
    );
  });

  test("a hub of one process and shared hubs exclude each other", async () => {
    await using shared = await Shared.of(1);
    expect((await rejection(Hub.start({ port: 0, directory: shared.workspace.directory }))).message).toContain("hub");
    await using alone = await Stage.open();
    await rejection(Hub.start({ port: 0, directory: alone.workspace.directory, shared: true }));
    expect(readdirSync(alone.workspace.directory).filter((file) => file.endsWith(".fleet"))).toEqual([]);
  });
});

describe("the control socket", () => {
  test("of the hub's name leads to a living hub, also after the one that it led to was closed", async () => {
    await using shared = await Shared.of(2);
    const { directory } = shared.workspace;
    const client = new HubClient("hub", directory, true);
    await client.call("/health");
    await shared.hubs.shift()!.close();
    await client.call("/health");
    expect(existsSync(join(directory, "hub.control"))).toBe(true);
    await shared.hubs[0]!.close();
    expect(shared.files.filter((file) => file.includes("control") || file.endsWith(".fleet"))).toEqual([]);
    const error = await rejection<HubError>(client.call("/health"));
    expect(error.message).toContain("does not respond");
  });

  test("of a hub that is closing sends callers to another hub", async () => {
    await using shared = await Shared.of(2);
    const { directory } = shared.workspace;
    const slow = Promise.withResolvers<string>();
    const began = Promise.withResolvers<void>();
    await using worker = await shared.serve({
      "/slow": () => {
        began.resolve();
        return slow.promise;
      },
    });
    const answer = shared.ask(shared.hubs[0]!, "/slow");
    await began.promise;
    const drained = shared.hubs[0]!.drain();
    const link = join(directory, "hub.control");
    await until(() => readlinkSync(link) === "hub@1.control", "the name leads to the other hub");
    for (let n = 0; n < 20; n++) {
      rmSync(link, { force: true });
      symlinkSync("hub@0.control", link); // as a caller sees it that has resolved the name a moment ago
      expect(await worker.emitter().emit("n", n)).toBe(0);
    }
    slow.resolve("slow");
    expect(await (await answer).text()).toBe("slow");
    await drained;
  });

  test("a hub that was killed: its worker stays, and the next registration finds another hub", async () => {
    await using shared = new Shared();
    shared.workspace.leavesKilled = true;
    const { directory } = shared.workspace;
    const first = new Child("hub-server.ts", [directory, '{"shared":true}'], {});
    shared.workers.push(first);
    await first.line("listens");
    await using worker = await shared.serve({ "/a": () => "a" });
    const second = await shared.add();
    expect((await shared.ask(second, "/a")).status).toBe(200);
    await first.kill();
    expect((await shared.ask(second, "/a")).status).toBe(200);
    await using _b = await shared.serve({ "/b": () => "b" }, { name: "b" });
    expect(await (await shared.ask(second, "/b")).text()).toBe("b");
    expect(worker.connected).toBe(true);
    const target = (): string => readlinkSync(join(directory, "hub.control"));
    await until(() => target() === "hub@1.control", "the socket of the hub's name leads to it");
    await until(() => !existsSync(join(directory, "hub@0.control")), "the socket of the killed hub is removed");
    expect(await shared.client().call<{ ok: boolean }>("/health")).toMatchObject({ ok: true });
  });
});

test("a hub that was stopped until the ring was overwritten catches up with the registrations", async () => {
  await using shared = await Shared.of(1);
  await using worker = await shared.serve({ "/a": () => "a" });
  const second = new Child("hub-server.ts", [shared.workspace.directory, '{"shared":true}'], {});
  shared.workers.push(second);
  const port = (await second.line("listens")).split(" ")[1]!;
  const ask = async (path: string): Promise<number> => (await fetch(`http://127.0.0.1:${port}${path}`)).status;
  expect(await ask("/a")).toBe(200);
  second.process.kill("SIGSTOP");
  await using _b = await shared.serve({ "/b": () => "b" }, { name: "b" });
  const large = "x".repeat(3 << 20);
  for (let sent = 0; sent < 12; sent++) expect(await worker.emitter().emit("n", large)).toBe(0); // 36 MiB; the ring has 32
  second.process.kill("SIGCONT");
  await until(async () => (await ask("/b")) === 200, "it serves the worker that it did not see register", 3_000);
  expect(await ask("/a")).toBe(200);
  await second.kill("SIGTERM");
});

describe("server-sent events", () => {
  const data = (listener: Listener): string[] => listener.events.map(({ event, data: text }) => `${event} ${text}`);

  test("reach the clients of every hub, with the same ids; the count is of all of them", async () => {
    await using shared = await Shared.of(3);
    await using worker = await shared.serve({ "/feed/:room": sse() });
    const feeds = await Promise.all(shared.hubs.map((hub) => shared.listen(hub, "/feed/7")));
    const all = await Promise.all(shared.hubs.map((hub) => shared.listen(hub, "/events")));
    const other = await shared.listen(shared.hubs[1]!, "/feed/8");
    const emitter = worker.emitter();
    expect(await emitter.ssePush("/feed/7", "one", "1")).toBe(3);
    expect(await emitter.emit("two", "2")).toBe(3);
    expect(await emitter.ssePushByPattern("/feed/:room", {}, "three", "3")).toBe(4);
    expect(await emitter.ssePush("/feed/9", "none", "4")).toBe(0);
    await until(() => feeds.every(({ events }) => events.length === 2), "the events of the feed");
    await until(() => all.every(({ events }) => events.length === 1), "the events of all");
    for (const listeners of [feeds, all])
      for (const { events } of listeners) expect(events).toEqual(listeners[0]!.events);
    expect(data(other)).toEqual(["three 3"]);
    expect(data(feeds[0]!)).toEqual(["one 1", "three 3"]);
    for (const listener of [...feeds, ...all, other]) listener.close();
  });

  test("a client that reconnects to another hub gets what it missed: by path, by pattern, and from before that hub began", async () => {
    await using shared = await Shared.of(2);
    await using worker = await shared.serve({ "/feed/:room": sse() });
    const emitter = worker.emitter();
    const first = await shared.listen(shared.hubs[0]!, "/feed/7");
    await emitter.ssePush("/feed/7", "n", "1");
    await until(() => first.events.length === 1, "the first event");
    first.close();
    const { id } = first.events[0]!;
    await emitter.ssePush("/feed/7", "n", "2");
    await emitter.ssePushByPattern("/feed/:room", { room: "7" }, "n", "3");
    await emitter.ssePushByPattern("/feed/:room", { room: "8" }, "n", "no");
    await emitter.emit("n", "no");
    await emitter.ssePush("/feed/7", "n", "4");
    const third = await shared.add(); // has read the ring
    for (const hub of [...shared.hubs, third]) {
      const again = await shared.listen(hub, "/feed/7", id);
      await until(() => again.events.length >= 3, "three events");
      expect(data(again)).toEqual(["n 2", "n 3", "n 4"]);
      again.close();
    }
    const stranger = await shared.listen(third, "/feed/7", "other-3");
    await until(() => stranger.events.length >= 5, "all kept events");
    expect(data(stranger)).toEqual(['slotbus-lost {"lost":null}', "n 1", "n 2", "n 3", "n 4"]);
    stranger.close();
  });

  test("an event to a pattern is replayed for a path that only another hub has had a client of", async () => {
    await using shared = await Shared.of(2);
    await using worker = await shared.serve({ "/feed/:room": sse() });
    const emitter = worker.emitter();
    const first = await shared.listen(shared.hubs[0]!, "/feed/5");
    await emitter.ssePushByPattern("/feed/:room", {}, "n", "1");
    await until(() => first.events.length === 1, "the first event");
    first.close();
    await emitter.ssePushByPattern("/feed/:room", { room: "5" }, "n", "2");
    await emitter.ssePushByPattern("/feed/:room", { room: "6" }, "n", "no");
    const again = await shared.listen(shared.hubs[1]!, "/feed/5", first.events[0]!.id);
    await emitter.ssePush("/feed/5", "n", "3");
    await until(() => again.events.at(-1)?.data === "3", "the last event");
    expect(data(again)).toEqual(["n 2", "n 3"]);
    again.close();
  });

  test("events that are no longer kept are reported, and refused events are refused", async () => {
    await using shared = await Shared.of(2, { sse: { maxReplay: 2 } });
    await using worker = await shared.serve({ "/feed/:room": sse() });
    const emitter = worker.emitter();
    const first = await shared.listen(shared.hubs[0]!, "/feed/7");
    for (let n = 0; n < 5; n++) await emitter.ssePush("/feed/7", "n", `${n}`);
    await until(() => first.events.length === 5, "five events");
    const again = await shared.listen(shared.hubs[1]!, "/feed/7", first.events[1]!.id);
    await until(() => again.events.length === 3, "the report and two events");
    expect(data(again)).toEqual(['slotbus-lost {"lost":null}', "n 3", "n 4"]);
    const whole = await shared.listen(shared.hubs[1]!, "/feed/7", first.events[2]!.id);
    await until(() => whole.events.length === 2, "two events");
    expect(data(whole)).toEqual(["n 3", "n 4"]);
    for (const listener of [first, again, whole]) listener.close();
    expect(await rejection<HubError>(emitter.ssePush("/none", "n", ""))).toMatchObject({ status: 404 });
    expect(await rejection<HubError>(emitter.emit("a\nb", ""))).toMatchObject({ status: 400 });
    expect(await emitter.emit("n", "x".repeat(3 << 20))).toBe(0); // almost the limit of the control plane
  });

  test("many emitters at once: every client of every hub has every event, in one order", async () => {
    await using shared = await Shared.of(2);
    const { directory } = shared.workspace;
    const listeners = await Promise.all(shared.hubs.map((hub) => shared.listen(hub, "/events")));
    const emitters = ["a", "b", "c"].map((name) => new HubEmitter(new HubClient("hub", directory, true), name));
    await Promise.all(
      emitters.map(async (emitter) => {
        for (let n = 0; n < 100; n++) await emitter.emit("n", n);
      }),
    );
    await until(() => listeners.every(({ events }) => events.length === 300), "300 events");
    expect(listeners[1]!.events).toEqual(listeners[0]!.events);
    for (const listener of listeners) listener.close();
  });
});

describe("figures", () => {
  test("metrics, snapshot and page show the whole, whichever hub responds", async () => {
    await using shared = await Shared.of(2);
    await shared.worker();
    const listeners = await Promise.all(shared.hubs.map((hub) => shared.listen(hub, "/events")));
    for (const [at, hub] of shared.hubs.entries())
      for (let n = 0; n < 10 + at; n++) await (await shared.ask(hub, "/w/users/1")).text();
    for (const hub of shared.hubs) {
      const metrics = await (await shared.ask(hub, "/_slotbus/metrics")).text();
      expect(metrics).toContain('slotbus_hub_requests_total{worker="w",status="200"} 21\n');
      expect(metrics).toContain('slotbus_hub_request_duration_seconds_count{worker="w"} 21\n');
      expect(metrics).toContain("slotbus_hub_event_clients 2\n");
      expect(metrics).toContain("slotbus_hub_hub_processes 2\n");
      const snapshot = (await (await shared.ask(hub, "/_slotbus/snapshot")).json()) as {
        hubs: number;
        clients: number;
        workers: { statuses: object; processes: unknown[] }[];
      };
      expect([snapshot.hubs, snapshot.clients, snapshot.workers[0]!.statuses]).toEqual([2, 2, { 200: 21 }]);
      expect(snapshot.workers[0]!.processes).toHaveLength(1);
    }
    for (const listener of listeners) listener.close();
  });
});
