/** Events over a real NATS server: filters, names, lost events, slow readers, and a lost connection on either side. */

import {
  EventBus,
  Fleet,
  not,
  or,
  type PortableEventBus,
  type PortableFleet,
  topic,
  where,
} from "../../src/events/index.ts";
import { nats } from "../../src/nats/index.ts";
import { findNatsServer, NatsServer, type NatsServerOptions } from "../nats-server.ts";
import { Workspace } from "../support.ts";
import { rejection } from "../wait.ts";
import { type Checks, expect, Lacking, note, until } from "./checks.ts";
import { hear } from "./nats-heard.ts";
import { Proxy } from "./nats-proxy.ts";

async function start(options: NatsServerOptions = {}): Promise<NatsServer> {
  if (!findNatsServer()) throw new Lacking("nats-server is not installed");
  return NatsServer.start(options);
}

interface Entered extends AsyncDisposable {
  readonly bus: PortableEventBus;
  readonly fleet: PortableFleet;
  readonly via: ReturnType<typeof nats>;
}

/** A bus on a fleet of its own connection. */
async function enter(url: string, name = "shop", ring = "events"): Promise<Entered> {
  const via = nats({ servers: url });
  const fleet = await Fleet.join({ name, via, rings: { [ring]: {} } });
  const bus = await EventBus.open({ fleet, ring });
  return { bus, fleet, via, [Symbol.asyncDispose]: () => fleet.close() };
}

/** One program for every engine. Returns what its subscriptions got. */
async function program(bus: PortableEventBus, other: PortableEventBus): Promise<unknown> {
  const [one, some, rest] = [
    await hear(bus, topic("order.paid")),
    await hear(bus, or(topic("order.*"), topic("stock"))),
    await hear(bus, not(where(({ payload }: { payload: unknown }) => payload === 3))),
  ];
  const raw = await bus.subscribeAll();
  await other.publish("order.paid", 1, { id: "x", attributes: { vip: true } });
  await other.publish("order.sent", 2);
  await other.publish("order", 3);
  await other.publish("stock", { left: 4 });
  await other.publish("a > b *".replace("*", "é"), new Uint8Array([5]));
  await other.publish("last", undefined);
  await until(() => rest.events.length === 5, "all events came");
  const seen: unknown[] = [];
  for await (const event of raw) {
    if (event.topic === null) continue;
    seen.push([event.topic, event.id, event.attributes, event.text()]);
    if (event.topic === "last") break;
  }
  for (const { subscription } of [one, some, rest]) await subscription.close();
  await Promise.all([one, some, rest].map(({ done }) => done));
  return [one, some, rest].map(({ events, lost }) => [events, lost]).concat([seen] as never);
}

