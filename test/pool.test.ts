/** Functions of a module in processes: calls, values, errors, crashes, time limits, streams, the number and age of processes. */

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  ClosedError,
  InvalidConfigError,
  NoWorkerError,
  PayloadTooLargeError,
  RemoteError,
  RequestTimeoutError,
  SlotbusError,
  WorkerDiedError,
  WorkerFailedError,
  WorkerStartError,
} from "../src/index.ts";
import { Pool, type PoolOptions, task } from "../src/pool/index.ts";
import { lives } from "./line-transport.ts";
import { pattern, rejection, same, until, Workspace } from "./support.ts";

type Work = typeof import("./fixtures/pool-work.ts");
const work = join(import.meta.dir, "fixtures/pool-work.ts");
const broken = join(import.meta.dir, "fixtures/pool-broken.ts");

/** A pool of one process, in the directory of `space`. Its processes' standard error is not shown. */
async function start<M = Work>(space: Workspace, options: Partial<PoolOptions> = {}): Promise<Pool<M>> {
  const pool = await Pool.start<M>({ module: work, max: 1, directory: space.directory, ...options });
  pool.on("log", () => {});
  return pool;
}

const text = (file: string): string => readFileSync(file, "utf8");
const textOr = (file: string): string => {
  try {
    return text(file);
  } catch {
    return "";
  }
};

describe("a call", () => {
  test("runs an exported function in another process, which is ready when start resolves", async () => {
    await using space = new Workspace();
    await using pool = await start(space, {
      module: new URL("./fixtures/pool-work.ts", import.meta.url),
      min: 2,
      max: 2,
    });
    const pids = pool.stats().processes.map(({ pid }) => pid);
    expect(new Set(pids).size).toBe(2);
    expect(await pool.run("add", [2, 3])).toBe(5);
    const pid = await pool.run("pid", []);
    expect(pids).toContain(pid);
    expect(pid).not.toBe(process.pid);
    expect(pool.stats()).toMatchObject({ completed: 2, failed: 0, running: 0, queued: 0 });
  });

  test("copies what structured clone copies, and large buffers exactly", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    const shared = { id: 1n };
    const value = { at: new Date(7), map: new Map([["a", new Set([1])]]), twice: [shared, shared], none: undefined };
    const echoed = await pool.run("echo", [value]);
    expect(echoed).toEqual(value);
    expect((echoed as typeof value).twice[0]).toBe((echoed as typeof value).twice[1]);
    const bytes = pattern(3_000_001);
    for (const sent of [bytes, Buffer.from(bytes), bytes.subarray(1_000_000, 2_000_001)]) {
      const got = (await pool.run("echo", [sent])) as Uint8Array;
      expect([got.constructor, got.byteOffset, got.buffer.byteLength]).toEqual([Uint8Array, 0, sent.length]);
      expect(same(got, sent)).toBe(true);
    }
    const doubles = Float64Array.from({ length: 10_000 }, (_, i) => i / 3);
    expect(await pool.run("echo", [doubles])).toEqual(doubles);
    expect(same(new Uint8Array((await pool.run("echo", [bytes.buffer])) as ArrayBuffer), bytes)).toBe(true);
    const views = [bytes.subarray(0, 100_000), bytes.subarray(50_000, 150_000)] as const;
    const both = (await pool.run("echo", [views])) as typeof views;
    expect(both[0].buffer).toBe(both[1].buffer); // inside of a value, views of one buffer still share it
    expect(await pool.run("share", views)).toBe(true); // and so do arguments
    expect(await pool.run("share", [bytes.slice(0, 100_000), bytes.slice(0, 100_000)])).toBe(false);
    const changed = bytes.slice(0, 100_000);
    const sent = pool.run("echo", [changed]);
    changed.fill(0); // the call has a snapshot
    expect(same((await sent) as Uint8Array, bytes.subarray(0, 100_000))).toBe(true);
    const blob = (await pool.run("echo", [new Blob([bytes])])) as Blob;
    expect(same(await blob.bytes(), bytes)).toBe(true);
  });

  test("has its name, id, deadline and signal in the task, and nowhere else", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    const { name, id, left } = await pool.run("call", [], { timeout: 60_000 });
    expect([name, id]).toEqual(["call", "call#1"]);
    expect(left).toBeGreaterThan(50_000);
    expect(left).toBeLessThanOrEqual(60_001);
    expect((await pool.run("call", [])).left).toBe(Infinity);
    expect(task).toThrow(InvalidConfigError);
  });

  test("has the environment of the pool, without the variable that made its process a process of the pool", async () => {
    await using space = new Workspace();
    await using pool = await start(space, { env: { COLOUR: "red" } });
    expect(await Promise.all([pool.run("variable", ["COLOUR"]), pool.run("variable", ["SLOTBUS_POOL"])])).toEqual([
      "red",
      undefined,
    ]);
  });

  test("waits for a free process, and runs beside others when concurrency allows it", async () => {
    await using space = new Workspace();
    await using one = await start(space);
    await using many = await start(space, { concurrency: 8 });
    const first = one.run("wait", [300]);
    const second = one.run("wait", [0]);
    await until(() => one.stats().queued === 1, "a queued task");
    expect(one.stats().running).toBe(1);
    expect(await Promise.all([first, second])).toHaveLength(2);
    const all = Promise.all(Array.from({ length: 8 }, () => many.run("wait", [300])));
    await until(() => many.stats().running === 8, "eight running tasks");
    expect(new Set(await all).size).toBe(1);
  });
});

