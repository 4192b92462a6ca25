/** slotbus/testing: a private bus for each test, crashes of workers, a fake clock, and a check for leaks. */

import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import type { WorkerInfo } from "./bus/events.ts";
import type { FetchHandler, Handler } from "./bus/request.ts";
import type { SlotWorkerOptions } from "./bus/worker-options.ts";
import type { Contract, Handlers } from "./contract/contract.ts";
import { SlotbusError, InvalidConfigError, NoWorkerError } from "./errors.ts";
import { unknownWorker } from "./errors/plain.ts";
import { type Given, integer, Options, optional, refuse, row, text, timeout } from "./options.ts";
import { defaultDirectory } from "./runtime-directory.ts";
import { SlotWorker } from "./slot-worker.ts";
import { SlotBus, type SlotBusOptions } from "./slotbus.ts";

export * from "./errors.ts";

/** Options of the bus. Its name and directory are chosen by `TestBus`. */
export type TestBusOptions = Partial<Omit<SlotBusOptions, "name" | "directory">>;

type WorkerOptions = Partial<Omit<SlotWorkerOptions, "name" | "directory">>;

/** Time for a process to attach or to end, in ms; less than the 5 s that `bun test` allows for a test. */
const LIMIT_MS = 4_000;
/** Time to read standard error after the end of a process, in ms: a child process may hold it open. */
const STDERR_MS = 500;
let serial = 0;

/**
 * A bus with a unique name and its own runtime directory, so tests can run in parallel. Closing it closes its workers, ends its
 * spawned processes, and removes the directory.
 *
 *     await using test = await TestBus.create();
 *     await test.worker(({ path }) => `hello ${path}`);
 *     expect((await test.bus.request({ path: "/Ada" })).text()).toBe("hello /Ada");
 */
export class TestBus implements AsyncDisposable {
  readonly bus: SlotBus;
  /** Runtime directory, created with mode 0700. */
  readonly directory: string;
  readonly #workers: SlotWorker[] = [];
  readonly #processes: Bun.Subprocess[] = [];

