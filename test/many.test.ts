/** Many clients: a shared bus, its names and numbers, sessions, doors, and the order of claims. */

import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import {
  BusExistsError,
  type DeferredAnswer,
  InvalidConfigError,
  type SlotBus,
  WorkerDiedError,
  type WorkerRequest,
} from "../src/index.ts";
import { rejection, same, stop, until, Workspace } from "./support.ts";

const echo = ({ body }: { body: Uint8Array }): Uint8Array => body;

async function ask(bus: SlotBus, body: string, path = "/"): Promise<string> {
  return (await bus.request({ path, body })).text();
}

/** Sends `count` requests, 16 at a time. Returns the number of right answers. */
async function askMany(bus: SlotBus, who: string, count: number): Promise<number> {
  let [next, right] = [0, 0];
  const one = async (): Promise<void> => {
    while (next < count) {
      const body = `${who} ${next++}`;
      if ((await ask(bus, body)) === body) right++;
    }
  };
  await Promise.all(Array.from({ length: 16 }, one));
  return right;
}

test("each of several clients gets the answers to its own requests, from all workers", async () => {
  await using space = new Workspace();
  const buses = await Promise.all([space.client(), space.client(), space.client()]);
  for (let i = 0; i < 2; i++) await space.worker(echo);
  await Promise.all(buses.map((bus) => bus.ready({ workers: 2 })));
  const right = await Promise.all(buses.map((bus, i) => askMany(bus, `client ${i}`, 1_000)));
  expect(right).toEqual([1_000, 1_000, 1_000]);
  for (const bus of buses) expect(bus.stats()).toMatchObject({ requests: 1_000, responses: 1_000, errors: 0 });
});

test("clients in other processes share one worker", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const clients = Array.from({ length: 3 }, () => space.child("shared-client.ts", "500"));
  await clients[0]!.line("open");
  await space.worker((request) => (request.path === "/hang" ? new Promise<string>(() => {}) : request.body));
  for (const client of clients) expect(await client.line("right", 30_000)).toBe("right 500");
}, 60_000);

test("a client knows its number, and its slots name it; an owner has none", async () => {
  await using space = new Workspace();
  const buses = [await space.client(), await space.client()];
  await space.worker(echo);
  await Promise.all(buses.map((bus) => bus.ready()));
  for (const [number, bus] of buses.entries()) {
    expect(bus.clientNumber).toBe(number);
    expect(new Set(bus.diagnostics().slots.map(({ client }) => client))).toEqual(new Set([number]));
  }
  await Promise.all(buses.map((bus) => bus.close()));
  const owner = await space.bus();
  await owner.ready();
  expect([owner.clientNumber, owner.diagnostics().slots[0]!.client]).toEqual([null, null]);
});

test("create and connect say that the other way is in use, and what to do", async () => {
  await using space = new Workspace();
  const shared = await space.client();
  const taken = await rejection<BusExistsError>(space.bus());
  expect(taken).toBeInstanceOf(BusExistsError);
  expect(taken.message).toContain("Clients share the bus");
  expect(taken.ownerPid).toBe(0);
  await shared.close();
  const owner = await space.bus();
  const owned = await rejection<BusExistsError>(space.client());
  expect(owned).toBeInstanceOf(BusExistsError);
  expect(owned.message).toContain(`(pid ${process.pid}, this process)`);
  await owner.close();
  const child = space.child("idle-client.ts");
  await child.line("");
  const theirs = await rejection<BusExistsError>(space.client());
  expect(theirs.message).toContain(`SlotBus.create or a hub owns the name "${space.name}" (pid ${child.pid})`);
  space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
});

test("connect takes no `workers`, and says why", async () => {
  await using space = new Workspace();
  const error = await rejection(space.client({ workers: { command: ["true"] } }));
  expect(error).toBeInstanceOf(InvalidConfigError);
  expect(error.message).toContain("would end with this process");
  expect(readdirSync(space.directory)).toEqual([]);
});

