/** The stdio bus over real processes: its life, its routing, and its errors. */

import { heapStats } from "bun:jsc";
import { describe, expect, spyOn, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  BusOverloadedError,
  ClosedError,
  type ExitReport,
  InvalidConfigError,
  NoWorkerError,
  RequestTimeoutError,
  RpcError,
  type SlotbusError,
  EventsLostError,
  WorkerDiedError,
  type WorkerFailedError,
} from "../src/errors.ts";
import { StdioBus } from "../src/stdio/bus.ts";
import { fromStdioBusConfig, type StdioBusConfig } from "../src/stdio/config.ts";
import { resolveStdioOptions, type StartingWorker, type StdioBusOptions } from "../src/stdio/options.ts";
import type { LinkIdentity } from "../src/stdio/events.ts";
import { lives } from "./line-transport.ts";
import { fixture, folder, isAlive, marked, running } from "./stdio-stage.ts";
import { descriptors, rejection, until } from "./support.ts";

const worker = (options: Parameters<typeof fixture>[1] = {}) => fixture("stdio-worker.ts", options);
const odd = (options: Parameters<typeof fixture>[1] = {}, ...args: string[]) =>
  fixture("stdio-odd.ts", options, ...args);
const soon = { restart: { backoff: { initial: 1, max: 10 } } };

describe("the life of a bus", () => {
  test("it is open from its start to its end; all calls of close share one promise and its reports", async () => {
    const bus = await StdioBus.start({ pools: [worker({ instances: 2 })] });
    expect([bus.closed, bus.stats().clients]).toEqual([false, 0]);
    const byIndex = (a: { worker: number }, b: { worker: number }): number => a.worker - b.worker;
    const running = bus.stats().workers.toSorted(byIndex);
    expect(bus.workers.toSorted(byIndex) as object[]).toEqual(
      running.map(({ pool, worker: index, life, pid }) => ({ pool, worker: index, life, pid })),
    );
    expect(running.map(({ pool, worker: index, life }) => [pool, index, life])).toEqual([
      ["a", 0, 1],
      ["a", 1, 1],
    ]);
    expect(running.map(({ pid }) => pid)).toContain(await bus.request<number>("pid"));
    const closing = bus.close();
    expect([bus.closed, bus.close({ timeout: 1 })]).toEqual([true, closing]);
    expect((await closing).map(({ pool, exitCode }) => [pool, exitCode])).toEqual([
      ["a", 0],
      ["a", 0],
    ]);
    expect([bus.workers, bus.close()]).toEqual([[], closing]);
    for (const { pid } of running) expect(isAlive(pid)).toBe(false);
  });

  test("leaving its scope closes it, and invalid options of close have no effect", async () => {
    let pid: number;
    {
      await using bus = await running({ pools: [worker()] });
      pid = bus.workers[0]!.pid;
      for (const wrong of [{ timeout: -1 }, { timout: 1 }, { timeout: "1" }] as object[]) {
        expect(await rejection(bus.close(wrong))).toBeInstanceOf(InvalidConfigError);
        expect(await rejection(bus.drain(wrong))).toBeInstanceOf(InvalidConfigError);
      }
      expect([bus.closed, await bus.request("echo", 1)]).toEqual([false, 1]);
    }
    expect(isAlive(pid)).toBe(false);
  });

  test("a missing program rejects the start, and no other program keeps running", async () => {
    using place = folder();
    const first = worker({ env: { SLOTBUS_TEST_MARK: place.path } });
    const error = await rejection<SlotbusError>(
      StdioBus.start({ pools: [first, { id: "b", command: "no-such-program-anywhere" }] }),
    );
    expect(error).toMatchObject({ code: "PROGRAM_NOT_FOUND" });
    expect(error.message).toContain("no-such-program-anywhere");
    expect(marked(place.path)).toEqual([]);
  });

  test("a worker that must send $/ready gets nothing before", async () => {
    await using bus = await running({ pools: [odd({ ready: true }, "ready")] });
    expect(await bus.request("echo", 1)).toBe(1);
    const late = StdioBus.start({ pools: [odd({ ready: true, startupTimeout: 100 })] });
    expect((await rejection<SlotbusError>(late)).code).toBe("WORKER_START");
  });

  test("calls after its end are refused", async () => {
    const bus = await running({ pools: [worker()] });
    await bus.close();
    const calls = [bus.request("echo"), bus.notify("echo"), bus.send({ id: 1, method: "echo" }), bus.resize("a", 2)];
    for (const call of calls) expect(await rejection(call)).toBeInstanceOf(ClosedError);
    expect(() => bus.subscribe()).toThrow(ClosedError);
    await bus.drain();
  });

  test("close lets workers answer their requests, and rejects waiting ones", async () => {
    const bus = await running({ pools: [worker({ concurrency: 1 })] });
    const has = bus.request("drain", 100);
    const waits = rejection<ClosedError>(bus.request("echo", 1));
    const closing = bus.close();
    const late = rejection(bus.request("echo", 2));
    expect(await has).toBe("drained");
    expect((await waits).mayHaveExecuted).toBe(false);
    expect(await waits).toBeInstanceOf(ClosedError);
    expect(await late).toBeInstanceOf(ClosedError);
    expect((await closing)[0]!.exitCode).toBe(0);
  });

  test("close's timeout is the workers' time for that; 0 gives none", async () => {
    for (const timeout of [0, 50]) {
      const bus = await running({ pools: [odd({ stop: { endOfInput: 10, term: 50 } }, "stubborn")] });
      await bus.request("echo", 1); // it has its handler of SIGTERM
      const never = rejection<WorkerDiedError>(bus.request("unknown"));
      const [report] = await bus.close({ timeout });
      expect([report!.pool, report!.how]).toEqual(["a", "SIGKILL"]);
      expect(report!.uptimeMs).toBeLessThan(4_000);
      expect(await never).toBeInstanceOf(WorkerDiedError);
    }
  });

  test("a drain takes no new requests and resolves when all earlier ones have settled, also those waiting for a worker", async () => {
    await using bus = await running({ pools: [worker({ concurrency: 1 })] });
    const settled: unknown[] = [];
    for (const ms of [30, 20, 10]) void bus.request("late", ms).then((value) => settled.push(value));
    const draining = bus.drain();
    expect(bus.closed).toBe(true);
    expect(await rejection(bus.request("echo", 1))).toBeInstanceOf(ClosedError);
    await bus.drain({ timeout: 0 });
    expect(settled).toEqual([]);
    await bus.drain({ timeout: 1 });
    await draining;
    expect(settled).toEqual([30, 20, 10]);
    expect(bus.workers.length).toBe(1);
  });

  test("a worker that ignores SIGTERM and the end of its input is killed, and its request gets that reason", async () => {
    const bus = await running({ pools: [odd({ stop: { drain: 10, endOfInput: 10, term: 50 } }, "stubborn")] });
    const pid = await bus.request<number>("pid");
    const never = rejection<WorkerDiedError>(bus.request("unknown"));
    const [report] = await bus.close();
    expect([report!.how, report!.signal]).toEqual(["SIGKILL", "SIGKILL"]);
    expect(await never).toBeInstanceOf(WorkerDiedError);
    expect(isAlive(pid)).toBe(false);
  });

  test("events and messages from before the start resolves reach listeners that are added right after it", async () => {
    const initialize = async (it: StartingWorker): Promise<void> => {
      await it.request("flood", 2);
      await it.notify("ask", { id: 1, method: "early" });
    };
    const restart = { maxRestarts: 5, backoff: { initial: 1, max: 1 } };
    const bus = await StdioBus.start({ pools: [odd({ initialize }), worker({ id: "b", ready: true, restart })] });
    const told: string[] = [];
    const asked = new Promise<unknown>((resolve) => bus.onRequest("early", resolve));
    bus.on("joined", ({ pool, life }) => told.push(`${pool} ${life} joined`));
    const subscription = bus.subscribe({ method: "flood" });
    expect(told).toEqual([]);
    await asked;
    await bus.request("flood", 1, { pool: "a" });
    const params: unknown[] = [];
    while (subscription.queued > 0) params.push((await subscription.next()).value!.params);
    expect(params).toEqual([0, 1, 0]);
    await until(() => told.length === 2, "both have joined");
    expect(told.sort()).toEqual(["a 1 joined", "b 1 joined"]);
    await bus.close();
  });
});

