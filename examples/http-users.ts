// A worker of a hub. Start as many as you like: they share its requests.
import { HandlerResponse, HubWorker } from "slotbus/hub";

const worker = new HubWorker({ hub: "site", name: "users", backoff: { min: 50 } });
worker.get("/users/:id", ({ params }) => HandlerResponse.okJson({ id: params["id"] }));
worker.post("/users", async (request) => HandlerResponse.json(await request.json(), 201));
process.on("SIGTERM", () => void worker.stop());
await worker.run();
