/** The supervisor: real processes, killed, stopped, replaced and counted. Cycles of the leak test: `CYCLES=500 bun test ...`. */

import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type SlotbusError,
  ClosedError,
  type ExitReport,
  InvalidConfigError,
  type WorkerFailedError,
  WorkerStartError,
} from "../src/errors.ts";
import { findLauncher } from "../src/native/find.ts";
import { type PoolOptions, Supervisor, type WorkerStatus } from "../src/supervisor/index.ts";
import { poolOptions, resolvePool } from "../src/supervisor/options.ts";
import { Restarts } from "../src/supervisor/restarts.ts";
import { LineLink, lines, lives, script } from "./line-transport.ts";
import { Child, descriptors, rejection, until } from "./support.ts";

/** Answers each line; ends at the end of its input. */
const echo = "echo ready; exec cat";
/** Traps SIGTERM and ignores the end of its input. */
const stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
/** Steps short enough for a test. */
const quick = { drain: 2_000, endOfInput: 300, term: 300 };

function pool(text: string, options: Partial<PoolOptions> = {}): Promise<Supervisor<LineLink>> {
  return Supervisor.start(script(text, options), lines);
}

/** A supervisor that is not started yet, as a bus makes it. */
function made(text: string, options: Partial<PoolOptions> = {}): Supervisor<LineLink> {
  return new Supervisor(resolvePool(script(text, options)), lines);
}

function pids(supervisor: Supervisor<LineLink>): number[] {
  return supervisor.workers.map(({ pid }) => pid);
}

function states(supervisor: Supervisor<LineLink>): string {
  return supervisor.workers.map(({ state }) => state).join();
}

/** Children of this process, without zombies. */
function children(): string[] {
  const all = readdirSync("/proc/self/task").flatMap((task) =>
    readFileSync(`/proc/self/task/${task}/children`, "latin1").trim().split(" "),
  );
  return all.filter((pid) => pid !== "" && lives(Number(pid)));
}

