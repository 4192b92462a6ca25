/** Cost of a publish for the publisher, with few and with many subscribers that read and do not sleep. */

import { join } from "node:path";
import { Fleet } from "../../src/fleet/fleet.ts";
import { alternate, median, round } from "../measure.ts";
import type { Workspace } from "../systems.ts";
import { FRAME_BYTES, FRAMES, type Order, RING } from "./names.ts";
import { bytesOf, EVENT_BYTES, Tallies } from "./tally.ts";

/** Cost of one publish in the JSON. */
export interface PublishRow {
  system: "slotbus";
  case: "publish";
  payload_bytes: number;
  subscribers: number;
  /** CPU time of the whole process, and wall time. Medians over the rounds. */
  cpu_ns: number;
  wall_ns: number;
}

export const ATTACHED = [1, 8] as const;
/** Number of publishes in a round. */
const CALLS = 200_000;
const SHORT_CALLS = 20_000;

interface Cost {
  cpu: number;
  wall: number;
}

function publishAll(fleet: Fleet, calls: number): Cost {
  const ring = fleet.ring(RING);
  const before = process.cpuUsage();
  const start = Bun.nanoseconds();
  for (let n = 0; n < calls; n++) ring.publish(bytesOf(n));
  const wall = (Bun.nanoseconds() - start) / calls;
  const { user, system } = process.cpuUsage(before);
  return { cpu: ((user + system) * 1000) / calls, wall };
}

/** Measures one fleet per number of subscribers, in alternating rounds. Then stops the subscribers. */
export async function publishCosts(workspace: Workspace, rounds: number, isShort: boolean): Promise<PublishRow[]> {
  const program = Bun.resolveSync("./peer", import.meta.dir);
  const tallies = new Tallies(join(workspace.path, "tallies-readers")).path;
  const rings = { [RING]: { frames: FRAMES, frameBytes: FRAME_BYTES } };
  const fleets: Fleet[] = [];
  const readers: { stop(): Promise<void> }[] = [];
  try {
    for (const count of ATTACHED) {
      const name = `bench-attached-${count}`;
      fleets.push(await Fleet.join({ name, directory: workspace.path, rings }));
      const order = JSON.stringify({ address: name, tallies, subscriber: 0 } satisfies Order);
      const start = () => workspace.start("reader", order, { program });
      readers.push(...(await Promise.all(Array.from({ length: count }, start))));
    }
    const results = await alternate(fleets, rounds, (fleet) => publishAll(fleet, isShort ? SHORT_CALLS : CALLS));
    return fleets.map((fleet, i) => {
      const costs = results.get(fleet)!;
      return {
        system: "slotbus",
        case: "publish",
        payload_bytes: EVENT_BYTES,
        subscribers: ATTACHED[i]!,
        cpu_ns: round(median(costs.map(({ cpu }) => cpu))),
        wall_ns: round(median(costs.map(({ wall }) => wall))),
      };
    });
  } finally {
    await Promise.all(readers.map((reader) => reader.stop()));
    await Promise.all(fleets.map((fleet) => fleet.close()));
  }
}
