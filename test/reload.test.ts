/** `bun --hot`: the program runs again in the same process, where its earlier evaluation still has everything open. */

import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Contest } from "../src/contest/index.ts";
import { Fleet } from "../src/fleet/fleet.ts";
import { Hub } from "../src/hub/index.ts";
import { SlotBus } from "../src/index.ts";
import { StdioBus } from "../src/stdio/index.ts";
import { descriptors, until } from "./support.ts";

const EDITS = 10;
const src = resolve(import.meta.dir, "../src");

/** A directory with a changing program, and the process that runs it. */
class Stage implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), "slotbus-reload-"));
  readonly env: Record<string, string | undefined> = { ...process.env, SLOTBUS_DIR: this.directory };
  readonly #lines: string[] = [];
  #child: Bun.Subprocess<"ignore", "pipe", "inherit"> | null = null;

  path(file: string): string {
    return join(this.directory, file);
  }

  /** Saves like an editor: a new file replaces the old one. `VERSION` in the text becomes the version. */
  write(file: string, text: string, version: number | string = 1): void {
    writeFileSync(this.path(`${file}~`), text.replaceAll("VERSION", `${version}`).replaceAll("SRC", src));
    renameSync(this.path(`${file}~`), this.path(file));
  }

  run(...args: string[]): void {
    this.#child = Bun.spawn([process.execPath, ...args], {
      cwd: this.directory,
      env: this.env,
      stdio: ["ignore", "pipe", "inherit"],
    });
    void this.#read(this.#child.stdout);
  }

  get pid(): number {
    return this.#child!.pid;
  }

  get exitCode(): number | null {
    return this.#child!.exitCode;
  }

  async line(text: string): Promise<void> {
    await until(
      () => this.#lines.includes(text),
      `the line "${text}" of the program; there are: ${this.#lines.join()}`,
    );
  }

  /** Starts the program and changes it some times, each after it is ready. */
  async edit(program: string, flag = "--hot", edits = EDITS): Promise<void> {
    this.write("main.ts", program, 0);
    this.run(flag, "main.ts");
    await this.line("ready 0");
    for (let version = 1; version <= edits; version++) {
      this.write("main.ts", program, version);
      await this.line(`ready ${version}`);
    }
  }

  /** Processes that it started and that still run, by program name. */
  children(of = this.pid): string[] {
    const stats = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid));
    return stats.flatMap((pid) => {
      try {
        const [, name, state, parent] = /^\d+ \((.*)\) (\S) (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))!;
        if (Number(parent) !== of || state === "Z") return [];
        return name!.startsWith("slotbus-launch") ? this.children(Number(pid)) : [name!];
      } catch {
        return []; // it ended meanwhile
      }
    });
  }

  descriptors(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    rmSync(this.directory, { recursive: true });
  }

  async #read(stdout: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of stdout) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop()!;
      this.#lines.push(...lines);
    }
  }
}

/** Sends requests until `stop`; resolves to the different answers in order. */
function askAlways(ask: () => Promise<string>): { stop(): Promise<string[]> } {
  let isOver = false;
  const answers = new Set<string>();
  const run = async (): Promise<void> => {
    while (!isOver) {
      answers.add(await ask());
      await Bun.sleep(0);
    }
  };
  const running = Promise.all(Array.from({ length: 4 }, run));
  running.catch(() => {}); // `stop` rejects with it
  return {
    stop: async () => {
      isOver = true;
      await running;
      return [...answers];
    },
  };
}

test("hot: a bus gets its name again, in the same process, and its workers come back", async () => {
  await using stage = new Stage();
  await stage.edit(`
    import { SlotBus, SlotWorker } from "SRC/index.ts";
    const bus = await SlotBus.create({ name: "hot" });
    const worker = await SlotWorker.open({ name: "hot" });
    worker.serve(() => "VERSION");
    bus.ref();
    await bus.ready();
    console.log("ready " + (await bus.request({ path: "/" })).text());
  `);
  expect(readdirSync(stage.directory).sort()).toEqual(["hot.lock", "hot.sock", "main.ts"]);
}, 30_000);

test("hot: only the newest workers answer, workers of one evaluation all stay, and no request is lost", async () => {
  await using stage = new Stage();
  await using bus = await SlotBus.create({ name: "workers", directory: stage.directory });
  const program = `
    import { SlotWorker } from "SRC/index.ts";
    for (const n of [1, 2]) (await SlotWorker.open({ name: "workers" })).serve(async () => (await Bun.sleep(n), "VERSION"));
    console.log("ready VERSION");
  `;
  await stage.edit(program, "--hot", 0);
  const asking = askAlways(async () => (await bus.request({ path: "/" })).text());
  let before = 0;
  for (let version = 1; version <= EDITS; version++) {
    stage.write("main.ts", program, version);
    await stage.line(`ready ${version}`);
    await until(() => bus.workers.length === 2, "two workers are left");
    if (version === 2) before = stage.descriptors();
  }
  await asking.stop();
  expect((await bus.request({ path: "/" })).text()).toBe(`${EDITS}`);
  await until(() => stage.descriptors() <= before, "no descriptor is left over");
}, 30_000);

