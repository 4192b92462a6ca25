// A worker of a hub. You can start several: they share the requests.
import { HubWorker, sse } from "slotbus/hub";

const worker: HubWorker = await HubWorker.start({
  hub: "site",
  name: "users",
  routes: {
    "/users/:id": ({ params }) => ({ json: { id: params.id } }),
    "/users": { POST: async (request) => ({ status: 201, json: await request.json() }) },
    "/feed/:room": {
      GET: sse({ connect: ({ params }) => params["room"] !== "secret" }), // server-sent events, sent by the hub
      POST: async (request) => {
        const clients = await worker.emitter().ssePush(request.path, "message", await request.text());
        return { json: { clients } }; // number of clients that get the message
      },
    },
  },
});
process.on("SIGTERM", () => void worker.close()); // until then, it registers again whenever the hub restarts
