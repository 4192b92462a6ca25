/**
 * Measures what pairs of a client and a worker cost: time to attach, memory, descriptors, wake-ups while idle, and the poll of a
 * worker with 8 clients against the poll with one.
 *
 *     bun bench/dev/pairs.ts
 *     bun bench/dev/pairs.ts idle [CLIENTS WORKERS]
 *
 * `idle` starts a process for each client and each worker (default: 64 of each) and compares their wake-ups with
 * the wake-ups of programs that have as many sockets of Bun and no slotbus. The other arguments start such processes: `serve`, `client`, `worker`,
 * `sockets`.
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SlotBus, SlotWorker } from "../../src/index.ts";
import { cString, native, type Pointer, view } from "../../src/native/library.ts";

const NAME = "pairs";
const IDLE_MS = 2_000;
const SLOTS = 32;
/** Polls of one run. */
const POLLS = 32_000;

/** Resident KiB of all regions that a process has mapped, its descriptors, and its voluntary context switches. */
function usage(pid: number): { kib: number; fds: number; switches: number } {
  const maps = readFileSync(`/proc/${pid}/smaps`, "latin1").split(/^(?=[0-9a-f]+-)/m);
  const regions = maps.filter((map) => map.includes("/memfd:slotbus ("));
  const kib = regions.reduce((sum, map) => sum + Number(/^Rss: +(\d+)/m.exec(map)![1]), 0);
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  const switches = Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)![1]);
  return { kib, fds: readdirSync(`/proc/${pid}/fd`).length, switches };
}

async function measure(how: "owned" | "shared", clients: number, workers: number): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-pairs-"));
  const open = how === "owned" ? SlotBus.create : SlotBus.connect;
  const buses: SlotBus[] = [];
  for (let i = 0; i < clients; i++) buses.push(await open({ name: NAME, directory }));
  const child = Bun.spawn([process.execPath, import.meta.path, "serve", directory, `${workers}`], {
    stdin: "pipe",
    stdout: "pipe",
  });
  const output = child.stdout.getReader();
  const line = async (): Promise<string> => new TextDecoder().decode((await output.read()).value);
  await line();
  const before = [usage(process.pid), usage(child.pid)];
  child.stdin.write("go\n");
  child.stdin.flush();
  const attached = Number(await line());
  await Promise.all(buses.map((bus) => bus.ready({ workers })));
  const refused = buses.reduce((sum, bus) => sum + bus.stats().peersRefused, 0);
  await Bun.sleep(500);
  const idle = [usage(process.pid), usage(child.pid)];
  await Bun.sleep(IDLE_MS);
  const later = [usage(process.pid), usage(child.pid)];
  for (const bus of buses)
    for (const { id } of bus.workers) await bus.request({ path: "/", body: "x" }, { worker: id });
  const used = [usage(process.pid), usage(child.pid)];
  const pairs = clients * workers;
  const each = (what: "kib" | "fds", now: typeof idle): string =>
    now.map((side, i) => ((side[what] - before[i]![what]) / pairs).toFixed(1)).join(" / ");
  console.log(
    `${how}, ${clients} x ${workers}: attach ${(attached / pairs).toFixed(2)} ms a pair, ${refused} refused;`,
  );
  console.log(`  a pair, client / worker: resident ${each("kib", idle)} KiB idle, ${each("kib", used)} KiB used;`);
  console.log(`  descriptors ${each("fds", idle)}; switches in ${IDLE_MS} ms idle, all clients / all workers:`);
  console.log(`  ${later.map(({ switches }, i) => switches - idle[i]!.switches).join(" / ")}`);
  for (const bus of buses) await bus.close({ timeout: 0 });
  child.kill();
  await child.exited;
  rmSync(directory, { recursive: true });
}

async function serve(directory: string, count: number): Promise<void> {
  console.log("up");
  await Bun.stdin.stream().getReader().read();
  const started = performance.now();
  const workers = await Promise.all(Array.from({ length: count }, () => SlotWorker.open({ name: NAME, directory })));
  for (const worker of workers) worker.serve(() => "x");
  console.log(performance.now() - started);
}

interface Pair {
  client: Pointer;
  link: number;
  worker: Pointer;
}

