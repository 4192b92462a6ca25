import { describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { EventLog } from "../src/hub/event-log.ts";
import { sse } from "../src/hub/index.ts";
import { Listener } from "./hub-listener.ts";
import { Stage } from "./hub-stage.ts";
import { until } from "./support.ts";

describe("the stream of all events", () => {
  test("gives every client the workers' events, with their source", async () => {
    await using stage = await Stage.open();
    const clients = [await Listener.open(stage.hub, "/events"), await Listener.open(stage.hub, "/events")];
    const emitter = stage.emitter();
    expect(await emitter.emit("paid", { order: 7 })).toBe(2);
    for (const client of clients) {
      await until(() => client.events.length === 1, "the event");
      const { event, data } = client.events[0]!;
      expect(event).toBe("paid");
      expect(JSON.parse(data)).toEqual({ source: "test", event_type: "paid", data: '{"order":7}' });
      client.close();
    }
  });

  test("replays the events after Last-Event-ID, and reports events that are no longer kept", async () => {
    await using stage = await Stage.open({ sse: { maxReplay: 5 } });
    const emitter = stage.emitter();
    const first = await Listener.open(stage.hub, "/events");
    for (let i = 0; i < 3; i++) await emitter.emit("n", String(i));
    await until(() => first.events.length === 3, "three events");
    first.close();
    for (let i = 3; i < 6; i++) await emitter.emit("n", String(i));
    const numbers = (client: Listener) =>
      client.events.map(({ event, data }) => (event === "n" ? JSON.parse(data).data : `${event} ${data}`));
    /** What a client with this last id gets before the next event. */
    const replay = async (lastId: string, next: string): Promise<string[]> => {
      const client = await Listener.open(stage.hub, "/events", lastId);
      await emitter.emit("n", next);
      await until(() => numbers(client).at(-1) === next, "the next event");
      client.close();
      return numbers(client).slice(0, -1);
    };
    const ids = first.events.map(({ id }) => id);
    expect(await replay(ids[2]!, "6")).toEqual(["3", "4", "5"]);
    expect(await replay(ids[0]!, "7")).toEqual(['slotbus-lost {"lost":1}', "2", "3", "4", "5", "6"]);
    expect(await replay("other-3", "8")).toEqual(['slotbus-lost {"lost":null}', "3", "4", "5", "6", "7"]);
  });

  test("a quiet stream is kept alive by comments", async () => {
    await using stage = await Stage.open({ sse: { heartbeat: 20 } });
    const client = await Listener.open(stage.hub, "/events");
    await until(() => client.comments >= 4, "comments");
    client.close();
  });

  test("a client that does not read is bounded, and gets the number of lost events", async () => {
    await using stage = await Stage.open({ sse: { clientBytes: 4_096 } });
    const emitter = stage.emitter();
    let text = "";
    const socket = connect(Number(stage.hub.url!.port), "127.0.0.1");
    socket.write("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
    socket.on("data", (data) => (text += data.toString()));
    await until(() => text.includes(":\n\n"), "the stream begins");
    socket.pause();
    const data = "x".repeat(100_000);
    let lost = 0;
    for (let i = 0; i < 150; i++) lost += 1 - (await emitter.emit("big", data));
    expect(lost).toBeGreaterThan(50);
    socket.resume();
    await until(() => (text.match(/event: big/g)?.length ?? 0) === 150 - lost, "the rest");
    await emitter.emit("last", "");
    await until(() => text.includes("event: last"), "the last one");
    const told = [...text.matchAll(/event: slotbus-lost\ndata: \{"lost":(\d+)\}/g)].reduce(
      (sum, [, n]) => sum + Number(n),
      0,
    );
    expect(told).toBe(lost);
    socket.destroy();
  });

  test("ends when the hub closes", async () => {
    await using stage = await Stage.open();
    const client = await Listener.open(stage.hub, "/events");
    let hasEnded = false; // of a client without a connection, which a server would end
    const direct = await stage.hub.fetch(new Request("http://hub/events"));
    void direct.text().then(() => (hasEnded = true));
    await stage.hub.close({ timeout: 0 });
    await until(() => client.ended, "the stream ends");
    expect(hasEnded).toBeTrue();
  });
});

describe("a route of events", () => {
  test("notifies its worker of each client before it is served, and at its end", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    const client = await Listener.open(stage.hub, "/w/feed/7");
    expect(worker.lines).toContain("connect 7");
    client.close();
    await worker.line("disconnect 7");
  });

  test("whose worker refuses the client is 403, and the worker gets no disconnect", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    expect((await stage.fetch("/w/feed/secret")).status).toBe(403);
    (await Listener.open(stage.hub, "/w/feed/7")).close();
    await worker.line("disconnect 7"); // one for the other client would be before it
    expect(worker.lines).not.toContain("disconnect secret");
  });

  test("a client that leaves before its worker has accepted it: the worker gets its disconnect", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    const controller = new AbortController();
    const asked = stage.fetch("/w/feed/late", { signal: controller.signal }).catch(() => {});
    await worker.line("connect late");
    controller.abort();
    await asked;
    await worker.line("disconnect late");
  });

  /** Routes that note their calls; `/calls` answers with them. A worker gets the requests of a hub in order. */
  const noting = (connected: () => Promise<void> | void = () => {}) => {
    const calls: string[] = [];
    return {
      "/feed/:room": sse({
        connect: async ({ params }) => {
          calls.push(`connect ${params["room"]}`);
          await connected();
        },
        disconnect: ({ params }) => void calls.push(`disconnect ${params["room"]}`),
      }),
      "/calls": () => ({ json: calls }),
    };
  };
  const callsOf = async (stage: Stage): Promise<unknown> => (await stage.fetch("/calls")).json();

  test("a worker that accepts no client within the hub's timeout: 504, and it gets the disconnect", async () => {
    await using stage = await Stage.open({ timeout: 300 });
    const { promise, resolve } = Promise.withResolvers<void>();
    await using _worker = await stage.serve(noting(() => promise));
    expect((await stage.fetch("/feed/late")).status).toBe(504);
    const calls = await callsOf(stage);
    resolve();
    expect(calls).toEqual(["connect late", "disconnect late"]);
  });

  test("gets what is pushed to its path, or to its pattern and parameters, and nothing else", async () => {
    await using stage = await Stage.open();
    await stage.worker();
    const [one, two] = [await Listener.open(stage.hub, "/w/feed/1"), await Listener.open(stage.hub, "/w/feed/2")];
    const emitter = stage.emitter();
    expect(await emitter.ssePush("/w/feed/1", "a", "by path")).toBe(1);
    expect(await emitter.ssePushByPattern("/w/feed/{room}", { room: "2" }, "b", "by pattern")).toBe(1);
    expect(await emitter.ssePushByPattern("/w/feed/:any", {}, "c", "to all")).toBe(2);
    await until(() => one.events.length === 2 && two.events.length === 2, "all of them");
    expect([one.data, two.data]).toEqual([
      ["by path", "to all"],
      ["by pattern", "to all"],
    ]);
    one.close();
    two.close();
  });

  test("the hub keeps the events of at most `maxPaths` paths; the oldest path without clients is dropped", async () => {
    await using stage = await Stage.open({ sse: { maxPaths: 2 } });
    await using _worker = await stage.serve(noting());
    const emitter = stage.emitter();
    for (const room of ["1", "2", "3"]) expect(await emitter.ssePush(`/feed/${room}`, "a", room)).toBe(0);
    const kept = async (room: string): Promise<string[]> => {
      const client = await Listener.open(stage.hub, `/feed/${room}`, "other-1");
      await emitter.ssePush(`/feed/${room}`, "a", "next");
      await until(() => client.data.includes("next"), "the next event");
      client.close();
      return client.data.filter((data) => data !== "next");
    };
    expect([await kept("3"), await kept("1")]).toEqual([['{"lost":null}', "3"], ['{"lost":null}']]);
  });

  test("lines of data stay separate lines", async () => {
    await using stage = await Stage.open();
    await stage.worker();
    const client = await Listener.open(stage.hub, "/w/feed/1");
    await stage.emitter().ssePush("/w/feed/1", "a", "one\ntwo\r\nthree\n\nevent: forged");
    await until(() => client.events.length === 1, "the event");
    expect(client.data).toEqual(["one\ntwo\nthree\n\nevent: forged"]);
    client.close();
  });

  test("events pushed while a client was away are replayed", async () => {
    await using stage = await Stage.open();
    const worker = await stage.worker();
    const emitter = stage.emitter();
    const client = await Listener.open(stage.hub, "/w/feed/1");
    await emitter.ssePush("/w/feed/1", "a", "1");
    await until(() => client.events.length === 1, "the event");
    client.close();
    await worker.line("disconnect 1");
    await emitter.ssePush("/w/feed/1", "a", "2");
    const again = await Listener.open(stage.hub, "/w/feed/1", client.events[0]!.id);
    await until(() => again.events.length === 1, "what was missed");
    expect(again.data).toEqual(["2"]);
    again.close();
  });

  test("after the hub has forgotten a path, a client that reconnects gets a notice that events are missing", async () => {
    await using stage = await Stage.open({ sse: { maxPaths: 1 } });
    await stage.worker();
    const emitter = stage.emitter();
    const first = await Listener.open(stage.hub, "/w/feed/a");
    for (let i = 0; i < 2; i++) await emitter.ssePush("/w/feed/a", "n", `old ${i}`);
    await until(() => first.events.length === 2, "both events");
    first.close();
    const hasLeft = async (): Promise<boolean> => (await emitter.ssePush("/w/feed/a", "n", "old")) === 0;
    await until(hasLeft, "the client has left");
    await emitter.ssePush("/w/feed/b", "n", ""); // takes the only place
    for (let i = 0; i < 4; i++) await emitter.ssePush("/w/feed/a", "n", `new ${i}`);
    const second = await Listener.open(stage.hub, "/w/feed/a", first.events[1]!.id);
    await until(() => second.data.includes("new 3"), "the newest event");
    expect(second.data).toEqual(['{"lost":null}', "new 0", "new 1", "new 2", "new 3"]);
    second.close();
  });

  test("a worker that comes back is notified of the clients that stayed", async () => {
    await using stage = await Stage.open();
    const worker = await stage.serve(noting());
    const client = await Listener.open(stage.hub, "/feed/1");
    await worker.close();
    await using _next = await stage.serve(noting());
    expect(await callsOf(stage)).toEqual(["connect 1"]);
    expect(await stage.emitter().ssePush("/feed/1", "a", "still here")).toBe(1);
    await until(() => client.events.length === 1, "the event");
    client.close();
  });

  test("ends when its worker reconnects without it; other routes stay", async () => {
    await using stage = await Stage.open();
    await stage.worker();
    const routes = (rooms: string[]) => rooms.map((room) => ({ method: "GET", path: `/w/${room}/:x`, sse: true }));
    const register = (rooms: string[]) =>
      stage.client().call("/internal/register", { name: "w", routes: routes(rooms) });
    await register(["a", "b"]);
    const [one, two] = [await Listener.open(stage.hub, "/w/a/1"), await Listener.open(stage.hub, "/w/b/1")];
    await register(["b"]);
    await register(["a", "b"]);
    expect(await stage.emitter().ssePush("/w/a/1", "a", "nobody")).toBe(0);
    await until(() => one.ended, "the stream ends", 2_000);
    expect(await stage.emitter().ssePush("/w/b/1", "a", "still here")).toBe(1);
    await until(() => two.events.length === 1, "the event");
    expect(two.ended).toBeFalse();
    two.close();
  });

  test("while its worker is gone is 503, but makes a browser retry until it is 404", async () => {
    await using stage = await Stage.open({ goneFor: 1_000 });
    const worker = await stage.worker();
    await worker.kill();
    const ask = (accept: string) => stage.fetch("/w/feed/7", { headers: { accept } });
    await until(async () => (await ask("*/*")).status === 503, "503");
    const early = await ask("text/event-stream");
    expect([early.status, await early.text()]).toEqual([200, "retry: 1000\n\n"]);
    await until(async () => (await ask("text/event-stream")).status === 404, "404");
  });

  test("ends when its worker is gone for good", async () => {
    await using stage = await Stage.open({ goneFor: 100 });
    const worker = await stage.worker();
    const client = await Listener.open(stage.hub, "/w/feed/1");
    await worker.kill();
    await until(() => client.ended, "the stream ends", 2_000);
  });
});

test("a log keeps the newest events, limited by number and by bytes", () => {
  const log = new EventLog("e", 3, 1_000);
  for (let i = 1; i <= 5; i++) log.append({ type: "t", data: String(i) });
  expect(log.since("e-2").missing).toBe(0);
  expect(log.since("e-1")).toEqual({
    events: [3, 4, 5].map((i) => `id: e-${i}\nevent: t\ndata: ${i}\n\n`),
    missing: 1,
  });
  expect(log.since("e-5")).toEqual({ events: [], missing: 0 });
  expect(log.since("e-6").missing).toBeNull();
  log.append({ type: "t", data: "x".repeat(980) });
  expect(log.since("e-5").events.length).toBe(0);
  expect(log.since("e-5").missing).toBe(1);
});
