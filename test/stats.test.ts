/** Counters after a known sequence, percentiles. */

import { expect, test } from "bun:test";
import { BusOverloadedError, RemoteError, RequestTimeoutError, type DeferredAnswer } from "../src/index.ts";
import { rejection, until, Workspace } from "./support.ts";

test("every counter is exact after a sequence that changes each of them", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ slots: 2, queue: { limit: 1 } });
  const kept: DeferredAnswer[] = [];
  const worker = await space.worker((request) => {
    if (request.path === "/throw") throw new Error("no");
    return request.path === "/hang" ? void kept.push(request.defer()) : "x";
  });
  await bus.ready();
  const zero = bus.stats();
  expect([zero.requests, zero.responses, zero.roundTripUs]).toEqual([0, 0, { p50: 0, p99: 0, p999: 0 }]);

  for (let i = 0; i < 5; i++) await bus.request({ path: "/" });
  expect(await rejection(bus.request({ path: "/throw" }))).toBeInstanceOf(RemoteError);
  await rejection(bus.request({ path: "/" }, { signal: AbortSignal.abort() })); // never made
  await rejection(bus.request({ path: "/a\nb" })); // made, not sent

  const running = new AbortController();
  const aborted = rejection(bus.request({ path: "/hang" }, { signal: running.signal }));
  await until(() => kept.length === 1, "the first runs");
  running.abort(new Error("running"));
  expect((await aborted).message).toBe("running");
  // One slot is in quarantine; the next request takes the other, then the queue's one place is taken, and no more fit.
  const late = rejection(bus.request({ path: "/hang" }, { timeout: 1_000 }));
  await until(() => kept.length === 2, "the second runs");
  const queued = new AbortController();
  const waiting = rejection(bus.request({ path: "/" }, { signal: queued.signal }));
  expect(await rejection(bus.request({ path: "/" }))).toBeInstanceOf(BusOverloadedError);
  const before = bus.stats();
  expect([before.inFlight, before.queued, before.workers]).toEqual([
    2,
    1,
    [{ pid: process.pid, concurrency: 2, inFlight: 2 }],
  ]);
  queued.abort(new Error("queued"));
  expect((await waiting).message).toBe("queued");
  expect(await late).toBeInstanceOf(RequestTimeoutError);
  const expired = await rejection<RequestTimeoutError>(bus.request({ path: "/" }, { timeout: 30 })); // waits, never sent
  expect([expired.name, expired.mayHaveExecuted]).toEqual(["RequestTimeoutError", false]);
  for (const answer of kept) expect(answer("late")).toBe("late");
  await until(() => bus.stats().inFlight === 0, "both slots are back");

  const { roundTripUs, workers, ...counts } = bus.stats();
  expect(counts).toEqual({
    published: 8,
    requests: 12, // 5, throw, line break, hang, hang, queued, overloaded, expired
    responses: 6,
    errors: 1,
    timeouts: 2,
    aborts: 2,
    overloaded: 1,
    retries: 0,
    moves: 0,
    withdrawn: 0,
    abandoned: 2,
    dropped: 0,
    workersJoined: 1,
    workersLeft: 0,
    workersDied: 0,
    workersEvicted: 0,
    workersRestarted: 0,
    workersPaused: 0,
    workersResumed: 0,
    peersRefused: 0,
    borrowsForgotten: 0,
    heldRegions: 0,
    unsettledAtEnd: 0,
    queued: 0,
    inFlight: 0,
    contentions: expect.any(Number), // `contention.test.ts` judges this one
    bells: expect.any(Number), // `process.test.ts` judges these two
    wakeups: expect.any(Number),
    spinning: expect.stringMatching(/^(on|vain|contended)$/),
  });
  expect(workers).toEqual([{ pid: process.pid, concurrency: 2, inFlight: 0 }]);
  expect(roundTripUs.p50).toBeGreaterThan(0);
  expect(roundTripUs.p99).toBeGreaterThanOrEqual(roundTripUs.p50);
  expect(roundTripUs.p999).toBeGreaterThanOrEqual(roundTripUs.p99);
  expect(worker.served).toBe(8);

  await worker.close();
  await until(() => bus.stats().workersLeft === 1, "it left");
  await bus.close();
  expect(bus.stats()).toMatchObject({ requests: 12, responses: 6, workersLeft: 1, workers: [], queued: 0 });
});

