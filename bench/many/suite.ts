/** `slotbus bench many`: several client processes and several worker processes; slotbus and other ways, in alternating rounds. */

import { loadavg } from "node:os";
import type { Command } from "commander";
import { CommandError, newCommand } from "../../src/cli/usage.ts";
import { type Compared, compare, type Outcome, p99 } from "../cells.ts";
import type { Panel } from "../chart.ts";
import { watchStolen } from "../cpu.ts";
import { alternate, median, perSecond, round } from "../measure.ts";
import {
  type Bar,
  bar,
  barLines,
  describeMachine,
  type Lines,
  type Machine,
  machineLines,
  markdownTable,
  type Mode,
  number,
  table,
} from "../report.ts";
import { missing } from "../servers.ts";
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
import type { Workspace } from "../systems.ts";
import { wasClaimed } from "./late.ts";
import {
  type BlockedRound,
  PROCESSES,
  startBlocked,
  startPair,
  startTeam,
  SYSTEMS,
  type SystemName,
  type Team,
} from "./teams.ts";

/** How long a mode measures. */
interface Preset {
  rounds: number;
  /** Duration of one round of one system. */
  roundMs: number;
  leadInMs: number;
  warmUpMs: number;
  /** How often the two pairs of processes of an owned and a shared bus are started; each start has all rounds. */
  starts: number;
}

const PRESETS: Record<Mode, Preset> = {
  full: { rounds: 11, roundMs: 500, leadInMs: 150, warmUpMs: 2_000, starts: 5 },
  quick: { rounds: 5, roundMs: 250, leadInMs: 50, warmUpMs: 700, starts: 2 },
  short: { rounds: 3, roundMs: 60, leadInMs: 20, warmUpMs: 100, starts: 1 },
};

/** Requests in flight of each client; the only client of `bun-ipc` has four times as many. */
const IN_FLIGHT = 32;
/** Requests per second of each client beside a worker that blocks. */
const MODERATE = 2_500;
/** A worker blocks for 100 ms each time; a round of the case has at least one block. */
const BLOCK_EVERY_MS = 250;
const BLOCKED_ROUND_MS = 4 * BLOCK_EVERY_MS;

type Plan = Preset & { mode: Mode; systems: SystemName[] };

/** `pair-one`, `pair-many`: one client, one worker, 1 and 32 in flight. `many`: 4 × 4. `offered`: 4 × 4, p99 at equal load. */
type Case = "pair-one" | "pair-many" | "many" | "offered";

/** Ratios are of speed (1 ÷ p50) for `pair-one`, of p99 for `offered`, otherwise of requests per second. */
export interface ManyRow extends Compared {
  case: Case;
  /** `shared` and `owned` in the cases of a pair. */
  system: SystemName | "shared" | "owned";
  clients: number;
  workers: number;
}

/** Requests beside a worker that blocks its event loop, or does not. */
export interface BlockedRow {
  case: "blocked";
  system: "slotbus";
  /** How often the worker blocked. */
  blocks: number;
  requests: number;
  /** Requests of each round that took longer, without those that the blocked worker had claimed. */
  beyond_1_ms: number[];
  beyond_5_ms: number[];
  /** Slowest of these requests, in ms. */
  worst_ms: number;
  /** Requests beyond 1 ms that the blocked worker had claimed. */
  claimed: number;
}

interface Result {
  machine: Machine;
  rows: (ManyRow | BlockedRow)[];
  bars: Bar[];
  /** Processes that were ready to run, on average of one minute, before and after the run. */
  load: [before: number, after: number];
  /** Time that the hypervisor took from this machine during the run, in % of all processors' time; `null` if unknown. */
  stolen_percent: number | null;
  /** Systems that were skipped, and why. */
  notes: string[];
}

// ---- the run ------------------------------------------------------------------------------------------------------------

const speed = ({ latencies }: Outcome): number => 1 / median(latencies);

