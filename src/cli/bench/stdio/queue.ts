/** A host whose worker does not read: `bun queue.ts ROLE` says how much its memory grew by messages for it. */

import type { Introduction } from "../systems.ts";
import { CREDIT_BYTES, type Queued, QUEUED_BYTES, QUEUED_MESSAGES, type Role } from "./alone.ts";
import { Writer } from "./pipes.ts";

/** The allocator gives memory back after a while. */
const SETTLE_MS = 1_500;
/** The calls are made all the same, and hardly a message is kept. */
const LEAST_CREDIT = 1_024;

const text = "x".repeat(QUEUED_BYTES - JSON.stringify({ jsonrpc: "2.0", method: "take", params: [10_000, ""] }).length);
/** Reads nothing, and ends when its host has. */
const deaf = ["tail", "-f", `--pid=${process.pid}`, "/dev/null"];
const reader = [process.execPath, Bun.resolveSync("./worker", import.meta.dir)];

async function settledMemory(): Promise<number> {
  for (const ms of [100, SETTLE_MS]) {
    Bun.gc(true);
    await Bun.sleep(ms);
  }
  return process.memoryUsage.rss();
}

/** As many messages to one that reads come first: what the code itself takes is there already. */
async function ofBus(credit: number): Promise<Queued> {
  const { StdioBus } = await import("../../../stdio/index.ts");
  const pool = (id: string, [command, ...args]: string[]) => ({ id, command: command!, args });
  const bus = await StdioBus.start({
    pools: [{ ...pool("deaf", deaf), queuedBytes: credit }, pool("reader", [...reader, "slotbus"])],
  });
  for (let i = 0; i < QUEUED_MESSAGES; i++) await bus.notify("take", [i, text], { pool: "reader" });
  await bus.request("echo", [0, ""], { pool: "reader" });
  const before = await settledMemory();
  let refused = 0;
  const send = (): void => {
    for (let i = 0; i < QUEUED_MESSAGES; i++) {
      bus.notify("take", [i, text], { pool: "deaf", timeout: Infinity }).catch(() => refused++);
    }
  };
  send();
  const grown = (await settledMemory()) - before;
  const { waiting, workers } = bus.stats();
  const queued = workers.reduce((sum, { queuedBytes }) => sum + queuedBytes, 0);
  const first = { grown_bytes: grown, queued_bytes: queued, waiting, refused };
  send();
  return { ...first, again_bytes: (await settledMemory()) - before - grown };
}

async function ofPipes(): Promise<Queued> {
  const start = (command: string[]): Writer =>
    new Writer(Bun.spawn(command, { stdio: ["pipe", "ignore", "inherit"] }).stdin);
  const send = async (writer: Writer): Promise<void> => {
    for (let i = 0; i < QUEUED_MESSAGES; i++) {
      writer.add({ jsonrpc: "2.0", method: "take", params: [i, text] });
      writer.flush();
      if (i % 100 === 0) await Bun.sleep(1);
    }
  };
  await send(start([...reader, "pipes"]));
  const before = await settledMemory();
  const writer = start(deaf);
  await send(writer);
  const grown = (await settledMemory()) - before;
  await send(writer);
  const again = (await settledMemory()) - before - grown;
  return { grown_bytes: grown, again_bytes: again, queued_bytes: 0, waiting: 0, refused: 0 };
}

process.on("disconnect", () => process.exit());
process.send!({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);

switch (process.argv[2] as Role) {
  case "slotbus":
    process.send!(await ofBus(CREDIT_BYTES));
    break;
  case "calls":
    process.send!(await ofBus(LEAST_CREDIT));
    break;
  case "pipes":
    process.send!(await ofPipes());
    break;
}
