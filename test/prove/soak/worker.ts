/** `soak/worker.ts NAME BOOKS`: waits for "go", then responds as the path says and records what it runs. */

import { join } from "node:path";
import { SlotWorker } from "../../../src/index.ts";
import { until } from "../../support.ts";
import { handle } from "../answers.ts";
import { handleFlow, isFlow, sources } from "../flows.ts";
import { count, leakSome } from "../memory.ts";
import { RequestBooks } from "./request-books.ts";
import { Times } from "./times.ts";

const [name, directory] = process.argv.slice(2);
const books = new RequestBooks(directory!);
const times = new Times(directory!);
let worker: SlotWorker | null = null;
/** The last kill of the client that was noticed. */
let heard = 0;
/** Number of requests that it ran. */
let ran = 0;

async function go(): Promise<void> {
  await Bun.connect({
    unix: join(directory!, "control"),
    socket: { open: (it) => void it.write(`${process.pid} `), data() {} },
  });
  heard = times.clientKilledAt;
  worker = await SlotWorker.open({ name: name!, timeout: 30_000, reconnect: { initial: 5, max: 100 } });
  worker.on("disconnected", () => {
    if (times.clientKilledAt === heard) return;
    heard = times.clientKilledAt;
    times.hearClient();
  });
  worker.serve((request) => {
    leakSome();
    ran++;
    return isFlow(request.path) ? handleFlow(books, request) : handle(books, request);
  });
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order) => {
  if (order === "go") await go();
  if (order === "count") {
    await until(() => sources.open === 0, "the source of every stream has ended").catch(() => {});
    process.send!({ ...count(), sources: sources.open, ran });
  }
  if (order !== "end") return;
  await worker?.close();
  process.exit(0);
});
process.send!({ is: "loaded" });