test("hot: values on globalThis stay", async () => {
  await using stage = new Stage();
  await stage.edit(
    `
    import { SlotBus, SlotWorker } from "SRC/index.ts";
    import { Contest } from "SRC/contest/index.ts";
    import { EventBus, topic } from "SRC/events/index.ts";
    import { Fleet } from "SRC/fleet/fleet.ts";
    const kept = globalThis as { bus?: SlotBus; first?: number; fleet?: Fleet };
    kept.first ??= VERSION;
    kept.bus ??= await SlotBus.create({ name: "kept" });
    const worker = await SlotWorker.open({ name: "kept" });
    worker.serve(() => "VERSION");
    while ((await kept.bus.request({ path: "/" })).text() !== "VERSION") await Bun.sleep(1);
    if (kept.bus.closed || kept.first !== 0) throw new Error("it is another one");
    kept.fleet ??= await Fleet.join({ name: "kept", rings: { events: {} } });
    await using contest = await Contest.open({ fleet: kept.fleet });
    using guard = await contest.claim({ kind: "job", label: "x" }, { owner: "VERSION", ttl: 60_000, timeout: 1_000 });
    await using events = await EventBus.open({ fleet: kept.fleet, ring: "events" });
    const subscription = events.subscribe(topic("a"));
    events.publish("a", "VERSION");
    for await (const event of subscription) if (event.json() === "VERSION") break;
    console.log("ready VERSION");
  `,
    "--hot",
    3,
  );
}, 30_000);

test("hot: a fleet has one member, and its lease can be claimed again", async () => {
  await using stage = new Stage();
  await using fleet = await Fleet.join({ name: "hot", directory: stage.directory, rings: { events: {} } });
  await stage.edit(`
    import { Contest } from "SRC/contest/index.ts";
    import { Fleet } from "SRC/fleet/fleet.ts";
    const fleet = await Fleet.join({ name: "hot" });
    const contest = await Contest.open({ fleet });
    const guard = await contest.claim({ kind: "job", label: "nightly" }, { owner: "VERSION", ttl: 60_000, timeout: 1_000 });
    setInterval(() => guard, 1_000);
    console.log("ready VERSION");
  `);
  expect(fleet.members().length).toBe(2);
  await using contest = await Contest.open({ fleet });
  expect(contest.list().map(({ owner }) => owner)).toEqual([`${EDITS}`]);
}, 30_000);

test("hot: a worker of a hub is attached once, its newest code answers, and no request is lost", async () => {
  await using stage = new Stage();
  await using hub = await Hub.start({ name: "hot", directory: stage.directory, port: false });
  const program = `
    import { HubWorker } from "SRC/hub/index.ts";
    await HubWorker.start({ name: "pages", hub: "hot", routes: { "/page": async () => (await Bun.sleep(2), "VERSION") } });
    console.log("ready VERSION");
  `;
  await stage.edit(program, "--hot", 0);
  const ask = async (path = "/page"): Promise<string> => {
    const response = await hub.fetch(new Request(`http://hub${path}`));
    expect(response.status).toBe(200);
    return response.text();
  };
  const asking = askAlways(ask);
  for (let version = 1; version <= EDITS; version++) {
    stage.write("main.ts", program, version);
    await stage.line(`ready ${version}`);
  }
  const attached = async (): Promise<number> => JSON.parse(await ask("/health")).workers.length;
  await until(async () => (await attached()) === 1, "one registration is left");
  expect(await ask()).toBe(`${EDITS}`);
  await asking.stop();
}, 30_000);

test("hot: a hub has its name and its port again", async () => {
  await using stage = new Stage();
  using free = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = free;
  await free.stop(true);
  await stage.edit(`
    import { Hub, HubWorker } from "SRC/hub/index.ts";
    const hub = await Hub.start({ name: "hot", port: ${port} });
    await HubWorker.start({ name: "pages", hub: "hot", routes: { "/page": () => "VERSION" } });
    const response = await fetch("http://localhost:${port}/page");
    console.log("ready " + (await response.text()));
  `);
  const health = await fetch(`http://localhost:${port}/health`);
  expect(((await health.json()) as { workers: unknown[] }).workers.length).toBe(1);
}, 30_000);

