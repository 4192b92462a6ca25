// An unchanged Hono app as a worker of a hub, which removes the prefix `/pages` from its paths.
// It needs `bun add hono`.
import { Hono } from "hono";
import { HubWorker } from "slotbus/hub";

const app = new Hono();
app.get("/:name", (context) => context.text(`hello, ${context.req.param("name")}`));

const worker = await HubWorker.start({ hub: "site", name: "pages", routes: { "/pages/*": app } });
process.on("SIGTERM", () => void worker.close());
