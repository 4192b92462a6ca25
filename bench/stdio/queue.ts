/** A host whose worker does not read: `bun queue.ts ROLE` reports how much memory the messages to the worker take. */

import type { Introduction } from "../systems.ts";
import { CREDIT_BYTES, type Queued, QUEUED_BYTES, QUEUED_MESSAGES, type Role } from "./alone.ts";
import { Writer } from "./pipes.ts";

/** The allocator returns memory after a delay. */
const SETTLE_MS = 1_500;
/** Credit with which calls are made, but hardly any message is kept. */
const LEAST_CREDIT = 1_024;

const text = "x".repeat(QUEUED_BYTES - JSON.stringify({ jsonrpc: "2.0", method: "take", params: [10_000, ""] }).length);
/** Reads nothing and ends after its host. */
const deaf = ["tail", "-f", `--pid=${process.pid}`, "/dev/null"];
const reader = [process.execPath, Bun.resolveSync("./worker", import.meta.dir)];

async function settledMemory(): Promise<number> {
  for (const ms of [100, SETTLE_MS]) {
    Bun.gc(true);
    await Bun.sleep(ms);
  }
  return process.memoryUsage.rss();
}

/** First sends the same messages to a worker that reads, so that memory of the code itself does not count. */
async function ofBus(credit: number): Promise<Queued> {
  const { StdioBus } = await import("../../src/stdio/index.ts");
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