describe("errors", () => {
  test("of a task keep name, message, stack, causes and own fields", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    const error = await rejection<RemoteError>(pool.run("fail", ["quota"]));
    expect(error).toBeInstanceOf(RemoteError);
    expect([error.message, error.remoteName, error.mayHaveExecuted]).toEqual([
      "QuotaError: no quota left",
      "QuotaError",
      true,
    ]);
    const own = error.cause as Error & { code: string; left: object; retry?: unknown; cause: Error };
    expect([own.name, own.message, own.code]).toEqual(["QuotaError", "no quota left", "QUOTA"]);
    expect(own.left).toEqual({ today: 0, at: new Date(0) });
    expect(own.retry).toBeUndefined(); // a function
    expect(own.stack).toContain("pool-work.ts");
    expect([own.cause.message, own.cause.cause]).toEqual(["the disk", "is full"]);
    const type = await rejection<RemoteError>(pool.run("fail", ["type"]));
    expect(type.cause).toBeInstanceOf(TypeError);
    const many = (await rejection<RemoteError>(pool.run("fail", ["many"]))).cause as AggregateError;
    expect([many.errors[0].message, many.errors[1]]).toEqual(["first", 2]);
    const plain = await rejection<RemoteError>(pool.run("fail", ["text"]));
    expect([plain.message, plain.cause]).toEqual(['Error: The task threw "just text"', "just text"]);
    expect(pool.stats()).toMatchObject({ completed: 0, failed: 4, restarted: 0 });
  });

  test("of a wrong call say which function or value, before or without running anything", async () => {
    await using space = new Workspace();
    await using pool = await start<never>(space, { payloadBytes: 100_000 });
    const failed = (name: string, args: unknown): Promise<SlotbusError> =>
      rejection(pool.run(name as never, args as never) as Promise<unknown>);
    const near = await failed("ad", [1]);
    expect([near.code, near.hint, near.mayHaveExecuted]).toEqual(["UNKNOWN_FUNCTION", "Did you mean add?", false]);
    expect((await failed("answer", [])).code).toBe("UNKNOWN_FUNCTION"); // an export that is not a function
    expect((await failed("toString", [])).hint).toStartWith("It exports add, call,");
    expect(await failed("add", 1)).toBeInstanceOf(InvalidConfigError);
    expect(await failed(7 as never, [])).toBeInstanceOf(InvalidConfigError);
    const argument = await failed("echo", [1, [() => 1]]);
    expect([argument.code, argument.mayHaveExecuted]).toEqual(["NOT_CLONEABLE", false]);
    expect(argument.message).toStartWith("Argument 2 of echo cannot be copied to another process");
    const result = await failed("unclonable", []);
    expect([result.code, result.mayHaveExecuted]).toEqual(["NOT_CLONEABLE", true]);
    expect(result.message).toStartWith("The result of unclonable");
    expect(await failed("echo", [new Uint8Array(200_000)])).toBeInstanceOf(PayloadTooLargeError);
    expect((await failed("count", [1])).hint).toBe('Call pool.stream("count", …).');
    expect((await failed("squares", [1])).code).toBe("UNKNOWN_FUNCTION");
    expect(await rejection(pool.run("add" as never, [] as never, { time: 1 } as never))).toBeInstanceOf(
      InvalidConfigError,
    );
  });

  test("of options name the near option, or the file that does not exist", async () => {
    const failed = (options: object): Promise<SlotbusError> => rejection(Pool.start(options as PoolOptions));
    expect((await failed({ module: work, maximum: 1 })).message).toContain("a pool has no option");
    expect((await failed({ module: work, idl: 1 })).hint).toBe("Did you mean idle?");
    expect((await failed({})).message).toContain("module is undefined");
    expect((await failed({ module: "./nowhere.ts" })).message).toContain("a file that exists");
    expect((await failed({ module: Bun.main })).message).toContain("the program itself");
    expect((await failed({ module: work, min: 3, max: 2 })).message).toContain("max is 2");
  });
});

