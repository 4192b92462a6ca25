/** `slotbus ls`: what is in the runtime directory. */

import type { Command } from "commander";
import { BusObserver } from "../wires/memory/observer.ts";
import { Contest } from "../contest/contest.ts";
import { Fleet } from "../fleet/fleet.ts";
import { type BusName, type Names, type ProcessInfo, processInfo, readNames, shortCommand } from "./directory.ts";
import { columns, duration, fit, paint, print } from "./terminal.ts";
import { type CommonFlags, newCommand, withDirectory, withJson } from "./usage.ts";

/** How long the client of a bus has to answer, in ms. */
const ANSWER_MS = 500;

/** One line of `ls`, as it stands in the JSON. */
export interface Entry {
  kind: "bus" | "hub" | "fleet";
  name: string;
  /** `"silent"`: its process lives and does not answer. `"unreadable"`: `problem` says why. */
  state: "alive" | "silent" | "dead" | "unreadable";
  /** Of a bus its client; of a fleet its oldest member. */
  owner: { pid: number; uid: number; command: string } | null;
  /** Workers of a bus, members of a fleet. */
  members: number | null;
  age_ms: number | null;
  /** Slots of all workers, or leases. */
  slots: { used: number; total: number } | null;
  problem: string | null;
}

export function command(): Command {
  return withDirectory(withJson(newCommand("ls", "list the buses, fleets and hubs of the runtime directory", EXAMPLES)))
    .addHelpText("after", "\nA dead one was left by a process that was killed; `slotbus clean` removes it.")
    .action(async ({ json, directory }: CommonFlags) => {
      const names = readNames(directory);
      const entries = await list(names);
      print(json ? JSON.stringify({ directory: names.directory, entries }, null, 2) : report(names, entries));
    });
}

const EXAMPLES = ["slotbus ls", "slotbus ls --json | jq '.entries[] | select(.state == \"dead\") | .name'"];

const UNKNOWN = { owner: null, members: null, age_ms: null, slots: null, problem: null };

export async function list({ directory, buses, fleets }: Names): Promise<Entry[]> {
  return Promise.all([
    ...buses.map((bus) => busEntry(directory, bus)),
    ...fleets.map((fleet) => fleetEntry(directory, fleet)),
  ]);
}

function ownerOf(info: ProcessInfo | null): Entry["owner"] {
  return info && { pid: info.pid, uid: info.uid, command: info.command };
}

async function busEntry(directory: string, { name, isAlive, isHub, owner, problem }: BusName): Promise<Entry> {
  const entry: Entry = {
    kind: isHub ? "hub" : "bus",
    name,
    state: problem === null ? (isAlive ? "alive" : "dead") : "unreadable",
    ...UNKNOWN,
    owner: ownerOf(owner),
    problem,
  };
  if (entry.state !== "alive") return entry;
  if (owner?.isStopped) return { ...entry, state: "silent", problem: "its process is stopped" };
  try {
    using observer = await BusObserver.open({ name, directory, timeout: ANSWER_MS });
    const { workers, ageMs, slots, pid } = observer.read();
    const used = workers.reduce((sum, { inFlight }) => sum + inFlight, 0);
    entry.owner ??= ownerOf(processInfo(pid));
    entry.members = workers.length;
    entry.age_ms = Math.round(ageMs);
    entry.slots = { used, total: workers.length * slots };
  } catch (error) {
    entry.state = "silent";
    entry.problem = (error as Error).message;
  }
  return entry;
}

async function fleetEntry(directory: string, name: string): Promise<Entry> {
  const entry: Entry = { kind: "fleet", name, state: "alive", ...UNKNOWN };
  try {
    await using fleet = await Fleet.observe({ name, directory });
    const members = fleet.members().sort((a, b) => a.joinedAt - b.joinedAt);
    entry.members = members.length;
    if (members.length === 0) return { ...entry, state: "dead" };
    entry.owner = ownerOf(processInfo(members[0]!.pid));
    entry.age_ms = Math.max(0, Math.round(Date.now() - members[0]!.joinedAt));
    entry.slots = { used: new Contest(fleet).list().length, total: fleet.geometry.leases };
  } catch (error) {
    entry.state = "unreadable";
    entry.problem = (error as Error).message;
  }
  return entry;
}

function report({ directory }: Names, entries: readonly Entry[]): string {
  if (entries.length === 0) return `Nothing is in ${directory}.`;
  const rows = entries.map(({ kind, name, state, owner, members, age_ms: age, slots }) => [
    name,
    kind,
    state,
    owner && owner.pid,
    owner && owner.uid,
    members,
    age === null ? null : duration(age),
    slots && `${slots.used}/${slots.total}`,
    owner ? `  ${fit(shortCommand(owner), 32)}` : "",
  ]);
  const head = ["NAME", "KIND", "STATE", "PID", "UID", "MEMBERS", "AGE", "IN USE", "  COMMAND"];
  const [first, ...lines] = columns([head, ...rows], (cells) =>
    [...cells.slice(0, -1), cells.at(-1)!.trimStart()].join("  ").trimEnd(),
  ).split("\n");
  const painted = lines.map((line, index) => {
    const { state } = entries[index]!;
    return state === "alive" ? line : paint(state === "dead" ? "dim" : "red", line);
  });
  const problems = entries.filter(({ problem }) => problem !== null);
  const notes = problems.map(({ kind, name, problem }) => paint("red", `${kind} ${name}: ${problem}`));
  return [paint("bold", first!), ...painted, ...notes].join("\n");
}
