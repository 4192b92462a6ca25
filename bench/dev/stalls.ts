/**
 * Shows what happens while no response arrives for a while: which threads run, and whether the two sides run, wait for a
 * processor or sleep. The kernel traces its scheduler meanwhile: `bun bench/dev/stalls.ts [--seconds 10] [--flight 32]
 * [--system slotbus] [--ms 5]`. Needs root, `perf`, and tracefs at /sys/kernel/tracing.
 */

import { dlopen, ptr } from "bun:ffi";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { makeBodies } from "../measure.ts";
import { start, type SystemName, Workspace } from "../systems.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true, // `run`: the part that perf starts
  options: {
    seconds: { type: "string", default: "10" },
    flight: { type: "string", default: "32" },
    system: { type: "string", default: "slotbus" },
    /** Shortest stall that is shown. */
    ms: { type: "string", default: "5" },
  },
});

/** Time in which no response arrived: seconds of CLOCK_MONOTONIC, which perf uses too. */
interface Stall {
  from: number;
  to: number;
}

const { symbols } = dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });
const CLOCK_MONOTONIC = 1;

function monotonic(): number {
  const time = new BigInt64Array(2);
  symbols.clock_gettime(CLOCK_MONOTONIC, ptr(time));
  return Number(time[0]) + Number(time[1]) / 1e9;
}

/** Sends requests in a closed loop. */
async function run(workspace: Workspace): Promise<{ pids: number[]; requests: number; stalls: Stall[] }> {
  const { call, answerer } = await start(values.system as SystemName, workspace);
  const stalls: Stall[] = [];
  const ahead = monotonic() - Bun.nanoseconds() / 1e9;
  const end = Bun.nanoseconds() + Number(values.seconds) * 1e9;
  const leastNs = Number(values.ms) * 1e6;
  let [requests, last] = [0, Bun.nanoseconds()];
  const caller = async (body: Uint8Array): Promise<void> => {
    while (last < end) {
      await call(body);
      requests++;
      const now = Bun.nanoseconds();
      if (now - last > leastNs) stalls.push({ from: last / 1e9 + ahead, to: now / 1e9 + ahead });
      last = now;
    }
  };
  await Promise.all(makeBodies(64, Number(values.flight)).map(caller));
  return { pids: [process.pid, answerer.pid], requests, stalls };
}

type State = "runs" | "waits" | "sleeps";

const EVENT = /\[(\d+)\]\s+([\d.]+):\s+sched:(sched_\w+):\s+(.*)$/;
const SWITCH = / prev_pid=(\d+) .*prev_state=(\S+) ==> next_comm=(.*) next_pid=(\d+) /;
const WAKEUP = / pid=(\d+) /;

/** Returns a line for each stall. */
function explain(trace: string, pids: readonly number[], stalls: readonly Stall[]): string[] {
  const states = new Map<number, State>(pids.map((pid) => [pid, "sleeps"]));
  const running = new Map<string, string>();
  const lines: string[] = [];
  let [stall, at] = [0, 0];
  let times = new Map<string, number>();
  const add = (key: string, seconds: number): void => void times.set(key, (times.get(key) ?? 0) + seconds);
  const advance = (to: number): void => {
    for (; stall < stalls.length; stall++) {
      const { from, to: end } = stalls[stall]!;
      const seconds = Math.min(to, end) - Math.max(at, from);
      if (seconds > 0) {
        for (const name of running.values()) add(name, seconds);
        pids.forEach((pid, i) => add(`${["client", "worker"][i]} ${states.get(pid)}`, seconds));
      }
      if (to < end) break;
      const parts = [...times].sort((a, b) => b[1] - a[1]).filter(([, time]) => time > 0.0003);
      const shown = parts.map(([key, time]) => `${key} ${(time * 1000).toFixed(1)}`).join(", ");
      lines.push(`${((end - from) * 1000).toFixed(1)} ms: ${shown}`);
      times = new Map();
    }
    at = to;
  };
  for (const line of trace.split("\n")) {
    const [, processor, time, kind, text] = EVENT.exec(line) ?? [];
    if (text === undefined) continue;
    advance(Number(time));
    const [, before, state, name, after] = (kind === "sched_switch" && SWITCH.exec(text)) || [];
    if (after !== undefined) {
      if (states.has(Number(before))) states.set(Number(before), state!.startsWith("R") ? "waits" : "sleeps");
      if (states.has(Number(after))) states.set(Number(after), "runs");
      running.set(processor!, after === "0" ? "(idle)" : name!);
    } else {
      const pid = Number(WAKEUP.exec(text)?.[1]);
      if (states.get(pid) === "sleeps") states.set(pid, "waits");
    }
  }
  advance(Infinity);
  return lines;
}

type Run = Awaited<ReturnType<typeof run>>;

/** Starts this program under perf, which traces the whole machine meanwhile. */
function trace(): void {
  const data = join(tmpdir(), `slotbus-stalls-${process.pid}`);
  const events = ["-e", "sched:sched_switch", "-e", "sched:sched_wakeup"];
  const record = ["perf", "record", "-q", "-a", "-k", "CLOCK_MONOTONIC", "-m", "8192", ...events, "-o", data, "--"];
  try {
    const self = [process.execPath, import.meta.path, "run", ...process.argv.slice(2)];
    const child = Bun.spawnSync([...record, ...self], { stdio: ["ignore", "pipe", "inherit"] });
    if (child.exitCode !== 0) throw new Error(`perf ended with code ${child.exitCode}`);
    const { pids, requests, stalls } = JSON.parse(child.stdout.toString()) as Run;
    const script = Bun.spawnSync(["perf", "script", "-i", data, "-F", "cpu,time,event,trace", "--ns"]);
    const many = `no response for ${values.ms} ms or longer: ${stalls.length}`;
    console.log(`${requests} requests in ${values.seconds} s; ${many}`);
    for (const line of explain(script.stdout.toString(), pids, stalls)) console.log(line);
  } finally {
    rmSync(data, { force: true });
  }
}

if (positionals[0] === "run") {
  using workspace = new Workspace();
  console.log(JSON.stringify(await run(workspace)));
} else {
  trace();
}