test("numbers are given out from 0 and free after a close; the 65th client is refused", async () => {
  await using space = new Workspace();
  const sockets = (): string[] => readdirSync(space.directory).filter((file) => file.endsWith(".sock"));
  const buses: SlotBus[] = [];
  for (let i = 0; i < 64; i++) buses.push(await space.client());
  expect(sockets().sort()).toEqual(Array.from({ length: 64 }, (_, i) => `${space.name}@${i}.sock`).sort());
  const error = await rejection(space.client());
  expect(error).toMatchObject({
    code: "RESOURCE",
    message: `Cannot share the name "${space.name}": it has 64 clients.`,
  });
  await buses[7]!.close();
  expect(sockets()).not.toContain(`${space.name}@7.sock`);
  await space.client();
  expect(sockets()).toContain(`${space.name}@7.sock`);
}, 30_000);

test("a worker that waits for a bus without a limit has a door, until it attaches to an owner", async () => {
  for (const how of ["shared", "owned"]) {
    await using space = new Workspace();
    const doors = (): number => readdirSync(space.directory).filter((file) => file.endsWith(".door")).length;
    const waiting = space.worker(echo, { timeout: Infinity });
    await until(() => doors() === 1, "the worker has a door").catch(() => {});
    expect(doors()).toBe(1);
    const bus = await (how === "shared" ? space.client() : space.bus());
    await waiting;
    expect(await ask(bus, how)).toBe(how);
    expect(doors()).toBe(how === "shared" ? 1 : 0);
  }
}, 30_000);

test("a client that comes later finds the workers at once, and a later worker finds all clients", async () => {
  await using space = new Workspace();
  const first = await space.client();
  const worker = await space.worker(echo);
  let attached = 0;
  worker.on("connected", () => attached++);
  await first.ready();
  for (let i = 0; i < 5; i++) {
    const bus = await space.client();
    await bus.ready({ timeout: 1_000 });
    expect(await ask(bus, `${i}`)).toBe(`${i}`);
  }
  await until(() => attached === 6, "six clients are reported");
  const late = await space.worker(echo);
  await first.ready({ workers: 2 });
  await late.close();
});

test("concurrency counts the requests of all clients", async () => {
  await using space = new Workspace();
  const buses = await Promise.all([space.client(), space.client(), space.client()]);
  let [running, most] = [0, 0];
  const worker = await space.worker(
    async () => {
      most = Math.max(most, ++running);
      await Bun.sleep(2);
      running--;
      return "x";
    },
    { concurrency: 2 },
  );
  await Promise.all(buses.map((bus) => bus.ready()));
  const calls = buses.flatMap((bus) => Array.from({ length: 20 }, () => ask(bus, "")));
  await Promise.all(calls);
  expect(most).toBe(2);
  expect(worker.served).toBe(60);
});

test("a quiet client waits for at most one claim of each other client", async () => {
  await using space = new Workspace();
  const [quiet, ...loud] = await Promise.all([space.client(), space.client(), space.client()]);
  const order: string[] = [];
  const open: DeferredAnswer[] = [];
  await space.worker(
    (request) => {
      order.push(request.text());
      open.push(request.defer());
    },
    { concurrency: 1 },
  );
  await Promise.all([quiet!, ...loud].map((bus) => bus.ready()));
  const floods = loud.flatMap((bus, i) => Array.from({ length: 20 }, () => ask(bus, `loud ${i}`)));
  await until(() => order.length === 1, "one request runs");
  const asked = ask(quiet!, "quiet");
  await Bun.sleep(20); // it is READY now
  const before = order.length;
  const all = Promise.all([asked, ...floods]);
  while (order.length < 41 || open.length > 0) {
    open.shift()?.("done");
    await Bun.sleep(1);
  }
  await all;
  expect(order.indexOf("quiet") - before).toBeLessThanOrEqual(loud.length);
});

