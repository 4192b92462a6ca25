/** `bus.reload`: a running bus gets the pools of new options, and no request is lost. */

import { expect, test } from "bun:test";
import {
  type BusOverloadedError,
  ClosedError,
  InvalidConfigError,
  type NoWorkerError,
  type SlotbusError,
  WorkerDiedError,
} from "../src/errors.ts";
import type { StdioPoolOptions } from "../src/stdio/options.ts";
import { fixture, folder, isAlive, marked, running } from "./stdio-stage.ts";
import { descriptors, rejection, until } from "./support.ts";

const pool = (options: Partial<StdioPoolOptions> = {}): StdioPoolOptions =>
  fixture("stdio-worker.ts", { ready: true, ...options });
const none = { unchanged: [], resized: [], replaced: [], added: [], removed: [] };

test("pools keep their workers, are resized, replaced, added and removed, according to the new options", async () => {
  const left: number[] = [];
  const initialize = (): void => {};
  const [same, grows, other, goes] = [
    pool({ id: "same", initialize }),
    pool({ id: "grows" }),
    pool({ id: "other" }),
    pool({ id: "goes" }),
  ];
  await using bus = await running({ pools: [same, grows, other, goes] }, { left: ({ pid }) => left.push(pid) });
  const pids = (id: string): number[] => bus.workers.filter((worker) => worker.pool === id).map(({ pid }) => pid);
  const [kept, grown, old, gone] = ["same", "grows", "other", "goes"].map((id) => pids(id)[0]!);
  const next = [same, { ...grows, instances: 3 }, { ...other, env: { A: "1" } }, pool({ id: "new" })];
  expect(await bus.reload({ pools: next })).toEqual({
    unchanged: ["same"],
    resized: ["grows"],
    replaced: ["other"],
    added: ["new"],
    removed: ["goes"],
  });
  expect(pids("same")).toEqual([kept!]);
  expect([pids("grows").length, pids("grows").includes(grown!)]).toEqual([3, true]);
  expect([pids("other").length, pids("other").includes(old!)]).toEqual([1, false]);
  expect((await rejection<SlotbusError>(bus.request("pid", 0, { pool: "goes" }))).code).toBe("UNKNOWN_POOL");
  expect(await bus.request<number>("pid", 0, { pool: "new" })).toBe(pids("new")[0]!);
  await until(() => !isAlive(old!) && !isAlive(gone!), "the end of what was replaced and removed");
  expect(bus.stats().workers.length).toBe(6);
  expect(left.sort()).toEqual([old!, gone!].sort());
  // The same options again: nothing changes, except a size that `resize` had changed, or a new default of the bus.
  const all = ["same", "grows", "other", "new"];
  expect(await bus.reload({ pools: next })).toEqual({ ...none, unchanged: all });
  await bus.resize("grows", 1);
  expect((await bus.reload({ pools: next })).resized).toEqual(["grows"]);
  expect((await bus.reload({ pools: next, timeout: 5_000 })).replaced).toEqual(all);
}, 30_000);

test("when the new options are wrong, or a new worker does not start, nothing changes", async () => {
  using place = folder();
  await using bus = await running({ pools: [pool()] });
  const { pid } = bus.workers[0]!;
  const mark = { env: { SLOTBUS_TEST_MARK: place.path } };
  const [good, bad] = [pool({ id: "b", ...mark }), { id: "c", command: "no-such-program-anywhere" }];
  const code = async (pools: StdioPoolOptions[]): Promise<string> =>
    (await rejection<SlotbusError>(bus.reload({ pools }))).code;
  const ends = fixture("stdio-odd.ts", { id: "d", ready: true, startupTimeout: 100, ...mark });
  expect(await code([])).toBe("INVALID_CONFIG");
  expect(await code([pool({ instances: 0 })])).toBe("INVALID_CONFIG");
  expect(await code([good, bad])).toBe("PROGRAM_NOT_FOUND");
  expect(await code([pool({ instances: 2, env: { A: "1" } }), good, ends])).toBe("WORKER_START");
  expect(bus.workers.map((worker) => worker.pid)).toEqual([pid]);
  expect(marked(place.path)).toEqual([]);
  expect(await bus.request<number>("pid")).toBe(pid);
  expect(await rejection(bus.reload({ pools: [pool()], more: 1 } as never))).toBeInstanceOf(InvalidConfigError);
}, 30_000);

test("the old workers answer their requests; waiting requests go to the new workers, even above their limits", async () => {
  const few = { concurrency: 1, stop: { drain: 1, endOfInput: 1, term: 50 } };
  await using bus = await running({ pools: [pool(few)] });
  const old = bus.workers[0]!.pid;
  const has = bus.request("late", 500);
  const gone = new AbortController();
  const first = bus.request<number>("pid");
  const aborted = rejection(bus.request("wait", null, { signal: gone.signal, timeout: Infinity }));
  const waits = [first, bus.request<number>("pid"), bus.request<number>("pid", null, { key: "k" })];
  const late = rejection<SlotbusError>(bus.request("wait", null, { timeout: 1_500 }));
  await bus.reload({ pools: [pool({ ...few, queue: { limit: 1 } })] });
  gone.abort(new Error("enough"));
  expect((await aborted).message).toBe("enough");
  const now = bus.workers[0]!.pid;
  expect(await Promise.all(waits)).toEqual([now, now, now]);
  expect(await has).toBe(500); // longer than `stop.drain`
  expect((await late).code).toBe("TIMEOUT");
  await until(() => !isAlive(old), "the end of the old worker");
  const full = [bus.request("late", 20), bus.request("late", 20)];
  expect((await rejection<BusOverloadedError>(bus.request("echo"))).code).toBe("BUS_OVERLOADED");
  await Promise.all(full);
}, 30_000);

