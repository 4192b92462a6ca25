/** `slotbus bench streams`: streamed bodies of slotbus and of other ways between two Bun programs, and typed calls. */

import type { Command } from "commander";
import { CommandError, newCommand } from "../../src/cli/usage.ts";
import { alternate, median, round } from "../measure.ts";
import type { Panel } from "../chart.ts";
import {
  type Bar,
  bar,
  barLines,
  describeMachine,
  type Lines,
  type Machine,
  machineLines,
  markdownTable,
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
  verifyAnswerer,
  withCommonFlags,
} from "../suite.ts";
import type { Workspace } from "../systems.ts";
import { type Contestant, type OwnContestant, startOwn, startRival, SYSTEMS, type SystemName } from "./contestants.ts";
import { fair, first, type OwnPlan, type OwnRow, stall, typed } from "./own.ts";
import type { Order } from "./source.ts";

/** What a mode measures and how long. */
interface Preset extends OwnPlan {
  /** Bytes of a round with large chunks. */
  bulkBytes: number;
  /** Chunks of a round with small chunks. */
  smallChunks: number;
}

const PRESETS: Record<Mode, Preset> = {
  full: {
    bulkBytes: 256 * 1024 ** 2,
    smallChunks: 1_000_000,
    rounds: 11,
    roundMs: 250,
    leadInMs: 250,
    warmUpMs: 2_000,
  },
  quick: { bulkBytes: 256 * 1024 ** 2, smallChunks: 1_000_000, rounds: 5, roundMs: 60, leadInMs: 150, warmUpMs: 1_200 },
  short: { bulkBytes: 8 * 1024 ** 2, smallChunks: 20_000, rounds: 3, roundMs: 30, leadInMs: 20, warmUpMs: 200 },
};

const BULK_BYTES = 65_536;
const SMALL_BYTES = 64;
/** A lead-in reads streams of this fraction of a round. */
const LEAD_IN_PART = 8;

interface Plan extends Preset {
  mode: Mode;
  systems: SystemName[];
}

/** A stream of one system in the JSON. */
export interface StreamRow {
  system: SystemName;
  /** `bulk-copy`: `bulk`, but slotbus copies each piece. `small-loop`: `small`, written in the fastest plain way. */
  case: "bulk" | "bulk-copy" | "small" | "small-loop";
  /** Size of a chunk. */
  payload_bytes: number;
  /** Size of the stream. */
  bytes: number;
  gb_per_second: number;
  chunks_per_second: number;
  /** How many times slower than the first row of the case: median of each round's ratio. */
  slower: number;
}

interface Result {
  machine: Machine;
  rows: (StreamRow | OwnRow)[];
  bars: Bar[];
}

// ---- the run ------------------------------------------------------------------------------------------------------------

/** A reader in a case. */
interface Entry {
  system: SystemName;
  case: StreamRow["case"];
  read: (order: Order) => Promise<void>;
}

/** Reads one stream after a lead-in of smaller streams. Resolves to its duration in seconds. */
async function timeOf(read: Entry["read"], order: Order, leadInMs: number): Promise<number> {
  const part = Math.ceil(order.bytes / order.chunk / LEAD_IN_PART) * order.chunk;
  for (const from = performance.now(); performance.now() - from < leadInMs;) await read({ ...order, bytes: part });
  const start = Bun.nanoseconds();
  await read(order);
  return (Bun.nanoseconds() - start) / 1e9;
}

async function compare(entries: Entry[], order: Order, plan: Plan, workspace: Workspace): Promise<StreamRow[]> {
  const results = await alternate(entries, plan.rounds, ({ system, read }, isWarmUp) =>
    guarded(system, timeOf(read, order, isWarmUp ? plan.warmUpMs : plan.leadInMs), workspace),
  );
  const own = results.get(entries[0]!)!;
  return entries.map((entry) => {
    const times = results.get(entry)!;
    const seconds = median(times);
    return {
      system: entry.system,
      case: entry.case,
      payload_bytes: order.chunk,
      bytes: order.bytes,
      gb_per_second: round(order.bytes / seconds / 1e9),
      chunks_per_second: Math.round(order.bytes / order.chunk / seconds),
      slower: round(median(times.map((time, i) => time / own[i]!))),
    };
  });
}

