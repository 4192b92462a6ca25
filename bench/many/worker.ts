/**
 * A worker process of the suite `many`, where `../peer.ts` does not do: `bun worker.ts ROLE ADDRESS` runs until its parent ends.
 * Role `nats`: a member of a queue group of the server at ADDRESS. Role `blocking`: a worker that blocks its event loop on
 * command; ADDRESS is the name of the bus and the worker's index.
 */

import { SlotWorker } from "../../src/index.ts";
import type { Introduction } from "../systems.ts";
import { now, stamped } from "./late.ts";

/** Message to a blocking worker: block in the next request, or report when the blocks since the last report started. */
export type Command = "block" | "report";

/** Subject and queue group of the workers. */
export const SUBJECT = "bench.echo";
const BLOCK_MS = 100;

async function serveNats(address: string): Promise<void> {
  const { connect } = await import("@nats-io/transport-node");
  const connection = await connect({ servers: address });
  connection.subscribe(SUBJECT, { queue: "workers", callback: (_, message) => void message.respond(message.data) });
  await connection.flush();
}

async function serveBlocking(name: string, index: number): Promise<void> {
  const worker = await SlotWorker.open({ name });
  const word = new Int32Array(new SharedArrayBuffer(4));
  let blocks: number[] = [];
  let isToBlock = false;
  worker.serve((request) => {
    const claimedAt = now();
    if (isToBlock) {
      isToBlock = false;
      blocks.push(claimedAt);
      Atomics.wait(word, 0, 0, BLOCK_MS);
    }
    return stamped(request.body, index, claimedAt);
  });
  process.on("message", (command: Command) => {
    if (command === "block") isToBlock = true;
    else {
      process.send!(blocks);
      blocks = [];
      isToBlock = false; // an order for which no request came
    }
  });
}

if (import.meta.main) {
  const [role, address = ""] = process.argv.slice(2);
  const [first = "", index] = address.split(" ");
  process.on("disconnect", () => process.exit());
  await (role === "nats" ? serveNats(first) : serveBlocking(first, Number(index)));
  process.send!({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
}