/** One client and one worker: a bus that the client shares, and one that it owns. New processes for each start. */
async function pairs(plan: Plan, workspace: Workspace): Promise<ManyRow[]> {
  const contestants = ["shared", "owned"] as const;
  const results = {
    "pair-one": new Map<(typeof contestants)[number], Outcome[]>(contestants.map((name) => [name, []])),
    "pair-many": new Map<(typeof contestants)[number], Outcome[]>(contestants.map((name) => [name, []])),
  };
  const { rounds, leadInMs, warmUpMs, roundMs } = plan;
  for (let start = 0; start < plan.starts; start++) {
    const order = start % 2 === 0 ? contestants : contestants.toReversed();
    const teams: Team<(typeof contestants)[number]>[] = [];
    for (const name of order) teams.push(await startPair(name, `${name}-${start}`, workspace));
    for (const [kind, inFlight] of [["pair-many", IN_FLIGHT] as const, ["pair-one", 1] as const]) {
      const measured = await alternate(teams, rounds, (team, isWarmUp) =>
        guarded(team.name, team.closed(inFlight, isWarmUp && inFlight > 1 ? warmUpMs : leadInMs, roundMs), workspace),
      );
      for (const [team, outcomes] of measured) results[kind].get(team.name)!.push(...outcomes);
    }
    for (const team of teams) await team.stop();
  }
  const rowsOf = (kind: keyof typeof results, figure: (outcome: Outcome) => number): ManyRow[] =>
    compare(results[kind], figure).map((row) => ({ case: kind, clients: 1, workers: 1, ...row }));
  return [...rowsOf("pair-many", perSecond), ...rowsOf("pair-one", speed)];
}

/** Measures teams in alternating rounds. */
async function compareTeams(
  kind: Case,
  teams: readonly Team<SystemName>[],
  plan: Plan,
  figure: (outcome: Outcome) => number,
  one: (team: Team<SystemName>, isWarmUp: boolean) => Promise<Outcome>,
  workspace: Workspace,
): Promise<ManyRow[]> {
  const measured = await alternate(teams, plan.rounds, (team, isWarmUp) =>
    guarded(team.name, one(team, isWarmUp), workspace),
  );
  const outcomes = new Map([...measured].map(([team, rounds]) => [team.name, rounds]));
  return compare(outcomes, figure).map((row, i) => ({
    case: kind,
    clients: teams[i]!.clients,
    workers: PROCESSES,
    ...row,
  }));
}

/** The rival with the most requests per second. */
function bestOf(rows: readonly (ManyRow | BlockedRow)[]): ManyRow | null {
  const rivals = rows.filter((row): row is ManyRow => row.case === "many" && row.system !== "slotbus");
  return rivals.reduce<ManyRow | null>((best, row) => (best && best.ratio <= row.ratio ? best : row), null);
}

async function teams(plan: Plan, workspace: Workspace, say: Say, notes: string[]): Promise<ManyRow[]> {
  const started: Team<SystemName>[] = [];
  for (const system of plan.systems) {
    const note = system === "nats" ? missing(system) : null;
    if (note === null) started.push(await startTeam(system, workspace));
    else notes.push(note);
  }
  say(`${PROCESSES} clients, ${PROCESSES} workers`);
  const { leadInMs, warmUpMs, roundMs } = plan;
  const inFlightOf = ({ clients }: Team): number => (IN_FLIGHT * PROCESSES) / clients;
  const many = await compareTeams(
    "many",
    started,
    plan,
    perSecond,
    (team, isWarmUp) => team.closed(inFlightOf(team), isWarmUp ? warmUpMs : leadInMs, roundMs),
    workspace,
  );
  const best = bestOf(many);
  const compared = started.filter(({ name }) => name === "slotbus" || name === best?.system);
  const rate = Math.min(many[0]!.requests_per_second, best?.requests_per_second ?? Infinity) / 2;
  say(`${Math.round(rate)} requests per second offered`);
  const offered = await compareTeams(
    "offered",
    compared,
    plan,
    p99,
    (team) => team.measure({ case: "offered", perSecond: rate / team.clients, ms: roundMs }),
    workspace,
  );
  for (const team of started) await team.stop();
  return [...many, ...offered];
}

function blockedRow(rounds: readonly BlockedRound[]): BlockedRow {
  const free = rounds.map(({ late, blocks }) => late.filter((it) => !wasClaimed(it, blocks)));
  const sum = (of: (round: BlockedRound) => number): number => rounds.reduce((total, it) => total + of(it), 0);
  return {
    case: "blocked",
    system: "slotbus",
    blocks: sum(({ blocks }) => blocks.length),
    requests: sum(({ latencies }) => latencies.length),
    beyond_1_ms: free.map((late) => late.length),
    beyond_5_ms: free.map((late) => late.filter(({ ms }) => ms > 5).length),
    worst_ms: round(free.flat().reduce((worst, { ms }) => Math.max(worst, ms), 0)),
    claimed: sum(({ late }) => late.length) - free.flat().length,
  };
}

