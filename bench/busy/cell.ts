/**
 * One client process of the suite `busy`, with the other process or thread of its system: `bun cell.ts cell "SYSTEM [SLOTS]"`.
 * `SLOTS` is the number of slots of slotbus. Its place (processor, control group) is inherited by all that it starts.
 */

import { measure, obey } from "../cells.ts";
import { cpuBetween, cpuOf } from "../cpu.ts";
import { start, startSlotbus, type SystemName, Workspace } from "../systems.ts";

if (import.meta.main) {
  const [, address = ""] = process.argv.slice(2);
  const [system, slots] = address.split(" ");
  const workspace = new Workspace();
  const contestant = slots
    ? await startSlotbus(workspace, Number(slots))
    : await start(system as SystemName, workspace);
  const pids = [process.pid, contestant.answerer.pid];
  obey(workspace, async (order) => {
    const before = cpuOf(pids);
    const { latencies, seconds } = await measure(contestant.call, order);
    return { latencies, seconds, cpu: cpuBetween(before, cpuOf(pids)) };
  });
}