/** A new folder that is removed when the test ends. */
function folder(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "slotbus-supervisor-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

describe("start and stop", () => {
  test("all workers are ready when start resolves, and each ends at the end of its input when the pool stops", async () => {
    const supervisor = await pool(echo, { instances: 3 });
    const seen: string[] = [];
    supervisor.on("state", ({ id, state }, previous) => seen.push(`${id} ${previous} ${state}`));
    expect(states(supervisor)).toBe("ready,ready,ready");
    expect(supervisor.links.map(({ pid }) => pid).sort()).toEqual(pids(supervisor).sort());
    expect(new Set(pids(supervisor)).size).toBe(3);
    expect(await Promise.all(supervisor.links.map((link) => link.ask("hello")))).toEqual(["hello", "hello", "hello"]);
    const running = pids(supervisor);
    const reports = await supervisor.close();
    expect(reports.map(({ worker, how, exitCode, signal }) => [worker, how, exitCode, signal])).toEqual([
      [0, "end of input", 0, null],
      [1, "end of input", 0, null],
      [2, "end of input", 0, null],
    ]);
    expect(reports.map(({ pid }) => pid)).toEqual(running);
    expect(running.filter(lives)).toEqual([]);
    expect(supervisor.links).toEqual([]);
    await until(() => seen.length === 9, "nine changes of state");
    expect(seen.filter((text) => text.startsWith("1 "))).toEqual([
      "1 starting ready",
      "1 ready draining",
      "1 draining stopped",
    ]);
  });

  test("a worker's pid is its program's, which leads its own group", async () => {
    await using supervisor = await pool("echo ready; echo $$ >&2; ps -o pgid= -p $$ >&2; exec cat");
    const logged: number[] = [];
    supervisor.on("log", (_, line) => logged.push(Number(line)));
    await until(() => logged.length === 2, "its own numbers");
    expect(logged).toEqual([pids(supervisor)[0]!, pids(supervisor)[0]!]);
    expect(logged[0]).not.toBe(process.pid);
  });

  test("each worker gets only the steps of the ladder that it needs, and the report names the last step", async () => {
    const cases: [string, string, PoolOptions["stop"]][] = [
      ["end of input", echo, { ...quick, endOfInput: 4_000 }],
      ["SIGTERM", "echo ready; while :; do sleep 0.1; done", { ...quick, term: 4_000 }],
      ["SIGKILL", stubborn, quick],
    ];
    for (const [how, text, stop] of cases) {
      const supervisor = await pool(text, { stop });
      const [pid] = pids(supervisor);
      const from = performance.now();
      const [report] = await supervisor.close();
      const ms = performance.now() - from;
      expect([report!.how as string, report!.pid, lives(pid!)]).toEqual([how, pid!, false]);
      expect(report!.signal as string | null).toBe(how.startsWith("SIG") ? how : null);
      if (how === "SIGTERM") expect(ms).toBeGreaterThan(290);
      if (how === "SIGKILL") expect(ms).toBeGreaterThan(590);
      expect(ms).toBeLessThan(5_000);
    }
  });

  test("a worker's requests are answered before its input ends; a worker that does not answer gets only the drain time", async () => {
    const slow = "echo ready; while read line; do sleep 0.3; echo $line; done";
    const supervisor = await pool(slow);
    const link = supervisor.links[0]!;
    const answer = link.ask("last words");
    const [report] = await supervisor.close();
    expect(await answer).toBe("last words");
    expect([report!.how, link.drains]).toEqual(["end of input", 1]);

    const hasty = await pool("echo ready; read line; (sleep 0.3; echo $line) & read next"); // forgets its requests at the end of its input
    const kept = hasty.links[0]!.ask("kept");
    await hasty.close();
    expect(await kept).toBe("kept");

    const mute = await pool("echo ready; cat > /dev/null", { stop: { ...quick, drain: 200 } });
    const lost = rejection(mute.links[0]!.ask("anybody?"));
    expect((await mute.close())[0]!.how).toBe("end of input");
    expect((await lost).message).toBe("ended: end of input");
  });

  test("a stopped process (SIGSTOP) is ended too", async () => {
    const supervisor = await pool(echo, { stop: quick });
    process.kill(pids(supervisor)[0]!, "SIGSTOP");
    expect((await supervisor.close())[0]!.how).toBe("SIGKILL");
  });

  test("all calls of close share one end and its reports, and nothing is started after it", async () => {
    const supervisor = await pool(echo, { instances: 2 });
    expect(supervisor.closed).toBe(false);
    const closing = [supervisor.close(), supervisor.close({ timeout: 0 }), supervisor[Symbol.asyncDispose]()];
    expect(supervisor.closed).toBe(true);
    const [reports, same] = await Promise.all(closing);
    expect((reports as ExitReport[]).map(({ how }) => how)).toEqual(["end of input", "end of input"]);
    expect(same).toBe(reports);
    expect(await supervisor.close()).toBe(reports as ExitReport[]);
    expect(await rejection(supervisor.resize(3))).toBeInstanceOf(ClosedError);
    expect([states(supervisor), children()]).toEqual(["stopped,stopped", []]);
  });

  test("close gives workers its timeout to answer their requests, in place of stop.drain", async () => {
    for (const [timeout, lost] of [
      [0, true],
      [Infinity, false],
    ] as const) {
      const supervisor = await pool("echo ready; while read line; do sleep 0.3; echo $line; done", {
        stop: { drain: lost ? 5_000 : 0, endOfInput: 0, term: 0 },
      });
      const answer = supervisor.links[0]!.ask("late").catch(() => "lost");
      await supervisor.close({ timeout });
      expect(await answer).toBe(lost ? "lost" : "late");
    }
  });

  test("events of the start reach listeners that are attached right after it", async () => {
    await using supervisor = await pool(`for i in $(seq 300); do echo line $i >&2; done; ${echo}`);
    const seen: string[] = [];
    let logged = 0;
    supervisor.on("state", ({ state }, previous) => seen.push(`${previous} ${state}`));
    supervisor.on("log", (_, line) => seen.push(line) && logged++);
    await until(() => logged >= 200, "the first lines");
    expect(seen).toContain("starting ready");
    expect(seen).toContain("line 1");
  });

  test("stop during start aborts it: start rejects, nothing is left", async () => {
    const supervisor = made("exec sleep 60", { instances: 2, stop: quick });
    const starting = rejection(supervisor.start());
    await until(() => children().length >= 2, "processes");
    const from = performance.now();
    await supervisor.stop();
    expect(await starting).toBeInstanceOf(ClosedError);
    expect(performance.now() - from).toBeLessThan(3_000);
    expect(children()).toEqual([]);
    expect(states(supervisor)).toBe("stopped,stopped");
  });

  test("a stop in the same turn as the start leaves nothing either", async () => {
    const supervisor = made(echo, { instances: 2 });
    const starting = rejection(supervisor.start());
    await supervisor.stop();
    expect(await starting).toBeInstanceOf(ClosedError);
    expect(children()).toEqual([]);
  });

  test("a start after a stop starts nothing; a stop when the last worker joins rejects the start too", async () => {
    const stopped = made(echo, { instances: 2 });
    await stopped.stop();
    expect(await rejection(stopped.start())).toBeInstanceOf(ClosedError);
    expect([stopped.workers, children()]).toEqual([[], []]);
    const joined = made(echo);
    joined.on("joined", () => void joined.stop());
    expect(await rejection(joined.start())).toBeInstanceOf(ClosedError);
    await joined.stop();
    expect(children()).toEqual([]);
  });

  test("await using stops the pool", async () => {
    let pid: number;
    {
      await using supervisor = await pool(echo);
      pid = pids(supervisor)[0]!;
      expect(lives(pid)).toBe(true);
    }
    expect(lives(pid)).toBe(false);
  });
});

describe("a start that fails", () => {
  test("a missing program is found before anything starts; the error names it and PATH", async () => {
    const error = await rejection<SlotbusError>(Supervisor.start({ command: "no-such-program-7" }, lines));
    expect(error).toMatchObject({ code: "PROGRAM_NOT_FOUND" });
    expect(error.message).toContain('"no-such-program-7"');
    expect(error.message).toContain(process.env["PATH"]!);
    const other = Supervisor.start({ command: "sh", env: { PATH: "/nowhere" } }, lines);
    expect((await rejection(other)).message).toContain('"/nowhere"');
    expect(await rejection(Supervisor.start({ command: "./sh", cwd: "/tmp" }, lines))).toMatchObject({
      code: "PROGRAM_NOT_FOUND",
    });
  });

  test("a program without permission or interpreter, and a missing working directory, have different errors", async () => {
    using temp = folder();
    const file = join(temp.path, "program");
    writeFileSync(file, "#!/no/such/interpreter\n");
    expect(await rejection(Supervisor.start({ command: file }, lines))).toMatchObject({ code: "PROGRAM_NOT_FOUND" });
    chmodSync(file, 0o755);
    const error = await rejection(Supervisor.start({ command: file }, lines));
    expect(error).toMatchObject({ code: "PROGRAM_NOT_FOUND" });
    expect(error.message).toContain("interpreter");
    const cwd = join(temp.path, "nothing");
    expect((await rejection(pool(echo, { cwd }))).message).toContain(`cwd is "${cwd}"`);
    expect(children()).toEqual([]);
  });

  test("a worker that ends during start fails it, with its exit code and output; the others are stopped", async () => {
    using temp = folder();
    const flag = join(temp.path, "flag");
    const text = `if mkdir ${flag} 2>/dev/null; then echo 'no database' >&2; exit 7; fi; ${echo}`;
    const error = await rejection<WorkerStartError>(pool(text, { instances: 3, stop: quick }));
    expect(error).toBeInstanceOf(WorkerStartError);
    expect(error.report).toMatchObject({ exitCode: 7, signal: null, how: "itself", stderrTail: "no database\n" });
    expect(error.message).toContain("exited with code 7");
    expect(error.message).toContain("no database");
    expect(children()).toEqual([]);
    await using supervisor = await pool(text, { instances: 3 }); // the folder exists now
    expect(states(supervisor)).toBe("ready,ready,ready");
  });

  test("a worker that is not ready in time fails the start and is ended", async () => {
    const error = await rejection<WorkerStartError>(pool("exec sleep 60", { startupTimeout: 150, stop: quick }));
    expect(error.message).toContain("was not ready within 150 ms");
    expect(error.report).toMatchObject({ how: "SIGTERM", signal: "SIGTERM" });
    expect(children()).toEqual([]);
  });

  test("a transport's rejection is the cause", async () => {
    const refuse = { ...lines, open: () => Promise.reject(new Error("it speaks another protocol")) };
    const error = await rejection<WorkerStartError>(Supervisor.start(script(echo, { stop: quick }), refuse));
    expect(error).toBeInstanceOf(WorkerStartError);
    expect((error.cause as Error).message).toBe("it speaks another protocol");
    expect(children()).toEqual([]);
  });

  test("`ended` is called on a link that opens after the startup time", async () => {
    const opened = Promise.withResolvers<LineLink>();
    let process: ConstructorParameters<typeof LineLink>[0];
    const late = { ...lines, open: (given: typeof process) => ((process = given), opened.promise) };
    await rejection(Supervisor.start(script(echo, { startupTimeout: 500, stop: quick }), late));
    const link = new LineLink(process!);
    opened.resolve(link);
    await until(() => link.report !== null, "its report");
  });
});

describe("restarts", () => {
  test("a killed worker is replaced by another process; its requests fail at once, other requests go on", async () => {
    await using supervisor = await pool(echo, { instances: 2, restart: { backoff: { initial: 20 } } });
    const exits: ExitReport[] = [];
    supervisor.on("died", (_, report) => exits.push(report));
    const [first, second] = pids(supervisor);
    const link = supervisor.links.find(({ pid }) => pid === first)!;
    process.kill(first!, "SIGSTOP");
    const lost = rejection(link.ask("lost"));
    process.kill(first!, "SIGKILL");
    expect((await lost).message).toBe("ended: itself");
    await until(() => supervisor.links.length === 2, "both ready again");
    expect(supervisor.workers[0]).toMatchObject({ id: 0, life: 2, state: "ready", restarts: 1 });
    expect(pids(supervisor)[0]).not.toBe(first!);
    expect(pids(supervisor)[1]).toBe(second!);
    expect(exits).toMatchObject([
      { worker: 0, life: 1, pid: first!, signal: "SIGKILL", exitCode: null, how: "itself" },
    ]);
    expect(await Promise.all(supervisor.links.map((each) => each.ask("hi")))).toEqual(["hi", "hi"]);
  });

  test("`died` is emitted for unexpected ends and late starts, `left` for ends by resize and close", async () => {
    using temp = folder();
    const slow = join(temp.path, "slow");
    const supervisor = await pool(`[ -e ${slow} ] && exec sleep 60; ${echo}`, {
      instances: 2,
      restart: { backoff: { initial: 1 } },
      startupTimeout: 500,
      stop: quick,
    });
    const seen: string[] = [];
    supervisor.on("joined", ({ id, life, state }) => seen.push(`joined ${id} ${life} ${state}`));
    for (const event of ["left", "died"] as const)
      supervisor.on(event, ({ id, life, pid, state }, report) =>
        seen.push(`${event} ${id} ${life} ${pid === report.pid} ${report.how} ${state}`),
      );
    await until(() => seen.length === 2, "both joined");
    expect(seen.sort()).toEqual(["joined 0 1 ready", "joined 1 1 ready"]);
    writeFileSync(slow, "");
    process.kill(pids(supervisor)[0]!, "SIGKILL");
    await until(() => seen.length === 4, "two deaths");
    expect(seen.slice(2)).toEqual(["died 0 1 true itself stopped", "died 0 2 true SIGTERM stopped"]);
    rmSync(slow);
    await until(() => states(supervisor) === "ready,ready", "its third life");
    await supervisor.resize(1);
    await supervisor.close();
    await until(() => seen.length === 7, "both left");
    const byInput = "true end of input stopped";
    expect(seen.slice(4)).toEqual(["joined 0 3 ready", `left 1 1 ${byInput}`, `left 0 3 ${byInput}`]);
  });

  for (const [policy, code, state, lifes] of [
    ["never", 0, "stopped", 1],
    ["never", 3, "failed", 1],
    ["on-failure", 0, "stopped", 1],
    ["on-failure", 3, "failed", 3],
    ["always", 0, "failed", 3],
  ] as const) {
    test(`policy "${policy}", exit code ${code}: ${lifes} lives, then ${state}`, async () => {
      const restart = { policy, maxRestarts: 2, backoff: { initial: 5 }, giveUp: true };
      await using supervisor = await pool(`echo ready; read line; exit ${code}`, { restart });
      let ends = 0;
      let failure: WorkerFailedError | null = null;
      supervisor.on("died", () => ends++);
      supervisor.on("failed", (error) => (failure = error));
      supervisor.on("joined", () => void supervisor.links[0]!.ask("end").catch(() => {}));
      await until(() => states(supervisor) === state, state);
      await until(() => ends === lifes, "the last exit");
      expect(supervisor.workers[0]!.life).toBe(lifes);
      expect((failure as WorkerFailedError | null)?.report.exitCode).toBe(state === "failed" ? code : undefined);
      expect(supervisor.links).toEqual([]);
    });
  }

  test("with giveUp a worker that crashes repeatedly is given up, and the others go on", async () => {
    const restart = { maxRestarts: 3, backoff: { initial: 10, factor: 2, jitter: 0 }, giveUp: true };
    await using supervisor = await pool(echo, { instances: 2, restart });
    let failures = 0;
    supervisor.on("failed", () => failures++);
    supervisor.on("joined", ({ id, pid }) => id === 0 && process.kill(pid, "SIGKILL"));
    const from = performance.now();
    await until(() => supervisor.workers[0]!.state === "failed", "it is given up");
    expect(performance.now() - from).toBeGreaterThan(10 + 20 + 40);
    await until(() => failures === 1, "the event");
    expect(supervisor.workers[0]).toMatchObject({ life: 4, restarts: 3 });
    expect(supervisor.workers[1]).toMatchObject({ life: 1, state: "ready" });
    expect(await supervisor.links[0]!.ask("well")).toBe("well");
  });

  test("a program that disappeared is tried again by the same policy", async () => {
    using temp = folder();
    const file = join(temp.path, "program");
    writeFileSync(file, `#!/bin/sh\n${echo}\n`, { mode: 0o755 });
    await using supervisor = await Supervisor.start(
      { command: file, restart: { backoff: { initial: 30 }, maxRestarts: 100 } },
      lines,
    );
    const [pid] = pids(supervisor);
    rmSync(file);
    process.kill(pid!, "SIGKILL");
    await until(() => supervisor.workers[0]!.restarts >= 2, "two attempts");
    writeFileSync(file, `#!/bin/sh\n${echo}\n`, { mode: 0o755 });
    await until(() => states(supervisor) === "ready", "it is back");
    expect(pids(supervisor)[0]).not.toBe(pid);
  });

  test("stop during a pause ends at once, and nothing is started after it", async () => {
    const supervisor = await pool(echo, { restart: { backoff: { initial: 60_000 } } });
    process.kill(pids(supervisor)[0]!, "SIGKILL");
    await until(() => states(supervisor) === "backoff", "the pause");
    const from = performance.now();
    expect(await supervisor.close()).toEqual([]);
    expect(performance.now() - from).toBeLessThan(500);
    expect([states(supervisor), supervisor.workers[0]!.life]).toEqual(["stopped", 1]);
    expect(children()).toEqual([]);
  });

  describe("time of a restart", () => {
    const restarts = (options: object, random = 0): Restarts =>
      new Restarts(poolOptions.rows.restart.resolve(options, "restart"), () => random);

    test("pauses grow by the factor up to the longest, and start again after a healthy time", () => {
      const some = restarts({
        maxRestarts: Infinity,
        healthyAfter: 1_000,
        backoff: { initial: 100, max: 500, factor: 2 },
      });
      const pauses = [0, 0, 999, 0, 0, 1_000, 0].map((readyMs, index) => some.grant(index * 10, readyMs));
      expect(pauses).toEqual([100, 200, 400, 500, 500, 100, 200]);
    });

    test("jitter shortens a pause at most by its share", () => {
      const options = { maxRestarts: Infinity, backoff: { initial: 1_000, jitter: 0.2 } };
      expect(restarts(options, 0).grant(0, 0)).toBe(1_000);
      expect(restarts(options, 0.5).grant(0, 0)).toBe(900);
      expect(restarts(options, 0.999).grant(0, 0)).toBeWithin(800, 802);
    });

    test("after very many restarts the pause is still the longest", () => {
      for (const initial of [0, 100]) {
        const some = restarts({ maxRestarts: Infinity, backoff: { initial, max: 700, factor: 10 } });
        let last: number | null = null;
        for (let i = 0; i < 5_000; i++) last = some.grant(i, 0);
        expect(last).toBe(initial === 0 ? 0 : 700);
      }
    });

    test("the window slides: a worker that crashes less often than the limit is always restarted, for any start of the window", () => {
      const options = { maxRestarts: 2, window: 60_000, backoff: { initial: 0 } };
      const seldom = restarts(options);
      for (let at = 0; at < 50; at++) expect(seldom.grant(at * 31_000, 0)).toBe(0);
      const often = restarts(options);
      expect([0, 29_000, 58_000, 60_001, 61_000].map((at) => often.grant(at, 0))).toEqual([0, 0, null, 0, null]);
    });

    test("maxRestarts 0 means no restart", () => {
      expect(restarts({ maxRestarts: 0 }).grant(0, 1e9)).toBe(null);
    });
  });
});

describe("a paused pool", () => {
  /** Its workers exit with code 5 while the file `broken` exists. */
  async function breakable(restart: PoolOptions["restart"], instances = 2) {
    const temp = folder();
    const flag = join(temp.path, "broken");
    const text = `if [ -e ${flag} ]; then exit 5; fi; ${echo}`;
    const supervisor = await pool(text, {
      instances,
      restart: { maxRestarts: 1, healthyAfter: 100, ...restart },
      stop: quick,
    });
    const seen: string[] = [];
    supervisor.on("paused", ({ report }) => seen.push(`paused ${report.exitCode}`));
    supervisor.on("resumed", () => seen.push("resumed"));
    return {
      supervisor,
      seen,
      spoil: () => {
        writeFileSync(flag, "");
        for (const pid of pids(supervisor)) if (pid > 0) process.kill(pid, "SIGKILL");
      },
      mend: () => rmSync(flag),
      async [Symbol.asyncDispose]() {
        await supervisor.close();
        temp[Symbol.dispose]();
      },
    };
  }

  test("tries one worker at a time after growing pauses; when it stays up all are back, with their restarts", async () => {
    await using broken = await breakable({ backoff: { initial: 20, max: 200, jitter: 0 } }, 3);
    const { supervisor, seen } = broken;
    const tries: number[] = [];
    let most = 0;
    let areAllPaused = false; // until then others start as usual beside the one that is tried
    supervisor.on("state", ({ state }, previous) => {
      if (state !== "starting" || previous !== "paused") return;
      tries.push(performance.now());
      if (areAllPaused)
        most = Math.max(most, supervisor.workers.filter((worker) => worker.state === "starting").length);
    });
    broken.spoil();
    await until(() => states(supervisor) === "paused,paused,paused", "all are paused");
    areAllPaused = true;
    expect([supervisor.isDown, supervisor.pausedFor?.report.exitCode]).toEqual([true, 5]);
    await until(() => tries.length >= 5, "five tries");
    const gaps = tries.slice(1).map((at, index) => at - tries[index]!);
    expect(gaps[3]!).toBeGreaterThan(190); // 40, 80, 160, 200
    expect(gaps[3]!).toBeGreaterThan(gaps[0]!);
    expect([most, supervisor.workers.some(({ restarts }) => restarts > 0), seen]).toEqual([1, true, ["paused 5"]]);
    broken.mend();
    await until(() => states(supervisor) === "ready,ready,ready", "all are back");
    expect([supervisor.isDown, supervisor.pausedFor]).toEqual([false, null]);
    await until(() => seen.length === 2, "the event");
    expect(seen).toEqual(["paused 5", "resumed"]);
    const { life } = supervisor.workers[2]!;
    process.kill(pids(supervisor)[2]!, "SIGKILL"); // it has its restarts again
    await until(
      () => supervisor.workers[2]!.life === life + 1 && states(supervisor) === "ready,ready,ready",
      "a restart",
    );
    expect(seen.length).toBe(2);
  }, 30_000);

  test("stays paused when a worker gets ready but does not stay up", async () => {
    await using broken = await breakable({ backoff: { initial: 1, max: 10 }, healthyAfter: 60_000 }, 1);
    const { supervisor, seen } = broken;
    let ready = 0;
    supervisor.on("joined", ({ pid }) => void (++ready > 1 && process.kill(pid, "SIGKILL")));
    process.kill(pids(supervisor)[0]!, "SIGKILL");
    await until(() => ready > 5, "tries that got ready");
    expect(seen).toEqual(["paused null"]);
    expect(supervisor.isDown).toBe(true);
  }, 30_000);

  test("while some workers are paused the others go on", async () => {
    await using supervisor = await pool(echo, {
      instances: 2,
      restart: { maxRestarts: 0, backoff: { initial: 60_000 } },
    });
    const paused = Promise.withResolvers<WorkerFailedError>();
    supervisor.on("paused", paused.resolve);
    process.kill(pids(supervisor)[0]!, "SIGKILL");
    expect((await paused.promise).retryable).toBe(true);
    expect([states(supervisor), supervisor.isDown]).toEqual(["paused,ready", false]);
    expect(await supervisor.links[0]!.ask("well")).toBe("well");
  }, 30_000);

  test("resize starts them at once, successfully or not", async () => {
    await using broken = await breakable({ backoff: { initial: 1, max: 60_000, factor: 10 } });
    const { supervisor, seen } = broken;
    broken.spoil();
    await until(() => states(supervisor) === "paused,paused", "both are paused");
    const error = await rejection<WorkerFailedError>(supervisor.resize(1));
    expect([error.report.exitCode, states(supervisor)]).toEqual([5, "paused"]);
    await until(() => seen.length === 3, "the events");
    broken.mend();
    await supervisor.resize(2);
    expect([states(supervisor), supervisor.pausedFor]).toEqual(["ready,ready", null]);
    await until(() => seen.length === 4, "the last event");
    expect(seen).toEqual(["paused 5", "resumed", "paused 5", "resumed"]);
  }, 30_000);

  test("stop ends at once, and nothing is started after it", async () => {
    await using broken = await breakable({ maxRestarts: 0, backoff: { initial: 60_000 } });
    const { supervisor } = broken;
    broken.spoil();
    await until(() => states(supervisor) === "paused,paused", "both are paused");
    const from = performance.now();
    await supervisor.close();
    expect(performance.now() - from).toBeLessThan(500);
    expect([states(supervisor), supervisor.pausedFor]).toEqual(["stopped,stopped", null]);
    expect(children()).toEqual([]);
  }, 30_000);
});

/** Process id of the launcher of a worker's process. */
function launcherOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  const launcher = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  expect(readFileSync(`/proc/${launcher}/comm`, "latin1")).toStartWith("slotbus-launche");
  return launcher;
}