describe("a process that ends", () => {
  test("fails only its own task, with signal or exit code and the end of standard error; queued tasks run", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    for (const [how, exitCode, signal] of [
      ["exit", 3, null],
      ["SIGSEGV", null, "SIGSEGV"],
    ] as const) {
      const crash = rejection<WorkerDiedError>(pool.run("crash", [how]));
      const next = pool.run("add", [1, 1]);
      const error = await crash;
      expect(error).toBeInstanceOf(WorkerDiedError);
      expect([error.exitCode, error.signal, error.mayHaveExecuted]).toEqual([exitCode, signal, true]);
      expect(error.message).toMatch(/while request crash#\d+ was in flight/);
      expect(error.message).toContain(`about to end: ${how}`);
      expect(await next).toBe(2);
    }
    expect(pool.stats()).toMatchObject({ completed: 2, failed: 2, restarted: 2 });
  });

  test("is restarted as often as tasks crash it: crashes of tasks never pause a pool", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    let paused = 0;
    pool.on("paused", () => paused++);
    for (let i = 0; i < 8; i++) expect(await rejection(pool.run("crash", ["exit"]))).toBeInstanceOf(WorkerDiedError);
    expect(await pool.run("add", [1, 1])).toBe(2);
    expect([paused, pool.stats().restarted]).toEqual([0, 8]);
  }, 30_000);

  test("is an event, and so is each line of standard error", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    const lines: string[] = [];
    const ends: unknown[] = [];
    pool.on("log", (_, line) => lines.push(line));
    pool.on("died", ({ id }, { exitCode }) => ends.push([id, exitCode]));
    await rejection(pool.run("crash", ["exit"]));
    await until(() => ends.length === 1, "the event");
    expect([lines, ends]).toEqual([["about to end: exit"], [[0, 3]]]);
  });
});

test("standard error of processes appears on that of the program when nobody listens", async () => {
  await using space = new Workspace();
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "fixtures/pool-log.ts")], {
    env: { ...process.env, SLOTBUS_DIR: space.directory },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [out, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  expect([out, errors, await child.exited]).toEqual(["WORKER_DIED\n", "about to end: exit\n", 0]);
});

describe("time limits", () => {
  test("a task that blocks its process beyond its timeout is killed, and the next task runs in a new process", async () => {
    await using space = new Workspace();
    await using pool = await start(space, { kill: 100 });
    const before = await pool.run("pid", []);
    expect(await rejection(pool.run("spin", [], { timeout: 50 }))).toBeInstanceOf(RequestTimeoutError);
    expect(await pool.run("pid", [])).not.toBe(before);
    expect(lives(before)).toBe(false);
    expect(pool.stats()).toMatchObject({ killed: 1, restarted: 1 });
  });

  test("behind a task that runs on after its timeout, the next task gets a new process", async () => {
    await using space = new Workspace();
    await using pool = await start(space, { max: 2, kill: 60_000 });
    const before = await pool.run("pid", []);
    expect(await rejection(pool.run("spin", [], { timeout: 50 }))).toBeInstanceOf(RequestTimeoutError);
    expect(await pool.run("pid", [], { timeout: 10_000 })).not.toBe(before);
    expect(pool.stats()).toMatchObject({ killed: 0, restarted: 0 });
    process.kill(before, "SIGKILL");
  });

  test("an abort reaches the task's signal, and a task that obeys keeps its process", async () => {
    await using space = new Workspace();
    const file = join(space.directory, "aborted.txt");
    space.leftovers = ["aborted.txt"];
    await using pool = await start(space, { kill: 5_000 });
    const before = await pool.run("pid", []);
    const abort = new AbortController();
    const reason = new Error("no longer wanted");
    const running = rejection(pool.run("untilAborted", [file], { signal: abort.signal }));
    await until(() => textOr(file) === "started", "the task");
    abort.abort(reason);
    expect(await running).toBe(reason);
    await until(() => textOr(file) === "aborted: AbortError", "the signal of the task");
    expect(await pool.run("pid", [])).toBe(before);
    expect(pool.stats()).toMatchObject({ killed: 0, failed: 1 });
    expect(await rejection(pool.run("pid", [], { signal: abort.signal }))).toBe(reason);
  });

  test("an abort kills a task that ignores it, unless kill is Infinity", async () => {
    await using space = new Workspace();
    const file = join(space.directory, "waits.txt");
    space.leftovers = ["waits.txt"];
    await using pool = await start(space, { kill: 0 });
    await using patient = await start(space, { kill: Infinity, concurrency: 2 });
    const before = [await pool.run("pid", []), await patient.run("pid", [])];
    for (const one of [pool, patient]) {
      const abort = new AbortController();
      await Bun.write(file, "");
      const running = rejection(one.run("ignoreAbort", [file], { signal: abort.signal }));
      await until(() => text(file) === "started", "the task");
      abort.abort();
      await running;
    }
    expect(await pool.run("pid", [])).not.toBe(before[0]!);
    expect(await patient.run("pid", [])).toBe(before[1]!);
    expect([pool.stats().killed, patient.stats().killed]).toEqual([1, 0]);
  });

  test("a task that times out in the queue never runs, and nothing is killed", async () => {
    await using space = new Workspace();
    await using pool = await start(space, { kill: 0 });
    const first = pool.run("wait", [300]);
    const error = await rejection<RequestTimeoutError>(pool.run("wait", [0], { timeout: 20 }));
    expect([error.constructor, error.mayHaveExecuted]).toEqual([RequestTimeoutError, false]);
    expect(await first).toBeGreaterThan(0);
    expect(pool.stats().killed).toBe(0);
  });
});

