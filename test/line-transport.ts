/** Workers with a line protocol for the supervisor's tests: `ready` first, then one answer line per request line. */

import { existsSync, readFileSync } from "node:fs";
import type { ExitReport } from "../src/errors.ts";
import type { PoolOptions, Transport, WorkerLink, WorkerProcess } from "../src/supervisor/index.ts";

/** One worker; it answers requests in order. */
export class LineLink implements WorkerLink {
  readonly pid: number;
  readonly #stdin: Bun.FileSink | null;
  readonly #process: WorkerProcess;
  readonly #waiting: PromiseWithResolvers<string>[] = [];
  readonly #idle: (() => void)[] = [];
  report: ExitReport | null = null;
  drains = 0;

  constructor(process: WorkerProcess) {
    this.#process = process;
    this.pid = process.pid;
    this.#stdin = process.stdin;
  }

  get inFlight(): number {
    return this.#waiting.length;
  }

  ask(text: string): Promise<string> {
    const waiting = Promise.withResolvers<string>();
    this.#waiting.push(waiting);
    void this.#stdin!.write(`${text}\n`);
    void this.#stdin!.flush();
    return waiting.promise;
  }

  answered(line: string): void {
    this.#waiting.shift()?.resolve(line);
    this.#process.served();
    if (this.#waiting.length === 0) for (const done of this.#idle.splice(0)) done();
  }

  async drain(): Promise<void> {
    this.drains++;
    if (this.#waiting.length > 0) await new Promise<void>((done) => this.#idle.push(done));
  }

  ended(report: ExitReport): void {
    this.report = report;
    for (const waiting of this.#waiting.splice(0)) waiting.reject(new Error(`ended: ${report.how}`));
  }
}

export const lines: Transport<LineLink> = {
  stdin: "pipe",
  stdout: "pipe",
  open(process) {
    const ready = Promise.withResolvers<LineLink>();
    void read(process, ready.resolve);
    return ready.promise;
  },
};

async function read(process: WorkerProcess, ready: (link: LineLink) => void): Promise<void> {
  const link = new LineLink(process);
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of process.stdout!) {
    const got = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = got.pop()!;
    for (const line of got) {
      if (line === "ready") ready(link);
      else link.answered(line);
    }
  }
}

/** A pool that runs a shell script. */
export function script(text: string, options: Partial<PoolOptions> = {}): PoolOptions {
  return { name: "script", command: "sh", args: ["-c", text], ...options };
}

/** Whether a process lives: it exists and is not a zombie. */
export function lives(pid: number): boolean {
  if (!existsSync(`/proc/${pid}/stat`)) return false;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2));
  } catch {
    return false; // it ended in between
  }
}
