/** `Pool`: calls of functions that run in other processes. */

import { dirname, extname, join } from "node:path";
import type { RequestOptions } from "../bus/call.ts";
import { noOptions } from "../bus/dispatcher.ts";
import { shown } from "../check.ts";
import { startTimer, systemClock } from "../clock.ts";
import { Closing } from "../closing.ts";
import { findEmbedded } from "../compiled.ts";
import { InvalidConfigError, RequestTimeoutError, UnsupportedError } from "../errors.ts";
import { SlotBus } from "../slotbus.ts";
import type { SupervisorEvents } from "../supervisor/events.ts";
import { decodeValues, encodeValues } from "./clone.ts";
import { errorOf, type Failure } from "./failure.ts";
import { decodeItems } from "./items.ts";
import { type PoolOptions, type ResolvedPoolOptions, resolvePoolOptions } from "./options.ts";
import { type Assignment, BUN_VERSION, POOL_VARIABLE } from "./serve.ts";

/** A module without types: any name, any arguments. */
// oxlint-disable-next-line no-explicit-any -- what `run` of an untyped pool takes and returns
export type AnyModule = Record<string, (...args: any[]) => any>;

type Callable = (...args: never[]) => unknown;
type ResultOf<F> = F extends (...args: never[]) => infer R ? Awaited<R> : never;
/** Whether a result streams; `boolean` for `any`. */
type IsStream<R> = 0 extends 1 & R
  ? boolean
  : [R] extends [never]
    ? false
    : R extends AsyncIterable<unknown> | Iterator<unknown>
      ? true
      : false;
type NamesOf<M, Streams extends boolean> = {
  [K in keyof M & string]: M[K] extends Callable ? (Streams extends IsStream<ResultOf<M[K]>> ? K : never) : never;
}[keyof M & string];
type ArgumentsOf<F> = F extends (...args: infer A) => unknown ? Readonly<A> : never;
type Item<R> = 0 extends 1 & R ? R : R extends AsyncIterable<infer T> ? T : R extends Iterator<infer T> ? T : never;
type ItemOf<F> = Item<ResultOf<F>>;

/** Names of the functions of a module that return a value. */
export type RunName<M> = NamesOf<M, false>;
/** Names of the functions of a module that return a stream: generators, async generators, `ReadableStream`. */
export type StreamName<M> = NamesOf<M, true>;

/** Number and size of the memory that is kept for the arguments of later calls, in bytes. */
const SPARES = 4;
const SPARE_LEAST = 65_536;
const SPARE_MOST = 4 * 1_048_576;

/** Options of a task. */
export interface RunOptions extends Pick<RequestOptions, "timeout" | "signal" | "idempotent"> {}

/** Events of a pool, with the arguments of their listeners. */
export interface PoolEvents extends Pick<SupervisorEvents, "joined" | "left" | "died" | "log" | "paused" | "resumed"> {}

/** Result of `Pool.stats`. Counters start at 0 when the pool starts. */
export interface PoolStats {
  /** The processes that are ready, and the number of tasks that each of them runs. */
  processes: { pid: number; running: number }[];
  /** Tasks that run now, including those whose caller has given up. */
  running: number;
  /** Tasks that wait for a process. */
  queued: number;
  /** Tasks that returned a result, and streams that were opened. */
  completed: number;
  /** Tasks that failed, timed out or were aborted. */
  failed: number;
  /** Processes killed because a task did not end within `kill` ms. */
  killed: number;
  /** Processes restarted after they ended, including killed ones. */
  restarted: number;
  /** Time from the start of a task to its result, in ms, of successful and failed tasks; 0 without samples. */
  taskMs: { p50: number; p99: number };
}

/**
 * Runs the exported functions of a module in processes. `M` is the type of the module.
 *
 *     await using pool = await Pool.start<typeof import("./work.ts")>({ module: new URL("./work.ts", import.meta.url) });
 *     const image = await pool.run("resize", [buffer, { width: 200 }], { timeout: 5_000 });
 */
export class Pool<M = AnyModule> extends Closing<PoolEvents> {
  readonly #options: ResolvedPoolOptions;
  readonly #bus: SlotBus;
  #serial = 0;
  #completed = 0;
  #failed = 0;
  #killed = 0;
  /** Memory of the arguments of earlier calls. */
  readonly #spare: ArrayBuffer[] = [];
  /** Timer of {@link #killLate}. */
  #timer: { close(): unknown } | null = null;