test("hot: a stdio bus, a supervisor and a bus with workers leave one set of processes; a socket keeps its path", async () => {
  await using stage = new Stage();
  stage.write("worker.ts", `import { SlotWorker } from "SRC/index.ts"; (await SlotWorker.open()).serve(() => "x");`);
  const before: number[] = [];
  const program = `
    import { SlotBus } from "SRC/index.ts";
    import { StdioBus } from "SRC/stdio/index.ts";
    import { Supervisor } from "SRC/supervisor/index.ts";
    const bus = await StdioBus.start({ pools: [{ id: "a", command: "cat", instances: 2 }] });
    const equal = await StdioBus.start({ pools: [{ id: "a", command: "cat" }] });
    await bus.serve({ unix: "${stage.path("clients.sock")}" });
    const link = { inFlight: 0, drain: async () => {}, ended: () => {} };
    const open = async () => link;
    await Supervisor.start({ command: "tee" }, { stdin: "pipe", stdout: "ignore", open });
    const owner = await SlotBus.create({ name: "hot", workers: { entry: "worker.ts", max: 1 } });
    if (bus.closed || equal.closed || owner.closed) throw new Error("its own are closed");
    setInterval(() => [bus, equal], 1_000);
    console.log("ready VERSION");
  `;
  await stage.edit(program, "--hot", 0);
  const expected = ["bun", "cat", "cat", "cat", "tee"];
  const isSettled = (): boolean => {
    const names = stage.children().map((name) => (name.startsWith("bun") ? "bun" : name));
    return Bun.deepEquals(names.sort(), expected);
  };
  for (let version = 1; version <= 4; version++) {
    stage.write("main.ts", program, version);
    await stage.line(`ready ${version}`);
    await until(isSettled, `the processes ${expected.join()}; there are ${stage.children().join()}`);
    before.push(stage.descriptors());
  }
  await until(() => stage.descriptors() <= before[1]!, "no descriptor is left over");
}, 60_000);

test("hot: a server of a stdio bus has its path and its port again, also when the bus has other pools", async () => {
  await using stage = new Stage();
  using free = Bun.serve({ port: 0, fetch: () => new Response() });
  const { port } = free;
  await free.stop(true);
  await stage.edit(
    `
    import { StdioBus } from "SRC/stdio/index.ts";
    const bus = await StdioBus.start({ pools: [{ id: "VERSION", command: "cat" }] });
    await bus.serve({ unix: "${stage.path("clients.sock")}" });
    await bus.serve({ tcp: { port: ${port} } });
    console.log("ready VERSION");
  `,
    "--hot",
    3,
  );
}, 30_000);

test("hot: a worker of serve uses its new handlers, over stdio and over a bus", async () => {
  await using stage = new Stage();
  const program = `import { serve } from "SRC/serve.ts"; await serve({ version: () => "VERSION" });`;
  stage.write("worker.ts", program, 0);
  const command = { command: process.execPath, args: ["--hot", "worker.ts"], cwd: stage.directory };
  await using stdio = await StdioBus.start({ pools: [{ id: "hot", ready: true, ...command }] });
  await using bus = await SlotBus.create({ name: "served", directory: stage.directory });
  stage.env["SLOTBUS_NAME"] = "served";
  stage.run("--hot", "worker.ts");
  await bus.ready();
  for (let version = 0; version <= 3; version++) {
    if (version > 0) stage.write("worker.ts", program, version);
    await until(async () => (await stdio.request("version")) === `${version}`, `version ${version} over stdio`);
    const answer = async (): Promise<string> => (await bus.request({ path: "/version" })).json<string>();
    await until(async () => (await answer()) === `${version}`, `version ${version} over the bus`);
    expect(bus.workers.length).toBe(1);
  }
}, 30_000);

test("watch: a host that Bun starts again gets its names, and its earlier processes are gone", async () => {
  await using stage = new Stage();
  stage.write("worker.ts", `import { SlotWorker } from "SRC/index.ts"; (await SlotWorker.open()).serve(() => "x");`);
  await stage.edit(
    `
    import { Fleet } from "SRC/fleet/fleet.ts";
    import { Hub } from "SRC/hub/index.ts";
    import { SlotBus } from "SRC/index.ts";
    import { StdioBus } from "SRC/stdio/index.ts";
    const bus = await SlotBus.create({ name: "bus", workers: { entry: "worker.ts", max: 1 } });
    await Hub.start({ name: "hub", port: null });
    const fleet = await Fleet.join({ name: "fleet" });
    const stdio = await StdioBus.start({ pools: [{ id: "a", command: "tail", args: ["-f", "/dev/null"] }] });
    await stdio.serve({ unix: "${stage.path("clients.sock")}" });
    while (fleet.members().length !== 1) await Bun.sleep(1);
    bus.ref();
    console.log("ready VERSION");
  `,
    "--watch",
    4,
  );
  const isSettled = (): boolean => Bun.deepEquals(stage.children().length, 2);
  await until(isSettled, `two processes; there are ${stage.children().join()}`);
}, 60_000);

// ---- workers: { watch } -----------------------------------------------------------------------------------------------

