// A worker of a hub. Start as many as you like: they share its requests.
import { HandlerResponse, HubWorker } from "slotbus/hub";

const worker = new HubWorker({ hub: "site", name: "users" });
worker.get("/users/:id", ({ params }) => HandlerResponse.okJson({ id: params["id"] }));
worker.post("/users", async (request) => HandlerResponse.json(await request.json(), 201));

worker.sseRoute("/feed/{room}", { connect: ({ params }) => params["room"] !== "secret" });
worker.post("/feed/{room}", async (request) => {
  const clients = await worker.emitter().ssePush(request.path, "message", await request.text());
  return HandlerResponse.okJson({ clients }); // so many were given it
});

process.on("SIGTERM", () => void worker.stop());
await worker.run(); // until stop(); registers again when the hub comes back
