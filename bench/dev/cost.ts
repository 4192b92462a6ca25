/**
 * Measures the CPU time of a request: of all threads of client and worker, from `/proc/PID/task/TID/schedstat`.
 * Compares this checkout with another one in alternating pairs, and the other one with itself as a control.
 *
 *     bun bench/dev/cost.ts --against ../before [--pairs 11] [--case "64 B, 32 in flight"]
 *
 * `bun bench/dev/cost.ts answer|ask CHECKOUT …` starts one of the two sides.
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type * as Slotbus from "../../src/index.ts";

interface Case {
  name: string;
  bytes: number;
  inFlight: number;
  /** Number of measured requests. */
  requests: number;
  /** Both processes run on one processor, with `spin: 0`. */
  alone?: true;
  /** The response is streamed in pieces of 16 KiB. */
  streams?: true;
}

const CASES: readonly Case[] = [
  { name: "64 B, 32 in flight", bytes: 64, inFlight: 32, requests: 400_000 },
  { name: "64 B, one at a time, one processor", bytes: 64, inFlight: 1, requests: 40_000, alone: true },
  { name: "64 KiB, 4 in flight", bytes: 65_536, inFlight: 4, requests: 20_000 },
  { name: "1 MiB, one at a time", bytes: 1_048_576, inFlight: 1, requests: 1_500 },
  { name: "stream of 1 MiB", bytes: 1_048_576, inFlight: 1, requests: 1_000, streams: true },
];
const PIECE_BYTES = 16_384;

/** CPU time of all threads of a process in ns, without threads that have ended. */
function cpuOf(pid: number): number {
  let sum = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    sum += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "latin1").split(" ")[0]);
  }
  return sum;
}

async function load(checkout: string): Promise<typeof Slotbus> {
  return (await import(join(checkout, "src/index.ts"))) as typeof Slotbus;
}

// ---- the two sides --------------------------------------------------------------------------------------------------

async function answer(checkout: string, { bytes, alone, streams }: Case): Promise<void> {
  const { SlotWorker } = await load(checkout);
  const worker = await SlotWorker.open({ name: "cost", reconnect: false, ...(alone && { spin: 0 }) });
  const body = new Uint8Array(streams ? PIECE_BYTES : bytes).fill(7);
  function* pieces(): Generator<Uint8Array> {
    for (let sent = 0; sent < bytes; sent += PIECE_BYTES) yield body;
  }
  worker.serve(streams ? () => pieces() : () => body);
  worker.on("disconnected", () => process.exit(0));
}

async function ask(checkout: string, { bytes, inFlight, requests, alone, streams }: Case): Promise<void> {
  const { SlotBus } = await load(checkout);
  await using bus = await SlotBus.create({ name: "cost", ...(alone && { spin: 0 }) });
  bus.ref();
  await bus.ready();
  const body = new Uint8Array(streams ? 64 : bytes).fill(7);
  const worker = bus.workers[0]!.pid;
  const into = new Uint8Array(65_536);
  const run = async (count: number): Promise<void> => {
    let left = count;
    const loop = async (): Promise<void> => {
      while (left-- > 0) {
        const request = { path: "/", body };
        if (streams) for await (const _ of (await bus.stream(request)).chunks({ into }));
        else await bus.request(request);
      }
    };
    await Promise.all(Array.from({ length: inFlight }, loop));
  };
  await run(requests / 2);
  const before = cpuOf(process.pid) + cpuOf(worker);
  await run(requests);
  console.log((cpuOf(process.pid) + cpuOf(worker) - before) / requests);
}

// ---- the comparison -------------------------------------------------------------------------------------------------

/** CPU time of a request, in ns. */
async function measure(checkout: string, index: number): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), "slotbus-cost-"));
  const start = (role: string): Bun.Subprocess<"ignore", "pipe", "inherit"> => {
    const command = [process.execPath, import.meta.path, role, checkout, String(index)];
    return Bun.spawn(CASES[index]!.alone ? ["taskset", "-c", "0", ...command] : command, {
      env: { ...process.env, SLOTBUS_DIR: directory },
      stdio: ["ignore", "pipe", "inherit"],
    });
  };
  const [asking, answering] = [start("ask"), start("answer")];
  try {
    const ns = Number(await asking.stdout.text());
    if (!(ns > 0)) throw new Error(`the run of ${checkout} printed no figure`);
    await answering.exited;
    return ns;
  } finally {
    asking.kill("SIGKILL");
    answering.kill("SIGKILL");
    await Promise.all([asking.exited, answering.exited]);
    rmSync(directory, { recursive: true, force: true });
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

async function compare(before: string, now: string, pairs: number, wanted: string): Promise<void> {
  console.log("case | before, ns | now, ns | now ÷ before | control: before ÷ before");
  for (const [index, { name }] of CASES.entries()) {
    if (!name.includes(wanted)) continue;
    const figures: { before: number[]; now: number[]; ratio: number[]; control: number[] } = {
      before: [],
      now: [],
      ratio: [],
      control: [],
    };
    for (let pair = 0; pair < pairs; pair++) {
      const first = await measure(before, index);
      const second = await measure(now, index);
      const third = await measure(before, index);
      figures.before.push(first, third);
      figures.now.push(second);
      figures.ratio.push(second / ((first + third) / 2));
      figures.control.push(third / first);
    }
    const ns = (values: number[]): string => Math.round(median(values)).toLocaleString("en");
    const ratio = (values: number[]): string => median(values).toFixed(3);
    console.log([name, ns(figures.before), ns(figures.now), ratio(figures.ratio), ratio(figures.control)].join(" | "));
  }
  console.log(`load of the machine: ${readFileSync("/proc/loadavg", "latin1").trim()}; Bun ${Bun.version}`);
}

const [role, checkout, index] = process.argv.slice(2);
if (role === "answer") await answer(checkout!, CASES[Number(index)]!);
else if (role === "ask") await ask(checkout!, CASES[Number(index)]!);
else {
  const { values } = parseArgs({
    options: {
      against: { type: "string" },
      pairs: { type: "string", default: "11" },
      case: { type: "string", default: "" },
    },
  });
  if (!values.against) throw new Error("--against is missing. Give the checkout to compare with: --against DIRECTORY");
  await compare(resolve(values.against), resolve(import.meta.dir, "../.."), Number(values.pairs), values.case);
}