async function measure(
  own: OwnContestant,
  rivals: readonly Contestant[],
  plan: Plan,
  workspace: Workspace,
  say: Say,
): Promise<Result["rows"]> {
  const all = (kind: StreamRow["case"]): Entry[] =>
    [own, ...rivals].map(({ name, read }) => ({ system: name, case: kind, read }));
  const copies: Entry = { system: "slotbus", case: "bulk-copy", read: own.readCopies };
  const small = { chunk: SMALL_BYTES, bytes: plan.smallChunks * SMALL_BYTES };
  const rows: Result["rows"] = [];
  say(`${sizeName(plan.bulkBytes)} in chunks of ${sizeName(BULK_BYTES)}`);
  const bulk: Order = { how: "generator", chunk: BULK_BYTES, bytes: plan.bulkBytes };
  rows.push(...(await compare([...all("bulk"), copies], bulk, plan, workspace)));
  say(`${plan.smallChunks} chunks of ${SMALL_BYTES} B`);
  rows.push(...(await compare(all("small"), { how: "generator", ...small }, plan, workspace)));
  say(`${plan.smallChunks} chunks of ${SMALL_BYTES} B in a loop`);
  rows.push(...(await compare(all("small-loop"), { how: "loop", ...small }, plan, workspace)));
  for (const [what, one] of Object.entries({
    "the first bytes": first,
    "typed calls": typed,
    "many streams": fair,
    "a stopped reader": stall,
  })) {
    say(what);
    const running = one(own.slotbus.bus, plan);
    rows.push(await (plan.mode === "full" ? running : guarded("slotbus", running, workspace)));
  }
  return rows;
}

/** Makes the bars for which there are rows. */
function judge(rows: Result["rows"]): Bar[] {
  const rivals = (kind: StreamRow["case"]) =>
    rows.filter((row): row is StreamRow => row.case === kind && row.system !== "slotbus");
  /** Compares slotbus with the best alternative. */
  const against = (kind: StreamRow["case"], what: string, goal: { at_least: number; aim?: number }): Bar[] => {
    const best = rivals(kind).reduce<StreamRow | null>((a, b) => (a && a.slower <= b.slower ? a : b), null);
    return best ? [bar(`${what}: slotbus ÷ best alternative (${best.system})`, best.slower, goal)] : [];
  };
  const own = <C extends OwnRow["case"]>(kind: C) => rows.find((row) => row.case === kind) as OwnRow & { case: C };
  const { ahead_bytes: ahead, ring_bytes: ring, ratio } = own("stall");
  return [
    ...against("bulk", "bulk", { at_least: 3, aim: 6 }),
    ...against("small", "small", { at_least: 5 }),
    ...against("small-loop", "small, in a loop", { at_least: 5 }),
    bar("first bytes ÷ round trip, p50", own("first").ratio, { at_most: 1.5 }),
    bar("typed call ÷ untyped request with JSON", own("typed").ratio, { at_most: 1.25, aim: 1.1 }),
    bar("32 streams at once: slowest ÷ mean", own("fair").ratio, { at_least: 0.7 }),
    bar("stopped reader: bytes its writer is ahead ÷ ring", round(ahead / ring), { at_most: 1 }),
    bar("stopped reader: round trip meanwhile ÷ before, p50", ratio, { at_most: 1.25, aim: 1 }),
  ];
}

/** Throws unless each contestant has a row in each of its cases. */
function verifyRows(rows: Result["rows"], { systems }: Plan): void {
  const wanted = ["bulk", "small", "small-loop"].flatMap((kind) => systems.map((system) => `${kind} ${system}`));
  for (const kind of ["bulk-copy", "first", "typed", "fair", "stall"]) wanted.push(`${kind} slotbus`);
  const found = new Set(rows.map((row) => `${row.case} ${row.system}`));
  const missing = wanted.filter((row) => !found.has(row));
  if (missing.length > 0) throw new CommandError(`there are no figures for: ${missing.join(", ")}`);
  if (rows.some((row) => !(("ratio" in row ? row.ratio : row.gb_per_second) >= 0)))
    throw new CommandError("a figure is not a number");
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace, started) => {
    const own = await startOwn(workspace);
    started.push(own);
    const rivals: Contestant[] = [];
    for (const name of plan.systems) {
      if (name === "slotbus") continue;
      const rival = await startRival(name, workspace);
      rivals.push(rival);
      started.push(rival);
    }
    for (const { name, answerer } of [own, ...rivals]) verifyAnswerer(name, answerer, name === "worker");
    const rows = await measure(own, rivals, plan, workspace, say);
    verifyRows(rows, plan);
    return { machine: describeMachine(plan), rows, bars: judge(rows) };
  });
}

// ---- the report ---------------------------------------------------------------------------------------------------------

