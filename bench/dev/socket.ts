/**
 * Measures the socket wire beside a raw unix socket, in short rounds that take turns: 64 B and 1 MiB, one at a time and 32 in flight,
 * and 64 B while bodies of 100 MB are on the way. Then Node to Node beside the IPC channel of `child_process`, 64 B, 32 in flight.
 * Prints medians, and processor time per request of both main threads together. `--node` takes the path of a Node:
 *
 *     bun bench/dev/socket.ts [--rounds 7] [--node node] [--only "1 MiB"]
 */

import { fork } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

/** Sends a request and resolves when its response has come. */
type Call = () => Promise<unknown>;

interface Rates {
  /** Requests per second. */
  readonly rate: number;
  /** Median and 99th percentile of the time of a request, in µs. */
  readonly p50: number;
  readonly p99: number;
  /** Processor time per request, in µs. */
  readonly cpu: number;
}

const ROUND_MS = 400;

const none: Rates = { rate: 0, p50: 0, p99: 0, cpu: 0 };

/** Sends requests for {@link ROUND_MS}. `pids`: the processes whose main threads are counted. */
async function round(call: Call, inFlight: number, pids: readonly number[]): Promise<Rates> {
  const took: number[] = [];
  const before = cpuOf(pids);
  const start = performance.now();
  const end = start + ROUND_MS;
  const loop = async (): Promise<void> => {
    for (let now = performance.now(); now < end;) {
      await call();
      const then = performance.now();
      took.push(then - now);
      now = then;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, loop));
  const seconds = (performance.now() - start) / 1_000;
  const cpu = (cpuOf(pids) - before) / took.length;
  took.sort((a, b) => a - b);
  const at = (share: number): number => 1_000 * took[Math.floor(share * (took.length - 1))]!;
  return { rate: took.length / seconds, p50: at(0.5), p99: at(0.99), cpu };
}

/** Processor time of main threads, in µs. */
function cpuOf(pids: readonly number[]): number {
  const of = (pid: number): number => Number(readFileSync(`/proc/${pid}/schedstat`, "latin1").split(" ")[0]) / 1_000;
  return pids.reduce((sum, pid) => sum + of(pid), 0);
}

function median(values: readonly Rates[]): Rates {
  const middle = (pick: (rates: Rates) => number): number =>
    values.map(pick).sort((a, b) => a - b)[values.length >> 1] ?? 0;
  return {
    rate: middle((r) => r.rate),
    p50: middle((r) => r.p50),
    p99: middle((r) => r.p99),
    cpu: middle((r) => r.cpu),
  };
}

function print(what: string, { rate, p50, p99, cpu }: Rates): void {
  const cells = [rate.toFixed(0), p50.toFixed(1), p99.toFixed(0), cpu.toFixed(1)].map((cell) => cell.padStart(10));
  console.log(`${what.padEnd(34)}${cells.join("")}`);
}

function printHeader(): void {
  console.log(`\n${"".padEnd(34)}${["req/s", "p50 µs", "p99 µs", "CPU µs"].map((cell) => cell.padStart(10)).join("")}`);
}

const MIB = 1_048_576;
const CASES = [
  { what: "64 B", bytes: 64, inFlight: 1 },
  { what: "64 B x 32", bytes: 64, inFlight: 32 },
  { what: "1 MiB", bytes: MIB, inFlight: 1 },
  { what: "1 MiB x 32", bytes: MIB, inFlight: 32 },
];
const LARGE_BYTES = 100_000_000;
const BESIDE = "64 B beside 100 MB";

async function inBun(rounds: number, only: string): Promise<void> {
  const { start, startSlotbusSocket, Workspace } = await import("../systems.ts");
  using workspace = new Workspace();
  const contestants = [
    await start("unix-socket", workspace),
    await startSlotbusSocket(workspace, LARGE_BYTES),
  ] as const;
  printHeader();
  for (const { what, bytes, inFlight } of CASES.filter((one) => one.what.includes(only))) {
    const body = new Uint8Array(bytes).fill(7);
    const all: [Rates[], Rates[]] = [[], []];
    for (let n = -1; n < rounds; n++) {
      for (const [i, { call, answerer }] of contestants.entries()) {
        const rates = await round(() => call(body), inFlight, [process.pid, answerer.pid]);
        if (n >= 0) all[i as 0 | 1].push(rates);
      }
    }
    const [raw, ours] = all.map(median) as [Rates, Rates];
    print(`${what}, raw`, raw);
    print(`${what}, slotbus`, ours);
    console.log(
      `  ours ÷ raw: rate ${(ours.rate / raw.rate).toFixed(2)}, raw ÷ ours: p50 ${(raw.p50 / ours.p50).toFixed(2)}`,
    );
  }
  if (BESIDE.includes(only)) await beside(contestants[1], rounds);
  for (const contestant of contestants) await contestant.stop();
}

