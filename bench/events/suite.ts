/** `slotbus bench events`: one publisher and four subscribers; slotbus, brokers, and Bun's own channels. */

import { join } from "node:path";
import type { Command } from "commander";
import { CommandError, newCommand } from "../../src/cli/usage.ts";
import { alternate, median, round } from "../measure.ts";
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
import { missing } from "../servers.ts";
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
  verifyAnswerer,
  withCommonFlags,
} from "../suite.ts";
import type { Workspace } from "../systems.ts";
import { type Contestant, start, SYSTEMS, type SystemName } from "./contestants.ts";
import { ATTACHED, publishCosts, type PublishRow } from "./publish.ts";
import { EVENT_BYTES, type Kind, KINDS, SUBSCRIBERS } from "./tally.ts";

/** How long a mode measures. */
interface Preset {
  rounds: number;
  /** Duration of a round of one system, without its lead-in. */
  roundMs: number;
  leadInMs: number;
  warmUpMs: number;
}

const PRESETS: Record<Mode, Preset> = {
  full: { rounds: 11, roundMs: 1_000, leadInMs: 500, warmUpMs: 2_000 },
  quick: { rounds: 5, roundMs: 400, leadInMs: 200, warmUpMs: 1_000 },
  short: { rounds: 3, roundMs: 60, leadInMs: 30, warmUpMs: 100 },
};

/** Events published between two turns of the event loop. */
const BATCH = 256;
/** How many events the publisher may be ahead of the slowest subscriber. Further ahead, brokers drop the connection. */
const WINDOW = 16_384;
/** After this time without progress, missing events count as lost. */
const STUCK_MS = 1_000;

interface Plan extends Preset {
  mode: Mode;
  systems: SystemName[];
  /** Number of busy loops that run meanwhile. */
  loops: number;
}

/** Events that the subscribers of one system received, in the JSON. */
export interface FlowRow {
  system: SystemName;
  case: Kind;
  payload_bytes: number;
  subscribers: number;
  /** Events received by all subscribers together. */
  delivered_per_second: number;
  published_per_second: number;
  /** Events that did not arrive, over all rounds and subscribers. */
  lost: number;
  /** How many times more the first row of the case delivers: median of each round's ratio. */
  slower: number;
}

interface Result {
  machine: Machine;
  loops: number;
  rows: (PublishRow | FlowRow)[];
  bars: Bar[];
  /** Systems that were skipped, and why. */
  notes: string[];
}

// ---- the run ------------------------------------------------------------------------------------------------------------

interface Flow {
  delivered: number;
  published: number;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Publishes events of one kind to one system, from round to round. */
class Publisher {
  readonly contestant: Contestant;
  readonly #kind: Kind;
  #next = 0;

  constructor(contestant: Contestant, kind: Kind) {
    this.contestant = contestant;
    this.#kind = kind;
  }

  /** Number of events that did not arrive, over all subscribers. */
  get lost(): number {
    return this.#next * SUBSCRIBERS - this.contestant.tallies.received(this.#kind);
  }

