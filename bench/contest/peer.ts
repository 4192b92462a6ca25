/** A contending process: `bun peer.ts SYSTEM ORDER` runs until its parent ends. */

import type { Introduction } from "../systems.ts";
import { Arena } from "./arena.ts";
import { openLocks, type SystemName } from "./locks.ts";

/** Argument of the process, as JSON. */
export interface Order {
  address: string;
  label: string;
  /** File of the arena to contend in; `null` to claim once and hold the claim. */
  arena: string | null;
  contender: number;
}

/** Messages of a process that holds its claim. */
export type Report = "waits" | "owns";

const [system, text = ""] = process.argv.slice(2);
const { address, label, arena: path, contender } = JSON.parse(text) as Order;

process.on("disconnect", () => process.exit());

const locks = await openLocks(system as SystemName, address);
const arena = path === null ? null : Arena.open(path);
arena?.rest(contender, true);
process.send!({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);

if (arena) {
  const visit = (): void => arena.visit(contender);
  for (;;) {
    while (!arena.isRunning) await Bun.sleep(2);
    arena.rest(contender, false);
    while (arena.isRunning) await locks.visit(label, visit);
    arena.rest(contender, true);
  }
}
const kept = locks.keep(label);
process.send!("waits" satisfies Report);
await kept;
process.send!("owns" satisfies Report);
setInterval(() => {}, 1_000_000);
