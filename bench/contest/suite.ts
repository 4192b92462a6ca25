/** `slotbus bench contest`: an uncontended claim, eight contending processes, and a holder that is killed. */

import { join } from "node:path";
import type { Command } from "commander";
import { CommandError, newCommand } from "../../src/cli/usage.ts";
import { alternate, median, perSecond, type Round, round, summarise } from "../measure.ts";
import type { Panel } from "../chart.ts";
import {
  type Bar,
  bar,
  barLines,
  describeMachine,
  type Machine,
  machineLines,
  number,
  table,
  type Mode,
} from "../report.ts";
import { missing, startServer } from "../servers.ts";
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
import type { Peer, Workspace } from "../systems.ts";
import { Arena, CONTENDERS } from "./arena.ts";
import { type Locks, LONG_MS, openLocks, SHORT_MS, SYSTEMS, type SystemName } from "./locks.ts";
import type { Order, Report } from "./peer.ts";

/** How long a mode measures. */
interface Preset {
  rounds: number;
  /** Duration of a round of one system, without its lead-in. */
  roundMs: number;
  leadInMs: number;
  warmUpMs: number;
  /** Number of holders killed, for each system. */
  kills: number;
}

const PRESETS: Record<Mode, Preset> = {
  full: { rounds: 11, roundMs: 500, leadInMs: 250, warmUpMs: 2_000, kills: 100 },
  quick: { rounds: 5, roundMs: 250, leadInMs: 100, warmUpMs: 1_000, kills: 20 },
  short: { rounds: 3, roundMs: 50, leadInMs: 20, warmUpMs: 100, kills: 3 },
};

/** After this time a waiting process is asleep. */
const SETTLE_MS = 20;

interface Plan extends Preset {
  mode: Mode;
  systems: SystemName[];
}

interface Common {
  system: SystemName;
  payload_bytes: 0;
  /** How many times slower than the first row of the case: median of each round's ratio. `takeover`: ratio of medians. */
  slower: number;
}

/** One case of one system in the JSON. */
export type ContestRow = Common &
  (
    | { case: "uncontended"; p50_us: number; p99_us: number; claims_per_second: number }
    | {
        case: "contended";
        processes: number;
        claims_per_second: number;
        /** Share of the process with the fewest claims, divided by an equal share. */
        smallest_share: number;
        /** How often two processes held the claim at once. */
        violations: number;
      }
    | { case: "takeover"; samples: number; ttl_ms: number; p50_ms: number; max_ms: number }
  );

interface Result {
  machine: Machine;
  rows: ContestRow[];
  bars: Bar[];
  /** Systems that were skipped, and why. */
  notes: string[];
}

// ---- the run ------------------------------------------------------------------------------------------------------------

/** A system that takes part. */
interface Contestant {
  name: SystemName;
  address: string;
  locks: Locks;
}

const program = Bun.resolveSync("./peer", import.meta.dir);

/** Claims and releases in a loop. Awaits only systems that return a promise. */
async function pairs({ locks }: Contestant, leadInMs: number, ms: number): Promise<Round> {
  const latencies: number[] = [];
  let start = Bun.nanoseconds();
  const from = start + leadInMs * 1e6;
  const end = from + ms * 1e6;
  for (let after = start; after < end || latencies.length === 0;) {
    const before = Bun.nanoseconds();
    const pending = locks.pair("uncontended");
    if (pending) await pending;
    after = Bun.nanoseconds();
    if (after < from) start = after;
    else latencies.push(after - before);
  }
  return { latencies: Float64Array.from(latencies), seconds: (Bun.nanoseconds() - start) / 1e9 };
}

async function uncontended(contestants: Contestant[], plan: Plan, workspace: Workspace): Promise<ContestRow[]> {
  const results = await alternate(contestants, plan.rounds, (it, isWarmUp) =>
    guarded(it.name, pairs(it, isWarmUp ? plan.warmUpMs : plan.leadInMs, plan.roundMs), workspace),
  );
  const p50s = (it: Contestant): number[] => results.get(it)!.map(({ latencies }) => median(latencies));
  const own = p50s(contestants[0]!);
  return contestants.map((it) => {
    const rounds = results.get(it)!;
    const { p50_us, p99_us } = summarise(rounds);
    return {
      system: it.name,
      case: "uncontended",
      payload_bytes: 0,
      p50_us,
      p99_us,
      claims_per_second: Math.round(median(rounds.map(perSecond))),
      slower: round(median(p50s(it).map((p50, i) => p50 / own[i]!))),
    };
  });
}

/** Contending processes and their arena. */
interface Contenders {
  name: SystemName;
  arena: Arena;
  peers: Peer[];
}

