/** `hub/server.ts [PORT]`: a hub of the proofs. Waits for "go", and reports its port. With PORT (0: any) it is one of several processes. */

import { Hub } from "../../../src/hub/index.ts";
import { count, leakSome, planted } from "../memory.ts";
import { HUB, type HubReport, type Order, SSE, TIMEOUT_MS } from "./rooms.ts";

const shared = process.argv[2] === undefined ? {} : { shared: true, drainDelay: 300 };
const port = Number(process.argv[2] ?? 0);
let hub: Hub;

function say(report: HubReport): void {
  process.send!(report);
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order === "go") {
    hub = await Hub.start({ name: HUB, port, timeout: TIMEOUT_MS, slots: 8, sse: SSE, ...shared });
    if (planted > 0) hub.on("request", () => leakSome());
    say({ is: "open", port: Number(hub.url!.port) });
  }
  if (order === "count") say(count());
  if (order !== "end") return;
  await hub.close();
  process.exit(0);
});
say({ is: "loaded" });