/** A client and a worker of the library alone. */
async function attach(directory: string, name: string): Promise<Pair> {
  const client = native.sb_client_open(SLOTS, 65_536, 4_096, 16_384, 0, 1) as Pointer;
  const { promise, resolve } = Promise.withResolvers<void>();
  let link = -1;
  const data = (socket: unknown): void => {
    if (link < 0) link = native.sb_link_offer(client, (socket as { fd: number }).fd, SLOTS);
    else if (native.sb_link_start(client, link) === 0) resolve();
  };
  Bun.listen({ unix: join(directory, `${name}.sock`), socket: { data } }).unref();
  const dir = native.sb_dir_open(cString(directory), 0, 0);
  const worker = native.sb_worker_open(dir, cString(name), SLOTS) as Pointer;
  while (native.sb_worker_step(worker, new Uint32Array(2)) !== 0) await Bun.sleep(1);
  await promise;
  native.sb_fd_close(dir);
  return { client, link, worker };
}

/** Returns the time of a poll of `pairs` without a request, and of a poll that claims a request of the first pair, in ns. */
function polls(pairs: readonly Pair[]): { empty: number; busy: number } {
  const sessions = native.sb_sessions_open() as Pointer;
  for (const { worker } of pairs) native.sb_sessions_add(sessions, worker);
  const { client, link, worker } = pairs[0]!;
  const token = new Uint32Array(view(native.sb_worker_request(worker) as number, 40));
  let [empty, busy] = [Infinity, Infinity];
  for (let run = 0; run < 20; run++) {
    let start = Bun.nanoseconds();
    for (let i = 0; i < POLLS; i++) native.sb_sessions_take(sessions, 0, 1);
    empty = Math.min(empty, (Bun.nanoseconds() - start) / POLLS);
    let time = 0;
    for (let i = 0; i < POLLS / SLOTS; i++) {
      for (let slot = 0; slot < SLOTS; slot++)
        native.sb_slot_publish(client, link, native.sb_slot_reserve(client, link), 0, 8, 8, 8, 0, 1);
      const claims: [slot: number, token: number][] = [];
      start = Bun.nanoseconds();
      for (let n = 0; n < SLOTS; n++) {
        native.sb_sessions_take(sessions, 0, 1);
        claims.push([token[0]!, token[1]!]);
      }
      time += Bun.nanoseconds() - start;
      for (const [slot, of] of claims) native.sb_slot_complete(worker, slot, of, 8, 8, 8, 200);
      native.sb_client_poll(client, 0);
      for (const [slot] of claims) native.sb_slot_release(client, link, slot);
    }
    busy = Math.min(busy, time / POLLS);
  }
  native.sb_sessions_close(sessions);
  return { empty, busy };
}

async function measurePolls(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-pairs-"));
  const pairs = await Promise.all(Array.from({ length: 8 }, (_, i) => attach(directory, `pair-${i}`)));
  const ratios: { empty: number; busy: number }[] = [];
  for (let round = 0; round < 5; round++) {
    const [one, eight] = [polls(pairs.slice(0, 1)), polls(pairs)];
    ratios.push({ empty: eight.empty / one.empty, busy: eight.busy / one.busy });
    const text = ({ empty, busy }: typeof one): string =>
      `${empty.toFixed(0)} ns empty, ${busy.toFixed(0)} ns with a claim`;
    console.log(`poll of one client: ${text(one)}; of 8 clients, 7 of them idle: ${text(eight)}`);
  }
  const median = (what: "empty" | "busy"): string =>
    ratios
      .map((one) => one[what])
      .sort((a, b) => a - b)[2]!
      .toFixed(2);
  console.log(`8 clients ÷ one: ${median("empty")} empty, ${median("busy")} with a claim`);
  rmSync(directory, { recursive: true });
}

/** Programs without slotbus that idle beside the others. */
const CONTROLS = 8;
/** Time after which Bun's own timers, for its garbage collector, are as rare as they get, in ms. */
const SETTLE_MS = 45_000;
const WATCH_MS = 20_000;

/** Voluntary context switches of each thread of a process: of its main thread, and by name. */
function threads(pid: number): Map<string, number> {
  const found = new Map<string, number>();
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "latin1");
    const name = Number(thread) === pid ? "main" : /^Name:\s+(.*)/m.exec(status)![1]!;
    const switches = Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)![1]);
    found.set(name, (found.get(name) ?? 0) + switches);
  }
  return found;
}

/** Lines such as "main 1.25, mi-scavenger 1.50": switches per process and second. */
function switches(before: readonly Map<string, number>[], after: readonly Map<string, number>[]): string {
  const sums = new Map<string, number>();
  after.forEach((threadsNow, i) => {
    for (const [name, now] of threadsNow)
      sums.set(name, (sums.get(name) ?? 0) + Math.max(0, now - (before[i]!.get(name) ?? 0)));
  });
  const each = (sum: number): string => (sum / after.length / (WATCH_MS / 1_000)).toFixed(2);
  return [...sums]
    .filter(([, sum]) => sum > 0)
    .map(([name, sum]) => `${name} ${each(sum)}`)
    .join(", ");
}

