// A client: starts a worker process, asks it, and stops both. `bun examples/client.ts`
import { SlotBus } from "slotbus";

await using bus = await SlotBus.create({ name: "shop" });
await using worker = Bun.spawn([process.execPath, `${import.meta.dir}/worker.ts`], {
  stdio: ["ignore", "inherit", "inherit"],
});
await bus.ready();

const hello = await bus.request({ path: "/hello", body: "Ada" });
console.log(`process ${process.pid} heard: ${hello.text()}`);

const sum = await bus.request({ path: "/sum", json: [1, 2, 3] }, { timeout: 500 });
console.log(`1 + 2 + 3 = ${sum.json()}`);

worker.kill("SIGKILL"); // no request can hang on a dead worker
await worker.exited;
await bus
  .request({ path: "/hello" }, { timeout: 100 })
  .catch((error) => console.log(`${error.code}: ${error.message}`));
