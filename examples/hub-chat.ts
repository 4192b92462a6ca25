// A chat: the hub holds the WebSockets, a worker handles their messages. `bun examples/hub-chat.ts`
import { Hub, HubWorker, ws } from "slotbus/hub";

await using hub = await Hub.start({ name: "site", port: 0 });
await using worker = await HubWorker.start({
  name: "chat",
  hub: "site",
  routes: {
    "/chat/:room": ws({
      open(socket, request) {
        const user = request.query.get("user");
        if (user === null) return { status: 401, json: { error: "Who are you?" } };
        socket.data = { user }; // comes with each message, whichever process handles it
        socket.subscribe(`room ${socket.params["room"]}`);
      },
      message(socket, text) {
        const { user } = socket.data as { user: string };
        socket.publish(`room ${socket.params["room"]}`, `${user}: ${text}`); // to the others
        socket.send(`you: ${text}`);
      },
    }),
  },
});

const [ada, bob] = await Promise.all(["ada", "bob"].map((user) => connect(`/chat/7?user=${user}`)));
const heard = new Promise((resolve) => bob!.addEventListener("message", ({ data }) => resolve(data), { once: true }));
ada!.send("hello");
console.log(await heard);
const told = new Promise((resolve) => bob!.addEventListener("message", ({ data }) => resolve(data), { once: true }));
await worker.sockets.publish("room 7", "the chat closes"); // from anywhere in any process of the worker
console.log(await told);

async function connect(path: string): Promise<WebSocket> {
  const client = new WebSocket(new URL(path, hub.url!).href.replace("http", "ws"));
  await new Promise((resolve) => client.addEventListener("open", resolve));
  return client;
}
