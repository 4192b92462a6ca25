/** `slotbus bench stdio`: JSON requests to another process; slotbus, plain pipes, IPC channels of Bun and Node. */

import { join } from "node:path";
import type { Command } from "commander";
import { CommandError, newCommand } from "../../src/cli/usage.ts";
import type { Panel } from "../chart.ts";
import { alternate, median, perSecond, round, type Summary, summarise } from "../measure.ts";
import {
  type Bar,
  bar,
  barLines,
  describeMachine,
  type Machine,
  machineLines,
  number,
  sizeName,
  table,
  type Mode,
} from "../report.ts";
import {
  type CommonFlags,
  guarded,
  inWorkspace,
  modeOf,
  parseAgainst,
  present,
  type Say,
  withCommonFlags,
} from "../suite.ts";
import type { Peer, Workspace } from "../systems.ts";
import { CREDIT_BYTES, idle, type IdleRow, queue, QUEUED_BYTES, QUEUED_MESSAGES, type QueueRow } from "./alone.ts";
import type { HostAnswer, Order, Outcome } from "./loop.ts";

/** Names in the JSON. */
export const SYSTEMS = ["slotbus", "pipes", "bun-ipc", "node-ipc"] as const;

export type SystemName = (typeof SYSTEMS)[number];

type Shape = readonly [bytes: number, inFlight: number];

/** What a mode measures and how long. */
interface Preset {
  shapes: readonly Shape[];
  rounds: number;
  /** Duration of a round of one system, without its lead-in. */
  roundMs: number;
  leadInMs: number;
  warmUpMs: number;
  /** Number of idle windows of five seconds; 0 skips idleness and the queue. */
  idleWindows: number;
  /** Number of processes that queue. */
  queues: number;
}

const MIB = 2 ** 20;

const PRESETS: Record<Mode, Preset> = {
  full: {
    shapes: [
      [64, 1],
      [64, 32],
      [4_096, 1],
      [4_096, 32],
      [65_536, 1],
      [65_536, 32],
      [MIB, 1],
      [MIB, 4],
    ],
    rounds: 11,
    roundMs: 500,
    leadInMs: 150,
    warmUpMs: 2_000,
    idleWindows: 6,
    queues: 3,
  },
  quick: {
    shapes: [
      [64, 1],
      [64, 32],
      [MIB, 1],
      [MIB, 4],
    ],
    rounds: 9,
    roundMs: 120,
    leadInMs: 30,
    warmUpMs: 600,
    idleWindows: 3,
    queues: 1,
  },
  short: {
    shapes: [
      [64, 1],
      [64, 32],
    ],
    rounds: 3,
    roundMs: 50,
    leadInMs: 20,
    warmUpMs: 150,
    idleWindows: 0,
    queues: 0,
  },
};

/** Minimum number of requests in a round. */
const MINIMUM_SAMPLES = 10;

type Plan = Preset & { mode: Mode; systems: SystemName[] };

/** One case of one system in the JSON. */
export interface TripRow extends Summary {
  system: SystemName;
  case: "rtt" | "throughput";
  payload_bytes: number;
  in_flight: number;
  /**
   * How many times slower than the first row of the case: by p50 with one request in flight, by requests per second with
   * more. Median of each round's ratio.
   */
  slower: number;
}

export type StdioRow = TripRow | IdleRow | QueueRow;

interface Result {
  machine: Machine;
  rows: StdioRow[];
  bars: Bar[];
  /** Systems that were skipped, and why. */
  notes: string[];
}

// ---- the run ------------------------------------------------------------------------------------------------------------

/** A host process with its worker. */
interface Contestant {
  name: SystemName;
  host: Peer;
  measure(order: Order): Promise<Outcome>;
}

/** Bundles the program of `node-ipc`, because the installed Node may not run TypeScript. */
async function bundleForNode(workspace: Workspace): Promise<string> {
  const path = join(workspace.path, "node");
  const built = await Bun.build({
    entrypoints: [Bun.resolveSync("./node", import.meta.dir)],
    target: "node",
    outdir: path,
  });
  return built.outputs[0]!.path;
}

async function start(name: SystemName, workspace: Workspace): Promise<Contestant> {
  let settle: ((answer: HostAnswer) => void) | null = null;
  const isNode = name === "node-ipc";
  const host = await workspace.start(name, "", {
    program: isNode ? await bundleForNode(workspace) : Bun.resolveSync("./host", import.meta.dir),
    ...(isNode ? { runtime: "node" } : {}),
    onMessage: (message) => settle?.(message as HostAnswer),
  });
  const { pid, address } = host.introduction;
  if (new Set([process.pid, pid, Number(address)]).size !== 3)
    throw new CommandError(`${name}: host ${pid}, worker ${address} and bench ${process.pid} are not three processes`);
  return {
    name,
    host,
    measure: async (order) => {
      const { promise, resolve } = Promise.withResolvers<HostAnswer>();
      settle = resolve;
      host.send(order);
      const answer = await promise;
      if ("error" in answer) throw new CommandError(answer.error);
      return answer.outcome;
    },
  };
}

