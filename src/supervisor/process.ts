/** One process of a worker: start, standard error, signals to its process group, and its end in steps. */

import { closeSync, readFileSync, statSync, writeSync } from "node:fs";
import { constants } from "node:os";
import { resolve } from "node:path";
import type { SocketHandler, UnixSocketOptions } from "bun";
import { type Clock, startTimer } from "../clock.ts";
import { type SlotbusError, type ExitReport, InvalidConfigError, WorkerStartError } from "../errors.ts";
import { findLauncher } from "../native/find.ts";
import type { ResolvedPool, Steps } from "./options.ts";
import { StderrTail } from "./stderr.ts";
import { programNotFound } from "../errors/plain.ts";

/** How a supervisor connects to a worker process. */
export interface Transport<Connection extends WorkerLink> {
  /** Standard input of the process. */
  readonly stdin: "pipe" | "ignore";
  /** Standard output of the process. */
  readonly stdout: "pipe" | "ignore" | "inherit";
  /** What a program must do to become ready. Used as the hint of the error if it does not. */
  readonly readiness?: string | undefined;
  /**
   * Resolves to the connection when the worker is ready. A rejection ends the process. `signal` is aborted when the startup
   * time is over, the process ends or the pool stops; if `open` still resolves after that, only `ended` is called on the
   * connection.
   */
  open(process: WorkerProcess, signal: AbortSignal): Promise<Connection>;
}

/** The connection to a worker that is ready. */
export interface WorkerLink {
  /** Number of open requests. */
  readonly inFlight: number;
  /** Takes no new requests, and resolves when running ones are answered. May be called more than once. */
  drain(): Promise<void>;
  /** Called when the process has ended. Must read the rest of standard output, then reject open requests. */
  ended(report: ExitReport): void;
}

/** The process of a worker. */
export interface WorkerProcess {
  /** Index of the worker in its pool. */
  readonly id: number;
  /** Number of the worker's process: 1 for the first, 2 for the next, … */
  readonly life: number;
  /** Process id of the program, which is also the id of its process group. */
  readonly pid: number;
  /** Standard input, which the supervisor ends to stop the worker. `null` unless the transport has `stdin: "pipe"`. */
  readonly stdin: Bun.FileSink | null;
  /** Standard output, which the supervisor never reads. `null` unless the transport has `stdout: "pipe"`. */
  readonly stdout: ReadableStream<Uint8Array> | null;
  /** Resolves when the process and its whole group have ended. Never rejects. */
  readonly exited: Promise<ExitReport>;
  /** The last 64 KiB of standard error. */
  readonly stderrTail: string;
  /** Sends a signal (default SIGTERM) to the process group. Does nothing after its end. */
  kill(signal?: NodeJS.Signals): void;
  /** Counts an answered request for `recycle.maxRequests`. */
  served(): void;
  /** Replaces the worker: starts a new process, then drains and stops this one. */
  recycle(): void;
}

/** Time to wait after SIGKILL, in ms. A process that takes longer hangs in the kernel. */
const KILL_MS = 5_000;
/** Time to read standard error after the end, in ms: a process that left the group may hold it open. */
const STDERR_MS = 200;

/** Path of the launcher; `null`: not found; `undefined`: not searched yet. */
let launcher: string | null | undefined;

/** Returns the path of the launcher; `null`, with a warning the first time, if it is not found. */
function useLauncher(): string | null {
  if (launcher !== undefined) return launcher;
  launcher = findLauncher();
  if (launcher === null) {
    const effect = "workers that ignore the end of their input outlive a host that is killed";
    process.emitWarning(`Cannot find slotbus-launcher: ${effect}.`, { type: "SlotbusWarning" });
  }
  return launcher;
}

/**
 * Returns the path of the program of a pool.
 *
 * @throws {InvalidConfigError} if its working directory does not exist; `PROGRAM_NOT_FOUND`.
 */
export function findProgram(pool: ResolvedPool): string {
  if (!statSync(pool.cwd, { throwIfNoEntry: false })?.isDirectory()) {
    throw new InvalidConfigError(`cwd is ${JSON.stringify(pool.cwd)}; it must be a directory that exists.`);
  }
  const PATH = "PATH" in pool.env ? (pool.env["PATH"] ?? "") : (process.env["PATH"] ?? "");
  const isPath = pool.command.includes("/");
  const found = Bun.which(isPath ? resolve(pool.cwd, pool.command) : pool.command, { PATH, cwd: pool.cwd });
  if (found) return resolve(pool.cwd, found);
  const where = isPath
    ? `there is no such executable file in ${pool.cwd}`
    : `it is not in PATH (${JSON.stringify(PATH)})`;
  throw programNotFound(pool.name, pool.command, where);
}

/** @internal The owner of a {@link Process}. */
export interface ProcessOwner {
  readonly pool: ResolvedPool;
  readonly clock: Clock;
  log(worker: { id: number; pid: number }, line: string): void;
  recycle(): void;
}