describe("processes that a worker leaves behind", () => {
  const family = `sh -c 'trap "" TERM; echo child $$ >&2; while :; do sleep 0.1; done' &
    setsid sh -c 'trap "" TERM; echo away $$ >&2; while :; do sleep 0.1; done' &`;

  async function withFamily(text: string): Promise<{ supervisor: Supervisor<LineLink>; family: number[] }> {
    const supervisor = await pool(`${family} ${text}`, { stop: quick, restart: { policy: "never" } });
    const found: number[] = [];
    supervisor.on("log", (_, line) => found.push(Number(line.split(" ")[1])));
    await until(() => found.length === 2, "its children");
    expect(found.filter(lives).length).toBe(2);
    return { supervisor, family: found };
  }

  test("stop ends the processes of its group, and those that left the group", async () => {
    const started = await withFamily(echo);
    await started.supervisor.close();
    expect(started.family.filter(lives)).toEqual([]);
  });

  test("the worker's own exit, or a kill, ends them too", async () => {
    for (const end of ["exit", "kill"]) {
      const started = await withFamily("echo ready; read line; exit 0");
      if (end === "exit") void started.supervisor.links[0]!.ask("end").catch(() => {});
      else process.kill(pids(started.supervisor)[0]!, "SIGKILL");
      await until(() => started.supervisor.links.length === 0, "its end");
      expect(started.family.filter(lives)).toEqual([]);
      await started.supervisor.close();
    }
  });

  test("a killed host leaves no process after one second, even stubborn ones", async () => {
    await using host = new Child("supervising-host.ts", ["host", "3"], {});
    await host.line("started");
    await until(
      () => host.lines.filter((line) => /^(worker|child|away) \d+$/.test(line)).length === 9,
      "nine processes",
    );
    const all = host.lines.flatMap((line) => /^(?:worker|child|away) (\d+)$/.exec(line)?.[1] ?? []).map(Number);
    expect(all.filter(lives).length).toBe(9);
    await host.kill("SIGKILL");
    await until(() => !all.some(lives), "none of them lives", 1_000);
  });

  test("without the launcher everything else works, and one warning says so", async () => {
    await using host = new Child("supervising-host.ts", ["host", "2"], { SLOTBUS_LAUNCHER: "", NODE_NO_WARNINGS: "" });
    await host.line("started");
    await until(
      () => host.lines.filter((line) => /^(worker|child|away) \d+$/.test(line)).length === 6,
      "six processes",
    );
    const all = host.lines.flatMap((line) => /^(?:worker|child|away) (\d+)$/.exec(line)?.[1] ?? []).map(Number);
    expect(host.lines.filter((line) => line.startsWith("warning")).length).toBe(1);
    await host.kill("SIGKILL");
    try {
      expect(all.filter(lives).length).toBe(6); // otherwise the test above proves nothing about the launcher
    } finally {
      for (const pid of all) process.kill(pid, "SIGKILL");
    }
  });

  test("a killed launcher takes its program with it, and the worker is restarted", async () => {
    await using supervisor = await pool(stubborn, { stop: quick, restart: { backoff: { initial: 5 } } });
    const [pid] = pids(supervisor);
    process.kill(launcherOf(pid!), "SIGKILL");
    await until(() => supervisor.workers[0]!.life === 2 && states(supervisor) === "ready", "its next life");
    await until(() => !lives(pid!), "the program's end", 1_000);
  });

  test("a signal to the launcher reaches its program, with which it ends", async () => {
    await using supervisor = await pool(echo, { restart: { backoff: { initial: 5 } } });
    const [pid] = pids(supervisor);
    const launcher = launcherOf(pid!);
    process.kill(launcher, "SIGTERM");
    await until(() => supervisor.workers[0]!.life === 2 && states(supervisor) === "ready", "its next life");
    await until(() => !lives(pid!) && !lives(launcher), "the ends of both", 1_000);
  });

  test("the launcher alone says that it cannot be run so, and ends with 2", () => {
    const { exitCode, stderr } = Bun.spawnSync([findLauncher()!, "/bin/true"]);
    expect(stderr.toString()).toContain("it cannot be run alone");
    expect(exitCode).toBe(2);
  });
});

