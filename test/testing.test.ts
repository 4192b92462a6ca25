/** slotbus/testing: what users' tests are made of. */

import { expect, test } from "bun:test";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Contest } from "../src/contest/index.ts";
import { Fleet } from "../src/events/index.ts";
import { InvalidConfigError, NoWorkerError, ResourceError, WorkerDiedError } from "../src/index.ts";
import { assertNoLeaks, crashWorker, fakeClock, LeakError, testBus } from "../src/testing.ts";
import { rejection } from "./support.ts";

const program = new URL("fixtures/env-worker.ts", import.meta.url);

test("two test buses have different names and directories of mode 0700, and both are gone afterwards", async () => {
  const directories: string[] = [];
  {
    await using one = await testBus();
    await using other = await testBus({ slots: 4 });
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

test("a test bus that cannot be made leaves no directory", async () => {
  await assertNoLeaks(async () => {
    expect(await rejection(testBus({ slots: 0 }))).toBeInstanceOf(InvalidConfigError);
  });
});

test("a spawned worker is a process of its own, which ends with the bus", async () => {
  let pid = 0;
  {
    await using shop = await testBus();
    const worker = await shop.spawn(program);
    pid = worker.pid;
    expect(pid).not.toBe(process.pid);
    expect((await shop.bus.request({ path: "/" })).text()).toBe(String(pid));
  }
  expect(existsSync(`/proc/${pid}`)).toBe(false);
});

test("a program that ends before it attaches is an error with what it said", async () => {
  await using shop = await testBus();
  const error = await rejection(shop.spawn(program, ["never"]));
  expect(error).toBeInstanceOf(ResourceError);
  expect(error.message).toContain("ended with 3 before it was attached: it cannot begin");
});

test("a program that ends before it attaches is an error also while what it started holds its stderr open", async () => {
  await using shop = await testBus();
  const [file, pid] = ["program.ts", "pid"].map((name) => join(shop.directory, name)) as [string, string];
  writeFileSync(
    file,
    `const child = Bun.spawn(["sleep", "60"], { stdio: ["ignore", "ignore", "inherit"] });
     await Bun.write(${JSON.stringify(pid)}, String(child.pid));
     process.exit(3);`,
  );
  const error = await rejection(shop.spawn(file));
  process.kill(Number(readFileSync(pid, "utf8")));
  expect(error.message).toContain("ended with 3 before it was attached");
});

test("crashWorker kills the process of a worker, and its requests are settled when it resolves", async () => {
  await using shop = await testBus();
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

test("crashWorker refuses to kill the process of the test", async () => {
  await using shop = await testBus();
  await shop.worker(() => "x");
  expect((await rejection(crashWorker(shop.bus))).message).toContain("which would die too");
  expect(shop.bus.workers.length).toBe(1);
});

test("a fake clock moves only when it is told to, and never back; leases expire by it", async () => {
  const clock = fakeClock(1_000);
  const { now } = clock;
  expect([now(), clock.advance(500), now()]).toEqual([1_000, 1_500, 1_500]);
  expect(() => clock.advance(-1)).toThrow(InvalidConfigError);
  expect(() => fakeClock(Number.NaN)).toThrow(InvalidConfigError);
  await using fleet = await Fleet.join({ name: `clock-${process.pid}`, memory: true });
  const contest = new Contest(fleet, { now });
  const subject = { kind: "leader", label: "x" };
  expect(contest.tryClaim(subject, { owner: "a", ttl: 100 }).claimed).toBe(true);
  clock.advance(99);
  expect(contest.tryClaim(subject, { owner: "b", ttl: 100 }).claimed).toBe(false);
  clock.advance(1);
  expect(contest.tryClaim(subject, { owner: "b", ttl: 100 }).claimed).toBe(true);
});

test("assertNoLeaks passes on the result of what leaves nothing, workers and processes among it", async () => {
  const result = await assertNoLeaks(async () => {
    await using shop = await testBus();
    await shop.spawn(program);
    await shop.worker(() => "x");
    return (await shop.bus.request({ path: "/" })).status;
  });
  expect(result).toBe(200);
}, 20_000);

test("assertNoLeaks names each thing that is left, and says what the work itself rejected with", async () => {
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
      const test = await testBus();
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
