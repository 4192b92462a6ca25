/** slotbus/testing: the tools for users' tests. */

import { expect, test } from "bun:test";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Contest } from "../src/contest/index.ts";
import { contract, InvalidConfigError, NoWorkerError, rpc, WorkerDiedError } from "../src/index.ts";
import { instrument } from "../src/otel.ts";
import {
  assertNoLeaks,
  crashWorker,
  fakeClock,
  LeakError,
  leakOptions,
  TestBus,
  type TestBusOptions,
} from "../src/testing.ts";
import { FleetSpace } from "./fleet-space.ts";
import { rejection } from "./support.ts";

const program = new URL("fixtures/env-worker.ts", import.meta.url);

test("two test buses have different names and directories of mode 0700, and both are gone afterwards", async () => {
  const directories: string[] = [];
  {
    await using one = await TestBus.create();
    await using other = await TestBus.create({ slots: 4 });
    expect(other.bus.options.slots).toBe(4);
    expect(one.name).not.toBe(other.name);
    expect(one.directory).not.toBe(other.directory);
    expect(statSync(one.directory).mode & 0o777).toBe(0o700);
    for (const { worker, bus } of [one, other].map((it) => ({ worker: it.worker.bind(it), bus: it.bus }))) {
      await worker(({ path }) => `in ${path}`);
      await worker({ fetch: () => new Response("by fetch") });
      expect(bus.workers.length).toBe(2);
      expect((await bus.request({ path: "/x" })).status).toBe(200);
    }
    directories.push(one.directory, other.directory);
  }
  for (const directory of directories) expect(existsSync(directory)).toBe(false);
});

test("a failed create of a test bus leaves no directory", async () => {
  await assertNoLeaks(async () => {
    expect(await rejection(TestBus.create({ slots: 0 }))).toBeInstanceOf(InvalidConfigError);
  });
});

test("a worker may implement a contract", async () => {
  await using shop = await TestBus.create();
  const greeter = contract("greeter", { greet: rpc<{ name: string }, string>() });
  const worker = await shop.worker(greeter, { greet: ({ name }) => `hello ${name}` }, { concurrency: 2 });
  expect(shop.bus.workers[0]!.concurrency).toBe(2);
  expect(await shop.bus.client(greeter).greet({ name: "Ada" })).toBe("hello Ada");
  expect(worker.served).toBe(1);
});

test("options that TestBus chooses, and unknown options, are refused", async () => {
  const given = { name: "x" } as TestBusOptions;
  expect((await rejection(TestBus.create(given))).message).toBe('A test bus has no option "name": TestBus chooses it.');
  await using shop = await TestBus.create();
  expect(shop.env).toEqual({ SLOTBUS_DIR: shop.directory, SLOTBUS_NAME: shop.name });
  const elsewhere = { directory: "/tmp" } as object;
  expect(await rejection(shop.worker(() => "x", elsewhere))).toBeInstanceOf(InvalidConfigError);
  expect((await rejection(crashWorker(shop.bus, { pid: 1 } as object))).message).toContain("has no option");
  expect(await rejection(crashWorker(shop.bus, { signal: "SIGNONE" as "SIGINT" }))).toBeInstanceOf(InvalidConfigError);
  expect((await rejection(assertNoLeaks(() => {}, { timeOut: 1 } as object))).message).toContain(
    "Did you mean timeout?",
  );
  expect(() => instrument({ provider: 1 } as object)).toThrow(InvalidConfigError);
  expect(() => instrument({ tracerProvider: 1 as never })).toThrow(InvalidConfigError);
});

test("testing and otel export the errors", async () => {
  for (const entry of [await import("../src/testing.ts"), await import("../src/otel.ts")]) {
    expect(entry.WorkerDiedError).toBe(WorkerDiedError);
  }
});

test("a spawned worker is a process of its own, which ends with the bus", async () => {
  let pid = 0;
  {
    await using shop = await TestBus.create();
    const worker = await shop.spawn(program);
    pid = worker.pid;
    expect(pid).not.toBe(process.pid);
    expect((await shop.bus.request({ path: "/" })).text()).toBe(String(pid));
  }
  expect(existsSync(`/proc/${pid}`)).toBe(false);
});

test("a program that ends before it attaches is an error with its output", async () => {
  await using shop = await TestBus.create();
  const error = await rejection(shop.spawn(program, ["never"]));
  expect(error).toMatchObject({ code: "RESOURCE" });
  expect(error.message).toContain("ended with 3 before it attached: it cannot begin");
});

test("a program that ends before it attaches is an error even while its children hold its stderr open", async () => {
  await using shop = await TestBus.create();
  const [file, pid] = ["program.ts", "pid"].map((name) => join(shop.directory, name)) as [string, string];
  writeFileSync(
    file,
    `const child = Bun.spawn(["sleep", "60"], { stdio: ["ignore", "ignore", "inherit"] });
     await Bun.write(${JSON.stringify(pid)}, String(child.pid));
     process.exit(3);`,
  );
  const error = await rejection(shop.spawn(file));
  process.kill(Number(readFileSync(pid, "utf8")));
  expect(error.message).toContain("ended with 3 before it attached");
});

