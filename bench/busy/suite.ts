/** `slotbus bench busy`: requests of 64 B on a machine that is busy or small; slotbus and other ways, in alternating rounds. */

import { join } from "node:path";
import type { Command } from "commander";
import { CommandError, newCommand, UsageError } from "../../src/cli/usage.ts";
import { C } from "../../src/native/abi.ts";
import type { Panel } from "../chart.ts";
import { type Cell, type Order, type Outcome, startCell, together } from "../cells.ts";
import { watchStolen } from "../cpu.ts";
import { alternate } from "../measure.ts";
import {
  type Bar,
  bar,
  barLines,
  describeMachine,
  machineLines,
  type Machine,
  type Mode,
  number,
  table,
} from "../report.ts";
import {
  type CommonFlags,
  compile,
  guarded,
  integerFrom,
  inWorkspace,
  modeOf,
  parseAgainst,
  present,
  type Say,
  withCommonFlags,
} from "../suite.ts";
import { type PeerOptions, SYSTEMS as ALL, type SystemName, type Workspace } from "../systems.ts";
import { type BusyRow, type Case, CASES, firstOf, rowsOf } from "./rows.ts";
import { setUp, type Situation, SITUATIONS, type SituationName } from "./situations.ts";

/** Names in the JSON: as in the suite `bus`, without `fetch-tcp`. */
const SYSTEMS = ALL.filter((name) => name !== "fetch-tcp");

/** Others are compared with it. */
const RIVAL: SystemName = "unix-socket";

const IN_FLIGHT = [1, 32] as const;

/** What a mode measures and how long. */
interface Preset {
  situations: readonly SituationName[];
  against: string;
  cases: readonly Case[];
  rounds: number;
  /** Duration of one round of one system. A sparse round has as many samples. */
  roundMs: number;
  warmUpMs: number;
  leadInMs: number;
  /** Pairs of new processes per system and number of requests in flight. */
  starts: number;
}

const EVERYWHERE = Object.keys(SITUATIONS) as SituationName[];

/** Length of the first half second. */
const FIRST_MS = 500;
const PRESETS: Record<Mode, Preset> = {
  full: {
    situations: EVERYWHERE,
    against: "all",
    cases: CASES,
    rounds: 15,
    roundMs: 250,
    warmUpMs: 1_500,
    leadInMs: 100,
    starts: 7,
  },
  quick: {
    situations: EVERYWHERE,
    against: RIVAL,
    cases: CASES,
    rounds: 7,
    roundMs: 150,
    warmUpMs: 1_000,
    leadInMs: 50,
    starts: 3,
  },
  short: {
    situations: ["loop-1", "one-processor"],
    against: RIVAL,
    cases: ["one", "many", "offered"],
    rounds: 3,
    roundMs: 50,
    warmUpMs: 200,
    leadInMs: 20,
    starts: 0,
  },
};

/** `slots`: number of slots of slotbus; `null`: its default. */
type Plan = Preset & { mode: Mode; systems: SystemName[]; slots: number | null };

interface Result {
  machine: Machine;
  rows: BusyRow[];
  bars: Bar[];
  /** Time that the hypervisor took from this machine during the run, in % of all processors' time; `null` if unknown. */
  stolen_percent: number | null;
  /** Situations that were skipped, and why. */
  notes: string[];
}

// ---- the run ------------------------------------------------------------------------------------------------------------

class Run {
  readonly rows: BusyRow[] = [];
  readonly #name: SituationName;
  readonly #situation: Situation;
  readonly #plan: Plan;
  readonly #workspace: Workspace;

  constructor(name: SituationName, situation: Situation, plan: Plan, workspace: Workspace) {
    this.#name = name;
    this.#situation = situation;
    this.#plan = plan;
    this.#workspace = workspace;
  }

