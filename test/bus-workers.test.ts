/** Workers that a bus starts itself. */

import { describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  ClosedError,
  InvalidConfigError,
  NotReadyError,
  NoWorkerError,
  RequestTimeoutError,
  SlotBus,
  WorkerDiedError,
  type WorkerFailedError,
  type WorkersOptions,
  WorkerStartError,
} from "../src/index.ts";
import { findLauncher } from "../src/native/find.ts";
import { lives } from "./line-transport.ts";
import { Child, descriptors, rejection, stop, until, Workspace } from "./support.ts";

const entry = join(import.meta.dir, "fixtures/bus-worker.ts");
const quick = { drain: 5_000, term: 3_000 };

/** A bus with workers that take two requests at once. */
async function start(space: Workspace, workers: Partial<WorkersOptions> = {}, options: object = {}): Promise<SlotBus> {
  return space.bus({ workers: { entry, args: ["2"], stop: quick, ...workers }, ...options });
}

/** Collects the warnings of this library while it is open. */
function heard(): { texts: string[] } & Disposable {
  const texts: string[] = [];
  const onWarning = ({ name, message }: Error): void => void (name === "SlotbusWarning" && texts.push(message));
  process.on("warning", onWarning);
  return { texts, [Symbol.dispose]: () => void process.off("warning", onWarning) };
}

function pids(bus: SlotBus): number[] {
  return bus.supervisor!.workers.map(({ pid }) => pid);
}