test("a pool grows and shrinks while it works", async () => {
  await using bus = await running({ pools: [worker()] });
  await bus.resize("a", 3);
  const pids = await Promise.all(Array.from({ length: 9 }, () => bus.request<number>("pid")));
  expect(new Set(pids).size).toBe(3);
  const slow = Array.from({ length: 9 }, () => bus.request("late", 50));
  await bus.resize("a", 1);
  expect(await Promise.all(slow)).toEqual(Array.from({ length: 9 }, () => 50));
  expect([bus.workers.length, bus.stats().workers.length]).toEqual([1, 1]);
  expect(await rejection(bus.resize("b", 1))).toMatchObject({ code: "UNKNOWN_POOL" });
  expect(await bus.request("echo", 1)).toBe(1);
});

test("workers that are replaced after some requests lose none", async () => {
  await using bus = await running({ pools: [worker({ instances: 2, recycle: { maxRequests: 10 } })] });
  const pids = new Set<number>();
  for (let i = 0; i < 60; i++) {
    for (const pid of await Promise.all([1, 2, 3].map(() => bus.request<number>("pid")))) pids.add(pid);
    if (i % 10 === 9) await Bun.sleep(50); // a new worker starts while the old one works
  }
  expect(pids.size).toBeGreaterThan(3);
  expect([bus.stats().workerRestarts, bus.stats().inFlight]).toEqual([0, 0]);
});

describe("a worker that must be initialized", () => {
  test("gets requests and notifications of the hook first, in each of its lives, also as a replacement", async () => {
    const started: [number, number][] = [];
    let kept: StartingWorker;
    await using bus = await running({
      pools: [
        odd({
          ...soon,
          recycle: { maxRequests: 3 },
          async initialize(worker) {
            kept = worker;
            worker.onRequest("who", () => "host");
            started.push([worker.life, worker.pid]);
            expect(await worker.request<number>("pid")).toBe(worker.pid);
            expect([worker.pool, worker.worker]).toEqual(["a", 0]);
            await worker.notify("hello", worker.life);
            expect(await worker.request("ask", { id: 1, method: "who" })).toMatchObject({ answer: { result: "host" } });
          },
        }),
      ],
    });
    const seen = async (): Promise<unknown[]> => {
      const messages = await bus.request<{ method: string; params?: unknown }[]>("seen");
      return messages.map(({ method, params }) => (method === "hello" ? params : method));
    };
    expect(await seen()).toEqual(["pid", 1, "ask"]);
    process.kill(started[0]![1], "SIGKILL");
    await until(() => bus.workers.length === 0, "its end");
    const early = [bus.request("echo", "early"), bus.notify("echo"), seen()];
    expect(await Promise.all(early)).toEqual(["early", undefined, ["pid", 2, "ask", "echo", "echo"]]);
    await until(() => bus.workers.length === 1 && started.length === 3, "its replacement");
    await until(async () => (await seen())[1] === 3, "its answers");
    expect(started.map(([life]) => life)).toEqual([1, 2, 3]);
    for (const late of [kept!.request("pid"), kept!.notify("pid")]) {
      const error = await rejection(late);
      expect(error).toBeInstanceOf(ClosedError);
      expect(error.message).toContain("Use `request`, `notify` and `onRequest` of the bus");
    }
    expect(() => kept!.onRequest("who", () => 1)).toThrow(ClosedError);
  }, 20_000);

  test("a hook that rejects, takes too long or loses its worker fails the start, and the hook's own call rejects", async () => {
    const cases: [StdioBusOptions["pools"][number], string][] = [
      [odd({ initialize: () => Promise.reject(new Error("wrong version")) }), "wrong version"],
      [odd({ initialize: (it) => it.request("unknown"), startupTimeout: 200 }), "not ready within 200 ms"],
      [odd({ initialize: (it) => it.request("last", 1).then(() => it.request("echo")) }), "exited with code 1"],
    ];
    for (const [pool, what] of cases) {
      const heard: unknown[] = [];
      const { initialize } = pool;
      const told = async (it: StartingWorker): Promise<void> => {
        await Promise.resolve(initialize!(it)).catch((error) => (heard.push(error), Promise.reject(error)));
      };
      const error = await rejection<SlotbusError>(StdioBus.start({ pools: [{ ...pool, initialize: told }] }));
      expect([error.code, error.message]).toEqual(["WORKER_START", expect.stringContaining(what)]);
      await until(() => heard.length === 1, "what the hook heard");
    }
  }, 20_000);
});

