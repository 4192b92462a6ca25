/** Processes and threads: when they end, what they leave, and that an idle one sleeps. */

import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { descriptors, until, Workspace } from "./support.ts";

/** `S` sleeps, `R` runs, `T` is stopped, `Z` has ended. */
function stateOf(pid: number): string {
  return /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))![1]!;
}

describe("the end of a process", () => {
  for (const mode of ["idle", "served", "waiting", "unref"]) {
    test(`a process ends by itself whose bus is ${mode}, and leaves no file`, async () => {
      await using space = new Workspace();
      const child = space.child("lonely.ts", mode);
      await child.line("open");
      expect(await child.process.exited).toBe(0);
      expect(readdirSync(space.directory)).toEqual([]);
      // The request that was awaited kept it alive until it had failed.
      expect(child.lines.includes("NO_WORKER")).toBe(mode === "waiting");
    });
  }

  test("a process whose bus is held by ref stays", async () => {
    await using space = new Workspace();
    space.leftovers = [`${space.name}.lock`, `${space.name}.sock`]; // it is killed
    const child = space.child("lonely.ts", "ref");
    await child.line("open");
    // As long as one that is not held takes from its start to its end.
    await using other = new Workspace();
    await other.child("lonely.ts", "waiting").process.exited;
    expect(child.process.exitCode).toBeNull();
    await space.worker(() => "x"); // and it is a hub still
  });

  for (const [way, code] of [
    ["exit", 3],
    ["throw", 1],
    ["close", 0],
  ] as const) {
    test(`a hub whose process ends by ${way} with a request waiting leaves no file`, async () => {
      await using space = new Workspace(); // expects its directory to be empty
      const child = space.child("ending-hub.ts", way);
      await child.line("waiting");
      expect(await child.process.exited).toBe(code);
      expect(readdirSync(space.directory)).toEqual([]);
    });
  }

  test("a worker that is closed lets its process end by itself", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = space.child("closing-worker.ts");
    await bus.ready();
    expect((await bus.request({ path: "/" })).text()).toBe(String(child.pid));
    expect(child.process.exitCode).toBeNull(); // it serves, so it stays
    await bus.request({ path: "/stop" });
    expect(await child.process.exited).toBe(0);
    await until(() => bus.stats().workersLeft === 1, "it left");
  });

  test("a worker of two buses finishes what runs for both before SIGTERM ends it", async () => {
    await using space = new Workspace();
    const idle = await space.bus();
    const busy = await space.bus({ name: `${space.name}-b` });
    const child = space.child("two-buses.ts");
    await child.line("serving");
    await Promise.all([idle.ready(), busy.ready()]);
    const running = busy.request({ path: "/slow", query: "300" }, { timeout: 10_000 });
    await child.line("got /slow");
    child.process.kill("SIGTERM");
    await until(() => idle.stats().workersLeft === 1, "the idle one has left");
    const outcome = await running.then(
      (response) => response.text(),
      (error: Error) => error.message,
    );
    expect(outcome).toBe("finished");
    await child.process.exited;
    expect([child.process.signalCode, busy.stats().workersLeft]).toEqual(["SIGTERM", 1]);
  });

  test("without drainOnSigterm SIGTERM ends a worker at once, and its caller hears that it died", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = space.child("closing-worker.ts");
    await bus.ready();
    child.process.kill("SIGSTOP"); // so that it still has the request when it ends
    await until(() => stateOf(child.pid) === "T", "it is stopped");
    const waiting = bus.request({ path: "/" }, { timeout: 5_000, waitForWorker: false });
    child.process.kill("SIGTERM");
    child.process.kill("SIGCONT");
    await child.process.exited;
    expect(child.process.signalCode).toBe("SIGTERM");
    await until(() => bus.stats().workersDied === 1, "the death is noticed");
    const heir = space.child("closing-worker.ts");
    expect((await waiting).text()).toBe(String(heir.pid)); // it was never claimed
  });
});

describe("threads", () => {
  function thread(): { post(message: unknown): Promise<string>; end(): Promise<void> } {
    const worker = new Worker(join(import.meta.dir, "fixtures/thread-hub.ts"));
    const post = (message: unknown): Promise<string> => {
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      worker.onmessage = ({ data }) => resolve(String(data));
      worker.onerror = ({ message: text }) => reject(new Error(text));
      worker.postMessage(message);
      return promise;
    };
    const end = async (): Promise<void> => {
      const { promise, resolve } = Promise.withResolvers<void>();
      worker.addEventListener("close", () => resolve());
      worker.terminate();
      await promise;
    };
    return { post, end };
  }

  test("a hub in a thread asks a worker of the main thread, waiting and blocking, and gives its name back", async () => {
    await using space = new Workspace();
    const options = { name: space.name, directory: space.directory };
    const { post, end } = thread();
    expect(await post(options)).toBe("open");
    const worker = await space.worker((request) => `main ${request.text()}`);
    for (let i = 0; i < 20; i++) expect(await post(i % 2 ? "sync" : "ask")).toBe("main thread");
    expect(worker.served).toBe(20);
    expect(await post("close")).toBe("closed");
    await end();
    const next = await space.bus();
    expect((await next.request({ path: "/", body: "again" })).text()).toBe("main again");
  });

  test("ten threads that come and go as hubs leave no descriptor behind", async () => {
    await using space = new Workspace();
    const cycle = async (): Promise<void> => {
      const { post, end } = thread();
      expect(await post({ name: space.name, directory: space.directory })).toBe("open");
      expect(await post("close")).toBe("closed");
      await end();
    };
    await cycle();
    const before = descriptors();
    for (let i = 0; i < 10; i++) await cycle();
    await until(() => descriptors() <= before, "their descriptors are closed");
  }, 20_000);
});

describe("sleep", () => {
  test("hub and worker both sleep in the kernel when idle, and one request wakes both", async () => {
    await using space = new Workspace();
    const bus = await space.bus();
    const child = space.child("worker.ts");
    await bus.ready();
    await bus.request({ path: "/", body: "warm" });
    const wakeups = async (): Promise<number> => (await bus.request({ path: "/wakeups" })).json<number>();
    for (let i = 0; i < 5; i++) {
      await until(() => stateOf(child.pid) === "S", "the worker sleeps");
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(resolve, 60); // longer than the longest spin
      await promise;
      const { bells } = bus.stats();
      expect((await bus.request({ path: "/", body: "x" })).text()).toBe("x");
      expect(bus.stats().bells).toBe(bells + 1); // it had to be rung for: it was asleep
    }
    expect(await wakeups()).toBeGreaterThanOrEqual(5);
  });

  test("an idle second is no wake-up for hub and worker, by their own count", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair((request) => request.body);
    for (let i = 0; i < 100; i++) await bus.request({ path: "/", body: "x" });
    const pause = (ms: number): Promise<void> => {
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(resolve, ms);
      return promise;
    };
    await pause(100); // both park, and the tick after the last request ends itself
    const before = [bus.stats().wakeups, worker.wakeups, bus.stats().bells];
    await pause(1_500);
    expect([bus.stats().wakeups, worker.wakeups, bus.stats().bells]).toEqual(before);
    expect((await bus.request({ path: "/", body: "awake" })).text()).toBe("awake");
    expect(bus.stats().bells).toBe(before[2]! + 1); // so the counts are alive
  });
});