describe("a stream", () => {
  test("yields the items of async and sync generators, in order, of any size", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    expect(await Array.fromAsync(pool.stream("count", [20_000]))).toEqual(Array.from({ length: 20_000 }, (_, i) => i));
    expect(await Array.fromAsync(pool.stream("squares", [4]))).toEqual([0, 1, 4, 9]);
    expect(await Array.fromAsync(pool.stream("count", [0]))).toEqual([]);
  });

  test("ends with the error of the generator, after its items", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    const sizes: number[] = [];
    const read = async (): Promise<void> => {
      for await (const bytes of pool.stream("failing", [])) sizes.push(bytes.length);
    };
    const error = await rejection<RemoteError>(read());
    expect([error.constructor, error.remoteName, sizes]).toEqual([RemoteError, "QuotaError", [200_000]]);
    expect((error.cause as { code: string }).code).toBe("QUOTA");
    const wrong = pool.stream("add" as never, [1, 2] as never);
    expect((await rejection<SlotbusError>(wrong.next())).hint).toBe('Call pool.run("add", …).');
  });

  test("stops the generator when the reader leaves, and makes it wait while the reader is slow", async () => {
    await using space = new Workspace();
    const file = join(space.directory, "made.txt");
    space.leftovers = ["made.txt"];
    await using pool = await start(space, { kill: 5_000 });
    const before = await pool.run("pid", []);
    for await (const item of pool.stream("count", [Infinity, file])) {
      if (item < 10) continue;
      await Bun.sleep(200); // the time for which the reader is slow, which the generator must not use
      break;
    }
    await until(() => textOr(file) !== "", "the end of the generator");
    const [made, aborted] = text(file).split(" ");
    expect(aborted).toBe("true");
    expect(Number(made)).toBeLessThan(100_000); // what fits into the memory between the processes
    expect(await pool.run("pid", [])).toBe(before);
  });

  test("kills a generator that does not stop", async () => {
    await using space = new Workspace();
    await using pool = await start(space, { kill: 50 });
    let pid = 0;
    for await (const item of pool.stream("stubborn", [])) {
      pid = item;
      break;
    }
    expect(await pool.run("pid", [])).not.toBe(pid);
    expect([lives(pid), pool.stats().killed]).toEqual([false, 1]);
  });

  test("fails when its process ends", async () => {
    await using space = new Workspace();
    await using pool = await start(space);
    const items = pool.stream("stubborn", []);
    const { value: pid } = await items.next();
    process.kill(pid as number, "SIGKILL");
    expect(await rejection(items.next())).toBeInstanceOf(WorkerDiedError);
  });
});

