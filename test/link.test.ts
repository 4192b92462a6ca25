/** A worker that breaks the protocol: its client names the fault and evicts it, and every request settles. */

import { expect, test } from "bun:test";
import { bodyOffset } from "../src/bus/codec.ts";
import { HeadReader } from "../src/bus/head.ts";
import { SlotbusError, WorkerDiedError } from "../src/index.ts";
import { RawWorker } from "./raw-worker.ts";
import { descriptors, mappings, rejection, until, Workspace } from "./support.ts";

const corrupt = /put slot \d+ into an invalid state/;
const malformed = /responded (to request .* )?with a malformed head/;

const ways: [what: string, reason: RegExp][] = [
  ["a head of garbage", malformed],
  ["an error of garbage", malformed],
  ["an error without its strings", malformed],
  ["a head of no bytes", malformed],
  ["a head longer than the limit", corrupt],
  ["a body beyond its arena", corrupt],
  ["a body that starts in its head", corrupt],
  ["an offset beyond its arena", corrupt],
  ["status 99", corrupt],
  ["an unknown state", corrupt],
  ["a slot made free by itself", corrupt],
  ["a slot made ready again", corrupt],
  ["another generation", corrupt],
  ["a word of ones", corrupt],
  ["an unknown message", /sent an unexpected message of type 99/],
  ["a JOIN again", /sent an unexpected message of type 1/],
  ["20 000 bells", /rang its doorbell more than 10000 times per second without work/],
];

for (const [what, reason] of ways) {
  test(`a worker that sends ${what}: evicted with the reason, its caller gets an error, its unclaimed requests move`, async () => {
    await using space = new Workspace();
    const before = [descriptors(), mappings()];
    const bus = await space.bus({ timeout: 4_000 });
    const deaths: string[] = [];
    bus.on("died", ({ pid }, how) => deaths.push(`${pid} ${how}`));
    const evil = space.child("evil-worker.ts", what);
    await bus.ready();
    const claimed = rejection<SlotbusError>(bus.request({ path: "/claimed", id: "claimed" }));
    await evil.line("claimed");
    const unclaimed = bus.request({ path: "/unclaimed" }); // in the faulty worker's slot, or queued when it is gone
    const error = await claimed;
    expect([
      (error as SlotbusError).code === "REGION_CORRUPT" || error instanceof WorkerDiedError,
      error.mayHaveExecuted,
    ]).toEqual([true, true]);
    expect(error.message).toContain("claimed");
    expect(error.message).toContain(String(evil.pid));
    await until(() => deaths.length === 1, "the eviction is reported");
    expect(deaths[0]).toMatch(reason);
    expect([bus.stats().workersEvicted, bus.workers.length]).toEqual([1, 0]);
    expect(evil.process.exitCode).toBeNull(); // nobody killed it
    const honest = await space.worker((request) => request.path);
    expect((await unclaimed).text()).toBe("/unclaimed");
    expect(bus.stats().inFlight).toBe(0);
    await evil.kill();
    await honest.close();
    await bus.close();
    await until(() => descriptors() <= before[0]!, "all descriptors are closed");
    expect(mappings()).toBe(before[1]!);
  });
}

test("an idempotent request of an evicted worker runs again only after that process has ended", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ timeout: 20_000 });
  const evil = space.child("evil-worker.ts", "an unknown message");
  await bus.ready();
  const pending = bus.request({ path: "/twice", body: "second run" }, { idempotent: true });
  await evil.line("claimed");
  await until(() => bus.stats().workersEvicted === 1, "it is evicted");
  const heir = space.child("worker.ts");
  await bus.ready();
  for (let i = 0; i < 100; i++) await bus.request({ path: "/", body: "meanwhile" });
  expect([Bun.peek.status(pending), bus.stats().retries]).toEqual(["pending", 0]);
  expect(heir.lines).not.toContain("got /twice");
  await evil.kill();
  expect([(await pending).text(), bus.stats().retries]).toEqual(["second run", 1]);
  expect((await pending).workerPid).toBe(heir.pid);
});

test("an idempotent request whose evicted worker never ends times out, and says that it may have run", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const evil = space.child("evil-worker.ts", "an unknown message");
  await bus.ready();
  const error = await rejection<SlotbusError>(bus.request({ path: "/" }, { idempotent: true, timeout: 400 }));
  await evil.line("claimed"); // it did run there
  expect([error.code, error.mayHaveExecuted, bus.stats().workersEvicted]).toEqual(["TIMEOUT", true, 1]);
  expect(evil.process.exitCode).toBeNull();
});

test("an idempotent request that waits for that end is settled by an abort or by the bus's close", async () => {
  for (const way of ["abort", "close"]) {
    await using space = new Workspace();
    const bus = await space.bus();
    const evil = space.child("evil-worker.ts", "an unknown message");
    await bus.ready();
    const controller = new AbortController();
    const pending = rejection<SlotbusError>(
      bus.request({ path: "/" }, { idempotent: true, signal: controller.signal }),
    );
    await evil.line("claimed");
    await until(() => bus.stats().workersEvicted === 1, "it is evicted");
    if (way === "abort") controller.abort(new Error("aborted"));
    else await bus.close({ timeout: 0 });
    const error = await pending;
    if (way === "abort") expect(error.message).toBe("aborted");
    else expect([error.code, error.mayHaveExecuted]).toEqual(["CLOSED", true]);
  }
});

