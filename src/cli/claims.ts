/** `slotbus claims`: lists and follows the leases of a fleet, and releases a lease by force. */

import type { Command } from "commander";
import { Contest } from "../contest/contest.ts";
import { Fleet } from "../fleet/fleet.ts";
import type { PortableFleet } from "../fleet/portable.ts";
import type { Holder, Subject } from "../native/lease.ts";
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
  nats?: string;
}

export function command(): Command {
  const ls = newCommand("ls", "list the leases that are held", [
    "slotbus claims ls crew",
    "slotbus claims ls --json",
    "slotbus claims ls --follow",
    "slotbus claims ls crew --nats nats://10.0.0.5",
  ])
    .argument("[fleet]", "name of the fleet; optional when there is only one")
    .option("--follow", "print the held leases, then each change; with --json one object per line")
    .action(list);
  const release = newCommand("release", "release a lease that another process holds", [
    "slotbus claims release leader mailer --force",
    "slotbus claims release leader mailer --fleet crew --force",
  ])
    .argument("<kind>", "kind of the lease's subject")
    .argument("<label>", "label of the lease's subject")
    .option("--fleet <name>", "name of the fleet; optional when there is only one")
    .option("--force", "required: the holder is alive, and loses the lease")
    .action(endLease);
  const all = [ls, release].map((one) =>
    withDirectory(withJson(one)).option("--nats <url>", "a fleet on this NATS server, which must be named"),
  );
  return all.reduce(
    (parent, one) => parent.addCommand(one),
    newCommand("claims", "list and release the leases of a fleet"),
  );
}

/** Joins a fleet on a NATS server. The prefix and the user are the client's defaults; a user and a password fit into the address. */
async function overNats(servers: string, name: string | undefined): Promise<PortableFleet> {
  if (name === undefined) throw new UsageError("With --nats, the fleet must be named.");
  const { nats } = await import("../nats/index.ts");
  return Fleet.join({ name, via: nats({ servers, maxReconnectAttempts: 0 }) });
}

/** Returns the only fleet, for a command line that names none. */
export function onlyFleet(given: string | undefined): string {
  const { directory, fleets } = readNames(given);
  return onlyOne(fleets, `There are ${fleets.length} fleets`, `There is no fleet in ${directory}.`);
}

async function list(given: string | undefined, flags: Flags): Promise<void> {
  const { json, directory, follow: isFollowed, nats } = flags;
  if (nats !== undefined) return await listOverNats(nats, given, flags);
  const name = given ?? onlyFleet(directory);
  await using fleet = await Fleet.observe({ name, directory });
  const contest = await Contest.open({ fleet });
  if (isFollowed) return await follow(fleet, contest, json === true);
  printLeases(name, contest.list(), contest.now(), json ? { total: fleet.geometry.maxLeases } : null);
}

async function listOverNats(
  servers: string,
  given: string | undefined,
  { json, follow: isFollowed }: Flags,
): Promise<void> {
  await using fleet = await overNats(servers, given);
  await using contest = await Contest.open({ fleet });
  if (!isFollowed) return printLeases(fleet.name, await contest.list(), await contest.now(), json ? {} : null);
  const stopped = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => void stopped.abort());
  const watch = await contest.watchAll();
  stopped.signal.addEventListener("abort", () => void watch.close());
  for await (const change of watch) print(json ? JSON.stringify(plain(change)) : describe(change, await contest.now()));
}

/** `json`: further fields of the JSON; `null`: prints a table. */
function printLeases(name: string, holders: readonly Holder[], now: number, json: object | null): void {
  const leases = holders.map(({ subject, owner, pid, token, claimedAt, expiresAt }) => ({
    ...subject,
    owner,
    pid,
    token,
    held_ms: Math.max(0, Math.round(now - claimedAt)),
    left_ms: Math.max(0, Math.round(expiresAt - now)),
  }));
  if (json) return print(JSON.stringify({ fleet: name, leases, ...json }, null, 2));
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

/**
 * Prints changes until ^C, or until the fleet has no living member. Checks both: a killed last member leaves its file
 * behind.
 */
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

async function endLease(kind: string, label: string, { fleet, json, directory, force, nats }: Flags): Promise<void> {
  const subject = { kind, label };
  if (nats !== undefined) {
    await using far = await overNats(nats, fleet);
    await using contest = await Contest.open({ fleet: far });
    const holder = checkHolder(await contest.holder(subject), subject, far.name, force === true);
    return printReleased(far.name, holder, await contest.release(holder, { force: true }), json === true);
  }
  const name = fleet ?? onlyFleet(directory);
  await using observed = await Fleet.observe({ name, directory });
  const found = (await Contest.open({ fleet: observed })).holder(subject);
  const holder = checkHolder(found, subject, name, force === true);
  await using member = await Fleet.join({ name, directory });
  printReleased(name, holder, (await Contest.open({ fleet: member })).release(holder, { force: true }), json === true);
}

/** Returns the holder, if there is one and its lease may be released. */
function checkHolder(holder: Holder | null, { kind, label }: Subject, fleet: string, isForced: boolean): Holder {
  if (!holder) throw new CommandError(`Nobody holds ${kind} ${label} in fleet "${fleet}".`, EXIT.notFound);
  if (isForced) return holder;
  const whose = `${holder.owner} (pid ${holder.pid}) is alive and holds ${kind} ${label}`;
  throw new UsageError(`${whose}. Pass --force to release the lease anyway.`);
}

function printReleased(fleet: string, holder: Holder, released: boolean, json: boolean): void {
  const { subject, owner } = holder;
  if (json) return print(JSON.stringify({ fleet, ...subject, owner, released }));
  print(released ? `Released; ${holder.owner} (pid ${holder.pid}) held it.` : "The lease had already ended.");
}
