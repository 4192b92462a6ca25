/** `slotbus ls`: lists the buses, hubs and fleets in the runtime directory. */

import type { Command } from "commander";
import { Contest } from "../contest/contest.ts";
import { Fleet } from "../fleet/fleet.ts";
import { BusWatch } from "./bus-watch.ts";
import { type BusName, type ProcessInfo, processInfo, readNames, shortCommand } from "./directory.ts";
import { columns, duration, fit, paint, print } from "./terminal.ts";
import { busFrame } from "./top/watch.ts";
import { type CommonFlags, newCommand, withDirectory, withJson } from "./usage.ts";

/** One line of `ls`, as printed in the JSON. */
export interface Entry {
  kind: "bus" | "hub" | "fleet";
  name: string;
  /** `"silent"`: its process is alive but does not answer, or no client of a shared bus does. `"unreadable"`: `problem` says why. */
  state: "alive" | "silent" | "dead" | "unreadable";
  /** The owner of a bus, the oldest client of a shared bus, or the oldest member of a fleet. */
  owner: { pid: number; uid: number; command: string } | null;
  /** The clients of a shared bus; `null` for others. */
  clients: ClientEntry[] | null;
  /** Workers of a bus, each counted once; members of a fleet. */
  members: number | null;
  age_ms: number | null;
  /** Slots of all workers at all clients of a bus, or leases of a fleet. */
  slots: { used: number; total: number } | null;
  problem: string | null;
}

/** A client of a shared bus. */
interface ClientEntry {
  client: number;
  state: "alive" | "silent";
  pid: number | null;
  command: string | null;
  workers: number;
  /** Slots in use. */
  used: number;
  problem: string | null;
}

export function command(): Command {
  return withDirectory(withJson(newCommand("ls", "list the buses, fleets and hubs of the runtime directory", EXAMPLES)))
    .option("--nats <url>", "the buses on this NATS server instead, by what their workers answer")
    .addHelpText("after", "\nSTATE dead: the process was killed and left files; `slotbus clean` removes them.")
    .action(async ({ json, directory: given, nats }: CommonFlags & { nats?: string }) => {
      if (nats !== undefined) return (await import("./nats.ts")).listBuses(nats, json === true);
      const { directory, buses, fleets } = readNames(given);
      const entries = await Promise.all([
        ...buses.map((bus) => busEntry(directory, bus)),
        ...fleets.map((fleet) => fleetEntry(directory, fleet)),
      ]);
      if (json) print(JSON.stringify({ directory, entries }, null, 2));
      else print(entries.length === 0 ? `There is nothing in ${directory}.` : report(entries));
    });
}

const EXAMPLES = [
  "slotbus ls",
  "slotbus ls --nats nats://10.0.0.5",
  "slotbus ls --json | jq '.entries[] | select(.state == \"dead\") | .name'",
];

const UNKNOWN = { owner: null, clients: null, members: null, age_ms: null, slots: null, problem: null };

function ownerOf(info: ProcessInfo | null): Entry["owner"] {
  return info && { pid: info.pid, uid: info.uid, command: info.command };
}

async function busEntry(directory: string, bus: BusName): Promise<Entry> {
  const { name, isAlive, isHub, problem } = bus;
  const state = problem !== null ? "unreadable" : isAlive ? "alive" : "dead";
  const entry: Entry = { kind: isHub ? "hub" : "bus", name, state, ...UNKNOWN, owner: ownerOf(bus.owner), problem };
  if (state !== "alive") return entry;
  const frame = busFrame(bus, await new BusWatch().look(directory, bus));
  entry.clients =
    frame.clients?.map(({ client, problem: why, owner, workers, in_flight: inFlight }) => {
      const { pid = null, command: started = null } = owner ?? {};
      return {
        client,
        state: why === null ? "alive" : "silent",
        pid,
        command: started,
        workers,
        used: inFlight,
        problem: why,
      };
    }) ?? null;
  if (frame.problem !== null) Object.assign(entry, { state: "silent", problem: frame.problem });
  if (frame.age_ms === null) return entry;
  const used = frame.workers.reduce((sum, one) => sum + one.in_flight, 0);
  const total = Object.values(frame.slots).reduce((sum, one) => sum + one, 0);
  if (frame.owner) entry.owner = ownerOf(bus.owner ?? processInfo(frame.owner.pid));
  return { ...entry, members: frame.workers.length, age_ms: frame.age_ms, slots: { used, total } };
}

async function fleetEntry(directory: string, name: string): Promise<Entry> {
  const entry: Entry = { kind: "fleet", name, state: "alive", ...UNKNOWN };
  try {
    await using fleet = await Fleet.observe({ name, directory });
    const members = fleet.members().sort((a, b) => a.joinedAt - b.joinedAt);
    const [oldest] = members;
    if (!oldest) return { ...entry, state: "dead", members: 0 };
    return {
      ...entry,
      owner: ownerOf(processInfo(oldest.pid)),
      members: members.length,
      age_ms: Math.max(0, Math.round(Date.now() - oldest.joinedAt)),
      slots: { used: (await Contest.open({ fleet })).list().length, total: fleet.geometry.maxLeases },
    };
  } catch (error) {
    return { ...entry, state: "unreadable", problem: (error as Error).message };
  }
}

function report(entries: readonly Entry[]): string {
  const rows = entries.map(({ kind, name, state, owner, clients, members, age_ms: age, slots }) => {
    const used = slots && `${slots.used}/${slots.total}`;
    const asking = clients?.length ?? (kind !== "fleet" && state === "alive" ? 1 : null);
    return [name, kind, state, owner?.pid, owner?.uid, asking, members, duration(age), used];
  });
  const [head, ...lines] = columns([
    ["NAME", "KIND", "STATE", "PID", "UID", "CLIENTS", "MEMBERS", "AGE", "IN USE"],
    ...rows,
  ]).split("\n");
  const painted = lines.map((line, index) => {
    const { state, owner } = entries[index]!;
    const whole = owner ? `${line}  ${fit(shortCommand(owner), 32)}` : line;
    return state === "alive" ? whole : paint(state === "dead" ? "dim" : "red", whole);
  });
  const notes = entries.flatMap(({ kind, name, problem, clients }) => {
    const all = clients?.map((one) => ({ at: `${name}@${one.client}`, why: one.problem })) ?? [
      { at: name, why: problem },
    ];
    return all.flatMap(({ at, why }) => (why === null ? [] : paint("red", `${kind} ${at}: ${why}`)));
  });
  return [paint("bold", `${head}  COMMAND`), ...painted, ...notes].join("\n");
}
