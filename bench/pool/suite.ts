/** `slotbus bench pool`: functions in worker processes and threads; slotbus, piscina, tinypool, Bun's Worker and Bun.spawn. */

import { loadavg } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { CommandError, newCommand } from "../../src/cli/usage.ts";
import type { Panel } from "../chart.ts";
import { median, round } from "../measure.ts";
import {
  type Bar,
  bar,
  barLines,
  describeMachine,
  type Machine,
  machineLines,
  type Mode,
  number,
  table,
} from "../report.ts";
import { type CommonFlags, inWorkspace, modeOf, parseAgainst, present, type Say, withCommonFlags } from "../suite.ts";
import type { Workspace } from "../systems.ts";
import { type Case, CASES, type Outcome } from "./loop.ts";

/** Names in the JSON. */
const SYSTEMS = ["slotbus", "piscina", "tinypool", "tinypool-processes", "bun-worker", "bun-spawn"] as const;
type SystemName = (typeof SYSTEMS)[number];

const PRESETS: Record<Mode, { rounds: number; roundMs: number }> = {
  full: { rounds: 5, roundMs: 500 },
  quick: { rounds: 3, roundMs: 300 },
  short: { rounds: 3, roundMs: 60 },
};

const PACKAGES = ["piscina@5", "tinypool@2"];
/** After this time a host counts as hung, in ms. */
const HUNG_MS = 20_000;

type Plan = (typeof PRESETS)[Mode] & { mode: Mode; systems: SystemName[] };

/** One case of one system in the JSON. */
export interface PoolRow {
  system: SystemName;
  case: Case;
  /** Tasks per second; `null` for the case `crash`, and when a host failed. */
  tasks_per_second: number | null;
  /** What the crash of one task did. */
  crash: string | null;
  /** Number of other tasks that the crash lost; `null` if the program ended, and for other cases. */
  lost: number | null;
}

interface Result {
  machine: Machine;
  rows: PoolRow[];
  bars: Bar[];
  /** Processes that were ready to run, on average of one minute, before and after the run. */
  load: [before: number, after: number];
  notes: string[];
}

/** Installs the rivals that run in Node, and bundles their host. Returns its path; or why there is none. */
async function prepareNode(workspace: Workspace): Promise<{ program: string } | { why: string }> {
  if (!Bun.which("node") || !Bun.which("npm")) return { why: "Node or npm is not installed" };
  const folder = join(workspace.path, "node");
  const install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", folder, ...PACKAGES];
  const npm = Bun.spawn(install, { cwd: workspace.path, stdio: ["ignore", "ignore", "pipe"], timeout: 60_000 });
  const errors = await npm.stderr.text();
  if ((await npm.exited) !== 0) return { why: `npm could not install them: ${errors.trim().split("\n")[0]}` };
  for (const name of ["node", "tasks"]) {
    await Bun.build({
      entrypoints: [Bun.resolveSync(`./${name}`, import.meta.dir)],
      target: "node",
      packages: "external",
      outdir: folder,
      naming: `${name}.mjs`,
    });
  }
  return { program: join(folder, "node.mjs") };
}

/** Runs a host. Resolves to its outcome, or to how it ended. */
async function measure(command: string[], workspace: Workspace): Promise<Outcome | string> {
  const child = Bun.spawn(command, {
    env: { ...process.env, SLOTBUS_DIR: workspace.path },
    stdio: ["ignore", "pipe", "ignore"],
    timeout: HUNG_MS,
    killSignal: "SIGKILL",
  });
  const text = await child.stdout.text();
  await child.exited;
  if (text.startsWith("{")) return JSON.parse(text) as Outcome;
  return child.signalCode === "SIGKILL" ? "hangs" : `ends the program (${child.signalCode ?? child.exitCode})`;
}

