/** The other process of a contestant: `bun peer.ts ROLE ADDRESS` sends ordered streams until its parent ends. */

import type { Introduction } from "../systems.ts";
import { generate, makeChunk, type Order } from "./source.ts";

const [role, address = ""] = process.argv.slice(2);
/** Number of small chunks written between two waits for the sink. */
const FLUSH_EVERY = 1_024;

function introduce(): void {
  process.send!({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
}

/** Writes chunks to a sink of Bun and waits for the sink at intervals. */
async function writeAll(order: Order, sink: { write(chunk: Uint8Array): unknown; flush(): unknown }): Promise<void> {
  const chunk = makeChunk(order.chunk);
  let count = 0;
  for (let left = order.bytes; left > 0; left -= order.chunk) {
    void sink.write(chunk);
    if (++count % FLUSH_EVERY === 0) await sink.flush();
  }
  await sink.flush();
}

/** A `ReadableStream` that writes straight to the socket. */
function direct(order: Order): ReadableStream {
  return new ReadableStream({
    type: "direct",
    async pull(controller) {
      await writeAll(order, controller as ReadableStreamDirectController);
      controller.close();
    },
  });
}

process.on("disconnect", () => process.exit());

switch (role) {
  case "slotbus": {
    const { SlotWorker } = await import("../../src/index.ts");
    const { demo, handler, implementation } = await import("./own.ts");
    const worker = await SlotWorker.open({ name: address });
    worker.implement(demo, implementation);
    worker.serve(handler());
    introduce();
    break;
  }
  case "fetch-unix":
    Bun.serve({
      unix: address,
      fetch: async (request) => {
        const order = (await request.json()) as Order;
        return new Response(order.how === "generator" ? generate(order) : direct(order));
      },
    });
    introduce();
    break;
  case "pipe": {
    const sink = Bun.stdout.writer({ highWaterMark: 1 << 20 });
    process.on("message", async (message) => {
      const order = message as Order;
      if (order.how === "loop") return writeAll(order, sink);
      for await (const chunk of generate(order)) {
        const written: number | Promise<number> = sink.write(chunk);
        if (written instanceof Promise) await written;
      }
      await sink.flush();
    });
    introduce();
    break;
  }
  default:
    throw new Error(`unknown role "${role}"`);
}
