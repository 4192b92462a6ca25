/** `slotbus bench`: round trip, throughput and a sparse case, slotbus beside what else a Bun user has; other suites. */

import type { Command } from "commander";
import { type Checks, idleCpu, idleWakeups, runChecks } from "./bench/checks.ts";
import type { Panel } from "./bench/chart.ts";
import { alternate, closedLoop, makeBodies, type Round, sparseLoop, type Summary, summarise } from "./bench/measure.ts";
import { describeMachine, type Machine, machineLines, number, sizeName, table, type Mode } from "./bench/report.ts";
import {
  type CommonFlags,
  guarded,
  inWorkspace,
  modeOf,
  parseAgainst,
  present,
  type Say,
  verifyAnswerer,
  withCommonFlags,
} from "./bench/suite.ts";
import {
  type Contestant,
  type SlotbusContestant,
  start,
  startSlotbus,
  SYSTEMS,
  type SystemName,
  type Workspace,
} from "./bench/systems.ts";
import { addLazily, CommandError, type Lazy, newCommand, UsageError } from "./usage.ts";

/** What a mode measures, and for how long. */
interface Preset {
  payloads: string;
  inFlight: string;
  against: string;
  /** Counted rounds per contestant and case; a round of warm-up precedes them. */
  rounds: number;
  /** Of one round of one contestant: slow rivals do fewer requests in it, never other ones. */
  roundMs: number;
  /** Before the first round of many small requests: until what is hot is compiled. */
  warmUpMs: number;
  /** Before each further one: until both runtimes have the heap and the processors that they keep. */
  leadInMs: number;
  /** Per round; 0 leaves the case out. */
  sparseSamples: number;
}

const PRESETS: Record<Mode, Preset> = {
  full: {
    payloads: "64,4k,64k,1m",
    inFlight: "1,8,32",
    against: "all",
    rounds: 7,
    roundMs: 250,
    warmUpMs: 2_000,
    leadInMs: 750,
    sparseSamples: 400,
  },
  quick: {
    payloads: "64,64k,1m",
    inFlight: "1,32",
    against: "all",
    rounds: 5,
    roundMs: 50,
    warmUpMs: 1_000,
    leadInMs: 200,
    sparseSamples: 50,
  },
  short: {
    payloads: "64",
    inFlight: "1,32",
    against: "unix-socket,fetch-unix",
    rounds: 5,
    roundMs: 100,
    warmUpMs: 1_000,
    leadInMs: 300,
    sparseSamples: 0,
  },
};

/** Up to here requests are so many that the heap of the runtimes decides. */
const SMALL_BYTES = 4096;
/** Fewest samples of a round; each caller has one at least. */
const MINIMUM_SAMPLES = 20;
/** How long a quick run looks for wake-ups. */
const IDLE_MS = 2_000;

interface Plan extends Omit<Preset, "payloads" | "inFlight" | "against"> {
  mode: Mode;
  payloads: number[];
  inFlight: number[];
  systems: SystemName[];
}

type Case = "rtt" | "throughput" | "sparse";

/** One line of the table, as it stands in the JSON. */
export interface Row extends Summary {
  system: SystemName;
  case: Case;
  payload_bytes: number;
  in_flight: number;
}

interface Result {
  machine: Machine;
  rows: Row[];
  /** `null` in a short run, as are the checks. */
  idle: { wakeups: number } | { cpu_ms_per_minute: number } | null;
  checks: Checks | null;
}

// ---- the command line ---------------------------------------------------------------------------------------------------

function parseSize(text: string): number {
  const match = /^(\d+)([km]?)$/i.exec(text.trim());
  const bytes = match ? Number(match[1]) * { "": 1, k: 1024, m: 1024 ** 2 }[match[2]!.toLowerCase()]! : 0;
  if (bytes >= 4 && bytes <= 16 * 1024 ** 2) return bytes;
  throw new UsageError(`--payload ${text}: give 4 bytes to 16m, as 64, 4k or 1m.`);
}

function parseInFlight(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= 256) return count;
  throw new UsageError(`--in-flight ${text}: give 1 to 256.`);
}

/** The values of a list, each once. */
function list(text: string, parse: (item: string) => number): number[] {
  return [...new Set(text.split(",").map(parse))];
}

interface Flags extends CommonFlags {
  payload?: string;
  inFlight?: string;
}

function makePlan(flags: Flags): Plan {
  const mode = modeOf(flags);
  const preset = PRESETS[mode];
  return {
    ...preset,
    mode,
    payloads: list(flags.payload ?? preset.payloads, parseSize),
    inFlight: list(flags.inFlight ?? preset.inFlight, parseInFlight),
    systems: parseAgainst(flags.against ?? preset.against, SYSTEMS),
  };
}

