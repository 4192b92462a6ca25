/** When a driver polls, spins and parks; and an idle bus does nothing. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { systemClock } from "../src/clock.ts";
import { Driver, ringAll, type Side } from "../src/wires/memory/driver.ts";
import { Child, until, Workspace } from "./support.ts";

/** A side that finds `work` items, one per poll, and records the calls it gets. */
class Recorder implements Side {
  work = 0;
  receives = true;
  polls = 0;
  spreads = 0;
  parked = true;
  onPoll: () => void = () => {};

  poll(): number {
    this.polls++;
    this.onPoll();
    if (this.work === 0) return 0;
    this.work--;
    return 1;
  }
  mayReceive(): boolean {
    return this.receives;
  }
  park(): boolean {
    this.parked = this.work === 0;
    return this.parked;
  }
  unpark(): void {
    this.parked = false;
  }
  /** What it did with its bells, in order. */
  bells: ("hold" | "ring")[] = [];
  hold(): void {
    this.bells.push("hold");
  }
  ring(): void {
    this.bells.push("ring");
  }
  spread(): void {
    this.spreads++;
  }
}

test("it polls until it finds nothing, spins for its budget, then parks and polls no more", async () => {
  const side = new Recorder();
  const driver = new Driver(side, 50, systemClock);
  side.work = 100;
  driver.wake();
  await until(() => side.parked, "parked");
  expect(side.work).toBe(0);
  expect(side.polls).toBeGreaterThan(110); // it went on polling after the last find
  const polls = side.polls;
  await Bun.sleep(20);
  expect(side.polls).toBe(polls);
});

test("with spin 0 it parks as soon as it finds nothing", async () => {
  const side = new Recorder();
  const driver = new Driver(side, 0, systemClock);
  side.work = 3;
  driver.wake();
  await until(() => side.parked, "parked");
  expect(side.polls).toBeLessThan(8);
});

test("it does not spin when nothing can come", async () => {
  const side = new Recorder();
  side.receives = false;
  const driver = new Driver(side, 10_000, systemClock);
  side.work = 1;
  driver.wake();
  await until(() => side.parked, "parked");
  expect(side.polls).toBeLessThan(5);
});

test("microtasks run between two polls, so an awaiting caller can go on before the next", async () => {
  const side = new Recorder();
  const order: string[] = [];
  side.onPoll = () => {
    order.push("poll");
    if (side.work > 0) void Promise.resolve().then(() => order.push("caller"));
  };
  side.work = 2;
  new Driver(side, 0, systemClock).wake();
  await until(() => side.parked, "parked");
  expect(order.slice(0, 5)).toEqual(["poll", "caller", "poll", "caller", "poll"]);
});

test("timers and other events get their turn under any amount of work", async () => {
  const side = new Recorder();
  side.work = Infinity;
  const driver = new Driver(side, 50, systemClock);
  driver.wake();
  const start = performance.now();
  await Bun.sleep(5);
  expect(performance.now() - start).toBeLessThan(500);
  driver.stop();
  const polls = side.polls;
  await Bun.sleep(5);
  expect(side.polls).toBe(polls);
});

test("a side that fails to park because work came polls again", async () => {
  const side = new Recorder();
  const driver = new Driver(side, 0, systemClock);
  let refused = 0;
  side.park = () => {
    if (refused++ === 0) {
      side.work = 1;
      return false;
    }
    side.parked = true;
    return true;
  };
  driver.wake();
  await until(() => side.parked, "parked");
  expect([side.work, refused >= 2]).toEqual([0, true]);
});

test("after some spins without work it stops spinning, and a bell counts as a wake-up", async () => {
  const side = new Recorder();
  const driver = new Driver(side, 50, systemClock);
  const polls: number[] = [];
  for (let i = 0; i < 20; i++) {
    const before = side.polls;
    driver.ring();
    await until(() => side.parked, "parked");
    polls.push(side.polls - before);
    await Bun.sleep(1); // long after parking: more spinning would have found nothing
  }
  expect(polls[0]).toBeGreaterThan(10);
  expect(polls.at(-1)).toBeLessThan(4);
  expect(driver.driven().wakeups).toBe(20);
});

