/** Figures about slotbus alone: what an idle host does, and how much memory messages take that nobody reads. */

import { readFileSync } from "node:fs";
import { CommandError } from "../../usage.ts";
import { median, round } from "../measure.ts";
import type { Peer, Workspace } from "../systems.ts";

/** Times that the main threads of an idle pair and of a program that does nothing woke up. Bun itself does once a second. */
export interface IdleRow {
  system: "slotbus";
  case: "idle";
  payload_bytes: 0;
  window_ms: number;
  host_wakeups: number;
  worker_wakeups: number;
  bare_wakeups: number;
}

/** Messages for a program that reads nothing: how much more memory their host has then. Median of several processes. */
export interface QueueRow {
  system: "slotbus" | "pipes";
  case: "queue";
  payload_bytes: number;
  messages: number;
  grown_bytes: number;
  /** Of that, what as many calls take for which the worker has no credit; `null` of `pipes`. */
  calls_bytes: number | null;
  /** What the same messages added when they were sent once more. */
  again_bytes: number;
  /** What the pipe has not taken, as the bus counts; the credit bounds it. Of `pipes` 0: nobody counts. */
  queued_bytes: number;
  /** Messages that wait for credit, and those that were refused: `messages` less those that were taken. */
  waiting: number;
  refused: number;
}

/** Bytes that may wait for one worker by default. */
export const CREDIT_BYTES = 4 * 2 ** 20;
/** Messages for a program that reads nothing. */
export const QUEUED_MESSAGES = 10_000;
export const QUEUED_BYTES = 1_024;
/** Before wake-ups are counted. */
const SETTLE_MS = 1_000;
const WINDOW_MS = 5_000;

/** Times that the main thread of a process went to sleep by itself. Others belong to Bun: collector, allocator, compiler. */
function sleeps(pid: number): number {
  const status = readFileSync(`/proc/${pid}/task/${pid}/status`, "utf8");
  return Number(/^voluntary_ctxt_switches:\s*(\d+)$/m.exec(status)![1]);
}

/** Only Linux tells: `null` elsewhere. A lock that another thread has is a sleep too; so the fewest of `windows` count. */
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

/** What a process that queues says. */
export type Queued = Pick<QueueRow, "grown_bytes" | "again_bytes" | "queued_bytes" | "waiting" | "refused">;

/** `"calls"`: slotbus without credit. */
export type Role = QueueRow["system"] | "calls";

/** Medians of `processes` that queue, one after the other. */
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

/** What messages for a program that reads nothing cost their host. */
export async function queue(system: QueueRow["system"], workspace: Workspace, processes: number): Promise<QueueRow> {
  const queued = await queueAs(system, workspace, processes);
  if (system === "slotbus" && queued.queued_bytes < CREDIT_BYTES / 2)
    throw new CommandError(`${queued.queued_bytes} bytes were queued: the program reads`);
  return {
    system,
    case: "queue",
    payload_bytes: QUEUED_BYTES,
    messages: QUEUED_MESSAGES,
    ...queued,
    calls_bytes: system === "slotbus" ? (await queueAs("calls", workspace, processes)).grown_bytes : null,
  };
}