describe("workers of a bus", () => {
  test("are attached when create resolves, find the bus by their environment, and are gone when it is closed", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 2, max: 2, env: { GREETING: "hello" }, cwd: import.meta.dir });
    expect(bus.workers.map(({ pid }) => pid).sort()).toEqual(pids(bus).sort());
    expect(bus.workers.length).toBe(2);
    const running = pids(bus);
    const response = await bus.request({ path: "/env" });
    expect(response.json<string[]>()).toEqual(["hello", import.meta.dir]);
    expect(running).toContain(Number((await bus.request({ path: "/" })).text()));
    let died = 0;
    bus.on("died", () => died++);
    await bus.close();
    expect(running.filter(lives)).toEqual([]);
    expect(died).toBe(0);
  });

  test("a worker that attaches before its launcher has spoken is ready, and its answers are counted", async () => {
    const folder = mkdtempSync(join(tmpdir(), "slotbus-early-"));
    try {
      const path = (name: string): string => join(folder, name);
      const library = join(import.meta.dir, "../src/index.ts");
      // The end of the launcher's word is held back until the worker has attached.
      const hold = `(exec 3<&-; until [ -e ${path("attached")} ]; do sleep 0.01; done) &`;
      writeFileSync(path("launcher"), `#!/bin/sh\n${hold}\nexec ${findLauncher()} "$@"\n`);
      chmodSync(path("launcher"), 0o755);
      writeFileSync(
        path("worker.ts"),
        `import { drainOnSigterm, SlotWorker } from "${library}";
        const worker = await SlotWorker.open();
        await Bun.write("${path("attached")}", "");
        worker.serve(() => String(process.pid));
        drainOnSigterm(worker);`,
      );
      writeFileSync(
        path("host.ts"),
        `import { SlotBus } from "${library}";
        const workers = { entry: "${path("worker.ts")}", max: 1, startupTimeout: 5_000, recycle: { maxRequests: 1 } };
        await using bus = await SlotBus.create({ name: "early", workers });
        const pid = (await bus.request({ path: "/" })).text();
        while (bus.supervisor.workers.some((worker) => String(worker.pid) === pid)) await Bun.sleep(1);
        console.log("replaced");`,
      );
      const env = { ...process.env, SLOTBUS_DIR: path("run"), SLOTBUS_LAUNCHER: path("launcher") };
      const host = Bun.spawn([process.execPath, path("host.ts")], { env, stdio: ["ignore", "pipe", "pipe"] });
      const [text, errors] = await Promise.all([host.stdout.text(), host.stderr.text(), host.exited]);
      expect([text, errors]).toEqual(["replaced\n", ""]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }, 30_000);

  test("become more while requests wait, up to max, and fewer after they were not needed for the idle time", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 3, idle: 400 });
    const [first] = pids(bus);
    let left = 0;
    let died = 0;
    bus.on("left", () => left++);
    bus.on("died", () => died++);
    const asked = Array.from({ length: 60 }, () => bus.request({ path: "/slow", query: "100" }));
    await until(() => bus.workers.length === 3, "three workers");
    const answers = await Promise.all(asked);
    expect(new Set(answers.map((answer) => answer.text())).size).toBe(3);
    expect(bus.supervisor!.workers.length).toBe(3);
    await until(() => bus.workers.length === 1, "one worker");
    expect(pids(bus)).toEqual([first!]);
    await until(() => left === 2, "two departures");
    expect(died).toBe(0);
    expect((await bus.request({ path: "/" })).text()).toBe(String(first));
  });

  test("with min 0, no worker runs until a request comes", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 0, max: 2, idle: 300 });
    expect(bus.supervisor!.workers).toEqual([]);
    const text = (await bus.request({ path: "/" })).text();
    expect(bus.workers.map(({ pid }) => pid)).toEqual([Number(text)]);
    await until(() => bus.supervisor!.workers.length === 0, "none again");
    await until(() => !lives(Number(text)), "its end");
    expect((await bus.request({ path: "/" })).text()).not.toBe(text);
  });

  test("a killed worker is replaced by another process; its requests are rejected, waiting requests are answered", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, restart: { backoff: { initial: 10 } } });
    const [pid] = pids(bus);
    const running = [1, 2].map(() => rejection<WorkerDiedError>(bus.request({ path: "/slow", query: "60000" })));
    const waiting = bus.request({ path: "/" });
    await until(() => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === 2, "both claimed");
    process.kill(pid!, "SIGKILL");
    for (const error of await Promise.all(running)) {
      expect(error).toBeInstanceOf(WorkerDiedError);
      expect([error.pid, error.mayHaveExecuted]).toEqual([pid!, true]);
    }
    const text = (await waiting).text();
    expect([Number(text)]).toEqual(pids(bus));
    expect(Number(text)).not.toBe(pid!);
    expect(bus.supervisor!.workers[0]).toMatchObject({ life: 2, restarts: 1, state: "ready" });
  });

  test("a worker that ends itself is replaced too", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, restart: { backoff: { initial: 10 } } });
    const [pid] = pids(bus);
    expect(await rejection(bus.request({ path: "/exit", query: "3" }))).toBeInstanceOf(WorkerDiedError);
    expect((await bus.request({ path: "/" })).text()).not.toBe(String(pid));
  });

  for (const [path, query, exitCode, signal, says] of [
    ["/exit", "3", 3, null, "exited with code 3"],
    ["/exit", "0", 0, null, "exited with code 0"],
    ["/kill", "SIGKILL", null, "SIGKILL", "was killed by SIGKILL"],
    ["/kill", "SIGABRT", null, "SIGABRT", "was killed by SIGABRT"],
    ["/kill", "SIGSEGV", null, "SIGSEGV", "was killed by SIGSEGV"],
  ] as const) {
    test(`requests of a worker that ${says} say so`, async () => {
      await using space = new Workspace();
      const bus = await start(space, { min: 1, max: 1, restart: { backoff: { initial: 10 } } });
      const [pid] = pids(bus);
      const other = rejection<WorkerDiedError>(bus.request({ path: "/slow", query: "60000" }));
      const error = await rejection<WorkerDiedError>(bus.request({ path, query }));
      for (const one of [error, await other]) {
        expect(one).toBeInstanceOf(WorkerDiedError);
        expect([one.pid, one.exitCode, one.signal, one.mayHaveExecuted]).toEqual([pid!, exitCode, signal, true]);
        expect(one.message).toMatch(
          new RegExp(`Worker pid ${pid} ${says} after \\d+ ms while request \\S+ was in flight`),
        );
      }
    });
  }

  test("a request that waits for a worker's exit can be aborted, and rejects when the bus closes", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, restart: { backoff: { initial: 60_000 } } });
    const abort = new AbortController();
    const aborted = rejection(bus.request({ path: "/slow", query: "60000" }, { signal: abort.signal }));
    const lost = rejection(bus.request({ path: "/slow", query: "60000" }));
    await until(() => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === 2, "both claimed");
    const reason = new Error("no longer needed");
    const closed = new Promise<void>((resolve) => {
      bus.on("died", () => {
        abort.abort(reason);
        resolve(bus.close({ timeout: 0 }));
      });
    });
    process.kill(pids(bus)[0]!, "SIGKILL");
    expect(await aborted).toBe(reason);
    expect([ClosedError.name, WorkerDiedError.name]).toContain((await lost).name);
    await closed;
    expect(bus.stats().unsettledAtEnd).toBe(0);
  });

  test("the error has the signal when the launcher of the worker runs late", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, restart: { backoff: { initial: 60_000 } } });
    const [pid] = pids(bus);
    const [, launcher] = /^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))!;
    const patient = rejection<WorkerDiedError>(bus.request({ path: "/slow", query: "60000" }));
    const late = rejection<WorkerDiedError>(bus.request({ path: "/slow", query: "60000" }, { timeout: 300 }));
    await until(() => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === 2, "both claimed");
    await stop({ pid: Number(launcher) });
    process.kill(pid!, "SIGKILL");
    const errors = [await late];
    process.kill(Number(launcher), "SIGCONT");
    errors.push(await patient);
    expect(errors.map(({ code, signal }) => [code, signal])).toEqual([
      ["WORKER_DIED", null], // its timeout did not allow a longer wait
      ["WORKER_DIED", "SIGKILL"],
    ]);
  });

  test("the error has no exit code or signal when the bus did not start the worker", async () => {
    await using space = new Workspace();
    const { bus, child } = await space.remote("worker.ts");
    const error = await rejection<WorkerDiedError>(bus.request({ path: "/exit", query: "3" }));
    expect([error.pid, error.exitCode, error.signal]).toEqual([child.pid, null, null]);
    expect(error.message).toContain(`Worker pid ${child.pid} ended while request`);
  });

  test("are replaced after a number of requests, under load, and no request is lost", async () => {
    await using space = new Workspace();
    const stop = { drain: 1_000, term: 3_000 };
    const bus = await start(space, { min: 2, max: 2, recycle: { maxRequests: 50 }, stop });
    let died = 0;
    bus.on("died", () => died++);
    const seen = new Set<string>();
    const ends = performance.now() + 20_000;
    const ask = async (): Promise<void> => {
      while (seen.size < 5 && performance.now() < ends) {
        seen.add((await bus.request({ path: "/slow", query: "2" })).text());
      }
    };
    await Promise.all(Array.from({ length: 8 }, ask)); // without a pause: a draining worker is never idle by chance
    expect(seen.size).toBeGreaterThanOrEqual(5);
    expect(died).toBe(0);
    expect(bus.supervisor!.workers.map(({ restarts }) => restarts)).toEqual([0, 0]);
  });

  test("an evicted worker is replaced", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, args: ["2", "stay"] });
    const [pid] = pids(bus);
    bus.evict(bus.workers[0]!.id, "for a test");
    expect((await bus.request({ path: "/" })).text()).not.toBe(String(pid));
    await until(() => !lives(pid!), "its end");
  });

  test("close settles running and waiting requests, and ends a worker that hangs", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, stop: { drain: 0, term: 200 } });
    const [pid] = pids(bus);
    const lost = Array.from({ length: 3 }, () => rejection(bus.request({ path: "/slow", query: "60000" })));
    await until(() => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === 2, "both claimed");
    process.kill(pid!, "SIGSTOP");
    await bus.close({ timeout: 100 });
    for (const error of await Promise.all(lost)) expect(error).toBeInstanceOf(ClosedError);
    expect(lives(pid!)).toBe(false);
  });

  test("a close while workers start ends them too", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 0, max: 3 });
    const lost = Array.from({ length: 6 }, () => rejection(bus.request({ path: "/slow", query: "60000" })));
    await until(() => bus.supervisor!.workers.length === 3, "three on their way");
    await bus.close({ timeout: 0 });
    for (const error of await Promise.all(lost)) expect(error).toBeInstanceOf(ClosedError);
    expect(bus.supervisor!.workers.map(({ state }) => state)).toEqual(["stopped", "stopped", "stopped"]);
  });

  test("an entry that fails rejects create with its exit code and output, and frees the name", async () => {
    await using space = new Workspace();
    const before = descriptors();
    const env = { SLOTBUS_NAME: "of nobody" }; // the bus knows the exit code
    const failing = join(import.meta.dir, "fixtures/failing-worker.ts");
    const error = await rejection<WorkerStartError>(space.bus({ workers: { entry: failing, env, stderr: "log" } }));
    expect(error).toBeInstanceOf(WorkerStartError);
    expect(error.hint).toBeUndefined(); // the message has the output
    expect(error.report).toMatchObject({ how: "itself", exitCode: 9, stderrTail: `no database for ${space.name}\n` });
    await using bus = await start(space);
    expect(bus.workers.length).toBe(1);
    await bus.close();
    expect(descriptors()).toBeLessThanOrEqual(before + 1);
  });

  test("an entry that runs but never attaches, or ends first, gets the hint to call SlotWorker.open()", async () => {
    await using space = new Workspace();
    const idle = join(import.meta.dir, "fixtures/idle-entry.ts");
    for (const [args, said] of [
      [[], "was not ready within 400 ms"],
      [["end"], "ended before it was ready: it exited with code 0 after"],
    ] as const) {
      const workers = { entry: idle, args, startupTimeout: args.length > 0 ? 60_000 : 400 };
      const error = await rejection<WorkerStartError>(space.bus({ workers }));
      expect(error).toBeInstanceOf(WorkerStartError);
      expect(error.message).toStartWith(`Worker 0 of pool "${space.name}" ${said}`);
      expect(error.hint).toBe("Call `SlotWorker.open()` in the entry; without a `name` it attaches to this bus.");
    }
  });

  test("a ready() that times out says why the last process failed", async () => {
    await using space = new Workspace();
    const backoff = { initial: 60_000, max: 60_000 };
    const bus = await start(space, { min: 1, max: 1, restart: { backoff } });
    const [pid] = pids(bus);
    expect(await rejection(bus.request({ path: "/exit", query: "4" }))).toBeInstanceOf(WorkerDiedError);
    await until(() => bus.supervisor!.workers[0]!.state === "backoff", "a restart is planned");
    const error = await rejection(bus.ready({ timeout: 50 }));
    expect(error).toBeInstanceOf(NotReadyError);
    expect((error.cause as WorkerStartError).report).toMatchObject({ pid, exitCode: 4 });
    expect(error.message).toContain("The last worker process failed: see `cause`.");
  });

  test("twelve requests that crash a worker pause the pool: requests fail at once with the reason, and work again within seconds", async () => {
    await using space = new Workspace();
    using warnings = heard();
    const bus = await start(space, { min: 2, max: 2, restart: { backoff: { initial: 20 }, healthyAfter: 300 } });
    // Twelve are enough, unless a worker stays up for longer than healthyAfter on a busy machine.
    await until(async () => {
      if (!bus.supervisor!.isDown) await rejection(bus.request({ path: "/exit", query: "1" }, { timeout: 2_000 }));
      return bus.supervisor!.isDown;
    }, "the pool is paused");
    await until(() => bus.workers.length === 0, "nobody is attached");
    const from = performance.now();
    const error = await rejection<NoWorkerError>(bus.request({ path: "/" }));
    expect(performance.now() - from).toBeLessThan(500); // a request's timeout is 30 s
    expect(error).toBeInstanceOf(NoWorkerError);
    expect((error.cause as WorkerFailedError).report.exitCode).toBe(1);
    expect([error.retryable, error.mayHaveExecuted]).toEqual([true, false]);
    expect(() => bus.requestSync({ path: "/" })).toThrow(NoWorkerError);
    expect(bus.stats()).toMatchObject({ workersPaused: 1, workersResumed: 0 });
    let answer = "";
    await until(
      async () => {
        answer = await bus.request({ path: "/" }).then(
          (response) => response.text(),
          () => "",
        );
        return answer !== "";
      },
      "an answer",
      5_000,
    );
    await until(() => bus.workers.length === 2 && bus.stats().workersResumed === 1, "both are back");
    expect(warnings.texts.length).toBe(2);
    expect(warnings.texts[0]).toContain(`pool "${space.name}" is paused (it had 5 restarts within 60000 ms)`);
    expect(warnings.texts[0]).toContain("exited with code 1");
    expect(warnings.texts[1]).toContain("is no longer paused");
  }, 30_000);

  test("waiting requests fail at once too when the pool is paused, but a worker from elsewhere goes on", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, restart: { maxRestarts: 0, backoff: { initial: 60_000 } } });
    bus.supervisor!.on("paused", () => {});
    const [pid] = pids(bus);
    const busy = Array.from({ length: 2 }, () => rejection(bus.request({ path: "/slow", query: "60000" })));
    const twice = rejection<NoWorkerError>(bus.request({ path: "/" }, { idempotent: true }));
    const waiting = Array.from({ length: 5 }, () => rejection(bus.request({ path: "/" })));
    await until(() => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === 2, "both claimed");
    process.kill(pid!, "SIGKILL");
    for (const error of await Promise.all(busy)) expect(error).toBeInstanceOf(WorkerDiedError);
    for (const error of await Promise.all([...waiting, twice])) {
      expect(error).toBeInstanceOf(NoWorkerError);
      expect((error.cause as WorkerFailedError).report.pid).toBe(pid!);
    }
    await space.worker(() => "from elsewhere");
    await bus.ready();
    expect((await bus.request({ path: "/" })).text()).toBe("from elsewhere");
    expect(bus.supervisor!.isDown).toBe(true);
    await bus.close();
    expect(bus.supervisor!.workers.map(({ state }) => state)).toEqual(["stopped"]);
  }, 30_000);

  test("a pool that is paused does not keep the process of its bus alive", async () => {
    await using space = new Workspace();
    const child = space.child("paused-client.ts", entry);
    await child.line("paused");
    await until(() => child.process.exitCode !== null, "its end by itself");
    expect(child.process.exitCode).toBe(0);
  });

  test("a request that ran when its worker died says so when no other worker is left", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, restart: { maxRestarts: 0, backoff: { initial: 60_000 } } });
    bus.supervisor!.on("paused", () => {});
    const error = await rejection<NoWorkerError>(bus.request({ path: "/exit", query: "6" }, { idempotent: true }));
    expect(error).toBeInstanceOf(NoWorkerError);
    expect(error.mayHaveExecuted).toBe(true);
  });

  test("with giveUp, after all workers were given up a request says why, and a resize starts them again", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, restart: { maxRestarts: 0, giveUp: true } });
    const [pid] = pids(bus);
    expect(await rejection(bus.request({ path: "/exit", query: "4" }))).toBeInstanceOf(WorkerDiedError);
    const error = await rejection(bus.request({ path: "/" }, { timeout: 300 }));
    expect(error).toBeInstanceOf(NoWorkerError);
    expect((error.cause as WorkerFailedError).report).toMatchObject({ pid, exitCode: 4 });
    await bus.supervisor!.resize(bus.supervisor!.workers.length);
    expect(Number((await bus.request({ path: "/" })).text())).toBe(pids(bus)[0]!);
    expect(pids(bus)[0]).not.toBe(pid);
  });

  test("workers are replaced and scaled without a wrong error: a timeout stays a timeout", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 2 });
    const asked = Array.from({ length: 4 }, () =>
      rejection(bus.request({ path: "/slow", query: "60000" }, { timeout: 300 })),
    );
    for (const error of await Promise.all(asked)) expect(error).toBeInstanceOf(RequestTimeoutError);
  });

  test("one second after a client was killed, none of its workers is left", async () => {
    await using space = new Workspace();
    await using client = new Child("supervising-client.ts", [space.name], { SLOTBUS_DIR: space.directory });
    const running = JSON.parse(await client.line("[")) as number[];
    expect(running.filter(lives).length).toBe(2);
    await client.kill("SIGKILL");
    space.leftovers = [`${space.name}.lock`, `${space.name}.sock`];
    await until(() => !running.some(lives), "both are gone", 1_000);
  });
});

