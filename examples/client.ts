// A client: starts a worker process, sends it requests, and stops it. `bun examples/client.ts`
import { SlotBus } from "slotbus";

await using bus = await SlotBus.create({ name: "shop", workers: { entry: import.meta.resolve("./worker.ts") } });
const answer = await bus.request({ path: "/hello", body: "Ada" });
console.log(`process ${process.pid} received: ${answer.text()}`);

process.kill(bus.workers[0]!.pid, "SIGKILL"); // the bus starts another worker
const again = await bus.request({ path: "/hello", body: "Bob" }, { idempotent: true, timeout: 5_000 });
console.log(`after the kill: ${again.text()}`);
