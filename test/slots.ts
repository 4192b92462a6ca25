/**
 * Slots in use, for `leaks.ts`. Two checks: when a connection ends, for any reason, each slot is free, has a request or a lent
 * response, or its caller has given up (ABANDONED). And before a `Workspace` closes, each open bus counts as many slots in use as
 * there are, and none is ABANDONED when no handler of this process runs. Lent memory keeps its region mapped, which `leaks.ts` sees.
 */

import type { SlotDiagnostics } from "../src/bus/events.ts";
import type { SlotBus, SlotWorker } from "../src/index.ts";
import { MemoryConnection } from "../src/wires/memory/connection.ts";
import { slotsLeft } from "./left.ts";

/** Rounds of 10 ms that a bus gets to notice what its workers have freed. */
const ROUNDS = 100;

function isLost({ state }: { state: string }, hasRequest: boolean): boolean {
  return state !== "FREE" && state !== "ABANDONED" && !hasRequest;
}

const end = MemoryConnection.prototype.end;
MemoryConnection.prototype.end = function (this: MemoryConnection, how?: string): void {
  if (this.isOpen && !this.isEvicted) {
    for (const [slot, report] of this.slots().entries())
      if (isLost(report, report.exchange !== null)) slotsLeft.add(`slot ${slot} is ${report.state} without a request`);
  }
  end.call(this, how);
};

/** Returns the slots of open buses that are in use without a reason, or an empty list. */
function lost(buses: SlotBus[], workers: SlotWorker[]): string[] {
  const inUse = (bus: SlotBus): SlotDiagnostics[] => bus.diagnostics().slots.filter(({ state }) => state !== "FREE");
  const all = buses.flatMap(inUse);
  const wrong = all
    .filter((one) => isLost(one, one.requestId !== null))
    .map(({ slot, state }) => `slot ${slot} is ${state} without a request`);
  for (const bus of buses) {
    const [counted, used] = [bus.stats().inFlight, inUse(bus).length];
    if (counted !== used) wrong.push(`slots in use: bus "${bus.name}" counts ${counted}, and there are ${used}`);
  }
  const given = all.filter(({ state, workerPid }) => state === "ABANDONED" && workerPid === process.pid).length;
  const running = workers.reduce((sum, worker) => sum + worker.running, 0);
  if (given > running) wrong.push(`slots in use: ${given} are ABANDONED, and ${running} handlers run`);
  return wrong;
}

/**
 * Reports slots of buses that stay in use without a reason, in each round. In one round a slot may be wrong for a moment: a worker
 * in another process frees it between two reads. `workers`: all workers of these buses in this process.
 */
export async function judgeSlots(buses: SlotBus[], workers: SlotWorker[]): Promise<void> {
  const open = buses.filter(({ closed }) => !closed);
  let wrong = lost(open, workers);
  for (let round = 0; round < ROUNDS && wrong.length > 0; round++) {
    await Bun.sleep(10);
    wrong = lost(open, workers);
  }
  for (const what of wrong) slotsLeft.add(what);
}