describe("a program's environment", () => {
  async function said(text: string, options: Partial<PoolOptions> = {}): Promise<string> {
    const supervisor = await pool(`{ ${text}; } >&2; ${echo}`, options);
    return (await supervisor.close())[0]!.stderrTail;
  }

  test("env is added to the host's, undefined removes a variable; cwd and arguments are passed unchanged", async () => {
    using temp = folder();
    process.env["SLOTBUS_TEST_HOST"] = "host";
    const env = { SLOTBUS_TEST: "a b\n'c'", HOME: undefined };
    expect(
      await said('printf %s "$SLOTBUS_TEST,${HOME-none},$PWD,$#,$1,$SLOTBUS_TEST_HOST"', {
        env,
        cwd: temp.path,
        args: ["-c", `printf %s "$SLOTBUS_TEST,\${HOME-none},$PWD,$#,$1,$SLOTBUS_TEST_HOST" >&2; ${echo}`, "x", "é *"],
      }),
    ).toBe(`a b\n'c',none,${temp.path},1,é *,host`);
    delete process.env["SLOTBUS_TEST_HOST"];
  });

  test("has only its three descriptors, and no signal blocked or ignored", async () => {
    const text = await said("ls /proc/$$/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status");
    const fds = text.split("\n").filter((line) => /^[0-9]$/.test(line)); // the shell keeps copies above
    const masks = text.match(/^Sig.*$/gm)!.map((line) => Number.parseInt(line.split("\t")[1]!, 16));
    expect(fds).toEqual(["0", "1", "2"]);
    expect(masks).toEqual([0, 0]);
  });

  test("the host notices when the program closes its standard output, though it lives", async () => {
    let ended = false;
    const watch = {
      ...lines,
      open: async (worker: Parameters<typeof lines.open>[0]) => {
        const link = new LineLink(worker);
        void (async () => {
          for await (const _ of worker.stdout!);
          ended = true;
        })();
        return link;
      },
    };
    await using supervisor = await Supervisor.start(
      script("exec >&-; while :; do sleep 0.1; done", { stop: quick }),
      watch,
    );
    await until(() => ended, "the end of its output");
    expect(lives(supervisor.workers[0]!.pid)).toBe(true);
  });

  test("uid and gid are set, with no supplementary group; without the permission the start fails with that reason", async () => {
    const identity = { uid: 65_534, gid: 65_533 };
    if (process.geteuid?.() === 0) {
      expect(await said("id -u; id -g; id -G", { ...identity, cwd: "/" })).toBe("65534\n65533\n65533\n");
    } else {
      expect((await rejection(pool(echo, identity))).message).toContain("EPERM");
    }
  });
});