/** A table with its title; the first line is the head. */
interface Section {
  title: string;
  lines: Lines;
}

function streamSection(rows: readonly StreamRow[]): Section {
  const { case: kind, payload_bytes: chunk, bytes } = rows[0]!;
  const name = ({ system, case: of }: StreamRow): string => (of === "bulk-copy" ? `${system}, copies` : system);
  return {
    title: {
      bulk: `${sizeName(bytes)} in chunks of ${sizeName(chunk)}, from an async generator`,
      "bulk-copy": "",
      small: `${(bytes / chunk).toLocaleString("en")} chunks of ${sizeName(chunk)}, from an async generator`,
      "small-loop": "The same, written in each system's fastest plain way",
    }[kind],
    lines: [
      ["system", "GB/s", "chunks/s", "slower"],
      ...rows.map((row) => [
        name(row),
        number(row.gb_per_second),
        number(row.chunks_per_second),
        `${number(row.slower)}x`,
      ]),
    ],
  };
}

function ownLine(row: OwnRow): string[] {
  switch (row.case) {
    case "first":
      return ["first bytes of a stream, p50", `${number(row.first_p50_us)} µs`, `${number(row.round_trip_p50_us)} µs`];
    case "typed":
      return ["typed call of a small object", `${number(row.typed_us)} µs`, `${number(row.request_us)} µs`];
    case "fair":
      return [`${row.streams} streams at once, all together`, `${number(row.gb_per_second)} GB/s`, "-"];
    case "stall":
      return ["round trip beside a stopped reader, p50", `${number(row.p50_us)} µs`, `${number(row.before_p50_us)} µs`];
  }
}

function sectionsOf({ rows, bars }: Result): Section[] {
  const isStream = (row: StreamRow | OwnRow): row is StreamRow => "slower" in row;
  const byTable = Map.groupBy(rows.filter(isStream), (row) => (row.case === "bulk-copy" ? "bulk" : row.case));
  const own = rows.filter((row): row is OwnRow => !isStream(row));
  const head = ["case", "measured", "beside"];
  return [
    ...[...byTable.values()].map(streamSection),
    { title: "slotbus alone", lines: [head, ...own.map(ownLine)] },
    { title: "Against the goals", lines: barLines(bars) },
  ];
}

function report(result: Result): string {
  const sections = sectionsOf(result).map(({ title, lines }) => `${title}\n${table(lines)}`);
  return [machineLines(result.machine), ...sections].join("\n\n");
}

/** Returns the section of bench/RESULTS.md. */
function markdown(result: Result): string {
  const sections = sectionsOf(result).map(({ title, lines }) => `### ${title}\n\n${markdownTable(lines)}`);
  return [
    "## Streams",
    "    npm run -s bench -- streams --markdown",
    `${machineLines(result.machine)}.`,
    `Client and worker are two processes, as in all alternatives except \`worker\`, which is a thread. Every reader checks the total
length and the first and last byte of each piece. \`slower\` is the median of each round's ratio.`,
    ...sections,
  ].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  const streams = rows.filter((row): row is StreamRow => "slower" in row);
  const of = (kind: StreamRow["case"], title: string, unit: string, value: (row: StreamRow) => number): Panel => ({
    title,
    unit,
    better: "more",
    bars: streams.filter((row) => row.case === kind).map((row) => ({ label: row.system, value: value(row) })),
  });
  return [
    of("bulk", "Large chunks, 64 KiB", "GB/s", (row) => row.gb_per_second),
    of("small", "Small chunks, 64 B", "chunks/s", (row) => row.chunks_per_second),
  ];
}

export function command(): Command {
  const suite = newCommand("streams", "measure streamed bodies and typed calls", [
    "slotbus bench streams --quick --json > result.json",
    "slotbus bench streams --markdown >> bench/RESULTS.md",
  ]);
  return withCommonFlags(
    suite,
    SYSTEMS.slice(1),
    "fewer and shorter rounds; takes up to 90 s",
    "8 MiB and 20 000 chunks; takes a few seconds",
  )
    .option("--markdown", "print the section of bench/RESULTS.md")
    .action(async (flags: CommonFlags & { markdown?: boolean }) => {
      const mode = modeOf(flags);
      const plan: Plan = { ...PRESETS[mode], mode, systems: parseAgainst(flags.against ?? "all", SYSTEMS) };
      await present(flags, (say) => runAll(plan, say), {
        report: flags.markdown ? markdown : report,
        title: "Streams between two processes",
        panels,
      });
    });
}
