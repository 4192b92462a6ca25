/** `slotbus bench`: round trip, throughput and a sparse case, slotbus beside what else a Bun user has. */

import { cpus, release } from "node:os";
import { parseArgs } from "node:util";
import { type Checks, idleCpu, idleWakeups, runChecks } from "./bench/checks.ts";
import {
  type Call,
  closedLoop,
  type Limits,
  makeBodies,
  type Round,
  sparseLoop,
  type Summary,
  summarise,
} from "./bench/measure.ts";
import {
  type Contestant,
  type SlotbusContestant,
  start,
  SYSTEMS,
  type SystemName,
  Workspace,
} from "./bench/systems.ts";
import { UsageError } from "./usage.ts";

const HELP = `slotbus bench [options]

  --payload 64,4k,64k,1m   bodies, in bytes (k, m: times 1024)
  --in-flight 1,8,32       requests at once
  --against all            or none, or a list of: ${SYSTEMS.slice(1).join(", ")}
  --quick                  64 B, 64 KiB and 1 MiB at 1 and 32 in flight; ends within 40 s
  --short                  64 B against two rivals; a few seconds
  --json                   print JSON and nothing else
  --help

  slotbus bench --quick --json > result.json
  slotbus bench --payload 4k --in-flight 1 --against unix-socket`;

type Mode = "full" | "quick" | "short";

interface Plan {
  mode: Mode;
  payloads: number[];
  inFlight: number[];
  systems: SystemName[];
  rounds: number;
  /** Limits of a round of one contestant. */
  limits: (system: SystemName, bytes: number) => Limits;
  sparseSamples: number;
}

type Case = "rtt" | "throughput" | "sparse";

/** One line of the table, as it stands in the JSON. */
export interface Row extends Omit<Summary, "samples"> {
  system: SystemName;
  case: Case;
  payload_bytes: number;
  in_flight: number;
}

interface Result {
  machine: Record<string, string | number>;
  rows: Row[];
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

function parseAgainst(text: string): SystemName[] {
  if (text === "all") return [...SYSTEMS];
  if (text === "none") return ["slotbus"];
  const wrong = text.split(",").find((name) => !SYSTEMS.includes(name as SystemName));
  if (wrong !== undefined)
    throw new UsageError(`--against ${wrong}: give all, none, or ${SYSTEMS.slice(1).join(", ")}.`);
  return SYSTEMS.filter((name) => name === "slotbus" || text.split(",").includes(name));
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        payload: { type: "string" },
        "in-flight": { type: "string" },
        against: { type: "string" },
        quick: { type: "boolean" },
        short: { type: "boolean" },
        json: { type: "boolean" },
        help: { type: "boolean" },
      },
    }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

const ROUND_MS: Record<Mode, number> = { full: 400, quick: 90, short: 150 };

function makePlan(values: ReturnType<typeof parse>): Plan {
  const mode: Mode = values.short ? "short" : values.quick ? "quick" : "full";
  const sizes = { full: "64,4k,64k,1m", quick: "64,64k,1m", short: "64" }[mode];
  const inFlight = { full: "1,8,32", quick: "1,32", short: "1,32" }[mode];
  const against = mode === "short" ? "unix-socket,fetch-unix" : "all";
  return {
    mode,
    payloads: (values.payload ?? sizes).split(",").map(parseSize),
    inFlight: (values["in-flight"] ?? inFlight).split(",").map(parseInFlight),
    systems: parseAgainst(values.against ?? against),
    rounds: mode === "full" ? 7 : 5,
    // Rivals take as long as slotbus does, and so fewer samples; never other work.
    limits: (_, bytes) => ({ samples: 400_000, minimum: bytes > 65_536 ? 20 : 50, ms: ROUND_MS[mode] }),
    sparseSamples: { full: 400, quick: 120, short: 0 }[mode],
  };
}

// ---- the run ------------------------------------------------------------------------------------------------------------

/** Rounds of every contestant in turn; the first round of each warms up and does not count. */
async function alternate(
  contestants: readonly Contestant[],
  rounds: number,
  run: (contestant: Contestant, call: Call) => Promise<Round>,
): Promise<Map<SystemName, Round[]>> {
  const results = new Map<SystemName, Round[]>(contestants.map(({ name }) => [name, []]));
  for (let i = 0; i <= rounds; i++) {
    for (const contestant of contestants) {
      const round = await run(contestant, (body) => contestant.call(body));
      if (i > 0) results.get(contestant.name)!.push(round);
    }
  }
  return results;
}

async function measure(contestants: readonly Contestant[], plan: Plan, say: (text: string) => void): Promise<Row[]> {
  const rows: Row[] = [];
  const add = (results: Map<SystemName, Round[]>, kind: Case, bytes: number, inFlight: number): void => {
    for (const [system, rounds] of results) {
      const { samples: _, ...summary } = summarise(rounds);
      rows.push({ system, case: kind, payload_bytes: bytes, in_flight: inFlight, ...summary });
    }
  };
  for (const bytes of plan.payloads) {
    for (const inFlight of plan.inFlight) {
      say(`${sizeName(bytes)}, ${inFlight} in flight`);
      const bodies = makeBodies(bytes, inFlight);
      const results = await alternate(contestants, plan.rounds, ({ name }, call) =>
        closedLoop(call, bodies, plan.limits(name, bytes)),
      );
      add(results, inFlight === 1 ? "rtt" : "throughput", bytes, inFlight);
    }
  }
  if (plan.sparseSamples > 0) {
    say("one request each millisecond");
    const [body] = makeBodies(64, 1);
    const results = await alternate(contestants, plan.rounds, (_, call) => sparseLoop(call, body!, plan.sparseSamples));
    add(results, "sparse", 64, 1);
  }
  return rows;
}