describe("standard error", () => {
  test("arrives by lines, also a last line without its end, and its tail is in the report", async () => {
    const logged: string[] = [];
    const supervisor = await pool(`printf 'one\\ntwo\\r\\n\\nh\\303\\251llo' >&2; ${echo}`);
    supervisor.on("log", ({ id, pid }, line) => logged.push(`${id} ${pid > 0} ${line}`));
    const [report] = await supervisor.close();
    expect(report!.stderrTail).toBe("one\ntwo\r\n\nhéllo");
    await until(() => logged.length === 4, "four lines");
    expect(logged).toEqual(["0 true one", "0 true two", "0 true ", "0 true héllo"]);
  });

  test("keeps the last 64 KiB, and a line of any length is cut", async () => {
    const lengths: number[] = [];
    const supervisor = await pool(`head -c 200000 /dev/zero | tr '\\0' x >&2; echo end >&2; ${echo}`);
    supervisor.on("log", (_, line) => lengths.push(line.length));
    const [report] = await supervisor.close();
    expect(report!.stderrTail.length).toBe(65_536);
    expect(report!.stderrTail).toEndWith("xend\n");
    await until(() => lengths.length === 4, "its pieces");
    expect(lengths).toEqual([65_536, 65_536, 65_536, 200_003 - 3 * 65_536]);
  });
});