/** Rounds with a worker that blocks and rounds without, in turn. */
async function blocked(plan: Plan, workspace: Workspace): Promise<BlockedRow[]> {
  const team = await startBlocked(workspace);
  await guarded("slotbus", team.round(MODERATE, 2 * plan.warmUpMs, null), workspace);
  const measured = await alternate([BLOCK_EVERY_MS, null], plan.rounds, (everyMs) =>
    guarded("slotbus", team.round(MODERATE, BLOCKED_ROUND_MS, everyMs), workspace),
  );
  await team.stop();
  return [...measured.values()].map(blockedRow);
}

/** Throws unless there are figures of all systems, and blocks where there should be some. */
function verifyRows(rows: Result["rows"], plan: Plan, notes: readonly string[]): void {
  const count = (kind: Result["rows"][number]["case"]): number => rows.filter((row) => row.case === kind).length;
  const systems = plan.systems.length - notes.length;
  const expected = [2, 2, systems, Math.min(2, systems), 2];
  const found = (["pair-one", "pair-many", "many", "offered", "blocked"] as const).map(count);
  if (found.join() !== expected.join()) throw new CommandError(`there are ${found} rows of the cases, not ${expected}`);
  const blocks = rows.filter((row): row is BlockedRow => row.case === "blocked").map((row) => row.blocks);
  if (!(blocks[0]! >= plan.rounds && blocks[1] === 0)) throw new CommandError(`the worker blocked ${blocks} times`);
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace) => {
    const stolen = watchStolen();
    const [before] = loadavg() as [number, number, number];
    const notes: string[] = [];
    say("one client, one worker");
    const rows: Result["rows"] = await pairs(plan, workspace);
    rows.push(...(await teams(plan, workspace, say, notes)));
    say("beside a worker that blocks");
    rows.push(...(await blocked(plan, workspace)));
    verifyRows(rows, plan, notes);
    return {
      machine: describeMachine(plan),
      rows,
      bars: judge(rows),
      load: [round(before), round(loadavg()[0]!)],
      stolen_percent: stolen(),
      notes,
    };
  });
}

// ---- goals --------------------------------------------------------------------------------------------------------------

function judge(rows: Result["rows"]): Bar[] {
  const ratioOf = (kind: Case, system: ManyRow["system"]): number =>
    rows.find((row): row is ManyRow => row.case === kind && row.system === system)!.ratio;
  const bars = [
    bar("1 × 1: requests/s, shared ÷ owned", ratioOf("pair-many", "owned"), { at_least: 0.95, aim: 1 }),
    bar("1 × 1: speed of a round trip, shared ÷ owned", ratioOf("pair-one", "owned"), { at_least: 0.95, aim: 1 }),
  ];
  const best = bestOf(rows);
  if (best) {
    const { system, ratio } = best;
    bars.push(bar(`4 × 4: requests/s, slotbus ÷ best rival (${system})`, ratio, { at_least: 2, aim: 4 }));
    const equal = ratioOf("offered", system);
    bars.push(bar(`4 × 4: p99 at equal load, slotbus ÷ ${system}`, equal, { at_most: 1, aim: 0.5 }));
  }
  const [blocking, free] = rows.filter((row): row is BlockedRow => row.case === "blocked");
  const more = (key: "beyond_1_ms" | "beyond_5_ms"): number =>
    Math.max(0, median(blocking![key].map((count, i) => count - free![key][i]!)));
  bars.push(bar("beside blocks: requests beyond 5 ms, more a round", more("beyond_5_ms"), { at_most: 0, aim: 0 }));
  bars.push(
    bar("beside blocks: requests beyond 1 ms, more a round (aim)", more("beyond_1_ms"), { at_most: 0, aim: 0 }),
  );
  return bars;
}

// ---- the report ---------------------------------------------------------------------------------------------------------

const ALL = `${PROCESSES} clients, ${PROCESSES} workers`;
const TITLES: Record<Case, string> = {
  "pair-many": `1 client, 1 worker, ${IN_FLIGHT} in flight`,
  "pair-one": "1 client, 1 worker, one at a time",
  many: `${ALL}, ${IN_FLIGHT} in flight of each client`,
  offered: `${ALL}, at half the load of the slower one of slotbus and its best rival`,
};

