/**
 * One client process of the suite `busy`, with the other process or thread of its system: `bun cell.ts cell "SYSTEM [SLOTS]"`.
 * `SLOTS` is the number of slots of slotbus. Runs the orders of its parent. Its place (processor, control group) is inherited by
 * all that it starts.
 */

import { readdirSync, readFileSync } from "node:fs";
import { closedLoop, makeBodies, offeredLoop, type Round, sparseLoop } from "../measure.ts";
import { type Contestant, type Introduction, start, startSlotbus, type SystemName, Workspace } from "../systems.ts";

/** What to measure. A round ends after `ms`. */
export type Order = { ms: number } & (
  | { case: "closed"; inFlight: number; leadInMs: number }
  | { case: "sparse" }
  /** `perSecond`: offered requests per second. */
  | { case: "offered"; perSecond: number }
);

export interface Outcome {
  latencies: Float64Array;
  seconds: number;
  /** Time on a processor, and time of waiting for one, of both sides, in ms. `null` outside Linux. */
  cpu: { onMs: number; waitMs: number } | null;
}

export type Answer = { outcome: Outcome } | { error: string };

/** Bytes of a body. */
const BYTES = 64;
const MINIMUM_SAMPLES = 10;

/** Sums `schedstat` of all threads: ns on a processor, and ns of waiting for one. */
function schedule(pids: ReadonlySet<number>): [on: number, wait: number] {
  let [on, wait] = [0, 0];
  for (const pid of pids) {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      try {
        const [ran, waited] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "latin1").split(" ").map(Number);
        on += ran!;
        wait += waited!;
      } catch {} // the thread has ended
    }
  }
  return [on, wait];
}

function measure({ call }: Contestant, order: Order): Promise<Round> {
  const [body] = makeBodies(BYTES, 1);
  switch (order.case) {
    case "closed": {
      const limits = { leadInMs: order.leadInMs, samples: Infinity, minimum: MINIMUM_SAMPLES, ms: order.ms };
      return closedLoop(call, makeBodies(BYTES, order.inFlight), limits);
    }
    case "sparse":
      return sparseLoop(call, body!, order.ms);
    case "offered":
      return offeredLoop(call, BYTES, order.perSecond, order.ms);
  }
}

async function run(contestant: Contestant, order: Order): Promise<Outcome> {
  const pids = new Set([process.pid, contestant.answerer.pid]);
  const isCounted = process.platform === "linux";
  const [on, wait] = isCounted ? schedule(pids) : [0, 0];
  const { latencies, seconds } = await measure(contestant, order);
  const [onAfter, waitAfter] = isCounted ? schedule(pids) : [0, 0];
  const cpu = isCounted ? { onMs: (onAfter - on) / 1e6, waitMs: (waitAfter - wait) / 1e6 } : null;
  return { latencies, seconds, cpu };
}

if (import.meta.main) {
  const [, address = ""] = process.argv.slice(2);
  const [system, slots] = address.split(" ");
  const workspace = new Workspace();
  process.on("disconnect", () => process.exit()).on("SIGTERM", () => process.exit()); // disposes the workspace
  const contestant = slots
    ? await startSlotbus(workspace, Number(slots))
    : await start(system as SystemName, workspace);
  process.on("message", (order: Order) => {
    const running = Promise.race([run(contestant, order), workspace.failed]);
    running.then(
      (outcome) => process.send!({ outcome } satisfies Answer),
      (error: Error) => process.send!({ error: error.message } satisfies Answer),
    );
  });
  process.send!({ pid: process.pid, isMainThread: true, address: "" } satisfies Introduction);
}
