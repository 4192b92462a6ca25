/** Figures about slotbus alone: what headers and many slots cost, how far the physical limit is, what idling costs. */

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Handler, HeadersLike } from "../../index.ts";
import { closedLoop, makeBodies, median, round } from "./measure.ts";
import { type SlotbusContestant, startPeer, startSlotbus, type Workspace } from "./systems.ts";

/** Ratios and figures, each measured in alternating rounds of one run. */
export interface Checks {
  /** Two processes that spin on one cache line, round trip; `null` without a C compiler. */
  spin_limit_us: number | null;
  rtt_over_spin_limit: number | null;
  /** Ten request and ten response headers, all read, to the bare 64 B round trip. */
  headers_ratio: number;
  /** The same when one header of each ten has a new value in each request. */
  headers_one_varies_ratio: number;
  /** Requests per second with 256 slots to those with 32, at 32 in flight. */
  slots_256_over_32: number;
}

function compile(workspace: Workspace): string | null {
  const root = resolve(import.meta.dir, "../../..");
  const zig = Bun.which("zig", { PATH: `${root}/node_modules/.bin:${process.env["PATH"] ?? ""}` });
  const compiler = Bun.which("cc") ? ["cc"] : zig ? [zig, "cc"] : null;
  const program = join(workspace.path, "spin");
  if (!compiler) return null;
  const build = Bun.spawnSync([...compiler, "-O2", "-o", program, join(import.meta.dir, "spin.c")]);
  return build.exitCode === 0 ? program : null;
}

/** p50 in µs of one round of 64 B requests. */
async function p50(call: (body: Uint8Array) => Promise<Uint8Array>, samples: number): Promise<number> {
  const { latencies } = await closedLoop(call, makeBodies(64, 1), { samples, minimum: 1, ms: 1000 });
  return median(latencies) / 1000;
}

function tenHeaders(prefix: string, varying: string): [string, string][] {
  const headers = Array.from({ length: 9 }, (_, i): [string, string] => [`${prefix}-${i}`, `the value number ${i}`]);
  return [...headers, [`${prefix}-trace`, varying]];
}

/** Answers as the headers check asks: reads all headers, gives ten back. */
export function headersHandler(): Handler {
  const constant = tenHeaders("x-response", "0000000000000000");
  let seen = 0;
  let serial = 0;
  return (request) => {
    if (request.path === "/echo") return request.body;
    for (const [name, value] of request.headers) seen += name.length + value.length;
    const varies = request.path === "/vary" && seen > 0;
    return { headers: varies ? tenHeaders("x-response", traceId(serial++)) : constant, body: request.body };
  };
}

function traceId(serial: number): string {
  return serial.toString(16).padStart(16, "0");
}

/** Runs the checks; `rounds` alternating ones each. */
export async function runChecks(plain: SlotbusContestant, workspace: Workspace, rounds: number): Promise<Checks> {
  const spin = compile(workspace);
  const wide = await startSlotbus(workspace, 256);
  const { bus } = plain;
  let read = 0;
  let serial = 0;
  const ask = async (path: string, headers: HeadersLike | undefined, body: Uint8Array): Promise<Uint8Array> => {
    const response = await bus.request({ path, headers, body });
    for (const [name, value] of response.headers) read += name.length + value.length;
    return response.body;
  };
  const constant = tenHeaders("x-request", "0000000000000000");
  const samples = { spin: [] as number[], bare: [] as number[], same: [] as number[], vary: [] as number[] };
  const perSecond = { plain: [] as number[], wide: [] as number[] };
  const limits = { samples: 60_000, minimum: 1, ms: 300 };
  for (let i = 0; i <= rounds; i++) {
    const bare = await p50((body) => ask("/echo", undefined, body), 10_000);
    const same = await p50((body) => ask("/headers", constant, body), 10_000);
    const vary = await p50((body) => ask("/vary", tenHeaders("x-request", traceId(serial++)), body), 10_000);
    const fast = await closedLoop(plain.call, makeBodies(64, 32), limits);
    const slow = await closedLoop(wide.call, makeBodies(64, 32), limits);
    const limit = spin ? Number(Bun.spawnSync([spin]).stdout.toString()) / 1000 : null;
    if (i === 0) continue; // warm-up
    samples.bare.push(bare);
    samples.same.push(same);
    samples.vary.push(vary);
    perSecond.plain.push(fast.latencies.length / fast.seconds);
    perSecond.wide.push(slow.latencies.length / slow.seconds);
    if (limit) samples.spin.push(limit);
  }
  await wide.stop();
  if (read === 0) throw new Error("no header was read");
  const limit = samples.spin.length > 0 ? median(samples.spin) : null;
  const bare = median(samples.bare);
  return {
    spin_limit_us: limit && round(limit),
    rtt_over_spin_limit: limit && round(bare / limit),
    headers_ratio: round(median(samples.same) / bare),
    headers_one_varies_ratio: round(median(samples.vary) / bare),
    slots_256_over_32: round(median(perSecond.wide) / median(perSecond.plain)),
  };
}

/** Wake-ups that slotbus made on both sides in `ms` of idleness, after `settle` ms. */
export async function idleWakeups(contestant: SlotbusContestant, settle: number, ms: number): Promise<number> {
  const count = async (): Promise<number> => contestant.bus.stats().wakeups + (await contestant.workerWakeups());
  await Bun.sleep(settle);
  const before = await count();
  await Bun.sleep(ms);
  return (await count()) - before;
}

/** CPU time a process has used, in ms. */
function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10; // USER_HZ is 100
}

/**
 * CPU of an idle hub and worker above that of two idle Bun processes, in ms per minute; after a minute of settling. The hub is a
 * process of its own, since this one is measuring.
 */
export async function idleCpu(workspace: Workspace): Promise<number> {
  const worker = await startPeer(["idle-hub", "idle"], workspace, () => {});
  const bare = [await startPeer(["bare"], workspace, () => {}), await startPeer(["bare"], workspace, () => {})];
  const ours = [worker.child.pid, Number(worker.message)];
  const theirs = bare.map(({ child }) => child.pid);
  const total = (pids: number[]): number => pids.reduce((sum, pid) => sum + cpuMs(pid), 0);
  await Bun.sleep(60_000);
  const before = total(ours) - total(theirs);
  await Bun.sleep(60_000);
  const after = total(ours) - total(theirs);
  await Promise.all([worker, ...bare].map(({ stop }) => stop()));
  return after - before;
}
