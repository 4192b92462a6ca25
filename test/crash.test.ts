/** Processes that are killed. All of them are real, and are waited for. */

import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { WorkerDiedError, NoWorkerError, RequestTimeoutError } from "../src/index.ts";
import { type Child, pattern, rejection, same, stop, until, Workspace } from "./support.ts";

/** Longest time in ms from a process's death to its report on a busy machine. The soak checks its 99th percentile. */
const NOTICE_MS = 500;

for (const mebibytes of [0, 512]) {
  test(`a worker with ${mebibytes} MiB that is killed in a handler: its caller gets the error at once`, async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = space.child("worker.ts", String(mebibytes));
    expect(await child.line("serving", 30_000)).toBe(`serving ${mebibytes * 2 ** 20}`);
    await bus.ready();
    const died: string[] = [];
    bus.on("died", ({ pid }, reason) => died.push(`${pid} ${reason}`));
    const hanging = rejection<WorkerDiedError>(bus.request({ path: "/hang", id: "h1" }));
    await child.line("got /hang");
    const start = performance.now();
    child.process.kill("SIGKILL");
    const error = await hanging;
    const noticed = performance.now() - start;
    expect(error).toBeInstanceOf(WorkerDiedError);
    expect([error.pid, error.mayHaveExecuted, error.retryable]).toEqual([child.pid, true, false]);
    expect(error.message).toContain("h1");
    expect(noticed).toBeLessThan(NOTICE_MS);
    expect(died).toEqual([`${child.pid} ended`]);
    await child.process.exited;
    expect([bus.stats().workersDied, bus.stats().inFlight, bus.workers.length]).toEqual([1, 0, 0]);
  }, 60_000);
}

test("a killed worker's unclaimed requests go to another worker, its claimed ones do not", async () => {
  await using space = new Workspace();
  const { bus, child: doomed } = await space.remote("worker.ts");
  await doomed.line("serving");
  const claimed = rejection<WorkerDiedError>(bus.request({ path: "/block", query: "60000" }));
  await doomed.line("got /block");
  // Its event loop is blocked: these requests stay READY in its slots.
  const unclaimed = Array.from({ length: 10 }, (_, i) => bus.request({ path: "/", body: `${i}` }));
  await until(
    () => bus.diagnostics().slots.filter(({ state }) => state === "READY").length === 10,
    "ten wait unclaimed",
  );
  const heir = space.child("worker.ts");
  await bus.ready({ workers: 2 });
  await doomed.kill();
  expect((await claimed).mayHaveExecuted).toBe(true);
  const answers = await Promise.all(unclaimed);
  expect(answers.map((response) => response.text())).toEqual(Array.from({ length: 10 }, (_, i) => `${i}`));
  expect(new Set(answers.map(({ workerPid }) => workerPid))).toEqual(new Set([heir.pid]));
});

test("an answer that was written before the kill is delivered", async () => {
  await using space = new Workspace();
  const { bus, child } = await space.remote("worker.ts", { spin: 0 });
  const pending = bus.request({ path: "/", body: "committed" });
  // This thread does not run its event loop until the worker has answered and is dead.
  const deadline = performance.now() + 5_000;
  while (bus.diagnostics().slots[0]!.state !== "DONE" && performance.now() < deadline) Bun.sleepSync(1);
  expect(bus.diagnostics().slots[0]!.state).toBe("DONE");
  process.kill(child.pid, "SIGKILL");
  Bun.sleepSync(50);
  expect((await pending).text()).toBe("committed");
});

test.each([10_000, Infinity])(
  "an idempotent request (timeout %p) whose worker is killed runs once more elsewhere, after that worker has ended",
  async (timeout) => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("worker.ts");
    const children = [child, space.child("worker.ts")];
    await bus.ready({ workers: 2 });
    const pending = bus.request({ path: "/slow", query: "300", body: "again" }, { idempotent: true, timeout });
    const hasRequest = ({ lines }: Child): boolean => lines.includes("got /slow");
    await until(() => children.some(hasRequest), "a worker runs the request");
    const doomed = children.find(hasRequest)!;
    const heir = children.find((one) => one !== doomed)!;
    await stop(doomed); // or it may answer before its end
    expect(heir.lines.includes("got /slow")).toBe(false);
    await doomed.kill();
    const response = await pending;
    expect([response.text(), response.workerPid]).toEqual(["again", heir.pid]);
    expect(bus.stats().retries).toBe(1);
  },
);

