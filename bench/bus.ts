/** The suite `bus`: round trips, throughput and sparse requests between two Bun processes, in slotbus and in other ways. */

import { CommandError } from "../src/cli/usage.ts";
import type { Panel } from "./chart.ts";
import { type Checks, idleCpu, idleWakeups, runChecks } from "./checks.ts";
import { alternate, closedLoop, makeBodies, type Round, sparseLoop, type Summary, summarise } from "./measure.ts";
import { describeMachine, type Machine, machineLines, type Mode, number, sizeName, table } from "./report.ts";
import { guarded, inWorkspace, type Presentation, type Say, verifyAnswerer } from "./suite.ts";
import {
  type Contestant,
  type SlotbusContestant,
  start,
  startSlotbus,
  type SystemName,
  type Workspace,
} from "./systems.ts";

/** What a mode measures and how long. */
export interface Preset {
  payloads: string;
  inFlight: string;
  against: string;
  /** Measured rounds per contestant and case, after one warm-up round. */
  rounds: number;
  /** Duration of one round of one contestant. A slow contestant sends fewer requests, but the same ones. */
  roundMs: number;
  /** Warm-up before the first round of many small requests, so that hot code is compiled. */
  warmUpMs: number;
  /** Lead-in of each later round, until heaps and processors of both runtimes have settled. */
  leadInMs: number;
  /** Samples of a sparse round; 0 skips the case. */
  sparseSamples: number;
}

export const PRESETS: Record<Mode, Preset> = {
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

/** Up to this size, the many requests of a round let the heaps of the runtimes decide the result. */
const SMALL_BYTES = 4096;
/** Minimum number of samples of a round. */
const MINIMUM_SAMPLES = 20;
/** How long a quick run counts the wake-ups of an idle bus. */
const IDLE_MS = 2_000;

export interface Plan extends Omit<Preset, "payloads" | "inFlight" | "against"> {
  mode: Mode;
  payloads: number[];
  inFlight: number[];
  systems: SystemName[];
}

type Case = "rtt" | "throughput" | "sparse";

/** One row of the tables and of the JSON. */
export interface Row extends Summary {
  system: Contestant["name"];
  case: Case;
  payload_bytes: number;
  in_flight: number;
}

export interface Result {
  machine: Machine;
  rows: Row[];
  /** `null` in a short run, like `checks`. */
  idle: { wakeups: number } | { cpu_ms_per_minute: number } | null;
  checks: Checks | null;
}

// ---- the run ------------------------------------------------------------------------------------------------------------

/** Measures all cases of the plan. A contestant takes no part in a case with more requests in flight than it can have. */
export async function measure(
  contestants: readonly Contestant[],
  plan: Omit<Plan, "systems">,
  workspace: Workspace,
  say: Say,
): Promise<Row[]> {
  const rows: Row[] = [];
  type One = (it: Contestant, isWarmUp: boolean) => Promise<Round>;
  const run = async (kind: Case, bytes: number, inFlight: number, one: One) => {
    say(kind === "sparse" ? "one request each millisecond" : `${sizeName(bytes)}, ${inFlight} in flight`);
    const able = contestants.filter(({ mostInFlight = Infinity }) => inFlight <= mostInFlight);
    const results = await alternate(able, plan.rounds, (it, isWarmUp) =>
      guarded(it.name, one(it, isWarmUp), workspace),
    );
    for (const [{ name }, rounds] of results)
      rows.push({ system: name, case: kind, payload_bytes: bytes, in_flight: inFlight, ...summarise(rounds) });
  };
  for (const bytes of plan.payloads) {
    for (const inFlight of plan.inFlight) {
      const bodies = makeBodies(bytes, inFlight);
      const isBusy = inFlight > 1 && bytes <= SMALL_BYTES;
      await run(inFlight === 1 ? "rtt" : "throughput", bytes, inFlight, ({ call, measure: own }, isWarmUp) => {
        const leadInMs = !isBusy ? 0 : isWarmUp ? plan.warmUpMs : plan.leadInMs;
        const limits = { leadInMs, minimum: MINIMUM_SAMPLES, ms: plan.roundMs };
        if (own) return own({ ...limits, bytes, inFlight, sparse: 0 });
        return closedLoop(call, bodies, { ...limits, samples: Infinity });
      });
    }
  }
  const [body] = makeBodies(64, 1);
  const order = { bytes: 64, inFlight: 1, sparse: plan.sparseSamples, minimum: 0, ms: 0 };
  if (plan.sparseSamples > 0)
    await run("sparse", 64, 1, ({ call, measure: own }) => own?.(order) ?? sparseLoop(call, body!, plan.sparseSamples));
  return rows;
}

/** Throws unless each contestant has a row in every case. */
function verifyRows(rows: readonly Row[], plan: Plan): void {
  const cases = new Set(rows.map((row) => `${row.case} ${row.payload_bytes} ${row.in_flight}`));
  const expected = plan.payloads.length * plan.inFlight.length + (plan.sparseSamples > 0 ? 1 : 0);
  if (cases.size !== expected) throw new CommandError(`${cases.size} cases were measured instead of ${expected}`);
  for (const system of plan.systems) {
    const count = rows.filter((row) => row.system === system && row.p50_us > 0).length;
    if (count !== expected) throw new CommandError(`${system} has ${count} of ${expected} rows`);
  }
}

export function runAll(plan: Plan, say: Say): Promise<Result> {
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
    say("headers, slots, physical limit");
    const checks = await runChecks(slotbus, workspace, plan.rounds);
    if (plan.mode === "quick") {
      say("idle");
      return { machine, rows, idle: { wakeups: await idleWakeups(slotbus, 1_000, IDLE_MS) }, checks };
    }
    say("idle: one minute to settle, one minute to measure");
    return { machine, rows, idle: { cpu_ms_per_minute: await idleCpu(workspace) }, checks };
  });
}

// ---- the report ---------------------------------------------------------------------------------------------------------

const COLUMNS = ["µs", "p50", "p90", "p99", "p99.9", "req/s", "slower"];

/** How many times slower than slotbus the row is: by requests per second under load, otherwise by p50. */
function slower(row: Row, own: Row): string {
  const load = row.case === "throughput";
  return `${number(load ? own.requests_per_second / row.requests_per_second : row.p50_us / own.p50_us)}x`;
}

function reportCase(rows: readonly Row[]): string {
  const own = rows[0]!;
  const title = {
    rtt: `Round trip, ${sizeName(own.payload_bytes)}`,
    throughput: `${own.in_flight} in flight, ${sizeName(own.payload_bytes)}`,
    sparse: "Sparse: one request of 64 B each millisecond, both sides sleep in between",
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
      "round trip of two C processes that spin on cache lines",
      spin === null ? "needs a C compiler" : `${number(spin)} µs`,
    ],
    ["round trip of slotbus ÷ the above", overSpin === null ? "-" : `${number(overSpin)}x`],
    ["round trip with 10 headers each way, all read ÷ without headers", `${number(checks.headers_ratio)}x`],
    ["the same, with one new header value in each message", `${number(checks.headers_one_varies_ratio)}x`],
    ["requests per second with 256 slots ÷ with 32 slots", `${number(checks.slots_256_over_32)}x`],
  ])}\n\nRound trip with a handler that reads its own copy of the body, or borrows the body; p50\n${table([
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
  return `Idle: ${number(idle.cpu_ms_per_minute)} ms of CPU time per minute more than two empty Bun processes.`;
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

/** Draws the round trips, and the throughput with the most requests in flight. */
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

export const presentation: Presentation<Result> = { report, title: "Requests between two processes", panels };
