/** Host and worker of the contestant `node-ipc`, bundled for Node: `node node.js` forks itself. */

import { fork } from "node:child_process";
import { obey, type Params, Waiting } from "./loop.ts";

const [, program = "", role] = process.argv;

if (role === "worker") {
  process.on("disconnect", () => process.exit());
  process.on("message", ({ id, params }: { id: number; params: Params }) => {
    process.send!({ jsonrpc: "2.0", id, result: params });
  });
  process.send!({ pid: process.pid });
} else {
  const waiting = new Waiting();
  const child = fork(program, ["worker"]);
  child.once("message", (first) => {
    child.on("message", (message) => waiting.answer(message as { id: number; result: unknown }));
    const ask = (params: Params): Promise<unknown> =>
      waiting.open((id) => void child.send({ jsonrpc: "2.0", id, method: "echo", params }));
    obey(ask, (first as { pid: number }).pid);
  });
}