test("an idempotent request is tried at most twice, within its first timeout", async () => {
  await using space = new Workspace();
  const bus = await space.bus();
  const children = [space.child("worker.ts")];
  await bus.ready();
  const twice = rejection<WorkerDiedError>(bus.request({ path: "/hang" }, { idempotent: true, timeout: 3_000 }));
  await children[0]!.line("got /hang");
  await children[0]!.kill();
  children.push(space.child("worker.ts"));
  await children[1]!.line("got /hang");
  await children[1]!.kill();
  expect((await twice).code).toBe("WORKER_DIED");
  space.child("worker.ts");
  await bus.ready();
  expect((await bus.request({ path: "/", body: "fine" })).text()).toBe("fine");
});

test("a stopped worker delays only its own requests, and goes on when it is continued", async () => {
  await using space = new Workspace();
  const { bus, child: stopped } = await space.remote("worker.ts");
  await stop(stopped);
  const late = rejection<RequestTimeoutError>(bus.request({ path: "/", body: "late" }, { timeout: 100 }));
  expect(await late).toBeInstanceOf(RequestTimeoutError);
  expect((await late).mayHaveExecuted).toBe(false);
  space.child("worker.ts");
  await bus.ready({ workers: 2 });
  for (let i = 0; i < 20; i++) {
    const answer = await bus.request({ path: "/", body: `${i}` }, { timeout: 2_000 });
    expect(answer.text()).toBe(`${i}`);
  }
  stopped.process.kill("SIGCONT");
  const used = async (): Promise<boolean> => {
    const again = await Promise.all(Array.from({ length: 4 }, () => bus.request({ path: "/", body: "x" })));
    return again.some(({ workerPid }) => workerPid === stopped.pid);
  };
  const deadline = performance.now() + 5_000;
  while (!(await used())) expect(performance.now()).toBeLessThan(deadline); // until it parks
  expect(bus.workers.length).toBe(2);
});

test("a worker that was stopped once and continues gets its share of a light load again within a second or two", async () => {
  await using space = new Workspace();
  const { bus, child: stopped } = await space.remote("worker.ts");
  await stop(stopped);
  expect(await rejection(bus.request({ path: "/" }, { timeout: 30 }))).toBeInstanceOf(RequestTimeoutError);
  const other = space.child("worker.ts");
  await bus.ready({ workers: 2 });
  stopped.process.kill("SIGCONT");
  const by = new Map<number, number>();
  const deadline = performance.now() + 3_000;
  while (performance.now() < deadline && by.size < 2) {
    const two = await Promise.all([bus.request({ path: "/" }), bus.request({ path: "/" })]);
    for (const { workerPid } of two) by.set(workerPid, (by.get(workerPid) ?? 0) + 1);
    await Bun.sleep(1); // a light load
  }
  expect([by.has(other.pid), by.has(stopped.pid)]).toEqual([true, true]);
}, 10_000);

test("workers killed in turn under load: every request settles once, right or with an error that says so", async () => {
  await using space = new Workspace();
  const bus = await space.bus({ timeout: 5_000 });
  let children = [space.child("worker.ts"), space.child("worker.ts")];
  await bus.ready({ workers: 2 });
  let right = 0;
  let died = 0;
  let stop = false;
  const caller = async (n: number): Promise<void> => {
    for (let i = 0; !stop; i++) {
      const body = pattern(10 + ((n * 7919 + i * 104_729) % 40_000));
      try {
        const response = await bus.request({ path: "/", body });
        if (!same(response.body, body)) throw new Error(`caller ${n} got somebody else's answer`);
        right++;
      } catch (error) {
        if (!(error instanceof WorkerDiedError)) throw error;
        died++;
      }
    }
  };
  const callers = Promise.all(Array.from({ length: 8 }, (_, n) => caller(n)));
  for (let kills = 0; kills < 8; kills++) {
    const before = right;
    await until(() => right > before + 200, "answers go on");
    await children[0]!.kill();
    children = [children[1]!, space.child("worker.ts")];
    await until(() => bus.workers.length === 2, "two workers again");
  }
  stop = true;
  await callers;
  expect(right).toBeGreaterThan(1_600);
  expect(bus.stats().workersDied).toBe(8);
  expect(bus.stats().inFlight).toBe(0);
  expect(died).toBeLessThan(8 * 33);
}, 60_000);