/** Every contestant must stand in every case, and answer from another process (or, a thread's, from our own). */
function verify(rows: Row[], contestants: readonly Contestant[], plan: Plan): void {
  const cases = plan.payloads.length * plan.inFlight.length + (plan.sparseSamples > 0 ? 1 : 0);
  for (const { name, pid } of contestants) {
    const found = rows.filter((row) => row.system === name).length;
    if (found !== cases) throw new Error(`${name} has ${found} rows of ${cases}`);
    const isThread = name === "worker-postmessage";
    if ((pid === process.pid) !== isThread)
      throw new Error(`${name} answered from process ${pid}, we are ${process.pid}`);
  }
}

async function runAll(plan: Plan, say: (text: string) => void): Promise<Result> {
  using workspace = new Workspace();
  const contestants: Contestant[] = [];
  try {
    for (const name of plan.systems) contestants.push(await start(name, workspace));
    const slotbus = contestants[0] as SlotbusContestant;
    const rows = await measure(contestants, plan, say);
    verify(rows, contestants, plan);
    if (plan.mode === "short") return { machine: describeMachine(plan), rows, idle: null, checks: null };
    say("headers, slots, the physical limit");
    const checks = await runChecks(slotbus, workspace, plan.mode === "full" ? 7 : 5);
    say(plan.mode === "full" ? "idle: two minutes" : "idle");
    const idle =
      plan.mode === "full"
        ? { cpu_ms_per_minute: await idleCpu(workspace) }
        : { wakeups: await idleWakeups(slotbus, 500, 2_000) };
    return { machine: describeMachine(plan), rows, idle, checks };
  } finally {
    await Promise.all(contestants.map((contestant) => contestant.stop()));
  }
}

// ---- the report ---------------------------------------------------------------------------------------------------------

function describeMachine({ mode, rounds }: Plan): Record<string, string | number> {
  const processors = cpus();
  return {
    cpu: processors[0]?.model ?? "unknown",
    cores: processors.length,
    kernel: `Linux ${release()}`,
    bun: Bun.version,
    mode,
    rounds,
  };
}

function sizeName(bytes: number): string {
  if (bytes >= 1024 ** 2 && bytes % 1024 ** 2 === 0) return `${bytes / 1024 ** 2} MiB`;
  return bytes >= 1024 && bytes % 1024 === 0 ? `${bytes / 1024} KiB` : `${bytes} B`;
}

function number(value: number | null): string {
  if (value === null) return "-";
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value.toPrecision(3);
}

/** Columns padded to their widest cell, the first to the left, the others to the right. */
function table(lines: readonly (readonly string[])[]): string {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const pad = (cell: string, column: number): string =>
    column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!);
  return lines.map((line) => line.map(pad).join("  ").trimEnd()).join("\n");
}

const TITLES: Record<Case, string> = {
  rtt: "round trip",
  throughput: "throughput",
  sparse: "sparse: one request each millisecond, both sides asleep",
};

function report({ machine, rows, idle, checks }: Result): string {
  const out = [
    Object.entries(machine)
      .map(([key, value]) => `${key}: ${value}`)
      .join(", "),
  ];
  const groups = Map.groupBy(rows, (row) => `${row.case} ${row.payload_bytes} ${row.in_flight}`);
  for (const group of groups.values()) {
    const { case: kind, payload_bytes: bytes, in_flight: inFlight, p50_us: own } = group[0]!;
    const lines = group.map((row) => [
      row.system,
      number(row.p50_us),
      number(row.p90_us),
      number(row.p99_us),
      number(row.p999_us),
      number(row.requests_per_second),
      `${number(row.p50_us / own)}x`,
    ]);
    const head = [`${TITLES[kind].split(":")[0]} µs`, "p50", "p90", "p99", "p99.9", "req/s", "p50 to slotbus"];
    out.push(`${TITLES[kind]}, ${sizeName(bytes)}, ${inFlight} in flight`, table([head, ...lines]));
  }
  if (checks) out.push("slotbus alone", table(Object.entries(checks).map(([key, value]) => [key, number(value)])));
  if (idle)
    out.push(
      Object.entries(idle)
        .map(([key, value]) => `idle ${key}: ${value}`)
        .join(),
    );
  return out.join("\n\n");
}

/** Runs the command; resolves to its exit code. */
export async function run(args: string[]): Promise<number> {
  const values = parse(args);
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const say = (text: string): void => {
    if (!values.json && process.stderr.isTTY) process.stderr.write(`\r\u001b[K${text} …`);
  };
  const result = await runAll(makePlan(values), say);
  if (!values.json && process.stderr.isTTY) process.stderr.write("\r\u001b[K");
  console.log(values.json ? JSON.stringify(result, null, 2) : report(result));
  return 0;
}
