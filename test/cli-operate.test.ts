/** `slotbus doctor`, `ls`, `top`, `stats`, `events`, `claims`, `clean` as their users run them, on real processes. */

import { expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BusObserver } from "../src/native/observer.ts";
import type { Cleaned } from "../src/cli/clean.ts";
import type { Finding } from "../src/cli/doctor.ts";
import type { Entry } from "../src/cli/ls.ts";
import type { Frame } from "../src/cli/top.ts";
import { lines } from "../src/cli/top/lines.ts";
import { Contest } from "../src/contest/index.ts";
import { Fleet } from "../src/events/index.ts";
import { SlotBus } from "../src/index.ts";
import { Door } from "../src/native/door.ts";
import { C, cString, native } from "../src/native/library.ts";
import { NameLock } from "../src/native/name.ts";
import { Child, mappings, stop, until, Workspace } from "./support.ts";

const program = join(import.meta.dir, "../src/cli/slotbus.ts");
const ESCAPE = "\u001b";
/** A control sequence, or one character. */
const TOKEN = new RegExp(`${ESCAPE}\\[[?\\d;]*[A-Za-z]|[^]`, "gu");

/** A runtime directory, and the command run in it. */
class Desk extends Workspace {
  constructor() {
    super();
    this.leftovers = [`${this.name}.lock`, `${this.name}.sock`, `${this.name}.fleet`]; // of killed processes
  }

