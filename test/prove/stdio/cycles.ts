/**
 * Starts, uses and stops a small program and a Bun worker very often, each on a separate bus, and sends many requests.
 * Afterwards there must be no more descriptors, processes and sockets than before, and memory must level off.
 *
 *     bun test/prove/stdio/cycles.ts [test | ci | quick | long]
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { StdioBus } from "../../../src/stdio/bus.ts";
import type { StdioPoolOptions } from "../../../src/stdio/options.ts";
import { figures, finish, problem, say, sized } from "./report.ts";

/** Growth from the middle to the end that does not count as a leak, in MiB: noise of the allocator and the collector. */
const SLACK_MIB = 12;
const SAMPLES = 20;

const descriptors = (): number => readdirSync("/proc/self/fd").length;

/** Children that have not ended; a zombie counts, nobody has waited for it. */
function children(): number {
  const tasks = readdirSync("/proc/self/task").map((task) => {
    return readFileSync(`/proc/self/task/${task}/children`, "latin1");
  });
  return tasks.join(" ").trim().split(" ").filter(Boolean).length;
}

/** Resident anonymous memory, in MiB. */
function memory(): number {
  Bun.gc(true);
  return Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "latin1"))![1]) / 1_024;
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1]!;
}

/** Runs `what` `times` times, and compares the resources of this process before and after. */
async function repeat(name: string, times: number, what: (i: number) => Promise<void>): Promise<void> {
  const began = performance.now();
  const samples: number[] = [];
  const every = Math.max(1, Math.floor(times / SAMPLES));
  let before = Infinity;
  const running = children();
  for (let i = 0; i < times; i++) {
    await what(i);
    if ((i + 1) % every > 0) continue;
    samples.push(memory());
    if (samples.length === 2) before = descriptors();
  }
  const deadline = performance.now() + 2_000;
  while ((descriptors() > before || children() > running) && performance.now() < deadline) await Bun.sleep(5);
  const after = descriptors();
  if (after > before) problem("leaked", `${name}: ${after - before} descriptors`);
  if (children() > running) problem("leaked", `${name}: ${children() - running} processes`);
  const half = samples.length >> 1;
  const [middle, end] = [median(samples.slice(half - 2, half + 3)), median(samples.slice(-5))];
  if (end - middle > SLACK_MIB) problem("leaked", `${name}: memory grew by ${(end - middle).toFixed(1)} MiB`);
  const seconds = (performance.now() - began) / 1_000;
  say(
    `${name}: ${times} times in ${seconds.toFixed(0)} s; ${before} descriptors, then ${after}; ` +
      `${samples[0]!.toFixed(1)} MiB at first, ${middle.toFixed(1)} in the middle, ${end.toFixed(1)} at the end`,
  );
}

/** A cycle of life. */
function cycle(pool: Omit<StdioPoolOptions, "id">, use: (bus: StdioBus) => Promise<unknown>) {
  const options = { pools: [{ id: "a", ...pool }] };
  return async (): Promise<void> => {
    const bus = await StdioBus.start(options);
    await use(bus);
    const [report] = await bus.close();
    if (report!.exitCode !== 0) problem("leaked", `a worker ended with ${report!.exitCode ?? report!.signal}`);
    figures.requests++;
  };
}

async function useCat(bus: StdioBus): Promise<void> {
  const told = bus.subscribe();
  await bus.notify("x", 1);
  if ((await told.next()).value?.method !== "x") problem("lost", "cat did not answer");
}

async function useBun(bus: StdioBus): Promise<void> {
  if ((await bus.request("echo", 7)) !== 7) problem("misdelivered", "a wrong answer");
}

const worker = {
  command: process.execPath,
  args: [join(import.meta.dir, "../../fixtures/stdio-worker.ts")],
  ready: true,
};
await repeat("cycles of a small program", sized(300, 3_000, 10_000, 10_000), cycle({ command: "cat" }, useCat));
await repeat("cycles of a Bun worker", sized(20, 120, 500, 500), cycle(worker, useBun));

/** Requests that are answered, that time out, and that are aborted: none leaves anything in its bus. */
const bus = await StdioBus.start({ pools: [{ id: "a", ...worker, instances: 2 }] });
const params = "x".repeat(100);
await repeat("rounds of 1 000 requests", sized(20, 100, 400, 2_000), async () => {
  const controller = new AbortController();
  const calls: Promise<unknown>[] = [];
  for (let i = 0; i < 980; i++) calls.push(bus.request("echo", params, { key: `${i}` }));
  for (let i = 0; i < 10; i++) calls.push(bus.request("wait", 0, { timeout: 5 }).catch(() => params));
  for (let i = 0; i < 10; i++) calls.push(bus.request("wait", 0, { signal: controller.signal }).catch(() => params));
  await Promise.all(calls.slice(0, 990));
  controller.abort();
  for (const answer of await Promise.all(calls)) if (answer !== params) problem("misdelivered", "a wrong answer");
  figures.requests += calls.length;
});
const { inFlight, waiting } = bus.stats();
if (inFlight + waiting > 0) problem("leaked", `${inFlight} requests in flight and ${waiting} waiting, of none`);
await bus.close();
finish();
