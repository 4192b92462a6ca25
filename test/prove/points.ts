/**
 * Named fault points: `bun test/prove/points.ts [ci | quick | long] [--seed N] [--label TEXT] [--role client|worker|blocker]
 * [--fault kill|stop|abort|error] [--nth N]`.
 *
 * The C sources name places (SB_POINT, SB_FAULT) on both sides: around each swap, hint, store of `parked`, wake-up, message
 * and system call. Here each is met in a real process of Bun, with a library built for it: the process is killed, stopped
 * for 300 ms, aborted, or the system call fails, at a chosen passage. Then everybody must be able to go on, and books that
 * the bus knows nothing of say what became of each request. `ci` draws two faults per label, `quick` meets every label with
 * every fault, `long` at several passages. Those of the fleet: `fleet-points.ts`.
 */

import type { Size } from "./figures.ts";
import { FAULTS, type Fault, labelsOf, type Point, points } from "./points/labels.ts";
import { runPoints } from "./points/run.ts";
import { tally, World } from "./points/world.ts";
import type { Random } from "./soak/books.ts";

/** Passages at which `long` lets a fault happen. */
const LONG_PASSAGES = [1, 2, 3, 5, 8];

function faultsOf({ fails }: Point): readonly Fault[] {
  return FAULTS.filter((fault) => fault !== "error" || fails);
}

/** `ci` draws two faults for each label: the error, where there can be one, and others. */
function drawn({ fails }: Point, random: Random): readonly Fault[] {
  const spared = random.pick(["kill", "stop", "abort"] as const);
  const others = FAULTS.filter((fault) => fault !== "error" && fault !== spared);
  return fails ? ["error", random.pick(others)] : others;
}

function passages({ act }: Point, size: Size): readonly number[] {
  if (size === "long") return LONG_PASSAGES;
  return act === "reopen" ? [1] : [1, 2, 3];
}

const isKept = await runPoints<Point>({
  program: "points.ts",
  labels: labelsOf("bus"),
  points: points(),
  faults: FAULTS,
  worlds: 3,
  detail: { option: "role", of: ({ role }) => role },
  rowOf: ({ label, role }) => (label.startsWith("both.") ? `${label} (${role})` : label),
  faultsOf: (point, draws, random) => (draws ? drawn(point, random) : faultsOf(point)),
  passages,
  world: (directory, seed, library) => new World(directory, seed, library),
  summary: () =>
    `${tally.errors} errors made, ${tally.refused} starts refused, ${tally.vanished} requests gone with their client`,
  figures: () => {
    const { requests, kills, stalls, lost, doubled, misdelivered, leaked } = tally;
    return { requests, kills, stalls, lost, doubled, misdelivered, leaked };
  },
});
process.exit(isKept ? 0 : 1);