test("without end is not kept", async () => {
  await using supervisor = await pool(`${echo.replace("exec", "head -c 300000000 /dev/zero >&2; echo end >&2;")}`);
  let ended = false;
  supervisor.on("log", (_, line) => (ended ||= line.endsWith("end")));
  const before = process.memoryUsage.rss();
  await until(() => ended, "all of it");
  Bun.gc(true);
  expect(process.memoryUsage.rss() - before).toBeLessThan(64 * 1_024 * 1_024);
});

describe("resize", () => {
  test("up starts more workers, down stops the last ones; the others are not touched", async () => {
    await using supervisor = await pool(echo, { instances: 2 });
    const before = pids(supervisor);
    await supervisor.resize(4);
    const four = pids(supervisor);
    expect(states(supervisor)).toBe("ready,ready,ready,ready");
    expect(four.slice(0, 2)).toEqual(before);
    await supervisor.resize(1);
    expect(pids(supervisor)).toEqual(before.slice(0, 1));
    expect(four.slice(1).filter(lives)).toEqual([]);
    expect(supervisor.links.length).toBe(1);
    await supervisor.resize(0);
    expect(children()).toEqual([]);
    await supervisor.resize(1);
    expect(await supervisor.links[0]!.ask("back")).toBe("back");
  });

  test("calls take effect in order; a stopped worker's requests are answered before it ends", async () => {
    await using supervisor = await pool("echo ready; while read line; do sleep 0.1; echo $line; done", {
      instances: 2,
    });
    const { links } = supervisor;
    const answers = links.map((link) => link.ask("kept"));
    await Promise.all([supervisor.resize(3), supervisor.resize(1), supervisor.resize(2)]);
    expect(await Promise.all(answers)).toEqual(["kept", "kept"]);
    expect(links.map(({ drains }) => drains).sort()).toEqual([0, 1]);
    expect(states(supervisor)).toBe("ready,ready");
  });

  test("a new worker that is given up rejects it; a close during a resize rejects it", async () => {
    using temp = folder();
    const flag = join(temp.path, "flag");
    const text = `if [ -e ${flag} ]; then exit 5; fi; ${echo}`;
    const supervisor = await pool(text, { restart: { maxRestarts: 1, backoff: { initial: 1 }, giveUp: true } });
    writeFileSync(flag, "");
    expect((await rejection<WorkerFailedError>(supervisor.resize(2))).report.exitCode).toBe(5);
    expect(states(supervisor)).toBe("ready,failed");
    const waiting = rejection(supervisor.resize(5));
    await supervisor.close();
    expect(await waiting).toBeInstanceOf(ClosedError);
    expect(children()).toEqual([]);
    const slow = await pool(`[ -e ${flag} ] && exec sleep 60; ${echo}`.replace(flag, `${flag}2`), { stop: quick });
    writeFileSync(`${flag}2`, "");
    const starting = rejection(slow.resize(2));
    await until(() => states(slow) === "ready,starting", "a worker that starts");
    await slow.close();
    expect(await starting).toBeInstanceOf(ClosedError);
    expect(children()).toEqual([]);
  });

  test("restarts workers that were given up, even at the same number; healthy workers are not touched", async () => {
    const restart = { maxRestarts: 1, backoff: { initial: 1 }, giveUp: true };
    await using supervisor = await pool(echo, { instances: 3, restart });
    const [well] = pids(supervisor);
    for (const life of [1, 2]) {
      await until(() => states(supervisor) === "ready,ready,ready", `life ${life}`);
      for (const worker of supervisor.workers.slice(1)) process.kill(worker.pid, "SIGKILL");
      await until(() => supervisor.workers.slice(1).every((worker) => worker.life > life || worker.pid === 0), "ends");
    }
    await until(() => states(supervisor) === "ready,failed,failed", "they are given up");
    await supervisor.resize(3);
    expect(supervisor.workers.map(({ id, state, life }) => [id, state, life])).toEqual([
      [0, "ready", 1],
      [1, "ready", 3],
      [2, "ready", 3],
    ]);
    expect(pids(supervisor)[0]).toBe(well!);
    process.kill(pids(supervisor)[1]!, "SIGKILL"); // it has its restarts again
    await until(() => supervisor.workers[1]!.life === 4 && states(supervisor) === "ready,ready,ready", "a restart");
  });
});