test("a killed client ends only its own requests, and its number can be taken again at once", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const reasons: unknown[] = [];
  const stays = await space.client();
  const serving = await space.worker((request) => {
    if (request.path === "/hang") {
      request.signal.addEventListener("abort", () => reasons.push(request.text()));
      return new Promise<string>(() => {});
    }
    return request.body;
  });
  await stays.ready();
  const mine = stays.request({ path: "/hang", body: "mine" }, { timeout: Infinity }).catch(() => {});
  for (let life = 0; life < 3; life++) {
    const doomed = space.child("shared-client.ts", "100");
    await doomed.line("right 100");
    await until(() => serving.running === 2, "both hang");
    await doomed.kill();
    await until(() => reasons.length === life + 1, "its handler is aborted");
    expect(serving.running).toBe(1);
    expect(await ask(stays, `${life}`)).toBe(`${life}`);
  }
  expect(reasons).toEqual(["", "", ""]);
  const sockets = readdirSync(space.directory).filter((file) => file.endsWith(".sock"));
  expect(sockets.sort()).toEqual([`${space.name}@0.sock`, `${space.name}@1.sock`]); // each life took number 1
  await stays.close({ timeout: 0 });
  await mine;
}, 60_000);

test("a killed worker fails the requests of each client that it had claimed, and no others", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const buses = await Promise.all([space.client(), space.client()]);
  const child = space.child("worker.ts");
  await Promise.all(buses.map((bus) => bus.ready()));
  const hanging = buses.map((bus) => rejection<WorkerDiedError>(bus.request({ path: "/hang" }, { timeout: Infinity })));
  await until(() => child.lines.filter((line) => line === "got /hang").length === 2, "both hang");
  await child.kill();
  for (const error of await Promise.all(hanging)) {
    expect(error).toBeInstanceOf(WorkerDiedError);
    expect(error.pid).toBe(child.pid);
  }
  await space.worker(echo);
  for (const bus of buses) expect(await ask(bus, "next")).toBe("next");
}, 30_000);

test("a stopped client delays nobody else, and goes on when it continues", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const bus = await space.client();
  await space.worker((request) => (request.path === "/hang" ? new Promise<string>(() => {}) : request.body));
  const other = space.child("shared-client.ts", "20000");
  await other.line("ready");
  await stop(other.process);
  expect(await askMany(bus, "moving", 500)).toBe(500);
  const late = await space.worker(echo); // its handshake with the stopped client does not hold it up
  await bus.ready({ workers: 2, timeout: 1_000 });
  process.kill(other.pid, "SIGCONT");
  expect(await other.line("right", 30_000)).toBe("right 20000");
  await late.close();
}, 60_000);

test("workers attach again after the last client has left, and to a bus that becomes shared", async () => {
  await using space = new Workspace();
  const owner = await space.bus();
  const worker = await space.worker(echo, { reconnect: { initial: 5, max: 20 } });
  await owner.ready();
  const before = Array.from({ length: 50 }, (_, i) => ask(owner, `${i}`));
  await owner.drain();
  await owner.close();
  const bus = await space.client();
  const after = Array.from({ length: 50 }, (_, i) => ask(bus, `${50 + i}`));
  expect(await Promise.all([...before, ...after])).toEqual(Array.from({ length: 100 }, (_, i) => `${i}`));
  await bus.close();
  await until(() => !worker.connected, "it is detached");
  const next = await space.client();
  expect(await ask(next, "again")).toBe("again");
});

test("a worker without `reconnect` ends when its last client has left", async () => {
  await using space = new Workspace();
  const [a, b] = [await space.client(), await space.client()];
  const worker = await space.worker(echo, { reconnect: false });
  await Promise.all([a.ready(), b.ready()]);
  await a.close();
  await Bun.sleep(50);
  expect(worker.closed).toBe(false);
  expect(await ask(b, "x")).toBe("x");
  await b.close();
  await until(() => worker.closed, "it has ended");
});

test("bodies of 1 MiB of several clients at once, whole and streamed", async () => {
  await using space = new Workspace();
  const buses = await Promise.all([space.client(), space.client()]);
  await space.worker((request) => (request.streams ? { body: request.incoming.chunks() } : request.body));
  await Promise.all(buses.map((bus) => bus.ready()));
  const send = async (bus: SlotBus, i: number): Promise<boolean> => {
    const body = new Uint8Array(2 ** 20).fill(i + 1);
    const whole = (await bus.request({ path: "/", body })).body;
    const response = await bus.stream({ path: "/", body: new Blob([body]).stream() });
    const streamed = await response.bytes();
    return same(whole, body) && same(streamed, body);
  };
  const right = await Promise.all(buses.flatMap((bus, i) => [0, 1, 2, 3].map(() => send(bus, i))));
  expect(right).toEqual(Array(8).fill(true));
});