  /** Publishes for the lead-in, then for the measured time, then waits until all events have arrived. */
  async round(leadInMs: number, ms: number): Promise<Flow> {
    await this.#publishFor(leadInMs);
    const before = { delivered: this.contestant.tallies.received(this.#kind), published: this.#next };
    const from = Bun.nanoseconds();
    await this.#publishFor(ms);
    const seconds = (Bun.nanoseconds() - from) / 1e9;
    const delivered = (this.contestant.tallies.received(this.#kind) - before.delivered) / seconds;
    const published = (this.#next - before.published) / seconds;
    await this.#drain();
    return { delivered, published };
  }

  async #publishFor(ms: number): Promise<void> {
    const { contestant } = this;
    const kind = this.#kind;
    for (const end = performance.now() + ms; performance.now() < end;) {
      if (this.#next + BATCH - contestant.tallies.slowest(kind) > WINDOW) {
        await Bun.sleep(1);
        continue;
      }
      for (let i = 0; i < BATCH; i++) contestant.publish(kind, this.#next++);
      await turn();
    }
  }

  async #drain(): Promise<void> {
    const { tallies, name } = this.contestant;
    let seen = -1;
    for (let since = performance.now(); tallies.slowest(this.#kind) < this.#next; await Bun.sleep(1)) {
      const received = tallies.received(this.#kind);
      if (received !== seen) since = performance.now();
      else if (performance.now() - since > STUCK_MS) break;
      seen = received;
    }
    const wrong = tallies.wrong(this.#kind);
    if (wrong > 0) throw new CommandError(`${name} delivered ${wrong} events damaged, twice or out of order`);
    if (name === "slotbus" && tallies.told(this.#kind) !== this.lost) {
      throw new CommandError(`slotbus lost ${this.lost} events and reported ${tallies.told(this.#kind)} as lost`);
    }
  }
}

async function flow(contestants: Contestant[], kind: Kind, plan: Plan, workspace: Workspace): Promise<FlowRow[]> {
  const publishers = contestants.map((contestant) => new Publisher(contestant, kind));
  const results = await alternate(publishers, plan.rounds, (publisher, isWarmUp) =>
    guarded(
      publisher.contestant.name,
      publisher.round(isWarmUp ? plan.warmUpMs : plan.leadInMs, plan.roundMs),
      workspace,
    ),
  );
  const own = results.get(publishers[0]!)!;
  return publishers.map((publisher) => {
    const rounds = results.get(publisher)!;
    return {
      system: publisher.contestant.name,
      case: kind,
      payload_bytes: EVENT_BYTES,
      subscribers: SUBSCRIBERS,
      delivered_per_second: Math.round(median(rounds.map(({ delivered }) => delivered))),
      published_per_second: Math.round(median(rounds.map(({ published }) => published))),
      lost: publisher.lost,
      slower: round(median(rounds.map(({ delivered }, i) => own[i]!.delivered / delivered))),
    };
  });
}

/** Makes the bars for which there are rows. */
function judge(rows: Result["rows"]): Bar[] {
  const isBroker = (row: FlowRow): boolean => row.system === "redis" || row.system === "nats";
  const against = (kind: Kind, goal: { at_least: number; aim: number }): Bar[] => {
    const brokers = rows.filter((row): row is FlowRow => row.case === kind && isBroker(row));
    const best = brokers.reduce<FlowRow | null>((a, b) => (a && a.slower <= b.slower ? a : b), null);
    return best ? [bar(`${kind}: slotbus ÷ better broker (${best.system})`, best.slower, goal)] : [];
  };
  const publish = rows.filter((row): row is PublishRow => row.case === "publish");
  return [
    ...publish.map((row) =>
      bar(`publish, ${row.subscribers} attached: CPU, µs`, round(row.cpu_ns / 1000), { at_most: 1 }),
    ),
    ...against("poll", { at_least: 5, aim: 10 }),
    ...against("for-await", { at_least: 2, aim: 4 }),
  ];
}

/** Throws unless each contestant has a row in every case. */
function verifyRows(rows: Result["rows"], systems: readonly SystemName[]): void {
  const wanted = ATTACHED.map((count) => `publish slotbus ${count}`);
  for (const kind of KINDS) wanted.push(...systems.map((system) => `${kind} ${system} ${SUBSCRIBERS}`));
  const found = new Set(rows.map((row) => `${row.case} ${row.system} ${row.subscribers}`));
  const absent = wanted.filter((row) => !found.has(row));
  if (absent.length > 0) throw new CommandError(`there are no figures for: ${absent.join(", ")}`);
  if (rows.some((row) => !((row.case === "publish" ? row.cpu_ns : row.delivered_per_second) > 0)))
    throw new CommandError("a figure is not a number above 0");
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  return inWorkspace(async (workspace, started) => {
    if (plan.loops > 0) {
      const load = compile(join(import.meta.dir, "../busy/load.c"), workspace);
      if (load === null) throw new CommandError("--loops needs a C compiler. Install one, for example gcc.");
      for (let i = 0; i < plan.loops; i++) started.push(workspace.run("a busy loop", [load, "loop"]));
    }
    say("publish");
    const rows: Result["rows"] = await publishCosts(workspace, plan.rounds, plan.mode === "short");
    const notes: string[] = [];
    const contestants: Contestant[] = [];
    for (const name of plan.systems) {
      const note = name === "redis" || name === "nats" ? missing(name) : null;
      if (note !== null) {
        notes.push(note);
        continue;
      }
      const contestant = await start(name, workspace);
      contestants.push(contestant);
      started.push(contestant);
    }
    for (const { name, subscribers } of contestants)
      for (const one of subscribers) verifyAnswerer(name, one, name === "broadcast-channel");
    for (const kind of KINDS) {
      say(`${kind} of ${SUBSCRIBERS} subscribers`);
      rows.push(...(await flow(contestants, kind, plan, workspace)));
    }
    const taking = contestants.map(({ name }) => name);
    verifyRows(rows, taking);
    return { machine: describeMachine(plan), loops: plan.loops, rows, bars: judge(rows), notes };
  });
}

// ---- the report ---------------------------------------------------------------------------------------------------------

function flowTable(rows: readonly FlowRow[]): string {
  const title = {
    poll: `${SUBSCRIBERS} subscribers, ${EVENT_BYTES} B of bytes, read in batches where a system has them`,
    "for-await": `${SUBSCRIBERS} subscribers, ${EVENT_BYTES} B of JSON, read by \`for await\` where a system has it`,
  }[rows[0]!.case];
  return `${title}\n${table([
    ["events/s", "delivered", "published", "lost", "slower"],
    ...rows.map((row) => [
      row.system,
      number(row.delivered_per_second),
      number(row.published_per_second),
      row.lost.toLocaleString("en"),
      `${number(row.slower)}x`,
    ]),
  ])}`;
}

function publishTable(rows: readonly PublishRow[]): string {
  return `Publish of ${EVENT_BYTES} B with slotbus, in ns\n${table([
    ["", "CPU time", "wall time"],
    ...rows.map((row) => [`${row.subscribers} attached`, number(row.cpu_ns), number(row.wall_ns)]),
  ])}`;
}

function report({ machine, loops, rows, bars, notes }: Result): string {
  const publish = rows.filter((row): row is PublishRow => row.case === "publish");
  const flows = Map.groupBy(
    rows.filter((row): row is FlowRow => row.case !== "publish"),
    (row) => row.case,
  );
  return [
    machineLines(machine) + (loops > 0 ? `\nBusy loops beside it: ${loops}` : ""),
    publishTable(publish),
    ...[...flows.values()].map(flowTable),
    `Against the goals\n${table(barLines(bars))}`,
    ...notes,
  ].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  const flows = rows.filter((row): row is FlowRow => "delivered_per_second" in row);
  const kinds = Map.groupBy(flows, ({ case: kind }) => kind);
  return [...kinds].map(([kind, all]) => ({
    title: `${kind}: ${SUBSCRIBERS} subscribers, ${EVENT_BYTES} B, all together`,
    unit: "events/s",
    better: "more",
    bars: all.map((row) => ({ label: row.system, value: row.delivered_per_second })),
  }));
}

const MOST_LOOPS = 64;

export function command(): Command {
  const suite = newCommand("events", "measure one publisher and many subscribers", [
    "slotbus bench events --quick --json > result.json",
  ]);
  return withCommonFlags(
    suite,
    SYSTEMS.slice(1),
    "fewer and shorter rounds; takes up to 60 s",
    "a few rounds; takes a few seconds",
  )
    .option(
      "--loops <n>",
      "number of busy loops that run meanwhile; needs a C compiler (default: 0)",
      integerFrom(0, MOST_LOOPS),
    )
    .addHelpText("after", "\nredis and nats need the programs redis-server and nats-server.")
    .action(async (flags: CommonFlags & { loops?: number }) => {
      const mode = modeOf(flags);
      const systems = parseAgainst(flags.against ?? "all", SYSTEMS);
      const plan: Plan = { ...PRESETS[mode], mode, systems, loops: flags.loops ?? 0 };
      await present(flags, (say) => runAll(plan, say), { report, title: "One publisher, many subscribers", panels });
    });
}
