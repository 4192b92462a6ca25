/** Processes and threads: when they end, what they leave, and that an idle process sleeps. */

import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { type SlotWorkerOptions, WorkerDiedError } from "../src/index.ts";
import { leaves } from "./leaks.ts";
import { descriptors, processState, rejection, stop, until, Workspace } from "./support.ts";

describe("the end of a process", () => {
  for (const mode of ["idle", "served", "waiting", "unref"]) {
    test(`a process with a ${mode} bus ends by itself, and leaves no file`, async () => {
      await using space = new Workspace();
      const child = space.child("lonely.ts", mode);
      await child.line("open");
      expect(await child.process.exited).toBe(0);
      expect(readdirSync(space.directory)).toEqual([]);
      // The awaited request kept it alive until it had failed.
      expect(child.lines.includes("NO_WORKER")).toBe(mode === "waiting");
    });
  }

  test("a process whose bus is held by ref stays", async () => {
    await using space = new Workspace();
    space.leftovers = [`${space.name}.lock`, `${space.name}.sock`]; // it is killed
    const child = space.child("lonely.ts", "ref");
    await child.line("open");
    // An unreferenced process starts and ends meanwhile.
    await using other = new Workspace();
    await other.child("lonely.ts", "waiting").process.exited;
    expect(child.process.exitCode).toBeNull();
    await space.worker(() => "x"); // and it is still a client
  });

  for (const [way, code] of [
    ["exit", 3],
    ["throw", 1],
    ["close", 0],
  ] as const) {
    test(`a client whose process ends by ${way} with a waiting request leaves no file`, async () => {
      await using space = new Workspace(); // expects its directory to be empty
      const child = space.child("ending-client.ts", way);
      await child.line("waiting");
      expect(await child.process.exited).toBe(code);
      expect(readdirSync(space.directory)).toEqual([]);
    });
  }

  test("a closed worker lets its process end by itself", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("closing-worker.ts");
    expect((await bus.request({ path: "/" })).text()).toBe(String(child.pid));
    expect(child.process.exitCode).toBeNull(); // it serves, so it stays
    await bus.request({ path: "/stop" });
    expect(await child.process.exited).toBe(0);
    await until(() => bus.stats().workersLeft === 1, "it left");
  });

  test("a worker of two buses finishes the requests of both before SIGTERM ends it", async () => {
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

  test("without drainOnSigterm SIGTERM ends a worker at once, and its request rejects with WorkerDiedError", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("closing-worker.ts");
    await stop(child); // so that it still has the request when it ends
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
    const worker = new Worker(join(import.meta.dir, "fixtures/thread-client.ts"));
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

  test("a client in a thread calls a worker of the main thread, async and blocking, and frees its name", async () => {
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

  test("ten client threads that start and end leave no descriptor behind", async () => {
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

/** Bytes of shared memory in the regions mapped into this process. */
function regionBytes(): number {
  const mappings = readFileSync("/proc/self/smaps", "latin1").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const regions = mappings.filter((mapping) => /^[^\n]*memfd:slotbus \(/.test(mapping));
  return regions.reduce((sum, mapping) => sum + Number(/^Rss: +(\d+) kB/m.exec(mapping)![1]) * 1_024, 0);
}

describe("terminated threads with workers", () => {
  const BYTES = 2 ** 20;
  const THREADS = 3;
  /** Memory that may stay of a worker: its lines, 16 KiB with 32 slots. */
  const LINES = 16 * 1_024;

  class Threads implements AsyncDisposable {
    readonly #threads: Worker[] = [];

    /** Opens a worker in its own thread. The returned function posts a message to it and waits for its `answer`. */
    async open(options: SlotWorkerOptions): Promise<(message: unknown, answer: string) => Promise<void>> {
      const thread = new Worker(join(import.meta.dir, "fixtures/thread-worker.ts"));
      const said: unknown[] = [];
      this.#threads.push(thread);
      thread.addEventListener("message", ({ data }) => said.push(data));
      const tell = async (message: unknown, answer: string): Promise<void> => {
        if (message !== null) thread.postMessage(message);
        await until(() => said.includes(answer), `a thread that says ${answer}`);
      };
      await tell({ options }, "open");
      return tell;
    }

    async [Symbol.asyncDispose](): Promise<void> {
      for (const thread of this.#threads.splice(0)) {
        const ended = new Promise((done) => thread.addEventListener("close", done));
        thread.terminate();
        await ended;
      }
    }
  }

  test("leave no request and no answer in shared memory, even when their handlers ran", async () => {
    leaves(/mapping/); // no code of a terminated thread runs, so nothing unmaps its region
    await using space = new Workspace();
    const bus = await space.bus();
    const before = regionBytes();
    await using threads = new Threads();
    for (let i = 0; i < THREADS; i++) {
      await threads.open({ name: space.name, directory: space.directory });
      await bus.ready({ workers: i + 1 });
    }
    const body = new Uint8Array(BYTES).fill(1);
    const answers = await Promise.all(Array.from({ length: 4 * THREADS }, () => bus.request({ path: "/", body })));
    expect(answers.every((answer) => answer.body.length === BYTES)).toBe(true);
    const hanging = Array.from({ length: THREADS }, () => rejection(bus.request({ path: "/hang", body })));
    expect(regionBytes() - before).toBeGreaterThan(8 * THREADS * BYTES); // otherwise there is nothing to free
    await until(
      () => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === THREADS,
      "they run",
    );
    await threads[Symbol.asyncDispose]();
    for (const error of await Promise.all(hanging)) expect(error).toBeInstanceOf(WorkerDiedError);
    await until(() => bus.workers.length === 0, "the workers' ends");
    expect(regionBytes() - before).toBeLessThanOrEqual(THREADS * LINES);
  }, 20_000);

  test("keep a lent response unchanged; its pages go with its release", async () => {
    leaves(/mapping/); // no code of a terminated thread runs, so nothing unmaps its region
    await using space = new Workspace();
    const bus = await space.bus();
    const before = regionBytes();
    await using threads = new Threads();
    await threads.open({ name: space.name, directory: space.directory });
    const lent = await bus.borrow({ path: "/", body: new Uint8Array(BYTES) });
    await threads[Symbol.asyncDispose]();
    await until(() => bus.workers.length === 0, "the worker's end");
    expect(lent.body.length).toBe(BYTES);
    expect(lent.body.every((byte) => byte === 7)).toBe(true);
    lent.release();
    expect(regionBytes() - before).toBeLessThanOrEqual(LINES);
  });

  test("leave nothing to a thread whose event loop is stopped when the bus closes; that thread then ends cleanly", async () => {
    await using space = new Workspace();
    const before = regionBytes();
    const word = new SharedArrayBuffer(4);
    await using threads = new Threads();
    const bus = await space.bus();
    const said = await threads.open({ name: space.name, directory: space.directory, reconnect: false });
    await bus.request({ path: "/", body: new Uint8Array(BYTES) });
    await said({ block: word }, "blocked");
    expect(regionBytes() - before).toBeGreaterThan(2 * BYTES);
    await bus.close();
    expect(regionBytes() - before).toBeLessThanOrEqual(LINES);
    Atomics.store(new Int32Array(word), 0, 1);
    Atomics.notify(new Int32Array(word), 0);
    await said(null, "CLOSED");
    expect(regionBytes()).toBe(before);
  });
});

describe("sleep", () => {
  test("client and worker both sleep in the kernel when idle, and one request wakes both", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("worker.ts");
    await bus.request({ path: "/", body: "warm" });
    const wakeups = async (): Promise<number> => (await bus.request({ path: "/wakeups" })).json<number>();
    for (let i = 0; i < 5; i++) {
      await until(() => processState(child.pid) === "S", "the worker sleeps");
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(resolve, 60); // longer than the longest spin
      await promise;
      const { bells } = bus.stats();
      expect((await bus.request({ path: "/", body: "x" })).text()).toBe("x");
      expect(bus.stats().bells).toBe(bells + 1); // it slept: it needed a bell
    }
    expect(await wakeups()).toBeGreaterThanOrEqual(5);
  });

  test("client and worker do not wake during an idle second, by their own count", async () => {
    await using space = new Workspace();
    const { bus, worker } = await space.pair(async ({ path, body }) => {
      if (path === "/late") await Bun.sleep(20);
      return body;
    });
    for (let i = 0; i < 100; i++) await bus.request({ path: "/", body: "x" });
    const pause = (ms: number): Promise<void> => {
      const { promise, resolve } = Promise.withResolvers<void>();
      setTimeout(resolve, ms);
      return promise;
    };
    await pause(100); // both park, and the last request's tick ends
    const before = [bus.stats().wakeups, worker.wakeups, bus.stats().bells];
    await pause(1_500);
    expect([bus.stats().wakeups, worker.wakeups, bus.stats().bells]).toEqual(before);
    expect((await bus.request({ path: "/", body: "awake" })).text()).toBe("awake");
    expect([worker.wakeups, bus.stats().bells]).toEqual([before[1]! + 1, before[2]! + 1]); // so the counts are live
    expect(worker.spinning).toMatch(availableParallelism() > 1 ? /^(on|vain|contended)$/ : /^off$/);
    await until(async () => {
      await bus.request({ path: "/late" });
      return bus.stats().wakeups > before[0]!;
    }, "a late response wakes the client");
  });
});