function describeCrash(outcome: Outcome | string): string {
  if (typeof outcome === "string") return outcome;
  if ("perSecond" in outcome) throw new CommandError("the case `crash` has a rate");
  return `${outcome.lost} of ${outcome.others} other tasks lost, next task after ${number(outcome.backMs)} ms`;
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace) => {
    const before = loadavg()[0]!;
    const notes: string[] = [];
    const isNode = (name: SystemName): boolean => !/slotbus|bun/.test(name);
    let program = "";
    if (plan.systems.some(isNode)) {
      say("installing piscina and tinypool");
      const node = await prepareNode(workspace);
      if ("program" in node) program = node.program;
      else notes.push(`piscina and tinypool are skipped: ${node.why}.`);
    }
    const systems = plan.systems.filter((name) => !isNode(name) || program !== "");
    const host = Bun.resolveSync("./host", import.meta.dir);
    const rows: PoolRow[] = [];
    for (const kind of CASES) {
      const outcomes = new Map(systems.map((name) => [name, [] as (Outcome | string)[]]));
      for (let turn = 0; turn < (kind === "crash" ? 1 : plan.rounds); turn++) {
        for (const name of systems) {
          say(`${kind}, ${name}`);
          const command = isNode(name) ? ["node", program] : [process.execPath, host];
          outcomes.get(name)!.push(await measure([...command, name, kind, String(plan.roundMs)], workspace));
        }
      }
      for (const [system, all] of outcomes) rows.push(rowOf(system, kind, all));
    }
    return { machine: describeMachine(plan), rows, bars: judge(rows), load: [before, loadavg()[0]!], notes };
  });
}

function rowOf(system: SystemName, kind: Case, outcomes: readonly (Outcome | string)[]): PoolRow {
  if (kind === "crash") {
    const [outcome = ""] = outcomes;
    const lost = typeof outcome === "object" && "lost" in outcome ? outcome.lost : null;
    return { system, case: kind, tasks_per_second: null, crash: describeCrash(outcome), lost };
  }
  const rates = outcomes.map((one) => (typeof one === "object" && "perSecond" in one ? one.perSecond : null));
  const isWhole = rates.every((rate) => rate !== null);
  return { system, case: kind, tasks_per_second: isWhole ? round(median(rates)) : null, crash: null, lost: null };
}

/** Makes the bars for which there are rows. */
function judge(rows: readonly PoolRow[]): Bar[] {
  const rate = (system: SystemName, kind: Case): number | null =>
    rows.find((row) => row.system === system && row.case === kind)?.tasks_per_second ?? null;
  const against = (system: SystemName, kind: Case, least: number): Bar[] => {
    const other = rate(system, kind);
    const ratio = other && round((rate("slotbus", kind) ?? 0) / other);
    return ratio ? [bar(`${TITLES[kind]}: tasks/s, slotbus ÷ ${system}`, ratio, { at_least: least })] : [];
  };
  const lost = rows.find((row) => row.system === "slotbus" && row.case === "crash")?.lost ?? Infinity;
  return [
    bar("a crash: other tasks lost", lost, { at_most: 0 }),
    ...against("piscina", "empty", 0.7),
    ...against("piscina", "10 ms", 0.9),
    ...against("piscina", "1 MiB", 0.6),
    ...against("tinypool-processes", "empty", 2),
    ...against("bun-spawn", "empty", 50),
  ];
}

const TITLES: Record<Case, string> = {
  one: "empty, 1 in flight",
  empty: "empty, 16",
  "1 ms": "1 ms, 8",
  "10 ms": "10 ms, 8",
  "1 MiB": "1 MiB, 4",
  crash: "crash of one task",
};

function report({ machine, rows, bars, load, notes }: Result): string {
  const lines = [...Map.groupBy(rows, ({ system }) => system)].map(([system, all]) => [
    system,
    ...all.map(({ tasks_per_second: rate, crash }) => crash ?? (rate === null ? "fails" : number(rate))),
  ]);
  return [
    machineLines(machine),
    `Load ${load.map((one) => one.toFixed(1)).join(" before, ")} after`,
    table([["tasks/s", ...CASES.map((kind) => TITLES[kind])], ...lines]),
    `Against the goals\n${table(barLines(bars))}`,
    ...notes,
  ].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  return CASES.filter((kind) => kind !== "crash").map((kind) => ({
    title: TITLES[kind],
    unit: "tasks/s",
    better: "more",
    bars: rows
      .filter((row) => row.case === kind)
      .map((row) => ({ label: row.system, value: row.tasks_per_second ?? 0 })),
  }));
}

export function command(): Command {
  const suite = newCommand("pool", "measure functions that run in worker processes and threads", [
    "slotbus bench pool --quick --json > result.json",
  ]);
  const quick = "fewer and shorter rounds; takes up to 90 s";
  return withCommonFlags(suite, SYSTEMS.slice(1), quick, "very short rounds; takes a few seconds")
    .addHelpText("after", "\npiscina and tinypool need Node and npm, which installs them in a temporary folder.")
    .action(async (flags: CommonFlags) => {
      const mode = modeOf(flags);
      const plan: Plan = { ...PRESETS[mode], mode, systems: parseAgainst(flags.against ?? "all", SYSTEMS) };
      await present(flags, (say) => runAll(plan, say), { report, title: "Functions in worker processes", panels });
    });
}