/** Small requests alone and while large ones are on the way. */
async function beside(ours: { call(body: Uint8Array): Promise<unknown>; answerer: { pid: number } }, rounds: number) {
  const [small, large] = [new Uint8Array(64), new Uint8Array(LARGE_BYTES)];
  const pids = [process.pid, ours.answerer.pid];
  const [alone, mixed]: [Rates[], Rates[]] = [[], []];
  for (let n = 0; n < rounds; n++) {
    alone.push(await round(() => ours.call(small), 1, pids));
    let isOver = false;
    const body = (async () => {
      while (!isOver) await ours.call(large);
    })();
    await Bun.sleep(20);
    mixed.push(await round(() => ours.call(small), 1, pids));
    isOver = true;
    await body;
  }
  print("64 B alone", median(alone));
  print(BESIDE, median(mixed));
  console.log(`  p99 beside ÷ alone: ${(median(mixed).p99 / median(alone).p99).toFixed(1)}`);
}

// ---- Node -----------------------------------------------------------------------------------------------------------

const SERVE = "serve";
const text = "x".repeat(64);

/** The child process of a client: answers by slotbus if there is a directory, else by IPC. */
async function answer(directory: string): Promise<void> {
  process.on("disconnect", () => process.exit());
  if (directory === "") return void process.on("message", (message) => process.send!(message));
  const { SlotWorker } = await import("../../src/index.ts");
  const worker = await SlotWorker.open({ name: "node", directory, timeout: 10_000 });
  worker.serve((request) => request.text());
}

/** The client: asks its child by slotbus and by IPC, in turns. */
async function inNode(rounds: number): Promise<void> {
  const { SlotBus } = await import("../../src/index.ts");
  const directory = mkdtempSync(join(tmpdir(), "slotbus-bench-"));
  const bus = await SlotBus.create({ name: "node", directory });
  const worker = fork(import.meta.filename, [SERVE, directory]);
  const echo = fork(import.meta.filename, [SERVE, ""]);
  const waiting = new Map<number, () => void>();
  echo.on("message", ({ id }: { id: number }) => {
    waiting.get(id)!();
    waiting.delete(id);
  });
  let id = 0;
  const byIpc: Call = () =>
    new Promise<void>((resolve) => {
      waiting.set(++id, resolve);
      echo.send({ id, body: text });
    });
  const byBus: Call = async () => (await bus.request({ path: "/", body: text })).text();
  try {
    await bus.ready();
    const [ours, theirs]: [Rates[], Rates[]] = [[], []];
    for (let n = -1; n < rounds; n++) {
      const [one, other] = [
        await round(byBus, 32, [process.pid, worker.pid!]),
        await round(byIpc, 32, [process.pid, echo.pid!]),
      ];
      if (n >= 0) ours.push(one);
      if (n >= 0) theirs.push(other);
    }
    print(`Node ${process.versions.node} x 32, ipc`, median(theirs));
    print(`Node ${process.versions.node} x 32, slotbus`, median(ours));
    console.log(`  ours ÷ ipc: rate ${(median(ours).rate / (median(theirs) ?? none).rate).toFixed(2)}`);
  } finally {
    worker.kill();
    echo.kill();
    await bus.close({ timeout: 100 });
    rmSync(directory, { recursive: true, force: true });
  }
}

const [role, place = ""] = process.argv.slice(2);
if (role === SERVE) {
  await answer(place);
} else {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "7" },
      node: { type: "string", default: "node" },
      only: { type: "string", default: "" },
    },
  });
  const rounds = Number(values.rounds);
  if (typeof Bun === "undefined") {
    await inNode(rounds);
  } else {
    await inBun(rounds, values.only);
    if ("Node".includes(values.only)) {
      const { exitCode } = Bun.spawnSync([values.node, import.meta.filename, "--rounds", values.rounds], {
        stdio: ["ignore", "inherit", "inherit"],
      });
      process.exitCode = exitCode;
    }
    console.log(`load ${loadavg()[0]!.toFixed(1)}`);
  }
}