  /**
   * Starts `min` processes, and resolves when they have loaded the module.
   *
   * @throws (rejects) {InvalidConfigError}; {WorkerStartError} if a process ends while it loads the module; `PERMISSION_DENIED`;
   * `RESOURCE`. A module that throws while it loads fails the calls instead, with `MODULE_FAILED`.
   */
  static async start<M = AnyModule>(options: PoolOptions): Promise<Pool<M>> {
    const resolved = resolvePoolOptions(options);
    const { module, concurrency, name, directory, payloadBytes, timeout, queue } = resolved;
    const { min, max, idle, recycle, startupTimeout, cwd, env } = resolved;
    const assignment: Assignment = { module: module.href, concurrency, bun: BUN_VERSION };
    const bus = await SlotBus.create({
      name,
      directory,
      payloadBytes,
      timeout,
      queue,
      slots: concurrency,
      workers: {
        entry: findProgram(),
        min,
        max: max ?? undefined,
        idle,
        recycle,
        startupTimeout,
        cwd,
        env: { ...env, [POOL_VARIABLE]: JSON.stringify(assignment) },
        restart: { counts: "starts", healthyAfter: 1, backoff: { initial: 10, max: 10_000 } },
        unresponsive: Infinity, // a task may block its event loop
        watch: false,
        stderr: "log",
      },
    });
    return new Pool<M>(resolved, bus);
  }

  private constructor(options: ResolvedPoolOptions, bus: SlotBus) {
    super();
    this.#options = options;
    this.#bus = bus;
    const supervisor = bus.supervisor!;
    for (const event of ["joined", "left", "died", "resumed"] as const)
      supervisor.on(event, (...args: unknown[]) => void this.emit(event, ...(args as never)));
    supervisor.on("log", (worker, line) => {
      if (!this.emit("log", worker, line)) process.stderr.write(`${line}\n`);
    });
    supervisor.on("paused", (error) => {
      if (!this.emit("paused", error)) process.emitWarning(error.message, { type: "SlotbusWarning" });
    });
  }

  get name(): string {
    return this.#options.name;
  }

  /**
   * Runs a function in a process of the pool and resolves to its result. A task whose process ended before the function started
   * runs in another process.
   *
   * @throws (rejects) {RemoteError}: the function threw, and `cause` is its error; {WorkerDiedError}: its process ended;
   * {RequestTimeoutError}; `signal.reason`; `NOT_CLONEABLE`; `UNKNOWN_FUNCTION`; `MODULE_FAILED`; {PayloadTooLargeError};
   * {BusOverloadedError}; {NoWorkerError}: no process starts; {ClosedError}; {InvalidConfigError}.
   */
  async run<K extends RunName<M>>(
    name: K,
    args: ArgumentsOf<M[K]>,
    options: RunOptions = noOptions,
  ): Promise<ResultOf<M[K]>> {
    try {
      const body = this.#encode(name, args);
      using response = await this.#bus.borrow({ path: name, query: "run", body, id: this.#idOf(name) }, options);
      const [value] = decodeValues(response.body, true);
      if (response.status !== 200) throw errorOf(value as Failure);
      this.#completed++;
      this.#spared(body.buffer as ArrayBuffer);
      return value as ResultOf<M[K]>;
    } catch (error) {
      this.#failed++;
      if (options.signal?.aborted || error instanceof RequestTimeoutError) this.#killLate(this.#options.kill);
      throw error;
    }
  }

  /**
   * Runs a generator in a process of the pool and returns its items as they arrive. The generator stops while the reader is slow,
   * and is closed when the reader leaves the loop. `timeout` ends when the stream starts. Rejects as {@link run} does.
   *
   *     for await (const row of pool.stream("parse", [path])) …
   */
  stream<K extends StreamName<M>>(
    name: K,
    args: ArgumentsOf<M[K]>,
    options: RunOptions = noOptions,
  ): AsyncGenerator<ItemOf<M[K]>, void> {
    const body = this.#encode(name, args);
    return this.#stream(name, body, options) as AsyncGenerator<ItemOf<M[K]>, void>;
  }