test("a killed client: its workers notice at once, their handlers' signals abort, and they attach to the next client", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
  const client = space.child("client.ts");
  await client.line("open");
  const worker = space.child("worker.ts");
  await client.line("answered hi");
  await worker.line("got /hang");
  const start = performance.now();
  client.process.kill("SIGKILL");
  await worker.line("aborted");
  expect(performance.now() - start).toBeLessThan(NOTICE_MS);
  await worker.line("disconnected");
  await client.process.exited;
  expect(readdirSync(space.directory).sort()).toEqual(space.leftovers);
  for (let life = 0; life < 3; life++) {
    const next = space.child("client.ts");
    const began = performance.now();
    await next.line("answered hi");
    // The wait between two attempts starts small after each success, however many failures came before.
    expect(performance.now() - began).toBeLessThan(3_000);
    await next.kill();
  }
}, 30_000);

test("a client takes the name of a killed client at once, with any files that are left", async () => {
  await using space = new Workspace();
  const first = space.child("client.ts");
  await first.line("open");
  await first.kill();
  const bus = await space.bus();
  expect(bus.name).toBe(space.name);
});

test("a worker is killed before it claimed any request: they wait for the next worker, and time out without one", async () => {
  await using space = new Workspace();
  const { bus, child: doomed } = await space.remote("worker.ts");
  await doomed.line("serving");
  await stop(doomed);
  const answered = bus.request({ path: "/", body: "later" });
  const expired = rejection(bus.request({ path: "/" }, { timeout: 300 }));
  expect(bus.diagnostics().slots.filter(({ state }) => state === "READY").length).toBe(2);
  await doomed.kill();
  await until(() => bus.stats().queued === 2, "both are in the queue again");
  const error = await expired;
  expect(error).toBeInstanceOf(NoWorkerError);
  expect([(error as NoWorkerError).mayHaveExecuted, doomed.lines.includes("got /")]).toEqual([false, false]);
  space.child("worker.ts");
  expect((await answered).text()).toBe("later");
});

test("four workers of a killed client all find the next one", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
  const client = space.child("client.ts");
  await client.line("open");
  const workers = Array.from({ length: 4 }, () => space.child("worker.ts"));
  await Promise.all(workers.map((worker) => worker.line("serving")));
  await until(() => client.lines.filter((line) => line.startsWith("joined")).length === 4, "all four have joined");
  await client.kill();
  await Promise.all(workers.map((worker) => worker.line("disconnected")));
  const bus = await space.bus();
  await bus.ready({ workers: 4 });
  expect(bus.workers.map(({ pid }) => pid).toSorted()).toEqual(workers.map(({ pid }) => pid).toSorted());
  expect((await bus.request({ path: "/", body: "x" })).text()).toBe("x");
});

test("a blocking worker ends when its client is killed", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
  const client = space.child("lonely.ts", "ref");
  await client.line("open");
  const worker = space.child("sync-worker.ts");
  await worker.line("serving");
  const start = performance.now();
  await client.kill();
  await worker.line("ended");
  expect(performance.now() - start).toBeLessThan(1_000);
  expect(await worker.process.exited).toBe(0);
});

test("a handler that blocks its thread sees `aborted` when its client is killed", async () => {
  await using space = new Workspace();
  space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
  const client = space.child("client.ts"); // requests /hang from each worker
  await client.line("open");
  const worker = space.child("sync-worker.ts");
  await client.line("answered");
  await worker.line("hanging");
  await client.kill();
  await worker.line("aborted", 3_000);
  await worker.line("ended", 3_000);
});

test("a worker that exits in its handler counts as died, with any exit code", async () => {
  await using space = new Workspace();
  const { bus, child } = await space.remote("worker.ts");
  const error = await rejection<WorkerDiedError>(bus.request({ path: "/exit", query: "0" }, { timeout: 2_000 }));
  expect([error.code, error.pid, error.mayHaveExecuted]).toEqual(["WORKER_DIED", child.pid, true]);
  expect(await child.process.exited).toBe(0);
  expect([bus.stats().workersDied, bus.stats().workersLeft]).toEqual([1, 0]);
});

test("a killed worker's quarantined slots are gone with it", async () => {
  await using space = new Workspace();
  const { bus, child: doomed } = await space.remote("worker.ts", { slots: 2 });
  await rejection(bus.request({ path: "/hang" }, { timeout: 500 }));
  await doomed.line("got /hang");
  expect(
    bus
      .diagnostics()
      .slots.map(({ state }) => state)
      .toSorted(),
  ).toEqual(["ABANDONED", "FREE"]);
  await doomed.kill();
  await until(() => bus.workers.length === 0, "the death is noticed");
  expect([bus.stats().inFlight, bus.diagnostics().slots]).toEqual([0, []]);
});
