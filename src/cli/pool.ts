/** Processes that a command starts, keeps running and replaces: the common part of `slotbus run` and `slotbus hub --processes`. */

import type { WorkerFailedError } from "../errors.ts";
import { closeDirectory, openDirectory, sweepName } from "../native/directory.ts";
import { Door } from "../native/door.ts";
import { notifyManager } from "../native/notify.ts";
import type { WorkerLink, WorkerProcess } from "../supervisor/process.ts";
import type { Supervisor } from "../supervisor/supervisor.ts";
import type { Log } from "./log.ts";
import { CommandError, EXIT } from "./usage.ts";

/** Receives the reports of workers that they are ready. */
export class Reports implements Disposable {
  readonly #dir: number;
  readonly #door: Door;
  readonly path: string;
  /** Process ids of workers that have reported and for which nobody waited. */
  readonly #early = new Set<number>();
  readonly #waiting = new Map<number, () => void>();

  constructor(directory: string) {
    this.#dir = openDirectory(directory, { create: true })!;
    sweepName(this.#dir, "run", true); // what killed commands left
    const door = Door.open(this.#dir, "run", false);
    if (door === null) throw new CommandError(`The directory ${directory} belongs to another user.`);
    this.#door = door;
    this.path = door.pathIn(directory);
    door.watch((bytes) => {
      for (const [, pid] of Buffer.from(bytes)
        .toString("latin1")
        .matchAll(/(\d+)\n/g))
        this.#came(Number(pid));
    });
  }

  #came(pid: number): void {
    const wake = this.#waiting.get(pid);
    if (wake) wake();
    else this.#early.add(pid);
  }

  /** Resolves when the process reports. Never rejects: the supervisor limits the time. */
  of({ pid, exited }: WorkerProcess): Promise<void> {
    const { promise, resolve: wake } = Promise.withResolvers<void>();
    this.#waiting.set(pid, wake);
    if (this.#early.delete(pid)) wake();
    void exited.then(() => this.#waiting.get(pid) === wake && this.#waiting.delete(pid));
    return promise;
  }

  [Symbol.dispose](): void {
    this.#door.close();
    closeDirectory(this.#dir);
  }
}

/** A worker drains when it gets SIGTERM: only it knows all its clients. */
export const link: WorkerLink = { inFlight: 0, drain: async () => {}, ended: () => {} };

/**
 * Resolves to the signal that ends the command, or to the error of the last worker when all have ended too often. After that, the
 * next signal ends it at once.
 */
export function untilEnd(supervisor: Supervisor, watches: boolean): Promise<string | WorkerFailedError> {
  const { promise, resolve: end } = Promise.withResolvers<string | WorkerFailedError>();
  let isEnding = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (isEnding) process.exit(EXIT.failed);
      isEnding = true;
      end(signal);
    });
  }
  supervisor.on("state", () => {
    if (supervisor.isDown && !watches) end(supervisor.pausedFor!);
  });
  return promise;
}

/** Replaces one worker after another. If a new one does not become ready, the remaining old workers stay. */
export async function replace(log: Log, supervisor: Supervisor, instances: number, why: string): Promise<void> {
  log.write("info", "replacing", { why });
  notifyManager("RELOADING=1");
  supervisor.resize(instances).catch(() => {}); // restarts paused workers; an event reports a failure
  const failure = await supervisor.renew();
  if (supervisor.closed) return;
  if (failure === null) log.write("info", "replaced", { workers: supervisor.workers.length });
  else log.write("error", "not replaced", { message: failure instanceof Error ? failure.message : String(failure) });
  notifyManager("READY=1");
}

export function logEvents(log: Log, supervisor: Supervisor): void {
  supervisor.on("joined", ({ id, pid }) => log.write("info", "joined", { worker: id, pid }));
  supervisor.on("left", ({ id, pid }, { exitCode, signal, how }) =>
    log.write("info", "left", { worker: id, pid, exitCode, signal, how }),
  );
  supervisor.on("died", ({ id, pid }, { exitCode, signal }) =>
    log.write("warn", "died", { worker: id, pid, exitCode, signal }),
  );
  supervisor.on("log", ({ id, pid }, line) => log.write("info", "log", { worker: id, pid, line }));
  supervisor.on("paused", ({ worker, report: { exitCode, signal } }) =>
    log.write("error", "paused", { worker, exitCode, signal }),
  );
  supervisor.on("resumed", () => log.write("info", "resumed", {}));
}