  /** Creates the directory and the bus. @throws (rejects) as `SlotBus.create`. */
  static async create(options: TestBusOptions = {}): Promise<TestBus> {
    refuseNames("A test bus", options);
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

  /** Environment variables with which `SlotWorker.open()` finds the bus in another process. */
  get env(): { SLOTBUS_DIR: string; SLOTBUS_NAME: string } {
    return { SLOTBUS_DIR: this.directory, SLOTBUS_NAME: this.name };
  }

  /** Opens a worker in this process. Resolves when it is attached. @throws (rejects) as `SlotWorker.open`. */
  worker(handler: Handler | FetchHandler, options?: WorkerOptions): Promise<SlotWorker>;
  /** Opens a worker in this process that implements a contract. */
  worker<C extends Contract>(contract: C, handlers: Handlers<C>, options?: WorkerOptions): Promise<SlotWorker>;
  async worker(what: Handler | FetchHandler | Contract, ...rest: (object | undefined)[]): Promise<SlotWorker> {
    const isContract = typeof (what as Contract | null)?.methods === "object";
    const options: WorkerOptions = rest[isContract ? 1 : 0] ?? {};
    refuseNames("A worker of a test bus", options);
    const { name, directory, bus } = this;
    const worker = await SlotWorker.open({ ...options, name, directory });
    this.#workers.push(worker);
    if (isContract) worker.implement(what as Contract, rest[0] as Handlers<Contract>);
    else worker.serve(what as Handler | FetchHandler);
    if (bus.workers.length < this.#workers.length) await bus.ready({ workers: this.#workers.length });
    return worker;
  }

  /**
   * Starts a worker in its own process: a program that Bun runs and that calls `SlotWorker.open()`. Resolves when it is
   * attached.
   *
   * @throws (rejects) `RESOURCE`, with its standard error, if it ends before that or does not attach within 4 s.
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
    const end = `ended with ${child.exitCode ?? child.signalCode} before it attached`;
    const how = inTime ? end : `did not attach within ${LIMIT_MS} ms`;
    child.kill("SIGKILL");
    const said = await Promise.race([stderr, Bun.sleep(STDERR_MS).then(() => "")]);
    throw new SlotbusError("RESOURCE", `${file} ${how}: ${said.trim() || "standard error is empty"}`);
  }

  /** Closes the bus and its workers, ends spawned processes, and removes the directory. May be called repeatedly. */
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
  if (given) throw new InvalidConfigError(`${of} has no option "${given}": TestBus chooses it.`);
}

/** @internal */
export const crashOptions = new Options("crashWorker", {
  /** `id` of the worker to kill. Default: the worker that attached first. */
  worker: optional(integer(undefined, 0, Number.MAX_SAFE_INTEGER), "the first worker"),
  /** Signal that is sent to its process. */
  signal: row<NodeJS.Signals>("SIGKILL", "a signal", (value, name) =>
    Object.hasOwn(constants.signals, value as string) ? (value as NodeJS.Signals) : refuse(name, value, "a signal"),
  ),
});

/**
 * Kills the process of a worker, as a crash would. Resolves to the worker when the bus has noticed its end. The requests that it
 * was running have settled then; requests that it had not started wait for another worker. Kills the worker that attached first,
 * with SIGKILL, unless the options say otherwise.
 *
 * @throws (rejects) {NoWorkerError} if there is no such worker; {InvalidConfigError} if it runs in this process; `RESOURCE` if
 * it is still attached after 4 s.
 */
export async function crashWorker(bus: SlotBus, options: Given<typeof crashOptions.rows> = {}): Promise<WorkerInfo> {
  const { worker, signal } = crashOptions.resolve(options);
  const victim = worker === null ? bus.workers[0] : bus.workers.find(({ id }) => id === worker);
  if (!victim) throw worker === null ? new NoWorkerError(bus.name, 0) : unknownWorker(bus.name, worker);
  if (victim.pid === process.pid) {
    throw new InvalidConfigError(
      `Worker ${victim.id} runs in this process (pid ${process.pid}), which would die too.`,
      {
        hint: "Start it in its own process: `test.spawn(program)`.",
      },
    );
  }
  const isOwn = (): boolean => bus.supervisor?.workers.some(({ pid }) => pid === victim.pid) === true;
  process.kill(victim.pid, signal);
  if (await becomes(() => !bus.workers.some(({ id }) => id === victim.id) && !isOwn())) return victim;
  throw new SlotbusError("RESOURCE", `Worker pid ${victim.pid} is still attached ${LIMIT_MS} ms after ${signal}.`);
}

/** A clock that only moves when `advance` is called. */
export interface FakeClock {
  /** Returns the time in ms. Can be passed on without binding. */
  readonly now: () => number;
  /** Moves the clock forward by `ms` (0 or more); returns the new time. */
  advance(ms: number): number;
}

/**
 * Returns a clock that starts at `start` ms (default 0). Timers stay real: code that waits for an expiry reads the fake time
 * only when its timer fires.
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
  throw new InvalidConfigError(`${what} is ${ms}; it must be 0 or more milliseconds.`);
}

// ---- leaks ------------------------------------------------------------------------------------------------------------

/** Something that `work` left behind, in {@link LeakError}. */
export interface Leak {
  readonly kind: "descriptor" | "memory" | "file" | "process";
  /** Description: a path, `socket:[123]`, `pid 123 bun worker.ts`. */
  readonly what: string;
}

/** Error of {@link assertNoLeaks}. */
export class LeakError extends Error {
  override readonly name = "LeakError";
  readonly leaks: readonly Leak[];

  constructor(leaks: readonly Leak[]) {
    super(`${leaks.length} leaked:\n${leaks.map(({ kind, what }) => `  ${kind} ${what}`).join("\n")}`);
    this.leaks = leaks;
  }
}

/** @internal */
export const leakOptions = new Options("assertNoLeaks", {
  /** Runtime directory that is checked for new files. */
  directory: optional(
    text(undefined, "a path", (value) => value !== ""),
    "`$SLOTBUS_DIR`, else `/dev/shm/slotbus-<euid>`",
  ),
  /** Time for things that are being closed to disappear, in ms. */
  timeout: timeout(2_000, 0),
});

/** Options of {@link assertNoLeaks}. */
export interface LeakOptions extends Given<typeof leakOptions.rows> {}

/**
 * Runs `work` and resolves to its result, or rejects if `work` leaves behind a file descriptor, shared memory of slotbus, a
 * file in the runtime directory, or a child process. Nothing else in this process may open or close such things meanwhile.
 *
 *     await assertNoLeaks(async () => {
 *       await using test = await TestBus.create();
 *     });
 *
 * @throws (rejects) {@link LeakError}; the error of `work`.
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

/** Lists everything that could leak, by a key that is not reused. */
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

/** Descriptors that the runtime opens on first use and keeps. */
const OF_RUNTIME =
  /^(anon_inode:\[(eventpoll|eventfd|timerfd|io_uring|inotify)\]|anon_inode:inotify|\/dev\/(?!shm\/)|\/proc\/)/;

/** Returns the result of `read`, or `otherwise` if it throws because the thing does not exist. */
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
