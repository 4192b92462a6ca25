/** Many requests at once, long enough to show a lost slot, body or wake-up. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type BorrowedResponse, BusExistsError, type BusResponse, SlotBus, type WorkerRequest } from "../src/index.ts";
import { descriptors, mappings, pattern, rejection, same, until, Workspace } from "./support.ts";

test("two callers of 3000 requests each, some aborted and some lent: no caller gets another one's body", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => request.body, { slots: 8 });
  const counts = { answered: 0, aborted: 0, lent: 0 };
  const caller = async (fill: number): Promise<void> => {
    const body = new Uint8Array(256).fill(fill);
    for (let i = 0; i < 3_000; i++) {
      const controller = new AbortController();
      const lends = i % 7 === 0;
      const options = { signal: controller.signal };
      const pending = lends ? bus.borrow({ path: "/", body }, options) : bus.request({ path: "/", body }, options);
      if (i % 10 === 9) {
        if (i % 20 === 9) await Promise.resolve();
        controller.abort("enough");
        await pending.then(release, () => counts.aborted++);
        continue;
      }
      const response = await pending;
      if (!same(response.body, body)) throw new Error(`caller ${fill} got ${response.body[0]} in request ${i}`);
      counts.answered++;
      release(response);
      if (lends) counts.lent++;
    }
  };
  await Promise.all([caller(0xaa), caller(0xbb)]);
  expect(counts.answered).toBe(5_400);
  expect(counts.aborted).toBeGreaterThan(300); // otherwise nothing was reclaimed
  expect(counts.lent).toBeGreaterThan(700);
  await until(() => bus.stats().inFlight === 0, "every slot is free");
});

test("5000 requests of two callers over workers of two processes: each answer is 200 and its own 32 bytes", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ slots: 10 }); // the twenty requests at once need both workers
  const own = await space.worker((request) => ({ headers: { pid: "own" }, body: request.body }));
  const child = space.child("worker.ts");
  await bus.ready({ workers: 2 });
  const by = new Map<number, number>();
  const caller = async (n: number): Promise<void> => {
    for (let i = 0; i < 250; i++) {
      const bodies = Array.from({ length: 10 }, (_, k) => new Uint8Array(32).fill(n * 100 + ((i + k) % 100)));
      const responses = await Promise.all(bodies.map((body) => bus.request({ path: "/", body })));
      for (const [k, { status, body, workerPid }] of responses.entries()) {
        if (status !== 200 || !same(body, bodies[k]!)) throw new Error(`wrong answer: ${status} ${body}`);
        by.set(workerPid, (by.get(workerPid) ?? 0) + 1);
      }
    }
  };
  await Promise.all([caller(0), caller(1)]);
  expect(child.pid).not.toBe(process.pid);
  expect((by.get(process.pid) ?? 0) + (by.get(child.pid) ?? 0)).toBe(5_000);
  expect(by.get(process.pid)).toBe(own.served);
  expect(by.size).toBe(2); // both took a share
}, 30_000);

test("10 000 overlapping requests through 4 slots, with some slot always in use, move no memory", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => request.body, { slots: 4, payloadBytes: 65_536 });
  const before = mappings();
  const body = pattern(512);
  let sent = 0;
  let least = 4;
  const next = async (): Promise<void> => {
    while (sent < 10_000) {
      sent++;
      const pending = bus.request({ path: "/", body });
      least = Math.min(least, bus.stats().inFlight);
      if (!same((await pending).body, body)) throw new Error("another body");
    }
  };
  await Promise.all([next(), next(), next(), next(), next()]);
  expect(least).toBeGreaterThanOrEqual(1);
  expect([bus.stats().responses, mappings(), bus.stats().inFlight]).toEqual([10_000, before, 0]);
}, 30_000);

test("after each of 5000 requests in a row the bus is as idle as before", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => request.body, { slots: 4 });
  let busy = 0;
  for (let i = 0; i < 5_000; i++) {
    const { body } = await bus.request({ path: "/", body: new Uint8Array(16).fill(i) });
    if (body[15] !== (i & 255)) throw new Error(`request ${i} got ${body[15]}`);
    busy += bus.stats().inFlight;
  }
  expect([busy, bus.stats().responses]).toEqual([0, 5_000]);
}, 30_000);

test("a slot whose handler hangs costs only that slot, for 2000 requests, and works like the others afterwards", async () => {
  await using space = new Workspace();
  let stuck: WorkerRequest | null = null;
  const { bus } = await space.pair(
    (request) => {
      if (request.path !== "/hang") return request.body;
      stuck = request;
      request.defer();
    },
    { slots: 4 },
  );
  const hanging = bus.request({ path: "/hang", body: pattern(50_000) }, { timeout: Infinity });
  await until(() => stuck !== null, "the handler hangs");
  for (let i = 0; i < 500; i++) {
    const all = await Promise.all(Array.from({ length: 4 }, (_, k) => bus.request({ path: "/", body: `${i} ${k}` })));
    expect(all.map((response) => response.text())).toEqual([0, 1, 2, 3].map((k) => `${i} ${k}`));
  }
  const states = bus.diagnostics().slots.map(({ state }) => state);
  expect(states.toSorted()).toEqual(["CLAIMED", "FREE", "FREE", "FREE"]);
  expect(same(stuck!.body, pattern(50_000))).toBe(true); // no write went there
  stuck!.defer()("at last");
  expect((await hanging).text()).toBe("at last");
  expect(bus.diagnostics().slots.map(({ state }) => state)).toEqual(["FREE", "FREE", "FREE", "FREE"]);
}, 30_000);

test("bodies of twice the inline size are not inline, and arrive unchanged both ways among small bodies", async () => {
  await using space = new Workspace();
  const kept: Uint8Array[] = [];
  const { bus } = await space.pair((request) => (kept.push(request.body), request.body), { slots: 4 });
  const large = pattern(2 * bus.options.inlineBytes);
  for (let i = 0; i < 200; i++) {
    const [a, b] = await Promise.all([
      bus.request({ path: "/", body: large }),
      bus.request({ path: "/", body: `small ${i}` }),
    ]);
    if (!same(a.body, large) || b.text() !== `small ${i}`) throw new Error(`round ${i} went wrong`);
  }
  expect([kept.length, kept.filter((body) => same(body, large)).length]).toEqual([400, 200]); // all come from the handler
});

test("two hundred lives of a client under one name, with the same worker and requests in each: all are answered", async () => {
  await using space = new Workspace();
  const worker = await (async () => {
    const first = await space.bus();
    const opened = await space.worker((request) => request.body, { reconnect: { initial: 1, max: 2 } });
    await first.close();
    return opened;
  })();
  const before = [descriptors(), mappings()];
  for (let life = 0; life < 200; life++) {
    const bus = await SlotBus.create({ name: space.name, directory: space.directory, slots: 4, payloadBytes: 4_096 });
    const all = Array.from({ length: 8 }, (_, i) => bus.request({ path: "/", body: `${life} ${i}` })); // queued at first
    const texts = (await Promise.all(all)).map((response) => response.text());
    expect(texts).toEqual(Array.from({ length: 8 }, (_, i) => `${life} ${i}`));
    await bus.close();
  }
  expect(worker.served).toBe(1_600);
  await until(() => !worker.connected && descriptors() <= before[0]!, "the last connection is closed");
  expect(mappings()).toBeLessThanOrEqual(before[1]!);
}, 30_000);

test("fifty clients that want the live name are refused, and its bus is not affected", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => request.body);
  const before = descriptors();
  const tries = Array.from({ length: 50 }, async (_, i) => {
    const pending = bus.request({ path: "/", body: `${i}` });
    expect(await rejection(space.bus({ slots: 256 }))).toBeInstanceOf(BusExistsError);
    expect((await pending).text()).toBe(`${i}`);
  });
  await Promise.all(tries);
  expect([descriptors(), bus.workers.length, bus.stats().workersJoined]).toEqual([before, 1, 1]);
});

test("memory that large bodies touched above the warm budget is returned when the link is idle", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => new Uint8Array(request.body), { slots: 8 });
  const body = pattern(15 * 2 ** 20);
  const all = await Promise.all(Array.from({ length: 4 }, () => bus.request({ path: "/", body })));
  const touched = residentMiB();
  expect(touched).toBeGreaterThan(64);
  expect(all.every((response) => same(response.body, body))).toBe(true);
  await until(() => residentMiB() < 64, "the pages are given back", 5_000);
  expect((await bus.request({ path: "/", body: "small" })).text()).toBe("small");
  expect(same((await bus.request({ path: "/", body })).body, body)).toBe(true);
}, 30_000);

/** Resident shared memory of this process's regions, in MiB. */
function residentMiB(): number {
  const maps = readFileSync("/proc/self/smaps", "latin1");
  let most = 0;
  for (const part of maps.split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/)) {
    if (part.includes("memfd:slotbus")) most = Math.max(most, Number(/^Rss:\s+(\d+)/m.exec(part)?.[1] ?? 0) / 1024);
  }
  return most;
}

/** Ends the loan, if it is one. */
function release(response: BusResponse): void {
  if ("release" in response) (response as BorrowedResponse).release();
}