describe("a worker whose event loop is blocked", () => {
  const many = { args: ["32"], restart: { backoff: { initial: 10 } } };

  test("is replaced; requests that it never claimed are answered by others, each within its own timeout", async () => {
    await using space = new Workspace();
    const bus = await start(space, { ...many, min: 3, max: 3, unresponsive: 400 });
    const reasons: string[] = [];
    bus.on("died", (_, reason) => reasons.push(reason));
    const before = pids(bus);
    const hangs = rejection<WorkerDiedError>(bus.request({ path: "/hang" }, { timeout: 10_000 }));
    const others = Array.from({ length: 63 }, () => bus.request({ path: "/" }, { timeout: 10_000 }));
    const answers = await Promise.all(others);
    const error = await hangs;
    expect(error).toBeInstanceOf(WorkerDiedError);
    expect(error.message).toContain("its event loop was blocked for 400 ms");
    expect([error.mayHaveExecuted, before.includes(error.pid)]).toEqual([true, true]);
    expect(answers.filter((answer) => answer.text() === String(error.pid))).toEqual([]);
    expect(bus.stats().moves).toBeGreaterThan(10); // they waited behind the blocked worker
    await until(() => bus.workers.length === 3 && !pids(bus).includes(error.pid), "another process");
    expect(lives(error.pid)).toBe(false);
    expect(reasons).toEqual(["was evicted (its event loop was blocked for 400 ms)"]);
    expect(bus.stats()).toMatchObject({ workersEvicted: 1, workersRestarted: 1, timeouts: 0 });
  }, 30_000);

  test("is found when it hangs after an await, parked, and no other request reaches it", async () => {
    await using space = new Workspace();
    const bus = await start(space, { ...many, min: 1, max: 1, unresponsive: 400 });
    const error = await rejection<WorkerDiedError>(bus.request({ path: "/hang", query: "50" }, { timeout: Infinity }));
    expect(error).toBeInstanceOf(WorkerDiedError);
    expect((await bus.request({ path: "/" })).text()).not.toBe(String(error.pid));
  }, 30_000);

  test("is found when its process is stopped; an idempotent request goes to another one", async () => {
    await using space = new Workspace();
    const bus = await start(space, { ...many, min: 1, max: 1, unresponsive: 400 });
    const [pid] = pids(bus);
    const slow = bus.request({ path: "/slow", query: "200" }, { idempotent: true });
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "CLAIMED"), "it is claimed");
    process.kill(pid!, "SIGSTOP");
    expect((await slow).text()).toBe(String(pids(bus)[0]));
    expect(pids(bus)).not.toEqual([pid!]);
  }, 30_000);

  test("is not confused with a worker that awaits for longer, with or without free slots", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 1, max: 1, unresponsive: 300 }); // it takes two requests at once
    const [pid] = pids(bus);
    for (const requests of [1, 3]) {
      const asked = Array.from({ length: requests }, () => bus.request({ path: "/slow", query: "1000" }));
      for (const answer of await Promise.all(asked)) expect(answer.text()).toBe(String(pid));
    }
    expect(bus.stats()).toMatchObject({ workersEvicted: 0, workersDied: 0 });
  }, 30_000);

  test("is reported when the bus did not start it, chosen last, and healthy again when its loop turns", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 0, unresponsive: 300 });
    const told: [string, number][] = [];
    bus.on("unresponsive", ({ pid }) => told.push(["unresponsive", pid]));
    bus.on("responsive", ({ pid }) => told.push(["responsive", pid]));
    const blocked = space.child("worker.ts");
    await bus.ready();
    const late = bus.request({ path: "/block", query: "1500" });
    await until(() => bus.diagnostics().slots.some(({ state }) => state === "CLAIMED"), "it blocks");
    const other = space.child("worker.ts");
    await bus.ready({ workers: 2 });
    await until(() => told.length === 1, "the event");
    expect(told).toEqual([["unresponsive", blocked.pid]]);
    const parallel = Array.from({ length: 30 }, () => bus.request({ path: "/" }));
    for (const answer of await Promise.all(parallel)) expect(answer.workerPid).toBe(other.pid);
    expect((await late).status).toBe(200);
    const ends = performance.now() + 5_000;
    while (told.length < 2 && performance.now() < ends) await bus.request({ path: "/slow", query: "50" });
    expect(told).toEqual([
      ["unresponsive", blocked.pid],
      ["responsive", blocked.pid],
    ]);
    const again = await Promise.all(Array.from({ length: 30 }, () => bus.request({ path: "/" })));
    expect(again.some(({ workerPid }) => workerPid === blocked.pid)).toBe(true);
    expect(bus.stats()).toMatchObject({ workersEvicted: 0, workersDied: 0 });
  }, 30_000);

  test("is not reported when it serves without an event loop", async () => {
    await using space = new Workspace();
    const bus = await start(space, { min: 0, unresponsive: 100 });
    bus.on("unresponsive", () => expect.unreachable());
    space.child("sync-worker.ts");
    await bus.ready();
    expect(await rejection(bus.request({ path: "/hang" }, { timeout: 700 }))).toBeInstanceOf(RequestTimeoutError);
    expect((await bus.request({ path: "/" })).status).toBe(200);
  }, 30_000);

  test("is not blamed for the time in which the bus itself was stopped", async () => {
    await using space = new Workspace();
    const client = space.child("stopped-client.ts");
    await client.line("asked");
    process.kill(client.pid, "SIGSTOP");
    const from = performance.now();
    await until(() => performance.now() - from > 1_000, "three times as long as a worker may hang");
    process.kill(client.pid, "SIGCONT");
    expect(await client.line("ended")).toStartWith("ended true 0 ");
    expect(await client.process.exited).toBe(0);
  }, 30_000);
});

