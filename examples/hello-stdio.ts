// The stdio bus: sends requests to a program in any language. `bun examples/hello-stdio.ts`
import { StdioBus } from "slotbus/stdio";

const args = [`${import.meta.dir}/stdio-worker.ts`];
await using bus = await StdioBus.start({ pools: [{ id: "greeter", command: process.execPath, args }], concurrency: 8 });
bus.on("log", ({ pid }, line) => console.error(pid, line));
bus.on("died", ({ pid }, { exitCode }) => console.error(pid, exitCode));

const answer = await bus.request<string>("hello", { name: "Ada" }, { timeout: 5_000 });
console.log(answer, bus.closed);
