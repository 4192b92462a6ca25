/** What `slotbus top` draws: a frame as lines. */

import { columns, count, duration, type Line, microseconds, rate } from "../terminal.ts";
import type { BusFrame, FleetFrame, Frame } from "./watch.ts";

const LEASES_SHOWN = 10;
const WORKERS_SHOWN = 16;

export function lines({ buses, fleets, directory }: Frame, width = 80): Line[] {
  const time = new Date().toTimeString().slice(0, 8);
  const head = `slotbus top  ${directory}  ${count(buses.length, "bus", "buses")}, ${count(fleets.length, "fleet")}`;
  const out: Line[] = [{ text: `${head.padEnd(width - time.length - 1)} ${time}`, style: "inverse" }];
  for (const bus of buses) out.push({ text: "" }, ...busLines(bus));
  for (const fleet of fleets) out.push({ text: "" }, ...fleetLines(fleet));
  if (buses.length + fleets.length === 0) out.push({ text: "" }, { text: "No bus and no fleet is there." });
  return out;
}

/** A table, below the line that says what it is of. */
function rows(...cells: Parameters<typeof columns>[0]): Line[] {
  const text = columns(cells.map(([first, ...others]) => [`  ${first}`, ...others]));
  return text.split("\n").map((line) => ({ text: line }));
}

function more(left: number, what: string): Line[] {
  return left > 0 ? [{ text: `  and ${left} ${what} more`, style: "dim" }] : [];
}

function busLines(bus: BusFrame): Line[] {
  const owner = bus.owner ? `pid ${bus.owner.pid} ${bus.owner.command}` : "";
  const age = bus.age_ms === null ? "" : `, ${duration(bus.age_ms)}`;
  const out: Line[] = [{ text: `${bus.kind} ${bus.name}  ${owner}${age}`, style: "bold" }];
  if (bus.problem !== null) out.push({ text: `  ${bus.problem}`, style: "red" });
  if (bus.problem !== null && bus.age_ms === null) return out;
  return [...out, ...(bus.kind === "hub" ? hubDetails(bus) : busDetails(bus))];
}

/** Percentiles, slots and workers stand with the buses of its workers. */
function hubDetails(hub: BusFrame): Line[] {
  const rates = [rate(hub.requests_per_second), rate(hub.errors_per_second)];
  return rows(
    ["REQ/S", "ERR/S", "QUEUE", "WAITING", "TIMEOUTS", "ROUTES"],
    [...rates, hub.queued, hub.waiting, hub.timeouts, hub.routes],
  );
}

function busDetails(bus: BusFrame): Line[] {
  const latency = [microseconds(bus.p50_us), microseconds(bus.p99_us)];
  const out = rows(
    ["REQ/S", "P50", "P99", "ERR/S", "QUEUE", "WAITING"],
    [rate(bus.requests_per_second), ...latency, rate(bus.errors_per_second), bus.queued, bus.waiting],
  );
  const { workers_joined: joined, workers_died: died, workers_evicted: evicted, workers_restarted: restarted } = bus;
  const total = `JOINED ${joined}  DIED ${died}  EVICTED ${evicted}  RESTARTED ${restarted}  TIMEOUTS ${bus.timeouts}`;
  out.push({ text: `  total  ${total}` });
  if (bus.workers_paused) out.push({ text: "  its workers end too often and are paused", style: "red" });
  if (bus.workers.length === 0) return [...out, { text: "  no worker is attached", style: "yellow" }];
  const states = Object.entries(bus.slots).filter(([state, used]) => used > 0 || state === "FREE");
  out.push({ text: `  slots  ${states.map(([state, used]) => `${state} ${used}`).join("  ")}` });
  const shown = bus.workers.slice(0, WORKERS_SHOWN);
  const workers = rows(
    ["WORKER", "PID", "IN FLIGHT", "OF", "UP"],
    ...shown.map((one) => [one.id, one.pid, one.in_flight, one.concurrency, duration(one.age_ms)]),
  );
  return [...out, ...workers, ...more(bus.workers.length - WORKERS_SHOWN, "workers")];
}

function fleetLines({ name, members, problem, rings, leases, leases_total: total }: FleetFrame): Line[] {
  const pids = members.map(({ pid }) => pid).join(" ");
  const out: Line[] = [{ text: `fleet ${name}  ${count(members.length, "member")}: ${pids}`, style: "bold" }];
  if (problem !== null) out.push({ text: `  ${problem}`, style: "red" });
  if (rings.length > 0) {
    const each = rings.map((ring) => [
      ring.name,
      ring.frames,
      rate(ring.frames_per_second),
      ring.published.toLocaleString("en"),
      ring.holds_ms === null ? null : duration(ring.holds_ms),
      ring.readers,
      ring.lag === null ? null : ring.lag.toLocaleString("en"),
      ring.slowest_pid,
    ]);
    out.push(...rows(["RING", "FRAMES", "FRAMES/S", "PUBLISHED", "HOLDS", "READERS", "LAG", "SLOWEST"], ...each));
  }
  if (leases.length === 0) return out;
  const held = leases
    .slice(0, LEASES_SHOWN)
    .map(({ kind, label, owner, pid, left_ms: left }) => [
      `${kind} ${label}`.slice(0, 30),
      owner.slice(0, 20),
      pid,
      duration(left),
    ]);
  const head = [`LEASE (${leases.length}/${total})`, "HOLDER", "PID", "LEFT"];
  return [...out, ...rows(head, ...held), ...more(leases.length - LEASES_SHOWN, "leases")];
}
