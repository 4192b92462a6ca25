/** `slotbus run` as its users run it: workers that several processes share. */

import { expect, test } from "bun:test";
import { readdirSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { InvalidConfigError, SlotBus } from "../src/index.ts";
import { closeDirectory, openDirectory } from "../src/native/directory.ts";
import { Door } from "../src/native/door.ts";
import { Program } from "./program.ts";
import { isAlive } from "./stdio-stage.ts";
import { processState, rejection, until, Workspace } from "./support.ts";

const COMMAND = join(import.meta.dir, "../src/cli/slotbus.ts");
const NOTIFY = join(import.meta.dir, "../src/native/notify.ts");
const RUNNER = join(import.meta.dir, "../src/runner.ts");
const WORKER = join(import.meta.dir, "fixtures/run-worker.ts");

/** Starts it in a workspace. */
function start(space: Workspace, args: readonly string[], env: Record<string, string> = {}): Program {
  space.leavesKilled = true;
  const all = ["--name", space.name, "--directory", space.directory, ...args];
  return new Program([process.execPath, COMMAND, "run", ...all], env);
}

/** Events of the log, without the lines of workers. */
const eventsOf = (program: Program): string[] =>
  program.log.map(({ event }) => event).filter((event) => event !== "log");

const askFor = async (bus: SlotBus, path = "/"): Promise<string> => (await bus.request({ path })).text();

/**
 * Sends requests through all buses until `isOver`; returns how often each worker responded. Rejects when a request fails, or when
 * a bus has no worker at any time.
 */
async function load(buses: readonly SlotBus[], isOver: () => boolean): Promise<Map<string, number>> {
  const seen = new Map<string, number>();
  const one = async (bus: SlotBus): Promise<void> => {
    while (!isOver()) {
      const pid = (await bus.request({ path: "/" }, { waitForWorker: false })).text();
      seen.set(pid, (seen.get(pid) ?? 0) + 1);
    }
  };
  await Promise.all(buses.flatMap((bus) => Array.from({ length: 4 }, () => one(bus))));
  return seen;
}

/** Whether a process handles the signal with this number. */
function handles(pid: number, signal: number): boolean {
  const [, mask = "0"] = /^SigCgt:\t(\w+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n;
}

/** Sockets that receive the datagrams of `sb_notify`, read by the test. */
class Receiver implements Disposable {
  readonly #dir: number;
  readonly #door: Door;
  readonly path: string;

  constructor(directory: string) {
    this.#dir = openDirectory(directory)!;
    this.#door = Door.open(this.#dir, "receiver", false)!;
    this.path = this.#door.pathIn(directory);
  }

  /** Returns the next datagram; `""` if there is none. */
  take(): string {
    const bytes = Buffer.alloc(256);
    try {
      return bytes.toString("latin1", 0, readSync(this.#door.fd, bytes));
    } catch {
      return ""; // EAGAIN
    }
  }

  [Symbol.dispose](): void {
    this.#door.close();
    closeDirectory(this.#dir);
  }
}

test("--help has 80 columns; a wrong program, name or number is one line and exit code 2", () => {
  const run = (...args: string[]) => {
    const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, COMMAND, "run", ...args]);
    return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
  };
  const help = run("--help");
  expect([help.code, help.err]).toEqual([0, ""]);
  for (const line of help.out.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  for (const [args, said] of [
    [[], "program"],
    [["/no/such.ts"], "Cannot find the program /no/such.ts"],
    [[WORKER, "--instances", "65"], "--instances is 65; it must be a whole number from 1 to 64."],
    [[WORKER, "--drain", "soon"], '--drain is "soon"'],
    [[WORKER, "--name", "a/b"], '"a/b" is not a valid bus name.'],
  ] as const) {
    const { code, out, err } = run(...args);
    expect([args, code, out]).toEqual([args, 2, ""]);
    expect(err).toMatch(/^slotbus: [^\n]+\n$/);
    expect(err).toContain(said);
  }
}, 20_000);

test("workers start before any client, serve several, and attach again after the last has left", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "2"]);
  expect(await program.line("2 workers")).toBe(`2 workers of ${WORKER} serve bus "${space.name}"`);
  for (let round = 0; round < 2; round++) {
    const buses = [await space.client(), await space.client()];
    for (const bus of buses) await bus.ready({ workers: 2 });
    expect(await Promise.all(buses.map((bus) => askFor(bus)))).toHaveLength(2);
    await Promise.all(buses.map((bus) => bus.close()));
  }
  expect(eventsOf(program)).toEqual(["joined", "joined"]);
  expect((await program.logged("log"))["line"]).toBe(`serves ${space.name}`);
}, 20_000);

test("SIGHUP replaces one worker after another, and no request of any client fails", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "2"]);
  await program.line("2 workers");
  const buses = [await space.client(), await space.client()];
  for (const bus of buses) await bus.ready({ workers: 2 });
  const seen = load(buses, () => eventsOf(program).includes("replaced"));
  program.process.kill("SIGHUP");
  expect((await seen).size).toBeGreaterThanOrEqual(3);
  const order = ["joined", "joined", "replacing", "joined", "left", "joined", "left", "replaced"];
  expect(eventsOf(program)).toEqual(order);
  const old = program.log.filter(({ event }) => event === "left").map(({ pid }) => pid);
  expect(old.sort()).toEqual(
    program.log
      .filter(({ event }) => event === "joined")
      .slice(0, 2)
      .map(({ pid }) => pid)
      .sort(),
  );
}, 30_000);