test("crashWorker kills the process of a worker, and its requests are settled when it resolves", async () => {
  await using shop = await TestBus.create();
  expect(await rejection(crashWorker(shop.bus))).toBeInstanceOf(NoWorkerError);
  const first = await shop.spawn(program);
  const second = await shop.spawn(program);
  expect((await crashWorker(shop.bus, { worker: second.id })).pid).toBe(second.pid);
  expect(shop.bus.workers.map(({ pid }) => pid)).toEqual([first.pid]);
  const answer = rejection(shop.bus.request({ path: "/slow" }));
  await shop.bus.request({ path: "/" }); // the slow one runs now
  expect((await crashWorker(shop.bus)).pid).toBe(first.pid);
  expect(Bun.peek.status(answer)).not.toBe("pending");
  expect(await answer).toBeInstanceOf(WorkerDiedError);
});

test("crashWorker of a worker that the bus started: the request's error gives the exit code or signal", async () => {
  const workers = { entry: program, min: 1, max: 1, restart: { backoff: { initial: 60_000 } } };
  await using shop = await TestBus.create({ workers });
  const answer = rejection<WorkerDiedError>(shop.bus.request({ path: "/slow" }));
  await shop.bus.request({ path: "/" }); // the slow one runs now
  await crashWorker(shop.bus, { signal: "SIGTERM" });
  expect(Bun.peek.status(answer)).not.toBe("pending");
  expect((await answer).signal).toBe("SIGTERM");
});

test("crashWorker refuses to kill the process of the test", async () => {
  await using shop = await TestBus.create();
  await shop.worker(() => "x");
  expect((await rejection(crashWorker(shop.bus))).message).toContain("which would die too");
  expect(shop.bus.workers.length).toBe(1);
});

test("a fake clock moves only by advance, and never back; leases expire by it", async () => {
  const clock = fakeClock(1_000);
  const { now } = clock;
  expect([now(), clock.advance(500), now()]).toEqual([1_000, 1_500, 1_500]);
  expect(() => clock.advance(-1)).toThrow(InvalidConfigError);
  expect(() => fakeClock(Number.NaN)).toThrow(InvalidConfigError);
  await using space = new FleetSpace();
  const fleet = await space.join();
  const contest = await Contest.open({ fleet, now });
  const subject = { kind: "leader", label: "x" };
  expect(contest.tryClaim(subject, { owner: "a", ttl: 100 }).claimed).toBe(true);
  clock.advance(99);
  expect(contest.tryClaim(subject, { owner: "b", ttl: 100 }).claimed).toBe(false);
  clock.advance(1);
  expect(contest.tryClaim(subject, { owner: "b", ttl: 100 }).claimed).toBe(true);
});

test("assertNoLeaks passes on the result of a function that leaves nothing, with workers and processes in it", async () => {
  const result = await assertNoLeaks(async () => {
    await using shop = await TestBus.create();
    await shop.spawn(program);
    await shop.worker(() => "x");
    return (await shop.bus.request({ path: "/" })).status;
  });
  expect(result).toBe(200);
  expect(leakOptions.resolve({}).timeout).toBeLessThan(5_000 / 2); // below the limit of `bun test`
}, 20_000);

test("assertNoLeaks names each leaked thing, and gives the function's own error", async () => {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-leak-"));
  const clean: (() => unknown)[] = [() => rmSync(directory, { recursive: true })];
  try {
    const leak = async (work: () => unknown): Promise<LeakError> => {
      const error = await rejection<LeakError>(assertNoLeaks(work, { directory, timeout: 50 }));
      expect(error).toBeInstanceOf(LeakError);
      return error;
    };
    const file = join(directory, "left.sock");
    expect((await leak(() => writeFileSync(file, ""))).leaks).toEqual([{ kind: "file", what: file }]);
    const opened = await leak(() => {
      const fd = openSync(file, "r");
      clean.push(() => closeSync(fd));
    });
    expect(opened.leaks).toEqual([{ kind: "descriptor", what: file }]);
    const spawned = await leak(() => {
      const child = Bun.spawn(["sleep", "60"]);
      clean.push(async () => {
        child.kill();
        await child.exited;
      });
    });
    expect(spawned.message).toMatch(/process pid \d+ sleep 60/);
    const bus = await leak(async () => {
      const test = await TestBus.create();
      clean.push(() => test.close());
      await test.worker(() => "x");
    });
    expect(new Set(bus.leaks.map(({ kind }) => kind))).toEqual(new Set(["descriptor", "memory"]));
    const failure = new Error("of the work");
    expect(await rejection(assertNoLeaks(() => Promise.reject(failure)))).toBe(failure);
  } finally {
    for (const undo of clean.reverse()) await undo();
  }
}, 20_000);