/** Resident bytes of a process without its regions, and its descriptors. */
function weight(pid: number): { mib: number; region: number; fds: number } {
  const { kib, fds } = usage(pid);
  const rss = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))![1]);
  return { mib: (rss - kib) / 1024, region: kib, fds };
}

/** Measures idle processes: one for each client, for each worker, and the controls. */
async function idle(clients: number, workers: number): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-pairs-"));
  const start = (what: string, count: number, of: number): ReturnType<typeof Bun.spawn>[] =>
    Array.from({ length: count }, () =>
      Bun.spawn([process.execPath, import.meta.path, what, directory, `${of}`], { stdout: "pipe" }),
    );
  const groups = {
    "sockets of Bun alone": start("sockets", CONTROLS, Math.max(clients, workers)),
    clients: start("client", clients, workers),
    workers: start("worker", workers, clients),
  };
  const all = Object.values(groups).flat();
  const started = performance.now();
  await Promise.all(all.map((child) => (child.stdout as ReadableStream<Uint8Array>).getReader().read()));
  console.log(`${clients} x ${workers} attached and used after ${((performance.now() - started) / 1000).toFixed(0)} s`);
  await Bun.sleep(SETTLE_MS);
  const before = all.map(({ pid }) => threads(pid));
  await Bun.sleep(WATCH_MS);
  const after = all.map(({ pid }) => threads(pid));
  let first = 0;
  for (const [what, { length }] of Object.entries(groups)) {
    const [from, to] = [first, (first += length)];
    const weights = all.slice(from, to).map(({ pid }) => weight(pid));
    const mean = (of: "mib" | "region" | "fds"): number => weights.reduce((sum, one) => sum + one[of], 0) / length;
    const other = what === "clients" ? workers : clients;
    console.log(`${what}: switches per process and second: ${switches(before.slice(from, to), after.slice(from, to))}`);
    console.log(
      `  ${mean("mib").toFixed(0)} MiB without regions, ${mean("fds").toFixed(0)} descriptors; ` +
        `${(mean("region") / other).toFixed(0)} KiB of each region resident`,
    );
  }
  for (const child of all) child.kill("SIGKILL");
  await Promise.all(all.map((child) => child.exited));
  rmSync(directory, { recursive: true });
}

async function idleClient(directory: string, workers: number): Promise<void> {
  const bus = await SlotBus.connect({ name: NAME, directory });
  bus.ref();
  await bus.ready({ workers, timeout: 200_000 });
  for (const { id } of bus.workers) await bus.request({ path: "/", body: "x" }, { worker: id });
  console.log("idle");
}

async function idleWorker(directory: string): Promise<void> {
  const worker = await SlotWorker.open({ name: NAME, directory, timeout: 200_000 });
  worker.serve(() => "x");
  console.log("idle");
}

/** Opens `count` sockets of Bun, in pairs, and nothing else. */
async function idleSockets(directory: string, count: number): Promise<void> {
  const unix = join(directory, `sockets-${process.pid}`);
  const sockets: unknown[] = [];
  Bun.listen({ unix, socket: { open: (socket) => void sockets.push(socket), data() {} } });
  for (let i = 0; i < count / 2; i++) sockets.push(await Bun.connect({ unix, socket: { data() {} } }));
  console.log("idle");
}

const [, , what, ...rest] = process.argv;
const [directory, count] = rest;
if (what === "serve") {
  await serve(directory!, Number(count));
} else if (what === "client") {
  await idleClient(directory!, Number(count));
} else if (what === "worker") {
  await idleWorker(directory!);
} else if (what === "sockets") {
  await idleSockets(directory!, Number(count));
} else if (what === "idle") {
  console.log(`load ${readFileSync("/proc/loadavg", "latin1").trim()}`);
  await idle(Number(rest[0] ?? 64), Number(rest[1] ?? 64));
} else {
  console.log(`load ${readFileSync("/proc/loadavg", "latin1").trim()}`);
  await measure("owned", 1, 64);
  await measure("shared", 1, 64);
  await measure("shared", 8, 8);
  await measurePolls();
  console.log(`load ${readFileSync("/proc/loadavg", "latin1").trim()}`);
}
