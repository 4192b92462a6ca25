/** `hostile/victim.ts NAME BOOKS EVIL`: an honest worker of two buses; the client of EVIL breaks the rules. */

import { SlotbusError, SlotWorker } from "../../../src/index.ts";
import { AttackBooks } from "./attack-books.ts";
import type { Common } from "../actor.ts";
import { serveHonestly } from "./worker.ts";

/** `handled`: how a handler of the hostile client's stream ended. `left`: why it left the client. */
export type Report =
  | Common
  | { is: "handled"; bytes: number; foreign: number; error: string }
  | { is: "left"; code: string; message: string };

const [name, directory, evil] = process.argv.slice(2);
const say = (report: Report): void => void process.send!(report);

process.on("disconnect", () => process.exit(0));
process.on("uncaughtException", (error) => say({ is: "broken", what: `the victim did not expect ${error}` }));
const honest = await serveHonestly(name!, undefined, new AttackBooks(directory!), (what) =>
  say({ is: "broken", what }),
);
const worker = await SlotWorker.open({ name: evil!, timeout: 30_000, reconnect: { initial: 5, max: 20 } });
worker.on("disconnected", (reason) => say({ is: "left", code: reason.code, message: reason.message }));
worker.serve(async (request) => {
  if (request.path === "/ping") return "pong";
  let bytes = 0;
  let foreign = 0;
  let error = "";
  try {
    for await (const chunk of request.incoming.chunks()) {
      bytes += chunk.length;
      foreign += chunk.reduce((sum, byte) => sum + Number(byte !== 0xee), 0);
    }
  } catch (reason) {
    error = reason instanceof SlotbusError ? reason.code : (reason as Error).name;
  }
  say({ is: "handled", bytes, foreign, error });
  return "over";
});
process.on("message", async () => {
  await Promise.all([honest.close(), worker.close()]);
  process.exit(0);
});
say({ is: "loaded" });