describe("options", () => {
  const refused = async (options: unknown): Promise<string> => {
    const bus = await StdioBus.start(options as StdioBusOptions).catch((error: unknown) => error);
    if (bus instanceof InvalidConfigError) return bus.message;
    await (bus as StdioBus).close();
    return "";
  };

  test("of a pool replace the bus's options, one by one", () => {
    const [a, b] = resolveStdioOptions({
      pools: [
        { id: "a", command: "cat", queue: { limit: 2 }, timeout: Infinity },
        { id: "b", command: "cat" },
      ],
      concurrency: 3,
      queue: { policy: "wait" },
    });
    expect([a!.concurrency, a!.queue, a!.timeout]).toEqual([3, { limit: 2, policy: "wait" }, Infinity]);
    expect([b!.concurrency, b!.queue, b!.timeout]).toEqual([3, { limit: 1_024, policy: "wait" }, 30_000]);
  });

  test("an unknown option is refused with the nearest name", async () => {
    const pool = { id: "a", command: "cat" };
    expect(await refused({ pools: [pool], limits: {} })).toContain("a StdioBus has no option");
    expect(await refused({ pools: [{ ...pool, instance: 2 }] })).toContain("Did you mean instances?");
    expect(await refused({ pools: [{ ...pool, concurency: 1 }] })).toContain("Did you mean concurrency?");
    expect(await refused({ pools: [pool], queue: { polcy: "wait" } })).toContain("Did you mean policy?");
    expect(await refused({ pools: [{ ...pool, restart: { windw: 1 } }] })).toContain("windw");
    expect(await refused({ pools: [{ ...pool, zebra: 1 }] })).toContain("Choose from command,");
  });

  test("each wrong value is refused with the expected value", async () => {
    const pool = { id: "a", command: "cat" };
    expect(await refused(undefined)).toContain("must be an object");
    expect(await refused({ pools: [] })).toContain("1 to 1024 pools");
    expect(await refused({ pools: [pool, pool] })).toContain('Two pools have the id "a"');
    expect(await refused({ pools: [{ ...pool, id: "" }] })).toContain("pools[0].id");
    expect(await refused({ pools: [{ ...pool, command: "" }] })).toContain("command");
    expect(await refused({ pools: [{ ...pool, instances: 0 }] })).toContain("instances");
    expect(await refused({ pools: [{ ...pool, framing: "raw" }] })).toContain("ndjson, length, content-length");
    expect(await refused({ pools: [pool], concurrency: 0 })).toContain("concurrency is 0");
    expect(await refused({ pools: [pool], timeout: 0 })).toContain("timeout is 0; it must be 1 to 4294967295 ms");
    expect(await refused({ pools: [{ ...pool, messageBytes: 1 }] })).toContain("pools[0].messageBytes");
    expect(await refused({ pools: [{ ...pool, initialize: {} }] })).toContain("pools[0].initialize");
    expect(await refused({ pools: [pool] })).toBe("");
  });

  test("an older configuration with its snake_case names is accepted as text and as an object, with its old meaning", async () => {
    const config = {
      pools: [{ id: "echo", command: "cat", args: ["-u"], instances: 2 }],
      limits: {
        max_input_buffer: 2_048,
        max_output_queue: 4_096,
        max_restarts: 0,
        restart_window_sec: 5,
        drain_timeout_sec: 1,
      },
    };
    const options = fromStdioBusConfig(JSON.stringify(config));
    expect(options).toEqual(fromStdioBusConfig(config));
    expect([options.messageBytes, options.queuedBytes]).toEqual([2_048, 4_096]);
    expect(options.pools[0]).toEqual({
      id: "echo",
      command: "cat",
      args: ["-u"],
      instances: 2,
      restart: { policy: "on-failure", maxRestarts: 0, window: 5_000, giveUp: true },
      stop: { drain: 1_000 },
    });
    await using bus = await running(options);
    expect(bus.workers.length).toBe(2);
    const wrong: [unknown, string][] = [
      ["{", "is not valid JSON"],
      [{ pools: [{ ...config.pools[0], cwd: "/" }] }, "cwd"],
      [{ ...config, limits: { max_restart: 1 } }, "Did you mean max_restarts?"],
      [{ ...config, transport: { mode: "unix" } }, "bus.serve({ unix })"],
      [{ pools: [{ id: "a", command: "cat", instances: 0 }] }, "instances"],
      [{}, "pools"],
    ];
    for (const [given, what] of wrong) {
      expect(() => fromStdioBusConfig(given as string)).toThrow(InvalidConfigError);
      expect(() => fromStdioBusConfig(given as string)).toThrow(what);
    }
  });

  test("a field of the older configuration with less effect than before is one warning, with its replacement", () => {
    const warn = spyOn(process, "emitWarning").mockImplementation(() => {});
    try {
      const pools = [{ id: "a", command: "cat", instances: 1 }];
      const warned = (limits: StdioBusConfig["limits"]): unknown[][] => {
        warn.mockClear();
        fromStdioBusConfig({ pools, limits });
        return warn.mock.calls;
      };
      expect(warned(undefined)).toEqual([]);
      expect(warned({ max_restarts: 1, restart_window_sec: 5, drain_timeout_sec: 1 })).toEqual([]);
      const [[text, options], ...more] = warned({ backpressure_timeout_sec: 60 }) as [[string, object]];
      expect(text).toContain("limits.backpressure_timeout_sec has no effect; set `timeout`");
      expect([options, more]).toEqual([{ type: "SlotbusWarning" }, []]);
      const all = warned({ max_input_buffer: 100, max_output_queue: 4_096, backpressure_timeout_sec: 1 });
      expect(all.length).toBe(1);
      for (const name of ["max_input_buffer", "messageBytes", "max_output_queue", "queuedBytes", "backpressure"])
        expect(all[0]![0]).toContain(name);
    } finally {
      warn.mockRestore();
    }
  });

  test("wrong arguments of a request reject and are not sent", async () => {
    await using bus = await running({ pools: [worker()] });
    const cycle: { self?: unknown } = {};
    cycle.self = cycle;
    const wrong = [
      bus.request("echo", cycle),
      bus.request("echo", 1n),
      bus.request(7 as unknown as string),
      bus.request("echo", 1, { timeout: -1 }),
      bus.request("echo", 1, { key: 7 as unknown as string }),
      bus.request("echo", 1, { signal: {} as AbortSignal }),
      bus.request("echo", 1, { idempotent: 1 as unknown as boolean }),
      bus.request("echo", 1, { timout: 1 } as object),
      bus.send({ id: 1, result: 1 }),
      bus.send([] as unknown as { method: string }),
    ];
    for (const call of wrong) expect(await rejection(call)).toBeInstanceOf(InvalidConfigError);
    expect(await bus.request("echo", "after")).toBe("after");
    expect([bus.stats().messagesIn, bus.stats().inFlight]).toEqual([1, 0]);
  });
});

describe("routing", () => {
  test("a request goes to the worker with the fewest requests; all workers of a pool are used", async () => {
    await using bus = await running({ pools: [worker({ instances: 3, stop: { drain: 1 } })] });
    const pids = await Promise.all(Array.from({ length: 9 }, () => bus.request<number>("pid")));
    const counts = Map.groupBy(pids, (pid) => pid);
    expect([...counts.values()].map((same) => same.length)).toEqual([3, 3, 3]);
    const controller = new AbortController();
    const waiting = rejection(bus.request("wait", null, { signal: controller.signal }));
    const busy = bus.stats().workers.find(({ inFlight }) => inFlight === 1)!.pid;
    for (let i = 0; i < 9; i++) expect(await bus.request<number>("pid")).not.toBe(busy);
    controller.abort();
    await waiting;
  });

  test("a key keeps its worker; keys are spread; when a worker ends only its own keys move", async () => {
    await using bus = await running({ pools: [worker({ instances: 4, restart: { policy: "never" } })] });
    const keys = Array.from({ length: 200 }, (_, i) => `user ${i}`);
    const owners = (): Promise<number[]> =>
      Promise.all(keys.map((key) => bus.request<number>("pid", 0, { key, idempotent: true })));
    const before = await owners();
    expect(await owners()).toEqual(before);
    const counts = [...Map.groupBy(before, (pid) => pid).values()].map((same) => same.length);
    expect(counts.length).toBe(4);
    expect(Math.min(...counts)).toBeGreaterThan(25);
    process.kill(before[0]!, "SIGKILL");
    await until(() => bus.workers.length === 3, "the end of a worker");
    const after = await owners();
    for (const [index, pid] of before.entries()) {
      if (pid === before[0]) expect(after[index]).not.toBe(pid);
      else expect(after[index]).toBe(pid);
    }
  });

  test("a pool is chosen by its id; an unknown id, or no id with several pools, is an error that lists them", async () => {
    await using bus = await running({ pools: [worker({ id: "x" }), odd({ id: "y" })] });
    expect(await bus.request("pid", 0, { pool: "x" })).not.toBe(await bus.request("pid", 0, { pool: "y" }));
    for (const pool of ["z", undefined]) {
      const error = await rejection<SlotbusError>(bus.request("pid", 0, { pool }));
      expect(error).toMatchObject({ code: "UNKNOWN_POOL" });
      expect(error.message).toContain('"x", "y"');
    }
    expect(bus.stats().routingErrors).toBe(2);
  });

  test('equal ids of messages that are sent do not meet, nor do 42 and "42"', async () => {
    await using bus = await running({ pools: [worker()] });
    const sent = [42, "42", 42, null].map((id, i) =>
      bus.send({ jsonrpc: "2.0", id, method: "late", params: 40 - 10 * i }),
    );
    expect(await Promise.all(sent)).toEqual([
      { jsonrpc: "2.0", id: 42, result: 40 },
      { jsonrpc: "2.0", id: "42", result: 30 },
      { jsonrpc: "2.0", id: 42, result: 20 },
      { jsonrpc: "2.0", id: null, result: 10 },
    ]);
    const response = await bus.send({ id: "e", method: "fail", params: 1 });
    expect(response).toMatchObject({ id: "e", error: { code: 4242, data: { params: 1 } } });
    expect(await bus.send({ method: "echo" })).toBeUndefined();
  });

  test("members of a message are passed on, except the pool; its sessionId is a key", async () => {
    await using bus = await running({ pools: [odd({ instances: 2 })] });
    const message = {
      jsonrpc: "2.0",
      id: "a",
      method: "pid",
      params: {},
      sessionId: "s-1",
      pool: "a",
      agentId: "g",
    } as const;
    const first = await bus.send(message);
    for (let i = 0; i < 10; i++) expect((await bus.send(message))!.result).toBe(first!.result);
    const seen = (await bus.request("seen", 0, { key: "s-1" })) as Record<string, unknown>[];
    expect(seen[0]).toEqual({ jsonrpc: "2.0", id: 1, method: "pid", params: {}, sessionId: "s-1", agentId: "g" });
  });
});

