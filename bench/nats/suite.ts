/** `slotbus bench nats`: requests and streams over a NATS server, with slotbus and with the bare client library. */

import type { Command } from "commander";
import { CommandError, newCommand } from "../../src/cli/usage.ts";
import { nats } from "../../src/nats/index.ts";
import { SlotBus } from "../../src/slotbus.ts";
import type { Panel } from "../chart.ts";
import { type Call, closedLoop, makeBodies, median, perSecond, round } from "../measure.ts";
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
import { missing, startServer } from "../servers.ts";
import {
  type CommonFlags,
  guarded,
  inWorkspace,
  modeOf,
  present,
  type Say,
  verifyAnswerer,
  withCommonFlags,
} from "../suite.ts";
import type { Workspace } from "../systems.ts";
import { CHUNK_BYTES, NAME, SUBJECT } from "./names.ts";

/** Names in the JSON. */
const SYSTEMS = ["slotbus", "nats"] as const;
type SystemName = (typeof SYSTEMS)[number];

const PRESETS: Record<Mode, { rounds: number; roundMs: number; chunks: number }> = {
  full: { rounds: 7, roundMs: 1_000, chunks: 4_000 },
  quick: { rounds: 5, roundMs: 300, chunks: 1_000 },
  short: { rounds: 3, roundMs: 60, chunks: 100 },
};

type Plan = (typeof PRESETS)[Mode] & { mode: Mode };

const BYTES = 64;
const IN_FLIGHT = 32;
/** Requests of this time at the start of a round do not count, in ms. */
const LEAD_IN_MS = 50;

/** A row in the JSON. */
export interface NatsRow {
  system: SystemName;
  /** Median time of a request of 64 B, in µs. */
  round_trip_us: number;
  /** Requests of 64 B per second with 32 in flight. */
  requests_per_second: number;
  /** Chunks of 64 KiB per second that one reader gets from one stream. */
  chunks_per_second: number;
}

interface Result {
  machine: Machine;
  rows: NatsRow[];
  bars: Bar[];
}

/** A contestant: both sides are connected. */
interface Contestant {
  readonly name: SystemName;
  call: Call;
  /** Reads a stream of `count` chunks to its end. */
  read(count: number): Promise<void>;
  stop(): Promise<void>;
}

const program = Bun.resolveSync("./peer", import.meta.dir);

async function startOwn(servers: string, workspace: Workspace): Promise<Contestant> {
  const bus = await SlotBus.connect({ name: NAME, via: nats({ servers }) });
  const peer = await workspace.start("slotbus", servers, { program });
  verifyAnswerer("slotbus", peer.introduction, false);
  await bus.ready();
  return {
    name: "slotbus",
    call: (body) => bus.request({ path: "/", body }),
    async read(count) {
      const response = await bus.stream({ path: "/stream", query: String(count) });
      let bytes = 0;
      for await (const chunk of response.chunks()) bytes += chunk.length;
      if (bytes !== count * CHUNK_BYTES) throw new CommandError(`a stream had ${bytes} bytes`);
    },
    async stop() {
      await bus.close();
      await peer.stop();
    },
  };
}

async function startBare(servers: string, workspace: Workspace): Promise<Contestant> {
  const { connect } = await import("@nats-io/transport-node");
  const connection = await connect({ servers });
  const peer = await workspace.start("nats", servers, { program });
  verifyAnswerer("nats", peer.introduction, false);
  let serial = 0;
  return {
    name: "nats",
    call: async (body) => (await connection.request(SUBJECT.echo, body)).data,
    async read(count) {
      const inbox = `${SUBJECT.inbox}.${++serial}`;
      const { promise, resolve } = Promise.withResolvers<void>();
      let left = count;
      const subscription = connection.subscribe(inbox, {
        callback: (_, message) => {
          message.respond();
          if (--left === 0) resolve();
        },
      });
      connection.publish(SUBJECT.stream, String(count), { reply: inbox });
      await promise;
      subscription.unsubscribe();
    },
    async stop() {
      await connection.close();
      await peer.stop();
    },
  };
}