// ---- the run ------------------------------------------------------------------------------------------------------------

async function measure(contestants: readonly Contestant[], plan: Plan, workspace: Workspace, say: Say): Promise<Row[]> {
  const rows: Row[] = [];
  type One = (it: Contestant, isWarmUp: boolean) => Promise<Round>;
  const run = async (kind: Case, bytes: number, inFlight: number, one: One) => {
    say(kind === "sparse" ? "one request each millisecond" : `${sizeName(bytes)}, ${inFlight} in flight`);
    const results = await alternate(contestants, plan.rounds, (it, isWarmUp) =>
      guarded(it.name, one(it, isWarmUp), workspace),
    );
    for (const [{ name }, rounds] of results)
      rows.push({ system: name, case: kind, payload_bytes: bytes, in_flight: inFlight, ...summarise(rounds) });
  };
  for (const bytes of plan.payloads) {
    for (const inFlight of plan.inFlight) {
      const bodies = makeBodies(bytes, inFlight);
      const isBusy = inFlight > 1 && bytes <= SMALL_BYTES;
      const limits = { samples: Infinity, minimum: MINIMUM_SAMPLES, ms: plan.roundMs };
      await run(inFlight === 1 ? "rtt" : "throughput", bytes, inFlight, ({ call }, isWarmUp) =>
        closedLoop(call, bodies, {
          ...limits,
          leadInMs: !isBusy ? 0 : isWarmUp ? plan.warmUpMs : plan.leadInMs,
        }),
      );
    }
  }
  const [body] = makeBodies(64, 1);
  if (plan.sparseSamples > 0) await run("sparse", 64, 1, ({ call }) => sparseLoop(call, body!, plan.sparseSamples));
  return rows;
}

/** Each contestant must stand in every case. */
function verifyRows(rows: readonly Row[], plan: Plan): void {
  const cases = new Set(rows.map((row) => `${row.case} ${row.payload_bytes} ${row.in_flight}`));
  const expected = plan.payloads.length * plan.inFlight.length + (plan.sparseSamples > 0 ? 1 : 0);
  if (cases.size !== expected) throw new CommandError(`${cases.size} cases were measured, not ${expected}`);
  for (const system of plan.systems) {
    const count = rows.filter((row) => row.system === system && row.p50_us > 0).length;
    if (count !== expected) throw new CommandError(`${system} has ${count} rows of ${expected}`);
  }
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace, started) => {
    const slotbus: SlotbusContestant = await startSlotbus(workspace);
    const contestants: Contestant[] = [slotbus];
    started.push(slotbus);
    for (const name of plan.systems.slice(1)) {
      const contestant = await start(name, workspace);
      contestants.push(contestant);
      started.push(contestant);
    }
    for (const { name, answerer } of contestants) verifyAnswerer(name, answerer, name === "worker-postmessage");
    const rows = await measure(contestants, plan, workspace, say);
    verifyRows(rows, plan);
    const machine = describeMachine(plan);
    if (plan.mode === "short") return { machine, rows, idle: null, checks: null };
    say("headers, slots, the physical limit");
    const checks = await runChecks(slotbus, workspace, plan.rounds);
    if (plan.mode === "quick") {
      say("idle");
      return { machine, rows, idle: { wakeups: await idleWakeups(slotbus, 1_000, IDLE_MS) }, checks };
    }
    say("idle: a minute to settle, a minute to measure");
    return { machine, rows, idle: { cpu_ms_per_minute: await idleCpu(workspace) }, checks };
  });
}

// ---- the report ---------------------------------------------------------------------------------------------------------

const COLUMNS = ["µs", "p50", "p90", "p99", "p99.9", "req/s", "slower"];

/** How often slotbus has done what this row did once: by requests per second under load, otherwise by p50. */
function slower(row: Row, own: Row): string {
  const load = row.case === "throughput";
  return `${number(load ? own.requests_per_second / row.requests_per_second : row.p50_us / own.p50_us)}x`;
}

function reportCase(rows: readonly Row[]): string {
  const own = rows[0]!;
  const title = {
    rtt: `Round trip, ${sizeName(own.payload_bytes)}`,
    throughput: `${own.in_flight} in flight, ${sizeName(own.payload_bytes)}`,
    sparse: "Sparse: one request of 64 B each millisecond, both sides asleep between two",
  }[own.case];
  const cells = rows.map((row) => [
    row.system,
    ...[row.p50_us, row.p90_us, row.p99_us, row.p999_us, row.requests_per_second].map(number),
    slower(row, own),
  ]);
  return `${title}\n${table([COLUMNS, ...cells])}`;
}

