/** Formats a frame of `slotbus top` as lines. */

import { columns, count, duration, type Line, microseconds, rate } from "../terminal.ts";
import { sparkline, type View } from "./view.ts";
import type { BusFrame, ClientFrame, FleetFrame, Frame } from "./watch.ts";

const LEASES_SHOWN = 10;
const WORKERS_SHOWN = 16;

/** `view`: of a live screen, which also shows the course of each bus. */
export function lines({ buses, fleets, directory }: Frame, width = 80, view: View | null = null): Line[] {
  const time = new Date().toTimeString().slice(0, 8);
  const head = `slotbus top  ${directory}  ${count(buses.length, "bus", "buses")}, ${count(fleets.length, "fleet")}`;
  const shown = [...buses.flatMap((bus) => busLines(bus, width, view)), ...fleets.flatMap(fleetLines)];
  if (shown.length === 0) shown.push("", "There is no bus, hub or fleet.");
  return [["inverse", `${head.padEnd(width - time.length - 1)} ${time}`], ...shown];
}

/** Formats an indented table. */
function rows(...cells: Parameters<typeof columns>[0]): Line[] {
  return columns(cells.map(([first, ...others]) => [`  ${first}`, ...others])).split("\n");
}

function more(left: number, what: string): Line[] {
  return left > 0 ? [["dim", `  and ${left} ${what} more`]] : [];
}

function busLines(bus: BusFrame, width: number, view: View | null): Line[] {
  const workers = bus.age_ms === null ? "" : `, ${count(bus.workers.length, "worker")}`;
  const clients = bus.clients && `${count(bus.clients.length, "client")}${workers}`;
  const owner = clients ?? (bus.owner ? `pid ${bus.owner.pid} ${bus.owner.command}` : "");
  const age = bus.age_ms === null ? "" : `, ${duration(bus.age_ms)}`;
  const out: Line[] = ["", ["bold", `${bus.kind} ${bus.name}  ${owner}${age}`]];
  if (bus.problem !== null) out.push(["red", `  ${bus.problem}`]);
  if (bus.problem !== null && bus.age_ms === null) return out;
  const details = bus.kind === "hub" ? hubDetails(bus) : busDetails(bus, width);
  return [...out, ...courseLines(bus, width, view), ...details];
}

/** The course of rate and latency, as wide as the screen allows. */
function courseLines(bus: BusFrame, width: number, view: View | null): Line[] {
  const { rates = [], p99s = [] } = view?.courseOf(bus) ?? {};
  const line = (what: string, values: number[], format: (value: number) => string): Line[] => {
    const shown = values.slice(-Math.max(1, width - 24));
    const most = Math.max(...shown);
    return most > 0 ? [["cyan", `  ${what}  ${sparkline(shown)}  max ${format(most)}`]] : [];
  };
  return [...line("req/s", rates, rate), ...line("p99  ", p99s, microseconds)];
}

/** Colours the line of figures: red with errors, yellow while requests wait for a worker, dim without requests. */
function tinted(bus: BusFrame, [heads = "", figures = "", ...others]: Line[]): Line[] {
  const isIdle = bus.requests_per_second === 0 && bus.waiting === 0;
  const style = bus.errors_per_second > 0 ? "red" : bus.queued > 0 ? "yellow" : isIdle ? "dim" : null;
  return [heads, style ? [style, figures as string] : figures, ...others];
}

/** Details of a hub. Percentiles, slots and workers are shown with the buses of its workers. */
function hubDetails(hub: BusFrame): Line[] {
  const rates = [rate(hub.requests_per_second), rate(hub.errors_per_second)];
  const figures = [...rates, hub.queued, hub.waiting, hub.timeouts];
  return tinted(hub, rows(["REQ/S", "ERR/S", "QUEUE", "WAITING", "TIMEOUTS"], figures));
}