async function trips(contestants: Contestant[], shape: Shape, plan: Plan, workspace: Workspace): Promise<TripRow[]> {
  const [bytes, inFlight] = shape;
  const results = await alternate(contestants, plan.rounds, async (it, isWarmUp) => {
    const leadInMs = isWarmUp ? plan.warmUpMs : plan.leadInMs;
    const order = { bytes, inFlight, leadInMs, ms: plan.roundMs, minimum: MINIMUM_SAMPLES };
    const { latencies, seconds } = await guarded(it.name, it.measure(order), workspace);
    return { latencies: Float64Array.from(latencies), seconds };
  });
  /** Cost of each round; less is better. */
  const costs = (it: Contestant): number[] =>
    results.get(it)!.map((one) => (inFlight === 1 ? median(one.latencies) : 1 / perSecond(one)));
  const own = costs(contestants[0]!);
  return contestants.map((it) => ({
    system: it.name,
    case: inFlight === 1 ? "rtt" : "throughput",
    payload_bytes: bytes,
    in_flight: inFlight,
    ...summarise(results.get(it)!),
    slower: round(median(costs(it).map((cost, i) => cost / own[i]!))),
  }));
}

/** Makes the bars for which there are rows. */
function judge(rows: readonly StdioRow[]): Bar[] {
  const bars: Bar[] = [];
  const against = (system: SystemName, [bytes, inFlight]: Shape, goal: { at_least: number } | { at_most: number }) => {
    const row = rows.find(
      (one): one is TripRow =>
        one.system === system && "in_flight" in one && one.payload_bytes === bytes && one.in_flight === inFlight,
    );
    if (!row) return;
    const what = inFlight === 1 ? "round trip" : `${inFlight} in flight`;
    const unit = "at_most" in goal ? "p50" : inFlight === 1 ? "speed" : "messages/s";
    const measured = "at_most" in goal ? round(1 / row.slower) : row.slower;
    bars.push(bar(`${sizeName(bytes)}, ${what}: ${unit}, slotbus ÷ ${system}`, measured, goal));
  };
  against("pipes", [64, 1], { at_most: 1.3 });
  against("pipes", [64, 32], { at_least: 0.7 });
  against("node-ipc", [64, 32], { at_least: 1.5 });
  against("pipes", [MIB, 1], { at_least: 0.6 });
  against("pipes", [MIB, 4], { at_least: 0.6 });
  for (const row of rows) {
    if (row.case === "idle") {
      const more = Math.max(0, row.host_wakeups - row.bare_wakeups);
      bars.push(
        bar(`idle for ${row.window_ms / 1000} s: wake-ups more than an empty Bun program`, more, { at_most: 0 }),
      );
    }
    if (row.case === "queue" && row.system === "slotbus") {
      const what = `${QUEUED_MESSAGES.toLocaleString("en")} unread messages of ${sizeName(QUEUED_BYTES)}`;
      const memory = row.grown_bytes - (row.calls_bytes ?? 0);
      bars.push(bar(`${what}: memory ÷ credit`, round(memory / CREDIT_BYTES), { at_most: 1 }));
      const again = Math.max(0, row.again_bytes) / (QUEUED_MESSAGES * QUEUED_BYTES);
      bars.push(bar("the same messages again: added memory ÷ their bytes", round(again), { at_most: 0.1 }));
    }
  }
  return bars;
}

function verifyRows(rows: readonly StdioRow[], contestants: readonly Contestant[], plan: Plan): void {
  for (const { name } of contestants) {
    const found = rows.filter((row) => row.system === name && "slower" in row && row.slower > 0 && row.p50_us > 0);
    if (found.length !== plan.shapes.length)
      throw new CommandError(`${name} has ${found.length} of ${plan.shapes.length} rows`);
  }
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace, started) => {
    const notes: string[] = [];
    const contestants: Contestant[] = [];
    for (const name of plan.systems) {
      if (name === "node-ipc" && !Bun.which("node")) {
        notes.push("node-ipc is skipped: Node is not installed.");
        continue;
      }
      const contestant = await start(name, workspace);
      contestants.push(contestant);
      started.push(contestant.host);
    }
    const rows: StdioRow[] = [];
    for (const shape of plan.shapes) {
      say(`${sizeName(shape[0])}, ${shape[1]} in flight`);
      rows.push(...(await trips(contestants, shape, plan, workspace)));
    }
    verifyRows(rows, contestants, plan);
    if (plan.idleWindows > 0) {
      say("idle");
      const row = await idle(contestants[0]!.host, workspace, plan.idleWindows);
      if (row) rows.push(row);
      else notes.push("Wake-ups are not counted: this needs Linux.");
      say("a worker that does not read");
      rows.push(await queue("slotbus", workspace, plan.queues));
      if (plan.systems.includes("pipes")) rows.push(await queue("pipes", workspace, plan.queues));
    }
    return { machine: describeMachine(plan), rows, bars: judge(rows), notes };
  });
}

