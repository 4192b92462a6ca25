// Blocking calls without an event loop: a client, and a worker in a thread. `bun examples/blocking.ts`
import { SlotBus, SlotWorker } from "slotbus";

if (Bun.isMainThread) {
  await using bus = await SlotBus.create({ name: "blocking" });
  const thread = new Worker(import.meta.url);
  await bus.ready();
  const response = bus.requestSync({ path: "/square", json: 12 }, { timeout: 1000 });
  console.log(`12 squared is ${response.json()}`);
  thread.terminate();
} else {
  const worker = await SlotWorker.open({ name: "blocking", reconnect: false });
  worker.serveSync((request) => ({ json: request.json<number>() ** 2 }));
}
