// Workers in Python, shell and TypeScript: one bus calls them over standard input and output. `bun examples/stdio.ts`
import { RpcError, StdioBus } from "slotbus/stdio";

await using bus = await StdioBus.start({
  pools: [
    { id: "python", command: "python3", args: [`${import.meta.dir}/stdio-worker.py`], instances: 2 },
    { id: "shell", command: "sh", args: [`${import.meta.dir}/stdio-worker.sh`] },
    { id: "bun", command: process.execPath, args: [`${import.meta.dir}/stdio-worker.ts`], ready: true },
  ],
});

console.log("mean", await bus.request("mean", [1, 2, 6], { pool: "python" }));
const onProgress = (part: unknown): void => console.log("primes so far", part);
console.log("primes", await bus.request("primes", 20, { pool: "python", onProgress }));
const failed = await bus.request("mean", [], { pool: "python" }).catch((error: RpcError) => error);
console.log("mean of nothing:", failed instanceof RpcError && failed.rpcMessage);

console.log("kernel", await bus.request("kernel", null, { pool: "shell" }));
console.log("hello", await bus.request("hello", { name: "Ada" }, { pool: "bun", key: "user 7", timeout: 5_000 }));
await bus.request("count", 3, { pool: "bun", onProgress: (i) => console.log("counted to", i) });

const { pid } = bus.stats().workers[2]!;
process.kill(pid, "SIGKILL"); // the shell worker; the bus restarts it
console.log("kernel again", typeof (await bus.request("kernel", null, { pool: "shell", idempotent: true })));
