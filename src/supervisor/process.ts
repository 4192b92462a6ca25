/** One process of a worker: its start, its standard error, signals to its whole group, and its end in steps. */

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

/** How the supervisor connects a worker process: given by who talks to it. */
export interface Transport<Connection extends WorkerLink> {
  /** What the process gets as standard input. */
  readonly stdin: "pipe" | "ignore";
  readonly stdout: "pipe" | "ignore" | "inherit";
  /** What a program does to get ready, as a sentence: the hint of the error of one that did not. */
  readonly readiness?: string | undefined;
  /**
   * Resolves to the connection when the worker is ready. `signal` aborts when its startup time is over, its process ends or the pool
   * stops: then the result is not used, and whatever it resolves to later is told `ended`. A rejection ends the process.
   */
  open(process: WorkerProcess, signal: AbortSignal): Promise<Connection>;
}

/** The connection to one worker that is ready. */
export interface WorkerLink {
  /** Requests that it has. */
  readonly inFlight: number;
  /** Takes nothing new; resolves when what runs is answered. May be called more than once. */
  drain(): Promise<void>;
  /** The process has ended: fails what is open. Standard output may have bytes that were not read yet: they come first. */
  ended(report: ExitReport): void;
}

/** The process of a worker. */
export interface WorkerProcess {
  /** Index of the worker in its pool. */
  readonly id: number;
  /** 1 for the worker's first process, 2 for the next, … */
  readonly life: number;
  /** Of the program itself, which leads a process group of its own. */
  readonly pid: number;
  /** The supervisor ends it when the worker is to stop. `null` unless the transport has `stdin: "pipe"`. */
  readonly stdin: Bun.FileSink | null;
  /** `null` unless the transport has `stdout: "pipe"`. The supervisor never reads it. */
  readonly stdout: ReadableStream<Uint8Array> | null;
  /** Resolves when it has ended, and all that was in its group. Never rejects. */
  readonly exited: Promise<ExitReport>;
  /** The last 64 KiB of standard error. */
  readonly stderrTail: string;
  /** Sends a signal to its group; default SIGTERM. Nothing happens when it has ended. */
  kill(signal?: NodeJS.Signals): void;
  /** The worker answered a request: it counts for `recycle.maxRequests`. */
  served(): void;
  /** The worker is to be replaced, as by its age: a new one is started, then this one drained and stopped. */
  recycle(): void;
}

/** How long SIGKILL may take, in ms; beyond it the process hangs in the kernel. */
const KILL_MS = 5_000;
/** How long standard error is read after the end, in ms: a process that left the group may hold it open. */
const STDERR_MS = 200;

/** `undefined`: nobody has looked for it yet. */
let launcher: string | null | undefined;

/** Path of the launcher; `null`, and a warning the first time, where there is none. */
function useLauncher(): string | null {
  if (launcher !== undefined) return launcher;
  launcher = findLauncher();
  if (launcher === null) {
    const effect = "workers that ignore the end of their input outlive a host that is killed";
    process.emitWarning(`there is no slotbus-launcher here: ${effect}.`, { type: "SlotbusWarning" });
  }
  return launcher;
}

/**
 * Path of the program of a pool.
 *
 * @throws {InvalidConfigError} without its working directory, `PROGRAM_NOT_FOUND`.
 */
export function findProgram(pool: ResolvedPool): string {
  if (!statSync(pool.cwd, { throwIfNoEntry: false })?.isDirectory()) {
    throw new InvalidConfigError(`cwd is ${JSON.stringify(pool.cwd)}; there is no such directory.`);
  }
  const PATH = "PATH" in pool.env ? (pool.env["PATH"] ?? "") : (process.env["PATH"] ?? "");
  const isPath = pool.command.includes("/");
  const found = Bun.which(isPath ? resolve(pool.cwd, pool.command) : pool.command, { PATH, cwd: pool.cwd });
  if (found) return resolve(pool.cwd, found);
  const where = isPath ? `seen from ${pool.cwd}` : `PATH is ${JSON.stringify(PATH)}`;
  throw programNotFound(pool.name, pool.command, where);
}

/** @internal What a {@link Process} asks and tells its owner. */
export interface ProcessOwner {
  readonly pool: ResolvedPool;
  readonly clock: Clock;
  log(worker: { id: number; pid: number }, line: string): void;
  recycle(): void;
}

type Child = Bun.Subprocess<"pipe" | "ignore", "pipe" | "ignore" | "inherit", "pipe" | "inherit">;