describe("the end of a worker", () => {
  test("its requests fail at once, with its exit and the end of its log; it is started again", async () => {
    const logged: string[] = [];
    await using bus = await running({ pools: [worker(soon)] }, { log: (_, line) => logged.push(line) });
    const pid = await bus.request<number>("pid");
    const start = performance.now();
    const other = rejection<WorkerDiedError>(bus.request("late", 20_000));
    const error = await rejection<WorkerDiedError>(bus.request("die", "exit"));
    expect(error).toBeInstanceOf(WorkerDiedError);
    expect([error.report!.exitCode, error.report!.pid, error.mayHaveExecuted, error.retryable]).toEqual([
      3,
      pid,
      true,
      false,
    ]);
    expect([error.exitCode, error.signal]).toEqual([3, null]);
    expect(error.report!.stderrTail).toContain("about to die");
    expect(error.message).toContain("about to die");
    expect(await other).toBeInstanceOf(WorkerDiedError);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(await bus.request<number>("pid")).not.toBe(pid);
    expect([bus.stats().workerRestarts, bus.stats().inFlight, logged]).toEqual([1, 0, ["about to die"]]);
  });

  test("an answer that it wrote before its exit is delivered", async () => {
    await using bus = await running({
      pools: [odd({ restart: { maxRestarts: Infinity, backoff: { initial: 0, max: 0 } } })],
    });
    const large = "x".repeat(60_000);
    for (let i = 0; i < 10; i++) {
      const others = Array.from({ length: 3 }, () => rejection<WorkerDiedError>(bus.request("unknown")));
      expect(await bus.request("last", large)).toBe(large);
      for (const error of await Promise.all(others)) expect(error).toBeInstanceOf(WorkerDiedError);
    }
    expect(bus.stats().protocolErrors).toBe(0);
  }, 20_000);

  test("an idempotent request is sent to another worker, once", async () => {
    await using bus = await running({ pools: [worker({ instances: 2, ...soon })] });
    const waits = bus.request<number>("late", 300, { idempotent: true });
    const busy = bus.stats().workers.find(({ inFlight }) => inFlight === 1)!;
    process.kill(busy.pid, "SIGKILL");
    expect(await waits).toBe(300);
    const error = await rejection<WorkerDiedError>(bus.request("die", "kill", { idempotent: true }));
    expect(error).toBeInstanceOf(WorkerDiedError); // it has killed two of them
    expect(error.report!.signal).toBe("SIGKILL");
    await until(() => bus.workers.length === 2, "both workers again");
    expect(bus.stats().workerRestarts).toBe(3);
  });

  test("while workers are killed under load every request settles once, with its own answer or one error", async () => {
    await using bus = await running({
      pools: [worker({ instances: 3, restart: { maxRestarts: Infinity, backoff: { initial: 1, max: 5 } } })],
      queue: { limit: 100_000 },
    });
    let settled = 0;
    let failed = 0;
    const total = 3_000;
    const load = Array.from({ length: 30 }, async (_, lane) => {
      for (let i = lane; i < total; i += 30) {
        const idempotent = i % 2 === 0;
        await bus.request<number>("echo", i, { idempotent, timeout: 10_000 }).then(
          (value) => expect(value).toBe(i),
          (error) => {
            failed++;
            expect(error).toBeInstanceOf(WorkerDiedError);
          },
        );
        settled++;
      }
    });
    const killer = (async () => {
      for (let kills = 0; kills < 10 && settled < total; kills++) {
        const before = settled;
        await until(() => settled > before + 50 || settled === total, "progress");
        const living = bus.stats().workers.filter(({ pid }) => lives(pid)); // an exit may not be known yet
        if (living.length > 0) process.kill(living[kills % living.length]!.pid, "SIGKILL");
      }
    })();
    await Promise.all([...load, killer]);
    expect(settled).toBe(total);
    expect(bus.stats().workerRestarts).toBeGreaterThan(3);
    expect(failed).toBeLessThan(total / 2);
    expect([bus.stats().inFlight, bus.stats().waiting]).toEqual([0, 0]);
  }, 30_000);

  test("when all workers are paused, waiting and new requests are rejected at once; later they are answered again", async () => {
    const events: string[] = [];
    const errors: SlotbusError[] = [];
    const restart = { maxRestarts: 1, backoff: { initial: 40, factor: 10, jitter: 0 }, healthyAfter: 100 };
    await using bus = await running(
      { pools: [worker({ instances: 2, restart, concurrency: 1 })] },
      {
        paused: (error, pool) => (errors.push(error), events.push(`paused ${pool} ${error.report!.exitCode}`)),
        resumed: (pool) => events.push(`resumed ${pool}`),
      },
    );
    const bad = Array.from({ length: 4 }, () => rejection(bus.request("die", "exit")));
    const waits = rejection<NoWorkerError>(bus.request("echo", 1));
    for (const error of await Promise.all(bad)) expect(error).toBeInstanceOf(WorkerDiedError);
    expect(await waits).toBeInstanceOf(NoWorkerError);
    const late = await rejection<NoWorkerError>(bus.request("echo", 2));
    expect([late.retryable, late.mayHaveExecuted]).toEqual([true, false]);
    expect((late.cause as WorkerFailedError).report!.exitCode).toBe(3);
    expect(bus.stats().paused).toEqual(["a"]);
    await until(() => bus.workers.length === 2 && bus.stats().paused.length === 0, "both are back");
    expect(await bus.request("echo", 3)).toBe(3);
    await until(() => events.length === 2, "the events");
    expect(events).toEqual(["paused a 3", "resumed a"]);
    expect(errors.map(({ code }) => code)).toEqual(["WORKER_FAILED"]);
  }, 30_000);

  test("with giveUp, when all workers are given up, waiting and new requests are rejected with the reason", async () => {
    const errors: SlotbusError[] = [];
    await using bus = await running(
      { pools: [worker({ restart: { maxRestarts: 0, giveUp: true }, concurrency: 1 })] },
      { failed: (error) => errors.push(error) },
    );
    const died = rejection(bus.request("die", "exit"));
    const waits = rejection<NoWorkerError>(bus.request("echo", 1));
    expect(await died).toBeInstanceOf(WorkerDiedError);
    expect(await waits).toBeInstanceOf(NoWorkerError);
    expect((await waits).message).toContain('Pool "a"');
    const late = await rejection<NoWorkerError>(bus.request("echo", 2));
    expect(late).toBeInstanceOf(NoWorkerError);
    expect((late.cause as WorkerDiedError).report!.exitCode).toBe(3);
    expect(errors.map(({ code }) => code)).toEqual(["WORKER_FAILED"]);
    await bus.resize("a", 1); // they start again
    expect(await bus.request("echo", 3)).toBe(3);
    expect(bus.stats().workers.map(({ worker: id, life }) => [id, life])).toEqual([[0, 2]]);
  });

  test("a worker that closes its output and lives on is replaced", async () => {
    await using bus = await running({ pools: [odd(soon, "stubborn")] });
    const pid = await bus.request<number>("pid");
    const error = await rejection<WorkerDiedError>(bus.request("closeOutput"));
    expect(error).toBeInstanceOf(WorkerDiedError);
    expect(await bus.request<number>("pid")).not.toBe(pid);
  }, 20_000);

  test("events report starts and exits of workers, and whether the bus requested the exit", async () => {
    const events: unknown[] = [];
    const tell =
      (event: string) =>
      ({ pool, worker: index, life, pid }: LinkIdentity, report?: ExitReport) =>
        events.push([event, pool, index, life, pid, report?.signal ?? report?.exitCode]);
    const listeners = { joined: tell("joined"), left: tell("left"), died: tell("died") };
    const bus = await running({ pools: [worker(soon)] }, listeners);
    const first = await bus.request<number>("pid");
    await rejection(bus.request("die", "kill"));
    const second = await bus.request<number>("pid");
    await bus.close();
    await until(() => events.length === 4, "the last event");
    expect(events).toEqual([
      ["joined", "a", 0, 1, first, undefined],
      ["died", "a", 0, 1, first, "SIGKILL"],
      ["joined", "a", 0, 2, second, undefined],
      ["left", "a", 0, 2, second, 0],
    ]);
  });

  test("without listeners, a pause is one warning and its end another", async () => {
    const program = `
      import { StdioBus } from ${JSON.stringify(join(import.meta.dir, "../src/stdio/index.ts"))};
      const restart = { maxRestarts: 0, backoff: { initial: 1, jitter: 0 }, healthyAfter: 50 };
      const { command, args } = ${JSON.stringify(worker())};
      await using bus = await StdioBus.start({ pools: [{ id: "a", command, args, restart }] });
      await bus.request("die", "exit").catch(() => {});
      while (bus.stats().paused.length === 0 && bus.workers.length === 0) await Bun.sleep(1);
      while (bus.stats().paused.length > 0) await Bun.sleep(1);`;
    const child = Bun.spawn([process.execPath, "-e", program], { stdio: ["ignore", "inherit", "pipe"] });
    const lines = (await child.stderr.text()).split("\n").filter((line) => line.includes("paused"));
    expect(lines).toEqual([
      expect.stringContaining('pool "a"'),
      expect.stringContaining('Pool "a" is no longer paused'),
    ]);
    expect(await child.exited).toBe(0);
  });

  test("a worker is replaced after some timeouts in a row; an answer, even a late one, resets the count", async () => {
    const pools = [worker({ maxTimeouts: 3, stop: { drain: 1, endOfInput: 1, term: 1 } })];
    await using bus = await running({ pools });
    const late = async (ms: number): Promise<void> =>
      expect(await rejection(bus.request("late", ms, { timeout: 20 }))).toBeInstanceOf(RequestTimeoutError);
    const pid = await bus.request<number>("pid");
    for (let i = 0; i < 3; i++) {
      await late(100_000);
      await late(100_000);
      expect(await bus.request("echo", i)).toBe(i);
    }
    await late(100_000);
    await late(300);
    await until(() => bus.stats().late === 1, "the late answer");
    await late(100_000);
    await late(100_000);
    expect([bus.stats().workers.map((of) => of.pid), await bus.request<number>("pid")]).toEqual([[pid], pid]);
    for (let i = 0; i < 3; i++) await late(100_000);
    await until(() => !isAlive(pid), "the end of the worker that hangs");
    expect(await bus.request<number>("pid")).not.toBe(pid);
    expect(bus.stats().workerRestarts).toBe(0); // it was replaced
  });
});