describe("options of the workers", () => {
  for (const [what, workers] of [
    ["a number", 7],
    ["no entry", {}],
    ["an entry that is a number", { entry: 7 }],
    ["an entry that does not exist", { entry: "/no/such/file.ts" }],
    ["an entry on the web", { entry: new URL("https://example.com/worker.ts") }],
    ["a min of -1", { entry, min: -1 }],
    ["a min above the most links", { entry, min: 65 }],
    ["a max below min", { entry, min: 3, max: 2 }],
    ["a max of 0", { entry, min: 0, max: 0 }],
    ["an idle of 0", { entry, idle: 0 }],
    ["an unresponsive of 99", { entry, unresponsive: 99 }],
    ["args that are text", { entry, args: "-v" }],
    ["an option of no pool", { entry, instances: 2 }],
    ["a bad restart", { entry, restart: { policy: "maybe" } }],
    ["a bad stop", { entry, stop: { drain: -1 } }],
  ] as const) {
    test(`${what}: one InvalidConfigError, and the name is free`, async () => {
      await using space = new Workspace();
      const given = workers as unknown as WorkersOptions;
      expect(await rejection(space.bus({ workers: given }))).toBeInstanceOf(InvalidConfigError);
      await space.bus();
    });
  }

  test("instances is refused: the bus decides between min and max", async () => {
    await using space = new Workspace();
    const workers = { entry, instances: 2 } as WorkersOptions;
    expect((await rejection(space.bus({ workers }))).message).toContain("Use `min` and `max`.");
  });

  test("an entry may be a URL, the text of one, or a path seen from cwd", async () => {
    await using space = new Workspace();
    const url = new URL("./fixtures/bus-worker.ts", import.meta.url);
    const cwd = join(import.meta.dir, "fixtures");
    for (const workers of [
      { entry: url },
      { entry: import.meta.resolve("./fixtures/bus-worker.ts") },
      { entry: "bus-worker.ts", cwd },
    ]) {
      const bus = await start(space, workers);
      expect((await bus.request({ path: "/" })).status).toBe(200);
      await bus.close();
    }
    const elsewhere = await rejection(start(space, { entry: "file://elsewhere/worker.ts" }));
    expect(elsewhere).toBeInstanceOf(InvalidConfigError);
    expect(elsewhere.message).toContain("it must be a path or a file: URL");
  });
});