  /** Measures the cases of processes that have run for a while. */
  async warm(say: Say): Promise<void> {
    const { cases, systems, roundMs: ms, warmUpMs, leadInMs } = this.#plan;
    // Each system has client processes of its own: in one process, each would run code that was compiled for another.
    const cells = new Map(
      await Promise.all(systems.map(async (system) => [system, await this.#start(system)] as const)),
    );
    for (const kind of cases.filter((one) => !one.includes("-"))) {
      say(`${SITUATIONS[this.#name].title}: ${kind}`);
      const rate = kind === "offered" ? this.#offeredRate() : 0;
      const compared = kind === "offered" ? systems.filter((one) => one === "slotbus" || one === RIVAL) : systems;
      await this.#measure(kind, compared, (system, isWarmUp) => {
        const lead = isWarmUp ? warmUpMs : leadInMs;
        const order: Order =
          kind === "sparse"
            ? { case: "sparse", ms }
            : kind === "offered"
              ? { case: "offered", perSecond: rate, ms }
              : { case: "closed", inFlight: IN_FLIGHT[kind === "one" ? 0 : 1], leadInMs: lead, ms };
        return this.#together(system, cells.get(system)!, order);
      });
    }
    await Promise.all([...cells.values()].flat().map((cell) => cell.stop()));
  }

  /** Measures the first requests and the first half second of new processes. */
  async fresh(say: Say): Promise<void> {
    const { cases, systems, starts } = this.#plan;
    for (const inFlight of IN_FLIGHT) {
      const kind: Case = `first-${inFlight}`;
      if (!cases.includes(kind)) continue;
      say(`${SITUATIONS[this.#name].title}: ${kind}`);
      const results = new Map(systems.map((system): [SystemName, Outcome[]] => [system, []]));
      for (let start = 0; start < starts; start++) {
        for (const system of start % 2 === 0 ? systems : systems.toReversed()) {
          const cells = await this.#start(system);
          const order: Order = { case: "closed", inFlight, leadInMs: 0, ms: FIRST_MS };
          results.get(system)!.push(await this.#together(system, cells, order));
          await Promise.all(cells.map((cell) => cell.stop()));
        }
      }
      const first = [...results].map(([system, outcomes]): [SystemName, Outcome[]] => [
        system,
        outcomes.map((outcome) => firstOf(outcome, inFlight)),
      ]);
      this.rows.push(...rowsOf(this.#name, `start-${inFlight}`, new Map(first)));
      this.rows.push(...rowsOf(this.#name, kind, results));
    }
  }

  async #measure(
    kind: Case,
    systems: readonly SystemName[],
    one: (system: SystemName, isWarmUp: boolean) => Promise<Outcome>,
  ): Promise<void> {
    const results = await alternate(systems, this.#plan.rounds, one);
    this.rows.push(...rowsOf(this.#name, kind, results));
  }

  /** Half of what the slower one of slotbus and its rival does with 32 in flight, for each pair. */
  #offeredRate(): number {
    const rates = this.rows
      .filter((row) => row.case === "many" && (row.system === "slotbus" || row.system === RIVAL))
      .map((row) => row.requests_per_second);
    return Math.min(...rates) / 2 / this.#situation.pairs;
  }

  #start(system: SystemName): Promise<Cell[]> {
    const { pairs } = this.#situation;
    const { slots } = this.#plan;
    const contestant = system === "slotbus" && slots !== null ? `${system} ${slots}` : system;
    const options: PeerOptions = {
      program: Bun.resolveSync("./cell", import.meta.dir),
      inside: (command) => this.#situation.inside(command),
    };
    return Promise.all(Array.from({ length: pairs }, () => startCell(this.#workspace, "cell", contestant, options)));
  }

  async #together(system: SystemName, cells: readonly Cell[], order: Order): Promise<Outcome> {
    const all = Promise.all(cells.map((cell) => cell.measure(order)));
    return together(await guarded(system, all, this.#workspace));
  }
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace) => {
    const load = compile(join(import.meta.dir, "load.c"), workspace);
    if (load === null) throw new CommandError("This suite needs a C compiler. Install one, for example gcc.");
    const stolen = watchStolen();
    const rows: BusyRow[] = [];
    const notes: string[] = [];
    for (const name of plan.situations) {
      try {
        await using situation = setUp(name, load, workspace);
        const run = new Run(name, situation, plan, workspace);
        await run.warm(say);
        await run.fresh(say);
        rows.push(...run.rows);
      } catch (error) {
        if (error instanceof CommandError) throw error;
        notes.push(`"${SITUATIONS[name].title}" is skipped: ${(error as Error).message}.`);
      }
    }
    return { machine: describeMachine(plan), rows, bars: judge(rows), stolen_percent: stolen(), notes };
  });
}

// ---- goals --------------------------------------------------------------------------------------------------------------

/** At least, and aim, of slotbus ÷ unix socket in requests per second: one at a time, and 32 in flight. */
const GOALS: Record<SituationName, { one: readonly [number, number]; many: readonly [number, number] }> = {
  quiet: { one: [25, 60], many: [4, 8] },
  "loop-1": { one: [2, 8], many: [1.5, 3] },
  "loop-2": { one: [2, 8], many: [1.5, 3] },
  "bursts-0.3": { one: [2, 4], many: [2, 4] },
  "bursts-2": { one: [2, 4], many: [2, 4] },
  "bursts-5": { one: [2, 4], many: [2, 4] },
  "one-processor": { one: [1.1, 1.5], many: [1, 1.5] },
  "pairs-4": { one: [1, 2], many: [1.5, 3] },
  quota: { one: [1, 1.3], many: [1, 1.5] },
};

function judge(rows: readonly BusyRow[]): Bar[] {
  const bars: Bar[] = [];
  for (const row of rows.filter(({ system }) => system === RIVAL)) {
    const { situation, case: kind, ratio, cpu_ratio: cpu } = row;
    const where = SITUATIONS[situation].title;
    const isSmall = situation === "one-processor";
    if (kind === "one" || kind === "many") {
      const [least, aim] = GOALS[situation][kind];
      const what = kind === "one" ? "one at a time" : "32 in flight";
      bars.push(bar(`${where}: requests/s ${what}`, ratio, { at_least: least, aim }));
      if (isSmall && kind === "many" && cpu !== null)
        bars.push(bar(`${where}: CPU time per request ${what}`, cpu, { at_most: 1.1, aim: 0.8 }));
    } else if (kind === "offered") bars.push(bar(`${where}: p99 at equal load`, ratio, { at_most: 1, aim: 0.5 }));
    else if (kind === "sparse")
      bars.push(bar(`${where}: speed of sparse requests`, ratio, { at_least: 0.95, aim: 1.2 }));
    else if (isSmall && kind.startsWith("first"))
      bars.push(bar(`${where}: first half second, ${kind.slice(6)} in flight`, ratio, { at_least: 0.8, aim: 1 }));
  }
  return bars;
}

// ---- the report ---------------------------------------------------------------------------------------------------------

const TITLES: Record<Case, string> = {
  one: "one at a time",
  many: "32 in flight",
  offered: "at half the load of the slower one of slotbus and unix-socket",
  sparse: "one request each millisecond",
  "start-1": "first 1 000 requests, one at a time",
  "start-32": "first 1 000 requests, 32 in flight",
  "first-1": "first half second, one at a time",
  "first-32": "first half second, 32 in flight",
};

function caseTable(rows: readonly BusyRow[]): string {
  const { situation, case: kind } = rows[0]!;
  const compared = kind === "offered" ? "slotbus ÷ it: p99" : kind === "sparse" ? "speed" : "requests/s";
  return `${SITUATIONS[situation].title}, ${TITLES[kind]}\n${table([
    ["µs", "p50", "p99", "p99.9", "worst", "CPU", "req/s", compared, "from", "to"],
    ...rows.map((row) => [
      row.system,
      ...[row.p50_us, row.p99_us, row.p999_us, row.worst_us, row.cpu_us, row.requests_per_second].map(number),
      ...[row.ratio, row.ratios[0]!, row.ratios.at(-1)!].map(number),
    ]),
  ])}`;
}

function report({ machine, rows, bars, stolen_percent: stolen, notes }: Result): string {
  const cases = Map.groupBy(rows, (row) => `${row.situation} ${row.case}`);
  return [
    machineLines(machine),
    ...[...cases.values()].map(caseTable),
    `slotbus ÷ ${RIVAL} against the goals\n${table(barLines(bars))}`,
    ...(stolen === null ? [] : [`The hypervisor took ${number(stolen)} % of the processors' time.`]),
    ...notes,
  ].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  const drawn = rows.filter((row) => row.case === "many");
  return [...Map.groupBy(drawn, (row) => row.situation)].map(([situation, all]) => ({
    title: `${SITUATIONS[situation].title}, 32 in flight`,
    unit: "req/s",
    better: "more",
    bars: all.map((row) => ({ label: row.system, value: row.requests_per_second })),
  }));
}

function parseSituations(text: string): SituationName[] {
  const names = text.split(",").map((name) => name.trim());
  const wrong = names.find((name) => !Object.hasOwn(SITUATIONS, name));
  if (wrong === undefined) return EVERYWHERE.filter((name) => names.includes(name));
  throw new UsageError(`--situations has "${wrong}"; it must be a list of ${EVERYWHERE.join(", ")}.`);
}

export function command(): Command {
  const suite = newCommand("busy", "measure requests beside busy processes, on one processor and under a quota", [
    "slotbus bench busy --quick --situations quiet,one-processor",
  ]);
  return withCommonFlags(
    suite,
    SYSTEMS.slice(1),
    `against ${RIVAL}, fewer and shorter rounds; takes 3 minutes (a full run takes half an hour)`,
    "two situations; takes a few seconds",
  )
    .option("--slots <n>", "number of slots of slotbus (default: that of a bus)", integerFrom(1, C.SB_SLOTS_MAX))
    .option("--situations <list>", `where to measure: a list of ${EVERYWHERE.join(", ")} (default: all)`)
    .addHelpText("after", "\nNeeds a C compiler. A quota needs root.")
    .action(async (flags: CommonFlags & { situations?: string; slots?: number }) => {
      const mode = modeOf(flags);
      const preset = PRESETS[mode];
      const situations = flags.situations === undefined ? preset.situations : parseSituations(flags.situations);
      const systems = parseAgainst(flags.against ?? preset.against, SYSTEMS);
      const plan: Plan = { ...preset, mode, situations, systems, slots: flags.slots ?? null };
      await present(flags, (say) => runAll(plan, say), { report, title: "Requests on a busy machine", panels });
    });
}