test("a blocking worker serves all clients, also one that comes while it sleeps, and ends with the last", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const first = await space.client();
  const child = space.child("sync-worker.ts");
  await first.ready();
  expect(JSON.parse(await ask(first, "a"))).toMatchObject({ body: "a" });
  await Bun.sleep(100); // it sleeps in poll(2)
  const second = await space.client();
  await second.ready({ timeout: 1_000 });
  expect(JSON.parse(await ask(second, "b"))).toMatchObject({ body: "b" });
  const both = [first, second].map((bus) => Array.from({ length: 100 }, (_, i) => ask(bus, `${i}`)));
  expect((await Promise.all(both.flat())).map((text) => JSON.parse(text).body)).toEqual([
    ...Array.from({ length: 100 }, (_, i) => `${i}`),
    ...Array.from({ length: 100 }, (_, i) => `${i}`),
  ]);
  await first.close();
  expect(JSON.parse(await ask(second, "c"))).toMatchObject({ body: "c" });
  await second.close();
  await child.line("ended");
}, 30_000);

test("a stopped client delays no other client at a blocking worker, and is attached to when it continues", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const bus = await space.client();
  const child = space.child("shared-client.ts", "100");
  await child.line("open");
  await stop(child);
  const worker = space.child("sync-worker.ts");
  await bus.ready();
  const started = performance.now();
  for (let i = 0; performance.now() - started < 3_000; i++) {
    const asked = performance.now();
    expect(JSON.parse(await ask(bus, `${i}`))).toMatchObject({ body: `${i}` });
    expect(performance.now() - asked).toBeLessThan(500); // the handshake with the stopped client takes 2 s
    await Bun.sleep(10);
  }
  process.kill(child.pid, "SIGCONT");
  expect(await child.line("ready", 4_000).catch(() => "late")).toBe("ready");
  await bus.close();
  await child.kill();
  await worker.line("ended");
}, 30_000);

test("an idle worker of several clients sleeps, and its clients too", async () => {
  await using space = new Workspace();
  const buses = await Promise.all([space.client(), space.client(), space.client()]);
  const worker = await space.worker(echo);
  await Promise.all(buses.map((bus) => bus.ready()));
  for (const bus of buses) await ask(bus, "x");
  await Bun.sleep(300);
  const counts = (): number[] => [worker.wakeups, ...buses.map((bus) => bus.stats().wakeups)];
  const before = counts();
  await Bun.sleep(1_000);
  expect(counts()).toEqual(before);
});

test("a door is removed when its worker closes; the door of a killed worker when the next client comes", async () => {
  await using space = new Workspace();
  space.leavesKilled = true;
  const doors = (): string[] => readdirSync(space.directory).filter((file) => file.endsWith(".door"));
  const bus = await space.client();
  const worker = await space.worker(echo);
  const child = space.child("worker.ts");
  await bus.ready({ workers: 2 });
  await until(() => doors().length === 2, "two doors");
  await worker.close();
  expect(doors().length).toBe(1);
  await child.kill();
  expect(doors().length).toBe(1);
  await space.client();
  expect(doors()).toEqual([]);
}, 30_000);

test("a client that evicts a worker does not end its sessions with others", async () => {
  await using space = new Workspace();
  const [a, b] = [await space.client(), await space.client()];
  const worker = await space.worker(echo);
  await Promise.all([a.ready(), b.ready()]);
  let ended = 0;
  worker.on("disconnected", () => ended++);
  expect(a.evict(a.workers[0]!.id, "a test")).toBe(true);
  await until(() => ended === 1, "one session has ended");
  expect(await ask(b, "still")).toBe("still");
  await a.ready({ timeout: 2_000 }); // it attaches again
  expect(await ask(a, "again")).toBe("again");
});