interface Section {
  title: string;
  lines: Lines;
}

function compared(rows: readonly ManyRow[]): Section {
  const { case: kind, system } = rows[0]!;
  const what = kind === "offered" ? "p99" : kind === "pair-one" ? "speed" : "requests/s";
  return {
    title: TITLES[kind],
    lines: [
      ["µs", "p50", "p99", "p99.9", "worst", "CPU", "req/s", `${system} ÷ it: ${what}`, "from", "to"],
      ...rows.map((row) => [
        row.system === "bun-ipc" ? "bun-ipc (1 client)" : row.system,
        ...[row.p50_us, row.p99_us, row.p999_us, row.worst_us, row.cpu_us, row.requests_per_second].map(number),
        ...[row.ratio, row.ratios[0]!, row.ratios.at(-1)!].map(number),
      ]),
    ],
  };
}

function sectionsOf({ rows, bars }: Result): Section[] {
  const cases = Map.groupBy(
    rows.filter((row): row is ManyRow => row.case !== "blocked"),
    (row) => row.case,
  );
  const beside = rows.filter((row): row is BlockedRow => row.case === "blocked");
  const count = (value: number): string => value.toLocaleString("en");
  const sum = (values: readonly number[]): string => count(values.reduce((total, value) => total + value, 0));
  return [
    ...[...cases.values()].map(compared),
    {
      title: `${ALL}, ${count(PROCESSES * MODERATE)} requests/s; a worker blocks for 100 ms, or does not`,
      lines: [
        ["blocks", "requests", "beyond 1 ms", "beyond 5 ms", "worst, ms", "claimed by the blocked worker"],
        ...beside.map((row) => [
          count(row.blocks),
          count(row.requests),
          sum(row.beyond_1_ms),
          sum(row.beyond_5_ms),
          number(row.worst_ms),
          count(row.claimed),
        ]),
      ],
    },
    { title: "Against the goals", lines: barLines(bars) },
  ];
}

function disturbance({ load, stolen_percent: stolen }: Result): string {
  const taken = stolen === null ? "" : ` The hypervisor took ${number(stolen)} % of the processors' time.`;
  return `Load of the machine: ${load.map(number).join(" before and ")} after the run.${taken}`;
}

function report(result: Result): string {
  const sections = sectionsOf(result).map(({ title, lines }) => `${title}\n${table(lines)}`);
  return [machineLines(result.machine), ...sections, disturbance(result), ...result.notes].join("\n\n");
}

/** Returns the tables of the section of bench/RESULTS.md. */
function markdown(result: Result): string {
  const sections = sectionsOf(result).map(({ title, lines }) => `### ${title}\n\n${markdownTable(lines)}`);
  const date = new Date().toISOString().slice(0, 10);
  return [
    "## Many clients, many workers",
    "    npm run -s bench -- many --markdown",
    `${date}. ${machineLines(result.machine)}. ${disturbance(result)}`,
    ...result.notes,
    ...sections,
  ].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  const drawn = rows.filter((row): row is ManyRow => row.case === "many");
  const bars = drawn.map((row) => ({ label: row.system, value: row.requests_per_second }));
  return [{ title: TITLES.many, unit: "req/s", better: "more", bars }];
}

export function command(): Command {
  const suite = newCommand("many", "measure several clients with several workers", [
    "slotbus bench many --quick --json > result.json",
    "slotbus bench many --markdown >> bench/RESULTS.md",
  ]);
  return withCommonFlags(
    suite,
    SYSTEMS.slice(1),
    "fewer and shorter rounds; takes up to 60 s (a full run takes 4 minutes)",
    "a few rounds; takes a few seconds",
  )
    .option("--markdown", "print the section of bench/RESULTS.md")
    .addHelpText("after", "\nnats needs the program nats-server.")
    .action(async (flags: CommonFlags & { markdown?: boolean }) => {
      const mode = modeOf(flags);
      const plan: Plan = { ...PRESETS[mode], mode, systems: parseAgainst(flags.against ?? "all", SYSTEMS) };
      await present(flags, (say) => runAll(plan, say), {
        report: flags.markdown ? markdown : report,
        title: "Many clients, many workers",
        panels,
      });
    });
}
