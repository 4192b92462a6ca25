/**
 * Opens and closes buses and workers in one Bun process, and sends many requests. Afterwards nothing must be left.
 *
 *     bun cycles.ts DIRECTORY SEED BUSES WORKERS REQUESTS
 *
 * Started by endure.ts; prints the same kind of lines as the C parts. `bun cycles.ts serve NAME` is one of its workers.
 */

import { readdirSync, readFileSync } from "node:fs";
import { SlotBus, SlotWorker } from "../../../src/index.ts";
import { descriptors, mappings } from "../../support.ts";

/** Timers that are set and have not fired. */
const timers = new Set<unknown>();
const { setTimeout: set, clearTimeout: clear } = globalThis;
globalThis.setTimeout = ((run: (...rest: unknown[]) => void, ms?: number, ...rest: unknown[]) => {
  const timer = set(() => {
    timers.delete(timer);
    run(...rest);
  }, ms);
  timers.add(timer);
  const { close } = timer;
  timer.close = () => {
    timers.delete(timer);
    return close.call(timer);
  };
  return timer;
}) as typeof setTimeout;
globalThis.clearTimeout = ((timer: Timer) => {
  timers.delete(timer);
  clear(timer);
}) as typeof clearTimeout;

/** Sleeps with a timer that is not counted. */
const pause = (ms: number): Promise<void> => new Promise((resolve) => void set(resolve, ms));

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const [directory = "", seedText = "0", buses = "0", workers = "0", requests = "0"] = process.argv.slice(2);
const name = "cycles";
const IN_FLIGHT = 32;
/** Before anything is compared: what Bun loads and compiles once, and its heap as large as this load makes it. */
const WARM_UP = { cycles: 30, requests: 20_000 };
/**
 * MiB that may come and go: JavaScriptCore gives its blocks back late, 16 KiB at a time, and its collector lets the heap
 * grow by half between two runs. A leak of 32 bytes a request is 32 MiB in a million.
 */
const SLACK_MIB = 24;

const figures = { requests: 0, kills: 0, lost: 0, doubled: 0, misdelivered: 0, leaked: 0 };
let problems = 0;

function problem(kind: "lost" | "misdelivered" | "leaked", text: string): void {
  figures[kind]++;
  if (++problems <= 20) say(`problem ${text}`);
}

/** What this process holds, besides memory. */
function held(): Record<string, number> {
  const entries = readdirSync(directory).length;
  return { descriptors: descriptors(), mappings: mappings(), entries, timers: timers.size };
}

/** Bun closes sockets in its own time: waits until everything is as before, or says what is not. */
async function expectSame(when: string, before: Record<string, number>): Promise<void> {
  const deadline = performance.now() + 10_000;
  const differences = (): string[] => {
    const now = held();
    return Object.keys(before)
      .filter((what) => now[what] !== before[what])
      .map((what) => `${now[what]} ${what}, ${before[what]} before`);
  };
  while (differences().length > 0 && performance.now() < deadline) await pause(2);
  for (const difference of differences()) problem("leaked", `${when}: ${difference}`);
}

function rssMib(): number {
  for (let i = 0; i < 3; i++) Bun.gc(true);
  return (Number(readFileSync("/proc/self/statm", "latin1").split(" ")[1]) * 4096) / 2 ** 20;
}

function expectMemory(when: string, before: number): void {
  const now = rssMib();
  say(`say ${when}: ${now.toFixed(1)} MiB resident, ${before.toFixed(1)} before`);
  if (now > before + SLACK_MIB) problem("leaked", `${when}: ${now.toFixed(1)} MiB, ${before.toFixed(1)} before`);
}

/** An answer is the number asked for, times 3, and the text that came with it. `worker`: id of the worker to ask. */
async function ask(bus: SlotBus, worker?: number): Promise<void> {
  const id = figures.requests++;
  const text = `${seedText}-${id}`;
  try {
    const options = worker === undefined ? { timeout: 10_000 } : { timeout: 10_000, worker };
    const response = await bus.request({ path: "/", query: String(id), body: text }, options);
    if (response.text() !== `${3 * id} ${text}`) problem("misdelivered", `request ${id} got "${response.text()}"`);
  } catch (error) {
    problem("lost", `request ${id} fails: ${(error as Error).message}`);
  }
}

