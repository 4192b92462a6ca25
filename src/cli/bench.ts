/** `slotbus bench`: measures slotbus and its alternatives on this machine. The suites are in the folder `bench`. */

import type { Command } from "commander";
import { type Plan, presentation, PRESETS, runAll } from "../../bench/bus.ts";
import { type CommonFlags, modeOf, parseAgainst, present, withCommonFlags } from "../../bench/suite.ts";
import { SYSTEMS } from "../../bench/systems.ts";
import { addLazily, type Lazy, newCommand, UsageError } from "./usage.ts";

function parseSize(text: string): number {
  const match = /^(\d+)([km]?)$/i.exec(text.trim());
  const bytes = match ? Number(match[1]) * { "": 1, k: 1024, m: 1024 ** 2 }[match[2]!.toLowerCase()]! : 0;
  if (bytes >= 4 && bytes <= 16 * 1024 ** 2) return bytes;
  throw new UsageError(`--payload is "${text}"; it must be from 4 bytes to 16m. Give a size such as 64, 4k or 1m.`);
}

function parseInFlight(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= 256) return count;
  throw new UsageError(`--in-flight is "${text}"; it must be a whole number from 1 to 256.`);
}

/** Parses a list separated by commas and removes duplicates. */
function list(text: string, parse: (item: string) => number): number[] {
  return [...new Set(text.split(",").map(parse))];
}

interface Flags extends CommonFlags {
  payload?: string;
  inFlight?: string;
}

function makePlan(flags: Flags): Plan {
  const mode = modeOf(flags);
  const preset = PRESETS[mode];
  return {
    ...preset,
    mode,
    payloads: list(flags.payload ?? preset.payloads, parseSize),
    inFlight: list(flags.inFlight ?? preset.inFlight, parseInFlight),
    systems: parseAgainst(flags.against ?? preset.against, SYSTEMS),
  };
}

/** Every suite except `bus`, which is the default. */
const SUITES: readonly Lazy[] = [
  { name: "streams", summary: "streamed bodies and typed calls", load: () => import("../../bench/streams/suite.ts") },
  { name: "events", summary: "one publisher, many subscribers", load: () => import("../../bench/events/suite.ts") },
  { name: "contest", summary: "claims, contention, takeover", load: () => import("../../bench/contest/suite.ts") },
  { name: "stdio", summary: "programs behind pipes", load: () => import("../../bench/stdio/suite.ts") },
  { name: "busy", summary: "a busy or small machine", load: () => import("../../bench/busy/suite.ts") },
  { name: "pool", summary: "functions in processes and threads", load: () => import("../../bench/pool/suite.ts") },
  { name: "nats", summary: "over a NATS server", load: () => import("../../bench/nats/suite.ts") },
  { name: "many", summary: "several clients, several workers", load: () => import("../../bench/many/suite.ts") },
];

export async function command(args: readonly string[]): Promise<Command> {
  const bench = newCommand("bench", "measure latency and throughput of slotbus and its alternatives on this machine", [
    "slotbus bench --quick --json > result.json",
    "slotbus bench --short --payload 4k --in-flight 1 --against unix-socket",
    "slotbus bench --quick --svg bench.svg",
  ]);
  withCommonFlags(
    bench,
    SYSTEMS.slice(1),
    "64 B, 64 KiB and 1 MiB with 1 and 32 requests in flight; takes up to 40 s (a full run takes 8 minutes, 2 of them idle)",
    "64 B against two alternatives; takes a few seconds",
  )
    .argument("[suite]", "bus (default) or one of the commands below")
    .option("--payload <list>", "sizes of bodies in bytes; k and m mean KiB and MiB (default: 64,4k,64k,1m)")
    .option("--in-flight <list>", "requests in flight (default: 1,8,32)")
    .action(async (suite: string | undefined, flags: Flags) => {
      if (suite !== undefined && suite !== "bus")
        throw new UsageError(
          `There is no suite "${suite}". Choose one of: bus, ${SUITES.map(({ name }) => name).join(", ")}.`,
        );
      const plan = makePlan(flags);
      await present(flags, (say) => runAll(plan, say), presentation);
    });
  await addLazily(bench, SUITES, args);
  return bench;
}
