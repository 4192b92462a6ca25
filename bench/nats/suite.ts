/** `slotbus bench nats`: requests, streams, events and claims over a NATS server, with slotbus and with the bare client library. */

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
import { missing, missingPackage, startServer } from "../servers.ts";
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
import type { Compared, Guard } from "./events.ts";
import { CHUNK_BYTES, NAME, SUBJECT } from "./names.ts";
import { measureReturns } from "./returns.ts";

/** Names in the JSON. */
const SYSTEMS = ["slotbus", "nats"] as const;
type SystemName = (typeof SYSTEMS)[number];

interface Preset {
  rounds: number;
  roundMs: number;
  chunks: number;
  events: number;
  claims: number;
  /** Number of times that the server is killed and comes back. */
  returns: number;
}

const PRESETS: Record<Mode, Preset> = {
  full: { rounds: 7, roundMs: 1_000, chunks: 4_000, events: 200_000, claims: 1_000, returns: 9 },
  quick: { rounds: 5, roundMs: 300, chunks: 1_000, events: 50_000, claims: 300, returns: 5 },
  short: { rounds: 3, roundMs: 60, chunks: 100, events: 5_000, claims: 30, returns: 1 },
};

type Plan = Preset & { mode: Mode };

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
  /** Events with 64 B of JSON per second, by an iterator; in the callback of the bare subscription. */
  events_per_second: number;
  /** Claim and release of a key that nobody had; `kv.create` and `kv.delete` of the bare client, in µs. */
  claim_us: number;
  /** The same of one key again and again. */
  claim_again_us: number;
}

/** Figures of a row that both sides measure in one process. */
type ComparedName = "events_per_second" | "claim_us" | "claim_again_us";

interface Result {
  machine: Machine;
  rows: NatsRow[];
  /** Times from the first connection of a server that was killed to the first answer, in ms. */
  returns_ms: number[];
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
  const why = missing("nats") ?? missingPackage("@nats-io/kv");
  if (why !== null) throw new CommandError(why);
  return inWorkspace(async (workspace, started) => {
    const server = await startServer("nats", workspace, { jetstream: true });
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
    const { address } = server;
    const { measureClaims } = await import("./claims.ts");
    const { measureEvents } = await import("./events.ts");
    const { rounds } = plan;
    /** Names the step on the terminal; no round can hang. */
    const guardOf = (step: string): Guard => {
      say(step);
      return (name, running) => guarded(name, running, workspace);
    };
    const compared: Record<ComparedName, Compared> = {
      events_per_second: await measureEvents(address, rounds, plan.events, guardOf("events")),
      claim_us: await measureClaims(address, rounds, plan.claims, "many", guardOf("claims")),
      claim_again_us: await measureClaims(address, rounds, plan.claims, "one", guardOf("claims of one key")),
    };
    const returns = await measureReturns(program, plan.returns, workspace, guardOf("a server that returns"));
    const rows = [...figures].map(([{ name }, { roundTrips, rates, chunks }]): NatsRow => {
      const side = name === "slotbus" ? "slotbus" : "bare";
      return {
        system: name,
        round_trip_us: round(median(roundTrips)),
        requests_per_second: round(median(rates)),
        chunks_per_second: round(median(chunks)),
        events_per_second: round(compared.events_per_second[side]),
        claim_us: round(1e6 / compared.claim_us[side]),
        claim_again_us: round(1e6 / compared.claim_again_us[side]),
      };
    });
    return {
      machine: describeMachine(plan),
      rows,
      returns_ms: returns.map(round),
      bars: judge(rows, compared, returns),
    };
  });
}

function judge(rows: readonly NatsRow[], compared: Record<ComparedName, Compared>, returns: number[]): Bar[] {
  const [own, bare] = rows as [NatsRow, NatsRow];
  const ratio = (of: Exclude<keyof NatsRow, "system">): number => round(own[of] / bare[of]);
  return [
    bar("round trip, 64 B ÷ bare NATS", ratio("round_trip_us"), { at_most: 1.25, aim: 1.1 }),
    bar("requests/s, 32 in flight ÷ bare NATS", ratio("requests_per_second"), { at_least: 0.8, aim: 0.95 }),
    bar("chunks/s of a stream ÷ bare NATS", ratio("chunks_per_second"), { at_least: 0.8, aim: 1 }),
    bar("events/s by an iterator ÷ bare callback", round(compared.events_per_second.ratio), { at_least: 0.8 }),
    bar("claim + release ÷ bare create + delete", round(1 / compared.claim_us.ratio), { at_most: 1.25 }),
    bar("the same, one key ÷ bare create + delete", round(1 / compared.claim_again_us.ratio), { at_most: 1.25 }),
    bar("server back: first answer, slowest, ms", round(Math.max(...returns)), { at_most: 1_000 }),
  ];
}

function report({ machine, rows, returns_ms: returns, bars }: Result): string {
  const lines = rows.map((row) => [
    row.system,
    ...[row.round_trip_us, row.requests_per_second, row.chunks_per_second, row.events_per_second].map(number),
    ...[row.claim_us, row.claim_again_us].map(number),
  ]);
  const head = ["round trip, µs", "requests/s, 32 in flight", "chunks of 64 KiB/s", "events/s", "claim + release, µs"];
  return [
    machineLines(machine),
    table([["", ...head, "the same, one key"], ...lines]),
    `Server killed and back, first answer after: ${returns.map((ms) => number(ms)).join(", ")} ms`,
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
  const suite = newCommand("nats", "measure requests, streams, events and claims over a NATS server", [
    "slotbus bench nats --quick --json > result.json",
  ]);
  const quick = "fewer and shorter rounds; takes up to 20 s";
  return withCommonFlags(suite, SYSTEMS.slice(1), quick, "very short rounds; takes a few seconds")
    .addHelpText(
      "after",
      "\nNeeds nats-server with JetStream and the packages @nats-io/transport-node and @nats-io/kv. " +
        "The bare client always takes part.",
    )
    .action(async (flags: CommonFlags) => {
      const mode = modeOf(flags);
      await present(flags, (say) => runAll({ ...PRESETS[mode], mode }, say), { report, title: "Over NATS", panels });
    });
}