  async run(args: string[], env: Record<string, string> = {}): Promise<{ code: number; out: string; err: string }> {
    const child = Bun.spawn([process.execPath, program, ...args], {
      env: { ...process.env, SLOTBUS_DIR: this.directory, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    return { code, out, err };
  }

  /** Runs the command and parses its JSON; fails on another exit code. */
  async json<T>(args: string[], expected = 0): Promise<T> {
    const { code, out, err } = await this.run([...args, "--json"]);
    expect({ args, code, err: code === 0 ? err : "" }).toEqual({ args, code: expected, err: "" });
    return JSON.parse(out) as T;
  }

  /** Runs the command, and expects that exit code and one line on standard error. */
  async fails(args: string[], code: number, said: string): Promise<void> {
    const { code: found, err } = await this.run(args);
    expect({ args, found, err }).toEqual({ args, found: code, err: expect.stringMatching(/^slotbus: [^\n]+\n$/) });
    expect(err).toContain(said);
  }

  async entries(): Promise<Entry[]> {
    return (await this.json<{ entries: Entry[] }>(["ls"])).entries;
  }

  async clean(args: string[] = [], expected = 0): Promise<Cleaned[]> {
    return (await this.json<{ cleaned: Cleaned[] }>(["clean", ...args], expected)).cleaned;
  }

  /** A frame of `top`. */
  frame(name: string, interval: string, expected = 0): Promise<Frame> {
    return this.json(["top", name, "--once", "--interval", interval], expected);
  }

  /** The same as text; fails when a line is longer than 80 columns. */
  async screen(...args: string[]): Promise<string> {
    const { out } = await this.run(["top", ...args, "--once", "--interval", "0.1"]);
    for (const line of out.split("\n")) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(80);
    return out;
  }

  /** A busy client and its worker. */
  async busy(...args: string[]): Promise<{ client: Child; worker: Child }> {
    const client = this.child("busy.ts", ...args);
    await client.line("claimed true");
    const worker = this.child("worker.ts");
    await client.line("busy");
    return { client, worker };
  }

  /** Sends requests one after the other until `stop`. */
  asking(bus: SlotBus): AsyncDisposable & { stop(): Promise<void> } {
    let isOver = false;
    const asked = (async () => {
      while (!isOver) await bus.request({ path: "/", body: "x" });
    })();
    const stopAsking = (): Promise<void> => ((isOver = true), asked);
    return { stop: stopAsking, [Symbol.asyncDispose]: stopAsking };
  }

  files(): string[] {
    return readdirSync(this.directory).sort();
  }
}

// ---- doctor ---------------------------------------------------------------------------------------------------------

test("doctor finds nothing wrong here, measures a round trip to another process, and leaves nothing", async () => {
  await using desk = new Desk();
  const { ok, findings } = await desk.json<{ ok: boolean; findings: Finding[] }>(["doctor"]);
  expect(ok).toBe(true);
  expect(findings.map(({ name }) => name).join()).toBe(
    "platform,bun,library,wire,launcher,directory,buses,space,memory,descriptors,wake mode,round trip",
  );
  expect(findings.at(-1)!.detail).toMatch(/^p50 [\d.]+ (µs|ms), p99 /);
  expect(findings.filter(({ state }) => state === "fault")).toEqual([]);
  expect(desk.files()).toEqual([]);
});

test("doctor has one line for each fault with its remedy, and exits with 1", async () => {
  await using desk = new Desk();
  /** The faults, in one line each. */
  const faultsOf = async (directory: string, env: Record<string, string> = {}): Promise<string[]> => {
    const { code, out, err } = await desk.run(["doctor", "--json", "--directory", directory], env);
    const { ok, findings } = JSON.parse(out) as { ok: boolean; findings: Finding[] };
    expect([code, err, ok]).toEqual([1, "", false]);
    const faults = findings.filter(({ state }) => state === "fault");
    for (const { fix } of faults) expect(fix).toMatch(/^[^\n]+$/);
    return faults.map(({ name, detail, fix }) => `${name}: ${detail} ${fix}`);
  };
  const untried = "not checked. Fix the faults above, then run `slotbus doctor` again.";
  const [open, file] = [join(desk.directory, "open"), join(desk.directory, "file")];
  desk.leftovers.push("open", "file");
  mkdirSync(open);
  chmodSync(open, 0o755);
  writeFileSync(file, "");
  expect(await faultsOf(open)).toEqual([
    expect.stringContaining(`has mode 0755; it must have mode 0700. Run \`chmod 0700 ${open}\`, or set SLOTBUS_DIR`),
    `buses: ${untried}`,
    `round trip: ${untried}`,
  ]);
  const [other] = await faultsOf(file);
  expect(other).toStartWith(
    `directory: The runtime directory ${file} is a file; it must be a directory of mode 0700. `,
  );
  const away = await faultsOf(join(desk.directory, "none/bus"));
  expect(away.map((fault) => fault.split(":")[0])).toEqual(["directory", "buses", "space", "round trip"]);
  expect(await faultsOf(desk.directory, { SLOTBUS_LIB: join(desk.directory, "none.so") })).toEqual([
    expect.stringMatching(/^library: .*none\.so/),
    "wire: not checked. Fix the faults above, then run `slotbus doctor` again.",
    `directory: ${untried}`,
    `buses: ${untried}`,
    `round trip: ${untried}`,
  ]);
  const human = await desk.run(["doctor"], { SLOTBUS_DIR: open });
  expect(human.out).toContain(`→ Run \`chmod 0700 ${open}\``);
  expect(human.out).not.toContain(ESCAPE); // not a terminal
}, 20_000);

// ---- ls -------------------------------------------------------------------------------------------------------------

test("ls shows owner, members and use of live things, marks stopped ones as silent and killed ones as dead", async () => {
  await using desk = new Desk();
  expect((await desk.run(["ls"])).out).toBe(`There is nothing in ${desk.directory}.\n`);
  const { client } = await desk.busy();
  const [bus, fleet] = await desk.entries();
  expect(bus).toMatchObject({ kind: "bus", name: desk.name, state: "alive", members: 1, problem: null });
  expect(bus!.owner).toMatchObject({ pid: client.pid, uid: process.geteuid!() });
  expect(bus!.owner!.command).toContain("busy.ts");
  expect(bus!.slots!.total).toBe(32);
  expect(bus!.slots!.used).toBeGreaterThanOrEqual(1); // the request that hangs
  expect(bus!.age_ms).toBeGreaterThan(0);
  expect(fleet).toMatchObject({ kind: "fleet", state: "alive", members: 1, slots: { used: 1, total: 256 } });
  await stop(client);
  expect((await desk.entries()).map(({ state }) => state)).toEqual(["silent", "alive"]);
  await client.kill();
  expect((await desk.entries()).map(({ kind, state }) => `${kind} ${state}`)).toEqual(["bus dead", "fleet dead"]);
  expect((await desk.run(["ls"])).out).toMatch(/^bus-\S+ +bus +dead/m);
}, 20_000);

// ---- top ------------------------------------------------------------------------------------------------------------

test("top --once shows rates, percentiles, slots by state, workers, rings and leases", async () => {
  await using desk = new Desk();
  const { client, worker } = await desk.busy();
  await using member = await Fleet.join({ name: desk.name, directory: desk.directory });
  const cursor = member.ring("events").cursor(); // reads nothing
  const { buses, fleets } = await desk.frame(desk.name, "0.5");
  const [bus] = buses;
  expect(bus).toMatchObject({ kind: "bus", problem: null, workers_joined: 1, workers_died: 0 });
  expect(bus!.owner!.pid).toBe(client.pid);
  expect(bus!.requests_per_second).toBeGreaterThan(10);
  expect(bus!.p50_us).toBeGreaterThan(0);
  expect(bus!.p99_us).toBeGreaterThanOrEqual(bus!.p50_us);
  expect(bus!.slots["CLAIMED"]).toBeGreaterThanOrEqual(1);
  expect(Object.values(bus!.slots).reduce((sum, one) => sum + one)).toBe(32);
  expect(bus!.workers).toMatchObject([{ pid: worker.pid, concurrency: 32 }]);
  expect(bus!.workers[0]!.in_flight).toBeGreaterThanOrEqual(1);
  expect(bus!.workers[0]!.spinning).toBeOneOf(["on", "vain", "contended", "off"]);
  const [fleet] = fleets;
  expect(fleet!.members).toMatchObject([{ pid: client.pid }, { pid: process.pid }]);
  expect(fleet!.rings).toMatchObject([{ name: "events", frames: 1024 }]);
  expect(fleet!.rings[0]!.frames_per_second).toBeGreaterThan(1);
  expect(fleet!.rings[0]!.holds_ms).toBeGreaterThan(0);
  expect(fleet!.rings[0]).toMatchObject({ readers: 1, slowest_pid: process.pid });
  expect(fleet!.rings[0]!.lag).toBeGreaterThan(1);
  cursor.close();
  await using look = await Fleet.observe({ name: desk.name, directory: desk.directory });
  expect(look.handle.cursors(member.index)).toEqual([]);
  expect(fleet!.leases).toMatchObject([{ kind: "leader", label: "mailer", owner: "boss", pid: client.pid }]);
  expect(fleet!.leases[0]!.left_ms).toBeWithin(1, 60_001);
  const out = await desk.screen();
  expect(out).toMatch(/^ +REQ\/S +P50 +P99/m);
  expect(out).not.toContain(ESCAPE);
}, 20_000);

test("top says that the owner of a bus does not answer when its event loop is blocked, and exits with 4", async () => {
  await using desk = new Desk();
  const { client } = await desk.busy("block");
  const frame = await desk.frame(desk.name, "0.1", 4);
  expect(frame.buses[0]!.problem).toStartWith("the owner does not answer");
  expect(frame.buses[0]!.owner!.pid).toBe(client.pid);
  await desk.fails(
    ["top", "nobody", "--once"],
    3,
    `There is no bus, hub or fleet named "nobody" in ${desk.directory}.`,
  );
}, 20_000);

test("top notices a client that stops answering while it watches", async () => {
  await using desk = new Desk();
  const { client } = await desk.busy();
  using observer = await BusObserver.open({ name: desk.name, directory: desk.directory });
  await until(() => observer.read().workers[0]?.inFlight !== 0, "the client has shown what is in flight");
  expect(observer.read().silentMs).toBe(0);
  process.kill(client.pid, "SIGSTOP");
  await until(() => observer.read().silentMs > 1_000, "it is silent");
  expect(observer.read().isThere).toBe(true);
  await client.kill();
  await until(() => !observer.read().isThere, "it has ended");
}, 20_000);

test("top counts the restarts of workers that the bus starts itself, and shows that they are paused", async () => {
  await using desk = new Desk();
  const entry = join(import.meta.dir, "fixtures/bus-worker.ts");
  const restart = { maxRestarts: 1, backoff: { initial: 5, factor: 10, max: 60_000, jitter: 0 } };
  const bus = await desk.bus({ workers: { entry, min: 1, max: 1, restart } });
  bus.supervisor!.on("paused", () => {});
  const first = bus.workers[0]!.pid;
  const look = async (): Promise<object> => (await desk.frame(desk.name, "0.05")).buses[0]!;
  expect(await look()).toMatchObject({ workers_restarted: 0, workers_died: 0 });
  process.kill(first, "SIGKILL");
  await until(() => bus.workers.some(({ pid }) => pid !== first), "another worker");
  const workers = bus.workers.map(({ pid }) => expect.objectContaining({ pid }));
  const counted = { workers_joined: 2, workers_died: 1, workers_restarted: 1, workers_paused: false };
  expect(await look()).toMatchObject({ ...counted, workers });
  const out = await desk.screen();
  expect(out).toMatch(/^ {2}total {2}JOINED 2 {2}DIED 1 {2}EVICTED 0 {2}RESTARTED 1 {2}TIMEOUTS 0 {2}MOVES \d+$/m);
  expect(out).not.toContain("paused");
  bus.supervisor!.on("joined", ({ pid }) => process.kill(pid, "SIGKILL")); // from now on it never stays up
  process.kill(bus.workers[0]!.pid, "SIGKILL");
  await until(() => bus.supervisor!.isDown, "the pause");
  expect(await look()).toMatchObject({ workers_paused: true });
  expect(await desk.screen()).toMatch(/^ {2}its workers .* are paused$/m);
}, 20_000);

/** `slotbus hub`, a worker, and a way to end both cleanly. */
async function site(desk: Desk): Promise<AsyncDisposable & { hub: Child; worker: Child; url: string }> {
  const args = ["hub", "--port", "0", "--name", "site", "--directory", desk.directory];
  const hub = new Child("../../src/cli/slotbus.ts", args, {});
  const url = /http:\S+?(?=;)/.exec(await hub.line("hub "))![0];
  const worker = new Child("hub-worker.ts", ["site", "w", desk.directory], {});
  await worker.line("connected");
  const end = async (): Promise<void> => {
    hub.process.kill("SIGCONT");
    await worker.kill("SIGTERM");
    await hub.kill("SIGTERM");
  };
  return { hub, worker, url, [Symbol.asyncDispose]: end };
}

test("top shows the requests of all workers of a hub, in 80 columns, and that a hub does not answer", async () => {
  await using desk = new Desk();
  await using hub = await site(desk);
  let asking = true;
  const asked = (async () => {
    for (; asking; await Bun.sleep(2)) await fetch(`${hub.url}w/users/7`);
  })();
  const frame = await desk.frame("site", "0.5");
  const out = await desk.screen("site");
  asking = false;
  await asked;
  const [own, ofWorker] = frame.buses;
  expect(own).toMatchObject({ kind: "hub", name: "site", problem: null });
  expect(ofWorker).toMatchObject({ kind: "bus", name: "site.w", workers: [{ pid: hub.worker.pid }] });
  expect(own!.requests_per_second).toBeGreaterThan(5);
  expect(own!.requests_per_second).toBe(ofWorker!.requests_per_second);
  expect(out).toMatch(/^ {2}REQ\/S +ERR\/S +QUEUE +WAITING +TIMEOUTS$/m);
  await stop(hub.hub);
  const { buses } = await desk.frame("site", "0.1", 4);
  const problem = "the owner does not answer: its process is stopped";
  expect(buses).toMatchObject([{ problem }, { problem }]);
}, 30_000);

/** `slotbus top` in a terminal. */
class TopInTerminal implements AsyncDisposable {
  text = "";
  readonly terminal: Bun.Terminal;
  readonly process: Bun.Subprocess;

  constructor(desk: Desk, interval: string, env: Record<string, string> = {}) {
    this.terminal = new Bun.Terminal({
      cols: 80,
      rows: 24,
      data: (_, bytes) => void (this.text += Buffer.from(bytes)),
    });
    this.process = Bun.spawn([process.execPath, program, "top", "--interval", interval], {
      terminal: this.terminal,
      // A terminal of a CI has no colours.
      env: { ...process.env, CI: undefined, SLOTBUS_DIR: desk.directory, TERM: "xterm-256color", ...env },
    });
  }

  /** The screen after each frame, without colours, as a terminal of that width shows it without wrapping. */
  frames(width = 80): string[][] {
    const frames: string[][] = [];
    let rows: string[] = [];
    let [x, y] = [0, 0];
    for (const [token] of this.text.matchAll(TOKEN)) {
      const row = rows[y] ?? "";
      if (token === "\r") x = 0;
      else if (token === "\n") y++;
      else if (token === `${ESCAPE}[H`) [x, y] = [0, 0];
      else if (token === `${ESCAPE}[K`) rows[y] = row.slice(0, x);
      else if (token === `${ESCAPE}[J`)
        frames.push((rows = [...rows.slice(0, y), ...(x > 0 ? [row.slice(0, x)] : [])]));
      else if (!token.startsWith(ESCAPE)) {
        rows[y] = row.slice(0, x) + token + row.slice(x + 1);
        x = Math.min(x + 1, width - 1);
      }
    }
    return frames;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    await this.process.exited;
    this.terminal.close();
  }
}

test("top redraws in place in 80 columns, ends with q and restores the terminal", async () => {
  await using desk = new Desk();
  await desk.busy();
  await using top = new TopInTerminal(desk, "0.1");
  await until(() => top.frames().length >= 3, "three frames");
  expect(top.text).toStartWith("\u001b[?1049h\u001b[?25l");
  const frame = top.frames()[1]!;
  expect(frame.length).toBeLessThanOrEqual(23);
  expect(frame.some((line) => line.includes("REQ/S"))).toBe(true);
  expect(frame[0]).toMatch(/^slotbus top {2}.{58} \d\d:\d\d:\d\d$/); // all 80 columns are used, even the last one
  for (const line of frame) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(80);
  expect(top.text).toContain(`${ESCAPE}[7m`); // colours, because it is a terminal
  top.terminal.write("q");
  expect(await top.process.exited).toBe(0);
  await until(() => top.text.endsWith("\u001b[?7h\u001b[?25h\u001b[?1049l"), "the terminal is as it was");
}, 20_000);

test("top shows rates in its first frame, then their course, and its keys in the last row", async () => {
  await using desk = new Desk();
  await desk.busy();
  await using slow = new TopInTerminal(desk, "60");
  await until(() => slow.frames().length >= 1, "a frame");
  const first = slow.frames()[0]!;
  const figures = first[first.findIndex((line) => line.includes("REQ/S")) + 1]!;
  expect(Number(/\S+/.exec(figures)![0].replaceAll(",", ""))).toBeGreaterThan(0);
  expect(first.at(-1)).toMatch(/^q quit {2}s sort: name {2}↑↓ scroll {2}space pause/);
  await using top = new TopInTerminal(desk, "0.05");
  const last = (): string[] => top.frames().at(-1) ?? [];
  for (const name of ["req/s", "p99"]) {
    const course = new RegExp(`^  ${name} +[▁-█ ]{4,} max `);
    await until(() => last().some((line) => course.test(line)), `the course of ${name}`);
  }
  top.terminal.resize(60, 24);
  top.process.kill("SIGWINCH");
  await until(() => last()[0]?.length === 60, "a narrow frame");
  for (const line of last()) expect(Bun.stringWidth(line)).toBeLessThanOrEqual(60);
}, 20_000);

test("top colours errors, full workers and idle buses", () => {
  const worker = { id: 7, pid: 8, in_flight: 1, concurrency: 2, spinning: null, age_ms: 9 };
  const figures = { requests_per_second: 5, errors_per_second: 0, queued: 0, waiting: 1, p50_us: 1, p99_us: 2 };
  const rest = {
    name: "x",
    kind: "bus",
    problem: null,
    owner: null,
    age_ms: 1,
    slots: {},
    clients: null,
    contentions: 0,
  };
  /** Styles of the line of figures and of the worker's line. */
  const styles = (bus: object, own: object = {}) => {
    const frame = {
      ...rest,
      ...figures,
      ...bus,
      workers: [{ ...worker, ...own }],
    } as unknown as Frame["buses"][number];
    const all = lines({ directory: "/", buses: [frame], fleets: [] });
    const after = (head: string) => {
      const style = all[all.findIndex((line) => line.includes(head)) + 1]!;
      return typeof style === "string" ? null : style[0];
    };
    return [after("REQ/S"), after("IN FLIGHT")];
  };
  expect(styles({})).toEqual([null, null]);
  expect(styles({ errors_per_second: 1, queued: 1 })).toEqual(["red", null]);
  expect(styles({ queued: 1 }, { in_flight: 2 })).toEqual(["yellow", "yellow"]);
  expect(styles({ requests_per_second: 0, waiting: 0 })).toEqual(["dim", null]);
});

test("top's keys sort the buses, pause the figures and scroll", async () => {
  await using desk = new Desk();
  await using idle = await SlotBus.create({ name: "an-idle-bus", directory: desk.directory });
  await desk.busy();
  await using top = new TopInTerminal(desk, "0.05");
  const last = (): string[] => top.frames().at(-1) ?? [];
  const order = (): string => `${last().flatMap((line) => /^bus (\S+)/.exec(line)?.[1] ?? [])}`;
  await until(() => order() === `an-idle-bus,${desk.name}`, "by name");
  top.terminal.write("s");
  await until(() => order().startsWith(desk.name), "by rate");
  expect(last().at(-1)).toContain("s sort: REQ/S");
  top.terminal.write(" ");
  await until(() => last().at(-1)!.includes("PAUSED"), "a pause");
  const body = (): string => last().slice(1).join("\n");
  const figures = last().filter((line) => /^ +\d/.test(line));
  const before = top.frames().length;
  await until(() => top.frames().length > before + 3, "more frames");
  expect(last().filter((line) => /^ +\d/.test(line))).toEqual(figures);
  top.terminal.resize(80, 9);
  top.process.kill("SIGWINCH");
  await until(() => last().length <= 8, "fewer rows");
  expect(body()).toContain(`bus ${desk.name}`);
  top.terminal.write("\u001b[B\u001b[B");
  await until(() => !body().includes(`bus ${desk.name}`), "the first bus is above the screen");
  top.terminal.write("\u001b[A\u001b[A\u001b[A");
  await until(() => body().includes(`bus ${desk.name}`), "it is back");
  expect(idle.closed).toBe(false);
}, 20_000);

test("top redraws at once when the terminal's size changes", async () => {
  await using desk = new Desk();
  await desk.busy();
  await using top = new TopInTerminal(desk, "60");
  await until(() => top.frames().length >= 1, "a frame");
  top.terminal.resize(44, 4);
  top.process.kill("SIGWINCH"); // Bun's terminal is not the controlling terminal, so the kernel sends no signal
  // The head and the bus's line fill their rows, and keep the last cell.
  const isNarrow = (lines: string[]): boolean => `${lines.map(({ length }) => length)}` === "44,0,44";
  await until(() => isNarrow(top.frames(44).at(-1)!), "a frame of the new size");
}, 20_000);

test("top ends with ^C and with SIGTERM, restores the terminal, and prints no colours with NO_COLOR", async () => {
  await using desk = new Desk();
  for (const end of ["\u0003", "SIGTERM"] as const) {
    await using top = new TopInTerminal(desk, "0.1", { NO_COLOR: "1" });
    await until(() => top.frames().length >= 1, "a frame");
    if (end === "SIGTERM") top.process.kill("SIGTERM");
    else top.terminal.write(end);
    expect(await top.process.exited).toBe(0);
    await until(() => top.text.endsWith("\u001b[?1049l"), "the terminal is as it was");
    expect(top.text).not.toContain(`${ESCAPE}[7m`); // the head is drawn inverse otherwise
  }
}, 20_000);

test("top restores the terminal before it says why it cannot go on", async () => {
  await using desk = new Desk();
  await using top = new TopInTerminal(desk, "0.1");
  await until(() => top.frames().length >= 1, "a frame");
  chmodSync(desk.directory, 0o755);
  expect(await top.process.exited).toBe(1);
  const said = /\[\?1049l[^]*must have mode 0700/;
  await until(() => said.test(top.text), "the reason, on the screen that stays");
}, 20_000);

// ---- observers ------------------------------------------------------------------------------------------------------

test("an observer maps the statistics read-only; reading neither wakes the client nor writes to what it can read", async () => {
  await using desk = new Desk();
  const client = desk.child("client.ts");
  await client.line("open");
  const before = mappings();
  const statistics = (): string[] =>
    readFileSync("/proc/self/maps", "latin1")
      .split("\n")
      .filter((line) => line.includes("memfd:slotbus-stats"));
  const others = statistics(); // of clients in this process
  const observer = await BusObserver.open({ name: desk.name, directory: desk.directory });
  const maps = statistics().filter((line) => !others.includes(line));
  expect(maps.length).toBeGreaterThan(0);
  for (const line of maps) expect(line).toMatch(/ r--s /);
  /** How often the threads of the client slept and woke. */
  const switches = (): number =>
    readdirSync(`/proc/${client.pid}/task`).reduce((sum, task) => {
      const status = readFileSync(`/proc/${client.pid}/task/${task}/status`, "latin1");
      return sum + Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)![1]);
    }, 0);
  const looks = 100_000;
  const rounds = Array.from({ length: 9 }, () => {
    const then = switches();
    for (let i = 0; i < looks / 10; i++) observer.read();
    return switches() - then;
  });
  expect(rounds.toSorted((a, b) => a - b)[4]).toBeLessThan(20); // the engine's own threads wake a few times a second
  observer.close();
  observer.close();
  expect(mappings()).toBe(before);
}, 60_000);

/** What would show a visit: the times of all files, and the locks on them. */
function traces({ directory }: Desk): object {
  const files = [directory, ...readdirSync(directory).map((file) => join(directory, file))].map((file) => {
    const { ino, size, mtimeNs, ctimeNs, mode } = statSync(file, { bigint: true });
    return [file, ...[ino, size, mtimeNs, ctimeNs, mode].map(String)];
  });
  const inodes = new Set(files.map(([, inode]) => inode));
  return { files: files.sort(), locks: locksOn(inodes) };
}

/**
 * Number of locks on these inodes. The kernel writes `/proc/locks` page by page: while other processes lock and unlock, a read
 * may have a lock twice or not at all. So two reads must agree.
 */
function locksOn(inodes: ReadonlySet<string | undefined>): number {
  const look = (): string => {
    const lines = readFileSync("/proc/locks", "latin1").split("\n");
    const ours = lines.filter((line) => inodes.has(/:(\d+) /.exec(line)?.[1]));
    return [...new Set(ours.map((line) => line.replace(/^\d+: /, "")))].sort().join("\n");
  };
  let before = look();
  for (let now = look(); now !== before; now = look()) before = now;
  return before.split("\n").length;
}

test("ls, top, stats, claims ls and clean --dry-run touch no file and hold no lock", async () => {
  await using desk = new Desk();
  await desk.pair(() => "");
  await using fleet = await Fleet.join({ name: desk.name, directory: desk.directory, rings: { events: {} } });
  (await Contest.open({ fleet })).tryClaim({ kind: "leader", label: "mailer" }, { ttl: 60_000 });
  const before = traces(desk);
  expect(before).toMatchObject({ locks: 2 }); // the locks of the bus and the member are visible
  for (const args of [["ls"], ["stats"], ["claims", "ls"], ["clean", "--dry-run"], ["top", "--once"]]) {
    const running = desk.run(args);
    let ended = false;
    void running.finally(() => (ended = true));
    let looks = 0;
    await until(() => {
      expect({ args, ...traces(desk) }).toEqual({ args, ...before });
      return ++looks > 1 && ended;
    }, `${args} ends`);
    expect((await running).code).toBe(0);
  }
}, 30_000);

test("a stopped client delays no command: each says so, with exit code 4 where it was asked for", async () => {
  await using desk = new Desk();
  const { client } = await desk.busy();
  await stop(client);
  const began = performance.now();
  await desk.fails(["stats", desk.name], 4, "does not answer");
  await desk.frame(desk.name, "0.1", 4);
  expect(await desk.screen()).toContain("the owner does not answer: its process is stopped");
  expect((await desk.run(["ls"])).out).toMatch(/ silent /);
  expect((await desk.run(["claims", "ls"])).code).toBe(0); // a fleet needs no process
  expect((await desk.run(["clean", "--dry-run"])).out).not.toContain("would remove");
  expect(performance.now() - began).toBeLessThan(12_000);
}, 30_000);

// ---- stats ----------------------------------------------------------------------------------------------------------

test("stats prints counters as text, as JSON and for Prometheus; with several buses it needs a name", async () => {
  await using desk = new Desk();
  await desk.fails(["stats"], 3, `There is no bus in ${desk.directory}.`);
  await desk.busy();
  const stats = await desk.json<{ name: string; counters: Record<string, number>; round_trip_us: { p50: number } }>([
    "stats",
  ]);
  expect(stats.name).toBe(desk.name);
  expect(stats.counters["responses"]).toBeGreaterThan(0);
  expect(stats.round_trip_us.p50).toBeGreaterThan(0);
  const { out } = await desk.run(["stats", desk.name, "--prometheus"]);
  expect(out).toMatch(new RegExp(`^slotbus_responses_total\\{bus="${desk.name}"\\} \\d+$`, "m"));
  expect((await desk.run(["stats"])).out).toMatch(/^workers joined +1$/m);
  await desk.bus({ name: `${desk.name}-2` });
  await desk.fails(["stats"], 2, "There are 2 buses");
  await desk.fails(["stats", "absent"], 3, "absent");
}, 20_000);

// ---- events, claims -------------------------------------------------------------------------------------------------

test("events tail prints what is published, by topic, as text and as JSON lines, and counts", async () => {
  await using desk = new Desk();
  await desk.busy();
  const { code, out } = await desk.run(["events", "tail", "--count", "3", "--json", "--topic", "order.*"]);
  expect(code).toBe(0);
  const events = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { topic: string; payload: { number: number } });
  expect(events.map(({ topic }) => topic)).toEqual(["order.paid", "order.paid", "order.paid"]);
  const first = events[0]!.payload.number;
  expect(events.map(({ payload }) => payload.number)).toEqual([first, first + 1, first + 2]);
  const human = await desk.run(["events", "tail", desk.name, "--oldest", "--count", "1"]);
  expect(human.out).toMatch(/^\d\d:\d\d:\d\d\.\d{3} order\.paid \{"eu":true\} \{"number":\d+\}\n$/);
  const raw = await desk.run(["events", "tail", "--raw", "--count", "1"]);
  expect(raw.out).toContain("order.paid");
  await desk.fails(["events", "tail", desk.name, "--ring", "none"], 2, "has no ring");
  await desk.fails(["events", "tail", "nobody"], 3, "nobody");
}, 30_000);

test("events tail ends when its reader has read enough", async () => {
  await using desk = new Desk();
  await desk.busy();
  const child = Bun.spawn([process.execPath, program, "events", "tail", "--oldest"], {
    env: { ...process.env, SLOTBUS_DIR: desk.directory },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const reader = child.stdout.getReader();
  expect(new TextDecoder().decode((await reader.read()).value)).toContain("order.paid");
  await reader.cancel();
  expect([await child.exited, await child.stderr.text()]).toEqual([0, ""]);
}, 20_000);

test("claims ls shows who holds what; release takes a lease away, but only with --force", async () => {
  await using desk = new Desk();
  const { client } = await desk.busy();
  const { leases } = await desk.json<{ leases: { owner: string; pid: number }[] }>(["claims", "ls"]);
  expect(leases).toMatchObject([{ kind: "leader", label: "mailer", owner: "boss", pid: client.pid }]);
  expect((await desk.run(["claims", "ls"])).out).toMatch(/^leader mailer +boss/m);
  await desk.fails(["claims", "release", "leader", "mailer"], 2, "--force");
  const released = await desk.run(["claims", "release", "leader", "mailer", "--force"]);
  expect([released.code, released.out]).toEqual([0, `Released; boss (pid ${client.pid}) held it.\n`]);
  await using fleet = await Fleet.observe({ name: desk.name, directory: desk.directory });
  expect((await Contest.open({ fleet })).list()).toEqual([]);
  await desk.fails(["claims", "release", "leader", "mailer", "--force"], 3, "Nobody holds leader mailer");
}, 20_000);

test("claims ls --follow prints held leases, then each change, as text and as JSON lines, until the fleet ends", async () => {
  await using desk = new Desk();
  const fleet = await Fleet.join({ name: desk.name, directory: desk.directory });
  const contest = await Contest.open({ fleet, owner: "boss" });
  const subject = { kind: "leader", label: "mailer" };
  const follow = (...args: string[]): { lines: string[]; ended: Promise<[number, string]> } => {
    const child = Bun.spawn([process.execPath, program, "claims", "ls", desk.name, "--follow", ...args], {
      env: { ...process.env, SLOTBUS_DIR: desk.directory },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const lines: string[] = [];
    const reading = (async () => {
      let text = "";
      for await (const chunk of child.stdout) {
        text += new TextDecoder().decode(chunk);
        lines.splice(0, Infinity, ...text.trim().split("\n"));
      }
    })();
    return { lines, ended: reading.then(async () => [await child.exited, await child.stderr.text()]) };
  };
  const first = contest.tryClaim(subject, { ttl: 60_000 });
  if (!first.claimed) throw new Error("held");
  const followers = [follow(), follow("--json")];
  const told = (count: number) => until(() => followers.every(({ lines }) => lines.length >= count), `${count} lines`);
  await told(1);
  first.guard.renew(120_000);
  await told(2);
  first.guard.release();
  await told(3);
  const second = contest.tryClaim(subject, { ttl: 300 });
  if (!second.claimed) throw new Error("held");
  await told(5);
  await fleet.close();
  for (const { ended } of followers) expect(await ended).toEqual([0, ""]);
  const types = ["claimed", "renewed", "released", "claimed", "expired"];
  const tokens = types.map((_, i) => (i < 3 ? first : second).guard.token);
  const [text, json] = followers.map(({ lines }) => lines);
  expect(json!.map((line) => JSON.parse(line))).toEqual(
    types.map((type, i) => ({
      time: expect.any(String),
      type,
      ...subject,
      owner: "boss",
      pid: process.pid,
      token: tokens[i],
    })),
  );
  for (const [i, line] of text!.entries()) {
    expect(line).toMatch(
      /^\d\d:\d\d:\d\d\.\d{3} \w+ +leader mailer by boss \(pid \d+\), token \d+(, \d+ (ms|s|m).* left)?$/,
    );
    expect(line.split(/ +/)[1]).toBe(types[i]!);
  }
}, 30_000);

test("claims ls --follow ends when the fleet's last member was killed", async () => {
  await using desk = new Desk();
  const { client } = await desk.busy();
  await client.kill();
  const follow = Bun.spawn([process.execPath, program, "claims", "ls", desk.name, "--follow"], {
    env: { ...process.env, SLOTBUS_DIR: desk.directory },
    stdio: ["ignore", "inherit", "inherit"],
    timeout: 10_000,
    killSignal: "SIGKILL",
  });
  expect(await follow.exited).toBe(0);
  await desk.clean();
}, 30_000);

// ---- clean ----------------------------------------------------------------------------------------------------------

test("clean keeps what is live or stopped, removes what was killed, and --dry-run removes nothing", async () => {
  await using desk = new Desk();
  const { client } = await desk.busy();
  const all = desk.files();
  expect(all.length).toBe(3);
  await stop(client);
  const lives = { action: "kept", reason: "it is alive" };
  expect(await desk.clean()).toMatchObject([lives, lives]);
  expect(desk.files()).toEqual(all);
  await client.kill();
  expect(await desk.clean(["--dry-run"])).toMatchObject([
    { kind: "bus", action: "would remove" },
    { kind: "fleet", action: "would remove" },
  ]);
  expect(desk.files()).toEqual(all);
  const removed = await desk.clean();
  expect(removed.map(({ action }) => action)).toEqual(["removed", "removed"]);
  expect(removed[0]!.reason).toContain(String(client.pid));
  expect(desk.files()).toEqual([]);
  expect(await desk.clean()).toEqual([]);
}, 20_000);

test("clean never removes a locked name, as of a client that is still starting, and does not trust process ids", async () => {
  await using desk = new Desk();
  const dir = native.sb_dir_open(cString(desk.directory), 0, 1);
  const lock = native.sb_name_lock(dir, cString("starting"), new Uint32Array(1)); // it has no socket yet
  expect(lock).toBeGreaterThanOrEqual(0);
  try {
    await desk.bus({ name: "alive" });
    await using fleet = await Fleet.join({ name: "crew", directory: desk.directory });
    expect(fleet.members().length).toBe(1);
    writeFileSync(join(desk.directory, "alive.lock"), "4194304\n"); // no process has that pid
    writeFileSync(join(desk.directory, "dead.lock"), `${process.pid}\n`, { mode: 0o600 }); // it is another process's pid now
    const planned = await desk.clean(["--dry-run"]);
    expect(planned.map(({ name, action }) => [name, action])).toEqual([
      ["alive", "kept"],
      ["dead", "would remove"],
      ["starting", "kept"],
      ["crew", "kept"],
    ]);
    const done = await desk.clean();
    const what = ({ kind, name, reason }: Cleaned): object => ({ kind, name, reason });
    expect(done.map(what)).toEqual(planned.map(what));
    expect(done.map(({ action }) => action)).toEqual(["kept", "removed", "kept", "kept"]);
    expect(desk.files()).toEqual(["alive.lock", "alive.sock", "crew.fleet", "starting.lock"]);
    await using look = await Fleet.observe({ name: "crew", directory: desk.directory });
    expect(look.members().length).toBe(1);
  } finally {
    native.sb_name_unlock(dir, cString("starting"), -1, lock);
    native.sb_fd_close(dir);
  }
}, 20_000);

test("ls and clean show a shared name once; clean removes what its dead left, and nothing of the living", async () => {
  await using desk = new Desk();
  const at = (file: string): string => join(desk.directory, file);
  const dir = native.sb_dir_open(cString(desk.directory), 0, 0);
  const door = Door.open(dir, "shop", false)!;
  expect(await desk.entries()).toEqual([]); // a worker that waits for a bus
  const living = desk.files();
  const lock = await NameLock.share(desk.directory, "shop", false);
  living.push("shop.lock", "shop@0.sock");
  const dead = ["shop@3.sock", "shop@4.new", `shop@${"0".repeat(16)}.door`];
  for (const file of ["shop@0.sock", ...dead]) writeFileSync(at(file), "");
  const owned = ["gone.new", "gone.sock", "gone@1.sock"];
  for (const file of owned) writeFileSync(at(file), "");
  const all = desk.files();
  try {
    expect((await desk.entries()).map(({ name }) => name)).toEqual(["shop", "gone"]);
    const reason = (count: number): string => `${count} ${count === 1 ? "file" : "files"} of dead clients or workers`;
    const planned = await desk.clean(["--dry-run"]);
    expect(planned).toEqual([
      { kind: "bus", name: "shop", action: "kept", reason: "it is alive, with 1 client" },
      { kind: "bus", name: "gone", action: "would remove", reason: "nobody holds its lock" },
      { kind: "bus", name: "gone", action: "would remove", reason: reason(1) },
      { kind: "bus", name: "shop", action: "would remove", reason: reason(3) },
    ]);
    expect(desk.files()).toEqual(all);
    expect((await desk.clean()).map(({ action }) => action)).toEqual(["kept", "removed", "removed", "removed"]);
    expect(desk.files()).toEqual(living.toSorted());
    expect(await desk.clean()).toEqual([planned[0]!]);
    expect(native.sb_name_probe(dir, cString("shop"))).toBe(C.SB_NAME_SHARED);
  } finally {
    lock.release();
    door.close();
    native.sb_fd_close(dir);
  }
  expect(desk.files()).toEqual([]);
}, 20_000);

test("clean keeps a stopped hub, its worker's bus and its control socket", async () => {
  await using desk = new Desk();
  await using hub = await site(desk);
  await stop(hub.hub);
  const files = desk.files();
  expect(files).toEqual(["site.control", "site.lock", "site.sock", "site.w.lock", "site.w.sock"]);
  const reason = "it is alive";
  expect(await desk.clean()).toMatchObject([
    { name: "site", reason },
    { name: "site.w", reason },
  ]);
  expect(desk.files()).toEqual(files);
}, 20_000);

test("clean keeps what it cannot identify, and says so with exit code 1", async () => {
  await using desk = new Desk();
  writeFileSync(join(desk.directory, "odd.fleet"), "garbage", { mode: 0o600 });
  desk.leftovers.push("odd.fleet");
  expect(await desk.clean([], 1)).toMatchObject([{ kind: "fleet", name: "odd", action: "kept" }]);
  expect(desk.files()).toEqual(["odd.fleet"]);
});

// ---- a shared bus ---------------------------------------------------------------------------------------------------

/** As many clients of a shared bus in this process, and two workers. Client K has sent 10 (K + 1) requests. */
async function shop(desk: Desk, count: number): Promise<SlotBus[]> {
  const buses: SlotBus[] = [];
  for (let i = 0; i < count; i++) buses.push(await desk.client());
  for (let i = 0; i < 2; i++) await desk.worker(({ body }) => body);
  await Promise.all(buses.map((bus) => bus.ready({ workers: 2 })));
  for (const [i, bus] of buses.entries())
    for (let n = 0; n < 10 * (i + 1); n++) await bus.request({ path: "/", body: "x" });
  return buses;
}

interface Stats {
  counters: Record<string, number>;
  workers: { pid: number }[];
  round_trip_us: { samples: number };
  clients: (Stats & { client: number; problem: string | null })[] | null;
}

test("ls and stats show a shared bus once: its clients, each worker once, and sums", async () => {
  await using desk = new Desk();
  await shop(desk, 3);
  const [bus, ...others] = await desk.entries();
  expect(others).toEqual([]);
  expect(bus).toMatchObject({ name: desk.name, state: "alive", members: 2, slots: { used: 0, total: 3 * 2 * 32 } });
  const each = { state: "alive", pid: process.pid, workers: 2, used: 0, problem: null };
  expect(bus!.clients).toEqual([0, 1, 2].map((client) => expect.objectContaining({ client, ...each })));
  expect((await desk.run(["ls"])).out).toMatch(new RegExp(`${desk.name} +bus +alive +${process.pid} +\\d+ +3 +2 `));

  const stats = await desk.json<Stats>(["stats"]);
  expect(stats.counters).toMatchObject({ responses: 60, workers_joined: 6 });
  expect([stats.workers.length, stats.round_trip_us.samples]).toEqual([2, 60]);
  expect(stats.clients!.map(({ client, counters }) => [client, counters["responses"]])).toEqual([
    [0, 10],
    [1, 20],
    [2, 30],
  ]);
  const one = await desk.json<Stats>(["stats", `${desk.name}@1`]);
  expect([one.counters["responses"], one.clients]).toEqual([20, null]);
  const { out } = await desk.run(["stats", desk.name]);
  expect(out).toContain(`bus ${desk.name}, 3 clients, `);
  expect(out).toMatch(new RegExp(`\n@2 +${process.pid} +\\d+ +30 +0 +0 +0 `));
}, 20_000);

test("stats --prometheus has one family for all clients, with a label that sums can leave out", async () => {
  await using desk = new Desk();
  const buses = await shop(desk, 2);
  const { out } = await desk.run(["stats", desk.name, "--prometheus"]);
  const families = out.split("\n").filter((line) => line.startsWith("# TYPE"));
  expect(new Set(families).size).toBe(families.length);
  for (const [client, responses] of [10, 20].entries()) {
    const sample = `slotbus_responses_total{bus="${desk.name}",client="${client}"} ${responses}\n`;
    expect(out).toContain(sample);
    expect(buses[client]!.metrics()).toContain(sample);
    expect((await desk.run(["stats", `${desk.name}@${client}`, "--prometheus"])).out).toContain(sample);
  }
}, 20_000);

test("top has the sums and a column for each client; those that do not fit are counted", async () => {
  await using desk = new Desk();
  const buses = await shop(desk, 12);
  await using asking = desk.asking(buses[1]!);
  const [bus] = (await desk.frame(desk.name, "0.3")).buses;
  const rates = bus!.clients!.map((one) => one.requests_per_second);
  expect(rates[1]).toBeGreaterThan(0);
  expect(rates.filter((perSecond) => perSecond > 0)).toEqual([rates[1]!]);
  expect(bus).toMatchObject({ requests_per_second: rates[1], workers: [{ id: null, pid: process.pid }, {}] });
  await asking.stop();
  const screen = await desk.screen(desk.name);
  expect(screen).toContain(`bus ${desk.name}  12 clients, 2 workers, `);
  const [columns] = /^ +ALL +@0.*$/m.exec(screen)!;
  const shown = columns.trim().split(/ +/).length - 1;
  expect(shown).toBeGreaterThan(3);
  expect(screen).toContain(`  and ${12 - shown} clients more`);
  expect(screen).toMatch(/^ {2}REQ\/S +0 +0 /m);
}, 20_000);

test("ls, stats and top name a stopped client, and show the others", async () => {
  await using desk = new Desk();
  desk.leavesKilled = true;
  const child = desk.child("shared-client.ts", "5");
  await child.line("open");
  await shop(desk, 1);
  await child.line("right 5");
  await stop(child);
  const [bus] = await desk.entries();
  expect(bus).toMatchObject({ state: "alive", problem: null, members: 2, clients: [{ state: "silent" }, { used: 0 }] });
  expect(bus!.clients![0]!.problem).toBe("the client does not answer");
  const { code, out, err } = await desk.run(["stats", desk.name]);
  expect([code, err]).toEqual([0, `slotbus: ${desk.name}@0: the client does not answer.\n`]);
  expect(out).toMatch(/^responses +10$/m);
  const top = await desk.run(["top", desk.name, "--once", "--interval", "0.1"]);
  expect([top.code, top.err]).toEqual([0, ""]);
  expect(top.out).toContain("  client @0: the client does not answer\n");
}, 60_000);

test("when no client of a shared bus answers, ls calls it silent, stats and top exit with 4", async () => {
  await using desk = new Desk();
  desk.leavesKilled = true;
  const child = desk.child("shared-client.ts");
  await child.line("open");
  await stop(child);
  expect(await desk.entries()).toMatchObject([
    { state: "silent", problem: "the client does not answer", members: null },
  ]);
  await desk.fails(["stats", desk.name], 4, `No client of bus "${desk.name}" answers`);
  expect((await desk.frame(desk.name, "0.1", 4)).buses).toMatchObject([{ problem: "the client does not answer" }]);
  const { findings } = await desk.json<{ findings: Finding[] }>(["doctor"]);
  expect(findings.find(({ name }) => name === "buses")!.detail).toBe(`1 bus; shared: ${desk.name} with 1 client`);
  expect((await desk.run(["ls"])).out).toContain(`bus ${desk.name}@0: the client does not answer\n`);
}, 60_000);
