/** Shared by the tests: a private directory, child processes with line output, waiting for a state. */

import { expect } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BusOptions,
  type Handler,
  SlotBus,
  type SlotBusOptions,
  SlotWorker,
  type SlotWorkerOptions,
} from "../src/index.ts";
import { judgeSlots } from "./slots.ts";
import { rejection, until } from "./wait.ts";

export { rejection, until };

/** A child process whose standard output is read line by line. */
export class Child implements AsyncDisposable {
  readonly process: Bun.Subprocess<"ignore", "pipe", "inherit">;
  readonly lines: string[] = [];

  /** `shell`: a command that its process runs first. */
  constructor(fixture: string, args: string[], env: Record<string, string>, shell = "") {
    const command = [process.execPath, join(import.meta.dir, "fixtures", fixture), ...args];
    this.process = Bun.spawn(shell ? ["sh", "-c", `${shell}; exec "$@"`, "sh", ...command] : command, {
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "inherit"],
    });
    void this.#read();
  }

  get pid(): number {
    return this.process.pid;
  }

  /** Resolves to the first line that starts with `prefix`, past or future. */
  async line(prefix: string, ms = 10_000): Promise<string> {
    await until(() => this.lines.some((line) => line.startsWith(prefix)), `a line "${prefix}…" of a child`, ms);
    return this.lines.find((line) => line.startsWith(prefix))!;
  }

  /** Kills it and waits until it is gone. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.process.kill(signal);
    await this.process.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of this.process.stdout) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop()!;
      this.lines.push(...lines);
    }
  }
}

/**
 * Stops a process with SIGSTOP. Resolves when all its threads have stopped: the signal reaches one of them, and the others
 * run until that one has handled it.
 */
export async function stop({ pid }: { pid: number }): Promise<void> {
  process.kill(pid, "SIGSTOP");
  const threads = (): string[] => readdirSync(`/proc/${pid}/task`);
  await until(
    () => threads().every((thread) => processState(pid, thread) === "T"),
    `process ${pid} is stopped`,
    15_000,
  );
}

/** State of a process or thread: `S` sleeps, `R` runs, `T` is stopped, `Z` has ended; `""` if there is none. */
export function processState(pid: number, thread = `${pid}`): string {
  try {
    return readFileSync(`/proc/${pid}/task/${thread}/stat`, "latin1").split(") ")[1]![0]!;
  } catch {
    return "";
  }
}

let serial = 0;

/** A runtime directory, with its buses, workers and children. Disposing closes all and expects an empty directory. */
export class Workspace implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), "slotbus-test-"));
  /** Unique per workspace. */
  readonly name = `bus-${process.pid}-${++serial}`;
  /** Files that a test leaves on purpose, for example a killed client's. */
  leftovers: string[] = [];
  /** Whether a test kills processes of a shared bus, which leave sockets and doors. */
  leavesKilled = false;
  /** Number of `unsettledAtEnd` to expect of its buses; above 0 when a test breaks the library on purpose. */
  unsettled = 0;
  readonly #open: AsyncDisposable[] = [];

  async bus(options: Partial<SlotBusOptions> = {}): Promise<SlotBus> {
    return this.#keep(await SlotBus.create({ name: this.name, directory: this.directory, ...options }));
  }

  /** One of several clients of a shared bus. */
  async client(options: Partial<BusOptions> = {}): Promise<SlotBus> {
    return this.#keep(await SlotBus.connect({ name: this.name, directory: this.directory, ...options }));
  }

  async worker(handler?: Handler, options: Partial<SlotWorkerOptions> = {}): Promise<SlotWorker> {
    const worker = await SlotWorker.open({ name: this.name, directory: this.directory, ...options });
    if (handler) worker.serve(handler);
    return this.#keep(worker);
  }

  /** A bus and a worker in this process, attached. */
  async pair(handler: Handler, options: Partial<SlotBusOptions> = {}): Promise<{ bus: SlotBus; worker: SlotWorker }> {
    const bus = await this.bus(options);
    const worker = await this.worker(handler);
    await bus.ready();
    return { bus, worker };
  }

  /** A bus of this process and a worker in a child process, attached. */
  async remote(fixture: string, options: Partial<SlotBusOptions> = {}): Promise<{ bus: SlotBus; child: Child }> {
    const bus = await this.bus(options);
    const child = this.child(fixture);
    await bus.ready();
    return { bus, child };
  }

  child(fixture: string, ...args: string[]): Child {
    return this.#keep(new Child(fixture, [this.name, ...args], { SLOTBUS_DIR: this.directory }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const buses = this.#open.filter((one) => one instanceof SlotBus);
    const workers = this.#open.filter((one) => one instanceof SlotWorker);
    await judgeSlots(buses, workers);
    let unsettled = 0;
    for (const resource of this.#open.reverse()) {
      if (resource instanceof Child) await resource.kill();
      else await (resource as SlotBus | SlotWorker).close({ timeout: 0 });
      if (resource instanceof SlotBus) unsettled += resource.stats().unsettledAtEnd;
    }
    expect(unsettled).toBe(this.unsettled);
    const ofKilled = (file: string): boolean => this.leavesKilled && /@\w+\.(sock|door)$|\.lock$/.test(file);
    const left = readdirSync(this.directory).filter((file) => !this.leftovers.includes(file) && !ofKilled(file));
    rmSync(this.directory, { recursive: true });
    expect(left).toEqual([]);
  }

  #keep<T extends AsyncDisposable>(resource: T): T {
    this.#open.push(resource);
    return resource;
  }
}

/** Open descriptors of this process. It may fall at any time: `fetch` closes its kept connections when it wants. */
export function descriptors(): number {
  return readdirSync("/proc/self/fd").length;
}

/** Open sockets of this process, by inode. */
export function sockets(): Set<string> {
  const open = new Set<string>();
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      if (target.startsWith("socket:")) open.add(target);
    } catch {} // the descriptor of the listing itself
  }
  return open;
}

/** Mappings of slotbus regions in this process. */
export function mappings(): number {
  return readFileSync("/proc/self/maps", "latin1")
    .split("\n")
    .filter((line) => line.includes("memfd:slotbus")).length;
}

/** Bytes that follow from their position. */
export function pattern(bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) out[i] = (i * 31 + (i >> 8)) & 255;
  return out;
}

/** Whether two byte sequences are equal; a failure does not print them. */
export function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