describe("replacement", () => {
  test("by requests, under load: nothing is lost, the new worker is ready before the old one ends, one at a time", async () => {
    await using supervisor = await pool(echo, { instances: 2, recycle: { maxRequests: 40 } });
    const ends: ExitReport[] = [];
    let most = 0;
    let fewest = 2;
    supervisor.on("left", (_, report) => ends.push(report));
    const used = new Set<number>();
    const deadline = performance.now() + 20_000;
    // A replacement takes as long as its process needs to start: the load goes on until there were enough.
    const isEnough = (): boolean => ends.length > 2 && used.size > 4;
    for (let round = 0; round < 100 || (!isEnough() && performance.now() < deadline); round++) {
      const asked = Array.from({ length: 4 }, (_, i) => {
        const link = supervisor.links.toSorted((a, b) => a.inFlight - b.inFlight)[0]!;
        used.add(link.pid);
        return link.ask(`${round} ${i}`);
      });
      expect(await Promise.all(asked)).toEqual([0, 1, 2, 3].map((i) => `${round} ${i}`));
      fewest = Math.min(fewest, supervisor.links.length);
      most = Math.max(most, children().length);
    }
    expect(fewest).toBe(2);
    expect(most).toBeWithin(2, 4);
    expect(used.size).toBeGreaterThan(4);
    expect(ends.length).toBeGreaterThan(2);
    expect(new Set(ends.map(({ how }) => how))).toEqual(new Set(["end of input"]));
    expect(supervisor.workers.map(({ restarts }) => restarts)).toEqual([0, 0]);
  }, 30_000);

  test("by age, one after the other", async () => {
    await using supervisor = await pool(echo, { instances: 2, recycle: { maxAge: 300 } });
    const before = pids(supervisor);
    await until(() => supervisor.workers.every(({ life }) => life >= 2), "the second lives");
    await until(() => !before.some(lives), "the end of the first");
    expect(supervisor.links.length).toBe(2);
  });

  test("while the new worker does not get ready, the old one works on", async () => {
    using temp = folder();
    const flag = join(temp.path, "flag");
    const restart = { backoff: { initial: 20 } };
    await using supervisor = await pool(`if [ -e ${flag} ]; then exit 1; fi; ${echo}`, {
      restart,
      recycle: { maxRequests: 1 },
    });
    let failed = 0;
    supervisor.on("died", (_, { exitCode }) => (failed += exitCode!));
    const [pid] = pids(supervisor);
    writeFileSync(flag, "");
    await supervisor.links[0]!.ask("one");
    await until(() => failed >= 2, "two vain attempts");
    expect([pids(supervisor)[0]!, states(supervisor)]).toEqual([pid!, "ready"]);
    expect(await supervisor.links[0]!.ask("still here")).toBe("still here");
    rmSync(flag);
    await until(() => pids(supervisor)[0] !== pid && states(supervisor) === "ready", "the next one");
  });

  test("a worker that dies while its successor starts is replaced by that successor, and by no third", async () => {
    using temp = folder();
    const slow = join(temp.path, "slow");
    await using supervisor = await pool(`[ -e ${slow} ] && sleep 0.3; ${echo}`, { recycle: { maxRequests: 1 } });
    let ready = 0;
    supervisor.on("joined", () => ready++);
    writeFileSync(slow, "");
    const [pid] = pids(supervisor);
    await supervisor.links[0]!.ask("one");
    await until(() => children().length === 2, "its successor");
    process.kill(pid!, "SIGKILL");
    await until(() => states(supervisor) === "starting", "nobody is ready");
    await until(() => states(supervisor) === "ready", "the successor");
    expect(supervisor.workers[0]).toMatchObject({ life: 2, restarts: 0 });
    await until(() => ready === 2, "two events");
    expect(children().length).toBe(1);
  });
});