/** A column with the sums, then one for each client of a shared bus: as many as fit. */
function clientColumns(bus: BusFrame, clients: readonly ClientFrame[], width: number): Line[] {
  const figures = (one: BusFrame | ClientFrame): (string | number)[] => [
    rate(one.requests_per_second),
    microseconds(one.p50_us),
    microseconds(one.p99_us),
    rate(one.errors_per_second),
    one.queued,
    one.waiting,
  ];
  const sums = [
    ["", "PID", "REQ/S", "P50", "P99", "ERR/S", "QUEUE", "WAITING"],
    ["ALL", "", ...figures(bus)],
  ];
  const each = clients.map((one) => [`@${one.client}`, one.owner?.pid, ...(one.age_ms === null ? [] : figures(one))]);
  let shown = each.length;
  let out: Line[];
  do {
    const all = [...sums, ...each.slice(0, shown)];
    out = rows(...sums[0]!.map((_, line) => all.map((cells) => cells[line])));
  } while (out.some((line) => Bun.stringWidth(line as string) > width) && --shown > 0);
  const silent = clients.filter(({ problem }) => problem !== null);
  const problems = silent.map(({ client, problem }): Line => ["red", `  client @${client}: ${problem}`]);
  return [...out, ...more(each.length - shown, "clients"), ...problems];
}

/** The figures of an owned bus, in one line. */
function figureLine(bus: BusFrame): Line[] {
  const latency = [microseconds(bus.p50_us), microseconds(bus.p99_us)];
  return rows(
    ["REQ/S", "P50", "P99", "ERR/S", "QUEUE", "WAITING"],
    [rate(bus.requests_per_second), ...latency, rate(bus.errors_per_second), bus.queued, bus.waiting],
  );
}

function busDetails(bus: BusFrame, width: number): Line[] {
  const out = bus.clients ? clientColumns(bus, bus.clients, width) : tinted(bus, figureLine(bus));
  const { workers_joined: joined, workers_died: died, workers_evicted: evicted, workers_restarted: restarted } = bus;
  out.push(
    `  total  JOINED ${joined}  DIED ${died}  EVICTED ${evicted}  RESTARTED ${restarted}  TIMEOUTS ${bus.timeouts}  MOVES ${bus.moves}`,
  );
  if (bus.contentions > 0)
    out.push(["yellow", `  stopped spinning ${bus.contentions} times: other programs needed the processors`]);
  if (bus.workers_paused) out.push(["red", "  its workers end too often and are paused"]);
  if (bus.workers.length === 0) return [...out, ["yellow", "  no worker is attached"]];
  const states = Object.entries(bus.slots).filter(([state, used]) => used > 0 || state === "FREE");
  out.push(`  slots  ${states.map((state) => state.join(" ")).join("  ")}`);
  const workers = bus.workers.slice(0, WORKERS_SHOWN);
  const each = workers.map(({ id, pid, in_flight: inFlight, concurrency, spinning, age_ms: age }) => {
    return [...(id === null ? [] : [id]), pid, inFlight, concurrency, spinning ?? "", duration(age)];
  });
  const heads = [bus.clients ? "PID" : ["WORKER", "PID"], "IN FLIGHT", "OF", "SPINS", "UP"].flat();
  const [first = "", ...table] = rows(heads, ...each);
  // A full worker gets no more requests.
  const painted = table.map((line, n): Line => {
    const { in_flight: inFlight, concurrency } = workers[n]!;
    return inFlight >= concurrency ? ["yellow", line as string] : line;
  });
  return [...out, first, ...painted, ...more(bus.workers.length - WORKERS_SHOWN, "workers")];
}

function fleetLines({ name, members, problem, rings, leases, leases_total: total }: FleetFrame): Line[] {
  const pids = members.map(({ pid }) => pid).join(" ");
  const out: Line[] = ["", ["bold", `fleet ${name}  ${count(members.length, "member")}: ${pids}`]];
  if (problem !== null) out.push(["red", `  ${problem}`]);
  if (rings.length > 0) {
    const each = rings.map((ring) => [
      ring.name,
      ring.frames,
      rate(ring.frames_per_second),
      ring.published.toLocaleString("en"),
      duration(ring.holds_ms),
      ring.readers,
      ring.lag?.toLocaleString("en"),
      ring.slowest_pid,
    ]);
    out.push(...rows(["RING", "FRAMES", "FRAMES/S", "PUBLISHED", "HOLDS", "READERS", "LAG", "SLOWEST"], ...each));
  }
  if (leases.length === 0) return out;
  const held = leases.slice(0, LEASES_SHOWN).map(({ kind, label, owner, pid, left_ms: left }) => {
    return [`${kind} ${label}`.slice(0, 30), owner.slice(0, 20), pid, duration(left)];
  });
  const table = rows([`LEASE (${leases.length}/${total})`, "HOLDER", "PID", "LEFT"], ...held);
  return [...out, ...table, ...more(leases.length - LEASES_SHOWN, "leases")];
}