test("a side that is woken again and again leaves the other side's processor; after a pause it does not", async () => {
  const side = new Recorder();
  let now = 1_000;
  const driver = new Driver(side, 50, { ...systemClock, now: () => now });
  const wake = async (): Promise<number> => {
    driver.ring();
    const { spreads } = side;
    await until(() => side.parked, "parked");
    return spreads;
  };
  driver.expect(0, true); // it did not wait a moment ago, and the other side sleeps
  const spreads: number[] = [];
  for (let i = 0; i < 5; i++) spreads.push(await wake());
  expect(spreads).toEqual([0, 0, 0, 0, 1]);
  driver.expect(0, true);
  expect([side.spreads, side.parked]).toEqual([2, false]);
  await until(() => side.parked, "parked");
  now += 1; // longer than a wake-up: it counts from the start again
  for (let i = 0; i < 4; i++) expect(await wake()).toBe(2);
  for (let i = 0; i < 20; i++) await wake();
  const moved = side.spreads;
  expect(await wake()).toBe(moved); // it gave up after eight vain spins
  now += 1;
  for (let i = 0; i < 4; i++) expect(await wake()).toBe(moved);
  expect(await wake()).toBe(moved + 1);
  driver.stop();
});

test("of a burst of bells outside of a turn the third and later ones are held until the job ends", async () => {
  const side = new Recorder();
  const driver = new Driver(side, 0, systemClock);
  driver.expect(0, true);
  expect(side.bells).toEqual([]); // a single message does not wait for the code after it
  driver.expect(0, true);
  driver.expect(0, true);
  expect(side.bells).toEqual(["hold"]);
  await Promise.resolve();
  expect(side.bells).toEqual(["hold", "ring"]);
  await Bun.sleep(5);
  driver.expect(0, true);
  await Promise.resolve();
  expect(side.bells.length).toBe(2);
});

test("bells that a side holds while it polls ring after the microtasks, before it polls again or blocks", async () => {
  const side = new Recorder();
  const order: string[] = [];
  const driver = new Driver(side, 0, systemClock);
  side.hold = () => void order.push("hold");
  side.ring = () => void order.push("ring");
  side.onPoll = () => {
    order.push("poll");
    if (side.work === 0) return;
    driver.hold();
    queueMicrotask(() => {
      order.push("caller");
      if (side.work === 0) ringAll();
    });
  };
  side.work = 2;
  driver.wake();
  await until(() => side.parked, "parked");
  expect(order).toEqual(["poll", "hold", "caller", "ring", "poll", "hold", "caller", "ring", "poll"]);
  driver.hold();
  driver.stop();
  ringAll();
  expect(order.at(-1)).toBe("hold"); // a driver that stopped has no side
});

function voluntarySwitches(pid: number): number {
  return Number(/voluntary_ctxt_switches:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "latin1"))![1]);
}

test("an idle bus has no wake-ups, neither by bells nor by timers, on either side", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.lock`, `${space.name}.sock`]; // a killed client's
  const client = space.child("idle-client.ts");
  await client.line("idle");
  const worker = Number((await client.line("worker")).split(" ")[1]);
  await using bare = new Child("bare.ts", [], {});
  await bare.line("bare");
  const pids = [client.pid, worker, bare.pid];
  await Bun.sleep(1_500); // Bun itself settles
  const before = pids.map(voluntarySwitches);
  await Bun.sleep(2_000);
  const [clientSwitches, workerSwitches, bareSwitches] = pids.map((pid, i) => voluntarySwitches(pid) - before[i]!);
  // The main threads sleep in epoll. Bun itself wakes them some times after they have worked; the slowest timer slotbus
  // has would do so 100 times.
  expect(clientSwitches).toBeLessThan(bareSwitches! + 20);
  expect(workerSwitches).toBeLessThan(bareSwitches! + 20);
}, 20_000);
