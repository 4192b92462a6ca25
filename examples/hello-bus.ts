// The bus: send a request to a worker. All five `hello-*.ts` have the same structure. `bun examples/hello-bus.ts`
import { SlotBus, SlotWorker } from "slotbus";

await using bus = await SlotBus.create({ name: "hello" });
await using worker = await SlotWorker.open({ name: "hello", concurrency: 8 });
worker.serve((request) => ({ json: { hello: request.text() } }));
bus.on("died", ({ pid }, reason) => console.error(pid, reason));

const answer = await bus.request({ path: "/", body: "Ada" }, { timeout: 1_000 });
console.log("hello", answer.json<{ hello: string }>().hello, bus.closed);