describe("long runs", () => {
  test("cycles of start and stop of a Bun worker leak no descriptor and no process", async () => {
    const text = "process.stdout.write('ready\\n'); process.stdin.on('data', () => {}).on('end', () => process.exit())";
    const options = { command: process.execPath, args: ["-e", text], stop: { ...quick, endOfInput: 5_000 } };
    const cycle = async (): Promise<void> => {
      const supervisor = await Supervisor.start(options, lines);
      expect((await supervisor.close())[0]!.how).toBe("end of input");
    };
    for (let i = 0; i < 3; i++) await cycle();
    Bun.gc(true);
    const before = descriptors();
    for (let i = Number(process.env["CYCLES"] ?? 30); i > 0; i--) await cycle();
    Bun.gc(true);
    await until(() => descriptors() <= before, `${before} descriptors`);
    expect(children()).toEqual([]);
  }, 600_000);

  test("failed starts and kills leak nothing either", async () => {
    const bad = () => rejection(pool("exit 1"));
    for (let i = 0; i < 3; i++) await bad();
    Bun.gc(true);
    const before = descriptors();
    for (let i = 0; i < 20; i++) {
      await bad();
      await rejection(pool(echo, { args: [], command: "/proc/self/mem" }));
    }
    await until(() => descriptors() <= before, `${before} descriptors`);
    expect(children()).toEqual([]);
  });

  test("an idle pool wakes no process: the launcher never, the host only as often as the runtime itself", async () => {
    await using host = new Child("idle-host.ts", [], {});
    const seen = JSON.parse(await host.line("{", 20_000));
    expect(seen.isLauncher).toBe(true);
    expect(seen.launcher).toBe(0);
    expect(seen.host).toBeLessThan(15);
  });
});

describe("options", () => {
  for (const [what, options] of [
    ["no options", undefined],
    ["no command", {}],
    ["an empty command", { command: "" }],
    ["a command with NUL", { command: "a\0b" }],
    ["args that are text", { args: "-v" }],
    ["an argument that is a number", { args: [1] }],
    ["half an instance", { instances: 0.5 }],
    ["too many instances", { instances: 1025 }],
    ["a negative number of instances", { instances: -1 }],
    ["an environment that is a number", { env: 7 }],
    ["a variable that is a number", { env: { A: 1 } }],
    ["a variable with =", { env: { "A=B": "" } }],
    ["a cwd that is a number", { cwd: 1 }],
    ["uid alone", { uid: 1 }],
    ["gid alone", { gid: 1 }],
    ["a negative uid", { uid: -1, gid: 1 }],
    ["a startup timeout of nothing", { startupTimeout: 0 }],
    ["an unknown policy", { restart: { policy: "sometimes" } }],
    ["a negative limit", { restart: { maxRestarts: -1 } }],
    ["a window of nothing", { restart: { window: 0 } }],
    ["a longest pause below the first", { restart: { backoff: { initial: 10, max: 9 } } }],
    ["a factor that shrinks", { restart: { backoff: { factor: 0.5 } } }],
    ["a factor that is NaN", { restart: { backoff: { factor: Number.NaN } } }],
    ["jitter above 1", { restart: { backoff: { jitter: 1.1 } } }],
    ["a healthy time that is text", { restart: { healthyAfter: "1s" } }],
    ["a giveUp that is a number", { restart: { giveUp: 1 } }],
    ["an endless drain", { stop: { drain: Infinity } }],
    ["a negative step", { stop: { term: -1 } }],
    ["an age of nothing", { recycle: { maxAge: 0 } }],
    ["no requests", { recycle: { maxRequests: 0 } }],
    ["another stderr", { stderr: "file" }],
    ["a misspelt option", { instance: 2 }],
    ["a misspelt option of a section", { restart: { maxRestart: 5 } }],
    ["a section that is a number", { stop: 7 }],
  ] as const) {
    test(`${what}: one InvalidConfigError`, async () => {
      const given =
        options && ("command" in options || what === "no command") ? options : options && { command: "sh", ...options };
      const starting = Supervisor.start(given as unknown as PoolOptions, lines);
      expect(await rejection(starting)).toBeInstanceOf(InvalidConfigError);
    });
  }

  test("of close and resize are checked too, and the pool runs on", async () => {
    await using supervisor = await pool(echo);
    expect(await rejection(supervisor.close({ timeout: -1 }))).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(supervisor.close({ timout: 1 } as never))).toBeInstanceOf(InvalidConfigError);
    expect(await rejection(supervisor.resize(-1))).toBeInstanceOf(InvalidConfigError);
    expect(states(supervisor)).toBe("ready");
    const status: WorkerStatus = supervisor.workers[0]!;
    expect(existsSync(`/proc/${status.pid}`)).toBe(true);
  });
});
