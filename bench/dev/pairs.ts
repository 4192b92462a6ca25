/**
 * Measures what pairs of a client and a worker cost: time to attach, memory, descriptors, wake-ups while idle, and the poll of a
 * worker with 8 clients against the poll with one.
 *
 *     bun bench/dev/pairs.ts
 *
 * `bun bench/dev/pairs.ts serve DIRECTORY COUNT` starts the process of the workers.
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

const [, , what, directory, count] = process.argv;
if (what === "serve") {
  await serve(directory!, Number(count));
} else {
  console.log(`load ${readFileSync("/proc/loadavg", "latin1").trim()}`);
  await measure("owned", 1, 64);
  await measure("shared", 1, 64);
  await measure("shared", 8, 8);
  await measurePolls();
  console.log(`load ${readFileSync("/proc/loadavg", "latin1").trim()}`);
}
