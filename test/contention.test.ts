/** Whether spinning does harm because other programs need the processors, and what the driver then does. */

import { expect, test } from "bun:test";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { systemClock } from "../src/clock.ts";
import { BATCH, Contention, SINGLE, type ThreadTimes } from "../src/wires/memory/contention.ts";
import { Driver, type Side } from "../src/wires/memory/driver.ts";
import { until, Workspace } from "./support.ts";

/** A thread whose times the test sets, and its contention. */
function thread(limits = SINGLE): {
  times: ThreadTimes;
  contention: Contention;
  reads: () => number;
  highs: () => number;
} {
  const times = { ran: 0, waited: 0 };
  let [reads, highs] = [0, 0];
  const contention = new Contention(
    limits,
    () => highs++,
    () => (reads++, { ...times }),
  );
  return { times, contention, reads: () => reads, highs: () => highs };
}

test("contention is high for a thread that waits too long in a window, and 10 ms; for batches after two seconds", () => {
  for (const [limits, start, windowMs, ran, waited, isHigh] of [
    [SINGLE, 0, 20, 20, 0, false],
    [SINGLE, 0, 20, 5, 14, false],
    [SINGLE, 0, 20, 1, 9.9, false],
    [SINGLE, 0, 20, 4, 12, true],
    [SINGLE, 0, 20, 0, 40, true],
    [BATCH, 2_000, 500, 400, 100, false],
    [BATCH, 2_000, 500, 300, 130, true],
    [BATCH, 2_000, 500, 20, 9.9, false],
    [BATCH, 2_000, 500, 0, 500, true],
  ] as const) {
    const { times, contention } = thread(limits);
    for (let now = 0; now < start; now += 100) {
      contention.look(now);
      times.waited += 100;
      expect(contention.isHigh).toBe(false);
    }
    contention.look(start);
    times.ran += ran;
    times.waited += waited;
    contention.look(start + windowMs - 1); // within the window
    expect(contention.isHigh).toBe(false);
    contention.look(start + windowMs);
    expect([ran, waited, contention.isHigh]).toEqual([ran, waited, isHigh]);
  }
});

test("it tries again after a second, then after two, up to 32; a try that succeeds resets the pause", () => {
  const { times, contention, reads, highs } = thread();
  let now = 0;
  const waits = (): void => {
    contention.look((now += 20));
    times.waited += 100;
    contention.look((now += 20));
  };
  for (const pause of [1, 2, 4, 8, 16, 32, 32]) {
    waits();
    expect(contention.isHigh).toBe(true);
    const before = reads();
    contention.look((now += pause * 1_000 - 1));
    expect([contention.isHigh, reads()]).toEqual([true, before]);
    contention.look((now += 1));
    expect(contention.isHigh).toBe(false);
  }
  expect(highs()).toBe(7);
  times.ran += 100;
  times.waited += 20;
  contention.look((now += 20));
  waits();
  contention.look((now += 1_000));
  expect(contention.isHigh).toBe(false);
});

test("where the system does not count, contention is never high, and nothing is read again", () => {
  let reads = 0;
  const contention = new Contention(
    SINGLE,
    () => {},
    () => (reads++, null),
  );
  for (let now = 0; now < 10_000; now += 10) contention.look(now);
  expect([contention.isHigh, reads]).toEqual([false, 1]);
});

/** A driver of a side that the test feeds. */
function driven(single: Contention, batch?: Contention, spinUs = 50) {
  let [now, polls, parks, messages] = [0, 0, 0, 0];
  const side: Side = {
    poll: () => {
      const found = messages;
      messages = 0;
      polls++;
      return found;
    },
    hold() {},
    ring() {},
    mayReceive: () => true,
    park: () => (parks++, true),
    unpark() {},
    spread() {},
  };
  const driver = new Driver(side, spinUs, { ...systemClock, now: () => now }, single, batch);
  return {
    driver,
    pass: (ms: number) => void (now += ms),
    /** Rings its doorbell, with some messages. Returns the number of polls until it parks. */
    woken: async (count = 0): Promise<number> => {
      const [before, parked] = [polls, parks];
      messages = count;
      driver.ring();
      await until(() => parks > parked, "parked");
      return polls - before;
    },
  };
}

test("a driver stops spinning while contention is high, and says so", async () => {
  const { times, contention } = thread();
  const { driver, pass, woken } = driven(contention);
  expect(await woken()).toBeGreaterThan(10);
  expect(driver.driven().spinning).toBe("on");
  times.waited += 100;
  pass(20);
  expect(await woken()).toBe(1);
  expect(driver.driven().spinning).toBe("contended");
  pass(1_000);
  expect(await woken()).toBe(1); // it slept for long, and need not know
  expect(await woken()).toBeGreaterThan(10);
  expect(driven(contention, undefined, 0).driver.driven().spinning).toBe("off");
});

test("a driver stops spinning for batches beside one competitor, and goes on for single messages", async () => {
  const { times, contention } = thread(BATCH);
  const { driver, pass, woken } = driven(thread().contention, contention);
  /** Polls of the last of many turns with that many messages, after a pause. */
  const used = async (count: number): Promise<number> => {
    for (let i = 0; i < 20; i++) await woken(count);
    pass(30);
    await woken(count);
    return woken(count);
  };
  expect(await used(8)).toBeGreaterThan(10);
  pass(2_000);
  expect(await used(8)).toBeGreaterThan(10);
  times.ran += 300;
  times.waited += 200;
  pass(500);
  expect(await woken(8)).toBe(2); // one poll finds the batch, the next one nothing
  expect(driver.driven().spinning).toBe("contended");
  expect(await used(1)).toBeGreaterThan(10);
  expect(driver.driven().spinning).toBe("on");
});

test("beside five busy loops per processor a bus stops spinning, and counts that", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ spin: 50 });
  await space.child("worker.ts").line("serving");
  await bus.ready();
  const loops = Array.from({ length: 5 * availableParallelism() }, () =>
    Bun.spawn(["sh", "-c", "while :; do :; done"]),
  );
  try {
    const end = performance.now() + 15_000;
    while (bus.stats().contentions === 0 && performance.now() < end) await bus.request({ path: "/" });
    expect(bus.stats().contentions).toBeGreaterThan(0);
    expect(bus.stats().spinning).toBe("contended");
    expect(bus.metrics()).toContain(`slotbus_contentions_total{bus="${bus.name}"} 1`);
  } finally {
    for (const loop of loops) loop.kill("SIGKILL");
    await Promise.all(loops.map((loop) => loop.exited));
  }
  const top = await Bun.$`${process.execPath} ${join(import.meta.dir, "../src/cli/slotbus.ts")} top ${bus.name} --once`
    .env({ ...process.env, SLOTBUS_DIR: space.directory })
    .text();
  expect(top).toMatch(/stopped spinning \d+ times: other programs needed the processors/);
}, 20_000);
