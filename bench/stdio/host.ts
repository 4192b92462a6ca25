/** The host process of a contestant in Bun: `bun host.ts ROLE` starts its worker and runs orders. */

import { type Ask, obey, type Params, Waiting } from "./loop.ts";
import { readLines, Writer } from "./pipes.ts";

const role = process.argv[2]!;
const program = Bun.resolveSync("./worker", import.meta.dir);

interface First {
  pid: number;
}
type Reply = { id: number; result: unknown };

const request = (id: number, params: Params) => ({ jsonrpc: "2.0", id, method: "echo", params });

/** Starts a bus with default options. */
async function startSlotbus(): Promise<[Ask, number]> {
  const { StdioBus } = await import("../../src/stdio/index.ts");
  const bus = await StdioBus.start({
    pools: [{ id: "echo", command: process.execPath, args: [program, "slotbus"] }],
  });
  return [(params) => bus.request("echo", params), await bus.request<number>("pid")];
}

async function startPipes(): Promise<[Ask, number]> {
  const child = Bun.spawn([process.execPath, program, "pipes"], { stdio: ["pipe", "pipe", "inherit"] });
  const first = Promise.withResolvers<number>();
  const waiting = new Waiting();
  const writer = new Writer(child.stdin);
  void readLines<First | Reply>(child.stdout, (message) => {
    if ("id" in message) waiting.answer(message);
    else first.resolve(message.pid);
  });
  return [(params) => waiting.open((id) => writer.add(request(id, params))), await first.promise];
}

async function startIpc(): Promise<[Ask, number]> {
  const first = Promise.withResolvers<number>();
  const waiting = new Waiting();
  const child = Bun.spawn([process.execPath, program, "bun-ipc"], {
    stdio: ["ignore", "ignore", "inherit"],
    ipc: (message: First | Reply) => {
      if ("id" in message) waiting.answer(message);
      else first.resolve(message.pid);
    },
  });
  return [(params) => waiting.open((id) => void child.send(request(id, params))), await first.promise];
}

switch (role) {
  case "slotbus":
    obey(...(await startSlotbus()));
    break;
  case "pipes":
    obey(...(await startPipes()));
    break;
  case "bun-ipc":
    obey(...(await startIpc()));
    break;
  case "bare":
    // An empty program, for comparison with an idle host.
    obey(async (params) => params, 0);
    break;
  default:
    throw new Error(`unknown role "${role}"`);
}
