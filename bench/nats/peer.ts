/** The process that answers over NATS: `bun peer.ts ROLE ADDRESS`. With slotbus, or with the bare client library. */

import type { Introduction } from "../systems.ts";
import { CHUNK_BYTES, NAME, SUBJECT, WINDOW } from "./names.ts";

const [role, servers = ""] = process.argv.slice(2);
process.on("disconnect", () => process.exit());

if (role === "slotbus") {
  const { SlotWorker } = await import("../../src/slot-worker.ts");
  const { nats } = await import("../../src/nats/index.ts");
  const worker = await SlotWorker.open({ name: NAME, via: nats({ servers }) });
  const chunk = new Uint8Array(CHUNK_BYTES);
  worker.serve((request) => {
    if (request.path === "/") return request.body;
    return (function* () {
      for (let left = Number(request.query); left > 0; left--) yield chunk;
    })();
  });
} else {
  const { connect } = await import("@nats-io/transport-node");
  const connection = await connect({ servers });
  connection.subscribe(SUBJECT.echo, { callback: (_, message) => void message.respond(message.data) });
  // The program acknowledges the window itself: the reply of each chunk is where its reader says that it has it.
  const chunk = new Uint8Array(CHUNK_BYTES);
  connection.subscribe(SUBJECT.stream, {
    callback: (_, message) => {
      let left = Number(message.string());
      let open = 0;
      const acknowledged = `${message.reply}.ack`;
      const send = (): void => {
        for (; left > 0 && open < WINDOW; left--, open++)
          connection.publish(message.reply!, chunk, { reply: acknowledged });
      };
      const subscription = connection.subscribe(acknowledged, {
        callback: () => {
          open--;
          send();
          if (left === 0 && open === 0) subscription.unsubscribe();
        },
      });
      send();
    },
  });
  await connection.flush();
}
process.send!({ pid: process.pid, isMainThread: Bun.isMainThread, address: "" } satisfies Introduction);