describe("invalid output", () => {
  const base64 = (text: string | Uint8Array): string => Buffer.from(text as string).toString("base64");

  test("stray lines are counted and reported, and requests are answered as usual", async () => {
    const errors: [string, number | undefined][] = [];
    await using bus = await running(
      { pools: [odd()] },
      { fault: (error, from) => errors.push([error.code, from.pid]) },
    );
    const pid = await bus.request<number>("pid");
    const strays = [
      "hello\n",
      "42\n",
      "null\n",
      '"text"\n',
      "{}\n",
      '{"id":{}}\n',
      "\n  \n",
      '{"jsonrpc":"2.0","id":9999,"result":1}\n',
    ];
    await bus.notify("write", base64(strays.join("")));
    expect(await bus.request<number>("pid")).toBe(pid);
    expect(bus.stats().protocolErrors).toBe(7);
    expect(errors).toEqual(Array.from({ length: 7 }, () => ["PROTOCOL", pid]));
  });

  test("an answer that is too long, not UTF-8 or not JSON fails its own request, and the next is answered", async () => {
    await using bus = await running({ pools: [odd({ messageBytes: 10_000 })] });
    const texts = [
      `{"jsonrpc":"2.0","id":1,"result":"${"x".repeat(200_000)}"}\n`,
      Buffer.concat([Buffer.from('{"id":2,"result":"'), Buffer.of(0xff), Buffer.from('"}\n')]),
      '{"id":3,"result":NaN}\n',
      `{"result":"${"y".repeat(20_000)}","id":4}\n`,
    ];
    for (const text of texts) {
      const error = await rejection<SlotbusError>(bus.request("write", base64(text), { timeout: 5_000 }));
      expect(error).toMatchObject({ code: "PROTOCOL" });
      expect(error.mayHaveExecuted).toBe(true);
    }
    expect(await bus.request("echo", "after")).toBe("after");
    expect([bus.stats().protocolErrors, bus.stats().inFlight, bus.stats().workerRestarts]).toEqual([4, 0, 0]);
  });

  test("a response with neither result nor error, or with both, fails its own request at once", async () => {
    const errors: string[] = [];
    await using bus = await running({ pools: [odd()] }, { fault: ({ message }) => errors.push(message) });
    const wrong = [
      ['{"jsonrpc":"2.0","id":1}', "neither `result` nor `error`"],
      ['{"id":2,"error":null}', "neither `result` nor `error`"],
      ['{"id":3,"reslut":1,"method":null}', "neither `result` nor `error`"],
      ['{"id":4,"result":1,"error":{"code":1,"message":"no"}}', "both `result` and `error`"],
    ] as const;
    for (const [line, what] of wrong) {
      const error = await rejection<SlotbusError>(bus.request("write", base64(`${line}\n`)));
      expect(error).toMatchObject({ code: "PROTOCOL" });
      expect(error.message).toContain(`answered write with ${what}`);
      expect(error.mayHaveExecuted).toBe(true);
    }
    expect(await rejection(bus.send({ id: "x", method: "write", params: base64('{"id":5}\n') }))).toMatchObject({
      code: "PROTOCOL",
    });
    // One of the two members may be null, as in JSON-RPC 1.0.
    const write = (line: string): Promise<unknown> => bus.request("write", base64(`${line}\n`));
    expect(await write('{"id":6,"result":[1],"error":null}')).toEqual([1]);
    expect(await write('{"id":7,"result":null,"error":null}')).toBeNull();
    expect(await rejection(write('{"id":8,"result":null,"error":{"code":7,"message":"no"}}'))).toBeInstanceOf(RpcError);
    expect(await bus.request("echo", "after")).toBe("after");
    const { protocolErrors, inFlight, late } = bus.stats();
    expect([protocolErrors, errors.length, inFlight, late]).toEqual([5, 5, 0, 0]);
  });

  test("a response whose id is the request's number as text fails that request at once; other ids are counted", async () => {
    const errors: string[] = [];
    await using bus = await running({ pools: [odd()] }, { fault: ({ message }) => errors.push(message) });
    const error = await rejection<SlotbusError>(bus.request("write", base64('{"id":"1","result":1}\n')));
    expect(error).toMatchObject({ code: "PROTOCOL" });
    expect(error.message).toContain('answered write with the id "1" as text');
    const strays = ['{"id":"x","result":1}', '{"id":99,"result":1}', '{"id":1.5,"result":1}', '{"id":[2],"result":1}'];
    strays.push('{"result":1}', '{"id":null,"error":{"code":-32700,"message":"cannot read this"}}');
    const pending = bus.request("write", base64(`${strays.join("\n")}\n`)); // answered by none of these
    await until(() => bus.stats().protocolErrors === 7, "all are counted");
    expect(errors.at(-1)).toContain("cannot read this");
    await bus.notify("write", base64('{"id":2,"result":"its own"}\n{"id":2,"result":"again"}\n'));
    expect(await pending).toBe("its own");
    await until(() => bus.stats().late === 1, "the second answer");
    expect([bus.stats().protocolErrors, errors.length, bus.stats().inFlight]).toEqual([7, 7, 0]);
  });

  test('with onFault "restart" the worker is replaced', async () => {
    await using bus = await running({ pools: [odd(soon)], onFault: "restart" });
    const pid = await bus.request<number>("pid");
    const error = await rejection<WorkerDiedError>(bus.request("write", base64("oops\n")));
    expect(error.report!.signal).toBe("SIGKILL");
    expect(await bus.request<number>("pid")).not.toBe(pid);
  });

  test("an answer in single bytes, which cut every character, arrives whole", async () => {
    await using bus = await running({ pools: [odd()] });
    expect(await bus.request("pieces", { text: "ä€😀" })).toEqual({ text: "ä€😀" });
  });

  test("a second answer to one request is counted as late, and so is one after the timeout", async () => {
    await using bus = await running({ pools: [odd(), worker({ id: "b" })] });
    expect(await bus.request("answerTwice", 0, { pool: "a" })).toBe(1);
    await bus.request("pid", 0, { pool: "a" });
    expect(bus.stats().late).toBe(1);
    await rejection(bus.request("late", 100, { pool: "b", timeout: 20 }));
    await until(() => bus.stats().late === 2, "the late answer");
    expect([bus.stats().protocolErrors, bus.stats().inFlight]).toEqual([0, 0]);
  });
});

