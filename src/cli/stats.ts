/** `slotbus stats`: prints counters and percentiles of a bus since its creation. */

import type { Command } from "commander";
import { busMetrics } from "../bus/metrics.ts";
import { BusNotFoundError } from "../errors.ts";
import { quantileUs, type Snapshot } from "../native/statistics.ts";
import { BusObserver } from "../native/observer.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { readNames } from "./directory.ts";
import { columns, count, duration, microseconds, print } from "./terminal.ts";
import {
  CommandError,
  type CommonFlags,
  EXIT,
  newCommand,
  onlyOne,
  UsageError,
  withDirectory,
  withJson,
} from "./usage.ts";

interface Flags extends CommonFlags {
  prometheus?: boolean;
}

export function command(): Command {
  const stats = newCommand("stats", "print the counters and percentiles of a bus since its creation", [
    "slotbus stats shop",
    "slotbus stats shop --json | jq .counters.errors",
    "slotbus stats shop --prometheus > /var/lib/node_exporter/slotbus.prom",
  ]);
  return withDirectory(withJson(stats))
    .argument("[name]", "name of the bus; optional when there is only one")
    .option("--prometheus", "print metrics in the text format of Prometheus")
    .action(async (given: string | undefined, { json, prometheus, directory }: Flags) => {
      if (json && prometheus) throw new UsageError("--json and --prometheus exclude each other.");
      const name = given ?? onlyName(directory);
      using observer = await open(name, directory);
      const snapshot = observer.read();
      if (prometheus) process.stdout.write(busMetrics(name, snapshot));
      else print(json ? JSON.stringify(asJson(name, snapshot), null, 2) : report(name, snapshot));
    });
}

async function open(name: string, directory: string | undefined): Promise<BusObserver> {
  try {
    return await BusObserver.open({ name, directory });
  } catch (error) {
    if (!(error instanceof BusNotFoundError)) throw error;
    const message = `Cannot find bus "${name}" in ${resolveDirectory(directory)}. Run \`slotbus ls\` to list the buses.`;
    throw new CommandError(message, EXIT.notFound);
  }
}

/** Returns the only bus, for a command line that names none. */
function onlyName(given: string | undefined): string {
  const { directory, buses } = readNames(given);
  const alive = buses.filter(({ isAlive }) => isAlive).map(({ name }) => name);
  return onlyOne(alive, `There are ${alive.length} buses`, `There is no bus in ${directory}.`);
}

function asJson(name: string, { roundTrips, roundTripSum, ...rest }: Snapshot): object {
  const samples = roundTrips.reduce((sum, one) => sum + one, 0);
  const [p50, p90, p99, p999] = percentiles(roundTrips);
  const mean = samples === 0 ? 0 : roundTripSum / samples / 1_000;
  return { name, ...rest, round_trip_us: { p50, p90, p99, p999, mean, samples } };
}

function percentiles(roundTrips: readonly number[]): number[] {
  return [0.5, 0.9, 0.99, 0.999].map((part) => quantileUs(roundTrips, part));
}

function report(name: string, { counters, workers, queued, unsettled, pid, ageMs, roundTrips }: Snapshot): string {
  const named = Object.entries(counters).map(([counter, value]) => [
    counter.replaceAll("_", " "),
    value.toLocaleString("en"),
  ]);
  return [
    `bus ${name}, pid ${pid}, ${duration(ageMs)}, ${count(workers.length, "worker")}`,
    columns([
      ["round trip", "p50", "p90", "p99", "p99.9"],
      ["", ...percentiles(roundTrips).map(microseconds)],
    ]),
    columns([["queued now", queued], ["waiting now", unsettled], ...named]),
  ].join("\n\n");
}