test("more than half of a worker's slots hung for 10 s: it is evicted, and waiting requests go to another", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ slots: 4 });
  const deaths: string[] = [];
  bus.on("died", (_, how) => deaths.push(how));
  const child = space.child("worker.ts");
  await bus.ready();
  const caller = new AbortController();
  const hung = Array.from({ length: 3 }, () => rejection(bus.request({ path: "/hang" }, { signal: caller.signal })));
  await until(() => child.lines.filter((line) => line === "got /hang").length === 3, "three handlers run");
  caller.abort();
  await Promise.all(hung);
  expect(bus.diagnostics().slots.filter(({ state }) => state === "ABANDONED").length).toBe(3);
  expect((await bus.request({ path: "/", body: "fourth slot" })).text()).toBe("fourth slot");
  const start = performance.now();
  await until(() => deaths.length === 1, "it is evicted", 20_000);
  expect(performance.now() - start).toBeWithin(9_000, 15_000);
  expect(deaths[0]).toMatch(/more than half of its slots were stuck for 10000 ms/);
  expect([bus.stats().workersEvicted, child.process.exitCode]).toEqual([1, null]);
}, 30_000);

/** A bus, and in the same process a raw worker that has claimed a request. */
async function claimedByRaw(space: Workspace) {
  const { bus, worker } = await RawWorker.withBus(space);
  const deaths: string[] = [];
  bus.on("died", (_, how) => deaths.push(how));
  return { bus, worker, deaths };
}

test("an answer whose hint was lost is delivered when its worker is evicted", async () => {
  await using space = new Workspace();
  const { bus, worker, deaths } = await claimedByRaw(space);
  const answered = bus.request({ path: "/" });
  await worker.take();
  const head = worker.writeHead();
  const offset = bodyOffset(head);
  worker.arena.set(Buffer.from("committed"), offset);
  worker.forge({ head, offset, body: 9 });
  worker.send(99, 4);
  expect((await answered).text()).toBe("committed");
  await until(() => deaths.length === 1, "it is evicted");
  expect(deaths[0]).toMatch(/message of type 99/);
  worker.close();
});

test("a worker that changes the slot of a lent response is evicted when the loan ends", async () => {
  await using space = new Workspace();
  const { bus, worker, deaths } = await claimedByRaw(space);
  const lending = bus.borrow({ path: "/" });
  await worker.take();
  const head = worker.writeHead();
  const offset = bodyOffset(head);
  worker.complete(head, offset, 4, 200);
  const loan = await lending;
  worker.setState(5);
  loan.release();
  await until(() => deaths.length === 1, "it is evicted");
  expect(deaths[0]).toMatch(/changed slot \d+ after it had responded/);
  expect([bus.stats().workersEvicted, bus.stats().inFlight]).toEqual([1, 0]);
  worker.close();
});

test("a slot that changes while its response is copied: the request fails, also when its worker has just ended", async () => {
  for (const ending of [false, true]) {
    await using space = new Workspace();
    const { bus, worker, deaths } = await claimedByRaw(space);
    const failing = rejection<SlotbusError>(bus.request({ path: "/", id: "torn" }));
    await worker.take();
    const head = worker.writeHead();
    const offset = bodyOffset(head);
    // As if the worker ran on another processor just now.
    const { read } = HeadReader.prototype;
    HeadReader.prototype.read = function (arena, length) {
      worker.setState(9);
      return read.call(this, arena, length);
    };
    try {
      if (ending) {
        worker.forge({ head, offset });
        worker.send(99, 4);
      } else {
        worker.complete(head, offset, 0, 200);
      }
      const error = await failing;
      expect([error.code, error.mayHaveExecuted]).toEqual(["REGION_CORRUPT", true]);
      expect(error.message).toMatch(/corrupted the slot of request torn/);
    } finally {
      HeadReader.prototype.read = read;
    }
    await until(() => deaths.length === 1, "it is evicted");
    expect(deaths[0]).toMatch(ending ? /message of type 99/ : /changed slot \d+ after it had responded/);
    expect([bus.stats().inFlight, bus.stats().workersEvicted]).toEqual([0, 1]);
    worker.close();
  }
});

test("a worker that corrupts a free slot is evicted by the next request, which then has its whole timeout to find another", async () => {
  await using space = new Workspace();
  const { bus, worker, deaths } = await claimedByRaw(space);
  worker.slot = 0;
  worker.word = 7n;
  const moved = bus.request({ path: "/" }, { timeout: 4_000 });
  await until(() => deaths.length === 1, "it is evicted");
  expect(deaths[0]).toMatch(/changed a free slot/);
  await Bun.sleep(60); // three ticks
  await space.worker(() => "from an honest one");
  expect((await moved).text()).toBe("from an honest one");
  worker.close();
});

test("a blocking request that meets a corrupt slot goes to another worker, and its worker is evicted once", async () => {
  await using space = new Workspace();
  const { bus, worker, deaths } = await claimedByRaw(space);
  const other = space.child("sync-worker.ts");
  await bus.ready({ workers: 2 });
  worker.slot = 0;
  worker.word = 7n;
  expect(bus.requestSync({ path: "/", body: "x" }, { timeout: 4_000 }).workerPid).toBe(other.pid);
  await until(() => deaths.length === 1, "it is evicted");
  expect([bus.stats().workersEvicted, bus.workers.length]).toEqual([1, 1]);
  worker.close();
});
