/**
 * Named fault points of the fleet: `bun test/prove/fleet-points.ts [ci | quick | long] [--seed N] [--label TEXT] [--act ACT]
 * [--fault kill|stop|abort|error|hang] [--nth N]`.
 *
 * The labels of csrc/{fleet_file,fleet,lock,ring,lease}.c are met as `points.ts` meets those of the bus: a real member is killed, stopped for
 * 300 ms, aborted, its system call fails; and where it holds a lock it is stopped for longer than others wait. Then, while
 * nobody publishes, every sleeper must have what is published; the others must be able to publish, to claim what it held, to
 * join and to leave; and books that the fleet knows nothing of say where each event went. `ci` draws a fault for each label in
 * each act, `quick` meets every label in every act with every fault, `long` at several passages.
 */

import type { Size } from "./figures.ts";
import { COSTLY } from "./fleet/points/acts.ts";
import { faultsOf, FLEET_FAULTS, type FleetPoint, fleetPoints } from "./fleet/points/labels.ts";
import { tally, World } from "./fleet/points/world.ts";
import { type Fault, labelsOf } from "./points/labels.ts";
import { runPoints } from "./points/run.ts";
import type { Random } from "./soak/books.ts";

/** One fault in each act; and the error, where there can be one. */
function drawn(point: FleetPoint, random: Random): readonly Fault[] {
  const other = random.pick(faultsOf(point).filter((fault) => fault !== "error"));
  return point.fails ? ["error", other] : [other];
}

/** Who joins again locks three bytes; the first, to leave, in vain when it must: leaving never fails. */
function passages({ label, act }: FleetPoint, size: Size): readonly number[] {
  if (label === "fleet.byte.lock") return size === "long" ? [2, 3, 5, 6] : [2, 3];
  if (size === "long") return COSTLY.has(act) ? [1, 2] : [1, 2, 3, 5, 8];
  return COSTLY.has(act) ? [1] : [1, 2, 3];
}

const isKept = await runPoints<FleetPoint>({
  program: "fleet-points.ts",
  labels: labelsOf("fleet"),
  points: fleetPoints(),
  faults: FLEET_FAULTS,
  worlds: 4,
  detail: { option: "act", of: ({ act }) => act },
  rowOf: ({ label, act }) => `${label} (${act})`,
  faultsOf: (point, draws, random) => (draws ? drawn(point, random) : faultsOf(point)),
  passages,
  world: (directory, _, library) => new World(directory, library),
  summary: () =>
    `${tally.events} events, ${tally.tenures} tenures, ${tally.errors} errors made, ${tally.busy} busy locks`,
  figures: () => {
    const { events, tenures, kills, stalls, lost, doubled, misdelivered, leaked } = tally;
    return { requests: events + tenures, kills, stalls, lost, doubled, misdelivered, leaked };
  },
});
process.exit(isKept ? 0 : 1);