export const checks: Checks = {
  "over NATS, a program with events gets the same as in the memory of one machine": async () => {
    await using space = new Workspace();
    await using server = await start();
    const fleet = await Fleet.join({ name: space.name, directory: space.directory, rings: { events: {} } });
    const memory = await program(
      await EventBus.open({ fleet, ring: "events" }),
      await EventBus.open({ fleet, ring: "events" }),
    );
    await fleet.close();
    await using a = await enter(server.url);
    await using b = await enter(server.url);
    const far = await program(a.bus, b.bus);
    expect(Bun.deepEquals(far, memory), `over NATS: ${JSON.stringify(far)}; in memory: ${JSON.stringify(memory)}`);
    expect(JSON.stringify(far).includes('"left":4'), "the events have their payloads");
  },

  "over NATS, the server sends a subscription only its topics, and no events of other fleets and rings": async () => {
    await using server = await start();
    await using a = await enter(server.url, "a");
    await using others = await enter(server.url, "a.b");
    await using ring = await enter(server.url, "a", "events.b");
    await using reader = await enter(server.url, "a");
    const heard = await hear(reader.bus, topic("b.*"));
    const before = reader.via.link.connection.stats().inMsgs;
    for (let n = 0; n < 500; n++) {
      for (const one of [others, ring]) await one.bus.publish("b.c", "foreign");
      await a.bus.publish("else", n);
      await a.bus.publish("b", n);
    }
    await a.bus.publish("b.c", "own");
    await until(() => heard.events.length > 0, "its event came");
    const came = reader.via.link.connection.stats().inMsgs - before;
    expect(heard.events.join() === "own" && heard.lost === 0, `it got ${heard.events}`);
    expect(came < 20, `the server sent ${came} messages for one event and heartbeats`);
  },

  "over NATS, events that a publisher loses with its connection are counted, also the last ones": async () => {
    await using server = await start();
    await using proxy = await Proxy.start(server.port);
    await using a = await enter(proxy.url);
    await using reader = await enter(server.url);
    const heard = await hear(reader.bus, topic("t.*"), { queue: { limit: 100_000 } });
    let [accepted, refused] = [0, 0];
    const publish = (name: string): void => {
      try {
        void a.bus.publish(name, accepted);
        accepted++;
      } catch (error) {
        expect((error as { code?: string }).code === "DISCONNECTED", String(error));
        refused++;
      }
    };
    publish("t.0");
    await until(() => heard.events.length === 1, "the publisher is known");
    for (let round = 0; round < 8; round++) {
      for (let n = 0; n < 40; n++) {
        for (let k = 0; k < 25; k++) publish(`t.${k % 3}`);
        if (n === 20) proxy.cut();
        await Bun.sleep(1);
      }
      await until(() => a.via.link.isConnected, "the publisher is connected again");
    }
    const whole = Buffer.alloc(200_000, "x").toString();
    for (let n = 0; n < 4; n++) {
      void a.bus.publish("t.0", whole);
      accepted++;
    }
    proxy.cut(); // most of it is under way: nothing follows but heartbeats
    await until(
      () => heard.events.length + heard.lost === accepted,
      "all events that were published came or are counted",
    );
    await Bun.sleep(1_500); // another heartbeat
    expect(
      heard.events.length + heard.lost === accepted,
      `${heard.events.length} came, ${heard.lost} lost, of ${accepted}`,
    );
    expect(heard.lost > 0 && refused > 0 && heard.unknown === 0, `${heard.lost} lost, ${refused} refused`);
    note(`${heard.events.length} came, ${heard.lost} lost and counted, ${refused} refused`);
  },

  "over NATS, a subscription whose connection was lost goes on, and says that it may have missed events": async () => {
    await using server = await start();
    await using proxy = await Proxy.start(server.port);
    await using a = await enter(server.url);
    await using reader = await enter(proxy.url);
    const heard = await hear(reader.bus, topic("*"));
    let sent = 0;
    await a.bus.publish("t", sent++);
    await until(() => heard.events.length === 1, "the first event came");
    for (let round = 1; round <= 3; round++) {
      proxy.cut();
      for (let n = 0; n < 20; n++) await a.bus.publish("t", sent++);
      await until(() => heard.unknown === round && reader.via.link.isConnected, "the gap came");
      await until(() => (void a.bus.publish("t", sent++), heard.events.at(-1) === sent - 2), "later events come");
    }
    await server.kill();
    await Bun.sleep(100);
    const failure = await Promise.resolve()
      .then(() => a.bus.publish("t", 0))
      .then(String, (error: { code?: string }) => error.code);
    expect(failure === "DISCONNECTED", `publishing without a server: ${failure}`);
    const error = await rejection<Error & { code?: string }>(Promise.resolve().then(() => a.bus.subscribe(topic("x"))));
    expect(error.code === "DISCONNECTED", `subscribing without a server: ${error.message}`);
    await server.startAgain();
    await until(() => heard.unknown === 4 && a.via.link.isConnected, "the gap of the server's death came");
    const count = heard.events.length;
    await until(
      () => (void a.bus.publish("t", sent++), heard.events.length > count + 3),
      "events arrive after the cut",
    );
    expect(heard.lost === 0, `nothing was counted as lost: ${heard.lost}`);
  },

  "over NATS, a slow reader drops by its policy and counts what it dropped": async () => {
    await using server = await start();
    await using a = await enter(server.url);
    await using reader = await enter(server.url);
    const [newest, oldest, close] = [
      await reader.bus.subscribe(topic("t"), { queue: { limit: 10 } }),
      await reader.bus.subscribe(topic("t"), { queue: { limit: 10, policy: "drop-oldest" } }),
      await reader.bus.subscribe(topic("t"), { queue: { limit: 10, policy: "close" } }),
    ];
    const blocked = await reader.bus.subscribe(topic("t"), { queue: { limit: 0 } });
    const total = 20_000;
    for (let n = 0; n < total; n++) {
      await a.bus.publish("t", n);
      if (n % 1_000 === 0) await Bun.sleep(1);
    }
    await until(() => newest.lost > 0 && oldest.lost === total - 10 && close.closed, "the queues are full");
    const take = async (from: AsyncIterable<unknown>, count: number): Promise<[number[], number]> => {
      const payloads: number[] = [];
      let lost = 0;
      for await (const item of from as Awaited<ReturnType<PortableEventBus["subscribe"]>>) {
        if (item.topic === null) lost += item.overwritten + item.dropped;
        else payloads.push(item.payload as number);
        if (payloads.length + lost >= count) break;
      }
      return [payloads, lost];
    };
    const [first, lostNewest] = await take(newest, total);
    expect(first[0] === 0 && first.length + lostNewest === total, `drop-newest kept ${first}`);
    const [last, lostOldest] = await take(oldest, total);
    expect(
      last.join() === Array.from({ length: 10 }, (_, n) => total - 10 + n).join() && lostOldest === total - 10,
      "drop-oldest",
    );
    const closed = await rejection<Error & { code?: string }>(take(close, total));
    expect(closed.code === "EVENTS_LOST", `close: ${closed.message}`);
    const [read, overwritten] = await take(blocked, total);
    expect(
      read.length === 16_384 && overwritten === total - 16_384,
      `without a queue: ${read.length}, lost ${overwritten}`,
    );
  },

  "over NATS, what needs memory is refused, and so are events that the server cannot carry": async () => {
    await using server = await start({ config: "max_payload: 10000" });
    await using a = await enter(server.url);
    const codeOf = async (work: () => unknown): Promise<string> =>
      Promise.resolve()
        .then(work)
        .then(
          () => "none",
          (error: { code?: string }) => error.code ?? String(error),
        );
    const far = a.bus as EventBus;
    const fleet = a.fleet as Fleet;
    expect((await codeOf(() => a.bus.publish("t", "x".repeat(10_000)))) === "PAYLOAD_TOO_LARGE", "a large event");
    expect((await codeOf(() => a.bus.subscribe(topic("t"), { from: "oldest" }))) === "UNSUPPORTED", "an old event");
    expect((await codeOf(() => far.bind({ on: "t", key: "k", id: "i" }))) === "UNSUPPORTED", "a binding");
    expect((await codeOf(() => fleet.ring("events"))) === "UNSUPPORTED", "a ring");
    expect((await codeOf(() => fleet.members())) === "UNSUPPORTED", "the members");
    expect((await codeOf(() => a.bus.publish("a*", 1))) === "INVALID_CONFIG", "a topic with a star");
    const heard = await hear(a.bus, topic("t"));
    await a.bus.publish("t", "x".repeat(9_000));
    await until(() => heard.events.length === 1, "an event that fits came");
    await a.fleet.close();
    await heard.done;
    expect((await codeOf(() => a.bus.publish("t", 1))) === "CLOSED", "a closed bus");
  },
};