test("one worker alone is replaced, and none of 8 clients is without a worker at any time", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1"]);
  await program.line("1 worker");
  const buses = await Promise.all(Array.from({ length: 8 }, () => space.client()));
  for (const bus of buses) await bus.ready();
  const seen = load(buses, () => eventsOf(program).includes("replaced"));
  program.process.kill("SIGHUP");
  expect((await seen).size).toBe(2);
}, 30_000);

test.each(["SIGTERM", "SIGINT"] as const)(
  "at %s the workers finish their requests, and the command exits with 0",
  async (signal) => {
    await using space = new Workspace();
    await using program = start(space, [WORKER, "--instances", "2"]);
    await program.line("2 workers");
    const bus = await space.client();
    await bus.ready({ workers: 2 });
    const running = Array.from({ length: 8 }, () => askFor(bus, "/slow"));
    await until(() => bus.diagnostics().slots.filter(({ state }) => state === "CLAIMED").length === 8, "they run");
    program.process.kill(signal);
    expect(await Promise.all(running)).toHaveLength(8);
    expect(await program.process.exited).toBe(0);
    expect(eventsOf(program)).toEqual(["joined", "joined", "ending", "left", "left"]);
    for (const { pid } of program.log.filter(({ event }) => event === "joined")) expect(isAlive(pid!)).toBe(false);
    const doors = readdirSync(space.directory).filter((file) => file.endsWith(".door"));
    expect(doors).toEqual([]);
  },
  20_000,
);

test("workers that end before there is a client leave no door", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "2"]);
  await program.line("2 workers");
  const doors = (): number => readdirSync(space.directory).filter((file) => file.startsWith(space.name)).length;
  await until(() => doors() === 2, "each worker has a door");
  program.process.kill();
  expect(await program.process.exited).toBe(0);
  expect(doors()).toBe(0);
}, 20_000);

/** Number of requests that workers of these buses have claimed. */
const claimed = (...buses: SlotBus[]): number =>
  buses.flatMap((bus) => bus.diagnostics().slots).filter(({ state }) => state === "CLAIMED").length;

const PLACES = ["sync", "thread", "sync-thread"] as const;

test.each(PLACES)(
  "%s: at SIGTERM a worker answers what it has and what waits for it",
  async (how) => {
    await using space = new Workspace();
    await using program = start(space, [WORKER, "--instances", "1", "--", how]);
    await program.line("1 worker");
    const buses = [await space.client(), await space.client()];
    for (const bus of buses) await bus.ready();
    const pid = program.log.find(({ event }) => event === "joined")!.pid!;
    // A blocked thread handles one request at a time: the second client's requests and the last one wait.
    const ask = async (bus: SlotBus, path: string) => (await bus.request({ path }, { timeout: 10_000 })).text();
    const running = buses.flatMap((bus) => ["/slow", "/", "/"].map((path) => ask(bus, path)));
    await until(() => claimed(...buses) > 0, "one runs");
    program.process.kill();
    expect(await Promise.all(running)).toEqual(Array(6).fill(`${pid}`));
    expect(await program.process.exited).toBe(0);
    expect(await program.logged("left")).toMatchObject({ pid, how: "SIGTERM", signal: "SIGTERM" });
    expect(readdirSync(space.directory).filter((file) => file.endsWith(".door"))).toEqual([]);
  },
  20_000,
);

