/** Shared by the proofs with many processes: children that send messages, and the state of a process. */

import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { processState, until } from "../support.ts";

export { processState };

/** Messages of every child: `loaded` when it waits for orders, `broken` when it saw a broken promise. */
export type Common = { is: "loaded" } | { is: "broken"; what: string };

/** A child that has loaded its modules and waits for orders. */
export class Actor<Report extends { is: string }, Order> {
  readonly process: Bun.Subprocess;
  readonly reports: (Report | Common)[] = [];
  /** Set before it is killed or ordered to end. */
  condemned = false;
  stopped = false;
  readonly #crew: Crew;

  /** `env`: variables besides the environment of this process. */
  constructor(crew: Crew, program: string, args: string[], env: Record<string, string> = {}) {
    this.#crew = crew;
    this.process = Bun.spawn([process.execPath, join(import.meta.dir, program), ...args], {
      env: { ...process.env, SLOTBUS_DIR: crew.busDirectory, ...env },
      stdio: ["ignore", "inherit", "inherit"],
      ipc: (message: Report | Common) => {
        if (message.is === "broken") crew.problem((message as { what: string }).what);
        else this.reports.push(message);
      },
      onExit: (child, code, signal) => {
        if (!this.condemned) crew.problem(`${program} pid ${child.pid} ended by itself: ${code ?? signal}`);
      },
    });
    crew.living.add(this);
    void this.process.exited.then(() => crew.living.delete(this));
  }

  get pid(): number {
    return this.process.pid;
  }

  tell(order: Order): void {
    this.process.send(order);
  }

  /** Waits for the next report of a kind, and removes it from the list. */
  async hear<K extends Report["is"] | "loaded">(kind: K, ms: number): Promise<Extract<Report | Common, { is: K }>> {
    const find = (): number => this.reports.findIndex((report) => report.is === kind);
    await until(() => find() >= 0 || !this.isAlive, `pid ${this.pid} says "${kind}"`, ms);
    if (find() < 0) throw new Error(`pid ${this.pid} ended before it said "${kind}"`);
    return this.reports.splice(find(), 1)[0] as Extract<Report | Common, { is: K }>;
  }

  async loaded(): Promise<this> {
    await this.hear("loaded", 30_000);
    return this;
  }

  get isAlive(): boolean {
    return this.#crew.living.has(this);
  }

  async gone(ms = DIES_MS): Promise<void> {
    await until(() => !this.isAlive, `pid ${this.pid} has ended`, ms).catch((error: Error) => {
      throw new Error(`${error.message}; its threads: ${threadsOf(this.pid)}`);
    });
  }
}

/** All children of one proof. */
export class Crew {
  readonly living = new Set<Pick<Actor<{ is: string }, unknown>, "process" | "condemned">>();

  constructor(
    readonly busDirectory: string,
    readonly problem: (text: string) => void,
  ) {}

  /** Kills all living children, and waits for their end. */
  async endAll(): Promise<void> {
    for (const actor of this.living) {
      actor.condemned = true;
      actor.process.kill("SIGKILL");
    }
    await Promise.all([...this.living].map((actor) => actor.process.exited));
  }
}

/** On SIGINT and SIGTERM: kills the crew, removes the folder, and ends this process. */
export function endOnSignal(crew: Crew, folder: string): void {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      for (const actor of crew.living) actor.process.kill("SIGKILL");
      rmSync(folder, { recursive: true, force: true });
      process.exit(1);
    });
  }
}

/** Longest time until a killed process is gone, in ms. On a busy machine its last thread can wait for 20 s inside the kernel. */
export const DIES_MS = 180_000;

/** State of each thread of a process, and where in the kernel it waits. */
function threadsOf(pid: number): string {
  try {
    const folder = `/proc/${pid}/task`;
    const read = (file: string): string => readFileSync(join(folder, file), "latin1");
    const tell = (id: string): string => `${id} ${/\) (\S)/.exec(read(`${id}/stat`))?.[1]} ${read(`${id}/wchan`)}`;
    return readdirSync(folder).map(tell).join(", ");
  } catch (error) {
    return String(error);
  }
}

/** Resolves when a process is stopped. */
export function stopped(pid: number): Promise<void> {
  return until(() => /^(T|Z|$)/.test(processState(pid)), `pid ${pid} is stopped`, 30_000);
}
