/** Measures an idle host, and the memory of messages that the worker does not read. */

import { readFileSync } from "node:fs";
import { CommandError } from "../../src/cli/usage.ts";
import { median, round } from "../measure.ts";
import type { Peer, Workspace } from "../systems.ts";

/** Wake-ups of the main threads of an idle host, its worker and an empty program. Bun itself wakes up once per second. */
export interface IdleRow {
  system: "slotbus";
  case: "idle";
  payload_bytes: 0;
  window_ms: number;
  host_wakeups: number;
  worker_wakeups: number;
  bare_wakeups: number;
}

/** Memory that messages to a program that reads nothing add to the host. Medians of several processes. */
export interface QueueRow {
  system: "slotbus" | "pipes";
  case: "queue";
  payload_bytes: number;
  messages: number;
  grown_bytes: number;
  /** Part of `grown_bytes` that the calls take without messages (no credit); `null` for `pipes`. */
  calls_bytes: number | null;
  /** Memory added by sending the same messages once more. */
  again_bytes: number;
  /** Bytes that the pipe has not accepted, limited by the credit. 0 for `pipes`, which does not count. */
  queued_bytes: number;
  /** Messages that wait for credit, and messages that were rejected. */
  waiting: number;
  refused: number;
}

/** Bytes that may wait for one worker by default. */
export const CREDIT_BYTES = 4 * 2 ** 20;
/** Number of messages to a program that reads nothing. */
export const QUEUED_MESSAGES = 10_000;
export const QUEUED_BYTES = 1_024;
/** Pause before wake-ups are counted. */
const SETTLE_MS = 1_000;
const WINDOW_MS = 5_000;

/** How often the main thread of a process went to sleep. Other threads are Bun's collector, allocator and compiler. */
function sleeps(pid: number): number {
  const status = readFileSync(`/proc/${pid}/task/${pid}/status`, "utf8");
  return Number(/^voluntary_ctxt_switches:\s*(\d+)$/m.exec(status)![1]);
}

/** `null` if not on Linux. Waiting for a lock counts as a sleep too, so the minimum over `windows` is taken. */
export async function idle(host: Peer, workspace: Workspace, windows: number): Promise<IdleRow | null> {
  if (process.platform !== "linux") return null;
  const bare = await workspace.start("bare", "", { program: Bun.resolveSync("./host", import.meta.dir) });
  const pids = [host.introduction.pid, Number(host.introduction.address), bare.introduction.pid];
  const fewest = pids.map(() => Infinity);
  await Bun.sleep(SETTLE_MS);
  for (let i = 0; i < windows; i++) {
    const before = pids.map(sleeps);
    await Bun.sleep(WINDOW_MS);
    pids.forEach((pid, at) => (fewest[at] = Math.min(fewest[at]!, sleeps(pid) - before[at]!)));
  }
  await bare.stop();
  const [hostWakeups = 0, workerWakeups = 0, bareWakeups = 0] = fewest;
  return {
    system: "slotbus",
    case: "idle",
    payload_bytes: 0,
    window_ms: WINDOW_MS,
    host_wakeups: hostWakeups,
    worker_wakeups: workerWakeups,
    bare_wakeups: bareWakeups,
  };
}

/** Report of a process that queues. */
export type Queued = Pick<QueueRow, "grown_bytes" | "again_bytes" | "queued_bytes" | "waiting" | "refused">;

/** `"calls"`: slotbus without credit. */
export type Role = QueueRow["system"] | "calls";

/** Runs `processes` one after the other. Resolves to the medians. */
async function queueAs(role: Role, workspace: Workspace, processes: number): Promise<Queued> {
  const all: Queued[] = [];
  for (let i = 0; i < processes; i++) {
    const said = Promise.withResolvers<Queued>();
    const peer = await workspace.start(role, "", {
      program: Bun.resolveSync("./queue", import.meta.dir),
      onMessage: (message) => said.resolve(message as Queued),
    });
    all.push(await Promise.race([said.promise, workspace.failed]));
    await peer.stop();
  }
  const of = (key: keyof Queued): number => round(median(all.map((one) => one[key])));
  return {
    grown_bytes: of("grown_bytes"),
    again_bytes: of("again_bytes"),
    queued_bytes: of("queued_bytes"),
    waiting: of("waiting"),
    refused: of("refused"),
  };
}

/** Measures the memory of messages to a program that reads nothing. */
export async function queue(system: QueueRow["system"], workspace: Workspace, processes: number): Promise<QueueRow> {
  const queued = await queueAs(system, workspace, processes);
  if (system === "slotbus" && queued.queued_bytes < CREDIT_BYTES / 2)
    throw new CommandError(`only ${queued.queued_bytes} bytes were queued, so the program did read`);
  return {
    system,
    case: "queue",
    payload_bytes: QUEUED_BYTES,
    messages: QUEUED_MESSAGES,
    ...queued,
    calls_bytes: system === "slotbus" ? (await queueAs("calls", workspace, processes)).grown_bytes : null,
  };
}
