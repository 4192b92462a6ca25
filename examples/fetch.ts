// Any `fetch` handler (a Hono or Elysia app, a function) behind the bus, unchanged. `bun examples/fetch.ts`
import { SlotBus, SlotWorker } from "slotbus";

const app = {
  fetch(request: Request): Response {
    const url = new URL(request.url);
    return Response.json({ method: request.method, path: url.pathname, name: url.searchParams.get("name") });
  },
};

// Client and worker run in one process here, to fit into one file. Two processes work the same way.
await using bus = await SlotBus.create({ name: "web" });
await using worker = await SlotWorker.open({ name: "web" });
worker.serve(app);

const response = await bus.fetch("/users?name=Ada", { headers: { accept: "application/json" } });
console.log(response.status, await response.json());
