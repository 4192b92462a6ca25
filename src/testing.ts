/** slotbus/testing: a bus of its own for each test, a worker that crashes, a clock that is set, proof that nothing is left. */

import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SlotBus } from "./slotbus.ts";
import type { WorkerInfo } from "./bus/events.ts";
import type { SlotBusOptions } from "./slotbus.ts";
import type { FetchHandler, Handler } from "./bus/request.ts";
import { SlotWorker } from "./slotbus.ts";
import type { SlotWorkerOptions } from "./bus/worker-options.ts";
import { InvalidConfigError, NoWorkerError, ResourceError } from "./errors.ts";
import { defaultDirectory } from "./runtime-directory.ts";

/** Options of the bus; its name and directory are made up. */
export type TestBusOptions = Partial<Omit<SlotBusOptions, "name" | "directory">>;

/** How long a process that was told to end, or a leak, has until it counts, in ms. */
const LIMIT_MS = 5_000;
/** How long stderr is read after the end, in ms: a process that the program started may hold it open. */
const STDERR_MS = 500;
let serial = 0;

/**
 * A bus with a name and a runtime directory that no other test has, also when tests run in parallel. Disposing it closes its
 * workers, ends the processes that it has spawned, and removes the directory.
 *
 *     await using test = await testBus();
 *     await test.worker(({ path }) => `hello ${path}`);
 *     expect((await test.bus.request({ path: "/Ada" })).text()).toBe("hello /Ada");
 *
 * @throws (rejects) as `SlotBus.create`.
 */
export async function testBus(options: TestBusOptions = {}): Promise<TestBus> {
  const name = `test-${process.pid}-${++serial}`;
  const directory = mkdtempSync(join(tmpdir(), "slotbus-"));
  try {
    return new TestBus(await SlotBus.create({ ...options, name, directory }), directory);
  } catch (error) {
    rmSync(directory, { recursive: true });
    throw error;
  }
}

/** A bus in a directory of its own, with the workers started for it; `await using` ends and removes all of it. */
export class TestBus implements AsyncDisposable {
  readonly bus: SlotBus;
  /** Runtime directory, of mode 0700. */
  readonly directory: string;
  readonly #workers: SlotWorker[] = [];
  readonly #processes: Bun.Subprocess[] = [];

  /** @internal Use {@link testBus}. */
  constructor(bus: SlotBus, directory: string) {
    this.bus = bus;
    this.directory = directory;
  }

  get name(): string {
    return this.bus.name;
  }

  /** What a process needs to find the bus: `SLOTBUS_DIR` and, by convention, `SLOTBUS_BUS`, its name. */
  get env(): { SLOTBUS_DIR: string; SLOTBUS_BUS: string } {
    return { SLOTBUS_DIR: this.directory, SLOTBUS_BUS: this.name };
  }

  /** A worker of this process; resolves when it is attached. @throws (rejects) as `SlotWorker.open`. */
  async worker(
    handler: Handler | FetchHandler,
    options: Partial<Omit<SlotWorkerOptions, "name" | "directory">> = {},
  ): Promise<SlotWorker> {
    const { name, directory, bus } = this;
    const worker = await SlotWorker.open({ ...options, name, directory });
    this.#workers.push(worker);
    worker.serve(handler);
    if (bus.workers.length < this.#workers.length) await bus.ready({ workers: this.#workers.length });
    return worker;
  }

  /**
   * A worker that is a process: a program of Bun, which opens the bus `process.env.SLOTBUS_BUS`. Resolves when it is attached.
   *
   * @throws (rejects) {ResourceError} with what it wrote to stderr, when it ends before, or is not there after 5 s.
   */
  async spawn(program: string | URL, args: readonly string[] = []): Promise<WorkerInfo> {
    const file = program instanceof URL ? Bun.fileURLToPath(program) : program;
    const child = Bun.spawn([process.execPath, file, ...args], {
      env: { ...process.env, ...this.env },
      stdio: ["ignore", "inherit", "pipe"],
    });
    this.#processes.push(child);
    const stderr = child.stderr.text();
    const { promise, resolve, reject } = Promise.withResolvers<WorkerInfo>();
    const onJoin = (worker: WorkerInfo): void => {
      if (worker.pid === child.pid) resolve(worker);
    };
    this.bus.on("workerJoined", onJoin);
    const fail = async (how: string): Promise<void> => {
      child.kill("SIGKILL");
      const said = await Promise.race([stderr, Bun.sleep(STDERR_MS).then(() => "")]);
      reject(new ResourceError(`${file} ${how}: ${said.trim() || "it said nothing"}`));
    };
    const timer = setTimeout(() => void fail(`was not attached after ${LIMIT_MS} ms`), LIMIT_MS);
    void child.exited.then((code) => fail(`ended with ${code} before it was attached`));
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.bus.off("workerJoined", onJoin);
    }
  }