test("a request that waits for room beside another client's request is claimed when that one has its response", async () => {
  await using space = new Workspace();
  const [a, b] = [await space.client(), await space.client()];
  const open: DeferredAnswer[] = [];
  await space.worker((request) => void open.push(request.defer()), { concurrency: 1, spin: 0 });
  await Promise.all([a.ready(), b.ready()]);
  const waits: number[] = [];
  for (let round = 0; round < 15; round++) {
    const first = ask(a, "first");
    await until(() => open.length === 1, "the first runs");
    const second = ask(b, "second");
    await Bun.sleep(45); // the worker is full and asleep, and the next tick of the client is 15 ms away
    const start = performance.now();
    open.pop()!("done");
    await until(() => open.length === 1, "the second runs");
    waits.push(performance.now() - start);
    open.pop()!("done");
    await Promise.all([first, second]);
  }
  expect(waits.toSorted((one, other) => one - other)[7]).toBeLessThan(8); // not the client's tick of 20 ms
});

test("a request that waits for room beside another client's request is claimed when that client ends", async () => {
  await using space = new Workspace();
  const b = await space.client();
  const open: DeferredAnswer[] = [];
  const worker = await space.worker((request) => void open.push(request.defer()), { concurrency: 1, spin: 0 });
  const lost: DeferredAnswer[] = [];
  let endedAt = 0;
  worker.on("disconnected", () => (endedAt = performance.now()));
  const waits: number[] = [];
  for (let round = 0; round < 9; round++) {
    const a = await space.client();
    await Promise.all([a.ready(), b.ready()]);
    const first = ask(a, "first").catch(() => {});
    await until(() => open.length === 1, "the first runs");
    const second = ask(b, "second");
    await Bun.sleep(45); // the worker is full and asleep
    lost.push(open.pop()!);
    await a.close({ timeout: 0 });
    await until(() => open.length === 1, "the second runs");
    waits.push(performance.now() - endedAt);
    open.pop()!("done");
    await Promise.all([first, second]);
  }
  expect(waits.toSorted((one, other) => one - other)[4]).toBeLessThan(4); // not the client's tick of 20 ms
});

test("while all are idle, each client keeps to a worker of its own", async () => {
  await using space = new Workspace();
  const buses = [await space.client(), await space.client()];
  const workers = [await space.worker(echo), await space.worker(echo)];
  await Promise.all(buses.map((bus) => bus.ready({ workers: 2 })));
  for (let i = 0; i < 20; i++) await ask(buses[0]!, "x");
  for (let i = 0; i < 30; i++) await ask(buses[1]!, "x");
  const [less, more] = workers.map(({ served }) => served).sort((a, b) => a - b);
  const moved = buses.reduce((sum, bus) => sum + bus.stats().moves, 0); // the machine may be busy
  expect(less! + more!).toBe(50);
  expect(Math.abs(less! - 20)).toBeLessThanOrEqual(moved);
});

test("a client sees what a worker runs for other clients, and sends its requests elsewhere", async () => {
  await using space = new Workspace();
  const [a, b] = [await space.client(), await space.client()];
  const open: DeferredAnswer[] = [];
  const workers = [0, 1].map(() => (request: WorkerRequest) => void open.push(request.defer()));
  const [one, other] = [await space.worker(workers[0]!), await space.worker(workers[1]!)];
  await Promise.all([a, b].map((bus) => bus.ready({ workers: 2 })));
  const [busy] = a.workers;
  const calls = Array.from({ length: 6 }, () => a.request({ path: "/" }, { worker: busy!.id }));
  await until(() => open.length === 6, "one worker has six");
  for (let i = 1; i <= 5; i++) {
    calls.push(b.request({ path: "/" }));
    await until(() => open.length === 6 + i, "the next runs");
    await Bun.sleep(5); // it is known to the clients
  }
  expect([one.running, other.running].sort()).toEqual([5, 6]);
  for (const answer of open) answer("done");
  await Promise.all(calls);
});