async function startContenders({ name, address }: Contestant, workspace: Workspace): Promise<Contenders> {
  const path = join(workspace.path, `arena-${name}`);
  const arena = Arena.create(path);
  const start = (_: unknown, contender: number): Promise<Peer> => {
    const order: Order = { address, label: "contended", arena: path, contender };
    return workspace.start(name, JSON.stringify(order), { program });
  };
  const peers = await Promise.all(Array.from({ length: CONTENDERS }, start));
  for (const { introduction } of peers) verifyAnswerer(name, introduction, false);
  return { name, arena, peers };
}

interface Melee {
  speed: number;
  share: number;
}

async function melee({ arena }: Contenders, leadInMs: number, ms: number): Promise<Melee> {
  arena.start();
  await Bun.sleep(leadInMs);
  const before = arena.claims();
  const from = Bun.nanoseconds();
  await Bun.sleep(ms);
  const claims = arena.claims().map((count, i) => count - before[i]!);
  const seconds = (Bun.nanoseconds() - from) / 1e9;
  await arena.stop();
  const total = claims.reduce((sum, count) => sum + count, 0);
  return { speed: total / seconds, share: (Math.min(...claims) * CONTENDERS) / total };
}

async function contended(contestants: Contestant[], plan: Plan, workspace: Workspace): Promise<ContestRow[]> {
  const all: Contenders[] = [];
  for (const contestant of contestants) all.push(await startContenders(contestant, workspace));
  const results = await alternate(all, plan.rounds, (it, isWarmUp) =>
    guarded(it.name, melee(it, isWarmUp ? plan.warmUpMs : plan.leadInMs, plan.roundMs), workspace),
  );
  await Promise.all(all.flatMap(({ peers }) => peers.map((peer) => peer.stop())));
  const own = results.get(all[0]!)!;
  return all.map((it) => {
    const rounds = results.get(it)!;
    return {
      system: it.name,
      case: "contended",
      payload_bytes: 0,
      processes: CONTENDERS,
      claims_per_second: Math.round(median(rounds.map(({ speed }) => speed))),
      smallest_share: round(median(rounds.map(({ share }) => share))),
      violations: it.arena.violations(),
      slower: round(median(rounds.map(({ speed }, i) => own[i]!.speed / speed))),
    };
  });
}

/** Starts a process that claims and holds. `owns` resolves to the time when it reported the claim. */
async function startKeeper({ name, address }: Contestant, label: string, workspace: Workspace) {
  const waits = Promise.withResolvers<void>();
  const owns = Promise.withResolvers<number>();
  const order: Order = { address, label, arena: null, contender: 0 };
  const peer = await workspace.start(name, JSON.stringify(order), {
    program,
    onMessage: (message) => {
      if ((message as Report) === "waits") waits.resolve();
      else owns.resolve(performance.now());
    },
  });
  await Promise.race([waits.promise, workspace.failed]);
  return { owns: owns.promise, stop: (signal?: NodeJS.Signals) => peer.stop(signal) };
}

/** Kills the holder again and again; the waiting process is the next holder. Resolves to the takeover times in ms. */
async function takeovers(contestant: Contestant, kills: number, workspace: Workspace): Promise<number[]> {
  const samples: number[] = [];
  let holder = await startKeeper(contestant, "takeover", workspace);
  await guarded(contestant.name, holder.owns, workspace);
  for (let i = 0; i < kills; i++) {
    const waiter = await startKeeper(contestant, "takeover", workspace);
    await Bun.sleep(SETTLE_MS);
    const killed = performance.now();
    const ended = holder.stop("SIGKILL");
    samples.push((await guarded(contestant.name, waiter.owns, workspace)) - killed);
    await ended;
    holder = waiter;
  }
  await holder.stop();
  return samples;
}

async function takeover(contestants: Contestant[], plan: Plan, workspace: Workspace): Promise<ContestRow[]> {
  const rows: (ContestRow & { case: "takeover" })[] = [];
  for (const contestant of contestants) {
    const samples = await takeovers(contestant, plan.kills, workspace);
    const p50 = round(median(samples));
    rows.push({
      system: contestant.name,
      case: "takeover",
      payload_bytes: 0,
      samples: samples.length,
      ttl_ms: contestant.name === "slotbus" ? LONG_MS : SHORT_MS,
      p50_ms: p50,
      max_ms: round(Math.max(...samples)),
      slower: round(p50 / (rows[0]?.p50_ms ?? p50)),
    });
  }
  return rows;
}