  /** Ends all of it, whatever state it is in; may be called again. */
  async close(): Promise<void> {
    for (const worker of this.#workers.splice(0)) await worker.close({ timeout: 0 });
    for (const child of this.#processes.splice(0)) {
      child.kill("SIGKILL");
      await child.exited;
    }
    await this.bus.close({ timeout: 0 });
    rmSync(this.directory, { recursive: true, force: true });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/**
 * Kills the process of a worker, as a crash would, and resolves when the bus has noticed: what it had is settled then.
 * `worker`: its `id`; default: the one that is attached for the longest time. Signal: SIGKILL by default.
 *
 * @throws (rejects) {NoWorkerError} when there is none; {InvalidConfigError} when it is a worker of this process;
 * {ResourceError} when it is still attached after 5 s.
 */
export async function crashWorker(
  bus: SlotBus,
  { worker, signal = "SIGKILL" }: { worker?: number; signal?: NodeJS.Signals } = {},
): Promise<WorkerInfo> {
  const victim = worker === undefined ? bus.workers[0] : bus.workers.find(({ id }) => id === worker);
  if (!victim) throw new NoWorkerError(bus.name, 0);
  if (victim.pid === process.pid) {
    throw new InvalidConfigError(`worker ${victim.id} is of this process (pid ${process.pid}), which would die too.`, {
      hint: "Start it as a process of its own: `test.spawn(program)`.",
    });
  }
  const isThere = (): boolean => bus.workers.some(({ id }) => id === victim.id);
  process.kill(victim.pid, signal);
  if (await becomes(() => !isThere())) return victim;
  throw new ResourceError(`worker pid ${victim.pid} is attached ${LIMIT_MS} ms after ${signal}.`);
}

/** A clock of milliseconds that moves when it is told to: the `now` of a `Contest`, or of code under test. */
export interface FakeClock {
  /** Bound: can be passed on as it is. */
  readonly now: () => number;
  /** Moves on by `ms`, 0 or more; returns the time then. */
  advance(ms: number): number;
}

/**
 * A clock that begins at `start` ms (default 0). Timers are real: who waits for an expiry looks when its timer ends.
 *
 *     const clock = fakeClock();
 *     const contest = new Contest(fleet, { now: clock.now });
 *     clock.advance(5_000);
 */
export function fakeClock(start = 0): FakeClock {
  let time = checkTime("start", start);
  return { now: () => time, advance: (ms) => (time += checkTime("ms", ms)) };
}

function checkTime(what: string, ms: number): number {
  if (Number.isFinite(ms) && ms >= 0) return ms;
  throw new InvalidConfigError(`${what} is ${ms}; a clock goes forward, by 0 or more milliseconds.`);
}

// ---- leaks ------------------------------------------------------------------------------------------------------------

/** Something that is still there, in {@link LeakError}. */
export interface Leak {
  readonly kind: "descriptor" | "memory" | "file" | "process";
  /** What it is: a path, `socket:[123]`, `pid 123 bun worker.ts`. */
  readonly what: string;
}

/** What {@link assertNoLeaks} rejects with. */
export class LeakError extends Error {
  override readonly name = "LeakError";
  readonly leaks: readonly Leak[];

  constructor(leaks: readonly Leak[]) {
    super(`${leaks.length} left:\n${leaks.map(({ kind, what }) => `  ${kind} ${what}`).join("\n")}`);
    this.leaks = leaks;
  }
}

/** What `assertNoLeaks` overlooks, and for how long it waits. */
export interface LeakOptions {
  /** Runtime directory whose files count. Default: `$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`. */
  directory?: string;
  /** How long what is about to go has, in ms. Default 5000. */
  timeout?: number;
}

/**
 * Runs `work` and resolves to its result, if it leaves no descriptor, no memory of slotbus, no file in the runtime directory
 * and no child process that was not there before. Nothing else of this process may open or close such things meanwhile.
 *
 *     await assertNoLeaks(async () => {
 *       await using test = await testBus();
 *     });
 *
 * @throws (rejects) {@link LeakError}; what `work` rejects with.
 */
export async function assertNoLeaks<T>(work: () => T | Promise<T>, options: LeakOptions = {}): Promise<T> {
  const { directory = defaultDirectory(), timeout = LIMIT_MS } = options;
  const before = inventory(directory);
  const result = await work();
  let leaks: Leak[] = [];
  const isClean = (): boolean => {
    leaks = difference(before, inventory(directory));
    return leaks.length === 0;
  };
  if (await becomes(isClean, timeout)) return result;
  throw new LeakError(leaks);
}

type Inventory = ReadonlyMap<string, Leak>;

/** By a key that no later thing of the kind has. */
function inventory(directory: string): Inventory {
  const all = new Map<string, Leak>();
  const add = (kind: Leak["kind"], key: string, what = key): void => void all.set(`${kind} ${key}`, { kind, what });
  for (const fd of readdirSync("/proc/self/fd")) {
    const target = targetOf(fd);
    if (target !== null && !OF_RUNTIME.test(target)) add("descriptor", `${fd} ${target}`, target);
  }
  for (const line of readFileSync("/proc/self/maps", "latin1").split("\n"))
    if (line.includes("memfd:slotbus")) add("memory", line.split(" ")[0]!, line.slice(line.indexOf("/")).trim());
  for (const file of filesOf(directory)) add("file", join(directory, file));
  for (const pid of childrenOf(process.pid)) add("process", String(pid), `pid ${pid} ${commandOf(pid)}`);
  return all;
}

/** What the runtime opens when it first needs it, and keeps. */
const OF_RUNTIME =
  /^(anon_inode:\[(eventpoll|eventfd|timerfd|io_uring|inotify)\]|anon_inode:inotify|\/dev\/(?!shm\/)|\/proc\/)/;

function targetOf(fd: string): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return null; // the one by which the list was read
  }
}

function filesOf(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // it is not there: nothing is in it
  }
}

function childrenOf(pid: number): number[] {
  const threads = readdirSync(`/proc/${pid}/task`);
  return threads.flatMap((thread) => {
    const list = textOf(`/proc/${pid}/task/${thread}/children`).trim();
    return list === "" ? [] : list.split(" ").map(Number);
  });
}

function commandOf(pid: number): string {
  return textOf(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim() || "(ended, not waited for)";
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return ""; // the process, or its thread, has ended
  }
}

function difference(before: Inventory, after: Inventory): Leak[] {
  return [...after].filter(([key]) => !before.has(key)).map(([, leak]) => leak);
}

async function becomes(condition: () => boolean, limit = LIMIT_MS): Promise<boolean> {
  const deadline = performance.now() + limit;
  while (!condition()) {
    if (performance.now() >= deadline) return false;
    await Bun.sleep(5);
  }
  return true;
}
