/** What `slotbus ls`, `stats` and `top` say of the buses on a NATS server: their workers, by the NATS services protocol. */

import type { NatsConnection } from "@nats-io/transport-node";
import { nats } from "../nats/index.ts";
import { columns, count, duration, fit, print } from "./terminal.ts";
import { CommandError, EXIT } from "./usage.ts";

/** Longest time for all answers, and longest pause between two of them, in ms. */
const ANSWERS_MS = 2_000;
const PAUSE_MS = 500;

/** A worker as printed in the JSON. */
export interface WorkerEntry {
  id: string;
  host: string;
  pid: number;
  running: number;
  concurrency: number;
  /** Requests that it took since it was opened. */
  taken: number;
  age_ms: number;
}

export interface BusEntry {
  name: string;
  workers: WorkerEntry[];
}

/** An answer to `$SRV.STATS`, as far as it is read. Another process wrote it. */
interface Answer {
  id?: unknown;
  started?: unknown;
  metadata?: { bus?: unknown; host?: unknown; pid?: unknown; protocol?: unknown };
  endpoints?: { num_requests?: unknown; data?: { running?: unknown; concurrency?: unknown } }[];
}

const textOf = (given: unknown): string => (typeof given === "string" ? fit(given, 64) : "?");
const numberOf = (given: unknown): number => (Number.isSafeInteger(Number(given)) ? Number(given) : 0);

/** Returns the bus and the worker of an answer; `null`: another service gave it. */
function read(answer: Answer | null): [bus: string, WorkerEntry] | null {
  const { id, started, metadata, endpoints } = answer ?? {};
  if (metadata?.protocol !== "slotbus") return null;
  const [requests] = Array.isArray(endpoints) ? endpoints : [];
  const worker: WorkerEntry = {
    id: textOf(id),
    host: textOf(metadata.host),
    pid: numberOf(metadata.pid),
    running: numberOf(requests?.data?.running),
    concurrency: numberOf(requests?.data?.concurrency),
    taken: numberOf(requests?.num_requests),
    age_ms: Math.max(0, Date.now() - (Date.parse(textOf(started)) || Date.now())),
  };
  return [textOf(metadata.bus), worker];
}

async function ask(connection: NatsConnection): Promise<BusEntry[]> {
  const buses = new Map<string, WorkerEntry[]>();
  const answers = await connection.requestMany("$SRV.STATS", "", {
    strategy: "stall",
    maxWait: ANSWERS_MS,
    stall: PAUSE_MS,
  });
  for await (const message of answers) {
    const found = message.data.length > 0 ? read(message.json<Answer | null>()) : null;
    if (found) buses.set(found[0], [...(buses.get(found[0]) ?? []), found[1]]);
  }
  return [...buses]
    .map(([name, workers]) => ({ name, workers: workers.sort((a, b) => b.age_ms - a.age_ms) }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Asks all workers on the server. The user is the client's default; a user and a password fit into the address. */
export async function busesOn(servers: string): Promise<BusEntry[]> {
  const { link } = nats({ servers, maxReconnectAttempts: 0 });
  const connection = await link.enter();
  try {
    return await ask(connection);
  } finally {
    await link.leave();
  }
}

const sum = (workers: readonly WorkerEntry[], of: (worker: WorkerEntry) => number): number =>
  workers.reduce((all, one) => all + of(one), 0);
const used = (workers: readonly WorkerEntry[]): string =>
  `${sum(workers, ({ running }) => running)}/${sum(workers, ({ concurrency }) => concurrency)}`;

/** `slotbus ls --nats` */
export async function listBuses(servers: string, json: boolean): Promise<void> {
  const buses = await busesOn(servers);
  if (json) return print(JSON.stringify({ server: servers, buses }, null, 2));
  if (buses.length === 0) return print(`No worker answers on ${servers}.`);
  const rows = buses.map(({ name, workers }) => {
    const hosts = new Set(workers.map(({ host }) => host)).size;
    return [
      name,
      workers.length,
      hosts,
      used(workers),
      sum(workers, ({ taken }) => taken),
      duration(workers[0]!.age_ms),
    ];
  });
  print(columns([["BUS", "WORKERS", "HOSTS", "IN USE", "TAKEN", "AGE"], ...rows]));
}

/** `slotbus stats --nats`. @throws {CommandError} if no worker of the bus answers */
export async function printBus(servers: string, name: string, json: boolean): Promise<void> {
  const bus = (await busesOn(servers)).find((one) => one.name === name);
  if (!bus)
    throw new CommandError(
      `No worker of bus "${name}" answers on ${servers}. Run \`slotbus ls --nats ${servers}\` to list the buses.`,
      EXIT.notFound,
    );
  if (json) return print(JSON.stringify({ server: servers, ...bus }, null, 2));
  const rows = bus.workers.map((one) => [
    one.id.slice(0, 8),
    one.host,
    one.pid,
    `${one.running}/${one.concurrency}`,
    one.taken.toLocaleString("en"),
    duration(one.age_ms),
  ]);
  print(`bus ${name} on ${servers}, ${count(bus.workers.length, "worker")}, ${used(bus.workers)} in use\n`);
  print(columns([["WORKER", "HOST", "PID", "IN USE", "TAKEN", "AGE"], ...rows]));
}