// ---- the report ---------------------------------------------------------------------------------------------------------

function tripTable(rows: readonly TripRow[]): string {
  const { payload_bytes: bytes, in_flight: inFlight } = rows[0]!;
  const title = inFlight === 1 ? "Round trip" : `${inFlight} in flight`;
  return `${title}, ${sizeName(bytes)} of JSON\n${table([
    ["µs", "p50", "p90", "p99", "req/s", "slower"],
    ...rows.map((row) => [
      row.system,
      ...[row.p50_us, row.p90_us, row.p99_us, row.requests_per_second].map(number),
      `${number(row.slower)}x`,
    ]),
  ])}`;
}

function idleTable(row: IdleRow): string {
  return `Idle for ${row.window_ms / 1000} s\n${table([
    ["", "wake-ups of the main thread"],
    ["host", String(row.host_wakeups)],
    ["worker", String(row.worker_wakeups)],
    ["empty program", String(row.bare_wakeups)],
  ])}`;
}

function queueTable(rows: readonly QueueRow[]): string {
  const { messages, payload_bytes: bytes } = rows[0]!;
  return `${messages.toLocaleString("en")} messages of ${sizeName(bytes)} to a program that reads nothing\n${table([
    ["", "memory, MiB", "calls alone", "sent again", "queued, MiB", "waiting", "rejected"],
    ...rows.map((row) => [
      row.system,
      number(row.grown_bytes / MIB),
      row.calls_bytes === null ? "-" : number(row.calls_bytes / MIB),
      number(row.again_bytes / MIB),
      row.queued_bytes === 0 ? "-" : number(row.queued_bytes / MIB),
      row.waiting.toLocaleString("en"),
      row.refused.toLocaleString("en"),
    ]),
  ])}`;
}

function report({ machine, rows, bars, notes }: Result): string {
  const trip = rows.filter((row): row is TripRow => "in_flight" in row);
  const cases = Map.groupBy(trip, (row) => `${row.payload_bytes} ${row.in_flight}`);
  const idles = rows.filter((row): row is IdleRow => row.case === "idle");
  const queues = rows.filter((row): row is QueueRow => row.case === "queue");
  return [
    machineLines(machine),
    ...[...cases.values()].map(tripTable),
    ...idles.map(idleTable),
    ...(queues.length > 0 ? [queueTable(queues)] : []),
    `Against the goals\n${table(barLines(bars))}`,
    ...notes,
  ].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  const trips = rows.filter((row): row is TripRow => "in_flight" in row);
  return [...Map.groupBy(trips, (row) => `${row.payload_bytes} ${row.in_flight}`).values()].map((all) => {
    const { payload_bytes: bytes, in_flight: inFlight } = all[0]!;
    const isLoad = inFlight > 1;
    return {
      title: isLoad ? `${inFlight} in flight, ${sizeName(bytes)}` : `Round trip, ${sizeName(bytes)}, median`,
      unit: isLoad ? "req/s" : "µs",
      better: isLoad ? "more" : "less",
      bars: all.map((row) => ({ label: row.system, value: isLoad ? row.requests_per_second : row.p50_us })),
    };
  });
}

export function command(): Command {
  const suite = newCommand("stdio", "measure JSON requests to programs behind pipes", [
    "slotbus bench stdio --quick --json > result.json",
  ]);
  const quick = "64 B and 1 MiB, fewer and shorter rounds; takes up to 70 s";
  return withCommonFlags(suite, SYSTEMS.slice(1), quick, "only 64 B; takes a few seconds")
    .addHelpText("after", "\nnode-ipc needs Node.")
    .action(async (flags: CommonFlags) => {
      const mode = modeOf(flags);
      const plan: Plan = { ...PRESETS[mode], mode, systems: parseAgainst(flags.against ?? "all", SYSTEMS) };
      await present(flags, (say) => runAll(plan, say), { report, title: "JSON requests to a program", panels });
    });
}
