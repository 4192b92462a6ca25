/** Shared by the tests of the stdio bus: buses over real processes, and one over connections in memory. */

import { EventEmitter } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExitReport } from "../src/errors.ts";
import { StdioBus } from "../src/stdio/bus.ts";
import type { StdioBusEvents } from "../src/stdio/events.ts";
import type { StdioBusOptions, StdioPoolOptions } from "../src/stdio/options.ts";
import type { WorkerConnection } from "../src/stdio/worker-connection.ts";
import type { MakeSupervisor, PoolSupervisor } from "../src/stdio/worker-pool.ts";
import { StdioWorker } from "../src/stdio/worker.ts";
import type { WorkerProcess } from "../src/supervisor/process.ts";
import type { SupervisorEvents, WorkerStatus } from "../src/supervisor/events.ts";
import { handlers } from "./fixtures/stdio-handlers.ts";

/** A pool of Bun processes that run a fixture. */
export function fixture(file: string, options: Partial<StdioPoolOptions> = {}, ...args: string[]): StdioPoolOptions {
  return { id: "a", command: process.execPath, args: [join(import.meta.dir, "fixtures", file), ...args], ...options };
}

type Listeners = { [K in keyof StdioBusEvents]?: (...args: StdioBusEvents[K]) => unknown };

/** A running bus with these listeners. */
export async function running(
  options: StdioBusOptions,
  listeners: Listeners = {},
  make?: MakeSupervisor,
): Promise<StdioBus> {
  const bus = await StdioBus.start(options, make);
  for (const [event, listener] of Object.entries(listeners)) bus.on(event as "log", listener as () => void);
  return bus;
}

/** A new folder that is removed when the test ends. */
export function folder(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "slotbus-faults-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

/** Processes with this value of SLOTBUS_TEST_MARK in their environment: the marked process and its descendants. */
export function marked(mark: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, "latin1").includes(`SLOTBUS_TEST_MARK=${mark}`); // a zombie's is empty
      } catch {
        return false; // it has ended
      }
    })
    .map(Number);
}

/** Whether a process exists. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** A process in memory: the worker's code runs here, over two streams. */
class FakeProcess implements WorkerProcess {
  readonly id: number;
  readonly life = 1;
  readonly pid: number;
  readonly stdin: Bun.FileSink;
  readonly stdout: ReadableStream<Uint8Array>;
  readonly exited: Promise<ExitReport>;
  readonly stderrTail = "";
  readonly worker: StdioWorker;
  readonly #exit = Promise.withResolvers<ExitReport>();
  #output!: ReadableStreamDefaultController<Uint8Array>;

  constructor(id: number) {
    this.id = id;
    this.pid = 1_000_000 + id;
    this.exited = this.#exit.promise;
    let input!: ReadableStreamDefaultController<Uint8Array>;
    const source = new ReadableStream<Uint8Array>({ start: (controller) => void (input = controller) });
    this.stdout = new ReadableStream<Uint8Array>({ start: (controller) => void (this.#output = controller) });
    const bytes = (data: string | Uint8Array): Uint8Array => (typeof data === "string" ? Buffer.from(data) : data);
    const stdin = {
      write: (data: string | Uint8Array) => (input.enqueue(bytes(data)), 0),
      flush: () => 0,
      end: () => input.close(),
    };
    this.stdin = stdin as unknown as Bun.FileSink;
    const sink = { write: (data: string | Uint8Array) => (this.#output.enqueue(bytes(data)), null), end: () => {} };
    this.worker = new StdioWorker({ ...handlers, pid: () => this.pid }, { sink, source }, "ndjson", true);
  }

  kill(): void {
    this.end("itself");
  }

  end(how: ExitReport["how"]): void {
    const { id: worker, life, pid } = this;
    this.#exit.resolve({
      worker,
      life,
      pid,
      exitCode: 0,
      signal: null,
      uptimeMs: 1,
      oomKills: null,
      how,
      stderrTail: "",
    });
    try {
      this.#output.close();
    } catch {
      // It was already closed.
    }
  }

  served(): void {}
  recycle(): void {}
}

/** Connections in memory in place of processes; a dead one is not restarted. */
export class FakeSupervisor extends EventEmitter<SupervisorEvents> implements PoolSupervisor {
  links: WorkerConnection[] = [];
  readonly pausedFor = null;
  readonly isDown = false;
  readonly processes: FakeProcess[] = [];
  readonly #instances: number;
  readonly #open: (process: WorkerProcess, signal: AbortSignal) => Promise<WorkerConnection>;

  constructor(...[pool, transport]: Parameters<MakeSupervisor>) {
    super();
    this.#instances = pool.program.instances ?? 1;
    this.#open = (process, signal) => transport.open(process, signal);
  }

  get workers(): WorkerStatus[] {
    return this.links.map(({ identity }) => ({
      id: identity.worker,
      life: 1,
      pid: identity.pid,
      state: "ready",
      restarts: 0,
    }));
  }

  async start(): Promise<void> {
    for (let id = 0; id < this.#instances; id++) {
      const process = new FakeProcess(id);
      this.processes.push(process);
      const link = await this.#open(process, new AbortController().signal);
      this.links = [...this.links, link];
      void process.exited.then(() => (this.links = this.links.filter((other) => other !== link)));
    }
  }

  async stop(): Promise<ExitReport[]> {
    const links = this.links;
    this.links = [];
    await Promise.all(links.map((link) => link.drain()));
    for (const process of this.processes) process.end("end of input");
    return Promise.all(this.processes.map(({ exited }) => exited));
  }

  async resize(): Promise<void> {}
  async resizeWith(): Promise<void> {}
}
