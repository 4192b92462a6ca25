/** `slotbus claims`: who holds what in a fleet; and a lease taken away by hand. */

import type { Command } from "commander";
import { Contest } from "../contest/contest.ts";
import { Fleet } from "../fleet/fleet.ts";
import { readNames } from "./directory.ts";
import { columns, duration, print } from "./terminal.ts";
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
  fleet?: string;
  force?: boolean;
}

export function command(): Command {
  const ls = newCommand("ls", "list the leases that are held", ["slotbus claims ls crew", "slotbus claims ls --json"])
    .argument("[fleet]", "its name; it can be left out when there is only one")
    .action(list);
  const release = newCommand("release", "end a lease that another process holds", [
    "slotbus claims release leader mailer --force",
    "slotbus claims release leader mailer --fleet crew --force",
  ])
    .argument("<kind>", "of the subject")
    .argument("<label>", "of the subject")
    .option("--fleet <name>", "it can be left out when there is only one")
    .option("--force", "yes: its holder lives, and is told that it lost the lease")
    .action(endLease);
  return newCommand("claims", "list and release the leases of a fleet")
    .addCommand(withDirectory(withJson(ls)))
    .addCommand(withDirectory(withJson(release)));
}

/** The fleet that is meant when none is named. */
export function onlyFleet(given: string | undefined): string {
  const { directory, fleets } = readNames(given);
  return onlyOne(fleets, `there are ${fleets.length} fleets`, `no fleet is in ${directory}.`);
}

async function list(given: string | undefined, { json, directory }: Flags): Promise<void> {
  const name = given ?? onlyFleet(directory);
  await using fleet = await Fleet.observe({ name, directory });
  const contest = await Contest.open({ fleet });
  const now = contest.now();
  const leases = contest.list().map(({ subject, owner, pid, token, claimedAt, expiresAt }) => ({
    ...subject,
    owner,
    pid,
    token,
    held_ms: Math.max(0, Math.round(now - claimedAt)),
    left_ms: Math.max(0, Math.round(expiresAt - now)),
  }));
  if (json) return print(JSON.stringify({ fleet: name, leases, total: fleet.geometry.maxLeases }, null, 2));
  if (leases.length === 0) return print(`Nobody holds a lease of fleet ${name}.`);
  const rows = leases.map((it) => [
    `${it.kind} ${it.label}`,
    it.owner,
    it.pid,
    it.token,
    duration(it.held_ms),
    duration(it.left_ms),
  ]);
  print(columns([["LEASE", "HOLDER", "PID", "TOKEN", "HELD", "LEFT"], ...rows]));
}

async function endLease(kind: string, label: string, { fleet, json, directory, force }: Flags): Promise<void> {
  const name = fleet ?? onlyFleet(directory);
  const subject = { kind, label };
  await using observed = await Fleet.observe({ name, directory });
  const holder = (await Contest.open({ fleet: observed })).holder(subject);
  if (!holder) throw new CommandError(`nobody holds ${kind} ${label} in fleet "${name}".`, EXIT.notFound);
  if (!force) {
    const whose = `${holder.owner} (pid ${holder.pid}) holds ${kind} ${label} and lives`;
    throw new UsageError(`${whose}; pass --force to take the lease away from it.`);
  }
  await using member = await Fleet.join({ name, directory });
  const released = (await Contest.open({ fleet: member })).release(holder, { force: true });
  if (json) return print(JSON.stringify({ fleet: name, ...subject, owner: holder.owner, released }));
  print(released ? `Released; ${holder.owner} (pid ${holder.pid}) had it.` : "It had ended by itself.");
}
