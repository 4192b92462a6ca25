/** slotbus/testing: a bus of its own for each test, a worker that crashes, a clock that is set, proof that nothing is left. */

import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import type { WorkerInfo } from "./bus/events.ts";
import type { FetchHandler, Handler } from "./bus/request.ts";
import type { SlotWorkerOptions } from "./bus/worker-options.ts";
import type { Contract, Handlers } from "./contract/contract.ts";
import { SlotbusError, InvalidConfigError, NoWorkerError } from "./errors.ts";
import { type Given, integer, Options, optional, refuse, row, text, timeout } from "./options.ts";
import { defaultDirectory } from "./runtime-directory.ts";
import { SlotBus, type SlotBusOptions, SlotWorker } from "./slotbus.ts";

export * from "./errors.ts";

/** Options of the bus; its name and directory are made up. */
export type TestBusOptions = Partial<Omit<SlotBusOptions, "name" | "directory">>;

type WorkerOptions = Partial<Omit<SlotWorkerOptions, "name" | "directory">>;

/** How long a process may take to attach or to end, in ms: less than the 5 s that `bun test` gives a test. */
const LIMIT_MS = 4_000;
/** How long stderr is read after the end, in ms: a process that the program started may hold it open. */
const STDERR_MS = 500;
let serial = 0;

/**
 * A bus with a name and a runtime directory that no other test has, also when tests run in parallel. Its end closes its workers,
 * ends the processes that it has spawned, and removes the directory.
 *
 *     await using test = await TestBus.create();
 *     await test.worker(({ path }) => `hello ${path}`);
 *     expect((await test.bus.request({ path: "/Ada" })).text()).toBe("hello /Ada");
 */
export class TestBus implements AsyncDisposable {
  readonly bus: SlotBus;
  /** Runtime directory, of mode 0700. */
  readonly directory: string;
  readonly #workers: SlotWorker[] = [];
  readonly #processes: Bun.Subprocess[] = [];

  /** Makes the directory and opens the bus. @throws (rejects) as `SlotBus.create`. */
  static async create(options: TestBusOptions = {}): Promise<TestBus> {
    refuseNames("a test bus", options);
    const name = `test-${process.pid}-${++serial}`;
    const directory = mkdtempSync(join(tmpdir(), "slotbus-"));
    try {
      return new TestBus(await SlotBus.create({ ...options, name, directory }), directory);
    } catch (error) {
      rmSync(directory, { recursive: true });
      throw error;
    }
  }

  private constructor(bus: SlotBus, directory: string) {
    this.bus = bus;
    this.directory = directory;
  }

  get name(): string {
    return this.bus.name;
  }

  /** What a process needs to find the bus: `SlotWorker.open()` reads it. */
  get env(): { SLOTBUS_DIR: string; SLOTBUS_NAME: string } {
    return { SLOTBUS_DIR: this.directory, SLOTBUS_NAME: this.name };
  }