describe("processes", () => {
  test("are started while tasks wait, up to max, and stopped after the idle time, down to min", async () => {
    await using space = new Workspace();
    await using pool = await start(space, { min: 0, max: 3, idle: 200 });
    expect(pool.stats().processes).toEqual([]);
    const pids = await Promise.all(Array.from({ length: 24 }, () => pool.run("wait", [100])));
    expect(new Set(pids).size).toBe(3);
    await until(() => pool.stats().processes.length === 0, "no process");
    await until(() => !pids.some(lives), "their ends");
    expect(await pool.run("add", [1, 1])).toBe(2);
  });

  test("are replaced after maxRequests, at maxAge and above maxMemory", async () => {
    await using space = new Workspace();
    await using requests = await start(space, { recycle: { maxRequests: 2 } });
    await using age = await start(space, { recycle: { maxAge: 300 } });
    await using memory = await start(space, { recycle: { maxMemory: 400_000_000 } });
    for (const pool of [requests, age, memory]) {
      const first = await pool.run("keep", [1]);
      const other = await pool.run("keep", [pool === memory ? 500_000_000 : 1]);
      expect(other).toBe(first);
      await until(async () => (await pool.run("pid", [])) !== first, "another process");
      await until(() => !lives(first), "the end of the first");
      expect(pool.stats()).toMatchObject({ failed: 0 });
    }
  }, 30_000);

  test("of a module that throws while it loads fail each call with its error, and do not restart", async () => {
    await using space = new Workspace();
    const starts = join(space.directory, "starts.txt");
    space.leftovers = ["starts.txt"];
    await using pool = await start<typeof import("./fixtures/pool-broken.ts")>(space, {
      module: broken,
      env: { STARTS: starts },
    });
    for (let i = 0; i < 3; i++) {
      const error = await rejection<SlotbusError>(pool.run("work", []));
      expect([error.code, error.mayHaveExecuted]).toEqual(["MODULE_FAILED", false]);
      expect(error.message).toContain("RangeError: no licence");
      expect(error.cause).toMatchObject({ name: "RangeError", code: "LICENCE" });
    }
    expect(text(starts).trim().split("\n").length).toBe(1);
  });

  test("that end while they load the module reject the start; later ones are given up after a few attempts", async () => {
    await using space = new Workspace();
    const starts = join(space.directory, "starts.txt");
    space.leftovers = ["starts.txt"];
    const options = { module: broken, env: { STARTS: starts, BROKEN: "exit" } };
    const error = await rejection<WorkerStartError>(start(space, options));
    expect(error).toBeInstanceOf(WorkerStartError);
    expect(error.message).toContain("exited with code 7");
    expect(error.message).toContain("no licence");
    await using pool = await start<typeof import("./fixtures/pool-broken.ts")>(space, { ...options, min: 0 });
    let pauses = 0;
    pool.on("paused", () => pauses++);
    const none = await rejection<NoWorkerError>(pool.run("work", []));
    expect([none.constructor, (none.cause as Error).constructor]).toEqual([NoWorkerError, WorkerFailedError]);
    expect((none.cause as Error).message).toContain("no licence");
    expect(pauses).toBe(1);
    expect(text(starts).trim().split("\n").length).toBe(7); // the rejected start, then the first and five restarts
  }, 60_000);

  test("of another version of Bun end with one clear line", async () => {
    const assignment = JSON.stringify({ module: work, concurrency: 1, bun: "1.0.0 (abc)" });
    const entry = join(import.meta.dir, "../src/pool/worker.ts");
    const env = { ...process.env, SLOTBUS_POOL: assignment };
    const child = Bun.spawn([process.execPath, entry], { env, stdio: ["ignore", "ignore", "pipe"] });
    expect([await child.stderr.text(), await child.exited]).toEqual([
      `The pool runs Bun 1.0.0 (abc), but its new process runs Bun ${Bun.version} (${Bun.revision.slice(0, 9)}). ` +
        "Restart the pool's program.\n",
      1,
    ]);
  });
});

describe("the end of a pool", () => {
  test("drain finishes running and queued tasks and accepts no more; close is idempotent", async () => {
    await using space = new Workspace();
    const pool = await start(space);
    const tasks = [pool.run("wait", [200]), pool.run("wait", [0])];
    expect(pool.closed).toBe(false);
    await pool.drain();
    expect(await Promise.all(tasks)).toHaveLength(2);
    expect(await rejection(pool.run("pid", []))).toBeInstanceOf(ClosedError);
    const pid = await tasks[0]!;
    await Promise.all([pool.close(), pool.close()]);
    expect([pool.closed, lives(pid)]).toEqual([true, false]);
    expect(pool.stats().completed).toBe(2);
  });

  test("close rejects what does not end within its timeout, and ends a process that is blocked", async () => {
    await using space = new Workspace();
    const pool = await start(space, { kill: Infinity });
    const pid = await pool.run("pid", []);
    const running = rejection(pool.run("spin", []));
    const queued = rejection(pool.run("pid", []));
    await until(() => pool.stats().queued === 1, "a queued task");
    await pool.close({ timeout: 50 });
    expect(await running).toBeInstanceOf(ClosedError);
    expect(await queued).toBeInstanceOf(ClosedError);
    expect(lives(pid)).toBe(false);
  });
});
