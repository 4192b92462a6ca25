/** `sockets/server.ts PORT`: one of several hub processes. Waits for "go", and reports each lost message. */

import { Hub } from "../../../src/hub/index.ts";
import { HUB, type HubReport, type Order } from "./names.ts";

const port = Number(process.argv[2]);
let hub: Hub;

function say(report: HubReport): void {
  process.send!(report);
}

process.on("disconnect", () => process.exit(0));
process.on("message", async (order: Order) => {
  if (order === "go") {
    hub = await Hub.start({ name: HUB, port, shared: true, slots: 8 });
    hub.on("messageLost", ({ connection }) => say({ is: "lost", connection }));
    say({ is: "open", port: Number(hub.url!.port) });
  }
  if (order !== "end") return;
  await hub.close();
  process.exit(0);
});
say({ is: "loaded" });