test.each(PLACES)(
  "%s: SIGHUP replaces the worker, and no request of two clients fails",
  async (how) => {
    await using space = new Workspace();
    await using program = start(space, [WORKER, "--instances", "1", "--", how]);
    await program.line("1 worker");
    const buses = [await space.client(), await space.client()];
    for (const bus of buses) await bus.ready();
    const seen = load(buses, () => eventsOf(program).includes("replaced"));
    program.process.kill("SIGHUP");
    expect((await seen).size).toBe(2);
    expect((await program.logged("left"))["how"]).toBe("SIGTERM");
  },
  30_000,
);

test("a blocking worker without a client ends at SIGTERM, and runs what follows serveSync", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1", "--", "sync"]);
  await program.line("1 worker");
  const bus = await space.client();
  await askFor(bus);
  await bus.close();
  program.process.kill();
  expect(await program.process.exited).toBe(0);
  expect((await program.logged("left"))["how"]).toBe("SIGTERM");
  expect((await program.logged("log"))["line"]).toBe("ended");
}, 20_000);

test("a blocking worker that has deferred responses serves on until it has sent them", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1", "--", "sync"]);
  await program.line("1 worker");
  const bus = await space.client();
  const deferred = askFor(bus, "/defer");
  await until(() => claimed(bus) === 1, "it is deferred");
  program.process.kill();
  await program.logged("ending");
  await Bun.sleep(300); // a worker that did not serve on has left by now
  const { pid } = program.log.find(({ event }) => event === "joined")!;
  expect(await askFor(bus)).toBe(`${pid}`);
  expect(await deferred).toBe("deferred");
  expect(await program.process.exited).toBe(0);
  expect((await program.logged("left"))["how"]).toBe("SIGTERM");
}, 20_000);

test("workers in several threads of a process finish before SIGTERM ends it", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1", "--", "mixed"]);
  await program.line("1 worker");
  const bus = await space.client();
  await bus.ready({ workers: 3 });
  const to = async (worker: number, path: string, query = "") =>
    (await bus.request({ path, query }, { worker, timeout: 10_000 })).text();
  const ids = bus.workers.map(({ id }) => id);
  const threads = await Promise.all(ids.map((id) => to(id, "/thread")));
  expect(threads.toSorted()).toEqual(["main", "other", "other"]);
  // The main thread finishes first.
  const running = ids.map((id, n) => to(id, "/slow", threads[n] === "main" ? "100" : "1000"));
  await until(() => claimed(bus) === 3, "each has one");
  program.process.kill();
  expect(await Promise.all(running)).toEqual(
    Array(3).fill(`${program.log.find(({ event }) => event === "joined")!.pid}`),
  );
  expect(await program.process.exited).toBe(0);
  expect(await program.logged("left")).toMatchObject({ how: "SIGTERM", signal: "SIGTERM" });
}, 20_000);

test("a program with its own listeners of SIGTERM decides when it ends", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1", "--", "listens"]);
  await program.line("1 worker");
  const bus = await space.client();
  await bus.ready();
  const running = askFor(bus, "/slow");
  await until(() => claimed(bus) === 1, "it runs");
  program.process.kill();
  await running;
  expect(await program.process.exited).toBe(0);
  expect(await program.logged("left")).toMatchObject({ exitCode: 0, signal: null, how: "SIGTERM" });
}, 20_000);

test("a child process of a worker does not take itself for a worker of the command", () => {
  const source = `import { isRun } from ${JSON.stringify(RUNNER)}; console.log(isRun, process.env.SLOTBUS_RUN);`;
  const ask = (value: string): string => {
    const env = { ...process.env, SLOTBUS_RUN: value };
    return Bun.spawnSync([process.execPath, "-e", source], { env }).stdout.toString();
  };
  expect(ask("/run/x@1.door")).toMatch(/^true \d+:\/run\/x@1.door\n$/);
  expect(ask(`${process.pid}:/run/x@1.door`)).toStartWith("false ");
});

test("connect refuses `workers` and names this command", async () => {
  await using space = new Workspace();
  const error = await rejection<InvalidConfigError>(space.client({ workers: { entry: WORKER } }));
  expect(error.hint).toContain("`slotbus run worker.ts");
});

test("a worker that is killed is restarted", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1"]);
  const bus = await space.client();
  process.kill(Number(await askFor(bus)), "SIGKILL");
  await program.logged("joined", 2);
  const { level, signal } = (await program.logged("died")) as Record<string, unknown>;
  expect([level, signal]).toEqual(["warn", "SIGKILL"]);
  expect(await askFor(bus)).toBe(`${(await program.logged("joined", 2)).pid}`);
}, 20_000);