  async *#stream(name: string, body: Uint8Array, options: RunOptions): AsyncGenerator<unknown, void> {
    const { payloadBytes } = this.#options;
    let isOpen = true;
    try {
      const response = await this.#bus.stream({ path: name, query: "stream", body, id: this.#idOf(name) }, options);
      if (response.status !== 200) throw errorOf(decodeValues(await response.bytes(payloadBytes))[0] as Failure);
      this.#completed++;
      yield* decodeItems(response.chunks(), payloadBytes);
      isOpen = false;
    } catch (error) {
      this.#failed++;
      throw error;
    } finally {
      if (isOpen) this.#killLate(this.#options.kill);
    }
  }

  /** @throws {InvalidConfigError}, `NOT_CLONEABLE` */
  #encode(name: string, args: readonly unknown[]): Uint8Array {
    if (typeof name !== "string")
      throw new InvalidConfigError(`The name of a function is ${shown(name)}; it must be text.`);
    if (!Array.isArray(args)) {
      const hint = `Pass an array: pool.run("${name}", [argument]).`;
      throw new InvalidConfigError(`The arguments of ${name} are ${shown(args)}; they must be an array.`, { hint });
    }
    return encodeValues(args, (index) => `Argument ${index + 1} of ${name}`, this.#reserve);
  }

  /** Returns memory for arguments. Memory of earlier calls is mapped already, which makes copies faster. */
  readonly #reserve = (bytes: number): Uint8Array => {
    const at = bytes < SPARE_LEAST ? -1 : this.#spare.findIndex(({ byteLength }) => byteLength >= bytes);
    return at < 0 ? Buffer.allocUnsafe(bytes) : new Uint8Array(this.#spare.splice(at, 1)[0]!, 0, bytes);
  };

  /** Keeps the memory of a call that is over. */
  #spared(memory: ArrayBuffer): void {
    const { byteLength: bytes } = memory;
    if (bytes >= SPARE_LEAST && bytes <= SPARE_MOST && this.#spare.length < SPARES) this.#spare.push(memory);
  }

  #idOf(name: string): string {
    return `${name}#${++this.#serial}`;
  }

  /** Kills the processes of tasks that do not end within `kill` ms after their callers gave up. */
  #killLate(after: number): void {
    const { kill } = this.#options;
    if (kill === Infinity || this.#timer) return;
    this.#timer = startTimer(systemClock, after + 1, () => {
      this.#timer = null;
      const given = this.#bus.diagnostics().slots.filter(({ state }) => state === "ABANDONED");
      const late = given.filter(({ ageMs }) => ageMs >= kill);
      for (const pid of new Set(late.map(({ workerPid }) => workerPid)))
        if (this.#bus.supervisor!.kill(pid)) this.#killed++;
      const ages = given.filter((one) => !late.includes(one)).map(({ ageMs }) => ageMs);
      if (ages.length > 0) this.#killLate(kill - Math.max(...ages));
    });
  }

  /** Returns the processes, the numbers of tasks, and percentiles of their time; after `close`, the final values. */
  stats(): PoolStats {
    const { workers, queued, inFlight, workersRestarted, roundTripUs } = this.#bus.stats();
    return {
      processes: workers.map(({ pid, inFlight: running }) => ({ pid, running })),
      running: inFlight,
      queued,
      completed: this.#completed,
      failed: this.#failed,
      killed: this.#killed,
      restarted: workersRestarted,
      taskMs: { p50: roundTripUs.p50 / 1_000, p99: roundTripUs.p99 / 1_000 },
    };
  }

  protected finish(timeout: number): Promise<void> {
    return this.#bus.drain({ timeout });
  }

  /** Rejects the remaining tasks with {@link ClosedError} and stops the processes. */
  protected async end(): Promise<void> {
    this.#timer?.close();
    await this.#bus.close({ timeout: 0 });
  }
}

/** Returns the program of the processes. */
function findProgram(): string {
  const hint = "Run the program with `bun` and the package slotbus beside it, not bundled into it.";
  if (findEmbedded) throw new UnsupportedError("A compiled program cannot start a pool.", { hint });
  try {
    const entry = Bun.fileURLToPath(import.meta.resolve("slotbus/pool"));
    return join(dirname(entry), `worker${extname(entry)}`);
  } catch (cause) {
    throw new UnsupportedError("Cannot find the package slotbus, whose program a pool's processes run.", {
      hint,
      cause,
    });
  }
}