function judge(rows: readonly ContestRow[]): Bar[] {
  const own = <C extends ContestRow["case"]>(kind: C) =>
    rows.find((row) => row.system === "slotbus" && row.case === kind) as ContestRow & { case: C };
  const killed = own("takeover");
  return [
    bar("uncontended claim + release, p50, µs", own("uncontended").p50_us, { at_most: 3 }),
    bar(`${CONTENDERS} contending: times with two winners`, own("contended").violations, { at_most: 0 }),
    bar("holder killed: waiter owns, p50, ms", killed.p50_ms, { at_most: 20 }),
    bar("holder killed: waiter owns, slowest, ms", killed.max_ms, { at_most: 20 }),
  ];
}

function verifyRows(rows: readonly ContestRow[], contestants: readonly Contestant[]): void {
  const kinds: ContestRow["case"][] = ["uncontended", "contended", "takeover"];
  for (const kind of kinds)
    for (const { name } of contestants) {
      const row = rows.find((one) => one.case === kind && one.system === name);
      if (!row || !(row.slower > 0)) throw new CommandError(`${name} has no figures for the case ${kind}`);
    }
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace, started) => {
    const notes: string[] = [];
    const contestants: Contestant[] = [];
    for (const name of plan.systems) {
      const note = name === "redis" ? missing(name) : null;
      if (note !== null) {
        notes.push(note);
        continue;
      }
      const server = name === "redis" ? await startServer(name, workspace) : null;
      const address = server?.address ?? workspace.path;
      const locks = await openLocks(name, address);
      contestants.push({ name, address, locks });
      started.push({
        stop: async () => {
          await locks.close();
          await server?.stop();
        },
      });
    }
    const rows: ContestRow[] = [];
    const cases = {
      "an uncontended claim": uncontended,
      [`${CONTENDERS} contending processes`]: contended,
      "takeover after a kill": takeover,
    };
    for (const [what, one] of Object.entries(cases)) {
      say(what);
      rows.push(...(await one(contestants, plan, workspace)));
    }
    verifyRows(rows, contestants);
    return { machine: describeMachine(plan), rows, bars: judge(rows), notes };
  });
}

// ---- the report ---------------------------------------------------------------------------------------------------------

const TITLES = {
  uncontended: "Uncontended claim and release",
  contended: `${CONTENDERS} processes that claim and release one subject`,
  takeover: "The holder is killed: time until the waiting process owns the claim",
} as const;

function columnsOf(kind: ContestRow["case"]): string[] {
  switch (kind) {
    case "uncontended":
      return ["", "p50 µs", "p99 µs", "claims/s", "slower"];
    case "contended":
      return ["", "claims/s", "smallest share", "two winners", "slower"];
    case "takeover":
      return ["", "p50 ms", "max ms", "ttl ms", "slower"];
  }
}

function cellsOf(row: ContestRow): number[] {
  switch (row.case) {
    case "uncontended":
      return [row.p50_us, row.p99_us, row.claims_per_second];
    case "contended":
      return [row.claims_per_second, row.smallest_share, row.violations];
    case "takeover":
      return [row.p50_ms, row.max_ms, row.ttl_ms];
  }
}

function report({ machine, rows, bars, notes }: Result): string {
  const cases = Map.groupBy(rows, (row) => row.case);
  const sections = [...cases].map(([kind, own]) => {
    const lines = own.map((row) => [row.system, ...cellsOf(row).map(number), `${number(row.slower)}x`]);
    return `${TITLES[kind]}\n${table([columnsOf(kind), ...lines])}`;
  });
  return [machineLines(machine), ...sections, `Against the goals\n${table(barLines(bars))}`, ...notes].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  const bars = (kind: ContestRow["case"], value: (row: ContestRow) => number): Panel["bars"] =>
    rows.filter((row) => row.case === kind).map((row) => ({ label: row.system, value: value(row) }));
  return [
    {
      title: "Uncontended claim and release, median",
      unit: "µs",
      better: "less",
      bars: bars("uncontended", (row) => (row.case === "uncontended" ? row.p50_us : 0)),
    },
    {
      title: "From the kill of the holder to the next claim, median",
      unit: "ms",
      better: "less",
      bars: bars("takeover", (row) => (row.case === "takeover" ? row.p50_ms : 0)),
    },
  ];
}

export function command(): Command {
  const suite = newCommand("contest", "measure claims, contention and takeover", [
    "slotbus bench contest --quick --json > result.json",
  ]);
  return withCommonFlags(
    suite,
    SYSTEMS.slice(1),
    "fewer and shorter rounds; takes up to 60 s",
    "a few rounds; takes a few seconds",
  )
    .addHelpText("after", "\nredis needs the program redis-server.")
    .action(async (flags: CommonFlags) => {
      const mode = modeOf(flags);
      const plan: Plan = { ...PRESETS[mode], mode, systems: parseAgainst(flags.against ?? "all", SYSTEMS) };
      await present(flags, (say) => runAll(plan, say), { report, title: "Claims", panels });
    });
}