function serve(worker: SlotWorker): void {
  worker.serve((request) => `${3 * Number(request.query)} ${request.text()}`);
}

// ---- buses come and go --------------------------------------------------------------------------------------------------

async function oneBus(cycle: number): Promise<void> {
  const bus = await SlotBus.create({ name, directory });
  const worker = await SlotWorker.open({ name, directory, reconnect: false });
  serve(worker);
  await bus.ready();
  await ask(bus);
  const inOrder = cycle % 2 === 0 ? [worker, bus] : [bus, worker];
  for (const side of inOrder) await side.close();
  if (timers.size > 0) problem("leaked", `${timers.size} timers are set when bus and worker are closed`);
  const left = readdirSync(directory);
  if (left.length > 0) problem("leaked", `a closed bus left ${left.join()}`);
}

async function busCycles(count: number): Promise<void> {
  for (let i = 0; i < WARM_UP.cycles; i++) await oneBus(i);
  await pause(100);
  const before = held();
  const memory = rssMib();
  for (let i = 0; i < count && problems < 20; i++) await oneBus(i);
  await expectSame(`after ${count} buses`, before);
  expectMemory(`after ${count} buses`, memory);
  say(`cell bun-bus close ${count}`);
}

// ---- workers come and go, others are under load ---------------------------------------------------------------------------

/** Keeps `IN_FLIGHT` requests under way until told to stop. */
function load(bus: SlotBus, goesOn: () => boolean): Promise<void[]> {
  const lane = async (): Promise<void> => {
    while (goesOn() && problems < 20) await ask(bus);
  };
  return Promise.all(Array.from({ length: IN_FLIGHT }, lane));
}

async function workerCycles(bus: SlotBus, count: number): Promise<void> {
  let served = 0;
  const oneWorker = async (): Promise<void> => {
    const worker = await SlotWorker.open({ name, directory, reconnect: false });
    serve(worker);
    await bus.ready({ workers: 3, signal: AbortSignal.timeout(20_000) });
    await ask(bus, bus.workers.find(({ pid }) => pid === process.pid)!.id); // the load may stay at the others
    await worker.close();
    if (worker.served === 0) problem("lost", "a worker that was asked has served no request");
    served += worker.served;
  };
  let going = true;
  const loaded = load(bus, () => going);
  for (let i = 0; i < WARM_UP.cycles; i++) await oneWorker();
  const joined = bus.stats().workersLeft;
  for (let i = 0; i < count && problems < 20; i++) await oneWorker();
  going = false;
  await loaded;
  const left = bus.stats().workersLeft - joined;
  if (problems === 0 && left < count) problem("lost", `${count} workers closed, ${left} left`);
  say(`cell bun-worker close ${count}`);
  say(`say workers that came and went served ${served} requests`);
}

async function underLoad(): Promise<void> {
  const bus = await SlotBus.create({ name, directory });
  const spawn = () =>
    Bun.spawn([process.execPath, import.meta.path, "serve", name], {
      env: { ...process.env, SLOTBUS_DIR: directory },
      stdio: ["pipe", "inherit", "inherit"], // the pipe ends with this process, and the worker with it
    });
  const others = [spawn(), spawn()];
  await bus.ready({ workers: 2, signal: AbortSignal.timeout(30_000) });
  const warm = figures.requests + WARM_UP.requests;
  await load(bus, () => figures.requests < warm);
  await pause(100);
  const before = held();
  await workerCycles(bus, Number(workers));
  await expectSame("after the workers", before);
  const memory = rssMib();
  const target = figures.requests + Number(requests);
  await load(bus, () => figures.requests < target);
  await expectSame("after the requests", before);
  expectMemory(`after ${requests} requests`, memory);
  say(`cell bun-request answered ${requests}`);
  for (const other of others) other.kill("SIGKILL");
  await Promise.all(others.map((other) => other.exited));
  await bus.close();
}

if (directory === "serve") {
  process.stdin.on("end", () => process.exit()).resume();
  serve(await SlotWorker.open({ name: seedText }));
} else {
  try {
    await busCycles(Number(buses));
    const before = held();
    await underLoad();
    await expectSame("at the end", before);
  } catch (error) {
    problem("lost", `it broke off: ${(error as Error).message}`);
  }
  for (const [figure, count] of Object.entries(figures)) say(`figure ${figure} ${count}`);
  process.exit(problems === 0 ? 0 : 1);
}
