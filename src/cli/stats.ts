/** `slotbus stats`: prints counters and percentiles of a bus since its creation. */

import type { Command } from "commander";
import { busMetrics, type ClientMetrics } from "../bus/metrics.ts";
import { BusNotFoundError } from "../errors.ts";
import { quantileUs, type Snapshot } from "../native/statistics.ts";
import { BusObserver } from "../native/observer.ts";
import { resolveDirectory } from "../runtime-directory.ts";
import { BusWatch, type Look, sumOf } from "./bus-watch.ts";
import { type BusName, findShared, readNames } from "./directory.ts";
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

/** The end of `NAME@K`: client K of a shared bus. */
const CLIENT = /@(\d+)$/;

interface Flags extends CommonFlags {
  prometheus?: boolean;
  nats?: string;
}

export function command(): Command {
  const stats = newCommand("stats", "print the counters and percentiles of a bus since its creation", [
    "slotbus stats shop",
    "slotbus stats shop --json | jq .counters.errors",
    "slotbus stats shop --nats nats://10.0.0.5",
    "slotbus stats shop --prometheus > /var/lib/node_exporter/slotbus.prom",
  ]);
  return withDirectory(withJson(stats))
    .argument("[name]", "name of the bus; optional when there is only one. NAME@K: client K of a shared bus")
    .option("--prometheus", "print metrics in the text format of Prometheus")
    .option("--nats <url>", "the workers of a bus on this NATS server, which must be named")
    .action(async (given: string | undefined, { json, prometheus, directory, nats }: Flags) => {
      if (json && prometheus) throw new UsageError("--json and --prometheus exclude each other.");
      if (nats !== undefined) {
        if (given === undefined) throw new UsageError("With --nats, the bus must be named.");
        if (prometheus) throw new UsageError("--nats and --prometheus exclude each other: use `bus.metrics()`.");
        return (await import("./nats.ts")).printBus(nats, given, json === true);
      }
      const name = given ?? onlyName(directory);
      const shared = findShared(directory, name);
      const looks = shared ? await lookAtAll(shared, directory) : [await lookAt(name, directory)];
      const clients = shared && looks;
      if (prometheus) process.stdout.write(busMetrics(name.replace(CLIENT, ""), looks.flatMap(metricsOf)));
      else
        print(
          json ? JSON.stringify(asJson(name, sumOf(looks)!, clients), null, 2) : report(name, sumOf(looks)!, clients),
        );
      const silent = looks.filter(({ now }) => now === null);
      for (const { client, problem } of silent) process.stderr.write(`slotbus: ${name}@${client}: ${problem}.\n`);
    });
}

async function lookAt(name: string, directory: string | undefined): Promise<Look> {
  try {
    using observer = await BusObserver.open({ name, directory });
    const client = CLIENT.exec(name)?.[1];
    return { client: client === undefined ? null : Number(client), problem: null, now: observer.read(), before: null };
  } catch (error) {
    if (!(error instanceof BusNotFoundError)) throw error;
    const message = `Cannot find bus "${name}" in ${resolveDirectory(directory)}. Run \`slotbus ls\` to list the buses.`;
    throw new CommandError(message, EXIT.notFound);
  }
}

/** Looks at each client of a shared bus. Throws if no client answers. */
async function lookAtAll(bus: BusName, directory: string | undefined): Promise<Look[]> {
  const watch = new BusWatch();
  const looks = await watch.look(resolveDirectory(directory), bus);
  watch.close();
  if (looks.some(({ now }) => now)) return looks;
  throw new CommandError(`No client of bus "${bus.name}" answers: ${looks[0]!.problem}.`, EXIT.noAnswer);
}

/** Returns the only bus, for a command line that names none. */
function onlyName(given: string | undefined): string {
  const { directory, buses } = readNames(given);
  const alive = buses.filter(({ isAlive }) => isAlive).map(({ name }) => name);
  return onlyOne(alive, `There are ${alive.length} buses`, `There is no bus in ${directory}.`);
}

function metricsOf({ client, now }: Look): ClientMetrics[] {
  return now ? [{ client, snapshot: now }] : [];
}

function asJson(name: string, sum: Snapshot, looks: readonly Look[] | null): object {
  const clients = looks?.map(({ client, problem, now }) => ({ client, problem, ...(now && figuresOf(now)) })) ?? null;
  return { name, ...figuresOf(sum), clients };
}

function figuresOf({ roundTrips, roundTripSum, ...rest }: Snapshot): object {
  const samples = roundTrips.reduce((sum, one) => sum + one, 0);
  const [p50, p90, p99, p999] = percentiles(roundTrips);
  const mean = samples === 0 ? 0 : roundTripSum / samples / 1_000;
  return { ...rest, round_trip_us: { p50, p90, p99, p999, mean, samples } };
}

function percentiles(roundTrips: readonly number[]): number[] {
  return [0.5, 0.9, 0.99, 0.999].map((part) => quantileUs(roundTrips, part));
}

function report(name: string, sum: Snapshot, looks: readonly Look[] | null): string {
  const { counters, workers, queued, unsettled, pid, ageMs, roundTrips } = sum;
  const named = Object.entries(counters).map(([counter, value]) => [counter.replaceAll("_", " "), comma(value)]);
  const asking = looks ? count(looks.length, "client") : `pid ${pid}`;
  return [
    `bus ${name}, ${asking}, ${duration(ageMs)}, ${count(workers.length, "worker")}`,
    columns([
      ["round trip", "p50", "p90", "p99", "p99.9"],
      ["", ...percentiles(roundTrips).map(microseconds)],
    ]),
    ...(looks ? [clientTable(looks)] : []),
    columns([["queued now", queued], ["waiting now", unsettled], ...named]),
  ].join("\n\n");
}

/** One line for each client of a shared bus. */
function clientTable(looks: readonly Look[]): string {
  const lines = looks.map(({ client, now }) => {
    if (!now) return [`@${client}`, ...Array.from({ length: 8 }, () => null)];
    const { published, responses, errors, timeouts } = now.counters;
    const [p50, , p99] = percentiles(now.roundTrips).map(microseconds);
    return [
      `@${client}`,
      now.pid,
      comma(published),
      comma(responses),
      comma(errors),
      comma(timeouts),
      now.queued,
      p50,
      p99,
    ];
  });
  return columns([["client", "pid", "published", "responses", "errors", "timeouts", "queued", "p50", "p99"], ...lines]);
}

function comma(value: number): string {
  return value.toLocaleString("en");
}