const worker = `
  import { SlotWorker } from "SRC/index.ts";
  import { version } from "./lib/version";
  const worker = await SlotWorker.open();
  worker.serve(async () => (await Bun.sleep(2), version));
`;

test("changed workers are replaced one by one, and no request is lost; code that does not start replaces none", async () => {
  await using stage = new Stage();
  stage.write("worker.ts", worker);
  await Bun.write(stage.path("lib/version.ts"), `export { version } from "./number.ts";`);
  stage.write("lib/number.ts", `export const version = "VERSION";`, 0);
  const create = (): Promise<SlotBus> =>
    SlotBus.create({
      name: "watched",
      directory: stage.directory,
      workers: { entry: stage.path("worker.ts"), min: 2, max: 2, watch: true },
    });
  await (await create()).close(); // Bun keeps what it needs for watching
  const before = descriptors();
  const bus = await create();
  const ask = async (): Promise<string> => (await bus.request({ path: "/" })).text();
  const pids = (): number[] => bus.workers.map(({ pid }) => pid).sort();
  const asking = askAlways(ask);
  let old = pids();
  /** Both workers run the new code. */
  const replaced = async (answer: string): Promise<void> => {
    const isNew = (): boolean => pids().length === 2 && pids().every((pid) => !old.includes(pid));
    await until(isNew, `two new workers of ${answer}`);
    expect([await ask(), await ask()]).toEqual([answer, answer]);
    old = pids();
  };
  stage.write("lib/number.ts", `export const version = "VERSION";`, 1);
  await replaced("1");
  // Broken code: one line, the workers stay.
  const said: string[] = [];
  const { error } = console;
  console.error = (line: string) => said.push(line);
  try {
    stage.write("lib/number.ts", `export const version = ;`);
    await until(() => said.length > 0, "a line on standard error");
    stage.write("lib/number.ts", `export const version = "VERSION"; throw new Error("on purpose");`);
    await until(() => said.length > 1, "a second line on standard error");
  } finally {
    console.error = error;
  }
  expect(said[0]).toMatch(
    /^bus "watched": the changed .*worker\.ts does not start, so the old workers keep running\. Worker 0 /,
  );
  expect(said.length).toBe(2);
  expect([pids(), await ask()]).toEqual([old, "1"]);
  expect(bus.supervisor!.pausedFor).toBeNull();
  stage.write("lib/number.ts", `export const version = "VERSION";`, 2);
  await replaced("2");
  // A file that did not exist at its first import.
  stage.write("worker.ts", worker.replace("./lib/version", "./other"));
  await until(() => bus.supervisor!.workers.every(({ state }) => state === "ready"), "all are ready");
  stage.write("other.ts", `export const version = "VERSION";`, 3);
  await replaced("3");
  expect((await asking.stop()).sort()).toEqual(["0", "1", "2", "3"]);
  await bus.close();
  await until(() => descriptors() <= before, "no descriptor is left over");
}, 60_000);

test.each([
  ["--hot", "as an argument"],
  ["--watch", "as an argument"],
  ["--hot", "in BUN_OPTIONS"],
])(
  "with %s %s workers are watched",
  async (flag, where) => {
    await using stage = new Stage();
    await Bun.write(stage.path("lib/version.ts"), `export const version = "0";`);
    stage.write("worker.ts", worker);
    stage.write(
      "main.ts",
      `
    import { SlotBus } from "SRC/index.ts";
    const bus = await SlotBus.create({ name: "watched", workers: { entry: "worker.ts", max: 1 } });
    bus.ref();
    let last = "";
    const ask = async () => {
      const answer = (await bus.request({ path: "/" })).text();
      if (answer !== last) console.log("answer " + answer);
      last = answer;
      setTimeout(ask, 5);
    };
    void ask();
  `,
    );
    if (where === "in BUN_OPTIONS") stage.env["BUN_OPTIONS"] = flag;
    stage.run(...(where === "in BUN_OPTIONS" ? [] : [flag]), "main.ts");
    await stage.line("answer 0");
    await Bun.write(stage.path("lib/version.ts"), `export const version = "1";`);
    await stage.line("answer 1");
  },
  30_000,
);

test("a bus that watches its workers does not keep its process alive", async () => {
  await using stage = new Stage();
  await Bun.write(stage.path("lib/version.ts"), `export const version = "0";`);
  stage.write("worker.ts", worker);
  stage.write(
    "main.ts",
    `
    import { SlotBus } from "SRC/index.ts";
    const bus = await SlotBus.create({ name: "watched", workers: { entry: "worker.ts", max: 1, watch: true } });
    console.log("answer " + (await bus.request({ path: "/" })).text());
  `,
  );
  stage.run("main.ts");
  await stage.line("answer 0");
  await until(() => stage.exitCode === 0, "the process has ended");
}, 30_000);
