// The hub: serves HTTP and passes each request to a worker. `bun examples/hello-hub.ts`
import { Hub, type HubRequest, HubWorker } from "slotbus/hub";

await using hub = await Hub.start({ name: "hello", port: 0 });
const greet = async (request: HubRequest) => ({ json: { hello: await request.text() } });
await using worker = await HubWorker.start({ name: "greeter", hub: "hello", routes: { "/": greet }, concurrency: 8 });
hub.on("died", ({ pid }, reason) => console.error(pid, reason));

const answer = await fetch(hub.url!, { method: "POST", body: "Ada", signal: AbortSignal.timeout(1_000) });
console.log("hello", JSON.parse(await answer.text()).hello, worker.closed);