function reportChecks(checks: Checks): string {
  const { spin_limit_us: spin, rtt_over_spin_limit: overSpin } = checks;
  return `slotbus alone, 64 B\n${table([
    [
      "two C processes spinning on cache lines, round trip",
      spin === null ? "needs a C compiler" : `${number(spin)} µs`,
    ],
    ["round trip, to that", overSpin === null ? "-" : `${number(overSpin)}x`],
    ["round trip with 10 headers each way, all read, to one without", `${number(checks.headers_ratio)}x`],
    ["the same, one header new in each message", `${number(checks.headers_one_varies_ratio)}x`],
    ["requests per second with 256 slots, to 32 slots", `${number(checks.slots_256_over_32)}x`],
  ])}\n\nHandlers that read the body: a copy of their own, and borrowed; round trip, p50\n${table([
    ["µs", "request.body", "request.borrow()", "own ÷ borrowed"],
    ...checks.bodies.map(({ payload_bytes: bytes, own_us: own, borrowed_us: borrowed }) => [
      sizeName(bytes),
      number(own),
      number(borrowed),
      number(own / borrowed),
    ]),
  ])}`;
}

function reportIdle(idle: NonNullable<Result["idle"]>): string {
  if ("wakeups" in idle) return `Idle for ${IDLE_MS / 1000} s: ${idle.wakeups} wake-ups.`;
  return `Idle: ${number(idle.cpu_ms_per_minute)} ms of CPU per minute more than two bare Bun processes.`;
}

function report({ machine, rows, idle, checks }: Result): string {
  const cases = Map.groupBy(rows, (row) => `${row.case} ${row.payload_bytes} ${row.in_flight}`);
  return [
    machineLines(machine),
    ...[...cases.values()].map(reportCase),
    ...(checks ? [reportChecks(checks)] : []),
    ...(idle ? [reportIdle(idle)] : []),
  ].join("\n\n");
}

/** Round trips of one request, and requests per second of the most at once. */
function panels({ rows }: Result): Panel[] {
  const most = Math.max(...rows.map((row) => row.in_flight));
  const drawn = rows.filter((row) => row.case === "rtt" || (row.case === "throughput" && row.in_flight === most));
  const cases = Map.groupBy(drawn, (row) => `${row.case} ${row.payload_bytes}`);
  return [...cases.values()].map((all) => {
    const { case: kind, payload_bytes: bytes, in_flight: inFlight } = all[0]!;
    const isLoad = kind === "throughput";
    return {
      title: isLoad ? `${inFlight} in flight, ${sizeName(bytes)}` : `Round trip, ${sizeName(bytes)}, median`,
      unit: isLoad ? "req/s" : "µs",
      better: isLoad ? "more" : "less",
      bars: all.map((row) => ({ label: row.system, value: isLoad ? row.requests_per_second : row.p50_us })),
    };
  });
}

/** Suites in folders of their own. */
const SUITES: readonly Lazy[] = [
  { name: "streams", summary: "streamed bodies, and typed calls", load: () => import("./bench/streams/suite.ts") },
  {
    name: "events",
    summary: "one publisher, many subscribers",
    load: () => import("./bench/events/suite.ts"),
  },
  { name: "contest", summary: "claims, contention, takeover", load: () => import("./bench/contest/suite.ts") },
  { name: "stdio", summary: "programs behind pipes", load: () => import("./bench/stdio/suite.ts") },
];

export async function command(args: readonly string[]): Promise<Command> {
  const bench = newCommand("bench", "measure latency and throughput on this machine, beside the alternatives", [
    "slotbus bench --quick --json > result.json",
    "slotbus bench --short --payload 4k --in-flight 1 --against unix-socket",
    "slotbus bench --quick --svg bench.svg",
  ]);
  withCommonFlags(
    bench,
    SYSTEMS.slice(1),
    "64 B, 64 KiB and 1 MiB at 1 and 32 in flight; ends within 40 s (the full run: 8 minutes, 2 of them idle)",
    "64 B against two rivals; a few seconds",
  )
    .argument("[suite]", "bus (default), or one of the commands below")
    .option("--payload <list>", "bodies, in bytes; k, m: times 1024 (default: 64,4k,64k,1m)")
    .option("--in-flight <list>", "requests at once (default: 1,8,32)")
    .action(async (suite: string | undefined, flags: Flags) => {
      if (suite !== undefined && suite !== "bus")
        throw new UsageError(
          `there is no suite "${suite}"; there is: bus, ${SUITES.map(({ name }) => name).join(", ")}.`,
        );
      const plan = makePlan(flags);
      await present(flags, (say) => runAll(plan, say), { report, title: "Requests between two processes", panels });
    });
  await addLazily(bench, SUITES, args);
  return bench;
}