type Child = Bun.Subprocess<"pipe" | "ignore", "pipe" | "ignore" | "inherit", "pipe" | "inherit">;

/** @internal A {@link WorkerProcess} with the methods for its supervisor. */
export class Process implements WorkerProcess {
  readonly id: number;
  readonly life: number;
  readonly stdin: Bun.FileSink | null;
  readonly stdout: ReadableStream<Uint8Array> | null;
  readonly exited: Promise<ExitReport>;
  /** Resolves when the program runs. Rejects with `PROGRAM_NOT_FOUND` or {@link WorkerStartError}. */
  readonly started: Promise<void>;
  readonly #startedAt: number;
  readonly #oomKills = readOomKills();
  #requests = 0;
  readonly #owner: ProcessOwner;
  readonly #child: Child;
  readonly #stderr: StderrTail | null;
  /** Socket to the launcher: it forwards signals, and its end tells the launcher that this process has ended. */
  #lifeline = -1;
  #pid = 0;
  #how: ExitReport["how"] = "itself";
  /** Whether the process has ended, so that its id may be reused. */
  #isGone = false;
  /** Whether its report is complete. */
  #ended = false;

  /** @throws `PROGRAM_NOT_FOUND`, {@link WorkerStartError}. */
  constructor(
    owner: ProcessOwner,
    program: string,
    id: number,
    life: number,
    io: Pick<Transport<WorkerLink>, "stdin" | "stdout">,
  ) {
    const { pool, clock } = owner;
    this.#owner = owner;
    this.#startedAt = clock.now();
    this.id = id;
    this.life = life;
    const through = useLauncher();
    const identity = pool.uid === null ? {} : { uid: pool.uid, gid: pool.gid! };
    try {
      this.#child = Bun.spawn([...(through === null ? [] : [through]), program, ...pool.args], {
        ...identity,
        cwd: pool.cwd,
        env: { ...process.env, ...pool.env },
        detached: true, // in its own process group
        stdio: [
          io.stdin,
          io.stdout,
          pool.stderr === "log" ? "pipe" : "inherit",
          ...(through === null ? [] : (["socket-fd", "socket-fd"] as const)),
        ],
      }) as Child;
    } catch (cause) {
      const { code = "", message } = cause as { code?: string; message: string };
      if (through === null) throw startError(pool, id, code, cause);
      throw new WorkerStartError(pool.name, id, `could not be started by ${through}: ${message}`, null, { cause });
    }
    this.#child.unref(); // before its pipes are first read, or Bun keeps them referenced
    this.stdin = (this.#child.stdin as Bun.FileSink | undefined) ?? null;
    this.stdout = (this.#child.stdout as ReadableStream<Uint8Array> | undefined) ?? null;
    if (through === null) {
      this.#pid = this.#child.pid;
      this.started = Promise.resolve();
    } else {
      const [, , , lifeline, status] = this.#child.stdio as unknown as [null, null, null, number, number];
      this.#lifeline = lifeline;
      this.started = readStatus(status).then((text) => this.#launched(text));
    }
    const begun = this.started.catch(() => {}); // before that, a line would have no process id
    const { stderr } = this.#child;
    this.#stderr = stderr
      ? new StderrTail(stderr, clock, begun, (line) => owner.log({ id, pid: this.pid }, line))
      : null;
    this.exited = this.#watch();
  }

  get pid(): number {
    return this.#pid;
  }

  get stderrTail(): string {
    return this.#stderr?.text ?? "";
  }

  kill(signal: NodeJS.Signals = "SIGTERM"): void {
    if (this.#ended) return;
    if (signal === "SIGTERM" || signal === "SIGKILL") this.#advance(signal);
    this.#signal(signal);
  }

  served(): void {
    if (++this.#requests >= this.#owner.pool.recycle.maxRequests) this.recycle();
  }

  recycle(): void {
    this.#owner.recycle();
  }

  /**
   * Ends the process in steps: `drain`, end of input, SIGTERM, SIGKILL. The next step follows if the process has not ended in time. Always resolves to a report. When called again, both calls run and the faster one ends the process.
   */
  async end(steps: Steps, drain: (() => Promise<void>) | null): Promise<ExitReport> {
    if (drain) await this.#step("drain", steps.drain, drain);
    if (this.stdin) await this.#step("end of input", steps.endOfInput, () => this.#endInput());
    await this.#step("SIGTERM", steps.term, () => this.#signal("SIGTERM"));
    await this.#step("SIGKILL", KILL_MS, () => this.#signal("SIGKILL"));
    // Even if the launcher hangs, it ends, and the program with it.
    await this.#step("SIGKILL", STDERR_MS, () => this.#child.kill("SIGKILL"));
    return this.#ended ? this.exited : { ...this.#report(), how: "nothing" };
  }

  /** Records a step, unless a later one has begun. */
  #advance(how: ExitReport["how"]): void {
    const order: ExitReport["how"][] = ["itself", "drain", "end of input", "SIGTERM", "SIGKILL"];
    if (order.indexOf(how) > order.indexOf(this.#how)) this.#how = how;
  }

  /** Runs a step. Resolves when the process has ended, when the promise of `act` has settled, or after `ms`. */
  async #step(how: ExitReport["how"], ms: number, act: () => Promise<void> | void): Promise<void> {
    if (this.#ended) return;
    this.#advance(how);
    const { promise, resolve: goOn } = Promise.withResolvers<unknown>();
    act()?.then(goOn, goOn); // also after a drain that fails
    void this.exited.then(goOn);
    if (ms === 0) goOn(null);
    const timer = startTimer(this.#owner.clock, ms, () => goOn(null));
    await promise;
    timer.close();
  }

  #endInput(): void {
    try {
      const end = this.stdin?.end();
      if (end instanceof Promise) end.catch(() => {}); // the worker no longer reads
    } catch {
      // the worker has closed its input
    }
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#isGone) return;
    try {
      if (this.#lifeline >= 0) writeSync(this.#lifeline, Uint8Array.of(constants.signals[signal]));
      else if (this.#pid > 0) process.kill(-this.#pid, signal);
    } catch {
      // the process has just ended
    }
  }

  #launched(text: string): void {
    const [word, value = ""] = text.trim().split(" ");
    if (word === "pid") {
      this.#pid = Number(value);
      return;
    }
    const [code = ""] = systemErrors().get(-Number(value)) ?? [];
    throw startError(this.#owner.pool, this.id, word === "error" ? code : "", undefined);
  }

  async #watch(): Promise<ExitReport> {
    await this.#child.exited;
    if (this.#lifeline < 0) this.#signal("SIGKILL"); // ends the rest of its group
    this.#isGone = true;
    if (this.#lifeline >= 0) closeSync(this.#lifeline);
    this.#endInput();
    await this.#stderr?.finish(STDERR_MS);
    this.#ended = true;
    return this.#report();
  }

  #report(): ExitReport {
    const { exitCode, signalCode } = this.#child;
    return {
      worker: this.id,
      life: this.life,
      pid: this.#pid,
      exitCode: signalCode === null ? exitCode : null,
      signal: signalCode === null ? null : String(signalCode),
      uptimeMs: this.#owner.clock.now() - this.#startedAt,
      oomKills: oomKillsSince(this.#oomKills),
      how: this.#how,
      stderrTail: this.stderrTail,
    };
  }
}

/** Returns the number of processes of this cgroup that the OOM killer has ended; `null` if unknown. */
function readOomKills(): number | null {
  try {
    const groups = readFileSync("/proc/self/cgroup", "utf8");
    const [, first] = /^\d+:memory:(.*)$/m.exec(groups) ?? [];
    const [, second = ""] = /^0::(.*)$/m.exec(groups) ?? [];
    const file = first === undefined ? `${second}/memory.events` : `/memory${first}/memory.oom_control`;
    const count = /^oom_kill (\d+)$/m.exec(readFileSync(`/sys/fs/cgroup${file}`, "utf8"));
    return count && Number(count[1]);
  } catch {
    return null; // no cgroups, or not readable
  }
}

function oomKillsSince(before: number | null): number | null {
  const now = before === null ? null : readOomKills();
  return now === null ? null : Math.max(0, now - before!);
}

/** Returns name and text of each system error, by its negative number. */
function systemErrors(): Map<number, [name: string, text: string]> {
  return process.getBuiltinModule("node:util").getSystemErrorMap(); // loaded late, as it takes 0.6 ms
}

function startError(pool: ResolvedPool, id: number, code: string, cause: unknown): SlotbusError | WorkerStartError {
  const [, text = "the launcher ended"] = [...systemErrors().values()].find(([name]) => name === code) ?? [];
  if (code === "ENOENT" || code === "ENOTDIR") {
    return programNotFound(
      pool.name,
      pool.command,
      "the file, or the interpreter in its first line, does not exist",
      cause,
    );
  }
  if (code === "EACCES") return programNotFound(pool.name, pool.command, "the file is not executable", cause);
  return new WorkerStartError(pool.name, id, `could not be started: ${text}${code && ` (${code})`}`, null, { cause });
}

/** Resolves to the launcher's message when the program runs: `pid 1234`, or `error 2` with the number of a system error. */
function readStatus(fd: number): Promise<string> {
  const { promise, resolve: done } = Promise.withResolvers<string>();
  let text = "";
  const socket: SocketHandler<undefined> = {
    data: (_, bytes) => {
      text += bytes.toString("latin1");
    },
    close: () => done(text),
    error: () => {},
  };
  // Bun takes over a connected descriptor and closes it, but its types only have addresses.
  Bun.connect({ fd, socket } as unknown as UnixSocketOptions<undefined>).catch(() => {
    closeSync(fd);
    done("");
  });
  return promise;
}
