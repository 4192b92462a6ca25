/** `slotbus claims`: who holds what in a fleet, now or as it changes; and a lease taken away by hand. */

import type { Command } from "commander";
import { Contest } from "../contest/contest.ts";
import { Fleet } from "../fleet/fleet.ts";
import { readNames } from "./directory.ts";
import type { LeaseChange } from "../contest/watch.ts";
import { columns, duration, fit, LOOK_MS, paint, print, untilStopped } from "./terminal.ts";
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
  follow?: boolean;
  force?: boolean;
}

export function command(): Command {
  const ls = newCommand("ls", "list the leases that are held", [
    "slotbus claims ls crew",
    "slotbus claims ls --json",
    "slotbus claims ls --follow",
  ])
    .argument("[fleet]", "its name; it can be left out when there is only one")
    .option("--follow", "print what is held, then each change; with --json each line is one")
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

async function list(given: string | undefined, { json, directory, follow: isFollowed }: Flags): Promise<void> {
  const name = given ?? onlyFleet(directory);
  await using fleet = await Fleet.observe({ name, directory });
  const contest = await Contest.open({ fleet });
  if (isFollowed) return await follow(fleet, contest, json === true);
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

/** Until ^C, or until no member of the fleet lives: the last one to leave removes its file, one that is killed does not. */
async function follow(fleet: Fleet, contest: Contest, json: boolean): Promise<void> {
  const watch = contest.watchAll();
  await untilStopped(async (stopped) => {
    for (const change of watch.poll()) print(json ? JSON.stringify(plain(change)) : describe(change, contest.now()));
    if (!fleet.isCurrent || fleet.members().length === 0) return false;
    await Promise.race([Bun.sleep(LOOK_MS), stopped]);
    return true;
  });
}

function plain({ type, holder: { subject, owner, pid, token } }: LeaseChange): object {
  return { time: new Date().toISOString(), type, ...subject, owner, pid, token };
}

const STYLES = { claimed: "green", renewed: "dim", released: "bold", expired: "yellow", died: "red" } as const;

function describe({ type, holder }: LeaseChange, now: number): string {
  const { subject, owner, pid, token, expiresAt } = holder;
  const time = paint("dim", new Date().toISOString().slice(11, 23));
  const left = type === "claimed" || type === "renewed" ? `, ${duration(expiresAt - now)} left` : "";
  const lease = fit(`${subject.kind} ${subject.label}`, 100);
  return `${time} ${paint(STYLES[type], type.padEnd(8))} ${lease} by ${fit(owner, 64)} (pid ${pid}), token ${token}${left}`;
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