/** @internal A {@link WorkerProcess}, as its supervisor has it. */
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
  /** Socket whose other end the launcher has: it takes signals, and its end tells the launcher that we are gone. */
  #lifeline = -1;
  #pid = 0;
  #how: ExitReport["how"] = "itself";
  /** Its number may be another's from now on. */
  #isGone = false;
  /** Its report is complete. */
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
        detached: true, // a group of its own
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
    this.#child.unref(); // before its pipes are asked for: Bun would not unref those any more
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
    const begun = this.started.catch(() => {}); // a line that comes earlier has no process id yet
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
   * Ends it: `drain`, the end of its input, SIGTERM, SIGKILL, each when the step before did not do within its time. Resolves
   * to the report always. Called again, the faster of both goes first.
   */
  async end(steps: Steps, drain: (() => Promise<void>) | null): Promise<ExitReport> {
    if (drain) await this.#step("drain", steps.drain, drain);
    if (this.stdin) await this.#step("end of input", steps.endOfInput, () => this.#endInput());
    await this.#step("SIGTERM", steps.term, () => this.#signal("SIGTERM"));
    await this.#step("SIGKILL", KILL_MS, () => this.#signal("SIGKILL"));
    // Whatever holds up the launcher, it ends; and the program with it.
    await this.#step("SIGKILL", STDERR_MS, () => this.#child.kill("SIGKILL"));
    return this.#ended ? this.exited : { ...this.#report(), how: "nothing" };
  }

  /** A step counts only when a later one has not begun. */
  #advance(how: ExitReport["how"]): void {
    const order: ExitReport["how"][] = ["itself", "drain", "end of input", "SIGTERM", "SIGKILL"];
    if (order.indexOf(how) > order.indexOf(this.#how)) this.#how = how;
  }

  /** Takes a step of the end. Resolves when the process has ended, when what `act` began has settled, or after `ms`. */
  async #step(how: ExitReport["how"], ms: number, act: () => Promise<void> | void): Promise<void> {
    if (this.#ended) return;
    this.#advance(how);
    const { promise, resolve: goOn } = Promise.withResolvers<unknown>();
    act()?.then(goOn, goOn); // a drain that fails: then the next step is due
    void this.exited.then(goOn);
    if (ms === 0) goOn(null);
    const timer = startTimer(this.#owner.clock, ms, () => goOn(null));
    await promise;
    timer.close();
  }

  #endInput(): void {
    try {
      const end = this.stdin?.end();
      if (end instanceof Promise) end.catch(() => {}); // it reads no more
    } catch {
      // it has closed its input
    }
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#isGone) return;
    try {
      if (this.#lifeline >= 0) writeSync(this.#lifeline, Uint8Array.of(constants.signals[signal]));
      else if (this.#pid > 0) process.kill(-this.#pid, signal);
    } catch {
      // it has ended a moment ago
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
    if (this.#lifeline < 0) this.#signal("SIGKILL"); // what it left in its group
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

/** Processes of this cgroup that the kernel has ended for lack of memory; `null` where it does not say. */
function readOomKills(): number | null {
  try {
    const groups = readFileSync("/proc/self/cgroup", "utf8");
    const [, first] = /^\d+:memory:(.*)$/m.exec(groups) ?? [];
    const [, second = ""] = /^0::(.*)$/m.exec(groups) ?? [];
    const file = first === undefined ? `${second}/memory.events` : `/memory${first}/memory.oom_control`;
    const count = /^oom_kill (\d+)$/m.exec(readFileSync(`/sys/fs/cgroup${file}`, "utf8"));
    return count && Number(count[1]);
  } catch {
    return null; // no cgroups here, or none that we may read
  }
}

function oomKillsSince(before: number | null): number | null {
  const now = before === null ? null : readOomKills();
  return now === null ? null : Math.max(0, now - before!);
}

/** Name and text of each error of the system, by its number below zero. */
function systemErrors(): Map<number, [name: string, text: string]> {
  return process.getBuiltinModule("node:util").getSystemErrorMap(); // here only: it takes 0.6 ms to load
}

function startError(pool: ResolvedPool, id: number, code: string, cause: unknown): SlotbusError | WorkerStartError {
  const [, text = "the launcher ended"] = [...systemErrors().values()].find(([name]) => name === code) ?? [];
  if (code === "ENOENT" || code === "ENOTDIR") {
    return programNotFound(pool.name, pool.command, "it, or the interpreter that it names, is missing", cause);
  }
  if (code === "EACCES") return programNotFound(pool.name, pool.command, "it may not be executed", cause);
  return new WorkerStartError(pool.name, id, `could not be started: ${text}${code && ` (${code})`}`, null, { cause });
}

/** What the launcher says, as soon as the program runs: `pid 1234`, or `error 2` with the number of the system's error. */
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
  // Bun adopts a connected descriptor, and closes it; its types know only addresses.
  Bun.connect({ fd, socket } as unknown as UnixSocketOptions<undefined>).catch(() => {
    closeSync(fd);
    done("");
  });
  return promise;
}