describe("requests and notifications of workers", () => {
  test("a worker's request is answered by its handler, an error with its code and data; others are -32601", async () => {
    await using bus = await running({ pools: [odd()] });
    bus.onRequest("add", (params, { method, pool, worker: index }) => [
      (params as number[])[0]! + 1,
      method,
      pool,
      index,
    ]);
    bus.onRequest("refuse", () => {
      throw new RpcError(7, "not you", { why: 1 });
    });
    const ask = (id: number | string, method: string, params?: unknown): Promise<unknown> =>
      bus.request("ask", { id, method, params });
    // Its id equals the request's that it answers meanwhile: each side has its own ids.
    expect(await ask(1, "add", [1])).toEqual({ answer: { jsonrpc: "2.0", id: 1, result: [2, "add", "a", 0] } });
    expect(await ask("x", "refuse")).toEqual({
      answer: { jsonrpc: "2.0", id: "x", error: { code: 7, message: "not you", data: { why: 1 } } },
    });
    expect(await ask(2, "nope")).toMatchObject({ answer: { error: { code: -32_601 } } });
    const remove = bus.onRequest("*", (_, { method }) => `any ${method}`);
    expect(await ask(3, "nope")).toMatchObject({ answer: { result: "any nope" } });
    remove();
    expect(await ask(4, "nope")).toMatchObject({ answer: { error: { code: -32_601 } } });
    expect(() => bus.onRequest("add", () => 1)).toThrow(InvalidConfigError);
  });

  test("a handler's signal aborts when its worker cancels or ends", async () => {
    await using bus = await running({ pools: [odd(soon)] });
    const reasons: unknown[] = [];
    bus.onRequest("slow", async (_, { signal }) => {
      await new Promise((done) => signal.addEventListener("abort", done));
      reasons.push(signal.reason);
      throw signal.reason;
    });
    expect(await bus.request("askAndGiveUp")).toMatchObject({
      answer: { error: { message: "The worker cancelled the request." } },
    });
    const pending = rejection(bus.request("ask", { id: 1, method: "slow" }));
    await bus.request("echo", 1);
    process.kill(bus.stats().workers[0]!.pid, "SIGKILL");
    expect(await pending).toBeInstanceOf(WorkerDiedError);
    await until(() => reasons.length === 2, "the second abort");
    expect(reasons[1]).toBeInstanceOf(WorkerDiedError);
  });

  test("each subscription gets notifications from its start on, by method and pool, and ends with the bus", async () => {
    const bus = await running({ pools: [odd({ id: "x" }), odd({ id: "y" })] });
    await bus.request("flood", 3, { pool: "x" });
    const all = bus.subscribe();
    const x = bus.subscribe({ pool: "x", method: "flood" });
    const other = bus.subscribe({ method: "other" });
    await bus.request("flood", 2, { pool: "x" });
    await bus.request("flood", 1, { pool: "y" });
    await bus.close();
    const read = async (subscription: typeof all): Promise<unknown[]> => {
      const found: unknown[] = [];
      for await (const { pool, params } of subscription) found.push([pool, params]);
      return found;
    };
    const told = [
      ["x", 0],
      ["x", 1],
    ];
    expect(await read(all)).toEqual([...told, ["y", 0]]);
    expect(await read(x)).toEqual(told);
    expect(await read(other)).toEqual([]);
    expect(all.closed).toBe(true);
  });

  test('a full queue drops as its policy says, and counts; "close" ends behind what it has', async () => {
    await using bus = await running({ pools: [odd()] });
    const newest = bus.subscribe({ queue: { limit: 3, policy: "drop-newest" } });
    const oldest = bus.subscribe({ queue: { limit: 3, policy: "drop-oldest" } });
    const closing = bus.subscribe({ queue: { limit: 3, policy: "close" } });
    await bus.request("flood", 10);
    const take = async (from: typeof newest): Promise<unknown[]> => {
      const found = [];
      while (from.queued > 0) found.push((await from.next()).value!.params);
      return found;
    };
    expect([await take(newest), newest.lost]).toEqual([[0, 1, 2], 7]);
    expect([await take(oldest), oldest.lost]).toEqual([[7, 8, 9], 7]);
    expect([await take(closing), closing.lost, closing.closed]).toEqual([[0, 1, 2], 0, true]);
    expect(await rejection(closing.next())).toBeInstanceOf(EventsLostError);
    expect((await closing.next()).done).toBe(true);
    expect(bus.stats().lost).toBe(14);
  });

  test('with "block" a worker is not read on while the queue is full: nothing is lost, and little is kept', async () => {
    await using bus = await running({ pools: [odd()] });
    const subscription = bus.subscribe({ queue: { limit: 10, policy: "block" } });
    const total = 50_000;
    const done = bus.request("flood", total, { timeout: 60_000 });
    let most = 0;
    let bytes = -1;
    while (bytes <= 0 || bytes !== bus.stats().bytesOut) {
      bytes = bus.stats().bytesOut;
      await Bun.sleep(200); // the pipe fills, and then nothing moves
    }
    expect(bytes).toBeLessThan(256 * 1_024);
    for (let i = 0; i < total; i++) {
      const { value } = await subscription.next();
      expect(value!.params).toBe(i);
      most = Math.max(most, subscription.queued);
    }
    expect(await done).toBe(total);
    expect(most).toBe(10);
    expect([subscription.lost, bus.stats().lost]).toEqual([0, 0]);
  }, 30_000);

  test('with "block" nothing that a worker told is lost when it ends or the bus stops, however late it is read', async () => {
    const bus = await running({ pools: [odd(soon)] });
    const subscription = bus.subscribe({ queue: { limit: 5, policy: "block" } });
    using place = folder();
    const file = join(place.path, "written");
    const flood = rejection<WorkerDiedError>(bus.request("floodAndTell", file));
    await until(() => subscription.queued === 5, "a full queue");
    await until(() => existsSync(file), "it has written all of it: less than its pipe holds");
    process.kill(bus.stats().workers[0]!.pid, "SIGKILL");
    expect(await flood).toBeInstanceOf(WorkerDiedError); // its answer was written, and could not be read in time
    for (let i = 0; i < 400; i++) expect((await subscription.next()).value!.params).toBe(i);
    expect(bus.stats().late).toBeLessThanOrEqual(1);
    const again = bus.request("flood", 300);
    await until(() => subscription.queued === 5, "a full queue again");
    const stopping = bus.close();
    expect(await again).toBe(300);
    await stopping;
    const rest: unknown[] = [];
    for await (const { params } of subscription) rest.push(params);
    expect(rest).toEqual(Array.from({ length: 300 }, (_, i) => i));
    expect([subscription.lost, bus.closed]).toEqual([0, true]);
  });

  test("while `concurrency` handlers run for a worker it is not read, and then all its requests are answered", async () => {
    await using bus = await running({ pools: [odd()], concurrency: 3 });
    let active = 0;
    let most = 0;
    bus.onRequest("slow", async (params) => {
      most = Math.max(most, ++active);
      await Bun.sleep(2);
      active--;
      return params;
    });
    expect(await bus.request("askMany", 100)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(most).toBe(3);
  });

  test("leaving the loop, close and an abort end a subscription; a worker blocked by its reader continues", async () => {
    await using bus = await running({ pools: [odd()] });
    const controller = new AbortController();
    const aborted = bus.subscribe({ signal: controller.signal });
    const blocked = bus.subscribe({ queue: { limit: 1, policy: "block" } });
    const flood = bus.request("flood", 100);
    for await (const { params } of blocked) if (params === 3) break;
    expect(await flood).toBe(100);
    expect(aborted.queued).toBe(100);
    controller.abort(new Error("enough"));
    expect((await rejection(aborted.next())).message).toBe("enough");
    expect([aborted.lost, (await aborted.next()).done]).toEqual([100, true]);
    expect(() => bus.subscribe({ queue: { limit: 0 } })).toThrow(InvalidConfigError);
    expect(() => bus.subscribe({ queue: { policy: "none" as "close" } })).toThrow(InvalidConfigError);
    expect(() => bus.subscribe({ pool: "z" })).toThrow(expect.objectContaining({ code: "UNKNOWN_POOL" }));
  });
});

describe("backpressure", () => {
  test("a worker has at most `concurrency` requests; more wait in order, up to the limit of the queue", async () => {
    await using bus = await running({ pools: [worker()], concurrency: 2, queue: { limit: 3 } });
    const order: number[] = [];
    const calls = Array.from({ length: 5 }, (_, i) => bus.request("late", 20).then(() => order.push(i)));
    const error = await rejection<BusOverloadedError>(bus.request("echo", 1));
    expect(error).toBeInstanceOf(BusOverloadedError);
    expect([error.retryable, error.mayHaveExecuted]).toEqual([true, false]);
    expect([bus.stats().inFlight, bus.stats().waiting]).toEqual([2, 3]);
    await Promise.all(calls);
    expect(order).toEqual([0, 1, 2, 3, 4]);
    expect(await bus.request("echo", 2)).toBe(2);
  });

  test("calls with a key wait for their own worker, and calls without one pass them", async () => {
    await using bus = await running({ pools: [worker({ instances: 2 })], concurrency: 1 });
    const key = "k";
    const pid = await bus.request<number>("pid", 0, { key });
    const slow = bus.request("late", 200, { key });
    const waits = bus.request<number>("pid", 0, { key });
    expect(await bus.request<number>("pid")).not.toBe(pid);
    expect(bus.stats().waiting).toBe(1);
    expect([await slow, await waits]).toEqual([200, pid]);
  });

  test("a call with a key does not pass an earlier one, even when an answer makes room for both", async () => {
    await using bus = await running({ pools: [odd({ concurrency: 1 })] });
    const send = (id: number, answered = (): void => {}): Promise<unknown> =>
      new Promise((resolve, reject) => {
        const done = (value: unknown): void => (answered(), resolve(value));
        bus.forward({ id, method: "echo", params: id }, { key: "k" }, done, reject);
      });
    let third: Promise<unknown> | null = null;
    await Promise.all([send(1, () => (third = send(3))), send(2)]);
    await third;
    const seen = await bus.request<{ method: string; params: unknown }[]>("seen");
    expect(seen.filter(({ method }) => method === "echo").map(({ params }) => params)).toEqual([1, 2, 3]);
  });

  test("for a worker that reads nothing, 10 000 messages of 1 KiB fill the credit and use no more memory", async () => {
    const queuedBytes = 256 * 1_024;
    await using bus = await running({
      pools: [odd({ stop: { drain: 0, endOfInput: 0, term: 0 } }, "deaf")],
      queuedBytes,
      concurrency: 65_536,
      queue: { policy: "wait" },
    });
    const params = "x".repeat(1_024);
    const calls: Promise<SlotbusError>[] = [];
    let most = 0;
    while (calls.length < 10_000) {
      for (let i = 0; i < 100; i++) calls.push(rejection(bus.request("echo", params)));
      await new Promise((done) => setImmediate(done)); // each batch is a separate write, until the pipe is full
      most = Math.max(most, bus.stats().workers[0]!.queuedBytes);
    }
    expect(most).toBeWithin(queuedBytes / 2, queuedBytes + 2_048);
    expect(bus.stats().bytesIn).toBeLessThan(queuedBytes + 512 * 1_024); // and the pipe's own buffer
    expect(bus.stats().waiting).toBeGreaterThan(9_000);
    await bus.close();
    const codes = Map.groupBy(await Promise.all(calls), ({ code }) => code);
    expect([...codes.keys()].sort()).toEqual(["CLOSED", "WORKER_DIED"]);
    expect([bus.stats().inFlight, bus.stats().waiting]).toEqual([0, 0]);
  });

  test("a notification waits for room as a request does", async () => {
    await using bus = await running({ pools: [worker()], queuedBytes: 1_024 });
    const large = "x".repeat(100_000);
    await Promise.all(Array.from({ length: 50 }, () => bus.notify("echo", large)));
    expect(await bus.request("echo", 1)).toBe(1);
    expect(bus.stats().messagesIn).toBe(51);
  });

  test("a request of megabytes to a slow reader does not block this process", async () => {
    await using bus = await running({ pools: [worker()] });
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const large = "x".repeat(8 * 2 ** 20);
    expect(await bus.request("echo", large)).toBe(large);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(2);
  });

  test("a request with timeout 0 is refused at once and not sent; a notification goes out if there is room", async () => {
    await using bus = await running({ pools: [worker({ concurrency: 1 })] });
    await bus.notify("echo", 1, { timeout: 0 });
    const error = await rejection<RequestTimeoutError>(bus.request("echo", 1, { timeout: 0 }));
    expect(error).toBeInstanceOf(RequestTimeoutError);
    expect([error.mayHaveExecuted, bus.stats().messagesIn]).toEqual([false, 1]);
    const slow = bus.request("late", 100, { timeout: Infinity });
    const refused = await rejection<RequestTimeoutError>(bus.notify("echo", 1, { timeout: 0 }));
    expect(refused).toBeInstanceOf(RequestTimeoutError);
    expect([bus.stats().messagesIn, bus.stats().inFlight, bus.stats().waiting, await slow]).toEqual([2, 1, 0, 100]);
  });

  test("a timeout leaves nothing behind, and the worker takes the next request", async () => {
    await using bus = await running({ pools: [worker()], concurrency: 4 });
    const calls = Array.from({ length: 12 }, () =>
      rejection<RequestTimeoutError>(bus.request("wait", 0, { timeout: 50 })),
    );
    const errors = await Promise.all(calls);
    expect(errors.map(({ mayHaveExecuted }) => mayHaveExecuted).filter(Boolean).length).toBeWithin(4, 13);
    expect(errors.every((error) => error instanceof RequestTimeoutError)).toBe(true);
    expect([bus.stats().inFlight, bus.stats().waiting]).toEqual([0, 0]);
    expect(await bus.request("echo", 1)).toBe(1);
    expect(await bus.request<number>("aborts")).toBeGreaterThanOrEqual(4);
  });
});

describe("statistics", () => {
  test("all eight counters count, and the other fields are there", async () => {
    await using bus = await running({ pools: [worker()] });
    for (let i = 0; i < 100; i++) await bus.request("echo", i);
    const stats = bus.stats();
    expect(stats).toMatchObject({
      messagesIn: 100,
      workerRestarts: 0,
      routingErrors: 0,
      clientConnects: 0,
      clientRefusals: 0,
      clientDisconnects: 0,
      inFlight: 0,
      lost: 0,
      late: 0,
      protocolErrors: 0,
    });
    expect(stats.messagesOut).toBe(101); // and its ready message
    expect(stats.bytesIn).toBe(
      [...Array(100).keys()].reduce(
        (sum, i) => sum + `{"jsonrpc":"2.0","id":${i + 1},"method":"echo","params":${i}}\n`.length,
        0,
      ),
    );
    expect(stats.bytesOut).toBeGreaterThan(3_000);
    expect(stats.p50).toBeGreaterThan(0);
    expect(stats.p99).toBeGreaterThanOrEqual(stats.p50);
  });

  test("10 000 requests, answered, refused, aborted and late, leave nothing in memory", async () => {
    await using bus = await running({ pools: [worker({ instances: 2 })] });
    const { signal } = new AbortController(); // shared by all requests: each must remove its listener
    const round = async (): Promise<number> => {
      for (let i = 0; i < 100; i++) {
        const aborted = new AbortController();
        const calls: Promise<unknown>[] = Array.from({ length: 97 }, (_, n) =>
          bus.request("echo", n, { signal, key: `${n}` }),
        );
        calls.push(rejection(bus.request("fail", i, { signal, onProgress: () => {} })));
        calls.push(rejection(bus.request("wait", i, { signal: aborted.signal })));
        calls.push(rejection(bus.request("late", 1_000, { signal, timeout: 1 })));
        aborted.abort();
        await Promise.all(calls);
      }
      await until(() => bus.stats().inFlight === 0, "all answers");
      Bun.gc(true);
      return heapStats().objectCount;
    };
    await round();
    const before = await round();
    expect((await round()) - before).toBeLessThan(2_000);
    expect(bus.stats()).toMatchObject({ inFlight: 0, waiting: 0, protocolErrors: 0 });
  }, 30_000);

  test("starting and closing leaves no descriptor, process or timer behind", async () => {
    const cycle = async (): Promise<void> => {
      const bus = await StdioBus.start({ pools: [{ id: "a", command: "cat", instances: 2 }] });
      await bus.notify("x");
      for (const report of await bus.close()) expect([report.exitCode, isAlive(report.pid)]).toEqual([0, false]);
      expect(bus.stats()).toMatchObject({ messagesIn: 1, workerRestarts: 0, workers: [] });
    };
    await cycle();
    const before = descriptors();
    for (let i = 0; i < 20; i++) await cycle();
    await until(() => descriptors() <= before, "no more descriptors than before");
  }, 20_000);

  test("it works without the C library", async () => {
    const program = `
      const { StdioBus } = await import(${JSON.stringify(join(import.meta.dir, "../src/stdio/index.ts"))});
      await using bus = await StdioBus.start({ pools: [{ id: "a", command: process.execPath, args: [${JSON.stringify(join(import.meta.dir, "fixtures/stdio-worker.ts"))}] }] });
      console.log(await bus.request("echo", "without"));
      console.log(Object.keys(require.cache).filter((file) => /src.(bus|native.library)/.test(file)).length);`;
    const child = Bun.spawn([process.execPath, "-e", program], {
      env: { ...process.env, SLOTBUS_LIB: "/nowhere/libslotbus.so" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect([output, errors.replace(/^.*slotbus-launcher.*$/m, "").trim()]).toEqual(["without\n0\n", ""]);
    expect(await child.exited).toBe(0);
  });
});
