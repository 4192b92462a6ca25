/** `slotbus hub --processes`: processes are replaced, one after another or after a kill, while requests run. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import manifest from "../package.json";
import { HubWorker, sse } from "../src/hub/index.ts";
import { Listener } from "./hub-listener.ts";
import { Program } from "./program.ts";
import { Child, until, Workspace } from "./support.ts";

const command = join(import.meta.dir, "..", manifest.bin.slotbus);
const PATIENCE_MS = 60_000;

/** A hub of several processes, started by the command. */
class Hubs implements AsyncDisposable {
  readonly workspace = new Workspace();
  readonly #children: Child[] = [];
  program!: Program;
  url = "";

  static async open(processes: number, ...flags: string[]): Promise<Hubs> {
    const hubs = new Hubs();
    hubs.workspace.leavesKilled = true;
    const { directory } = hubs.workspace;
    const args = [command, "hub", "--processes", String(processes), "--port", "0", "--json", "--directory", directory];
    hubs.program = new Program([process.execPath, ...args, ...flags], {});
    const line = await hubs.program.line("{", PATIENCE_MS);
    ({ url: hubs.url } = JSON.parse(line) as { url: string });
    return hubs;
  }

  async worker(name: string): Promise<Child> {
    const child = new Child("hub-worker.ts", ["hub", name, this.workspace.directory], {});
    this.#children.push(child);
    await child.line("connected");
    return child;
  }

  /** The hub processes that respond to their peers, by pid. */
  async pids(): Promise<Set<number>> {
    const pids = new Set<number>();
    for (let n = 0; n < 20; n++) {
      const response = await fetch(`${this.url}_slotbus/snapshot`, { keepalive: false });
      pids.add(((await response.json()) as { pid: number }).pid);
    }
    return pids;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) await child.kill("SIGTERM");
    this.program.process.kill("SIGTERM");
    await this.program.process.exited;
    await this.program[Symbol.asyncDispose]();
    await this.workspace[Symbol.asyncDispose]();
  }
}

/** Requests on a connection each. As the docs say, a request is sent again if its connection was reset before a response. */
class Load {
  readonly failures: unknown[] = [];
  requests = 0;
  #isOver = false;
  readonly #all: Promise<void>[];

  constructor(url: string, count: number) {
    this.#all = Array.from({ length: count }, () => this.#run(url));
  }

  async #run(url: string): Promise<void> {
    while (!this.#isOver) {
      this.requests++;
      try {
        const response = await this.#get(url, 3);
        if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
        await response.text();
      } catch (error) {
        this.failures.push(error);
      }
    }
  }

  async #get(url: string, again: number): Promise<Response> {
    try {
      return await fetch(url, { keepalive: false });
    } catch (error) {
      if ((error as { code?: string }).code === "ECONNRESET" && again > 0) return this.#get(url, again - 1);
      throw error;
    }
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#all);
  }
}

test("no request fails while hub processes and workers are replaced, and event streams miss nothing", async () => {
  await using hubs = await Hubs.open(2, "--drain-delay", "100ms");
  let worker = await hubs.worker("w");
  const before = await hubs.pids();
  expect(before.size).toBe(2);
  const emitting = await HubWorker.start({
    name: "e",
    directory: hubs.workspace.directory,
    routes: { "/feed": sse() },
  });
  const load = new Load(`${hubs.url}w/users/1`, 2);
  let lastId: string | undefined;
  const seen: string[] = [];
  let isOver = false;
  // As a browser's EventSource: reconnects with the last id.
  const reading = (async () => {
    while (!isOver) {
      const listener = await Listener.open({ url: new URL(hubs.url) }, "/feed", lastId).catch(() => null);
      await until(() => isOver || listener === null || listener.ended, "the stream ends", PATIENCE_MS);
      for (const { event, data, id } of listener?.events ?? []) {
        seen.push(event === "n" ? data : event);
        lastId = id || lastId;
      }
      listener?.close();
    }
  })();
  let sent = 0;
  const emit = async (): Promise<void> => void (await emitting.emitter().ssePush("/feed", "n", String(sent++)));
  await until(async () => (await emitting.emitter().ssePush("/feed", "n", "first")) > 0, "the stream is open");
  for (let round = 0; round < 2; round++) {
    hubs.program.process.kill("SIGHUP");
    const replaced = hubs.program.logged("replaced", round + 1, PATIENCE_MS);
    let isReplaced = false;
    void replaced.then(() => (isReplaced = true));
    while (!isReplaced) {
      await emit();
      await Bun.sleep(5); // pace
    }
    const next = await hubs.worker("w"); // a worker of the same name, then the old one ends
    await worker.kill("SIGTERM");
    worker = next;
  }
  const after = await hubs.pids();
  expect([...after].filter((pid) => before.has(pid))).toEqual([]);
  await load.end();
  expect(load.failures).toEqual([]);
  expect(load.requests).toBeGreaterThan(100);
  await emit();
  await Bun.sleep(100); // the last event is on its way
  isOver = true;
  await reading;
  const numbers = seen.filter((data) => data !== "first");
  expect(numbers).toEqual(Array.from({ length: sent }, (_, n) => String(n)));
  await emitting.close();
}, 240_000);

test("a hub process that is killed is replaced, and only its own connections break", async () => {
  await using hubs = await Hubs.open(2);
  await hubs.worker("w");
  const before = [...(await hubs.pids())];
  process.kill(before[0]!, "SIGKILL");
  const load = new Load(`${hubs.url}w/users/1`, 1);
  await until(
    async () => {
      const now = await hubs.pids().catch(() => new Set<number>());
      return now.size === 2 && !now.has(before[0]!) && now.has(before[1]!);
    },
    "another process has taken its place",
    PATIENCE_MS,
  );
  await load.end();
  expect(load.failures).toEqual([]);
}, 120_000);

test("invalid numbers of processes are refused", async () => {
  for (const bad of ["0", "65", "x", "-1", "1.5"]) {
    const args = [command, "hub", "--processes", bad];
    const child = Bun.spawn([process.execPath, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    expect([await child.exited, await child.stderr.text()]).toEqual([2, expect.stringContaining("--processes")] as [
      number,
      string,
    ]);
  }
});