interface Figures {
  roundTrips: number[];
  rates: number[];
  chunks: number[];
}

async function measure({ call, read }: Contestant, plan: Plan, into: Figures): Promise<void> {
  const limits = { leadInMs: LEAD_IN_MS, samples: Infinity, minimum: 10, ms: plan.roundMs };
  const alone = await closedLoop(call, makeBodies(BYTES, 1), limits);
  into.roundTrips.push(median(alone.latencies) / 1_000);
  into.rates.push(perSecond(await closedLoop(call, makeBodies(BYTES, IN_FLIGHT), limits)));
  const start = Bun.nanoseconds();
  await read(plan.chunks);
  into.chunks.push(plan.chunks / ((Bun.nanoseconds() - start) / 1e9));
}

function runAll(plan: Plan, say: Say): Promise<Result> {
  const why = missing("nats");
  if (why !== null) throw new CommandError(why);
  return inWorkspace(async (workspace, started) => {
    const server = await startServer("nats", workspace);
    started.push(server);
    const contestants = [await startOwn(server.address, workspace), await startBare(server.address, workspace)];
    started.unshift(...contestants);
    const figures = new Map(contestants.map((one) => [one, { roundTrips: [], rates: [], chunks: [] } as Figures]));
    for (let turn = 0; turn < plan.rounds; turn++) {
      for (const [one, into] of figures) {
        say(`round ${turn + 1} of ${plan.rounds}, ${one.name}`);
        await guarded(one.name, measure(one, plan, into), workspace);
      }
    }
    const rows = [...figures].map(([{ name }, { roundTrips, rates, chunks }]) => ({
      system: name,
      round_trip_us: round(median(roundTrips)),
      requests_per_second: round(median(rates)),
      chunks_per_second: round(median(chunks)),
    }));
    return { machine: describeMachine(plan), rows, bars: judge(rows) };
  });
}

function judge(rows: readonly NatsRow[]): Bar[] {
  const [own, bare] = rows as [NatsRow, NatsRow];
  const ratio = (of: Exclude<keyof NatsRow, "system">): number => round(own[of] / bare[of]);
  return [
    bar("round trip, 64 B ÷ bare NATS", ratio("round_trip_us"), { at_most: 1.25, aim: 1.1 }),
    bar("requests/s, 32 in flight ÷ bare NATS", ratio("requests_per_second"), { at_least: 0.8, aim: 0.95 }),
    bar("chunks/s of a stream ÷ bare NATS", ratio("chunks_per_second"), { at_least: 0.8, aim: 1 }),
  ];
}

function report({ machine, rows, bars }: Result): string {
  const lines = rows.map((row) => [
    row.system,
    number(row.round_trip_us),
    number(row.requests_per_second),
    number(row.chunks_per_second),
  ]);
  return [
    machineLines(machine),
    table([["", "round trip, µs", "requests/s, 32 in flight", "chunks of 64 KiB/s"], ...lines]),
    `Against the goals\n${table(barLines(bars))}`,
  ].join("\n\n");
}

function panels({ rows }: Result): Panel[] {
  return [
    {
      title: "64 B, 32 in flight",
      unit: "requests/s",
      better: "more",
      bars: rows.map(({ system, requests_per_second: value }) => ({ label: system, value })),
    },
  ];
}

export function command(): Command {
  const suite = newCommand("nats", "measure requests and streams over a NATS server", [
    "slotbus bench nats --quick --json > result.json",
  ]);
  const quick = "fewer and shorter rounds; takes up to 20 s";
  return withCommonFlags(suite, SYSTEMS.slice(1), quick, "very short rounds; takes a few seconds")
    .addHelpText(
      "after",
      "\nNeeds nats-server and the package @nats-io/transport-node. The bare client always takes part.",
    )
    .action(async (flags: CommonFlags) => {
      const mode = modeOf(flags);
      await present(flags, (say) => runAll({ ...PRESETS[mode], mode }, say), { report, title: "Over NATS", panels });
    });
}
