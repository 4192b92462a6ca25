/** `slotbus stats`: counters and percentiles of a bus since it was made. */

import type { Command } from "commander";
import { busMetrics } from "../bus/metrics.ts";
import { quantileUs, type Snapshot } from "../native/statistics.ts";
import { BusObserver } from "../wires/memory/observer.ts";
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
function onlyName(directory: string | undefined): string {
  const names = readNames(directory);
  const alive = names.buses.filter(({ isAlive }) => isAlive).map(({ name }) => name);
  return onlyOne(alive, `there are ${alive.length} buses`, `no bus is in ${names.directory}.`);
}

function asJson(name: string, { roundTrips, roundTripSum, ...rest }: Snapshot): object {
  const samples = roundTrips.reduce((sum, one) => sum + one, 0);
  return {
    name,
    ...rest,
    round_trip_us: {
      p50: quantileUs(roundTrips, 0.5),
      p90: quantileUs(roundTrips, 0.9),
      p99: quantileUs(roundTrips, 0.99),
      p999: quantileUs(roundTrips, 0.999),
      mean: samples === 0 ? 0 : roundTripSum / samples / 1_000,
      samples,
    },
  };
}

function report(name: string, snapshot: Snapshot): string {
  const { counters, workers, queued, unsettled, pid, ageMs, roundTrips } = snapshot;
  const head = `bus ${name}, pid ${pid}, ${duration(ageMs)}, ${count(workers.length, "worker")}`;
  const percentiles = [0.5, 0.9, 0.99, 0.999].map((part) => microseconds(quantileUs(roundTrips, part)));
  return [
    head,
    "",
    columns([
      ["round trip", "p50", "p90", "p99", "p99.9"],
      ["", ...percentiles],
    ]),
    "",
    columns([
      ["queued now", queued],
      ["waiting now", unsettled],
      ...Object.entries(counters).map(([counter, value]) => [counter.replaceAll("_", " "), value.toLocaleString("en")]),
    ]),
  ].join("\n");
}