test("a removed pool answers its waiting requests too; an idempotent request of a dead worker goes to the new pool", async () => {
  await using bus = await running({
    pools: [pool({ concurrency: 1 }), pool({ id: "b", restart: { policy: "never" } })],
  });
  const old = bus.workers[0]!.pid;
  const asked = [100, 20, 20].map((ms) => bus.request<number>("late", ms, { pool: "a" }));
  const b = { pool: "b", idempotent: true };
  const held = bus.request<number>("pid", null, b).then((pid) => {
    const retried = bus.request("late", 300, b);
    const lost = rejection(bus.request("late", 60_000, { pool: "b" }));
    return { pid, retried, lost };
  });
  const { pid, retried, lost } = await held;
  await bus.reload({ pools: [pool({ id: "b", env: { A: "1" } })] });
  process.kill(pid, "SIGKILL");
  expect(await retried).toBe(300);
  expect(await lost).toBeInstanceOf(WorkerDiedError);
  expect(await Promise.all(asked)).toEqual([100, 20, 20]);
  await until(() => !isAlive(old) && !isAlive(pid), "the end of both");
  await until(() => bus.stats().workers.length === 1, "one worker");
}, 30_000);

test("a surplus worker answers its requests, for any `stop.drain`; close does not wait for it", async () => {
  const few = { concurrency: 1, stop: { drain: 1, endOfInput: 1, term: 50 } };
  const bus = await running({ pools: [pool({ ...few, instances: 3 })] });
  const has = [300, 200, 100].map((ms) => bus.request<number>("late", ms));
  expect((await bus.reload({ pools: [pool(few)] })).resized).toEqual(["a"]);
  expect(bus.workers.length).toBe(1);
  expect(await Promise.all(has)).toEqual([300, 200, 100]);
  await until(() => bus.stats().workers.length === 1, "the end of the others");
  // Several sizes while workers still answer: the last one holds.
  const both = async (...sizes: number[]): Promise<void> => {
    for (const instances of sizes) await bus.reload({ pools: [pool({ ...few, instances })] });
  };
  await both(3);
  expect(bus.workers.length).toBe(3);
  const hold = [300, 300, 300].map((ms) => bus.request<number>("late", ms));
  await both(2, 1, 2);
  expect([await Promise.all(hold), bus.workers.length]).toEqual([[300, 300, 300], 2]);
  const lost = [1, 2].map(() => rejection(bus.request("late", 60_000)));
  await both(1);
  expect(bus.workers.length).toBe(1);
  await bus.close();
  for (const error of await Promise.all(lost)) expect(error).toBeInstanceOf(WorkerDiedError);
}, 30_000);

test("a pool whose workers end too often recovers with a reload", async () => {
  const soon = { restart: { maxRestarts: 0, backoff: { initial: 60_000 } } };
  await using bus = await running({ pools: [pool(soon)] }, { paused: () => {} });
  expect(await rejection(bus.request("die", "exit"))).toBeInstanceOf(WorkerDiedError);
  await until(() => bus.stats().paused.length === 1, "its pause");
  expect((await rejection<NoWorkerError>(bus.request("echo"))).code).toBe("NO_WORKER");
  await bus.reload({ pools: [pool()] });
  expect([await bus.request("echo", 1), bus.stats().paused]).toEqual([1, []]);
}, 30_000);

test("reloads take effect in order, and close ends starting workers and workers that still answer", async () => {
  const before = descriptors();
  const bus = await running({ pools: [pool()] });
  const has = rejection(bus.request("wait", null, { timeout: Infinity }));
  const runs = [1, 2, 3].map((n) => bus.reload({ pools: [pool({ env: { N: `${n}` }, instances: n })] }));
  expect((await Promise.all(runs)).map(({ replaced }) => replaced)).toEqual([["a"], ["a"], ["a"]]);
  expect(bus.workers.length).toBe(3);
  const late = rejection(bus.reload({ pools: [pool({ env: { N: "4" } })] }));
  const ended = await bus.close({ timeout: 50 });
  expect(ended.length).toBeGreaterThanOrEqual(4);
  expect([await has, await late].map((error) => error.constructor.name)).toEqual(["WorkerDiedError", "ClosedError"]);
  expect(await rejection(bus.reload({ pools: [pool()] }))).toBeInstanceOf(ClosedError);
  await until(() => descriptors() <= before, "the end of its descriptors");
}, 30_000);

test("under constant requests, ten reloads of every kind lose none and answer each once", async () => {
  await using bus = await running({ pools: [pool({ id: "a", instances: 2 })] });
  const before = bus.stats();
  let isOver = false;
  let answered = 0;
  const ask = async (lane: number): Promise<void> => {
    for (let n = 0; !isOver; n++) {
      const sent = `${lane}/${n}`;
      const options = { pool: "a", ...(lane % 2 ? { key: `k${lane}` } : {}) };
      expect(await bus.request("echo", sent, options)).toBe(sent);
      answered++;
    }
  };
  const lanes = Array.from({ length: 32 }, (_, lane) => ask(lane));
  for (let n = 1; n <= 10; n++) {
    const other = n % 3 === 0 ? [pool({ id: "b" })] : [];
    await bus.reload({ pools: [pool({ instances: 1 + (n % 3), env: { N: `${n >> 1}` } }), ...other] });
    const target = answered + 100;
    await until(() => answered > target, "100 more answers");
  }
  isOver = true;
  await Promise.all(lanes);
  await until(() => bus.stats().workers.length === bus.workers.length, "the end of the old workers");
  const { messagesIn, messagesOut, late } = bus.stats();
  expect([late, messagesIn - before.messagesIn]).toEqual([0, answered]);
  expect(messagesOut).toBeGreaterThanOrEqual(answered);
}, 60_000);
