/** `slotbus stats`: counters and percentiles of a bus since it was made. */

import type { Command } from "commander";
import { busMetrics } from "../bus/metrics.ts";
import { quantileUs, type Snapshot } from "../native/statistics.ts";
import { BusObserver } from "../native/observer.ts";
import { readNames } from "./directory.ts";
import { columns, count, duration, microseconds, print } from "./terminal.ts";
import { type CommonFlags, newCommand, onlyOne, UsageError, withDirectory, withJson } from "./usage.ts";

interface Flags extends CommonFlags {
  prometheus?: boolean;
}

export function command(): Command {
  const stats = newCommand("stats", "print the counters and percentiles of a bus since it was made", [
    "slotbus stats shop",
    "slotbus stats shop --json | jq .counters.errors",
    "slotbus stats shop --prometheus > /var/lib/node_exporter/slotbus.prom",
  ]);
  return withDirectory(withJson(stats))
    .argument("[name]", "of the bus; it can be left out when there is only one")
    .option("--prometheus", "print Prometheus' text format")
    .action(async (given: string | undefined, { json, prometheus, directory }: Flags) => {
      if (json && prometheus) throw new UsageError("--json and --prometheus exclude each other.");
      const name = given ?? onlyName(directory);
      using observer = await BusObserver.open({ name, directory });
      const snapshot = observer.read();
      if (prometheus) process.stdout.write(busMetrics(name, snapshot));
      else print(json ? JSON.stringify(asJson(name, snapshot), null, 2) : report(name, snapshot));
    });
}

/** The bus that is meant when none is named. */
function onlyName(given: string | undefined): string {
  const { directory, buses } = readNames(given);
  const alive = buses.filter(({ isAlive }) => isAlive).map(({ name }) => name);
  return onlyOne(alive, `there are ${alive.length} buses`, `no bus is in ${directory}.`);
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