test("requests withdrawn before their claim, and requests abandoned after their answer, have their own counters", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ slots: 1, spin: 0 });
  const worker = await space.worker(); // attached, and not serving
  await bus.ready();
  const state = (): string => bus.diagnostics().slots[0]!.state;
  const unclaimed = new AbortController();
  const withdrawn = rejection(bus.request({ path: "/" }, { signal: unclaimed.signal }));
  expect(state()).toBe("READY");
  unclaimed.abort(new Error("withdrawn"));
  expect((await withdrawn).message).toBe("withdrawn");
  expect([state(), bus.stats().withdrawn, bus.stats().abandoned]).toEqual(["FREE", 1, 0]);
  await worker.close();

  const child = space.child("worker.ts");
  await child.line("serving");
  await until(() => bus.workers[0]?.pid === child.pid, "the child is the worker");
  const answered = new AbortController();
  const dropped = rejection(bus.request({ path: "/", body: "x" }, { signal: answered.signal }));
  // This thread's event loop is blocked, so the other process's answer waits in its slot.
  const deadline = performance.now() + 5_000;
  while (state() !== "DONE" && performance.now() < deadline) Bun.sleepSync(1);
  expect(state()).toBe("DONE");
  answered.abort(new Error("dropped"));
  expect((await dropped).message).toBe("dropped");
  expect([state(), bus.stats().dropped, bus.stats().inFlight]).toEqual(["FREE", 1, 0]);
  expect((await bus.request({ path: "/", body: "next" })).text()).toBe("next");
});

test("percentiles follow the measurements: a slow tenth shows in p99 and not in p50", async () => {
  await using space = new Workspace();
  const { bus } = await space.pair((request) => {
    if (request.path !== "/slow") return "x";
    const { promise, resolve } = Promise.withResolvers<string>();
    setTimeout(() => resolve("x"), 60);
    return promise;
  });
  for (let i = 0; i < 36; i++) await bus.request({ path: "/" });
  await Promise.all(Array.from({ length: 4 }, () => bus.request({ path: "/slow" })));
  const { p50, p99, p999 } = bus.stats().roundTripUs;
  expect(p50).toBeLessThan(55_000);
  expect(p99).toBeGreaterThanOrEqual(59_000);
  expect(p999).toBeLessThan(5_000_000);
});

test("diagnostics give request, worker, state and age of waiting and running requests", async () => {
  await using space = new Workspace();
  const kept: DeferredAnswer[] = [];
  const { bus } = await space.pair((request) => void kept.push(request.defer()), { slots: 2 });
  const all = ["one", "two", "three", "four"].map((id) => bus.request({ path: "/", id }));
  await until(() => kept.length === 2, "two run");
  const { promise, resolve } = Promise.withResolvers<void>();
  setTimeout(resolve, 25);
  await promise;
  const { slots, queued } = bus.diagnostics();
  expect(slots.map(({ state, requestId, borrowed, workerPid }) => [state, requestId, borrowed, workerPid])).toEqual(
    expect.arrayContaining([
      ["CLAIMED", "one", false, process.pid],
      ["CLAIMED", "two", false, process.pid],
    ]),
  );
  expect(queued.map(({ requestId }) => requestId)).toEqual(["three", "four"]);
  for (const { ageMs } of [...slots, ...queued]) expect(ageMs).toBeWithin(20, 5_000);
  for (let answered = 0; answered < 4; answered++) {
    await until(() => kept.length > answered, "the next runs");
    kept[answered]!("x");
  }
  await Promise.all(all);
  expect(bus.diagnostics()).toMatchObject({ queued: [], slots: [{ requestId: null }, { requestId: null }] });
});