test("when all workers end too often, the command exits with 1 and says how the last one ended", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1", "--", "crash"]);
  expect(await program.process.exited).toBe(1);
  const said = program.errors.find((line) => line.startsWith("slotbus: "));
  expect(said).toStartWith(
    `slotbus: All workers of ${space.name} end too often. The last one exited with code 4 after`,
  );
  expect(eventsOf(program).filter((event) => event === "died")).toHaveLength(6);
}, 30_000);

test("a program that cannot start is exit code 1 with its reason", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "2", "--", "exit"]);
  expect(await program.process.exited).toBe(1);
  const said = program.errors.slice(program.errors.findIndex((line) => line.startsWith("slotbus: ")));
  expect(said[0]).toMatch(/^slotbus: Worker [01] of pool .* ended before it was ready: it exited with code 3 after/);
  expect(said).toContain("cannot start");
}, 20_000);

test("SIGTERM ends the command while its workers start", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1", "--", "idle"]);
  await program.logged("log"); // it runs and does not open
  program.process.kill();
  expect(await program.process.exited).toBe(0);
}, 20_000);

test("SIGHUP while the workers start replaces them when all are ready", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "1"]);
  await until(() => readdirSync(space.directory).length > 0, "it starts");
  await until(() => handles(program.process.pid, 1), "it handles SIGHUP");
  program.process.kill("SIGHUP");
  await program.logged("replaced");
  expect(eventsOf(program)).toEqual(["joined", "replacing", "joined", "left", "replaced"]);
}, 20_000);

test("workers end when the command is killed, and the next command removes what it left", async () => {
  await using space = new Workspace();
  await using program = start(space, [WORKER, "--instances", "2"]);
  await program.line("2 workers");
  const pids = program.log.filter(({ event }) => event === "joined").map(({ pid }) => pid!);
  program.process.kill("SIGKILL");
  await until(() => !pids.some(isAlive), "the workers have ended");
  const left = readdirSync(space.directory).filter((file) => file.startsWith("run@"));
  expect(left).toHaveLength(1);
  await using next = start(space, [WORKER, "--instances", "1"]);
  await next.line("1 worker");
  expect(readdirSync(space.directory)).not.toContain(left[0]!);
}, 20_000);

test("systemd learns that the command is ready, replaces workers, and stops", async () => {
  await using space = new Workspace();
  using receiver = new Receiver(space.directory);
  await using program = start(space, [WORKER, "--instances", "1"], { NOTIFY_SOCKET: receiver.path });
  const next = async (): Promise<string> => {
    let text = "";
    await until(() => (text = receiver.take()) !== "", "a notification");
    return text;
  };
  expect(await next()).toBe("READY=1");
  program.process.kill("SIGHUP");
  expect(await next()).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d+$/);
  expect(await next()).toBe("READY=1");
  program.process.kill();
  expect(await next()).toBe("STOPPING=1");
  expect(await program.process.exited).toBe(0);
}, 20_000);

test("a change of the source replaces the workers; code that does not start leaves the old ones", async () => {
  await using space = new Workspace();
  const source = join(space.directory, "worker.ts");
  space.leftovers = ["worker.ts"];
  const write = (answer: string): void =>
    writeFileSync(
      source,
      `import { SlotWorker } from ${JSON.stringify(join(import.meta.dir, "../src/index.ts"))};
       const worker = await SlotWorker.open();
       worker.serve(() => ${answer});`,
    );
  write('"old"');
  await using program = start(space, [source, "--instances", "1", "--watch"]);
  await program.line("1 worker");
  const bus = await space.client();
  expect(await askFor(bus)).toBe("old");
  write("(");
  expect((await program.logged("not replaced")).level).toBe("error");
  expect(await askFor(bus)).toBe("old");
  write('"new"');
  await program.logged("replaced");
  expect(await askFor(bus)).toBe("new");
}, 20_000);

test("a worker whose command is busy waits until its report has room", async () => {
  await using space = new Workspace();
  using receiver = new Receiver(space.directory);
  const reports = 40; // a socket takes about 10
  const source = `import { reportReady } from ${JSON.stringify(NOTIFY)};
    console.log("begins");
    for (let i = 0; i < ${reports}; i++) reportReady();`;
  await using child = new Program([process.execPath, "-e", source], { SLOTBUS_RUN: receiver.path });
  await child.line("begins");
  await until(() => "SZ".includes(processState(child.process.pid)), "it waits");
  let count = 0;
  await until(() => {
    for (; receiver.take() === `${child.process.pid}\n`; count++);
    return count === reports;
  }, "all reports");
  expect(await child.process.exited).toBe(0);
}, 20_000);