  /** A worker of this process; resolves when it is attached. @throws (rejects) as `SlotWorker.open`. */
  worker(handler: Handler | FetchHandler, options?: WorkerOptions): Promise<SlotWorker>;
  /** A worker of this process that implements a contract. */
  worker<C extends Contract>(contract: C, handlers: Handlers<C>, options?: WorkerOptions): Promise<SlotWorker>;
  async worker(what: Handler | FetchHandler | Contract, ...rest: (object | undefined)[]): Promise<SlotWorker> {
    const isContract = typeof (what as Contract | null)?.methods === "object";
    const options: WorkerOptions = rest[isContract ? 1 : 0] ?? {};
    refuseNames("a worker of a test bus", options);
    const { name, directory, bus } = this;
    const worker = await SlotWorker.open({ ...options, name, directory });
    this.#workers.push(worker);
    if (isContract) worker.implement(what as Contract, rest[0] as Handlers<Contract>);
    else worker.serve(what as Handler | FetchHandler);
    if (bus.workers.length < this.#workers.length) await bus.ready({ workers: this.#workers.length });
    return worker;
  }

  /**
   * A worker that is a process: a program of Bun, which calls `SlotWorker.open()`. Resolves when it is attached.
   *
   * @throws (rejects) `RESOURCE` with what it wrote to stderr, when it ends before, or is not attached after 4 s.
   */
  async spawn(program: string | URL, args: readonly string[] = []): Promise<WorkerInfo> {
    const file = program instanceof URL ? Bun.fileURLToPath(program) : program;
    const child = Bun.spawn([process.execPath, file, ...args], {
      env: { ...process.env, ...this.env },
      stdio: ["ignore", "inherit", "pipe"],
    });
    this.#processes.push(child);
    const stderr = child.stderr.text();
    let worker: WorkerInfo | undefined;
    const isSettled = (): boolean => {
      worker = this.bus.workers.find(({ pid }) => pid === child.pid);
      return worker !== undefined || child.exitCode !== null || child.signalCode !== null;
    };
    const inTime = await becomes(isSettled);
    if (worker) return worker;
    const end = `ended with ${child.exitCode ?? child.signalCode} before it was attached`;
    const how = inTime ? end : `was not attached after ${LIMIT_MS} ms`;
    child.kill("SIGKILL");
    const said = await Promise.race([stderr, Bun.sleep(STDERR_MS).then(() => "")]);
    throw new SlotbusError("RESOURCE", `${file} ${how}: ${said.trim() || "it said nothing"}`);
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

function refuseNames(of: string, options: object): void {
  const given = ["name", "directory"].find((key) => key in options);
  if (given) throw new InvalidConfigError(`${of} has no option "${given}": it is made up.`);
}

/** @internal */
export const crashOptions = new Options("crashWorker", {
  /** The `id` of the worker. */
  worker: optional(integer(undefined, 0, Number.MAX_SAFE_INTEGER), "the first worker"),
  signal: row<NodeJS.Signals>("SIGKILL", "a signal", (value, name) =>
    Object.hasOwn(constants.signals, value as string) ? (value as NodeJS.Signals) : refuse(name, value, "a signal"),
  ),
});

/**
 * Kills the process of a worker, as a crash would, and resolves when the bus has noticed: what it had is settled then.
 * `worker`: its `id`; default: the one that is attached for the longest time. Signal: SIGKILL by default.
 *
 * @throws (rejects) {NoWorkerError} when there is none; {InvalidConfigError} when it is a worker of this process;
 * `RESOURCE` when it is still there after 4 s.
 */
export async function crashWorker(bus: SlotBus, options: Given<typeof crashOptions.rows> = {}): Promise<WorkerInfo> {
  const { worker, signal } = crashOptions.resolve(options);
  const victim = worker === null ? bus.workers[0] : bus.workers.find(({ id }) => id === worker);
  if (!victim) throw new NoWorkerError(bus.name, 0);
  if (victim.pid === process.pid) {
    throw new InvalidConfigError(`worker ${victim.id} is of this process (pid ${process.pid}), which would die too.`, {
      hint: "Start it as a process of its own: `test.spawn(program)`.",
    });
  }
  const isOwn = (): boolean => bus.supervisor?.workers.some(({ pid }) => pid === victim.pid) === true;
  process.kill(victim.pid, signal);
  if (await becomes(() => !bus.workers.some(({ id }) => id === victim.id) && !isOwn())) return victim;
  throw new SlotbusError("RESOURCE", `worker pid ${victim.pid} is attached ${LIMIT_MS} ms after ${signal}.`);
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
 *     const contest = await Contest.open({ fleet, now: clock.now });
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

/** @internal */
export const leakOptions = new Options("assertNoLeaks", {
  /** Runtime directory whose files count. */
  directory: optional(
    text(undefined, "a path", (value) => value !== ""),
    "`$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`",
  ),
  /** How long what is about to go may take, in ms. */
  timeout: timeout(2_000, 0),
});

/** Where `assertNoLeaks` looks for files, and for how long it waits. */
export interface LeakOptions extends Given<typeof leakOptions.rows> {}

/**
 * Runs `work` and resolves to its result, if it leaves no descriptor, no memory of slotbus, no file in the runtime directory
 * and no child process that was not there before. Nothing else of this process may open or close such things meanwhile.
 *
 *     await assertNoLeaks(async () => {
 *       await using test = await TestBus.create();
 *     });
 *
 * @throws (rejects) {@link LeakError}; what `work` rejects with.
 */
export async function assertNoLeaks<T>(work: () => T | Promise<T>, options: LeakOptions = {}): Promise<T> {
  const { directory: given, timeout: limit } = leakOptions.resolve(options);
  const directory = given ?? defaultDirectory();
  const before = inventory(directory);
  const result = await work();
  let leaks: Leak[] = [];
  const isClean = (): boolean => {
    leaks = difference(before, inventory(directory));
    return leaks.length === 0;
  };
  if (await becomes(isClean, limit)) return result;
  throw new LeakError(leaks);
}

type Inventory = ReadonlyMap<string, Leak>;

/** By a key that no later thing of the kind has. */
function inventory(directory: string): Inventory {
  const all = new Map<string, Leak>();
  const add = (kind: Leak["kind"], key: string, what = key): void => void all.set(`${kind} ${key}`, { kind, what });
  for (const fd of readdirSync("/proc/self/fd")) {
    const target = readOr(() => readlinkSync(`/proc/self/fd/${fd}`), null);
    if (target !== null && !OF_RUNTIME.test(target)) add("descriptor", `${fd} ${target}`, target);
  }
  for (const line of readFileSync("/proc/self/maps", "latin1").split("\n"))
    if (line.includes("memfd:slotbus")) add("memory", line.split(" ")[0]!, line.slice(line.indexOf("/")).trim());
  for (const file of readOr(() => readdirSync(directory), [])) add("file", join(directory, file));
  for (const pid of childrenOf(process.pid)) add("process", String(pid), `pid ${pid} ${commandOf(pid)}`);
  return all;
}

/** What the runtime opens when it first needs it, and keeps. */
const OF_RUNTIME =
  /^(anon_inode:\[(eventpoll|eventfd|timerfd|io_uring|inotify)\]|anon_inode:inotify|\/dev\/(?!shm\/)|\/proc\/)/;

/** What `read` returns; `otherwise` when the thing has gone meanwhile, or was never there. */
function readOr<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch {
    return otherwise;
  }
}

function childrenOf(pid: number): number[] {
  const threads = readdirSync(`/proc/${pid}/task`);
  const lists = threads.map((thread) => readOr(() => readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8"), ""));
  return lists.flatMap((list) => list.match(/\d+/g) ?? []).map(Number);
}

function commandOf(pid: number): string {
  const line = readOr(() => readFileSync(`/proc/${pid}/cmdline`, "utf8"), "");
  return line.replaceAll("\0", " ").trim() || "(ended, not waited for)";
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
